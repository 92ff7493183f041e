"""Adam."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.smoothers.base import Smoother, StepRecord, require_count, require_fraction, require_positive
from kanmg.vectors import norm, zeros

if TYPE_CHECKING:
    from collections.abc import Callable

    from kanmg.evaluators.base import Array
    from kanmg.objective import SmoothFunction

__all__ = ["Adam", "AdamState"]


@dataclass(frozen=True, slots=True)
class AdamState:
    """What `Adam` remembers on one level.

    Attributes
    ----------
    mean, variance : ndarray, shape (num_coefficients,)
        Decaying averages of the gradients and of their squares, before the correction of their bias.
    count : int
        Steps so far.
    """

    mean: Array
    variance: Array
    count: int


@dataclass(frozen=True)
class Adam(Smoother[AdamState]):
    """Adam, with a linear ramp of the step size over the first steps after every change of level.

    Every step costs one loss and gradient. Without the ramp the steps are those of `torch.optim.Adam`.

    Parameters
    ----------
    step_size : float, default 1e-2
    beta1, beta2 : float, default 0.9, 0.999
        How much of the averages of the gradients and of their squares is kept at each step.
    epsilon : float, default 1e-8
    ramp : int, default 10
        Step t of the first `ramp` steps is shortened to t / `ramp`; 0: no ramp.
    schedule : callable, optional
        Factor of the step size, a finite number of at least 0, as a function of the number of steps done on the level,
        such as `kanmg.OneCycle(1000)` or `lambda count: 0.99**count`. A named function of a module lets a checkpoint
        recognise its run.

    References
    ----------
    D. P. Kingma, J. Ba, Adam: a method for stochastic optimization, ICLR 2015. arXiv:1412.6980

    Examples
    --------
    >>> import kanmg
    >>> kanmg.Adam(step_size=1e-3)
    Adam(step_size=0.001, beta1=0.9, beta2=0.999, epsilon=1e-08, ramp=10, schedule=None)
    """

    step_size: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    ramp: int = 10
    schedule: Callable[[int], float] | None = None

    def __post_init__(self) -> None:
        require_positive("Adam", step_size=self.step_size, epsilon=self.epsilon)
        require_fraction("Adam", beta1=self.beta1, beta2=self.beta2)
        require_count("Adam", 0, ramp=self.ramp)
        if self.schedule is not None and (not callable(self.schedule) or isinstance(self.schedule, type)):
            raise KanmgTypeError(
                f"`Adam` got `schedule={self.schedule!r}`. Pass a function of the number of steps done, such as "
                "`kanmg.OneCycle(1000)`, or None."
            )

    @property
    def needs_derivatives(self) -> bool:
        """No: a step takes what it is given as gradient."""
        return False

    def init(self, objective: SmoothFunction, theta: Array) -> AdamState:  # noqa: ARG002
        """Begin with averages of zero; nothing is evaluated."""
        averages = zeros(theta.shape, theta)
        return AdamState(averages, averages, 0)

    def step(self, objective: SmoothFunction, theta: Array, state: AdamState) -> tuple[Array, AdamState, StepRecord]:
        """Evaluate loss and gradient at `theta` and move."""
        loss, gradient = objective.value_and_gradient(theta)
        mean = self.beta1 * state.mean + (1.0 - self.beta1) * gradient
        variance = self.beta2 * state.variance + (1.0 - self.beta2) * (gradient * gradient)
        count = state.count + 1
        step_size = self._step_size(state.count)
        scale = (1.0 - self.beta2**count) ** -0.5
        theta = theta - (step_size / (1.0 - self.beta1**count)) * (mean / (scale * variance**0.5 + self.epsilon))
        return theta, AdamState(mean, variance, count), StepRecord(loss, norm(gradient), step_size)

    def _step_size(self, count: int) -> float:
        """Step size after so many steps."""
        ramp = (count + 1) / self.ramp if count < self.ramp else 1.0
        return self.step_size * ramp * self._factor(count)

    def _factor(self, count: int) -> float:
        """Return what the schedule says, if that is a factor."""
        factor: Any = self.schedule(count) if self.schedule is not None else 1.0
        if isinstance(factor, bool) or not isinstance(factor, int | float | np.number):
            raise KanmgTypeError(f"`schedule` of `Adam` returned {factor!r} after {count} steps. Return a number.")
        if not 0.0 <= factor < math.inf:
            raise KanmgValueError(
                f"`schedule` of `Adam` returned {factor:g} after {count} steps. Return a factor of at least 0."
            )
        return float(factor)
