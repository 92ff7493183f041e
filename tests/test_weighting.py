"""Weights of terms and points: the formulas against plain loops, and what the weighted problem is."""

from __future__ import annotations

import numpy as np
import pytest

import kanmg
from kanmg.errors import KanmgTypeError, KanmgValueError, ShapeError
from kanmg.weighting import Attention, Balance

LINE = np.linspace(-1.0, 1.0, 41).reshape(-1, 1)
HIERARCHY = kanmg.uniform_hierarchy((1, 2, 1), degree=4, num_intervals=3, num_levels=2, evaluator="reference")
EVALUATOR = HIERARCHY[0].evaluator
THETA = np.random.default_rng(0).uniform(-0.5, 0.5, HIERARCHY[0].network.num_coefficients)


def make(equation=1.0, boundary=1.0):
    terms = [
        kanmg.Term("equation", lambda x, u: u.d("x", "x") + u.value - x[:, 0], LINE, weight=equation),
        kanmg.Term("boundary", lambda _, u: u.value - 1.0, LINE[[0, -1]], weight=boundary),
    ]
    return kanmg.Collocation(coordinates=("x",), fields=("u",), terms=terms)


PROBLEM = make(0.5, 3.0)


def jacobian(problem):
    """Columns by central differences of the residuals."""
    columns = []
    for entry in np.eye(len(THETA)):
        ahead, back = (problem.residuals(EVALUATOR, THETA + sign * 1e-6 * entry) for sign in (1.0, -1.0))
        columns.append((ahead - back) / 2e-6)
    return np.stack(columns, axis=1)


def test_attention_is_the_formula_point_by_point():
    random = np.random.default_rng(1)
    weights, residuals = random.uniform(0.5, 2.0, 7), random.standard_normal(7)
    largest = max(abs(residual) for residual in residuals)
    expected = [0.9 * old + 0.2 * abs(residual) / largest for old, residual in zip(weights, residuals, strict=True)]
    np.testing.assert_allclose(Attention(0.9, 0.2).updated(weights, residuals), expected, rtol=1e-15)


@pytest.mark.parametrize("residuals", [[0.0, 0.0], [1.0, np.inf], [np.nan, 1.0]])
def test_attention_keeps_its_weights_where_residuals_tell_nothing(residuals):
    weights = np.array([1.0, 2.0])
    assert Attention().updated(weights, np.array(residuals)) is weights


def test_balance_makes_strengths_alike():
    strengths = [4.0, 0.01, 30.0]
    factors = Balance(memory=0.0).updated((1.0, 1.0, 1.0), strengths)
    products = [factor * strength for factor, strength in zip(factors, strengths, strict=True)]
    np.testing.assert_allclose(products, products[0], rtol=1e-12)
    assert np.prod(factors) == pytest.approx(1.0)
    half = Balance(memory=0.5).updated((1.0, 1.0, 1.0), strengths)
    np.testing.assert_allclose(half, np.sqrt(factors), rtol=1e-12)


def test_balance_bounds_the_ratio_of_the_factors():
    factors = Balance(memory=0.0, max_ratio=100.0).updated((1.0, 1.0), [1e9, 0.0])
    assert factors == pytest.approx((0.1, 10.0))
    for _ in range(50):
        factors = Balance(memory=0.5, max_ratio=100.0).updated(factors, [1e9, 1e-9])
    assert factors[1] / factors[0] == pytest.approx(100.0)


@pytest.mark.parametrize("strengths", [[0.0, 0.0], [np.inf, 1.0], [np.nan, 1.0]])
def test_balance_keeps_its_factors_where_strengths_tell_nothing(strengths):
    assert Balance().updated((0.5, 2.0), strengths) == (0.5, 2.0)


def test_strengths_of_terms_are_those_of_their_parts():
    matrix = jacobian(PROBLEM)
    parts = {"equation": matrix[:41], "boundary": matrix[41:]}
    residuals = np.split(PROBLEM.residuals(EVALUATOR, THETA), [41])
    traces, norms = PROBLEM.term_traces(EVALUATOR, THETA), PROBLEM.term_gradient_norms(EVALUATOR, THETA)
    for (name, part), own in zip(parts.items(), residuals, strict=True):
        assert traces[name] == pytest.approx(np.sum(part**2), rel=1e-6)
        assert norms[name] == pytest.approx(np.linalg.norm(2.0 * part.T @ own), rel=1e-6)


def test_weighted_problems_have_the_loss_that_one_would_write_down():
    points = np.random.default_rng(2).uniform(0.5, 2.0, 41)
    weighted = PROBLEM.with_weights((2.0, 0.25), (points, None))
    sizes = PROBLEM.magnitudes(EVALUATOR, THETA)
    equation = sum((w * r) ** 2 for w, r in zip(points, sizes["equation"], strict=True)) / sum(points**2)
    boundary = sum(r**2 for r in sizes["boundary"]) / 2
    assert weighted.loss(EVALUATOR, THETA) == pytest.approx(2.0 * 0.5 * equation + 0.25 * 3.0 * boundary, rel=1e-12)
    matrix = jacobian(weighted)
    found = weighted.normal_equations(EVALUATOR, THETA)[2]
    np.testing.assert_allclose(found, 2.0 * matrix.T @ matrix, atol=1e-5 * np.abs(found).max())
    assert weighted.fingerprint() != PROBLEM.fingerprint()
    assert PROBLEM.with_weights((1.0, 1.0)).loss(EVALUATOR, THETA) == PROBLEM.loss(EVALUATOR, THETA)


def test_weights_of_points_go_with_the_points_that_a_level_sees():
    points = np.random.default_rng(3).uniform(0.5, 2.0, 41)
    part = PROBLEM.with_weights((1.0, 1.0), (points, None)).subset(0.5)
    rows = [int(np.flatnonzero(LINE[:, 0] == x)[0]) for x in part.terms[0].points[:, 0]]
    assert len(rows) == 20
    np.testing.assert_array_equal(part.terms[0].point_weights, points[rows] ** 2)


@pytest.mark.parametrize(
    ("factors", "points", "error", "words"),
    [
        ((1.0,), None, ShapeError, r"`factors` has shape \(1,\)\. Pass one number for each of the 2 terms"),
        ((1.0, -1.0), None, KanmgValueError, r"`factors=\[1\.0, -1\.0\]`"),
        ((1.0, 1.0), (None,), ShapeError, "`points` has 1 entries"),
        ((1.0, 1.0), (np.ones(3), None), ShapeError, r"shape \(3,\) for term 'equation', which has 41 points"),
        ((1.0, 1.0), (np.zeros(41), None), KanmgValueError, "'equation' are all 0"),
    ],
)
def test_senseless_weights_are_refused(factors, points, error, words):
    with pytest.raises(error, match=words):
        PROBLEM.with_weights(factors, points)


@pytest.mark.parametrize(
    ("make_option", "error", "words"),
    [
        (lambda: Attention(decay=1.0), KanmgValueError, r"`decay=1`\. It must lie in \[0, 1\)"),
        (lambda: Attention(rate=0.0), KanmgValueError, r"`rate=0`\. It must be positive"),
        (lambda: Balance(memory="half"), KanmgTypeError, "`memory='half'`"),
        (lambda: Balance(max_ratio=0.5), KanmgValueError, r"`max_ratio=0\.5`\. It must be at least 1"),
        (lambda: Attention().updated(np.ones(3), np.ones(2)), ShapeError, r"shape \(3,\) but `residuals` \(2,\)"),
        (lambda: Balance().updated((1.0, 1.0), [1.0]), ShapeError, r"shape \(1,\) but there are 2 factors"),
    ],
)
def test_senseless_options_are_refused(make_option, error, words):
    with pytest.raises(error, match=words):
        make_option()


@pytest.mark.parametrize(
    ("smoother", "steps"),
    [(kanmg.LevenbergMarquardt(), 40), (kanmg.LBFGS(), 200), (kanmg.Adam(step_size=1e-2), 600)],
)
def test_balance_mends_a_boundary_term_that_is_far_too_weak(smoother, steps):
    """A boundary layer that the cells do not resolve: the equation and the boundary values cannot both hold."""
    terms = [
        kanmg.Term("equation", lambda _, u: 0.02 * u.d("x", "x") - u.value + 1.0, LINE, weight=100.0),
        kanmg.Term("boundary", lambda _, u: u.value, LINE[[0, -1]]),
    ]
    problem = kanmg.Collocation(coordinates=("x",), fields=("u",), terms=terms)
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=4, num_levels=1, evaluator="reference")
    theta = np.zeros(hierarchy[0].network.num_coefficients)
    traces = problem.term_traces(hierarchy[0].evaluator, theta)
    factors = Balance(memory=0.0).updated((1.0, 1.0), list(traces.values()))
    method = kanmg.NestedIteration(smoother, steps=steps)
    exact = 1.0 - np.cosh(LINE / np.sqrt(0.02)) / np.cosh(1.0 / np.sqrt(0.02))

    def error(posed):
        found = kanmg.solve(posed, hierarchy, method=method, throw=False)
        return float(np.abs(found(LINE) - exact).max())

    assert error(problem.with_weights(factors)) < 0.15 * error(problem)
