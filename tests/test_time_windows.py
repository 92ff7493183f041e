"""Marching: values, the hand-over from window to window, the piecewise function, refusals."""

from __future__ import annotations

import math
import pickle
import signal
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

import kanmg
from kanmg import time_windows
from kanmg.errors import CheckpointError, ConvergenceError, KanmgTypeError, KanmgValueError, ShapeError

LM = kanmg.LevenbergMarquardt
METHOD = kanmg.NestedIteration(LM(), steps=15)
RATE, END = 1.0, 4.0


def decay(rate=RATE, **options):
    t = np.linspace(0, END, 161).reshape(-1, 1)
    return kanmg.Collocation(
        coordinates=("t",),
        fields=("u",),
        terms=[
            kanmg.Term("equation", lambda _, u: u.d("t") + rate * u.value, t),
            kanmg.Term("initial", lambda _, u: u.value - 1.0, t[:1], weight=5.0),
        ],
        **options,
    )


def line(degree=5, num_intervals=2, num_levels=2, **options):
    options = {"domain": (0, END), **options}
    return kanmg.uniform_hierarchy((1, 1), degree=degree, num_intervals=num_intervals, num_levels=num_levels, **options)


@pytest.fixture(scope="module")
def solution():
    return kanmg.march(decay(), line(), windows=4, method=METHOD)


def heat(diffusion=0.1, end=2.0):
    """u = exp(-diffusion pi^2 t) sin(pi x)."""
    domain = ((0.0, 1.0), (0.0, end))
    points = kanmg.sampling
    return kanmg.Collocation(
        coordinates=("x", "t"),
        fields=("u",),
        terms=[
            kanmg.Term("equation", lambda _, u: u.d("t") - diffusion * u.d("x", "x"), points.sobol(domain, 600)),
            kanmg.Term(
                "initial",
                lambda x, u: u.value - torch.sin(torch.pi * x[:, 0]),
                points.boundary(domain, (40, 2), faces=[(1, "lower")]),
                weight=10.0,
            ),
            kanmg.Term(
                "walls",
                lambda _, u: u.value,
                points.boundary(domain, (2, 40), faces=[(0, "lower"), (0, "upper")]),
                weight=10.0,
            ),
        ],
    )


# --------------------------------------------------------------------------------------------------------- the solution


def test_decay_is_solved_in_all_windows(solution):
    t = np.linspace(0, END, 401).reshape(-1, 1)
    np.testing.assert_allclose(solution(t), np.exp(-t), rtol=0, atol=1e-6)
    np.testing.assert_allclose(solution.derivative(t, "t"), -np.exp(-t), rtol=0, atol=1e-5)
    assert solution.times.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_windows_are_more_accurate_than_one_network_with_the_same_cells(solution):
    t = np.linspace(0, END, 401).reshape(-1, 1)
    whole = kanmg.solve(decay(), line(), method=METHOD)
    assert np.abs(solution(t) - np.exp(-t)).max() < 0.01 * np.abs(whole(t) - np.exp(-t)).max()


def test_windows_of_any_length():
    solution = kanmg.march(decay(), line(), windows=[0.0, 0.5, 1.5, END], method=METHOD)
    assert solution.times.tolist() == [0.0, 0.5, 1.5, END]
    t = np.linspace(0, END, 401).reshape(-1, 1)
    np.testing.assert_allclose(solution(t), np.exp(-t), rtol=0, atol=1e-4)
    domains = [part.hierarchy.domain for part in solution.solutions]
    assert domains == [((0.0, 0.5),), ((0.5, 1.5),), ((1.5, END),)]


@pytest.mark.parametrize("options", [{}, {"restart": True}])
def test_heat_equation_with_hidden_layers(options):
    hierarchy = kanmg.uniform_hierarchy((2, 2, 1), degree=5, num_intervals=2, num_levels=2, domain=((0, 1), (0, 2)))
    method = kanmg.NestedIteration(LM(), steps=40)
    solution = kanmg.march(heat(), hierarchy, windows=2, method=method, **options)
    x = np.random.default_rng(0).uniform((0, 0), (1, 2), (1000, 2))
    exact = np.exp(-0.1 * np.pi**2 * x[:, 1:]) * np.sin(np.pi * x[:, :1])
    assert np.linalg.norm(solution(x) - exact) / np.linalg.norm(exact) < 1e-3


def test_an_affine_first_layer_is_cut_by_its_domain():
    knots = kanmg.uniform_knots(4, degree=5, domain=(-1, 1))
    network = kanmg.Network([kanmg.Affine(1, 1), kanmg.Spline(1, 1, knots=knots)], domain=(0, END))
    solution = kanmg.march(decay(), kanmg.Hierarchy([network]), windows=2, method=kanmg.NestedIteration(LM(), steps=60))
    t = np.linspace(0, END, 401).reshape(-1, 1)
    np.testing.assert_allclose(solution(t), np.exp(-t), rtol=0, atol=1e-3)
    assert [part.hierarchy.domain for part in solution.solutions] == [((0.0, 2.0),), ((2.0, END),)]


def test_equations_of_second_order_hand_on_value_and_velocity():
    t = np.linspace(0, 6, 241).reshape(-1, 1)
    problem = kanmg.Collocation(
        coordinates=("t",),
        fields=("u",),
        terms=[
            kanmg.Term("equation", lambda _, u: u.d("t", "t") + u.value, t),
            kanmg.Term("position", lambda _, u: u.value - 1.0, t[:1], weight=10.0),
            kanmg.Term("velocity", lambda _, u: u.d("t"), t[:1], weight=10.0),
        ],
    )
    solution = kanmg.march(
        problem, line(num_intervals=3, domain=(0, 6)), windows=3, initial=("position", "velocity"), method=METHOD
    )
    np.testing.assert_allclose(solution(t), np.cos(t), rtol=0, atol=1e-4)
    np.testing.assert_allclose(solution.derivative(t, "t"), -np.sin(t), rtol=0, atol=1e-3)


def test_fields_without_initial_values_are_not_continued():
    """Only u has a derivative by time; v follows it."""
    t = np.linspace(0, 2, 81).reshape(-1, 1)
    problem = kanmg.Collocation(
        coordinates=("t",),
        fields=("u", "v"),
        terms=[
            kanmg.Term("equation", lambda _, u, v: torch.stack([u.d("t") + v.value, v.value - u.value], dim=1), t),
            kanmg.Term("initial", lambda _, u, _v: u.value - 1.0, t[:1], weight=5.0),
        ],
    )
    hierarchy = kanmg.uniform_hierarchy((1, 2), degree=5, num_intervals=2, num_levels=1, domain=(0, 2))
    solution = kanmg.march(problem, hierarchy, windows=2, method=kanmg.NestedIteration(LM(), steps=30))
    np.testing.assert_allclose(solution(t), np.exp(-np.hstack([t, t])), rtol=0, atol=1e-5)


def test_maps_of_other_coordinates_are_kept():
    """A period in x: u = t + sin(pi x), with the third input the time."""
    domain = ((-1.0, 1.0), (0.0, 2.0))
    terms = [
        kanmg.Term(
            "equation",
            lambda x, u: u.d("t") - u.d("x", "x") / torch.pi**2 - 1.0 - torch.sin(torch.pi * x[:, 0]),
            kanmg.sampling.sobol(domain, 300),
        ),
        kanmg.Term(
            "initial",
            lambda x, u: u.value - torch.sin(torch.pi * x[:, 0]),
            kanmg.sampling.boundary(domain, (40, 2), faces=[(1, "lower")]),
        ),
    ]
    problem = kanmg.Collocation(
        coordinates=("x", "t"),
        fields=("u",),
        terms=terms,
        inputs=lambda x: torch.stack([torch.sin(torch.pi * x[:, 0]), torch.cos(torch.pi * x[:, 0]), x[:, 1]], dim=1),
    )
    hierarchy = kanmg.uniform_hierarchy(
        (3, 1), degree=3, num_intervals=2, num_levels=1, domain=((-1, 1), (-1, 1), (0, 2))
    )
    solution = kanmg.march(problem, hierarchy, windows=2, method=kanmg.NestedIteration(LM(), steps=20))
    assert solution.solutions[1].hierarchy.domain == ((-1.0, 1.0), (-1.0, 1.0), (1.0, 2.0))
    x = np.random.default_rng(0).uniform((-1, 0), (1, 2), (200, 2))
    np.testing.assert_allclose(solution(x), x[:, 1:] + np.sin(np.pi * x[:, :1]), rtol=0, atol=1e-6)
    np.testing.assert_allclose(solution.derivative(x, "t"), 1.0, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(solution(x[0]), solution(x)[0])


def test_transforms_are_kept():
    """The decay, written as 1 + t N."""
    problem = decay(transform={"u": kanmg.Transform(offset=lambda x: 1 + 0 * x[:, 0], factor=lambda x: x[:, 0])})
    solution = kanmg.march(problem, line(), windows=4, method=METHOD)
    t = np.linspace(0, END, 101).reshape(-1, 1)
    np.testing.assert_allclose(solution(t), np.exp(-t), rtol=0, atol=1e-5)
    assert solution(np.zeros((1, 1))).item() == 1.0


def test_constants_keep_the_values_of_the_problem():
    problem = decay(kanmg.Constant("rate", 5.0)).with_constants(rate=1.0)
    solution = kanmg.march(problem, line(), windows=2, method=METHOD)
    t = np.linspace(0, END, 101).reshape(-1, 1)
    np.testing.assert_allclose(solution(t), np.exp(-t), rtol=0, atol=1e-4)


# -------------------------------------------------------------------------------------------------------- the hand-over


def test_windows_begin_where_the_one_before_ended(solution):
    joints = solution.times[1:-1].reshape(-1, 1)
    for time, before, after in zip(joints, solution.solutions[:-1], solution.solutions[1:], strict=True):
        assert after(time.reshape(1, 1)) == pytest.approx(before(time.reshape(1, 1)), abs=1e-7)


@pytest.mark.parametrize("lift", [None, "affine"])
def test_later_windows_begin_with_the_end_of_the_one_before_constant_in_time(lift):
    """Without a step the solution of the second window is what it began with."""
    hierarchy = kanmg.uniform_hierarchy(
        (2, 2, 1), degree=3, num_intervals=2, num_levels=2, domain=((0, 1), (0, 2)), lift=lift, evaluator="reference"
    )
    solution = kanmg.march(heat(), hierarchy, windows=2, method=kanmg.NestedIteration(LM(), steps=(3, 0)))
    x = np.random.default_rng(0).uniform((0, 1), (1, 2), (100, 2))
    at_the_joint = np.stack([x[:, 0], np.ones(100)], axis=1)
    first, second = solution.solutions
    np.testing.assert_allclose(second(x), first(at_the_joint), rtol=0, atol=1e-12)
    assert second.level == 1


def test_every_window_sees_its_own_points():
    problem = heat()
    hierarchy = kanmg.uniform_hierarchy(
        (2, 1), degree=3, num_intervals=2, num_levels=1, domain=((0, 1), (0, 2)), evaluator="reference"
    )
    seen = []

    class Spy(kanmg.LevenbergMarquardt):
        def check(self, problem, level):
            seen.append(problem)
            super().check(problem, level)

    kanmg.march(problem, hierarchy, windows=2, method=kanmg.NestedIteration(Spy(), steps=2))
    for part, (start, stop) in zip(seen, ((0.0, 1.0), (1.0, 2.0)), strict=True):
        equation, initial, walls = part.terms
        whole = problem.terms[0].points
        np.testing.assert_array_equal(equation.points, whole[(whole[:, 1] >= start) & (whole[:, 1] <= stop)])
        np.testing.assert_array_equal(initial.points[:, 0], problem.terms[1].points[:, 0])
        np.testing.assert_array_equal(initial.points[:, 1], start)
        assert (initial.weight, walls.weight) == (10.0, 10.0)
        assert walls.points[:, 1].min() >= start
        assert walls.points[:, 1].max() <= stop


def test_all_levels_are_cut_with_the_evaluators_they_had():
    hierarchy = line(evaluator="reference")
    solution = kanmg.march(decay(), hierarchy, method=kanmg.NestedIteration(LM(), steps=1))
    for part, (start, stop) in zip(solution.solutions, ((0, 1), (1, 2), (2, 3), (3, 4)), strict=True):
        assert [level.evaluator.name for level in part.hierarchy] == ["reference", "reference"]
        assert [level.network.layers[0].num_intervals for level in part.hierarchy] == [2, 4]
        assert all(level.network.domain == ((start, stop),) for level in part.hierarchy)


# ----------------------------------------------------------------------------------------------- the piecewise function


def test_a_joint_belongs_to_the_earlier_window(solution):
    assert solution(np.array([[1.0]])) == solution.solutions[0](np.array([[1.0]]))
    later = np.nextafter(1.0, 2.0)
    assert solution(np.array([[later]])) == solution.solutions[1](np.array([[later]]))


def test_points_outside_go_to_the_first_and_the_last_window(solution):
    assert solution(np.array([[-0.1]])) == solution.solutions[0](np.array([[-0.1]]))
    assert solution(np.array([[4.1]])) == solution.solutions[3](np.array([[4.1]]))


def test_tensors_and_single_points_come_back_as_what_they_are(solution):
    t = np.array([[0.5], [3.5]])
    assert isinstance(solution(torch.from_numpy(t)), torch.Tensor)
    np.testing.assert_array_equal(solution(torch.from_numpy(t)).numpy(), solution(t))
    np.testing.assert_array_equal(solution(t[:, 0]), solution(t))
    assert solution(3.5).shape == (1,)
    assert solution(np.empty((0, 1))).shape == (0, 1)


def test_points_in_two_dimensions():
    hierarchy = kanmg.uniform_hierarchy(
        (2, 1), degree=3, num_intervals=2, num_levels=1, domain=((0, 1), (0, 2)), evaluator="reference"
    )
    solution = kanmg.march(heat(), hierarchy, windows=2, method=kanmg.NestedIteration(LM(), steps=2))
    points = np.array([[0.2, 0.5], [0.2, 1.5]])
    assert solution(points[1]).shape == (1,)
    np.testing.assert_array_equal(solution(points)[1], solution(points[1]))
    np.testing.assert_array_equal(solution.derivative(points, "x")[1], solution.derivative(points[1], 0))
    with pytest.raises(ShapeError, match="3 columns"):
        solution(np.zeros((4, 3)))


def test_derivatives_on_the_sides_of_an_interface_are_those_of_the_windows():
    hierarchy = kanmg.uniform_hierarchy(
        (3, 1), num_intervals=2, num_levels=1, domain=((-1, 1), (0, 1), (0, 2)), evaluator="reference"
    )
    terms = [
        kanmg.Term("equation", lambda _, u: u.d("t") + u.value, kanmg.sampling.sobol(((-1, 1), (0, 2)), 64)),
        kanmg.Term(
            "initial",
            lambda x, u: u.value - x[:, 0].abs(),
            kanmg.sampling.boundary(((-1, 1), (0, 2)), (9, 2), faces=[(1, "lower")]),
        ),
    ]
    problem = kanmg.Collocation(
        coordinates=("x", "t"),
        fields=("u",),
        terms=terms,
        inputs=lambda x: torch.stack([x[:, 0], x[:, 0].abs(), x[:, 1]], dim=1),
    )
    solution = kanmg.march(problem, hierarchy, windows=2, method=kanmg.NestedIteration(LM(), steps=10))
    points, normals = np.array([[0.0, 1.5], [0.0, 0.5], [0.0, 1.7]]), np.array([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0]])
    found = solution.derivative(points, "x", side="+", normals=normals)
    assert np.sign(found).ravel().tolist() == [1.0, -1.0, 1.0]
    for row, window in enumerate((1, 0, 1)):
        own = slice(row, row + 1)
        expected = solution.solutions[window].derivative(points[own], "x", side="+", normals=normals[own])
        np.testing.assert_array_equal(found[own], expected)
    np.testing.assert_array_equal(solution.derivative(points[0], "x", side="+", normals=normals[0]), found[0])
    late = solution.derivative(points[[0, 2]], "x", side="+", normals=normals[[0, 2]])
    np.testing.assert_array_equal(late, found[[0, 2]])
    with pytest.raises(ShapeError, match="`normals` has shape"):
        solution.derivative(points, "x", side="+", normals=normals[:2])


def test_it_prints_a_row_per_window(solution):
    header, *rows = str(solution).splitlines()
    assert header.split() == ["window", "from", "to", "status", "loss", "steps", "seconds"]
    assert [row.split()[:4] for row in rows] == [[str(n), str(n), str(n + 1), "FINISHED"] for n in range(4)]
    assert repr(solution) == "<PiecewiseSolution of 4 windows, t from 0 to 4>"
    assert solution.seconds == pytest.approx(sum(part.seconds for part in solution.solutions))


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"problem": kanmg.Regression(np.zeros((3, 1)), np.zeros(3))}, KanmgTypeError, "`problem` is a Regression"),
        ({"hierarchy": None}, KanmgTypeError, "`hierarchy` is None"),
        ({"coordinate": "s"}, KanmgValueError, "`coordinate='s'`"),
        ({"initial": "start"}, KanmgValueError, r"the terms are \['equation', 'initial'\]"),
        ({"initial": ()}, KanmgValueError, r"`initial=\(\)`"),
        ({"windows": 0}, KanmgValueError, "`windows=0`"),
        ({"windows": "many"}, KanmgTypeError, "`windows='many'`"),
        ({"windows": [0.0]}, KanmgTypeError, r"`windows=\[0.0\]`"),
        ({"windows": [0.0, 2.0]}, KanmgValueError, "from 0 to 4"),
        ({"windows": [0.0, 3.0, 2.0, 4.0]}, KanmgValueError, "must increase"),
        ({"windows": 400}, KanmgValueError, "no point lies in the window"),
        ({"callback": 3}, KanmgTypeError, "`callback` is 3. Pass a function of a `kanmg.Record` and the number"),
        ({"checkpoint": 3}, KanmgTypeError, "`checkpoint=3` is a int"),
        ({"problem": decay(kanmg.Parameter("rate", 1.0))}, KanmgValueError, "unknown parameter 'rate'"),
        ({"problem": decay(inputs=lambda x: x / 2)}, KanmgValueError, r"inputs \[0\] from 't'"),
    ],
)
def test_what_cannot_be_cut_is_refused(options, error, message):
    arguments = {"problem": decay(), "hierarchy": line(), "method": METHOD, **options}
    with pytest.raises(error, match=message):
        kanmg.march(**arguments)


def test_a_hierarchy_without_a_domain_is_refused():
    knots = kanmg.uniform_knots(2, degree=3)
    network = kanmg.Network([kanmg.Affine(1, 1), kanmg.Spline(1, 1, knots=knots)])
    with pytest.raises(KanmgValueError, match="knows no domain"):
        kanmg.march(decay(), kanmg.Hierarchy([network], evaluator="reference"))


def test_an_error_names_the_window():
    diverging = kanmg.NestedIteration(kanmg.Adam(step_size=1e200), steps=5)
    with pytest.raises(ConvergenceError) as caught:
        kanmg.march(decay(), line(), method=diverging)
    assert caught.value.__notes__ == ["This was window 0, t from 0 to 1."]
    solution = caught.value.solution
    assert isinstance(solution, kanmg.PiecewiseSolution)
    (failed,) = solution.solutions
    assert failed.status in {kanmg.Status.DIVERGED, kanmg.Status.NON_FINITE}


def test_without_throw_a_failed_window_is_the_last():
    diverging = kanmg.NestedIteration(kanmg.Adam(step_size=1e200), steps=5)
    solution = kanmg.march(decay(), line(), windows=4, method=diverging, throw=False)
    assert len(solution.solutions) == 1
    assert solution.times.tolist() == [0.0, 1.0]
    assert solution.solutions[0].status in {kanmg.Status.DIVERGED, kanmg.Status.NON_FINITE}


class FromLaterOn(kanmg.LevenbergMarquardt):
    """Levenberg-Marquardt in the first two windows; then a step that is no number."""

    starts: ClassVar[list[float]] = []

    def check(self, problem, level):
        super().check(problem, level)
        self.starts.append(problem.terms[0].points.min())

    def step(self, objective, coefficients, state):
        coefficients, state, record = super().step(objective, coefficients, state)
        if self.starts[-1] >= 2.0:
            return coefficients, state, record._replace(loss=math.nan)
        return coefficients, state, record


def test_a_failure_carries_the_windows_so_far():
    method = kanmg.NestedIteration(FromLaterOn(acceleration=False), steps=4)
    hierarchy = line(evaluator="reference")
    with pytest.raises(ConvergenceError) as caught:
        kanmg.march(decay(), hierarchy, windows=4, method=method)
    solution = caught.value.solution
    assert caught.value.__notes__ == ["This was window 2, t from 2 to 3."]
    statuses = [kanmg.Status.FINISHED, kanmg.Status.FINISHED, kanmg.Status.NON_FINITE]
    assert [part.status for part in solution.solutions] == statuses
    assert solution.times.tolist() == [0.0, 1.0, 2.0, 3.0]
    without = kanmg.march(decay(), hierarchy, windows=4, method=method, throw=False)
    t = np.linspace(0, 2, 21).reshape(-1, 1)
    np.testing.assert_array_equal(solution(t), without(t))
    np.testing.assert_allclose(solution(t), np.exp(-t), rtol=0, atol=1e-3)


def test_a_checkpoint_that_cannot_be_written_costs_no_window(tmp_path):
    (tmp_path / "run.1.kanmg").mkdir()
    method = kanmg.NestedIteration(LM(), steps=4)
    with pytest.raises(CheckpointError) as caught:
        kanmg.march(decay(), line(evaluator="reference"), windows=2, method=method, checkpoint=tmp_path / "run.kanmg")
    assert caught.value.__notes__ == ["This was window 1, t from 2 to 4."]
    (first,) = caught.value.solution.solutions
    assert first.status is kanmg.Status.FINISHED
    assert caught.value.solution.times.tolist() == [0.0, 2.0]
    (tmp_path / "gone.0.kanmg").mkdir()
    with pytest.raises(CheckpointError) as caught:
        kanmg.march(decay(), line(evaluator="reference"), method=method, checkpoint=tmp_path / "gone.kanmg")
    assert caught.value.solution is None


# ----------------------------------------------------------------------------------------------- callbacks, checkpoints


SHORT = {"windows": 3, "method": kanmg.NestedIteration(LM(), steps=(3, 2))}


def timeless(solution):
    return [[repr(record._replace(seconds=0.0)) for record in part.history] for part in solution.solutions]


def test_the_callback_sees_all_records_and_their_windows():
    seen = []
    hierarchy = line(evaluator="reference")
    solution = kanmg.march(decay(), hierarchy, callback=lambda record, window: seen.append((window, record)), **SHORT)
    expected = [(number, record) for number, part in enumerate(solution.solutions) for record in part.history]
    assert seen == expected
    assert {window for window, _ in seen} == {0, 1, 2}


def test_a_march_killed_after_every_record_ends_with_the_same_bits(tmp_path):
    class Killed(Exception):  # noqa: N818 - not an error: what ends a run here
        pass

    def kill(*_):
        raise Killed

    hierarchy = line(evaluator="reference")
    undisturbed = kanmg.march(decay(), hierarchy, **SHORT)
    num_records = sum(len(part.history) for part in undisturbed.solutions)
    windows = []
    for _ in range(num_records):
        with pytest.raises(Killed) as caught:
            kanmg.march(decay(), hierarchy, callback=kill, checkpoint=tmp_path / "run.kanmg", **SHORT)
        windows.append(caught.value.__notes__[-1].split(",")[0])
    assert list(dict.fromkeys(windows)) == [f"This was window {number}" for number in range(3)]
    resumed = kanmg.march(decay(), hierarchy, checkpoint=tmp_path / "run.kanmg", **SHORT)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"run.{number}.kanmg" for number in range(3)]
    assert timeless(resumed) == timeless(undisturbed)
    for again, part in zip(resumed.solutions, undisturbed.solutions, strict=True):
        assert again.coefficients.tobytes() == part.coefficients.tobytes()
        assert (again.status, again.loss, again.work_units) == (part.status, part.loss, part.work_units)


@pytest.mark.parametrize("how", ["interrupt", "stop"])
def test_a_march_that_was_stopped_goes_on_from_its_checkpoint(tmp_path, how):
    def stop(record, window):
        if window == 1 and record.step == 2:
            if how == "stop":
                raise StopIteration
            signal.raise_signal(signal.SIGINT)

    hierarchy = line(evaluator="reference")
    first = kanmg.march(decay(), hierarchy, callback=stop, checkpoint=tmp_path / "run", **SHORT)
    ended = kanmg.Status.STOPPED_BY_CALLBACK if how == "stop" else kanmg.Status.INTERRUPTED
    assert [part.status for part in first.solutions] == [kanmg.Status.FINISHED, ended]
    assert (tmp_path / "run.1").exists()
    assert not (tmp_path / "run.2").exists()
    again = kanmg.march(decay(), hierarchy, checkpoint=tmp_path / "run", **SHORT)
    assert timeless(again) == timeless(kanmg.march(decay(), hierarchy, **SHORT))


def test_a_checkpoint_of_another_march_is_refused(tmp_path):
    hierarchy = line(evaluator="reference")
    kanmg.march(decay(), hierarchy, checkpoint=tmp_path / "run", **SHORT)
    with pytest.raises(CheckpointError, match=r"run\.0'` belongs to another run: `problem` is another one"):
        kanmg.march(decay(2.0), hierarchy, checkpoint=tmp_path / "run", **SHORT)


def test_single_precision_is_kept():
    """No window begins beside its points: 0.7 is no number of float32."""
    t = np.linspace(0, 2, 101, dtype=np.float32).reshape(-1, 1)
    terms = [
        kanmg.Term("equation", lambda _, u: u.d("t") + u.value, t),
        kanmg.Term("initial", lambda _, u: u.value - 1.0, t[:1], point_weights=np.ones(1, np.float32)),
    ]
    problem = kanmg.Collocation(coordinates=("t",), fields=("u",), terms=terms)
    hierarchy = line(domain=(0, 2), dtype="float32", evaluator="reference")
    solution = kanmg.march(problem, hierarchy, windows=[0.0, 0.7, 1.3, 2.0], method=METHOD)
    assert solution(t).dtype == np.float32
    assert solution.times.tolist() == [0.0, float(np.float32(0.7)), float(np.float32(1.3)), 2.0]
    np.testing.assert_allclose(solution(t), np.exp(-t), rtol=0, atol=1e-3)


def test_initial_terms_may_use_anything_a_residual_may():
    """A constant, several residuals at a point, a class with `__call__`, and weights of the points."""
    rate = kanmg.Constant("rate", 1.0)

    class Begin:
        def __call__(self, x, u):
            return torch.stack([u.value - torch.cos(x[:, 0]), u.d("t") + rate * u.value], dim=1)

    t = np.linspace(0, 2, 81).reshape(-1, 1)
    terms = [
        kanmg.Term("equation", lambda _, u: u.d("t") + rate * u.value, t, point_weights=1.0 + t[:, 0]),
        kanmg.Term("begin", Begin(), t[:1], 5.0),
    ]
    problem = kanmg.Collocation(coordinates=("t",), fields=("u",), terms=terms)
    hierarchy = line(domain=(0, 2), evaluator="reference")
    solution = kanmg.march(problem, hierarchy, windows=2, initial="begin", method=METHOD)
    np.testing.assert_allclose(solution(t), np.exp(-t), rtol=0, atol=1e-5)
    joint = np.array([[1.0]])
    values, slopes = ([part.derivative(joint, *names).item() for part in solution.solutions] for names in ((), ("t",)))
    assert values[1] == pytest.approx(values[0], abs=1e-6)
    assert slopes[1] == pytest.approx(slopes[0], abs=1e-5)


def test_status_and_loss_are_those_of_the_last_and_of_the_worst_window(solution):
    assert solution.status is kanmg.Status.FINISHED
    assert solution.loss == max(part.loss for part in solution.solutions) > solution.solutions[-1].loss

    def stop(_, window):
        if window == 1:
            raise StopIteration

    stopped = kanmg.march(decay(), line(evaluator="reference"), callback=stop, **SHORT)
    assert stopped.status is kanmg.Status.STOPPED_BY_CALLBACK


def test_windows_that_are_saved_can_be_joined_again(solution, tmp_path):
    t = np.linspace(0, END, 11).reshape(-1, 1)
    for number, part in enumerate(solution.solutions):
        part.save(tmp_path / str(number))
    parts = tuple(kanmg.load(tmp_path / str(number)) for number in range(4))
    again = kanmg.PiecewiseSolution(parts, solution.times, "t")
    np.testing.assert_array_equal(again(t), solution(t))


def test_a_transform_with_the_initial_values_needs_a_term_too():
    transform = {"u": kanmg.Transform(offset=lambda x: 1 + 0 * x[:, 0], factor=lambda x: x[:, 0])}
    equation = decay().terms[0]
    problem = kanmg.Collocation(coordinates=("t",), fields=("u",), terms=[equation], transform=transform)
    with pytest.raises(KanmgValueError, match=r"If `transform` sets .* a term as well, .* u\.value - g\(x\)"):
        kanmg.march(problem, line(), method=METHOD)


def test_it_can_be_pickled(solution):
    t = np.linspace(0, END, 11).reshape(-1, 1)
    again = pickle.loads(pickle.dumps(solution))  # noqa: S301 - our own bytes
    np.testing.assert_array_equal(again(t), solution(t))


def test_windows_keep_the_candidates_that_lie_in_them():
    t, candidates = np.linspace(0, 2, 41).reshape(-1, 1), np.linspace(0, 2, 101).reshape(-1, 1)
    terms = [
        kanmg.Term("equation", lambda _, u: u.d("t") + u.value, t, candidates=candidates),
        kanmg.Term("initial", lambda _, u: u.value - 1.0, t[:1], candidates=t[1:2]),
    ]
    inside = time_windows._restricted(terms[0], 0, (1.0, 2.0))
    assert inside.points.tobytes() == t[20:].tobytes()
    assert inside.candidates.tobytes() == candidates[50:].tobytes()
    assert time_windows._restricted(terms[1], 0, (0.0, 0.01)).candidates is None
    problem = kanmg.Collocation(coordinates=("t",), fields=("u",), terms=[terms[0], replace(terms[1], candidates=None)])
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=5, num_intervals=2, num_levels=2, domain=(0, 2))
    method = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=10, redraw=0.5)
    solution = kanmg.march(problem, hierarchy, windows=2, method=method)
    assert np.abs(solution(t) - np.exp(-t)).max() < 1e-5
