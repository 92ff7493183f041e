"""Damped normal equations: dense, symmetric, factored in float64."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kanmg.threads import one_thread

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array

__all__ = ["SMALLEST_ENTRY", "DampedEquations", "as_array_like", "as_tensor"]

# Diagonal entries below this part of the largest one belong to coefficients that no sample sees.
SMALLEST_ENTRY = 1e-14

# Below, one thread factorises as fast as several on a machine with other work, and with the same bits for any number.
MANY_COEFFICIENTS = 1000


class DampedEquations:
    """Damped normal equations at one point, in float64, for any number of dampings and right-hand sides.

    Parameters
    ----------
    matrix : ndarray, shape (n, n)
        2 J^T J.
    gradient : ndarray, shape (n,)
    scale : ndarray, shape (n,), or None
        D of the step before.

    Attributes
    ----------
    downhill : Tensor, shape (n,)
        The negative gradient.
    scale : Tensor, shape (n,)
        D.
    is_cut_off : bool
        Whether the last solution ended before it was exact: never here.
    """

    def __init__(self, matrix: Array, gradient: Array, scale: Array | None) -> None:
        self._matrix = as_tensor(matrix)
        self.downhill = -as_tensor(gradient)
        diagonal = self._matrix.diagonal()
        if scale is not None:
            diagonal = torch.maximum(diagonal, as_tensor(scale))
        self.scale = diagonal.clamp(min=SMALLEST_ENTRY * float(diagonal.max()))
        self.is_cut_off = False
        self._factored = math.nan
        self._factor: torch.Tensor | None = None

    def solve(self, right: torch.Tensor, damping: float) -> torch.Tensor | None:
        """Solve (M + damping D) v = right; None if the matrix is not positive definite."""
        if damping != self._factored:
            damped = self._matrix.clone()
            damped.diagonal().add_(self.scale, alpha=damping)
            # torch takes as many threads as the user has set, unlike SciPy.
            with one_thread() if len(damped) < MANY_COEFFICIENTS else nullcontext():
                factor, info = torch.linalg.cholesky_ex(damped)
            self._factored, self._factor = damping, None if int(info) else factor
        if self._factor is None:
            return None
        with one_thread():
            solution = torch.cholesky_solve(right[:, None], self._factor)[:, 0]
        return solution if bool(torch.isfinite(solution).all()) else None

    def predicted_decrease(self, line: torch.Tensor, damping: float) -> float:
        """Decrease of the linear model's loss at v, from (M + damping D) v = -g: positive."""
        return 0.5 * float(self.downhill @ line) + 0.5 * damping * float((self.scale * line) @ line)

    def length(self, vector: torch.Tensor) -> float:
        """Length of a vector, measured by D."""
        return math.sqrt(float((self.scale * vector) @ vector))


def as_tensor(array: Array) -> torch.Tensor:
    """Make a float64 tensor, in shared memory if possible."""
    other: Any = array
    if isinstance(other, torch.Tensor):
        return other.double()
    return torch.from_numpy(np.require(array, np.float64, ("C", "W")))


def as_array_like(vector: torch.Tensor, theta: Array) -> Array:
    """Make an array of the kind, dtype and device of another one."""
    other: Any = theta
    if isinstance(other, torch.Tensor):
        result: Array = vector.to(other)  # type: ignore[assignment]
        return result
    return vector.numpy().astype(other.dtype, copy=False)
