"""Step sizes over the steps of a level, and steps over levels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kanmg.cycles import Cycle, NestedIteration
from kanmg.smoothers.adam import Adam
from kanmg.smoothers.geometry import ChangeOfBasis
from kanmg.smoothers.schedules import OneCycle

if TYPE_CHECKING:
    from collections.abc import Callable

    from kanmg.experiments.experiment import Size
    from kanmg.smoothers.base import Smoother
    from kanmg.starts import Starts

__all__ = ["Triangular", "falling_adam", "in_relu_basis", "nested", "nested_adam"]


@dataclass(frozen=True)
class Triangular:
    """Cyclic factors of a step size: up from the lowest to 1 in half a period, down again in the other half.

    The triangular policy of torch's `CyclicLR`.

    Parameters
    ----------
    lowest : float
    period : int
        Steps.

    Examples
    --------
    >>> [round(Triangular(0.1, 4)(count), 2) for count in range(5)]
    [0.1, 0.55, 1.0, 0.55, 0.1]
    """

    lowest: float
    period: int

    def __call__(self, count: int) -> float:
        """Return the factor after so many steps."""
        phase = 2.0 * (count % self.period) / self.period
        return self.lowest + (1.0 - self.lowest) * (phase if phase <= 1.0 else 2.0 - phase)


def in_relu_basis(smoother: Smoother[Any]) -> Smoother[Any]:
    """Return a smoother that trains the weights of the power-ReLU basis, from the same function.

    Parameters
    ----------
    smoother : Smoother
    """
    return ChangeOfBasis(smoother, iterate="relu", gradient="relu")


def nested(smoother: Smoother[Any], *steps: int, **options: Any) -> Callable[[Size], Cycle]:
    """Return nested iteration with so many steps on each level.

    Parameters
    ----------
    smoother : Smoother
    *steps : int
    **options
        Of `NestedIteration`.
    """
    return lambda size: NestedIteration(smoother, steps=size.scaled(steps), **options)


def nested_adam(
    step_size: float, *steps: int, schedule: Callable[[int], float] | None = None, relu: bool = False, **options: Any
) -> Callable[[Size], Cycle]:
    """Return nested iteration by Adam.

    Parameters
    ----------
    step_size : float
    *steps : int
        On each level.
    schedule : callable, optional
        As for `Adam`.
    relu : bool
        Whether the weights of the power-ReLU basis are trained.
    **options
        Of `NestedIteration`.
    """
    adam = Adam(step_size, schedule=schedule)
    return nested(in_relu_basis(adam) if relu else adam, *steps, **options)


def falling_adam(
    step_size: float, *steps: int, beta1: float = 0.9, beta2: float = 0.97, relu: bool = False, starts: Starts | int = 1
) -> Callable[[Size], Cycle]:
    """Return nested iteration by Adam with steps that fall on every level, from half as long ones on each.

    Parameters
    ----------
    step_size : float
        The longest on the coarsest level.
    *steps : int
        On each level.
    beta1, beta2 : float
        As for `Adam`.
    relu : bool
        Whether the weights of the power-ReLU basis are trained.
    starts : int or Starts
        As for `NestedIteration`.
    """

    def cycle(size: Size) -> Cycle:
        numbers = size.scaled(steps)
        smoothers: list[Smoother[Any]] = [
            Adam(step_size / 2**level, beta1, beta2, schedule=OneCycle(number)) for level, number in enumerate(numbers)
        ]
        if relu:
            smoothers = [in_relu_basis(smoother) for smoother in smoothers]
        own = starts if isinstance(starts, int) else replace(starts, steps=size.scaled((starts.steps,))[0])
        return NestedIteration(tuple(smoothers), steps=numbers, starts=own)

    return cycle
