from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from standins import (
    Function,
    LeastSquares,
    beale,
    brown_badly_scaled,
    linear_least_squares,
    minimise,
    neural_fit,
    powell_badly_scaled,
    rosenbrock_residuals,
    wood,
)

import kanmg
from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.smoothers.levenberg_marquardt import LevenbergMarquardt, LevenbergMarquardtState

PLAIN, ACCELERATED = LevenbergMarquardt(acceleration=False), LevenbergMarquardt(acceleration=True)
BOTH = pytest.mark.parametrize("smoother", [PLAIN, ACCELERATED], ids=["plain", "accelerated"])


def finite(state):
    return np.isfinite([state.damping, state.loss, *state.gradient]).all()


# ------------------------------------------------------------------------------------------------------------- minima


@BOTH
def test_a_linear_problem_takes_few_steps(smoother):
    function = linear_least_squares(60, 12)
    _, _, records = minimise(smoother, function, loss=1e-26)
    assert records[-1].loss <= 1e-26
    assert len(records) <= 6


@BOTH
def test_the_first_step_solves_the_damped_normal_equations(smoother):
    function = linear_least_squares(60, 12, noise=1.0)
    _, gradient, matrix = function.normal_equations(function.start)
    theta, _, _ = smoother.step(function, function.start, smoother.init(function, function.start))
    expected = -np.linalg.solve(matrix + 1e-3 * np.diag(np.diag(matrix)), gradient)
    assert theta == pytest.approx(expected, rel=1e-6)


@BOTH
def test_linear_problem_with_noise_ends_at_the_least_squares_solution_and_stalls(smoother):
    function = linear_least_squares(60, 12, noise=1.0)
    theta, _, records = minimise(smoother, function, steps=60)
    matrix, right = function.jacobian(theta), -function.residuals(np.zeros(12))
    assert theta == pytest.approx(np.linalg.lstsq(matrix, right)[0], rel=1e-6)
    assert records[-1].stalled


@BOTH
@pytest.mark.parametrize(
    "make",
    [
        lambda: rosenbrock_residuals(2),
        lambda: rosenbrock_residuals(10),
        lambda: rosenbrock_residuals(100),
        beale,
        wood,
        brown_badly_scaled,
        powell_badly_scaled,
    ],
    ids=lambda make: make().name,
)
def test_known_minima_are_found(make, smoother):
    function = make()
    _, _, records = minimise(smoother, function, loss=1e-20, steps=300)
    assert records[-1].loss <= 1e-20


@BOTH
def test_convergence_to_a_perfect_fit_is_quadratic(smoother):
    _, _, records = minimise(smoother, beale(), loss=1e-24, steps=100)
    losses = [record.loss for record in records]
    assert losses[-1] <= 1e-24
    assert sum(1e-24 < loss <= 1e-5 for loss in losses) <= 3


def test_acceleration_saves_steps_along_curved_valleys():
    needed = [len(minimise(s, rosenbrock_residuals(2), loss=1e-20)[2]) for s in (PLAIN, ACCELERATED)]
    assert needed[1] < needed[0]


@BOTH
@pytest.mark.parametrize(
    "make", [lambda: rosenbrock_residuals(10), wood, neural_fit, beale], ids=lambda make: make().name
)
def test_the_loss_falls_at_every_step_and_is_that_of_the_returned_coefficients(make, smoother):
    function = make()
    theta = function.start
    state = smoother.init(function, theta)
    last = state.loss
    for _ in range(60):
        theta, state, record = smoother.step(function, theta, state)
        assert record.loss == state.loss == function.value(theta)
        assert record.gradient_norm == np.linalg.norm(state.gradient)
        if record.stalled:
            break
        assert record.loss < last
        last = record.loss


def test_scales_of_the_coefficients_do_not_matter():
    scales = np.geomspace(0.1, 10.0, 15)
    one, other = neural_fit(), neural_fit(scales)
    here = [record.loss for record in minimise(PLAIN, one, steps=8)[2]]
    there = [record.loss for record in minimise(PLAIN, other, steps=8)[2]]
    assert there == pytest.approx(here, rel=1e-3)


# ------------------------------------------------------------------------------------------------- deficient problems


@BOTH
def test_more_coefficients_than_residuals(smoother):
    function = linear_least_squares(4, 12)
    theta, state, records = minimise(smoother, function, steps=60)
    assert records[-1].loss < 1e-24
    assert np.isfinite(theta).all()
    assert finite(state)


@BOTH
def test_coefficients_that_nothing_depends_on_stay(smoother):
    inner = linear_least_squares(20, 5)

    def jacobian(x):
        return np.hstack([inner.jacobian(x[:5]), np.zeros((20, 3))])

    function = LeastSquares(lambda x: inner.residuals(x[:5]), jacobian, np.arange(8.0))
    theta, state, records = minimise(smoother, function, steps=60)
    assert records[-1].loss < 1e-24
    assert theta[5:].tolist() == [5.0, 6.0, 7.0]
    assert finite(state)


@BOTH
def test_equal_columns(smoother):
    function = LeastSquares(lambda x: np.full(3, x.sum() - 1.0), lambda x: np.ones((3, len(x))), np.zeros(4))
    theta, _, records = minimise(smoother, function, steps=60)
    assert records[-1].loss < 1e-24
    assert theta == pytest.approx(np.full(4, 0.25))


@BOTH
def test_perfect_fit_is_left_alone(smoother):
    start = np.ones(4)
    function = LeastSquares(lambda x: x - start, lambda x: np.eye(len(x)), start)
    theta, state, record = smoother.step(function, start, smoother.init(function, start))
    assert np.array_equal(theta, start)
    assert (record.loss, record.gradient_norm, record.step_size, record.stalled) == (0.0, 0.0, 0.0, True)
    assert finite(state)


@BOTH
def test_stalls_at_the_level_of_rounding_and_stays_so(smoother):
    function = linear_least_squares(60, 12, noise=1.0)
    theta, state, records = minimise(smoother, function, steps=200)
    assert records[-1].stalled
    again, same, record = smoother.step(function, theta, state)
    assert again is theta
    assert same is state
    assert record == records[-1]


@BOTH
def test_loss_that_is_not_finite_stalls(smoother):
    broken = LeastSquares(lambda x: np.full(3, np.nan) * x[0], lambda _: np.full((3, 1), np.nan), [1.0])
    theta, _, record = smoother.step(broken, broken.start, smoother.init(broken, broken.start))
    assert record.stalled
    assert np.isnan(record.loss)
    assert theta is broken.start


@BOTH
def test_trials_that_are_not_finite_are_shortened(smoother):
    with np.errstate(invalid="ignore"):
        function = LeastSquares(
            lambda x: np.sqrt(2.0 - x) - 1.2, lambda x: np.diag(-0.5 / np.sqrt(2.0 - x)), np.array([-40.0])
        )
        theta, state, records = minimise(smoother, function, loss=1e-24, steps=60)
    assert theta == pytest.approx([0.56])
    assert records[-1].loss <= 1e-24
    assert finite(state)


@BOTH
@pytest.mark.parametrize("matrix", [np.full((3, 3), np.nan), np.diag([1.0, -5.0, 1.0]), np.zeros((3, 3))])
def test_matrices_that_are_not_positive_definite(matrix, smoother):
    function = linear_least_squares(9, 3)
    exact = function.normal_equations
    function.normal_equations = lambda theta: (*exact(theta)[:2], matrix)
    theta, state, record = smoother.step(function, function.start, smoother.init(function, function.start))
    assert np.isfinite(theta).all()
    assert finite(state)
    assert record.loss <= function.value(function.start)


def test_a_step_gives_up_after_max_rejections():
    uphill = LeastSquares(lambda x: 1.0 + x**2, lambda _: np.ones((1, 1)), np.zeros(1))
    smoother = LevenbergMarquardt(max_rejections=3, acceleration=False)
    state = smoother.init(uphill, uphill.start)
    uphill.trace.clear()
    theta, _, record = smoother.step(uphill, uphill.start, with_gradient(state, 1.0))
    assert record.stalled
    assert theta is uphill.start
    assert uphill.evaluations == 4


def with_gradient(state, value):
    return LevenbergMarquardtState(state.damping, state.scale, state.loss, np.full_like(state.gradient, value))


# ------------------------------------------------------------------------------------------------------------- states


@BOTH
def test_a_copied_state_goes_on_with_the_same_bits(smoother):
    function = rosenbrock_residuals(10)
    theta, state, _ = minimise(smoother, function, steps=7)
    first, _, here = minimise_on(smoother, function, theta, copy.deepcopy(state))
    second, _, there = minimise_on(smoother, function, theta, state)
    assert np.array_equal(first, second)
    assert here == there


def minimise_on(smoother, function, theta, state, steps=10):
    records = []
    for _ in range(steps):
        theta, state, record = smoother.step(function, theta, state)
        records.append(record)
    return theta, state, records


@BOTH
def test_step_changes_none_of_its_arguments(smoother):
    function = rosenbrock_residuals(10)
    theta, state, _ = minimise(smoother, function, steps=5)
    kept = theta.copy(), copy.deepcopy(state)
    minimise_on(smoother, function, theta, state)
    assert np.array_equal(theta, kept[0])
    assert state.damping == kept[1].damping
    assert state.loss == kept[1].loss
    assert np.array_equal(state.gradient, kept[1].gradient)
    assert np.array_equal(state.scale, kept[1].scale)


def test_known_is_loss_and_gradient_at_the_returned_coefficients():
    function = rosenbrock_residuals(10)
    theta, state, _ = minimise(ACCELERATED, function, steps=5)
    loss, gradient = ACCELERATED.known(state)
    expected = function.value_and_gradient(theta)
    assert loss == expected[0]
    assert np.array_equal(gradient, expected[1])


# ------------------------------------------------------------------------------------------------- arrays and options


class Single(LeastSquares):
    """Everything in float32."""

    def value_and_gradient(self, theta):
        loss, gradient = super().value_and_gradient(theta)
        return loss, gradient.astype(np.float32)

    def normal_equations(self, theta):
        loss, gradient, matrix = super().normal_equations(theta)
        return loss, gradient.astype(np.float32), matrix.astype(np.float32)


@BOTH
def test_float32_stays_float32(smoother):
    inner = rosenbrock_residuals(2)
    function = Single(
        lambda x: inner.residuals(x).astype(np.float32), lambda x: inner.jacobian(x).astype(np.float32), inner.start
    )
    theta, state, records = minimise(smoother, function, loss=1e-12, steps=200, theta=inner.start.astype(np.float32))
    assert records[-1].loss <= 1e-12
    assert {theta.dtype, state.gradient.dtype} == {np.dtype(np.float32)}
    assert state.damping >= np.finfo(np.float32).eps


@BOTH
def test_torch_tensors_take_the_same_steps(smoother):
    function = rosenbrock_residuals(6)

    class Tensors:
        steps_per_epoch, batch = 1, None

        def value_and_gradient(self, theta):
            loss, gradient = function.value_and_gradient(theta.numpy())
            return loss, torch.from_numpy(gradient)

        def residuals(self, theta):
            return torch.from_numpy(function.residuals(theta.numpy()))

        def pull_back(self, theta, cotangents):
            return torch.from_numpy(function.pull_back(theta.numpy(), cotangents.numpy()))

        def normal_equations(self, theta):
            loss, gradient, matrix = function.normal_equations(theta.numpy())
            return loss, torch.from_numpy(gradient), torch.from_numpy(matrix)

    on_torch, _, there = minimise(smoother, Tensors(), steps=15, theta=torch.from_numpy(function.start.copy()))
    on_numpy, _, here = minimise(smoother, function, steps=15)
    assert isinstance(on_torch, torch.Tensor)
    assert on_torch.numpy() == pytest.approx(on_numpy, rel=1e-10)
    assert [record.loss for record in there] == pytest.approx([record.loss for record in here], rel=1e-6, abs=1e-18)


def test_read_only_arrays_are_taken():
    function = rosenbrock_residuals(4)
    theta, state, _ = minimise(PLAIN, function, steps=3)
    expected = PLAIN.step(function, theta, state)[0]
    for array in (theta, state.scale, state.gradient):
        array.flags.writeable = False
    assert np.array_equal(PLAIN.step(function, theta, state)[0], expected)


def test_mini_batches_are_refused():
    function = linear_least_squares(9, 3)
    function.steps_per_epoch = 4
    with pytest.raises(KanmgValueError, match=r"needs all samples in every step.*Leave out `batch_size`, or use"):
        PLAIN.init(function, function.start)


def test_large_matrices_are_refused():
    function = Function(None, None, np.zeros(6001))
    message = (
        r"for 6001 coefficients, of 0\.29 GB, more than `max_coefficients=6000` allows\. Use `linear_solver=.auto.`"
    )
    with pytest.raises(KanmgValueError, match=message):
        LevenbergMarquardt(linear_solver="cholesky").init(function, function.start)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"damping": 0.0}, KanmgValueError, "`LevenbergMarquardt` got `damping=0`. It must be positive and finite."),
        (
            {"acceleration": 1},
            KanmgTypeError,
            "`LevenbergMarquardt` got `acceleration=1`. Pass True or False.",
        ),
        (
            {"projection": True, "linear_solver": "cg"},
            KanmgValueError,
            (
                "`LevenbergMarquardt` got `projection=True` and `linear_solver='cg'`, but projection needs the matrix "
                "that conjugate gradients do without. Leave out `linear_solver`, or `projection`."
            ),
        ),
        (
            {"preconditioner": "vcycle", "linear_solver": "cholesky"},
            KanmgValueError,
            (
                "`LevenbergMarquardt` got `preconditioner='vcycle'` and `linear_solver='cholesky'`, which needs none. "
                "Leave out `preconditioner`, or use `linear_solver='cg'` or `'auto'`."
            ),
        ),
        (
            {"projection": "yes"},
            KanmgTypeError,
            "`LevenbergMarquardt` got `projection='yes'`. Pass True or False.",
        ),
        (
            {"max_rejections": -1},
            KanmgValueError,
            "`LevenbergMarquardt` got `max_rejections=-1`. It must be at least 0.",
        ),
        (
            {"max_coefficients": 2.5},
            KanmgTypeError,
            "`LevenbergMarquardt` got `max_coefficients=2.5`. Pass an integer, at least 1.",
        ),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error) as caught:
        LevenbergMarquardt(**options)
    assert str(caught.value) == message


# --------------------------------------------------------------------------------------------------------------- runs


X = np.random.default_rng(0).uniform(-1.0, 1.0, (200, 2))
PROBLEM = kanmg.Regression(X, np.exp(X[:, 0]) * X[:, 1])


def make_hierarchy(**options):
    return kanmg.uniform_hierarchy(
        (2, 2, 1), **{"degree": 3, "num_intervals": 2, "num_levels": 3, "evaluator": "reference", **options}
    )


HIERARCHY = make_hierarchy()


@pytest.mark.parametrize(
    "method",
    [
        kanmg.NestedIteration(ACCELERATED, steps=6),
        kanmg.NestedIteration(PLAIN, steps=6, starts=kanmg.Starts(3, steps=5, fraction=0.5)),
        kanmg.NestedIteration(PLAIN, steps=5, coarse_fraction=0.7),
        kanmg.FullMultigrid(ACCELERATED, steps=2, coarse_steps=4),
        kanmg.FullMultigrid(PLAIN, steps=2, coarse_steps=4, coarse_fraction=0.5, starts=2),
        kanmg.FullMultigrid(ACCELERATED, steps=2, coarse_steps=4, variant="tau"),
        kanmg.FullMultigrid(kanmg.Adam(), steps=9, coarse_steps=4, coarse_smoother=ACCELERATED),
        kanmg.NestedIteration(PLAIN, steps=6, coarse_smoother=LevenbergMarquardt(projection=True)),
        kanmg.FullMultigrid(LevenbergMarquardt(projection=True), steps=2, coarse_steps=4),
        kanmg.FullMultigrid(LevenbergMarquardt(projection=True), steps=2, coarse_steps=4, variant="tau"),
    ],
    ids=repr,
)
def test_every_cycle_takes_it(method):
    solution = kanmg.solve(PROBLEM, HIERARCHY, method=method)
    assert solution.loss == PROBLEM.loss(HIERARCHY[2].evaluator, solution.coefficients)
    assert solution.loss < 1e-3
    smoothed = [record.loss for record in solution.history if record.event == "smooth" and record.level == 2]
    if not isinstance(method.smoother, kanmg.Adam):
        assert (np.diff(smoothed) <= 0.0).all()


@pytest.mark.parametrize("variant", ["galerkin", "tau"])
@BOTH
def test_v_cycles_lower_the_loss(variant, smoother):
    method = kanmg.VCycle(smoother, pre_steps=1, post_steps=1, coarse_steps=3, variant=variant)
    solution = kanmg.solve(PROBLEM, HIERARCHY, method=method, max_cycles=3)
    losses = [record.loss for record in solution.history if record.level == 2]
    assert (np.diff(losses) <= 0.0).all()
    assert solution.loss < 1e-2


def test_more_coefficients_than_samples():
    problem = kanmg.Regression(X[:1], np.ones(1))
    solution = kanmg.solve(problem, HIERARCHY, method=kanmg.NestedIteration(ACCELERATED, steps=8))
    assert solution.loss < 1e-20
    assert np.isfinite(solution.coefficients).all()


def test_constant_data():
    problem = kanmg.Regression(X, np.zeros(200))
    initial = np.zeros(HIERARCHY[0].network.num_coefficients)
    solution = kanmg.solve(problem, HIERARCHY, method=kanmg.NestedIteration(ACCELERATED, steps=8), initial=initial)
    assert solution.loss == 0.0


def test_float32_runs_on_the_evaluators():
    hierarchy = make_hierarchy(dtype="float32")
    problem = kanmg.Regression(X.astype("float32"), (np.exp(X[:, 0]) * X[:, 1]).astype("float32"))
    solution = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(ACCELERATED, steps=15))
    assert solution.loss < 1e-8
    assert solution.coefficients.dtype == np.float32


def test_solve_refuses_large_levels_before_it_begins():
    seen = []
    method = kanmg.NestedIteration(LevenbergMarquardt(max_coefficients=40, linear_solver="cholesky"), steps=6)
    with pytest.raises(KanmgValueError, match="more than `max_coefficients=40` allows"):
        kanmg.solve(PROBLEM, HIERARCHY, method=method, callback=seen.append)
    assert seen == []


def test_solve_refuses_mini_batches():
    problem = kanmg.Regression(X, X[:, 0], batch_size=20)
    with pytest.raises(KanmgValueError, match="needs all samples in every step"):
        kanmg.solve(problem, HIERARCHY, method=kanmg.NestedIteration(PLAIN, steps=6))


class NoSquares(kanmg.Regression):
    """A loss of which nothing more is known."""

    residuals = kanmg.Problem.residuals
    pull_back = kanmg.Problem.pull_back
    normal_equations = kanmg.Problem.normal_equations


def test_solve_refuses_losses_that_are_no_sums_of_squares():
    message = r"`NoSquares` does not say of which residuals its loss is the sum of squares\. Use `kanmg\.LBFGS\(\)`"
    problem = NoSquares(X, X[:, 0])
    with pytest.raises(KanmgTypeError, match=message):
        kanmg.solve(problem, HIERARCHY, method=kanmg.NestedIteration(PLAIN, steps=6))
    theta, evaluator = np.zeros(HIERARCHY[0].network.num_coefficients), HIERARCHY[0].evaluator
    for call in (problem.residuals, problem.normal_equations, lambda *a: problem.pull_back(*a, np.zeros(200))):
        with pytest.raises(KanmgTypeError, match=message):
            call(evaluator, theta)
