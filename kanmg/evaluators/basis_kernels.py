"""Parts of compiled kernels: the local basis functions of a layer's inputs, for a block of samples."""

from __future__ import annotations

import numpy as np

from kanmg.evaluators.kernels import part, part_inlined
from kanmg.evaluators.plan import (
    CELL_SLOT,
    CELLS,
    CLAMP,
    ERROR,
    EXTEND,
    INPUT_SLOT,
    INPUTS,
    LINEAR,
    NUMBER,
    OUTSIDE,
    SLOPE_SLOT,
    TABLE,
    TABLE_STRIDE,
    UNIFORM,
    VALUE_SLOT,
    ZERO,
)
from kanmg.evaluators.simd import (
    QUAD,
    affine,
    gather,
    lane,
    limit,
    load,
    multiply,
    multiply_add,
    read,
    store,
    store_floor,
    subtract,
    where_same,
)


@part_inlined
def local_values(t, tables, polynomial, marker):
    """Evaluate the k + 1 local functions and their derivatives in t, by Horner's rule on vectors of coefficients."""
    count = len(marker)
    slope = load(tables, polynomial + (count - 1) * count, marker)
    value = multiply_add(t, slope, load(tables, polynomial + (count - 2) * count, marker))
    for j in range(count - 3, -1, -1):
        slope = multiply_add(t, slope, value)
        value = multiply_add(t, value, load(tables, polynomial + j * count, marker))
    return value, slope


@part_inlined
def store_local_values(t, scale, tables, polynomial, work, value_place, slope_place, want_slopes, marker):
    """Write the local functions and, where wanted, their derivatives times `scale`."""
    value, slope = local_values(t, tables, polynomial, marker)
    store(work, value_place, value)
    if want_slopes:
        store(work, slope_place, multiply(scale, slope))


@part
def uniform_basis(layer, at, p, tables, work, cells, samples, block, want_slopes, marker):
    """Fill cells, basis values and slopes of one input on uniform knots, continued or clamped outside.

    Four samples at a time: up to three beyond the last one are computed too, from whatever the workspace holds.
    """
    count = len(marker)
    num_inputs, num_cells = layer[INPUTS], layer[CELLS]
    input_slot, cell_slot = layer[INPUT_SLOT] + p, layer[CELL_SLOT] + p * block
    value_slot, slope_slot = layer[VALUE_SLOT] + p * block * count, layer[SLOPE_SLOT] + p * block * count
    left, inverse, polynomial = tables[at], tables[at + 2], at + 3
    low, high, last = -np.inf, np.inf, num_cells - 1.0
    if layer[OUTSIDE] == CLAMP:
        low, high = left, 1.0 * tables[at + 1]
    for n in range(0, samples, 4):
        x = gather(work, input_slot + n * num_inputs, num_inputs, QUAD)
        # Compared before it is scaled: rounding may take the right end beyond the last cell.
        inside = limit(x, low, high)
        u = affine(inside, left, inverse)
        t = subtract(u, store_floor(cells, cell_slot + n, u, last))
        scale = where_same(x, inside, inverse)
        value, slope = value_slot + n * count, slope_slot + n * count
        store_local_values(lane(t, 0), lane(scale, 0), tables, polynomial, work, value, slope, want_slopes, marker)
        value, slope = value + count, slope + count
        store_local_values(lane(t, 1), lane(scale, 1), tables, polynomial, work, value, slope, want_slopes, marker)
        value, slope = value + count, slope + count
        store_local_values(lane(t, 2), lane(scale, 2), tables, polynomial, work, value, slope, want_slopes, marker)
        value, slope = value + count, slope + count
        store_local_values(lane(t, 3), lane(scale, 3), tables, polynomial, work, value, slope, want_slopes, marker)


@part_inlined
def find_cell(x, tables, breakpoints, num_cells):
    """Find the cell that holds x: the last whose left end is not beyond it. Outside, and for NaN, an end cell."""
    low = 0
    high = num_cells
    while high - low > 1:
        middle = (low + high) // 2
        if x >= read(tables, breakpoints + middle):
            low = middle
        else:
            high = middle
    return low


@part
def general_basis(layer, at, p, tables, work, cells, samples, block, want_slopes, status, marker):
    """Fill cells, basis values and slopes of one input, for any knots and any policy outside."""
    count = len(marker)
    num_inputs, num_cells, uniform, outside = layer[INPUTS], layer[CELLS], layer[UNIFORM], layer[OUTSIDE]
    left, right = tables[at], tables[at + 1]
    for n in range(samples):
        x = work[layer[INPUT_SLOT] + n * num_inputs + p]
        inside = x
        if outside != EXTEND and (x < left or x > right):
            inside = left if x < left else right
            if outside == ERROR:
                status[0] = layer[NUMBER]
        if uniform:
            inverse = tables[at + 2]
            t = (inside - left) * inverse
            cell = np.int64(t if 0.0 < t < num_cells - 1 else (num_cells - 1 if t > 0.0 else 0))
            t -= cell
            polynomial = at + 3
        else:
            cell = find_cell(inside, tables, at + 2, num_cells)
            inverse = tables[at + 3 + num_cells + cell]
            t = (inside - tables[at + 2 + cell]) * inverse
            polynomial = at + 3 + 2 * num_cells + cell * count * count
        value, slope = local_values(t, tables, polynomial, marker)
        if x < inside or x > inside:
            slope = multiply(inverse if outside == LINEAR else 0.0, slope)
            # An infinite distance times a slope of zero would be NaN.
            excess = x - inside if outside == LINEAR else 0.0
            value = multiply_add(excess, slope, multiply(0.0 if outside == ZERO else 1.0, value))
        else:
            slope = multiply(inverse, slope)
        position = p * block + n
        cells[layer[CELL_SLOT] + position] = cell
        store(work, layer[VALUE_SLOT] + position * count, value)
        if want_slopes:
            store(work, layer[SLOPE_SLOT] + position * count, slope)


@part
def basis_of_layer(layer, tables, work, cells, samples, block, want_slopes, status, marker):
    """Fill cells, basis values and slopes of one spline layer for a block of samples."""
    for p in range(layer[INPUTS]):
        at = layer[TABLE] + p * layer[TABLE_STRIDE]
        if layer[UNIFORM] and (layer[OUTSIDE] == EXTEND or layer[OUTSIDE] == CLAMP):
            uniform_basis(layer, at, p, tables, work, cells, samples, block, want_slopes, marker)
        else:
            general_basis(layer, at, p, tables, work, cells, samples, block, want_slopes, status, marker)
