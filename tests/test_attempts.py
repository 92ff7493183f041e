"""Attempts: what alarms say has gone wrong is repeated from other starts, and the better attempt is the result."""

from __future__ import annotations

import dataclasses
import math
import signal

import numpy as np
import pytest

import kanmg
from kanmg.errors import ConvergenceError, DomainError, KanmgTypeError, KanmgValueError
from kanmg.history import History, Record
from kanmg.program import Draw

SEED = 7
RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (60, 2))
Y = np.exp(np.sin(np.pi * X[:, :1]) + X[:, 1:] ** 2) + 0.1 * RNG.normal(size=(60, 1))
MANY = RNG.uniform(-1, 1, (300, 2))
FEW = kanmg.Regression(X, Y)
ENOUGH = kanmg.Regression(MANY, np.sin(MANY[:, :1]) * MANY[:, 1:])
HIERARCHY = kanmg.uniform_hierarchy((2, 2, 1), degree=3, num_intervals=3, num_levels=2, evaluator="cpu")
LM = kanmg.LevenbergMarquardt()
HELD_BACK = kanmg.NestedIteration(LM, steps=(4, 12), hold_back=0.3, retries=1)
STARTS = dataclasses.replace(HELD_BACK, starts=kanmg.Starts(2, steps=3, keep=2, further_steps=2))


@pytest.fixture(autouse=True)
def alarms_ring(monkeypatch):
    """Every held-back loss is an alarm, so that no test depends on a run that goes wrong."""
    monkeypatch.setattr("kanmg.alarms.UNSEEN_OVER_SEEN", 0.0)


def solve(problem=FEW, method=HELD_BACK, **options):
    return kanmg.solve(problem, HIERARCHY, method=method, **{"seed": SEED, **options})


def timeless(records):
    return [repr(record._replace(seconds=0.0)) for record in records]


def ends(solution):
    """The records between attempts."""
    return [record for record in solution.history if record.event in {"retry", "compare"}]


def drawn(problem, number):
    sequence = np.random.SeedSequence(SEED, spawn_key=(number,))
    return kanmg.initial_coefficients(HIERARCHY[0].network, problem.training_inputs(), seed=sequence)


def record(level=0, loss=1.0, event="smooth", step_size=1.0, step=1, norm=0.1):
    return Record(1, level, step, loss, norm, 1.0, 0.0, math.nan, step_size, event)


# ------------------------------------------------------------------------------------------------- the second attempt


def test_without_an_alarm_the_option_changes_nothing(monkeypatch):
    monkeypatch.setattr("kanmg.alarms.UNSEEN_OVER_SEEN", 10.0)
    solution = solve(ENOUGH)
    assert solution.alarms == ()
    once = solve(ENOUGH, dataclasses.replace(HELD_BACK, retries=0))
    assert solution.coefficients.tobytes() == once.coefficients.tobytes()
    assert timeless(solution.history) == timeless(once.history)
    assert (solution.message, solution.work_units) == (once.message, once.work_units)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", [HELD_BACK, STARTS])
def test_the_attempt_with_the_lower_held_back_loss_is_kept(method, seed):
    first = solve(method=dataclasses.replace(method, retries=0), seed=seed)
    assert first.alarms
    solution = solve(method=method, seed=seed)
    retry, compare = ends(solution)
    assert (retry.event, compare.event) == ("retry", "compare")
    assert retry.loss == first.loss
    is_kept = compare.validation_loss < retry.validation_loss
    assert compare.step_size == float(is_kept)
    assert solution.loss == (compare.loss if is_kept else first.loss)
    if not is_kept:
        assert solution.coefficients.tobytes() == first.coefficients.tobytes()
        assert timeless(solution.history.kept) == timeless(first.history)
        assert solution.alarms == first.alarms
    kept = "it is kept" if is_kept else "the attempt before is kept"
    assert (
        "Attempt 2 from other starts, because held-back points were fitted far worse than the others: its loss is "
        f"{compare.validation_loss:.1e} instead of {retry.validation_loss:.1e} at held-back points, and {kept}."
    ) in solution.message.splitlines()


def test_either_attempt_is_kept_on_some_seed():
    kept = {ends(solve(seed=seed))[1].step_size for seed in range(4)}
    assert kept == {0.0, 1.0}


def test_a_second_attempt_is_what_one_would_do_by_hand():
    method = dataclasses.replace(HELD_BACK, hold_back=0.0)
    problem = kanmg.Regression(X, Y, validation=0.3)
    solution = solve(problem, method)
    retry, compare = ends(solution)
    by_hand = solve(problem, method, initial=drawn(problem, 1))
    assert compare.loss == by_hand.loss
    assert not ends(by_hand)  # given coefficients leave nothing to draw
    assert math.isnan(retry.validation_loss)  # these points do not choose the result
    assert solution.loss == min(retry.loss, by_hand.loss)
    assert "at held-back points, and" not in solution.message


def test_starts_of_another_attempt_are_those_after_the_first():
    assert STARTS.program(HIERARCHY).num_starts == 2
    assert HELD_BACK.program(HIERARCHY).num_starts == 1
    more = dataclasses.replace(STARTS, starts=kanmg.Starts(2, more=3))
    assert more.program(HIERARCHY).num_starts == 5
    numbers = [step.number for step in STARTS.program(HIERARCHY).prologue if isinstance(step, Draw)]
    assert numbers == [0, 1]
    problem = kanmg.Regression(X, Y, validation=0.3)
    method = dataclasses.replace(STARTS, hold_back=0.0, starts=kanmg.Starts(2, steps=3))
    losses = []
    for number in range(4):
        alone = kanmg.Hierarchy([HIERARCHY[0].network], evaluator="cpu")
        smoothed = kanmg.solve(
            problem,
            alone,
            method=kanmg.NestedIteration(LM, steps=3),
            initial=drawn(problem, number) if number else None,
            seed=SEED,
        )
        losses.append(smoothed.loss)
    history = solve(problem, method).history
    assert [record.loss for record in history if record.event == "choose"] == losses


def test_all_attempts_are_used_while_there_are_alarms():
    method = dataclasses.replace(HELD_BACK, retries=3)
    solution = solve(method=method)
    reached = ends(solution)
    assert [record.event for record in reached] == 3 * ["retry", "compare"]
    losses = [reached[0].validation_loss, *(record.validation_loss for record in reached[1::2])]
    best = int(np.argmin(losses))
    assert solution.loss == [reached[0].loss, *(record.loss for record in reached[1::2])][best]
    assert solution.message.count("Attempt ") == 3
    assert [f"Attempt {number} from" in solution.message for number in (2, 3, 4)] == [True] * 3


def test_the_tolerance_is_that_of_the_first_start():
    solution = solve(method=HELD_BACK, rtol=1e-12, throw=False)
    assert solution.status is kanmg.Status.TOLERANCE_NOT_MET
    assert f"(tolerance {1e-12 * solution.history[0].loss:.3e})" in solution.message


# ------------------------------------------------------------------------------------------------------------- failures


class Failing(kanmg.Regression):
    """A regression whose losses fail from one of its calls on."""

    first, error = 10**6, None

    calls = 0

    def loss_and_gradient(self, evaluator, theta, batch=None):
        type(self).calls += 1
        has_failed = type(self).calls >= type(self).first
        if has_failed and self.error is not None:
            raise self.error
        loss, gradient = super().loss_and_gradient(evaluator, theta, batch)
        return (math.nan if has_failed else loss), gradient


@pytest.mark.parametrize("error", [None, DomainError("a hidden value has left its interval")])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_second_attempt_that_fails_leaves_the_first(error, steps):
    class Counted(Failing):
        calls = 0

    problem, marks = Counted(X, Y), []
    method = dataclasses.replace(HELD_BACK, smoother=kanmg.LBFGS())
    first = solve(problem, method, callback=lambda record: marks.append((record.event, Counted.calls)))
    number = next(calls for event, calls in marks if event == "retry")

    class Broken(Failing):
        calls = 0

    Broken.first, Broken.error = number + steps, error
    solution = solve(Broken(X, Y), method)
    assert solution.status is kanmg.Status.FINISHED
    assert solution.loss == next(record.loss for record in first.history if record.event == "retry")
    assert ends(solution)[-1].step_size == 0.0
    assert "the attempt before is kept." in solution.message


def test_a_first_attempt_that_fails_is_told():
    class Broken(Failing):
        first, calls = 3, 0

    with pytest.raises(ConvergenceError) as info:
        solve(Broken(X, Y), dataclasses.replace(HELD_BACK, smoother=kanmg.LBFGS()))
    assert not ends(info.value.solution)


# ------------------------------------------------------------------------------------------------------ stops and kills


@pytest.mark.parametrize("how", ["interrupt", "callback"])
@pytest.mark.parametrize("steps", [0, 2, 9])
def test_a_stop_in_the_second_attempt_returns_the_better(how, steps, tmp_path):
    undisturbed = solve()
    first = ends(undisturbed)[0]

    def stop(record):
        stop.has_begun |= record.event == "retry"
        if stop.has_begun and record.step >= first.step + steps:
            if how == "callback":
                raise StopIteration
            signal.raise_signal(signal.SIGINT)
            stop.has_begun = False

    stop.has_begun = False
    path = tmp_path / "run.kanmg"
    solution = solve(callback=stop, checkpoint=path)
    expected = kanmg.Status.STOPPED_BY_CALLBACK if how == "callback" else kanmg.Status.INTERRUPTED
    assert solution.status is expected
    assert ends(solution)[-1].event == "compare"
    later = ends(solution)[-1]
    is_kept = later.validation_loss < first.validation_loss
    assert later.step_size == float(is_kept)
    assert solution.loss == (later.loss if is_kept else first.loss)
    resumed = solve(checkpoint=path)
    assert resumed.coefficients.tobytes() == undisturbed.coefficients.tobytes()
    assert timeless(resumed.history) == timeless(undisturbed.history)
    assert resumed.message == undisturbed.message


class Killed(Exception):  # noqa: N818 - not an error: what a test raises to end a run
    pass


@pytest.mark.parametrize(
    "method",
    [
        dataclasses.replace(HELD_BACK, steps=(2, 6), fair=True),
        dataclasses.replace(STARTS, steps=(1, 6), retries=2),
        kanmg.VCycle(LM, pre_steps=1, post_steps=1, coarse_steps=2, hold_back=0.3, retries=1),
    ],
)
def test_a_run_killed_after_any_record_ends_with_the_same_bits(method, tmp_path):
    def run(callback=None):
        return solve(method=method, max_cycles=2, checkpoint=path, callback=callback)

    path = None
    undisturbed = run()
    events = undisturbed.history.column("event").tolist()
    assert "compare" in events
    begin = events.index("retry") - 1
    for stop in range(begin, len(events) + 1):
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
    # A complete run is only read.
    assert timeless(run().history) == timeless(undisturbed.history)


# --------------------------------------------------------------------------------------------------------- the records


def test_the_history_of_the_kept_attempt():
    first, second = [record(loss=3.0), record(loss=2.0)], [record(loss=5.0, step=3), record(loss=1.0, step=4)]
    between, after = record(event="retry", loss=2.0), record(event="compare", loss=1.0, step=4)
    assert list(History(first).kept) == first
    assert list(History([*first, between, *second]).kept) == second
    assert list(History([*first, between, *second, after]).kept) == second
    refused = History([*first, between, *second, after._replace(step_size=0.0)])
    assert list(refused.kept) == first
    assert refused.course() == first
    row = refused.table(1).splitlines()[1].split()
    assert row[:3] == ["0", "4", "2.000e+00"]


@pytest.mark.parametrize("cycle", [kanmg.NestedIteration, kanmg.VCycle, kanmg.FullMultigrid])
def test_senseless_options_are_refused(cycle):
    with pytest.raises(KanmgValueError, match=r"`retries=-1`. It must be at least 0"):
        cycle(retries=-1)
    with pytest.raises(KanmgTypeError, match=r"`retries=0.5`"):
        cycle(retries=0.5)
    with pytest.raises(KanmgValueError, match="`retries=1` and `balance`: attempts are compared, but their weights"):
        cycle(retries=1, balance=kanmg.Balance())
    assert cycle(retries=2).program(HIERARCHY).retries == 2
    assert cycle(retries=2).program(HIERARCHY, 0).retries == 0
