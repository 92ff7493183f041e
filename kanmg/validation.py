"""When the validation loss is evaluated in the course of a run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kanmg.event import Event
    from kanmg.hierarchy import Hierarchy
    from kanmg.machine import Machine
    from kanmg.problems.base import Problem

__all__ = ["VALIDATION_INTERVAL", "Validation"]

# Records between two validation losses, where an epoch has not more.
VALIDATION_INTERVAL = 10


class Validation:
    """Evaluates the validation loss at the end of every smoothing, and now and then before.

    Parameters
    ----------
    problem : Problem
    hierarchy : Hierarchy
    patience : int or None
        As for `kanmg.solve`: at least so often, if it is given.

    Attributes
    ----------
    exists : bool
        Whether the problem has one, as far as is known.
    since : int
        Records since it was evaluated last.
    """

    def __init__(self, problem: Problem, hierarchy: Hierarchy, patience: int | None) -> None:
        self._problem, self._hierarchy = problem, hierarchy
        interval = max(VALIDATION_INTERVAL, problem.steps_per_epoch)
        self._interval = interval if patience is None else min(interval, patience)
        self.exists, self.since = True, 0

    def loss(self, event: Event, machine: Machine, *, is_first: bool) -> float:
        """Return the validation loss if it is due after an event on the highest level in use, else NaN."""
        self.since += 1
        if event.fraction is not None:
            theta, is_due = event.theta, is_first or (event.kind == "choose" and math.isfinite(event.loss))
        else:
            ends_smoothing = event.kind == "smooth" and machine.position.step == 0
            theta, is_due = machine.theta, event.kind == "start" or ends_smoothing or self.since >= self._interval
        if not is_due:
            return math.nan
        self.since = 0
        loss = self._problem.validation_loss(self._hierarchy[event.level].evaluator, theta)
        self.exists = loss is not None
        return math.nan if loss is None else loss
