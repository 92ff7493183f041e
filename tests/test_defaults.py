"""The method that `kanmg.solve` uses unless told otherwise: which one for what, and that it says why."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import kanmg
from kanmg.defaults import choose_method

X = np.random.default_rng(0).uniform(-1.0, 1.0, (600, 2))
Y = np.sin(np.pi * X[:, 0]) * X[:, 1]
INTERIOR = kanmg.sampling.sobol([(-1, 1), (-1, 1)], 400, seed=0)
WALLS = kanmg.sampling.boundary([(-1, 1), (-1, 1)], (20, 20))


def hierarchy_of(widths=(2, 3, 1), num_levels=3, **options):
    options = {"degree": 4, "num_intervals": 2, "evaluator": "reference"} | options
    return kanmg.uniform_hierarchy(widths, num_levels=num_levels, **options)


def screened(strength=1.0, easier=None):
    """-(laplacian u) + strength u^3 = sin(pi x) between zero walls."""
    constant = kanmg.Constant("strength", strength, easier=easier)

    def equation(x, u):
        return u.d("x", "x") + u.d("y", "y") - constant * u.value**3 + torch.sin(torch.pi * x[:, 0])

    terms = [
        kanmg.Term("equation", equation, INTERIOR),
        kanmg.Term("walls", lambda _, u: u.value, WALLS, weight=10.0),
    ]
    return kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=terms)


def short(method, steps=2):
    """The same method with few steps."""
    options = {"steps": steps}
    if isinstance(method.starts, kanmg.Starts) and method.starts.number > 1:
        options["starts"] = dataclasses.replace(method.starts, number=2, steps=steps, further_steps=steps, more=1)
    if method.continuation is not None:
        options["continuation"] = dataclasses.replace(method.continuation, stages=2, steps=steps)
    return dataclasses.replace(method, **options)


# ------------------------------------------------------------------------------------------------------------ equations


def test_equations_are_solved_by_levenberg_marquardt():
    problem = screened()
    method, reason = choose_method(problem, hierarchy_of())
    assert isinstance(method, kanmg.NestedIteration)
    assert isinstance(method.smoother, kanmg.LevenbergMarquardt)
    assert method.continuation is None
    assert method.starts.number > 1
    assert 1 < method.starts.keep <= method.starts.number
    assert method.starts.further_steps > 0
    assert 0.0 < method.idle < 1.0
    size = hierarchy_of()[-1].network.num_coefficients
    assert "nested iteration with Levenberg-Marquardt, because the loss is a sum of squares" in reason
    assert f"the finest level has {size} coefficients" in reason
    assert f"after {method.starts.number} starts of {method.starts.steps} steps" in reason
    assert "easier" not in reason
    assert kanmg.default_method(problem, hierarchy_of()) == method


def test_coarse_levels_see_as_many_points_as_their_coefficients_need():
    problem, hierarchy = screened(), hierarchy_of(num_levels=4)
    method = kanmg.default_method(problem, hierarchy)
    fractions, sizes = method.coarse_fraction, [level.network.num_coefficients for level in hierarchy]
    assert len(fractions) == 4
    assert fractions[-1] == 1.0
    assert list(fractions) == sorted(fractions)
    assert method.starts.fraction == fractions[0]
    partial = [(part, size) for part, size in zip(fractions, sizes, strict=True) if part < 1.0]
    assert len(partial) > 0
    # The same number of residuals per coefficient on every level that has fewer than all.
    per_coefficient = [part * problem.num_residuals / size for part, size in partial]
    assert per_coefficient == pytest.approx([per_coefficient[0]] * len(partial), rel=1e-13)
    assert per_coefficient[0] > 1.0
    assert all(size * per_coefficient[0] >= problem.num_residuals for size in sizes[len(partial) : -1])


def test_a_path_is_taken_where_the_problem_has_one():
    problem = screened(strength=30.0, easier=0.0)
    method, reason = choose_method(problem, hierarchy_of())
    assert method.continuation == kanmg.Continuation()
    assert reason.endswith("on a path from easier problems.")
    prologue = method.program(hierarchy_of()).prologue
    assert prologue[0].ease == 1.0
    posed = [step.ease for step in prologue if isinstance(step, kanmg.program.Pose)]
    assert posed[-1] == 0.0


def test_one_layer_has_one_minimum():
    method, reason = choose_method(screened(), hierarchy_of((2, 1)))
    assert method.starts.number == 1
    assert "starts" not in reason


def test_a_single_level_sees_all_points():
    method = kanmg.default_method(screened(), hierarchy_of(num_levels=1))
    assert method.coarse_fraction == (1.0,)
    assert method.starts.fraction == 1.0


def test_deep_networks_take_straight_steps():
    shallow, deep = (kanmg.default_method(screened(), hierarchy_of(widths)) for widths in ((2, 3, 1), (2, 3, 3, 3, 1)))
    assert shallow.smoother.acceleration
    assert not deep.smoother.acceleration
    # Nor has it been tried in deep ones to move hidden values back.
    assert (shallow.refit, deep.refit) == (2, 0)
    with_lift = kanmg.uniform_hierarchy(
        (2, 3, 3, 1), degree=4, num_intervals=2, num_levels=2, lift="affine", evaluator="reference"
    )
    # An affine layer does not count.
    assert kanmg.default_method(screened(), with_lift).smoother.acceleration


def test_many_coefficients_are_left_to_lbfgs():
    most = kanmg.LevenbergMarquardt().max_coefficients
    wide = hierarchy_of((2, 60, 1), num_levels=5)
    assert wide[0].network.num_coefficients < most < wide[-1].network.num_coefficients
    method, reason = choose_method(screened(), wide)
    assert isinstance(method.smoother, kanmg.LBFGS)
    assert "L-BFGS" in reason


@pytest.mark.parametrize("problem", [screened(), screened(strength=30.0, easier=0.0)], ids=["plain", "path"])
@pytest.mark.parametrize(("widths", "num_levels"), [((2, 1), 2), ((2, 2, 1), 1), ((2, 2, 1), 3)])
def test_what_it_chooses_can_be_done(problem, widths, num_levels):
    hierarchy = hierarchy_of(widths, num_levels)
    method = short(kanmg.default_method(problem, hierarchy))
    solution = kanmg.solve(problem, hierarchy, method=method)
    assert solution.status is kanmg.Status.FINISHED
    assert solution.level == num_levels - 1
    evaluator = hierarchy[-1].evaluator
    assert solution.loss == pytest.approx(problem.loss(evaluator, solution.coefficients), rel=1e-12)
    initial = problem.loss(
        hierarchy[0].evaluator, kanmg.initial_coefficients(hierarchy[0].network, problem.training_inputs(), seed=0)
    )
    assert solution.loss < initial


def test_solve_says_what_it_chose():
    problem, hierarchy = screened(), hierarchy_of((2, 1), num_levels=1)
    solution = kanmg.solve(problem, hierarchy)
    assert choose_method(problem, hierarchy)[1] in solution.message
    assert math.isfinite(solution.loss)


# ----------------------------------------------------------------------------------------------------------- regression


def test_regressions_hold_samples_back_and_take_levenberg_marquardt():
    hierarchy = hierarchy_of()
    method, reason = choose_method(kanmg.Regression(X, Y), hierarchy)
    assert isinstance(method.smoother, kanmg.LevenbergMarquardt)
    assert method.hold_back * 600 == pytest.approx(40)
    assert method.continuation is None
    assert "because the loss is a sum of squares" in reason
    assert reason.endswith("16 starts of 30 steps on the coarsest; 40 held-back samples choose the level.")
    own = choose_method(kanmg.Regression(X, Y, validation=0.25), hierarchy)[1]
    assert own.endswith("150 held-back samples choose the level.")


@pytest.mark.parametrize("case", ["few samples", "float32", "much work"])
def test_other_regressions_keep_lbfgs(case, monkeypatch):
    hierarchy, x, y = hierarchy_of(), X, Y
    if case == "few samples":
        size = hierarchy[0].network.num_coefficients
        x, y = X[: 2 * size - 1], Y[: 2 * size - 1]
    elif case == "float32":
        hierarchy, x, y = hierarchy_of(dtype="float32"), X.astype(np.float32), Y.astype(np.float32)
    else:
        monkeypatch.setattr("kanmg.defaults._MOST_WORK_A_STEP", 1e5)
    method, reason = choose_method(kanmg.Regression(x, y), hierarchy)
    assert isinstance(method.smoother, kanmg.LBFGS)
    assert "L-BFGS, which sees all samples" in reason
    assert (method.idle, method.coarse_fraction) == (0.0, 1.0)
    assert method.hold_back == pytest.approx(0.2 if case == "few samples" else 40 / 600)
    assert (method.starts.number, method.starts.keep, method.starts.further_steps) == (8, 1, 0)


def test_starts_of_a_regression_see_few_of_many_samples():
    hierarchy = hierarchy_of()
    few = kanmg.default_method(kanmg.Regression(X, Y), hierarchy).starts.fraction
    many = kanmg.Regression(np.tile(X, (20, 1)), np.tile(Y, 20))
    part = kanmg.default_method(many, hierarchy).starts.fraction
    assert few == 1.0
    assert part == pytest.approx(50 * hierarchy[0].network.num_coefficients / 12_000, rel=1e-13)


def test_mini_batches_take_adam():
    method, reason = choose_method(kanmg.Regression(X, Y, batch_size=100), hierarchy_of())
    assert [smoother.step_size for smoother in method.smoother] == [
        0.01 / 2**level for level in range(len(hierarchy_of()))
    ]
    assert {smoother.schedule for smoother in method.smoother} == {kanmg.OneCycle(method.steps)}
    assert method.steps == 1000
    many = kanmg.Regression(X, Y, batch_size=5)
    assert kanmg.default_method(many, hierarchy_of()).steps == 30 * many.steps_per_epoch
    assert (method.starts.number, method.idle) == (1, 0.0)
    assert "mini-batches" in reason


def test_mini_batches_return_the_level_that_held_back_samples_choose():
    noisy = Y + 0.5 * np.random.default_rng(1).normal(size=len(Y))
    hierarchy = hierarchy_of(num_levels=4, evaluator="cpu")
    problem = kanmg.Regression(X, noisy, batch_size=100)
    method, reason = choose_method(problem, hierarchy)
    assert method.hold_back > 0.0
    assert "; 40 held-back samples choose the level." in reason
    solution = kanmg.solve(problem, hierarchy, method=dataclasses.replace(method, steps=200))
    seen = solution.history.column("validation_loss")
    assert "has the lowest loss at held-back points" in solution.message
    best = np.nanmin(seen)
    assert solution.history.column("level")[np.nanargmin(seen)] == solution.level
    assert f"{best:.1e}" in solution.message


def test_attempts_and_more_starts_of_the_default():
    shallow, deep = hierarchy_of(), hierarchy_of((2, 3, 3, 1))
    regression, equations = kanmg.Regression(X, Y), screened()
    assert kanmg.default_method(regression, deep).retries == 1
    assert kanmg.default_method(equations, shallow).retries == 1
    assert kanmg.default_method(equations, deep).retries == 0
    assert kanmg.default_method(equations, shallow).starts.more == 8
    assert kanmg.default_method(equations, deep).starts.more == 0
    assert kanmg.default_method(regression, shallow).starts.more == 0
