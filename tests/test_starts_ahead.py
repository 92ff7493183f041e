"""Starts that threads smooth ahead: the same run as one start after the other, and no thread is left behind."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

import kanmg
from kanmg.errors import ConvergenceError, DomainError
from kanmg.program import Draw, Program, Smooth
from kanmg.smoothers.base import StepRecord
from kanmg.starts_ahead import StartsAhead

NU = kanmg.Constant("nu", 0.1, easier=0.4)
POINTS = kanmg.sampling.sobol([(-1.0, 1.0), (-1.0, 1.0)], 200, seed=0)
WORKERS = []


def equation(x, u):
    WORKERS.append(threading.current_thread().name)
    return u.value - NU * u.d("x", "x") - torch.sin(3.0 * x[:, 0]) * torch.exp(x[:, 1])


def boundary(x, u):
    return u.value * (1.0 + x[:, 1])


PROBLEM = kanmg.Collocation(
    coordinates=("x", "y"),
    fields=("u",),
    terms=[kanmg.Term("equation", equation, POINTS), kanmg.Term("boundary", boundary, POINTS[:20])],
)
HIERARCHY = kanmg.uniform_hierarchy((2, 2, 1), degree=3, num_intervals=3, num_levels=2)
NUMBER = 5
STARTS = kanmg.Starts(NUMBER, steps=6, fraction=0.5, keep=2, further_steps=4, more=2)
METHOD = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=3, starts=STARTS, continuation=2, refit=1)
METHODS = {
    "Levenberg-Marquardt": METHOD,
    "attempts": dataclasses.replace(METHOD, continuation=None, retries=1),
    "L-BFGS": dataclasses.replace(METHOD, smoother=kanmg.LBFGS()),
    "Adam": dataclasses.replace(METHOD, smoother=kanmg.Adam(), refit=0),
    "idle": dataclasses.replace(METHOD, starts=kanmg.Starts(3, steps=30), idle=0.5),
    "full multigrid": kanmg.FullMultigrid(kanmg.LBFGS(), starts=STARTS, pre_steps=1, post_steps=1, coarse_steps=2),
}


@pytest.fixture(autouse=True)
def no_thread_is_left(two_threads):  # noqa: ARG001 - torch has two threads
    yield
    assert not threads_of_starts()


def threads_of_starts():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("kanmg-start")]


def solve(method=METHOD, threads=2, **options):
    """Solve with this number of threads; returns the solution, and whether threads have evaluated the residuals."""
    torch.set_num_threads(threads)
    WORKERS.clear()
    solution = kanmg.solve(PROBLEM, HIERARCHY, method=method, seed=3, throw=False, progress=False, **options)
    return solution, any(name.startswith("kanmg-start") for name in WORKERS)


def timeless(records):
    return [repr(record._replace(seconds=0.0)) for record in records]


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_threads_change_no_bit(method):
    (one, by_threads), (two, ahead) = solve(method, 1), solve(method, 2)
    assert ahead
    assert not by_threads
    assert one.coefficients.tobytes() == two.coefficients.tobytes()
    assert timeless(one.history) == timeless(two.history)
    assert one.work_units == two.work_units
    assert one.message == two.message
    assert {record.event for record in two.history} >= {"start", "smooth", "choose", "prolong"}


def test_more_threads_than_starts():
    assert solve(threads=32)[0].coefficients.tobytes() == solve(threads=1)[0].coefficients.tobytes()


@pytest.mark.parametrize("method", [METHOD, METHODS["attempts"]], ids=["continuation", "attempts"])
def test_a_run_that_is_stopped_after_any_record_ends_with_the_same_bits(method, tmp_path):
    expected, _ = solve(method)
    solution, count, rng = None, 0, np.random.default_rng(0)
    while solution is None or solution.status is kanmg.Status.STOPPED_BY_CALLBACK:
        last = count + int(rng.integers(1, 6))

        def stop(_record, last=last):
            nonlocal count
            count += 1
            if count >= last:
                raise StopIteration

        solution, _ = solve(method, checkpoint=tmp_path / "run", callback=stop)
        assert not threads_of_starts()
    assert solution.coefficients.tobytes() == expected.coefficients.tobytes()
    assert timeless(solution.history) == timeless(expected.history)


class FailingCollocation(kanmg.Collocation):
    """A problem whose loss is not a number near what some starts begin with."""

    failing = ()

    def loss_and_gradient(self, evaluator, theta, batch=None):
        loss, gradient = super().loss_and_gradient(evaluator, theta, batch)
        is_near = any(len(theta) == len(bad) and np.abs(theta - bad).max() < 1e-3 for bad in self.failing)
        return math.nan if is_near else loss, gradient


def drawn(number):
    sequence = np.random.SeedSequence(3, spawn_key=(number,)) if number else 3
    return kanmg.initial_coefficients(HIERARCHY[0].network, PROBLEM.training_inputs(), seed=sequence)


@pytest.mark.parametrize("numbers", [(0,), (2,), (1, 4), (0, 1, 2)])
def test_starts_that_fail_are_passed_over(numbers):
    problem = FailingCollocation(coordinates=("x", "y"), fields=("u",), terms=PROBLEM.terms)
    problem.failing = tuple(map(drawn, numbers))
    method = kanmg.NestedIteration(kanmg.LBFGS(), steps=3, starts=dataclasses.replace(STARTS, more=0))
    solutions = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        solutions.append(kanmg.solve(problem, HIERARCHY, method=method, seed=3, progress=False))
    assert np.isnan(solutions[1].history.starts).tolist() == [number in numbers for number in range(NUMBER)]
    assert timeless(solutions[0].history) == timeless(solutions[1].history)
    assert solutions[0].coefficients.tobytes() == solutions[1].coefficients.tobytes()


class BrokenError(Exception):
    """What a residual raises."""


def breaking(after, error):
    """A problem whose residual raises, or is not a number, when it has been called so often."""
    calls = [0]

    def residual(x, u):
        calls[0] += 1
        if calls[0] > after[0]:
            if error is not None:
                raise error
            return u.value * math.nan
        return u.value - torch.sin(3.0 * x[:, 0])

    return kanmg.Collocation(
        coordinates=("x", "y"), fields=("u",), terms=[kanmg.Term("residual", residual, POINTS)]
    ), calls


@pytest.mark.parametrize("after", [0, 7, 40])
def test_what_a_residual_raises_is_raised(after):
    limit = [10**9]
    problem, calls = breaking(limit, BrokenError("at this point"))
    method = kanmg.NestedIteration(kanmg.LBFGS(), steps=3, starts=kanmg.Starts(6, steps=20))
    limit[0] = calls[0] + 1 + after
    with pytest.raises(BrokenError, match="at this point"):
        kanmg.solve(problem, HIERARCHY, method=method, progress=False)
    assert not threads_of_starts()


def test_if_all_starts_fail_the_run_fails():
    limit = [10**9]
    problem, calls = breaking(limit, None)
    method = kanmg.NestedIteration(kanmg.LBFGS(), steps=3, starts=kanmg.Starts(4, steps=20))
    limit[0] = calls[0] + 30
    with pytest.raises(ConvergenceError) as info:
        kanmg.solve(problem, HIERARCHY, method=method, progress=False)
    assert info.value.solution.status is kanmg.Status.NON_FINITE
    assert np.isfinite(info.value.solution.coefficients).all()


@dataclasses.dataclass(frozen=True)
class Stateless(kanmg.smoothers.base.Smoother):
    """Steepest descent, which remembers nothing."""

    def init(self, objective, theta):
        del objective, theta

    def step(self, objective, theta, state):
        loss, gradient = objective.value_and_gradient(theta)
        length = 1e-4 / (1.0 + float(np.linalg.norm(gradient)))
        return theta - length * gradient, state, StepRecord(loss, float(np.linalg.norm(gradient)), length)


@pytest.mark.parametrize("smoother", [Stateless(), kanmg.BFGS()])
def test_smoothers_without_a_state_and_with_a_large_one(smoother, tmp_path, monkeypatch):
    method = kanmg.NestedIteration(smoother, steps=2, starts=kanmg.Starts(4, steps=8))
    expected, _ = solve(method, 1)
    # No room but for two items of every start.
    monkeypatch.setattr("kanmg.starts_ahead.MOST_BYTES", 0)
    solution, ahead = solve(method)
    assert ahead
    assert solution.coefficients.tobytes() == expected.coefficients.tobytes()

    def stop(record):
        if record.step == 11:
            raise StopIteration

    solve(method, callback=stop, checkpoint=tmp_path / "run")
    resumed, _ = solve(method, checkpoint=tmp_path / "run")
    assert timeless(resumed.history) == timeless(expected.history)


def test_no_start_runs_further_ahead_than_there_is_room(monkeypatch):
    monkeypatch.setattr("kanmg.starts_ahead.MOST_BYTES", 0)
    calls = []

    def residual(x, u):
        calls.append(threading.current_thread().name)
        return u.value - torch.sin(3.0 * x[:, 0])

    problem = kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=[kanmg.Term("residual", residual, POINTS)])
    begun, waited = threading.Event(), []

    def wait(record):
        if record.event == "smooth" and not begun.is_set():
            begun.set()
            time.sleep(1.0)
            waited.append(sum(name.startswith("kanmg-start") for name in calls))

    method = kanmg.NestedIteration(Stateless(), steps=2, starts=kanmg.Starts(4, steps=500))
    kanmg.solve(problem, HIERARCHY, method=method, progress=False, callback=wait, max_cycles=0)
    # Two threads, each with what is known at the beginning, two steps that wait and one that was taken.
    assert 2 <= waited[0] <= 10


@dataclasses.dataclass(frozen=True)
class Failing(Stateless):
    """Fails at the fourth step, after its evaluation."""

    def init(self, objective, theta):
        del objective, theta
        return 0

    def step(self, objective, theta, state):
        theta, _, record = super().step(objective, theta, None)
        if state == 3:
            raise DomainError("a hidden value has left its interval")
        return theta, state + 1, record


def test_a_step_that_fails_is_counted():
    units = []
    for threads in (1, 2):
        with pytest.raises(DomainError) as info:
            solve(kanmg.NestedIteration(Failing(), steps=3, starts=kanmg.Starts(3, steps=20)), threads)
        units.append(info.value.solution.work_units)
    assert units[0] == units[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork processes")
def test_a_forked_process_goes_on_with_its_run():
    # In a process of its own: a fork of a process that has threads of pytest could hang for other reasons.
    script = """
import os, sys
import numpy as np, torch, kanmg
torch.set_num_threads(2)
points = np.linspace(-1, 1, 100)[:, None]
terms = [kanmg.Term("equation", lambda x, u: u.d("x", "x") + torch.sin(3.0 * x[:, 0]), points)]
problem = kanmg.Collocation(coordinates=("x",), fields=("u",), terms=terms)
hierarchy = kanmg.uniform_hierarchy((1, 2, 1), degree=3, num_intervals=3, num_levels=2)
method = kanmg.NestedIteration(kanmg.LBFGS(), steps=3, starts=kanmg.Starts(4, steps=10))
child = []
def fork(record):
    if record.step == 13 and not child:
        child.append(os.fork())
solution = kanmg.solve(problem, hierarchy, method=method, callback=fork, progress=False)
number = int.from_bytes(solution.coefficients.tobytes()[:8], "little") % 251
if child[0] == 0:
    os._exit(number)
sys.exit(0 if os.waitstatus_to_exitcode(os.waitpid(child[0], 0)[1]) == number else 1)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=120).returncode == 0


def test_a_run_in_a_thread_that_outlives_the_main_one():
    script = """
import threading, time
import numpy as np, torch, kanmg
points = np.linspace(-1, 1, 100)[:, None]
terms = [kanmg.Term("equation", lambda x, u: u.d("x", "x") + torch.sin(3.0 * x[:, 0]), points)]
problem = kanmg.Collocation(coordinates=("x",), fields=("u",), terms=terms)
hierarchy = kanmg.uniform_hierarchy((1, 2, 1), degree=3, num_intervals=3, num_levels=2)
method = kanmg.NestedIteration(kanmg.LBFGS(), steps=3, starts=kanmg.Starts(4, steps=10))
def work():
    torch.set_num_threads(2)
    time.sleep(0.3)
    print("ended", np.isfinite(kanmg.solve(problem, hierarchy, method=method, progress=False).loss))
threading.Thread(target=work).start()
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=False, timeout=120, capture_output=True, text=True)
    assert done.stdout == "ended True\n", done.stderr


def test_an_interrupt_ends_the_threads():
    seen = []

    def interrupt(record):
        seen.append(record.event)
        if seen.count("choose") == 2:
            raise KeyboardInterrupt

    solution, ahead = solve(callback=interrupt)
    assert ahead
    assert solution.status is kanmg.Status.INTERRUPTED
    assert not threads_of_starts()


class Unfinished(kanmg.VCycle):
    """A cycle of a user whose program ends inside a start."""

    def program(self, hierarchy, start=None):
        del hierarchy, start
        prologue = (Draw(0, 0), Smooth(0, 2, kanmg.LBFGS()))
        return Program(0, prologue, (), 0, (1.0,))


def test_a_program_that_ends_inside_a_start():
    hierarchy = kanmg.Hierarchy([HIERARCHY[0].network])
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(kanmg.solve(PROBLEM, hierarchy, method=Unfinished(), seed=3, progress=False, throw=False))
    assert timeless(results[0].history) == timeless(results[1].history)


@pytest.mark.parametrize(
    ("problem", "evaluator", "threads", "pays"),
    [
        (PROBLEM, "cpu", 2, True),
        (PROBLEM, "cpu", 1, False),
        (PROBLEM, "reference", 2, False),
        (kanmg.Regression(POINTS, POINTS[:, :1]), "cpu", 2, False),
    ],
)
def test_where_threads_pay(problem, evaluator, threads, pays):
    torch.set_num_threads(threads)
    hierarchy = kanmg.uniform_hierarchy((2, 1), degree=3, num_intervals=3, num_levels=1, evaluator=evaluator)
    assert StartsAhead(problem, hierarchy[0]).pays is pays
