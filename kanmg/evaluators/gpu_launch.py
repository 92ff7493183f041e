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
from kanmg.evaluators.gpu_source import KERNELS, MAX_THREADS, OPTIONS, STAGED, expression, source

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

# Copies of a layer's sums of gradients: the first that fit.
_COPIES = (8, 4, 2, 1)

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
    threads : int
        Of a block.
    shared_bytes : int
        Dynamic shared memory of a block.
    scratch_entries : int
        Length of a block's part of the array in global memory that holds the tile's jets; 0 if they are in shared
        memory.
    theta_is_shared : bool
        Whether a copy of the coefficients is in shared memory.
    copies : int
        Of a block's sums of gradients in shared memory, at most; 0 if they are in global memory.
    """

    threads: int
    shared_bytes: int
    scratch_entries: int
    theta_is_shared: bool
    copies: int


def num_copies(edges: int, threads: int, most: int) -> int:
    """Count the copies of a layer's sums: while its edges are fewer than the threads, several threads share an edge.

    Parameters
    ----------
    edges : int
        Of the layer; 0 for an affine layer, which has one copy.
    threads : int
        Of a block.
    most : int

    Examples
    --------
    >>> num_copies(20, 128, 8), num_copies(20, 128, 4), num_copies(100, 128, 8)
    (6, 4, 1)
    """
    return max(1, min(most, threads // edges)) if edges else 1


def geometry(
    limits: Limits,
    *,
    tile: int,
    entries: int,
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
    entries : int
        Numbers of one sample's jets.
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
    >>> geometry(h200, tile=64, entries=8, functions=4, layers=[(10, 110), (5, 55)], itemsize=8)
    Geometry(threads=128, shared_bytes=21672, scratch_entries=0, theta_is_shared=True, copies=8)
    """
    jets, size = entries * (tile + 1) * itemsize, sum(own for _, own in layers) * itemsize
    fixed = STAGED * (functions * itemsize + 4) if functions else 0
    few, many = MAX_THREADS // 2, MAX_THREADS
    half, whole = (few, limits.shared_bytes // 2 - _RESERVED_BYTES), (many, limits.shared_bytes)
    with_sums = [
        (place, is_shared, copies) for place in (half, whole) for is_shared in (True, False) for copies in _COPIES
    ]
    without_sums = [(place, is_shared, 0) for place in (half, whole) for is_shared in (True, False)]
    for (threads, budget), is_shared, copies in [*(with_sums if functions else []), *without_sums]:
        sums = sum(own * num_copies(edges, threads, copies) for edges, own in layers) * itemsize if copies else 0
        used = 8 * threads + fixed + jets + size * is_shared + sums
        if used <= budget:
            return Geometry(threads, used, 0, is_shared, copies)
    return Geometry(few, 8 * few + fixed, entries * (tile + 1), theta_is_shared=False, copies=0)


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
    if shape.scratch_entries:
        blocks = min(blocks, _SCRATCH_BYTES // (shape.scratch_entries * itemsize))
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
    tile : int
        Samples that run through the network together.
    """

    def __init__(self, index: int, type_name: str, degree: int, tile: int) -> None:
        self._cupy = import_cupy(f"cuda:{index}")
        self._index, self._type_name, self._degree, self._tile = index, type_name, degree, tile
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
            module = self._cupy.RawModule(code=source(self._tile), options=OPTIONS, name_expressions=(name,))
            function = module.get_function(name)
            function.max_dynamic_shared_size_bytes = self.limits.shared_bytes
            self._functions[key] = function
        return self._functions[key]


@cache
def cuda_kernels(index: int, type_name: str, degree: int, tile: int) -> CudaKernels:
    """Return the kernels of a device, always the same for the same arguments.

    Parameters
    ----------
    index : int
    type_name : {"double", "float"}
    degree : int
    tile : int
    """
    return CudaKernels(index, type_name, degree, tile)


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
