"""Spline KANs in plain torch, written well: what kanmg's compiled evaluator is measured against.

Three formulations of one uniform cubic layer, with closed-form local basis values (no recursion, no search) and
autograd:

scatter
    local basis values scattered into a dense (N, P m) matrix, then one matrix product: best for wide layers
gather
    k + 1 coefficient rows gathered per input, then a contraction: work independent of the number of cells.
bag
    the same through `torch.nn.functional.embedding_bag`, which never materialises the gathered rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import embedding_bag, mse_loss

DEGREE = 3
LOCAL = torch.arange(DEGREE + 1)

Layer = Callable[[torch.Tensor, torch.Tensor, int, tuple[float, float]], torch.Tensor]


def local_basis(x: torch.Tensor, num_intervals: int, domain: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells, shape (N, P), and the four uniform cubic B-splines that are non-zero there, shape (N, P, 4)."""
    a, b = domain
    position = (x - a) * (num_intervals / (b - a))
    cell = position.detach().floor().clamp_(0, num_intervals - 1)
    t = position - cell
    u = 1 - t
    t2 = t * t
    t3 = t2 * t
    basis = torch.stack((u * u * u, 3 * t3 - 6 * t2 + 4, 3 * (t + t2 - t3) + 1, t3), dim=-1) * (1 / 6)
    return cell.long(), basis


def scatter_layer(
    x: torch.Tensor, coefficients: torch.Tensor, num_intervals: int, domain: tuple[float, float]
) -> torch.Tensor:
    """One layer by scattering and a dense product; coefficients of shape (P, m, Q)."""
    cell, basis = local_basis(x, num_intervals, domain)
    num_inputs, num_basis, num_outputs = coefficients.shape
    dense = x.new_zeros(x.shape[0], num_inputs, num_basis).scatter(-1, cell[..., None] + LOCAL, basis)
    return dense.view(-1, num_inputs * num_basis) @ coefficients.view(-1, num_outputs)


def gather_layer(
    x: torch.Tensor, coefficients: torch.Tensor, num_intervals: int, domain: tuple[float, float]
) -> torch.Tensor:
    """One layer by gathering the coefficients of the non-zero basis functions; coefficients of shape (P, m, Q)."""
    rows, basis = _rows_and_basis(x, coefficients, num_intervals, domain)
    return torch.einsum("nj,njq->nq", basis, coefficients.flatten(0, 1)[rows])


def bag_layer(
    x: torch.Tensor, coefficients: torch.Tensor, num_intervals: int, domain: tuple[float, float]
) -> torch.Tensor:
    """One layer as a weighted embedding bag; coefficients of shape (P, m, Q)."""
    rows, basis = _rows_and_basis(x, coefficients, num_intervals, domain)
    return embedding_bag(rows, coefficients.flatten(0, 1), per_sample_weights=basis, mode="sum")


def _rows_and_basis(
    x: torch.Tensor, coefficients: torch.Tensor, num_intervals: int, domain: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    cell, basis = local_basis(x, num_intervals, domain)
    num_inputs, num_basis, _ = coefficients.shape
    first = cell + torch.arange(num_inputs) * num_basis
    return (first[..., None] + LOCAL).flatten(1), basis.flatten(1)


LAYERS: dict[str, Layer] = {"scatter": scatter_layer, "gather": gather_layer, "bag": bag_layer}


def loss_and_gradient(
    coefficients: Sequence[torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
    num_intervals: int,
    domain: tuple[float, float] = (-1.0, 1.0),
    layer: Layer = scatter_layer,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Mean squared error of the network and its gradient with respect to every layer's coefficients."""
    values = x
    for layer_coefficients in coefficients:
        values = layer(values, layer_coefficients, num_intervals, domain)
    loss = mse_loss(values, y)
    return loss.detach(), torch.autograd.grad(loss, list(coefficients))
