"""Starts that threads smooth ahead of the machine, each with an evaluator of its own."""

from __future__ import annotations

import contextvars
import copy
import math
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from kanmg.objective import Objective
from kanmg.problems.collocation import Collocation
from kanmg.program import Choose, Draw, Resume, Smooth
from kanmg.smoothing import Smoothed, is_over, smooth, with_loss
from kanmg.stack import Known
from kanmg.threads import one_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kanmg.hierarchy import Level
    from kanmg.position import Position
    from kanmg.problems.base import Problem
    from kanmg.stack import Frame

__all__ = ["StartAhead", "StartsAhead", "starts_at"]

# More steps, of which each is kept until the machine takes it, could fill the memory.
MAX_STEPS = 1000

Item: TypeAlias = Known | Smoothed
"""What is known where a start begins, or what a step has made of it."""


def starts_at(position: Position) -> Iterator[tuple[int, Draw | Resume, Smooth]]:
    """Go through the start at hand and those that follow it at once, if what is at hand is the smoothing of a start.

    Yields
    ------
    number : int
        Of the smoothing within the cycle.
    begin : Draw or Resume
    instruction : Smooth
    """
    block, number = position.block, position.index
    while 0 < number < len(block):
        begin, instruction = block[number - 1 : number + 1]
        if not (isinstance(begin, Draw | Resume) and isinstance(instruction, Smooth)):
            return
        if instruction.steps > MAX_STEPS or not isinstance(block[number + 1], Choose):
            return
        yield number, begin, instruction
        number += 3


class StartAhead:
    """One start: where it begins, and the queue of its steps.

    Parameters
    ----------
    problem : Problem
        On the samples that the start sees.
    instruction : Smooth
    frame : Frame
        Where it begins. If nothing is known there, and no step has been done, that is the first item.
    step : int, default 0
        How many steps have been done before.
    losses : tuple of float, optional
        Of the last of them; those of another smoothing if `step` is 0.
    """

    def __init__(
        self, problem: Problem, instruction: Smooth, frame: Frame, step: int = 0, losses: tuple[float, ...] = ()
    ) -> None:
        self.theta = frame.theta
        self.is_given_up = False
        # The machine replaces what is in its frames.
        self._begin = problem, instruction, frame.known, frame.state, step, losses if step else ()
        self._items: SimpleQueue[tuple[Item, float] | BaseException] = SimpleQueue()

    def take(self) -> tuple[Any, float]:
        """Wait for the next item; returns it and the multiply-adds that it took, or raises what the step has raised."""
        item = self._items.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def smooth(self, level: Level) -> None:
        """Do the steps, on a copy of the level that nobody else uses meanwhile."""
        try:
            # As in the run's own loop: a loss may overflow, and the monitor sees the infinity.
            with one_thread(), np.errstate(over="ignore", invalid="ignore"):
                for item in self._steps(level):
                    self._items.put(item)
                    if self.is_given_up:
                        return
            self._items.put(RuntimeError("the start has no more steps"))
        except BaseException as error:  # noqa: BLE001 - whoever takes it raises it
            self._items.put(error)

    def _steps(self, level: Level) -> Iterator[tuple[Item, float]]:
        problem, instruction, known, state, step, losses = self._begin
        objective, theta, work = Objective(problem, level), self.theta, 0.0
        if known is None and state is None:
            known = Known(*objective.value_and_gradient(theta))
            yield known, objective.work
        ends = False
        while not ends:
            work = objective.work
            theta, state, known, record = smoothed = smooth(instruction.smoother, objective, theta, state, known)
            yield smoothed, objective.work - work
            step, losses = step + 1, with_loss(losses, record.loss)
            ends = is_over(instruction, step, losses, stalled=record.stalled) or not math.isfinite(record.loss)


class StartsAhead:
    """Several starts at once, in as many threads as torch may use.

    Every start does the steps that it would do alone, on one thread.

    Parameters
    ----------
    problem : Problem
    level : Level
        The coarsest.

    Attributes
    ----------
    pays : bool
        Whether starts are smoothed faster at once than one after the other. So it is with equations on the compiled
        evaluator. Steps on samples take less time, most of it in Python.
    """

    def __init__(self, problem: Problem, level: Level) -> None:
        is_compiled = level.evaluator.home is None and not level.evaluator.name.startswith("reference")
        has_batches, self._threads = problem.steps_per_epoch > 1, torch.get_num_threads()
        self.pays = isinstance(problem, Collocation) and is_compiled and not has_batches and self._threads > 1
        self._level = level
        self._copies: SimpleQueue[Level] = SimpleQueue()
        self._starts: dict[int, StartAhead] = {}
        self._executor: ThreadPoolExecutor | None = None

    def begin(self, starts: dict[int, StartAhead]) -> None:
        """Smooth starts, by the numbers of their instructions, in the order in which they will be asked for."""
        self.end()
        if not starts:
            return
        number = min(self._threads, len(starts))
        while self._copies.qsize() < number:
            self._copies.put(copy.deepcopy(self._level))
        self._starts = starts
        self._executor = ThreadPoolExecutor(number, thread_name_prefix="kanmg-start")
        for start in starts.values():
            # What the caller has set for NumPy's errors, and in variables of its own, holds for its starts too.
            self._executor.submit(contextvars.copy_context().run, self._smooth, start)

    def at(self, number: int) -> StartAhead | None:
        """Return the start whose smoothing is this instruction, if it is one of these."""
        return self._starts.get(number)

    def end(self) -> None:
        """Let all threads end after the step at hand, and wait until they have."""
        for start in self._starts.values():
            start.is_given_up = True
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        self._starts, self._executor = {}, None

    def _smooth(self, start: StartAhead) -> None:
        level = self._copies.get()
        try:
            if not start.is_given_up:
                start.smooth(level)
        finally:
            self._copies.put(level)
