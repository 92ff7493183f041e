"""Free knots: cells whose lengths follow from logits, and what their motion does to splines.

Lengths are positive and sum to that of the interval, whatever the logits are: knots stay in order by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kanmg.errors import KanmgValueError
from kanmg.splines.knots import Knots

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SMALLEST_PART", "DoubledSpace", "FreeKnots", "MovingKnots"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

# No cell becomes shorter than this part of what it was: a lower bound of all lengths, so that no cell collapses.
SMALLEST_PART = 0.02


class MovingKnots(Knots):
    """Knots at one moment, with repeated interior knots if need be; equal to themselves only.

    Not checked: whoever makes them answers for their order. Numbers that are not finite make values that are not.
    """

    def __init__(self, vector: FloatArray, degree: int) -> None:
        object.__setattr__(self, "vector", vector)
        object.__setattr__(self, "degree", degree)

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __reduce__(self) -> tuple[Any, ...]:
        return MovingKnots, (self.vector, self.degree)

    @property
    def is_uniform(self) -> bool:
        """False, wherever they are at the moment."""
        return False


@dataclass(frozen=True, eq=False)
class FreeKnots:
    """The knots of several inputs as functions of logits.

    The cells of each input are divided into groups of equally many neighbours. The length of group i is

        (b - a) R_i (e + (1 - e) exp(z_i) / sum_j R_j exp(z_j)),

    R_i being its part of the interval in the reference knots and e = 0.02; within a group all cells are stretched
    alike. Logits z = 0 give the reference knots. The knots outside go with the end cells: where these are stretched,
    so is the distance of the knots outside from the end of the interval.

    Parameters
    ----------
    knots : tuple of Knots
        The reference knots of each of P inputs, all of one degree and number of intervals.
    num_groups : int
        At least 2; divides the number of intervals.

    Raises
    ------
    KanmgValueError
        If the shortest possible cell could not be told from none.

    Notes
    -----
    Bisecting all cells changes no group: the same logits give the bisected cells, whose breakpoints contain those
    before to the last bit. So the levels of a hierarchy are nested for any logits, if all have the same ones.

    Examples
    --------
    >>> from kanmg.splines import knots_from_breakpoints, refine
    >>> coarse = knots_from_breakpoints([0, 1, 2], degree=1)
    >>> logits = np.array([[1.0, 0.0]])
    >>> FreeKnots((coarse,), 2).vectors(logits).round(4).tolist()
    [[-1.4529, 0.0, 1.4529, 2.0, 2.5471]]
    >>> FreeKnots((refine(coarse),), 2).vectors(logits).round(4).tolist()
    [[-0.7264, 0.0, 0.7264, 1.4529, 1.7264, 2.0, 2.2736]]
    """

    knots: tuple[Knots, ...]
    num_groups: int

    def __post_init__(self) -> None:
        spacing = np.spacing(np.abs(self._breakpoints).max(axis=1))
        shortest = SMALLEST_PART * np.diff(self._breakpoints).min(axis=1)
        if (shortest < 64 * spacing).any():
            raise KanmgValueError(
                f"free knots may shrink cells to {SMALLEST_PART:g} of their length, here to {shortest.min():.3g}, "
                "which rounding could close. Use fewer cells, or an interval nearer to zero."
            )

    def vectors(self, logits: FloatArray) -> FloatArray:
        """Compute the knots of all inputs.

        Parameters
        ----------
        logits : ndarray, shape (P, num_groups)

        Returns
        -------
        ndarray, shape (P, num_intervals + 2 * degree + 1)
            Increasing between the ends of the interval, which are met exactly. NaN where logits are.
        """
        lengths = self._lengths(logits)[0]
        starts = self._ends[:, :1] + np.cumsum(lengths, axis=1) - lengths
        group, n, k = self._group, self._size, self._degree
        result = np.empty((len(self.knots), n + 2 * k + 1))
        result[:, k : k + n] = starts[:, group] + self._fractions * lengths[:, group]
        result[:, k], result[:, k + n] = self._ends[:, 0], self._ends[:, -1]
        stretch = lengths / self._reference
        result[:, :k] = self._ends[:, :1] - self._left * stretch[:, :1]
        result[:, k + n + 1 :] = self._ends[:, -1:] + self._right * stretch[:, -1:]
        return result

    def velocities(self, logits: FloatArray) -> FloatArray:
        """Differentiate the knots of each input with respect to its logits.

        Parameters
        ----------
        logits : ndarray, shape (P, num_groups)

        Returns
        -------
        ndarray, shape (num_groups, P, num_intervals + 2 * degree + 1)
        """
        part = self._lengths(logits)[1]
        total = (1.0 - SMALLEST_PART) * (self._ends[:, -1:] - self._ends[:, :1])
        slopes = (total * part) * (np.eye(self.num_groups)[:, None] - part.T[:, :, None])
        starts = np.cumsum(slopes, axis=2) - slopes
        group, n, k = self._group, self._size, self._degree
        result = np.zeros((self.num_groups, len(self.knots), n + 2 * k + 1))
        result[:, :, k + 1 : k + n] = (starts[:, :, group] + self._fractions * slopes[:, :, group])[:, :, 1:]
        stretch = slopes / self._reference
        result[:, :, :k] = -self._left * stretch[:, :, :1]
        result[:, :, k + n + 1 :] = self._right * stretch[:, :, -1:]
        return result

    def _lengths(self, logits: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Compute the lengths of the groups, and the parts of the interval that the logits give them."""
        # Infinite logits are NaN here, and so are their knots.
        with np.errstate(invalid="ignore", over="ignore"):
            weights = self._reference * np.exp(logits - logits.max(axis=1, keepdims=True))
        part = weights / weights.sum(axis=1, keepdims=True)
        total = self._ends[:, -1:] - self._ends[:, :1]
        return SMALLEST_PART * self._reference + (1.0 - SMALLEST_PART) * total * part, part

    @property
    def _degree(self) -> int:
        return self.knots[0].degree

    @property
    def _size(self) -> int:
        return self.knots[0].num_intervals

    @cached_property
    def _breakpoints(self) -> FloatArray:
        return np.stack([knots.breakpoints for knots in self.knots])

    @cached_property
    def _ends(self) -> FloatArray:
        """Ends of the groups, shape (P, num_groups + 1)."""
        return self._breakpoints[:, :: self._size // self.num_groups]

    @cached_property
    def _reference(self) -> FloatArray:
        return np.diff(self._ends)

    @cached_property
    def _group(self) -> IntArray:
        """The group that begins at, or contains, each breakpoint but the last."""
        return np.arange(self._size) // (self._size // self.num_groups)

    @cached_property
    def _fractions(self) -> FloatArray:
        """Where in its group each of these breakpoints lies, from 0 to 1."""
        inside = self._breakpoints[:, :-1] - self._ends[:, self._group]
        fractions: FloatArray = inside / self._reference[:, self._group]
        return fractions

    @cached_property
    def _left(self) -> FloatArray:
        """Distances of the exterior knots from the left end, shape (P, degree)."""
        return self._ends[:, :1] - np.stack([knots.vector[: self._degree] for knots in self.knots])

    @cached_property
    def _right(self) -> FloatArray:
        vectors = np.stack([knots.vector for knots in self.knots])
        distances: FloatArray = vectors[:, vectors.shape[1] - self._degree :] - self._ends[:, -1:]
        return distances


@dataclass(frozen=True)
class DoubledSpace:
    """The splines on knots whose interior ones are doubled: they contain those before and their change with the knots.

    The derivative of a spline with respect to a simple knot is a spline of the same degree on the knots in which that
    one is doubled, because it differentiates a divided difference of truncated powers. So the splines here contain the
    derivatives with respect to all knots; their cells between two equal knots are empty.

    Parameters
    ----------
    num_intervals, degree : int
        Of the knots before: n and k.

    Attributes
    ----------
    num_basis : int
        2 n - 1 + k.
    cells : ndarray of int, shape (num_basis,)
        For every function the cell before, inside its support, whose k + 1 functions its coefficients come from.
    """

    num_intervals: int
    degree: int

    @property
    def num_basis(self) -> int:
        """Number of B-splines."""
        return 2 * self.num_intervals - 1 + self.degree

    @cached_property
    def places(self) -> IntArray:
        """Of which knot each of the doubled ones is a copy."""
        n, k = self.num_intervals, self.degree
        copies = np.ones(n + 2 * k + 1, np.intp)
        copies[k + 1 : k + n] = 2
        return np.repeat(np.arange(len(copies)), copies)

    @cached_property
    def cells(self) -> IntArray:
        # Of the cells in the support the first inside the interval, or the next one if that one is empty.
        first = np.maximum(np.arange(self.num_basis) - self.degree, 0)
        return (first + 1) // 2

    @cached_property
    def functions(self) -> IntArray:
        """Numbers of these k + 1 functions, shape (num_basis, degree + 1)."""
        return self.cells[:, None] + np.arange(self.degree + 1)

    @cached_property
    def _arguments(self) -> IntArray:
        """The k knots inside each function's support, from the chosen cell outwards: then nothing cancels."""
        k = self.degree
        rows = []
        for function, cell in enumerate(self.cells):
            left = k + 2 * cell
            inside = range(function + 1, function + k + 1)
            rows.append([*[j for j in inside if j <= left][::-1], *[j for j in inside if j > left]])
        found: IntArray = self.places[np.array(rows)]
        return found

    def insertion(self, vectors: FloatArray) -> FloatArray:
        """Express the functions on the knots by those on the doubled ones.

        Parameters
        ----------
        vectors : ndarray, shape (P, num_intervals + 2 * degree + 1)
            Knots of P inputs.

        Returns
        -------
        ndarray, shape (degree + 1, P, num_basis)
            Coefficient j of a spline on the doubled knots is the sum over s of entry (s, j) times its coefficient
            number `cells[j] + s`: the blossom on that cell.
        """
        around = vectors[:, self._around]
        values = np.zeros((self.degree + 1, len(vectors), self.num_basis))
        values[0] = 1.0
        for d in range(1, self.degree + 1):
            carried: Any = 0.0
            for s, (falls, rises, _) in enumerate(self._factors(vectors, around, d)):
                rising = rises * values[s]
                values[s] = carried + falls * values[s]
                carried = rising
            values[d] = carried
        return values

    def change(self, vectors: FloatArray, velocities: FloatArray) -> FloatArray:
        """Express the change of the functions when the knots move, at this moment, by those on the doubled knots.

        Parameters
        ----------
        vectors : ndarray, shape (P, num_intervals + 2 * degree + 1)
        velocities : ndarray, shape (D, P, num_intervals + 2 * degree + 1)
            Of the knots, in D kinds of motion.

        Returns
        -------
        ndarray, shape (degree + 1, D, P, num_basis)
            Laid out as `insertion` is.

        Notes
        -----
        On each cell a spline is a polynomial, whose blossom de Boor's triangle computes from the knots around the cell.
        The blossom of its derivative with respect to these knots is the triangle's derivative with its arguments fixed.
        """
        around, local, degree = vectors[:, self._around], velocities[:, :, self._around], self.degree
        values = np.zeros((self.degree + 1, len(vectors), self.num_basis))
        changes = np.zeros((self.degree + 1, len(velocities), *values.shape[1:]))
        values[0] = 1.0
        for d in range(1, self.degree + 1):
            carried: Any = 0.0
            carried_change: Any = 0.0
            for s, (falls, rises, length) in enumerate(self._factors(vectors, around, d)):
                own = values[s] / length
                turned = (own * falls) * local[:, :, degree + s - d]
                turned += (own * rises) * local[:, :, degree + s]
                rising_change = rises * changes[s] - turned
                changes[s] = falls * changes[s] + turned
                changes[s] += carried_change
                carried_change = rising_change
                rising = rises * values[s]
                values[s] = carried + falls * values[s]
                carried = rising
            values[d], changes[d] = carried, carried_change
        return changes

    def _factors(
        self, vectors: FloatArray, around: FloatArray, d: int
    ) -> Iterator[tuple[FloatArray, FloatArray, FloatArray]]:
        """Yield what step d of the triangle multiplies each value with, and the lengths that it divides by."""
        x, degree = vectors[:, self._arguments[:, d - 1]], self.degree
        for s in range(d):
            left, right = around[:, degree + s - d], around[:, degree + s]
            length = right - left
            yield (right - x) / length, (x - left) / length, length

    @cached_property
    def _around(self) -> IntArray:
        """The 2 k knots that matter on each function's cell, shape (2 * degree, num_basis)."""
        around: IntArray = self.cells + np.arange(1, 2 * self.degree + 1)[:, None]
        return around
