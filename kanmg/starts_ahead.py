"""Starts that threads smooth ahead of the machine, each with an evaluator of its own."""

from __future__ import annotations

import contextvars
import copy
import dataclasses
import math
import os
import threading
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
    from collections.abc import Callable, Iterator

    from kanmg.hierarchy import Level
    from kanmg.position import Position
    from kanmg.problems.base import Problem
    from kanmg.stack import Frame

__all__ = ["StartAhead", "StartsAhead", "starts_at"]

# So many bytes of all starts wait for the machine, at most.
MOST_BYTES = 1 << 28

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
        if not all(isinstance(end, Choose) for end in block[number + 1 : number + 2]):
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
        # The machine replaces what is in its frames.
        self._begin = problem, instruction, frame.known, frame.state, step, losses if step else ()
        self._items: SimpleQueue[tuple[Item | BaseException, float]] = SimpleQueue()
        self._room = threading.Semaphore(1)
        self._given_up = threading.Event()

    def take(self, count: Callable[[float], None]) -> Any:
        """Wait for the next item, count its multiply-adds, and return it, or raise what the step has raised."""
        item, work = self._items.get()
        count(work)
        if isinstance(item, BaseException):
            raise item
        self._room.release()
        return item

    def give_up(self) -> None:
        """End after the step at hand: nothing will be taken any more."""
        self._given_up.set()
        self._room.release()

    def smooth(self, level: Level, most_bytes: float) -> None:
        """Do the steps, on a copy of the level that nobody else uses meanwhile.

        No more items wait than fit into so many bytes, or two.
        """
        problem, objective, counted, is_first = self._begin[0], None, 0.0, True
        if self._given_up.is_set():
            return
        try:
            objective = Objective(problem, level)
            # As in the run's own loop: a loss may overflow, and the monitor sees the infinity.
            with one_thread(), np.errstate(over="ignore", invalid="ignore"):
                for item in self._steps(objective):
                    self._items.put((item, objective.work - counted))
                    counted = objective.work
                    if is_first and isinstance(item, Smoothed):
                        is_first = False
                        self._room.release(max(1, int(most_bytes / _num_bytes(item)) - 1))
                    if not self._given_up.is_set():
                        self._room.acquire()
                    if self._given_up.is_set():
                        return
            raise RuntimeError("the start has no more steps")  # noqa: TRY301 - like all that has gone wrong
        except BaseException as error:  # noqa: BLE001 - whoever takes it raises it
            self._items.put((error, 0.0 if objective is None else objective.work - counted))

    def _steps(self, objective: Objective) -> Iterator[Item]:
        _, instruction, known, state, step, losses = self._begin
        theta, ends = self.theta, False
        if known is None and step == 0:
            known = Known(*objective.value_and_gradient(theta))
            yield known
        while not ends:
            theta, state, known, record = smoothed = smooth(instruction.smoother, objective, theta, state, known)
            yield smoothed
            step, losses = step + 1, with_loss(losses, record.loss)
            ends = is_over(instruction, step, losses, stalled=record.stalled) or not math.isfinite(record.loss)


def _num_bytes(value: Any) -> int:
    """Count the bytes of the arrays in what a step has made."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, dict):
        value = tuple(value.values())
    if dataclasses.is_dataclass(value):
        value = tuple(getattr(value, field.name) for field in dataclasses.fields(value))
    return sum(map(_num_bytes, value)) if isinstance(value, tuple | list) else 0


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
        has_batches, self._num_threads = problem.steps_per_epoch > 1, torch.get_num_threads()
        self.pays = isinstance(problem, Collocation) and is_compiled and not has_batches and self._num_threads > 1
        self._level = level
        self._levels: list[Level] = []
        self._starts: dict[int, StartAhead] = {}
        self._threads: list[threading.Thread] = []
        self._process = os.getpid()

    def begin(self, starts: dict[int, StartAhead]) -> None:
        """Smooth starts, by the numbers of their instructions, in the order in which they will be asked for."""
        self.end()
        if not starts:
            return
        number = min(self._num_threads, len(starts))
        self._levels += [copy.deepcopy(self._level) for _ in range(number - len(self._levels))]
        waiting: SimpleQueue[StartAhead | None] = SimpleQueue()
        for start in (*starts.values(), *number * (None,)):
            waiting.put(start)
        most_bytes = MOST_BYTES / len(starts)
        for own in self._levels[:number]:
            # What the caller has set for NumPy's errors, and in variables of its own, holds for its starts too.
            run, arguments = contextvars.copy_context().run, (_smooth_all, waiting, own, most_bytes)
            thread = threading.Thread(target=run, args=arguments, name="kanmg-start", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread can be had, as while the interpreter shuts down
                break
            self._threads.append(thread)
        self._starts = starts if self._threads else {}
        self.pays = bool(self._threads)

    def at(self, number: int) -> StartAhead | None:
        """Return the start whose smoothing is this instruction, if it is one of these."""
        self._forget_threads_of_parent()
        return self._starts.get(number)

    def end(self) -> None:
        """Let all threads end after the step at hand, and wait until they have."""
        self._forget_threads_of_parent()
        for start in self._starts.values():
            start.give_up()
        for thread in self._threads:
            thread.join()
        self._starts, self._threads = {}, []

    def _forget_threads_of_parent(self) -> None:
        """Begin anew with what is left to do, if this process has been forked: it has no threads."""
        if self._process != os.getpid():
            self._process, self._starts, self._threads, self._levels = os.getpid(), {}, [], []


def _smooth_all(waiting: SimpleQueue[StartAhead | None], level: Level, most_bytes: float) -> None:
    """Smooth one start after the other, until there is none."""
    while (start := waiting.get()) is not None:
        start.smooth(level, most_bytes)
