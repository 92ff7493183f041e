"""Free knots in hierarchies, transfers, cycles, smoothers and everything that reads a network."""

import copy
import pickle

import numpy as np
import pytest
import torch

import kanmg
from kanmg.fairing import jumps
from kanmg.knot_choice import _carried_over
from kanmg.refit import refit

LM = kanmg.LevenbergMarquardt
SMOOTHERS = {
    "LM": LM(),
    "LM, projection": LM(projection=True),
    "LM, conjugate gradients": LM(linear_solver="cg", preconditioner="vcycle"),
    "L-BFGS": kanmg.LBFGS(),
    "BFGS": kanmg.BFGS(),
    "Adam": kanmg.Adam(step_size=1e-2),
}


def kinked(x):
    return np.abs(x[:, 0] - 0.3) + x[:, 1]


@pytest.fixture(scope="module")
def problem():
    x = np.random.default_rng(0).uniform(-1, 1, (400, 2))
    return kanmg.Regression(x, kinked(x))


@pytest.fixture(scope="module")
def hierarchy():
    return kanmg.uniform_hierarchy((2, 3, 1), degree=3, num_intervals=4, num_levels=3, free_knots=True)


def drawn(level, seed=0):
    """Coefficients and logits that are all different from zero."""
    network = level.network
    x = np.random.default_rng(seed).uniform(-1, 1, (100, network.num_inputs))
    theta = kanmg.initial_coefficients(network, x, seed=seed, noise=0.3)
    theta[network.offsets[-1] :] = np.random.default_rng(seed + 1).standard_normal(network.num_logits)
    return theta


# ------------------------------------------------------------------------------------------------------------- networks


def test_logits_stand_behind_the_coefficients(hierarchy):
    network = hierarchy[1].network
    assert [layer.free_knots for layer in network.layers] == [4, 4]
    assert network.num_logits == (2 + 3) * 4
    assert network.num_coefficients == network.offsets[-1] + 20
    theta = np.arange(float(network.num_coefficients))
    logits = network.knot_logits(theta)
    assert [own.shape for own in logits] == [(2, 4), (3, 4)]
    np.testing.assert_array_equal(np.concatenate([own.ravel() for own in logits]), theta[network.offsets[-1] :])
    np.testing.assert_array_equal(network.flatten(network.unflatten(theta), theta[-20:]), theta)
    assert not network.flatten(network.unflatten(theta))[-20:].any()


def test_initial_logits_are_zero_and_leave_the_knots_where_they_are(hierarchy):
    network = hierarchy[0].network
    theta = kanmg.initial_coefficients(network, np.zeros((1, 2)), seed=0)
    assert not theta[network.offsets[-1] :].any()
    for moved, own in zip(network.at(theta).layers, network.fixed().layers, strict=True):
        for left, right in zip(moved.knots, own.knots, strict=True):
            np.testing.assert_allclose(left.vector, right.vector, rtol=0, atol=1e-15)


def test_a_network_with_fixed_knots_is_its_own(hierarchy):
    fixed = hierarchy.fixed()[0].network
    assert fixed.num_logits == 0
    assert fixed.at(np.zeros(fixed.num_coefficients)) is fixed
    assert fixed.knot_logits(np.zeros(fixed.num_coefficients)) == [None, None]


@pytest.mark.parametrize(
    ("free_knots", "outside", "error", "message"),
    [
        (3, "extend", kanmg.KanmgValueError, "divides the number of cells"),
        (1, "extend", kanmg.KanmgValueError, "at least 2"),
        (-4, "extend", kanmg.KanmgValueError, "at least 2"),
        ("yes", "extend", kanmg.KanmgTypeError, "Pass True, False"),
        (True, "zero", kanmg.KanmgValueError, "or fixed knots"),
    ],
)
def test_unusable_arguments_are_refused(free_knots, outside, error, message):
    with pytest.raises(error, match=message):
        kanmg.Spline(1, 1, knots=kanmg.uniform_knots(4, degree=3), outside=outside, free_knots=free_knots)


def test_layers_show_and_compare_their_free_knots():
    knots = kanmg.uniform_knots(4, degree=3)
    free, fixed = (kanmg.Spline(1, 1, knots=knots, free_knots=number) for number in (2, 0))
    assert free != fixed
    assert "free_knots=2" in repr(free)
    assert "free_knots" not in repr(fixed)
    assert free.refine().free_knots == 2
    assert copy.deepcopy(free) == free


# ------------------------------------------------------------------------------------------------------------ transfers


@pytest.mark.parametrize("outside", ["extend", "linear", "clamp"])
@pytest.mark.parametrize("degree", [1, 3, 5])
def test_prolongation_keeps_the_function_at_trained_knots(problem, degree, outside):
    hierarchy = kanmg.uniform_hierarchy(
        (2, 3, 1), degree=degree, num_intervals=4, num_levels=3, outside=outside, free_knots=2
    )
    theta, x = drawn(hierarchy[0]), np.random.default_rng(5).uniform(-1.1, 1.1, (200, 2))
    values = hierarchy[0].evaluator.value(theta, x)
    loss = kanmg.Objective(problem, hierarchy[0]).value(theta)
    for level in (1, 2):
        fine = hierarchy.prolong(theta, 0, level)
        np.testing.assert_allclose(
            hierarchy[level].evaluator.value(fine, x), values, rtol=0, atol=1e-12 * np.abs(values).max()
        )
        assert kanmg.Objective(problem, hierarchy[level]).value(fine) == pytest.approx(loss, rel=1e-12)


def test_transfers_at_trained_knots_are_dual_and_undo_each_other(hierarchy):
    theta = hierarchy.prolong(drawn(hierarchy[0]), 0, 1)
    transfer = hierarchy.transfers[0].at(theta)
    coarse, fine = (np.random.default_rng(3).standard_normal(level.network.num_coefficients) for level in hierarchy[:2])
    assert transfer.prolong(coarse) @ fine == pytest.approx(coarse @ transfer.restrict(fine), rel=1e-12)
    np.testing.assert_allclose(transfer.inject(transfer.prolong(coarse)), coarse, rtol=0, atol=1e-12)
    matrix = np.outer(fine, fine)
    half = transfer.restrict(fine)
    np.testing.assert_allclose(transfer.restrict_matrix(matrix), np.outer(half, half), rtol=0, atol=1e-10)
    np.testing.assert_allclose(hierarchy.transfers[0].inject(theta), drawn(hierarchy[0]), rtol=0, atol=1e-12)


def test_restriction_asks_where_the_knots_are(hierarchy):
    gradient = np.zeros(hierarchy[1].network.num_coefficients)
    with pytest.raises(kanmg.KanmgValueError, match=r"transfer\.at\(theta\)\.restrict\(gradient\)"):
        hierarchy.transfers[0].restrict(gradient)


def test_levels_with_other_logits_are_not_nested():
    knots = kanmg.uniform_knots(4, degree=3)
    coarse, fine = (
        kanmg.Network([kanmg.Spline(1, 1, knots=own, free_knots=True)]) for own in (knots, kanmg.refine(knots))
    )
    with pytest.raises(kanmg.NestingError, match="free_knots"):
        kanmg.Hierarchy([coarse, fine])


# --------------------------------------------------------------------------------------------------- smoothers, cycles


@pytest.mark.parametrize("name", SMOOTHERS)
def test_every_smoother_moves_knots_and_lowers_the_loss(problem, hierarchy, name):
    level = hierarchy[0]
    objective, theta = kanmg.Objective(problem, level), drawn(level)
    start, state = objective.value(theta), SMOOTHERS[name].init(objective, theta)
    moved = theta
    for _ in range(20):
        moved, state, _ = SMOOTHERS[name].step(objective, moved, state)
    assert objective.value(moved) < 0.5 * start
    assert (moved[level.network.offsets[-1] :] != theta[level.network.offsets[-1] :]).all()


def test_gradients_of_objectives_are_differences(problem, hierarchy):
    for level in hierarchy:
        objective, theta = kanmg.Objective(problem, level), drawn(level)
        gradient = objective.value_and_gradient(theta)[1]
        step = 1e-6
        differences = [
            (objective.value(theta + step * unit) - objective.value(theta - step * unit)) / (2 * step)
            for unit in np.eye(theta.size)
        ]
        np.testing.assert_allclose(gradient, differences, rtol=0, atol=1e-7 * np.abs(gradient).max())


@pytest.mark.parametrize("variant", ["galerkin", "tau"])
@pytest.mark.parametrize("smoother", ["LM", "L-BFGS"])
def test_cycles_lower_the_loss_on_all_levels(problem, hierarchy, variant, smoother):
    method = kanmg.VCycle(smoother=SMOOTHERS[smoother], variant=variant, pre_steps=5, post_steps=5, coarse_steps=10)
    solution = kanmg.solve(problem, hierarchy, method=method, initial=drawn(hierarchy[2]), max_cycles=3)
    corrections = [record for record in solution.history if record.event == "correct"]
    assert len(corrections) == 6
    assert sum(record.step_size > 0 for record in corrections) >= 4
    assert solution.loss < 1e-2 * solution.history[0].loss


def test_a_correction_of_a_minimum_is_zero(hierarchy):
    """The shifted coarse gradient is the restricted fine one at trained knots: a minimum is left alone."""
    x = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    theta = drawn(hierarchy[1])
    exact = kanmg.Regression(x, hierarchy[1].evaluator.value(theta, x))
    levels = kanmg.Hierarchy([level.network for level in hierarchy[:2]])
    method = kanmg.VCycle(smoother=kanmg.LBFGS(), variant="tau", pre_steps=0, post_steps=1, coarse_steps=5)
    solution = kanmg.solve(exact, levels, method=method, initial=theta, max_cycles=1)
    np.testing.assert_allclose(solution.coefficients, theta, rtol=0, atol=1e-10)


def test_full_multigrid_and_starts_find_the_kink(problem, hierarchy):
    method = kanmg.FullMultigrid(smoother=LM(), pre_steps=5, post_steps=5, starts=kanmg.Starts(4, steps=20))
    solution = kanmg.solve(problem, hierarchy, method=method, max_cycles=1)
    assert solution.loss < 1e-6


def test_float32_works(problem):
    hierarchy = kanmg.uniform_hierarchy((2, 3, 1), num_intervals=4, num_levels=2, free_knots=True, dtype="float32")
    x = problem.training_inputs()
    single = kanmg.Regression(x.astype("float32"), kinked(x).astype("float32"))
    solution = kanmg.solve(single, hierarchy, method=kanmg.NestedIteration(steps=30))
    assert solution.coefficients.dtype == np.float32
    assert solution.loss < 1e-3


@pytest.mark.parametrize("evaluator", ["dense", "reference"])
def test_evaluators_find_the_same_solution(problem, hierarchy, evaluator):
    method = kanmg.NestedIteration(smoother=LM(), steps=4)
    networks = [level.network for level in hierarchy[:2]]
    first, second = (
        kanmg.solve(problem, kanmg.Hierarchy(networks, evaluator=name), method=method) for name in ("cpu", evaluator)
    )
    assert second.loss == pytest.approx(first.loss, rel=1e-6)


# ------------------------------------------------------------------------------------------------ checkpoints and files


def test_a_resumed_run_ends_with_the_same_bits(problem, hierarchy, tmp_path):
    method = kanmg.VCycle(smoother=kanmg.LBFGS(), variant="tau", pre_steps=3, post_steps=3, coarse_steps=5)
    whole = kanmg.solve(problem, hierarchy, method=method, max_cycles=2)

    def stop(record):
        if record.event == "smooth" and record.cycle == 2:
            raise StopIteration

    path = tmp_path / "run.checkpoint"
    part = kanmg.solve(
        problem, hierarchy, method=method, max_cycles=2, callback=stop, checkpoint=path, checkpoint_seconds=0.0
    )
    assert part.status is kanmg.Status.STOPPED_BY_CALLBACK
    resumed = kanmg.solve(problem, hierarchy, method=method, max_cycles=2, checkpoint=path)
    np.testing.assert_array_equal(resumed.coefficients, whole.coefficients)
    with pytest.raises(kanmg.CheckpointError):
        kanmg.solve(problem, hierarchy.fixed(), method=method, checkpoint=path)


@pytest.fixture(scope="module")
def solution(problem, hierarchy):
    return kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(smoother=LM(), steps=15))


def test_saved_solutions_are_read_again(solution, tmp_path):
    solution.save(tmp_path / "solution")
    loaded = kanmg.load(tmp_path / "solution")
    x = np.random.default_rng(1).uniform(-1, 1, (20, 2))
    np.testing.assert_array_equal(loaded(x), solution(x))
    assert loaded.network == solution.network


def test_the_solution_shows_its_trained_network(solution):
    network = solution.network
    assert network.num_logits == 0
    x = np.random.default_rng(1).uniform(-1, 1, (20, 2))
    fixed = kanmg.Hierarchy([network])[0].evaluator
    theta = solution.coefficients[: network.num_coefficients]
    np.testing.assert_allclose(fixed.value(theta, x), solution(x), rtol=0, atol=1e-13)
    slopes = fixed.jet(theta, x, np.eye(2)[:1], 2)
    np.testing.assert_allclose(solution.derivative(x, 0), slopes.derivatives[0][0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(solution.derivative(x, 0, 0), slopes.derivatives[1][0], rtol=1e-7, atol=1e-6)


def test_copies_and_pickles_compute_the_same(hierarchy):
    level, x = hierarchy[1], np.random.default_rng(1).uniform(-1, 1, (20, 2))
    values = level.evaluator.value(drawn(level), x)
    for other in (copy.deepcopy(level.evaluator), pickle.loads(pickle.dumps(level.evaluator))):  # noqa: S301
        np.testing.assert_array_equal(other.value(drawn(level), x), values)


def test_the_table_of_a_hierarchy_says_that_knots_are_free(hierarchy):
    assert "cpu, free knots" in str(hierarchy)
    assert "free knots" not in str(hierarchy.fixed())


# ------------------------------------------------------------------------------------------------- what reads networks


def test_refit_keeps_the_logits(hierarchy):
    level, x = hierarchy[0], np.random.default_rng(1).uniform(-1, 1, (200, 2))
    theta = drawn(level)
    theta[: level.network.offsets[1]] *= 1.5
    moved = refit(level.network, theta, x)
    number = level.network.num_logits
    np.testing.assert_array_equal(moved[-number:], theta[-number:])
    first = level.network.at(moved)
    hidden = kanmg.Hierarchy([kanmg.Network(first.layers[:1])])[0].evaluator.value(moved[: first.offsets[1]], x)
    assert np.abs(hidden).max() <= 1.0


def test_fairing_sees_the_trained_knots(problem, hierarchy):
    theta = drawn(hierarchy[0])
    fixed = hierarchy[0].network.at(theta)
    assert jumps(fixed, hierarchy[0].network.num_logits).shape[1] == theta.size
    method = kanmg.NestedIteration(smoother=LM(), steps=10, fair=True)
    assert kanmg.solve(problem, hierarchy, method=method).history[-2].event == "fair"


def test_units_do_not_matter(problem, hierarchy):
    x = problem.training_inputs()
    method = kanmg.NestedIteration(smoother=LM(), steps=10)
    small = kanmg.solve(kanmg.Regression(x, kinked(x)), hierarchy, method=method)
    large = kanmg.solve(kanmg.Regression(x, 1e6 * kinked(x) + 1e9), hierarchy, method=method)
    assert large.loss < 1e12 * max(100 * small.loss, 1e-9)
    assert (large.coefficients[-20:] != 0.0).any()


def test_convergence_studies_and_plots_work(problem, hierarchy, solution):
    study = kanmg.convergence_study(problem, hierarchy, method=kanmg.NestedIteration(smoother=LM(), steps=5))
    assert len(study.solutions) == 3
    plotting = pytest.importorskip("kanmg.plotting")
    axes = plotting.plot_edge(solution, 0, 0, 0)
    assert axes.get_title()


def heat(_, u):
    return u.d("t") - 0.1 * u.d("x", "x")


def test_equations_with_parameters_and_time_windows_work():
    random = np.random.default_rng(0)
    points = random.uniform([-1, 0], [1, 1], (300, 2))
    initial = np.column_stack([np.linspace(-1, 1, 40), np.zeros(40)])
    sides = np.column_stack([np.repeat([-1.0, 1.0], 20), random.uniform(0, 1, 40)])
    problem = kanmg.Collocation(
        coordinates=("x", "t"),
        fields=("u",),
        terms=[
            kanmg.Term("equation", heat, points),
            kanmg.Term("initial", lambda x, u: u.value - torch.sin(torch.pi * x[:, 0]), initial, weight=10.0),
            kanmg.Term("boundary", lambda _, u: u.value, sides),
        ],
    )
    hierarchy = kanmg.uniform_hierarchy(
        (2, 3, 1), degree=5, num_intervals=3, num_levels=2, free_knots=True, domain=((-1, 1), (0, 1))
    )
    method = kanmg.NestedIteration(smoother=LM(), steps=30)
    exact = np.sin(np.pi * points[:, :1]) * np.exp(-0.1 * np.pi**2 * points[:, 1:])
    assert np.abs(kanmg.solve(problem, hierarchy, method=method)(points) - exact).max() < 1e-2
    windows = kanmg.march(problem, hierarchy, coordinate="t", initial="initial", windows=2, method=method)
    again = pickle.loads(pickle.dumps(windows))  # noqa: S301
    assert np.abs(windows(points) - exact).max() < 1e-2
    np.testing.assert_array_equal(again(points), windows(points))


def test_hierarchies_without_free_knots_have_evaluators_of_the_same_kind(hierarchy):
    networks = [level.network for level in hierarchy]
    for name, expected in (("cpu", "cpu"), ("dense", "cpu, dense"), ("reference", "reference")):
        fixed = kanmg.Hierarchy(networks, evaluator=name).fixed()
        assert [level.evaluator.name for level in fixed] == 3 * [expected]
        assert pickle.loads(pickle.dumps(fixed))[2].network == fixed[2].network  # noqa: S301


# -------------------------------------------------------------------------------------------------- fixed or free knots


def test_free_knots_are_kept_where_they_pay():
    x = np.random.default_rng(0).uniform(-1, 1, (1000, 1))
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=5, num_levels=3, free_knots=True)
    steep = kanmg.choose_knots(kanmg.Regression(x, np.tanh(50 * x - 10)), hierarchy)
    smooth = kanmg.choose_knots(kanmg.Regression(x, np.sin(np.pi * x)), hierarchy)
    assert steep.hierarchy is hierarchy
    assert "Free knots are kept: with fixed ones the loss compared is" in steep.message
    assert smooth.hierarchy[0].network.num_logits == 0
    alone = kanmg.solve(kanmg.Regression(x, np.sin(np.pi * x)), hierarchy.fixed())
    np.testing.assert_allclose(smooth.coefficients, alone.coefficients, rtol=0, atol=1e-10)
    assert smooth.work_units > alone.work_units


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_where_fixed_knots_are_kept_the_other_minimum_is_a_candidate(seed):
    x = np.random.default_rng(seed).uniform(-1, 1, (800, 2))
    problem = kanmg.Regression(x, np.exp(x[:, 0] * x[:, 1]), validation=0.2)
    hierarchy = kanmg.uniform_hierarchy((2, 2, 1), degree=3, num_intervals=3, num_levels=2, free_knots=True)
    method = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=20, starts=3)
    solution = kanmg.choose_knots(problem, hierarchy, method=method, seed=seed)
    alone = kanmg.solve(problem, hierarchy.fixed(), method=method, seed=seed)
    assert solution.hierarchy[0].network.num_logits == 0
    losses = [problem.validation_loss(solution.hierarchy[-1].evaluator, run.coefficients) for run in (solution, alone)]
    assert losses[0] <= losses[1]
    is_better = losses[0] < losses[1]
    assert (
        f"carried over to fixed ones, ends at {losses[0]:.3e}, which is better than" in solution.message
        or not is_better
    )
    assert (solution.coefficients.tobytes() == alone.coefficients.tobytes()) is not is_better


def test_free_knots_that_pay_are_the_run_without_a_pause():
    x = np.random.default_rng(0).uniform(-1, 1, (400, 1))
    problem = kanmg.Regression(x, np.abs(x - 0.3), validation=0.2)
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=5, num_levels=3, free_knots=True)
    method = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=20, starts=2)
    seen = []
    solution = kanmg.choose_knots(
        problem, hierarchy, method=method, seed=3, callback=lambda record: seen.append(record.event)
    )
    alone = kanmg.solve(problem, hierarchy, method=method, seed=4)
    fixed = kanmg.solve(problem, hierarchy.fixed(), method=method, seed=3)
    assert solution.coefficients.tobytes() == alone.coefficients.tobytes()
    assert solution.work_units == alone.work_units + fixed.work_units
    assert len(solution.history) == len(alone.history)
    assert seen == [record.event for record in (*fixed.history, *alone.history)]


def test_free_knots_that_do_not_pay_end_on_the_coarsest_level():
    x = np.random.default_rng(0).uniform(-1, 1, (400, 1))
    problem = kanmg.Regression(x, np.exp(x), validation=0.2)
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=5, num_levels=3, free_knots=True)
    method = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=20)
    levels = []
    solution = kanmg.choose_knots(
        problem, hierarchy, method=method, callback=lambda record: levels.append((record.event, record.level))
    )
    fixed = kanmg.solve(problem, hierarchy.fixed(), method=method)
    assert solution.coefficients.tobytes() == fixed.coefficients.tobytes()
    assert "Fixed knots are kept. On the coarsest level the loss compared is" in solution.message
    # One level of free knots, and where it was left.
    assert levels[len(fixed.history) :][-1] == ("prolong", 1)
    assert {level for _, level in levels[len(fixed.history) : -1]} == {0}


def test_a_coarsest_level_that_sees_nothing_does_not_decide():
    x = np.linspace(-1, 1, 800)[:, None]
    problem = kanmg.Regression(x, np.sin(60 * x), validation=0.2)
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=5, num_levels=2, free_knots=True)
    solution = kanmg.choose_knots(problem, hierarchy, method=kanmg.NestedIteration(kanmg.LBFGS(), steps=5))
    assert "and must be below" in solution.message


@pytest.mark.parametrize("number", [1, 8, 30, 40])
def test_a_choice_may_be_stopped_at_any_time(number):
    x = np.random.default_rng(0).uniform(-1, 1, (200, 1))
    problem = kanmg.Regression(x, np.abs(x - 0.3))
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=4, num_levels=2, free_knots=True)
    method = kanmg.NestedIteration(kanmg.LBFGS(), steps=12)
    seen = []

    def stop(record):
        seen.append(record.event)
        if len(seen) >= number:
            raise StopIteration

    solution = kanmg.choose_knots(problem, hierarchy, method=method, callback=stop)
    assert len(seen) == number
    assert solution.status is kanmg.Status.STOPPED_BY_CALLBACK
    assert ("not all could be compared to their ends" in solution.message) is (number > 25)
    assert ("before free knots could be tried" in solution.message) is (number <= 25)
    assert solution.loss < 1.0


STEEP = kanmg.Regression(np.linspace(-1, 1, 200)[:, None], np.tanh(40 * np.linspace(-1, 1, 200)[:, None] - 8))
FREE = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=6, num_levels=2, free_knots=True)


def test_a_tolerance_that_free_knots_meet_is_met():
    solution = kanmg.choose_knots(STEEP, FREE, atol=1e-4)
    assert solution.status is kanmg.Status.CONVERGED
    assert solution.hierarchy is FREE
    with pytest.raises(kanmg.ConvergenceError) as info:
        kanmg.choose_knots(STEEP, FREE, atol=1e-30)
    assert info.value.solution.hierarchy is FREE
    assert kanmg.choose_knots(STEEP, FREE, atol=1e-30, throw=False).status is kanmg.Status.TOLERANCE_NOT_MET


def test_the_carried_over_minimum_need_not_meet_the_tolerance():
    x = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    problem = kanmg.Regression(x, np.exp(np.sin(3 * x[:, 0]) + x[:, 1] ** 2))
    hierarchy = kanmg.uniform_hierarchy((2, 2, 1), degree=3, num_intervals=4, num_levels=2, free_knots=True)
    method = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=20, starts=kanmg.Starts(4, steps=20))
    reached = kanmg.solve(problem, hierarchy.fixed(), method=method).loss
    assert kanmg.choose_knots(problem, hierarchy, method=method, atol=1.01 * reached).loss <= 1.01 * reached


@pytest.mark.parametrize(
    "method",
    [
        kanmg.VCycle(kanmg.LevenbergMarquardt(), pre_steps=3, post_steps=3),
        kanmg.FullMultigrid(kanmg.LevenbergMarquardt(), coarse_steps=3),
    ],
)
def test_methods_that_leave_the_coarsest_level_early_are_compared_at_the_end(method):
    solution = kanmg.choose_knots(STEEP, FREE, method=method, max_cycles=2)
    assert "knots are kept: with fixed ones the loss compared is" in solution.message
    assert "On the coarsest level" not in solution.message


def test_a_temporary_folder_that_cannot_be_made_is_told(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    with pytest.raises(kanmg.CheckpointError, match=r"cannot make one: .*/nowhere/at/all.*TMPDIR"):
        kanmg.choose_knots(STEEP, FREE)


def test_a_given_method_holds_back_what_it_would_alone():
    method = kanmg.default_method(STEEP, FREE)
    assert method.hold_back > 0.0
    assert (
        kanmg.choose_knots(STEEP, FREE, method=method).message.splitlines()[-1]
        == (kanmg.choose_knots(STEEP, FREE).message.splitlines()[-1])
    )


@pytest.mark.parametrize(
    "change", [{"seed": "a"}, {"seed": None}, {"callback": 3}, {"method": "VCycle"}, {"atol": "x"}]
)
def test_a_choice_refuses_what_solve_refuses(change):
    messages = []
    for function in (kanmg.solve, kanmg.choose_knots):
        with pytest.raises(kanmg.KanmgTypeError) as info:
            function(STEEP, FREE, **change)
        messages.append(str(info.value))
    assert messages[0] == messages[1]


def test_polynomials_on_moved_knots_are_carried_over_exactly():
    hierarchy = kanmg.uniform_hierarchy((2, 3, 1), degree=3, num_intervals=8, num_levels=1, free_knots=True)
    network, rng = hierarchy[0].network, np.random.default_rng(0)
    theta = np.zeros(network.num_coefficients)
    theta[-network.num_logits :] = rng.normal(size=network.num_logits)
    arrays, grid = [np.array(array) for array in network.unflatten(theta)], np.linspace(-1, 1, 200)
    for array, layer in zip(arrays, network.at(theta).layers, strict=True):
        for p, knots in enumerate(layer.knots):
            cubics = np.polynomial.polynomial.polyvander(grid, 3) @ rng.normal(size=(4, layer.num_outputs))
            array[p] = np.linalg.lstsq(kanmg.splines.bspline.basis_matrix(knots, grid), 0.2 * cubics, rcond=None)[0]
    theta = network.flatten(arrays, theta[-network.num_logits :])
    x = rng.uniform(-1, 1, (100, 2))
    free = kanmg.solve(kanmg.Regression(x, x[:, :1]), hierarchy, initial=theta, max_cycles=0, method=kanmg.VCycle())
    fixed = hierarchy.fixed()
    values = fixed[0].evaluator.value(_carried_over(free, fixed), x)
    np.testing.assert_allclose(values, hierarchy[0].evaluator.value(theta, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"hierarchy": "fixed"}, kanmg.KanmgValueError, "free_knots=True"),
        ({"hierarchy": None}, kanmg.KanmgTypeError, "uniform_hierarchy"),
        ({"problem": None}, kanmg.KanmgTypeError, "Regression"),
        ({"checkpoint": "file"}, kanmg.KanmgValueError, "makes several"),
    ],
)
def test_a_choice_between_nothing_is_refused(problem, hierarchy, change, error, message):
    arguments = {"problem": problem, "hierarchy": hierarchy} | change
    if arguments["hierarchy"] == "fixed":
        arguments["hierarchy"] = hierarchy.fixed()
    with pytest.raises(error, match=message):
        kanmg.choose_knots(arguments.pop("problem"), arguments.pop("hierarchy"), **arguments)
