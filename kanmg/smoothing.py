"""One step of smoothing, and when a smoothing is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from kanmg.stack import Known, Remembering

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array
    from kanmg.program import Smooth
    from kanmg.smooth_function import SmoothFunction
    from kanmg.smoothers.base import Smoother, StepRecord

__all__ = ["Smoothed", "is_over", "smooth", "with_loss"]

# Smoothing is idle if so many steps together lower the loss by less than the part of it that `Smooth.idle` says.
IDLE_STEPS = 10


class Smoothed(NamedTuple):
    """What a step has made of a level's coefficients.

    Attributes
    ----------
    theta : ndarray, shape (num_coefficients,)
    state : object
        The smoother's.
    known : Known or None
        What is known at `theta`.
    record : StepRecord
    """

    theta: Array
    state: Any
    known: Known | None
    record: StepRecord


def smooth(
    smoother: Smoother[Any], model: SmoothFunction, theta: Array, state: Any = None, known: Known | None = None
) -> Smoothed:
    """Do one step of a smoother, the first one if there is no state; what is known at `theta` is not evaluated."""
    if known is not None:
        model = Remembering(model, theta, known)
    if state is None:
        state = smoother.init(model, theta)
    theta, state, record = smoother.step(model, theta, state)
    reached = smoother.known(state)
    return Smoothed(theta, state, None if reached is None else Known(*reached), record)


def with_loss(losses: tuple[float, ...], loss: float) -> tuple[float, ...]:
    """Append the loss of a step to those of the steps before that `is_over` looks at."""
    return (*losses[-IDLE_STEPS:], loss)


def is_over(instruction: Smooth, step: int, losses: tuple[float, ...], *, stalled: bool) -> bool:
    """Whether a smoothing ends after so many steps: it is complete, has stalled, or hardly lowers the loss any more."""
    is_idle = (
        instruction.idle > 0.0
        and len(losses) > IDLE_STEPS
        and losses[0] - losses[-1] < instruction.idle * abs(losses[0])
    )
    return step == instruction.steps or stalled or is_idle
