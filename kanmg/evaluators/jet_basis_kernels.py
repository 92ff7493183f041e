"""Parts of compiled kernels: the local basis functions of a layer's inputs with three derivatives, for jets."""

from __future__ import annotations

import numpy as np

from kanmg.evaluators.basis_kernels import find_cell
from kanmg.evaluators.kernels import part, part_inlined
from kanmg.evaluators.plan import (
    CELL_SLOT,
    CELLS,
    CLAMP,
    ERROR,
    EXTEND,
    GROUP,
    INPUT_SLOT,
    INPUTS,
    LINEAR,
    NUMBER,
    OUTSIDE,
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
    nothing,
    read,
    store,
    store_floor,
    subtract,
    where_same,
    write,
)

DERIVATIVES = 4
"""Of the basis functions: from the functions themselves to their third derivatives."""


@part_inlined
def row_length(width):
    """Entries of a row of so many numbers in the workspace: whole vectors, with zeros at the end."""
    return (width + GROUP - 1) // GROUP * GROUP


@part_inlined
def taylor_coefficients(t, tables, polynomial, marker):
    """Evaluate the k + 1 local polynomials and their first three Taylor coefficients at t, by Horner's rule."""
    count = len(marker)
    value = load(tables, polynomial + (count - 1) * count, marker)
    slope, curvature, third = value, nothing(tables, marker), nothing(tables, marker)
    value = multiply_add(t, value, load(tables, polynomial + (count - 2) * count, marker))
    if count > 2:
        curvature = slope
        slope = multiply_add(t, slope, value)
        value = multiply_add(t, value, load(tables, polynomial + (count - 3) * count, marker))
    if count > 3:
        third = curvature
        curvature = multiply_add(t, curvature, slope)
        slope = multiply_add(t, slope, value)
        value = multiply_add(t, value, load(tables, polynomial + (count - 4) * count, marker))
    for j in range(count - 5, -1, -1):
        third = multiply_add(t, third, curvature)
        curvature = multiply_add(t, curvature, slope)
        slope = multiply_add(t, slope, value)
        value = multiply_add(t, value, load(tables, polynomial + j * count, marker))
    return value, slope, curvature, third


@part_inlined
def store_derivatives(t, scale, tables, polynomial, work, place, marker):
    """Write the local functions and their first three derivatives; `scale` is that from t to x."""
    count = len(marker)
    value, slope, curvature, third = taylor_coefficients(t, tables, polynomial, marker)
    store(work, place, value)
    store(work, place + count, multiply(scale, slope))
    store(work, place + 2 * count, multiply(2.0 * scale * scale, curvature))
    store(work, place + 3 * count, multiply(6.0 * scale * scale * scale, third))


@part
def uniform_derivatives(layer, at, p, tables, work, cells, samples, block, numbers, marker):
    """Fill cells and basis functions of one input on uniform knots, continued or clamped outside.

    Four samples at a time: up to three beyond the last one are computed too, from whatever the workspace holds.
    """
    size = DERIVATIVES * len(marker)
    input_slot, cell_slot = layer[INPUT_SLOT] + p, layer[CELL_SLOT] + p * block
    stride, place = numbers * row_length(layer[INPUTS]), layer[VALUE_SLOT] + p * block * size
    left, inverse, polynomial = tables[at], tables[at + 2], at + 3
    low, high, last = -np.inf, np.inf, layer[CELLS] - 1.0
    if layer[OUTSIDE] == CLAMP:
        low, high = left, 1.0 * tables[at + 1]
    for n in range(0, samples, 4):
        x = gather(work, input_slot + n * stride, stride, QUAD)
        # Compared before it is scaled: rounding may take the right end beyond the last cell.
        inside = limit(x, low, high)
        u = affine(inside, left, inverse)
        t = subtract(u, store_floor(cells, cell_slot + n, u, last))
        scale = where_same(x, inside, inverse)
        store_derivatives(lane(t, 0), lane(scale, 0), tables, polynomial, work, place, marker)
        store_derivatives(lane(t, 1), lane(scale, 1), tables, polynomial, work, place + size, marker)
        store_derivatives(lane(t, 2), lane(scale, 2), tables, polynomial, work, place + 2 * size, marker)
        store_derivatives(lane(t, 3), lane(scale, 3), tables, polynomial, work, place + 3 * size, marker)
        place += 4 * size


@part
def local_derivatives(x, layer, at, tables, work, place, status, marker):
    """Write the k + 1 local basis functions at x and their first three derivatives; returns the cell."""
    count = len(marker)
    num_cells, outside = layer[CELLS], layer[OUTSIDE]
    left, right = tables[at], tables[at + 1]
    inside = x
    if outside != EXTEND and (x < left or x > right):
        inside = left if x < left else right
        if outside == ERROR:
            status[0] = layer[NUMBER]
    if layer[UNIFORM]:
        inverse = tables[at + 2]
        t = (inside - left) * inverse
        cell = int(t if 0.0 < t < num_cells - 1 else (num_cells - 1 if t > 0.0 else 0))
        t -= cell
        polynomial = at + 3
    else:
        cell = find_cell(inside, tables, at + 2, num_cells)
        inverse = tables[at + 3 + num_cells + cell]
        t = (inside - tables[at + 2 + cell]) * inverse
        polynomial = at + 3 + 2 * num_cells + cell * count * count
    value, slope, curvature, third = taylor_coefficients(t, tables, polynomial, marker)
    if x < inside or x > inside:
        slope = multiply(inverse if outside == LINEAR else 0.0, slope)
        # An infinite distance times a slope of zero would be NaN.
        excess = x - inside if outside == LINEAR else 0.0
        value = multiply_add(excess, slope, multiply(0.0 if outside == ZERO else 1.0, value))
        curvature, third = multiply(0.0, curvature), multiply(0.0, third)
    else:
        slope = multiply(inverse, slope)
        curvature = multiply(2.0 * inverse * inverse, curvature)
        third = multiply(6.0 * inverse * inverse * inverse, third)
    store(work, place, value)
    store(work, place + count, slope)
    store(work, place + 2 * count, curvature)
    store(work, place + 3 * count, third)
    return cell


@part
def derivatives_of_layer(layer, tables, work, cells, samples, block, numbers, status, marker):
    """Fill cells and basis functions of one spline layer for a block of samples; a jet has so many numbers."""
    num_inputs, size = layer[INPUTS], DERIVATIVES * len(marker)
    for p in range(num_inputs):
        at = layer[TABLE] + p * layer[TABLE_STRIDE]
        if layer[UNIFORM] and (layer[OUTSIDE] == EXTEND or layer[OUTSIDE] == CLAMP):
            uniform_derivatives(layer, at, p, tables, work, cells, samples, block, numbers, marker)
            continue
        for n in range(samples):
            x = read(work, layer[INPUT_SLOT] + n * numbers * row_length(num_inputs) + p)
            position = p * block + n
            place = layer[VALUE_SLOT] + position * size
            cell = local_derivatives(x, layer, at, tables, work, place, status, marker)
            write(cells, layer[CELL_SLOT] + position, cell)
