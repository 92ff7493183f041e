"""How the CUDA kernels see a network: the table of layers, and the order of the coefficients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kanmg.evaluators.gpu_source import CARDINAL, COPIES, SUMS
from kanmg.evaluators.plan import (
    AFFINE,
    BASIS,
    BIAS,
    COEFFICIENTS,
    INPUT_SLOT,
    INPUTS,
    KIND,
    OUTPUT_SLOT,
    OUTPUTS,
    UNIFORM,
)
from kanmg.network import Network, Spline

if TYPE_CHECKING:
    import numpy.typing as npt

    from kanmg.evaluators.gpu_launch import Geometry
    from kanmg.evaluators.plan import IntArray, Plan

    Order = npt.NDArray[np.int32]

__all__ = ["device_layout", "num_edges", "num_numbers", "num_slots", "with_slots"]


def device_layout(plan: Plan, network: Network) -> tuple[IntArray, Order, Order]:
    """Lay out a network for the CUDA kernels.

    Parameters
    ----------
    plan : Plan
        With outputs that are not grouped.
    network : Network

    Returns
    -------
    layers : ndarray of int64
        The table of layers; marked are those whose polynomials the compiler knows.
    order : ndarray of int32
        Of each of the kernels' coefficients the number of the user's, or -1: those of an edge are neighbours there.
    places : ndarray of int32
        Of each of the user's coefficients the number of the kernels'.
    """
    layers, parts, begin = plan.layers.copy(), [], 0
    user = np.arange(network.num_coefficients)
    of_plan = np.full(plan.num_coefficients, -1)
    of_plan[user if plan.padding is None else plan.padding.positions] = user
    ends = [*plan.layers[1:, COEFFICIENTS], plan.num_coefficients]
    for row, layer, end in zip(layers, network.layers, ends, strict=True):
        part = of_plan[row[COEFFICIENTS] : end]
        row[COEFFICIENTS] = begin
        if isinstance(layer, Spline):
            edges = part.reshape(layer.num_inputs, -1, layer.num_outputs).swapaxes(1, 2)
            part = np.pad(edges, ((0, 0), (0, 0), (0, 1 - edges.shape[2] % 2)), constant_values=-1).ravel()
            row[BASIS] += 1 - row[BASIS] % 2
            if row[UNIFORM] and layer.degree == len(plan.marker) - 1:
                row[UNIFORM] = CARDINAL
        parts.append(part)
        begin += part.size
    order = np.concatenate(parts).astype(np.int32)
    places = np.empty(user.size, np.int32)
    places[order[order >= 0]] = np.flatnonzero(order >= 0)
    return layers, order, places


def num_edges(row: IntArray) -> int:
    """Count the edges of a spline layer; 0 for an affine one.

    Parameters
    ----------
    row : ndarray of int64
        Of the table of layers.
    """
    return 0 if row[KIND] == AFFINE else int(row[INPUTS] * row[OUTPUTS])


def num_numbers(row: IntArray) -> int:
    """Count the coefficients of a layer, gaps included.

    Parameters
    ----------
    row : ndarray of int64
        Of the table of layers.
    """
    return int((row[INPUTS] + row[BIAS]) * row[OUTPUTS]) if row[KIND] == AFFINE else num_edges(row) * int(row[BASIS])


def num_slots(layers: IntArray, *, keeps_all: bool) -> int:
    """Count the jets that a sample has at a time.

    Parameters
    ----------
    layers : ndarray of int64
        The table of layers.
    keeps_all : bool
        Whether those of all layers are needed at the end, or only those of the layer at hand.
    """
    inputs, outputs = layers[:, INPUTS], layers[:, OUTPUTS]
    return int(inputs.sum() + outputs[-1]) if keeps_all else int((inputs + outputs).max())


def with_slots(layers: IntArray, shape: Geometry, *, keeps_all: bool) -> tuple[IntArray, int]:
    """Tell the kernels where every layer's jets and the copies of its sums of gradients are.

    Parameters
    ----------
    layers : ndarray of int64
        The table of layers.
    shape : Geometry
    keeps_all : bool
        As in `num_slots`; otherwise the ends of layers are at either end of the memory in turn.

    Returns
    -------
    layers : ndarray of int64
    num_sums : int
        How many numbers all copies have.
    """
    result, num_sums, slot = layers.copy(), 0, 0
    size = num_slots(layers, keeps_all=keeps_all)
    for row, copies in zip(result, shape.copies or (1,) * len(result), strict=True):
        row[INPUT_SLOT] = slot
        if keeps_all:
            slot += row[INPUTS]
        else:
            slot = 0 if slot else size - row[OUTPUTS]
        row[OUTPUT_SLOT] = slot
        row[SUMS], row[COPIES] = num_sums, copies
        num_sums += copies * num_numbers(row)
    return result, num_sums
