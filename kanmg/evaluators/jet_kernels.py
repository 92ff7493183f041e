"""Compiled kernels for derivatives of values: along a direction of the points, or of the coefficients.

Along a line x + t v, or theta + t d, every layer maps (z0, z1, z2) = (value, first, second derivative in t) to

    y0 = sum phi(z0)
    y1 = sum phi'(z0) z1 + sum dphi(z0)
    y2 = sum phi''(z0) z1^2 + phi'(z0) z2

with dphi the spline of the coefficients' direction d. So an input's coefficients are contracted with three combinations
of its basis values and their derivatives.
"""

from __future__ import annotations

import numpy as np
from numba import carray, cfunc

from kanmg.evaluators.basis_kernels import find_cell
from kanmg.evaluators.kernels import (
    BLOCK,
    DIRECTION,
    FIRST,
    LAYERS,
    NUM_COEFFICIENTS,
    NUM_LAYERS,
    NUM_TASK_FIELDS,
    PARTS,
    POINTS,
    SAMPLES,
    SECOND,
    SOURCE_VERSION,
    STATUS,
    TABLES,
    THETA,
    THETA_DIRECTION,
    VALUES,
    WORK,
    WORK_BYTES,
    part,
    share,
)
from kanmg.evaluators.layer_kernels import ONE
from kanmg.evaluators.plan import (
    AFFINE,
    BASIS,
    BIAS,
    CELLS,
    COEFFICIENTS,
    ERROR,
    EXTEND,
    GROUP,
    INPUTS,
    KIND,
    LINEAR,
    NUM_FIELDS,
    NUMBER,
    OUTPUTS,
    OUTSIDE,
    TABLE,
    TABLE_STRIDE,
    UNIFORM,
    ZERO,
)
from kanmg.evaluators.simd import dot, load, multiply, multiply_add, nothing, pointer, read, store, write
from kanmg.evaluators.spline_kernels import contract

MAX_ORDER = 2


@part
def local_jet(x, layer, at, tables, work, place, status, marker):
    """Write values, first and second derivatives of the k + 1 local basis functions at x; returns the cell."""
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
        cell = np.int64(t if 0.0 < t < num_cells - 1 else (num_cells - 1 if t > 0.0 else 0))
        t -= cell
        polynomial = at + 3
    else:
        cell = find_cell(inside, tables, at + 2, num_cells)
        inverse = tables[at + 3 + num_cells + cell]
        t = (inside - tables[at + 2 + cell]) * inverse
        polynomial = at + 3 + 2 * num_cells + cell * count * count
    value = load(tables, polynomial + (count - 1) * count, marker)
    slope = nothing(tables, marker)
    curvature = nothing(tables, marker)
    for j in range(count - 2, -1, -1):
        curvature = multiply_add(t, curvature, slope)
        slope = multiply_add(t, slope, value)
        value = multiply_add(t, value, load(tables, polynomial + j * count, marker))
    if x < inside or x > inside:
        slope = multiply(inverse if outside == LINEAR else 0.0, slope)
        curvature = multiply(0.0, curvature)
        value = multiply_add(x - inside, slope, multiply(0.0 if outside == ZERO else 1.0, value))
    else:
        slope = multiply(inverse, slope)
        curvature = multiply(2.0 * inverse * inverse, curvature)
    store(work, place, value)
    store(work, place + count, slope)
    store(work, place + 2 * count, curvature)
    return cell


@part
def add_outputs(theta, first, cell, layer, work, weights, output, marker):
    """Add what one input contributes to all outputs, by the weights of the functions of its cell."""
    num_outputs = layer[OUTPUTS]
    grouped = num_outputs - num_outputs % GROUP
    contract(theta, first + cell * grouped, grouped, work, weights, output, marker)
    for q in range(grouped, num_outputs):
        single = dot(load(work, weights, marker), load(theta, first + layer[BASIS] * q + cell, marker))
        write(work, output + q, read(work, output + q) + single)


@part
def spline_jet(layer, theta, theta_direction, along_theta, tables, work, z, y, width, place, status, marker):
    """Take one sample through a spline layer: from (z0, z1, z2) at `z` to (y0, y1, y2) at `y`, `width` apart."""
    count = len(marker)
    num_outputs = layer[OUTPUTS]
    for p in range(layer[INPUTS]):
        at = layer[TABLE] + p * layer[TABLE_STRIDE]
        cell = local_jet(read(work, z + p), layer, at, tables, work, place, status, marker)
        first = layer[COEFFICIENTS] + p * layer[BASIS] * num_outputs
        z1, z2 = read(work, z + width + p), read(work, z + 2 * width + p)
        add_outputs(theta, first, cell, layer, work, place, y, marker)
        if along_theta:
            add_outputs(theta_direction, first, cell, layer, work, place, y + width, marker)
        slope = load(work, place + count, marker)
        curvature = load(work, place + 2 * count, marker)
        store(work, place + count, multiply(z1, slope))
        store(work, place + 2 * count, multiply_add(z1 * z1, curvature, multiply(z2, slope)))
        add_outputs(theta, first, cell, layer, work, place + count, y + width, marker)
        add_outputs(theta, first, cell, layer, work, place + 2 * count, y + 2 * width, marker)


@part
def affine_jet(layer, theta, theta_direction, along_theta, work, z, y, width):
    """Take one sample through an affine layer; arguments as those of `spline_jet`."""
    num_inputs, num_outputs, first = layer[INPUTS], layer[OUTPUTS], layer[COEFFICIENTS]
    for order in range(3):
        for p in range(num_inputs):
            row = first + p * num_outputs
            contract(theta, row, num_outputs, work, z + order * width + p, y + order * width, ONE)
    if along_theta:
        for p in range(num_inputs):
            contract(theta_direction, first + p * num_outputs, num_outputs, work, z + p, y + width, ONE)
    if layer[BIAS]:
        bias = first + num_inputs * num_outputs
        for q in range(num_outputs):
            write(work, y + q, read(work, y + q) + read(theta, bias + q))
            if along_theta:
                write(work, y + width + q, read(work, y + width + q) + read(theta_direction, bias + q))


def make_jet_sweep(marker, dtype):
    """Compile the kernel of directional derivatives.

    `DIRECTION` is a direction of the points, `THETA_DIRECTION` one of the coefficients; the values and the first and
    second derivatives are written to `VALUES`, `FIRST` and `SECOND` where these are not zero. The workspace of a thread
    holds two jets of the largest width and the local basis functions.
    """
    version = SOURCE_VERSION

    @cfunc("void(int64, int64, int64)", cache=True)
    def sweep(portion, slot, address):
        if version < 0:  # never: names the version, so that it is a part of the cache's key
            return
        task = carray(pointer(address), NUM_TASK_FIELDS, np.int64)
        layers = carray(pointer(task[LAYERS]), (task[NUM_LAYERS], NUM_FIELDS), np.int64)
        num_inputs, num_outputs = layers[0, INPUTS], layers[-1, OUTPUTS]
        num_coefficients = task[NUM_COEFFICIENTS]
        # The kernels address by element and never ask for a length.
        theta = carray(pointer(task[THETA]), num_coefficients, dtype)
        x = carray(pointer(task[POINTS]), num_coefficients, dtype)
        direction = carray(pointer(task[DIRECTION]), num_coefficients, dtype)
        theta_direction = carray(pointer(task[THETA_DIRECTION]), num_coefficients, dtype)
        tables = carray(pointer(task[TABLES]), num_coefficients, dtype)
        work = carray(pointer(task[WORK] + slot * task[WORK_BYTES]), num_coefficients, dtype)
        values = carray(pointer(task[VALUES]), num_coefficients, dtype)
        first_derivatives = carray(pointer(task[FIRST]), num_coefficients, dtype)
        second_derivatives = carray(pointer(task[SECOND]), num_coefficients, dtype)
        status = carray(pointer(task[STATUS] + portion * 8), 1, np.int64)
        width = num_inputs
        for number in range(len(layers)):
            width = max(width, layers[number, OUTPUTS])
        place = 6 * width
        begin, end = share(portion, task[PARTS], task[SAMPLES], task[BLOCK])
        for n in range(begin, end):
            z, y = 0, 3 * width
            for p in range(num_inputs):
                write(work, z + p, read(x, n * num_inputs + p))
                along = 0.0
                if task[DIRECTION] != 0:
                    along = read(direction, p)
                write(work, z + width + p, along)
                write(work, z + 2 * width + p, 0.0)
            for number in range(len(layers)):
                layer = layers[number]
                for i in range(3 * width):
                    write(work, y + i, 0.0)
                along_theta = task[THETA_DIRECTION] != 0
                if layer[KIND] == AFFINE:
                    affine_jet(layer, theta, theta_direction, along_theta, work, z, y, width)
                else:
                    spline_jet(
                        layer, theta, theta_direction, along_theta, tables, work, z, y, width, place, status, marker
                    )
                z, y = y, z
            for q in range(num_outputs):
                if task[VALUES] != 0:
                    write(values, n * num_outputs + q, read(work, z + q))
                if task[FIRST] != 0:
                    write(first_derivatives, n * num_outputs + q, read(work, z + width + q))
                if task[SECOND] != 0:
                    write(second_derivatives, n * num_outputs + q, read(work, z + 2 * width + q))

    return sweep
