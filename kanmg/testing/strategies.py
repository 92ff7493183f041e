"""Hypothesis strategies for knots, nested knots, points and coefficients.

Cells differ in length by at most a factor of 10, and domains lie within a few of their lengths of the origin, so that
properties can be asserted to a few hundred units of rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from kanmg.splines import MAX_DEGREE, Knots, clamped_knots, knots_from_breakpoints, refine, uniform_knots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hypothesis.strategies import DrawFn, SearchStrategy

__all__ = ["KNOT_KINDS", "coefficients", "domains", "knots", "nested_knots", "points"]

FloatArray = npt.NDArray[np.float64]

KNOT_KINDS = ("uniform", "clamped", "non-uniform", "non-uniform clamped")
"""What `knots` and `nested_knots` draw from."""


@st.composite
def domains(draw: DrawFn) -> tuple[float, float]:
    """Draw intervals (a, b), round numbers first.

    Returns
    -------
    SearchStrategy[tuple[float, float]]
    """
    lower = draw(st.sampled_from([0.0, -1.0]) | st.floats(-3.0, 3.0))
    length = draw(st.sampled_from([1.0, 2.0]) | st.floats(0.5, 5.0))
    return lower, lower + length


@st.composite
def knots(
    draw: DrawFn,
    *,
    degrees: SearchStrategy[int] | None = None,
    max_num_intervals: int = 8,
    kinds: Sequence[str] = KNOT_KINDS,
) -> Knots:
    """Draw knot vectors.

    Parameters
    ----------
    degrees : SearchStrategy[int], optional
        1 to 9 by default.
    max_num_intervals : int
        Largest number of cells.
    kinds : sequence of str
        A choice of `KNOT_KINDS`.

    Returns
    -------
    SearchStrategy[Knots]

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(knots(kinds=["clamped"]))
    ... def check(knots):
    ...     assert knots.is_clamped
    >>> check()
    """
    degree = draw(st.integers(1, MAX_DEGREE) if degrees is None else degrees)
    kind = draw(st.sampled_from(tuple(kinds)))
    num_intervals = draw(st.integers(1, max_num_intervals))
    if kind in _EQUAL_CELLS:
        return _EQUAL_CELLS[kind](num_intervals, degree=degree, domain=draw(domains()))
    cells = _breakpoints(draw, num_intervals)
    return knots_from_breakpoints(cells, degree=degree, clamped=kind == "non-uniform clamped")


@st.composite
def nested_knots(
    draw: DrawFn,
    *,
    degrees: SearchStrategy[int] | None = None,
    max_num_intervals: int = 6,
    kinds: Sequence[str] = KNOT_KINDS,
) -> tuple[Knots, Knots]:
    """Draw pairs (coarse, fine) of properly nested knots whose exterior knots are nested too.

    The fine ones are the coarse ones bisected up to twice, cut into thirds, or with breakpoints inserted at random.

    Parameters
    ----------
    degrees : SearchStrategy[int], optional
        1 to 9 by default.
    max_num_intervals : int
        Largest number of coarse cells.
    kinds : sequence of str
        A choice of `KNOT_KINDS`.

    Returns
    -------
    SearchStrategy[tuple[Knots, Knots]]

    Examples
    --------
    >>> from hypothesis import given
    >>> from kanmg.splines import missing_breakpoints
    >>> @given(nested_knots())
    ... def check(pair):
    ...     assert missing_breakpoints(*pair).size == 0
    >>> check()
    """
    coarse = draw(knots(degrees=degrees, max_num_intervals=max_num_intervals, kinds=kinds))
    cells = draw(st.sampled_from(["bisected", "twice bisected", "same", "thirds", "inserted"]))
    if cells == "same":
        return coarse, coarse
    if cells == "bisected":
        return coarse, refine(coarse)
    if cells == "twice bisected":
        return coarse, refine(refine(coarse))
    fractions = np.array([1.0, 2.0]) / 3.0 if cells == "thirds" else _increasing_fractions(draw, 4)
    return coarse, _insert(coarse, fractions, draw(st.booleans()) or cells == "thirds")


@st.composite
def points(draw: DrawFn, knots: Knots, *, reach: float = 0.0, max_size: int = 20) -> FloatArray:
    """Draw points in the domain: anywhere, on breakpoints and at the ends.

    Parameters
    ----------
    knots : Knots
    reach : float
        Points lie up to this part of the domain's length outside.
    max_size : int
        Largest number of points.

    Returns
    -------
    SearchStrategy[ndarray]
        Of shape (N,), 0 <= N <= max_size.

    Examples
    --------
    >>> from hypothesis import given
    >>> from kanmg.splines import uniform_knots
    >>> @given(points(uniform_knots(2, degree=3, domain=(0, 1)), reach=0.5))
    ... def check(x):
    ...     assert ((x >= -0.5) & (x <= 1.5)).all()
    >>> check()
    """
    lower, upper = knots.domain
    margin = reach * (upper - lower)
    anywhere = st.floats(lower - margin, upper + margin)
    special = st.sampled_from(knots.breakpoints.tolist())
    return np.array(draw(st.lists(anywhere | special, max_size=max_size)), dtype=np.float64)


@st.composite
def coefficients(draw: DrawFn, knots: Knots) -> FloatArray:
    """Draw coefficients between -1 and 1, zeros and ones among them.

    Parameters
    ----------
    knots : Knots

    Returns
    -------
    SearchStrategy[ndarray]
        Of shape (num_basis,).

    Examples
    --------
    >>> from hypothesis import given
    >>> from kanmg.splines import uniform_knots
    >>> @given(coefficients(uniform_knots(2, degree=3)))
    ... def check(c):
    ...     assert c.shape == (5,) and abs(c).max() <= 1
    >>> check()
    """
    size = knots.num_basis
    numbers = st.sampled_from([0.0, 1.0, -1.0]) | st.floats(-1.0, 1.0, allow_subnormal=False)
    return np.array(draw(st.lists(numbers, min_size=size, max_size=size)))


_EQUAL_CELLS: dict[str, Callable[..., Knots]] = {"uniform": uniform_knots, "clamped": clamped_knots}


def _breakpoints(draw: DrawFn, num_intervals: int) -> FloatArray:
    lengths = draw(st.lists(st.floats(1.0, 10.0), min_size=num_intervals, max_size=num_intervals))
    lower, upper = draw(domains())
    ends = np.concatenate([[0.0], np.cumsum(lengths)])
    cells: FloatArray = lower + (upper - lower) * ends / ends[-1]
    return cells


def _increasing_fractions(draw: DrawFn, max_size: int) -> FloatArray:
    twentieths = st.integers(2, 18)
    return np.array(sorted(draw(st.sets(twentieths, min_size=1, max_size=max_size)))) / 20.0


def _insert(coarse: Knots, fractions: FloatArray, everywhere: bool) -> Knots:
    """Insert knots at the same fractions of every cell, or of the first inner cell only; exterior knots stay knots."""
    vector, degree = coarse.vector, coarse.degree
    cut = np.diff(vector) > 0
    if not everywhere:
        cut &= np.arange(cut.size) == degree
    inserted: Any = vector[:-1][cut][:, None] + np.diff(vector)[cut][:, None] * fractions
    full = np.sort(np.concatenate([vector, inserted.ravel()]))
    lower, upper = coarse.domain
    first = int(np.searchsorted(full, lower, side="right")) - 1
    last = int(np.searchsorted(full, upper, side="left"))
    return Knots(full[first - degree : last + degree + 1], degree)
