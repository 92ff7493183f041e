"""A line search for the strong Wolfe conditions that survives rounding and non-finite values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array
    from kanmg.objective import SmoothFunction

__all__ = ["CURVATURE", "DECREASE", "ROUNDING", "Point", "downhill", "strong_wolfe"]

# Constants of quasi-Newton methods (Nocedal & Wright 2006, section 3.1).
DECREASE = 1e-4
CURVATURE = 0.9

# Losses that differ by less than this, relatively, count as equal; by bytes per number. This is far above the machine
# epsilon: a sum of squared residuals r = u - y carries an error of eps |u| |r|, and u itself one of cancellation where
# splines are steep. In float64 it is Hager and Zhang's value.
ROUNDING = {8: 1e-6, 4: 1e-3}

# A trial inside a bracket keeps this distance, relatively, from its ends; a trial beyond all others goes between two
# and ten times as far as the last one.
MARGIN = 0.1
MIN_GROWTH, MAX_GROWTH = 2.0, 10.0


# A loss that has risen by so many times the fall that the slope promises says nothing about the minimum.
TOO_FAR = 100.0


class Point(NamedTuple):
    """A point on the search line with all that was evaluated there.

    Attributes
    ----------
    step : float
        Multiple of the direction.
    theta, gradient : ndarray, shape (num_coefficients,)
    loss : float
    slope : float
        Derivative of the loss along the direction; NaN where the loss is not finite or far too high.
    exhausted : bool
        Whether the evaluations ran out before the conditions were met.
    """

    step: float
    theta: Array
    gradient: Array
    loss: float
    slope: float
    exhausted: bool = False


def downhill(
    objective: SmoothFunction,
    theta: Array,
    loss: float,
    gradient: Array,
    direction: Array,
    first_step: float,
    max_evaluations: int,
) -> Point | None:
    """Search by `strong_wolfe` from coefficients whose loss and gradient are known; None if the loss does not fall."""
    slope = float(gradient.dot(direction))
    if not slope < 0.0:
        return None
    origin = Point(0.0, theta, gradient, loss, slope)
    return strong_wolfe(objective, origin, direction, first_step, max_evaluations)


def strong_wolfe(
    objective: SmoothFunction, origin: Point, direction: Array, first_step: float, max_evaluations: int
) -> Point | None:
    """Search along a descent direction for a point that satisfies the strong Wolfe conditions.

    The point returned satisfies

        f(x + s d) <= f(x) + 1e-4 s f'(x) d + 1e-6 |f(x)|   and   |f'(x + s d) d| <= 0.9 |f'(x) d|

    (1e-3 instead of 1e-6 in float32), or, if the evaluations run out or the bracket shrinks to nothing, is the last one
    found that satisfies the first condition. Every trial costs one loss and gradient. A trial where the loss is not
    finite counts as too far.

    Parameters
    ----------
    objective : Objective
    origin : Point
        The start: `step` is 0, and `slope`, the derivative along `direction`, is negative.
    direction : ndarray, shape (num_coefficients,)
    first_step : float
        Multiple of `direction` tried first.
    max_evaluations : int

    Returns
    -------
    Point or None
        None if no trial satisfied the first condition.

    Notes
    -----
    Bracketing and zooming in one loop (Nocedal and Wright [1]_, algorithms 3.5 and 3.6) with safeguarded cubic steps.
    The last term of the first condition plays the role of the approximate Wolfe condition of Hager and Zhang [2]_:
    where rounding hides the decrease, the slopes decide, so that steps near a minimum are found even when the loss has
    ceased to change visibly.

    References
    ----------
    .. [1] J. Nocedal, S. J. Wright, Numerical Optimization, 2nd edition, Springer 2006. doi:10.1007/978-0-387-40065-5
    .. [2] W. W. Hager, H. Zhang, SIAM J. Optim. 16 (2005) 170-192. doi:10.1137/030601880
    """
    slack = ROUNDING[origin.theta.itemsize] * abs(origin.loss)
    low, high = origin, None
    width = math.inf
    step = first_step
    for _ in range(max_evaluations):
        trial = _evaluate(objective, origin, direction, step, slack)
        ceiling = min(origin.loss + DECREASE * step * origin.slope, low.loss) + slack
        if not trial.loss <= ceiling or not math.isfinite(trial.slope):
            high = trial
        elif abs(trial.slope) <= -CURVATURE * origin.slope:
            return trial
        elif high is None and trial.slope < 0.0:
            step = _extrapolate(low, trial)
            low = trial
            continue
        else:
            if high is None or trial.slope * (high.step - low.step) >= 0.0:
                high = low
            low = trial
        previous_width, width = width, abs(high.step - low.step)
        step = _interpolate(low, high, slack, bisect=width > 0.66 * previous_width)
        if step in (low.step, high.step):
            break
    else:
        return None if low is origin else low._replace(exhausted=True)
    return None if low is origin else low


def _evaluate(objective: SmoothFunction, origin: Point, direction: Array, step: float, slack: float) -> Point:
    """Loss, gradient and slope at a multiple of the direction."""
    theta = origin.theta + step * direction
    loss, gradient = objective.value_and_gradient(theta)
    # Beyond this the gradient may overflow, and an interpolation would end at its safeguard anyway.
    is_near = loss <= origin.loss - TOO_FAR * step * origin.slope + slack
    return Point(step, theta, gradient, loss, float(gradient.dot(direction)) if is_near else math.nan)


def _extrapolate(behind: Point, ahead: Point) -> float:
    """Next trial where the loss still falls: the cubic's minimum, but at least twice and at most ten times as far."""
    least, most = MIN_GROWTH * ahead.step, MAX_GROWTH * ahead.step
    step = _cubic_minimum(behind, ahead)
    return most if math.isnan(step) or step < ahead.step else min(max(step, least), most)


def _interpolate(low: Point, high: Point, slack: float, *, bisect: bool) -> float:
    """Next trial between two points: the cubic's minimum, kept away from the ends; the middle if that gets nowhere."""
    length = high.step - low.step
    if math.isnan(high.slope):
        return low.step + MARGIN * length
    fraction = 0.5
    if not bisect:
        visible = abs(high.loss - low.loss) > slack
        step = _cubic_minimum(low, high) if visible else _secant_root(low, high)
        fraction = (step - low.step) / length
    if math.isnan(fraction):
        fraction = 0.5
    return low.step + min(max(fraction, MARGIN), 1.0 - MARGIN) * length


def _cubic_minimum(a: Point, b: Point) -> float:
    """Minimiser of the cubic through two points with their slopes; NaN if there is none (Nocedal & Wright, 3.59)."""
    d = a.slope + b.slope - 3.0 * (b.loss - a.loss) / (b.step - a.step)
    discriminant = d * d - a.slope * b.slope
    if not discriminant >= 0.0:
        return math.nan
    root = math.copysign(math.sqrt(discriminant), b.step - a.step)
    denominator = b.slope - a.slope + 2.0 * root
    if denominator == 0.0:
        return math.nan
    return b.step - (b.step - a.step) * (b.slope + root - d) / denominator


def _secant_root(a: Point, b: Point) -> float:
    """Where the slope vanishes if it is linear between two points; NaN if it is constant."""
    if a.slope == b.slope:
        return math.nan
    return a.step - a.slope * (b.step - a.step) / (b.slope - a.slope)
