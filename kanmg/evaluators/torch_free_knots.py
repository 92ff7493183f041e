"""A spline layer with free knots in plain torch: de Boor's recursion on knots that are tensors themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from kanmg.evaluators.torch_layers import TorchSpline
from kanmg.splines.free_knots import SMALLEST_PART

if TYPE_CHECKING:
    from kanmg.layers import Spline

__all__ = ["TorchFreeSpline"]


class TorchFreeSpline(TorchSpline):
    """A spline layer whose knots follow from logits, through which torch differentiates."""

    def __init__(self, layer: Spline, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(layer, dtype, device)
        knots, groups = layer.knots, layer.free_knots
        breakpoints = torch.tensor(np.stack([own.breakpoints for own in knots]), dtype=dtype, device=device)
        self._lengths = breakpoints.diff().reshape(len(knots), groups, -1)
        self._outer = self.vectors - torch.where(
            torch.arange(self.vectors.shape[1], device=device) < self.degree, self.lower[:, None], self.upper[:, None]
        )

    def at(self, logits: torch.Tensor) -> TorchFreeSpline:
        """Return the layer for logits of shape (num_logits,), or (N, num_logits) with one row for each sample."""
        logits = logits.reshape(*logits.shape[:-1], self.layer.num_inputs, self.layer.free_knots)
        moved = object.__new__(TorchFreeSpline)
        moved.__dict__.update(self.__dict__)
        total = (self.upper - self.lower)[:, None]
        reference = self._lengths.sum(dim=-1)
        weights = torch.softmax(logits + torch.log(reference / total), dim=-1)
        stretch = SMALLEST_PART + (1.0 - SMALLEST_PART) * total * weights / reference
        cells = (stretch[..., None] * self._lengths).flatten(-2)
        inner = (self.lower[:, None] + torch.cumsum(cells, dim=-1))[..., :-1]
        k, ends = self.degree, inner.shape[:-1]
        left = self.lower[:, None] + stretch[..., :1] * self._outer[:, :k]
        right = self.upper[:, None] + stretch[..., -1:] * self._outer[:, len(self._outer[0]) - k :]
        lower, upper = self.lower[:, None].expand(*ends, 1), self.upper[:, None].expand(*ends, 1)
        moved.moving = torch.cat([left, lower, inner, upper, right], dim=-1)
        moved.inner = inner.detach()
        return moved

    moving: torch.Tensor
    inner: torch.Tensor

    def _locate(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        exterior = (x < self.lower) | (x > self.upper)
        if self.layer.outside == "error" and bool(exterior.any()):
            raise self._refusal(x.detach(), exterior)
        inner = self.inner.expand(*x.shape, -1).contiguous()
        return torch.searchsorted(inner, x.detach()[..., None].contiguous(), right=True)[..., 0], exterior

    def _knots(self, cells: torch.Tensor, shift: int) -> torch.Tensor:
        knots = self.moving.expand(*cells.shape, -1)
        return torch.gather(knots, 2, (cells + self.degree + shift)[..., None])[..., 0]
