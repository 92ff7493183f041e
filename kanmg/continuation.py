"""Continuation: the solution of an easier problem, followed to the problem itself on the coarsest level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kanmg.errors import KanmgTypeError
from kanmg.smoothers.base import require_count

__all__ = ["Continuation", "as_continuation"]


@dataclass(frozen=True)
class Continuation:
    """Smooth easier problems on the coarsest level first, each from the solution of the one before.

    Parameters
    ----------
    stages : int, default 5
        Problems, from the easiest to the one to be solved; at least 2.
    steps : int, default 30
        Smoothing steps of each stage but the last, which has those of the coarsest level.

    Notes
    -----
    What makes a problem easier is said where it is stated: by constants with an easier value,
    `kanmg.Constant("nu", 1e-3, easier=0.05)`. All of them move together, on geometric sequences where both ends have
    the same sign, else on straight lines. Several starts solve the easiest problem. With `kanmg.solve(initial=...)`
    there is no continuation.

    Examples
    --------
    >>> import kanmg
    >>> method = kanmg.NestedIteration(steps=10, continuation=kanmg.Continuation(stages=3, steps=5))
    >>> [(step.ease if isinstance(step, kanmg.program.Pose) else step.steps) for step in method.program([0]).prologue]
    [1.0, 5, 0.5, 5, 0.0]
    """

    stages: int = 5
    steps: int = 30

    def __post_init__(self) -> None:
        require_count("Continuation", 2, stages=self.stages)
        require_count("Continuation", 0, steps=self.steps)


def as_continuation(owner: str, continuation: Any) -> Continuation | None:
    """Return the option `continuation` of a method as what it stands for: a number is one of stages."""
    if continuation is None or isinstance(continuation, Continuation):
        return continuation
    if isinstance(continuation, bool) or not isinstance(continuation, int | np.integer):
        hint = " Write `kanmg.Continuation(...)`." if continuation is Continuation else ""
        raise KanmgTypeError(
            f"`{owner}` got `continuation={continuation!r}`. Pass `kanmg.Continuation(stages=5, steps=30)`, a number "
            f"of stages, or None.{hint}"
        )
    return Continuation(int(continuation))
