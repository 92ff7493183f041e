"""Continuation: the path of problems, the programs, what a run minimises on it, kills, and what is refused."""

from __future__ import annotations

import dataclasses
import signal

import numpy as np
import pytest
import torch

import kanmg
from kanmg.checkpoint import _known_classes
from kanmg.errors import ConvergenceError, KanmgTypeError, KanmgValueError
from kanmg.program import Choose, Draw, Pose, Prolong, Resume, Smooth
from kanmg.storage import read_file

POINTS = np.linspace(-1.0, 1.0, 41).reshape(-1, 1)
HIERARCHY = kanmg.uniform_hierarchy((1, 2, 1), degree=4, num_intervals=3, num_levels=3, evaluator="cpu")
COARSE = kanmg.Hierarchy([HIERARCHY[0].network], evaluator="cpu")
LM, LBFGS, ADAM = kanmg.LevenbergMarquardt(acceleration=False), kanmg.LBFGS(), kanmg.Adam(step_size=0.02)
PATH = kanmg.Continuation(stages=3, steps=4)
SEED = 5


def layer(nu=0.01, easier=1.0, slope=None, seen=None):
    """nu u'' + u' = 1 between zeros: a layer whose width is nu; `seen` collects nu and the slope of every call."""
    constant = kanmg.Constant("nu", nu, easier=easier)
    factor = slope or kanmg.Constant("slope", 1.0)

    def equation(_, u):
        if seen is not None:
            seen.append((float(constant), float(factor)))
        return constant * u.d("x", "x") + factor * u.d("x") - 1.0

    terms = [
        kanmg.Term("equation", equation, POINTS),
        kanmg.Term("boundary", lambda _, u: u.value, POINTS[[0, -1]], weight=10.0),
    ]
    return kanmg.Collocation(coordinates=("x",), fields=("u",), terms=terms)


PROBLEM = layer()


def stages_of(method, problem_of=layer, **options):
    """The numbers that the residual saw in each stage, a stage beginning with every "pose"; the solution."""
    seen = []
    problem = problem_of(seen=seen)
    seen.clear()
    numbers = []

    def collect(record):
        # Events tell what was done: all calls since the record before belong to this one.
        if record.event == "pose":
            numbers.append(set())
        if numbers:
            numbers[-1].update(seen)
        seen.clear()

    solution = kanmg.solve(problem, COARSE, method=method, callback=collect, throw=False, **options)
    return numbers, solution


def timeless(records):
    return [repr(record._replace(seconds=0.0)) for record in records]


# ------------------------------------------------------------------------------------------------------------- programs


def eases(program):
    return [instruction.ease for instruction in program.prologue if isinstance(instruction, Draw | Pose)]


@pytest.mark.parametrize("num_levels", [1, 3])
@pytest.mark.parametrize("method", [kanmg.NestedIteration, kanmg.VCycle, kanmg.FullMultigrid])
def test_the_program_begins_with_the_path(method, num_levels):
    written = method(LM, continuation=PATH).program(range(num_levels))
    alone = method(LM).program(range(num_levels))
    first = (Pose(0, 1.0), Smooth(0, 4, LM), Pose(0, 0.5), Smooth(0, 4, LM), Pose(0, 0.0))
    # A V-cycle alone begins on the finest level: the last stage has its coarse steps before.
    last = (Smooth(0, 100, LM),) if method is kanmg.VCycle and num_levels > 1 else ()
    assert written.prologue == first + last + alone.prologue
    assert written.cycle == alone.cycle


@pytest.mark.parametrize("cycle", [kanmg.VCycle, kanmg.FullMultigrid])
@pytest.mark.parametrize("starts", [1, kanmg.Starts(2, steps=3)])
def test_the_problem_itself_is_smoothed_on_the_coarsest_level_before_any_other(cycle, starts):
    method = cycle(LM, coarse_steps=6, starts=starts, continuation=PATH)
    solution = kanmg.solve(PROBLEM, HIERARCHY, method=method, seed=SEED, max_cycles=0)
    records = list(solution.history)
    last_pose = max(index for index, record in enumerate(records) if record.event == "pose")
    stage = records[last_pose + 1 : last_pose + 7]
    assert [(record.level, record.event) for record in stage] == [(0, "smooth")] * 6
    assert records[last_pose + 7].event == "prolong"
    assert stage[-1].loss < 0.5 * records[last_pose].loss


def test_several_starts_solve_the_easiest_problem():
    starts = kanmg.Starts(2, steps=7, fraction=0.5, keep=2, further_steps=3)
    written = kanmg.NestedIteration(LM, steps=9, starts=starts, continuation=PATH).program(range(2))
    draws = [
        instruction
        for number in range(2)
        for instruction in (Draw(0, number, 0.5, 1.0), Smooth(0, 7, LM), Choose(0, 2))
    ]
    resumes = [instruction for rank in range(2) for instruction in (Resume(0, rank), Smooth(0, 3, LM), Choose(0))]
    stages = [Smooth(0, 4, LM), Pose(0, 0.5), Smooth(0, 4, LM), Pose(0, 0.0)]
    assert list(written.prologue) == [*draws, *resumes, *stages, Smooth(0, 9, LM), Prolong(0)]


def test_stages_without_steps_are_posed_all_the_same():
    written = kanmg.NestedIteration(LM, continuation=kanmg.Continuation(5, steps=0)).program(range(1))
    assert written.prologue == tuple(Pose(0, ease) for ease in (1.0, 0.75, 0.5, 0.25, 0.0))


def test_given_coefficients_need_no_path():
    method = kanmg.NestedIteration(LM, steps=3, starts=4, continuation=PATH)
    without = kanmg.NestedIteration(LM, steps=3)
    assert method.program(range(3), 0) == without.program(range(3), 0)
    initial = kanmg.initial_coefficients(HIERARCHY[0].network, POINTS, seed=1)
    first, second = (kanmg.solve(PROBLEM, HIERARCHY, method=each, initial=initial) for each in (method, without))
    assert first.coefficients.tobytes() == second.coefficients.tobytes()
    assert timeless(first.history) == timeless(second.history)


def test_a_number_is_one_of_stages():
    method = kanmg.VCycle(continuation=np.int64(3))
    assert method.continuation == kanmg.Continuation(3) == kanmg.Continuation(stages=3, steps=30)
    assert hash(method) == hash(kanmg.VCycle(continuation=kanmg.Continuation(3)))
    assert kanmg.FullMultigrid().continuation is None


# ----------------------------------------------------------------------------------------------------- the path itself


def test_constants_move_geometrically_or_straight():
    geometric, negative = kanmg.Constant("a", 0.01, easier=1.0), kanmg.Constant("b", -4.0, easier=-1.0)
    straight, from_zero = kanmg.Constant("c", -1.0, easier=3.0), kanmg.Constant("d", 5.0, easier=0.0)
    assert [geometric.eased(part) for part in (0.0, 0.5, 1.0)] == pytest.approx([0.01, 0.1, 1.0], rel=1e-15)
    assert [negative.eased(part) for part in (0.0, 0.5, 1.0)] == pytest.approx([-4.0, -2.0, -1.0], rel=1e-15)
    assert [straight.eased(part) for part in (0.0, 0.25, 1.0)] == [-1.0, 0.0, 3.0]
    assert [from_zero.eased(part) for part in (0.0, 0.5, 1.0)] == [5.0, 2.5, 0.0]
    assert kanmg.Constant("e", 2.0).eased(0.7) == 2.0


def test_the_problem_itself_is_at_the_end_of_the_path():
    assert PROBLEM.can_be_eased
    assert PROBLEM.eased(0.0) is PROBLEM
    other = PROBLEM.eased(0.5)
    assert {constant.name: constant.number for constant in other.constants} == pytest.approx({"nu": 0.1, "slope": 1.0})
    assert other.eased(0.0) is other
    theta = kanmg.initial_coefficients(HIERARCHY[0].network, POINTS, seed=3)
    for part, nu in ((0.5, 0.1), (1.0, 1.0)):
        expected = layer(nu).loss(HIERARCHY[0].evaluator, theta)
        assert PROBLEM.eased(part).loss(HIERARCHY[0].evaluator, theta) == pytest.approx(expected, rel=1e-12)


def test_problems_without_an_easier_value_have_no_path():
    plain = layer(easier=None)
    assert not plain.can_be_eased
    assert plain.eased(0.5) is plain
    regression = kanmg.Regression(POINTS, np.exp(POINTS))
    assert not regression.can_be_eased
    assert regression.eased(1.0) is regression


@pytest.mark.parametrize("starts", [1, kanmg.Starts(3, steps=5)])
def test_every_stage_has_its_own_problem(starts):
    slope = kanmg.Constant("slope", 1.0, easier=-1.0)
    method = kanmg.NestedIteration(LM, steps=6, starts=starts, continuation=kanmg.Continuation(stages=5, steps=3))
    stages, solution = stages_of(method, lambda seen: layer(slope=slope, seen=seen), seed=SEED)
    expected = [(0.01 * 100.0**ease, 1.0 - 2.0 * ease) for ease in (1.0, 0.75, 0.5, 0.25, 0.0)]
    if starts != 1:
        expected = expected[1:]
    assert len(stages) == len(expected)
    for numbers, pair in zip(stages, expected, strict=True):
        assert len(numbers) == 1
        assert next(iter(numbers)) == pytest.approx(pair, rel=1e-13)
    counts = [record.event for record in solution.history]
    assert counts.count("pose") == len(expected)


def test_starts_see_the_easiest_problem_and_report_its_loss():
    method = kanmg.NestedIteration(LM, steps=2, starts=kanmg.Starts(3, steps=5), continuation=PATH)
    solution = kanmg.solve(PROBLEM, COARSE, method=method, seed=SEED)
    alone = kanmg.solve(layer(1.0, None), COARSE, method=dataclasses.replace(method, continuation=None), seed=SEED)
    assert solution.history.starts == pytest.approx(alone.history.starts, rel=1e-6)
    best, worst = solution.history.starts.min(), solution.history.starts.max()
    words = f"losses of the easiest problem on all samples {best:.1e} to {worst:.1e}."
    assert f"Best of 3 starts on the coarsest level, {words}" in solution.message


def test_it_is_what_one_would_do_by_hand():
    method = kanmg.NestedIteration(LM, steps=(8, 5, 3), continuation=PATH)
    solution = kanmg.solve(PROBLEM, HIERARCHY, method=method, seed=SEED)
    theta = kanmg.initial_coefficients(HIERARCHY[0].network, PROBLEM.training_inputs(), seed=SEED)
    for ease in (1.0, 0.5):
        stage = kanmg.NestedIteration(LM, steps=4)
        theta = kanmg.solve(PROBLEM.eased(ease), COARSE, method=stage, initial=theta).coefficients
    by_hand = kanmg.solve(PROBLEM, HIERARCHY, method=kanmg.NestedIteration(LM, steps=(8, 5, 3)), initial=theta)
    assert solution.coefficients.tobytes() == by_hand.coefficients.tobytes()
    assert solution.loss == by_hand.loss


# --------------------------------------------------------------------------------- books: the best, tolerances, figures


def test_the_best_coefficients_are_those_of_the_last_problem():
    # The easiest problem has the lowest loss by far; its coefficients are not returned.
    method = kanmg.NestedIteration(LM, steps=1, continuation=kanmg.Continuation(2, steps=25))
    solution = kanmg.solve(PROBLEM, COARSE, method=method, seed=SEED)
    records = list(solution.history)
    posed = [index for index, record in enumerate(records) if record.event == "pose"]
    easy = min(record.loss for record in records[posed[0] : posed[1]])
    assert easy < 1e-2 * solution.loss
    assert solution.loss == min(record.loss for record in records[posed[1] :])
    assert solution.loss == pytest.approx(PROBLEM.loss(COARSE[0].evaluator, solution.coefficients), rel=1e-12)


@pytest.mark.parametrize("starts", [1, kanmg.Starts(2, steps=20)])
def test_an_easier_problem_does_not_meet_the_tolerance(starts):
    method = kanmg.NestedIteration(LM, steps=2, starts=starts, continuation=kanmg.Continuation(2, steps=25))
    with pytest.raises(ConvergenceError) as info:
        kanmg.solve(PROBLEM, COARSE, method=method, seed=SEED, atol=1e-3)
    solution = info.value.solution
    assert [record.event for record in solution.history].count("pose") == (2 if starts == 1 else 1)
    posed = [index for index, record in enumerate(solution.history) if record.event == "pose"]
    assert min(solution.history.column("loss")[: posed[-1]]) < 1e-3 < solution.loss


@pytest.mark.parametrize("smoother", [LM, LBFGS, ADAM])
@pytest.mark.parametrize("starts", [1, kanmg.Starts(2, steps=3), kanmg.Starts(2, steps=3, fraction=0.5)])
@pytest.mark.parametrize("step", [2, 5, 8])
def test_a_run_that_ends_on_the_way_tells_the_loss_of_the_problem(smoother, starts, step):
    def press(record):
        if record.step == step:
            signal.raise_signal(signal.SIGINT)

    method = kanmg.NestedIteration(smoother, steps=5, starts=starts, continuation=kanmg.Continuation(4, steps=5))
    solution = kanmg.solve(PROBLEM, HIERARCHY, method=method, seed=SEED, callback=press)
    assert solution.status is kanmg.Status.INTERRUPTED
    expected = PROBLEM.loss(HIERARCHY[0].evaluator, solution.coefficients)
    assert solution.loss == pytest.approx(expected, rel=1e-12)
    assert f"Loss {expected:.3e} on level 0" in solution.message


def test_figures_begin_with_the_problem_itself():
    method = kanmg.NestedIteration(LM, steps=4, starts=kanmg.Starts(2, steps=3), continuation=PATH)
    solution = kanmg.solve(PROBLEM, HIERARCHY, method=method, seed=SEED)
    course = solution.history.course()
    posed = [index for index, record in enumerate(solution.history) if record.event == "pose"]
    assert course == list(solution.history)[posed[-1] :]
    assert course[0].event == "pose"
    assert course[0].loss >= course[1].loss


# ---------------------------------------------------------------------------------------------------------------- kills


class Killed(Exception):  # noqa: N818 - not an error: what a test raises to end a run
    pass


@pytest.mark.parametrize(
    "method",
    [
        kanmg.NestedIteration(LM, steps=2, continuation=kanmg.Continuation(3, 2)),
        kanmg.NestedIteration(ADAM, steps=2, starts=kanmg.Starts(2, 2, 0.5), continuation=kanmg.Continuation(3, 0)),
        kanmg.NestedIteration(
            LBFGS,
            steps=2,
            coarse_fraction=(0.5, 0.7, 1.0),
            starts=kanmg.Starts(3, 2, 0.5, keep=2, further_steps=2),
            continuation=kanmg.Continuation(2, 2),
        ),
        kanmg.VCycle(LM, pre_steps=1, post_steps=0, coarse_steps=1, continuation=kanmg.Continuation(2, 2)),
    ],
)
def test_a_run_killed_after_every_record_ends_with_the_same_bits(method, tmp_path):
    def run(path=None, callback=None):
        return kanmg.solve(
            PROBLEM, HIERARCHY, method=method, seed=SEED, max_cycles=1, checkpoint=path, callback=callback
        )

    def kill(_):
        raise Killed

    undisturbed, path = run(), tmp_path / "run.kanmg"
    first = next(index for index, record in enumerate(undisturbed.history) if record.level > 0)
    for index in range(first + 1):
        with pytest.raises(Killed):
            run(path, kill)
        assert len(read_file(path, "checkpoint", _known_classes(method.program(HIERARCHY)))["history"]["loss"]) == (
            index + 1
        )
    resumed = run(path)
    assert resumed.coefficients.tobytes() == undisturbed.coefficients.tobytes()
    assert timeless(resumed.history) == timeless(undisturbed.history)
    assert (resumed.work_units, resumed.message) == (undisturbed.work_units, undisturbed.message)


def test_another_path_is_another_run(tmp_path):
    def run(path):
        method = kanmg.NestedIteration(LM, steps=1, continuation=path)
        return kanmg.solve(PROBLEM, COARSE, method=method, checkpoint=tmp_path / "a")

    run(kanmg.Continuation(2, 1))
    with pytest.raises(kanmg.errors.CheckpointError, match=r"`method` had `continuation=Continuation.stages=2"):
        run(kanmg.Continuation(3, 1))


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("starts", [1, 2])
@pytest.mark.parametrize("problem", [layer(easier=None), kanmg.Regression(POINTS, torch.exp(torch.tensor(POINTS)))])
def test_a_path_from_nowhere_is_refused(problem, starts):
    method = kanmg.NestedIteration(LM, starts=starts, continuation=2)
    with pytest.raises(KanmgValueError, match=r"this one has none. State it .* `kanmg.Constant\(\"nu\", 1e-3, easier"):
        kanmg.solve(problem, COARSE, method=method)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: kanmg.Continuation(1), KanmgValueError, "`Continuation` got `stages=1`. It must be at least 2"),
        (lambda: kanmg.Continuation(2.0), KanmgTypeError, "`stages=2.0`. Pass an integer, at least 2"),
        (lambda: kanmg.Continuation(True), KanmgTypeError, "`stages=True`"),
        (lambda: kanmg.Continuation(steps=-1), KanmgValueError, "`steps=-1`. It must be at least 0"),
        (lambda: kanmg.NestedIteration(continuation=1), KanmgValueError, "`stages=1`"),
        (lambda: kanmg.VCycle(continuation="path"), KanmgTypeError, "`VCycle` got `continuation='path'`. Pass"),
        (lambda: kanmg.VCycle(continuation=True), KanmgTypeError, "`continuation=True`"),
        (
            lambda: kanmg.FullMultigrid(continuation=kanmg.Continuation),
            KanmgTypeError,
            r"Write `kanmg.Continuation\(...\)`",
        ),
    ],
)
def test_senseless_options_are_refused_at_once(make, error, words):
    with pytest.raises(error, match=words):
        make()
