"""Levenberg-Marquardt without the normal equations: products, coarse spaces, preconditioners, steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kanmg
from kanmg.derived_objectives import GalerkinObjective
from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.problems.base import Problem
from kanmg.smoothers.coarse_spaces import coarsened, edge_groups, polynomial_space, prolongations
from kanmg.smoothers.conjugate_gradients import conjugate_gradients
from kanmg.smoothers.levenberg_marquardt import LevenbergMarquardt
from kanmg.smoothers.matrix_free import MatrixFreeEquations, next_forcing
from kanmg.smoothers.preconditioners import KINDS, Preconditioners

POINTS = np.random.default_rng(0).uniform(-1.0, 1.0, (60, 2))


def regression(outputs=1, *, weighted=False):
    values = np.stack([np.sin(3.0 * POINTS[:, 0] + q) * POINTS[:, 1] for q in range(outputs)], axis=1)
    weights = np.linspace(0.5, 2.0, len(POINTS)) if weighted else None
    return kanmg.Regression(POINTS, values, weights=weights)


def poisson(*, parameter=False):
    factor = kanmg.Parameter("a", 2.0) if parameter else 2.0

    def equation(x, u):
        return u.d("x", "x") + factor * u.d("y", "y") + x[:, 0]

    terms = [kanmg.Term("equation", equation, POINTS), kanmg.Term("values", lambda _, u: u.value, POINTS[:9])]
    return kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=terms)


PROBLEMS = {
    "regression": regression,
    "two outputs": lambda: regression(2, weighted=True),
    "equation": poisson,
    "parameter": lambda: poisson(parameter=True),
}


def objective_of(problem, *, widths=(2, 3, 1), evaluator="cpu", num_intervals=4, **options):
    hierarchy = kanmg.uniform_hierarchy(
        widths, degree=3, num_intervals=num_intervals, num_levels=1, evaluator=evaluator, **options
    )
    theta = kanmg.initial_coefficients(hierarchy[0].network, problem.training_inputs(), seed=0)
    return kanmg.Objective(problem, hierarchy[0]), np.append(theta, problem.initial_parameters)


def dense_jacobian(name):
    """J from the pull-backs of unit vectors through the reference evaluator."""
    problem = PROBLEMS[name]()
    widths = (2, 3, 2) if name == "two outputs" else (2, 3, 1)
    reference, theta = objective_of(problem, widths=widths, evaluator="reference")
    count = len(reference.residuals(theta))
    return np.stack([reference.pull_back(theta, unit) for unit in np.eye(count)]), widths, theta, problem


def system(evaluator="cpu"):
    """Operators, and the dense 2 J^T J and D, of an equation's state."""
    objective, theta = objective_of(poisson(), evaluator=evaluator)
    gradient, matrix = objective.normal_equations(theta)[1:]
    scale = np.maximum(np.diag(matrix), 1e-14 * np.diag(matrix).max())
    return objective, theta, Preconditioners(objective.linearised(theta), scale), matrix, scale, gradient


# ----------------------------------------------------------------------------------------------------------- products


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_products_are_those_of_the_dense_jacobian(name, keep, monkeypatch):
    expected, widths, theta, problem = dense_jacobian(name)
    if not keep:
        monkeypatch.setattr("kanmg.problems.linearisation.MAX_ENTRIES", 0)
        monkeypatch.setattr("kanmg.problems.regression.CHUNK_ENTRIES", 500)
        monkeypatch.setattr("kanmg.problems.bound_term.CHUNK_ENTRIES", 500)
    jacobian = objective_of(problem, widths=widths)[0].linearised(theta)
    assert jacobian.is_kept == keep
    rng = np.random.default_rng(1)
    vector, cotangents = rng.standard_normal(len(theta)), rng.standard_normal(len(expected))
    size, square = np.abs(expected).max(), expected.T @ expected
    assert jacobian.product(vector) == pytest.approx(expected @ vector, abs=1e-12 * size * len(theta), rel=0)
    assert jacobian.pull_back(cotangents) == pytest.approx(expected.T @ cotangents, abs=1e-12 * size * len(expected))
    most = 1e-12 * np.abs(square).max()
    assert jacobian.normal_product(vector) == pytest.approx(square @ vector, rel=0, abs=most * len(theta))
    assert jacobian.diagonal() == pytest.approx(np.diag(square), rel=0, abs=most)
    groups = [np.array([0, 5, 3]), np.arange(10, 17)]
    for group, block in zip(groups, jacobian.diagonal_blocks(groups), strict=True):
        assert block == pytest.approx(square[np.ix_(group, group)], rel=0, abs=most)


def test_affine_layers_and_policies_that_pad_give_the_same_rows():
    problem = regression()
    for options in ({"lift": "affine"}, {"outside": "zero"}, {"outside": "clamp"}):
        rows = []
        for evaluator in ("cpu", "reference"):
            objective, theta = objective_of(problem, evaluator=evaluator, **options)
            rows.append(next(iter(problem.jacobian_rows(objective.level.evaluator, theta))).toarray())
        assert rows[0] == pytest.approx(rows[1], rel=0, abs=1e-12)


def test_products_are_counted():
    objective, theta = objective_of(poisson())
    before = objective.work
    jacobian = objective.linearised(theta)
    assert objective.work - before == pytest.approx(objective.problem.work(objective.level.evaluator))
    made = objective.work
    jacobian.normal_product(theta)
    assert objective.work - made == 2 * 69 * objective.level.evaluator.entries_per_residual


# ------------------------------------------------------------------------------------------------------ coarse spaces


def test_merged_cells_are_nested():
    network = kanmg.Network([kanmg.Spline(2, 3, knots=kanmg.uniform_knots(12, degree=3))])
    steps = prolongations(network)
    assert [step.shape for step in steps] == [(90, 54), (54, 36)]
    coarse = coarsened(network)
    fine = np.random.default_rng(0).standard_normal(54)
    points = POINTS
    values = [
        kanmg.Hierarchy.from_network(own, num_levels=1, evaluator="reference")[0].evaluator.value(theta, points)
        for own, theta in ((coarse, fine), (network, steps[0] @ fine))
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-12)


@pytest.mark.parametrize("knots", [kanmg.uniform_knots(8, degree=3), kanmg.clamped_knots(5, degree=2)])
def test_polynomials_lie_in_the_spline_space(knots):
    network = kanmg.Network([kanmg.Spline(1, 1, knots=knots)])
    space = polynomial_space(network, 3)
    evaluator = kanmg.Hierarchy.from_network(network, num_levels=1, evaluator="reference")[0].evaluator
    x = np.linspace(-1, 1, 30)
    values = np.concatenate([evaluator.value(column, x[:, None]) for column in space.toarray().T], axis=1)
    assert values == pytest.approx(np.polynomial.legendre.legvander(x, 2), abs=1e-12)
    assert polynomial_space(network, 0) is None


def test_edges_are_a_partition():
    hierarchy = kanmg.uniform_hierarchy((2, 3, 1), degree=3, num_intervals=4, num_levels=1, lift="affine")
    network = hierarchy[0].network
    assert np.array_equal(np.sort(np.concatenate(edge_groups(network))), np.arange(network.num_coefficients))


def test_galerkin_operators_are_those_of_dense_matrices():
    operators, matrix, scale = system()[2:5]
    space = operators.space.toarray()
    expected = space.T @ matrix @ space
    assert operators.gram == pytest.approx(expected, rel=0, abs=1e-12 * np.abs(expected).max())
    for own in operators.spaces:
        dense = own.toarray()
        diagonal, weights = operators.galerkin_diagonal(own)
        square = np.diag(dense.T @ matrix @ dense)
        assert diagonal == pytest.approx(square, rel=0, abs=1e-12 * square.max())
        assert weights == pytest.approx(np.diag(dense.T @ np.diag(scale) @ dense), rel=1e-12)


# ----------------------------------------------------------------------------------------------------- preconditioners


@pytest.mark.parametrize("damping", [1e-2, 1e-6])
@pytest.mark.parametrize("kind", KINDS)
def test_preconditioners_are_symmetric_and_positive_definite(kind, damping):
    operators, matrix = system()[2:4]
    apply = operators.make(kind, damping)
    inverse = np.stack([apply(unit) for unit in np.eye(len(matrix))], axis=1)
    assert inverse == pytest.approx(inverse.T, rel=0, abs=1e-10 * np.abs(inverse).max())
    assert np.linalg.eigvalsh(0.5 * (inverse + inverse.T)).min() > 0.0


def test_the_v_cycle_needs_less_than_half_of_jacobis_iterations():
    _, _, operators, _, _, gradient = system()
    needed = {}
    for kind in KINDS:
        solved = conjugate_gradients(
            lambda vector: operators.multiply(vector, 1e-4),
            -gradient,
            operators.make(kind, 1e-4),
            rtol=1e-8,
            max_iterations=2000,
        )
        assert solved.converged
        needed[kind] = solved.iterations
    assert needed["vcycle"] < 0.5 * needed["jacobi"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_solution_is_that_of_cholesky(kind):
    objective, theta, _, matrix, scale, gradient = system()
    equations = MatrixFreeEquations(objective.linearised(theta), gradient, None, kind, 1e-12, 5000)
    line = equations.solve(equations.downhill, 1e-2)
    expected = np.linalg.solve(matrix + 1e-2 * np.diag(scale), -gradient)
    assert line.numpy() == pytest.approx(expected, rel=0, abs=1e-8 * np.abs(expected).max())
    model = -gradient @ expected - 0.5 * expected @ matrix @ expected
    assert equations.predicted_decrease(line, 1e-2) == pytest.approx(model, rel=1e-8)
    assert not equations.is_cut_off


def test_the_predicted_decrease_of_an_unfinished_solution_is_the_models():
    objective, theta, _, matrix, _, gradient = system()
    equations = MatrixFreeEquations(objective.linearised(theta), gradient, None, "jacobi", 1e-12, 7)
    line = equations.solve(equations.downhill, 1e-3)
    assert equations.is_cut_off
    assert equations.iterations == 7
    own = line.numpy()
    assert equations.predicted_decrease(line, 1e-3) == pytest.approx(
        -gradient @ own - 0.5 * own @ matrix @ own, rel=1e-9
    )


def test_conjugate_gradients_stop_at_an_indefinite_matrix():
    matrix = np.diag([1.0, -1.0])
    solved = conjugate_gradients(matrix.dot, np.ones(2), lambda r: r, rtol=1e-8, max_iterations=10)
    assert solved.iterations == 0
    assert not solved.converged
    assert solved.solution.tolist() == [0.0, 0.0]


def test_forcing_is_bounded_and_falls_no_faster_than_squared():
    assert next_forcing(0.1, 1.0, 1.0) == 0.1
    assert next_forcing(0.1, 1.0, 1e-6) == pytest.approx(0.009)
    assert next_forcing(1e-3, 1.0, 1e-6) == 1e-3


# ---------------------------------------------------------------------------------------------------------------- steps


def test_equal_steps_give_equal_bits():
    smoother = LevenbergMarquardt(linear_solver="cg", acceleration=False)
    ends = []
    for _ in range(2):
        objective, theta = objective_of(poisson(parameter=True))
        state = smoother.init(objective, theta)
        for _ in range(3):
            theta, state, _ = smoother.step(objective, theta, state)
        ends.append(theta)
    assert np.array_equal(*ends)


def test_auto_takes_conjugate_gradients_beyond_the_limit():
    smoother = LevenbergMarquardt(max_coefficients=100)
    assert not smoother.uses_cg(100)
    assert smoother.uses_cg(101)
    assert LevenbergMarquardt(linear_solver="cg").uses_cg(5)
    assert not LevenbergMarquardt(linear_solver="cholesky").uses_cg(10_000)


@pytest.mark.parametrize("name", ["linear_solver", "preconditioner"])
def test_unknown_choices_are_refused(name):
    with pytest.raises(KanmgValueError, match=f"`LevenbergMarquardt` got `{name}='lu'`. Pass one of '"):
        LevenbergMarquardt(**{name: "lu"})


def test_problems_without_rows_are_refused_before_a_run(monkeypatch):
    problem = regression()
    monkeypatch.setattr(kanmg.Regression, "jacobian_rows", Problem.jacobian_rows)
    hierarchy = kanmg.uniform_hierarchy((2, 1), degree=3, num_intervals=4, num_levels=1)
    with pytest.raises(KanmgTypeError, match=r"or implement `jacobian_rows`\."):
        LevenbergMarquardt(linear_solver="cg").check(problem, hierarchy[0])
    with pytest.raises(KanmgTypeError, match="without forming"):
        objective_of(problem)[0].linearised(np.zeros(objective_of(problem)[1].size))


def test_an_equation_with_more_than_6000_coefficients_ends_below_lbfgs_with_as_much_work():
    def equation(x, u):
        return (u.d("x", "x") + u.d("y", "y")) / 20 + torch.sin(torch.pi * x).prod(dim=1)

    line = np.linspace(-1.0, 1.0, 12)
    ends = np.concatenate([np.stack(pair, axis=1) for side in (-1, 1) for pair in _edges(line, np.full(12, side))])
    interior = np.random.default_rng(0).uniform(-1.0, 1.0, (300, 2))
    terms = [kanmg.Term("equation", equation, interior), kanmg.Term("boundary", lambda _, u: u.value, ends)]
    problem = kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=terms)
    objective, theta = objective_of(problem, widths=(2, 32, 1), num_intervals=64)
    other, there = objective_of(problem, widths=(2, 32, 1), num_intervals=64)
    assert len(theta) == 6432
    smoother, lbfgs = LevenbergMarquardt(acceleration=False), kanmg.LBFGS()
    state, own = smoother.init(objective, theta), lbfgs.init(other, there)
    for _ in range(8):
        theta, state, record = smoother.step(objective, theta, state)
    while other.work < objective.work:
        there, own, last = lbfgs.step(other, there, own)
    assert record.loss < 0.75 * last.loss


def _edges(line, side):
    return [(line, side), (side, line)]


def test_corrections_of_large_levels_are_refused(monkeypatch):
    hierarchy = kanmg.uniform_hierarchy((2, 3, 1), degree=3, num_intervals=4, num_levels=2)
    objective = kanmg.Objective(regression(), hierarchy[1])
    size, transfer = hierarchy[1].network.num_coefficients, hierarchy.transfers[0]
    correction = GalerkinObjective(objective, np.zeros(size), transfer.prolong, transfer.restrict)
    zero = np.zeros(hierarchy[0].network.num_coefficients)
    with pytest.raises(KanmgValueError, match="cannot smooth the correction of a finer level"):
        correction.linearised(zero)
    monkeypatch.setattr("kanmg.derived_objectives.MAX_FINE_COEFFICIENTS", size - 1)
    with pytest.raises(KanmgValueError, match=f"the correction of a level with {size} coefficients would take"):
        correction.normal_equations(zero)
