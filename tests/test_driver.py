"""`kanmg.solve`: what it returns, when it ends, what it refuses, what it costs."""

from __future__ import annotations

import dataclasses
import math
import signal
import sys
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import torch

import kanmg
from kanmg.cycles import Cycle
from kanmg.errors import ConvergenceError, DtypeError, KanmgTypeError, KanmgValueError, NonFiniteError, ShapeError
from kanmg.problems.base import Problem
from kanmg.program import Ascend, Descend, Program, Prolong, Smooth

X = np.linspace(-1, 1, 120).reshape(-1, 1)
PROBLEM = kanmg.Regression(X, np.sin(4 * X))
NOISY = kanmg.Regression(X, np.sin(4 * X) + np.random.default_rng(0).normal(0, 0.2, X.shape), validation=0.3)
BATCHED = kanmg.Regression(X, np.sin(4 * X), batch_size=30)


def hierarchy_of(num_levels=2, widths=(1, 2, 1), **options):
    options = {"degree": 3, "num_intervals": 3, "evaluator": "reference", **options}
    return kanmg.uniform_hierarchy(widths, num_levels=num_levels, **options)


HIERARCHY = hierarchy_of()
NESTED = kanmg.NestedIteration(steps=(12, 8))


class Scripted(Problem):
    """A problem whose losses, one per evaluation, are given; its gradient is a constant."""

    def __init__(self, losses, gradient=1.0):
        self.losses = iter(losses)
        self.gradient = gradient

    @property
    def num_samples(self):
        return 10

    def loss(self, _, theta, *_batch):
        return next(self.losses) if theta.any() else 1.0

    def loss_and_gradient(self, _, theta, *_batch):
        return next(self.losses), np.full(len(theta), self.gradient)

    def training_inputs(self):
        return X

    def subset(self, _):
        return self

    def fingerprint(self):
        return "scripted"


def full_loss(problem, solution):
    return problem.loss(solution.hierarchy[solution.level].evaluator, solution.coefficients)


# ------------------------------------------------------------------------------------------------------ what comes back


@pytest.mark.parametrize(
    "method",
    [
        NESTED,
        kanmg.VCycle(pre_steps=2, post_steps=2, coarse_steps=10),
        kanmg.VCycle(pre_steps=2, post_steps=2, coarse_steps=10, variant="tau"),
        kanmg.VCycle(pre_steps=2, post_steps=0, coarse_steps=10, gamma=2, coarse_fraction=0.5),
        kanmg.FullMultigrid(steps=3, coarse_steps=10, coarse_fraction=0.5, variant="tau"),
        kanmg.FullMultigrid(smoother=kanmg.Adam(), coarse_smoother=kanmg.LBFGS(), steps=5, coarse_steps=20),
        kanmg.NestedIteration(smoother=kanmg.TorchOptimizer(torch.optim.Adam, lr=1e-2), steps=30, coarse_fraction=0.5),
    ],
)
@pytest.mark.parametrize("num_levels", [1, 3])
def test_every_method_lowers_the_loss_on_any_number_of_levels(method, num_levels):
    if isinstance(method, kanmg.NestedIteration) and isinstance(method.steps, tuple):
        method = dataclasses.replace(method, steps=20)
    solution = kanmg.solve(PROBLEM, hierarchy_of(num_levels), method=method, max_cycles=3)
    assert solution.status in {kanmg.Status.FINISHED, kanmg.Status.STALLED}
    assert solution.level == num_levels - 1
    assert solution.loss < 0.9 * solution.history[0].loss
    assert solution.loss == full_loss(PROBLEM, solution)
    assert 0 <= solution.work_units - solution.history[-1].work_units < 1


def test_the_best_coefficients_are_returned():
    noisy_steps = kanmg.NestedIteration(smoother=kanmg.Adam(step_size=0.3, ramp=0), steps=5)
    solution = kanmg.solve(PROBLEM, hierarchy_of(1), method=noisy_steps)
    losses = solution.history.column("loss")
    assert solution.loss == losses.min() < losses[-1]
    assert solution.loss == full_loss(PROBLEM, solution)


def test_the_last_step_counts_even_if_its_smoother_does_not_evaluate_it():
    once = kanmg.NestedIteration(smoother=kanmg.TorchOptimizer(torch.optim.LBFGS, max_iter=30), steps=1)
    solution = kanmg.solve(PROBLEM, hierarchy_of(1), method=once)
    assert solution.loss == full_loss(PROBLEM, solution) < 0.1 * solution.history[-1].loss


def test_mini_batches_return_the_last_coefficients():
    seen = []
    method = kanmg.NestedIteration(smoother=kanmg.Adam(), steps=(3, 9))
    solution = kanmg.solve(BATCHED, HIERARCHY, method=method, callback=seen.append)
    again = kanmg.solve(BATCHED, HIERARCHY, method=kanmg.NestedIteration(smoother=kanmg.Adam(), steps=(3, 8)))
    assert [record.step for record in seen] == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert not np.array_equal(solution.coefficients, again.coefficients)
    assert solution.loss == full_loss(BATCHED, solution)


def test_batches_follow_one_another_across_levels():
    numbers = []

    class Spy(kanmg.Regression):
        def loss_and_gradient(self, evaluator, theta, batch=None):
            numbers.append(batch)
            return super().loss_and_gradient(evaluator, theta, batch)

    problem = Spy(X, np.sin(4 * X), batch_size=30)
    method = kanmg.FullMultigrid(smoother=kanmg.Adam(), steps=2, coarse_steps=3)
    kanmg.solve(problem, HIERARCHY, method=method)
    # 3 on level 0; 2 on level 1, all samples for the correction, 3 on level 0, 2 on level 1.
    assert numbers == [0, 1, 2, 3, 4, None, 5, 6, 7, 8, 9]


def test_the_same_arguments_give_the_same_bits_and_another_seed_others():
    first, second, other = (kanmg.solve(PROBLEM, HIERARCHY, method=NESTED, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.coefficients, second.coefficients)
    assert [r._replace(seconds=0) for r in first.history[1:3]] == [r._replace(seconds=0) for r in second.history[1:3]]
    assert not np.array_equal(first.coefficients, other.coefficients)


def test_prolongation_preserves_the_loss():
    solution = kanmg.solve(PROBLEM, hierarchy_of(3), method=kanmg.NestedIteration(steps=5))
    records = list(solution.history)
    for before, after in pairwise(records):
        if after.event == "prolong":
            assert after.loss == pytest.approx(before.loss, rel=1e-12)


# ------------------------------------------------------------------------------------------------------------- initial


def test_initial_coefficients_of_any_level_start_there():
    hierarchy = hierarchy_of(3)
    theta = kanmg.initial_coefficients(hierarchy[1].network, X, seed=7)
    solution = kanmg.solve(PROBLEM, hierarchy, method=kanmg.NestedIteration(steps=4), initial=theta)
    assert {record.level for record in solution.history} == {1, 2}
    assert solution.history[0].loss == PROBLEM.loss(hierarchy[1].evaluator, theta)


def test_initial_coefficients_may_be_a_tensor_and_are_left_alone():
    theta = kanmg.initial_coefficients(HIERARCHY[1].network, X, seed=7)
    kept = theta.copy()
    from_array = kanmg.solve(PROBLEM, HIERARCHY, method=NESTED, initial=theta)
    from_tensor = kanmg.solve(PROBLEM, HIERARCHY, method=NESTED, initial=torch.from_numpy(theta))
    assert np.array_equal(theta, kept)
    assert np.array_equal(from_array.coefficients, from_tensor.coefficients)


def test_a_solution_goes_on_where_it_ended():
    first = kanmg.solve(PROBLEM, HIERARCHY, method=NESTED)
    second = kanmg.solve(PROBLEM, HIERARCHY, method=NESTED, initial=first.coefficients)
    assert second.history[0].loss == first.loss
    assert second.loss < first.loss


# ----------------------------------------------------------------------------------------------------- tolerances, ends


def test_it_stops_as_soon_as_the_tolerance_is_met():
    solution = kanmg.solve(PROBLEM, HIERARCHY, method=kanmg.NestedIteration(steps=(5, 200)), rtol=1e-2)
    losses = [record.loss for record in solution.history if record.level == 1]
    tolerance = 1e-2 * solution.history[0].loss
    assert solution.status is kanmg.Status.CONVERGED
    assert losses[-1] <= tolerance < min(losses[:-1])
    assert solution.loss == losses[-1]


def test_a_tolerance_met_on_a_coarse_level_is_met_on_the_finest():
    solution = kanmg.solve(PROBLEM, hierarchy_of(3), method=kanmg.NestedIteration(steps=40), atol=0.1)
    assert solution.status is kanmg.Status.CONVERGED
    assert solution.level == 2
    assert [record.event for record in solution.history if record.level == 2] == ["prolong"]


def test_the_larger_of_both_tolerances_counts():
    solution = kanmg.solve(PROBLEM, HIERARCHY, method=NESTED, rtol=1e-30, atol=1.0)
    assert solution.status is kanmg.Status.CONVERGED


def test_a_tolerance_that_is_not_met_raises_with_the_best_solution():
    words = r"(?s)did not meet the tolerance.\nLoss .* \(tolerance 1.000e-30\).*`max_cycles`"
    with pytest.raises(ConvergenceError, match=words) as info:
        kanmg.solve(PROBLEM, HIERARCHY, method=NESTED, atol=1e-30)
    solution = info.value.solution
    assert solution.status is kanmg.Status.TOLERANCE_NOT_MET
    assert solution.loss == full_loss(PROBLEM, solution)
    quiet = kanmg.solve(PROBLEM, HIERARCHY, method=NESTED, atol=1e-30, throw=False)
    assert np.array_equal(quiet.coefficients, solution.coefficients)


def test_mini_batches_converge_by_the_loss_of_all_samples():
    method = kanmg.NestedIteration(smoother=kanmg.Adam(step_size=0.02), steps=(40, 4000))
    solution = kanmg.solve(BATCHED, HIERARCHY, method=method, rtol=2e-2)
    assert solution.status is kanmg.Status.CONVERGED
    assert full_loss(BATCHED, solution) <= 2e-2 * solution.history[0].loss
    assert solution.history[-1].step < 4040


def smoothed(losses, idle, num_levels=1, steps=40):
    """Losses of the steps on the finest level, where every evaluation has the next of the given losses."""
    method = kanmg.NestedIteration(kanmg.Adam(), steps=steps, idle=idle)
    solution = kanmg.solve(Scripted(losses), hierarchy_of(num_levels), method=method)
    return [
        [record.loss for record in solution.history if record.event == "smooth" and record.level == level]
        for level in range(num_levels)
    ]


def last_step(losses, idle):
    """The first step after ten others that together lowered the loss by less than this part."""
    return next(n for n in range(10, len(losses)) if losses[n - 10] - losses[n] < idle * losses[n - 10]) + 1


@pytest.mark.parametrize("idle", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("rate", [0.7, 0.95])
def test_smoothing_ends_where_ten_steps_gain_too_little(idle, rate):
    losses = [1.0 + 99.0 * rate**n for n in range(200)]
    (seen,) = smoothed(losses, idle, steps=150)
    assert 11 <= len(seen) < 150
    assert seen == losses[: last_step(losses, idle)]


@pytest.mark.parametrize("losses", [[1.0 + n for n in range(60)], 60 * [2.0], [-0.1 - 1e-4 * n for n in range(60)]])
def test_smoothing_is_never_idle_unless_asked_for(losses):
    assert smoothed(losses, 0.0) == [losses[:40]]
    assert smoothed(losses, 0.05) == [losses[:11]]


def test_every_level_has_ten_steps_of_its_own():
    seen = smoothed(200 * [2.0], 0.1, num_levels=3)
    assert [len(losses) for losses in seen] == [11, 11, 11]
    # What the level before has lost counts on no other.
    falling = [0.5**n for n in range(20)]
    seen = smoothed([*falling, *(100 * [1e-6])], 0.1, num_levels=2, steps=15)
    assert seen[0] == falling[:15]
    assert len(seen[1]) >= 11


def test_cycles_are_counted():
    single = kanmg.VCycle(pre_steps=1, post_steps=1, coarse_steps=1)
    solution = kanmg.solve(PROBLEM, HIERARCHY, method=single, max_cycles=3)
    assert sorted({record.cycle for record in solution.history}) == [0, 1, 2, 3]
    assert solution.history[-1].step == 9
    nested = kanmg.solve(PROBLEM, HIERARCHY, method=NESTED, max_cycles=3)
    assert nested.history[-1].step == 12 + 3 * 8
    only_up = kanmg.solve(PROBLEM, HIERARCHY, method=NESTED, max_cycles=0)
    assert only_up.history[-1].event == "prolong"


def test_a_cycle_that_changes_nothing_is_the_last():
    single = kanmg.VCycle(pre_steps=2, post_steps=2, coarse_steps=5)
    best = kanmg.solve(PROBLEM, hierarchy_of(2, (1, 1)), method=kanmg.NestedIteration(steps=60))
    again = kanmg.solve(PROBLEM, best.hierarchy, method=single, initial=best.coefficients, max_cycles=50)
    assert again.status is kanmg.Status.STALLED
    assert again.history[-1].cycle <= 4
    with pytest.raises(ConvergenceError, match="No step lowers the loss any more"):
        kanmg.solve(PROBLEM, best.hierarchy, method=single, initial=best.coefficients, atol=1e-30)


# -------------------------------------------------------------------------------------------------- failures of numbers


def test_nan_is_found_where_it_appears():
    problem = Scripted([1.0, 0.9, 0.8, math.nan, 0.1])
    with pytest.raises(ConvergenceError, match=r"(?s)NaN or infinite.*step size") as info:
        kanmg.solve(problem, hierarchy_of(1), method=kanmg.NestedIteration(smoother=kanmg.Adam(), steps=50))
    solution = info.value.solution
    assert solution.status is kanmg.Status.NON_FINITE
    assert solution.loss == 0.8
    assert len(solution.history) == 5
    assert np.isfinite(solution.coefficients).all()


def test_nan_in_the_gradient_is_found():
    problem = Scripted([1.0, 0.9, 0.8], gradient=math.nan)
    method = kanmg.NestedIteration(smoother=kanmg.Adam(), steps=5)
    solution = kanmg.solve(problem, hierarchy_of(1), method=method, throw=False)
    assert solution.status is kanmg.Status.NON_FINITE
    assert solution.history[-1].step == 1


def test_initial_coefficients_with_an_infinite_loss_end_the_run():
    with pytest.raises(ConvergenceError) as info:
        kanmg.solve(
            Scripted([math.inf, math.inf]), hierarchy_of(1), method=kanmg.NestedIteration(smoother=kanmg.Adam())
        )
    assert info.value.solution.status is kanmg.Status.NON_FINITE
    assert len(info.value.solution.history) == 1


def test_divergence_is_found():
    problem = Scripted([1.0, 0.5, 1e3, 1e7, 0.1])
    with pytest.raises(ConvergenceError, match=r"(?s)out of all proportion.*Lower the smoother's step size") as info:
        kanmg.solve(problem, hierarchy_of(1), method=kanmg.NestedIteration(smoother=kanmg.Adam(), steps=50))
    assert info.value.solution.status is kanmg.Status.DIVERGED
    assert info.value.solution.loss == 0.5


def test_a_good_start_is_no_reason_to_call_a_rise_divergence():
    losses = [1e-20, 1e-20, 1e-3, *[1e-4] * 9]
    method = kanmg.NestedIteration(smoother=kanmg.Adam(), steps=10)
    solution = kanmg.solve(Scripted(losses), hierarchy_of(1), method=method)
    assert solution.status is kanmg.Status.FINISHED
    assert solution.loss == 1e-20


def test_an_overflow_in_a_real_network_is_divergence_not_a_warning():
    method = kanmg.NestedIteration(smoother=kanmg.TorchOptimizer(torch.optim.SGD, lr=1e8), steps=100)
    solution = kanmg.solve(PROBLEM, HIERARCHY, method=method, throw=False)
    assert solution.status in {kanmg.Status.DIVERGED, kanmg.Status.NON_FINITE}
    assert solution.loss == solution.history[0].loss


# ----------------------------------------------------------------------------------------------------------- validation


def test_validation_losses_are_recorded_at_intervals_and_at_the_ends():
    solution = kanmg.solve(NOISY, HIERARCHY, method=kanmg.NestedIteration(steps=(25, 12)))
    steps = [record.step for record in solution.history if not math.isnan(record.validation_loss)]
    assert steps == [0, 10, 20, 25, 34, 37]
    last = solution.history[-1]
    evaluator = solution.hierarchy[1].evaluator
    assert last.validation_loss == NOISY.validation_loss(evaluator, solution.coefficients)


def test_validation_is_no_training_work():
    quiet = kanmg.Regression(X, np.sin(4 * X), validation=(X, np.sin(4 * X)))
    solutions = [kanmg.solve(problem, HIERARCHY, method=NESTED) for problem in (PROBLEM, quiet)]
    assert solutions[0].work_units == solutions[1].work_units
    assert np.array_equal(solutions[0].coefficients, solutions[1].coefficients)


def test_patience_stops_and_returns_what_validates_best():
    method = kanmg.NestedIteration(steps=(5, 1000))
    hierarchy = hierarchy_of(2, num_intervals=12)
    solution = kanmg.solve(NOISY, hierarchy, method=method, patience=25)
    fine = [record for record in solution.history if record.level == 1]
    best, step = min((r.validation_loss, r.step) for r in fine if not math.isnan(r.validation_loss))
    assert solution.status is kanmg.Status.STOPPED_EARLY
    assert NOISY.validation_loss(hierarchy[1].evaluator, solution.coefficients) == best
    assert solution.history[-1].step == step + 25
    assert solution.loss > min(solution.history.column("loss"))


def test_a_tolerance_that_patience_leaves_unmet_is_an_error():
    method = kanmg.NestedIteration(steps=(5, 1000))
    arguments = {"method": method, "patience": 25, "atol": 1e-12}
    with pytest.raises(ConvergenceError) as caught:
        kanmg.solve(NOISY, hierarchy_of(2, num_intervals=12), **arguments)
    assert caught.value.solution.status is kanmg.Status.STOPPED_EARLY
    solution = kanmg.solve(NOISY, hierarchy_of(2, num_intervals=12), **arguments, throw=False)
    assert solution.loss == caught.value.solution.loss


def test_a_loss_that_is_not_finite_at_the_start_is_no_matter_of_steps():
    with pytest.raises(ConvergenceError) as caught:
        kanmg.solve(PROBLEM, HIERARCHY, method=NESTED, initial=np.full(24, 1e200))
    message = str(caught.value)
    assert caught.value.solution.status is kanmg.Status.NON_FINITE
    assert "before the first step" in message
    assert "the weights and `initial`" in message
    assert "step size" not in message


def test_patience_below_the_interval_is_watched_closely():
    method = kanmg.NestedIteration(steps=(5, 1000))
    solution = kanmg.solve(NOISY, hierarchy_of(2, num_intervals=12), method=method, patience=3)
    recorded = [record.step for record in solution.history if not math.isnan(record.validation_loss)]
    assert max(np.diff(recorded)) <= 3


def test_patience_needs_validation_data():
    words = r"`patience=5` watches the validation loss.*`kanmg.Regression\(x, y, validation=0.1\)`"
    with pytest.raises(KanmgValueError, match=words):
        kanmg.solve(PROBLEM, HIERARCHY, method=kanmg.NestedIteration(), patience=5)


# ------------------------------------------------------------------------------------------------ callbacks, interrupts


def test_callbacks_see_every_record_and_may_stop():
    seen = []

    def stop_at_six(record):
        seen.append(record)
        if record.step == 6:
            raise StopIteration

    solution = kanmg.solve(PROBLEM, HIERARCHY, method=NESTED, callback=stop_at_six, atol=1e-30)
    assert solution.status is kanmg.Status.STOPPED_BY_CALLBACK
    assert seen == list(solution.history)
    assert solution.loss == solution.history[-1].loss
    assert "`initial=solution.coefficients`" in solution.message


def test_other_exceptions_of_a_callback_come_through():
    def fail(_):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        kanmg.solve(PROBLEM, HIERARCHY, method=NESTED, callback=fail)


def test_ctrl_c_ends_the_run_after_the_step():
    def press(record):
        if record.step == 5:
            signal.raise_signal(signal.SIGINT)

    solution = kanmg.solve(PROBLEM, HIERARCHY, method=NESTED, callback=press, atol=1e-30)
    assert solution.status is kanmg.Status.INTERRUPTED
    assert solution.history[-1].step == 5
    assert solution.loss == full_loss(PROBLEM, solution)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_does_not_wait():
    reached = []

    def press_twice(record):
        if record.step == 5:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            reached.append(record)

    solution = kanmg.solve(PROBLEM, HIERARCHY, method=NESTED, callback=press_twice)
    assert solution.status is kanmg.Status.INTERRUPTED
    assert reached == []


def test_it_runs_outside_the_main_thread_and_leaves_other_handlers_alone():
    results = []
    thread = threading.Thread(target=lambda: results.append(kanmg.solve(PROBLEM, HIERARCHY, method=NESTED)))
    thread.start()
    thread.join()
    assert results[0].status is kanmg.Status.FINISHED
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        kanmg.solve(PROBLEM, HIERARCHY, method=NESTED, callback=lambda _: signal.raise_signal(signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


# ----------------------------------------------------------------------------------------------------------- work, time


def test_work_is_counted_exactly():
    hierarchy = hierarchy_of(1)
    solution = kanmg.solve(PROBLEM, hierarchy, method=kanmg.NestedIteration(smoother=kanmg.Adam(), steps=10))
    # Ten gradients, the first of them at the initial coefficients, and one loss of the last ones.
    value = PROBLEM.work(hierarchy[0].evaluator, gradient=False) / PROBLEM.work(hierarchy[0].evaluator)
    assert solution.history[-1].work_units == pytest.approx(10)
    assert solution.work_units == pytest.approx(10 + value)


def test_nothing_is_evaluated_twice():
    points = []

    class Spy(kanmg.Regression):
        def loss_and_gradient(self, evaluator, theta, batch=None):
            points.append((evaluator, theta.tobytes()))
            return super().loss_and_gradient(evaluator, theta, batch)

    problem = Spy(X, np.sin(4 * X))
    for smoother in (kanmg.LBFGS(), kanmg.Adam()):
        for variant in ("tau", "galerkin"):
            method = kanmg.FullMultigrid(smoother, steps=3, coarse_steps=5, variant=variant, cycles_per_level=2)
            points.clear()
            kanmg.solve(problem, hierarchy_of(3), method=method)
            assert len(points) == len(set(points))


def test_fewer_samples_cost_less():
    methods = [kanmg.NestedIteration(smoother=kanmg.Adam(), steps=10, coarse_fraction=part) for part in (1.0, 0.5)]
    full, half = (kanmg.solve(PROBLEM, HIERARCHY, method=method) for method in methods)
    coarse = [max(r.work_units for r in solution.history if r.level == 0) for solution in (full, half)]
    assert coarse[1] == pytest.approx(0.5 * coarse[0])


def test_seconds_grow():
    solution = kanmg.solve(PROBLEM, HIERARCHY, method=NESTED)
    seconds = solution.history.column("seconds")
    assert (np.diff(seconds) >= 0).all()
    assert 0 < seconds[-1] == solution.seconds


def test_the_loop_costs_less_than_a_step_of_a_small_network():
    class Bowl(Scripted):
        def loss_and_gradient(self, _, theta, *_batch):
            return float(theta @ theta), 2.0 * theta

        def loss(self, _, theta, *_batch):
            return float(theta @ theta)

    hierarchy, smoother, steps = hierarchy_of(1, (1, 1)), kanmg.Adam(), 1000
    problem, theta = Bowl([]), np.ones(hierarchy[0].network.num_coefficients)
    objective, bare, whole = kanmg.Objective(problem, hierarchy[0]), [], []
    for _ in range(7):
        begin = time.process_time()
        state, moved = smoother.init(objective, theta), theta
        for _ in range(steps):
            moved, state, _ = smoother.step(objective, moved, state)
        bare.append(time.process_time() - begin)
        begin = time.process_time()
        method = kanmg.NestedIteration(smoother=smoother, steps=steps)
        kanmg.solve(problem, hierarchy, method=method, initial=theta, max_cycles=1, callback=None)
        whole.append(time.process_time() - begin)
    # About 12 microseconds a step on an idle core; the bound allows for a busy one.
    assert (min(whole) - min(bare)) / steps < 40e-6


def test_the_bar_shows_up_only_where_it_is_wanted(capsys):
    kanmg.solve(PROBLEM, HIERARCHY, method=NESTED)
    assert capsys.readouterr().err == ""
    kanmg.solve(PROBLEM, HIERARCHY, method=NESTED, progress=True)
    assert "0/20" in capsys.readouterr().err
    assert not sys.stderr.isatty()


# --------------------------------------------------------------------------------------------------- a user's own cycle


@dataclasses.dataclass(frozen=True)
class Own(Cycle):
    instructions: tuple

    def program(self, hierarchy, start=0):
        return Program(start, (), self.instructions, 2, (1.0,) * len(hierarchy))


def test_a_cycle_is_whatever_writes_a_program():
    adam, lbfgs = kanmg.Adam(), kanmg.LBFGS()
    instructions = (Smooth(1, 3, adam), Descend(1, "tau"), Smooth(0, 4, lbfgs), Ascend(1), Smooth(1, 2, lbfgs))
    theta = kanmg.initial_coefficients(HIERARCHY[1].network, X, seed=0)
    solution = kanmg.solve(PROBLEM, HIERARCHY, method=Own(instructions), initial=theta)
    assert solution.history[-1].step == 2 * (3 + 4 + 2)
    assert solution.loss < 0.5 * solution.history[0].loss


@pytest.mark.parametrize(
    ("instruction", "words"),
    [
        (Smooth(1, 1, kanmg.Adam()), "uses level 1 where there are no coefficients"),
        (Prolong(1), "uses level 1 where there are no coefficients"),
        (Ascend(1), "uses level 1 where there are no coefficients|has not descended"),
    ],
)
def test_a_program_that_makes_no_sense_is_refused(instruction, words):
    with pytest.raises(KanmgValueError, match=words):
        kanmg.solve(PROBLEM, hierarchy_of(3), method=Own((instruction,)))


# ---------------------------------------------------------------------------------------------------- default, refusals


def test_the_default_method_says_why():
    solution = kanmg.solve(PROBLEM, hierarchy_of(1, (1, 1)), rtol=0.1)
    assert "`method=None` chose nested iteration with Levenberg-Marquardt" in solution.message
    method = kanmg.default_method(BATCHED, hierarchy_of(3))
    assert [type(smoother) for smoother in method.smoother] == [kanmg.Adam] * 3
    assert method.steps == max(30 * BATCHED.steps_per_epoch, 1000)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"method": kanmg.LBFGS()}, KanmgTypeError, "A smoother alone is no method: write `kanmg.NestedIteration"),
        ({"method": "vcycle"}, KanmgTypeError, "`method` is 'vcycle'. Pass a cycle"),
        ({"method": kanmg.NestedIteration(steps=(1, 2, 3))}, KanmgValueError, "the hierarchy has 2 levels"),
        ({"callback": 3}, KanmgTypeError, "Pass a function of one `kanmg.Record`"),
        ({"rtol": -1.0}, KanmgValueError, "`rtol=-1.0` must be at least 0"),
        ({"atol": "small"}, KanmgTypeError, "`atol='small'` is a str"),
        ({"atol": math.nan}, KanmgValueError, "`atol=nan`"),
        ({"max_cycles": -1}, KanmgValueError, "`max_cycles=-1` must be at least 0"),
        ({"max_cycles": 2.5}, KanmgTypeError, "`max_cycles=2.5` is a float. Pass an integer"),
        ({"patience": 0}, KanmgValueError, "`patience=0` must be at least 1"),
        ({"seed": None}, KanmgTypeError, "`seed=None`"),
        (
            {"initial": np.zeros(7)},
            ShapeError,
            r"has shape \(7,\), which fits no level.* 24 \(level 0\), 36 \(level 1\)",
        ),
        ({"initial": np.zeros(24, np.float32)}, DtypeError, "`initial` is float32"),
        ({"initial": np.full(24, math.nan)}, NonFiniteError, "`initial` contains 24 NaN"),
    ],
)
def test_senseless_arguments_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        kanmg.solve(PROBLEM, HIERARCHY, **arguments)


def test_the_two_positional_arguments_are_what_they_should_be():
    with pytest.raises(KanmgTypeError, match="`problem` is a ndarray"):
        kanmg.solve(X, HIERARCHY)
    with pytest.raises(KanmgTypeError, match="`hierarchy` is a Network"):
        kanmg.solve(PROBLEM, HIERARCHY[0].network)
    with pytest.raises(ShapeError, match="2 inputs"):
        kanmg.solve(PROBLEM, hierarchy_of(1, (2, 1)))


@pytest.mark.parametrize("method", [None, kanmg.VCycle(), kanmg.NestedIteration(steps=5, starts=3)])
def test_an_interrupt_by_the_first_callback_leaves_the_initial_coefficients(method):
    def interrupt(_):
        raise KeyboardInterrupt

    solution = kanmg.solve(PROBLEM, hierarchy_of(2), method=method, callback=interrupt)
    assert solution.status is kanmg.Status.INTERRUPTED
    assert len(solution.history) == 1
    assert solution.loss == pytest.approx(solution.history[0].loss, rel=1e-12)
