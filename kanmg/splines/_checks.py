"""Checks of what users pass to the splines rooms; each returns the value in the form used inside."""

from __future__ import annotations

import operator
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from kanmg.errors import KanmgTypeError, KanmgValueError, NonFiniteError, ShapeError

FloatArray = npt.NDArray[np.float64]

MAX_INTERVALS = 2**28
"""Largest number of cells: their ends take 2 GB."""

MAX_DEGREE = 9
"""Largest degree supported; beyond it B-spline coefficients are too ill-conditioned for float64."""


def checked_integer(value: SupportsIndex, name: str) -> int:
    """Return an integer; no bool and no float is one."""
    try:
        return _index(value)
    except TypeError:
        raise KanmgTypeError(
            f"`{name}` is {value!r} of type `{type(value).__name__}`. An integer is required: `{name}=3`, for example."
        ) from None


def _index(value: SupportsIndex) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def checked_degree(degree: SupportsIndex) -> int:
    """Return a degree from 1 to `MAX_DEGREE`."""
    number = checked_integer(degree, "degree")
    if not 1 <= number <= MAX_DEGREE:
        raise KanmgValueError(
            f"`degree` is {number}. Splines of degree 1 to {MAX_DEGREE} are supported; "
            "`degree=3` (cubic) is customary, 5 for smooth functions. (The degree is the order minus one.)"
        )
    return number


def checked_num_intervals(num_intervals: SupportsIndex) -> int:
    """Return a number of cells, at least 1."""
    number = checked_integer(num_intervals, "num_intervals")
    if number < 1:
        raise KanmgValueError(
            f"`num_intervals` is {number}. At least 1 cell is required: `num_intervals=5`, for example."
        )
    if number > MAX_INTERVALS:
        raise KanmgValueError(
            f"`num_intervals` is {number}, more than {MAX_INTERVALS}: the knots alone would take "
            f"{8e-9 * number:.2g} GB. Use fewer cells: `num_intervals=5` on the coarsest level, for example."
        )
    return number


def checked_domain(domain: tuple[float, float]) -> tuple[float, float]:
    """Return the two ends of an interval, the lower one first."""
    ends = checked_numbers(domain, "domain")
    if ends.size != 2:
        raise ShapeError(
            f"`domain` has {ends.size} entries. Its two ends are required: `domain=(-1.0, 1.0)`, for example."
        )
    lower, upper = float(ends[0]), float(ends[1])
    if lower >= upper:
        remedy = f"`domain=({upper}, {lower})`" if lower > upper else "`domain=(-1.0, 1.0)`, for example"
        raise KanmgValueError(
            f"`domain` is ({lower}, {upper}). Its first end must be smaller than its second end. Write {remedy}."
        )
    return lower, upper


def checked_numbers(values: npt.ArrayLike, name: str) -> FloatArray:
    """Return a one-dimensional float64 copy of finite numbers."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise KanmgTypeError(f"`{name}` is {values!r}. A sequence of real numbers is required.") from None
    if array.ndim != 1:
        raise ShapeError(
            f"`{name}` has shape {array.shape}. A one-dimensional array is required: pass `numpy.ravel(...)`."
        )
    if not np.isfinite(array).all():
        index = int(np.flatnonzero(~np.isfinite(array))[0])
        raise NonFiniteError(
            f"`{name}` contains {array[index]} at index {index}. Finite numbers are required: remove or replace it."
        )
    # Minus zero equals zero but has other bytes, and the bytes are hashed.
    normalised: FloatArray = array + 0.0
    return normalised


def checked_points(x: npt.ArrayLike) -> FloatArray:
    """Return points as a float64 array of shape (N,)."""
    try:
        points = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError):
        raise KanmgTypeError(f"`x` is {x!r}. A one-dimensional array of real numbers is required.") from None
    if points.ndim != 1:
        raise ShapeError(f"`x` has shape {points.shape}. Pass points of shape (N,), for example `x.ravel()`.")
    return points


def checked_derivative(derivative: SupportsIndex) -> int:
    """Return the order of a derivative, at least 0."""
    order = checked_integer(derivative, "derivative")
    if order < 0:
        raise KanmgValueError(f"`derivative` is {order}. Write 0 for the value, 1 for the first derivative, and so on.")
    return order
