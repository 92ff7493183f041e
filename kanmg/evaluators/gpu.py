"""The GPU evaluator: fused CUDA kernels, launched through CuPy on torch's memory and stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from kanmg.arrays import resolve_dtype, row_chunks
from kanmg.devices import resolve_device
from kanmg.errors import DeviceError, KanmgValueError
from kanmg.evaluators.base import Jet
from kanmg.evaluators.cost import gradient_cost, value_cost
from kanmg.evaluators.gpu_arguments import DeviceEvaluator, groups, on_host, own_seeds
from kanmg.evaluators.gpu_launch import cuda_kernels, geometry, merge_blocks
from kanmg.evaluators.gpu_source import FIELDS, MERGE_GROUPS
from kanmg.evaluators.plan import INPUT_SLOT, INPUTS, make_plan
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.network import Spline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kanmg.evaluators.gpu_launch import Geometry, Kernels
    from kanmg.network import Network

__all__ = ["GPUEvaluator"]

# Samples of one launch, and entries of a dense Jacobian that is multiplied at once.
_CHUNK_SIZE = 1 << 22
_JACOBIAN_ENTRIES = 1 << 28

_MERGE_THREADS = 128
_NAMES = tuple(name for _, name in FIELDS)
_TYPE_NAMES = {"float64": "double", "float32": "float"}


class GPUEvaluator(DeviceEvaluator):
    """Evaluate a network with CUDA kernels compiled by CuPy.

    Arguments may be tensors or CuPy arrays on the evaluator's device, or NumPy arrays, which are copied there. Results
    with one row per point are tensors on the device where `x` is, gradients and Gauss-Newton systems where `theta` is;
    NumPy arrays otherwise. Kernels run on torch's current stream. Derivatives of orders above 2 come from a
    `ReferenceEvaluator` on the same device.

    Parameters
    ----------
    network : Network
    dtype : numpy.dtype or str
        float64 or float32.
    device : str or torch.device, default "cuda"
    deterministic : bool, default True
        The same bits on every call; else sums of gradients in any order, by atomic operations.
    chunk_size : int, optional
        Samples that are on the way at a time: lower it when the device's memory is too small.

    Raises
    ------
    DeviceError
        If the device cannot be used.
    """

    name: ClassVar[str] = "cuda"

    def __init__(
        self,
        network: Network,
        dtype: Any,
        device: Any = "cuda",
        *,
        deterministic: bool = True,
        chunk_size: int = _CHUNK_SIZE,
    ) -> None:
        super().__init__(network, resolve_dtype(dtype))
        if chunk_size < 1:
            raise KanmgValueError(f"`chunk_size` is {chunk_size}. It must be at least 1; {_CHUNK_SIZE} is the default.")
        self.deterministic, self.chunk_size = deterministic, chunk_size
        self.device = torch.device(self._resolved(device))
        plan = make_plan(network, self.dtype, grouped=False)
        layers = plan.layers.copy()
        layers[:, INPUT_SLOT] = np.cumsum(layers[:, INPUTS]) - layers[:, INPUTS]
        self._width = sum(network.widths)
        self._degree, self._size = len(plan.marker) - 1, plan.num_coefficients
        self._layers, self._tables = (
            torch.from_numpy(layers).to(self.device),
            torch.from_numpy(plan.tables).to(self.device),
        )
        positions = None if plan.padding is None else plan.padding.positions
        self._positions = None if positions is None else torch.from_numpy(positions).to(self.device)
        self._kernels = self.kernels_of_degree(self._degree)
        self._costs = value_cost(network), gradient_cost(network)
        self._may_fail = any(isinstance(layer, Spline) and layer.outside == "error" for layer in network.layers)
        self._status = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._reference = ReferenceEvaluator(network, self.dtype, self.device)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.network, self.dtype, str(self.device), self.deterministic, self.chunk_size)

    def value(self, theta: Any, x: Any) -> Any:
        return self.jet(theta, x, np.zeros((0, self.network.num_inputs), self.dtype), 0).value

    def jet(self, theta: Any, x: Any, directions: Any, order: int, *, curvatures: Any = None) -> Jet:
        if order > 2:
            jet: Jet = self._by_reference("jet", theta, x, directions, order, curvatures)
            return jet
        with self._memory():
            points, paths = self._points(x), self._paths(len(x), directions, curvatures)
            coefficients, num_paths = self._coefficients(theta), len(paths[0])
            value = self._empty(len(points), self.network.num_outputs)
            derivatives = [self._empty(num_paths, *value.shape) for _ in range(order)]
            for rows, group in self._parts(len(points), num_paths, order):
                outputs = [part[group, rows].contiguous() for part in derivatives]
                call = self._call(coefficients, points[rows], paths, rows, group, order)
                call |= {"values": value[rows]} | dict(zip(("first", "second"), outputs, strict=False))
                self._sweep("evaluate", call)
                for part, output in zip(derivatives, outputs, strict=True):
                    part[group, rows] = output
            self._check_status()
            return Jet(self._returned(value, x), tuple(self._returned(part, x) for part in derivatives))

    def adjoint(self, theta: Any, x: Any, cotangents: Any) -> tuple[Any, Any]:
        with self._memory():
            points, coefficients = self._points(x), self._coefficients(theta)
            seeds = self._array(cotangents, "cotangents", (len(points), self.network.num_outputs))
            gradient, point_gradients = self._zeros(self._size), self._empty(*points.shape)
            for rows in self._rows(len(points)):
                call = self._call(coefficients, points[rows])
                call |= {"cotangents": seeds[rows], "point_gradients": point_gradients[rows]}
                gradient += self._gradient(call)[1]
            self._check_status()
            return self._returned(self._compressed(gradient), theta), self._returned(point_gradients, x)

    def jet_adjoint(self, theta: Any, x: Any, directions: Any, cotangents: Jet, *, curvatures: Any = None) -> Any:
        order = len(cotangents.derivatives)
        if order > 2:
            return self._by_reference("jet_adjoint", theta, x, directions, cotangents, curvatures)
        with self._memory():
            points, paths = self._points(x), self._paths(len(x), directions, curvatures)
            coefficients, gradient = self._coefficients(theta), self._zeros(self._size)
            seeds = self._seeds(len(paths[0]), len(points), cotangents)
            for rows, group in self._parts(len(points), len(paths[0]), order):
                call = self._call(coefficients, points[rows], paths, rows, group, order)
                gradient += self._gradient(call | own_seeds(seeds, rows, group))[1]
            self._check_status()
            return self._returned(self._compressed(gradient), theta)

    def jet_jacobian(self, theta: Any, x: Any, directions: Any, cotangents: Jet, *, curvatures: Any = None) -> Any:
        order = len(cotangents.derivatives)
        if order > 2:
            return self._by_reference("jet_jacobian", theta, x, directions, cotangents, curvatures)
        with self._memory():
            points, paths = self._points(x), self._paths(len(x), directions, curvatures)
            seeds = self._seeds(len(paths[0]), len(points), cotangents)
            rows = self._jacobian_rows(self._coefficients(theta), points, paths, order, seeds)
            self._check_status()
            return self._returned(self._compressed(rows), x)

    def squared_error(self, theta: Any, x: Any, y: Any, weights: Any = None) -> tuple[float, Any]:
        with self._memory():
            points, targets, coefficients = (
                self._points(x),
                self._targets(len(x), y, weights),
                self._coefficients(theta),
            )
            loss, gradient = 0.0, self._zeros(self._size)
            for rows in self._rows(len(points)):
                call = self._call(coefficients, points[rows]) | {name: part[rows] for name, part in targets.items()}
                part, own = self._gradient(call)
                loss, gradient = loss + part.item(), gradient + own
            self._check_status()
            return loss, self._returned(self._compressed(gradient), theta)

    def squared_error_value(self, theta: Any, x: Any, y: Any, weights: Any = None) -> float:
        with self._memory():
            points, targets, coefficients = (
                self._points(x),
                self._targets(len(x), y, weights),
                self._coefficients(theta),
            )
            loss = 0.0
            for rows in self._rows(len(points)):
                call = self._call(coefficients, points[rows]) | {name: part[rows] for name, part in targets.items()}
                loss += self._sweep("evaluate", call, wants_losses=True)[1].item()
            self._check_status()
            return loss

    def jacobian(self, theta: Any, x: Any) -> Any:
        with self._memory():
            points, coefficients = self._points(x), self._coefficients(theta)
            units = torch.eye(self.network.num_outputs, dtype=coefficients.dtype, device=self.device)
            result = self._zeros(len(points), self.network.num_outputs, self._size)
            for q, unit in enumerate(units):
                for rows in self._rows(len(points)):
                    call = self._call(coefficients, points[rows]) | {"rows": result[rows][:, q]}
                    call |= {"cotangents": unit.expand(rows.stop - rows.start, -1).contiguous()}
                    self._sweep("differentiate_rows", call | {"row_stride": result[0].numel()})
            self._check_status()
            return self._returned(self._compressed(result), x)

    def jvp(self, theta: Any, x: Any, direction: Any) -> Any:
        with self._memory():
            points, coefficients = self._points(x), self._coefficients(theta)
            tangent = self._padded(self._array(direction, "direction", (self.network.num_coefficients,)))
            result = self._empty(len(points), self.network.num_outputs)
            for rows in self._rows(len(points)):
                call = self._call(coefficients, points[rows]) | {"tangent": tangent, "first": result[rows]}
                self._sweep("push_forward", call | {"directions": 1, "order": 1})
            self._check_status()
            return self._returned(result, x)

    def gauss_newton(self, theta: Any, x: Any, residuals: Any, weights: Any = None) -> tuple[Any, Any]:
        num_outputs = self.network.num_outputs
        right = self._array(residuals, "residuals", (len(x), num_outputs))
        scale = torch.ones(len(x), dtype=right.dtype, device=self.device)
        if weights is not None:
            scale = self._array(weights, "weights", (len(x),)).sqrt()
        units = scale[:, None, None] * torch.eye(num_outputs, dtype=right.dtype, device=self.device)
        cotangents = [Jet(unit, ()) for unit in _columns(units)]
        none = np.zeros((0, self.network.num_inputs), self.dtype)
        return self.jet_gauss_newton(theta, x, none, cotangents, scale[:, None] * right)

    def jet_gauss_newton(
        self, theta: Any, x: Any, directions: Any, cotangents: Sequence[Jet], residuals: Any, *, curvatures: Any = None
    ) -> tuple[Any, Any]:
        if any(len(jet.derivatives) > 2 for jet in cotangents):
            # Arguments in another order: the dense rows come from the method above.
            return super().jet_gauss_newton(theta, x, directions, cotangents, residuals, curvatures=curvatures)
        with self._memory():
            points, paths = self._points(x), self._paths(len(x), directions, curvatures)
            right = self._array(residuals, "residuals", (len(points), len(cotangents)))
            coefficients, size = self._coefficients(theta), self.network.num_coefficients
            seeds = [self._seeds(len(paths[0]), len(points), jet) for jet in cotangents]
            matrix, vector = self._zeros(size, size), self._zeros(size)
            for rows in self._rows(len(points), self._size):
                for own, column in zip(seeds, right.T, strict=True):
                    cut = [seed[..., rows, :] for seed in own]
                    lines = tuple(None if part is None else part[:, rows] if part.ndim == 3 else part for part in paths)
                    part = self._jacobian_rows(coefficients, points[rows], lines, len(own) - 1, cut)
                    tall = self._compressed(part)
                    matrix.addmm_(tall.T, tall)
                    vector.addmv_(tall.T, column[rows])
            self._check_status()
            return self._returned(matrix, theta), self._returned(vector, theta)

    @property
    def cost_per_sample(self) -> float:
        return self._costs[1]

    @property
    def value_cost_per_sample(self) -> float:
        return self._costs[0]

    # ------------------------------------------------------------------------------------------------------- launches

    def _resolved(self, device: Any) -> str:
        """Check the device."""
        name = resolve_device(device)
        if name == "cpu":
            raise DeviceError("`GPUEvaluator` got `device='cpu'`. Use `device='cuda'`, or a `CPUEvaluator`.")
        return name

    def kernels_of_degree(self, degree: int) -> Kernels:
        """Return the kernels of this device and dtype for splines of a degree."""
        return cuda_kernels(self.device.index, _TYPE_NAMES[self.dtype.name], degree)

    def _by_reference(self, method: str, theta: Any, x: Any, directions: Any, last: Any, curvatures: Any) -> Any:
        """Compute what the kernels do not: derivatives of orders above 2. Results are NumPy arrays."""
        if isinstance(last, Jet):
            last = Jet(on_host(last.value), tuple(map(on_host, last.derivatives)))
        arguments = (*map(on_host, (theta, x, directions)), last)
        return getattr(self._reference, method)(*arguments, curvatures=on_host(curvatures))

    def _jacobian_rows(
        self, coefficients: torch.Tensor, points: torch.Tensor, paths: Any, order: int, seeds: list[torch.Tensor]
    ) -> torch.Tensor:
        """Compute the gradient of every sample's own sum: shape (N, padded coefficients)."""
        result = None
        # The rows of one group of directions are written, not added.
        for group in groups(len(paths[0]), order):
            own = self._zeros(len(points), self._size)
            for rows in self._rows(len(points)):
                call = self._call(coefficients, points[rows], paths, rows, group, order)
                call |= own_seeds(seeds, rows, group) | {"rows": own[rows], "row_stride": self._size}
                self._sweep("differentiate_rows", call)
            result = own if result is None else result.add_(own)
        assert result is not None  # noqa: S101 - there is always one group
        return result

    def _gradient(self, call: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the kernel of gradients and add the blocks' sums in their order; returns loss and gradient."""
        shape, losses, partials = self._sweep("differentiate", call, wants_losses=True, wants_gradient=True)
        gradient, columns = self._empty(self._size), _MERGE_THREADS // MERGE_GROUPS
        merged = {"partials": partials, "losses": losses, "values": gradient}
        merged |= {"num_coefficients": self._size, "num_partials": shape.blocks}
        blocks = merge_blocks(self._size, columns)
        self._launch("merge", 0, (blocks, _MERGE_THREADS, 8 * _MERGE_THREADS), merged)
        return losses[-1], gradient

    def _sweep(
        self, kernel: str, call: dict[str, Any], *, wants_losses: bool = False, wants_gradient: bool = False
    ) -> Any:
        """Launch a kernel that takes samples through the network; returns its geometry, losses and partial sums."""
        num_samples, order = len(call["x"]), call.get("order", 0)
        entries = self._width * (1 + call.get("directions", 0) * order)
        functions = (3 if order else 1) * (self._degree + 1)
        shape: Geometry = geometry(
            self._kernels.limits,
            num_samples=num_samples,
            entries=entries,
            functions=functions * wants_gradient,
            num_coefficients=self._size * wants_gradient,
            itemsize=self.dtype.itemsize,
        )
        partials = self._empty(shape.blocks, self._size) if wants_gradient else None
        losses = None
        if wants_losses:
            losses = torch.zeros(shape.blocks + 1, dtype=torch.float64, device=self.device)
        call |= {"layers": self._layers, "tables": self._tables, "status": self._status}
        call |= {"num_layers": len(self._layers), "num_coefficients": self._size, "samples": num_samples}
        call |= {"entries": entries, "staged": shape.staged, "gradient_is_shared": int(shape.gradient_is_shared)}
        call |= {"atomic": int(not self.deterministic), "losses": losses, "partials": partials}
        call["scratch"] = self._empty(shape.scratch_entries) if shape.scratch_entries else None
        self._launch(kernel, order, (shape.blocks, shape.threads, shape.shared_bytes), call)
        if wants_losses and not wants_gradient:
            losses = losses.sum()[None] if losses is not None else losses
            return shape, losses
        return shape, losses, partials

    def _launch(self, kernel: str, order: int, shape: tuple[int, int, int], call: dict[str, Any]) -> None:
        """Pass addresses and numbers in the order of the kernels' parameters."""
        self._kernels.launch(kernel, order, *shape, self._arguments(call))

    @staticmethod
    def _arguments(call: dict[str, Any]) -> list[int]:
        fields = (call.get(name, 0) for name in _NAMES)
        return [field.data_ptr() if isinstance(field, torch.Tensor) else int(field or 0) for field in fields]

    def _call(
        self,
        coefficients: torch.Tensor,
        points: torch.Tensor,
        paths: tuple[torch.Tensor, torch.Tensor | None] | None = None,
        rows: slice = slice(None),
        group: slice = slice(0),
        order: int = 0,
    ) -> dict[str, Any]:
        """List what a sweep over some samples along some directions reads."""
        call: dict[str, Any] = {"theta": coefficients, "x": points}
        if paths is None or order == 0:
            return call
        lines, bends = paths
        call["own_lines" if lines.ndim == 3 else "lines"] = (
            lines[group, rows].contiguous() if lines.ndim == 3 else lines[group]
        )
        call["curvatures"] = None if bends is None else bends[group, rows].contiguous()
        return call | {"directions": group.stop - group.start, "order": order}

    def _rows(self, num_samples: int, row_size: int = 0) -> Iterator[slice]:
        """Cut the samples into chunks; with `row_size`, so that their dense rows stay bounded."""
        return row_chunks(num_samples, 1, min(self.chunk_size, max(1, _JACOBIAN_ENTRIES // max(1, row_size))))

    def _parts(self, num_samples: int, num_paths: int, order: int) -> list[tuple[slice, slice]]:
        """Cut samples and directions."""
        return [(rows, group) for rows in self._rows(num_samples) for group in groups(num_paths, order)]


def _rebuilt(
    kind: type[GPUEvaluator], network: Network, dtype: Any, device: str, deterministic: bool, chunk_size: int
) -> GPUEvaluator:
    """Copy and unpickle an evaluator."""
    return kind(network, dtype, device, deterministic=deterministic, chunk_size=chunk_size)


def _columns(units: torch.Tensor) -> Iterator[Any]:
    """Yield the cotangents of every output."""
    return (units[:, q] for q in range(units.shape[1]))
