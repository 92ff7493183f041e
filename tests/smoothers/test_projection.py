"""Variable projection: the last layer is solved for, unless that is absurd; what it saves; runs that go on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from standins import LeastSquares, minimise

import kanmg
from kanmg.derived_objectives import GalerkinObjective, ShiftedObjective
from kanmg.objective import Objective
from kanmg.smoothers.levenberg_marquardt import LevenbergMarquardt
from kanmg.smoothers.projection import project

PLAIN, ACCELERATED = LevenbergMarquardt(acceleration=False, projection=True), LevenbergMarquardt(projection=True)
BOTH = pytest.mark.parametrize("smoother", [PLAIN, ACCELERATED], ids=["plain", "accelerated"])

X = np.random.default_rng(0).uniform(-1.0, 1.0, (200, 2))
PROBLEM = kanmg.Regression(X, np.exp(X[:, 0]) * X[:, 1])
HIERARCHY = kanmg.uniform_hierarchy((2, 2, 1), degree=3, num_intervals=2, num_levels=2, evaluator="reference")


def start(level=0, seed=0):
    return kanmg.initial_coefficients(HIERARCHY[level].network, X, seed=seed)


def exponentials(amplitudes=(1.0, -2.0), rates=(0.5, 2.0)):
    """Sums of two decays: linear in the amplitudes, which stand behind the rates."""
    t = np.linspace(0.0, 3.0, 40)
    values = np.exp(-np.outer(t, rates)) @ np.array(amplitudes)

    def jacobian(theta):
        decays = np.exp(-np.outer(t, theta[:2]))
        return np.hstack([-t[:, None] * decays * theta[2:], decays])

    function = LeastSquares(lambda x: np.exp(-np.outer(t, x[:2])) @ x[2:] - values, jacobian, [0.1, 4.0, 0.3, 0.3])
    function.linear_part = slice(2, 4)
    return function


# ---------------------------------------------------------------------------------------------------------- one step


@BOTH
def test_after_a_step_the_gradient_of_the_last_layer_vanishes(smoother):
    objective = Objective(PROBLEM, HIERARCHY[0])
    theta = start()
    # A short step: hidden values stay in their intervals, where the last layer is well conditioned.
    smoother = dataclasses.replace(smoother, damping=10.0)
    state = smoother.init(objective, theta)
    without = dataclasses.replace(smoother, projection=False).step(objective, theta, state)[1].gradient
    theta, state, record = smoother.step(objective, theta, state)
    loss, gradient = objective.value_and_gradient(theta)
    inner, last = gradient[: objective.linear_part.start], gradient[objective.linear_part]
    assert record.loss == state.loss == loss
    assert np.array_equal(gradient, state.gradient)
    assert np.linalg.norm(last) < 1e-6 * np.linalg.norm(without[objective.linear_part])
    assert np.linalg.norm(last) < 1e-4 * np.linalg.norm(inner)


def test_a_single_layer_is_solved_at_once():
    hierarchy = kanmg.uniform_hierarchy((2, 1), degree=3, num_intervals=4, num_levels=1, evaluator="reference")
    objective = Objective(PROBLEM, hierarchy[0])
    theta, loss, _ = project(objective, np.zeros(hierarchy[0].network.num_coefficients))
    matrix = hierarchy[0].evaluator.jacobian(theta, X)[:, 0]
    expected = np.linalg.lstsq(matrix, np.exp(X[:, 0]) * X[:, 1])[0]
    assert matrix @ theta == pytest.approx(matrix @ expected, abs=1e-5)
    assert loss == pytest.approx(np.mean((matrix @ expected - np.exp(X[:, 0]) * X[:, 1]) ** 2), rel=1e-8)


def test_only_the_last_layer_changes():
    objective = Objective(PROBLEM, HIERARCHY[0])
    theta = start()
    kept = theta.copy()
    moved, loss, gradient = project(objective, theta)
    part = objective.linear_part
    assert np.array_equal(theta, kept)
    assert np.array_equal(moved[: part.start], theta[: part.start])
    assert not np.array_equal(moved[part], theta[part])
    assert loss < objective.value(theta)
    assert np.array_equal(gradient, objective.value_and_gradient(moved)[1])


def test_solutions_that_are_absurdly_long_are_refused():
    function = LeastSquares(
        lambda x: np.array([1e-3 * x[1] - 1.0, x[0]]), lambda _: np.array([[0.0, 1e-3], [1.0, 0.0]]), [0.0, 1.0]
    )
    function.linear_part = slice(1, 2)
    theta, loss, _ = project(function, function.start)
    assert theta is function.start
    assert loss == pytest.approx(0.999**2)
    nearer = project(function, np.array([0.0, 20.0]))[0]
    assert nearer[1] == pytest.approx(1000.0)


def test_a_step_of_residuals_that_are_not_linear_is_kept_only_if_the_loss_falls():
    function = LeastSquares(
        lambda x: np.arctan(x[1:]), lambda x: np.array([[0.0, 1.0 / (1.0 + x[1] ** 2)]]), [0.0, 3.0]
    )
    function.linear_part = slice(1, 2)
    assert project(function, function.start)[0] is function.start
    theta, loss, _ = project(function, np.array([0.0, 0.5]))
    assert theta[1] == pytest.approx(0.5 - 1.25 * np.arctan(0.5), rel=1e-6)
    assert loss < np.arctan(0.5) ** 2


@pytest.mark.parametrize("theta", [[0.0, np.inf], [0.0, np.nan], [0.0, 0.0]])
def test_nothing_is_solved_where_there_is_nothing_to_solve(theta):
    function = LeastSquares(lambda x: x[1:], lambda _: np.array([[0.0, 1.0]]), theta)
    function.linear_part = slice(1, 2)
    with np.errstate(invalid="ignore"):
        assert project(function, function.start)[0] is function.start


def test_tensors_remain_tensors():
    function = exponentials()

    class Tensors:
        linear_part = slice(2, 4)

        def value_and_gradient(self, theta):
            loss, gradient = function.value_and_gradient(theta.numpy())
            return loss, torch.from_numpy(gradient)

        def normal_equations(self, theta):
            loss, gradient, matrix = function.normal_equations(theta.numpy())
            return loss, torch.from_numpy(gradient), torch.from_numpy(matrix)

    theta, loss, _ = project(Tensors(), torch.from_numpy(function.start.copy()))
    expected = project(function, function.start)
    assert isinstance(theta, torch.Tensor)
    assert theta.numpy() == pytest.approx(expected[0])
    assert loss == pytest.approx(expected[1])


# -------------------------------------------------------------------------------------------------------- objectives


def test_the_linear_part_is_the_last_layer_on_every_level_and_of_every_objective():
    fine, coarse = Objective(PROBLEM, HIERARCHY[1]), Objective(PROBLEM, HIERARCHY[0])
    network, transfer = HIERARCHY[0].network, HIERARCHY.transfers[0]
    assert coarse.linear_part == slice(20, 30)
    assert fine.linear_part == slice(*HIERARCHY[1].network.offsets[1:])
    assert ShiftedObjective(coarse, start(), start()).linear_part == coarse.linear_part
    galerkin = GalerkinObjective(fine, start(1), transfer.prolong, transfer.restrict)
    assert len(start()[galerkin.linear_part]) == 0
    part = slice(*network.offsets[-2:])
    galerkin = GalerkinObjective(fine, start(1), transfer.prolong, transfer.restrict, linear_part=part)
    assert galerkin.linear_part == part


def test_parameters_of_the_problem_are_no_part_of_it():
    rate = kanmg.Parameter("rate", 1.0)
    t = np.linspace(0, 1, 30).reshape(-1, 1)
    term = kanmg.Term("equation", lambda _, u: u.d("t") + rate * u.value, t)
    problem = kanmg.Collocation(coordinates=("t",), fields=("u",), terms=[term])
    hierarchy = kanmg.uniform_hierarchy((1, 2, 1), degree=3, num_intervals=2, num_levels=1, domain=(0, 1))
    objective = Objective(problem, hierarchy[0])
    size = hierarchy[0].network.num_coefficients
    assert objective.linear_part == slice(hierarchy[0].network.offsets[1], size)


def test_galerkin_corrections_are_projected():
    fine, transfer = Objective(PROBLEM, HIERARCHY[1]), HIERARCHY.transfers[0]
    part = slice(*HIERARCHY[0].network.offsets[-2:])
    origin = np.zeros(HIERARCHY[0].network.num_coefficients)
    for given, zero in ((part, True), (slice(0), False)):
        galerkin = GalerkinObjective(fine, start(1), transfer.prolong, transfer.restrict, linear_part=given)
        correction, _, gradient = project(galerkin, origin)
        assert (correction is origin) != zero
        assert (np.linalg.norm(gradient[part]) < 1e-5 * np.linalg.norm(gradient)) == zero


# -------------------------------------------------------------------------------------------------------------- runs


def test_separable_problems_take_fewer_steps():
    function = exponentials()
    needed = {}
    for smoother in (PLAIN, LevenbergMarquardt(acceleration=False)):
        theta, _, records = minimise(smoother, function, loss=1e-20, steps=200)
        assert theta == pytest.approx([0.5, 2.0, 1.0, -2.0], rel=1e-6)
        needed[smoother.projection] = len(records)
    assert needed[True] < needed[False]


@BOTH
def test_the_loss_falls_at_every_step(smoother):
    function = exponentials()
    _, _, records = minimise(smoother, function, steps=30)
    losses = [record.loss for record in records if not record.stalled]
    assert (np.diff(losses) < 0.0).all()


@BOTH
def test_a_run_that_goes_on_ends_with_the_same_bits(smoother, tmp_path):
    method = kanmg.NestedIteration(LevenbergMarquardt(), steps=6, coarse_smoother=smoother, starts=2)
    whole = kanmg.solve(PROBLEM, HIERARCHY, method=method)

    def interrupt(record):
        if record.level == 0 and record.step == 3 and record.event == "smooth":
            raise RuntimeError("killed")

    file = tmp_path / "run"
    with pytest.raises(RuntimeError, match="killed"):
        kanmg.solve(PROBLEM, HIERARCHY, method=method, checkpoint=file, callback=interrupt)
    again = kanmg.solve(PROBLEM, HIERARCHY, method=method, checkpoint=file)
    assert again.coefficients.tobytes() == whole.coefficients.tobytes()
    assert [record.loss for record in again.history] == pytest.approx(
        [record.loss for record in whole.history], abs=0.0, nan_ok=True
    )


def test_without_the_option_nothing_asks_for_the_linear_part():
    function = exponentials()
    del function.linear_part
    _, _, records = minimise(LevenbergMarquardt(), function, loss=1e-20, steps=200)
    assert records[-1].loss <= 1e-20
