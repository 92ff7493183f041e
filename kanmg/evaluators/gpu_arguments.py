"""Arguments and results of the GPU evaluators: what is on the device, and what must be taken there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from kanmg.arrays import as_array, row_chunks
from kanmg.devices import is_cupy, on_device, tensor_of_cupy
from kanmg.errors import DeviceError, DomainError, DtypeError, ShapeError
from kanmg.evaluators.base import Evaluator, Jet
from kanmg.evaluators.gpu_source import MAX_DIRECTIONS
from kanmg.vectors import to_device, to_host

if TYPE_CHECKING:
    import numpy as np

    from kanmg.network import Network

__all__ = ["DeviceEvaluator", "Paths", "address", "groups", "on_host"]


class Paths(NamedTuple):
    """Directions and curvatures on the device.

    Attributes
    ----------
    lines : Tensor, shape (D, num_inputs) or (D, N, num_inputs)
    curvatures : Tensor, shape (D, N, num_inputs), or None
    """

    lines: torch.Tensor
    curvatures: torch.Tensor | None

    @property
    def number(self) -> int:
        """Number of directions."""
        return len(self.lines)


class _Memory:
    """Says what to do when the device's memory is too small; a class, because a generator takes twice the time."""

    def __init__(self, evaluator: DeviceEvaluator) -> None:
        self._evaluator = evaluator

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        is_full = error is not None and _is_full(error)
        if is_full or isinstance(error, KeyboardInterrupt):
            self._evaluator.forget_status()
        if not is_full:
            return
        device, chunk_size = self._evaluator.device, self._evaluator.chunk_size
        message = str(error).partition(".")[0]
        raise DeviceError(
            f"the memory of device '{device}' is too small for `chunk_size={chunk_size}` samples at a time "
            f"({message}). Pass e.g. `evaluator=functools.partial(GPUEvaluator, device='{device}', "
            f"chunk_size={max(1, chunk_size // 4)})` to the hierarchy."
        ) from None


def _is_full(error: BaseException) -> bool:
    """Whether the device's memory was too small, for torch, for the driver, or for cuBLAS."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and ("OUT_OF_MEMORY" in str(error) or "ALLOC_FAILED" in str(error))


class DeviceEvaluator(Evaluator):
    """Check arguments, take them to the device, and take results back where they are wanted."""

    device: torch.device
    chunk_size: int
    _places: torch.Tensor
    _size: int
    _status: torch.Tensor
    _may_fail: bool

    def __init__(self, network: Network, dtype: np.dtype[Any]) -> None:
        super().__init__(network, dtype)
        self._tensor_dtype: torch.dtype = getattr(torch, dtype.name)

    def _memory(self) -> _Memory:
        """Say what to do when the device's memory is too small."""
        return _Memory(self)

    def _array(self, data: Any, name: str, shape: tuple[int | None, ...]) -> torch.Tensor:
        """Return data on the device, of this evaluator's dtype and the shape that is required (None: any length)."""
        tensor = on_device(data, self.device, name)
        if tensor.dtype is not self._tensor_dtype:
            own = str(tensor.dtype).removeprefix("torch.")
            raise DtypeError(
                f"`{name}` is {own} but `hierarchy` was built with `dtype='{self.dtype}'`. Convert the data "
                f"(`{name}.to(torch.{self.dtype})` in torch), or build the hierarchy with `dtype='{own}'`."
            )
        # Only the first length may be left open, but for jets, whose first two may.
        actual = tuple(tensor.shape)
        if actual != shape and (
            len(actual) != len(shape) or any(n not in (None, m) for n, m in zip(shape, actual, strict=True))
        ):
            required = ", ".join("N" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "")
            raise ShapeError(
                f"`{name}` has shape {actual} but ({required}) is required by a network with "
                f"`widths={self.network.widths}` and {self.network.num_coefficients} coefficients."
            )
        return tensor

    def _points(self, x: Any) -> torch.Tensor:
        return self._array(x, "x", (None, self.network.num_inputs))

    def _coefficients(self, theta: Any) -> torch.Tensor:
        return self._array(theta, "theta", (self.network.num_coefficients,))

    def _paths(self, num_points: int, directions: Any, curvatures: Any) -> Paths:
        """Check directions and curvatures."""
        every = (None, num_points, self.network.num_inputs)
        ndim = directions.ndim if hasattr(directions, "ndim") else as_array(directions, "directions").ndim
        lines = self._array(directions, "directions", every if ndim == 3 else (None, self.network.num_inputs))
        if curvatures is None:
            return Paths(lines, None)
        return Paths(lines, self._array(curvatures, "curvatures", (len(lines), *every[1:])))

    def _seeds(self, num_paths: int, num_points: int, cotangents: Jet) -> list[torch.Tensor]:
        """Check the cotangents of a jet; returns them by order."""
        shape = (num_points, self.network.num_outputs)
        seeds = [self._array(cotangents.value, "cotangents.value", shape)]
        for j, derivative in enumerate(cotangents.derivatives):
            seeds.append(self._array(derivative, f"cotangents.derivatives[{j}]", (num_paths, *shape)))
        return seeds

    def _targets(self, num_points: int, y: Any, weights: Any) -> dict[str, torch.Tensor]:
        targets = {"targets": self._array(y, "y", (num_points, self.network.num_outputs))}
        if weights is not None:
            targets["weights"] = self._array(weights, "weights", (num_points,))
        return targets

    def _ordered(self, theta: torch.Tensor) -> torch.Tensor:
        """Put coefficients into the kernels' order, where copies in shared memory are not made."""
        ordered = self._zeros(self._size)
        ordered[self._places] = theta
        return ordered

    def _or_zeros(self, gradient: torch.Tensor | None) -> torch.Tensor:
        """Return a gradient; zeros if there are no samples."""
        return self._zeros(self.network.num_coefficients) if gradient is None else gradient

    def forget_status(self) -> None:
        """Forget what a call has met that did not come to its end."""
        # With a copy the host waits; zeros that a kernel writes could come late for a call on another stream.
        self._status.copy_(torch.zeros(1, dtype=torch.int64))

    def _check_status(self) -> None:
        """Raise for a layer that met a value outside its interval where the policy is `error`."""
        layer = int(self._status.item()) if self._may_fail else 0
        if layer:
            self.forget_status()
            raise DomainError(
                f"a value in layer {layer} lies outside the interval of its knots, and `outside='error'` refuses that. "
                "Use `outside='extend'`, or knots on a larger `domain`."
            )

    def _from_host(self, result: Any, like: Any) -> Any:
        """Take NumPy arrays, or a jet of them, to the device if the argument they belong to is there."""
        if isinstance(result, Jet):
            return Jet(self._from_host(result.value, like), tuple(self._from_host(d, like) for d in result.derivatives))
        return to_device(result, self.device) if isinstance(like, torch.Tensor) or is_cupy(like) else result

    def _returned(self, result: torch.Tensor, like: Any) -> Any:
        """Return a result on the device if the argument it belongs to is there, else as a NumPy array."""
        return result if isinstance(like, torch.Tensor) or is_cupy(like) else result.cpu().numpy()

    def _empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self._tensor_dtype, device=self.device)

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=self._tensor_dtype, device=self.device)


def address(tensor: torch.Tensor, row: int) -> int:
    """Return where a row of a contiguous tensor begins."""
    return tensor.data_ptr() + row * tensor.stride(0) * tensor.element_size()


def groups(num_paths: int, order: int) -> list[slice]:
    """Cut the directions into groups that one sweep takes; one of none if there are none."""
    if order == 0 or num_paths == 0:
        return [slice(0, 0)]
    return list(row_chunks(num_paths, 1, MAX_DIRECTIONS))


def on_host(data: Any) -> Any:
    """Copy tensors, CuPy arrays and jets of them to the CPU, as NumPy arrays; leave others as they are."""
    if isinstance(data, Jet):
        return Jet(on_host(data.value), tuple(map(on_host, data.derivatives)))
    return to_host(tensor_of_cupy(data) if is_cupy(data) else data)
