"""Parts of compiled kernels: affine layers, and blocks of samples through all layers, forwards and backwards."""

from __future__ import annotations

from kanmg.evaluators.basis_kernels import basis_of_layer
from kanmg.evaluators.kernels import part
from kanmg.evaluators.plan import (
    ADJOINT_SLOT,
    AFFINE,
    BIAS,
    COEFFICIENTS,
    COTANGENT_SLOT,
    INPUT_SLOT,
    INPUTS,
    KIND,
    OUTPUT_SLOT,
    OUTPUTS,
)
from kanmg.evaluators.simd import read, write
from kanmg.evaluators.spline_kernels import backward_spline, contract, forward_spline, spread

ONE = (0,)
"""Marker of one weight per input: what an affine layer has where a spline layer has k + 1."""


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
