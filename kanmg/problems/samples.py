"""Samples of a function: a user's arrays, or rows of them, evaluated without copying more than one chunk."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kanmg.arrays import as_array, as_columns, check_finite, check_lengths, row_chunks
from kanmg.errors import DtypeError, KanmgValueError, ShapeError
from kanmg.vectors import Copies, is_tensor, to_device, zeros_like

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Iterator

    import torch

    from kanmg.evaluators.base import Array, Evaluator

__all__ = ["Chunk", "Samples", "check_same_dtype"]


# Entries of the rows that are copied at once on a device.
DEVICE_ENTRIES = 1 << 26


class Chunk(NamedTuple):
    """Consecutive samples: points, values, weights or None."""

    x: Array
    y: Array
    weights: Array | None


class Samples:
    """Points with values and weights: all rows of some arrays, or those that an index array names.

    Without an index the arrays go to the evaluator as they are; named rows are copied chunk by chunk while they are
    evaluated, and kept if all of them fit in one chunk. Nothing is checked here: see `from_user`.

    Parameters
    ----------
    x : ndarray, shape (N, d)
    y : ndarray, shape (N, Q)
    weights : ndarray, shape (N,), or None
    rows : ndarray of int, optional
    every : Samples, optional
        All rows of the same arrays: their copies on devices serve these too.

    Notes
    -----
    `on(device)` has the same samples as tensors, all arrays copied at once; what is said of arrays holds for these.
    """

    def __init__(
        self, x: Array, y: Array, weights: Array | None, rows: Array | None = None, every: Samples | None = None
    ) -> None:
        self.x = x
        self.y = y
        self.weights = weights
        self.rows = rows
        self._every = every
        self._there: Copies[torch.device, Samples] = Copies()

    @classmethod
    def from_user(cls, x: Any, y: Any, weights: Any = None, *, names: tuple[str, str] = ("x", "y")) -> Samples:
        """Check a user's arrays.

        Parameters
        ----------
        x : ndarray or Tensor, shape (N, d)
        y : ndarray or Tensor, shape (N,) or (N, Q)
        weights : ndarray or Tensor, shape (N,), optional
        names : (str, str), optional
            What error messages call `x` and `y`.

        Raises
        ------
        KanmgError
            If they are empty, not finite, of different lengths or dtypes, or the weights are negative.
        """
        points = as_columns(x, names[0])
        values = as_columns(y, names[1], allow_vector=True)
        checked = None if weights is None else _checked_weights(weights)
        check_lengths(**{names[0]: points, names[1]: values, "weights": checked})
        check_same_dtype(points, values, names)
        if checked is not None:
            check_same_dtype(points, checked, (names[0], "weights"))
        return cls(points, values, checked)

    def __len__(self) -> int:
        return len(self.x) if self.rows is None else len(self.rows)

    def take(self, positions: Array) -> Samples:
        """Name some of the samples by their positions among them."""
        rows = positions if self.rows is None else _take(self.rows, positions)
        return Samples(self.x, self.y, self.weights, rows, self._every or self)

    def on(self, device: torch.device | None) -> Samples:
        """Return the samples as tensors on a device, copied there once and kept with these; None: these.

        The copies do not see later changes of the arrays.
        """
        if device is None:
            return self
        if device not in self._there:
            every = self if self.rows is None or self._every is None else self._every.on(device)
            found: list[Any] = [every.x, every.y, every.weights, self.rows]
            x, y, weights, rows = (
                to_device(array, device) if isinstance(array, np.ndarray) else array for array in found
            )
            self._there[device] = Samples(x, y, weights, rows)
        return self._there[device]

    def with_values(self, y: Array) -> Samples:
        """Return the same samples with other values: one for each row of the arrays, named or not."""
        return Samples(self.x, y, self.weights, self.rows)

    def moments(self) -> tuple[npt.NDArray[np.float64], float]:
        """Return the weighted mean of every column of the values, and one standard deviation for all columns."""
        mean = np.zeros(self.y.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):
            for weights, y in self._weighted_values():
                mean += weights @ y
            mean /= self.total_weight
            variance = sum(float((weights @ (y - mean) ** 2).mean()) for weights, y in self._weighted_values())
            return mean, math.sqrt(variance / self.total_weight) if math.isfinite(variance) else math.inf

    def _weighted_values(self) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
        for rows in self._slices():
            y = self._gather(self.y, rows).astype(np.float64)
            weights = np.ones(len(y)) if self.weights is None else self._gather(self.weights, rows)
            yield weights.astype(np.float64), y

    @cached_property
    def total_weight(self) -> float:
        """Sum of the weights; the number of samples if there are none."""
        if self.weights is None:
            return float(len(self))
        return sum(float(np.sum(self._gather(self.weights, rows), dtype=np.float64)) for rows in self._slices())

    def squared_error(self, evaluator: Evaluator, theta: Array) -> tuple[float, Array]:
        """Sum the weighted squared errors; also their gradient."""
        if self._whole is not None:
            return evaluator.squared_error(theta, *self._whole)
        total, gradient = 0.0, zeros_like(theta)
        for chunk in self.chunks():
            part, part_gradient = evaluator.squared_error(theta, *chunk)
            total += part
            gradient += part_gradient
        return total, gradient

    def squared_error_value(self, evaluator: Evaluator, theta: Array) -> float:
        """Sum the weighted squared errors."""
        if self._whole is not None:
            return evaluator.squared_error_value(theta, *self._whole)
        return sum(evaluator.squared_error_value(theta, *chunk) for chunk in self.chunks())

    def chunks(self) -> Iterator[Chunk]:
        """Go through the samples, copying one chunk of named rows at a time."""
        for rows in self._slices():
            weights = None if self.weights is None else self._gather(self.weights, rows)
            yield Chunk(self._gather(self.x, rows), self._gather(self.y, rows), weights)

    def pieces(self) -> Iterator[Chunk]:
        """Go through the samples in as few pieces as can be had without copying more than one chunk at a time."""
        return self.chunks() if self._whole is None else iter((self._whole,))

    def update_digest(self, digest: hashlib._Hash) -> None:
        """Add shapes, dtypes and data to a hash, whatever the memory layout, chunk by chunk."""
        for array in (self.x, self.y, self.weights, self.rows):
            if array is None:
                digest.update(b"none")
                continue
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            for rows in row_chunks(len(array), array[0].size):
                digest.update(np.ascontiguousarray(array[rows]).data.cast("B"))

    @cached_property
    def _whole(self) -> Chunk | None:
        """All samples at once, if no more than one chunk has to be copied for that."""
        if self.rows is None:
            return Chunk(self.x, self.y, self.weights)
        return next(self.chunks()) if len(list(self._slices())) == 1 else None

    def _slices(self) -> Iterator[slice]:
        width = self.x.shape[1] + self.y.shape[1]
        return row_chunks(len(self), width, DEVICE_ENTRIES) if is_tensor(self.x) else row_chunks(len(self), width)

    def _gather(self, array: Array, rows: slice) -> Array:
        return array[rows] if self.rows is None else _take(array, self.rows[rows])


def _take(array: Any, rows: Any) -> Array:
    """Copy some rows of an array."""
    result: Array = np.take(array, rows, axis=0) if isinstance(array, np.ndarray) else array.index_select(0, rows)
    return result


def _checked_weights(weights: Any) -> Array:
    """Return weights as a finite, non-negative vector."""
    array = as_array(weights, "weights")
    if array.ndim != 1:
        raise ShapeError(
            f"`weights` has shape {array.shape} but one weight per sample is required, (N,). "
            "Write `weights.reshape(-1)`."
        )
    check_finite(array, "weights")
    negative = sum(int(np.count_nonzero(array[rows] < 0.0)) for rows in row_chunks(len(array), 1))
    if negative:
        raise KanmgValueError(
            f"`weights` contains {negative} negative value{'s' if negative > 1 else ''} (smallest {array.min():g}). "
            "Weights must not be negative; use 0 to leave a sample out."
        )
    return array


def check_same_dtype(x: Array, other: Array, names: tuple[str, str]) -> None:
    """Refuse data of two dtypes."""
    if x.dtype != other.dtype:
        raise DtypeError(
            f"`{names[1]}` is {other.dtype} but `{names[0]}` is {x.dtype}. Convert one of them, such as "
            f"`{names[1]}.astype('{x.dtype}')` in NumPy or `{names[1]}.to(torch.{x.dtype})` in torch."
        )
