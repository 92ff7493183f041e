"""What compiled kernels are made of: blocks of samples through the layers, forwards and backwards.

Sizes are run-time numbers; only the largest degree k (through the type of `marker`, a tuple of k + 1 integers) and the
dtype are fixed when a kernel is compiled. `kanmg.evaluators.plan` describes a network in two arrays: `layers`
(integers, one row per layer) and `tables` (knots and local polynomials).

All hidden values, adjoints, cells, basis values and slopes of a block of samples lie in one workspace per thread, small
enough to stay in cache. The loops over a layer run over inputs outside and over samples inside, so that one input's
coefficients stay in the first-level cache while a whole block uses them.

A kernel is called with the number of a portion of the samples, the slot of the thread that computes it (which workspace
is its own), and the address of a *task*: an array of int64 that holds the addresses of all arrays and all sizes. This
keeps the call cheap, takes read-only arrays as they are, and lets one loop, compiled once, run every kernel in
parallel. The kernels themselves are in `sweep`, `jet_kernels`, `dense_kernels` and `normal_kernels`.
"""

from __future__ import annotations

import warnings
import zlib
from functools import cache
from pathlib import Path

from numba import cfunc, njit

from kanmg.errors import KanmgWarning
from kanmg.evaluators.simd import read, write

# Fields of a task. First those that not every call has: addresses of arrays, zero where there is none.
POINTS, TARGETS, WEIGHTS, VALUES, COTANGENTS, GRADIENTS, POINT_GRADIENTS, JACOBIAN = range(8)
DIRECTIONS, THETA_DIRECTION, FIRST, SECOND, FIRST_COTANGENTS, SECOND_COTANGENTS, GRADIENT_BYTES = range(8, 15)
OWN_DIRECTIONS, CURVATURES, STRIPS, STRIP_CELLS, STRIP_ROWS, PLACES, MATRIX, VECTOR = range(15, 23)
KEPT_JETS, KNOWN_JETS = 23, 24
NUM_VARIABLE = 25
THETA, LAYERS, TABLES, WORK, CELL_WORK, LOSSES, STATUS = range(25, 32)
SAMPLES, BLOCK, PARTS, NUM_LAYERS, NUM_COEFFICIENTS, WORK_BYTES, CELL_BYTES = range(32, 39)
NUM_DIRECTIONS, ORDER = 39, 40
NUM_TASK_FIELDS = 41

# Numba's cache on disk looks at the time stamp of one source file only, and knows nothing of what it imports. The
# compiled kernels are therefore keyed on the sources of everything that goes into them; their parts are not cached.
_SOURCES = [
    *(Path(__file__).parent / name for name in ("atomics.py", "simd.py", "plan.py", "sweep.py")),
    *sorted(Path(__file__).parent.glob("*kernels.py")),
]
SOURCE_VERSION = zlib.crc32(b"".join(path.read_bytes() for path in _SOURCES))

# Parts of kernels are never called from Python: without the wrappers for that they compile in half the time. They own
# no arrays: without counts of references to them no call stands between the vector instructions.
part = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False)
part_inlined = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False, forceinline=True)


def entry_point(signature):
    """Compile a function that C can call and keep it on disk, or in memory only where no folder can be written.

    Parameters
    ----------
    signature : str
        As Numba's `cfunc` takes it.
    """

    def compile_function(function):
        try:
            return cfunc(signature, cache=True)(function)
        except (RuntimeError, OSError) as error:
            # Numba says "cannot cache function" where it finds no folder; a full disk is an OSError.
            if isinstance(error, RuntimeError) and "cannot cache" not in str(error):
                raise
            _warn_once()
            return cfunc(signature)(function)

    return compile_function


@cache
def _warn_once():
    warnings.warn(
        "compiled kernels cannot be kept on disk: neither the folder of the package nor a cache folder in your home "
        "can be written. They are compiled anew in every process; set the environment variable NUMBA_CACHE_DIR to a "
        "folder that can be written.",
        KanmgWarning,
        stacklevel=1,
    )


@part
def share(number, parts, samples, block):
    """Share the samples out: the first of one part and of the next; whole blocks, a function of the numbers alone."""
    blocks = (samples + block - 1) // block
    return min(number * blocks // parts * block, samples), min((number + 1) * blocks // parts * block, samples)


@part
def clear(target, start, count):
    """Set `count` numbers to zero."""
    for i in range(count):
        write(target, start + i, 0.0)


@part
def copy(source, first, target, start, count):
    """Copy `count` numbers."""
    for i in range(count):
        write(target, start + i, read(source, first + i))
