"""Cycles that draw points anew: the programs, the same bits after a kill, and what the losses belong to."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import kanmg
from kanmg.cycles import Cycle
from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.program import Pose, Program, Prolong, Redraw, Smooth

DOMAIN = ((-1.0, 1.0), (-1.0, 1.0))
POINTS, CANDIDATES = kanmg.sampling.sobol(DOMAIN, 200), kanmg.sampling.sobol(DOMAIN, 1000, seed=1)
HIERARCHY = kanmg.uniform_hierarchy((2, 2, 1), degree=3, num_intervals=2, num_levels=3, evaluator="cpu")
COARSEST, TWO_LEVELS = (
    kanmg.Hierarchy([level.network for level in HIERARCHY[:number]], evaluator="cpu") for number in (1, 2)
)
LM = kanmg.LevenbergMarquardt()


def make(candidates=CANDIDATES):
    width = kanmg.Constant("width", 20.0, easier=2.0)

    def equation(x, u):
        return 0.1 * u.d("x", "x") + u.value - torch.exp(-width * x.square().sum(dim=1))

    terms = [
        kanmg.Term("equation", equation, POINTS, candidates=candidates),
        kanmg.Term("boundary", lambda _, u: u.value, kanmg.sampling.boundary(DOMAIN, 5), weight=0.1),
    ]
    return kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=terms)


PROBLEM = make()


def solve(method, problem=PROBLEM, hierarchy=HIERARCHY, **options):
    return kanmg.solve(problem, hierarchy, method=method, throw=False, **options)


def letters(program):
    names = {Smooth: "S", Prolong: "P", Redraw: "R", Pose: "E"}
    listed = [*program.prologue, *program.cycle]
    return " ".join(names.get(type(step), type(step).__name__) + str(step.level) for step in listed)


# ------------------------------------------------------------------------------------------------------------- programs


def test_programs_draw_where_a_level_is_reached():
    program = kanmg.NestedIteration(steps=1, redraw=0.25).program(range(3))
    assert letters(program) == "S0 P0 R1 S1 P1 R2 S2"
    assert {step.share for step in program.prologue if isinstance(step, Redraw)} == {0.25}
    assert letters(kanmg.NestedIteration(steps=1, redraw=0.25).program(range(3), 1)) == "S1 P1 R2 S2"
    assert letters(kanmg.NestedIteration(steps=1, redraw=0.25).program(range(1))) == "S0"


def test_cycles_draw_on_the_way_up_only():
    options = {"pre_steps": 1, "post_steps": 0, "coarse_steps": 1, "redraw": 0.5}
    assert letters(kanmg.VCycle(**options).program(range(3))) == "P0 P1 R2 S2 Descend2 S1 Descend1 S0 Ascend1 Ascend2"
    assert letters(kanmg.FullMultigrid(**options).program(range(2))) == "S0 P0 R1 S1 Descend1 S0 Ascend1"


def test_stages_of_a_continuation_are_drawn_but_the_first():
    method = kanmg.NestedIteration(steps=1, redraw=0.5, continuation=kanmg.Continuation(3, 1))
    assert letters(method.program(range(2))) == "E0 S0 E0 R0 S0 E0 R0 S0 P0 R1 S1"


@pytest.mark.parametrize("cycle", [kanmg.NestedIteration, kanmg.VCycle, kanmg.FullMultigrid])
def test_without_the_option_programs_draw_nothing(cycle):
    program = cycle().program(range(3))
    assert cycle().redraw == 0.0
    assert not any(isinstance(step, Redraw) for step in (*program.prologue, *program.cycle))


# ----------------------------------------------------------------------------------------------------------------- runs


def by_hand(share, steps):
    """Nested iteration of two levels: the second one's problem is drawn at what it begins with."""
    first = kanmg.solve(PROBLEM, COARSEST, method=kanmg.NestedIteration(LM, steps=steps))
    theta = HIERARCHY.transfers[0].prolong(first.coefficients)
    drawn = PROBLEM.redrawn(TWO_LEVELS[1].evaluator, theta, share, seed=2)
    second = kanmg.solve(drawn, TWO_LEVELS, method=kanmg.NestedIteration(LM, steps=steps), initial=theta)
    return drawn, second


def test_it_is_what_one_would_do_by_hand():
    drawn, expected = by_hand(0.5, 5)
    found = kanmg.solve(PROBLEM, TWO_LEVELS, method=kanmg.NestedIteration(LM, steps=5, redraw=0.5))
    assert found.coefficients.tobytes() == expected.coefficients.tobytes()
    losses = found.history.column("loss")[found.history.column("level") == 1]
    assert losses[-1] == expected.loss
    assert drawn.fingerprint() != PROBLEM.fingerprint()


def test_the_loss_of_the_solution_is_that_of_the_problems_own_points():
    found = solve(kanmg.NestedIteration(LM, steps=5, redraw=0.5))
    loss = PROBLEM.loss(HIERARCHY[2].evaluator, found.coefficients)
    assert found.loss == loss != found.history[-1].loss
    assert f"Loss {loss:.3e} on level 2" in found.message
    assert f"On the points drawn last it is {found.history[-1].loss:.3e}." in found.message
    plain = solve(kanmg.NestedIteration(LM, steps=5))
    assert plain.loss == plain.history[-1].loss
    assert "drawn" not in plain.message


class Twice(Cycle):
    """Smooth, draw most points anew, and smooth once more, all on one level."""

    def program(self, hierarchy, start=None):  # noqa: ARG002
        return Program(0, (Smooth(0, 8, LM), Redraw(0, 0.9), Smooth(0, 2, LM)), (), 1, (1.0,) * len(hierarchy))


def test_losses_before_a_draw_do_not_count():
    found = kanmg.solve(PROBLEM, COARSEST, method=Twice())
    losses, events = found.history.column("loss"), found.history.column("event").tolist()
    assert losses[-1] > losses[events.index("redraw") - 1]
    assert f"On the points drawn last it is {losses[-1]:.3e}." in found.message
    first = kanmg.solve(PROBLEM, COARSEST, method=kanmg.NestedIteration(LM, steps=8))
    assert not np.array_equal(found.coefficients, first.coefficients)


def test_tolerances_see_the_drawn_points():
    undisturbed = solve(kanmg.NestedIteration(LM, steps=5, redraw=0.5))
    drawn = undisturbed.history[-1].loss
    found = solve(kanmg.NestedIteration(LM, steps=5, redraw=0.5), atol=1.0001 * drawn)
    assert found.status is kanmg.Status.CONVERGED
    assert f"tolerance {1.0001 * drawn:.3e}" in found.message


def test_residuals_of_candidates_are_counted_as_work():
    found = solve(kanmg.NestedIteration(LM, steps=0, redraw=0.5))
    unit = PROBLEM.work(HIERARCHY[2].evaluator)
    expected = sum(PROBLEM.candidates_work(HIERARCHY[level].evaluator) for level in (1, 2)) / unit
    records = [record for record in found.history if record.event == "redraw"]
    assert records[-1].work_units - found.history[0].work_units == pytest.approx(expected, rel=1e-12)


def test_draws_of_other_levels_and_runs_differ():
    seen = []

    class Spy(kanmg.Collocation):
        def redrawn(self, *arguments, **options):
            drawn = super().redrawn(*arguments, **options)
            seen.append((options["seed"], drawn.drawn[0].tobytes()))
            return drawn

    problem = Spy(coordinates=("x", "y"), fields=("u",), terms=PROBLEM.terms)
    for _ in range(2):
        solve(kanmg.NestedIteration(LM, steps=1, redraw=0.5), problem)
    assert seen[:2] == seen[2:]
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]


@pytest.mark.parametrize(
    "method",
    [
        kanmg.VCycle(pre_steps=2, coarse_steps=2, redraw=0.5),
        kanmg.VCycle(pre_steps=2, coarse_steps=2, redraw=0.5, variant="tau"),
        kanmg.FullMultigrid(steps=2, coarse_steps=3, redraw=0.5, coarse_fraction=0.5),
    ],
)
def test_corrections_lower_the_loss_on_the_drawn_points(method):
    found = solve(method, max_cycles=2)
    records = list(found.history)
    last = max(index for index, record in enumerate(records) if record.event == "redraw")
    losses = [record.loss for record in records[last:] if record.level == 2 and np.isfinite(record.loss)]
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(losses))
    assert losses[-1] < 0.9 * losses[0]
    assert any(record.event == "correct" and record.step_size > 0.0 for record in records[last:])


# ---------------------------------------------------------------------------------------------------------- checkpoints


class Killed(Exception):  # noqa: N818 - not an error: what a test raises to end a run
    pass


def timeless(records):
    return [repr(record._replace(seconds=0.0)) for record in records]


@pytest.mark.parametrize(
    "method",
    [
        kanmg.NestedIteration(LM, steps=2, redraw=0.5, coarse_fraction=0.5, continuation=kanmg.Continuation(2, 1)),
        kanmg.FullMultigrid(steps=1, coarse_steps=2, redraw=0.3, variant="tau"),
    ],
)
def test_a_run_killed_after_a_draw_ends_with_the_same_bits(method, tmp_path):
    def run(**more):
        return solve(method, hierarchy=TWO_LEVELS, max_cycles=1, **more)

    undisturbed = run()
    first = undisturbed.history.column("event").tolist().index("redraw")
    for stop in range(first, len(undisturbed.history)):
        path, seen = tmp_path / f"{stop}.kanmg", []

        def kill(record, seen=seen, stop=stop):
            seen.append(record)
            if len(seen) == stop:
                raise Killed

        with pytest.raises(Killed):
            run(checkpoint=path, callback=kill)
        resumed = run(checkpoint=path)
        assert resumed.coefficients.tobytes() == undisturbed.coefficients.tobytes()
        assert timeless(resumed.history) == timeless(undisturbed.history)
        assert (resumed.loss, resumed.message) == (undisturbed.loss, undisturbed.message)


# ------------------------------------------------------------------------------------------------------------- refusals


def test_problems_without_candidates_are_refused():
    with pytest.raises(KanmgValueError, match=r"`redraw` takes points from the candidates.*kanmg\.Term\(\.\.\., cand"):
        solve(kanmg.NestedIteration(redraw=0.5), make(None))


@pytest.mark.parametrize("cycle", [kanmg.NestedIteration, kanmg.VCycle, kanmg.FullMultigrid])
@pytest.mark.parametrize(
    ("redraw", "error", "words"),
    [
        (1.0, KanmgValueError, r"got `redraw=1`\. It must lie in \[0, 1\)"),
        (-0.1, KanmgValueError, r"got `redraw=-0\.1`"),
        (True, KanmgTypeError, "got `redraw=True`. Pass a number"),
        ("half", KanmgTypeError, "got `redraw='half'`"),
    ],
)
def test_senseless_parts_are_refused_at_once(cycle, redraw, error, words):
    with pytest.raises(error, match=words):
        cycle(redraw=redraw)
