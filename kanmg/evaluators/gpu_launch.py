"""Compiled CUDA kernels of one device, and how many blocks and how much memory a call of them takes.

The kernels are compiled through CuPy with NVRTC when they are first called, one by one, and kept on disk by CuPy.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kanmg.devices import current_stream, import_cupy
from kanmg.evaluators.gpu_source import KERNELS, MAX_THREADS, OPTIONS, expression, source

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CudaKernels",
    "Geometry",
    "Kernels",
    "Limits",
    "all_expressions",
    "cuda_kernels",
    "geometry",
    "merge_blocks",
]

# Bytes of the basis functions of a part of a tile; of all blocks' partial gradients; of all blocks' scratch.
_STAGE_BYTES = 1 << 14
_PARTIALS_BYTES = 1 << 28
_SCRATCH_BYTES = 1 << 28

_MIN_THREADS = 32
_BLOCKS_PER_PROCESSOR = 4


class Limits(NamedTuple):
    """What a device has.

    Attributes
    ----------
    num_processors : int
        Multiprocessors.
    shared_bytes : int
        Shared memory that one block may take.
    """

    num_processors: int
    shared_bytes: int


class Geometry(NamedTuple):
    """How a kernel is launched.

    Attributes
    ----------
    blocks, threads : int
    shared_bytes : int
        Dynamic shared memory of a block.
    staged : int
        Pairs of samples and inputs whose basis functions are in shared memory at a time.
    scratch_entries : int
        Length of the array in global memory that holds the tiles' jets; 0 if they are in shared memory.
    gradient_is_shared : bool
        Whether a block's sum of gradients is in shared memory.
    """

    blocks: int
    threads: int
    shared_bytes: int
    staged: int
    scratch_entries: int
    gradient_is_shared: bool


def geometry(
    limits: Limits, *, num_samples: int, entries: int, functions: int, num_coefficients: int, itemsize: int
) -> Geometry:
    """Choose the launch of a kernel that takes samples through the whole network.

    Parameters
    ----------
    limits : Limits
    num_samples : int
    entries : int
        Numbers of one sample's jets.
    functions : int
        Numbers that are kept of one input's basis functions; 0 without gradient.
    num_coefficients : int
        Length of the gradient that a block sums; 0 without gradient.
    itemsize : int
        Bytes of a number.

    Returns
    -------
    Geometry

    Notes
    -----
    As many threads as the tile's jets leave room for in shared memory; where not even one warp's fit, the jets lie in
    global memory. The sum of gradients takes what room is left.

    Examples
    --------
    >>> h200 = Limits(num_processors=132, shared_bytes=232448)
    >>> geometry(h200, num_samples=20000, entries=8, functions=4, num_coefficients=120, itemsize=8)
    Geometry(blocks=157, threads=128, shared_bytes=26620, staged=455, scratch_entries=0, gradient_is_shared=True)
    """
    staged = max(1, _STAGE_BYTES // (functions * itemsize + 4)) if functions else 0
    stage_bytes = staged * (functions * itemsize + 4)
    threads = MAX_THREADS
    while threads >= _MIN_THREADS:
        used = threads * 8 + stage_bytes + entries * (threads + 1) * itemsize
        if used <= limits.shared_bytes:
            break
        threads //= 2
    in_global_memory = threads < _MIN_THREADS
    if in_global_memory:
        threads = MAX_THREADS
        used = threads * 8 + stage_bytes
    gradient_bytes = num_coefficients * itemsize
    is_shared = num_coefficients > 0 and used + gradient_bytes <= limits.shared_bytes
    used += gradient_bytes * is_shared
    tile_entries = entries * (threads + 1)
    blocks = min(-(-num_samples // threads), limits.num_processors * _BLOCKS_PER_PROCESSOR)
    if in_global_memory:
        blocks = min(blocks, _SCRATCH_BYTES // (tile_entries * itemsize))
    if num_coefficients:
        blocks = min(blocks, _PARTIALS_BYTES // gradient_bytes)
    blocks = max(1, blocks)
    return Geometry(blocks, threads, used, staged, blocks * tile_entries * in_global_memory, is_shared)


class Kernels(Protocol):
    """Kernels for one device, type and degree.

    Attributes
    ----------
    limits : Limits
    """

    limits: Limits

    def launch(
        self, kernel: str, order: int, blocks: int, threads: int, shared_bytes: int, call: Sequence[int]
    ) -> None:
        """Launch a kernel of `gpu_source.KERNELS` on torch's current stream; `call` are its `FIELDS`."""


class CudaKernels:
    """Kernels compiled by NVRTC through CuPy.

    Parameters
    ----------
    index : int
        Number of the CUDA device.
    type_name : {"double", "float"}
    degree : int
    """

    def __init__(self, index: int, type_name: str, degree: int) -> None:
        self._cupy = import_cupy(f"cuda:{index}")
        self._index, self._type_name, self._degree = index, type_name, degree
        self._functions: dict[str, Any] = {}
        attributes = self._cupy.cuda.Device(index).attributes
        self.limits = Limits(attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"])

    def launch(
        self, kernel: str, order: int, blocks: int, threads: int, shared_bytes: int, call: Sequence[int]
    ) -> None:
        """Launch a kernel on torch's current stream; the device need not be the current one."""
        with self._cupy.cuda.Device(self._index), current_stream(self._index):
            function = self._function(expression(kernel, self._type_name, self._degree, order))
            function((blocks,), (threads,), tuple(call), shared_mem=shared_bytes)

    def _function(self, name: str) -> Any:
        """Compile one instance of a kernel, or take it from CuPy's cache on disk."""
        if name not in self._functions:
            module = self._cupy.RawModule(code=source(), options=OPTIONS, name_expressions=(name,))
            function = module.get_function(name)
            function.max_dynamic_shared_size_bytes = self.limits.shared_bytes
            self._functions[name] = function
        return self._functions[name]


@cache
def cuda_kernels(index: int, type_name: str, degree: int) -> CudaKernels:
    """Return the kernels of a device, always the same for the same arguments.

    Parameters
    ----------
    index : int
    type_name : {"double", "float"}
    degree : int
    """
    return CudaKernels(index, type_name, degree)


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
    orders = {kernel: orders or (0,) for kernel, orders in KERNELS.items()}
    return [expression(kernel, type_name, degree, order) for kernel, own in orders.items() for order in own]


def merge_blocks(num_coefficients: int, columns: int) -> int:
    """Count the blocks of the merge kernel: one at least, for the losses."""
    return max(1, math.ceil(num_coefficients / columns))
