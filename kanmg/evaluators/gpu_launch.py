"""Compiled CUDA kernels of one device, and how many blocks and how much memory a call of them takes.

The kernels are compiled through CuPy with NVRTC when they are first called, one by one, and kept on disk by CuPy.
"""

from __future__ import annotations

import ctypes
import math
import threading
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
    "Sums",
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

# Bytes of the number of a cell, and the gap behind those of a tile (`KEY_STRIDE` of layers.cu), of which several are
# read at once.
_KEY_BYTES, _KEY_GAP = 4, 4
_ALIGNMENT = 16

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


class Sums(NamedTuple):
    """What a block sums of the gradient of one layer.

    Attributes
    ----------
    edges : int
        0 for an affine layer.
    coefficients : int
        Numbers of all edges, if they are derivatives by the coefficients.
    moments : int
        The same for moments in the cells; 0 for layers without.
    """

    edges: int
    coefficients: int
    moments: int = 0


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
    copies : tuple of int
        Of every layer's sums of gradients in shared memory; empty if they are in global memory.
    sums_are_moments : bool
        Whether layers that have moments sum them.
    scratch_size : int
        Numbers of a block in the array in global memory that holds the tile's jets; 0 if they are in shared memory.
    """

    variant: Variant
    threads: int
    shared_bytes: int
    copies: tuple[int, ...] = ()
    sums_are_moments: bool = False
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
    >>> num_copies(layers, 128, 10_000), num_copies(layers, 128, 2300), num_copies(layers, 128, 1000)
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
    layers: Sequence[Sums],
    sorted_inputs: int,
    wants_gradient: bool,
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
    layers : sequence of Sums
    sorted_inputs : int
        Most inputs of a layer whose samples are sorted.
    wants_gradient : bool
    itemsize : int
        Bytes of a number.

    Returns
    -------
    Geometry

    Notes
    -----
    Best is all in half of the memory, so that one block computes while another one waits: with one block of twice the
    threads, the same work took twice the time. Where the memory does not suffice, there are fewer copies of the sums of
    gradients, then the coefficients stay in global memory, then the sums, then the jets. Moments are more numbers than
    the derivatives by the coefficients, and never in global memory.

    Examples
    --------
    >>> h200 = Limits(num_processors=132, shared_bytes=232448)
    >>> options = {"tile": 64, "slots": 8, "numbers": 1, "sorted_inputs": 2, "wants_gradient": True, "itemsize": 8}
    >>> geometry(h200, layers=[Sums(10, 110), Sums(5, 55)], **options).copies
    (8, 8)
    """
    jets = slots * (numbers * (tile + 1) * itemsize + (tile + _KEY_GAP) * _KEY_BYTES)
    order = sorted_inputs * tile if wants_gradient else 0
    size = sum(own.coefficients for own in layers) * itemsize
    few, many = MAX_THREADS // 2, MAX_THREADS
    half, whole = (few, limits.shared_bytes // 2 - _RESERVED_BYTES), (many, limits.shared_bytes)
    places = [(place, theta) for place in (half, whole) for theta in (True, False)]
    for (threads, budget), theta in places:
        used = 8 * threads + order + jets + size * theta
        variant = Variant(tile, theta_is_shared=theta)
        if not wants_gradient and used <= budget:
            return Geometry(variant, threads, used)
        for moments in (True, False) if wants_gradient else ():
            sums = [(own.edges, (own.moments if moments else 0) or own.coefficients) for own in layers]
            copies = num_copies(sums, threads, (budget - used) // itemsize)
            if copies:
                own = sum(count * number for count, (_, number) in zip(copies, sums, strict=True)) * itemsize
                return Geometry(variant, threads, used + own, copies, moments)
    for threads, budget in (half, whole):
        used = 8 * threads + order + jets
        if used <= budget:
            variant = Variant(tile, theta_is_shared=False, sums_are_shared=False)
            return Geometry(variant, threads, used)
    scratch = -(-jets // _ALIGNMENT) * _ALIGNMENT // itemsize
    return Geometry(Variant(tile, False, False, False), few, 8 * few + order, scratch_size=scratch)


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
        self._modules: list[Any] = []
        self._functions: dict[tuple[str, int], int] = {}
        self._thread = threading.local()
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
                function = self._function(kernel, directions)
                start(function, blocks, 1, 1, threads, 1, 1, shared_bytes, stream, ctypes.addressof(parameters), 0)

    def _device(self) -> AbstractContextManager[Any]:
        """Make the device the current one, if it is not."""
        if torch.cuda.current_device() != self._index:
            return torch.cuda.device(self._index)
        if not hasattr(self._thread, "has_context"):
            # To torch, device 0 is the current one of a new thread. To the driver, which launches, there is none before
            # the runtime is told, and torch need not tell it where it returns memory that it has kept.
            self._cupy.cuda.runtime.setDevice(self._index)
            self._thread.has_context = True
        return nullcontext()

    def resident(self, kernel: str, directions: int, threads: int, shared_bytes: int) -> int:
        """Count the blocks that the device runs together."""
        with self._device():
            pointer = self._function(kernel, directions)
            count = self._cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(pointer, threads, shared_bytes)
        return self.limits.num_processors * max(1, int(count))

    def _function(self, kernel: str, directions: int) -> int:
        """Compile one instance of a kernel, or take it from CuPy's cache on disk; returns the driver's handle of it."""
        key = kernel, directions
        if key not in self._functions:
            name = expression(kernel, self._type_name, self._degree, directions)
            module = self._cupy.RawModule(code=source(self._variant), options=OPTIONS, name_expressions=(name,))
            function = module.get_function(name)
            function.max_dynamic_shared_size_bytes = self.limits.shared_bytes
            self._modules.append(module)  # the handle is valid as long as there is the module
            self._functions[key] = function.kernel.ptr
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
