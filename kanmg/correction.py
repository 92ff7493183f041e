"""What a level's coefficients become by what has been found on the level below."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kanmg.errors import KanmgValueError
from kanmg.smoothers.line_search import downhill
from kanmg.stack import Known

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array
    from kanmg.stack import Stack

__all__ = ["Corrected", "correct"]

# A correction that so many trials cannot shorten into a decrease comes from a bad coarse model.
MAX_TRIALS = 5


class Corrected(NamedTuple):
    """Corrected coefficients of a level.

    Attributes
    ----------
    theta : ndarray, shape (num_coefficients,)
    known : Known or None
        What is known there.
    step : float
        What the correction was multiplied with.
    """

    theta: Array
    known: Known | None
    step: float


def correct(stack: Stack, level: int) -> Corrected | None:
    """Correct a level's coefficients by those of the level below, which goes out of use; None if none lowers the loss.

    Where the coarse level has minimised the fine level's own loss, its correction is added as it is. Others are
    searched along for a lower loss on all samples.
    """
    coarse = stack[level - 1]
    if coarse.correction is None:
        raise KanmgValueError(
            f"the method's program ascends to level {level} but has not descended from it. Write `Descend({level})` "
            f"before `Ascend({level})`."
        )
    direction = stack.transfer(level).prolong(coarse.theta - coarse.correction.origin)
    stack.drop(level - 1)
    theta = stack[level].theta
    if coarse.correction.tau is None and direction.any():
        return Corrected(theta + direction, coarse.lifted, 1.0)
    known, model = stack.known(level), stack.model(level)
    point = downhill(model, theta, known.loss, known.gradient, direction, 1.0, MAX_TRIALS)
    return None if point is None else Corrected(point.theta, Known(point.loss, point.gradient), point.step)
