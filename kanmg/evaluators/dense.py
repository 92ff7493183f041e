"""The dense-product path of the CPU evaluator: basis matrices and matrix products, layer by layer."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from kanmg.arrays import row_chunks
from kanmg.evaluators import kernels
from kanmg.evaluators.cpu import CPUEvaluator
from kanmg.evaluators.dense_kernels import make_dense_basis
from kanmg.evaluators.plan import NUMBER, make_plan, move_knots
from kanmg.evaluators.tasks import Task, compiled, num_parts, owners_of_locks
from kanmg.network import Affine, Network, Spline

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array

__all__ = ["DenseCPUEvaluator", "dense_is_faster", "fastest_evaluator"]

# Entries of the largest basis matrix of a chunk: a few megabytes, so that it is still in cache when it is multiplied.
_CHUNK_ENTRIES = 1 << 20

# Bytes. Vector instructions of matrix products treat unaligned ends apart, in another order of summation.
_ALIGNMENT = 64

# Costs in nanoseconds on one thread in float64 (in float32 about half of each), fitted to what benchmarks/dense.py
# prints: of a multiply-add in a local sum and in a matrix product, and of an entry of the basis matrix, which is
# written and read again.
_LOCAL_MULTIPLY_ADD = 0.17
_DENSE_MULTIPLY_ADD = 0.06
_DENSE_ENTRY = 8.0

# Products gain less from more threads than the fused kernels, and meet at barriers: ask for a clear gain.
_CLEAR_GAIN = 0.6


def dense_is_faster(network: Network) -> bool:
    """Whether matrix products with all basis functions beat sums over the local ones.

    Products do more arithmetic, (n + k) / (k + 1) times as much, but at several times the rate once the layers are
    wide.
    """
    local = dense = 0.0
    for number, layer in enumerate(network.layers):
        if isinstance(layer, Affine):
            continue
        sweeps = 2 if number == 0 else 3
        local += sweeps * layer.num_inputs * (layer.degree + 1) * layer.num_outputs * _LOCAL_MULTIPLY_ADD
        functions = layer.num_inputs * layer.num_basis
        dense += functions * (sweeps * layer.num_outputs * _DENSE_MULTIPLY_ADD + _DENSE_ENTRY)
    return dense < _CLEAR_GAIN * local


def fastest_evaluator(network: Network, dtype: Any) -> CPUEvaluator:
    """Build the compiled evaluator that should be faster for a network."""
    return DenseCPUEvaluator(network, dtype) if dense_is_faster(network) else CPUEvaluator(network, dtype)


class DenseCPUEvaluator(CPUEvaluator):
    """Evaluate values, squared errors and adjoints by matrix products; everything else as `CPUEvaluator`.

    For wide layers with few cells. All basis functions of a chunk of samples, zeros included, stand in a matrix, which
    torch multiplies with the coefficients.

    Parameters
    ----------
    network : Network
    dtype : numpy.dtype or str
    """

    name: ClassVar[str] = "cpu, dense"

    def __init__(self, network: Network, dtype: Any) -> None:
        super().__init__(network, dtype)
        self._stages = [_stage(layer, number, self.dtype) for number, layer in enumerate(network.layers, 1)]
        self._row_size = max(stage.row_size for stage in self._stages)
        # One Python thread at a time: the stages keep their basis matrices for the way back.
        self._lock = threading.Lock()
        owners_of_locks.add(self)

    def forget_threads(self) -> None:
        """Let go of what threads of the parent process held."""
        self._lock = threading.Lock()

    def move_knots(self, network: Network) -> bool:
        with self._lock:
            for stage, layer in zip(self._stages, network.layers, strict=True):
                if isinstance(stage, _SplineStage):
                    move_knots(stage.plan, Network([layer]))
            return super().move_knots(network)

    def value(self, theta: Array, x: Array) -> Array:
        theta, x = self._coefficients(theta), self._points(x)
        result = np.empty((len(x), self._num_outputs), self.dtype)
        with self._lock:
            for rows in self._chunks(x):
                result[rows] = self._forward(theta, x[rows])[-1]
        return result

    def squared_error(self, theta: Array, x: Array, y: Array, weights: Array | None = None) -> tuple[float, Array]:
        theta, x = self._coefficients(theta), self._points(x)
        y = self._checked(y, "y", (len(x), self._num_outputs))
        loss, gradient = 0.0, np.zeros(self._num_coefficients, self.dtype)
        with self._lock:
            for rows in self._chunks(x):
                values = self._forward(theta, x[rows])
                part, cotangents = _squared_error(values[-1], y[rows], self._weights(weights, rows, len(x)))
                loss += part
                self._backward(theta, values, cotangents, gradient, want_points=False)
        return loss, gradient

    def squared_error_value(self, theta: Array, x: Array, y: Array, weights: Array | None = None) -> float:
        theta, x = self._coefficients(theta), self._points(x)
        y = self._checked(y, "y", (len(x), self._num_outputs))
        loss = 0.0
        with self._lock:
            for rows in self._chunks(x):
                values = self._forward(theta, x[rows])[-1]
                loss += _squared_error(values, y[rows], self._weights(weights, rows, len(x)))[0]
        return loss

    def adjoint(self, theta: Array, x: Array, cotangents: Array) -> tuple[Array, Array]:
        theta, x = self._coefficients(theta), self._points(x)
        cotangents = self._checked(cotangents, "cotangents", (len(x), self._num_outputs))
        gradient, point_gradients = np.zeros(self._num_coefficients, self.dtype), np.empty_like(x)
        with self._lock:
            for rows in self._chunks(x):
                values = self._forward(theta, x[rows])
                right = np.ascontiguousarray(cotangents[rows])
                point_gradients[rows] = self._backward(theta, values, right, gradient, want_points=True)
        return gradient, point_gradients

    def _chunks(self, x: Array) -> Any:
        return row_chunks(len(x), self._row_size, _CHUNK_ENTRIES)

    def _weights(self, weights: Array | None, rows: slice, num_samples: int) -> Array | None:
        return None if weights is None else self._checked(weights, "weights", (num_samples,))[rows, None]

    def _arrays(self, theta: Array) -> list[Array]:
        return self.network.unflatten(np.ascontiguousarray(theta))

    def _forward(self, theta: Array, x: Array) -> list[Array]:
        """Values before the first and after every layer."""
        values = [np.ascontiguousarray(x)]
        for stage, coefficients in zip(self._stages, self._arrays(theta), strict=True):
            values.append(stage.forward(coefficients, values[-1]))
        return values

    def _backward(
        self, theta: Array, values: list[Array], cotangents: Array, gradient: Array, *, want_points: bool
    ) -> Array:
        """Add to the gradient; returns the adjoints of the points if they are wanted."""
        arrays, gradients = self._arrays(theta), self.network.unflatten(gradient)
        for number in range(len(self._stages) - 1, -1, -1):
            want_inputs = want_points or number > 0
            cotangents = self._stages[number].backward(
                arrays[number], values[number], cotangents, gradients[number], want_inputs=want_inputs
            )
        return cotangents


def _squared_error(values: Array, y: Array, weights: Array | None) -> tuple[float, Array]:
    residuals = values - y
    weighted = residuals if weights is None else weights * residuals
    return float(np.vdot(weighted, residuals)), 2.0 * weighted


def _stage(layer: Affine | Spline, number: int, dtype: np.dtype[Any]) -> _AffineStage | _SplineStage:
    return _AffineStage(layer) if isinstance(layer, Affine) else _SplineStage(layer, number, dtype)


class _AffineStage:
    """An affine layer on arrays of samples."""

    def __init__(self, layer: Affine) -> None:
        self.num_inputs, self.row_size = layer.num_inputs, layer.num_inputs
        self.has_bias = layer.shape[0] > layer.num_inputs

    def forward(self, coefficients: Array, x: Array) -> Array:
        result = _product(x, coefficients[: self.num_inputs])
        return result + coefficients[self.num_inputs] if self.has_bias else result

    def backward(
        self, coefficients: Array, x: Array, cotangents: Array, gradient: Array, *, want_inputs: bool
    ) -> Array:
        gradient[: self.num_inputs] += _product(x.T, cotangents)
        if self.has_bias:
            gradient[self.num_inputs] += cotangents.sum(axis=0)
        return _product(cotangents, coefficients[: self.num_inputs].T) if want_inputs else cotangents


class _SplineStage:
    """A spline layer on arrays of samples. The last basis matrices are kept for the way back."""

    def __init__(self, layer: Spline, number: int, dtype: np.dtype[Any]) -> None:
        self.layer, self.dtype = layer, dtype
        self.plan = make_plan(Network([layer]), dtype, grouped=False)
        self.plan.layers[0, NUMBER] = number  # what errors call it
        self.padded_shape = (layer.num_inputs, self.plan.num_coefficients // (layer.num_inputs * layer.num_outputs))
        self.row_size = self.padded_shape[0] * self.padded_shape[1]
        self.task = Task(self.plan, dtype)
        self.basis = np.zeros((0, self.row_size), dtype)

    def forward(self, coefficients: Array, x: Array) -> Array:
        if self.basis.shape[0] < len(x):
            self.basis = _aligned((len(x), self.row_size), self.dtype)
        self._run(x, {kernels.VALUES: self.basis})
        return _product(self.basis[: len(x)], self._padded(coefficients))

    def backward(
        self, coefficients: Array, x: Array, cotangents: Array, gradient: Array, *, want_inputs: bool
    ) -> Array:
        flat = _product(self.basis[: len(x)].T, cotangents).ravel()
        gradient += (flat if self.plan.padding is None else self.plan.padding.compress(flat)).reshape(gradient.shape)
        if not want_inputs:
            return cotangents
        inputs = np.empty_like(x)
        pulled = np.ascontiguousarray(_product(cotangents, self._padded(coefficients).T))
        self._run(x, {kernels.COTANGENTS: pulled, kernels.POINT_GRADIENTS: inputs})
        return inputs

    def _padded(self, coefficients: Array) -> Array:
        padding = self.plan.padding
        flat = coefficients.ravel() if padding is None else padding.pad(coefficients.ravel())
        return flat.reshape(self.row_size, self.layer.num_outputs)

    def _run(self, x: Array, fields: dict[int, Array]) -> None:
        kernel, task = compiled(make_dense_basis, "basis functions", len(self.plan.marker), self.dtype), self.task
        with task.lock:
            task.fill(x, fields, num_parts(len(x) * self.row_size * 4, 0))
            task.run(kernel)
            if self.layer.outside == "error":
                task.check_status()


def _product(a: Array, b: Array) -> Array:
    """Matrix product on as many threads as the user has set; NumPy knows nothing of that."""
    product: Array = torch.mm(_tensor(a), _tensor(b)).numpy()
    return product


def _tensor(array: Array) -> torch.Tensor:
    """View a matrix, or the transpose of one, as a tensor in the one form that leaves the product's rounding alone.

    It would depend on the address, and on what the strides of a single row or column happen to say.
    """
    if not array.flags.c_contiguous and array.flags.f_contiguous:
        return _tensor(array.T).T
    array = np.ascontiguousarray(array)
    if not array.flags.writeable or array.__array_interface__["data"][0] % _ALIGNMENT:
        copy = _aligned(array.shape, array.dtype)
        copy[...] = array
        array = copy
    return torch.from_numpy(array.reshape(-1)).view(array.shape)


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Allocate an array at an address that torch's allocator aligns."""
    array: Array = torch.empty(shape, dtype=getattr(torch, dtype.name)).numpy()
    return array
