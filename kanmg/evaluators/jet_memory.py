"""The hidden jets of the last few calls: whoever differentiates at the same points does not compute them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array

__all__ = ["JetMemory"]

# Entries of all hidden jets that are kept for one number of directions and one order.
_ENTRIES = 1 << 22


class _Call(NamedTuple):
    """Copies of what a call got, and the hidden jets that it computed."""

    arguments: tuple[Array | None, ...]
    hidden: Array


class JetMemory:
    """Remembers hidden jets by the numbers they were computed from, the last calls first; of bounded size.

    Its user holds a lock.

    Parameters
    ----------
    dtype : numpy.dtype
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._calls: list[_Call] = []

    def find(self, arguments: tuple[Array | None, ...]) -> Array | None:
        """Return the hidden jets of an earlier call with equal arguments, or None."""
        for position, call in enumerate(self._calls):
            if all(map(_is_equal, call.arguments, arguments)):
                self._calls.insert(0, self._calls.pop(position))
                return call.hidden
        return None

    def room(self, size: int) -> Array | None:
        """Return an array for the hidden jets of a new call, in place of the oldest; None if it would be too large."""
        if size > _ENTRIES:
            return None
        freed = None
        while self._calls and size + sum(call.hidden.size for call in self._calls) > _ENTRIES:
            freed = self._calls.pop().hidden
        # New memory costs as much as computing a part of the jets.
        return freed if freed is not None and freed.size == size else np.empty(size, self._dtype)

    def keep(self, arguments: tuple[Array | None, ...], hidden: Array) -> None:
        """Remember a call that has succeeded."""
        copies = tuple(None if array is None else array.copy() for array in arguments)
        self._calls.insert(0, _Call(copies, hidden))


def _is_equal(one: Array | None, other: Array | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)
