"""Fairing: the jumps of derivatives, the loss with their squares, and what it changes at the end of a run."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

import kanmg
from kanmg.coverage import expected_loss
from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.fairing import FairedObjective, fair, jumps
from kanmg.splines.bspline import evaluate_spline
from kanmg.splines.knots import knots_from_breakpoints

LM = kanmg.LevenbergMarquardt()
X = np.linspace(-1.0, 1.0, 41)[:, None]
BREAKPOINTS = np.array([-1.0, -0.7, -0.1, 0.0, 0.6, 1.0])


def network_of(*widths, knots):
    pairs = itertools.pairwise(widths)
    return kanmg.Network([kanmg.Spline(inputs, outputs, knots=knots) for inputs, outputs in pairs])


# ---------------------------------------------------------------------------------------------------------------- jumps


@pytest.mark.parametrize("degree", [1, 2, 3, 5])
@pytest.mark.parametrize("clamped", [False, True])
def test_rows_are_proportional_to_the_jumps_of_the_highest_derivative(degree, clamped):
    knots = knots_from_breakpoints(BREAKPOINTS, degree=degree, clamped=clamped)
    rows = jumps(network_of(1, 1, knots=knots)).toarray()
    coefficients = np.random.default_rng(0).standard_normal(knots.num_basis)
    middles = 0.5 * (BREAKPOINTS[1:] + BREAKPOINTS[:-1])
    for row, jump in zip(rows, np.diff(np.eye(len(middles)), axis=0), strict=True):
        # The k-th derivative is constant in every cell.
        def own(c, jump=jump):
            return float(jump @ evaluate_spline(knots, c, middles, derivative=degree))

        exact = np.array([own(unit) for unit in np.eye(knots.num_basis)])
        np.testing.assert_allclose(abs(row @ exact), np.linalg.norm(exact), rtol=1e-10)
        np.testing.assert_allclose(abs(row @ coefficients) * np.linalg.norm(exact), abs(own(coefficients)), rtol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-12)


def test_equidistant_knots_have_differences_and_polynomials_have_none():
    knots = kanmg.uniform_knots(4, degree=3, domain=(0.0, 7.0))
    rows = jumps(network_of(1, 1, knots=knots)).toarray()
    expected = np.array([1.0, -4.0, 6.0, -4.0, 1.0]) / np.sqrt(70.0)
    np.testing.assert_allclose(rows, [np.pad(expected, (i, 2 - i)) for i in range(3)], atol=1e-12)
    np.testing.assert_allclose(rows @ knots.greville, 0.0, atol=1e-13)


def test_every_edge_has_rows_of_its_own_and_lifts_and_parameters_have_none():
    knots = kanmg.uniform_knots(4, degree=3)
    layers = [kanmg.Affine(3, 2), kanmg.Spline(2, 3, knots=knots)]
    network = kanmg.Network(layers)
    rows = jumps(network, 2)
    assert rows.shape == (2 * 3 * 3, network.num_coefficients + 2)
    array = np.zeros(network.num_coefficients + 2)
    lift, spline = network.unflatten(array[:-2])
    lift[...], array[-2:] = 5.0, 7.0
    assert not (rows @ array).any()
    spline[1, :, 2] = [0, 0, 0, 1, 0, 0, 0]
    assert np.count_nonzero(rows @ array) == 3
    alone = kanmg.Network([kanmg.Affine(2, 1)])
    assert jumps(alone).shape == (0, alone.num_coefficients)


# ---------------------------------------------------------------------------------------------------------- the penalty


@pytest.fixture(scope="module")
def objective():
    x = np.random.default_rng(3).uniform(-1.0, 1.0, (60, 2))
    hierarchy = kanmg.uniform_hierarchy((2, 2, 1), degree=3, num_intervals=4, num_levels=1, evaluator="reference")
    return kanmg.Objective(kanmg.Regression(x, np.sin(x[:, 0] + x[:, 1])), hierarchy[0])


def test_loss_gradient_residuals_and_matrix_of_the_penalised_loss_belong_together(objective):
    rows = jumps(objective.level.network)
    faired = FairedObjective(objective, rows, 0.3)
    theta = np.random.default_rng(1).standard_normal(rows.shape[1])
    loss, gradient = faired.value_and_gradient(theta)
    np.testing.assert_allclose(loss, objective.value(theta) + 0.3 * np.sum((rows @ theta) ** 2), rtol=1e-12)
    residuals = faired.residuals(theta)
    np.testing.assert_allclose([faired.value(theta), residuals @ residuals], loss, rtol=1e-12)
    jacobian = np.stack([faired.pull_back(theta, unit) for unit in np.eye(len(residuals))])
    np.testing.assert_allclose(2.0 * jacobian.T @ residuals, gradient, rtol=1e-9, atol=1e-12)
    again, same, matrix = faired.normal_equations(theta)
    np.testing.assert_allclose(again, loss, rtol=1e-12)
    np.testing.assert_allclose(same, gradient, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(matrix, 2.0 * jacobian.T @ jacobian, rtol=1e-9, atol=1e-10)
    direction = np.random.default_rng(2).standard_normal(len(theta))
    quotient = (faired.value(theta + 1e-6 * direction) - faired.value(theta - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(gradient @ direction, quotient, rtol=1e-6)
    assert faired.work == objective.work > 0.0
    assert faired.evaluations == objective.evaluations


# ------------------------------------------------------------------------------------------------------------- a level


def gap(noise=0.0):
    """Samples of the exponential function on a part of the interval, and a cubic spline that is wild on the rest."""
    x = np.linspace(-1.0, 0.5, 300)[:, None]
    y = np.exp(x) + noise * np.random.default_rng(0).standard_normal(x.shape)
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=16, num_levels=1, evaluator="reference")
    problem, level = kanmg.Regression(x, y), hierarchy[0]
    basis = np.stack([level.evaluator.value(unit, x)[:, 0] for unit in np.eye(level.network.num_coefficients)], axis=1)
    theta = np.linalg.lstsq(basis, y[:, 0])[0]
    theta[basis.max(axis=0) < 1e-8] = 100.0
    return problem, level, theta


def error(level, theta):
    x = np.linspace(0.5, 1.0, 100)[:, None]
    return float(np.abs(level.evaluator.value(theta, x) - np.exp(x)).max())


def test_what_no_sample_sees_is_the_polynomial_that_goes_on():
    problem, level, theta = gap()
    before = problem.loss(level.evaluator, theta)
    found = fair(problem, level, theta)
    assert found.has_changed
    assert error(level, theta) > 50.0
    # A cubic that goes on over h has an error of exp(1) h^4 / 24.
    assert error(level, found.theta) < np.e * 0.5**4 / 24 * 1.2
    np.testing.assert_allclose(found.loss, problem.loss(level.evaluator, found.theta), rtol=1e-12)
    assert before * 0.9 < found.loss <= 1.05 * before
    assert found.gradient_norm < 1e-6
    assert 0 < found.steps <= 120
    assert found.work > 0.0


def test_noise_in_the_samples_is_borne():
    problem, level, theta = gap(noise=1e-3)
    found = fair(problem, level, theta)
    assert found.loss <= 1.05 * problem.loss(level.evaluator, theta)
    assert error(level, found.theta) < 0.1


def test_a_limit_of_the_loss_and_held_back_samples_are_respected():
    problem, level, theta = gap(noise=1e-3)
    before = problem.loss(level.evaluator, theta)
    limited = fair(problem, level, theta, before)
    assert limited.loss <= before
    refused = fair(problem, level, theta, 0.5 * before)
    assert not refused.has_changed
    assert refused.theta is theta
    assert refused.loss == before
    # Held-back samples that only the wild spline fits.
    x = np.linspace(0.6, 1.0, 20)[:, None]
    wild = kanmg.Regression(
        np.linspace(-1.0, 0.5, 300)[:, None],
        np.exp(np.linspace(-1.0, 0.5, 300)),
        validation=(x, level.evaluator.value(theta, x)),
    )
    assert not fair(wild, level, theta).has_changed


def test_nothing_is_done_where_there_is_nothing_to_do_or_the_user_interrupts():
    problem, level, theta = gap()
    assert fair(problem, level, theta, np.inf, lambda: True).theta is theta
    single = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=1, num_levels=1, evaluator="reference")[0]
    assert not fair(problem, single, np.ones(4)).has_changed
    linear = kanmg.Regression(np.zeros((5, 1)), np.zeros(5))
    assert fair(linear, level, np.zeros(19)).steps == 0


# ----------------------------------------------------------------------------------------------------------------- runs

METHOD = kanmg.NestedIteration(LM, steps=30, idle=0.1, starts=kanmg.Starts(6, steps=20), hold_back=0.1, fair=True)


def make():
    """Samples of a product; none of them in the corner."""
    x = np.random.default_rng(1).uniform(-1.0, 1.0, (400, 2))
    x = x[x.sum(axis=1) < 1.5]
    hierarchy = kanmg.uniform_hierarchy((2, 1, 1), degree=5, num_intervals=2, num_levels=4, evaluator="cpu")
    return kanmg.Regression(x, np.exp(x[:, 0] + 0.5 * x[:, 1] ** 2)), hierarchy


def test_what_a_run_leaves_beside_the_samples_is_mended_and_the_last_record_says_so():
    problem, level, theta = gap()
    hierarchy = kanmg.Hierarchy([level.network], evaluator="reference")
    method = kanmg.NestedIteration(LM, steps=2)
    plain = kanmg.solve(problem, hierarchy, method=method, initial=theta)
    solution = kanmg.solve(problem, hierarchy, method=dataclasses.replace(method, fair=True), initial=theta)
    assert error(level, plain.coefficients) > 10.0
    assert error(level, solution.coefficients) < 1e-2
    assert 0.9 * plain.loss < solution.loss <= 1.05 * plain.loss
    record, probe = solution.history[-2:]
    assert (record.event, record.level, record.step_size) == ("fair", 0, 1.0)
    assert record.loss == solution.loss
    assert record.step > plain.history[-1].step
    assert solution.work_units == record.work_units > plain.work_units
    assert "Fairing moved coefficients" in solution.message
    assert "Fairing" not in plain.message
    # All coefficients of the box that holds the samples are seen by some.
    assert (probe.event, probe.level) == ("probe", 0)
    assert probe.validation_loss < solution.loss
    assert math.isnan(probe.loss)
    assert probe not in solution.history.course()


def test_losses_at_held_back_points_rise_little():
    problem, hierarchy = make()
    plain = kanmg.solve(problem, hierarchy, method=dataclasses.replace(METHOD, fair=False))
    solution = kanmg.solve(problem, hierarchy, method=METHOD)
    assert solution.loss <= 1.05 * plain.loss
    assert solution.history[-2].validation_loss <= 1.2 * np.nanmin(plain.history.column("validation_loss"))


def test_a_run_that_goes_on_has_the_same_bits_and_a_complete_one_is_not_faired_again(tmp_path):
    problem, hierarchy = make()
    expected = kanmg.solve(problem, hierarchy, method=METHOD)
    path = tmp_path / "run"
    steps = itertools.count()

    def stop(_):
        if next(steps) == 60:
            raise StopIteration

    stopped = kanmg.solve(problem, hierarchy, method=METHOD, checkpoint=path, callback=stop)
    assert stopped.history[-1].event == "smooth"
    for _ in range(2):
        solution = kanmg.solve(problem, hierarchy, method=METHOD, checkpoint=path)
        np.testing.assert_array_equal(solution.coefficients, expected.coefficients)
        assert [record.event for record in solution.history].count("fair") == 1
        assert solution.message == expected.message


def test_a_tolerance_that_was_met_remains_met():
    problem, hierarchy = make()
    solution = kanmg.solve(problem, hierarchy, method=METHOD, atol=1e-10)
    assert solution.status.name == "CONVERGED"
    assert solution.loss <= 1e-10
    assert solution.history[-2].event == "fair"


def test_an_interrupt_leaves_what_was_reached(monkeypatch):
    problem, hierarchy = make()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("kanmg.run.fair", interrupted)
    solution = kanmg.solve(problem, hierarchy, method=METHOD)
    assert solution.status.name == "INTERRUPTED"
    assert solution.loss < 1e-9


def test_alarms_look_past_the_last_record():
    x = np.linspace(-1.0, 1.0, 50)[:, None]
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=2, num_levels=2, evaluator="reference")
    stuck = kanmg.LevenbergMarquardt(max_rejections=0, damping=1e-30)
    plain = kanmg.solve(kanmg.Regression(x, np.abs(x)), hierarchy, method=kanmg.NestedIteration(stuck, steps=9))
    both = kanmg.NestedIteration(stuck, steps=9, fair=True)
    assert kanmg.solve(kanmg.Regression(x, np.abs(x)), hierarchy, method=both).alarms == plain.alarms


def test_any_cycle_and_smoother_can_be_faired_but_not_what_is_no_sum_of_squares():
    problem, hierarchy = make()
    method = kanmg.FullMultigrid(kanmg.LBFGS(), steps=5, coarse_steps=20, fair=True)
    solution = kanmg.solve(problem, hierarchy, method=method)
    assert solution.history[-2].event == "fair"
    batches = kanmg.Regression(problem.training_inputs(), problem.training_inputs()[:, 0], batch_size=50)
    adam = kanmg.NestedIteration(kanmg.Adam(), steps=2, fair=True)
    with pytest.raises(KanmgValueError, match="mini-batches"):
        kanmg.solve(batches, hierarchy, method=adam)


def test_options_that_do_not_fit_are_named():
    with pytest.raises(KanmgTypeError, match="`VCycle` got `fair=1`"):
        kanmg.VCycle(fair=1)
    with pytest.raises(KanmgValueError, match=r"`fair=True` and `attention`.*Leave out one"):
        kanmg.NestedIteration(LM, fair=True, attention=kanmg.Attention())
    with pytest.raises(KanmgValueError, match="`fair=True` and `redraw`"):
        kanmg.NestedIteration(LM, fair=True, redraw=0.3)


def test_the_default_of_regressions_is_faired():
    problem, hierarchy = make()
    assert kanmg.default_method(problem, hierarchy).fair


# ------------------------------------------------------------------------------------------------------------- coverage


def line(x, y, degree=3, cells=8):
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=degree, num_intervals=cells, num_levels=1, evaluator="reference")
    return kanmg.Regression(x, y), hierarchy


def test_the_expected_loss_is_the_variance_of_the_fit():
    """Of one spline with Gaussian noise, for which the formula is exact."""
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (200, 1))
    noise = 1e-3
    dense = np.linspace(x.min(), x.max(), 2000)[:, None]
    _, hierarchy = line(x, x)
    basis = [level_basis(hierarchy[0], points) for points in (x, dense)]
    projected = basis[1] @ np.linalg.pinv(basis[0])
    samples = noise * np.random.default_rng(1).standard_normal((len(x), 400))
    y, error = samples[:, :1], np.mean((projected @ samples) ** 2)
    theta = np.linalg.lstsq(basis[0], y[:, 0])[0]
    expected = expected_loss(kanmg.Regression(x, y), hierarchy[0], theta, noise**2)
    # Both are means over random points of a variance that is largest at the ends.
    np.testing.assert_allclose(error, expected, rtol=0.2)
    assert expected_loss(kanmg.Regression(x, 2.0 * y), hierarchy[0], theta, 1.0) == pytest.approx(expected / noise**2)
    # Units of the data make no difference.
    scaled = kanmg.Regression(x, 1e3 * y)
    np.testing.assert_allclose(expected_loss(scaled, hierarchy[0], 1e3 * theta, 1.0), expected / noise**2, rtol=1e-9)


def level_basis(level, points):
    units = np.eye(level.network.num_coefficients)
    return np.stack([level.evaluator.value(unit, points)[:, 0] for unit in units], axis=1)


def test_a_gap_between_samples_raises_an_alarm_and_enough_of_them_do_not():
    x = np.linspace(-1.0, 1.0, 201)[:, None]
    method = kanmg.NestedIteration(LM, steps=5, fair=True)
    for samples, is_open in ((x, False), (x[np.abs(x[:, 0] - 0.1) > 0.5], True)):
        problem, hierarchy = line(samples, np.exp(3.0 * samples))
        solution = kanmg.solve(problem, hierarchy, method=method)
        alarms = [alarm for alarm in solution.alarms if alarm.startswith("Beside the samples")]
        assert bool(alarms) is is_open
        assert all(alarm in solution.message for alarm in alarms)


def test_equations_have_no_samples():
    term = kanmg.Term("fit", lambda x, u: u.value - x[:, 0], X)
    problem = kanmg.Collocation(coordinates=("x",), fields=("u",), terms=[term])
    level = line(X, X)[1][0]
    assert math.isnan(expected_loss(problem, level, np.zeros(level.network.num_coefficients), 1.0))
