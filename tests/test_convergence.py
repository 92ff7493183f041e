"""Studies of convergence: the numbers in the table, the reference, the levels as one nested iteration."""

from __future__ import annotations

import dataclasses
import json
import pickle

import matplotlib as mpl
import numpy as np
import pytest
import torch

import kanmg
from kanmg import gallery
from kanmg.errors import KanmgTypeError, KanmgValueError, NonFiniteError, ShapeError

mpl.use("agg")

LM = kanmg.LevenbergMarquardt
EXACT_SOLVE = kanmg.NestedIteration(LM(), steps=20)


def spline_problem(degree, num_levels=3, num_samples=800, **options):
    x = np.linspace(0.0, 1.0, num_samples).reshape(-1, 1)
    hierarchy = kanmg.uniform_hierarchy(
        (1, 1), degree=degree, num_intervals=4, num_levels=num_levels, domain=(0, 1), evaluator="reference", **options
    )
    return kanmg.Regression(x.astype(hierarchy.dtype), np.exp(x).astype(hierarchy.dtype)), hierarchy


def layer(nu=0.2):
    """nu u'' + u' = 1 between zeros, with an easier nu."""
    constant = kanmg.Constant("nu", nu, easier=1.0)
    points = np.linspace(-1.0, 1.0, 201).reshape(-1, 1)
    terms = [
        kanmg.Term("equation", lambda _, u: constant * u.d("x", "x") + u.d("x") - 1.0, points),
        kanmg.Term("boundary", lambda _, u: u.value, points[[0, -1]], weight=100.0),
    ]
    return kanmg.Collocation(coordinates=("x",), fields=("u",), terms=terms)


def layer_solution(nu=0.2):
    # u = x + a + b exp(-x / nu) with u(-1) = u(1) = 0.
    b = -2.0 / (np.exp(-1.0 / nu) - np.exp(1.0 / nu))
    a = -1.0 - b * np.exp(-1.0 / nu)
    return lambda x: x + a + b * np.exp(-x / nu)


def solution_events(solution):
    return {record.event for record in solution.history}


@pytest.fixture(scope="module")
def study():
    return kanmg.convergence_study(*spline_problem(3), exact=np.exp, method=EXACT_SOLVE)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_least_squares_by_splines_converges_with_the_order_of_the_degree_plus_one(degree):
    study = kanmg.convergence_study(*spline_problem(degree), exact=np.exp, method=EXACT_SOLVE)
    assert np.isnan(study.orders[0])
    np.testing.assert_allclose(study.orders[1:], degree + 1, atol=0.3)
    assert study.orders[-1] == pytest.approx(degree + 1, abs=0.1)


def test_errors_are_relative_and_orders_are_their_logarithms(study):
    points = np.random.default_rng(5).uniform(0, 1, (5000, 1))
    exact = np.exp(points)
    for solution, error in zip(study.solutions, study.errors, strict=True):
        expected = np.linalg.norm(solution(points) - exact) / np.linalg.norm(exact)
        assert error == pytest.approx(expected, rel=0.1)
    np.testing.assert_allclose(study.orders[1:], np.log2(study.errors[:-1] / study.errors[1:]), rtol=1e-12)


def test_columns_are_those_of_the_levels(study):
    assert study.levels.tolist() == [0, 1, 2]
    assert study.cells.tolist() == [4, 8, 16]
    assert study.coefficients.tolist() == [7, 11, 19]
    np.testing.assert_array_equal(study.losses, [solution.loss for solution in study.solutions])
    np.testing.assert_array_equal(study.seconds, [solution.seconds for solution in study.solutions])
    assert (study.seconds > 0).all()


def test_the_levels_together_are_the_nested_iteration():
    model = gallery.kan1(300)
    hierarchy = model.hierarchy(num_levels=3, evaluator="reference")
    method = kanmg.NestedIteration(steps=(30, 20, 10), starts=kanmg.Starts(2, steps=10))
    study = kanmg.convergence_study(model, hierarchy, method=method, seed=3)
    whole = kanmg.solve(model.problem, hierarchy, method=method, seed=3)
    np.testing.assert_allclose(study.solutions[-1].coefficients, whole.coefficients, rtol=1e-6, atol=1e-9)
    assert study.losses[-1] == pytest.approx(whole.loss, rel=1e-6)
    assert (np.diff(study.losses) < 0).all()
    assert study.errors[-1] == pytest.approx(model.relative_error(whole), rel=1e-6)


def test_without_an_exact_solution_errors_are_distances_to_the_next_level():
    problem, hierarchy = spline_problem(3, num_levels=4)
    points = np.random.default_rng(0).uniform(0, 1, (500, 1))
    study = kanmg.convergence_study(problem, hierarchy, test_points=points, method=EXACT_SOLVE)
    assert study.reference == "next"
    assert np.isnan(study.errors[-1])
    for level, (solution, finer) in enumerate(zip(study.solutions[:-1], study.solutions[1:], strict=True)):
        expected = np.linalg.norm(solution(points) - finer(points)) / np.linalg.norm(finer(points))
        assert study.errors[level] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(study.orders[1:-1], 4, atol=0.3)
    assert np.isnan(study.orders[-1])


def test_parameters_go_from_level_to_level():
    rate = kanmg.Parameter("rate", 1.0, positive=True)
    t = np.linspace(0, 1, 60).reshape(-1, 1)
    terms = [
        kanmg.Term("equation", lambda _, u: u.d("t") + rate * u.value, t),
        kanmg.Term("data", lambda x, u: u.value - torch.exp(-2 * x[:, 0]), t[::6]),
    ]
    problem = kanmg.Collocation(coordinates=("t",), fields=("u",), terms=terms)
    hierarchy = kanmg.uniform_hierarchy(
        (1, 1), degree=3, num_intervals=2, num_levels=3, domain=(0, 1), evaluator="reference"
    )
    # Without a step on the last level its parameter is the one of the level before.
    method = kanmg.NestedIteration(LM(), steps=(12, 12, 0))
    study = kanmg.convergence_study(problem, hierarchy, exact=lambda x: np.exp(-2 * x), method=method)
    found = [solution.parameters["rate"] for solution in study.solutions]
    assert found[1] == pytest.approx(2.0, abs=1e-3)
    assert found[2] == pytest.approx(found[1], rel=1e-12)
    assert study.errors[1] < study.errors[0]


def test_problems_of_the_gallery_bring_everything():
    model = gallery.least_squares(500)
    study = kanmg.convergence_study(model, method=EXACT_SOLVE)
    assert study.reference == "exact"
    assert study.cells.tolist() == [4, 8, 16, 32]
    assert study.errors[-1] == pytest.approx(model.relative_error(study.solutions[-1]), rel=1e-12)


def test_the_default_method_is_that_of_solve():
    study = kanmg.convergence_study(*spline_problem(2, num_levels=2), exact=np.exp)
    assert study.orders[1] == pytest.approx(3, abs=0.3)


def test_the_default_method_of_equations_sees_all_points_on_every_level():
    problem = layer()
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=4, num_intervals=3, num_levels=3, evaluator="reference")
    assert kanmg.default_method(problem, hierarchy).coarse_fraction[0] < 1.0
    exact = layer_solution()
    study = kanmg.convergence_study(problem, hierarchy, exact=exact)
    for level, solution in zip(hierarchy, study.solutions, strict=True):
        assert solution.loss == pytest.approx(problem.loss(level.evaluator, solution.coefficients), rel=1e-10)
    assert "pose" in solution_events(study.solutions[0])
    assert "pose" not in solution_events(study.solutions[1])
    assert study.errors[2] < 0.1 * study.errors[0]


def test_by_default_every_level_shows_its_own_error():
    random = np.random.default_rng(0)
    x = np.sort(random.uniform(0.0, 1.0, 60)).reshape(-1, 1)
    problem = kanmg.Regression(x, np.exp(x) + 0.1 * random.standard_normal(x.shape))
    hierarchy = kanmg.uniform_hierarchy(
        (1, 1), degree=3, num_intervals=2, num_levels=4, domain=(0, 1), evaluator="reference"
    )
    assert kanmg.default_method(problem, hierarchy).hold_back > 0.0
    study = kanmg.convergence_study(problem, hierarchy, exact=np.exp)
    for level, solution in zip(hierarchy, study.solutions, strict=True):
        assert solution.loss == pytest.approx(problem.loss(level.evaluator, solution.coefficients), rel=1e-10)
    assert (np.diff(study.losses) < 0.0).all()  # finer levels fit the noise
    assert study.errors[3] > study.errors[0]


@pytest.mark.parametrize(
    "method",
    [
        kanmg.NestedIteration([kanmg.Adam(4e-3, ramp=0), kanmg.Adam(2e-3, ramp=0), kanmg.Adam(1e-3, ramp=0)], steps=3),
        kanmg.NestedIteration(
            [LM(), kanmg.Adam(2e-3, ramp=0), kanmg.Adam(1e-3, ramp=0)],
            steps=3,
            coarse_smoother=kanmg.Adam(4e-3, ramp=0),
        ),
    ],
)
def test_every_level_has_its_own_smoother(method):
    problem, hierarchy = spline_problem(3)
    study = kanmg.convergence_study(problem, hierarchy, method=method, exact=np.exp)
    for level, solution in enumerate(study.solutions):
        history = solution.history
        steps = history.column("step_size")[history.column("event") == "smooth"]
        assert set(steps) == {4e-3 / 2**level}
    with pytest.raises(KanmgValueError, match="got 3 smoothers, but the hierarchy has 2 levels"):
        kanmg.convergence_study(problem, spline_problem(3, num_levels=2)[1], method=method)


def test_mini_batches_make_a_study():
    _, hierarchy = spline_problem(3, num_levels=2)
    x = np.linspace(0.0, 1.0, 800).reshape(-1, 1)
    batches = kanmg.Regression(x, np.exp(x), batch_size=400)
    study = kanmg.convergence_study(batches, hierarchy, exact=np.exp)
    assert study.errors[-1] < 1e-2


def test_fractions_of_one_may_be_a_tuple():
    whole = kanmg.convergence_study(*spline_problem(3), exact=np.exp, method=EXACT_SOLVE)
    method = dataclasses.replace(EXACT_SOLVE, coarse_fraction=(1.0, 1.0, 1.0))
    assert (
        kanmg.convergence_study(*spline_problem(3), exact=np.exp, method=method).errors.tolist()
        == whole.errors.tolist()
    )


def test_float32_stays_float32():
    problem, hierarchy = spline_problem(1, num_levels=3, dtype="float32")
    study = kanmg.convergence_study(problem, hierarchy, exact=np.exp)
    assert study.solutions[-1].coefficients.dtype == np.float32
    np.testing.assert_allclose(study.orders[1:], 2, atol=0.4)


def test_it_prints_an_aligned_table(study):
    lines = str(study).splitlines()
    assert lines[0].split() == ["level", "cells", "coefficients", "loss", "error", "order", "seconds"]
    assert len({len(line) for line in lines[:4]}) == 1
    first, last = lines[1].split(), lines[3].split()
    assert first[:3] == ["0", "4", "7"]
    assert first[5] == "-"
    assert float(last[4]) == pytest.approx(study.errors[-1], rel=1e-3)
    assert lines[-1] == "errors: relative L2, against the exact solution"
    assert repr(study) == "<ConvergenceStudy of 3 levels, errors against the exact solution>"


def test_a_study_cannot_be_changed(study):
    with pytest.raises(ValueError, match="read-only"):
        study.errors[0] = 0.0
    with pytest.raises(AttributeError):
        study.reference = "none"


def test_columns_can_be_written_as_json(study):
    text = json.dumps({name: column.tolist() for name, column in study.to_dict().items()})
    assert json.loads(text)["cells"] == [4, 8, 16]


def test_the_figure_shows_errors_over_cells_and_the_orders(study):
    ax = study.plot()
    line, slope = ax.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), study.cells)
    np.testing.assert_array_equal(line.get_ydata(), study.errors)
    assert ax.get_legend_handles_labels()[1] == ["relative error", "order 4"]
    np.testing.assert_allclose(slope.get_ydata()[1] / slope.get_ydata()[0], 1 / 16)
    assert [text.get_text() for text in ax.texts] == [f"{order:.1f}" for order in study.orders[1:]]
    mpl.pyplot.close(ax.figure)


def test_a_level_that_is_no_refinement_has_no_order():
    problem, hierarchy = spline_problem(2, num_levels=1)
    twice = kanmg.Hierarchy([hierarchy[0].network] * 2, evaluator="reference")
    study = kanmg.convergence_study(problem, twice, exact=np.exp, method=EXACT_SOLVE)
    assert np.isnan(study.orders).all()


def test_a_study_of_one_level_without_a_solution_cannot_be_drawn():
    study = kanmg.convergence_study(*spline_problem(2, num_levels=1), method=EXACT_SOLVE)
    assert np.isnan(study.errors).all()
    with pytest.raises(KanmgValueError, match="no level of this study has an error"):
        study.plot()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"problem": 3}, KanmgTypeError, "`problem` is a int"),
        ({"hierarchy": None}, KanmgTypeError, "`hierarchy` is None"),
        ({"exact": 3}, KanmgTypeError, "`exact` is 3"),
        ({"exact": lambda x: x[:3]}, ShapeError, r"`exact` returned values of shape \(3, 1\) at 10000 points"),
        ({"exact": np.zeros_like}, KanmgValueError, "vanishes"),
        ({"exact": lambda x: np.where(x > 0.5, np.nan, x)}, NonFiniteError, r"at \d+ of 10000 .* \(the first is row"),
        ({"method": kanmg.VCycle()}, KanmgTypeError, "by nested iteration"),
        ({"method": kanmg.NestedIteration(coarse_fraction=0.5)}, KanmgValueError, "`coarse_fraction=0.5`"),
        ({"method": kanmg.NestedIteration(steps=(1, 2))}, KanmgValueError, r"`steps=\(1, 2\)`"),
    ],
)
def test_what_makes_no_study_is_refused(options, error, message):
    problem, hierarchy = spline_problem(2)
    arguments = {"problem": problem, "hierarchy": hierarchy, "exact": np.exp, **options}
    with pytest.raises(error, match=message):
        kanmg.convergence_study(**arguments)


def test_problems_with_inputs_of_their_own_need_test_points():
    t = np.linspace(0, 1, 60).reshape(-1, 1)
    term = kanmg.Term("data", lambda x, u: u.value - torch.exp(x[:, 0]), t)
    problem = kanmg.Collocation(coordinates=("t",), fields=("u",), terms=[term], inputs=lambda x: 2 * x)
    hierarchy = kanmg.uniform_hierarchy(
        (1, 1), degree=3, num_intervals=2, num_levels=2, domain=(0, 2), evaluator="reference"
    )
    with pytest.raises(KanmgValueError, match="Pass `test_points=`"):
        kanmg.convergence_study(problem, hierarchy, exact=np.exp)
    study = kanmg.convergence_study(problem, hierarchy, exact=np.exp, test_points=t, method=EXACT_SOLVE)
    assert (study.errors < 1e-4).all()


def test_test_points_are_asked_for_where_the_domain_is_unknown():
    knots = kanmg.uniform_knots(2, degree=1)
    network = kanmg.Network([kanmg.Affine(1, 1), kanmg.Spline(1, 1, knots=knots)])
    hierarchy = kanmg.Hierarchy([network], evaluator="reference")
    x = np.linspace(0, 1, 20).reshape(-1, 1)
    with pytest.raises(KanmgValueError, match="Pass `test_points=`"):
        kanmg.convergence_study(kanmg.Regression(x, x), hierarchy)


def test_a_study_can_be_pickled(study):
    again = pickle.loads(pickle.dumps(study))  # noqa: S301 - our own bytes
    assert str(again) == str(study)
    x = np.linspace(0, 1, 11).reshape(-1, 1)
    np.testing.assert_array_equal(again.solutions[-1](x), study.solutions[-1](x))
