"""Several starts on the coarsest level: the same as by hand, the same after a kill, and robust."""

from __future__ import annotations

import dataclasses
import math
import signal

import numpy as np
import pytest
import torch

import kanmg
from kanmg.cycles import Cycle
from kanmg.errors import ConvergenceError, KanmgTypeError, KanmgValueError
from kanmg.program import Choose, Draw, Program, Prolong, Resume, Smooth
from kanmg.starts import is_outstanding

X = np.random.default_rng(0).uniform(-1, 1, (160, 2))
Y = np.exp(np.sin(np.pi * X[:, :1]) + X[:, 1:] ** 2)
FULL, BATCHED = kanmg.Regression(X, Y), kanmg.Regression(X, Y, batch_size=40)
HIERARCHY = kanmg.uniform_hierarchy((2, 1, 1), degree=3, num_intervals=3, num_levels=3, evaluator="cpu")
COARSE = kanmg.Hierarchy([HIERARCHY[0].network], evaluator="cpu")
LBFGS, ADAM = kanmg.LBFGS(), kanmg.Adam(step_size=0.02)
NUMBER, STEPS, SEED = 4, 12, 7
STARTS = kanmg.Starts(NUMBER, steps=STEPS)


def drawn(number, seed=SEED, problem=FULL):
    """The coefficients that a start begins with, as the docstring of `Starts` says."""
    sequence = np.random.SeedSequence(seed, spawn_key=(number,)) if number else seed
    return kanmg.initial_coefficients(HIERARCHY[0].network, problem.training_inputs(), seed=sequence)


def by_hand(problem, fraction, smoother):
    """Every start alone on the coarsest level, with the loss of its last coefficients on all samples."""
    part = problem.subset(fraction)
    method = kanmg.NestedIteration(smoother, steps=STEPS)
    runs = [kanmg.solve(part, COARSE, method=method, initial=drawn(number), throw=False) for number in range(NUMBER)]
    return runs, [problem.loss(HIERARCHY[0].evaluator, run.coefficients) for run in runs]


def work_of(problem, *, gradient):
    """Work units of one loss on the coarsest level."""
    return problem.work(HIERARCHY[0].evaluator, gradient=gradient) / FULL.work(HIERARCHY[-1].evaluator)


def timeless(records):
    return [repr(record._replace(seconds=0.0)) for record in records]


# -------------------------------------------------------------------------------------------------------- one, and many


@pytest.mark.parametrize(
    "method",
    [
        kanmg.NestedIteration(steps=5),
        kanmg.VCycle(pre_steps=1, post_steps=1, coarse_steps=4),
        kanmg.FullMultigrid(ADAM, steps=2, coarse_steps=4, coarse_smoother=LBFGS),
    ],
)
def test_one_start_is_the_run_without_the_option(method):
    for starts in (1, kanmg.Starts(1, steps=9, fraction=0.5)):
        other = dataclasses.replace(method, starts=starts)
        assert other.program(HIERARCHY) == method.program(HIERARCHY) == method.program(HIERARCHY, 0)
    solution = kanmg.solve(FULL, HIERARCHY, method=method, max_cycles=2, seed=SEED)
    given = kanmg.solve(FULL, HIERARCHY, method=method, max_cycles=2, initial=drawn(0))
    assert solution.coefficients.tobytes() == given.coefficients.tobytes()
    assert timeless(solution.history) == timeless(given.history)
    assert solution.history.starts.shape == (0,)
    assert "starts" not in solution.message


@pytest.mark.parametrize("fraction", [1.0, 0.25])
@pytest.mark.parametrize("level_fraction", [1.0, 0.5])
def test_it_is_what_one_would_do_by_hand(fraction, level_fraction):
    runs, losses = by_hand(FULL, fraction, LBFGS)
    best = int(np.argmin(losses))
    refine = kanmg.NestedIteration(steps=(8, 6, 4), coarse_fraction=level_fraction)
    refined = kanmg.solve(FULL, HIERARCHY, method=refine, initial=runs[best].coefficients)
    method = dataclasses.replace(refine, starts=kanmg.Starts(NUMBER, steps=STEPS, fraction=fraction))
    solution = kanmg.solve(FULL, HIERARCHY, method=method, seed=SEED)

    assert best > 0
    assert solution.coefficients.tobytes() == refined.coefficients.tobytes()
    assert solution.loss == refined.loss
    assert solution.history.starts == pytest.approx(losses, rel=1e-13)

    # By hand, the units of work of a start are those of the coarsest level on its samples.
    part = work_of(FULL.subset(fraction), gradient=True)
    work = part * sum(run.work_units for run in runs) + refined.work_units
    # What L-BFGS knows of its last coefficients is used: for the comparison if it has seen all samples, and at the
    # beginning of the refinement if that sees the same.
    if fraction < 1.0:
        work += NUMBER * work_of(FULL, gradient=False)
    if fraction == level_fraction**2:
        work -= part
    assert solution.work_units == pytest.approx(work, rel=1e-12)


def test_fewer_samples_cost_as_much_less():
    steps = [
        kanmg.solve(FULL, COARSE, method=kanmg.NestedIteration(ADAM, steps=0, starts=kanmg.Starts(3, 10, fraction)))
        for fraction in (1.0, 0.125)
    ]
    value = FULL.work(COARSE[0].evaluator, gradient=False) / FULL.work(COARSE[0].evaluator)
    assert [solution.work_units for solution in steps] == pytest.approx([30 + 3 * value, 30 / 8 + 3 * value])


def test_mini_batches_are_those_of_a_run_of_its_own():
    runs, losses = by_hand(BATCHED, 0.5, ADAM)
    best = int(np.argmin(losses))
    refine = kanmg.NestedIteration(ADAM, steps=(3, 5, 2))
    refined = kanmg.solve(BATCHED, HIERARCHY, method=refine, initial=runs[best].coefficients)
    method = dataclasses.replace(refine, starts=kanmg.Starts(NUMBER, steps=STEPS, fraction=0.5))
    solution = kanmg.solve(BATCHED, HIERARCHY, method=method, seed=SEED)
    assert solution.coefficients.tobytes() == refined.coefficients.tobytes()
    assert solution.history.starts.tolist() == losses


@pytest.mark.parametrize(
    "method",
    [
        kanmg.NestedIteration(LBFGS, steps=(0, 5, 5)),
        kanmg.VCycle(ADAM, pre_steps=2, post_steps=2, coarse_steps=4, coarse_smoother=LBFGS),
        kanmg.VCycle(LBFGS, pre_steps=2, post_steps=2, coarse_steps=4, variant="tau", coarse_fraction=0.5),
        kanmg.FullMultigrid(ADAM, steps=2, coarse_steps=4, coarse_smoother=LBFGS),
    ],
)
def test_every_method_goes_on_with_the_best(method):
    runs, losses = by_hand(FULL, 1.0, LBFGS)
    initial = runs[int(np.argmin(losses))].coefficients
    by_itself = kanmg.solve(FULL, HIERARCHY, method=method, initial=initial, max_cycles=2)
    solution = kanmg.solve(FULL, HIERARCHY, method=dataclasses.replace(method, starts=STARTS), seed=SEED, max_cycles=2)
    assert solution.coefficients.tobytes() == by_itself.coefficients.tobytes()


@pytest.mark.parametrize("method", [kanmg.NestedIteration, kanmg.VCycle, kanmg.FullMultigrid])
def test_the_program_begins_with_the_starts(method):
    options = {} if method is kanmg.NestedIteration else {"coarse_smoother": ADAM}
    smoother = ADAM if options else LBFGS
    written = method(LBFGS, starts=kanmg.Starts(2, 30, 0.5), **options).program(range(2))
    alone = method(LBFGS, **options).program(range(2))
    first = (Draw(0, 0, 0.5), Smooth(0, 30, smoother), Choose(0), Draw(0, 1, 0.5), Smooth(0, 30, smoother), Choose(0))
    assert written.prologue == first + alone.prologue
    assert written.cycle == alone.cycle


def test_a_number_alone_has_the_defaults():
    method = kanmg.VCycle(starts=np.int64(3))
    assert method.starts == kanmg.Starts(3) == kanmg.Starts(3, steps=50, fraction=1.0)
    assert hash(method) == hash(kanmg.VCycle(starts=kanmg.Starts(3)))


def test_given_coefficients_are_the_only_start():
    method = kanmg.NestedIteration(steps=4)
    several = dataclasses.replace(method, starts=5)
    for level in (0, 1):
        theta = kanmg.initial_coefficients(HIERARCHY[level].network, X, seed=1)
        solutions = [kanmg.solve(FULL, HIERARCHY, method=each, initial=theta) for each in (method, several)]
        assert timeless(solutions[0].history) == timeless(solutions[1].history)


def test_starts_of_different_seeds_have_nothing_in_common():
    method = kanmg.NestedIteration(steps=0, starts=kanmg.Starts(4, steps=0))
    losses = [kanmg.solve(FULL, COARSE, method=method, seed=seed).history.starts for seed in (0, 1, 2, 2**32)]
    assert len(np.unique(losses)) == 16
    assert losses[1].tolist() == [FULL.loss(HIERARCHY[0].evaluator, drawn(i, seed=1)) for i in range(4)]


# ---------------------------------------------------------------------------------------------------------- kept starts

FURTHER = 9


def further_by_hand(problem, theta, fraction):
    """What the further steps make of a start that was kept, and its loss on all samples."""
    run = kanmg.solve(
        problem.subset(fraction), COARSE, method=kanmg.NestedIteration(LBFGS, steps=FURTHER), initial=theta, throw=False
    )
    return run, problem.loss(HIERARCHY[0].evaluator, run.coefficients)


def kept(keep, fraction=1.0, steps=STEPS):
    return kanmg.Starts(NUMBER, steps=steps, fraction=fraction, keep=keep, further_steps=FURTHER)


@pytest.mark.parametrize("fraction", [1.0, 0.25])
@pytest.mark.parametrize("level_fraction", [1.0, 0.5])
@pytest.mark.parametrize("keep", [1, 2, NUMBER])
def test_kept_starts_are_smoothed_further_and_compared_once_more(fraction, level_fraction, keep):
    runs, losses = by_hand(FULL, fraction, LBFGS)
    order = np.argsort(losses)[:keep]
    resumed = [further_by_hand(FULL, runs[number].coefficients, level_fraction) for number in order]
    second = [loss for _, loss in resumed]
    chosen = resumed[int(np.argmin(second))][0].coefficients

    refine = kanmg.NestedIteration(steps=(8, 6, 4), coarse_fraction=(level_fraction, 1.0, 1.0))
    refined = kanmg.solve(FULL, HIERARCHY, method=refine, initial=chosen)
    method = dataclasses.replace(refine, starts=kept(keep, fraction))
    solution = kanmg.solve(FULL, HIERARCHY, method=method, seed=SEED)

    choices = [record.loss for record in solution.history if record.event == "choose"]
    assert solution.history.starts.tolist() == losses == choices[:NUMBER]
    assert choices[NUMBER:] == second
    assert solution.coefficients.tobytes() == refined.coefficients.tobytes()
    assert solution.loss == refined.loss
    assert f"; the best {keep} went on." in solution.message


def test_the_program_resumes_the_best():
    written = kanmg.NestedIteration(LBFGS, starts=kanmg.Starts(2, 30, 0.5, keep=2, further_steps=7)).program(range(2))
    alone = kanmg.NestedIteration(LBFGS).program(range(2))
    draws = [step for i in range(2) for step in (Draw(0, i, 0.5), Smooth(0, 30, LBFGS), Choose(0, 2))]
    resumes = [step for i in range(2) for step in (Resume(0, i), Smooth(0, 7, LBFGS), Choose(0))]
    assert written.prologue == (*draws, *resumes, *alone.prologue)


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("is_lucky", [True, False])
def test_more_starts_are_drawn_where_none_was_lucky(keep, is_lucky, monkeypatch):
    seen = []

    def judge(losses):
        seen.append(losses)
        return is_lucky

    monkeypatch.setattr("kanmg.machine.is_outstanding", judge)
    starts = kanmg.Starts(2, steps=STEPS, keep=keep, further_steps=FURTHER if keep > 1 else 0, more=3)
    plain = dataclasses.replace(starts, number=2 if is_lucky else 5, more=0)
    method = kanmg.NestedIteration(LBFGS, steps=4, starts=starts)
    solution = kanmg.solve(FULL, HIERARCHY, method=method, seed=SEED)
    expected = kanmg.solve(FULL, HIERARCHY, method=dataclasses.replace(method, starts=plain), seed=SEED)
    assert solution.coefficients.tobytes() == expected.coefficients.tobytes()
    assert timeless(solution.history) == timeless(expected.history)
    assert seen == [tuple(expected.history.starts[:2])]
    said = "3 of them because none of the first 2 was lucky" in solution.message
    assert said is not is_lucky


def test_when_a_start_is_lucky():
    assert is_outstanding([1.0, 0.09, 1.1, 0.9])
    assert not is_outstanding([1.0, 0.11, 1.2, 0.9])
    assert is_outstanding([1.0, 0.11, 1.0, 0.9])  # within a decade
    assert is_outstanding([math.nan, math.nan, 1.0])
    assert not is_outstanding([math.nan, math.nan])
    assert not is_outstanding([])
    # The starts of the default method: KAN-2 seeds 4 and 8, Helmholtz seed 0, KAN-1 with [2,1,1].
    assert not is_outstanding([1.7e-5, 9.8e-7, 1.3e-6, 1.5e-6, 1.3e-6, 4.4e-7, 2.6e-6, 3.0e-6])
    assert is_outstanding([1.5e-5, 1.6e-6, 2.1e-7, 4.2e-8, 1.3e-5, 4.6e-7, 1.5e-7, 2.0e-8])
    assert not is_outstanding([2.6e-3, 1.8e-1, 3.5e-3, 1.8e-3, 2.1e-1, 6.7e-1, 7.1e-3, 2.3e-3])
    assert is_outstanding([5.2e-8, 5.3e-8, 6.1e-8, 5.4e-8, 5.2e-8])


def test_starts_are_kept_only_for_further_steps():
    with pytest.raises(KanmgValueError, match=r"`keep=2` without `further_steps`.*e.g. `further_steps=100`"):
        kanmg.Starts(2, keep=2)
    assert kanmg.Starts(3, keep=3, further_steps=1).keep == 3


def test_no_more_starts_are_kept_than_drawn():
    with pytest.raises(KanmgValueError, match=r"`keep=3`, but there are only 2 to keep.*`kanmg.Starts\(6, keep=3"):
        kanmg.Starts(2, keep=3, further_steps=10)


@pytest.mark.parametrize("numbers", [(0,), (1, 3), (0, 1, 2)])
def test_fewer_finite_starts_than_are_to_be_kept(numbers):
    problem = failing(numbers, math.nan)
    method = kanmg.NestedIteration(LBFGS, steps=5, starts=kept(3))
    solution = kanmg.solve(problem, COARSE, method=method, seed=SEED)
    healthy = [number for number in range(NUMBER) if number not in numbers]
    assert np.isfinite(solution.history.starts).tolist() == [number in healthy for number in range(NUMBER)]
    choices = [record.loss for record in solution.history if record.event == "choose"][NUMBER:]
    assert np.isfinite(choices).tolist() == [rank < len(healthy) for rank in range(3)]
    assert solution.status is kanmg.Status.FINISHED
    assert solution.loss <= np.nanmin(choices)
    assert f", {len(numbers)} passed over; the best {min(3, len(healthy))} went on." in solution.message


class FailingLater(kanmg.Regression):
    """A regression whose loss and gradient are not finite while its calls of these numbers last."""

    first, last, calls = 0, 0, 0

    def loss_and_gradient(self, evaluator, theta, batch=None):
        self.calls += 1
        loss, gradient = super().loss_and_gradient(evaluator, theta, batch)
        return (math.nan if self.first <= self.calls < self.last else loss), gradient


@pytest.mark.parametrize("rank", [0, 1])
def test_a_resumed_start_that_fails_is_passed_over(rank):
    method = kanmg.NestedIteration(ADAM, steps=0, starts=kept(2))
    sound = kanmg.solve(FULL, COARSE, method=method, seed=SEED)
    losses = [record.loss for record in sound.history if record.event == "choose"]
    counted = FailingLater(X, Y)
    marks = []
    kanmg.solve(
        counted, COARSE, method=method, seed=SEED, callback=lambda record: marks.append((record.event, counted.calls))
    )
    begins = [calls for event, calls in marks if event == "resume"]
    problem = FailingLater(X, Y)
    problem.first, problem.last = begins[rank] + 3, begins[rank] + 4
    solution = kanmg.solve(problem, COARSE, method=method, seed=SEED)
    choices = [record.loss for record in solution.history if record.event == "choose"]
    assert choices[:NUMBER] == losses[:NUMBER]
    assert math.isnan(choices[NUMBER + rank])
    assert choices[NUMBER + 1 - rank] == losses[NUMBER + 1 - rank]
    assert solution.status is kanmg.Status.FINISHED


def test_if_all_resumed_starts_fail_the_run_ends_with_the_best_before():
    method = kanmg.NestedIteration(ADAM, steps=5, starts=kept(2))
    counted, marks = FailingLater(X, Y), []
    kanmg.solve(
        counted, COARSE, method=method, seed=SEED, callback=lambda record: marks.append((record.event, counted.calls))
    )
    problem = FailingLater(X, Y)
    problem.first, problem.last = next(calls for event, calls in marks if event == "resume") + 1, 10**6
    with pytest.raises(ConvergenceError) as info:
        kanmg.solve(problem, COARSE, method=method, seed=SEED)
    solution = info.value.solution
    assert solution.status is kanmg.Status.NON_FINITE
    assert solution.loss <= solution.history.starts.min()
    assert math.isfinite(solution.loss)


def test_the_table_and_the_course_follow_the_best():
    method = kanmg.NestedIteration(steps=(0, 5, 5), starts=kept(2))
    solution = kanmg.solve(FULL, HIERARCHY, method=method, seed=SEED)
    choices = [record.loss for record in solution.history if record.event == "choose"]
    coarse = str(solution).splitlines()[1].split()
    assert coarse[:3] == ["0", str(NUMBER * STEPS + 2 * FURTHER), f"{min(choices[NUMBER:]):.3e}"]
    course = solution.history.course()
    shown = [record.loss for record in course if record.event == "choose"]
    assert shown == [*np.minimum.accumulate(choices[:NUMBER]), choices[NUMBER], min(choices[NUMBER:])]
    assert [record.event for record in course].count("resume") == 1
    assert [record.event for record in course].count("start") == 1


# ---------------------------------------------------------------------------------------------------- records, messages


def test_every_start_is_recorded_and_the_first_sets_the_tolerance():
    method = kanmg.NestedIteration(steps=(5, 5, 200), starts=STARTS)
    solution = kanmg.solve(FULL, HIERARCHY, method=method, seed=SEED, rtol=1e-3)
    events = [record.event for record in solution.history[: NUMBER * (STEPS + 2)]]
    assert events == NUMBER * ["start", *STEPS * ["smooth"], "choose"]
    begins = [record.loss for record in solution.history if record.event == "start"]
    assert begins == [FULL.loss_and_gradient(HIERARCHY[0].evaluator, drawn(i))[0] for i in range(NUMBER)]
    tolerance = 1e-3 * begins[0]
    assert f"(tolerance {tolerance:.3e})" in solution.message
    assert solution.loss <= tolerance


def test_the_solution_tells_the_range_of_the_losses():
    method = kanmg.NestedIteration(steps=(0, 5, 5), starts=STARTS)
    solution = kanmg.solve(FULL, HIERARCHY, method=method, seed=SEED)
    best, worst = solution.history.starts.min(), solution.history.starts.max()
    words = f"Best of 4 starts on the coarsest level, losses on all samples {best:.1e} to {worst:.1e}."
    assert words in solution.message
    assert words in str(solution)
    coarse = str(solution).splitlines()[1].split()
    assert coarse[:3] == ["0", str(NUMBER * STEPS), f"{best:.3e}"]


def test_a_start_that_meets_the_tolerance_ends_the_run():
    losses = kanmg.solve(FULL, COARSE, method=kanmg.NestedIteration(steps=0, starts=STARTS), seed=SEED).history.starts
    second = int(np.argmax(losses < losses[0]))
    method = kanmg.NestedIteration(steps=50, starts=STARTS)
    solution = kanmg.solve(FULL, COARSE, method=method, seed=SEED, atol=1.001 * losses[second])
    assert solution.status is kanmg.Status.CONVERGED
    assert sum(record.event == "start" for record in solution.history) == second + 1


def test_validation_losses_are_those_of_the_starts():
    problem = kanmg.Regression(X, Y, validation=0.25)
    method = kanmg.NestedIteration(steps=0, starts=kanmg.Starts(3, steps=15, fraction=0.5))
    solution = kanmg.solve(problem, COARSE, method=method, patience=5, throw=False)
    validated = [(r.event, r.step) for r in solution.history if not math.isnan(r.validation_loss)]
    assert validated == [("start", 0), ("choose", 15), ("choose", 30), ("choose", 45)]
    lowest = np.nanmin(solution.history.column("validation_loss"))
    assert problem.validation_loss(COARSE[0].evaluator, solution.coefficients) == lowest


# ------------------------------------------------------------------------------------------------------------- failures


class Failing(kanmg.Regression):
    """A regression that is not finite where its first coefficient is one of the given ones' or follows from it."""

    failing: tuple = ()
    value = math.nan

    def loss_and_gradient(self, evaluator, theta, batch=None):
        loss, gradient = super().loss_and_gradient(evaluator, theta, batch)
        return (self.value if self._fails(theta) else loss), gradient

    def loss(self, evaluator, theta, batch=None):
        return self.value if self._fails(theta) else super().loss(evaluator, theta, batch)

    def _fails(self, theta):
        return any(np.abs(theta - bad).max() < 0.2 for bad in self.failing if len(theta) == len(bad))


def failing(numbers, value, *, at_once=True, **options):
    problem = Failing(X, Y, **options)
    problem.value = value
    # A start fails where it begins, or where Adam's tenth step is.
    points = []
    for number in numbers:
        theta = drawn(number)
        if not at_once:
            method = kanmg.NestedIteration(ADAM, steps=11)
            seen = []
            spy = Spy(X, Y, seen)
            kanmg.solve(spy, COARSE, method=method, initial=theta)
            theta = seen[-2]
        points.append(theta)
    problem.failing = tuple(points)
    return problem


class Spy(kanmg.Regression):
    def __init__(self, x, y, seen):
        super().__init__(x, y)
        self.seen = seen

    def loss_and_gradient(self, evaluator, theta, batch=None):
        self.seen.append(theta.copy())
        return super().loss_and_gradient(evaluator, theta, batch)


@pytest.mark.parametrize("smoother", [LBFGS, ADAM])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e12])
@pytest.mark.parametrize("numbers", [(0,), (1,), (3,), (0, 1, 3)])
def test_starts_that_fail_are_passed_over(smoother, value, numbers):
    problem = failing(numbers, value)
    method = kanmg.NestedIteration(smoother, steps=0, starts=STARTS)
    solution = kanmg.solve(problem, COARSE, method=method, seed=SEED)
    healthy = kanmg.solve(FULL, COARSE, method=method, seed=SEED)
    expected = healthy.history.starts
    passed = [number for number in range(NUMBER) if math.isnan(solution.history.starts[number])]
    assert set(passed) <= set(numbers)
    fine = [number for number in range(NUMBER) if number not in numbers]
    assert solution.history.starts[fine].tolist() == expected[fine].tolist()
    assert solution.status is kanmg.Status.FINISHED
    assert math.isfinite(solution.loss)
    if not math.isfinite(value):
        assert passed == list(numbers)
        assert f"{len(numbers)} passed over." in solution.message
        assert solution.loss == min(expected[fine])


def test_a_start_that_fails_on_its_way_is_passed_over():
    problem = failing((1,), math.nan, at_once=False)
    method = kanmg.NestedIteration(ADAM, steps=0, starts=kanmg.Starts(3, steps=20))
    solution = kanmg.solve(problem, COARSE, method=method, seed=SEED)
    assert [math.isnan(loss) for loss in solution.history.starts] == [False, True, False]
    steps = [record.step for record in solution.history if record.event == "choose"]
    assert steps[0] == 20 < steps[1] < 40


def test_a_start_that_diverges_is_passed_over():
    wild = kanmg.TorchOptimizer(torch.optim.SGD, lr=1e6)
    method = kanmg.NestedIteration(wild, steps=0, starts=kanmg.Starts(3, steps=20))
    with pytest.raises(ConvergenceError) as info:
        kanmg.solve(FULL, COARSE, method=method, seed=SEED)
    solution = info.value.solution
    assert solution.status in {kanmg.Status.DIVERGED, kanmg.Status.NON_FINITE}
    assert [record.event for record in solution.history].count("start") == 3
    assert solution.history[-1].event == "smooth"
    begins = [record.loss for record in solution.history if record.event == "start"]
    assert solution.loss == min(begins)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_if_all_fail_the_run_ends_with_the_last(fraction):
    problem = failing(range(NUMBER), math.nan)
    method = kanmg.NestedIteration(steps=5, starts=kanmg.Starts(NUMBER, STEPS, fraction))
    solution = kanmg.solve(problem, HIERARCHY, method=method, seed=SEED, throw=False)
    assert solution.status is kanmg.Status.NON_FINITE
    assert [record.event for record in solution.history] == ["start", "choose"] * 3 + ["start"] or (
        solution.history[-1].event == "smooth"
    )
    assert f"All {NUMBER} starts on the coarsest level failed." in solution.message
    assert "passed over" not in solution.message
    assert solution.alarms == ()


# -------------------------------------------------------------------------------------------- interrupts, resumed runs


@pytest.mark.parametrize(("problem", "smoother"), [(FULL, LBFGS), (FULL, ADAM), (BATCHED, ADAM)])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("number", range(NUMBER))
def test_an_interrupted_run_returns_the_best_so_far(problem, smoother, fraction, number):
    def press(record):
        if record.step == number * STEPS + STEPS // 2:
            signal.raise_signal(signal.SIGINT)

    method = kanmg.NestedIteration(smoother, steps=5, starts=kanmg.Starts(NUMBER, STEPS, fraction))
    solution = kanmg.solve(problem, HIERARCHY, method=method, seed=SEED, callback=press)
    assert solution.status is kanmg.Status.INTERRUPTED
    assert solution.level == 0
    assert solution.loss == pytest.approx(problem.loss(HIERARCHY[0].evaluator, solution.coefficients), rel=1e-13)
    done = solution.history.starts
    assert len(done) == number
    if number > 0:
        assert solution.loss <= done.min()
    if number > 0 and (fraction < 1.0 or problem is BATCHED):
        assert solution.loss == done.min()


class Killed(Exception):  # noqa: N818 - not an error: what a test raises to end a run
    pass


@pytest.mark.parametrize(
    ("problem", "method"),
    [
        (FULL, kanmg.NestedIteration(steps=2, starts=kanmg.Starts(3, 4))),
        (FULL, kanmg.FullMultigrid(steps=1, coarse_steps=2, starts=kanmg.Starts(3, 3, 0.5), coarse_fraction=0.5)),
        (BATCHED, kanmg.VCycle(ADAM, pre_steps=1, coarse_steps=2, starts=kanmg.Starts(3, 4, 0.5))),
        (failing((1,), math.nan), kanmg.NestedIteration(ADAM, steps=2, starts=kanmg.Starts(3, 4))),
        (FULL, kanmg.NestedIteration(steps=2, coarse_fraction=0.5, starts=kanmg.Starts(3, 2, 0.5, 2, 3))),
        (BATCHED, kanmg.NestedIteration(ADAM, steps=2, starts=kanmg.Starts(2, 2, keep=2, further_steps=3))),
        (failing((0, 1), math.nan), kanmg.NestedIteration(steps=2, starts=kanmg.Starts(3, 2, keep=3, further_steps=2))),
        (FULL, kanmg.NestedIteration(steps=2, starts=kanmg.Starts(2, 2, more=2))),
    ],
)
def test_a_run_killed_after_any_record_ends_with_the_same_bits(problem, method, tmp_path):
    def run(callback=None):
        return kanmg.solve(
            problem, HIERARCHY, method=method, seed=SEED, max_cycles=1, checkpoint=path, callback=callback
        )

    path = None
    undisturbed = run()
    chosen = max(i for i, record in enumerate(undisturbed.history, 1) if record.event == "choose")
    for stop in range(1, chosen + 3):
        path, seen = tmp_path / f"{stop}.kanmg", []

        def kill(record, seen=seen, stop=stop):
            seen.append(record)
            if len(seen) == stop:
                raise Killed

        with pytest.raises(Killed):
            run(kill)
        resumed = run()
        assert resumed.coefficients.tobytes() == undisturbed.coefficients.tobytes()
        assert timeless(resumed.history) == timeless(undisturbed.history)
        assert (resumed.work_units, resumed.message) == (undisturbed.work_units, undisturbed.message)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: kanmg.Starts(0), KanmgValueError, "`Starts` got `number=0`. It must be at least 1"),
        (lambda: kanmg.Starts(2.0), KanmgTypeError, "`number=2.0`. Pass an integer, at least 1"),
        (lambda: kanmg.Starts(True), KanmgTypeError, "`number=True`"),
        (lambda: kanmg.Starts(steps=-1), KanmgValueError, "`steps=-1`. It must be at least 0"),
        (lambda: kanmg.Starts(steps=1.5), KanmgTypeError, "`steps=1.5`"),
        (lambda: kanmg.Starts(fraction=0), KanmgValueError, "`fraction=0`. It must be positive and at most 1"),
        (lambda: kanmg.Starts(fraction=1.5), KanmgValueError, "`fraction=1.5`"),
        (lambda: kanmg.Starts(fraction=math.nan), KanmgValueError, "`fraction=nan`"),
        (lambda: kanmg.Starts(fraction=True), KanmgTypeError, "`fraction=True`"),
        (lambda: kanmg.Starts(fraction="half"), KanmgTypeError, r"`fraction='half'`. Pass a number from \(0, 1\]"),
        (lambda: kanmg.Starts(keep=0), KanmgValueError, "`keep=0`. It must be at least 1"),
        (lambda: kanmg.Starts(keep=2.0), KanmgTypeError, "`keep=2.0`"),
        (lambda: kanmg.Starts(1, more=2), KanmgValueError, "`more=2`, but with `number=1` there is no median"),
        (lambda: kanmg.Starts(more=-1), KanmgValueError, "`more=-1`. It must be at least 0"),
        (lambda: kanmg.Starts(further_steps=-1), KanmgValueError, "`further_steps=-1`. It must be at least 0"),
        (lambda: kanmg.Starts(further_steps=True), KanmgTypeError, "`further_steps=True`"),
        (lambda: kanmg.NestedIteration(starts=0), KanmgValueError, "`NestedIteration` got `starts=0`"),
        (lambda: kanmg.VCycle(starts=-2), KanmgValueError, "`VCycle` got `starts=-2`. It must be at least 1"),
        (lambda: kanmg.FullMultigrid(starts=2.5), KanmgTypeError, r"`starts=2.5`. Pass .* `kanmg.Starts\(8"),
        (lambda: kanmg.VCycle(starts=True), KanmgTypeError, "`starts=True`"),
        (lambda: kanmg.VCycle(starts=kanmg.Starts), KanmgTypeError, r"Write `kanmg.Starts\(...\)`"),
    ],
)
def test_senseless_options_are_refused_at_once(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_program_that_draws_although_coefficients_are_given_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Stubborn(Cycle):
        def program(self, hierarchy, start=None):
            drawing = (Draw(0, 0), Choose(0), Draw(0, 1), Choose(0), Prolong(0), Prolong(1))
            return Program(start or 0, drawing, (Smooth(2, 3, LBFGS),), 1, (1.0,) * len(hierarchy))

    assert kanmg.solve(FULL, HIERARCHY, method=Stubborn()).status is kanmg.Status.FINISHED
    with pytest.raises(KanmgValueError, match="draws start 1, but `initial` was given"):
        kanmg.solve(FULL, HIERARCHY, method=Stubborn(), initial=drawn(0))
