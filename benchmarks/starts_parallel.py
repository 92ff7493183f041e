"""Starts on the coarsest level: one after the other, or at once in threads with an evaluator each.

For equations `kanmg.solve` smooths several starts at once in threads. Here the same steps are done one after the other,
with the compiled kernels on all threads; by as many Python threads as there are threads, each of them with its own copy
of the level and on one thread; and by as many processes that share nothing, which is what threads could gain without
Python's global lock. Each process makes the problem itself: residuals that are local functions cannot be sent to it.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import copy
import functools
import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

import kanmg
from kanmg import gallery
from kanmg.evaluators import pool
from kanmg.program import Draw, Smooth
from kanmg.threads import one_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from kanmg.cycles import Cycle
    from kanmg.hierarchy import Level
    from kanmg.problems.base import Problem

LM = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), starts=kanmg.Starts(8, steps=30))
CASES: dict[str, tuple[Callable[[], gallery.ModelProblem], Cycle | None]] = {
    "KAN-1": (gallery.kan1, None),
    "ML-1": (gallery.ml1, None),
    "KAN-1, Levenberg-Marquardt": (gallery.kan1, LM),
    "KAN-2": (gallery.kan2, None),
    "Helmholtz": (gallery.helmholtz, None),
    "Kovasznay": (gallery.kovasznay, None),
    "Burgers": (gallery.burgers, None),
    "Allen-Cahn": (gallery.allen_cahn, None),
}
ONE_BY_ONE, ON_ONE_THREAD, THREADS, PROCESSES = WAYS = ("one by one", "on one thread", "in threads", "in processes")


class Phase(NamedTuple):
    """What the starts of a method have in common, and where each of them begins."""

    problem: Problem
    level: Level
    smooth: Smooth
    begins: list[np.ndarray]


def main() -> int:
    arguments = harness.parse_arguments(__doc__)
    rounds, steps = (3, 4) if arguments.quick else (7, 10)
    rows = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(harness.NUM_THREADS, spawn, torch.set_num_threads, (1,)) as processes:
        for name in CASES:
            phase = make_phase(name, steps)
            in_processes = functools.partial(smooth_in_processes, processes, name, steps, len(phase.begins))
            in_processes()  # loads everything, and makes the problem in every process
            with one_thread():
                seconds, share = cost_of_a_step(phase)
            times: dict[str, list[float]] = {way: [] for way in WAYS}
            results = {}
            for _ in range(rounds):
                for way in WAYS:
                    begin = time.perf_counter()
                    results[way] = in_processes() if way == PROCESSES else smooth_all(phase, way)
                    times[way].append(time.perf_counter() - begin)
            medians = [f"{np.median(times[way]):.3f} ({min(times[way]):.3f})" for way in WAYS]
            same = "yes" if all(result == results[ONE_BY_ONE] for result in results.values()) else "no"
            rows.append((name, len(phase.begins[0]), f"{1e3 * seconds:.2f}", f"{share:.2f}", *medians, same))
    harness.print_table(("problem", "coefficients", "ms a step", "in kernels", *WAYS, "same bits"), rows)
    print("\nMilliseconds of processor time of a step on one thread, and the kernels' part of it.")
    print(f"Seconds of {steps} steps of {2 * harness.NUM_THREADS} starts: medians (minima) of {rounds} rounds.")
    return 0


@functools.cache
def make_phase(name: str, steps: int) -> Phase:
    """Prepare two starts for every thread as the method's program says, but with so many steps."""
    make, method = CASES[name]
    model = make()
    hierarchy = model.hierarchy()
    prologue = (method or kanmg.default_method(model.problem, hierarchy)).program(hierarchy).prologue
    draw = next(instruction for instruction in prologue if isinstance(instruction, Draw))
    smooth = next(instruction for instruction in prologue if isinstance(instruction, Smooth))
    problem = model.problem.subset(draw.fraction)
    problem = problem.eased(draw.ease) if draw.ease else problem
    inputs, unknowns = model.problem.training_inputs(), model.problem.initial_parameters
    begins = [
        np.append(kanmg.initial_coefficients(hierarchy[0].network, inputs, seed=seed), unknowns)
        for seed in range(2 * harness.NUM_THREADS)
    ]
    return Phase(problem, hierarchy[0], Smooth(0, steps, smooth.smoother), begins)


def smooth_named(name: str, steps: int, number: int) -> bytes:
    """Smooth a start of a problem in another process."""
    phase = make_phase(name, steps)
    return smooth_one(phase, phase.level, number)


def smooth_in_processes(processes: ProcessPoolExecutor, name: str, steps: int, number: int) -> list[bytes]:
    """Smooth all starts of a problem in other processes."""
    return list(processes.map(functools.partial(smooth_named, name, steps), range(number)))


def smooth_one(phase: Phase, level: Level, number: int) -> bytes:
    """Smooth a start, and return the bits of its coefficients."""
    objective, smoother, theta = kanmg.Objective(phase.problem, level), phase.smooth.smoother, phase.begins[number]
    state = smoother.init(objective, theta)
    for _ in range(phase.smooth.steps):
        theta, state, _ = smoother.step(objective, theta, state)
    return theta.tobytes()


def smooth_all(phase: Phase, way: str) -> list[bytes]:
    """Smooth all starts in one of the ways."""
    numbers = range(len(phase.begins))
    if way == ONE_BY_ONE:
        return [smooth_one(phase, phase.level, number) for number in numbers]
    if way == ON_ONE_THREAD:
        with one_thread():
            return [smooth_one(phase, phase.level, number) for number in numbers]
    own = threading.local()

    def smooth(number: int) -> bytes:
        if not hasattr(own, "level"):
            own.level = copy.deepcopy(phase.level)
        with one_thread():
            return smooth_one(phase, own.level, number)

    with ThreadPoolExecutor(torch.get_num_threads()) as executor:
        return list(executor.map(smooth, numbers))


def cost_of_a_step(phase: Phase) -> tuple[float, float]:
    """Processor seconds of a step, and the part of them in kernels: other processes on the cores do not count."""
    run, in_kernels = pool.run, 0.0

    def timed(*arguments: int) -> None:
        nonlocal in_kernels
        begin = time.thread_time()
        run(*arguments)
        in_kernels += time.thread_time() - begin

    smooth_one(phase, phase.level, 0)
    pool.run = timed
    try:
        begin = time.thread_time()
        smooth_one(phase, phase.level, 0)
        seconds = time.thread_time() - begin
    finally:
        pool.run = run
    return seconds / phase.smooth.steps, in_kernels / seconds


if __name__ == "__main__":
    raise SystemExit(main())
