"""Values in any units: the run sees them standardised, and the solution is in the data's units."""

from __future__ import annotations

import numpy as np
import pytest

import kanmg
from kanmg.problems.standardisation import Standardisation, bears_shifts

X = np.random.default_rng(0).uniform(-1, 1, (400, 2))
Y = np.stack([np.sin(2 * X[:, 0]) * X[:, 1], np.exp(X[:, 0])], axis=1)
METHOD = kanmg.NestedIteration(steps=(40, 20))


def hierarchy_of(widths=(2, 3, 2), **options):
    options = {"degree": 3, "num_intervals": 3, "num_levels": 2, "evaluator": "reference"} | options
    return kanmg.uniform_hierarchy(widths, **options)


def relative_error(problem_values, shift, scale, **options):
    problem = kanmg.Regression(X, scale * problem_values + shift, **options.pop("data", {}))
    hierarchy = hierarchy_of((2, 3, problem_values.shape[1]))
    solution = kanmg.solve(problem, hierarchy, method=METHOD, **options)
    reported = problem.loss(hierarchy[solution.level].evaluator, solution.coefficients)
    assert solution.loss == pytest.approx(reported, rel=1e-6)
    return float(np.std((solution(X) - shift) / scale - problem_values))


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 100.0, 1e6])
@pytest.mark.parametrize("shift", [0.0, 1e5])
def test_units_do_not_change_the_relative_error(scale, shift):
    expected = relative_error(Y, 0.0, 10.0)
    assert relative_error(Y, scale * shift, scale) == pytest.approx(expected, rel=0.5)
    assert expected < 0.02


def test_outputs_far_from_each_other():
    assert relative_error(Y, np.array([1e4, -3.0]), 1.0) < 0.02


@pytest.mark.parametrize(
    "data", [{"validation": 0.2}, {"weights": np.linspace(0.1, 1, 400)}, {"validation": (X, 1e3 * Y)}]
)
def test_validation_and_weights(data):
    assert relative_error(Y, 0.0, 1e3, data=data, patience=None) < 0.02


def test_mini_batches_and_adam():
    problem = kanmg.Regression(X, 1e4 * Y + 1e6, batch_size=100)
    solution = kanmg.solve(problem, hierarchy_of(), method=kanmg.NestedIteration(kanmg.Adam(1e-2), steps=(200, 100)))
    assert np.std(solution(X) - (1e4 * Y + 1e6)) < 0.2 * 1e4


def test_initial_coefficients_are_in_units_of_the_data():
    problem = kanmg.Regression(X, 1e4 * Y + 1e6)
    hierarchy = hierarchy_of()
    first = kanmg.solve(problem, hierarchy, method=METHOD)
    again = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(steps=(0, 5)), initial=first.coefficients)
    assert again.history[0].loss == pytest.approx(first.loss, rel=1e-6)
    assert again.loss <= first.loss * (1 + 1e-9)


def test_tolerances_are_in_units_of_the_data():
    problem = kanmg.Regression(X, 1e4 * Y)
    solution = kanmg.solve(problem, hierarchy_of(), method=METHOD, atol=1e6)
    assert solution.status is kanmg.Status.CONVERGED
    assert 1e2 < solution.loss <= 1e6


def test_constant_values():
    problem = kanmg.Regression(X, np.full(400, 3e8))
    solution = kanmg.solve(problem, hierarchy_of((2, 3, 1)), method=METHOD)
    np.testing.assert_allclose(solution(X), 3e8, rtol=1e-6)


def test_a_problem_of_unit_size_is_left_alone():
    assert kanmg.Regression(X, Y[:, 0]).standardised(may_shift=True) is None


def test_the_problem_itself_is_not_changed():
    problem = kanmg.Regression(X, 1e4 * Y + 1e6)
    before = problem.fingerprint()
    other, standardisation = problem.standardised(may_shift=True)
    assert problem.fingerprint() == before
    network = hierarchy_of()[0].network
    evaluator = hierarchy_of()[0].evaluator
    theta = np.random.default_rng(1).standard_normal(network.num_coefficients)
    in_units = standardisation.to_user(network, theta)
    np.testing.assert_allclose(problem.loss(evaluator, in_units), other.loss(evaluator, theta), rtol=1e-9)
    np.testing.assert_allclose(standardisation.from_user(network, in_units), theta, atol=1e-9)


def test_networks_that_cannot_add_a_constant_are_only_scaled():
    bare = kanmg.Network([kanmg.Spline(1, 1, knots=kanmg.uniform_knots(3, degree=3), outside="zero")])
    linear = kanmg.Network([kanmg.Spline(1, 2, knots=kanmg.uniform_knots(3, degree=3)), kanmg.Affine(2, 1, bias=False)])
    affine = kanmg.Network([kanmg.Spline(1, 2, knots=kanmg.uniform_knots(3, degree=3)), kanmg.Affine(2, 1)])
    assert [bears_shifts(network) for network in (bare, linear, affine)] == [False, False, True]
    scaled = Standardisation.of(np.array([30.0]), 40.0, may_shift=False)
    assert scaled.shift.tolist() == [0.0]
    assert scaled.scale == pytest.approx(50.0)
    theta = np.arange(affine.num_coefficients, dtype=float)
    shifted = Standardisation(np.array([5.0]), 2.0)
    inside = kanmg.Hierarchy([affine], evaluator="reference")[0].evaluator
    x = np.linspace(-1, 1, 7).reshape(-1, 1)
    expected = 2.0 * inside.value(theta, x) + 5.0
    changed = shifted.to_user(affine, theta)
    # Only the last layer changes: its inputs stay as they are.
    np.testing.assert_allclose(inside.value(changed, x), expected, rtol=1e-12)
