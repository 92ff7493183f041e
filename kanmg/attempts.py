"""Attempts: when a run that is complete is repeated from other starts, and which attempt is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kanmg.alarms import find_alarms
from kanmg.history import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kanmg.alarms import Sign
    from kanmg.history import History, Record

__all__ = ["Attempt", "describe_attempts", "reasons_to_repeat"]

# Where samples leave the fit open, or say nothing but noise, other starts are no better.
_CURABLE: frozenset[Sign] = frozenset({"unseen", "points", "stopped"})

# A run that ended otherwise has done what was asked for, was stopped, or has failed aloud.
_REPEATED = frozenset({Status.FINISHED, Status.STALLED, Status.TOLERANCE_NOT_MET, Status.STOPPED_EARLY})

_FAILED = frozenset({Status.NON_FINITE, Status.DIVERGED, Status.LEFT_DOMAIN})

_WORDS: dict[Sign, str] = {
    "unseen": "held-back points were fitted far worse than the others",
    "points": "the loss rose when points changed",
    "stopped": "the smoother stopped far from a minimum",
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an attempt has reached.

    Attributes
    ----------
    status : str
        Name of the status it ended with.
    level : int
    loss : float
        On all samples.
    held_back : float
        The loss at held-back points, if these choose the result, else NaN.
    monitor : dict
        What the monitor knows, as from `Monitor.snapshot`.
    """

    status: str
    level: int
    loss: float
    held_back: float
    monitor: dict[str, Any]

    def is_better_than(self, other: Attempt) -> bool:
        """Whether this later attempt is to be kept instead of another one."""
        status = Status[self.status]
        if status in _FAILED:
            return False
        if status is Status.CONVERGED:
            return True
        is_held_back = not math.isnan(self.held_back + other.held_back)
        return self.held_back < other.held_back if is_held_back else self.loss < other.loss


def reasons_to_repeat(records: Sequence[Record], attempt: Attempt) -> tuple[Sign, ...]:
    """Return the signs that an attempt has gone wrong, as far as other starts may do better.

    Parameters
    ----------
    records : sequence of Record
        Of the attempt.
    attempt : Attempt

    Returns
    -------
    tuple of str
        Empty if the attempt is to be kept as it is.
    """
    if Status[attempt.status] not in _REPEATED:
        return ()
    return _signs(records, attempt.level, attempt.loss)


def _signs(records: Sequence[Record], level: int, loss: float) -> tuple[Sign, ...]:
    return tuple(alarm.sign for alarm in find_alarms(records, level, loss) if alarm.sign in _CURABLE)


def describe_attempts(history: History) -> str:
    """Say why the method was repeated, and what came of it."""
    said = []
    number, before = 1, None
    for index, record in enumerate(history):
        if record.event == "retry":
            number, before = number + 1, record
            signs = _signs(history[:index].kept, record.level, record.loss)
            reason = " and ".join(_WORDS[sign] for sign in signs)
        if record.event == "compare" and before is not None:
            is_held_back = not math.isnan(record.validation_loss + before.validation_loss)
            now, then = (record.validation_loss, before.validation_loss) if is_held_back else (record.loss, before.loss)
            reached = "it failed" if math.isnan(now) else f"its loss is {now:.1e} instead of {then:.1e}"
            where = " at held-back points" if is_held_back else ""
            kept = "it is kept" if record.step_size else "the attempt before is kept"
            said.append(f"Attempt {number} from other starts, because {reason}: {reached}{where}, and {kept}.")
    return "\n".join(said)
