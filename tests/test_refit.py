"""Hidden values moved back into their intervals: the coefficients, and the cycles that do it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import kanmg
from kanmg.errors import KanmgTypeError, KanmgValueError, ShapeError
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.program import Choose, Prolong, Refit, Smooth

KNOTS = kanmg.uniform_knots(4, degree=3)
X = np.linspace(-1.0, 1.0, 101)[:, None]


def evaluate(network, theta, x=X):
    return ReferenceEvaluator(network, "float64").value(theta, x)


def hidden_of(network, theta, x=X):
    first = kanmg.Network(network.layers[:1])
    return evaluate(first, np.asarray(network.unflatten(theta)[0]).ravel(), x)


def network_of(first, num_hidden=2):
    return kanmg.Network([first, kanmg.Spline(num_hidden, 1, knots=KNOTS)])


@pytest.mark.parametrize("first", [kanmg.Spline(1, 2, knots=KNOTS), kanmg.Affine(1, 2)])
def test_values_come_back_and_the_function_stays_where_the_next_splines_are_polynomials(first):
    network = network_of(first)
    theta = np.zeros(network.num_coefficients)
    own, other = network.unflatten(theta)
    if isinstance(first, kanmg.Affine):
        own[:] = [[3.0, 0.5], [1.0, 0.0]]  # 3 x + 1 leaves the interval, x / 2 does not
    else:
        own[0] = KNOTS.greville[:, None] * [3.0, 0.5] + [1.0, 0.0]
    other[0, :, 0], other[1, :, 0] = KNOTS.greville, 2.0 * KNOTS.greville
    moved = kanmg.refit(network, theta, X)
    hidden = hidden_of(network, moved)
    np.testing.assert_allclose([hidden[:, 0].min(), hidden[:, 0].max()], [-0.95, 0.95], atol=1e-12)
    np.testing.assert_allclose(hidden[:, 1], 0.5 * X[:, 0], atol=1e-12)
    np.testing.assert_allclose(evaluate(network, moved), evaluate(network, theta), atol=1e-11)


def test_nothing_changes_where_all_values_lie_inside():
    network = network_of(kanmg.Spline(1, 2, knots=KNOTS))
    theta = kanmg.initial_coefficients(network, X, seed=3)
    np.testing.assert_array_equal(kanmg.refit(network, theta, X), theta)


def test_lifts_without_bias_are_left_alone():
    network = network_of(kanmg.Affine(1, 1, bias=False), 1)
    theta = np.random.default_rng(0).standard_normal(network.num_coefficients)
    theta[0] = 5.0
    np.testing.assert_array_equal(kanmg.refit(network, theta, X), theta)


def test_values_that_overflow_stay_and_wrong_shapes_are_named():
    network = network_of(kanmg.Spline(1, 2, knots=KNOTS))
    theta = np.full(network.num_coefficients, 1e200)
    network.unflatten(theta)[0][...] = 1e150 * KNOTS.greville[None, :, None]
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(kanmg.refit(network, theta, X), theta)
    with pytest.raises(ShapeError, match=r"training inputs of shape \(N, 1\)"):
        kanmg.refit(network, theta, np.zeros((5, 2)))
    with pytest.raises(ShapeError):
        kanmg.refit(network, theta[1:], X)


# --------------------------------------------------------------------------------------------------------------- cycles

LM = kanmg.LevenbergMarquardt()


def test_programs_refit_the_coarsest_levels_but_never_the_finest():
    for refit, expected in ((0, []), (1, [0]), (2, [0, 1]), (9, [0, 1])):
        program = kanmg.NestedIteration(LM, steps=3, refit=refit).program(range(3))
        assert [step.level for step in program.prologue if isinstance(step, Refit)] == expected
        assert not any(isinstance(step, Refit) for step in program.cycle)
    program = kanmg.NestedIteration(LM, steps=3, refit=1).program(range(2))
    assert program.prologue == (Smooth(0, 3, LM), Refit(0), Smooth(0, 3, LM), Choose(0), Prolong(0))


def make():
    x = np.random.default_rng(1).uniform(-1.0, 1.0, (120, 2))
    y = np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2)
    hierarchy = kanmg.uniform_hierarchy((2, 1, 1), degree=5, num_intervals=2, num_levels=3, evaluator="cpu")
    return kanmg.Regression(x, y), hierarchy


METHOD = kanmg.NestedIteration(LM, steps=12, starts=kanmg.Starts(4, steps=6), refit=2)


def test_the_better_coefficients_go_on():
    problem, hierarchy = make()
    solution = kanmg.solve(problem, hierarchy, method=METHOD)
    assert solution.history.starts.shape == (4,)
    records = list(solution.history)
    begins = [index for index, record in enumerate(records) if record.event == "refit"]
    assert [records[index].level for index in begins] == [0, 1]
    for index in begins:
        before = records[index - 1].loss
        choice = next(record for record in records[index:] if record.event == "choose")
        prolonged = next(record for record in records[index:] if record.event == "prolong")
        np.testing.assert_allclose(prolonged.loss, np.nanmin([before, choice.loss]), rtol=1e-6)
        assert any(np.isclose(record.loss, prolonged.loss, rtol=1e-6) for record in solution.history.course())


def test_a_run_that_goes_on_has_the_same_bits(tmp_path):
    problem, hierarchy = make()
    expected = kanmg.solve(problem, hierarchy, method=METHOD).coefficients
    path = tmp_path / "run"
    for limit in (45, 20):
        steps = itertools.count()

        def stop(_, steps=steps, limit=limit):
            if next(steps) == limit:
                raise RuntimeError("killed")

        with pytest.raises(RuntimeError, match="killed"):
            kanmg.solve(problem, hierarchy, method=METHOD, checkpoint=path, checkpoint_seconds=0.0, callback=stop)
    solution = kanmg.solve(problem, hierarchy, method=METHOD, checkpoint=path)
    np.testing.assert_array_equal(solution.coefficients, expected)


def test_numbers_of_levels_are_counts():
    with pytest.raises(KanmgValueError, match="`refit=-1`"):
        kanmg.NestedIteration(refit=-1)
    with pytest.raises(KanmgTypeError, match="`refit=True`"):
        kanmg.VCycle(refit=True)
