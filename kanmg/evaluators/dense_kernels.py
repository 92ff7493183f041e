"""Compiled kernels of the dense-product path: what stands before and after the matrix products of one layer."""

from __future__ import annotations

import numpy as np
from numba import carray

from kanmg.evaluators.basis_kernels import basis_of_layer
from kanmg.evaluators.kernels import (
    BLOCK,
    CELL_BYTES,
    CELL_WORK,
    COTANGENTS,
    LAYERS,
    NUM_LAYERS,
    NUM_TASK_FIELDS,
    PARTS,
    POINT_GRADIENTS,
    POINTS,
    SAMPLES,
    SOURCE_VERSION,
    STATUS,
    TABLES,
    VALUES,
    WORK,
    WORK_BYTES,
    copy,
    entry_point,
    share,
)
from kanmg.evaluators.plan import BASIS, CELL_SLOT, INPUTS, NUM_FIELDS, SLOPE_SLOT, VALUE_SLOT
from kanmg.evaluators.simd import dot, load, pointer, read, store, write

__all__ = ["make_dense_basis"]


def make_dense_basis(marker, dtype):
    """Compile the kernel of dense basis matrices.

    The task's first layer alone counts. Of the task's points, shape (N, P), it writes all m basis functions, zeros
    included, to `VALUES`, shape (N, P m); and where `COTANGENTS` of that shape are given, their contraction with the
    basis functions' derivatives to `POINT_GRADIENTS`, shape (N, P).
    """
    version = SOURCE_VERSION

    @entry_point("void(int64, int64, int64)")
    def kernel(portion, slot, address):
        if version < 0:  # never: names the version, so that it is a part of the cache's key
            return
        count = len(marker)
        task = carray(pointer(address), NUM_TASK_FIELDS, np.int64)
        layer = carray(pointer(task[LAYERS]), (task[NUM_LAYERS], NUM_FIELDS), np.int64)[0]
        num_inputs, num_basis, block = layer[INPUTS], layer[BASIS], task[BLOCK]
        cell_slot, value_slot, slope_slot = layer[CELL_SLOT], layer[VALUE_SLOT], layer[SLOPE_SLOT]
        # The kernels address by element and never ask for a length.
        x = carray(pointer(task[POINTS]), 1, dtype)
        tables = carray(pointer(task[TABLES]), 1, dtype)
        values = carray(pointer(task[VALUES]), 1, dtype)
        cotangents = carray(pointer(task[COTANGENTS]), 1, dtype)
        point_gradients = carray(pointer(task[POINT_GRADIENTS]), 1, dtype)
        work = carray(pointer(task[WORK] + slot * task[WORK_BYTES]), 1, dtype)
        cells = carray(pointer(task[CELL_WORK] + slot * task[CELL_BYTES]), 1, np.int64)
        status = carray(pointer(task[STATUS] + portion * 8), 1, np.int64)
        first, last = share(portion, task[PARTS], task[SAMPLES], block)
        for begin in range(first, last, block):
            samples = min(block, last - begin)
            copy(x, begin * num_inputs, work, 0, samples * num_inputs)
            basis_of_layer(layer, tables, work, cells, samples, block, task[COTANGENTS] != 0, status, marker)
            for n in range(samples):
                for p in range(num_inputs):
                    position = p * block + n
                    cell = read(cells, cell_slot + position)
                    column = (begin + n) * num_inputs + p
                    if task[VALUES] != 0:
                        for i in range(num_basis):
                            write(values, column * num_basis + i, 0.0)
                        store(values, column * num_basis + cell, load(work, value_slot + position * count, marker))
                    if task[COTANGENTS] != 0:
                        slope = load(work, slope_slot + position * count, marker)
                        pulled = dot(slope, load(cotangents, column * num_basis + cell, marker))
                        write(point_gradients, column, pulled)

    return kernel
