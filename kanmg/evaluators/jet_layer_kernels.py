"""Parts of compiled kernels: layers on jets along several directions at once, forwards and backwards.

The jet of a value along D directions are the numbers j = 0 (value), 1, ..., D (first derivatives) and, for order 2,
D + 1, ..., 2 D (second derivatives). A spline layer maps the jets z of its inputs to

    y0 = sum phi(z0),    y1 = sum phi'(z0) z1,    y2 = sum phi''(z0) z1^2 + phi'(z0) z2

for every direction: phi, phi' and phi'' are contracted once for all directions. Backwards, from the adjoints b of y,

    r0 = b0,    r1 = sum over directions of b1 z1 + b2 z2,    r2 = sum over directions of b2 z1^2,
    adjoint of the coefficients  r0 B + r1 B' + r2 B''
    adjoints of the inputs       a0 = r0 phi' + r1 phi'' + r2 phi''',   a1 = b1 phi' + 2 b2 phi'' z1,   a2 = b2 phi'

In the workspace the numbers of a block lie in the order (sample, j, input), and the basis functions of an input as
(sample, derivative, function), for derivatives up to the third.
"""

from __future__ import annotations

from kanmg.evaluators.basis_kernels import find_cell
from kanmg.evaluators.kernels import part, part_inlined
from kanmg.evaluators.layer_kernels import ONE
from kanmg.evaluators.plan import (
    ADJOINT_SLOT,
    BASIS,
    BIAS,
    CELL_SLOT,
    CELLS,
    COEFFICIENTS,
    COTANGENT_SLOT,
    ERROR,
    EXTEND,
    GROUP,
    INPUT_SLOT,
    INPUTS,
    LINEAR,
    NUMBER,
    OUTPUT_SLOT,
    OUTPUTS,
    OUTSIDE,
    STRIP,
    TABLE,
    TABLE_STRIDE,
    UNIFORM,
    VALUE_SLOT,
    ZERO,
)
from kanmg.evaluators.simd import (
    QUAD,
    dot,
    lane,
    load,
    multiply,
    multiply_add,
    nothing,
    read,
    store,
    write,
)
from kanmg.evaluators.spline_kernels import contract, spread

DERIVATIVES = 4
"""Of the basis functions: from the functions themselves to their third derivatives."""


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
    # Horner's rule for the Taylor coefficients of the polynomials in t.
    value = load(tables, polynomial + (count - 1) * count, marker)
    slope, curvature, third = nothing(tables, marker), nothing(tables, marker), nothing(tables, marker)
    for j in range(count - 2, -1, -1):
        third = multiply_add(t, third, curvature)
        curvature = multiply_add(t, curvature, slope)
        slope = multiply_add(t, slope, value)
        value = multiply_add(t, value, load(tables, polynomial + j * count, marker))
    if x < inside or x > inside:
        slope = multiply(inverse if outside == LINEAR else 0.0, slope)
        value = multiply_add(x - inside, slope, multiply(0.0 if outside == ZERO else 1.0, value))
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
        for n in range(samples):
            x = read(work, layer[INPUT_SLOT] + n * numbers * num_inputs + p)
            position = p * block + n
            place = layer[VALUE_SLOT] + position * size
            cell = local_derivatives(x, layer, at, tables, work, place, status, marker)
            write(cells, layer[CELL_SLOT] + position, cell)


@part
def forward_spline_jets(layer, theta, work, cells, samples, block, directions, order, marker):
    """Write the jets of a spline layer's outputs for a block of samples."""
    count = len(marker)
    num_inputs, num_outputs, num_basis = layer[INPUTS], layer[OUTPUTS], layer[BASIS]
    numbers, size = 1 + directions * order, DERIVATIVES * count
    per_input, grouped = num_basis * num_outputs, num_outputs - num_outputs % GROUP
    for i in range(samples * numbers * num_outputs):
        write(work, layer[OUTPUT_SLOT] + i, 0.0)
    for n in range(samples):
        z = layer[INPUT_SLOT] + n * numbers * num_inputs
        y = layer[OUTPUT_SLOT] + n * numbers * num_outputs
        for p in range(num_inputs):
            position = p * block + n
            basis = layer[VALUE_SLOT] + position * size
            cell = read(cells, layer[CELL_SLOT] + position)
            first = layer[COEFFICIENTS] + p * per_input
            for q in range(0, grouped, GROUP):
                row = first + cell * grouped + q
                phi0, phi1, phi2 = nothing(work, QUAD), nothing(work, QUAD), nothing(work, QUAD)
                for s in range(count):
                    quad = load(theta, row + s * grouped, QUAD)
                    phi0 = multiply_add(read(work, basis + s), quad, phi0)
                    phi1 = multiply_add(read(work, basis + count + s), quad, phi1)
                    phi2 = multiply_add(read(work, basis + 2 * count + s), quad, phi2)
                store(work, y + q, multiply_add(1.0, phi0, load(work, y + q, QUAD)))
                for d in range(1, directions + 1):
                    z1, place = read(work, z + d * num_inputs + p), y + d * num_outputs + q
                    store(work, place, multiply_add(z1, phi1, load(work, place, QUAD)))
                    if order == 2:
                        z2, place = read(work, z + (directions + d) * num_inputs + p), place + directions * num_outputs
                        second = multiply_add(z2, phi1, load(work, place, QUAD))
                        store(work, place, multiply_add(z1 * z1, phi2, second))
            for q in range(grouped, num_outputs):
                coefficients = load(theta, first + num_basis * q + cell, marker)
                single0 = dot(load(work, basis, marker), coefficients)
                single1 = dot(load(work, basis + count, marker), coefficients)
                single2 = dot(load(work, basis + 2 * count, marker), coefficients)
                write(work, y + q, read(work, y + q) + single0)
                for d in range(1, directions + 1):
                    z1, place = read(work, z + d * num_inputs + p), y + d * num_outputs + q
                    write(work, place, read(work, place) + z1 * single1)
                    if order == 2:
                        z2, place = read(work, z + (directions + d) * num_inputs + p), place + directions * num_outputs
                        write(work, place, read(work, place) + z2 * single1 + z1 * z1 * single2)


@part_inlined
def add_to(work, place, value):
    """Add to an entry."""
    write(work, place, read(work, place) + value)


@part_inlined
def strip_place(layer, number, strip_rows, row, count):
    """Where a row of a layer's strip begins, in an array of shape (strips, strip_rows, count)."""
    return ((layer[STRIP] + number) * strip_rows + row) * count


@part_inlined
def entry_of_strips(layer, number, strip_rows, row, count):
    """Where a row has the entry of an affine layer's coefficient."""
    return strip_place(layer, number // count, strip_rows, row, count) + number % count


@part
def backward_spline_jets(
    layer, theta, work, cells, samples, block, directions, order, want_inputs, gradient, start, stride, strip_rows,
    marker,
):  # fmt: skip
    """Add the gradients of a spline layer with respect to its coefficients; where wanted, write its inputs' adjoints.

    The gradient of sample n is added to `gradient[start + n * stride:]`: stride 0 sums over samples. With `strip_rows`,
    the entries that are not zero are written to row `start + n` of the strips instead.
    """
    count = len(marker)
    num_inputs, num_outputs, num_basis = layer[INPUTS], layer[OUTPUTS], layer[BASIS]
    numbers, size = 1 + directions * order, DERIVATIVES * count
    per_input, grouped = num_basis * num_outputs, num_outputs - num_outputs % GROUP
    if want_inputs:
        for i in range(samples * numbers * num_inputs):
            write(work, layer[ADJOINT_SLOT] + i, 0.0)
    for n in range(samples):
        z = layer[INPUT_SLOT] + n * numbers * num_inputs
        a = layer[ADJOINT_SLOT] + n * numbers * num_inputs
        b = layer[COTANGENT_SLOT] + n * numbers * num_outputs
        for p in range(num_inputs):
            position = p * block + n
            basis = layer[VALUE_SLOT] + position * size
            cell = read(cells, layer[CELL_SLOT] + position)
            first = layer[COEFFICIENTS] + p * per_input
            for q in range(0, grouped, GROUP):
                r0, r1, r2 = load(work, b + q, QUAD), nothing(work, QUAD), nothing(work, QUAD)
                for d in range(1, directions + 1):
                    z1, place = read(work, z + d * num_inputs + p), b + d * num_outputs + q
                    r1 = multiply_add(z1, load(work, place, QUAD), r1)
                    if order == 2:
                        b2 = load(work, place + directions * num_outputs, QUAD)
                        r1 = multiply_add(read(work, z + (directions + d) * num_inputs + p), b2, r1)
                        r2 = multiply_add(z1 * z1, b2, r2)
                row = first + cell * grouped + q
                phi1, phi2, phi3 = nothing(work, QUAD), nothing(work, QUAD), nothing(work, QUAD)
                strip, step = strip_place(layer, p * num_outputs + q, strip_rows, start + n, count), strip_rows * count
                for s in range(count):
                    place = start + n * stride + row + s * grouped
                    total = nothing(work, QUAD) if strip_rows > 0 else load(gradient, place, QUAD)
                    total = multiply_add(read(work, basis + s), r0, total)
                    total = multiply_add(read(work, basis + count + s), r1, total)
                    total = multiply_add(read(work, basis + 2 * count + s), r2, total)
                    if strip_rows > 0:
                        write(gradient, strip + s, lane(total, 0))
                        write(gradient, strip + step + s, lane(total, 1))
                        write(gradient, strip + 2 * step + s, lane(total, 2))
                        write(gradient, strip + 3 * step + s, lane(total, 3))
                    else:
                        store(gradient, place, total)
                    if want_inputs:
                        quad = load(theta, row + s * grouped, QUAD)
                        phi1 = multiply_add(read(work, basis + count + s), quad, phi1)
                        phi2 = multiply_add(read(work, basis + 2 * count + s), quad, phi2)
                        phi3 = multiply_add(read(work, basis + 3 * count + s), quad, phi3)
                if want_inputs:
                    add_to(work, a + p, dot(r0, phi1) + dot(r1, phi2) + dot(r2, phi3))
                    for d in range(1, directions + 1):
                        z1, place = read(work, z + d * num_inputs + p), b + d * num_outputs + q
                        first_adjoint = dot(load(work, place, QUAD), phi1)
                        if order == 2:
                            b2 = load(work, place + directions * num_outputs, QUAD)
                            first_adjoint += 2.0 * z1 * dot(b2, phi2)
                            add_to(work, a + (directions + d) * num_inputs + p, dot(b2, phi1))
                        add_to(work, a + d * num_inputs + p, first_adjoint)
            for q in range(grouped, num_outputs):
                s0, s1, s2 = read(work, b + q), 0.0, 0.0
                for d in range(1, directions + 1):
                    z1, place = read(work, z + d * num_inputs + p), b + d * num_outputs + q
                    s1 += z1 * read(work, place)
                    if order == 2:
                        second = read(work, place + directions * num_outputs)
                        s1 += read(work, z + (directions + d) * num_inputs + p) * second
                        s2 += z1 * z1 * second
                row = first + num_basis * q + cell
                place = start + n * stride + row
                if strip_rows > 0:
                    # A strip holds zeros, to which the one sum of its row is added.
                    place = strip_place(layer, p * num_outputs + q, strip_rows, start + n, count)
                vector = multiply_add(s0, load(work, basis, marker), load(gradient, place, marker))
                vector = multiply_add(s1, load(work, basis + count, marker), vector)
                store(gradient, place, multiply_add(s2, load(work, basis + 2 * count, marker), vector))
                if want_inputs:
                    coefficients = load(theta, row, marker)
                    single1 = dot(load(work, basis + count, marker), coefficients)
                    single2 = dot(load(work, basis + 2 * count, marker), coefficients)
                    single3 = dot(load(work, basis + 3 * count, marker), coefficients)
                    add_to(work, a + p, s0 * single1 + s1 * single2 + s2 * single3)
                    for d in range(1, directions + 1):
                        z1, place = read(work, z + d * num_inputs + p), b + d * num_outputs + q
                        first_adjoint_single = read(work, place) * single1
                        if order == 2:
                            second = read(work, place + directions * num_outputs)
                            first_adjoint_single += 2.0 * z1 * second * single2
                            add_to(work, a + (directions + d) * num_inputs + p, second * single1)
                        add_to(work, a + d * num_inputs + p, first_adjoint_single)


@part
def forward_affine_jets(layer, theta, work, samples, directions, order):
    """Write the jets of an affine layer's outputs for a block of samples."""
    num_inputs, num_outputs, first = layer[INPUTS], layer[OUTPUTS], layer[COEFFICIENTS]
    numbers, bias = 1 + directions * order, layer[COEFFICIENTS] + layer[INPUTS] * layer[OUTPUTS]
    for n in range(samples):
        for j in range(numbers):
            z = layer[INPUT_SLOT] + (n * numbers + j) * num_inputs
            y = layer[OUTPUT_SLOT] + (n * numbers + j) * num_outputs
            for q in range(num_outputs):
                write(work, y + q, read(theta, bias + q) if layer[BIAS] and j == 0 else 0.0)
            for p in range(num_inputs):
                contract(theta, first + p * num_outputs, num_outputs, work, z + p, y, ONE)


@part
def backward_affine_jets(
    layer, theta, work, samples, directions, order, want_inputs, gradient, start, stride, strip_rows, marker
):
    """Add the gradients of an affine layer; arguments as those of `backward_spline_jets`."""
    num_inputs, num_outputs, first = layer[INPUTS], layer[OUTPUTS], layer[COEFFICIENTS]
    numbers, bias, count = 1 + directions * order, layer[INPUTS] * layer[OUTPUTS], len(marker)
    for n in range(samples):
        place = start + n * stride + first
        for j in range(numbers):
            z = layer[INPUT_SLOT] + (n * numbers + j) * num_inputs
            b = layer[COTANGENT_SLOT] + (n * numbers + j) * num_outputs
            for p in range(num_inputs):
                if strip_rows > 0:
                    factor = read(work, z + p)
                    for q in range(num_outputs):
                        entry = entry_of_strips(layer, p * num_outputs + q, strip_rows, start + n, count)
                        add_to(gradient, entry, factor * read(work, b + q))
                else:
                    spread(gradient, place + p * num_outputs, num_outputs, work, z + p, b, ONE)
                if want_inputs:
                    pulled = 0.0
                    for q in range(num_outputs):
                        pulled += read(theta, first + p * num_outputs + q) * read(work, b + q)
                    write(work, layer[ADJOINT_SLOT] + (n * numbers + j) * num_inputs + p, pulled)
            if layer[BIAS] and j == 0:
                for q in range(num_outputs):
                    entry = place + bias + q
                    if strip_rows > 0:
                        entry = entry_of_strips(layer, bias + q, strip_rows, start + n, count)
                    add_to(gradient, entry, read(work, b + q))
