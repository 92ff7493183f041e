"""Preconditioners of 2 J^T J + mu D: Jacobi, the blocks of edges, two-level Schwarz, a V-cycle."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import scipy  # its subpackages are loaded when they are first used
import torch

from kanmg.smoothers.coarse_spaces import edge_groups, polynomial_space, prolongations
from kanmg.threads import one_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    import scipy.linalg
    import scipy.sparse
    import scipy.sparse.linalg  # noqa: TC004

    from kanmg.evaluators.base import Array
    from kanmg.problems.linearisation import Linearisation

__all__ = ["KINDS", "MAX_COARSEST", "Preconditioners"]

KINDS = ("jacobi", "edges", "schwarz", "vcycle")

MAX_COARSEST = 1000
"""Coefficients of the space that is solved directly, at most."""

# Steps of the power iteration that bounds the spectrum of a smoother.
_POWER_STEPS = 8

Apply: TypeAlias = "Callable[[Array], Array]"


class Preconditioners:
    """Approximate inverses of 2 J^T J + mu D, for any mu.

    What does not depend on mu is computed once, when it is first needed.

    Parameters
    ----------
    jacobian : Linearisation
        J.
    scale : ndarray, shape (n,)
        D, positive.

    Notes
    -----
    With A = 2 J^T J + mu D and r the residual, all of them symmetric and positive definite:

    - `jacobi`: r / diag A.
    - `edges`: the blocks of A that belong to one edge each, by Cholesky; block Jacobi.
    - `schwarz`: `edges` plus the solution on a coarse space, P (P^T A P)^-1 P^T r, of at most 1000 coefficients: two
      levels, added [1]_. Needs no product with J.
    - `vcycle`: a V-cycle over the nested spaces with twice, four times, ... fewer cells and that coarse space, with one
      damped step of Jacobi before and after the correction. Two products with J^T J per level.

    References
    ----------
    .. [1] M. Dryja, O. B. Widlund, "Domain decomposition algorithms with small overlap", SIAM J. Sci. Comput. 15
       (1994) 604-620. doi:10.1137/0915040
    """

    def __init__(self, jacobian: Linearisation, scale: Array) -> None:
        self._jacobian, self._scale = jacobian, scale

    def multiply(self, vector: Array, damping: float) -> Array:
        """Multiply 2 J^T J + mu D with a vector."""
        return 2.0 * self._jacobian.normal_product(vector) + damping * self._scale * vector

    def make(self, kind: str, damping: float) -> Apply:
        """Return the preconditioner r -> M r for one mu.

        Parameters
        ----------
        kind : {"jacobi", "edges", "schwarz", "vcycle"}
        damping : float
            mu.

        Returns
        -------
        callable

        Raises
        ------
        numpy.linalg.LinAlgError
            If rounding makes a block indefinite.
        """
        if kind == "jacobi":
            return self._jacobi(damping)
        if kind == "edges":
            return self._edges(damping)
        if kind == "schwarz":
            edges, coarse = self._edges(damping), self._coarse(damping)
            return lambda residual: edges(residual) + coarse(residual)
        return _VCycle(self, damping).apply

    @cached_property
    def diagonal(self) -> Array:
        """The diagonal of 2 J^T J."""
        return 2.0 * self._jacobian.diagonal()

    def _jacobi(self, damping: float) -> Apply:
        diagonal = self.diagonal + damping * self._scale
        return lambda residual: residual / diagonal

    def _edges(self, damping: float) -> Apply:
        groups, factors = self._groups, []
        for group, block in zip(groups, self._blocks, strict=True):
            factors.append(_factor(block + damping * np.diag(self._scale[group])))

        def apply(residual: Array) -> Array:
            result = np.zeros_like(residual)
            for group, factor in zip(groups, factors, strict=True):
                result[group] = factor @ residual[group]
            return result

        return apply

    def _coarse(self, damping: float) -> Apply:
        """Solve on the coarse space; nothing if there is none."""
        if self.space is None:
            return np.zeros_like
        space, restriction, solve = self.space, self.space.T.tocsr(), self.coarse_solver(damping)

        def apply(residual: Array) -> Array:
            result: Array = space @ solve(restriction @ residual)
            return result

        return apply

    def coarse_solver(self, damping: float) -> Apply:
        """Factorise the matrix of the coarse space; returns what solves with it."""
        weighted = scipy.sparse.diags_array(self._scale) @ self.space
        matrix = self.gram + damping * (self.space.T @ weighted).toarray()
        # torch takes as many threads as the user has set, unlike SciPy.
        factor, info = torch.linalg.cholesky_ex(torch.from_numpy(_safe(matrix)))
        if int(info):
            raise np.linalg.LinAlgError("the matrix of the coarse space is not positive definite")

        def solve(right: Array) -> Array:
            with one_thread():
                solution: Array = torch.cholesky_solve(torch.from_numpy(right)[:, None], factor)[:, 0].numpy()
            return solution

        return solve

    @cached_property
    def _groups(self) -> list[Array]:
        """The coefficients of every edge, and the problem's parameters one by one."""
        network = self._jacobian.network
        own = [np.array([j]) for j in range(network.num_coefficients, self._jacobian.num_coefficients)]
        return edge_groups(network) + own

    @cached_property
    def _blocks(self) -> list[Array]:
        return [2.0 * block for block in self._jacobian.diagonal_blocks(self._groups)]

    @cached_property
    def space(self) -> Any:
        """P from the coarse space, a sparse matrix; None if there is none."""
        return self._padded(polynomial_space(self._jacobian.network, MAX_COARSEST))

    @cached_property
    def gram(self) -> Any:
        """P^T 2 J^T J P of the coarse space; None if there is none."""
        return None if self.space is None else 2.0 * self._jacobian.gram(self.space)

    @cached_property
    def spaces(self) -> list[scipy.sparse.csr_array]:
        """P from each space of the V-cycle to the network's own: the identity first."""
        size = self._jacobian.num_coefficients
        result = [scipy.sparse.eye_array(size, format="csr")]
        for step in self.steps:
            result.append((result[-1] @ step).tocsr())
        return result

    @cached_property
    def steps(self) -> list[Any]:
        """P from each space of the V-cycle to the next finer one."""
        return [self._padded(matrix) for matrix in prolongations(self._jacobian.network)]

    def _padded(self, matrix: scipy.sparse.csr_array | None) -> scipy.sparse.csr_array | None:
        """Let a prolongation leave the problem's parameters as they are."""
        number = self._jacobian.num_coefficients - self._jacobian.network.num_coefficients
        if matrix is None or not number:
            return matrix
        return scipy.sparse.block_diag([matrix, scipy.sparse.eye_array(number)], format="csr")

    def galerkin_diagonal(self, space: scipy.sparse.csr_array) -> tuple[Array, Array]:
        """Compute the diagonals of P^T 2 J^T J P, edge by edge, and of P^T D P, for a space whose edges stay apart."""
        diagonal = np.zeros(space.shape[1])
        for group, block in zip(self._groups, self._blocks, strict=True):
            rows = space[group]
            columns = np.unique(rows.indices)
            part = rows[:, columns].toarray()
            diagonal[columns] = np.einsum("ic,ij,jc->c", part, block, part)
        return diagonal, np.asarray(space.multiply(space).T @ self._scale)


class _VCycle:
    """One V-cycle, as a symmetric preconditioner."""

    def __init__(self, operators: Preconditioners, damping: float) -> None:
        self._operators, self._damping = operators, damping
        self._spaces = operators.spaces
        self._restrictions = [space.T.tocsr() for space in self._spaces]
        self._steps = operators.steps
        self._solve_directly = self._direct()
        self._inverses = []
        for level, space in enumerate(self._spaces):
            diagonal, scale = operators.galerkin_diagonal(space)
            inverse = 1.0 / (diagonal + damping * scale)
            self._inverses.append(inverse / self._largest(level, inverse))

    def apply(self, residual: Array) -> Array:
        return self._cycle(0, residual)

    def _cycle(self, level: int, right: Array) -> Array:
        """Solve approximately in the space of a level, for a residual that has been restricted to it."""
        inverse = self._inverses[level]
        x = inverse * right
        if level + 1 < len(self._spaces):
            step = self._steps[level]
            x = x + step @ self._cycle(level + 1, step.T @ (right - self._multiply(level, x)))
        else:
            x = x + self._solve_directly(right - self._multiply(level, x))
        result: Array = x + inverse * (right - self._multiply(level, x))
        return result

    def _direct(self) -> Apply:
        """Return the solution on the polynomials, which lie in every space, as seen from the last one."""
        operators, last = self._operators, self._spaces[-1]
        if operators.space is None or operators.gram is None:
            return np.zeros_like
        inside = scipy.sparse.linalg.splu((last.T @ last).tocsc()).solve((last.T @ operators.space).toarray())
        solve_inside = operators.coarse_solver(self._damping)

        def solve(right: Array) -> Array:
            result: Array = inside @ solve_inside(inside.T @ right)
            return result

        return solve

    def _multiply(self, level: int, vector: Array) -> Array:
        """Multiply the Galerkin operator P^T A P with a vector."""
        product: Array = self._restrictions[level] @ self._operators.multiply(
            self._spaces[level] @ vector, self._damping
        )
        return product

    def _largest(self, level: int, inverse: Array) -> float:
        """Bound the largest eigenvalue of the smoothed operator from a few steps of the power iteration."""
        vector = np.cos(np.arange(len(inverse)) + 1.0)
        size = 1.0
        for _ in range(_POWER_STEPS):
            vector = inverse * self._multiply(level, vector)
            size = float(np.linalg.norm(vector))
            vector = vector / size
        # The iteration comes from below.
        return 1.2 * size


def _safe(matrix: Array) -> Array:
    """Lift a matrix that is positive semi-definite up to rounding."""
    lifted = matrix.copy()
    lifted[np.diag_indices_from(lifted)] += 1e-14 * np.trace(matrix)
    return lifted


def _factor(block: Array) -> Array:
    """Invert a small positive definite block: products with the inverse are cheaper than two solutions."""
    inverse = scipy.linalg.cho_solve(scipy.linalg.cho_factor(_safe(block)), np.eye(len(block)))
    result: Array = 0.5 * (inverse + inverse.T)
    return result
