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
parallel. The kernels themselves are in `sweep`, `jet_kernels` and `dense_kernels`.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numba import njit

from kanmg.evaluators.plan import (
    ADJOINT_SLOT,
    AFFINE,
    BASIS,
    BIAS,
    CELL_SLOT,
    CELLS,
    CLAMP,
    COEFFICIENTS,
    COTANGENT_SLOT,
    ERROR,
    EXTEND,
    INPUT_SLOT,
    INPUTS,
    KIND,
    LINEAR,
    NUMBER,
    OUTPUT_SLOT,
    OUTPUTS,
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
    WIDE,
    affine,
    dot,
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
    total,
    where_same,
    write,
)

# Fields of a task. First those that not every call has: addresses of arrays, zero where there is none.
POINTS, TARGETS, WEIGHTS, VALUES, COTANGENTS, GRADIENTS, POINT_GRADIENTS, JACOBIAN = range(8)
DIRECTION, THETA_DIRECTION, FIRST, SECOND, GRADIENT_BYTES = range(8, 13)
NUM_VARIABLE = 13
THETA, LAYERS, TABLES, WORK, CELL_WORK, LOSSES, STATUS = range(13, 20)
SAMPLES, BLOCK, PARTS, NUM_LAYERS, NUM_COEFFICIENTS, WORK_BYTES, CELL_BYTES = range(20, 27)
NUM_TASK_FIELDS = 27

# Numba's cache on disk looks at the time stamp of one source file only, and knows nothing of what it imports. The
# compiled kernels are therefore keyed on the sources of everything that goes into them; their parts are not cached.
_SOURCES = (
    "simd.py",
    "atomics.py",
    "pool.py",
    "plan.py",
    "kernels.py",
    "sweep.py",
    "jet_kernels.py",
    "dense_kernels.py",
)
SOURCE_VERSION = zlib.crc32(b"".join((Path(__file__).parent / name).read_bytes() for name in _SOURCES))

# Parts of kernels are never called from Python: without the wrappers for that they compile in half the time.
part = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
part_inlined = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)

ONE = (0,)
"""Marker of one weight per input: what an affine layer has where a spline layer has k + 1."""


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
        low, high = 0.0, 1.0 * num_cells
    for n in range(0, samples, 4):
        u = affine(gather(work, input_slot + n * num_inputs, num_inputs, QUAD), left, inverse)
        inside = limit(u, low, high)
        t = subtract(inside, store_floor(cells, cell_slot + n, u, last))
        scale = where_same(u, inside, inverse)
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
            value = multiply_add(x - inside, slope, multiply(0.0 if outside == ZERO else 1.0, value))
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


@part_inlined
def contract(theta, row, num_outputs, work, weights, output, marker):
    """`output[q] += sum_s weights[s] * theta[row + s * num_outputs + q]` for all outputs q."""
    q = 0
    while q + 16 <= num_outputs:
        wide = load(work, output + q, WIDE)
        for s in range(len(marker)):
            wide = multiply_add(read(work, weights + s), load(theta, row + s * num_outputs + q, WIDE), wide)
        store(work, output + q, wide)
        q += 16
    while q + 4 <= num_outputs:
        quad = load(work, output + q, QUAD)
        for s in range(len(marker)):
            quad = multiply_add(read(work, weights + s), load(theta, row + s * num_outputs + q, QUAD), quad)
        store(work, output + q, quad)
        q += 4
    while q < num_outputs:
        single = read(work, output + q)
        for s in range(len(marker)):
            single += read(work, weights + s) * read(theta, row + s * num_outputs + q)
        write(work, output + q, single)
        q += 1


@part_inlined
def spread(gradient, row, num_outputs, work, weights, cotangent, marker):
    """`gradient[row + s * num_outputs + q] += weights[s] * cotangent[q]`: the transpose of `contract` in theta."""
    q = 0
    while q + 16 <= num_outputs:
        wide = load(work, cotangent + q, WIDE)
        for s in range(len(marker)):
            place = row + s * num_outputs + q
            store(gradient, place, multiply_add(read(work, weights + s), wide, load(gradient, place, WIDE)))
        q += 16
    while q + 4 <= num_outputs:
        quad = load(work, cotangent + q, QUAD)
        for s in range(len(marker)):
            place = row + s * num_outputs + q
            store(gradient, place, multiply_add(read(work, weights + s), quad, load(gradient, place, QUAD)))
        q += 4
    while q < num_outputs:
        single = read(work, cotangent + q)
        for s in range(len(marker)):
            place = row + s * num_outputs + q
            write(gradient, place, read(gradient, place) + read(work, weights + s) * single)
        q += 1


@part_inlined
def pull(theta, row, num_outputs, work, weights, cotangent, marker):
    """`sum_q cotangent[q] * sum_s weights[s] * theta[row + s * num_outputs + q]`: the transpose in the input."""
    result = 0.0
    q = 0
    if num_outputs >= 16:
        many = nothing(work, WIDE)
        while q + 16 <= num_outputs:
            wide = multiply(read(work, weights), load(theta, row + q, WIDE))
            for s in range(1, len(marker)):
                wide = multiply_add(read(work, weights + s), load(theta, row + s * num_outputs + q, WIDE), wide)
            many = multiply_add(wide, load(work, cotangent + q, WIDE), many)
            q += 16
        result += total(many)
    while q + 4 <= num_outputs:
        quad = multiply(read(work, weights), load(theta, row + q, QUAD))
        for s in range(1, len(marker)):
            quad = multiply_add(read(work, weights + s), load(theta, row + s * num_outputs + q, QUAD), quad)
        result += dot(quad, load(work, cotangent + q, QUAD))
        q += 4
    while q < num_outputs:
        single = read(work, weights) * read(theta, row + q)
        for s in range(1, len(marker)):
            single += read(work, weights + s) * read(theta, row + s * num_outputs + q)
        result += single * read(work, cotangent + q)
        q += 1
    return result


@part
def forward_spline(layer, theta, work, cells, samples, block, marker):
    """Write the outputs of a spline layer whose basis values are there, for a block of samples."""
    count = len(marker)
    num_inputs, num_outputs, output_slot = layer[INPUTS], layer[OUTPUTS], layer[OUTPUT_SLOT]
    cell_slot, value_slot, first = layer[CELL_SLOT], layer[VALUE_SLOT], layer[COEFFICIENTS]
    per_input = layer[BASIS] * num_outputs
    if num_outputs == 1:
        for n in range(samples):
            y = nothing(work, marker)
            for p in range(num_inputs):
                position = p * block + n
                row = first + p * per_input + read(cells, cell_slot + position)
                y = multiply_add(load(work, value_slot + position * count, marker), load(theta, row, marker), y)
            write(work, output_slot + n, total(y))
        return
    for i in range(samples * num_outputs):
        write(work, output_slot + i, 0.0)
    for p in range(num_inputs):
        for n in range(samples):
            position = p * block + n
            row = first + p * per_input + read(cells, cell_slot + position) * num_outputs
            contract(
                theta, row, num_outputs, work, value_slot + position * count, output_slot + n * num_outputs, marker
            )


@part
def backward_spline(layer, theta, work, cells, samples, block, want_inputs, gradient, start, stride, marker):
    """Add the gradients of a spline layer with respect to its coefficients; where wanted, write its inputs' adjoints.

    The gradient of sample n is added to `gradient[start + n * stride:]`: stride 0 sums over samples.
    """
    count = len(marker)
    num_inputs, num_outputs = layer[INPUTS], layer[OUTPUTS]
    cotangent_slot, adjoint_slot = layer[COTANGENT_SLOT], layer[ADJOINT_SLOT]
    cell_slot, value_slot, slope_slot = layer[CELL_SLOT], layer[VALUE_SLOT], layer[SLOPE_SLOT]
    first, per_input = layer[COEFFICIENTS], layer[BASIS] * num_outputs
    if num_outputs == 1:
        # Inputs inside: two samples in a row often share a part of their coefficients, and reading what was just
        # written with another alignment stalls the processor.
        for n in range(samples):
            cotangent = read(work, cotangent_slot + n)
            for p in range(num_inputs):
                position = p * block + n
                row = first + p * per_input + read(cells, cell_slot + position)
                place = start + n * stride + row
                value = load(work, value_slot + position * count, marker)
                store(gradient, place, multiply_add(cotangent, value, load(gradient, place, marker)))
                if want_inputs:
                    slope = dot(load(work, slope_slot + position * count, marker), load(theta, row, marker))
                    write(work, adjoint_slot + n * num_inputs + p, cotangent * slope)
        return
    for p in range(num_inputs):
        for n in range(samples):
            position = p * block + n
            row = first + p * per_input + read(cells, cell_slot + position) * num_outputs
            cotangent = cotangent_slot + n * num_outputs
            spread(
                gradient, start + n * stride + row, num_outputs, work, value_slot + position * count, cotangent, marker
            )
            if want_inputs:
                pulled = pull(theta, row, num_outputs, work, slope_slot + position * count, cotangent, marker)
                write(work, adjoint_slot + n * num_inputs + p, pulled)


@part
def forward_affine(layer, theta, work, samples):
    """Write the outputs of an affine layer for a block of samples."""
    num_inputs, num_outputs = layer[INPUTS], layer[OUTPUTS]
    input_slot, output_slot, first = layer[INPUT_SLOT], layer[OUTPUT_SLOT], layer[COEFFICIENTS]
    has_bias = layer[BIAS]
    for n in range(samples):
        output = output_slot + n * num_outputs
        for q in range(num_outputs):
            write(work, output + q, read(theta, first + num_inputs * num_outputs + q) if has_bias else 0.0)
        for p in range(num_inputs):
            contract(theta, first + p * num_outputs, num_outputs, work, input_slot + n * num_inputs + p, output, ONE)


@part
def backward_affine(layer, theta, work, samples, want_inputs, gradient, start, stride):
    """Add the gradients of an affine layer; arguments as those of `backward_spline`."""
    num_inputs, num_outputs = layer[INPUTS], layer[OUTPUTS]
    input_slot, adjoint_slot, first = layer[INPUT_SLOT], layer[ADJOINT_SLOT], layer[COEFFICIENTS]
    cotangent_slot, has_bias = layer[COTANGENT_SLOT], layer[BIAS]
    for n in range(samples):
        cotangent = cotangent_slot + n * num_outputs
        place = start + n * stride + first
        for p in range(num_inputs):
            z = input_slot + n * num_inputs + p
            spread(gradient, place + p * num_outputs, num_outputs, work, z, cotangent, ONE)
            if want_inputs:
                pulled = 0.0
                for q in range(num_outputs):
                    pulled += read(theta, first + p * num_outputs + q) * read(work, cotangent + q)
                write(work, adjoint_slot + n * num_inputs + p, pulled)
        if has_bias:
            bias = place + num_inputs * num_outputs
            for q in range(num_outputs):
                write(gradient, bias + q, read(gradient, bias + q) + read(work, cotangent + q))


@part
def forward(layers, theta, tables, work, cells, samples, block, slopes_from, status, marker):
    """Run a block of samples through all layers; slopes are kept from layer `slopes_from` on."""
    for number in range(len(layers)):
        layer = layers[number]
        if layer[KIND] == AFFINE:
            forward_affine(layer, theta, work, samples)
        else:
            basis_of_layer(layer, tables, work, cells, samples, block, number >= slopes_from, status, marker)
            forward_spline(layer, theta, work, cells, samples, block, marker)


@part
def backward(layers, theta, work, cells, samples, block, inputs_from, gradient, start, stride, marker):
    """Run the adjoint sweep; adjoints of a layer's inputs are computed from layer `inputs_from` on."""
    for number in range(len(layers) - 1, -1, -1):
        layer = layers[number]
        want_inputs = number >= inputs_from
        if layer[KIND] == AFFINE:
            backward_affine(layer, theta, work, samples, want_inputs, gradient, start, stride)
        else:
            backward_spline(layer, theta, work, cells, samples, block, want_inputs, gradient, start, stride, marker)


@part
def share(number, parts, samples, block):
    """Share the samples out: the first of one part and of the next; whole blocks, a function of the numbers alone."""
    blocks = (samples + block - 1) // block
    return min(number * blocks // parts * block, samples), min((number + 1) * blocks // parts * block, samples)


@part
def copy(source, first, target, start, count):
    """Copy `count` numbers."""
    for i in range(count):
        write(target, start + i, read(source, first + i))
