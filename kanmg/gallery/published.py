"""Regression problems of the papers that kanmg is measured against."""

from __future__ import annotations

import numpy as np

from kanmg.gallery.model_problem import Array, ModelProblem, regression_problem

__all__ = ["kan1", "ml1"]

ML1_ANGLE = 0.175
# At cos(4 pi u) = -1 and the kink 3 v^2 = 2 of abs(sin(3 pi v^2)); at cos(4 pi u) = 1 and v = 0.35543...
ML1_MINIMUM = -1.0 + np.sin(np.pi * np.sqrt(2 / 3)) + np.sin(2 * np.pi * np.sqrt(2 / 3))
ML1_MAXIMUM = 3.6157227009882068


def ml1(num_samples: int = 20_000, seed: int = 0) -> ModelProblem:
    """Sample an oscillation with kinks, rotated against the axes: the regression problem of multilevel training.

    The exact values fill [0, 1].

    Parameters
    ----------
    num_samples : int
        Number of points, uniform in [1e-4, 0.9999]^2.
    seed : int
        Seed of the points.

    Returns
    -------
    ModelProblem

    Notes
    -----
    With u = x cos a - y sin a and v = x sin a + y cos a, a = 0.175 rad, the target is

        f = cos(4 pi u) + sin(pi v) + sin(2 pi v) + abs(sin(3 pi v^2)),

    scaled to [0, 1]. What the paper leaves open was chosen as follows:

    - "rotated counter-clockwise": the point (x, y) is rotated about the origin, and the formula applied to the result;
    - the last term is the absolute value of sin(3 pi v^2), the square inside the sine;
    - the scaling uses the function's own minimum and maximum on the square, not those of the samples, so that the
      exact function does not depend on the samples;
    - outside their interval the splines are constant (`outside="clamp"`): the lift moves hidden values across the
      ends, and with polynomials that go on (`"extend"`) half of the runs end in poorer minima;
    - training values carry no noise; errors are measured on 10,000 unseen points of the same distribution;
    - float64; the seed changes the points (and, in `kanmg.experiments`, the initial coefficients).

    References
    ----------
    .. [1] Southworth, Actor, Harper, Cyr, *Multilevel Training for Kolmogorov Arnold Networks*, 2026,
       https://arxiv.org/abs/2603.04827

    Examples
    --------
    >>> from kanmg import gallery
    >>> model = gallery.ml1(num_samples=1000)
    >>> x, y = model.test_data()
    >>> bool(y.min() >= 0.0 and y.max() <= 1.0)
    True
    """
    return regression_problem(
        "ML-1",
        _ml1_exact,
        domain=((1e-4, 0.9999), (1e-4, 0.9999)),
        hierarchy_arguments={
            "widths": (2, 5, 1),
            "degree": 3,
            "num_intervals": 5,
            "num_levels": 4,
            "domain": (0.0, 1.0),
            "lift": "affine",
            "outside": "clamp",
        },
        source="Southworth, Actor, Harper, Cyr, Multilevel Training for Kolmogorov Arnold Networks, arXiv 2603.04827",
        num_samples=num_samples,
        seed=seed,
    )


def _ml1_exact(x: Array) -> Array:
    cosine, sine = np.cos(ML1_ANGLE), np.sin(ML1_ANGLE)
    u = cosine * x[:, :1] - sine * x[:, 1:]
    v = sine * x[:, :1] + cosine * x[:, 1:]
    f = np.cos(4 * np.pi * u) + np.sin(np.pi * v) + np.sin(2 * np.pi * v) + np.abs(np.sin(3 * np.pi * v**2))
    return np.asarray((f - ML1_MINIMUM) / (ML1_MAXIMUM - ML1_MINIMUM))


def kan1(num_samples: int = 1000, seed: int = 0) -> ModelProblem:
    """Sample exp(sin(pi x) + y^2), the first example of KANs: a [2, 1, 1] network can represent it.

    Parameters
    ----------
    num_samples : int
        Number of points, uniform in [-1, 1]^2.
    seed : int
        Seed of the points.

    Returns
    -------
    ModelProblem

    References
    ----------
    .. [1] Liu et al., *KAN: Kolmogorov-Arnold Networks*, 2024, https://arxiv.org/abs/2404.19756

    Examples
    --------
    >>> import numpy as np
    >>> from kanmg import gallery
    >>> print(gallery.kan1().exact(np.array([[0.0, 0.0], [0.5, 1.0]])).ravel())
    [1.        7.3890561]
    """
    return regression_problem(
        "KAN-1",
        lambda x: np.exp(np.sin(np.pi * x[:, :1]) + x[:, 1:] ** 2),
        domain=((-1.0, 1.0), (-1.0, 1.0)),
        hierarchy_arguments={
            "widths": (2, 1, 1),
            "degree": 3,
            "num_intervals": 3,
            "num_levels": 5,
            "domain": (-1.0, 1.0),
        },
        source="Liu et al., KAN: Kolmogorov-Arnold Networks, arXiv 2404.19756",
        num_samples=num_samples,
        seed=seed,
    )
