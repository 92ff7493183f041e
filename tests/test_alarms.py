"""Alarms: what the records of a run tell about its solution."""

from __future__ import annotations

import math

import numpy as np
import pytest

import kanmg
from kanmg.alarms import find_alarms
from kanmg.history import Record


def record(level=0, loss=1.0, event="smooth", validation=math.nan, step_size=1.0, norm=0.1):
    return Record(1, level, 1, loss, norm, 1.0, 0.0, validation, step_size, event)


def test_a_quiet_run_has_none():
    records = [record(event="start"), record(loss=1e-3), record(1, 1e-3, "prolong"), record(1, 1e-6, validation=2e-6)]
    assert find_alarms(records, 1, 1e-6) == ()
    assert find_alarms([], 0, 0.0) == ()


def test_held_back_points_far_above_the_loss():
    records = [record(event="start"), record(loss=1e-6, validation=3e-5), record(loss=9e-7)]
    (alarm,) = find_alarms(records, 0, 1e-6)
    assert alarm.text.startswith(
        "At held-back points the loss is 3.0e-05, 30 times that of the others: use more points"
    )
    assert find_alarms([records[0], record(loss=1e-6, validation=9e-6)], 0, 1e-6) == ()


@pytest.mark.parametrize("loss", [0.0, 1e-32, 1e-30])
def test_points_that_are_fitted_exactly(loss):
    records = [record(loss=60.0, event="start"), record(loss=loss, validation=110.0)]
    (alarm,) = find_alarms(records, 0, loss)
    assert alarm.text.startswith("At held-back points the loss is 1.1e+02, ")
    if loss == 0.0:
        assert ", and that of the others 0: " in alarm.text
    # Held-back points that are fitted to rounding, too.
    assert find_alarms([records[0], record(loss=loss, validation=8.0 * max(loss, 1e-30))], 0, loss) == ()


def test_results_as_fine_as_rounding_raise_none():
    for loss, number in ((1e-22, 3), (1e-27, 0)):
        stopped = record(loss=loss, validation=20.0 * loss, step_size=0.0)
        probe = record(event="probe", loss=math.nan, validation=1e5 * loss)
        assert len(find_alarms([record(event="start"), stopped, probe], 0, loss)) == number


def test_a_loss_that_rises_when_points_change():
    records = [record(event="start"), record(loss=1e-6), record(1, 2e-4, "prolong"), record(1, 1e-7)]
    (alarm,) = find_alarms(records, 1, 1e-7)
    assert "rose from 1.0e-06 to 2.0e-04 when level 1 was reached" in alarm.text
    assert find_alarms(records, 2, 1e-7) == ()


def test_a_smoother_that_stopped():
    records = [record(event="start"), record(loss=1e-3, step_size=0.0)]
    (alarm,) = find_alarms(records, 0, 1e-3)
    assert "stopped on level 0, far from a minimum, because no step it tried lowered the loss" in alarm.text
    assert find_alarms([record(event="start"), record(step_size=0.0, norm=1e-12)], 0, 1.0) == ()
    failed = [record(event="start"), record(loss=math.nan, step_size=0.0)]
    assert find_alarms(failed, 0, math.nan) == ()  # the status says so


def test_candidates_are_held_back_and_few_points_are_told():
    def equation(x, u):
        return u.value - np.pi * x[:, 0].cos() * 3.0

    points, candidates = np.linspace(-1.0, 1.0, 7)[:, None], np.linspace(-1.0, 1.0, 400)[:, None]
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=16, num_levels=1, evaluator="reference")
    method = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=20)

    def solve(points):
        term = kanmg.Term("fit", equation, points, candidates=candidates)
        problem = kanmg.Collocation(coordinates=("x",), fields=("u",), terms=[term])
        solution = kanmg.solve(problem, hierarchy, method=method, throw=False)
        evaluator, theta = hierarchy[0].evaluator, solution.coefficients
        other = kanmg.Collocation(
            coordinates=("x",), fields=("u",), terms=[kanmg.Term("fit", equation, candidates)]
        ).loss(evaluator, theta)
        np.testing.assert_allclose(problem.validation_loss(evaluator, theta), other, rtol=1e-12)
        return solution

    few, many = solve(points), solve(np.linspace(-1.0, 1.0, 101)[:, None])
    assert few.alarms[0].startswith("At held-back points")
    assert few.alarms[0] in few.message
    assert many.alarms == ()
