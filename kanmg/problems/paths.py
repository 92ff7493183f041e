"""Derivatives of functions of the coordinates along straight lines, and jets of a network through them."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kanmg.arrays import row_chunks
from kanmg.errors import DtypeError, KanmgTypeError, KanmgValueError, NonFiniteError, ShapeError
from kanmg.evaluators.base import Jet
from kanmg.problems.scalars import looking_up
from kanmg.vectors import copied, to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kanmg.evaluators.base import Array, Evaluator
    from kanmg.problems.scalars import Scalar

__all__ = ["Function", "Lines", "Paths", "called"]

Function = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Paths:
    """Points as a network sees them, directions through them, and what is to be done with its jets.

    Attributes
    ----------
    inputs : ndarray, shape (N, P)
        Of the network.
    directions : ndarray, shape (D, P) or (D, N, P)
    curvatures : ndarray, shape (D, N, P), or None
    offsets, factors : dict of int to Jet
        Values, shape (N,), and derivatives, shape (D, N), of g and h, by the numbers of the fields that have them.
    """

    inputs: Array
    directions: Array
    curvatures: Array | None = None
    offsets: Mapping[int, Jet] = field(default_factory=dict)
    factors: Mapping[int, Jet] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of the evaluator's methods: none for straight lines, which any evaluator knows."""
        return {} if self.curvatures is None else {"curvatures": self.curvatures}

    def rows(self, rows: slice) -> Paths:
        """Return the paths through some of the points."""
        return Paths(
            self.inputs[rows],
            self.directions if self.directions.ndim == 2 else self.directions[:, rows],
            None if self.curvatures is None else self.curvatures[:, rows],
            {q: _rows(jet, rows) for q, jet in self.offsets.items()},
            {q: _rows(jet, rows) for q, jet in self.factors.items()},
        )

    def on(self, device: torch.device | None) -> Paths:
        """Return the paths as tensors on a device; None: these."""
        if device is None:
            return self
        curvatures = None if self.curvatures is None else to_device(self.curvatures, device)
        offsets, factors = (
            {q: _changed(jet, lambda array: to_device(array, device)) for q, jet in jets.items()}
            for jets in (self.offsets, self.factors)
        )
        return Paths(to_device(self.inputs, device), to_device(self.directions, device), curvatures, offsets, factors)

    def sample(self, num_points: int) -> list[Array]:
        """Return all arrays at a few of the points, for a fingerprint."""
        few = self.rows(slice(None, None, max(1, len(self.inputs) // num_points)))
        jets = [*few.offsets.values(), *few.factors.values()]
        curvatures = () if few.curvatures is None else (few.curvatures,)
        parts = [array for jet in jets for array in (jet.value, *jet.derivatives)]
        return [few.inputs, few.directions, *curvatures, *parts]

    def jet(self, evaluator: Evaluator, theta: Array, order: int) -> Jet:
        """Evaluate the fields and their derivatives along the paths."""
        jet = evaluator.jet(theta, self.inputs, self.directions, order, **self.options)
        if not (self.offsets or self.factors):
            return jet
        parts = [copied(part) for part in (jet.value, *jet.derivatives)]
        for q in self.offsets.keys() | self.factors.keys():
            own = [copied(part[..., q]) for part in parts]
            for r, part in enumerate(parts):
                part[..., q] = self._field(q, own, r)
        return Jet(parts[0], tuple(parts[1:]))

    def network_cotangents(self, cotangents: Jet) -> Jet:
        """Turn cotangents of the fields' jets into cotangents of the network's: `jet` transposed."""
        if not self.factors:
            return cotangents
        parts = [copied(part) for part in (cotangents.value, *cotangents.derivatives)]
        for q, factor in self.factors.items():
            own = [copied(part[..., q]) for part in parts]
            values = (factor.value, *factor.derivatives)
            for j, part in enumerate(parts):
                part[..., q] = own[j] * factor.value
                for r in range(j + 1, len(parts)):
                    products = math.comb(r, j) * values[r - j] * own[r]
                    part[..., q] += products if j else products.sum(axis=0)
        return Jet(parts[0], tuple(parts[1:]))

    def _field(self, q: int, network: Sequence[Array], r: int) -> Array:
        """Differentiate g + h N: the r-th derivative from those of the network."""
        result = network[r]
        if q in self.factors:
            values = (self.factors[q].value, *self.factors[q].derivatives)
            products = [math.comb(r, j) * values[r - j] * network[j] for j in range(r + 1)]
            result = functools.reduce(operator.add, products)
        if q in self.offsets:
            result = result + (self.offsets[q].value, *self.offsets[q].derivatives)[r]
        return result


class Lines:
    """Straight lines through points, along which functions of the coordinates are differentiated in float64.

    Parameters
    ----------
    points : ndarray, shape (N, d)
    directions : ndarray, shape (D, d)
    order : int
    sides : sequence of {"", "+", "-"}, length D
    normals : ndarray, shape (N, d), or None
        Unit vectors to where side "+" lies.
    step : float
        Derivatives on one side are taken at so large a distance from the points.
    """

    def __init__(
        self,
        points: Array,
        directions: Array,
        order: int,
        sides: Sequence[str],
        normals: Array | None,
        step: float,
    ) -> None:
        self._points, self._directions, self._order = points, directions, order
        self._sides, self._normals, self._step = sides, normals, step

    def jet(self, function: Function, name: str, num_axes: int) -> Jet:
        """Evaluate a function at the points and its derivatives along the lines, chunk by chunk."""
        num_points = len(self._points)
        size = self._points.shape[1] * (1 + self._order) ** 2
        chunks = list(row_chunks(num_points, size)) or [slice(0, 0)]
        parts = [self._chunk(function, name, num_axes, rows) for rows in chunks]
        joined = [np.concatenate(own, axis=min(1, r)) for r, own in enumerate(zip(*parts, strict=True))]
        for r, array in enumerate(joined):
            self._check_finite(array, f"{name}" if not r else f"the derivative of order {r} of {name}", min(1, r))
        value, *derivatives = (array.astype(self._points.dtype) for array in joined)
        return Jet(value, tuple(derivatives))

    def _chunk(self, function: Function, name: str, num_axes: int, rows: slice) -> list[Array]:
        """Evaluate a function and its derivatives at some of the points: orders 0, 1, ..."""
        points = torch.from_numpy(self._points[rows].astype(np.float64))
        with torch.no_grad():
            value = called(function, name, points, num_axes)
        shape = (len(self._directions), *value.shape)
        result = [value.numpy()] + [np.zeros(shape) for _ in range(self._order)]
        for d, (direction, side) in enumerate(zip(self._directions, self._sides, strict=True)):
            line = torch.from_numpy(direction.astype(np.float64))
            if side and self._normals is not None:
                step = self._step if side == "+" else -self._step
                away = torch.from_numpy(self._normals[rows].astype(np.float64)) * step
                near, far = (_along(function, name, points + n * away, line, self._order, num_axes) for n in (1.0, 2.0))
                own = [2.0 * a - b for a, b in zip(near, far, strict=True)]
            else:
                own = _along(function, name, points, line, self._order, num_axes)
            for r, derivative in enumerate(own):
                result[r + 1][d] = derivative.numpy()
        return result

    def _check_finite(self, array: Array, what: str, axis: int) -> None:
        """Refuse numbers that are not finite, and tell where they are."""
        rows = np.isfinite(np.moveaxis(array, axis, 0)).reshape(
            len(self._points), math.prod(array.shape) // max(1, len(self._points))
        )
        finite: Array = np.all(rows, axis=1)
        if not finite.all():
            first = int(np.argmin(finite))
            raise NonFiniteError(
                f"{what} is NaN or infinite at {np.count_nonzero(~finite)} of {len(finite)} points (the first is row "
                f"{first}: {self._points[first].tolist()}). Write it so that it has finite derivatives there, or leave "
                "out these points."
            )


def _along(
    function: Function, name: str, points: torch.Tensor, direction: torch.Tensor, order: int, num_axes: int
) -> list[torch.Tensor]:
    """Differentiate a function along a line through every point: the derivatives of orders 1 to `order`."""
    if not order:
        return []
    derivatives = []
    with torch.enable_grad():
        s = torch.zeros(len(points), dtype=points.dtype, requires_grad=True)
        result = called(function, name, points + s[:, None] * direction, num_axes)
        columns = list(result.reshape(len(points), math.prod(result.shape[1:])).unbind(dim=1))
        for _ in range(order):
            columns = [_by_line(column, s) for column in columns]
            derivatives.append(torch.stack(columns, dim=1).reshape(result.shape).detach())
    return derivatives


def _by_line(column: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """Differentiate each entry of a vector by its own entry of s."""
    if not column.requires_grad:
        return torch.zeros_like(s, requires_grad=False)
    (derivative,) = torch.autograd.grad(column.sum(), s, create_graph=True, allow_unused=True)
    return torch.zeros_like(s, requires_grad=False) if derivative is None else derivative


def called(function: Function, name: str, x: torch.Tensor, num_axes: int) -> torch.Tensor:
    """Call a function of the coordinates, and refuse a result of another kind.

    Parameters
    ----------
    function : callable
    name : str
        What errors call it.
    x : Tensor of float64, shape (N, d)
    num_axes : {1, 2}
        Of the result, whose shape shall be (N,) or (N, P).

    Raises
    ------
    KanmgError
    """
    try:
        with looking_up(functools.partial(_refuse_scalar, name)):
            result: Any = function(x)
    except Exception as error:
        error.add_note(
            f"{name} was called with `x` of shape {tuple(x.shape)} and dtype float64, some of the points. It must be a "
            "pointwise expression in torch that takes any number of them."
        )
        raise
    required = "(N, P), one column for each input of the network" if num_axes == 2 else "(N,), one number per point"
    if not isinstance(result, torch.Tensor):
        raise KanmgTypeError(f"{name} returned a {type(result).__name__}. It must return a tensor of shape {required}.")
    if result.ndim != num_axes or len(result) != len(x) or 0 in result.shape[1:]:
        stacked = " Write `torch.stack([...], dim=1)`." if num_axes == 2 else ""
        raise ShapeError(
            f"{name} returned shape {tuple(result.shape)} for {len(x)} points. It must return {required}.{stacked}"
        )
    if result.dtype != x.dtype:
        raise DtypeError(
            f"{name} returned {result.dtype} for coordinates of {x.dtype}. Make the tensors in it with `dtype=x.dtype`."
        )
    return result


def _refuse_scalar(name: str, scalar: Scalar) -> torch.Tensor:
    raise KanmgValueError(
        f"{name} uses {scalar!r}, but it is differentiated once, before a run. Write a plain number there; constants "
        "and parameters are for residuals."
    )


def _changed(jet: Jet, change: Callable[[Array], Array]) -> Jet:
    return Jet(change(jet.value), tuple(map(change, jet.derivatives)))


def _rows(jet: Jet, rows: slice) -> Jet:
    return Jet(jet.value[rows], tuple(derivative[:, rows] for derivative in jet.derivatives))
