"""Solutions: evaluation, derivatives, tables, saving and loading; histories and statuses."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import kanmg
from kanmg.errors import CheckpointError, DomainError, DtypeError, KanmgTypeError, KanmgValueError, ShapeError
from kanmg.history import History, Record, Status
from kanmg.solution import Solution

NAN = math.nan


def solution_of(hierarchy, seed=0, coordinates=(), **fields):
    level = hierarchy[-1]
    points = np.random.default_rng(seed).uniform(-1, 1, (50, hierarchy.widths[0]))
    theta = kanmg.initial_coefficients(level.network, points, seed=seed, noise=0.3).astype(hierarchy.dtype)
    fields = {"loss": 0.25, "status": Status.FINISHED, "message": "done", "history": History([record()]), **fields}
    return Solution(
        coefficients=theta,
        level=level.index,
        work_units=2.5,
        seconds=0.5,
        hierarchy=hierarchy,
        coordinates=coordinates,
        **fields,
    )


def record(**fields):
    return Record(1, 0, 7, 0.25, 0.5, 2.5, 0.5, NAN, 1.0, "smooth")._replace(**fields)


def hierarchy_of(widths=(2, 3, 1), **options):
    options = {"degree": 5, "num_intervals": 3, "num_levels": 2, "evaluator": "reference", **options}
    return kanmg.uniform_hierarchy(widths, **options)


POINTS = np.random.default_rng(1).uniform(-0.9, 0.9, (11, 2))


# ----------------------------------------------------------------------------------------------------------- evaluation


def test_arrays_in_arrays_out_tensors_in_tensors_out():
    solution = solution_of(hierarchy_of())
    values = solution(POINTS)
    tensors = solution(torch.from_numpy(POINTS))
    assert values.shape == (11, 1)
    assert isinstance(tensors, torch.Tensor)
    assert np.array_equal(values, tensors.numpy())
    assert np.array_equal(values, solution.hierarchy[1].evaluator.value(solution.coefficients, POINTS))


def test_one_point_needs_no_row_of_its_own():
    solution = solution_of(hierarchy_of((2, 3, 2)))
    assert solution(POINTS[3]).shape == (2,)
    assert np.array_equal(solution(POINTS[3]), solution(POINTS[3:4])[0])
    assert np.array_equal(solution.derivative(POINTS[3], 1), solution.derivative(POINTS[3:4], 1)[0])


def test_a_vector_holds_points_if_there_is_one_input():
    solution = solution_of(hierarchy_of((1, 2)))
    x = np.linspace(-1, 1, 5)
    assert np.array_equal(solution(x), solution(x[:, None]))
    assert solution(x).shape == (5, 2)


def test_a_number_is_a_point_if_there_is_one_input():
    solution = solution_of(hierarchy_of((1, 2)))
    expected = solution(np.array([[0.25]]))[0]
    for x in (0.25, np.float64(0.25), np.array(0.25)):
        assert np.array_equal(solution(x), expected)
    assert solution(torch.tensor(0.25, dtype=torch.float64)).tolist() == expected.tolist()
    assert solution.derivative(0.25, 0).shape == (2,)


def test_tensors_that_require_gradients_are_refused():
    solution = solution_of(hierarchy_of())
    x = torch.tensor(POINTS, requires_grad=True)
    for call in (solution, lambda points: solution.derivative(points, 0)):
        with pytest.raises(KanmgTypeError, match=r"`x` is a tensor that requires grad.*`x.detach\(\)`.*derivative"):
            call(x)
    assert not solution(x.detach()).requires_grad


def test_lists_will_do_and_no_points_give_no_values():
    solution = solution_of(hierarchy_of())
    assert np.array_equal(solution([[0.5, 0.25]]), solution(np.array([[0.5, 0.25]])))
    assert solution(np.zeros((0, 2))).shape == (0, 1)


def test_points_outside_follow_the_policy():
    outside = np.array([[1.5, 0.0]])
    assert np.isfinite(solution_of(hierarchy_of(outside="extend"))(outside)).all()
    with pytest.raises(DomainError):
        solution_of(hierarchy_of(outside="error"))(outside)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (np.zeros((4, 3)), ShapeError, "`x` has 3 columns but `hierarchy` was built for 2 inputs"),
        (np.zeros(3), ShapeError, "`x` has 3 columns"),
        (np.zeros((2, 2, 2)), ShapeError, r"`x` has shape \(2, 2, 2\). Pass points of shape \(N, 2\)"),
        (np.float64(0.5), ShapeError, r"`x` has shape \(\)"),
        (np.zeros((4, 2), np.float32), DtypeError, "`x` is float32"),
        (np.zeros((4, 2), np.int64), DtypeError, "int64"),
    ],
)
def test_points_of_another_kind_are_refused(x, error, words):
    with pytest.raises(error, match=words):
        solution_of(hierarchy_of())(x)


# ---------------------------------------------------------------------------------------------------------- derivatives


def autograd_derivative(solution, x, *inputs):
    """The derivative of the first output, by differentiating the reference evaluator again and again."""
    points = torch.tensor(x, requires_grad=True)
    value = solution.hierarchy[solution.level].evaluator.forward(torch.from_numpy(solution.coefficients), points)[:, 0]
    for i in inputs:
        (gradient,) = torch.autograd.grad(value.sum(), points, create_graph=True)
        value = gradient[:, i]
    return value.detach().numpy()


@pytest.mark.parametrize("inputs", [(0,), (1,), (0, 0), (1, 0), (1, 1), (0, 1, 1), (0, 0, 0)])
def test_derivatives_are_those_of_autograd(inputs):
    solution = solution_of(hierarchy_of())
    expected = autograd_derivative(solution, POINTS, *inputs)
    actual = solution.derivative(POINTS, *inputs)
    assert actual.shape == (11, 1)
    np.testing.assert_allclose(actual[:, 0], expected, rtol=1e-9, atol=1e-9 * abs(expected).max())


def test_coordinates_may_have_names():
    solution = solution_of(hierarchy_of(), coordinates=("x", "t"))
    assert np.array_equal(solution.derivative(POINTS, "t"), solution.derivative(POINTS, 1))
    assert np.array_equal(solution.derivative(POINTS, "x", "t"), solution.derivative(POINTS, 0, 1))
    assert isinstance(solution.derivative(torch.from_numpy(POINTS), "x"), torch.Tensor)


def test_no_coordinate_is_the_value():
    solution = solution_of(hierarchy_of())
    np.testing.assert_allclose(solution.derivative(POINTS), solution(POINTS), rtol=1e-14)


def test_coordinates_that_do_not_exist_are_refused():
    named, unnamed = solution_of(hierarchy_of(), coordinates=("x", "t")), solution_of(hierarchy_of())
    with pytest.raises(
        KanmgValueError, match=r"the coordinate 'y'. Pass numbers of inputs, 0 to 1 or one of the names 'x', 't'"
    ):
        named.derivative(POINTS, "y")
    for wrong in (2, -1, True, 0.0, "x"):
        with pytest.raises(KanmgValueError, match="Pass numbers of inputs, 0 to 1"):
            unnamed.derivative(POINTS, wrong)


# -------------------------------------------------------------------------------------------------------- save and load


KNOTS = kanmg.knots_from_breakpoints([-1, -0.3, 0.1, 1], degree=2)
HIERARCHIES = {
    "uniform": hierarchy_of(),
    "single": hierarchy_of((3, 2), dtype="float32", degree=1, num_levels=1, outside="clamp"),
    "lift": hierarchy_of((2, 4, 1), lift="affine", domain=(0.0, 2.0), outside="linear"),
    "by hand": kanmg.Hierarchy.from_network(
        kanmg.Network(
            [
                kanmg.Spline(2, 2, knots=[KNOTS, kanmg.clamped_knots(3, degree=2, domain=(-2, 1))], outside="zero"),
                kanmg.Affine(2, 1, bias=False),
            ]
        ),
        num_levels=3,
        evaluator="reference",
    ),
}


@pytest.mark.parametrize("kind", HIERARCHIES)
def test_loading_gives_back_every_bit(kind, tmp_path):
    records = [record(loss=0.1 * step, step=step, validation_loss=NAN if step % 2 else 1 / 3) for step in range(5)]
    history = History([record(event="start", gradient_norm=NAN), *records, record(event="correct")])
    saved = solution_of(HIERARCHIES[kind], history=history, status=Status.STALLED, coordinates=("a", "b"))
    saved.save(tmp_path / "solution.kanmg")
    loaded = kanmg.load(tmp_path / "solution.kanmg", evaluator="reference")
    assert [level.network for level in loaded.hierarchy] == [level.network for level in saved.hierarchy]
    assert loaded.hierarchy.dtype == saved.hierarchy.dtype == loaded.coefficients.dtype
    assert loaded.coefficients.tobytes() == saved.coefficients.tobytes()
    assert repr(list(loaded.history)) == repr(list(saved.history))
    for name in ("level", "loss", "status", "message", "work_units", "seconds", "coordinates"):
        assert getattr(loaded, name) == getattr(saved, name)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (9, saved.hierarchy.widths[0])).astype(saved.hierarchy.dtype)
    assert np.array_equal(loaded(x), saved(x))


def test_a_loaded_solution_is_a_start(tmp_path):
    x = np.linspace(-1, 1, 60).reshape(-1, 1)
    problem, hierarchy = kanmg.Regression(x, np.exp(x)), hierarchy_of((1, 1))
    first = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(steps=3))
    first.save(tmp_path / "first.kanmg")
    loaded = kanmg.load(tmp_path / "first.kanmg", evaluator="reference")
    second = kanmg.solve(problem, loaded.hierarchy, method=kanmg.NestedIteration(steps=3), initial=loaded.coefficients)
    assert second.history[0].loss == first.loss


def test_the_file_is_safetensors_with_json_and_no_pickle(tmp_path):
    solution_of(HIERARCHIES["lift"]).save(tmp_path / "solution.kanmg")
    content = (tmp_path / "solution.kanmg").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    document = json.loads(header["__metadata__"]["kanmg"])
    assert document["kind"] == "solution"
    assert "outside" in header["__metadata__"]["kanmg"]
    assert b"\x80\x04" not in content[:8]


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        kanmg.load(tmp_path / "missing.kanmg")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text` is no kanmg solution, but some other file. Choose another path"):
        kanmg.load(tmp_path / "text")
    x = np.linspace(-1, 1, 20).reshape(-1, 1)
    method = kanmg.NestedIteration(steps=1)
    kanmg.solve(kanmg.Regression(x, x), hierarchy_of((1, 1)), method=method, checkpoint=tmp_path / "run")
    with pytest.raises(CheckpointError, match="is a checkpoint; a solution is required"):
        kanmg.load(tmp_path / "run")


# ------------------------------------------------------------------------------------------ histories, statuses, tables


def test_the_table_has_a_dash_where_a_level_has_no_gradient():
    history = History([record(level=0, event="start"), record(level=1, gradient_norm=float("nan"), event="prolong")])
    lines = history.table(3).splitlines()
    assert "nan" not in "".join(lines)
    assert [line.split()[3] for line in lines[2:]] == ["-", "-"]
    assert lines[1].split()[3] == f"{history[0].gradient_norm:.2e}"


def test_a_history_is_a_sequence_with_columns():
    history = History([record(step=step, loss=1.0 / (step + 1)) for step in range(4)])
    assert len(history) == 4
    assert history[-1].step == 3
    assert isinstance(history[1:], History)
    assert [entry.step for entry in history[1:]] == [1, 2, 3]
    assert np.array_equal(history.column("loss"), [1, 1 / 2, 1 / 3, 1 / 4])
    assert repr(history) == "<History of 4 records>"
    with pytest.raises(KanmgValueError, match=r"`lost` is no attribute of a record. Use one of cycle, level"):
        history.column("lost")


def test_a_history_survives_its_columns():
    history = History([record(event="start", loss=0.1 + 0.2), record(event="prolong", loss=NAN)])
    assert repr(list(History.from_columns(history.columns()))) == repr(list(history))
    assert len(History.from_columns(History().columns())) == 0


def test_every_status_says_what_happened_and_every_failure_what_to_do():
    assert len({status.message for status in Status}) == len(Status)
    for status in Status:
        assert status.message.endswith(".")
        assert bool(status.remedy) == (status not in {Status.CONVERGED, Status.FINISHED})


def test_the_table_shares_work_and_time_among_levels():
    history = History(
        [
            record(event="start", level=0, step=0, work_units=1.0, seconds=0.1, loss=8.0),
            record(level=0, step=1, work_units=3.0, seconds=0.2, loss=4.0),
            record(event="prolong", level=1, step=1, work_units=4.0, seconds=0.4, loss=4.0),
            record(level=1, step=2, work_units=8.0, seconds=1.0, loss=2.0),
            record(level=1, step=3, work_units=12.5, seconds=2.0, loss=NAN),
        ]
    )
    table = str(solution_of(hierarchy_of(num_levels=3), history=history, message="Loss 2.")).splitlines()
    assert table[0].split() == ["level", "steps", "loss", "|gradient|", "work", "units", "seconds"]
    assert table[1].split() == ["0", "1", "4.000e+00", "5.00e-01", "3.00", "0.200"]
    assert table[2].split() == ["1", "2", "2.000e+00", "5.00e-01", "9.50", "1.800"]
    assert table[3].split() == ["2", "0", "-", "-", "0.00", "0.000"]
    assert table[4] == "FINISHED: Loss 2."
    history.append(record(event="fair", level=1, step=9, work_units=20.0, seconds=2.5, loss=2.125))
    history.append(record(event="probe", level=1, step=9, work_units=20.0, seconds=3.0, loss=NAN))
    faired = str(solution_of(hierarchy_of(num_levels=3), history=history)).splitlines()
    assert faired[:4] == table[:4]
    assert faired[4].split() == ["fair", "6", "2.125e+00", "5.00e-01", "7.50", "1.000"]


def test_what_is_shown_has_one_thing_a_line_and_alarms_first():
    x = np.linspace(-1.0, 1.0, 60)[:, None]
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=30, num_levels=2, evaluator="reference")
    noise = np.random.default_rng(0).normal(size=60)
    problem = kanmg.Regression(x, noise, validation=0.5)
    solution = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=20))
    lines = solution.message.splitlines()
    number = len(solution.alarms)
    assert number > 0
    assert lines[:number] == [f"ALARM: {alarm}" for alarm in solution.alarms]
    assert lines[number : number + 2] == [
        "The schedule is complete.",
        f"Loss {solution.loss:.3e} on level 1 after {solution.history[-1].step} steps.",
    ]
    table = solution.history.table(2).splitlines()
    assert str(solution).splitlines() == [
        *table,
        *lines[:number],
        "FINISHED: The schedule is complete.",
        *lines[number + 1 :],
    ]


def test_the_short_form_is_one_line():
    assert repr(solution_of(hierarchy_of())) == "<Solution FINISHED: level 1, loss 0.25, 2.5 work units>"


@pytest.mark.parametrize("path", [None, 3])
def test_what_is_no_path_is_refused(path):
    solution = solution_of(hierarchy_of())
    with pytest.raises(KanmgTypeError, match=f"`path={path}` is a .*Pass the path of a file"):
        solution.save(path)
    with pytest.raises(KanmgTypeError, match=f"`path={path}`"):
        kanmg.load(path)
    with pytest.raises(KanmgValueError, match="`path` is empty"):
        solution.save("")
