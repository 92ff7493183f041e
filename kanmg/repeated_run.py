"""One run of several attempts: what alarms say has gone wrong is repeated from other starts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from kanmg.attempts import Attempt, reasons_to_repeat
from kanmg.errors import DomainError
from kanmg.event import Event
from kanmg.history import Status
from kanmg.progress import Interrupts
from kanmg.run import STOPPED, Run

if TYPE_CHECKING:
    from kanmg.history import RecordEvent

__all__ = ["RepeatedRun"]


class RepeatedRun(Run):
    """Executes a program, once more from other starts where alarms say that it went wrong, and keeps the better.

    Parameters
    ----------
    *arguments, **options
        As for `Run`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # The attempt before the one at hand, which is compared with it at the end.
        self._earlier: Attempt | None = None

    def _complete(self) -> Status:
        """Execute the program, and again while that is allowed and alarms ask for it."""
        status = self._compare(self._attempt())
        while self._is_to_be_repeated(status):
            status = self._compare(self._begin_again(status) or self._attempt())
        return status

    def _attempt(self) -> Status:
        """Execute the program from where it is to its end; a failure of a later attempt is one way to end."""
        try:
            return super()._complete()
        except DomainError:
            if self._earlier is None:
                raise
            return Status.LEFT_DOMAIN

    def _is_to_be_repeated(self, status: Status) -> bool:
        """Whether alarms say that the attempt that is kept has gone wrong, and another one is allowed."""
        if self._machine.attempt >= self._program.retries:
            return False
        return bool(reasons_to_repeat(self._history.kept, self._reached(status)))

    def _begin_again(self, status: Status) -> Status | None:
        """Begin the program anew, from other starts; returns how that has ended, if it has."""
        cycle = self._machine.position.cycle
        try:
            with Interrupts() as interrupts, np.errstate(over="ignore", invalid="ignore"):
                self._earlier = self._reached(status)
                self._record_attempt("retry", self._earlier)
                self._progress.extend(self._program.num_steps(self._num_cycles))
                self.monitor = self.monitor.renewed()
                self._lowest_losses, self._validation.since, self._since_confirmation = [], 0, 0
                self._note(self._machine.begin_again(), cycle)
                return Status.INTERRUPTED if interrupts.requested else None
        except DomainError:
            return Status.LEFT_DOMAIN

    def _compare(self, status: Status) -> Status:
        """Keep the better of an attempt that is complete and the one before it."""
        return status if status in STOPPED else self._end_attempt(status)

    def _end_attempt(self, status: Status) -> Status:
        """Keep the better of the attempt at hand and the one before it, and record that."""
        earlier = self._earlier
        if earlier is None:
            return status
        later = self._reached(status)
        is_kept = later.is_better_than(earlier)
        self._record_attempt("compare", later, float(is_kept))
        if not is_kept:
            self.monitor.restore(earlier.monitor)
        self._earlier = None
        return status if is_kept or status in STOPPED else Status[earlier.status]

    def _reached(self, status: Status) -> Attempt:
        """Sum up the attempt at hand."""
        monitor = self.monitor
        if monitor.lowest is None:
            return Attempt(status.name, self._machine.top, math.nan, math.nan, {})
        best = monitor.best
        held_back = best.score if best is monitor.validated else math.nan
        return Attempt(status.name, best.level, self._loss_of_result(), held_back, monitor.snapshot())

    def _record_attempt(self, kind: RecordEvent, attempt: Attempt, is_kept: float = math.nan) -> None:
        """Record what an attempt has reached, before or after another one."""
        event = Event(kind, attempt.level, self._machine.theta, attempt.loss, step_size=is_kept)
        self._record(event, self._machine.position.cycle, attempt.held_back)

    def _content(self) -> dict[str, Any]:
        return super()._content() | {"earlier": self._earlier}

    def _restore(self, content: dict[str, Any]) -> None:
        super()._restore(content)
        self._earlier = content["earlier"]
