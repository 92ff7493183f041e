"""Events: what the machine reports of one instruction, or of one step of smoothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array
    from kanmg.history import RecordEvent

__all__ = ["Event"]


class Event(NamedTuple):
    """What one instruction, or one step of smoothing, did.

    Attributes
    ----------
    kind : RecordEvent
    level : int
    theta : ndarray
        The coefficients at which `loss` and `gradient_norm` were evaluated.
    loss, gradient_norm, step_size : float
        NaN where unknown.
    fraction : float or None
        Part of the samples that `loss` was evaluated on, if the event belongs to one of several starts, of which the
        best has not been chosen yet.
    ease : float
        How far the problem that `loss` belongs to is on the way to an easier one.
    """

    kind: RecordEvent
    level: int
    theta: Array
    loss: float
    gradient_norm: float = math.nan
    step_size: float = math.nan
    fraction: float | None = None
    ease: float = 0.0
