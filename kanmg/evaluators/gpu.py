"""The GPU evaluator: fused CUDA kernels, launched through CuPy on torch's memory and stream."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from kanmg.arrays import resolve_dtype, row_chunks
from kanmg.devices import resolve_device
from kanmg.errors import DeviceError, KanmgValueError
from kanmg.evaluators.base import Jet
from kanmg.evaluators.cost import gradient_cost, value_cost
from kanmg.evaluators.gpu_arguments import DeviceEvaluator, Paths, address, groups, on_host
from kanmg.evaluators.gpu_launch import Launch, cuda_kernels
from kanmg.evaluators.gpu_layout import device_layout
from kanmg.evaluators.gpu_source import VARIANTS, CallArguments, Variant
from kanmg.evaluators.gpu_sweep import Sweep, plan_sweep
from kanmg.evaluators.plan import make_plan, move_knots
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.network import Spline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kanmg.evaluators.gpu_launch import Kernels
    from kanmg.network import Network

__all__ = ["GPUEvaluator"]

# Samples of one launch, and entries of a dense Jacobian that is multiplied at once.
_CHUNK_SIZE = 1 << 22
_JACOBIAN_ENTRIES = 1 << 28

# Columns of the blocks of a normal matrix.
_GRAM_COLUMNS = 512

_TYPE_NAMES = {"float64": "double", "float32": "float"}


class GPUEvaluator(DeviceEvaluator):
    """Evaluate a network with CUDA kernels compiled by CuPy.

    Arguments may be tensors or CuPy arrays on the evaluator's device, or NumPy arrays, which are copied there. Results
    with one row per point are tensors on the device where `x` is, gradients and Gauss-Newton systems where `theta` is;
    NumPy arrays otherwise. Derivatives of orders above 2 come from a `ReferenceEvaluator` on the same device. Kernels
    run on torch's current stream; a CuPy array must live until that has come to the end of the call.

    Parameters
    ----------
    network : Network
    dtype : numpy.dtype or str
        float64 or float32.
    device : str or torch.device, default "cuda"
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
        chunk_size: int = _CHUNK_SIZE,
    ) -> None:
        super().__init__(network, resolve_dtype(dtype))
        if chunk_size < 1:
            raise KanmgValueError(f"`chunk_size` is {chunk_size}. It must be at least 1; {_CHUNK_SIZE} is the default.")
        self.chunk_size = chunk_size
        self.device = torch.device(self._resolved(device))
        self._plan = make_plan(network, self.dtype, grouped=False)
        self._layers, order, places = device_layout(self._plan, network)
        self._degree, self._size = len(self._plan.marker) - 1, len(order)
        self._tables, self._order, self._places = (
            torch.from_numpy(array).to(self.device) for array in (self._plan.tables, order, places)
        )
        self._costs = value_cost(network), gradient_cost(network)
        self._may_fail = any(isinstance(layer, Spline) and layer.outside == "error" for layer in network.layers)
        self._status = torch.zeros(1, dtype=torch.int64).to(self.device)
        self._sweeps: dict[tuple[str, int], Sweep] = {}
        self._template = CallArguments(
            tables=self._tables.data_ptr(),
            order=self._order.data_ptr(),
            places=self._places.data_ptr(),
            status=self._status.data_ptr(),
            num_layers=len(self._layers),
            num_coefficients=self._size,
            num_places=network.num_coefficients,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.network, self.dtype, str(self.device), self.chunk_size)

    def value(self, theta: Any, x: Any) -> Any:
        with self._memory():
            points, coefficients = self._points(x), self._coefficients(theta)
            result = self._empty(len(points), self.network.num_outputs)
            for rows in self._rows(len(points)):
                call = self._call(points, rows)
                call.values = address(result, rows.start)
                self._sweep("evaluate", call, coefficients)
            self._check_status()
            return self._returned(result, x)

    def jet(self, theta: Any, x: Any, directions: Any, order: int, *, curvatures: Any = None) -> Jet:
        if order > 2:
            jet: Jet = self._by_reference("jet", theta, x, directions, order, curvatures)
            return jet
        with self._memory():
            points, paths = self._points(x), self._paths(len(x), directions, curvatures)
            coefficients = self._coefficients(theta)
            value = self._empty(len(points), self.network.num_outputs)
            derivatives = [self._empty(paths.number, *value.shape) for _ in range(order)]
            for rows, group in self._parts(len(points), paths.number, order):
                call = self._call(points, rows, paths, group, order)
                call.values = address(value, rows.start)
                for name, derivative in zip(("first", "second"), derivatives, strict=False):
                    setattr(call, name, derivative[group, rows].data_ptr())
                self._sweep("evaluate", call, coefficients, directions=group.stop - group.start)
            self._check_status()
            return Jet(self._returned(value, x), tuple(self._returned(part, x) for part in derivatives))

    def adjoint(self, theta: Any, x: Any, cotangents: Any) -> tuple[Any, Any]:
        with self._memory():
            points, coefficients = self._points(x), self._coefficients(theta)
            seeds = self._array(cotangents, "cotangents", (len(points), self.network.num_outputs))
            gradient, point_gradients = None, self._empty(*points.shape)
            for rows in self._rows(len(points)):
                call = self._call(points, rows)
                call.cotangents, call.point_gradients = address(seeds, rows.start), address(point_gradients, rows.start)
                gradient = self._gradient(call, coefficients, gradient)[1]
            self._check_status()
            return self._returned(self._or_zeros(gradient), theta), self._returned(point_gradients, x)

    def jet_adjoint(self, theta: Any, x: Any, directions: Any, cotangents: Jet, *, curvatures: Any = None) -> Any:
        order = len(cotangents.derivatives)
        if order > 2:
            return self._by_reference("jet_adjoint", theta, x, directions, cotangents, curvatures)
        with self._memory():
            points, paths = self._points(x), self._paths(len(x), directions, curvatures)
            coefficients, gradient = self._coefficients(theta), None
            seeds = self._seeds(paths.number, len(points), cotangents)
            for rows, group in self._parts(len(points), paths.number, order):
                call = self._call(points, rows, paths, group, order)
                _seed(call, seeds, rows, group)
                gradient = self._gradient(call, coefficients, gradient, directions=group.stop - group.start)[1]
            self._check_status()
            return self._returned(self._or_zeros(gradient), theta)

    def jet_jacobian(self, theta: Any, x: Any, directions: Any, cotangents: Jet, *, curvatures: Any = None) -> Any:
        order = len(cotangents.derivatives)
        if order > 2:
            return self._by_reference("jet_jacobian", theta, x, directions, cotangents, curvatures)
        with self._memory():
            points, paths = self._points(x), self._paths(len(x), directions, curvatures)
            seeds = self._seeds(paths.number, len(points), cotangents)
            rows = self._jacobian_rows(self._coefficients(theta), points, paths, order, seeds, slice(0, len(points)))
            self._check_status()
            return self._returned(rows, x)

    def squared_error(self, theta: Any, x: Any, y: Any, weights: Any = None) -> tuple[float, Any]:
        with self._memory():
            points, targets = self._points(x), self._targets(len(x), y, weights)
            coefficients = self._coefficients(theta)
            loss, gradient = 0.0, None
            for rows in self._rows(len(points)):
                call = self._call(points, rows)
                _compare(call, targets, rows)
                part, gradient = self._gradient(call, coefficients, gradient)
                loss += part.item()
            self._check_status()
            return loss, self._returned(self._or_zeros(gradient), theta)

    def squared_error_value(self, theta: Any, x: Any, y: Any, weights: Any = None) -> float:
        with self._memory():
            points, targets = self._points(x), self._targets(len(x), y, weights)
            coefficients = self._coefficients(theta)
            loss = 0.0
            for rows in self._rows(len(points)):
                call = self._call(points, rows)
                _compare(call, targets, rows)
                sweep = self._sweep_of("evaluate", 0)
                losses = torch.empty(sweep.blocks(call.samples), dtype=torch.float64, device=self.device)
                call.losses = losses.data_ptr()
                self._start(sweep, call, coefficients)
                loss += losses.sum().item()
            self._check_status()
            return loss

    def jacobian(self, theta: Any, x: Any) -> Any:
        with self._memory():
            points, coefficients = self._points(x), self._coefficients(theta)
            units = torch.eye(self.network.num_outputs, dtype=coefficients.dtype, device=self.device)
            result = self._zeros(len(points), self.network.num_outputs, len(coefficients))
            for q, unit in enumerate(units):
                for rows in self._rows(len(points)):
                    call = self._call(points, rows)
                    seeds = unit.expand(rows.stop - rows.start, -1).contiguous()
                    call.rows, call.row_stride = result[rows][:, q].data_ptr(), result[0].numel()
                    call.cotangents = seeds.data_ptr()
                    self._sweep("differentiate_rows", call, coefficients)
            self._check_status()
            return self._returned(result, x)

    def jvp(self, theta: Any, x: Any, direction: Any) -> Any:
        with self._memory():
            points, coefficients = self._points(x), self._coefficients(theta)
            tangent = self._ordered(self._array(direction, "direction", (self.network.num_coefficients,)))
            result = self._empty(len(points), self.network.num_outputs)
            for rows in self._rows(len(points)):
                call = self._call(points, rows)
                call.tangent, call.first = tangent.data_ptr(), address(result, rows.start)
                self._sweep("push_forward", call, coefficients, directions=1)
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
            # The dense rows come from `jet_jacobian`.
            own_theta, own_x, lines, right, bends = map(on_host, (theta, x, directions, residuals, curvatures))
            jets = list(map(on_host, cotangents))
            found = super().jet_gauss_newton(own_theta, own_x, lines, jets, right, curvatures=bends)
            return self._from_host(found[0], theta), self._from_host(found[1], theta)
        with self._memory():
            points, paths = self._points(x), self._paths(len(x), directions, curvatures)
            right = self._array(residuals, "residuals", (len(points), len(cotangents)))
            coefficients, size = self._coefficients(theta), self.network.num_coefficients
            seeds = [self._seeds(paths.number, len(points), jet) for jet in cotangents]
            matrix, vector = self._zeros(size, size), self._zeros(size)
            for rows in self._rows(len(points), size):
                for own, column in zip(seeds, right.T, strict=True):
                    tall = self._jacobian_rows(coefficients, points, paths, len(own) - 1, own, rows)
                    _add_gram(matrix, tall)
                    vector.addmv_(tall.T, column[rows])
            self._check_status()
            _mirror(matrix)
            return self._returned(matrix, theta), self._returned(vector, theta)

    def move_knots(self, network: Network) -> bool:
        if not move_knots(self._plan, network):
            return False
        self.network = network
        self._tables.copy_(torch.from_numpy(self._plan.tables))
        self.__dict__.pop("_reference", None)
        return True

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

    def kernels_of_degree(self, degree: int, variant: Variant = VARIANTS[0]) -> Kernels:
        """Return the kernels of this device and dtype for splines of a degree."""
        return cuda_kernels(self.device.index, _TYPE_NAMES[self.dtype.name], degree, variant)

    @cached_property
    def _reference(self) -> ReferenceEvaluator:
        return ReferenceEvaluator(self.network, self.dtype, self.device)

    def _by_reference(self, method: str, theta: Any, x: Any, directions: Any, last: Any, curvatures: Any) -> Any:
        """Compute what the kernels do not: derivatives of orders above 2."""
        arguments = map(on_host, (theta, x, directions, last))
        result = getattr(self._reference, method)(*arguments, curvatures=on_host(curvatures))
        return self._from_host(result, theta if method == "jet_adjoint" else x)

    def _jacobian_rows(
        self, coefficients: torch.Tensor, points: torch.Tensor, paths: Paths, order: int, seeds: Any, chosen: slice
    ) -> torch.Tensor:
        """Compute the gradient of every chosen sample's own sum: shape (N, padded coefficients)."""
        result = None
        # The rows of one group of directions are written, not added.
        for group in groups(paths.number, order):
            own = self._zeros(chosen.stop - chosen.start, len(coefficients))
            for part in self._rows(len(own)):
                rows = slice(chosen.start + part.start, chosen.start + part.stop)
                call = self._call(points, rows, paths, group, order)
                _seed(call, seeds, rows, group)
                call.rows, call.row_stride = address(own, part.start), len(coefficients)
                self._sweep("differentiate_rows", call, coefficients, directions=group.stop - group.start)
            result = own if result is None else result.add_(own)
        assert result is not None  # noqa: S101 - there is always one group
        return result

    def _gradient(
        self, call: CallArguments, theta: torch.Tensor, before: torch.Tensor | None, directions: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum losses and gradients of the samples, the blocks' sums in their order; add the gradient before."""
        sweep = self._sweep_of("differentiate", directions)
        # The blocks' losses, their sum, the blocks' gradients: one piece of memory, because asking for it takes time.
        blocks = sweep.blocks(call.samples)
        num_losses = blocks + 1
        room = num_losses + -(-blocks * self._size * self.dtype.itemsize // 8)
        work = torch.empty(room, dtype=torch.float64, device=self.device)
        gradient = self._empty(self.network.num_coefficients)
        call.losses = work.data_ptr()
        call.partials, call.num_partials, call.values = call.losses + 8 * num_losses, blocks, gradient.data_ptr()
        self._start(sweep, call, theta)
        return work[blocks], gradient if before is None else before.add_(gradient)

    def _sweep(self, kernel: str, call: CallArguments, theta: torch.Tensor, *, directions: int = 0) -> None:
        """Launch a kernel that takes samples through the network."""
        self._start(self._sweep_of(kernel, directions), call, theta)

    def _start(self, sweep: Sweep, call: CallArguments, theta: torch.Tensor) -> None:
        """Launch a kernel whose memory is chosen, and what is to follow."""
        shape, blocks = sweep.shape, sweep.blocks(call.samples)
        call.layers, call.num_sums, call.entries = sweep.layers.data_ptr(), sweep.num_sums, sweep.slots
        call.scratch_size, call.order_bytes = shape.scratch_size, sweep.order_bytes
        if not shape.variant.theta_is_shared:
            theta = self._ordered(theta)
        call.theta = theta.data_ptr()
        if shape.scratch_size:
            scratch = self._empty(blocks * shape.scratch_size)
            call.scratch = scratch.data_ptr()
        launch = Launch(sweep.kernel, sweep.directions, blocks, shape.threads, shape.shared_bytes)
        sweep.kernels.launch(call, launch, *sweep.further)

    def _sweep_of(self, kernel: str, directions: int) -> Sweep:
        """Choose the tile, the memory and the number of blocks of a kernel, once."""
        key = kernel, directions
        if key not in self._sweeps:
            self._sweeps[key] = plan_sweep(
                *key,
                self._layers,
                degree=self._degree,
                num_coefficients=self.network.num_coefficients,
                dtype=self.dtype,
                device=self.device,
                kernels_of=partial(self.kernels_of_degree, self._degree),
            )
        return self._sweeps[key]

    def _call(
        self,
        points: torch.Tensor,
        rows: slice,
        paths: Paths | None = None,
        group: slice = slice(0),
        order: int = 0,
    ) -> CallArguments:
        """List what a sweep over some samples along some directions reads."""
        call = CallArguments.from_buffer_copy(self._template)
        call.x = address(points, rows.start)
        call.samples, call.all_samples = rows.stop - rows.start, len(points)
        if paths is not None and group.stop > group.start:
            if paths.lines.ndim == 3:
                call.own_lines = paths.lines[group, rows].data_ptr()
            else:
                call.lines = paths.lines[group].data_ptr()
            if paths.curvatures is not None and order == 2:
                call.curvatures = paths.curvatures[group, rows].data_ptr()
        return call

    def _rows(self, num_samples: int, row_size: int = 0) -> Iterator[slice]:
        """Cut the samples into chunks; with `row_size`, so that their dense rows stay bounded."""
        return row_chunks(num_samples, 1, min(self.chunk_size, max(1, _JACOBIAN_ENTRIES // max(1, row_size))))

    def _parts(self, num_samples: int, num_paths: int, order: int) -> list[tuple[slice, slice]]:
        """Cut samples and directions."""
        return [(rows, group) for rows in self._rows(num_samples) for group in groups(num_paths, order)]


def _add_gram(matrix: torch.Tensor, tall: torch.Tensor) -> None:
    """Add the products of the columns of `tall` to a matrix, but for the blocks below the diagonal.

    With n blocks of columns, these are (n + 1) / 2n of the multiply-adds of the whole product.
    """
    for own in _columns_of(matrix):
        matrix[own, own.start :].addmm_(tall[:, own].T, tall[:, own.start :])


def _mirror(matrix: torch.Tensor) -> None:
    """Fill the blocks below the diagonal."""
    for own in _columns_of(matrix):
        matrix[own.stop :, own] = matrix[own, own.stop :].T


def _columns_of(matrix: torch.Tensor) -> list[slice]:
    """Cut a square matrix into blocks of columns."""
    size = len(matrix)
    step = -(-size // max(1, round(size / _GRAM_COLUMNS)))
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def _rebuilt(kind: type[GPUEvaluator], network: Network, dtype: Any, device: str, chunk_size: int) -> GPUEvaluator:
    """Copy and unpickle an evaluator."""
    return kind(network, dtype, device, chunk_size=chunk_size)


def _compare(call: CallArguments, targets: dict[str, torch.Tensor], rows: slice) -> None:
    """Let a sweep compare values with some rows of the targets."""
    for name, part in targets.items():
        setattr(call, name, address(part, rows.start))


def _seed(call: CallArguments, seeds: list[torch.Tensor], rows: slice, group: slice) -> None:
    """Give a sweep its cotangents; those of the value belong to the first group of directions."""
    if group.start == 0:
        call.cotangents = address(seeds[0], rows.start)
    for name, seed in zip(("first_cotangents", "second_cotangents"), seeds[1:], strict=False):
        setattr(call, name, seed[group, rows].data_ptr())


def _columns(units: torch.Tensor) -> Iterator[Any]:
    """Yield the cotangents of every output."""
    return (units[:, q] for q in range(units.shape[1]))
