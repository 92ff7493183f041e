"""Smoothers in other bases and metrics: the steps of the formulas, the same bits, cycles, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import scipy.linalg
import torch

import kanmg
from kanmg.coordinates import relu_coordinates
from kanmg.errors import KanmgTypeError, KanmgValueError, ShapeError
from kanmg.smoothers.geometry import GeometryState
from kanmg.splines import gram_matrix, power_relu_matrix

ADAM = kanmg.Adam(step_size=1e-5)
SGD = kanmg.TorchOptimizer(torch.optim.SGD, lr=1e-3)
CONSISTENT = [("spline", "spline"), ("relu", "relu")]
COMBINATIONS = [*CONSISTENT, ("relu", "spline"), ("spline", "relu")]


def level_of(dtype="float64", evaluator="reference"):
    """[2, 3, 2, 1]: an affine layer, and splines with two kinds of knots."""
    rng = np.random.default_rng(0)
    uniform = kanmg.uniform_knots(5, degree=3)
    random = kanmg.knots_from_breakpoints(np.sort([-1.0, *rng.uniform(-0.8, 0.8, 4), 1.0]), degree=3)
    layers = [
        kanmg.Affine(2, 3),
        kanmg.Spline(3, 2, knots=[uniform, random, uniform]),
        kanmg.Spline(2, 1, knots=uniform),
    ]
    network = kanmg.Network(layers, domain=(-1, 1))
    return kanmg.Hierarchy([network, network.refine()], dtype=dtype, evaluator=evaluator)


def regression(seed=0, number=120, **options):
    x = np.random.default_rng(seed).uniform(-1, 1, (number, 2))
    return kanmg.Regression(x, np.sin(3 * x[:, :1]) * np.exp(x[:, 1:]), **options)


def start(hierarchy, problem, level=0):
    theta = kanmg.initial_coefficients(hierarchy[level].network, problem.training_inputs(), seed=1)
    return theta.astype(hierarchy.dtype)


def dense_factor(network, make):
    """C as a dense matrix on the flat vector: written by hand, not by the room under test."""
    blocks = []
    for layer in network.layers:
        if isinstance(layer, kanmg.Affine):
            blocks.append(np.eye(layer.num_coefficients))
        else:
            blocks += [np.kron(make(knots), np.eye(layer.num_outputs)) for knots in layer.knots]
    return scipy.linalg.block_diag(*blocks)


def relu_factor(network):
    return dense_factor(network, lambda knots: power_relu_matrix(knots, scaled=True).toarray())


def run(smoother, objective, theta, steps):
    state, records = smoother.init(objective, theta), []
    for _ in range(steps):
        theta, state, record = smoother.step(objective, theta, state)
        records.append(record)
    return theta, state, records


# ------------------------------------------------------------------------------------------------------------ one step


@pytest.mark.parametrize(("iterate", "gradient"), COMBINATIONS)
def test_gradient_descent_is_the_step_of_the_formula(iterate, gradient):
    hierarchy, problem = level_of(), regression()
    objective, theta = kanmg.Objective(problem, hierarchy[0]), start(hierarchy, problem)
    A, g = relu_factor(hierarchy[0].network), objective.value_and_gradient(theta)[1]
    direction = np.linalg.solve(A, g) if gradient == "relu" else g
    expected = np.linalg.solve(A.T, direction) if iterate == "relu" else direction
    moved, _, record = run(kanmg.ChangeOfBasis(SGD, iterate, gradient), objective, theta, 1)
    step = theta - moved
    assert np.abs(step - 1e-3 * expected).max() < 1e-11 * np.abs(expected).max()
    assert record[0].gradient_norm == pytest.approx(np.linalg.norm(direction), rel=1e-11)


@pytest.mark.parametrize(("iterate", "gradient"), COMBINATIONS)
def test_adam_follows_a_loop_written_by_hand(iterate, gradient):
    hierarchy, problem = level_of(), regression()
    objective, theta = kanmg.Objective(problem, hierarchy[0]), start(hierarchy, problem)
    A = relu_factor(hierarchy[0].network)
    v = A.T @ theta if iterate == "relu" else theta
    mean = variance = np.zeros_like(v)
    for t in range(1, 9):
        u = np.linalg.solve(A.T, v) if iterate == "relu" else v
        g = objective.value_and_gradient(u)[1]
        g = np.linalg.solve(A, g) if gradient == "relu" else g
        mean, variance = 0.9 * mean + 0.1 * g, 0.999 * variance + 0.001 * g**2
        v = v - 1e-3 * (mean / (1 - 0.9**t)) / (np.sqrt(variance / (1 - 0.999**t)) + 1e-8)
    expected = np.linalg.solve(A.T, v) if iterate == "relu" else v
    smoother = kanmg.ChangeOfBasis(kanmg.Adam(step_size=1e-3, ramp=0), iterate, gradient)
    moved = run(smoother, objective, theta, 8)[0]
    assert np.abs(moved - expected).max() < 1e-9 * np.abs(expected - theta).max()


def test_descent_in_the_gram_metric_is_the_natural_step():
    hierarchy, problem = level_of(), regression()
    objective, theta = kanmg.Objective(problem, hierarchy[0]), start(hierarchy, problem)
    M = dense_factor(hierarchy[0].network, lambda knots: gram_matrix(knots).toarray())
    expected = np.linalg.solve(M, objective.value_and_gradient(theta)[1])
    moved = run(kanmg.Metric(SGD), objective, theta, 1)[0]
    assert np.abs(theta - moved - 1e-3 * expected).max() < 1e-11 * np.abs(expected).max()


@pytest.mark.parametrize("as_function", [False, True])
def test_descent_in_a_given_metric(as_function):
    hierarchy, problem = level_of(), regression()
    network = hierarchy[0].network
    objective, theta = kanmg.Objective(problem, hierarchy[0]), start(hierarchy, problem)
    rng = np.random.default_rng(3)
    blocks = [block @ block.T + np.eye(8) for block in rng.standard_normal((4, 8, 8))]
    metric = [None, np.stack(blocks[:3]), blocks[3]]
    M = scipy.linalg.block_diag(
        np.eye(9), *[np.kron(block, np.eye(2)) for block in blocks[:3]], np.kron(np.eye(2), blocks[3])
    )
    smoother = kanmg.Metric(SGD, metric=(lambda found: metric * (found == network)) if as_function else metric)
    expected = np.linalg.solve(M, objective.value_and_gradient(theta)[1])
    moved = run(smoother, objective, theta, 1)[0]
    assert np.abs(theta - moved - 1e-3 * expected).max() < 1e-11 * np.abs(expected).max()


def test_metric_of_the_relu_basis_is_its_change_of_basis():
    hierarchy, problem = level_of(), regression()
    objective, theta = kanmg.Objective(problem, hierarchy[0]), start(hierarchy, problem)

    def metric(network):
        matrices = {
            knots: power_relu_matrix(knots, scaled=True) for layer in network.layers[1:] for knots in layer.knots
        }
        dense = {knots: (A @ A.T).toarray() for knots, A in matrices.items()}
        return [None, *(np.stack([dense[knots] for knots in layer.knots]) for layer in network.layers[1:])]

    slow = kanmg.TorchOptimizer(torch.optim.SGD, lr=1e-9)  # (A A^T)^-1 is large
    first = run(kanmg.Metric(slow, metric=metric), objective, theta, 5)[0]
    second = run(kanmg.ChangeOfBasis(slow), objective, theta, 5)[0]
    condition = np.linalg.cond(relu_factor(hierarchy[0].network)) ** 2
    assert np.abs(first - second).max() < 1e-16 * condition * np.abs(second - theta).max()


def test_geometries_are_nested_from_the_outside_inwards():
    hierarchy, problem = level_of(), regression()
    objective, theta = kanmg.Objective(problem, hierarchy[0]), start(hierarchy, problem)
    network = hierarchy[0].network
    L = dense_factor(network, lambda knots: np.linalg.cholesky(gram_matrix(knots).toarray()))
    C = L @ relu_factor(network)
    slow = kanmg.TorchOptimizer(torch.optim.SGD, lr=1e-9)
    expected = np.linalg.solve(C.T, np.linalg.solve(C, objective.value_and_gradient(theta)[1]))
    moved = run(kanmg.Metric(kanmg.ChangeOfBasis(slow)), objective, theta, 1)[0]
    assert np.abs(theta - moved - 1e-9 * expected).max() < 1e-10 * 1e-9 * np.abs(expected).max()


# ------------------------------------------------------------------------------------------------- the same as without


SMOOTHERS = [
    ADAM,
    kanmg.LBFGS(),
    kanmg.BFGS(),
    kanmg.LevenbergMarquardt(),
    kanmg.TorchOptimizer(torch.optim.AdamW, lr=1e-5),
]


@pytest.mark.parametrize("smoother", SMOOTHERS, ids=lambda smoother: type(smoother).__name__)
def test_spline_in_spline_is_the_smoother_itself(smoother):
    hierarchy, problem = level_of(), regression()
    theta = start(hierarchy, problem)
    plain = run(smoother, kanmg.Objective(problem, hierarchy[0]), theta, 6)
    objective = kanmg.Objective(problem, hierarchy[0])
    wrapped = run(kanmg.ChangeOfBasis(smoother, "spline", "spline"), objective, theta, 6)
    assert np.array_equal(plain[0], wrapped[0])
    assert plain[2] == wrapped[2]


@dataclass(frozen=True)
class GaussNewton(kanmg.Smoother):
    """Exact steps without any damping."""

    def init(self, _objective, _theta):
        return None

    def step(self, objective, theta, _state):
        loss, gradient, matrix = objective.normal_equations(theta)
        return theta - np.linalg.solve(matrix, gradient), None, kanmg.StepRecord(loss, 0.0, 1.0)


@pytest.mark.parametrize("wrap", [kanmg.ChangeOfBasis, kanmg.Metric])
def test_exact_steps_know_no_coordinates(wrap):
    x = np.random.default_rng(0).uniform(-1, 1, (200, 1))
    problem = kanmg.Regression(x, np.exp(x))
    knots = kanmg.knots_from_breakpoints([-1.0, -0.7, -0.1, 0.2, 0.8, 1.0], degree=3)
    hierarchy = kanmg.Hierarchy([kanmg.Network([kanmg.Spline(1, 1, knots=knots)])], evaluator="reference")
    objective, theta = kanmg.Objective(problem, hierarchy[0]), np.linspace(-1.0, 1.0, 8)
    plain, wrapped = run(GaussNewton(), objective, theta, 1)[0], run(wrap(GaussNewton()), objective, theta, 1)[0]
    matrix = objective.normal_equations(theta)[2]
    condition = np.linalg.cond(relu_coordinates(hierarchy[0].network).from_matrix(matrix))
    assert np.abs(plain - theta).max() > 0.1
    assert np.abs(wrapped - plain).max() < 1e-16 * condition


def test_levenberg_marquardt_with_little_damping_is_close():
    x = np.random.default_rng(0).uniform(-1, 1, (200, 1))
    problem = kanmg.Regression(x, np.exp(x))
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=6, num_levels=1, evaluator="reference")
    objective, theta = kanmg.Objective(problem, hierarchy[0]), np.linspace(-1.0, 1.0, 9)
    smoother = kanmg.LevenbergMarquardt(damping=1e-14, acceleration=False)
    plain = run(smoother, objective, theta, 1)[0]
    wrapped = run(kanmg.ChangeOfBasis(smoother), objective, theta, 1)[0]
    # The damping is relative to the diagonal in the other coordinates: 1e-14 times the condition there.
    matrix = relu_coordinates(hierarchy[0].network).from_matrix(objective.normal_equations(theta)[2])
    root = np.sqrt(np.diag(matrix))
    assert np.abs(wrapped - plain).max() < 1e-14 * np.linalg.cond(matrix / np.outer(root, root))


@pytest.mark.parametrize("wrap", [kanmg.ChangeOfBasis, kanmg.Metric])
@pytest.mark.parametrize("smoother", SMOOTHERS[1:4], ids=lambda smoother: type(smoother).__name__)
def test_what_is_known_belongs_to_the_coefficients(wrap, smoother):
    hierarchy, problem = level_of(), regression()
    objective, theta = kanmg.Objective(problem, hierarchy[0]), start(hierarchy, problem)
    wrapped = wrap(smoother)
    state = wrapped.init(objective, theta)
    for _ in range(5):
        loss, gradient = wrapped.known(state)
        expected = objective.value_and_gradient(theta)
        assert loss == expected[0]
        assert np.array_equal(gradient, expected[1])
        theta, state, _ = wrapped.step(objective, theta, state)


def test_adam_knows_nothing():
    hierarchy, problem = level_of(), regression()
    objective = kanmg.Objective(problem, hierarchy[0])
    wrapped = kanmg.ChangeOfBasis(kanmg.Adam())
    assert wrapped.known(wrapped.init(objective, start(hierarchy, problem))) is None


def test_rounding_of_the_conversions_does_not_accumulate():
    # cond A is 7e8 here. The weights that are kept stay those of the coefficients that are returned.
    x = np.random.default_rng(0).uniform(-1, 1, (300, 1))
    problem = kanmg.Regression(x, np.sin(9 * x))
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=5, num_intervals=32, num_levels=1, evaluator="reference")
    objective = kanmg.Objective(problem, hierarchy[0])
    theta = start(hierarchy, problem)
    moved, state, _ = run(kanmg.ChangeOfBasis(kanmg.Adam(step_size=1e-5)), objective, theta, 300)
    weights = relu_coordinates(hierarchy[0].network).from_coefficients(moved)
    assert np.abs(moved - theta).max() > 0.5
    assert np.abs(weights - state.iterate).max() < 1e-12 * np.abs(moved).max()


def test_float32_stays_float32():
    hierarchy, problem = level_of("float32"), regression()
    problem = kanmg.Regression(problem.training_inputs().astype("float32"), np.ones((120, 1), "float32"))
    objective, theta = kanmg.Objective(problem, hierarchy[0]), start(hierarchy, problem)
    moved, state, _ = run(kanmg.ChangeOfBasis(kanmg.Adam()), objective, theta, 3)
    assert moved.dtype == state.iterate.dtype == np.float32


# ------------------------------------------------------------------------------------------------------ cycles and runs


CYCLES = [
    lambda smoother, steps: kanmg.NestedIteration(smoother, steps=steps),
    lambda smoother, steps: kanmg.VCycle(smoother, pre_steps=steps, coarse_steps=steps),
    lambda smoother, steps: kanmg.VCycle(smoother, pre_steps=steps, coarse_steps=steps, variant="tau"),
    lambda smoother, steps: kanmg.FullMultigrid(smoother, pre_steps=steps, coarse_steps=steps),
]


@pytest.mark.parametrize("cycle", CYCLES, ids=["nested", "galerkin", "tau", "full"])
@pytest.mark.parametrize("wrap", [kanmg.ChangeOfBasis, kanmg.Metric])
@pytest.mark.parametrize("smoother", SMOOTHERS[1:4:2], ids=lambda smoother: type(smoother).__name__)
def test_every_cycle_lowers_the_loss(cycle, wrap, smoother):
    hierarchy, problem = level_of(evaluator="cpu"), regression()
    method = cycle(wrap(smoother), 4)
    initial = start(hierarchy, problem, 1 if "VCycle" in repr(method) else 0)
    options = {"method": method, "progress": False, "initial": initial, "max_cycles": 2}
    solution = kanmg.solve(problem, hierarchy, throw=False, **options)
    losses = solution.history.column("loss")
    assert solution.loss < (0.3 if wrap is kanmg.Metric else 0.75) * losses[0]


@pytest.mark.parametrize("cycle", CYCLES, ids=["nested", "galerkin", "tau", "full"])
def test_runs_of_the_identity_are_the_same_bits(cycle):
    hierarchy, problem = level_of(), regression()
    solutions = [
        kanmg.solve(problem, hierarchy, method=cycle(smoother, 3), progress=False, max_cycles=2)
        for smoother in (kanmg.LBFGS(), kanmg.ChangeOfBasis(kanmg.LBFGS(), "spline", "spline"))
    ]
    assert np.array_equal(solutions[0].coefficients, solutions[1].coefficients)
    assert solutions[0].work_units == solutions[1].work_units


def test_wrapping_evaluates_nothing_more():
    hierarchy, problem = level_of(), regression()
    works = [
        kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(smoother, steps=5), progress=False).work_units
        for smoother in (ADAM, kanmg.ChangeOfBasis(ADAM), kanmg.Metric(ADAM))
    ]
    assert works[0] == works[1] == works[2]


@pytest.mark.parametrize("wrap", [kanmg.ChangeOfBasis, kanmg.Metric])
@pytest.mark.parametrize("smoother", SMOOTHERS, ids=lambda smoother: type(smoother).__name__)
def test_an_interrupted_run_ends_with_the_same_bits(wrap, smoother, tmp_path):
    hierarchy, problem = level_of(evaluator="cpu"), regression()
    options = {
        "method": kanmg.FullMultigrid(wrap(smoother), pre_steps=2, coarse_steps=4),
        "progress": False,
        "max_cycles": 1,
    }
    whole = kanmg.solve(problem, hierarchy, **options)

    seen = []

    def stop(record):
        seen.append(record)
        if len(seen) == 9:
            raise StopIteration

    path = tmp_path / "checkpoint"
    kanmg.solve(problem, hierarchy, checkpoint=path, callback=stop, **options)
    resumed = kanmg.solve(problem, hierarchy, checkpoint=path, **options)
    assert np.array_equal(resumed.coefficients, whole.coefficients)


@dataclass(frozen=True, slots=True)
class Slotted(kanmg.Smoother):
    """Steepest descent without a `__dict__`, as users may write it."""

    step_size: float = 1e-6

    @property
    def needs_derivatives(self):
        return False

    def init(self, _objective, _theta):
        return None

    def step(self, objective, theta, _state):
        loss, gradient = objective.value_and_gradient(theta)
        return theta - self.step_size * gradient, None, kanmg.StepRecord(loss, 0.0, self.step_size)


def test_smoothers_of_users_are_wrapped_and_written_to_checkpoints(tmp_path):
    hierarchy, problem = level_of(evaluator="cpu"), regression()
    smoother = kanmg.Metric(kanmg.ChangeOfBasis(Slotted(), "spline", "spline"))
    options = {"method": kanmg.NestedIteration(smoother, steps=3), "progress": False}
    first = kanmg.solve(problem, hierarchy, checkpoint=tmp_path / "run", **options)
    again = kanmg.solve(problem, hierarchy, checkpoint=tmp_path / "run", **options)
    assert first.loss < first.history.column("loss")[0]
    assert np.array_equal(first.coefficients, again.coefficients)
    plain = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(Slotted(), steps=3), checkpoint=tmp_path / "x")
    assert plain.loss < plain.history.column("loss")[0]


def test_parameters_of_a_problem_keep_their_coordinates():
    nu = kanmg.Parameter("nu", 0.5)
    x = np.linspace(-1, 1, 40).reshape(-1, 1)

    def residual(x, u):
        return nu * u.d("x") - torch.cos(x[:, 0])

    terms = [kanmg.Term("equation", residual, x), kanmg.Term("data", lambda x, u: u.value - 2 * torch.sin(x[:, 0]), x)]
    problem = kanmg.Collocation(coordinates=("x",), fields=("u",), terms=terms)
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=4, num_levels=2, evaluator="reference")
    method = kanmg.NestedIteration(kanmg.ChangeOfBasis(kanmg.LevenbergMarquardt()), steps=20)
    solution = kanmg.solve(problem, hierarchy, method=method, progress=False)
    assert solution.parameters["nu"] == pytest.approx(0.5, abs=1e-3)
    assert solution.loss < 1e-6


def test_mini_batches_are_seen():
    hierarchy = level_of()
    method = kanmg.NestedIteration(kanmg.ChangeOfBasis(ADAM), steps=30)
    solution = kanmg.solve(regression(batch_size=30), hierarchy, method=method, progress=False)
    assert solution.loss < solution.history.column("loss")[0]


# -------------------------------------------------------------------------------------------------------------- values


def test_smoothers_are_values():
    assert kanmg.ChangeOfBasis(kanmg.Adam()) == kanmg.ChangeOfBasis(kanmg.Adam())
    assert kanmg.ChangeOfBasis(kanmg.Adam()) != kanmg.ChangeOfBasis(kanmg.Adam(), "spline", "relu")
    first, second = kanmg.Metric(SGD, metric=[None, np.eye(3)]), kanmg.Metric(SGD, metric=(None, np.eye(3)))
    assert first == second
    assert hash(first) == hash(second)
    assert first != kanmg.Metric(SGD, metric=[None, 2 * np.eye(3)])
    assert first != kanmg.Metric(SGD)
    assert kanmg.Metric(SGD) == kanmg.Metric(SGD)
    assert kanmg.Metric(SGD) != SGD


def test_a_metric_is_not_changed_from_outside():
    matrix = np.eye(3)
    smoother = kanmg.Metric(SGD, metric=[matrix])
    matrix[0, 0] = 7.0
    assert smoother.metric[0][0, 0] == 1.0


# -------------------------------------------------------------------------------------------------------------- errors


def solve(smoother, hierarchy=None):
    return kanmg.solve(regression(), hierarchy or level_of(), method=kanmg.NestedIteration(smoother), progress=False)


@pytest.mark.parametrize("smoother", [*SMOOTHERS[1:4], kanmg.TorchOptimizer(torch.optim.LBFGS)])
@pytest.mark.parametrize(("iterate", "gradient"), COMBINATIONS[2:])
def test_gradients_that_are_no_derivatives_are_refused(smoother, iterate, gradient):
    wrapped = kanmg.ChangeOfBasis(smoother, iterate, gradient)
    with pytest.raises(KanmgValueError, match="is not the derivative with respect to the iterate"):
        solve(wrapped)
    hierarchy, problem = level_of(), regression()
    with pytest.raises(KanmgValueError, match="needs_derivatives"):
        wrapped.init(kanmg.Objective(problem, hierarchy[0]), start(hierarchy, problem))


@pytest.mark.parametrize("wrap", [kanmg.ChangeOfBasis, kanmg.Metric])
def test_conjugate_gradients_are_refused(wrap):
    with pytest.raises(KanmgValueError, match="conjugate gradients"):
        solve(wrap(kanmg.LevenbergMarquardt(linear_solver="cg")))


def test_unknown_bases_are_refused():
    with pytest.raises(KanmgValueError, match="`iterate='ReLU'`"):
        kanmg.ChangeOfBasis(kanmg.Adam(), "ReLU")
    with pytest.raises(KanmgValueError, match="`gradient=None`"):
        kanmg.ChangeOfBasis(kanmg.Adam(), gradient=None)


@pytest.mark.parametrize("wrap", [kanmg.ChangeOfBasis, kanmg.Metric])
def test_what_is_no_smoother_is_refused(wrap):
    with pytest.raises(KanmgTypeError, match=r"Write `Adam\(...\)`"):
        wrap(kanmg.Adam)


def test_what_is_no_metric_is_refused():
    with pytest.raises(KanmgTypeError, match="Pass 'gram'"):
        kanmg.Metric(SGD, metric="l2")
    with pytest.raises(ShapeError, match="2 entries, but the network has 3 layers"):
        solve(kanmg.Metric(SGD, metric=[None, None]))
    with pytest.raises(KanmgValueError, match="layer 0, which is affine"):
        solve(kanmg.Metric(SGD, metric=[np.eye(3), None, None]))
    with pytest.raises(ShapeError, match=r"layer 1 has shape \(3, 3\), but \(8, 8\) or \(3, 8, 8\)"):
        solve(kanmg.Metric(SGD, metric=[None, np.eye(3), None]))
    with pytest.raises(KanmgValueError, match="reach from -1 to -1"):
        solve(kanmg.Metric(SGD, metric=lambda _: [None, -np.eye(8), None]))
    with pytest.raises(KanmgValueError, match="not symmetric"):
        solve(kanmg.Metric(SGD, metric=lambda _: [None, np.triu(np.ones((8, 8))), None]))


def test_the_gram_matrix_of_high_degree_is_singular():
    hierarchy = kanmg.uniform_hierarchy((2, 1), degree=9, num_intervals=2, num_levels=1, evaluator="reference")
    with pytest.raises(KanmgValueError, match=r"the Gram matrix of Knots.* is not positive definite"):
        solve(kanmg.Metric(SGD), hierarchy)


def test_a_correction_without_network_is_refused():
    hierarchy, problem = level_of(), regression()
    fine, transfer = kanmg.Objective(problem, hierarchy[1]), hierarchy.transfers[0]
    correction = kanmg.GalerkinObjective(fine, start(hierarchy, problem, 1), transfer.prolong, transfer.restrict)
    with pytest.raises(KanmgValueError, match="Pass `network="):
        kanmg.ChangeOfBasis(kanmg.Adam()).init(correction, np.zeros(hierarchy[0].network.num_coefficients))


def test_a_state_holds_the_inner_one():
    hierarchy, problem = level_of(), regression()
    objective = kanmg.Objective(problem, hierarchy[0])
    state = kanmg.ChangeOfBasis(kanmg.Adam()).init(objective, start(hierarchy, problem))
    assert isinstance(state, GeometryState)
    assert state.inner.count == 0


@pytest.mark.parametrize("metric", [["a", None], [[1, [2, 3]], None], [1j * np.eye(6), None]])
def test_a_metric_of_other_things_than_numbers_is_refused(metric):
    with pytest.raises(KanmgTypeError, match=r"for a layer. Pass None, or real numbers: a matrix"):
        kanmg.Metric(kanmg.Adam(), metric=metric)


def test_a_metric_function_that_returns_nothing_is_refused():
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=4, num_levels=1, evaluator="reference")
    x = np.linspace(-1, 1, 20)[:, None]
    method = kanmg.NestedIteration(kanmg.Metric(kanmg.Adam(), metric=lambda _: None), steps=1)
    with pytest.raises(KanmgTypeError, match=r"the metric is a NoneType. Return a list with one entry per layer"):
        kanmg.solve(kanmg.Regression(x, x), hierarchy, method=method)
