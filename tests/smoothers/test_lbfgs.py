from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from standins import (
    Function,
    beale,
    brown_badly_scaled,
    least_squares,
    minimise,
    neural_fit,
    powell_badly_scaled,
    quadratic,
    rosenbrock,
    wood,
)

import kanmg
from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.initialisation import initial_coefficients
from kanmg.smoothers import lbfgs
from kanmg.smoothers.lbfgs import LBFGS
from kanmg.smoothers.line_search import CURVATURE, DECREASE, ROUNDING


def two_loop_direction(pairs, gradient):
    """Nocedal's recursion, as in the books."""
    q, weights = gradient.copy(), []
    for s, y in reversed(pairs):
        weights.append(s @ q / (s @ y))
        q -= weights[-1] * y
    s, y = pairs[-1]
    r = s @ y / (y @ y) * q
    for (s, y), weight in zip(pairs, reversed(weights), strict=True):
        r += s * (weight - y @ r / (s @ y))
    return -r


def same(a, b):
    """Whether two states are equal to the last bit."""
    pairs = ((getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    return all(np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y for x, y in pairs)


@pytest.mark.parametrize("history", [1, 3, 8, 30])
def test_direction_is_that_of_the_two_loop_recursion(history):
    function, smoother = rosenbrock(10), LBFGS(history=history)
    theta = function.start
    state, pairs = smoother.init(function, theta), []
    gradient = function.value_and_gradient(theta)[1]
    for _ in range(20):
        previous, last = theta, gradient
        theta, state, _ = smoother.step(function, theta, state)
        gradient = function.value_and_gradient(theta)[1]
        pairs = [*pairs, (theta - previous, gradient - last)][-history:]
        expected = two_loop_direction(pairs, gradient)
        assert lbfgs._direction(state) == pytest.approx(expected, rel=1e-9, abs=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("num_coefficients", [2, 10, 30])
def test_quadratics_end_in_about_as_many_steps_as_there_are_coefficients(num_coefficients):
    function = quadratic(num_coefficients, 100.0)
    _, _, records = minimise(LBFGS(), function, loss=1e-20)
    assert records[-1].loss <= 1e-20
    assert len(records) <= 2 * num_coefficients + 10
    assert function.evaluations <= len(records) + 10


def test_convergence_is_superlinear():
    _, _, records = minimise(LBFGS(), rosenbrock(10), loss=1e-26)
    norms = [record.gradient_norm for record in records]

    def steps_below(start, end):
        return sum(end < value <= start for value in norms)

    assert records[-1].loss <= 1e-26
    assert steps_below(1e-3, 1e-6) <= 5
    assert steps_below(1e-6, 1e-12) <= steps_below(1.0, 1e-3)
    assert norms[-1] < 1e-4 * norms[-2] or norms[-1] < 1e-12


@pytest.mark.parametrize("num_coefficients", [2, 10, 100])
def test_rosenbrock(num_coefficients):
    function = rosenbrock(num_coefficients)
    theta, _, records = minimise(LBFGS(), function, loss=1e-14)
    assert records[-1].loss <= 1e-14
    assert theta == pytest.approx(np.ones(num_coefficients), abs=1e-6)
    assert records[-1].loss == function.value(theta)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rosenbrock(2),
        lambda: rosenbrock(10),
        lambda: rosenbrock(100),
        lambda: quadratic(10, 1e4),
        lambda: quadratic(100, 1e4),
        beale,
        wood,
        brown_badly_scaled,
        neural_fit,
        lambda: neural_fit(np.geomspace(0.1, 10.0, 15)),
    ],
    ids=lambda make: make().name,
)
def test_needs_at_most_a_quarter_more_evaluations_than_scipy(make):
    """In the geometric mean over neighbouring starts: from one, rounding alone changes a count by up to a third."""
    function, rng = make(), np.random.default_rng(1)
    starts = [function.start, *(function.start + 1e-3 * rng.standard_normal((7, len(function.start))))]
    ratios = [evaluations_per_evaluation_of_scipy(function, start) for start in starts]
    assert scipy.stats.gmean(ratios) <= 1.25


def evaluations_per_evaluation_of_scipy(function, start):
    """Count evaluations until the loss has fallen to 1e-10 of the first one."""
    target = 1e-10 * function.value(start)

    def stop(intermediate_result):
        if intermediate_result.fun <= target:
            raise StopIteration

    function.trace.clear()
    options = {"maxcor": 10, "ftol": 0.0, "gtol": 0.0, "maxiter": 20_000, "maxfun": 20_000}
    scipy.optimize.minimize(
        function.value_and_gradient, start, jac=True, method="L-BFGS-B", options=options, callback=stop
    )
    theirs = 1 + next(i for i, loss in enumerate(function.trace) if loss <= target)
    function.trace.clear()
    minimise(LBFGS(history=10), function, loss=target, theta=start)
    assert function.trace[-1] <= target
    return function.evaluations / theirs


def test_badly_scaled_problem_on_which_scipy_gives_up():
    theta, _, records = minimise(LBFGS(), powell_badly_scaled(), loss=1e-25)
    assert records[-1].loss <= 1e-25
    assert theta == pytest.approx([1.0981593296998542e-05, 9.106146740029999], rel=1e-6)


def test_losses_far_below_rounding_of_the_values_are_reached():
    rng = np.random.default_rng(0)
    matrix, solution = rng.standard_normal((40, 8)), rng.standard_normal(8)

    def jacobian(x):
        return (1.0 - np.tanh(matrix @ x) ** 2)[:, np.newaxis] * matrix

    fit = least_squares(lambda x: np.tanh(matrix @ x) - np.tanh(matrix @ solution), jacobian, np.zeros(8))
    _, _, records = minimise(LBFGS(), fit, loss=1e-26)
    assert records[-1].loss <= 1e-26
    assert fit.evaluations < 200


@pytest.mark.parametrize("make", [lambda: rosenbrock(10), wood, neural_fit], ids=lambda make: make().name)
def test_every_step_satisfies_the_strong_wolfe_conditions(make):
    function, smoother = make(), LBFGS()
    theta = function.start
    state = smoother.init(function, theta)
    for _ in range(100):
        before, gradient = function.value_and_gradient(theta)
        moved, state, record = smoother.step(function, theta, state)
        if record.stalled or record.loss < 1e-25:
            break
        after, moved_gradient = function.value_and_gradient(moved)
        displacement = moved - theta
        slope = gradient @ displacement
        assert slope < 0.0
        assert after <= before + DECREASE * slope + ROUNDING[8] * abs(before)
        assert abs(moved_gradient @ displacement) <= CURVATURE * abs(slope) * (1 + 1e-6)
        assert (record.loss, record.gradient_norm) == (after, pytest.approx(np.linalg.norm(moved_gradient)))
        theta = moved


def test_the_first_step_has_at_most_unit_length():
    steep = Function(lambda x: 5e5 * x @ x, lambda x: 1e6 * x, [3.0, 4.0])
    theta, _, record = LBFGS().step(steep, steep.start, LBFGS().init(steep, steep.start))
    assert np.linalg.norm(theta - steep.start) <= 10.0
    assert record.loss < 5e5 * 25
    assert steep.evaluations <= 4


def test_pairs_without_positive_curvature_are_not_kept():
    # Concave along every search until the wall: the Wolfe point lies beyond what two evaluations reach.
    concave = Function(lambda x: -(x[0] ** 2), lambda x: -2.0 * x, [1.0])
    smoother = LBFGS(max_evaluations=2)
    theta, state, _ = smoother.step(concave, concave.start, smoother.init(concave, concave.start))
    assert theta[0] > 1.0
    assert state.first == state.last
    _, state, record = smoother.step(concave, theta, state)
    assert state.first == state.last
    assert not record.stalled


def test_minimum_is_left_alone():
    function = quadratic(5, 10.0)
    minimum, _, _ = minimise(LBFGS(), function, loss=1e-28)
    exact = Function(lambda x: np.sum((x - minimum) ** 2), lambda x: 2.0 * (x - minimum), minimum)
    theta, _, record = LBFGS().step(exact, minimum, LBFGS().init(exact, minimum))
    assert np.array_equal(theta, minimum)
    assert (record.loss, record.gradient_norm, record.step_size, record.stalled) == (0.0, 0.0, 0.0, True)


def test_stalls_at_the_level_of_rounding_and_stays_so():
    function, smoother = rosenbrock(4), LBFGS()
    offset = Function(lambda x: 1.0 + function._value(x), function._gradient, function.start)
    theta, state, records = minimise(smoother, offset)
    assert records[-1].stalled
    assert len(records) < 200
    assert records[-1].gradient_norm < 1e-7
    assert records[-1].loss == 1.0
    evaluations = offset.evaluations
    again, _, record = smoother.step(offset, theta, state)
    assert record.stalled
    assert np.array_equal(again, theta)
    assert offset.evaluations <= evaluations + 2 * smoother.max_evaluations


def test_loss_that_is_not_finite_stalls():
    broken = Function(lambda _: np.nan, lambda x: np.full_like(x, np.nan), [1.0])
    theta, _, record = LBFGS().step(broken, broken.start, LBFGS().init(broken, broken.start))
    assert record.stalled
    assert np.isnan(record.loss)
    assert np.array_equal(theta, broken.start)


def test_failed_search_restarts_with_steepest_descent():
    function, smoother = rosenbrock(4), LBFGS()
    theta, state, records = minimise(smoother, function, steps=10)
    state = copy.deepcopy(state)
    state.pairs[:] = 0.0
    state.scale = -1.0  # the direction is uphill
    moved, state, record = smoother.step(function, theta, state)
    assert record.loss < records[-1].loss
    assert state.last - state.first == 1
    downhill = function.value_and_gradient(theta)[1]
    assert (moved - theta) @ downhill == pytest.approx(-np.linalg.norm(moved - theta) * np.linalg.norm(downhill))


# ------------------------------------------------------------------------------------------------------------- states


def test_a_copied_state_goes_on_with_the_same_bits():
    function, smoother = rosenbrock(10), LBFGS(history=4)
    theta, state, _ = minimise(smoother, function, steps=7)
    copied = copy.deepcopy(state)
    first, _, _ = minimise_on(smoother, function, theta, state)
    second, _, _ = minimise_on(smoother, function, theta, copied)
    assert np.array_equal(first, second)


def minimise_on(smoother, function, theta, state, steps=20):
    for _ in range(steps):
        theta, state, record = smoother.step(function, theta, state)
    return theta, state, record


@pytest.mark.parametrize("history", [1, 4, 30])
def test_earlier_states_stay_valid_although_arrays_are_shared(history):
    function, smoother = rosenbrock(10), LBFGS(history=history)
    theta = function.start
    states = [(theta, smoother.init(function, theta))]
    for _ in range(20):
        theta, state, _ = smoother.step(function, *states[-1])
        states.append((theta, state))
    copies = [copy.deepcopy(state) for _, state in states]
    other = quadratic(10, 10.0)
    for theta, state in states:
        smoother.step(other, theta, state)
    for (theta, state), copied, following in zip(states, copies, states[1:], strict=False):
        again = smoother.step(function, theta, state)
        assert np.array_equal(again[0], following[0])
        assert np.array_equal(smoother.step(function, theta, copied)[0], following[0])
        assert state.last - state.first <= history


def test_step_changes_none_of_its_arguments():
    function, smoother = rosenbrock(10), LBFGS(history=3)
    theta, state, _ = minimise(smoother, function, steps=5)
    window = state.pairs[:, state.first : state.last].copy()
    scalars = (state.first, state.last, state.scale, state.loss, state.lowest, state.idle)
    kept = theta.copy(), state.gradient.copy()
    minimise_on(smoother, function, theta, state)
    assert np.array_equal(theta, kept[0])
    assert np.array_equal(state.gradient, kept[1])
    assert np.array_equal(state.pairs[:, state.first : state.last], window)
    assert (state.first, state.last, state.scale, state.loss, state.lowest, state.idle) == scalars


def test_equal_runs_end_in_equal_states():
    runs = [minimise(LBFGS(), rosenbrock(10), steps=30) for _ in range(2)]
    assert np.array_equal(runs[0][0], runs[1][0])
    assert same(runs[0][1], runs[1][1])
    assert runs[0][2] == runs[1][2]


def test_known_is_loss_and_gradient_at_the_returned_coefficients():
    function = rosenbrock(10)
    theta, state, _ = minimise(LBFGS(), function, steps=5)
    loss, gradient = LBFGS().known(state)
    expected = function.value_and_gradient(theta)
    assert loss == expected[0]
    assert np.array_equal(gradient, expected[1])


# ------------------------------------------------------------------------------------------------- batches and arrays


class Batched(Function):
    """Every batch has a minimum of its own."""

    steps_per_epoch = 3

    def value_and_gradient(self, theta):
        shift = 0.0 if self.batch is None else 0.01 * (self.batch % 3)
        loss, gradient = 0.5 * np.sum((theta - shift) ** 2), theta - shift
        self.trace.append(loss)
        return loss, gradient


def test_a_new_batch_is_evaluated_before_the_step():
    function, smoother = Batched(None, None, np.ones(3)), LBFGS()
    function.batch = 0
    theta, state = function.start, smoother.init(function, function.start)
    for batch in range(6):
        function.batch = batch
        before, gradient = function.value_and_gradient(theta)
        function.trace.clear()
        moved, state, record = smoother.step(function, theta, state)
        assert function.trace[0] == before or batch == 0
        assert record.loss <= before
        assert state.batch == batch
        assert gradient @ (moved - theta) <= 0.0
        theta = moved


def test_without_batches_the_number_of_the_batch_means_nothing():
    function, smoother = rosenbrock(4), LBFGS()
    theta, state, _ = minimise(smoother, function, steps=3)
    function.batch = 17
    evaluations = function.evaluations
    smoother.step(function, theta, state)
    assert function.evaluations == evaluations + 1


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("ulps", [0, 1])
def test_at_the_rounding_floor_three_fruitless_searches_are_the_last(dtype, ulps):
    """The loss falls by rounding errors only, and no slope ever satisfies the conditions."""
    function = Function(None, None, np.zeros(2))
    losses = (1.0 - ulps * count * float(np.finfo(dtype).eps) / 20 for count in range(10_000))
    function.value_and_gradient = lambda _: (next(losses), np.array([1e-9, 1e-9], dtype))
    smoother, theta = LBFGS(max_evaluations=4), np.zeros(2, dtype)
    state = smoother.init(function, theta)
    stalled = []
    for _ in range(3):
        theta, state, record = smoother.step(function, theta, state)
        stalled.append(record.stalled)
    assert stalled == [False, False, True]


def test_a_search_that_lowers_the_loss_visibly_may_use_all_its_evaluations():
    """A line downhill for ever: every search runs out of evaluations, and every one is worth it."""
    function = Function(lambda x: -x.sum(), lambda x: -np.ones_like(x), np.ones(2))
    _, _, records = minimise(LBFGS(max_evaluations=3), function, steps=20)
    assert len(records) == 20
    assert not any(record.stalled for record in records)


def test_the_rounding_floor_costs_few_evaluations_on_fine_levels():
    """Constant values: coarse levels reach the rounding floor, and finer ones see that nothing is left to do."""
    hierarchy = kanmg.uniform_hierarchy((2, 1, 1), num_intervals=3, num_levels=5)
    x = np.random.default_rng(0).uniform(-1, 1, (1000, 2))
    problem, smoother = kanmg.Regression(x, np.full(1000, 3.0)), LBFGS()
    theta = initial_coefficients(hierarchy[0].network, x, seed=0)
    evaluations = []
    for level in hierarchy:
        theta = theta if level.index == 0 else hierarchy.prolong(theta, level.index - 1, level.index)
        objective = kanmg.Objective(problem, level)
        theta = minimise(smoother, objective, steps=300, theta=theta)[0]
        evaluations.append(objective.evaluations)
    assert max(evaluations[2:]) < 200


def test_float32_stays_float32():
    matrix = np.diag(np.float32([1, 10, 100]))
    function = Function(lambda x: 0.5 * x @ matrix @ x, lambda x: matrix @ x, np.ones(3))
    theta, state, records = minimise(LBFGS(), function, loss=1e-12, theta=np.ones(3, np.float32))
    assert records[-1].loss <= 1e-12
    assert {theta.dtype, state.pairs.dtype, state.inverse.dtype, state.gradient.dtype} == {np.dtype(np.float32)}


def test_torch_tensors_take_the_same_steps():
    function, smoother = quadratic(6, 100.0), LBFGS(history=3)

    def value_and_gradient(theta):
        loss, gradient = function.value_and_gradient(theta.numpy())
        return loss, torch.from_numpy(gradient)

    tensors = Function(None, None, function.start)
    tensors.value_and_gradient = value_and_gradient
    on_torch, _, there = minimise(smoother, tensors, steps=15, theta=torch.from_numpy(function.start.copy()))
    on_numpy, _, here = minimise(smoother, function, steps=15)
    assert isinstance(on_torch, torch.Tensor)
    assert on_torch.numpy() == pytest.approx(on_numpy, rel=1e-8, abs=1e-10)
    assert [record.loss for record in there] == pytest.approx([record.loss for record in here], rel=1e-6, abs=1e-18)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"history": 0}, KanmgValueError, "`LBFGS` got `history=0`. It must be at least 1."),
        ({"history": 2.5}, KanmgTypeError, "`LBFGS` got `history=2.5`. Pass an integer, at least 1."),
        ({"max_evaluations": 0}, KanmgValueError, "`LBFGS` got `max_evaluations=0`. It must be at least 1."),
        ({"max_evaluations": True}, KanmgTypeError, "`LBFGS` got `max_evaluations=True`. Pass an integer, at least 1."),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error) as caught:
        LBFGS(**options)
    assert str(caught.value) == message
