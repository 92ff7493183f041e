"""The compiled kernel of derivatives along a direction of the coefficients.

Along theta + t d every layer maps (z0, z1) = (value, derivative in t) to

    y0 = sum phi(z0),    y1 = sum phi'(z0) z1 + sum dphi(z0)

with dphi the spline of the coefficients' direction d.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from kanmg.evaluators.jet_basis_kernels import local_derivatives
from kanmg.evaluators.kernels import (
    BLOCK,
    FIRST,
    LAYERS,
    NUM_COEFFICIENTS,
    NUM_LAYERS,
    NUM_TASK_FIELDS,
    PARTS,
    POINTS,
    SAMPLES,
    SOURCE_VERSION,
    STATUS,
    TABLES,
    THETA,
    THETA_DIRECTION,
    WORK,
    WORK_BYTES,
    entry_point,
    part,
    share,
)
from kanmg.evaluators.layer_kernels import ONE
from kanmg.evaluators.plan import (
    AFFINE,
    BASIS,
    BIAS,
    COEFFICIENTS,
    GROUP,
    INPUTS,
    KIND,
    NUM_FIELDS,
    OUTPUTS,
    TABLE,
    TABLE_STRIDE,
)
from kanmg.evaluators.simd import dot, load, multiply, pointer, read, store, write
from kanmg.evaluators.spline_kernels import contract

__all__ = ["make_tangent"]


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
def spline_tangent(layer, theta, theta_direction, tables, work, z, y, width, place, status, marker):
    """Take one sample through a spline layer: from (z0, z1) at `z` to (y0, y1) at `y`, `width` apart."""
    count = len(marker)
    for p in range(layer[INPUTS]):
        at = layer[TABLE] + p * layer[TABLE_STRIDE]
        cell = local_derivatives(read(work, z + p), layer, at, tables, work, place, status, marker)
        first = layer[COEFFICIENTS] + p * layer[BASIS] * layer[OUTPUTS]
        add_outputs(theta, first, cell, layer, work, place, y, marker)
        add_outputs(theta_direction, first, cell, layer, work, place, y + width, marker)
        slope = multiply(read(work, z + width + p), load(work, place + count, marker))
        store(work, place + count, slope)
        add_outputs(theta, first, cell, layer, work, place + count, y + width, marker)


@part
def affine_tangent(layer, theta, theta_direction, work, z, y, width):
    """Take one sample through an affine layer; arguments as those of `spline_tangent`."""
    num_inputs, num_outputs, first = layer[INPUTS], layer[OUTPUTS], layer[COEFFICIENTS]
    for p in range(num_inputs):
        row = first + p * num_outputs
        contract(theta, row, num_outputs, work, z + p, y, ONE)
        contract(theta, row, num_outputs, work, z + width + p, y + width, ONE)
        contract(theta_direction, row, num_outputs, work, z + p, y + width, ONE)
    if layer[BIAS]:
        bias = first + num_inputs * num_outputs
        for q in range(num_outputs):
            write(work, y + q, read(work, y + q) + read(theta, bias + q))
            write(work, y + width + q, read(work, y + width + q) + read(theta_direction, bias + q))


def make_tangent(marker, dtype):
    """Compile the kernel: the derivatives of all values along `THETA_DIRECTION` are written to `FIRST`."""
    version = SOURCE_VERSION

    @entry_point("void(int64, int64, int64)")
    def tangent(portion, slot, address):
        if version < 0:  # never: names the version, so that it is a part of the cache's key
            return
        task = carray(pointer(address), NUM_TASK_FIELDS, np.int64)
        layers = carray(pointer(task[LAYERS]), (task[NUM_LAYERS], NUM_FIELDS), np.int64)
        num_inputs, num_outputs = layers[0, INPUTS], layers[-1, OUTPUTS]
        num_coefficients = task[NUM_COEFFICIENTS]
        # The kernels address by element and never ask for a length.
        theta = carray(pointer(task[THETA]), num_coefficients, dtype)
        theta_direction = carray(pointer(task[THETA_DIRECTION]), num_coefficients, dtype)
        x = carray(pointer(task[POINTS]), num_coefficients, dtype)
        tables = carray(pointer(task[TABLES]), num_coefficients, dtype)
        work = carray(pointer(task[WORK] + slot * task[WORK_BYTES]), num_coefficients, dtype)
        derivatives = carray(pointer(task[FIRST]), num_coefficients, dtype)
        status = carray(pointer(task[STATUS] + portion * 8), 1, np.int64)
        width = num_inputs
        for number in range(len(layers)):
            width = max(width, layers[number, OUTPUTS])
        place = 4 * width
        begin, end = share(portion, task[PARTS], task[SAMPLES], task[BLOCK])
        for n in range(begin, end):
            z, y = 0, 2 * width
            for p in range(num_inputs):
                write(work, z + p, read(x, n * num_inputs + p))
                write(work, z + width + p, 0.0)
            for number in range(len(layers)):
                layer = layers[number]
                for i in range(2 * width):
                    write(work, y + i, 0.0)
                if layer[KIND] == AFFINE:
                    affine_tangent(layer, theta, theta_direction, work, z, y, width)
                else:
                    spline_tangent(layer, theta, theta_direction, tables, work, z, y, width, place, status, marker)
                z, y = y, z
            for q in range(num_outputs):
                write(derivatives, n * num_outputs + q, read(work, z + width + q))

    return tangent
