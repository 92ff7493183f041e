"""The reference evaluator: the contract, and what only it can do: autograd to any order, jets of any order."""

from __future__ import annotations

import pickle
from math import comb, factorial

import numpy as np
import pytest
import torch

from kanmg.errors import KanmgValueError
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.network import Affine, Network, Spline
from kanmg.splines.knots import clamped_knots, uniform_knots
from kanmg.testing.cases import NETWORKS, Case, outside_case, sample_points
from kanmg.testing.contract import EvaluatorContract
from kanmg.testing.oracle import oracle_adjoint, oracle_jacobian, oracle_jet, oracle_value


class TestReference(EvaluatorContract):
    def make(self, network, dtype):
        return ReferenceEvaluator(network, dtype)


UNIFORM = {
    name: network
    for name, network in NETWORKS.items()
    if network.num_coefficients < 2000
    and all(knots.is_uniform for layer in network.layers if isinstance(layer, Spline) for knots in layer.knots)
}


def relative_error(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()


def truncated(network, dtype="float64"):
    return ReferenceEvaluator(network, dtype, basis="truncated-power")


# Rounding errors of the sums, relative to values of one: they grow with the degree only. Derivatives are those of
# degree k - d in units of the cells.
LOSSES = {"float64": 1e-13, "float32": 3e-5}


@pytest.mark.parametrize("dtype", LOSSES)
@pytest.mark.parametrize("name", UNIFORM)
def test_truncated_powers_agree_with_the_recursion(name, dtype):
    case = Case.drawn(UNIFORM[name], dtype)
    one, other = ReferenceEvaluator(case.network, dtype), truncated(case.network, dtype)
    degree = max([layer.degree for layer in case.network.layers if isinstance(layer, Spline)], default=0)
    for found, expected in zip(case.results(other), case.results(one), strict=True):
        scale = np.abs(expected).max()
        assert np.abs(found - expected).max() <= 2.0**degree * LOSSES[dtype] * scale


@pytest.mark.parametrize("outside", ["extend", "linear", "clamp", "zero"])
def test_truncated_powers_follow_the_policies_outside(outside):
    case = outside_case("uniform", outside, "float64")
    one, other = ReferenceEvaluator(case.network, "float64"), truncated(case.network)
    for found, expected in zip(case.results(other), case.results(one), strict=True):
        assert np.abs(found - expected).max() <= 1e-10 * np.abs(expected).max()


def test_truncated_powers_jump_at_the_knots_where_the_recursion_does():
    knots = uniform_knots(7, degree=2)
    network = Network([Spline(1, 1, knots=knots)])
    theta = np.random.default_rng(0).standard_normal(9)
    x = np.concatenate([knots.breakpoints, [-1.5, 1.5]])[:, None]
    jets = [
        evaluator.jet(theta, x, np.ones((1, 1)), 2)
        for evaluator in (ReferenceEvaluator(network, "float64"), truncated(network))
    ]
    for found, expected in zip(jets[1].derivatives, jets[0].derivatives, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("degree", range(1, 8))
def test_the_error_of_clamped_powers_does_not_grow_with_the_cells(degree):
    for num_intervals in (4, 64, 1024):
        network = Network([Spline(1, 1, knots=uniform_knots(num_intervals, degree=degree))])
        theta, x = np.ones(num_intervals + degree), np.random.default_rng(0).uniform(-1, 1, (500, 1))
        # Terms reach C(k + 1, s) ((k + 1) / 2 - s)^k / k!, and x has been divided by h.
        middle = (degree + 1) / 2
        terms = sum(comb(degree + 1, s) * max(0.0, middle - s) ** degree for s in range(degree)) / factorial(degree)
        rounding = np.finfo(float).eps * (2 * (degree + 1) * terms + num_intervals)
        assert np.abs(truncated(network).value(theta, x) - 1.0).max() <= rounding


def test_truncated_powers_are_differentiated_by_torch():
    network = UNIFORM["cubic"]
    theta, x = drawn(network)
    points = torch.tensor(x, requires_grad=True)
    values = truncated(network).forward(torch.tensor(theta), points)[:, 0]
    (slopes,) = torch.autograd.grad(values.sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(slopes[:, 0].sum(), points)
    jet = ReferenceEvaluator(network, "float64").jet(theta, x, np.eye(network.num_inputs), 2)
    assert relative_error(slopes.detach().numpy()[:, 0], jet.derivatives[0][0, :, 0]) < 1e-12
    assert relative_error(second.numpy()[:, 0], jet.derivatives[1][0, :, 0]) < 1e-10


def test_truncated_powers_need_uniform_knots():
    network = Network([Affine(1, 2), Spline(2, 1, knots=clamped_knots(3, degree=2))])
    with pytest.raises(KanmgValueError, match=r"layer 1 has Knots\(.*clamped\), but `basis='truncated-power'`"):
        truncated(network)
    with pytest.raises(KanmgValueError, match="`basis='relu'` is unknown"):
        ReferenceEvaluator(network, "float64", basis="relu")


def test_a_copy_keeps_the_basis():
    evaluator = pickle.loads(pickle.dumps(truncated(UNIFORM["cubic"])))  # noqa: S301 - made here
    assert evaluator.basis == "truncated-power"
    assert evaluator.name == "reference (truncated-power)"
    assert ReferenceEvaluator.name == "reference"


def drawn(network, num_samples=20, seed=0):
    random = np.random.default_rng(seed)
    return 0.3 * random.standard_normal(network.num_coefficients), sample_points(network, num_samples)


@pytest.mark.parametrize("outside", ["extend", "linear", "clamp", "zero"])
def test_jets_of_high_order_are_those_of_nested_automatic_differentiation(outside):
    layers = [Spline(2, 3, knots=uniform_knots(3, degree=3), outside=outside)]
    layers += [Affine(3, 2), Spline(2, 1, knots=clamped_knots(3, degree=5), outside=outside)]
    network = Network(layers)
    evaluator = ReferenceEvaluator(network, "float64")
    theta, x = drawn(network)
    jet = evaluator.jet(theta, x, np.eye(2), 5)
    points = torch.tensor(x, requires_grad=True)
    derivative = evaluator.forward(torch.tensor(theta), points)[:, 0]
    for order in range(5):
        (gradient,) = torch.autograd.grad(derivative.sum(), points, create_graph=True)
        derivative = gradient[:, 0]
        assert relative_error(jet.derivatives[order][0, :, 0], derivative.detach().numpy()) < 1e-11


def test_derivatives_above_the_degree_vanish():
    network = Network([Spline(1, 2, knots=uniform_knots(5, degree=3))])
    theta, x = drawn(network)
    jet = ReferenceEvaluator(network, "float64").jet(theta, x, np.ones((1, 1)), 6)
    assert np.abs(jet.derivatives[2]).min() > 0
    for derivative in jet.derivatives[3:]:
        assert not derivative.any()


def test_composition_of_splines_has_derivatives_above_the_degree():
    """x -> x^2 twice is x^4, whose fourth derivative is 24."""
    knots = uniform_knots(3, degree=2)
    square = knots.vector[1:-2] * knots.vector[2:-1]
    network = Network([Spline(1, 1, knots=knots), Spline(1, 1, knots=knots)])
    x = np.linspace(-0.9, 0.9, 7)[:, None]
    jet = ReferenceEvaluator(network, "float64").jet(np.concatenate([square, square]), x, np.ones((1, 1)), 5)
    np.testing.assert_allclose(jet.value, x**4, atol=1e-15)
    np.testing.assert_allclose(jet.derivatives[3][0], np.full_like(x, 24.0), rtol=1e-12)
    np.testing.assert_allclose(jet.derivatives[4][0], 0.0, atol=1e-12)


def test_forward_takes_one_vector_of_coefficients_per_sample():
    network = NETWORKS["affine in between"]
    evaluator = ReferenceEvaluator(network, "float64")
    theta, x = drawn(network, 3)
    thetas = np.stack([theta, 2 * theta, -theta])
    together = evaluator.forward(torch.tensor(thetas), torch.tensor(x)).numpy()
    for row, (own, point) in enumerate(zip(thetas, x, strict=True)):
        np.testing.assert_allclose(together[row], evaluator.value(own, point[None])[0], rtol=1e-13, atol=1e-13)


def test_forward_jet_is_differentiable_with_respect_to_the_coefficients():
    network = NETWORKS["cubic"]
    evaluator = ReferenceEvaluator(network, "float64")
    theta, x = drawn(network)
    coefficients = torch.tensor(theta, requires_grad=True)
    lines = torch.eye(2, dtype=torch.float64)

    def laplacian(vector):
        return evaluator.forward_jet(vector, torch.tensor(x), lines, 2)[2].sum(dim=0)

    (gradient,) = torch.autograd.grad((laplacian(coefficients) ** 2).sum(), coefficients)
    direction = torch.tensor(np.random.default_rng(1).standard_normal(theta.size))
    losses = [(laplacian(torch.tensor(theta) + h * direction) ** 2).sum() for h in (-1e-6, 1e-6)]
    assert (gradient @ direction).item() == pytest.approx((losses[1] - losses[0]).item() / 2e-6, rel=1e-6)


def test_samples_are_cut_into_chunks_without_a_difference(monkeypatch):
    network = NETWORKS["mixed degree"]
    evaluator = ReferenceEvaluator(network, "float64")
    theta, x = drawn(network, 50)
    y = np.ones((50, 2))
    whole = (*evaluator.squared_error(theta, x, y), evaluator.jacobian(theta, x), *evaluator.gauss_newton(theta, x, y))
    monkeypatch.setattr("kanmg.evaluators.reference._CHUNK_ENTRIES", 1000)
    parts = (*evaluator.squared_error(theta, x, y), evaluator.jacobian(theta, x), *evaluator.gauss_newton(theta, x, y))
    for part, expected in zip(parts, whole, strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-11, atol=1e-12)


def test_oracle_agrees_with_finite_differences():
    """The oracle itself: its adjoint and jets against differences of its values."""
    network = NETWORKS["affine in between"]
    theta, x = drawn(network)
    random = np.random.default_rng(3)
    tangent, line, cotangents = (
        random.standard_normal(theta.size),
        random.standard_normal(2),
        random.standard_normal((20, 2)),
    )
    gradient, x_gradient = oracle_adjoint(network, theta, x, cotangents)
    jet = oracle_jet(network, theta, x, line[None])
    h = 1e-5
    along = [oracle_value(network, theta + sign * h * tangent, x) for sign in (-1, 1)]
    slopes = (along[1] - along[0]) / (2 * h)
    np.testing.assert_allclose(oracle_jacobian(network, theta, x) @ tangent, slopes, rtol=1e-6, atol=1e-7)
    assert gradient @ tangent == pytest.approx((cotangents * slopes).sum(), rel=1e-7)
    left, middle, right = (oracle_value(network, theta, x + shift * line) for shift in (-h, 0, h))
    np.testing.assert_allclose(jet.first[0], (right - left) / (2 * h), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(jet.second[0], (right - 2 * middle + left) / h**2, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        x_gradient @ line, (cotangents * (right - left)).sum(axis=1) / (2 * h), rtol=1e-6, atol=1e-7
    )
