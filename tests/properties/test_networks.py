"""Networks and hierarchies, drawn at random: prolongation changes nothing that an evaluator computes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanmg.hierarchy import Hierarchy, Transfer
from kanmg.network import Affine
from kanmg.testing.networks import nested_networks, network_coefficients, network_points, networks
from kanmg.testing.oracle import oracle_value

NESTED = {"float64": 1e-12, "float32": 1e-5}
DOUBLE = np.dtype("float64")


def draw_hierarchy(data, **options):
    pair = data.draw(nested_networks())
    return Hierarchy([*pair, pair[1].refine()], **options)


def can_refuse(network):
    return any(getattr(layer, "outside", None) == "error" for layer in network.layers)


def draw_points(data, network):
    # In float32 an end of the domain may be rounded to the outside.
    return data.draw(network_points(network, reach=-1e-3 if can_refuse(network) else 0.02))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("evaluator", ["reference", "cpu"])
@given(data=st.data())
def test_values_and_loss_are_the_same_before_and_after_prolongation(evaluator, dtype, data):
    hierarchy = draw_hierarchy(data, evaluator=evaluator, dtype=dtype)
    network = hierarchy[0].network
    theta = data.draw(network_coefficients(network)).astype(dtype)
    x = draw_points(data, network).astype(dtype)
    values = hierarchy[0].evaluator.value(theta, x)
    y = np.zeros_like(values)
    loss = hierarchy[0].evaluator.squared_error_value(theta, x, y)
    for level in hierarchy[1:]:
        fine = hierarchy.prolong(theta, 0, level.index)
        fine_values = level.evaluator.value(fine, x)
        tolerance = NESTED[dtype]
        if dtype == "float32":
            # Steep layers amplify the rounding of hidden values: then the values themselves are less accurate.
            tolerance = max(tolerance, *(3 * rounding(*pair, x) for pair in ((hierarchy[0], theta), (level, fine))))
        assert relative_error(fine_values, values) <= tolerance
        assert level.evaluator.squared_error_value(fine, x, y) == pytest.approx(loss, rel=2 * tolerance)


def rounding(level, theta, x):
    """The relative error of an evaluator's values."""
    return relative_error(level.evaluator.value(theta, x), oracle_value(level.network, theta, x))


def relative_error(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()


@given(data=st.data())
def test_derivatives_are_the_same_before_and_after_prolongation(data):
    hierarchy = draw_hierarchy(data, evaluator="reference")
    network = hierarchy[0].network
    theta, x = data.draw(network_coefficients(network)), draw_points(data, network)
    directions = np.eye(network.num_inputs)
    jets = [level.evaluator.jet(hierarchy.prolong(theta, 0, level.index), x, directions, 1) for level in hierarchy]
    scale = max(np.abs(jets[0].derivatives[0]).max(), np.abs(jets[0].value).max())
    for jet in jets[1:]:
        # Where a hidden value is a breakpoint of degree 1 up to rounding, slopes jump: leave such samples out.
        smooth = np.abs(jet.derivatives[0] - jets[0].derivatives[0]) <= 1e-10 * scale
        assert smooth.mean() >= (0.9 if has_degree_one(network) else 1.0)


def has_degree_one(network):
    return any(getattr(layer, "degree", 2) == 1 for layer in network.layers)


@given(data=st.data())
def test_coarse_gradient_is_the_restricted_fine_gradient(data):
    """The chain rule: f_coarse(c) = f_fine(P c) on the same samples."""
    hierarchy = draw_hierarchy(data, evaluator="reference")
    network = hierarchy[0].network
    theta, x = data.draw(network_coefficients(network)), draw_points(data, network)
    y = np.cos(np.arange(len(x) * network.num_outputs)).reshape(len(x), -1)
    _, gradient = hierarchy[0].evaluator.squared_error(theta, x, y)
    for transfer, level in zip(hierarchy.transfers[:1], hierarchy[1:2], strict=True):
        _, fine_gradient = level.evaluator.squared_error(transfer.prolong(theta), x, y)
        if not has_degree_one(network):
            scale = np.abs(gradient).max()
            np.testing.assert_allclose(transfer.restrict(fine_gradient), gradient, rtol=0, atol=1e-10 * scale)


@given(data=st.data())
def test_restriction_is_dual_to_prolongation(data):
    coarse, fine = data.draw(nested_networks())
    transfer = Transfer(0, coarse, fine, DOUBLE)
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    theta, gradient = random.standard_normal(coarse.num_coefficients), random.standard_normal(fine.num_coefficients)
    product = gradient * transfer.prolong(theta)
    assert abs(product.sum() - transfer.restrict(gradient) @ theta) <= 1e-13 * np.abs(product).sum()


@pytest.mark.parametrize("kind", ["l2", "pinv"])
@given(data=st.data())
def test_injection_undoes_prolongation(kind, data):
    coarse, fine = data.draw(nested_networks())
    transfer = Transfer(0, coarse, fine, DOUBLE)
    theta = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal(coarse.num_coefficients)
    np.testing.assert_allclose(transfer.inject(transfer.prolong(theta), kind), theta, rtol=0, atol=1e-10)


@given(data=st.data())
def test_prolongation_over_two_levels_is_the_product(data):
    coarse, middle = data.draw(nested_networks())
    fine = middle.refine()
    theta = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal(coarse.num_coefficients)
    direct = Transfer(0, coarse, fine, DOUBLE).prolong(theta)
    by_steps = Transfer(1, middle, fine, DOUBLE).prolong(Transfer(0, coarse, middle, DOUBLE).prolong(theta))
    np.testing.assert_allclose(direct, by_steps, rtol=0, atol=1e-12 * max(1.0, np.abs(direct).max()))


@given(data=st.data())
def test_affine_layers_are_untouched(data):
    coarse, fine = data.draw(nested_networks())
    transfer = Transfer(0, coarse, fine, DOUBLE)
    random = np.random.default_rng(0)
    down, up = random.standard_normal(fine.num_coefficients), random.standard_normal(coarse.num_coefficients)
    prolonged = fine.unflatten(transfer.prolong(up))
    lowered = [coarse.unflatten(vector) for vector in (transfer.restrict(down), transfer.inject(down))]
    for number, layer in enumerate(coarse.layers):
        if isinstance(layer, Affine):
            assert fine.layers[number] == layer
            np.testing.assert_array_equal(prolonged[number], coarse.unflatten(up)[number])
            for arrays in lowered:
                np.testing.assert_array_equal(arrays[number], fine.unflatten(down)[number])


@given(data=st.data())
def test_evaluators_agree_with_each_other_and_with_the_oracle(data):
    network = data.draw(networks())
    theta, x = data.draw(network_coefficients(network)), draw_points(data, network)
    expected = oracle_value(network, theta, x)
    y = np.sin(np.arange(expected.size)).reshape(expected.shape)
    gradients = []
    for evaluator in ("reference", "cpu"):
        built = Hierarchy([network], evaluator=evaluator)[0].evaluator
        assert relative_error(built.value(theta, x), expected) <= 1e-12
        gradients.append(built.squared_error(theta, x, y)[1])
        single = Hierarchy([network], evaluator=evaluator, dtype="float32")[0].evaluator
        assert relative_error(single.value(theta.astype(np.float32), x.astype(np.float32)), expected) <= 1e-3
    if not has_degree_one(network):
        assert relative_error(*gradients) <= 1e-10


@given(data=st.data())
def test_flatten_undoes_unflatten_and_refinement_keeps_the_widths(data):
    network = data.draw(networks())
    theta = np.arange(network.num_coefficients, dtype=np.float64)
    np.testing.assert_array_equal(network.flatten(network.unflatten(theta)), theta)
    assert network.refine().widths == network.widths
    assert network.refine().domain == network.domain
