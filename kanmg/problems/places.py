"""The arrays of a term where the coefficients are: on the host, or copied to a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from kanmg.vectors import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kanmg.evaluators.base import Array
    from kanmg.problems.paths import Paths

__all__ = ["Place"]


class Place(NamedTuple):
    """A term's arrays where the coefficients of a sweep are.

    Attributes
    ----------
    arrays : tuple of Tensor
        Points, and data if the term has them.
    roots : Tensor, shape (N, 1)
        Of the weights.
    paths : Paths
        Of tensors on a device, of NumPy arrays on the host.
    """

    arrays: tuple[torch.Tensor, ...]
    roots: torch.Tensor
    paths: Paths

    @classmethod
    def of(cls, arrays: Sequence[Array], roots: Array, paths: Paths, home: torch.device | None) -> Place:
        """Copy arrays to a device; None: take them as they are, in the same memory."""
        *tensors, last = (
            torch.from_numpy(array) if home is None else to_device(array, home) for array in (*arrays, roots)
        )
        return cls(tuple(tensors), last, paths.on(home))

    def rows(self, rows: slice) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, Paths]:
        """Return points and data, roots and paths of some of the points."""
        if rows.stop - rows.start == len(self.roots):
            return self.arrays, self.roots, self.paths
        return tuple(array[rows] for array in self.arrays), self.roots[rows], self.paths.rows(rows)
