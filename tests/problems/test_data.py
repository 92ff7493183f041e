"""Measured values that follow the points of a term: into chunks, parts, windows, and other forms of a problem."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kanmg
from kanmg import time_windows
from kanmg.errors import CheckpointError, DtypeError, KanmgTypeError, KanmgValueError, NonFiniteError, ShapeError
from kanmg.problems import bound_term
from kanmg.problems.collocation import Collocation
from kanmg.problems.terms import Term

LM = kanmg.LevenbergMarquardt


def draw(num_points=40, seed=0, dtype="float64"):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (num_points, 2)).astype(dtype)


def numbers(points):
    """What the samples are, as a function of the points, so that a row can be told from another one."""
    return 3.0 * points[:, 0] - 7.0 * points[:, 1]


def difference(_x, u, y):
    return u.value - y


def make(residual=difference, points=None, data=None, fields=("u",), **options):
    points = draw() if points is None else points
    data = numbers(points) if data is None else data
    term = Term("samples", residual, points, data=data, **options)
    return Collocation(coordinates=("x", "t"), fields=fields, terms=[term])


def make_level(dtype="float64", evaluator="reference"):
    hierarchy = kanmg.uniform_hierarchy(
        (2, 1), degree=3, num_intervals=3, num_levels=1, dtype=dtype, evaluator=evaluator
    )
    return hierarchy[0]


def zeros(level):
    return np.zeros(level.network.num_coefficients, level.evaluator.dtype)


# ---------------------------------------------------------------------------------------------- the rows of the points


@pytest.mark.parametrize("evaluator", ["reference", "cpu"])
@pytest.mark.parametrize("entries", [7, 1 << 17])
def test_every_point_has_its_own_row_in_any_chunks(monkeypatch, entries, evaluator):
    monkeypatch.setattr(bound_term, "_JET_ENTRIES", entries)
    problem, level = make(), make_level(evaluator=evaluator)
    expected = -numbers(problem.terms[0].points)
    residuals = problem.residuals(level.evaluator, zeros(level)) * np.sqrt(40)
    np.testing.assert_allclose(residuals, expected, rtol=1e-13, atol=1e-13)
    loss, gradient = problem.loss_and_gradient(level.evaluator, zeros(level))
    assert loss == pytest.approx(np.mean(expected**2), rel=1e-13)
    _, other, _ = problem.normal_equations(level.evaluator, zeros(level))
    np.testing.assert_allclose(gradient, other, rtol=1e-12, atol=1e-12 * np.abs(other).max())
    pulled = problem.pull_back(level.evaluator, zeros(level), residuals)
    np.testing.assert_allclose(pulled * 2.0 / np.sqrt(40), gradient, rtol=1e-12, atol=1e-12 * np.abs(gradient).max())
    rows = np.concatenate([part.toarray() for part in problem.jacobian_rows(level.evaluator, zeros(level))])
    np.testing.assert_allclose(rows.T @ residuals, pulled, rtol=1e-12, atol=1e-12 * np.abs(pulled).max())
    np.testing.assert_allclose(problem.magnitudes(level.evaluator, zeros(level))["samples"], np.abs(expected))


def test_residuals_get_shape_n_or_n_k_in_the_dtype_of_the_points():
    for dtype in ("float64", "float32"):
        for data in (np.ones(40, dtype), np.ones((40, 1), dtype), np.ones((40, 3), dtype)):
            seen = []

            def residual(x, u, y, seen=seen):
                seen.append((y.shape[0] == len(x), y.shape[1:], y.dtype))
                return u.value - y.reshape(len(x), -1).sum(dim=1)

            problem, level = make(residual, draw(dtype=dtype), data), make_level(dtype)
            problem.loss(level.evaluator, zeros(level))
            assert set(seen) == {(True, torch.Size(data.shape[1:]), getattr(torch, dtype))}
            assert problem.loss_and_gradient(level.evaluator, zeros(level))[1].dtype == dtype


def test_data_come_behind_all_fields():
    def pairs(_x, u, v, y):
        return torch.stack([u.value - y[:, 0], v.value - y[:, 1]], dim=1)

    points = draw()
    values = np.stack([numbers(points), points[:, 0] ** 2], axis=1)
    problem = make(pairs, points, values, fields=("u", "v"))
    level = kanmg.uniform_hierarchy((2, 2), degree=3, num_intervals=3, num_levels=1, evaluator="reference")[0]
    residuals = problem.residuals(level.evaluator, zeros(level)).reshape(40, 2) * np.sqrt(80)
    np.testing.assert_allclose(residuals, -values, rtol=1e-13, atol=1e-15)


def test_several_measurements_at_one_point_have_their_mean():
    points = np.repeat(np.linspace(-1.0, 1.0, 9), 4).reshape(-1, 1)
    values = np.tile([0.0, 1.0, 2.0, 5.0], 9)
    term = Term("samples", difference, points, data=values)
    problem = Collocation(coordinates=("x",), fields=("u",), terms=[term])
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=4, num_levels=1)
    solution = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(LM(), steps=20))
    np.testing.assert_allclose(solution(points), 2.0, rtol=0, atol=1e-5)
    assert solution.loss == pytest.approx(np.var([0.0, 1.0, 2.0, 5.0]), rel=1e-9)


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.9])
def test_a_part_of_the_points_has_its_own_rows(fraction):
    points = np.concatenate([draw(), draw()])  # every point twice, with different values
    data = np.stack([numbers(points), np.arange(80.0)], axis=1)
    problem = make(lambda _x, u, y: u.value - y[:, 0], points, data)
    (term,) = problem.subset(fraction).terms
    assert len(term) == max(8, round(fraction * 80))
    rows = term.data[:, 1].astype(int)
    assert len(set(rows)) == len(term)
    np.testing.assert_array_equal(term.points, points[rows])
    np.testing.assert_array_equal(term.data, data[rows])


def test_coarse_levels_with_fewer_points_run():
    hierarchy = kanmg.uniform_hierarchy((2, 1), degree=3, num_intervals=2, num_levels=3, domain=(-1, 1))
    method = kanmg.NestedIteration(LM(), steps=15, coarse_fraction=0.5)
    problem = make(points=draw(400))
    solution = kanmg.solve(problem, hierarchy, method=method)
    assert np.abs(solution(problem.terms[0].points)[:, 0] - problem.terms[0].data).max() < 1e-3


# ------------------------------------------------------------------------------------------ other forms of the problem


def test_weights_constants_and_parameters_leave_the_data_where_they_are():
    level, theta = make_level(), zeros(make_level())
    factor = kanmg.Constant("factor", 2.0, easier=8.0)
    shift = kanmg.Parameter("shift", 1.0)
    problem = make(lambda _x, u, y: factor * u.value - factor * y - shift)
    y = problem.terms[0].data

    def loss(other, unknown=1.0):
        return other.loss(level.evaluator, np.append(theta, unknown))

    assert loss(problem) == pytest.approx(np.mean((2 * y + 1) ** 2), rel=1e-13)
    assert loss(problem.with_constants(factor=3.0)) == pytest.approx(np.mean((3 * y + 1) ** 2), rel=1e-13)
    assert loss(problem.eased(0.5)) == pytest.approx(np.mean((4 * y + 1) ** 2), rel=1e-13)
    assert loss(problem.with_parameters(shift=5.0), 5.0) == pytest.approx(np.mean((2 * y + 5) ** 2), rel=1e-13)
    weights = np.arange(40.0)
    expected = 3.0 * np.sum(weights**2 * (2 * y + 1) ** 2) / np.sum(weights**2)
    weighted = problem.with_weights((3.0,), (weights,))
    assert loss(weighted) == pytest.approx(expected, rel=1e-13)
    part = weighted.eased(0.5).subset(0.5)
    own, squares = part.terms[0].data, part.terms[0].point_weights
    assert len(own) == 20
    assert loss(part) == pytest.approx(3.0 * np.sum(squares * (4 * own + 1) ** 2) / squares.sum(), rel=1e-13)


def test_taken_rows_belong_together():
    points, normals = draw(5), draw(5, seed=1)
    term = Term("samples", difference, points, 2.0, np.arange(5.0), normals, data=numbers(points))
    whole = term.take(np.arange(5))
    for rows in (np.array([4, 1]), np.array([False, True, False, False, True])):
        part = term.take(rows)
        assert (part.name, part.weight, len(part)) == ("samples", 2.0, 2)
        for name in ("points", "point_weights", "normals", "data"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows])


def test_fingerprint_holds_the_data():
    points, data = draw(1000), numbers(draw(1000))
    moved = data.copy()
    moved[501] += 1e-12

    def column(_x, u, y):
        return u.value - y.reshape(len(y))

    prints = [make(column, points, own).fingerprint() for own in (data, moved, data[:, None], 0 * data)]
    prints.append(make(lambda _x, u, y=0.0: u.value - y, points, points[:, 0]).fingerprint())
    assert len(set(prints)) == 5
    assert make(column, points, data.copy()).fingerprint() == prints[0]


def test_fingerprints_of_terms_without_data_are_what_they_were():
    """Checkpoints of earlier versions remain valid: nothing is added for data that are not there."""
    term = Term("equation", lambda _x, u: u.value, np.zeros((3, 2)))
    problem = Collocation(coordinates=("x", "t"), fields=("u",), terms=[term])
    assert problem.fingerprint().startswith("8e4ff377af7a")


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    hierarchy = kanmg.uniform_hierarchy((2, 1), degree=3, num_intervals=2, num_levels=1, evaluator="reference")
    method, path = kanmg.NestedIteration(steps=3), tmp_path / "run.kanmg"
    kanmg.solve(make(), hierarchy, method=method, checkpoint=path)
    kanmg.solve(make(), hierarchy, method=method, checkpoint=path)
    with pytest.raises(CheckpointError, match="problem"):
        kanmg.solve(make(data=numbers(draw()) + 1e-9), hierarchy, method=method, checkpoint=path)


def test_tensors_lists_and_any_memory_layout_are_taken():
    level = make_level()
    data = numbers(draw())
    frozen = data.copy()
    frozen.setflags(write=False)
    losses = [
        make(data=own).loss(level.evaluator, zeros(level))
        for own in (data, torch.tensor(data), data[::-1][::-1], frozen, data.tolist(), np.stack([data, data])[0])
    ]
    assert len(set(losses)) == 1


def test_a_term_says_that_it_has_data():
    term = make(weight=3.0, point_weights=np.ones(40)).terms[0]
    assert repr(term) == "Term('samples', 40 weighted points with data, weight=3.0)"


# -------------------------------------------------------------------------------------------------------- time windows


def test_windows_have_the_rows_of_their_points():
    t = np.linspace(0, 2, 41).reshape(-1, 1)
    term = Term("samples", difference, t, point_weights=1.0 + t[:, 0], data=np.arange(41.0))
    inside = time_windows._restricted(term, 0, (1.0, 2.0))
    np.testing.assert_array_equal(inside.data, np.arange(20.0, 41.0))
    np.testing.assert_array_equal(inside.points, t[20:])
    np.testing.assert_array_equal(inside.point_weights, 1.0 + t[20:, 0])


def test_a_march_fits_samples_and_continues_an_initial_term_with_data():
    """Of u' = -u + s nothing is known but u; the initial value is measured twice."""
    t = np.linspace(0, 2, 81).reshape(-1, 1)
    exact = np.exp(-t)[:, 0]
    terms = [
        Term("equation", lambda _x, u, _s: u.d("t") + u.value, t),
        Term("samples", lambda _x, _u, s, y: s.value - y, t, data=2.0 * exact),
        Term("initial", lambda _x, u, _s, y: u.value - y, t[[0, 0]], 5.0, data=[0.9, 1.1]),
    ]
    problem = Collocation(coordinates=("t",), fields=("u", "s"), terms=terms)
    hierarchy = kanmg.uniform_hierarchy((1, 2), degree=5, num_intervals=2, num_levels=2, domain=(0, 2))
    method = kanmg.NestedIteration(LM(), steps=15)
    solution = kanmg.march(problem, hierarchy, windows=2, method=method)
    np.testing.assert_allclose(solution(t), np.stack([exact, 2.0 * exact], axis=1), rtol=0, atol=1e-5)


# -------------------------------------------------------------------------------------------------- what can be wrong

TERMS = {
    "too short": ({"data": np.ones(39)}, ShapeError, r"`data` has shape \(39,\) but there are 40 points.*\(40, K\)"),
    "a row": ({"data": np.ones((1, 40))}, ShapeError, r"`data` has shape \(1, 40\) but there are 40 points"),
    "a number": ({"data": 3.0}, ShapeError, r"`data` has shape \(\) but"),
    "no columns": ({"data": np.ones((40, 0))}, ShapeError, r"`data` has shape \(40, 0\)"),
    "three axes": ({"data": np.ones((40, 1, 1))}, ShapeError, r"`data` has shape \(40, 1, 1\)"),
    "NaN": ({"data": np.full(40, np.nan)}, NonFiniteError, r"`data` contains 40 NaN or infinite values"),
    "infinite": ({"data": np.array([1.0] * 39 + [np.inf])}, NonFiniteError, r"`data` contains 1 .*first in row 39"),
    "integers": ({"data": np.ones(40, int)}, DtypeError, r"`data` has dtype int64"),
    "another dtype": (
        {"data": np.ones(40, "float32")},
        DtypeError,
        r"`data` is float32 but `points` is float64\. Write `data\.astype\('float64'\)`",
    ),
    "text": ({"data": "values"}, DtypeError, r"`data` has dtype <U6; real numbers"),
    "gradients": ({"data": torch.ones(40).requires_grad_()}, KanmgTypeError, r"`data` is a tensor that requires grad"),
    "candidates": (
        {"data": np.ones(40), "candidates": draw(90)},
        KanmgValueError,
        r"`candidates` has no `data`, but `points` has\. Leave out one",
    ),
}


@pytest.mark.parametrize("name", TERMS)
def test_data_that_make_no_sense(name):
    options, error, message = TERMS[name]
    with pytest.raises(error, match=f"term 'samples': {message}"):
        Term("samples", difference, draw(), **options)


def test_a_residual_that_does_not_take_the_data():
    message = r"takes the arguments \(_x, u\).*with the points, 1 field and `data`\..*`residual\(x, u, data\)`\.$"
    with pytest.raises(KanmgTypeError, match=f"term 'samples': the residual {message}"):
        make(lambda _x, u: u.value)
    with pytest.raises(KanmgTypeError, match=r"points, 2 fields and `data`\..*`residual\(x, u, v, data\)`"):
        make(fields=("u", "v"))


def test_a_residual_that_waits_for_data():
    def build(residual):
        Collocation(coordinates=("x", "t"), fields=("u",), terms=[Term("samples", residual, draw())])

    message = (
        r"\(_x, u, y\), but it is called with the points and 1 field\..*`residual\(x, u\)`\. For measured.*`data=`"
    )
    with pytest.raises(KanmgTypeError, match=message):
        build(difference)
    with pytest.raises(KanmgTypeError, match=r"`residual\(x, u\)`\.$"):
        build(lambda _x, _u, _v, y: y)
    build(lambda _x, u, y=1.0: u.value - y)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
@pytest.mark.parametrize("length", [40, 5])
def test_an_array_of_all_points_beside_the_fields_is_told_what_to_write(kind, length):
    values = kind(numbers(draw(length)))
    term = Term("samples", lambda _x, u: u.value - values, draw(length))
    # NumPy's arrays do not meet tensors at all.
    with pytest.raises(KanmgTypeError if kind is np.asarray else RuntimeError) as caught:
        Collocation(coordinates=("x", "t"), fields=("u",), terms=[term])
    told = [str(caught.value), *getattr(caught.value, "__notes__", [])]
    assert any("pass `data=values` to the term" in words and "`residual(x, u, data)`" in words for words in told)


def test_notes_tell_the_shape_of_the_data_and_do_not_ask_for_them_twice():
    with pytest.raises(RuntimeError, match="must match the size") as caught:
        make(difference, data=np.ones((40, 3)))
    (note,) = caught.value.__notes__
    assert "`x` of shape (8, 2) and `data` of shape (8, 3)" in note


def test_other_exceptions_say_nothing_of_data():
    def wrong(_x, u):
        raise RuntimeError("wrong", u)

    with pytest.raises(RuntimeError) as caught:
        Collocation(coordinates=("x", "t"), fields=("u",), terms=[Term("samples", wrong, draw())])
    assert not any("data" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("number", [2, 3, 40])
def test_a_column_minus_a_vector_is_no_residual(number):
    message = r"shapes \(N,\) and \(N, 1\) in one expression make \(N, N\)\. Use .*, as in `data\[:, 0\]`\."
    with pytest.raises(ShapeError, match=f"term 'samples': .*{message}"):
        make(points=draw(number), data=np.ones((number, 1)))
    term = Term("samples", lambda x, u: u.value - x[:, :1], draw(number))
    with pytest.raises(ShapeError, match=r"as in `x\[:, 0\]`\."):
        Collocation(coordinates=("x", "t"), fields=("u",), terms=[term])


def test_a_residual_that_depends_on_the_data_of_other_points_is_refused():
    with pytest.raises(KanmgValueError, match="changes with the other points"):
        make(lambda _x, u, y: u.value - y.mean())


def test_a_residual_that_changes_the_data_is_refused_before_it_does_harm():
    def changing(_x, u, y):
        y += 1.0
        return u.value - y

    data = np.ones(40)
    with pytest.raises(KanmgValueError, match="the residual changes the data that it is called with"):
        make(changing, data=data)
    np.testing.assert_array_equal(data, 1.0)


def test_data_at_which_a_residual_is_not_finite_are_found():
    data = np.ones(40)
    data[9] = 0.0
    with pytest.raises(NonFiniteError, match=r"NaN or infinite at 1 point, .*the first is row 9: x="):
        make(lambda _x, u, y: u.value / y, data=data)
