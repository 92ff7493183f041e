"""The programs that cycles write, and the options they refuse."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import kanmg
from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.program import Ascend, Descend, Program, Prolong, Smooth

LBFGS, ADAM = kanmg.LBFGS(), kanmg.Adam()


def letters(instructions):
    """Every instruction as a word: S1x5 smooths level 1 five times; P, D and A prolong, descend and ascend."""
    words = []
    for instruction in instructions:
        if isinstance(instruction, Smooth):
            words.append(f"S{instruction.level}x{instruction.steps}")
        else:
            words.append({Prolong: "P", Descend: "D", Ascend: "A"}[type(instruction)] + str(instruction.level))
    return " ".join(words)


def program(cycle, num_levels, start=0):
    return cycle.program(range(num_levels), start)


# ------------------------------------------------------------------------------------------------------------- programs


def test_nested_iteration_climbs_once_and_stays_on_the_finest_level():
    written = program(kanmg.NestedIteration(steps=(32, 16, 8, 4)), 4)
    assert letters(written.prologue) == "S0x32 P0 S1x16 P1 S2x8 P2"
    assert letters(written.cycle) == "S3x4"
    assert written.num_cycles == 1


def test_levels_without_steps_are_passed_through():
    written = program(kanmg.NestedIteration(steps=(0, 0, 7, 0)), 4)
    assert letters(written.prologue) == "P0 P1 S2x7 P2"
    assert written.cycle == ()


def test_v_cycle_descends_once():
    written = program(kanmg.VCycle(pre_steps=3, post_steps=2, coarse_steps=9), 3)
    assert letters(written.prologue) == "P0 P1"
    assert letters(written.cycle) == "S2x3 D2 S1x3 D1 S0x9 A1 S1x2 A2 S2x2"
    assert written.num_cycles == 20


def test_w_cycle_treats_every_level_twice_but_the_coarsest_once_a_visit():
    written = program(kanmg.VCycle(pre_steps=1, post_steps=0, coarse_steps=5, gamma=2), 4)
    visit_of_1 = "S1x1 D1 S0x5 A1"
    visit_of_2 = f"S2x1 D2 {visit_of_1} {visit_of_1} A2"
    assert letters(written.cycle) == f"S3x1 D3 {visit_of_2} {visit_of_2} A3"


def test_full_multigrid_cycles_on_every_level():
    written = program(kanmg.FullMultigrid(steps=2, coarse_steps=9, cycles_per_level=2), 3)
    cycle_of_1 = "S1x2 D1 S0x9 A1 S1x2"
    cycle_of_2 = f"S2x2 D2 {cycle_of_1} A2 S2x2"
    assert letters(written.prologue) == f"S0x9 S0x9 P0 {cycle_of_1} {cycle_of_1} P1"
    assert letters(written.cycle) == cycle_of_2
    assert written.num_cycles == 2


def test_steps_may_differ_from_level_to_level():
    written = program(kanmg.FullMultigrid(pre_steps=(1, 2), post_steps=(3, 4), coarse_steps=9), 3)
    assert letters(written.cycle) == "S2x2 D2 S1x1 D1 S0x9 A1 S1x3 A2 S2x4"


@pytest.mark.parametrize(
    ("cycle", "prologue", "repeated"),
    [
        (kanmg.NestedIteration(steps=4), "S1x4 P1", "S2x4"),
        (kanmg.VCycle(pre_steps=1, post_steps=1, coarse_steps=2), "P1", "S2x1 D2 S1x1 D1 S0x2 A1 S1x1 A2 S2x1"),
        (
            kanmg.FullMultigrid(steps=1, coarse_steps=2),
            "S1x1 D1 S0x2 A1 S1x1 P1",
            "S2x1 D2 S1x1 D1 S0x2 A1 S1x1 A2 S2x1",
        ),
    ],
)
def test_coefficients_of_a_finer_level_shorten_the_way_up(cycle, prologue, repeated):
    written = program(cycle, 3, start=1)
    assert written.start == 1
    assert letters(written.prologue) == prologue
    assert letters(written.cycle) == repeated


@pytest.mark.parametrize(
    "cycle", [kanmg.NestedIteration(steps=9), kanmg.VCycle(coarse_steps=9), kanmg.FullMultigrid(coarse_steps=9)]
)
def test_one_level_is_only_smoothed(cycle):
    written = program(cycle, 1)
    assert written.prologue == ()
    assert letters(written.cycle) == "S0x9"


def test_every_descent_has_its_ascent():
    cycle = kanmg.FullMultigrid(gamma=3, cycles_per_level=2, variant="tau")
    written = program(cycle, 5)
    below = []
    for instruction in written.prologue + written.cycle:
        if isinstance(instruction, Descend):
            assert instruction.variant == "tau"
            below.append(instruction.level)
        elif isinstance(instruction, Ascend):
            assert below.pop() == instruction.level
    assert below == []


def test_the_coarsest_level_may_have_a_smoother_of_its_own():
    written = program(kanmg.VCycle(smoother=ADAM, coarse_smoother=LBFGS), 2)
    smoothers = [(step.level, step.smoother) for step in written.cycle if isinstance(step, Smooth)]
    assert smoothers == [(1, ADAM), (0, LBFGS), (1, ADAM)]
    written = program(kanmg.NestedIteration(smoother=ADAM, coarse_smoother=LBFGS, starts=2), 2)
    steps = [step for step in written.prologue + written.cycle if isinstance(step, Smooth)]
    assert {(step.level, step.smoother) for step in steps} == {(0, LBFGS), (1, ADAM)}


@pytest.mark.parametrize("cycle", [kanmg.NestedIteration, kanmg.VCycle, kanmg.FullMultigrid])
def test_every_level_may_have_a_smoother_of_its_own(cycle):
    own = [kanmg.Adam(2.0**-level) for level in range(3)]
    written = program(cycle(smoother=own), 3)
    smoothings = {(step.level, step.smoother) for step in written.prologue + written.cycle if isinstance(step, Smooth)}
    assert smoothings == set(enumerate(own))
    written = program(cycle(smoother=own, coarse_smoother=LBFGS), 3)
    smoothings = {(step.level, step.smoother) for step in written.prologue + written.cycle if isinstance(step, Smooth)}
    assert smoothings == {(0, LBFGS), (1, own[1]), (2, own[2])}
    assert cycle(smoother=own) == cycle(smoother=tuple(own))
    with pytest.raises(KanmgValueError, match="got 3 smoothers, but the hierarchy has 4 levels"):
        program(cycle(smoother=own), 4)
    with pytest.raises(KanmgTypeError, match=r"got `smoother='adam'`, one of `smoother`\. Pass a smoother"):
        cycle(smoother=(LBFGS, "adam"))
    assert cycle(smoother=np.array(own)) == cycle(smoother=own)
    assert cycle(smoother=np.array(LBFGS, dtype=object)) == cycle(smoother=(LBFGS,))
    with pytest.raises(KanmgValueError, match=r"got 3 smoothers, but the hierarchy has 1 level\."):
        program(cycle(smoother=own), 1)
    with pytest.raises(KanmgValueError, match=r"got `smoother=\(\)`, no smoother at all"):
        cycle(smoother=[])


def test_fractions_shrink_level_by_level():
    assert program(kanmg.VCycle(coarse_fraction=0.5), 3).fractions == (0.25, 0.5, 1.0)
    assert program(kanmg.NestedIteration(coarse_fraction=[0.1, 0.2, 1]), 3).fractions == (0.1, 0.2, 1)
    assert program(kanmg.NestedIteration(), 2).fractions == (1.0, 1.0)


@pytest.mark.parametrize("cycle", [kanmg.NestedIteration, kanmg.VCycle, kanmg.FullMultigrid])
def test_every_smoothing_knows_when_it_is_idle(cycle):
    written = cycle(starts=2, continuation=2, idle=0.25).program(range(3))
    smoothings = [step for step in written.prologue + written.cycle if isinstance(step, Smooth)]
    assert {step.idle for step in smoothings} == {0.25}
    plain = cycle(starts=2).program(range(3))
    assert {step.idle for step in plain.prologue + plain.cycle if isinstance(step, Smooth)} == {0.0}


def test_cycles_are_values():
    assert kanmg.VCycle(pre_steps=[1, 2]) == kanmg.VCycle(pre_steps=(1, 2))
    assert hash(kanmg.VCycle(pre_steps=[1, 2])) == hash(kanmg.VCycle(pre_steps=(1, 2)))
    assert kanmg.NestedIteration(steps=np.array([3, 2])).steps == (3, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        kanmg.VCycle().gamma = 2
    assert isinstance(program(kanmg.VCycle(), 2), Program)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: kanmg.NestedIteration(steps=-1), KanmgValueError, "`steps=-1`. It must be at least 0"),
        (lambda: kanmg.NestedIteration(steps=(5, -2)), KanmgValueError, "`steps=-2`"),
        (lambda: kanmg.NestedIteration(steps=1.5), KanmgTypeError, "`steps=1.5`. Pass an integer"),
        (lambda: kanmg.NestedIteration(steps=True), KanmgTypeError, "`steps=True`"),
        (lambda: kanmg.NestedIteration(smoother=kanmg.LBFGS), KanmgTypeError, r"Write `LBFGS\(...\)`"),
        (lambda: kanmg.NestedIteration(smoother="adam"), KanmgTypeError, "Pass a smoother"),
        (lambda: kanmg.NestedIteration(coarse_fraction=0), KanmgValueError, "positive and at most 1"),
        (lambda: kanmg.VCycle(coarse_fraction=(0.5, 1.5)), KanmgValueError, "positive and at most 1"),
        (lambda: kanmg.VCycle(coarse_fraction="half"), KanmgTypeError, "`coarse_fraction='half'`"),
        (lambda: kanmg.NestedIteration(idle=1.0), KanmgValueError, "`NestedIteration` got `idle=1`. It must lie in"),
        (lambda: kanmg.VCycle(idle=-0.1), KanmgValueError, "`VCycle` got `idle=-0.1`"),
        (lambda: kanmg.FullMultigrid(idle="soon"), KanmgTypeError, "`FullMultigrid` got `idle='soon'`. Pass a number"),
        (lambda: kanmg.VCycle(gamma=0), KanmgValueError, "`gamma=0`. It must be at least 1"),
        (lambda: kanmg.VCycle(variant="fas"), KanmgValueError, "`variant='fas'`. Use 'tau' or 'galerkin'"),
        (lambda: kanmg.VCycle(coarse_steps=(3, 4)), KanmgTypeError, "`coarse_steps="),
        (lambda: kanmg.VCycle(coarse_smoother=3), KanmgTypeError, "`coarse_smoother=3`"),
        (lambda: kanmg.FullMultigrid(cycles_per_level=0), KanmgValueError, "`cycles_per_level=0`"),
        (lambda: kanmg.FullMultigrid(post_steps=-3), KanmgValueError, "`post_steps=-3`"),
    ],
)
def test_senseless_options_are_refused_at_once(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("cycle", "words"),
    [
        (
            kanmg.NestedIteration(steps=(1, 2)),
            r"`steps=\(1, 2\)`, 2 numbers, but the hierarchy has 3 levels. Pass a tuple of 3",
        ),
        (kanmg.VCycle(pre_steps=(1, 2, 3)), "3 numbers, but the hierarchy has 2 levels above the coarsest"),
        (kanmg.FullMultigrid(post_steps=(1,)), r"`post_steps=\(1,\)`"),
        (kanmg.VCycle(coarse_fraction=(0.5, 1.0)), "but the hierarchy has 3 levels"),
    ],
)
def test_tuples_must_fit_the_hierarchy(cycle, words):
    with pytest.raises(KanmgValueError, match=words):
        program(cycle, 3)


def test_a_start_beyond_the_hierarchy_is_refused():
    with pytest.raises(KanmgValueError, match=r"`start=3` is no level of a hierarchy with 3 levels \(0 to 2\)"):
        program(kanmg.NestedIteration(), 3, start=3)
