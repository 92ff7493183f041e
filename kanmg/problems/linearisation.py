"""The Jacobian of a problem's residuals at one point, as an operator: products without the normal equations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kanmg.threads import fitting_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import scipy.sparse

    from kanmg.evaluators.base import Array
    from kanmg.network import Network

__all__ = ["Linearisation"]

# A Jacobian of at most so many entries is kept, 12 bytes each in float64; a larger one is computed in every product.
MAX_ENTRIES = 1 << 26

# Entries of the rows that are computed together where they are not kept.
CHUNK_ENTRIES = 1 << 22


class Linearisation:
    """The Jacobian J of the residuals R at one vector of coefficients.

    J is a sequence of sparse matrices, chunks of its rows. They are kept if they have at most 2**26 entries together,
    else computed anew, one after the other, for every product.

    Parameters
    ----------
    network : Network
        With fixed knots, whose coefficients the first columns belong to; those of logits of free knots and of a
        problem's parameters follow.
    num_coefficients : int
        Columns of J.
    num_entries : int
        Of all chunks, at most.
    chunks : callable
        `chunks()` goes through J from the first row to the last.
    cost : float
        Multiply-adds of one pass of `chunks`.
    count : callable, optional
        `count(multiply_adds)` is called for every product.

    Examples
    --------
    >>> import numpy as np
    >>> import kanmg
    >>> x = np.linspace(-1, 1, 50).reshape(-1, 1)
    >>> hierarchy = kanmg.uniform_hierarchy((1, 2, 1), degree=3, num_intervals=4, num_levels=1, evaluator="reference")
    >>> objective = kanmg.Objective(kanmg.Regression(x, np.exp(x)), hierarchy[0])
    >>> theta = kanmg.initial_coefficients(hierarchy[0].network, x, seed=0)
    >>> jacobian = objective.linearised(theta)
    >>> gradient = 2.0 * jacobian.pull_back(objective.residuals(theta))
    >>> bool(np.abs(gradient - objective.value_and_gradient(theta)[1]).max() < 1e-12)
    True
    """

    def __init__(
        self,
        network: Network,
        num_coefficients: int,
        num_entries: int,
        chunks: Callable[[], Iterator[scipy.sparse.csr_array]],
        *,
        cost: float,
        count: Callable[[float], None] | None = None,
    ) -> None:
        self.network = network
        self.num_coefficients = num_coefficients
        self._make, self._count = chunks, count
        self._kept = list(chunks()) if num_entries <= MAX_ENTRIES else None
        self._cost = num_entries + (0.0 if self._kept is not None else cost)
        self._second_cost = float(num_entries)
        if self._kept is not None:
            self._tally(cost)

    @property
    def is_kept(self) -> bool:
        """Whether the entries are in memory."""
        return self._kept is not None

    def product(self, vector: Array) -> Array:
        """Multiply J with a vector: shape (M,)."""
        self._tally(self._cost)
        return np.concatenate([chunk @ vector for chunk in self._chunks()])

    def pull_back(self, cotangents: Array) -> Array:
        """Multiply the transpose of J with a vector: shape (num_coefficients,)."""
        self._tally(self._cost)
        result, first = np.zeros(self.num_coefficients, cotangents.dtype), 0
        for chunk in self._chunks():
            last = first + chunk.shape[0]
            result += chunk.T @ cotangents[first:last]
            first = last
        return result

    def normal_product(self, vector: Array) -> Array:
        """Multiply J^T J with a vector, in one pass."""
        self._tally(self._cost + self._second_cost)
        result = np.zeros(self.num_coefficients, vector.dtype)
        for chunk in self._chunks():
            result += chunk.T @ (chunk @ vector)
        return result

    def diagonal(self) -> Array:
        """Compute the diagonal of J^T J, in float64."""
        self._tally(self._cost)
        result = np.zeros(self.num_coefficients)
        for chunk in self._chunks():
            result += np.bincount(chunk.indices, np.square(chunk.data, dtype=float), self.num_coefficients)
        return result

    def diagonal_blocks(self, groups: Sequence[Array]) -> list[Array]:
        """Compute the blocks of J^T J that belong to groups of coefficients, in float64.

        Parameters
        ----------
        groups : sequence of ndarray of int
            The coefficients of each group.

        Returns
        -------
        list of ndarray, shape (len(group), len(group))
        """
        self._tally(self._cost)
        blocks = [np.zeros((len(group), len(group))) for group in groups]
        for chunk in self._chunks():
            columns = chunk.tocsc()
            for number, group in enumerate(groups):
                part = columns[:, group].astype(np.float64)
                blocks[number] += (part.T @ part).toarray()
        return blocks

    def gram(self, prolongation: scipy.sparse.csr_array) -> Array:
        """Compute P^T J^T J P, a Galerkin matrix on a small space, in float64.

        Parameters
        ----------
        prolongation : csr_array, shape (num_coefficients, r)
            P.

        Returns
        -------
        ndarray, shape (r, r)
        """
        size = prolongation.shape[1]
        self._tally(self._cost)
        result = torch.zeros((size, size), dtype=torch.float64)
        for chunk in self._chunks():
            step = max(1, CHUNK_ENTRIES // size)
            for first in range(0, chunk.shape[0], step):
                tall = (chunk[first : first + step].astype(np.float64) @ prolongation).toarray()
                self._tally(0.5 * tall.size * size)
                # torch multiplies on as many threads as the user has set, unlike NumPy.
                dense = torch.from_numpy(tall)
                with fitting_threads(dense.numel() * size):
                    result.addmm_(dense.T, dense)
        matrix: Array = result.numpy()
        return matrix

    def _chunks(self) -> Iterator[Any]:
        return self._make() if self._kept is None else iter(self._kept)

    def _tally(self, multiply_adds: float) -> None:
        if self._count is not None:
            self._count(multiply_adds)
