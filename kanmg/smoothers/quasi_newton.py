"""What the quasi-Newton smoothers share: which pairs they trust, and when they have come to the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kanmg.smoothers.line_search import Point

__all__ = ["MIN_COSINE", "PATIENCE", "idle_steps"]

# Pairs whose cosine is below this say nothing certain about the curvature.
MIN_COSINE = 1e-10

# So many steps in a row without a new lowest loss: rounding is all that is left.
PATIENCE = 10

# A search that used all its evaluations and lowered the loss by no more than so many units in the last place counts as
# so many of these steps: three in a row are the last.
FRUITLESS_ULPS, FRUITLESS_STEPS = 4, 4
EPSILON = {8: 2.0**-52, 4: 2.0**-23}


def idle_steps(lowest: float, idle: int, point: Point) -> int:
    """Count the steps in a row that got nowhere.

    Parameters
    ----------
    lowest : float
        Lowest loss so far.
    idle : int
        Steps before this one.
    point : Point
        Where the step went.
    """
    visible = FRUITLESS_ULPS * EPSILON[point.gradient.itemsize] * abs(lowest)
    if point.exhausted and not point.loss < lowest - visible:
        return idle + FRUITLESS_STEPS
    return 0 if point.loss < lowest else idle + 1
