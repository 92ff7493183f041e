"""Step sizes that change over the steps of a level."""

from __future__ import annotations

from dataclasses import dataclass

from kanmg.smoothers.base import require_count, require_fraction

__all__ = ["OneCycle"]


@dataclass(frozen=True)
class OneCycle:
    """Factors of a step size that rise to 1 over the first steps and then fall linearly, for `Adam(schedule=...)`.

    Without a fall to small steps, first-order methods end every level in a noise that the next level inherits.

    Parameters
    ----------
    steps : int
        Of the smoothing, at least 1; beyond them the factor is the lowest. Made for nested iteration, where a level is
        smoothed once: cycles that come back to a level count anew, or on, and starts count anew.
    rise : float, default 0.05
        Part of the steps after which the factor is 1, in [0, 1).
    lowest : float, default 1e-3
        Factor at both ends, in [0, 1).

    Raises
    ------
    KanmgValueError, KanmgTypeError
        If an argument is out of its range.

    References
    ----------
    L. N. Smith, N. Topin, Super-convergence: very fast training of neural networks using large learning rates,
    arXiv:1708.07120 (2017)

    Examples
    --------
    >>> import kanmg
    >>> [round(kanmg.OneCycle(8, rise=0.25, lowest=0.1)(count), 2) for count in range(10)]
    [0.1, 0.55, 1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1, 0.1]

    Steps that fall on every level, and are smaller on finer ones:

    >>> steps = (800, 400, 200)
    >>> adam = [kanmg.Adam(1e-2 / 2**level, schedule=kanmg.OneCycle(number)) for level, number in enumerate(steps)]
    >>> method = kanmg.NestedIteration(adam, steps=steps)
    """

    steps: int
    rise: float = 0.05
    lowest: float = 1e-3

    def __post_init__(self) -> None:
        require_count("OneCycle", 1, steps=self.steps)
        require_fraction("OneCycle", rise=self.rise, lowest=self.lowest)

    def __call__(self, count: int) -> float:
        """Return the factor after so many steps."""
        top = self.rise * self.steps
        part = count / top if count < top else max(0.0, (self.steps - count) / (self.steps - top))
        return self.lowest + (1.0 - self.lowest) * part
