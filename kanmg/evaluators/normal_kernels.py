"""The compiled kernel of normal equations: J^T J and J^T r from the few entries of J that are not zero.

Of a sample's row of J, an edge with m coefficients has only k + 1 entries that are not zero, those of the functions on
the cell of the edge's input. They are called a strip here, and stand side by side: shape (strips, rows, k + 1). The
coefficients of affine layers are cut into strips of k + 1, which have one cell.

The block of J^T J of two strips is summed in one small array, which stays in the first-level cache, over all rows: an
outer product of k + 1 by k + 1 numbers is added where the two cells say. Pairs of strips are shared out among the parts
of a task, so that every entry of the matrix is summed by one thread, in one order.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from kanmg.evaluators.kernels import (
    LAYERS,
    MATRIX,
    NUM_COEFFICIENTS,
    NUM_LAYERS,
    NUM_TASK_FIELDS,
    PARTS,
    PLACES,
    POINTS,
    SAMPLES,
    SOURCE_VERSION,
    STRIP_CELLS,
    STRIPS,
    VECTOR,
    WORK,
    WORK_BYTES,
    clear,
    entry_point,
    part,
)
from kanmg.evaluators.plan import NUM_STRIP_FIELDS, STRIP_BASIS, STRIP_CELL, STRIP_PLACE
from kanmg.evaluators.simd import load, multiply_add, pointer, read, store, write

__all__ = ["make_normal_equations"]


@part
def add_products(strips, cells, first, second, first_cell, second_cell, rows, num_basis, block, marker):
    """Add the outer products of two strips' entries to a block with rows of `num_basis` entries."""
    count = len(marker)
    for n in range(rows):
        place = read(cells, first_cell + n) * num_basis + read(cells, second_cell + n)
        entries = load(strips, (second + n) * count, marker)
        for s in range(count):
            factor = read(strips, (first + n) * count + s)
            store(block, place, multiply_add(factor, entries, load(block, place, marker)))
            place += num_basis


@part
def add_right_side(strips, cells, first, first_cell, rows, residuals, block, marker):
    """Add a strip's entries times the residuals to the entries of a block's first row."""
    for n in range(rows):
        place = read(cells, first_cell + n)
        entries = load(strips, (first + n) * len(marker), marker)
        store(block, place, multiply_add(read(residuals, n), entries, load(block, place, marker)))


@part
def write_block(block, first, second, places, size, matrix):
    """Write the block of two strips, and its mirror image, to where the user's coefficients are."""
    for i in range(first[STRIP_BASIS]):
        row = read(places, first[STRIP_PLACE] + i)
        for j in range(second[STRIP_BASIS]):
            column = read(places, second[STRIP_PLACE] + j)
            if row >= 0 and column >= 0:
                entry = read(block, i * second[STRIP_BASIS] + j)
                write(matrix, row * size + column, entry)
                write(matrix, column * size + row, entry)


def make_normal_equations(marker, dtype):
    """Compile the kernel that multiplies strips.

    The task's `LAYERS` is the table of strips, its `POINTS` are the residuals, one for each row of J, `STRIPS` the
    entries, `STRIP_CELLS` the cells, shape (inputs, rows), `PLACES` the user's coefficients of the strips' functions
    (-1: none). `MATRIX` and `VECTOR` are overwritten.
    """
    version = SOURCE_VERSION

    @entry_point("void(int64, int64, int64)")
    def multiply(portion, slot, address):
        if version < 0:  # never: names the version, so that it is a part of the cache's key
            return
        task = carray(pointer(address), NUM_TASK_FIELDS, np.int64)
        table = carray(pointer(task[LAYERS]), (task[NUM_LAYERS], NUM_STRIP_FIELDS), np.int64)
        rows, size = task[SAMPLES], task[NUM_COEFFICIENTS]
        residuals = carray(pointer(task[POINTS]), size, dtype)
        strips = carray(pointer(task[STRIPS]), size, dtype)
        cells = carray(pointer(task[STRIP_CELLS]), size, np.int64)
        places = carray(pointer(task[PLACES]), size, np.int64)
        matrix = carray(pointer(task[MATRIX]), size, dtype)
        vector = carray(pointer(task[VECTOR]), size, dtype)
        block = carray(pointer(task[WORK] + slot * task[WORK_BYTES]), size, dtype)
        pairs = len(table) * (len(table) + 1) // 2
        begin, end = portion * pairs // task[PARTS], (portion + 1) * pairs // task[PARTS]
        # Pair number e (e + 1) / 2 + f is that of the strips e and f <= e.
        e = 0
        while (e + 1) * (e + 2) // 2 <= begin:
            e += 1
        f = begin - e * (e + 1) // 2
        for _ in range(begin, end):
            first, second = table[e], table[f]
            num_basis, first_cell = second[STRIP_BASIS], first[STRIP_CELL] * rows
            clear(block, 0, first[STRIP_BASIS] * num_basis)
            second_cell = second[STRIP_CELL] * rows
            add_products(strips, cells, e * rows, f * rows, first_cell, second_cell, rows, num_basis, block, marker)
            write_block(block, first, second, places, size, matrix)
            if e == f:
                clear(block, 0, num_basis)
                add_right_side(strips, cells, e * rows, first_cell, rows, residuals, block, marker)
                for i in range(num_basis):
                    place = read(places, first[STRIP_PLACE] + i)
                    if place >= 0:
                        write(vector, place, read(block, i))
                e, f = e + 1, 0
            else:
                f += 1

    return multiply
