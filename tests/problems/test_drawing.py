"""Points drawn anew where residuals are large: where they lie, how many there are, and that they can be found again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kanmg
from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.problems.collocation import Collocation
from kanmg.problems.terms import Term

CANDIDATES = kanmg.sampling.sobol([(-1.0, 1.0)] * 2, 4096, seed=7)
POINTS = kanmg.sampling.sobol([(-1.0, 1.0)] * 2, 400)
LEVEL = kanmg.uniform_hierarchy((2, 1), degree=3, num_intervals=3, num_levels=1, evaluator="reference")[0]
ZERO = np.zeros(LEVEL.network.num_coefficients)


def peak(x, u):
    return u.value - torch.exp(-50.0 * x.square().sum(dim=1))


def make(candidates=CANDIDATES, residual=peak, weight=1.0, **options):
    terms = [
        Term("equation", residual, POINTS, weight=weight, candidates=candidates),
        Term("boundary", lambda x, u: u.value - x[:, 0], POINTS[:21]),
    ]
    return Collocation(coordinates=("x", "y"), fields=("u",), terms=terms, **options)


def draw(problem, share=0.5, theta=ZERO, **options):
    return problem.redrawn(LEVEL.evaluator, theta, share, **options)


def near(points):
    return float(np.mean(np.square(points).sum(axis=1) < 0.04))


def test_points_are_drawn_where_the_residual_is_large():
    """With probabilities r^2 / mean(r^2) + 1, here summed over the candidates near the peak."""
    squares = np.exp(-100.0 * np.square(CANDIDATES).sum(axis=1))
    density = squares / squares.mean() + 1.0
    is_near = np.square(CANDIDATES).sum(axis=1) < 0.04
    expected = density[is_near].sum() / density.sum()
    assert 0.4 < expected < 0.6
    (rows, _) = draw(make(), share=0.1).drawn
    assert len(rows) == 40
    assert abs(near(CANDIDATES[rows]) - expected) < 0.2
    assert near(POINTS) < 0.05
    assert near(draw(make()).terms[0].points) > 3 * near(POINTS)


def test_numbers_of_points_weights_and_other_terms_stay():
    problem = make()
    drawn = draw(problem, share=0.3)
    assert (drawn.num_samples, drawn.num_residuals) == (problem.num_samples, problem.num_residuals)
    assert repr(drawn) == repr(problem)
    assert drawn.terms[1].points.tobytes() == problem.terms[1].points.tobytes()
    assert drawn.drawn[1] is None
    same = (drawn.terms[0].points == POINTS).all(axis=1)
    assert np.count_nonzero(~same) == 120
    np.testing.assert_array_equal(drawn.terms[0].points[~same], CANDIDATES[drawn.drawn[0]])


def test_drawing_without_replacement():
    (rows, _) = draw(make(), share=1.0).drawn
    assert (rows.dtype, rows.shape) == (np.int64, (400,))
    assert (np.diff(rows) > 0).all()
    assert draw(make(), share=1.0).terms[0].points.tobytes() == CANDIDATES[rows].tobytes()
    few = draw(make(CANDIDATES[:30]), share=0.5)
    assert few.drawn[0].tolist() == list(range(30))


def test_the_same_draw_has_the_same_bits_and_another_seed_others():
    first, again, other = draw(make()), draw(make()), draw(make(), seed=1)
    assert first.drawn[0].tobytes() == again.drawn[0].tobytes()
    assert first.terms[0].points.tobytes() == again.terms[0].points.tobytes()
    assert not np.array_equal(first.drawn[0], other.drawn[0])
    kept = [set(map(tuple, POINTS)) & set(map(tuple, own.terms[0].points)) for own in (first, other)]
    assert kept[0] == kept[1]
    assert not np.array_equal(draw(make(seed=1)).drawn[0], first.drawn[0])


def test_a_draw_is_found_again_from_its_rows():
    problem = make()
    drawn = draw(problem)
    rebuilt = problem.with_drawn(tuple(None if rows is None else rows.copy() for rows in drawn.drawn))
    assert rebuilt.fingerprint() == drawn.fingerprint() != problem.fingerprint()
    assert rebuilt.loss(LEVEL.evaluator, ZERO) == drawn.loss(LEVEL.evaluator, ZERO)
    assert problem.drawn == (None, None)
    assert drawn.with_drawn((None, None)).fingerprint() == problem.fingerprint()


def test_a_second_draw_begins_with_the_problems_own_points():
    problem, theta = make(), np.full_like(ZERO, 0.5)
    assert draw(draw(problem), theta=theta).fingerprint() == draw(problem, theta=theta).fingerprint()
    assert draw(draw(problem), share=0.0).fingerprint() == problem.fingerprint()


def test_loss_of_drawn_points_is_the_mean_over_them():
    drawn = draw(make())
    squares = np.exp(-100.0 * np.square(drawn.terms[0].points).sum(axis=1))
    assert drawn.term_losses(LEVEL.evaluator, ZERO)["equation"] == pytest.approx(squares.mean(), rel=1e-12)


@pytest.mark.parametrize("part", [0.25, 1.0])
def test_subsets_keep_candidates_and_drawn_points(part):
    drawn = draw(make(), share=1.0).subset(part)
    assert drawn.can_be_redrawn
    points = set(map(tuple, drawn.terms[0].points))
    assert len(points) == 400 * part
    assert points <= set(map(tuple, CANDIDATES))
    again = draw(make().subset(part), share=0.5)
    assert len(again.drawn[0]) == 200 * part
    assert again.num_samples == make().subset(part).num_samples


def test_other_constants_keep_the_draw():
    width = kanmg.Constant("width", 50.0, easier=5.0)
    problem = make(residual=lambda x, u: u.value - torch.exp(-width * x.square().sum(dim=1)))
    drawn = draw(problem)
    eased = drawn.eased(1.0)
    assert eased.terms[0].points.tobytes() == drawn.terms[0].points.tobytes()
    assert eased.fingerprint() == problem.eased(1.0).with_drawn(drawn.drawn).fingerprint()
    assert not np.array_equal(draw(problem.eased(1.0)).drawn[0], drawn.drawn[0])


def test_several_residuals_at_a_point_count_together():
    def both(x, u):
        return torch.stack([0 * u.value, peak(x, u)], dim=1)

    assert draw(make(residual=both)).drawn[0].tobytes() == draw(make()).drawn[0].tobytes()


@pytest.mark.parametrize("value", [0.0, 1e200])
def test_residuals_that_vanish_or_overflow_are_drawn_uniformly(value):
    with np.errstate(over="ignore"):
        rows = draw(make(residual=lambda _, u: u.value), theta=ZERO + value).drawn[0]
    assert abs(near(CANDIDATES[rows]) - near(CANDIDATES)) < 0.03


def test_through_a_map_of_the_coordinates():
    options = {"inputs": lambda x: torch.stack([x[:, 0].abs(), x[:, 1]], dim=1)}
    plain, mapped = draw(make()), draw(make(**options))
    assert plain.drawn[0].tobytes() == mapped.drawn[0].tobytes()


def test_work_is_that_of_the_candidates():
    problem = make(residual=lambda x, u: u.d("x", "x") + peak(x, u))
    cost = LEVEL.evaluator.value_cost_per_sample
    assert problem.candidates_work(LEVEL.evaluator) == 3 * 4096 * cost
    assert make(None).candidates_work(LEVEL.evaluator) == 0.0


def test_problems_without_candidates_stay_as_they_are():
    problem = make(None)
    assert not problem.can_be_redrawn
    assert draw(problem).fingerprint() == problem.fingerprint()
    regression = kanmg.Regression(POINTS, POINTS[:, 0])
    assert not regression.can_be_redrawn
    assert regression.redrawn(LEVEL.evaluator, ZERO, 0.5) is regression
    assert regression.with_drawn(()) is regression


def test_candidates_are_a_part_of_the_fingerprint_and_of_the_representation():
    assert len({make().fingerprint(), make(None).fingerprint(), make(CANDIDATES[1:]).fingerprint()}) == 3
    assert repr(make().terms[0]) == "Term('equation', 400 points, 4096 candidates, weight=1.0)"


@pytest.mark.parametrize(
    ("share", "error", "message"),
    [
        (1.5, KanmgValueError, r"`share=1\.5` is no part of the points\. It must lie in \[0, 1\]"),
        (float("nan"), KanmgValueError, "`share=nan`"),
        (True, KanmgTypeError, "`share=True` is a bool"),
        ("half", KanmgTypeError, "`share='half'` is a str"),
    ],
)
def test_impossible_shares(share, error, message):
    with pytest.raises(error, match=message):
        draw(make(), share=share)


@pytest.mark.parametrize(
    ("drawn", "error", "message"),
    [
        ((None,), KanmgTypeError, "one entry for each of the 2 terms"),
        (3, KanmgTypeError, "`drawn=3` must have one entry"),
        ((None, np.arange(3)), KanmgValueError, "rows for term 'boundary', which has no `candidates`"),
        ((np.array([0.5]), None), KanmgTypeError, "Pass a vector of integers"),
        ((np.array([4096]), None), KanmgValueError, "1 rows for term 'equation'.*from 0 to 4095"),
        ((np.array([-1]), None), KanmgValueError, "from 0 to 4095"),
        ((np.arange(401), None), KanmgValueError, "401 rows for term 'equation', which has 400 points"),
    ],
)
def test_rows_that_do_not_fit(drawn, error, message):
    with pytest.raises(error, match=message):
        make().with_drawn(drawn)
