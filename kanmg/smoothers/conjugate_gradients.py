"""Preconditioned conjugate gradients for symmetric positive definite systems."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from kanmg.evaluators.base import Array

__all__ = ["Solved", "conjugate_gradients"]


class Solved(NamedTuple):
    """What conjugate gradients have reached.

    Attributes
    ----------
    solution : ndarray, shape (n,)
    iterations : int
    converged : bool
        Whether the tolerance was met.
    """

    solution: Array
    iterations: int
    converged: bool


def conjugate_gradients(
    multiply: Callable[[Array], Array],
    right: Array,
    precondition: Callable[[Array], Array],
    *,
    rtol: float,
    max_iterations: int,
) -> Solved:
    """Solve A x = b, beginning with zero, until the preconditioned residual has fallen by `rtol`.

    Every iterate lowers x^T A x / 2 - b^T x, and its residual is orthogonal to it, so that any of them is a descent
    direction whose predicted decrease is that of the exact solution's formula.

    Parameters
    ----------
    multiply : callable
        v -> A v, A symmetric and positive definite.
    right : ndarray, shape (n,)
        b, float64.
    precondition : callable
        r -> M r, M symmetric and positive definite: an approximation of the inverse of A.
    rtol : float
        Of the norm of the residual r that M induces, the root of r^T M r.
    max_iterations : int

    Returns
    -------
    Solved
        Ends sooner, with what it has, where rounding or an indefinite matrix leaves no direction of positive curvature.

    References
    ----------
    M. R. Hestenes, E. Stiefel, J. Res. Nat. Bur. Standards 49 (1952) 409-436. doi:10.6028/jres.049.044

    Examples
    --------
    >>> import numpy as np
    >>> matrix = np.array([[4.0, 1.0], [1.0, 3.0]])
    >>> solved = conjugate_gradients(matrix.dot, np.array([1.0, 2.0]), lambda r: r, rtol=1e-12, max_iterations=10)
    >>> solved.solution.round(6).tolist(), solved.iterations, solved.converged
    ([0.090909, 0.636364], 2, True)
    """
    solution, residual = np.zeros_like(right), right.copy()
    preconditioned = precondition(residual)
    direction = preconditioned
    norm = float(residual @ preconditioned)
    if norm == 0.0:
        return Solved(solution, 0, converged=True)
    target = rtol**2 * norm
    for iteration in range(1, max_iterations + 1):
        product = multiply(direction)
        curvature = float(direction @ product)
        if not (0.0 < curvature < math.inf and 0.0 < norm < math.inf):
            return Solved(solution, iteration - 1, converged=False)
        length = norm / curvature
        solution = solution + length * direction
        residual = residual - length * product
        preconditioned = precondition(residual)
        last, norm = norm, float(residual @ preconditioned)
        if norm <= target:
            return Solved(solution, iteration, converged=True)
        direction = preconditioned + (norm / last) * direction
    return Solved(solution, max_iterations, converged=False)
