"""Alarms: signs in a run's records that its solution may be worse than its loss says."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kanmg.history import Record

__all__ = ["Alarm", "Sign", "find_alarms", "say_what_is_undetermined"]

Sign: TypeAlias = Literal["unseen", "unlearned", "open", "points", "stopped"]

# A loss at held-back points that is so many times the loss belongs to a fit of the points, not of the function.
UNSEEN_OVER_SEEN = 10.0

# Losses below this part of the first one are those of errors of 1e-12: as good as 0. Rounding decides about them, and
# about their ratios: points that are fitted exactly have a loss of 0 on one processor and of 1e-31 on another.
FINE = 1e-24

# Errors beside the samples that are so many times those at the samples: the square root of it.
OPEN = 1000.0

# A loss that rises so many times when the points change was one of too few points.
RISE_WITH_POINTS = 100.0

# A smoother that stops where the gradient is below this part of the first one has found a minimum.
FLAT = 1e-8


class Alarm(NamedTuple):
    """What is wrong.

    Attributes
    ----------
    sign : {"unseen", "unlearned", "open", "points", "stopped"}
        A loss at held-back points far above the others, one that training has not lowered, samples that leave the fit
        open, a loss that rose when points changed, a smoother that stopped far from a minimum.
    text : str
        The same with numbers, and what to do about it.
    """

    sign: Sign
    text: str


def find_alarms(records: Sequence[Record], level: int, loss: float) -> tuple[Alarm, ...]:
    """Look for the signs by which bad runs of prototypes could be told.

    Parameters
    ----------
    records : sequence of Record
        Of the attempt that the solution is of.
    level : int
        Of the solution.
    loss : float
        Of the solution.

    Returns
    -------
    tuple of Alarm
        Empty if there is no sign.
    """
    found: list[Alarm] = []
    steps = [record for record in records if record.event != "probe"]
    known = [record for record in steps if record.level == level and not math.isnan(record.validation_loss)]
    # The solution is one of these, or the record beside it; the later one if several have its loss.
    nearest = min(reversed(known), key=lambda record: abs(record.loss - loss), default=None)
    unseen = math.nan if nearest is None else nearest.validation_loss
    fine = FINE * _first(record.loss for record in records)
    if unseen > UNSEEN_OVER_SEEN * max(loss, fine):
        times = f"{unseen / loss:.3g} times that of the others" if loss > 0.0 else "and that of the others 0"
        text = f"At held-back points the loss is {unseen:.1e}, {times}: use more points or samples, or fewer cells."
        found.append(Alarm("unseen", text))
    # Near a minimum that a run began with both losses are about the same, and one may be the higher by chance.
    elif unseen > 2.0 * loss and unseen > (
        random := _first(record.validation_loss for record in steps if record.event == "start")
    ):
        text = (
            f"At held-back points the loss is {unseen:.1e}, above {random:.1e}, that of the coefficients that training "
            "began with: the samples are too few for this network, or noise. Use more samples, or fewer cells."
        )
        found.append(Alarm("unlearned", text))
    found += [
        Alarm(
            "open",
            f"Beside the samples, in the box that holds them, the loss may be of the order of "
            f"{record.validation_loss:.0e}, {record.validation_loss / loss:.0e} times their own: they leave open what "
            "the solution is there. Use more samples, where there are none, or fewer cells.",
        )
        for record in records
        if (record.event, record.level) == ("probe", level)
        and loss > 0.0
        and record.validation_loss > OPEN * max(loss, fine)
    ]
    for before, record in itertools.pairwise(steps):
        if record.event == "prolong" and record.level == level and record.loss > RISE_WITH_POINTS * before.loss > 0.0:
            text = (
                f"The loss rose from {before.loss:.1e} to {record.loss:.1e} when level {level} was reached, whose "
                "points are others: the level before had too few. Raise `coarse_fraction`, or try another `seed`."
            )
            found.append(Alarm("points", text))
    # What comes after the last step is no step.
    last = next((record for record in reversed(steps) if record.event != "fair"), None)
    first = _first(record.gradient_norm for record in records)
    has_stopped = last is not None and last.event == "smooth" and last.step_size == 0.0 and math.isfinite(last.loss)
    if last is not None and has_stopped and last.gradient_norm > FLAT * first and not last.loss <= fine:
        text = (
            f"The smoother stopped on level {last.level}, far from a minimum, because no step it tried lowered the "
            "loss: try another `seed`, more starts, or another smoother."
        )
        found.append(Alarm("stopped", text))
    return tuple(found)


def say_what_is_undetermined(values: Mapping[str, float], margins: Mapping[str, float]) -> tuple[str, ...]:
    """Say which parameters may change by all of their value before the loss has doubled."""
    return tuple(
        f"The parameter {name!r} is not determined: "
        + ("the loss does not depend on it" if math.isinf(change) else f"the loss doubles only at {change:.1e} from it")
        + ", once the coefficients are fitted anew. Add data, or terms in which it matters, or make it a "
        "`kanmg.Constant`."
        for name, change in margins.items()
        if not change < abs(values[name])
    )


def _first(numbers: Iterable[float]) -> float:
    """Return the first finite one."""
    return next((number for number in numbers if math.isfinite(number)), math.nan)
