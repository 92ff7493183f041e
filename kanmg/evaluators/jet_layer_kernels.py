"""Parts of compiled kernels: layers on jets along several directions at once, forwards and backwards.

The jet of a value along D directions are the numbers j = 0 (value), 1, ..., D (first derivatives) and, for order 2,
D + 1, ..., 2 D (second derivatives). A spline layer maps the jets z of its inputs to

    y0 = sum phi(z0),    y1 = sum phi'(z0) z1,    y2 = sum phi''(z0) z1^2 + phi'(z0) z2

for every direction: phi, phi' and phi'' are contracted once for all directions. Backwards, from the adjoints b of y,

    r0 = b0,    r1 = sum over directions of b1 z1 + b2 z2,    r2 = sum over directions of b2 z1^2,
    adjoint of the coefficients  r0 B + r1 B' + r2 B''
    adjoints of the inputs       a0 = r0 phi' + r1 phi'' + r2 phi''',   a1 = b1 phi' + 2 b2 phi'' z1,   a2 = b2 phi'

Directions come in pairs, without a loop over the two: a direction of zeros is added where their number is odd.

In the workspace the numbers of a block lie in the order (sample, j, input), in rows of whole vectors that end with
zeros, and the basis functions of an input as (sample, derivative, function), for derivatives up to the third.
"""

from __future__ import annotations

from kanmg.evaluators.jet_basis_kernels import DERIVATIVES, row_length
from kanmg.evaluators.kernels import clear, copy, part, part_inlined
from kanmg.evaluators.layer_kernels import ONE
from kanmg.evaluators.plan import (
    ADJOINT_SLOT,
    BASIS,
    BIAS,
    CELL_SLOT,
    COEFFICIENTS,
    COTANGENT_SLOT,
    GROUP,
    INPUT_SLOT,
    INPUTS,
    OUTPUT_SLOT,
    OUTPUTS,
    SLOPE_SLOT,
    STRIP,
    VALUE_SLOT,
)
from kanmg.evaluators.simd import (
    QUAD,
    add,
    column,
    dots,
    lane,
    load,
    multiply_add,
    nothing,
    read,
    store,
    total,
    totals,
    write,
)
from kanmg.evaluators.spline_kernels import contract, spread


@part_inlined
def add_outputs(phi0, phi1, phi2, work, z, y, inputs, outputs, directions, order):
    """Add what one input gives to the jets of four outputs; `inputs` and `outputs` are the lengths of their rows."""
    store(work, y, add(phi0, load(work, y, QUAD)))
    for d in range(1, directions + 1, 2):
        place = y + d * outputs
        slope, other = read(work, z + d * inputs), read(work, z + (d + 1) * inputs)
        store(work, place, multiply_add(slope, phi1, load(work, place, QUAD)))
        store(work, place + outputs, multiply_add(other, phi1, load(work, place + outputs, QUAD)))
        if order == 2:
            place, bend = place + directions * outputs, z + (directions + d) * inputs
            second = multiply_add(read(work, bend), phi1, load(work, place, QUAD))
            store(work, place, multiply_add(slope * slope, phi2, second))
            second = multiply_add(read(work, bend + inputs), phi1, load(work, place + outputs, QUAD))
            store(work, place + outputs, multiply_add(other * other, phi2, second))


@part_inlined
def contract_one(theta, place, work, basis, marker):
    """Contract the coefficients of one output with the basis functions and their three derivatives, all at once."""
    count = len(marker)
    coefficients = load(theta, place, marker)
    return dots(
        coefficients,
        load(work, basis, marker),
        load(work, basis + count, marker),
        load(work, basis + 2 * count, marker),
        load(work, basis + 3 * count, marker),
    )


@part_inlined
def contract_last(theta, place, num_basis, number, work, basis, marker):
    """Do that for the last one to three outputs; returns, for each, the vector of its four numbers, or zeros."""
    first = contract_one(theta, place, work, basis, marker)
    second, third = nothing(work, QUAD), nothing(work, QUAD)
    if number > 1:
        second = contract_one(theta, place + num_basis, work, basis, marker)
    if number > 2:
        third = contract_one(theta, place + 2 * num_basis, work, basis, marker)
    return first, second, third


@part
def forward_spline_jets(layer, theta, work, cells, samples, block, directions, order, marker):
    """Write the jets of a spline layer's outputs for a block of samples."""
    count = len(marker)
    num_inputs, num_outputs, num_basis = layer[INPUTS], layer[OUTPUTS], layer[BASIS]
    inputs, outputs = row_length(num_inputs), row_length(num_outputs)
    numbers, size = 1 + directions * order, DERIVATIVES * count
    per_input, grouped = num_basis * num_outputs, num_outputs - num_outputs % GROUP
    clear(work, layer[OUTPUT_SLOT], samples * numbers * outputs)
    for n in range(samples):
        z = layer[INPUT_SLOT] + n * numbers * inputs
        y = layer[OUTPUT_SLOT] + n * numbers * outputs
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
                add_outputs(phi0, phi1, phi2, work, z + p, y + q, inputs, outputs, directions, order)
            if grouped < num_outputs:
                row = first + num_basis * grouped + cell
                a, b, c = contract_last(theta, row, num_basis, num_outputs - grouped, work, basis, marker)
                phi0, phi1, phi2 = column(a, b, c, 0), column(a, b, c, 1), column(a, b, c, 2)
                add_outputs(phi0, phi1, phi2, work, z + p, y + grouped, inputs, outputs, directions, order)


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


@part_inlined
def pulled_values(work, z, b, inputs, outputs, directions, order):
    """Sum r1 and r2 of one input and four outputs."""
    r1, r2 = nothing(work, QUAD), nothing(work, QUAD)
    for d in range(1, directions + 1, 2):
        place = b + d * outputs
        slope, other = read(work, z + d * inputs), read(work, z + (d + 1) * inputs)
        r1 = multiply_add(slope, load(work, place, QUAD), r1)
        r1 = multiply_add(other, load(work, place + outputs, QUAD), r1)
        if order == 2:
            place, bend = place + directions * outputs, z + (directions + d) * inputs
            b2 = load(work, place, QUAD)
            r1 = multiply_add(read(work, bend), b2, r1)
            r2 = multiply_add(slope * slope, b2, r2)
            b2 = load(work, place + outputs, QUAD)
            r1 = multiply_add(read(work, bend + inputs), b2, r1)
            r2 = multiply_add(other * other, b2, r2)
    return r1, r2


@part_inlined
def write_adjoints(work, z, a, b, slopes, curvatures, values, inputs, outputs, directions, order):
    """Write the adjoints of one input's jet; `values` are those of its value, to be summed.

    `slopes` and `curvatures` are where phi' and phi'' of all outputs are.
    """
    zero = nothing(work, QUAD)
    write(work, a, total(values))
    for d in range(1, directions + 1, 2):
        first, other, bent, bent_other, second, second_other = zero, zero, zero, zero, zero, zero
        upper, lower = b + d * outputs, b + (directions + d) * outputs
        for q in range(0, outputs, GROUP):
            phi1 = load(work, slopes + q, QUAD)
            first = multiply_add(load(work, upper + q, QUAD), phi1, first)
            other = multiply_add(load(work, upper + outputs + q, QUAD), phi1, other)
            if order == 2:
                phi2, b2 = load(work, curvatures + q, QUAD), load(work, lower + q, QUAD)
                bent, second = multiply_add(b2, phi2, bent), multiply_add(b2, phi1, second)
                b2 = load(work, lower + outputs + q, QUAD)
                bent_other, second_other = multiply_add(b2, phi2, bent_other), multiply_add(b2, phi1, second_other)
        if order == 2:
            first = multiply_add(2.0 * read(work, z + d * inputs), bent, first)
            other = multiply_add(2.0 * read(work, z + (d + 1) * inputs), bent_other, other)
        sums = totals(first, other, second, second_other)
        write(work, a + d * inputs, lane(sums, 0))
        write(work, a + (d + 1) * inputs, lane(sums, 1))
        if order == 2:
            write(work, a + (directions + d) * inputs, lane(sums, 2))
            write(work, a + (directions + d + 1) * inputs, lane(sums, 3))


@part_inlined
def add_one(gradient, place, r0, r1, r2, work, basis, marker):
    """Add to the gradient of one output's coefficients."""
    count = len(marker)
    vector = multiply_add(r0, load(work, basis, marker), load(gradient, place, marker))
    vector = multiply_add(r1, load(work, basis + count, marker), vector)
    store(gradient, place, multiply_add(r2, load(work, basis + 2 * count, marker), vector))


@part
def backward_spline_jets(
    layer, theta, work, cells, samples, block, directions, order, want_inputs, gradient, start, stride, strip_rows,
    marker,
):  # fmt: skip
    """Add the gradients of a spline layer with respect to its coefficients; where wanted, write its inputs' adjoints.

    The gradient of sample n is added to `gradient[start + n * stride:]`: stride 0 sums over samples. With `strip_rows`,
    the entries that are not zero are written to row `start + n` of the strips instead, which hold zeros.
    """
    count = len(marker)
    num_inputs, num_outputs, num_basis = layer[INPUTS], layer[OUTPUTS], layer[BASIS]
    inputs, outputs = row_length(num_inputs), row_length(num_outputs)
    numbers, size = 1 + directions * order, DERIVATIVES * count
    per_input, grouped = num_basis * num_outputs, num_outputs - num_outputs % GROUP
    slopes, curvatures, step = layer[SLOPE_SLOT], layer[SLOPE_SLOT] + outputs, strip_rows * count
    if want_inputs:
        clear(work, layer[ADJOINT_SLOT], samples * numbers * inputs)
    for n in range(samples):
        z = layer[INPUT_SLOT] + n * numbers * inputs
        a = layer[ADJOINT_SLOT] + n * numbers * inputs
        b = layer[COTANGENT_SLOT] + n * numbers * outputs
        for p in range(num_inputs):
            position = p * block + n
            basis = layer[VALUE_SLOT] + position * size
            cell = read(cells, layer[CELL_SLOT] + position)
            first = layer[COEFFICIENTS] + p * per_input
            values = nothing(work, QUAD)
            for q in range(0, grouped, GROUP):
                r0 = load(work, b + q, QUAD)
                r1, r2 = pulled_values(work, z + p, b + q, inputs, outputs, directions, order)
                row = first + cell * grouped + q
                phi1, phi2, phi3 = nothing(work, QUAD), nothing(work, QUAD), nothing(work, QUAD)
                strip = strip_place(layer, p * num_outputs + q, strip_rows, start + n, count)
                for s in range(count):
                    place = start + n * stride + row + s * grouped
                    sums = nothing(work, QUAD) if strip_rows > 0 else load(gradient, place, QUAD)
                    sums = multiply_add(read(work, basis + s), r0, sums)
                    sums = multiply_add(read(work, basis + count + s), r1, sums)
                    sums = multiply_add(read(work, basis + 2 * count + s), r2, sums)
                    if strip_rows > 0:
                        write(gradient, strip + s, lane(sums, 0))
                        write(gradient, strip + step + s, lane(sums, 1))
                        write(gradient, strip + 2 * step + s, lane(sums, 2))
                        write(gradient, strip + 3 * step + s, lane(sums, 3))
                    else:
                        store(gradient, place, sums)
                    if want_inputs:
                        quad = load(theta, row + s * grouped, QUAD)
                        phi1 = multiply_add(read(work, basis + count + s), quad, phi1)
                        phi2 = multiply_add(read(work, basis + 2 * count + s), quad, phi2)
                        phi3 = multiply_add(read(work, basis + 3 * count + s), quad, phi3)
                if want_inputs:
                    store(work, slopes + q, phi1)
                    store(work, curvatures + q, phi2)
                    values = multiply_add(r0, phi1, multiply_add(r1, phi2, multiply_add(r2, phi3, values)))
            if grouped < num_outputs:
                number = num_outputs - grouped
                r0 = load(work, b + grouped, QUAD)
                r1, r2 = pulled_values(work, z + p, b + grouped, inputs, outputs, directions, order)
                row, step_of_one = first + num_basis * grouped + cell, num_basis
                place = start + n * stride + row
                if strip_rows > 0:
                    place = strip_place(layer, p * num_outputs + grouped, strip_rows, start + n, count)
                    step_of_one = step
                add_one(gradient, place, lane(r0, 0), lane(r1, 0), lane(r2, 0), work, basis, marker)
                if number > 1:
                    place += step_of_one
                    add_one(gradient, place, lane(r0, 1), lane(r1, 1), lane(r2, 1), work, basis, marker)
                if number > 2:
                    place += step_of_one
                    add_one(gradient, place, lane(r0, 2), lane(r1, 2), lane(r2, 2), work, basis, marker)
                if want_inputs:
                    e, f, g = contract_last(theta, row, num_basis, number, work, basis, marker)
                    phi1, phi2, phi3 = column(e, f, g, 1), column(e, f, g, 2), column(e, f, g, 3)
                    store(work, slopes + grouped, phi1)
                    store(work, curvatures + grouped, phi2)
                    values = multiply_add(r0, phi1, multiply_add(r1, phi2, multiply_add(r2, phi3, values)))
            if want_inputs:
                write_adjoints(work, z + p, a + p, b, slopes, curvatures, values, inputs, outputs, directions, order)


@part
def forward_affine_jets(layer, theta, work, samples, directions, order):
    """Write the jets of an affine layer's outputs for a block of samples."""
    num_inputs, num_outputs, first = layer[INPUTS], layer[OUTPUTS], layer[COEFFICIENTS]
    inputs, outputs = row_length(num_inputs), row_length(num_outputs)
    numbers, bias = 1 + directions * order, layer[COEFFICIENTS] + layer[INPUTS] * layer[OUTPUTS]
    for n in range(samples):
        for j in range(numbers):
            z = layer[INPUT_SLOT] + (n * numbers + j) * inputs
            y = layer[OUTPUT_SLOT] + (n * numbers + j) * outputs
            clear(work, y, outputs)
            if layer[BIAS] and j == 0:
                copy(theta, bias, work, y, num_outputs)
            for p in range(num_inputs):
                contract(theta, first + p * num_outputs, num_outputs, work, z + p, y, ONE)


@part
def backward_affine_jets(
    layer, theta, work, samples, directions, order, want_inputs, gradient, start, stride, strip_rows, marker
):
    """Add the gradients of an affine layer; arguments as those of `backward_spline_jets`."""
    num_inputs, num_outputs, first = layer[INPUTS], layer[OUTPUTS], layer[COEFFICIENTS]
    inputs, outputs = row_length(num_inputs), row_length(num_outputs)
    numbers, bias, count = 1 + directions * order, layer[INPUTS] * layer[OUTPUTS], len(marker)
    if want_inputs:
        clear(work, layer[ADJOINT_SLOT], samples * numbers * inputs)
    for n in range(samples):
        place = start + n * stride + first
        for j in range(numbers):
            z = layer[INPUT_SLOT] + (n * numbers + j) * inputs
            b = layer[COTANGENT_SLOT] + (n * numbers + j) * outputs
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
                    write(work, layer[ADJOINT_SLOT] + (n * numbers + j) * inputs + p, pulled)
            if layer[BIAS] and j == 0:
                for q in range(num_outputs):
                    entry = place + bias + q
                    if strip_rows > 0:
                        entry = entry_of_strips(layer, bias + q, strip_rows, start + n, count)
                    add_to(gradient, entry, read(work, b + q))
