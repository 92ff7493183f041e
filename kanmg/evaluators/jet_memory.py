"""The hidden jets of the last few calls: whoever differentiates at the same points does not compute them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array

__all__ = ["JetArguments", "JetMemory"]

# Entries of all hidden jets that are kept for one number of directions and one order, and the calls they come from: a
# step of Levenberg-Marquardt makes four, for each term of a problem.
_ENTRIES = 1 << 22
_CALLS = 16


class JetArguments(NamedTuple):
    """All that the jets of a network depend on, see `Evaluator`; and the tables of knots that have been moved."""

    theta: Array
    x: Array
    directions: Array | None
    own_directions: Array | None
    curvatures: Array | None
    knots: Array | None


class _Call(NamedTuple):
    """Copies of what a call got, and the hidden jets that it computed.

    Comparing marks takes less time than comparing all numbers.
    """

    mark: tuple[int, float]
    arguments: JetArguments
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

    def find(self, arguments: JetArguments) -> Array | None:
        """Return the hidden jets of an earlier call with equal arguments, or None."""
        mark = _mark(arguments)
        for position, call in enumerate(self._calls):
            if call.mark == mark and all(map(_is_equal, call.arguments, arguments)):
                self._calls.insert(0, self._calls.pop(position))
                return call.hidden
        return None

    def room(self, size: int) -> Array | None:
        """Return an array for the hidden jets of a new call, in place of the oldest; None if it would be too large."""
        if size > _ENTRIES:
            return None
        freed = None
        while len(self._calls) >= _CALLS or size + sum(call.hidden.size for call in self._calls) > _ENTRIES:
            freed = self._calls.pop().hidden
        # New memory costs as much as computing a part of the jets.
        return freed if freed is not None and freed.size == size else np.empty(size, self._dtype)

    def keep(self, arguments: JetArguments, hidden: Array) -> None:
        """Remember a call that has succeeded."""
        copies = JetArguments._make(None if array is None else array.copy() for array in arguments)
        self._calls.insert(0, _Call(_mark(arguments), copies, hidden))


def _mark(arguments: JetArguments) -> tuple[int, float]:
    with np.errstate(all="ignore"):
        return len(arguments.x), float(arguments.theta.sum())


def _is_equal(one: Array | None, other: Array | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)
