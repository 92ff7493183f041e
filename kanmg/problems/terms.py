"""Terms of a collocation problem: a residual, the points where it shall vanish, and weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from kanmg.arrays import Array, as_array, as_columns, check_finite, check_no_gradients
from kanmg.errors import DtypeError, KanmgError, KanmgTypeError, KanmgValueError, ShapeError

__all__ = ["Term", "checked_normals", "naming"]

Residual = Callable[..., torch.Tensor]


@dataclass(frozen=True, eq=False)
class Term:
    """A residual that shall vanish at points: an equation, an initial or boundary condition, or data.

    Parameters
    ----------
    name : str
        What errors and tables call it.
    residual : callable
        `residual(x, u, v, ...)`: the points, a tensor of shape (N, d), and one argument for each field. `u.value` is
        the field's value, `u.d("x")`, `u.d("x", "t")`, ... are derivatives, tensors of shape (N,). Returns a tensor of
        shape (N,), or (N, R) for R residuals at once. It must be a pointwise expression in torch, and ask for the same
        derivatives at every call. Tensors that it makes need `device=x.device` on a GPU. With `data` it has one more
        argument, the last: the rows that belong to the points.
    points : ndarray or Tensor, shape (N, d)
        float64 or float32. Not copied if contiguous; do not change them during a run.
    weight : float, default 1.0
        Factor of this term in the loss, not negative.
    point_weights : ndarray or Tensor, shape (N,), optional
        Weights of the points in the mean over them, such as those of a quadrature; not negative, not all zero.
    normals : ndarray or Tensor, shape (N, d), optional
        For points on an interface: from its side "-" to its side "+", of any length. Needed for `u.d("x", side="+")` if
        there are several coordinates.
    candidates : ndarray or Tensor, shape (M, d), optional
        Further points, from which a method may draw some where the residual is large, in the place of some of `points`;
        best several times as many. Of the dtype of `points`. Not together with `point_weights`, `normals` or `data`,
        which they do not have.
    data : ndarray or Tensor, shape (N,) or (N, K), optional
        Measured values, one row for each point, of the dtype of `points`. The residual gets those of its n points as a
        tensor of shape (n,) or (n, K): `lambda x, u, y: u.value - y`. A point may stand in `points` several times, with
        different values.

    Raises
    ------
    ShapeError
        If there are no points, or they are no matrix, or there is not one weight, normal or row of data for each; if
        candidates have another number of columns.
    NonFiniteError
        If there are NaN or infinite values in them.
    DtypeError
        If they are neither float64 nor float32, or of different dtypes.
    KanmgValueError, KanmgTypeError
        If a weight is negative, or the residual cannot be called; if there are candidates besides weights, normals or
        data of the points.

    See Also
    --------
    Collocation.redrawn : The same problem with some of the points drawn from the candidates.

    Examples
    --------
    >>> import numpy as np
    >>> import kanmg
    >>> kanmg.Term("initial", lambda x, u: u.value - torch.cos(x[:, 0]), np.zeros((5, 2)), weight=10.0)
    Term('initial', 5 points, weight=10.0)

    Three measurements, two of them at one point:

    >>> places, measured = np.array([[0.0], [0.5], [0.5]]), np.array([1.0, 0.6, 0.7])
    >>> kanmg.Term("samples", lambda x, u, y: u.value - y, places, data=measured)
    Term('samples', 3 points with data, weight=1.0)
    """

    name: str
    residual: Residual
    points: Array = field(repr=False)
    weight: float = 1.0
    point_weights: Array | None = field(default=None, repr=False)
    normals: Array | None = field(default=None, repr=False)
    candidates: Array | None = field(default=None, repr=False)
    data: Array | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise KanmgTypeError(f"`name={self.name!r}` of a term. Pass a string that says what it is, 'equation'.")
        with naming(self.name):
            if not callable(self.residual):
                raise KanmgTypeError(
                    f"`residual` is a {type(self.residual).__name__}. Pass a function `residual(x, u)` of the points "
                    "and the fields."
                )
            points = _shareable(as_columns(self.points, "points"))
            object.__setattr__(self, "points", points)
            object.__setattr__(self, "weight", _checked_weight(self.weight))
            if self.point_weights is not None:
                object.__setattr__(self, "point_weights", _checked_point_weights(self.point_weights, points))
            if self.normals is not None:
                object.__setattr__(self, "normals", checked_normals(self.normals, points))
            if self.data is not None:
                object.__setattr__(self, "data", _checked_data(self.data, points))
            if self.candidates is not None:
                self._check_alone("point_weights", self.point_weights)
                self._check_alone("normals", self.normals)
                self._check_alone("data", self.data)
                object.__setattr__(self, "candidates", _checked_candidates(self.candidates, points))

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        weighted = "" if self.point_weights is None else "weighted "
        candidates = "" if self.candidates is None else f"{len(self.candidates)} candidates, "
        data = "" if self.data is None else " with data"
        return f"Term({self.name!r}, {len(self)} {weighted}points{data}, {candidates}weight={self.weight})"

    @property
    def arrays(self) -> tuple[Array, ...]:
        """What the residual is called with beside the fields, row by row: the points, and the data if there are any."""
        return (self.points,) if self.data is None else (self.points, self.data)

    def take(self, rows: Array) -> Term:
        """Return the term on some of its points, with their weights, normals and data; candidates stay as they are.

        Parameters
        ----------
        rows : ndarray of int or bool
            Which points.
        """
        weights, normals, data = (
            None if array is None else array[rows] for array in (self.point_weights, self.normals, self.data)
        )
        return replace(self, points=self.points[rows], point_weights=weights, normals=normals, data=data)

    def _check_alone(self, name: str, array: Array | None) -> None:
        """Refuse candidates where points have something that candidates do not have."""
        if array is not None:
            raise KanmgValueError(
                f"`candidates` has no `{name}`, but `points` has. Leave out one of the two: candidates that are drawn "
                "take the places of points."
            )


@contextmanager
def naming(term: str) -> Iterator[None]:
    """Put the name of a term before the messages of errors."""
    try:
        yield
    except KanmgError as error:
        raise type(error)(f"term {term!r}: {error}") from error.__cause__


def checked_normals(normals: Any, points: Array) -> Array:
    """Return normals as unit vectors.

    Parameters
    ----------
    normals : ndarray or Tensor, shape (N, d)
        Of any length.
    points : ndarray, shape (N, d)

    Raises
    ------
    KanmgError
        If there is not one for each point, or one is zero or not finite.
    """
    array = as_columns(normals, "normals")
    if array.shape != points.shape:
        raise ShapeError(
            f"`normals` has shape {array.shape} but `points` {points.shape}. Pass one vector for each point, shape "
            f"{points.shape}."
        )
    lengths = np.linalg.norm(array.astype(np.float64), axis=1, keepdims=True)
    if not lengths.all():
        raise KanmgValueError(
            f"`normals` has {np.count_nonzero(lengths == 0.0)} rows of zeros. Pass vectors of any length."
        )
    return np.asarray(array / lengths)


def _checked_candidates(candidates: Any, points: Array) -> Array:
    array = as_columns(candidates, "candidates")
    if array.shape[1] != points.shape[1]:
        raise ShapeError(
            f"`candidates` has shape {array.shape} but `points` {points.shape}. Pass points of shape (M, "
            f"{points.shape[1]})."
        )
    if array.dtype != points.dtype:
        raise DtypeError(
            f"`candidates` is {array.dtype} but `points` is {points.dtype}. Write "
            f"`candidates.astype('{points.dtype}')`."
        )
    return _shareable(array)


def _checked_data(data: Any, points: Array) -> Array:
    check_no_gradients(data, "data")
    array = as_array(data, "data")
    if array.ndim not in (1, 2) or len(array) != len(points) or array.size == 0:
        raise ShapeError(
            f"`data` has shape {array.shape} but there are {len(points)} points. Pass one row for each, shape "
            f"({len(points)},), or ({len(points)}, K) for K numbers at every point."
        )
    if array.dtype != points.dtype:
        raise DtypeError(
            f"`data` is {array.dtype} but `points` is {points.dtype}. Write `data.astype('{points.dtype}')`."
        )
    check_finite(array, "data")
    return _shareable(array)


def _shareable(array: Array) -> Array:
    """Return an array that torch can share: contiguous and writable."""
    return np.require(array, requirements=["C", "W"])


def _checked_weight(weight: Any) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float | np.number):
        raise KanmgTypeError(f"`weight={weight!r}` is a {type(weight).__name__}. Pass a number, such as 1.0.")
    if not (math.isfinite(weight) and weight >= 0.0):
        raise KanmgValueError(f"`weight={weight}` is negative or not finite. Pass a number that is not, such as 1.0.")
    return float(weight)


def _checked_point_weights(weights: Any, points: Array) -> Array:
    array = as_array(weights, "point_weights")
    if array.shape != (len(points),):
        raise ShapeError(
            f"`point_weights` has shape {array.shape} but there are {len(points)} points. Pass one weight for each, "
            f"shape ({len(points)},)."
        )
    if array.dtype != points.dtype:
        raise DtypeError(
            f"`point_weights` is {array.dtype} but `points` is {points.dtype}. Write "
            f"`point_weights.astype('{points.dtype}')`."
        )
    check_finite(array, "point_weights")
    negative = int(np.count_nonzero(array < 0.0))
    if negative:
        raise KanmgValueError(
            f"`point_weights` contains {negative} negative value{'s' if negative > 1 else ''} (smallest "
            f"{array.min():g}). Weights must not be negative; use 0 to leave a point out."
        )
    if not array.any():
        raise KanmgValueError("`point_weights` are all 0. At least one must be positive.")
    return _shareable(array)
