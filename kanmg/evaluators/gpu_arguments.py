"""Arguments and results of the GPU evaluators: what is on the device, and what must be taken there."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from kanmg.arrays import as_array, row_chunks
from kanmg.devices import on_device
from kanmg.errors import DeviceError, DomainError, DtypeError, ShapeError
from kanmg.evaluators.base import Evaluator
from kanmg.evaluators.gpu_source import MAX_DIRECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kanmg.evaluators.base import Jet

__all__ = ["DeviceEvaluator", "groups", "on_host", "own_seeds"]


class DeviceEvaluator(Evaluator):
    """Check arguments, take them to the device, and take results back where they are wanted."""

    device: torch.device
    chunk_size: int
    _positions: torch.Tensor | None
    _size: int
    _status: torch.Tensor
    _may_fail: bool

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """Say what to do when the device's memory is too small."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            message = str(error).partition(".")[0]
            raise DeviceError(
                f"the memory of device '{self.device}' is too small for `chunk_size={self.chunk_size}` samples at a "
                f"time ({message}). Pass e.g. `evaluator=functools.partial(GPUEvaluator, device='{self.device}', "
                f"chunk_size={max(1, self.chunk_size // 4)})` to the hierarchy."
            ) from None

    def _array(self, data: Any, name: str, shape: tuple[int | None, ...]) -> torch.Tensor:
        """Return data on the device, of this evaluator's dtype and the shape that is required (None: any length)."""
        tensor = on_device(data, self.device, name)
        own = str(tensor.dtype).removeprefix("torch.")
        if own != self.dtype.name:
            raise DtypeError(
                f"`{name}` is {own} but `hierarchy` was built with `dtype='{self.dtype}'`. Convert the data "
                f"(`{name}.to(torch.{self.dtype})` in torch), or build the hierarchy with `dtype='{own}'`."
            )
        fits = tensor.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, tensor.shape, strict=True))
        if not fits:
            required = ", ".join("N" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "")
            raise ShapeError(
                f"`{name}` has shape {tuple(tensor.shape)} but ({required}) is required by a network with "
                f"`widths={self.network.widths}` and {self.network.num_coefficients} coefficients."
            )
        return tensor

    def _points(self, x: Any) -> torch.Tensor:
        return self._array(x, "x", (None, self.network.num_inputs))

    def _coefficients(self, theta: Any) -> torch.Tensor:
        return self._padded(self._array(theta, "theta", (self.network.num_coefficients,)))

    def _paths(self, num_points: int, directions: Any, curvatures: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Check directions and curvatures."""
        every = (None, num_points, self.network.num_inputs)
        ndim = directions.ndim if hasattr(directions, "ndim") else as_array(directions, "directions").ndim
        lines = self._array(directions, "directions", every if ndim == 3 else (None, self.network.num_inputs))
        if curvatures is None:
            return lines, None
        return lines, self._array(curvatures, "curvatures", (len(lines), *every[1:]))

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

    def _padded(self, theta: torch.Tensor) -> torch.Tensor:
        if self._positions is None:
            return theta
        padded = self._zeros(self._size)
        padded[self._positions] = theta
        return padded

    def _compressed(self, gradient: torch.Tensor) -> torch.Tensor:
        """Pick what belongs to the user's coefficients, along the last axis."""
        return gradient if self._positions is None else gradient[..., self._positions]

    def _check_status(self) -> None:
        """Raise for a layer that met a value outside its interval where the policy is `error`."""
        layer = int(self._status.item()) if self._may_fail else 0
        if layer:
            self._status.zero_()
            raise DomainError(
                f"a value in layer {layer} lies outside the interval of its knots, and `outside='error'` refuses that. "
                "Use `outside='extend'`, or knots on a larger `domain`."
            )

    def _returned(self, result: torch.Tensor, like: Any) -> Any:
        """Return a result on the device if the argument it belongs to is there, else as a NumPy array."""
        is_there = isinstance(like, torch.Tensor) or hasattr(like, "__cuda_array_interface__")
        return result if is_there else result.cpu().numpy()

    def _empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=getattr(torch, self.dtype.name), device=self.device)

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=getattr(torch, self.dtype.name), device=self.device)


def groups(num_paths: int, order: int) -> list[slice]:
    """Cut the directions into groups that one sweep takes; one of none if there are none."""
    if order == 0 or num_paths == 0:
        return [slice(0, 0)]
    return list(row_chunks(num_paths, 1, MAX_DIRECTIONS))


def own_seeds(seeds: list[torch.Tensor], rows: slice, group: slice) -> dict[str, torch.Tensor]:
    """Cut cotangents for a sweep; those of the value belong to the first group of directions."""
    own = {"cotangents": seeds[0][rows]} if group.start == 0 else {}
    for name, seed in zip(("first_cotangents", "second_cotangents"), seeds[1:], strict=False):
        own[name] = seed[group, rows].contiguous()
    return own


def on_host(data: Any) -> Any:
    """Copy a tensor to the CPU."""
    return data.cpu() if isinstance(data, torch.Tensor) else data
