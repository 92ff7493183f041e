"""Watch a run: the best coefficients, tolerances, non-finite values, divergence, and the end of improvement."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kanmg.history import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from kanmg.evaluators.base import Array
    from kanmg.event import Event

__all__ = ["DIVERGENCE_FACTOR", "Candidate", "Monitor"]

# A loss that exceeds so many times both the initial one and that of the zero function will not come back.
DIVERGENCE_FACTOR = 1e6

# A level whose lowest validation loss is so many times that of the levels before fits noise: finer ones only fit more.
TURNING_FACTOR = 2.0

# After such events losses do not compare with those before.
_OTHER_LOSSES = {"pose", "redraw", "weigh"}


@dataclass(slots=True)
class Candidate:
    """Coefficients that may become the result.

    Attributes
    ----------
    theta : ndarray
    level : int
    score : float
        What the best one has least of: loss or validation loss; infinite if unknown.
    loss : float
        Training loss; NaN if unknown.
    ease : float
        How far the problem whose loss is the score is on the way to an easier one: only 0 counts as converged.
    """

    theta: Array
    level: int
    score: float = math.inf
    loss: float = math.nan
    ease: float = 0.0


@dataclass(slots=True)
class Monitor:
    """Sees every event on the highest level in use, and says when the run should end.

    Attributes
    ----------
    finest : int
        Number of the finest level.
    has_batches : bool
        Whether recorded losses are those of mini-batches.
    rtol, atol, patience
        As for `kanmg.solve`.
    typical_loss : callable
        Returns the loss of the zero function, the scale of the problem; called only if a loss has grown suspiciously.
    initial_loss : float
    lowest, validated : Candidate or None
        The best coefficients on the highest level reached so far, by training loss (with mini-batches: the last ones)
        and by validation loss.
    waiting : int
        Records on the finest level since the validation loss last improved.
    failure : Status or None
        `NON_FINITE` or `DIVERGED`.
    is_settled : bool
        Whether the loss of the current coefficients has been taken note of.
    chooses_level : bool
        Whether the result is what has the lowest validation loss of all levels.
    is_drawn : bool
        Whether initial coefficients are random, so that they are no result, whatever their validation loss.
    lowest_here : float
        The lowest validation loss of the highest level in use.
    has_turned : bool
        Whether the result is chosen, because validation losses rise from level to level.
    """

    finest: int
    has_batches: bool
    rtol: float | None
    atol: float | None
    patience: int | None
    typical_loss: Callable[[], float] = field(repr=False)
    initial_loss: float = math.nan
    lowest: Candidate | None = None
    validated: Candidate | None = None
    waiting: int = 0
    failure: Status | None = None
    is_settled: bool = False
    chooses_level: bool = False
    is_drawn: bool = False
    lowest_here: float = math.inf
    has_turned: bool = False

    @property
    def wants_tolerance(self) -> bool:
        """Whether a tolerance was requested."""
        return self.rtol is not None or self.atol is not None

    @property
    def tolerance(self) -> float:
        """The loss that counts as converged; -1 if none was requested."""
        if not self.wants_tolerance:
            return -1.0
        return max(self.atol or 0.0, (self.rtol or 0.0) * self.initial_loss)

    @property
    def has_converged(self) -> bool:
        """Whether coefficients of the finest level have a loss, on all samples, that meets the tolerance."""
        best = self.lowest
        return best is not None and best.level == self.finest and not best.ease and best.score <= self.tolerance

    @property
    def is_exhausted(self) -> bool:
        """Whether the validation loss has not improved for `patience` records."""
        return self.patience is not None and self.waiting >= self.patience

    @property
    def best(self) -> Candidate:
        """The coefficients to return."""
        if self.lowest is None:
            raise RuntimeError("no event was observed")
        validates = self.chooses_level or self.patience is not None
        if self.validated is not None and validates and not self.has_converged:
            return self.validated
        return self.lowest

    def renewed(self) -> Monitor:
        """Return a monitor of another attempt, which tolerances see as a part of the same run."""
        fresh: dict[str, Any] = {"lowest": None, "validated": None, "waiting": 0, "failure": None, "is_settled": False}
        return replace(self, **fresh, lowest_here=math.inf, has_turned=False)

    def observe(self, event: Event, validation_loss: float, theta: Array) -> None:
        """Take note of what happened on the highest level in use.

        Parameters
        ----------
        event : Event
        validation_loss : float
            At `theta`; NaN where it was not evaluated.
        theta : ndarray
            The current coefficients.
        """
        if event.kind == "start" and math.isnan(self.initial_loss):
            self.initial_loss = event.loss
        if self.lowest is None or event.level > self.lowest.level or event.kind in _OTHER_LOSSES:
            self._leave_level(event)
            self.lowest = Candidate(event.theta, event.level, ease=event.ease)
        self.is_settled = False
        self.failure = self._failure(event)
        if self.failure is not None:
            return
        if self.has_batches:
            self.lowest = Candidate(event.theta, event.level, ease=event.ease)
        else:
            self.consider(event.theta, event.loss)
        self.waiting += event.level == self.finest
        if not math.isnan(validation_loss):
            self._validate(event, validation_loss, theta)

    def observe_start(self, event: Event, validation_loss: float) -> Status | None:
        """Take note of what happened to one of several starts, of which the best has not been chosen yet.

        Until the first of them has been compared on all samples, the last coefficients are the best ones known, unless
        the smoother itself sees all samples.

        Parameters
        ----------
        event : Event
        validation_loss : float
            At `event.theta`; NaN where it was not evaluated.

        Returns
        -------
        Status or None
            Why the start is none to go on with.
        """
        is_first = self.lowest is None
        if event.kind == "start" and not math.isfinite(self.initial_loss):
            self.initial_loss = event.loss
        if self.lowest is None:
            self.lowest = Candidate(event.theta, event.level, ease=event.ease)
        self.is_settled = event.kind == "choose"
        is_evaluated = is_first or event.kind != "start" or not math.isnan(event.loss)
        failure = self._failure(event) if is_evaluated else None
        if failure is None and (self.is_settled or (event.fraction == 1.0 and not self.has_batches)):
            self.consider(event.theta, event.loss)
        elif failure is None and math.isinf(self.lowest.score):
            self.lowest = Candidate(event.theta, event.level, ease=event.ease)
        if not math.isnan(validation_loss):
            self._validate(event, validation_loss, event.theta)
        return failure

    def consider(self, theta: Array, loss: float) -> None:
        """Take coefficients of the highest level in use for the best, if their loss on all samples is lower.

        The loss of an easier problem is compared, but told to nobody.
        """
        best = self.lowest
        if best is not None and loss < best.score:
            best.theta, best.score, best.loss = theta, loss, math.nan if best.ease else loss

    def settle(self, theta: Array, loss: float) -> None:
        """Take note of the current coefficients' loss on all samples, which no event has told yet."""
        if self.has_batches and self.lowest is not None:
            self.lowest = Candidate(theta, self.lowest.level, ease=self.lowest.ease)
        self.consider(theta, loss)
        self.is_settled = True

    def replace_best(self, theta: Array, loss: float, validation_loss: float | None) -> None:
        """Put other coefficients of the same level in the place of the best ones."""
        best = self.best
        best.theta, best.loss, best.score = theta, loss, loss
        if best is self.validated and validation_loss is not None:
            best.score = validation_loss

    def _leave_level(self, event: Event) -> None:
        """Forget what does not compare with what follows."""
        if not self.chooses_level or event.kind == "pose":
            self.validated, self.lowest_here = None, math.inf
            return
        # Other points and weights of the same level change its training loss, not the one at held-back points.
        if event.kind in _OTHER_LOSSES:
            return
        # A level that is only passed through has no validation loss, and says nothing.
        if self.validated is not None and not self.wants_tolerance and math.isfinite(self.lowest_here):
            self.has_turned = self.lowest_here > TURNING_FACTOR * self.validated.score
        self.lowest_here = math.inf

    def _failure(self, event: Event) -> Status | None:
        """Look for numbers that are no numbers, and for losses out of all proportion."""
        if _is_not_finite(event):
            return Status.NON_FINITE
        factor = DIVERGENCE_FACTOR
        if event.loss > factor * self.initial_loss and event.loss > factor * self.typical_loss():
            return Status.DIVERGED
        return None

    def _validate(self, event: Event, validation_loss: float, theta: Array) -> None:
        """Compare a validation loss with the best one."""
        if event.kind == "start" and self.is_drawn:
            return
        self.lowest_here = min(self.lowest_here, validation_loss)
        if self.validated is None or validation_loss < self.validated.score:
            loss = event.loss if event.theta is theta and not self.has_batches else math.nan
            self.validated = Candidate(theta, event.level, validation_loss, loss)
            self.waiting = 0

    def snapshot(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        return {
            "initial_loss": self.initial_loss,
            "lowest": self.lowest,
            "validated": self.validated,
            "waiting": self.waiting,
            "failure": self.failure and self.failure.name,
            "is_settled": self.is_settled,
            "lowest_here": self.lowest_here,
            "has_turned": self.has_turned,
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go on from where `snapshot` was taken."""
        self.initial_loss = snapshot["initial_loss"]
        self.lowest, self.validated = snapshot["lowest"], snapshot["validated"]
        self.waiting, self.is_settled = snapshot["waiting"], snapshot["is_settled"]
        self.lowest_here, self.has_turned = snapshot["lowest_here"], snapshot["has_turned"]
        self.failure = Status[snapshot["failure"]] if snapshot["failure"] else None


def _is_not_finite(event: Event) -> bool:
    """Whether a number that an event must tell is none; events without losses have NaN."""
    if event.kind == "smooth":
        return not (math.isfinite(event.loss) and math.isfinite(event.gradient_norm))
    return math.isinf(event.loss) or (event.kind in {"start", "choose"} and math.isnan(event.loss))
