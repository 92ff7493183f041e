"""How a CUDA kernel takes samples through a network: what is in shared memory, where, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from kanmg.evaluators.gpu_launch import Launch, Sums, geometry, max_blocks, merge_blocks
from kanmg.evaluators.gpu_layout import odd
from kanmg.evaluators.gpu_source import (
    CARDINAL,
    COPIES,
    IS_SORTED,
    MAX_THREADS,
    MERGE_GROUPS,
    SUM_CELL,
    SUM_ROW,
    SUMS,
    TILES,
    VARIANTS,
    Variant,
)
from kanmg.evaluators.plan import AFFINE, BASIS, BIAS, CELLS, INPUT_SLOT, INPUTS, KIND, OUTPUT_SLOT, OUTPUTS, UNIFORM

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from kanmg.evaluators.gpu_launch import Geometry, Kernels
    from kanmg.evaluators.plan import IntArray

__all__ = ["Sweep", "is_sorted", "num_slots", "plan_sweep", "sums_of", "with_slots"]

# Kernels that go forwards alone.
_FORWARD = ("evaluate", "push_forward")

# Outputs of a layer from which on its samples are sorted, and the most bytes of their order.
_SORTED_OUTPUTS = 4
_ORDER_BYTES = 1 << 13


class Sweep(NamedTuple):
    """A kernel, how it takes samples through the network, and what is launched after it.

    Attributes
    ----------
    kernel : str
    directions : int
    kernels : Kernels
    shape : Geometry
    most_blocks : int
    further : tuple of Launch
    layers : Tensor of int64
        The table of layers, on the device.
    num_sums : int
        Numbers of all copies of the sums of gradients.
    slots : int
        Jets of a sample.
    order_bytes : int
        Of the order in which the samples of a tile are added.
    """

    kernel: str
    directions: int
    kernels: Kernels
    shape: Geometry
    most_blocks: int
    further: tuple[Launch, ...]
    layers: torch.Tensor
    num_sums: int
    slots: int
    order_bytes: int

    def blocks(self, num_samples: int) -> int:
        """Count the blocks for a number of samples: no more than there are tiles."""
        return max(1, min(-(-num_samples // self.shape.variant.tile), self.most_blocks))


def plan_sweep(
    kernel: str,
    directions: int,
    layers: IntArray,
    *,
    degree: int,
    num_coefficients: int,
    dtype: np.dtype,
    device: torch.device,
    kernels_of: Callable[[Variant], Kernels],
) -> Sweep:
    """Choose the tile, the memory and the number of blocks of a kernel.

    Parameters
    ----------
    kernel : str
    directions : int
        Of the jets.
    layers : ndarray of int64
        The table of `device_layout`.
    degree : int
    num_coefficients : int
        Of the network.
    dtype : numpy.dtype
    device : torch.device
    kernels_of : callable
        Returns the kernels of a `Variant`.

    Returns
    -------
    Sweep
        With the largest tile whose jets fit into shared memory.
    """
    wants_gradient, keeps_all = kernel == "differentiate", kernel not in _FORWARD
    slots, sums = num_slots(layers, keeps_all=keeps_all), [sums_of(row, degree) for row in layers]
    inputs = {
        tile: max((int(row[INPUTS]) for row in layers if wants_gradient and is_sorted(row, tile)), default=0)
        for tile in TILES
    }
    shapes = [
        geometry(
            kernels_of(VARIANTS[0]).limits,
            tile=tile,
            slots=slots,
            numbers=1 + 2 * directions,
            layers=sums,
            sorted_inputs=inputs[tile],
            wants_gradient=wants_gradient,
            itemsize=dtype.itemsize,
        )
        for tile in TILES
    ]
    shape = next((shape for shape in shapes if shape.variant.jets_are_shared), shapes[0])
    kernels = kernels_of(shape.variant)
    most_blocks = max_blocks(
        shape,
        resident=kernels.resident(kernel, directions, shape.threads, shape.shared_bytes),
        num_coefficients=sum(own.coefficients for own in sums) * wants_gradient,
        itemsize=dtype.itemsize,
    )
    blocks = merge_blocks(num_coefficients, MAX_THREADS // MERGE_GROUPS)
    merge = Launch("merge", 0, blocks, MAX_THREADS, 8 * MAX_THREADS)
    placed, num_sums = with_slots(layers, degree, shape, keeps_all=keeps_all)
    return Sweep(
        kernel=kernel,
        directions=directions,
        kernels=kernels,
        shape=shape,
        most_blocks=most_blocks,
        further=(merge,) if wants_gradient else (),
        layers=torch.from_numpy(placed).to(device),
        num_sums=num_sums,
        slots=slots,
        order_bytes=inputs[shape.variant.tile] * shape.variant.tile,
    )


def sums_of(row: IntArray, degree: int) -> Sums:
    """Count what a block sums of the gradient of a layer.

    Parameters
    ----------
    row : ndarray of int64
        Of the table of layers.
    degree : int
        Of the kernels.

    Returns
    -------
    Sums
        With gaps between edges; with moments if the polynomials of the cells are in a table.
    """
    if row[KIND] == AFFINE:
        return Sums(0, int((row[INPUTS] + row[BIAS]) * row[OUTPUTS]))
    edges = int(row[INPUTS] * row[OUTPUTS])
    moments = 0 if row[UNIFORM] == CARDINAL else edges * odd(int(row[CELLS]) * (degree + 1))
    return Sums(edges, edges * int(row[BASIS]), moments)


def is_sorted(row: IntArray, tile: int) -> bool:
    """Whether the gradient of a layer is summed in the order of the samples' cells.

    Parameters
    ----------
    row : ndarray of int64
        Of the table of layers.
    tile : int
        Samples that are sorted.

    Notes
    -----
    Sorting takes a comparison for every two samples and input. Where several outputs share that, and several samples a
    cell, more is saved: their sums are added to memory once. The order of a wide layer would take too much memory.
    """
    fits = row[INPUTS] * tile <= _ORDER_BYTES
    return bool(row[KIND] != AFFINE and row[OUTPUTS] >= _SORTED_OUTPUTS and row[CELLS] <= tile and fits)


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


def with_slots(layers: IntArray, degree: int, shape: Geometry, *, keeps_all: bool) -> tuple[IntArray, int]:
    """Tell the kernels where every layer's jets and the copies of its sums of gradients are.

    Parameters
    ----------
    layers : ndarray of int64
        The table of layers.
    degree : int
        Of the kernels.
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
        own = sums_of(row, degree)
        is_moments = shape.sums_are_moments and own.moments > 0
        row[SUM_ROW], row[SUM_CELL] = (odd(row[CELLS] * (degree + 1)), degree + 1) if is_moments else (row[BASIS], 1)
        row[SUMS], row[COPIES], row[IS_SORTED] = num_sums, copies, is_sorted(row, shape.variant.tile)
        num_sums += copies * (own.moments if is_moments else own.coefficients)
    return result, num_sums
