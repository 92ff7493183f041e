"""Regression problems outside the papers: what defaults are checked against."""

from __future__ import annotations

import numpy as np

from kanmg.gallery.model_problem import Array, ModelProblem, regression_problem

__all__ = ["chirp", "complex_exponential", "franke", "friedman", "kink", "least_squares", "runge"]


def franke(num_samples: int = 2000, seed: int = 0, *, noise: float = 0.0) -> ModelProblem:
    """Sample Franke's function, two peaks and a dip on the unit square: the standard test of scattered data.

    Parameters
    ----------
    num_samples : int
    seed : int
    noise : float
        Standard deviation of Gaussian noise on the training values; the values themselves fill [0, 1.22].

    Returns
    -------
    ModelProblem

    References
    ----------
    .. [1] R. Franke, *A critical comparison of some methods for interpolation of scattered data*, Naval Postgraduate
       School, 1979.

    Examples
    --------
    >>> import numpy as np
    >>> from kanmg import gallery
    >>> print(np.round(gallery.franke(100).exact(np.array([[2 / 9, 2 / 9], [0.0, 0.0]])), 4))
    [[1.2131]
     [0.7664]]
    """
    return regression_problem(
        "Franke",
        _franke_exact,
        domain=((0.0, 1.0), (0.0, 1.0)),
        hierarchy_arguments={
            "widths": (2, 5, 1),
            "degree": 3,
            "num_intervals": 4,
            "num_levels": 3,
            "domain": (0.0, 1.0),
        },
        source="Franke, A critical comparison of some methods for interpolation of scattered data, 1979",
        num_samples=num_samples,
        seed=seed,
        noise=noise,
    )


def _franke_exact(x: Array) -> Array:
    u, v = 9 * x[:, :1], 9 * x[:, 1:]
    return np.asarray(
        0.75 * np.exp(-((u - 2) ** 2 + (v - 2) ** 2) / 4)
        + 0.75 * np.exp(-((u + 1) ** 2) / 49 - (v + 1) / 10)
        + 0.5 * np.exp(-((u - 7) ** 2 + (v - 3) ** 2) / 4)
        - 0.2 * np.exp(-((u - 4) ** 2) - (v - 7) ** 2)
    )


def runge(num_samples: int = 1000, seed: int = 0) -> ModelProblem:
    """Sample Runge's peak over the distance from the centre, 1 / (1 + 25 (x^2 + y^2)): one hidden value suffices.

    Parameters
    ----------
    num_samples : int
    seed : int

    Returns
    -------
    ModelProblem

    Examples
    --------
    >>> import numpy as np
    >>> from kanmg import gallery
    >>> print(gallery.runge(100).exact(np.array([[0.0, 0.0], [0.0, 0.2]])).ravel())
    [1.  0.5]
    """
    return regression_problem(
        "Runge",
        lambda x: 1.0 / (1.0 + 25.0 * np.sum(x**2, axis=1, keepdims=True)),
        domain=((-1.0, 1.0), (-1.0, 1.0)),
        hierarchy_arguments={
            "widths": (2, 1, 1),
            "degree": 3,
            "num_intervals": 4,
            "num_levels": 4,
            "domain": (-1.0, 1.0),
        },
        source="Runge 1901, radial",
        num_samples=num_samples,
        seed=seed,
    )


def chirp(num_samples: int = 2000, seed: int = 0) -> ModelProblem:
    """Sample sin(20 pi x^2) on [0, 1]: one input, and a frequency that grows.

    Parameters
    ----------
    num_samples : int
    seed : int

    Returns
    -------
    ModelProblem

    Notes
    -----
    Ten periods, the last one of length 0.051: a single layer needs about 60 cells to resolve it. A deeper network may
    find the square.

    Examples
    --------
    >>> import numpy as np
    >>> from kanmg import gallery
    >>> print(np.round(gallery.chirp(100).exact(np.array([[0.0], [0.25]])).ravel(), 4))
    [ 0.     -0.7071]
    """
    return regression_problem(
        "chirp",
        lambda x: np.sin(20.0 * np.pi * x**2),
        domain=((0.0, 1.0),),
        hierarchy_arguments={
            "widths": (1, 1),
            "degree": 3,
            "num_intervals": 8,
            "num_levels": 5,
            "domain": (0.0, 1.0),
        },
        source="kanmg",
        num_samples=num_samples,
        seed=seed,
    )


def kink(num_samples: int = 2000, seed: int = 0) -> ModelProblem:
    """Sample abs(x + y / 2 - 0.3), with a kink along an oblique line that axis-parallel knots cannot follow.

    Parameters
    ----------
    num_samples : int
    seed : int

    Returns
    -------
    ModelProblem

    Notes
    -----
    A linear first layer and one spline of the sum represent it up to the kink, which lies on no knot: expect the error
    of the best spline, proportional to h^(3/2) in the root mean square.

    Examples
    --------
    >>> import numpy as np
    >>> from kanmg import gallery
    >>> print(np.round(gallery.kink(100).exact(np.array([[0.3, 0.0], [1.0, 1.0]])).ravel(), 12))
    [0.  1.2]
    """
    return regression_problem(
        "kink",
        lambda x: np.abs(x[:, :1] + 0.5 * x[:, 1:] - 0.3),
        domain=((-1.0, 1.0), (-1.0, 1.0)),
        hierarchy_arguments={
            "widths": (2, 1, 1),
            "degree": 3,
            "num_intervals": 4,
            "num_levels": 4,
            "domain": (-1.0, 1.0),
        },
        source="kanmg",
        num_samples=num_samples,
        seed=seed,
    )


def complex_exponential(num_samples: int = 2000, seed: int = 0) -> ModelProblem:
    """Sample the real and imaginary part of exp(x + i pi y): two outputs with shared structure.

    Parameters
    ----------
    num_samples : int
    seed : int

    Returns
    -------
    ModelProblem

    Examples
    --------
    >>> import numpy as np
    >>> from kanmg import gallery
    >>> print(np.round(gallery.complex_exponential(100).exact(np.array([[0.0, 0.5], [0.0, 1.0]])), 12) + 0.0)
    [[ 0.  1.]
     [-1.  0.]]
    """
    return regression_problem(
        "complex exponential",
        _complex_exponential_exact,
        domain=((-1.0, 1.0), (-1.0, 1.0)),
        hierarchy_arguments={
            "widths": (2, 4, 2),
            "degree": 3,
            "num_intervals": 3,
            "num_levels": 4,
            "domain": (-1.0, 1.0),
        },
        source="kanmg",
        num_samples=num_samples,
        seed=seed,
    )


def _complex_exponential_exact(x: Array) -> Array:
    angle = np.pi * x[:, 1]
    return np.asarray(np.exp(x[:, :1]) * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def friedman(num_samples: int = 5000, seed: int = 0, *, noise: float = 0.0) -> ModelProblem:
    """Sample Friedman's function of ten inputs, five of which do nothing.

    Parameters
    ----------
    num_samples : int
    seed : int
    noise : float
        Standard deviation of Gaussian noise on the training values; Friedman used 1.

    Returns
    -------
    ModelProblem

    Notes
    -----
    f(x) = 10 sin(pi x_1 x_2) + 20 (x_3 - 1/2)^2 + 10 x_4 + 5 x_5 on [0, 1]^10.

    References
    ----------
    .. [1] J. H. Friedman, *Multivariate adaptive regression splines*, Annals of Statistics 19, 1991,
       https://doi.org/10.1214/aos/1176347963

    Examples
    --------
    >>> import numpy as np
    >>> from kanmg import gallery
    >>> print(gallery.friedman(100).exact(np.full((1, 10), 0.5)))
    [[14.57106781]]
    """
    return regression_problem(
        "Friedman",
        _friedman_exact,
        domain=((0.0, 1.0),) * 10,
        hierarchy_arguments={
            "widths": (10, 4, 1),
            "degree": 3,
            "num_intervals": 2,
            "num_levels": 3,
            "domain": (0.0, 1.0),
        },
        source="Friedman, Multivariate adaptive regression splines, Annals of Statistics 19, 1991",
        num_samples=num_samples,
        seed=seed,
        noise=noise,
    )


def _friedman_exact(x: Array) -> Array:
    f = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    return np.asarray(f[:, None])


def least_squares(num_samples: int = 1000, seed: int = 0) -> ModelProblem:
    """Sample sin(2 pi x) + x for a single spline: linear least squares, where multigrid theory holds.

    Parameters
    ----------
    num_samples : int
    seed : int

    Returns
    -------
    ModelProblem

    Notes
    -----
    The network is a single edge, so that the loss is quadratic in the coefficients. The condition number of its Hessian
    is bounded in the number of cells (B-splines are stable in L2) as long as every cell holds enough samples.

    Examples
    --------
    >>> from kanmg import gallery
    >>> gallery.least_squares().hierarchy().num_levels
    4
    """
    return regression_problem(
        "least squares",
        lambda x: np.sin(2.0 * np.pi * x) + x,
        domain=((0.0, 1.0),),
        hierarchy_arguments={
            "widths": (1, 1),
            "degree": 3,
            "num_intervals": 4,
            "num_levels": 4,
            "domain": (0.0, 1.0),
        },
        source="kanmg",
        num_samples=num_samples,
        seed=seed,
    )
