"""The compiled kernel of jets: derivatives along directions of the points, and the adjoint sweep through them."""

from __future__ import annotations

import numpy as np
from numba import carray

from kanmg.evaluators.jet_basis_kernels import derivatives_of_layer, row_length
from kanmg.evaluators.jet_layer_kernels import (
    backward_affine_jets,
    backward_spline_jets,
    forward_affine_jets,
    forward_spline_jets,
)
from kanmg.evaluators.kernels import (
    BLOCK,
    CELL_BYTES,
    CELL_WORK,
    COTANGENTS,
    CURVATURES,
    DIRECTIONS,
    FIRST,
    FIRST_COTANGENTS,
    GRADIENT_BYTES,
    GRADIENTS,
    JACOBIAN,
    KEPT_JETS,
    KNOWN_JETS,
    LAYERS,
    NUM_COEFFICIENTS,
    NUM_DIRECTIONS,
    NUM_LAYERS,
    NUM_TASK_FIELDS,
    ORDER,
    OWN_DIRECTIONS,
    PARTS,
    POINTS,
    SAMPLES,
    SECOND,
    SECOND_COTANGENTS,
    SOURCE_VERSION,
    STATUS,
    STRIP_CELLS,
    STRIP_ROWS,
    STRIPS,
    TABLES,
    THETA,
    VALUES,
    WORK,
    WORK_BYTES,
    clear,
    copy,
    entry_point,
    part,
    share,
)
from kanmg.evaluators.plan import (
    ADJOINT_SLOT,
    AFFINE,
    CELL_ROW,
    CELL_SLOT,
    COTANGENT_SLOT,
    INPUT_SLOT,
    INPUTS,
    KIND,
    NUM_FIELDS,
    OUTPUT_SLOT,
    OUTPUTS,
)
from kanmg.evaluators.simd import pointer, read, write

__all__ = ["MAX_ORDER", "make_jet_sweep"]

MAX_ORDER = 2


@part
def begin_jets(layer, x, lines, are_own, curvatures, is_curved, work, start, samples, total_samples, directions, order):
    """Write the jets of the first layer's inputs for a block of samples."""
    num_inputs, length = layer[INPUTS], row_length(layer[INPUTS])
    numbers = 1 + (directions + directions % 2) * order
    clear(work, layer[INPUT_SLOT], samples * numbers * length)
    for n in range(samples):
        z = layer[INPUT_SLOT] + n * numbers * length
        copy(x, (start + n) * num_inputs, work, z, num_inputs)
        for d in range(directions):
            path, line = (start + n + d * total_samples) * num_inputs, z + (1 + d) * length
            copy(lines, path if are_own else d * num_inputs, work, line, num_inputs)
            if order == 2 and is_curved:
                copy(curvatures, path, work, line + (directions + directions % 2) * length, num_inputs)


@part
def put(work, slot, width, numbers, j, samples, target, begin):
    """Copy number j of the jets of a block to an array of shape (N, width)."""
    for n in range(samples):
        copy(work, slot + (n * numbers + j) * row_length(width), target, (begin + n) * width, width)


@part
def take(work, slot, width, numbers, j, samples, source, begin):
    """Copy number j of the jets of a block from an array of shape (N, width)."""
    for n in range(samples):
        copy(source, (begin + n) * width, work, slot + (n * numbers + j) * row_length(width), width)


@part
def put_cells(layer, cells, samples, block, strip_cells, strip_rows, begin):
    """Copy the cells of a layer's inputs to an array of shape (inputs, strip_rows)."""
    for p in range(layer[INPUTS]):
        for n in range(samples):
            cell = read(cells, layer[CELL_SLOT] + p * block + n)
            write(strip_cells, (layer[CELL_ROW] + p) * strip_rows + begin + n, cell)


def make_jet_sweep(marker, dtype):
    """Compile the kernel of jets of order 1 or 2, along any number of directions.

    What it computes depends on which addresses of the task are not zero:

    - `VALUES`, shape (N, Q), `FIRST` and `SECOND`, shape (D, N, Q): the jets are written there;
    - `GRADIENTS`: the gradient of the sum of the jets times `COTANGENTS`, `FIRST_COTANGENTS` and `SECOND_COTANGENTS`
      (zeros where there are none) is added up there, in one row per part; if `JACOBIAN` is set, it is the array of
      shape (N, num_coefficients) for the gradients of every sample's own sum, which must hold zeros; if `STRIPS` is
      set, it is the array of shape (strips, STRIP_ROWS, k + 1) for those of their entries that are not zero, and
      `STRIP_CELLS` that of shape (inputs, STRIP_ROWS) for the cells (see `normal_kernels`), both zeros before.

    The points move along `DIRECTIONS`, shape (D, P), the same for all points, or `OWN_DIRECTIONS`, shape (D, N, P);
    `CURVATURES`, shape (D, N, P), are the second derivatives of their paths (zeros where there are none). The hidden
    jets are written to `KEPT_JETS`, one block's workspace behind the other, and taken from `KNOWN_JETS`.
    """
    version = SOURCE_VERSION

    @entry_point("void(int64, int64, int64)")
    def sweep(portion, slot, address):
        if version < 0:  # never: names the version, so that it is a part of the cache's key
            return
        task = carray(pointer(address), NUM_TASK_FIELDS, np.int64)
        layers = carray(pointer(task[LAYERS]), (task[NUM_LAYERS], NUM_FIELDS), np.int64)
        num_outputs = layers[-1, OUTPUTS]
        total_samples, block, num_coefficients = task[SAMPLES], task[BLOCK], task[NUM_COEFFICIENTS]
        directions, order = task[NUM_DIRECTIONS], task[ORDER]
        paired = directions + directions % 2
        numbers, hidden = 1 + paired * order, layers[0, ADJOINT_SLOT]
        # The kernels address by element and never ask for a length.
        theta = carray(pointer(task[THETA]), num_coefficients, dtype)
        x = carray(pointer(task[POINTS]), num_coefficients, dtype)
        are_own = task[OWN_DIRECTIONS] != 0
        lines = carray(pointer(task[OWN_DIRECTIONS if are_own else DIRECTIONS]), num_coefficients, dtype)
        curvatures = carray(pointer(task[CURVATURES]), num_coefficients, dtype)
        tables = carray(pointer(task[TABLES]), num_coefficients, dtype)
        work = carray(pointer(task[WORK] + slot * task[WORK_BYTES]), num_coefficients, dtype)
        cells = carray(pointer(task[CELL_WORK] + slot * task[CELL_BYTES]), num_coefficients, np.int64)
        gradient = carray(pointer(task[GRADIENTS] + portion * task[GRADIENT_BYTES]), num_coefficients, dtype)
        values = carray(pointer(task[VALUES]), num_coefficients, dtype)
        first_derivatives = carray(pointer(task[FIRST]), num_coefficients, dtype)
        second_derivatives = carray(pointer(task[SECOND]), num_coefficients, dtype)
        cotangents = carray(pointer(task[COTANGENTS]), num_coefficients, dtype)
        first_cotangents = carray(pointer(task[FIRST_COTANGENTS]), num_coefficients, dtype)
        second_cotangents = carray(pointer(task[SECOND_COTANGENTS]), num_coefficients, dtype)
        status = carray(pointer(task[STATUS] + portion * 8), 1, np.int64)
        known = carray(pointer(task[KNOWN_JETS]), num_coefficients, dtype)
        kept = carray(pointer(task[KEPT_JETS]), num_coefficients, dtype)
        strip_cells = carray(pointer(task[STRIP_CELLS]), num_coefficients, np.int64)
        strip_rows = task[STRIP_ROWS] if task[STRIPS] else 0
        stride = num_coefficients if task[JACOBIAN] else 0
        if task[GRADIENTS] != 0 and not task[JACOBIAN] and not task[STRIPS]:
            clear(gradient, 0, num_coefficients)
        begin, end = share(portion, task[PARTS], total_samples, block)
        for start in range(begin, end, block):
            samples = min(block, end - start)
            if task[KNOWN_JETS] != 0:
                copy(known, start // block * hidden, work, 0, hidden)
            else:
                is_curved = task[CURVATURES] != 0
                begin_jets(
                    layers[0], x, lines, are_own, curvatures, is_curved, work, start, samples, total_samples,
                    directions, order,
                )  # fmt: skip
            for number in range(len(layers)):
                layer = layers[number]
                if layer[KIND] != AFFINE and (task[KNOWN_JETS] == 0 or task[GRADIENTS] != 0):
                    derivatives_of_layer(layer, tables, work, cells, samples, block, numbers, status, marker)
                    if strip_rows > 0:
                        put_cells(layer, cells, samples, block, strip_cells, strip_rows, start)
                if task[KNOWN_JETS] != 0:
                    continue
                if layer[KIND] == AFFINE:
                    forward_affine_jets(layer, theta, work, samples, paired, order)
                else:
                    forward_spline_jets(layer, theta, work, cells, samples, block, paired, order, marker)
            if task[KEPT_JETS] != 0:
                copy(work, 0, kept, start // block * hidden, hidden)
            output, adjoint = layers[-1, OUTPUT_SLOT], layers[-1, COTANGENT_SLOT]
            if task[VALUES] != 0:
                put(work, output, num_outputs, numbers, 0, samples, values, start)
            for d in range(directions):
                shifted = start + d * total_samples
                if task[FIRST] != 0:
                    put(work, output, num_outputs, numbers, 1 + d, samples, first_derivatives, shifted)
                if task[SECOND] != 0:
                    put(work, output, num_outputs, numbers, 1 + paired + d, samples, second_derivatives, shifted)
            if task[GRADIENTS] == 0:
                continue
            clear(work, adjoint, samples * numbers * row_length(num_outputs))
            if task[COTANGENTS] != 0:
                take(work, adjoint, num_outputs, numbers, 0, samples, cotangents, start)
            for d in range(directions):
                shifted = start + d * total_samples
                if task[FIRST_COTANGENTS] != 0:
                    take(work, adjoint, num_outputs, numbers, 1 + d, samples, first_cotangents, shifted)
                if task[SECOND_COTANGENTS] != 0:
                    take(work, adjoint, num_outputs, numbers, 1 + paired + d, samples, second_cotangents, shifted)
            for number in range(len(layers) - 1, -1, -1):
                layer, want_inputs, place = layers[number], number > 0, start if strip_rows > 0 else stride * start
                if layer[KIND] == AFFINE:
                    backward_affine_jets(
                        layer, theta, work, samples, paired, order, want_inputs, gradient, place, stride,
                        strip_rows, marker,
                    )  # fmt: skip
                else:
                    backward_spline_jets(
                        layer, theta, work, cells, samples, block, paired, order, want_inputs, gradient, place,
                        stride, strip_rows, marker,
                    )  # fmt: skip

    return sweep
