"""Knot vectors: uniform, clamped, from breakpoints; their refinement and nesting."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kanmg.errors import KanmgValueError, NestingError, ShapeError
from kanmg.splines._checks import MAX_DEGREE, checked_degree, checked_domain, checked_num_intervals, checked_numbers

__all__ = [
    "MAX_DEGREE",
    "Knots",
    "check_nested",
    "clamped_knots",
    "knots_from_breakpoints",
    "missing_breakpoints",
    "refine",
    "uniform_knots",
]

FloatArray = npt.NDArray[np.float64]

# Two ways of computing one breakpoint (`linspace`, bisection, a formula) differ by a few units in the last place.
_ROUNDING = 8 * np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False, repr=False)
class Knots:
    """A knot vector of a spline space with simple interior knots.

    Immutable, hashable, and equal to any other `Knots` with the same degree and the same numbers. Most users build one
    with `uniform_knots`, `clamped_knots` or `knots_from_breakpoints`.

    Parameters
    ----------
    vector : array_like, shape (num_intervals + 2 * degree + 1,)
        Non-decreasing; the `num_intervals + 1` middle ones, which cut the domain into cells, strictly increasing.
        Stored as a read-only float64 copy.
    degree : int
        Degree of the polynomials, 1 to 9.

    Raises
    ------
    ShapeError
        `vector` is not one-dimensional or too short for one cell.
    NonFiniteError
        `vector` contains NaN or infinity.
    KanmgValueError
        The degree is out of range, or the knots are in the wrong order.

    Examples
    --------
    >>> knots = Knots([-2, -1, 0, 1, 2, 3], degree=2)
    >>> knots
    Knots(num_intervals=1, degree=2, domain=(0.0, 1.0), uniform)
    >>> knots.num_basis, knots.greville.tolist()
    (3, [-0.5, 0.5, 1.5])
    """

    vector: FloatArray
    degree: int

    def __post_init__(self) -> None:
        degree = checked_degree(self.degree)
        vector = checked_numbers(self.vector, "vector")
        if vector.size < 2 * degree + 2:
            raise ShapeError(
                f"`vector` has {vector.size} knots, but one cell of degree {degree} needs {2 * degree + 2} "
                "(num_intervals + 2 * degree + 1). Use `uniform_knots(num_intervals, degree=...)` or "
                "`knots_from_breakpoints(breakpoints, degree=...)`, which add the exterior knots."
            )
        _check_order(vector, degree)
        vector.setflags(write=False)
        object.__setattr__(self, "vector", vector)
        object.__setattr__(self, "degree", degree)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Knots):
            return NotImplemented
        return self is other or (self.degree == other.degree and np.array_equal(self.vector, other.vector))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        # Unpickled arrays are writeable; going through the constructor makes the copy read-only again.
        return Knots, (self.vector, self.degree)

    def __repr__(self) -> str:
        kind = "uniform" if self.is_uniform else "clamped" if self.is_clamped else "non-uniform"
        return f"Knots(num_intervals={self.num_intervals}, degree={self.degree}, domain={self.domain}, {kind})"

    @cached_property
    def _hash(self) -> int:
        return hash((self.degree, self.vector.tobytes()))

    @property
    def num_intervals(self) -> int:
        """Number of cells n of the domain."""
        return self.vector.size - 2 * self.degree - 1

    @property
    def num_basis(self) -> int:
        """Number of B-splines, n + k."""
        return self.num_intervals + self.degree

    @property
    def domain(self) -> tuple[float, float]:
        """The interval (a, b) on which the B-splines sum to one."""
        return float(self.vector[self.degree]), float(self.vector[-self.degree - 1])

    @property
    def breakpoints(self) -> FloatArray:
        """The n + 1 ends of the cells, strictly increasing from a to b; read-only."""
        return self.vector[self.degree : -self.degree]

    @cached_property
    def is_uniform(self) -> bool:
        """Whether all knots, the exterior ones included, are equally spaced up to rounding."""
        lower, upper = self.domain
        return _agree(self.vector, _equally_spaced(lower, upper, self.num_intervals, self.degree))

    @cached_property
    def is_clamped(self) -> bool:
        """Whether both end knots have multiplicity k + 1, so that the end coefficients are the end values."""
        lower, upper = self.domain
        return bool(self.vector[0] == lower and self.vector[-1] == upper)

    @property
    def spacing(self) -> float:
        """Length of the cells of uniform knots; `KanmgValueError` for others."""
        if not self.is_uniform:
            raise KanmgValueError(
                f"`spacing` is defined for uniform knots only, not for {self!r}. Use `numpy.diff(knots.breakpoints)`."
            )
        lower, upper = self.domain
        return (upper - lower) / self.num_intervals

    @cached_property
    def greville(self) -> FloatArray:
        """Greville abscissae, shape (num_basis,): the coefficients of the function x -> x; read-only."""
        windows = np.lib.stride_tricks.sliding_window_view(self.vector[1:-1], self.degree)
        abscissae: FloatArray = windows.mean(axis=1)
        abscissae.setflags(write=False)
        return abscissae


def uniform_knots(num_intervals: int, *, degree: int, domain: tuple[float, float] = (-1.0, 1.0)) -> Knots:
    """Cut the domain into equal cells and continue the spacing by `degree` knots on either side.

    Parameters
    ----------
    num_intervals : int
        Number of cells, at least 1.
    degree : int
        1 to 9.
    domain : tuple of float
        The ends (a, b) with a < b.

    Returns
    -------
    Knots

    Raises
    ------
    KanmgValueError
        `num_intervals`, `degree` or `domain` is out of range.

    See Also
    --------
    clamped_knots : the same cells with repeated end knots.

    Notes
    -----
    The breakpoints of n cells are among those of 2n cells to the last bit.

    Examples
    --------
    >>> uniform_knots(4, degree=1).vector.tolist()
    [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    """
    num_intervals = checked_num_intervals(num_intervals)
    degree = checked_degree(degree)
    lower, upper = checked_domain(domain)
    return Knots(_equally_spaced(lower, upper, num_intervals, degree), degree)


def clamped_knots(num_intervals: int, *, degree: int, domain: tuple[float, float] = (-1.0, 1.0)) -> Knots:
    """Cut the domain into equal cells, with end knots of multiplicity `degree + 1`.

    Parameters
    ----------
    num_intervals : int
        Number of cells, at least 1.
    degree : int
        1 to 9.
    domain : tuple of float
        The ends (a, b) with a < b.

    Returns
    -------
    Knots

    Raises
    ------
    KanmgValueError
        `num_intervals`, `degree` or `domain` is out of range.

    Examples
    --------
    >>> clamped_knots(2, degree=2, domain=(0, 1)).vector.tolist()
    [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    """
    num_intervals = checked_num_intervals(num_intervals)
    degree = checked_degree(degree)
    lower, upper = checked_domain(domain)
    return knots_from_breakpoints(_equally_spaced(lower, upper, num_intervals, 0), degree=degree, clamped=True)


def knots_from_breakpoints(breakpoints: npt.ArrayLike, *, degree: int, clamped: bool = False) -> Knots:
    """Build knots whose cells are given by their ends.

    Parameters
    ----------
    breakpoints : array_like, shape (num_intervals + 1,)
        Strictly increasing.
    degree : int
        1 to 9.
    clamped : bool
        False: the lengths of the first and the last cell continue outside. True: the end knots have multiplicity
        `degree + 1`.

    Returns
    -------
    Knots

    Raises
    ------
    ShapeError
        Fewer than two breakpoints, or not a one-dimensional array.
    NonFiniteError
        NaN or infinity among the breakpoints.
    KanmgValueError
        The degree is out of range, or the breakpoints do not increase.

    Examples
    --------
    >>> knots_from_breakpoints([0, 1, 3], degree=2).vector.tolist()
    [-2.0, -1.0, 0.0, 1.0, 3.0, 5.0, 7.0]
    """
    degree = checked_degree(degree)
    cells = checked_numbers(breakpoints, "breakpoints")
    if cells.size < 2:
        raise ShapeError(
            f"`breakpoints` has {cells.size} entries, but one cell needs two: its ends. "
            "Pass at least the two ends of the domain, as in `knots_from_breakpoints([-1, 1], degree=3)`."
        )
    steps = np.arange(1, degree + 1)
    first, last = (0.0, 0.0) if clamped else (cells[1] - cells[0], cells[-1] - cells[-2])
    return Knots(np.concatenate([cells[0] - first * steps[::-1], cells, cells[-1] + last * steps]), degree)


def refine(knots: Knots) -> Knots:
    """Bisect every cell.

    The result contains all breakpoints of `knots` to the last bit; uniform knots stay uniform and clamped ones clamped.

    Parameters
    ----------
    knots : Knots

    Returns
    -------
    Knots
        With twice as many cells, of the same degree and domain.

    See Also
    --------
    kanmg.splines.transfer.prolongation_matrix : coefficients of the same function on the refined knots.

    Notes
    -----
    The exterior cells are bisected too and the `degree` nearest knots on either side are kept, so that every fine
    exterior knot sequence refines the coarse one and the prolongation has no negative entry.

    Examples
    --------
    >>> refine(knots_from_breakpoints([0, 1, 3], degree=1)).vector.tolist()
    [-0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0]
    >>> refine(uniform_knots(5, degree=3)) == uniform_knots(10, degree=3)
    True
    """
    degree = knots.degree
    uniform = uniform_knots(knots.num_intervals, degree=degree, domain=knots.domain)
    if knots == uniform:
        # Not by midpoints: repeated bisection would differ from `uniform_knots` in the last bit.
        return uniform_knots(2 * knots.num_intervals, degree=degree, domain=knots.domain)
    left, middle, right = knots.vector[: degree + 1], knots.breakpoints, knots.vector[-degree - 1 :]
    return Knots(
        np.concatenate([_bisected(left)[-degree - 1 : -1], _bisected(middle), _bisected(right)[1 : degree + 1]]), degree
    )


def missing_breakpoints(coarse: Knots, fine: Knots) -> FloatArray:
    """Find the breakpoints of `coarse` that `fine` lacks.

    Breakpoints that differ by rounding only (8 units in the last place of the largest knot) count as equal.

    Parameters
    ----------
    coarse, fine : Knots

    Returns
    -------
    ndarray, shape (number missing,)
        Empty if every coarse breakpoint is a fine one.

    See Also
    --------
    check_nested : also compares degrees and domains, and raises.

    Examples
    --------
    >>> missing_breakpoints(uniform_knots(4, degree=3), uniform_knots(6, degree=3)).tolist()
    [-0.5, 0.5]
    """
    breakpoints = coarse.breakpoints
    return breakpoints[np.abs(nearest(fine.breakpoints, breakpoints) - breakpoints) > rounding_tolerance(coarse)]


def check_nested(coarse: Knots, fine: Knots) -> None:
    """Raise unless every spline on `coarse` is one on `fine`.

    Parameters
    ----------
    coarse, fine : Knots

    Raises
    ------
    NestingError
        The degrees or domains differ, or a coarse breakpoint is missing; the message names it.

    Examples
    --------
    >>> check_nested(uniform_knots(4, degree=3), uniform_knots(12, degree=3))
    >>> check_nested(uniform_knots(4, degree=3), uniform_knots(6, degree=3))
    Traceback (most recent call last):
    ...
    kanmg.errors.NestingError: the fine knots lack the coarse breakpoint -0.5 (and 1 more). ...
    """
    if coarse.degree != fine.degree:
        raise NestingError(
            f"the coarse knots have degree {coarse.degree}, the fine knots degree {fine.degree}. Nested knots share "
            "one degree. Build the fine knots with `kanmg.refine(knots)`."
        )
    if not _agree(np.array(coarse.domain), np.array(fine.domain)):
        raise NestingError(
            f"the coarse knots have the domain {coarse.domain}, the fine knots {fine.domain}. Nested knots share one "
            "domain. Build the fine knots with `kanmg.refine(knots)`."
        )
    missing = missing_breakpoints(coarse, fine)
    if missing.size:
        more = f" (and {missing.size - 1} more)" if missing.size > 1 else ""
        raise NestingError(
            f"the fine knots lack the coarse breakpoint {missing[0]:.17g}{more}. Every breakpoint of the coarse knots "
            "must be one of the fine knots. Build the fine knots with `kanmg.refine(knots)`."
        )


def rounding_tolerance(knots: Knots) -> float:
    """Distance below which two knots count as the same number computed in two ways."""
    return float(_ROUNDING * np.abs(knots.vector).max())


def nearest(candidates: FloatArray, values: FloatArray) -> FloatArray:
    """For every value the nearest of the non-decreasing `candidates`."""
    right = np.searchsorted(candidates, values).clip(1, candidates.size - 1)
    left = right - 1
    below, above = candidates[left], candidates[right]
    closest: FloatArray = np.where(values - below <= above - values, below, above)
    return closest


def _equally_spaced(lower: float, upper: float, num_intervals: int, exterior: int) -> FloatArray:
    # Scaling numerator and denominator by two changes no bit: hence n cells are nested in 2n cells exactly.
    index = np.arange(-exterior, num_intervals + exterior + 1)
    vector: FloatArray = (lower * (num_intervals - index) + upper * index) / num_intervals
    vector[exterior], vector[exterior + num_intervals] = lower, upper
    return vector


def _bisected(vector: FloatArray) -> FloatArray:
    """Insert the midpoint of every cell that is not empty."""
    left, right = vector[:-1], vector[1:]
    return np.sort(np.concatenate([vector, (0.5 * (left + right))[right > left]]))


def _agree(first: FloatArray, second: FloatArray) -> bool:
    return bool(np.abs(first - second).max() <= _ROUNDING * np.abs(second).max())


def _check_order(vector: FloatArray, degree: int) -> None:
    steps = np.diff(vector)
    interior = slice(degree, vector.size - degree - 1)
    bad = steps < 0
    bad[interior] |= steps[interior] == 0
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        raise KanmgValueError(
            f"knot {index + 1} ({vector[index + 1]:.17g}) does not lie above knot {index} ({vector[index]:.17g}). "
            "Breakpoints must be strictly increasing, exterior knots non-decreasing. Sort them and remove repeated "
            "ones (`numpy.unique(breakpoints)`), or, where cells are shorter than rounding, use fewer cells."
        )
