"""Spline layers on uniform knots in one pass: all B-splines as alternating sums of truncated powers, in torch."""

from __future__ import annotations

from math import comb, factorial
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch

from kanmg.errors import KanmgValueError
from kanmg.evaluators.torch_free_knots import TorchFreeSpline
from kanmg.evaluators.torch_layers import TorchAffine, TorchSpline
from kanmg.network import Affine

if TYPE_CHECKING:
    from kanmg.evaluators.torch_layers import TorchLayer
    from kanmg.network import Layer, Network, Spline

__all__ = ["SplineBasis", "TruncatedPowers", "torch_layers"]

SplineBasis: TypeAlias = Literal["recursion", "truncated-power"]
"""How the reference evaluator computes B-splines."""


class TruncatedPowers(TorchSpline):
    """A spline layer in torch: all m basis functions of every point, without a search and without a recursion.

    With z = (x - t_i) / h, clamped to [0, k + 1], B-spline i is

        sum_s (-1)^s C(k + 1, s) max(0, z - s)^k / k!,    s = 0, ..., k.

    Without clamping the sum would cancel to zero right of the support, with rounding errors that grow like the k-th
    power of the distance; clamped, its error has a bound that depends on k alone. B-splines are symmetric: k + 1 - z
    in the place of z beyond the middle saves half of the terms, and the larger ones.

    Outside the interval, where the policies differ, the recursion is used.
    """

    def __init__(self, layer: Spline, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(layer, dtype, device)
        self.row_size = layer.num_inputs * layer.num_basis * layer.num_outputs
        self.spacing = torch.tensor([knots.spacing for knots in layer.knots], dtype=dtype, device=device)

    def _gather(self, coefficients: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Take all coefficients, shape (P, m, Q) or (N, P, m, Q)."""
        return coefficients.reshape(*coefficients.shape[:-1], *self.layer.shape)

    def _basis(self, x: torch.Tensor, cells: torch.Tensor, exterior: torch.Tensor, derivative: int) -> torch.Tensor:
        """Evaluate all functions, or their derivatives: shape (N, P, m)."""
        values = self._sums(x, cells, derivative)
        if not bool(exterior.any()):
            return values
        local = super()._basis(x, cells, exterior, derivative)
        functions = cells[..., None] + torch.arange(self.degree + 1, device=cells.device)
        # What does not exist is zero, and may be added anywhere.
        columns = functions.clamp(0, self.layer.num_basis - 1)
        return torch.where(exterior[..., None], torch.zeros_like(values).scatter_add(-1, columns, local), values)

    def _sums(self, x: torch.Tensor, cells: torch.Tensor, derivative: int) -> torch.Tensor:
        functions = torch.arange(self.layer.num_basis, dtype=x.dtype, device=x.device)
        if derivative == self.degree:
            return self._steps(functions, cells) / self.spacing[:, None] ** derivative
        order, exponent = self.degree + 1, self.degree - derivative
        distances = ((x - self.lower) / self.spacing + self.degree)[..., None] - functions
        clamped = distances.clamp(0.0, float(order))
        # Not a minimum, whose gradient vanishes in the middle.
        is_beyond = clamped > 0.5 * order
        folded = torch.where(is_beyond, order - clamped, clamped)
        total = _power(folded, exponent)
        for s in range(1, (order + 1) // 2):
            total = total + float((-1) ** s * comb(order, s)) * _power(torch.relu(folded - s), exponent)
        if derivative % 2:
            total = torch.where(is_beyond, -total, total)
        return total / (factorial(exponent) * self.spacing[:, None] ** derivative)

    def _steps(self, functions: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Evaluate the derivatives of order k in units of cells, constant on each: which cell counts, not the point."""
        places, order = cells[..., None] + self.degree - functions, self.degree + 1
        total = torch.zeros_like(places)
        for s in range(order + 1):
            total = total + (-1) ** s * comb(order, s) * (places >= s)
        return total


def _power(base: torch.Tensor, exponent: int) -> torch.Tensor:
    """Raise to a power, at least 1, by products: torch's own takes several times as long."""
    half = base if exponent < 4 else _power(base, exponent // 2)
    if exponent == 1:
        return base
    square = half * half
    return square * base if exponent % 2 else square


def torch_layers(
    network: Network, dtype: torch.dtype, device: torch.device, basis: SplineBasis = "recursion"
) -> list[TorchLayer]:
    """Build the torch form of a network's layers.

    Parameters
    ----------
    network : Network
    dtype : torch.dtype
    device : torch.device
    basis : {"recursion", "truncated-power"}

    Returns
    -------
    list of TorchLayer

    Raises
    ------
    KanmgValueError
        If `basis` is unknown, or truncated powers are asked for on knots that are not uniform.
    """
    if basis not in get_args(SplineBasis):
        raise KanmgValueError(f"`basis={basis!r}` is unknown. Use 'recursion' or 'truncated-power'.")
    return [_torch_layer(number, layer, dtype, device, basis) for number, layer in enumerate(network.layers)]


def _torch_layer(number: int, layer: Layer, dtype: torch.dtype, device: torch.device, basis: SplineBasis) -> TorchLayer:
    if isinstance(layer, Affine):
        return TorchAffine(layer)
    if basis == "recursion":
        return (TorchFreeSpline if layer.free_knots else TorchSpline)(layer, dtype, device)
    if layer.free_knots:
        raise KanmgValueError(
            f"layer {number} has free knots, but `basis='truncated-power'` needs uniform ones. Use `basis='recursion'`."
        )
    for knots in layer.knots:
        if not knots.is_uniform:
            raise KanmgValueError(
                f"layer {number} has {knots!r}, but `basis='truncated-power'` needs uniform knots. Use "
                "`basis='recursion'`, or `uniform_knots`."
            )
    return TruncatedPowers(layer, dtype, device)
