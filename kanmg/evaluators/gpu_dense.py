"""The dense-product path of the GPU evaluator: rows of all basis functions, and cuBLAS, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch

from kanmg.arrays import resolve_dtype
from kanmg.evaluators.gpu import GPUEvaluator
from kanmg.evaluators.gpu_launch import Launch
from kanmg.evaluators.gpu_layout import device_layout
from kanmg.evaluators.gpu_source import MAX_THREADS, CallArguments
from kanmg.evaluators.plan import NUMBER, make_plan, move_knots
from kanmg.network import Affine, Network, Spline

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DenseGPUEvaluator", "GPUEvaluator", "dense_is_faster", "fastest_evaluator"]

# Entries of all basis matrices of a chunk of samples together.
_CHUNK_ENTRIES = 1 << 27

# Costs of a sample in picoseconds, forwards and backwards together, as measured on an H200 (docs/benchmarks.md):
# of a local coefficient of an edge in the fused kernels; of any coefficient there where the sums of gradients do not
# fit in shared memory; of a basis function in the dense path, and of a product of one with an output.
_LOCAL, _FAR, _FUNCTION, _PRODUCT = 5.0, 0.85, 16.0, 0.1

# The fused kernels take many small steps less: they are left only where the dense path should be so many times faster.
_MARGIN = 2.0

# Half the shared memory of a multiprocessor, less the jets.
_NEAR_BYTES = 100_000

_BLOCKS_PER_PROCESSOR = 16


def dense_is_faster(network: Network, itemsize: int = 8) -> bool:
    """Whether matrix products with all basis functions should beat sums over the local ones.

    Parameters
    ----------
    network : Network
    itemsize : int, default 8
        Bytes of a number.

    Examples
    --------
    >>> import kanmg
    >>> def wide(width, num_intervals):
    ...     knots = kanmg.uniform_knots(num_intervals, degree=3)
    ...     return kanmg.Network([kanmg.Spline(width, width, knots=knots)])
    >>> dense_is_faster(wide(64, 8)), dense_is_faster(wide(10, 8)), dense_is_faster(wide(10, 64))
    (True, False, False)
    """
    local = far = dense = 0.0
    for layer in network.layers:
        if isinstance(layer, Affine):
            continue
        edges, functions = layer.num_inputs * layer.num_outputs, layer.num_inputs * layer.num_basis
        local += _LOCAL * (layer.degree + 1) * edges
        far += _FAR * functions * layer.num_outputs
        dense += functions * (_FUNCTION + _PRODUCT * layer.num_outputs)
    is_near = network.num_coefficients * itemsize <= _NEAR_BYTES
    return _MARGIN * dense < (local if is_near else max(local, far))


def fastest_evaluator(network: Network, dtype: Any, device: Any = "cuda") -> GPUEvaluator:
    """Build the evaluator that should be faster for a network.

    Parameters
    ----------
    network : Network
    dtype : numpy.dtype or str
    device : str or torch.device, default "cuda"
    """
    is_dense = dense_is_faster(network, resolve_dtype(dtype).itemsize)
    kind = DenseGPUEvaluator if is_dense else GPUEvaluator
    return kind(network, dtype, device)


class DenseGPUEvaluator(GPUEvaluator):
    """Evaluate values, squared errors and adjoints by matrix products; everything else as `GPUEvaluator`.

    For wide layers. Arguments as `GPUEvaluator`. Products of float32 numbers are as precise as torch has been told
    (`torch.set_float32_matmul_precision`; by default in full).
    """

    name: ClassVar[str] = "cuda, dense"

    def __init__(self, network: Network, dtype: Any, device: Any = "cuda", **options: Any) -> None:
        super().__init__(network, dtype, device, **options)
        self._stages = [
            _AffineStage(layer) if isinstance(layer, Affine) else _SplineStage(layer, number, self)
            for number, layer in enumerate(network.layers, 1)
        ]
        self._row_size = sum(stage.row_size for stage in self._stages)

    def move_knots(self, network: Network) -> bool:
        for stage, layer in zip(self._stages, network.layers, strict=True):
            if isinstance(stage, _SplineStage) and move_knots(stage.plan, Network([layer])):
                stage.tables.copy_(torch.from_numpy(stage.plan.tables))
        return super().move_knots(network)

    def value(self, theta: Any, x: Any) -> Any:
        with self._memory():
            points, arrays = self._points(x), self._arrays(theta)
            result = self._empty(len(points), self.network.num_outputs)
            for rows in self._dense_rows(len(points)):
                result[rows] = self._forward(arrays, points[rows])[0]
            self._check_status()
            return self._returned(result, x)

    def adjoint(self, theta: Any, x: Any, cotangents: Any) -> tuple[Any, Any]:
        with self._memory():
            points, arrays = self._points(x), self._arrays(theta)
            seeds = self._array(cotangents, "cotangents", (len(points), self.network.num_outputs))
            gradient, point_gradients = self._zeros(self.network.num_coefficients), self._empty(*points.shape)
            for rows in self._dense_rows(len(points)):
                kept = self._forward(arrays, points[rows])[1]
                point_gradients[rows] = self._backward(arrays, kept, seeds[rows], gradient, wants_points=True)
            self._check_status()
            return self._returned(gradient, theta), self._returned(point_gradients, x)

    def squared_error(self, theta: Any, x: Any, y: Any, weights: Any = None) -> tuple[float, Any]:
        with self._memory():
            points, targets, arrays = self._points(x), self._targets(len(x), y, weights), self._arrays(theta)
            gradient = self._zeros(self.network.num_coefficients)
            loss = torch.zeros((), dtype=torch.float64, device=self.device)
            for rows in self._dense_rows(len(points)):
                values, kept = self._forward(arrays, points[rows])
                part, cotangents = _compare(values, rows, targets)
                loss += part
                self._backward(arrays, kept, cotangents, gradient, wants_points=False)
            self._check_status()
            return loss.item(), self._returned(gradient, theta)

    def squared_error_value(self, theta: Any, x: Any, y: Any, weights: Any = None) -> float:
        with self._memory():
            points, targets, arrays = self._points(x), self._targets(len(x), y, weights), self._arrays(theta)
            loss = torch.zeros((), dtype=torch.float64, device=self.device)
            for rows in self._dense_rows(len(points)):
                loss += _compare(self._forward(arrays, points[rows])[0], rows, targets)[0]
            self._check_status()
            return loss.item()

    def launch_on_pairs(self, kernel: str, stage: _SplineStage, x: torch.Tensor, **arrays: torch.Tensor) -> None:
        """Launch a kernel that treats every pair of a sample and an input of one layer.

        Parameters
        ----------
        kernel : {"fill_basis", "pull_basis"}
        stage : _SplineStage
        x : Tensor, shape (N, P)
        **arrays : Tensor
            What else the kernel reads and writes.
        """
        call = CallArguments(layers=stage.layers.data_ptr(), tables=stage.tables.data_ptr(), num_layers=1)
        call.x, call.samples, call.status = x.data_ptr(), len(x), self._status.data_ptr()
        call.row_stride = stage.num_basis
        for name, array in arrays.items():
            setattr(call, name, array.data_ptr())
        most = stage.kernels.limits.num_processors * _BLOCKS_PER_PROCESSOR
        blocks = min(-(-x.numel() // MAX_THREADS), most)
        if x.numel():
            stage.kernels.launch(call, Launch(kernel, 0, blocks, MAX_THREADS))

    def _arrays(self, theta: Any) -> list[torch.Tensor]:
        return self.network.unflatten(self._array(theta, "theta", (self.network.num_coefficients,)))

    def _dense_rows(self, num_samples: int) -> Iterator[slice]:
        step = max(1, min(self.chunk_size, _CHUNK_ENTRIES // self._row_size))
        return (slice(start, min(start + step, num_samples)) for start in range(0, num_samples, step))

    def _forward(self, arrays: list[torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, list[_Kept]]:
        """Compute values, and what the stages want to have on the way back."""
        values, kept = x, []
        for stage, array in zip(self._stages, arrays, strict=True):
            values, own = stage.forward(array, values)
            kept.append(own)
        return values, kept

    def _backward(
        self,
        arrays: list[torch.Tensor],
        kept: list[_Kept],
        cotangents: torch.Tensor,
        gradient: torch.Tensor,
        *,
        wants_points: bool,
    ) -> torch.Tensor:
        """Add to the gradient; returns the adjoints of the points if they are wanted."""
        gradients = self.network.unflatten(gradient)
        for number in range(len(self._stages) - 1, -1, -1):
            wants_inputs = wants_points or number > 0
            stage, own = self._stages[number], kept.pop()
            cotangents = stage.backward(arrays[number], own, cotangents, gradients[number], wants_inputs=wants_inputs)
        return cotangents


def _compare(values: torch.Tensor, rows: slice, targets: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted squared error, and its derivatives by the values."""
    errors = values - targets["targets"][rows]
    weighted = errors * targets["weights"][rows, None] if "weights" in targets else errors
    return (weighted * errors).sum(dtype=torch.float64), 2.0 * weighted


class _Kept(NamedTuple):
    """What a stage wants to have on the way back: its inputs and, of a spline layer, all basis functions there."""

    x: torch.Tensor
    basis: torch.Tensor | None = None


class _AffineStage:
    """An affine layer on chunks of samples."""

    def __init__(self, layer: Affine) -> None:
        self.num_inputs, self.row_size, self.has_bias = layer.num_inputs, layer.num_inputs, layer.bias

    def forward(self, array: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, _Kept]:
        result = x @ array[: self.num_inputs]
        return result + array[self.num_inputs] if self.has_bias else result, _Kept(x)

    def backward(
        self, array: torch.Tensor, kept: _Kept, cotangents: torch.Tensor, gradient: torch.Tensor, *, wants_inputs: bool
    ) -> torch.Tensor:
        gradient[: self.num_inputs] += kept.x.T @ cotangents
        if self.has_bias:
            gradient[self.num_inputs] += cotangents.sum(dim=0)
        return cotangents @ array[: self.num_inputs].T if wants_inputs else cotangents


class _SplineStage:
    """A spline layer on chunks of samples."""

    def __init__(self, layer: Spline, number: int, owner: DenseGPUEvaluator) -> None:
        network = Network([layer])
        self.plan = plan = make_plan(network, owner.dtype, grouped=False)
        self.owner, self.num_outputs = owner, layer.num_outputs
        self.num_basis = plan.num_coefficients // (layer.num_inputs * layer.num_outputs)
        self.row_size = 2 * layer.num_inputs * self.num_basis
        first = (self.num_basis - layer.num_basis) // 2  # functions before the user's, where the policy is `zero`
        self.own = slice(first, first + layer.num_basis)
        layers = device_layout(plan, network)[0]
        layers[0, NUMBER] = number
        self.layers, self.tables = (torch.from_numpy(part).to(owner.device) for part in (layers, plan.tables))
        self.kernels = owner.kernels_of_degree(len(plan.marker) - 1)

    def forward(self, array: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, _Kept]:
        x = x.contiguous()
        basis = torch.zeros(len(x), array.shape[0] * self.num_basis, dtype=x.dtype, device=x.device)
        self.owner.launch_on_pairs("fill_basis", self, x, values=basis)
        return basis @ self._rows(array), _Kept(x, basis)

    def backward(
        self, array: torch.Tensor, kept: _Kept, cotangents: torch.Tensor, gradient: torch.Tensor, *, wants_inputs: bool
    ) -> torch.Tensor:
        assert kept.basis is not None  # noqa: S101 - of a spline layer
        gradient += (kept.basis.T @ cotangents).reshape(len(array), self.num_basis, -1)[:, self.own]
        if not wants_inputs:
            return cotangents
        result, pulled = torch.empty_like(kept.x), cotangents @ self._rows(array).T
        self.owner.launch_on_pairs("pull_basis", self, kept.x, rows=pulled, values=result)
        return result

    def _rows(self, array: torch.Tensor) -> torch.Tensor:
        """Arrange the coefficients of all functions as a matrix; those of functions beyond the user's are zero."""
        if array.shape[1] < self.num_basis:
            before, after = self.own.start, self.num_basis - self.own.stop
            array = torch.nn.functional.pad(array, (0, 0, before, after))
        return array.reshape(-1, self.num_outputs)
