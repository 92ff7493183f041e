"""What the layers of a network do with truncated Taylor series, in plain torch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch

from kanmg.errors import DomainError

if TYPE_CHECKING:
    from kanmg.network import Affine, Spline

__all__ = ["TorchAffine", "TorchLayer", "TorchSpline"]


class TorchLayer(ABC):
    """What a layer does with truncated Taylor series."""

    row_size: int
    """Entries of the largest array that one sample needs."""

    @abstractmethod
    def propagate(self, coefficients: torch.Tensor, series: list[torch.Tensor]) -> list[torch.Tensor]:
        """Map the series of the inputs to those of the outputs.

        Entry 0 of a series has shape (N, width), all others (D, N, width). The coefficients are flat, for all samples
        or with one row for each.
        """


class TorchAffine(TorchLayer):
    """An affine layer in torch."""

    def __init__(self, layer: Affine) -> None:
        self.layer = layer
        self.row_size = layer.num_coefficients

    def propagate(self, coefficients: torch.Tensor, series: list[torch.Tensor]) -> list[torch.Tensor]:
        array = coefficients.reshape(*coefficients.shape[:-1], *self.layer.shape)
        weights = array[..., : self.layer.num_inputs, :]
        outputs = [torch.einsum("...p,...pq->...q", entry, weights) for entry in series]
        if self.layer.bias:
            outputs[0] = outputs[0] + array[..., -1, :]
        return outputs


class TorchSpline(TorchLayer):
    """A spline layer in torch: local basis values by de Boor's recursion."""

    def __init__(self, layer: Spline, dtype: torch.dtype, device: torch.device) -> None:
        self.layer = layer
        self.degree = layer.degree
        self.row_size = layer.num_inputs * (layer.degree + 1) * layer.num_outputs
        vectors = np.stack([knots.vector for knots in layer.knots])
        # Cells of the exterior knots have functions that do not exist. They need knots too, any will do: their values
        # are dropped.
        beyond = np.arange(1, self.degree + 1) * (vectors[:, -1:] - vectors[:, :1])
        padded = np.hstack([vectors[:, :1] - beyond[:, ::-1], vectors, vectors[:, -1:] + beyond])
        self.vectors, self.padded = (torch.tensor(array, dtype=dtype, device=device) for array in (vectors, padded))
        self.lower, self.upper = self.vectors[:, self.degree], self.vectors[:, -self.degree - 1]
        self.interior = self.vectors[:, self.degree + 1 : -self.degree - 1].contiguous()

    def propagate(self, coefficients: torch.Tensor, series: list[torch.Tensor]) -> list[torch.Tensor]:
        x, *rest = series
        cells, exterior = self._locate(x)
        local = self._gather(coefficients, cells)
        chosen = "npsq" if local.ndim == 4 else "psq"
        outputs = [torch.einsum(f"nps,{chosen}->nq", self._basis(x, cells, exterior, 0), local)]
        outputs += [x.new_zeros((*entry.shape[:-1], self.layer.num_outputs)) for entry in rest]
        powers = rest
        for i in range(1, min(len(rest), self.degree) + 1):
            basis = self._basis(x, cells, exterior, i)
            slopes = torch.einsum(f"nps,{chosen}->npq", basis, local) / math.factorial(i)
            for j in range(i, len(series)):
                outputs[j] = outputs[j] + torch.einsum("npq,dnp->dnq", slopes, powers[j - 1])
            powers = _times(powers, rest)
        return outputs

    def _locate(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the cell of every value, counted from the first of the domain, and whether it lies outside."""
        exterior = (x < self.lower) | (x > self.upper)
        if self.layer.outside == "error" and bool(exterior.any()):
            raise self._refusal(x.detach(), exterior)
        cells = self._search(self.interior, x)
        if self.layer.outside == "zero":
            outer = self._search(self.vectors, x) - 1 - self.degree
            # Points beyond the last knots stay with the end cell: there is no cell around them.
            cells = torch.where(exterior & ~self._beyond(x), outer, cells)
        return cells, exterior

    def _beyond(self, x: torch.Tensor) -> torch.Tensor:
        return (x < self.vectors[:, 0]) | (x >= self.vectors[:, -1])

    def _search(self, knots: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.searchsorted(knots, x.detach().T.contiguous(), right=True).T

    def _gather(self, coefficients: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Take the coefficients of the k + 1 functions of every cell: shape (N, P, k + 1, Q)."""
        num_inputs, num_basis, num_outputs = self.layer.shape
        functions = cells[..., None] + torch.arange(self.degree + 1, device=cells.device)
        rows = functions.clamp(0, num_basis - 1) + num_basis * torch.arange(num_inputs, device=cells.device)[:, None]
        if coefficients.ndim == 2:
            rows = rows + num_inputs * num_basis * torch.arange(len(rows), device=cells.device)[:, None, None]
        # Not `array[rows]`: the order of the sums in its gradient depends on the threads.
        chosen = coefficients.reshape(-1, num_outputs).index_select(0, rows.reshape(-1))
        return chosen.reshape(*rows.shape, num_outputs)

    def _basis(self, x: torch.Tensor, cells: torch.Tensor, exterior: torch.Tensor, derivative: int) -> torch.Tensor:
        """Evaluate the k + 1 functions of every cell, or their derivatives: shape (N, P, k + 1)."""
        outside = self.layer.outside
        if outside in ("extend", "error"):
            return self._triangle(x, cells, derivative)
        if outside == "zero":
            functions = cells[..., None] + torch.arange(self.degree + 1, device=cells.device)
            exists = (functions >= 0) & (functions < self.layer.num_basis)
            beyond = exterior & self._beyond(x)
            exists &= ~beyond[..., None]
            # Far out the polynomials overflow, and gradients flow through both sides of `where`.
            nearest = torch.where(beyond, torch.clamp(x, self.lower, self.upper), x)
            return torch.where(exists, self._triangle(nearest, cells, derivative), 0.0)
        nearest = torch.clamp(x, self.lower, self.upper)
        values = self._triangle(nearest, cells, derivative)
        if outside == "linear" and derivative == 0:
            return values + (x - nearest)[..., None] * self._triangle(nearest, cells, 1)
        if derivative > (outside == "linear"):
            return torch.where(exterior[..., None], 0.0, values)
        return values

    def _triangle(self, x: torch.Tensor, cells: torch.Tensor, derivative: int) -> torch.Tensor:
        """Run de Boor's triangle; its last `derivative` steps differentiate.

        C. de Boor, "On calculating with B-splines", J. Approx. Theory 6 (1972), doi:10.1016/0021-9045(72)90080-9.
        """
        values = [torch.ones_like(x)]
        for d in range(1, self.degree + 1):
            carried = torch.zeros_like(x)
            raised = []
            for s in range(d):
                left, right = self._knots(cells, s + 1 - d), self._knots(cells, s + 1)
                scaled = values[s] / (right - left)
                differentiates = d > self.degree - derivative
                raised.append(carried - d * scaled if differentiates else carried + (right - x) * scaled)
                carried = d * scaled if differentiates else (x - left) * scaled
            values = [*raised, carried]
        return torch.stack(values, dim=-1)

    def _knots(self, cells: torch.Tensor, shift: int) -> torch.Tensor:
        """Look up the knots `shift` places from the left ends of the cells."""
        return torch.gather(self.padded, 1, (cells + 2 * self.degree + shift).T).T

    def _refusal(self, x: torch.Tensor, exterior: torch.Tensor) -> DomainError:
        p = int(exterior.any(dim=0).nonzero()[0])
        values = x[exterior[:, p], p]
        worst = values[torch.maximum(self.lower[p] - values, values - self.upper[p]).argmax()].item()
        return DomainError(
            f"{len(values)} values of input {p} of a spline layer lie outside its interval "
            f"[{self.lower[p].item():g}, {self.upper[p].item():g}] (farthest {worst:.9g}), and `outside='error'` "
            "refuses them. Pass points inside, or build the layer with another policy, e.g. `outside='extend'`."
        )


def _times(powers: list[torch.Tensor], series: list[torch.Tensor]) -> list[torch.Tensor]:
    """Multiply two series without constant term; entry j - 1 belongs to the j-th power of the parameter."""
    order = len(series)
    product = [torch.zeros_like(entry) for entry in series]
    for i in range(order):
        for j in range(order - i - 1):
            product[i + j + 1] = product[i + j + 1] + powers[i] * series[j]
    return product
