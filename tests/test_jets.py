"""Directions and weights of requested derivatives, against exact derivatives of polynomials and of networks."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch

from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.evaluators.base import Jet
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.jets import partial_derivative, plan_derivatives
from kanmg.testing.cases import NETWORKS, sample_points


@pytest.mark.parametrize(
    ("requests", "num_directions", "order"),
    [
        ([()], 0, 0),
        ([], 0, 0),
        ([(0,)], 1, 1),
        ([(0,), (1,), (2,)], 3, 1),
        ([(0, 0)], 1, 2),
        ([(0, 1)], 2, 2),
        ([(1, 0), (0, 1)], 2, 2),
        ([(0, 1), (0,), (1,)], 2, 2),
        ([(0, 0), (1, 1)], 2, 2),
        ([(0, 0), (0, 1), (1, 1)], 3, 2),
        ([(0,), (1,), (0, 0)], 2, 2),
        ([(0, 1), (0, 2)], 4, 2),
        ([(0, 0, 0), (0,), ()], 1, 3),
        ([(0, 0, 1)], 4, 3),
        ([(0, 0, 1, 1)], 5, 4),
    ],
)
def test_number_of_directions_and_order(requests, num_directions, order):
    plan = plan_derivatives(requests, num_inputs=3)
    assert plan.directions.shape == (num_directions, 3)
    assert plan.order == order


def nested_autograd(evaluator, theta, x, request):
    points = torch.tensor(x, requires_grad=True)
    derivative = evaluator.forward(torch.tensor(theta), points)[:, 0]
    for coordinate in request:
        (gradient,) = torch.autograd.grad(derivative.sum(), points, create_graph=True)
        derivative = gradient[:, coordinate]
    return derivative.detach().numpy()


@pytest.mark.parametrize(
    "requests",
    [
        [request for order in (0, 1, 2) for request in combinations_with_replacement(range(3), order)],
        [(0, 1)],
        [(1,), (2, 0), (2, 2)],
        [(2,), (0, 1), (1,)],
        [(0, 1, 2)],
        [(2, 0, 2), (0, 1), (1, 1, 1), ()],
        [(0, 0, 1, 1), (2, 2)],
    ],
)
def test_combined_derivatives_are_those_of_automatic_differentiation(requests):
    network = NETWORKS["degree 4, odd cells"]
    evaluator = ReferenceEvaluator(network, "float64")
    theta = 0.3 * np.random.default_rng(0).standard_normal(network.num_coefficients)
    x = sample_points(network, 30)
    plan = plan_derivatives(requests, network.num_inputs)
    derivatives = plan.combine(evaluator.jet(theta, x, plan.directions, plan.order))
    for request, derivative in zip(requests, derivatives, strict=True):
        expected = nested_autograd(evaluator, theta, x, request)
        np.testing.assert_allclose(derivative[:, 0], expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("request_", [(), (1,), (2, 0), (0, 0, 1)])
def test_one_partial_derivative(request_):
    network = NETWORKS["degree 4, odd cells"]
    evaluator = ReferenceEvaluator(network, "float64")
    theta = 0.3 * np.random.default_rng(0).standard_normal(network.num_coefficients)
    x = sample_points(network, 30)
    expected = nested_autograd(evaluator, theta, x, request_)
    actual = partial_derivative(evaluator, theta, x, request_)[:, 0]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_weights_are_exact_where_they_are_simple():
    plan = plan_derivatives([(0, 0), (0, 1), (1, 1), (0,)], num_inputs=2)
    assert plan.directions.tolist() == [[1, 0], [0, 1], [1, 1]]
    assert [own.tolist() for own in plan.weights] == [[1, 0, 0], [-0.5, -0.5, 0.5], [0, 1, 0], [1, 0, 0]]


def test_derivatives_keep_the_dtype_of_the_jet():
    network = NETWORKS["cubic"]
    evaluator = ReferenceEvaluator(network, "float32")
    plan = plan_derivatives([(0, 1), ()], num_inputs=2)
    theta, x = np.ones(network.num_coefficients, np.float32), np.zeros((4, 2), np.float32)
    jet = evaluator.jet(theta, x, plan.directions.astype(np.float32), plan.order)
    assert [part.dtype for part in plan.combine(jet)] == [np.float32] * 2


def test_requests_that_make_no_sense_are_refused():
    with pytest.raises(KanmgValueError, match=r"by coordinate 2 .* numbered 0 to 1"):
        plan_derivatives([(0, 2)], num_inputs=2)
    with pytest.raises(KanmgValueError, match=r"by coordinate -1"):
        plan_derivatives([(-1,)], num_inputs=2)
    with pytest.raises(KanmgTypeError, match=r"a derivative by 'x' was asked for"):
        plan_derivatives(["xy"], num_inputs=2)


def test_spreading_cotangents_is_the_transpose_of_combining():
    plan = plan_derivatives([(), (0,), (0, 1), (1, 1), (2,)], num_inputs=3)
    random = np.random.default_rng(0)
    shape = (len(plan.directions), 7, 2)
    jet = Jet(random.standard_normal(shape[1:]), tuple(random.standard_normal(shape) for _ in range(plan.order)))
    cotangents = [random.standard_normal(shape[1:]) for _ in plan.requests]
    spread = plan.spread(cotangents, jet)
    left = sum(np.vdot(a, b) for a, b in zip(plan.combine(jet), cotangents, strict=True))
    pairs = zip((jet.value, *jet.derivatives), (spread.value, *spread.derivatives), strict=True)
    assert sum(np.vdot(a, b) for a, b in pairs) == pytest.approx(left, rel=1e-13)
    assert [part.shape for part in spread.derivatives] == [shape, shape]
