"""Equations with exact or converged solutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kanmg.arrays import row_chunks
from kanmg.errors import KanmgValueError
from kanmg.gallery.model_problem import Array, ModelProblem, collocation_problem
from kanmg.problems.scalars import Constant
from kanmg.problems.terms import Term
from kanmg.sampling import boundary, sobol

if TYPE_CHECKING:
    from kanmg.problems.fields import Field

__all__ = ["burgers", "helmholtz", "kan2"]

_SQUARE = ((-1.0, 1.0), (-1.0, 1.0))
SPACE_TIME = ((-1.0, 1.0), (0.0, 1.0))
_EASY_VISCOSITY = 0.05
_NUM_CANDIDATES = 40_000
# Between seeds of points and of candidates, so that users' small seeds do not meet.
_SEED_OF_CANDIDATES = 1_000_000


def kan2(num_interior: int = 10_000, num_boundary: int = 800, seed: int = 0) -> ModelProblem:
    """State Poisson's equation with the solution sin(pi x) sin(pi y^2), the second example of KANs.

    Parameters
    ----------
    num_interior : int
        Sobol points in the square [-1, 1]^2.
    num_boundary : int
        Points on its edges, a multiple of 4.
    seed : int
        Of the points.

    Returns
    -------
    ModelProblem

    Notes
    -----
    u_xx + u_yy = f inside, u = 0 on the boundary; f is that of the solution. The paper's weight of the equation against
    the boundary, 0.01, is kept.

    References
    ----------
    .. [1] Liu et al., *KAN: Kolmogorov-Arnold Networks*, 2024, https://arxiv.org/abs/2404.19756

    Examples
    --------
    >>> import numpy as np
    >>> from kanmg import gallery
    >>> model = gallery.kan2()
    >>> model.problem
    Collocation((x, y) -> (u), 10800 points: 10000 equation, 800 boundary, float64)
    >>> print(np.round(model.exact(np.array([[0.5, 0.5]])), 4))
    [[0.7071]]
    """

    def equation(x: torch.Tensor, u: Field) -> torch.Tensor:
        square = torch.pi * x[:, 1] ** 2
        curvature = 2 * torch.pi * torch.cos(square) - (4 * square * torch.pi + torch.pi**2) * torch.sin(square)
        return u.d("x", "x") + u.d("y", "y") - torch.sin(torch.pi * x[:, 0]) * curvature

    return collocation_problem(
        "KAN-2",
        lambda x: np.sin(np.pi * x[:, :1]) * np.sin(np.pi * x[:, 1:] ** 2),
        coordinates=("x", "y"),
        fields=("u",),
        terms=[
            Term("equation", equation, sobol(_SQUARE, num_interior, seed=seed), weight=0.01),
            Term("boundary", lambda _, u: u.value, _edges(num_boundary)),
        ],
        domain=_SQUARE,
        hierarchy_arguments=_square_hierarchy((2, 5, 1)),
        source="Liu et al., KAN: Kolmogorov-Arnold Networks, arXiv 2404.19756",
        seed=seed,
    )


def helmholtz(
    num_interior: int = 10_000,
    num_boundary: int = 800,
    seed: int = 0,
    *,
    a1: float = 1.0,
    a2: float = 4.0,
    k: float = 1.0,
) -> ModelProblem:
    """State Helmholtz' equation with the solution sin(a1 pi x) sin(a2 pi y).

    Parameters
    ----------
    num_interior : int
        Sobol points in the square [-1, 1]^2.
    num_boundary : int
        Points on its edges, a multiple of 4.
    seed : int
        Of the points.
    a1, a2 : float
        Half waves on the unit interval in either direction.
    k : float
        Wave number.

    Returns
    -------
    ModelProblem

    Notes
    -----
    u_xx + u_yy + k^2 u = q inside, the solution's values on the boundary (zero for integers a1 and a2). The weight of
    the equation is 1 / (pi^2 (a1^2 + a2^2)), which makes the two terms comparable.

    References
    ----------
    .. [1] S. Wang, Y. Teng and P. Perdikaris, "Understanding and mitigating gradient flow pathologies in
       physics-informed neural networks", SIAM J. Sci. Comput. 43 (2021), doi:10.1137/20M1318043.

    Examples
    --------
    >>> import numpy as np
    >>> from kanmg import gallery
    >>> print(np.round(gallery.helmholtz(100, 40, a2=2).exact(np.array([[0.5, 0.25], [0.5, 0.5]])), 12) + 0.0)
    [[1.]
     [0.]]
    """
    frequency = np.pi**2 * (a1**2 + a2**2)
    if not frequency > 0.0:
        raise KanmgValueError(f"`a1={a1}` and `a2={a2}` make the solution zero. Pass numbers, not both 0.")

    def solution(x: Any) -> torch.Tensor:
        return torch.sin(a1 * torch.pi * x[:, 0]) * torch.sin(a2 * torch.pi * x[:, 1])

    def equation(x: torch.Tensor, u: Field) -> torch.Tensor:
        return u.d("x", "x") + u.d("y", "y") + k**2 * u.value - (k**2 - frequency) * solution(x)

    return collocation_problem(
        "Helmholtz",
        lambda x: np.sin(a1 * np.pi * x[:, :1]) * np.sin(a2 * np.pi * x[:, 1:]),
        coordinates=("x", "y"),
        fields=("u",),
        terms=[
            Term("equation", equation, sobol(_SQUARE, num_interior, seed=seed), weight=1.0 / frequency),
            Term("boundary", lambda x, u: u.value - solution(x), _edges(num_boundary)),
        ],
        domain=_SQUARE,
        hierarchy_arguments=_square_hierarchy((2, 5, 1)) | {"num_intervals": 8, "num_levels": 4},
        source="Wang, Teng, Perdikaris, SIAM J. Sci. Comput. 43, 2021",
        seed=seed,
    )


def burgers(
    num_interior: int = 20_000,
    num_initial: int = 400,
    num_boundary: int = 400,
    seed: int = 0,
    *,
    nu: float = 0.01 / np.pi,
) -> ModelProblem:
    """State Burgers' equation, u_t + u u_x = nu u_xx, whose sine steepens to a shock at x = 0.

    Parameters
    ----------
    num_interior : int
        Sobol points in x from [-1, 1], t from [0, 1].
    num_initial : int
        Points at t = 0.
    num_boundary : int
        Points at x = -1 and x = 1, an even number.
    seed : int
        Of the points.
    nu : float
        Viscosity; the shock is about 4 nu wide. In the equation it is a `kanmg.Constant`, which a method may vary;
        0.05 is easier than less.

    Returns
    -------
    ModelProblem

    Notes
    -----
    u(x, 0) = -sin(pi x), u(-1, t) = u(1, t) = 0. The Cole-Hopf transformation gives the solution as a quotient of two
    integrals over the real line with Gaussian weights. The trapezoidal rule converges exponentially [2]_: its steps 0.1
    and 0.05 agree to 1e-14 for nu from 1e-3 to 1. The nodes go so far out that the integrands have vanished, and
    integrands are divided by their largest value: nothing overflows for small nu. The equation has 40,000 candidates,
    from which a method may draw points at the shock.

    References
    ----------
    .. [1] C. Basdevant et al., "Spectral and finite difference solutions of the Burgers equation", Computers & Fluids
       14 (1986), doi:10.1016/0045-7930(86)90036-8.
    .. [2] L. N. Trefethen and J. A. C. Weideman, "The exponentially convergent trapezoidal rule", SIAM Review 56
       (2014), doi:10.1137/130932132.

    Examples
    --------
    >>> import numpy as np
    >>> from kanmg import gallery
    >>> model = gallery.burgers(100, 10, 10)
    >>> print(np.round(model.exact(np.array([[0.5, 0.0], [0.05, 0.5], [1.0, 0.7]])).ravel(), 4) + 0.0)
    [-1.    -0.979  0.   ]
    """
    if not nu > 0.0:
        raise KanmgValueError(f"`nu={nu}` is no viscosity. Pass a positive number.")
    viscosity = Constant("nu", nu, easier=_EASY_VISCOSITY if nu < _EASY_VISCOSITY else None)

    def equation(_: torch.Tensor, u: Field) -> torch.Tensor:
        return u.d("t") + u.value * u.d("x") - viscosity.value * u.d("x", "x")

    start = boundary(SPACE_TIME, (num_initial, 2), faces=[(1, "lower")])
    walls = boundary(SPACE_TIME, (2, num_boundary // 2), faces=[(0, "lower"), (0, "upper")])
    return collocation_problem(
        "Burgers",
        lambda x: cole_hopf(x, nu),
        coordinates=("x", "t"),
        fields=("u",),
        terms=[
            Term("equation", equation, sobol(SPACE_TIME, num_interior, seed=seed), candidates=draw_candidates(seed)),
            Term("initial", lambda x, u: u.value + torch.sin(torch.pi * x[:, 0]), start, weight=10.0),
            Term("boundary", lambda _, u: u.value, walls, weight=10.0),
        ],
        domain=SPACE_TIME,
        hierarchy_arguments={
            "widths": (2, 5, 5, 1),
            "degree": 5,
            "num_intervals": 6,
            "num_levels": 3,
            "domain": SPACE_TIME,
        },
        source="Basdevant et al., Computers & Fluids 14, 1986",
        seed=seed,
    )


def cole_hopf(x: Array, nu: float, step: float = 0.1) -> Array:
    """Evaluate the solution of Burgers' equation for -sin(pi x) at points (x, t); see `burgers`.

    Parameters
    ----------
    x : ndarray, shape (N, 2)
    nu : float
    step : float
        Of the trapezoidal rule.

    Returns
    -------
    ndarray, shape (N, 1)
    """
    reach = np.sqrt(1.0 / (np.pi * nu) + 40.0)
    z = step * np.arange(-np.ceil(reach / step), np.ceil(reach / step) + 1)
    result = np.empty((len(x), 1))
    for rows in row_chunks(len(x), len(z), 1 << 20):
        angles = np.pi * (x[rows, :1] - 2.0 * np.sqrt(nu * x[rows, 1:]) * z)
        exponents = -(z**2) - np.cos(angles) / (2.0 * np.pi * nu)
        weights = np.exp(exponents - exponents.max(axis=1, keepdims=True))
        result[rows, 0] = -(np.sin(angles) * weights).sum(axis=1) / weights.sum(axis=1)
    return result


def draw_candidates(seed: int) -> Array:
    """Return further points in space and time, from which a method may draw where the residual is large.

    Parameters
    ----------
    seed : int
        Of the points of the problem: candidates have another one.

    Returns
    -------
    ndarray, shape (40_000, 2)
    """
    return sobol(SPACE_TIME, _NUM_CANDIDATES, seed=_SEED_OF_CANDIDATES + seed)


def _edges(num_boundary: int) -> Array:
    """Return points on the four edges of the square."""
    return boundary(_SQUARE, num_boundary // 4)


def _square_hierarchy(widths: tuple[int, ...]) -> dict[str, Any]:
    """Return the arguments of a hierarchy for smooth functions on the square."""
    return {"widths": widths, "degree": 7, "num_intervals": 4, "num_levels": 3, "domain": (-1.0, 1.0)}
