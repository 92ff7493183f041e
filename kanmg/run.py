"""One run: the machine works, the monitor watches, and what happens is recorded."""

from __future__ import annotations

import functools
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from kanmg.alarms import say_what_is_undetermined
from kanmg.coverage import expected_loss
from kanmg.determined import margins_of_parameters
from kanmg.errors import CheckpointError, DomainError, KanmgValueError
from kanmg.event import Event
from kanmg.fairing import fair
from kanmg.history import History, Record, Status
from kanmg.machine import Machine
from kanmg.monitor import Monitor
from kanmg.objective import loss_of_zero
from kanmg.progress import Interrupts, Progress
from kanmg.solution import Solution
from kanmg.summary import describe_failure, write_message
from kanmg.validation import Validation
from kanmg.vectors import to_host

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from kanmg.checkpoint import Checkpoint
    from kanmg.evaluators.base import Array
    from kanmg.hierarchy import Hierarchy
    from kanmg.problems.base import Problem
    from kanmg.problems.standardisation import Standardisation
    from kanmg.program import Program

__all__ = ["STOPPED", "Run"]

# So many cycles in a row that together lower the loss by less than this part of it are the last.
IDLE_CYCLES, IDLE_DECREASE = 3, 1e-6

# After these nothing is left to do but what follows the loop.
_COMPLETE = {Status.FINISHED, Status.STALLED, Status.CONVERGED, Status.TOLERANCE_NOT_MET}

# What is recorded when an attempt is complete.
_AFTER_THE_LOOP = {"fair", "probe", "compare"}

# Runs that ended so may go on from their checkpoint.
STOPPED = {Status.STOPPED_BY_CALLBACK, Status.INTERRUPTED}


class Run:
    """Executes a program and keeps its books.

    Parameters
    ----------
    problem : Problem
    hierarchy : Hierarchy
    program : Program
    theta : ndarray
        Initial coefficients.
    home : torch.device or None
        Where vectors live; None: they are NumPy arrays.
    standardisation : Standardisation or None
        How the values of the networks become those of the data.
    draw : callable or None
        As for `Machine`.
    rtol, atol, max_cycles, patience, callback, progress
        As for `kanmg.solve`.
    checkpoint : Checkpoint or None
    remark : str
        What the solution's message is to say besides.
    """

    def __init__(
        self,
        problem: Problem,
        hierarchy: Hierarchy,
        program: Program,
        theta: Array,
        *,
        home: torch.device | None,
        standardisation: Standardisation | None,
        draw: Callable[[int, int], Array] | None,
        rtol: float | None,
        atol: float | None,
        max_cycles: int | None,
        patience: int | None,
        callback: Callable[[Record], object] | None,
        progress: bool | None,
        checkpoint: Checkpoint | None,
        remark: str = "",
    ) -> None:
        has_batches = problem.steps_per_epoch > 1
        typical_loss = functools.cache(functools.partial(loss_of_zero, problem, hierarchy[0], home))
        self._problem, self._hierarchy = problem, hierarchy
        self._home, self._standardisation = home, standardisation
        self._program = program
        self._machine = Machine(problem, hierarchy, program, theta, draw)
        choice: dict[str, Any] = {"chooses_level": program.hold_back > 0.0, "is_drawn": draw is not None}
        self.monitor = Monitor(len(hierarchy) - 1, has_batches, rtol, atol, patience, typical_loss, **choice)
        self._num_cycles = program.num_cycles if max_cycles is None else max_cycles
        self._epoch = problem.steps_per_epoch
        self._validation = Validation(problem, hierarchy, patience)
        self._callback = callback
        self._checkpoint = checkpoint
        self._remark = remark
        self._progress = Progress(program.num_steps(self._num_cycles), progress)
        self._history = History()
        self._steps = 0
        self._since_confirmation = 0
        self._lowest_losses: list[float] = []
        self._was_stopped = False
        self._last: Event | None = None
        self._begin = time.perf_counter()

    def execute(self) -> Solution:
        """Run from the beginning, or from the checkpoint, to the end.

        Raises
        ------
        CheckpointError
            If the checkpoint cannot be read or written; with the best solution attached, if there is one.
        DomainError
            If a hidden value leaves its interval and `outside="error"`; with the same attached.
        """
        try:
            try:
                self._resume_or_start()
            except KeyboardInterrupt:  # of the first callback
                if not self._history:
                    raise
                return self._finish(Status.INTERRUPTED)
            return self._finish(self._complete())
        except (CheckpointError, DomainError) as error:
            if self._history:
                self._callback = None
                self._end_attempt(Status.CHECKPOINT_FAILED)
                is_file = isinstance(error, CheckpointError)
                error.solution = self._solution(Status.CHECKPOINT_FAILED if is_file else Status.LEFT_DOMAIN)
            raise
        finally:
            self._machine.close()
            self._progress.close()

    def _complete(self) -> Status:
        """Execute the program from where it is to its end, and fair the result."""
        status = self._loop()
        if self._program.fair and status in _COMPLETE and self._history[-1].event not in _AFTER_THE_LOOP:
            return self._fair(status)
        return status

    def _end_attempt(self, status: Status) -> Status:
        """Make what is best the result: of one attempt it is."""
        return status

    # --------------------------------------------------------------------------------------------------------- the loop

    def _loop(self) -> Status:
        """Advance until something says stop."""
        try:
            # A loss may overflow; the monitor sees the infinity.
            with Interrupts() as interrupts, np.errstate(over="ignore", invalid="ignore"):
                while (status := self._limit()) is None:
                    self._advance()
                    if interrupts.requested:
                        return Status.INTERRUPTED
                return status
        except KeyboardInterrupt:
            return Status.INTERRUPTED
        except CheckpointError:
            raise
        except BaseException as error:
            self._write_beside(error)
            raise

    def _advance(self) -> None:
        """Execute one step, and take note of it."""
        cycle = self._machine.position.cycle
        event = self._machine.advance()
        if event is not None:
            self._note(event, cycle)
        if self._checkpoint is not None:
            level_changed = event is None or event.kind != "smooth"
            if self._checkpoint.is_due(time.perf_counter(), level_changed=level_changed):
                self._write()

    def _note(self, event: Event, cycle: int) -> None:
        """Record an event and show it to whom it may concern."""
        machine, self._last = self._machine, event
        self._steps += event.kind == "smooth"
        validation_loss = math.nan
        if event.level == machine.top:
            if self._validation.exists:
                validation_loss = self._validation.loss(event, machine, is_first=not self._history)
            if event.fraction is not None:
                self._observe_start(event, validation_loss)
            else:
                self.monitor.observe(event, validation_loss, machine.theta)
                if self._epoch > 1:
                    self._confirm(event)
        self._record(event, cycle, validation_loss)

    def _record(self, event: Event, cycle: int, validation_loss: float) -> None:
        """Write a record, and show it."""
        seconds = time.perf_counter() - self._begin
        record = Record(
            cycle,
            event.level,
            self._steps,
            event.loss,
            event.gradient_norm,
            self._machine.work_units,
            seconds,
            validation_loss,
            event.step_size,
            event.kind,
        )
        self._history.append(record)
        self._progress.show(record, self._machine.top, seconds)
        if self._callback is not None:
            try:
                self._callback(record)
            except StopIteration:
                self._was_stopped = True

    def _observe_start(self, event: Event, validation_loss: float) -> None:
        """Watch one of several starts; a failure ends the run only if there is no other start."""
        failure = self.monitor.observe_start(event, validation_loss)
        if failure is None:
            return
        if not self._machine.has_other_start:
            self.monitor.failure = failure
        elif event.kind != "choose":
            self._machine.pass_over()

    def _confirm(self, event: Event) -> None:
        """Once an epoch, look at all samples if a mini-batch has met the tolerance."""
        self._since_confirmation += 1
        if event.loss <= self.monitor.tolerance and self._since_confirmation >= self._epoch:
            self._since_confirmation = 0
            self.monitor.settle(self._machine.theta, self._machine.loss)

    # ---------------------------------------------------------------------------------------------------------- the end

    def _limit(self) -> Status | None:
        """Why the run should end now."""
        monitor = self.monitor
        if monitor.failure is not None:
            return monitor.failure
        if monitor.has_converged:
            return Status.CONVERGED
        if monitor.is_exhausted:
            return Status.STOPPED_EARLY
        if self._was_stopped:
            return Status.STOPPED_BY_CALLBACK
        if monitor.has_turned:
            return Status.FINISHED
        return self._limit_between_cycles() if self._machine.position.is_between_cycles else None

    def _limit_between_cycles(self) -> Status | None:
        """Why no further cycle should begin."""
        machine = self._machine
        done = machine.position.cycle - 1
        if len(self._lowest_losses) <= done:
            self._lowest_losses.append(self.monitor.best.score)
        is_complete = done >= self._num_cycles or not self._program.cycle
        has_stalled = done > 0 and (not machine.changed or self._is_idle())
        if not (is_complete or has_stalled):
            return None
        self._settle()
        if self.monitor.has_converged:
            return Status.CONVERGED
        if has_stalled or (self.monitor.wants_tolerance and machine.stalled):
            return Status.STALLED
        return Status.TOLERANCE_NOT_MET if self.monitor.wants_tolerance else Status.FINISHED

    def _is_idle(self) -> bool:
        """Whether several cycles of smoothers that never raise the loss have not lowered it visibly."""
        is_comparable = self._machine.knows_loss and self._machine.weights is None
        if not is_comparable or len(self._lowest_losses) <= IDLE_CYCLES:
            return False
        before, now = self._lowest_losses[-1 - IDLE_CYCLES], self._lowest_losses[-1]
        return before - now <= IDLE_DECREASE * abs(before)

    def _settle(self) -> None:
        """Evaluate the current coefficients, unless the last event told their loss."""
        if not (self.monitor.is_settled or self._machine.is_choosing):
            self.monitor.settle(self._machine.theta, self._machine.loss)

    def _finish(self, status: Status) -> Solution:
        """Write the last checkpoint and make the solution."""
        self._write(status)
        # What a resumed run would not evaluate is evaluated after the checkpoint.
        if status in STOPPED:
            self._settle()
            self._callback = None
            self._end_attempt(status)
        return self._solution(status)

    def _fair(self, status: Status) -> Status:
        """Fair the result of a complete run."""
        best = self.monitor.best
        highest = self.monitor.tolerance if status is Status.CONVERGED else math.inf
        level = self._hierarchy[best.level]
        try:
            # Where a trial leaves its interval, the result remains as it is.
            with Interrupts() as interrupts, np.errstate(over="ignore", invalid="ignore"), suppress(DomainError):
                found = fair(self._problem, level, best.theta, highest, lambda: interrupts.requested)
                if interrupts.requested:
                    return Status.INTERRUPTED
                self._machine.add_work(found.work)
                self._steps += found.steps
                self.monitor.replace_best(found.theta, found.loss, found.held_back)
                length = float(found.has_changed)
                event = Event("fair", best.level, found.theta, found.loss, found.gradient_norm, length)
                held_back = math.nan if found.held_back is None else found.held_back
                self._record(event, self._machine.position.cycle, held_back)
                expected = expected_loss(self._problem, level, found.theta, found.loss)
                if math.isfinite(expected):
                    event = Event("probe", best.level, found.theta, math.nan)
                    self._record(event, self._machine.position.cycle, expected)
        except KeyboardInterrupt:
            return Status.INTERRUPTED
        return status

    def _loss_of_result(self) -> float:
        """Return the loss of the best coefficients on all of the problem's own points, with its own weights."""
        best = self.monitor.best
        loss = best.loss
        # Points that were drawn anew were so for the method, and weights too; the result is that of the problem's own.
        if math.isnan(loss) or self._machine.has_drawn or self._machine.weights is not None:
            # With mini-batches the last coefficients may be those whose values have left their intervals.
            with suppress(DomainError):
                loss = self._problem.loss(self._hierarchy[best.level].evaluator, best.theta)
        return loss

    def _failing_terms(self, status: Status) -> str:
        """Say which terms have ended the run."""
        if status is not Status.NON_FINITE or self._last is None:
            return ""
        return describe_failure(self._problem, self._hierarchy[self._last.level].evaluator, self._last)

    def _solution(self, status: Status) -> Solution:
        best, loss = self.monitor.best, self._loss_of_result()
        network = self._hierarchy[best.level].network
        theta, unknowns = np.split(to_host(best.theta).copy(), [network.num_coefficients])
        values, margins = self._problem.parameter_values(unknowns), {}
        if values and status in _COMPLETE:
            level = self._hierarchy[best.level]
            margins = margins_of_parameters(self._problem, self._program, level, best.theta, loss)
        if self._standardisation is not None:
            theta = self._standardisation.to_user(network, theta)
        return Solution(
            coefficients=theta,
            level=best.level,
            loss=loss,
            status=status,
            message=write_message(
                self._problem,
                self._program,
                self._machine,
                self.monitor,
                self._history,
                status,
                loss,
                "\n".join(filter(None, (self._failing_terms(status), self._remark))),
                say_what_is_undetermined(values, margins),
            ),
            history=self._history,
            work_units=self._machine.work_units,
            seconds=self._history[-1].seconds,
            hierarchy=self._hierarchy,
            coordinates=self._problem.coordinates,
            parameters=values,
            margins=margins,
            ansatz=self._problem.ansatz,
        )

    # ------------------------------------------------------------------------------------------------------ checkpoints

    def _resume_or_start(self) -> None:
        """Go on from the checkpoint, if there is one."""
        content = self._checkpoint.read(self._program, self._home) if self._checkpoint is not None else None
        if content is not None:
            self._restore(content)
            return
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                self._note(self._machine.start(), self._machine.position.cycle)
        except BaseException as error:
            if self._history:
                self._write_beside(error)
            raise
        if self.monitor.patience is not None and not self._validation.exists:
            raise KanmgValueError(
                f"`patience={self.monitor.patience}` watches the validation loss, but the problem holds no data back. "
                "Write e.g. `kanmg.Regression(x, y, validation=0.1)`, or leave `patience` out."
            )
        self._write()

    def _write(self, status: Status | None = None) -> None:
        """Write the checkpoint, if there is to be one."""
        if self._checkpoint is None:
            return
        self._checkpoint.write(self._content() | {"status": status and status.name})

    def _content(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, and that `_restore` takes."""
        return {
            "machine": self._machine.snapshot(),
            "monitor": self.monitor.snapshot(),
            "history": self._history.columns(),
            "counters": (self._steps, self._validation.since, self._since_confirmation),
            "lowest_losses": self._lowest_losses,
            "seconds": time.perf_counter() - self._begin,
        }

    def _write_beside(self, error: BaseException) -> None:
        """Write the checkpoint although the run is about to fail of something else."""
        try:
            self._write()
        except CheckpointError as failure:
            error.add_note(str(failure))

    def _restore(self, content: dict[str, Any]) -> None:
        """Go on from what `_write` wrote."""
        self._machine.restore(content["machine"])
        self.monitor.restore(content["monitor"])
        self._history = History.from_columns(content["history"])
        self._steps, self._validation.since, self._since_confirmation = content["counters"]
        self._lowest_losses = content["lowest_losses"]
        self._begin = time.perf_counter() - content["seconds"]
