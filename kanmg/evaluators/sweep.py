"""The main compiled kernel, for values, squared errors, adjoints and Jacobians."""

from __future__ import annotations

import numpy as np
from numba import carray

from kanmg.evaluators.kernels import (
    BLOCK,
    CELL_BYTES,
    CELL_WORK,
    COTANGENTS,
    GRADIENT_BYTES,
    GRADIENTS,
    JACOBIAN,
    LAYERS,
    LOSSES,
    NUM_COEFFICIENTS,
    NUM_LAYERS,
    NUM_TASK_FIELDS,
    PARTS,
    POINT_GRADIENTS,
    POINTS,
    SAMPLES,
    SOURCE_VERSION,
    STATUS,
    TABLES,
    TARGETS,
    THETA,
    VALUES,
    WEIGHTS,
    WORK,
    WORK_BYTES,
    copy,
    entry_point,
    part,
    share,
)
from kanmg.evaluators.layer_kernels import backward, forward
from kanmg.evaluators.plan import ADJOINT_SLOT, COTANGENT_SLOT, INPUTS, NUM_FIELDS, OUTPUT_SLOT, OUTPUTS
from kanmg.evaluators.simd import pointer, read, write

__all__ = ["make_sweep"]


@part
def residuals_of_block(work, output, cotangent, y, first, weights, weighted, samples, num_outputs):
    """Sum the weighted squared error of a block; its derivatives by the outputs are left in the cotangents."""
    loss = 0.0
    for n in range(samples):
        weight = 1.0
        if weighted:
            weight = read(weights, first + n)
        for q in range(n * num_outputs, (n + 1) * num_outputs):
            residual = read(work, output + q) - read(y, first * num_outputs + q)
            loss += weight * residual * residual
            write(work, cotangent + q, 2.0 * weight * residual)
    return loss


def make_sweep(marker, dtype):
    """Compile the one kernel behind values, squared errors, adjoints and Jacobians.

    What it computes depends on which addresses of the task are not zero:

    - `VALUES`: the outputs are written there;
    - `TARGETS` (and `WEIGHTS`): the squared error is written to `LOSSES`, one number per part;
    - `COTANGENTS`: taken instead of the derivatives of the squared error;
    - `GRADIENTS`: the gradient is added up there, in one row per part; if `JACOBIAN` is set, it is the array of
      shape (samples, outputs, coefficients) for the gradients of every sample's every output, which must hold zeros;
    - `POINT_GRADIENTS`: the gradients with respect to the points are written there.

    Parameters
    ----------
    marker : tuple of int
        As many entries as basis functions per cell, degree + 1.
    dtype : type
        numpy.float64 or numpy.float32.
    """
    version = SOURCE_VERSION

    @entry_point("void(int64, int64, int64)")
    def sweep(portion, slot, address):
        if version < 0:  # never: names the version, so that it is a part of the cache's key
            return
        task = carray(pointer(address), NUM_TASK_FIELDS, np.int64)
        layers = carray(pointer(task[LAYERS]), (task[NUM_LAYERS], NUM_FIELDS), np.int64)
        num_inputs, num_outputs = layers[0, INPUTS], layers[-1, OUTPUTS]
        output, cotangent = layers[-1, OUTPUT_SLOT], layers[-1, COTANGENT_SLOT]
        total_samples, block, num_coefficients = task[SAMPLES], task[BLOCK], task[NUM_COEFFICIENTS]
        # The kernels address by element and never ask for a length, so that one serves for all.
        theta = carray(pointer(task[THETA]), num_coefficients, dtype)
        x = carray(pointer(task[POINTS]), num_coefficients, dtype)
        y = carray(pointer(task[TARGETS]), num_coefficients, dtype)
        weights = carray(pointer(task[WEIGHTS]), num_coefficients, dtype)
        values = carray(pointer(task[VALUES]), num_coefficients, dtype)
        cotangents = carray(pointer(task[COTANGENTS]), num_coefficients, dtype)
        point_gradients = carray(pointer(task[POINT_GRADIENTS]), num_coefficients, dtype)
        tables = carray(pointer(task[TABLES]), num_coefficients, dtype)
        work = carray(pointer(task[WORK] + slot * task[WORK_BYTES]), num_coefficients, dtype)
        cells = carray(pointer(task[CELL_WORK] + slot * task[CELL_BYTES]), num_coefficients, np.int64)
        gradient = carray(pointer(task[GRADIENTS] + portion * task[GRADIENT_BYTES]), num_coefficients, dtype)
        losses = carray(pointer(task[LOSSES]), num_coefficients, np.float64)
        status = carray(pointer(task[STATUS] + portion * 8), 1, np.int64)
        backwards = task[GRADIENTS] != 0
        inputs_from = 0 if task[POINT_GRADIENTS] != 0 else 1
        slopes_from = inputs_from if backwards else len(layers)
        if backwards and not task[JACOBIAN]:
            for i in range(num_coefficients):
                write(gradient, i, 0.0)
        loss = 0.0
        first, last = share(portion, task[PARTS], total_samples, block)
        for begin in range(first, last, block):
            samples = min(block, last - begin)
            copy(x, begin * num_inputs, work, 0, samples * num_inputs)
            forward(layers, theta, tables, work, cells, samples, block, slopes_from, status, marker)
            if task[VALUES] != 0:
                copy(work, output, values, begin * num_outputs, samples * num_outputs)
            if task[TARGETS] != 0:
                loss += residuals_of_block(
                    work, output, cotangent, y, begin, weights, task[WEIGHTS] != 0, samples, num_outputs
                )
            elif task[COTANGENTS] != 0:
                copy(cotangents, begin * num_outputs, work, cotangent, samples * num_outputs)
            if backwards:
                stride = num_coefficients * num_outputs if task[JACOBIAN] else 0
                for q in range(num_outputs if task[JACOBIAN] else 1):
                    if task[JACOBIAN]:
                        for i in range(samples * num_outputs):
                            write(work, cotangent + i, 1.0 if i % num_outputs == q else 0.0)
                    start = stride * begin + q * num_coefficients if task[JACOBIAN] else 0
                    backward(layers, theta, work, cells, samples, block, inputs_from, gradient, start, stride, marker)
            if task[POINT_GRADIENTS] != 0:
                copy(work, layers[0, ADJOINT_SLOT], point_gradients, begin * num_inputs, samples * num_inputs)
        write(losses, portion, loss)

    return sweep
