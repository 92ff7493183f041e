"""Damped normal equations that are never formed: solved by conjugate gradients from products with the Jacobian."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from kanmg.smoothers.conjugate_gradients import conjugate_gradients
from kanmg.smoothers.damped_equations import SMALLEST_ENTRY
from kanmg.smoothers.preconditioners import Preconditioners
from kanmg.vectors import to_host

if TYPE_CHECKING:
    from collections.abc import Callable

    from kanmg.evaluators.base import Array
    from kanmg.problems.linearisation import Linearisation

__all__ = ["MatrixFreeEquations", "next_forcing"]

# Between these, how far the residual of a system is reduced follows the gradients of the steps before.
LEAST_FORCING, FIRST_FORCING = 1e-3, 0.1
FORCING_FACTOR, FORCING_POWER = 0.9, 2.0


class MatrixFreeEquations:
    """Damped normal equations (2 J^T J + mu D) v = right at one point, in float64, on the host.

    Parameters
    ----------
    jacobian : Linearisation
        J.
    gradient : ndarray, shape (n,)
    scale : ndarray, shape (n,), or None
        D of the step before.
    preconditioner : str
        One of `preconditioners.KINDS`.
    rtol : float
        Reduction of the preconditioned residual.
    max_iterations : int

    Attributes
    ----------
    downhill : Tensor, shape (n,)
        Minus the gradient.
    scale : Tensor, shape (n,)
        D: the largest diagonal of 2 J^T J so far.
    iterations : int
        Of all solutions so far.
    is_cut_off : bool
        Whether the last solution ended before its tolerance was met.
    """

    def __init__(
        self,
        jacobian: Linearisation,
        gradient: Array,
        scale: Array | None,
        preconditioner: str,
        rtol: float,
        max_iterations: int,
    ) -> None:
        diagonal = 2.0 * jacobian.diagonal()
        if scale is not None:
            diagonal = np.maximum(diagonal, np.asarray(to_host(scale), np.float64))
        own = np.maximum(diagonal, SMALLEST_ENTRY * diagonal.max())
        self.scale = torch.from_numpy(own)
        self.downhill = -torch.from_numpy(np.array(to_host(gradient), np.float64))
        self.iterations, self.is_cut_off = 0, False
        self._preconditioners = Preconditioners(jacobian, own)
        self._kind, self._rtol, self._max_iterations = preconditioner, rtol, max_iterations
        self._made: tuple[float, Callable[[Array], Array]] | None = None

    def solve(self, right: torch.Tensor, damping: float) -> torch.Tensor | None:
        """Solve (2 J^T J + damping D) v = right up to the tolerance; None if no step was possible."""
        try:
            if self._made is None or self._made[0] != damping:
                self._made = damping, self._preconditioners.make(self._kind, damping)
        except np.linalg.LinAlgError:
            return None
        solved = conjugate_gradients(
            lambda vector: self._preconditioners.multiply(vector, damping),
            to_host(right),
            self._made[1],
            rtol=self._rtol,
            max_iterations=self._max_iterations,
        )
        self.iterations += solved.iterations
        self.is_cut_off = not solved.converged
        if solved.iterations == 0 or not np.isfinite(solved.solution).all():
            return None
        return torch.from_numpy(solved.solution)

    def predicted_decrease(self, line: torch.Tensor, damping: float) -> float:
        """Decrease of the linear model's loss at v: as for the exact v, because its residual is orthogonal to v."""
        return 0.5 * float(self.downhill @ line) + 0.5 * damping * float((self.scale * line) @ line)

    def length(self, vector: torch.Tensor) -> float:
        """Length of a vector, measured by D."""
        return math.sqrt(float((self.scale * vector) @ vector))


def next_forcing(forcing: float, before: float, after: float) -> float:
    """Say how far the next system's residual is to be reduced, from the norms of the gradient before and after a step.

    Parameters
    ----------
    forcing : float
        That of this step.
    before, after : float

    Returns
    -------
    float
        0.9 (after / before)^2, between 0.001 and 0.1, and falling no faster than squared.

    References
    ----------
    S. C. Eisenstat, H. F. Walker, "Choosing the forcing terms in an inexact Newton method", SIAM J. Sci. Comput. 17
    (1996) 16-32. doi:10.1137/0917003

    Examples
    --------
    >>> next_forcing(0.1, before=1.0, after=0.5), round(next_forcing(0.1, before=1.0, after=0.01), 4)
    (0.1, 0.009)
    """
    wanted = FORCING_FACTOR * (after / before) ** FORCING_POWER
    slowest = FORCING_FACTOR * forcing**FORCING_POWER
    return float(min(FIRST_FORCING, max(LEAST_FORCING, wanted, slowest)))
