"""Compiled CUDA kernels of one device, and how many blocks and how much memory a call of them takes.

The kernels are compiled through CuPy with NVRTC when they are first called, one by one, and kept on disk by CuPy.
"""

from __future__ import annotations

import ctypes
import math
from contextlib import nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from kanmg.devices import current_stream, import_cupy
from kanmg.evaluators.gpu_source import KERNELS, MAX_THREADS, OPTIONS, Variant, expression, source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from kanmg.evaluators.gpu_source import CallArguments

__all__ = [
    "CudaKernels",
    "Geometry",
    "Kernels",
    "Launch",
    "Limits",
    "all_expressions",
    "cuda_kernels",
    "geometry",
    "merge_blocks",
    "num_copies",
]

# Bytes of all blocks' partial gradients; of all blocks' scratch.
_PARTIALS_BYTES = 1 << 28
_SCRATCH_BYTES = 1 << 28

# Copies of a layer's sums of gradients.
_MOST_COPIES = 8

# The part of a block's memory that holds basis functions.
_FUNCTIONS_PART = 7

# Bytes of the shared memory that a thread reads or writes at once; of an integer.
_PACK_BYTES = 16
_INT_BYTES = 4

# What a device keeps of the shared memory for every block.
_RESERVED_BYTES = 1024


class Limits(NamedTuple):
    """What a device has.

    Attributes
    ----------
    num_processors : int
        Multiprocessors.
    shared_bytes : int
        Shared memory that one block may take; the blocks of a multiprocessor have hardly more together.
    """

    num_processors: int
    shared_bytes: int


class Geometry(NamedTuple):
    """How a kernel is launched.

    Attributes
    ----------
    variant : Variant
        What the kernel is compiled for.
    threads : int
        Of a block.
    shared_bytes : int
        Dynamic shared memory of a block.
    staged : int
        Pairs of a sample and an input of which a block has the basis functions at a time.
    copies : tuple of int
        Of every layer's sums of gradients in shared memory; empty if they are in global memory.
    scratch_size : int
        Numbers of a block in the array in global memory that holds the tile's jets; 0 if they are in shared memory.
    """

    variant: Variant
    threads: int
    shared_bytes: int
    staged: int = 0
    copies: tuple[int, ...] = ()
    scratch_size: int = 0


def num_copies(layers: Sequence[tuple[int, int]], threads: int, room: int) -> tuple[int, ...]:
    """Count the copies of every layer's sums: several threads share an edge while there are more threads than edges.

    Parameters
    ----------
    layers : sequence of (int, int)
        Edges, 0 for affine layers, which have one copy, and numbers of each layer's sums.
    threads : int
        Of a block.
    room : int
        Numbers that fit into the memory.

    Returns
    -------
    tuple of int
        Empty if there is no room for one copy of each.

    Notes
    -----
    A layer with c copies takes time 1/c. One by one, that layer gets another copy which gains most for its memory.

    Examples
    --------
    >>> layers = [(20, 260), (100, 1300), (10, 130)]
    >>> num_copies(layers, 128, 10_000), num_copies(layers, 128, 2200), num_copies(layers, 128, 1000)
    ((6, 1, 8), (2, 1, 3), ())
    """
    copies, left = [1] * len(layers), room - sum(size for _, size in layers)
    if left < 0:
        return ()
    most = [min(_MOST_COPIES, threads // edges) if edges else 1 for edges, _ in layers]
    while True:
        gains = [
            (1 / (own * (own + 1) * size), number)
            for number, (own, limit, (_, size)) in enumerate(zip(copies, most, layers, strict=True))
            if own < limit and size <= left
        ]
        if not gains:
            return tuple(copies)
        chosen = max(gains)[1]
        copies[chosen] += 1
        left -= layers[chosen][1]


def geometry(
    limits: Limits,
    *,
    tile: int,
    slots: int,
    numbers: int,
    pairs: int,
    functions: int,
    layers: Sequence[tuple[int, int]],
    itemsize: int,
) -> Geometry:
    """Choose what a block has in shared memory, for a kernel that takes samples through the whole network.

    Parameters
    ----------
    limits : Limits
    tile : int
        Samples that run through the network together.
    slots : int
        Jets of a sample.
    numbers : int
        Of a jet.
    pairs : int
        Of a sample of a tile and an input of the widest layer.
    functions : int
        Numbers that are kept of one input's basis functions; 0 without gradient.
    layers : sequence of (int, int)
        Edges, 0 for affine ones, and coefficients of each layer.
    itemsize : int
        Bytes of a number.

    Returns
    -------
    Geometry

    Notes
    -----
    Best is all in half of the memory, so that one block computes while another one waits: with one block of twice the
    threads, the same work took twice the time. Where the memory does not suffice, there are fewer copies of the sums of
    gradients, then the coefficients stay in global memory, then the sums, then the jets.

    Examples
    --------
    >>> h200 = Limits(num_processors=132, shared_bytes=232448)
    >>> options = {"tile": 64, "slots": 8, "numbers": 1, "pairs": 320, "itemsize": 8}
    >>> geometry(h200, functions=4, layers=[(10, 110), (5, 55)], **options)
    Geometry(variant=..., threads=128, shared_bytes=..., staged=320, copies=(8, 8), scratch_size=0)
    """
    jets, cells = slots * numbers * (tile + 1) * itemsize, slots * (tile + 1) * _INT_BYTES
    size = sum(own for _, own in layers) * itemsize
    row = (-(-functions * itemsize // _PACK_BYTES) | 1) * _PACK_BYTES  # odd: neighbours lie in different banks
    few, many = MAX_THREADS // 2, MAX_THREADS
    half, whole = (few, limits.shared_bytes // 2 - _RESERVED_BYTES), (many, limits.shared_bytes)

    def fixed(threads: int, budget: int) -> tuple[int, int]:
        """Count the pairs whose basis functions are there, and the bytes of these and of the threads' losses."""
        staged = max(1, min(budget // _FUNCTIONS_PART // row, pairs)) if functions else 0
        return staged, 8 * threads + staged * row

    choices = [(place, theta, True) for place in (half, whole) for theta in (True, False)]
    choices += [(place, False, False) for place in (half, whole)] if functions else []
    for (threads, budget), theta, sums in choices:
        staged, used = fixed(threads, budget)
        used += jets + cells + size * theta
        copies = num_copies(layers, threads, (budget - used) // itemsize) if functions and sums else ()
        used += sum(count * own for count, (_, own) in zip(copies, layers, strict=False)) * itemsize
        if used <= budget and (copies or not functions or not sums):
            return Geometry(Variant(tile, True, theta, sums), threads, used, staged, copies)
    staged, used = fixed(*half)
    scratch = -(-(jets + cells) // itemsize)
    return Geometry(Variant(tile, False, False, False), few, used, staged, (), scratch)


def max_blocks(shape: Geometry, *, resident: int, num_coefficients: int, itemsize: int) -> int:
    """Count the most blocks of a launch: as many as run together, if there is memory for what they keep.

    Parameters
    ----------
    shape : Geometry
    resident : int
        Blocks that the device runs together.
    num_coefficients : int
        Length of the gradient that a block sums; 0 without gradient.
    itemsize : int
        Bytes of a number.
    """
    blocks = resident
    if shape.scratch_size:
        blocks = min(blocks, _SCRATCH_BYTES // (shape.scratch_size * itemsize))
    if num_coefficients:
        blocks = min(blocks, _PARTIALS_BYTES // (num_coefficients * itemsize))
    return max(1, blocks)


class Launch(NamedTuple):
    """One launch of a kernel.

    Attributes
    ----------
    kernel : str
        A key of `gpu_source.KERNELS`.
    directions : int
        Of its jets.
    blocks, threads : int
    shared_bytes : int
        Dynamic shared memory of a block.
    """

    kernel: str
    directions: int
    blocks: int
    threads: int
    shared_bytes: int = 0


class Kernels(Protocol):
    """Kernels for one device, type and degree.

    Attributes
    ----------
    limits : Limits
    """

    limits: Limits

    def launch(self, call: CallArguments, *launches: Launch) -> None:
        """Launch kernels on torch's current stream, one after the other."""

    def resident(self, kernel: str, directions: int, threads: int, shared_bytes: int) -> int:
        """Count the blocks that the device runs together."""


class CudaKernels:
    """Kernels compiled by NVRTC through CuPy.

    Parameters
    ----------
    index : int
        Number of the CUDA device.
    type_name : {"double", "float"}
    degree : int
    variant : Variant
    """

    def __init__(self, index: int, type_name: str, degree: int, variant: Variant) -> None:
        self._cupy = import_cupy(f"cuda:{index}")
        self._index, self._type_name, self._degree, self._variant = index, type_name, degree, variant
        self._functions: dict[tuple[str, int], Any] = {}
        attributes = self._cupy.cuda.Device(index).attributes
        self.limits = Limits(attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"])

    def launch(self, call: CallArguments, *launches: Launch) -> None:
        """Launch kernels on torch's current stream, one after the other; the device need not be the current one.

        Notes
        -----
        By the driver's function itself: CuPy's own way of passing arguments takes as long as a small kernel.
        """
        with self._device():
            stream, start = current_stream(self._index), self._cupy.cuda.driver.launchKernel
            # The driver copies the structure before it returns.
            parameters = (ctypes.c_void_p * 1)(ctypes.addressof(call))
            for kernel, directions, blocks, threads, shared_bytes in launches:
                function = self._function(kernel, directions).kernel.ptr
                start(function, blocks, 1, 1, threads, 1, 1, shared_bytes, stream, ctypes.addressof(parameters), 0)

    def _device(self) -> AbstractContextManager[Any]:
        """Make the device the current one, if it is not."""
        return nullcontext() if torch.cuda.current_device() == self._index else torch.cuda.device(self._index)

    def resident(self, kernel: str, directions: int, threads: int, shared_bytes: int) -> int:
        """Count the blocks that the device runs together."""
        with self._device():
            pointer = self._function(kernel, directions).kernel.ptr
            count = self._cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(pointer, threads, shared_bytes)
        return self.limits.num_processors * max(1, int(count))

    def _function(self, kernel: str, directions: int) -> Any:
        """Compile one instance of a kernel, or take it from CuPy's cache on disk."""
        key = kernel, directions
        if key not in self._functions:
            name = expression(kernel, self._type_name, self._degree, directions)
            module = self._cupy.RawModule(code=source(self._variant), options=OPTIONS, name_expressions=(name,))
            function = module.get_function(name)
            function.max_dynamic_shared_size_bytes = self.limits.shared_bytes
            self._functions[key] = function
        return self._functions[key]


@cache
def cuda_kernels(index: int, type_name: str, degree: int, variant: Variant) -> CudaKernels:
    """Return the kernels of a device, always the same for the same arguments.

    Parameters
    ----------
    index : int
    type_name : {"double", "float"}
    degree : int
    variant : Variant
    """
    return CudaKernels(index, type_name, degree, variant)


def all_expressions(type_name: str, degree: int) -> list[str]:
    """Name all instances of all kernels that the package can ask for, of one type and degree.

    Parameters
    ----------
    type_name : {"double", "float"}
    degree : int

    Returns
    -------
    list of str
    """
    numbers = {kernel: numbers or (0,) for kernel, numbers in KERNELS.items()}
    return [expression(kernel, type_name, degree, number) for kernel, own in numbers.items() for number in own]


def merge_blocks(num_coefficients: int, columns: int) -> int:
    """Count the blocks of the merge kernel: one at least, for the losses."""
    return max(1, math.ceil(num_coefficients / columns))
