"""Parts of compiled kernels: a spline layer whose basis values are there, forwards and backwards."""

from __future__ import annotations

from kanmg.evaluators.kernels import part, part_inlined
from kanmg.evaluators.plan import (
    ADJOINT_SLOT,
    BASIS,
    CELL_SLOT,
    CELLS,
    COEFFICIENTS,
    COTANGENT_SLOT,
    GROUP,
    INPUTS,
    ORDER_SLOT,
    OUTPUT_SLOT,
    OUTPUTS,
    SLOPE_SLOT,
    VALUE_SLOT,
)
from kanmg.evaluators.simd import (
    BROAD,
    QUAD,
    WIDE,
    dot,
    load,
    multiply,
    multiply_add,
    nothing,
    read,
    store,
    total,
    write,
)


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
    cell_slot, value_slot, first, num_basis = layer[CELL_SLOT], layer[VALUE_SLOT], layer[COEFFICIENTS], layer[BASIS]
    per_input, grouped = num_basis * num_outputs, num_outputs - num_outputs % GROUP
    if grouped >= len(WIDE):
        # Samples inside: one input's coefficients stay in the first-level cache.
        for i in range(samples * num_outputs):
            write(work, output_slot + i, 0.0)
        for p in range(num_inputs):
            for n in range(samples):
                position = p * block + n
                row = first + p * per_input + read(cells, cell_slot + position) * grouped
                contract(
                    theta, row, grouped, work, value_slot + position * count, output_slot + n * num_outputs, marker
                )
    else:
        # Inputs inside: the sums stay in registers.
        for q in range(0, grouped, GROUP):
            for n in range(samples):
                quad = nothing(work, QUAD)
                for p in range(num_inputs):
                    position = p * block + n
                    row = first + p * per_input + read(cells, cell_slot + position) * grouped + q
                    for s in range(count):
                        weight = read(work, value_slot + position * count + s)
                        quad = multiply_add(weight, load(theta, row + s * grouped, QUAD), quad)
                store(work, output_slot + n * num_outputs + q, quad)
    for q in range(grouped, num_outputs):
        column = first + num_basis * q
        for n in range(samples):
            y = nothing(work, marker)
            for p in range(num_inputs):
                position = p * block + n
                row = column + p * per_input + read(cells, cell_slot + position)
                y = multiply_add(load(work, value_slot + position * count, marker), load(theta, row, marker), y)
            write(work, output_slot + n * num_outputs + q, total(y))


@part_inlined
def spread_chunk(gradient, place, work, weights, cotangents, num_outputs, cells, order, begin, end, marker, chunk):
    """Do what `spread` does for some samples of one cell, one row of it, as many outputs as `chunk` is long."""
    total_of_cell = load(gradient, place, chunk)
    for i in range(begin, end):
        n = read(cells, order + i)
        weight = read(work, weights + n * len(marker))
        total_of_cell = multiply_add(weight, load(work, cotangents + n * num_outputs, chunk), total_of_cell)
    store(gradient, place, total_of_cell)


@part
def spread_by_cells(layer, gradient, first, grouped, work, weights, cells, cell_slot, samples, marker):
    """Do what `spread` does for one input and all samples of a block, cell by cell."""
    num_outputs, num_cells, cotangents = layer[OUTPUTS], layer[CELLS], layer[COTANGENT_SLOT]
    ends, order = layer[ORDER_SLOT], layer[ORDER_SLOT] + layer[CELLS] + 1
    for c in range(num_cells + 1):
        write(cells, ends + c, 0)
    for n in range(samples):
        place = ends + 1 + read(cells, cell_slot + n)
        write(cells, place, read(cells, place) + 1)
    for c in range(num_cells):
        write(cells, ends + c + 1, read(cells, ends + c) + read(cells, ends + c + 1))
    # Now a cell's entry is where its samples begin; afterwards, where they end.
    for n in range(samples):
        place = ends + read(cells, cell_slot + n)
        write(cells, order + read(cells, place), n)
        write(cells, place, read(cells, place) + 1)
    begin = 0
    for c in range(num_cells):
        end = read(cells, ends + c)
        if end > begin:
            for s in range(len(marker)):
                place = first + (c + s) * grouped
                q = 0
                while q + 32 <= grouped:
                    spread_chunk(
                        gradient, place + q, work, weights + s, cotangents + q, num_outputs, cells, order, begin, end,
                        marker, BROAD,
                    )  # fmt: skip
                    q += 32
                while q + 16 <= grouped:
                    spread_chunk(
                        gradient, place + q, work, weights + s, cotangents + q, num_outputs, cells, order, begin, end,
                        marker, WIDE,
                    )  # fmt: skip
                    q += 16
                while q < grouped:
                    spread_chunk(
                        gradient, place + q, work, weights + s, cotangents + q, num_outputs, cells, order, begin, end,
                        marker, QUAD,
                    )  # fmt: skip
                    q += 4
        begin = end


@part
def backward_spline(layer, theta, work, cells, samples, block, want_inputs, gradient, start, stride, marker):
    """Add the gradients of a spline layer with respect to its coefficients; where wanted, write its inputs' adjoints.

    The gradient of sample n is added to `gradient[start + n * stride:]`: stride 0 sums over samples.
    """
    count = len(marker)
    num_inputs, num_outputs = layer[INPUTS], layer[OUTPUTS]
    cotangent_slot, adjoint_slot = layer[COTANGENT_SLOT], layer[ADJOINT_SLOT]
    cell_slot, value_slot, slope_slot = layer[CELL_SLOT], layer[VALUE_SLOT], layer[SLOPE_SLOT]
    first, num_basis = layer[COEFFICIENTS], layer[BASIS]
    per_input, grouped = num_basis * num_outputs, num_outputs - num_outputs % GROUP
    if grouped >= len(WIDE):
        # Where samples share cells, the sums of a cell stay in registers: stores are what the other way is limited by.
        by_cells = stride == 0 and samples >= 2 * layer[CELLS]
        for p in range(num_inputs):
            slab = first + p * per_input
            if by_cells:
                spread_by_cells(
                    layer, gradient, start + slab, grouped, work, value_slot + p * block * count, cells,
                    cell_slot + p * block, samples, marker,
                )  # fmt: skip
            for n in range(samples if want_inputs or not by_cells else 0):
                position = p * block + n
                row = slab + read(cells, cell_slot + position) * grouped
                cotangent = cotangent_slot + n * num_outputs
                if not by_cells:
                    place = start + n * stride + row
                    spread(gradient, place, grouped, work, value_slot + position * count, cotangent, marker)
                if want_inputs:
                    pulled = pull(theta, row, grouped, work, slope_slot + position * count, cotangent, marker)
                    write(work, adjoint_slot + n * num_inputs + p, pulled)
    else:
        for q in range(0, grouped, GROUP):
            for n in range(samples):
                quad = load(work, cotangent_slot + n * num_outputs + q, QUAD)
                for p in range(num_inputs):
                    position = p * block + n
                    row = first + p * per_input + read(cells, cell_slot + position) * grouped + q
                    place = start + n * stride + row
                    for s in range(count):
                        weight = read(work, value_slot + position * count + s)
                        store(gradient, place, multiply_add(weight, quad, load(gradient, place, QUAD)))
                        place += grouped
                    if want_inputs:
                        slope = multiply(read(work, slope_slot + position * count), load(theta, row, QUAD))
                        for s in range(1, count):
                            weight = read(work, slope_slot + position * count + s)
                            slope = multiply_add(weight, load(theta, row + s * grouped, QUAD), slope)
                        adjoint = adjoint_slot + n * num_inputs + p
                        before = 0.0
                        if q > 0:
                            before = read(work, adjoint)
                        write(work, adjoint, before + dot(quad, slope))
    for q in range(grouped, num_outputs):
        column = first + num_basis * q
        # Inputs inside: two samples in a row often share a part of their coefficients, and reading what was just
        # written with another alignment stalls the processor.
        for n in range(samples):
            cotangent = read(work, cotangent_slot + n * num_outputs + q)
            for p in range(num_inputs):
                position = p * block + n
                row = column + p * per_input + read(cells, cell_slot + position)
                place = start + n * stride + row
                value = load(work, value_slot + position * count, marker)
                store(gradient, place, multiply_add(cotangent, value, load(gradient, place, marker)))
                if want_inputs:
                    slope = dot(load(work, slope_slot + position * count, marker), load(theta, row, marker))
                    adjoint = adjoint_slot + n * num_inputs + p
                    before = 0.0
                    if q > 0:
                        before = read(work, adjoint)
                    write(work, adjoint, before + cotangent * slope)
