from __future__ import annotations

import math

import numpy as np
import pytest
from standins import Function

from kanmg.smoothers.line_search import CURVATURE, DECREASE, ROUNDING, Point, strong_wolfe

# The test functions of More and Thuente (ACM TOMS 20, 1994): concave start, oscillation, flat stretches, kinks.
BETA, NOISE, LENGTH = 2.0, 0.01, 39.0


def more_thuente_1(a):
    return -a / (a**2 + BETA), (a**2 - BETA) / (a**2 + BETA) ** 2


def more_thuente_2(a):
    return (a + 0.004) ** 5 - 2 * (a + 0.004) ** 4, 5 * (a + 0.004) ** 4 - 8 * (a + 0.004) ** 3


def more_thuente_3(a):
    if a <= 1 - NOISE:
        smooth, slope = 1 - a, -1.0
    elif a >= 1 + NOISE:
        smooth, slope = a - 1, 1.0
    else:
        smooth, slope = (a - 1) ** 2 / (2 * NOISE) + NOISE / 2, (a - 1) / NOISE
    frequency = LENGTH * math.pi / 2
    factor = 2 * (1 - NOISE) / (LENGTH * math.pi)
    return smooth + factor * math.sin(frequency * a), slope + (1 - NOISE) * math.cos(frequency * a)


def yanai(beta1, beta2):
    def gamma(beta):
        return math.sqrt(1 + beta**2) - beta

    def function(a):
        left, right = math.sqrt((1 - a) ** 2 + beta2**2), math.sqrt(a**2 + beta1**2)
        value = gamma(beta1) * left + gamma(beta2) * right
        return value, -gamma(beta1) * (1 - a) / left + gamma(beta2) * a / right

    return function


FUNCTIONS = {
    "1": more_thuente_1,
    "2": more_thuente_2,
    "3": more_thuente_3,
    "4": yanai(0.001, 0.001),
    "5": yanai(0.01, 0.001),
    "6": yanai(0.001, 0.01),
}

EVALUATIONS = {"1": 4, "2": 13, "3": 16, "4": 5, "5": 5, "6": 5}


def on_a_line(function):
    return Function(lambda x: function(x[0])[0], lambda x: np.array([function(x[0])[1]]), [0.0])


def search(objective, first_step, max_evaluations=30):
    loss, gradient = objective.value_and_gradient(objective.start)
    objective.trace.clear()
    origin = Point(0.0, objective.start, gradient, loss, float(gradient[0]))
    return origin, strong_wolfe(objective, origin, np.ones(1), first_step, max_evaluations)


def is_strong_wolfe(origin, point):
    decrease = point.loss <= origin.loss + DECREASE * point.step * origin.slope + ROUNDING[8] * abs(origin.loss)
    return decrease and abs(point.slope) <= CURVATURE * abs(origin.slope)


@pytest.mark.parametrize("first_step", [1e-3, 1e-1, 1.0, 1e1, 1e3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_strong_wolfe_conditions_hold_for_hard_functions(name, first_step):
    objective = on_a_line(FUNCTIONS[name])
    origin, point = search(objective, first_step)
    assert is_strong_wolfe(origin, point)
    assert objective.evaluations <= EVALUATIONS[name]
    loss, slope = FUNCTIONS[name](point.theta[0])
    assert (point.loss, point.slope, point.theta[0]) == (loss, slope, point.step)
    assert point.gradient[0] == slope


def test_a_good_first_step_costs_one_evaluation():
    objective = on_a_line(lambda a: ((a - 1.0) ** 2, 2.0 * (a - 1.0)))
    _, point = search(objective, 1.0)
    assert (point.step, objective.evaluations) == (1.0, 1)


def test_cubic_interpolation_finds_the_minimum_of_a_quadratic_at_once():
    objective = on_a_line(lambda a: ((a - 1.0) ** 2, 2.0 * (a - 1.0)))
    _, point = search(objective, 5.0)
    assert point.step == pytest.approx(1.0, rel=1e-14)
    assert objective.evaluations == 2


@pytest.mark.parametrize("beyond", [math.nan, math.inf])
def test_steps_into_the_non_finite_are_shortened(beyond):
    def barrier(a):
        return (-math.log(1.0 - a) - 5.0 * a, 1.0 / (1.0 - a) - 5.0) if a < 1.0 else (beyond, beyond)

    objective = on_a_line(barrier)
    origin, point = search(objective, 100.0)
    assert is_strong_wolfe(origin, point)
    assert 0.0 < point.step < 1.0


def test_a_gradient_that_is_not_finite_is_no_candidate():
    def function(a):
        return (a - 1.0) ** 2, 2.0 * (a - 1.0) if a < 0.9 else math.nan

    origin, point = search(on_a_line(function), 1.0)
    assert is_strong_wolfe(origin, point)
    assert point.step < 0.9


def test_slopes_decide_where_rounding_hides_the_decrease():
    objective = on_a_line(lambda a: (1.0 + 1e-17 * (a - 1.0) ** 2, 2e-17 * (a - 1.0)))
    origin, point = search(objective, 10.0)
    assert point.loss == origin.loss
    assert point.step == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(5))
def test_slopes_decide_where_noise_hides_the_decrease(seed):
    noise = np.random.default_rng(seed).uniform(-1e-7, 1e-7, 100)
    objective = on_a_line(lambda a: (1.0 + 1e-10 * (a - 1.0) ** 2 + noise[objective.evaluations], 2e-10 * (a - 1.0)))
    origin, point = search(objective, 10.0)
    assert abs(point.slope) <= CURVATURE * abs(origin.slope)
    assert 0.1 <= point.step <= 1.9
    assert objective.evaluations <= 3


def test_the_lowest_point_is_returned_when_evaluations_run_out():
    objective = on_a_line(lambda a: (-a, -1.0))
    origin, point = search(objective, 1.0, max_evaluations=3)
    assert objective.evaluations == 3
    assert point.loss == min(objective.trace) < origin.loss


def test_none_if_nothing_decreases():
    objective = on_a_line(lambda a: (abs(a) + 1e-30, -1.0 if a <= 0.0 else 1.0))
    _, point = search(objective, 1.0)
    assert point is None
    assert objective.evaluations <= 30


def test_search_ends_when_the_bracket_is_empty():
    function = on_a_line(lambda a: (2.0 if a else 1.0, -1.0))
    _, point = search(function, 1.0, max_evaluations=10_000)
    assert point is None
    assert function.evaluations < 1000
