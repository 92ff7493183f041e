"""BFGS with a dense matrix, scaled by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.smoothers.base import Smoother, StepRecord, norm, product, require_count, zeros
from kanmg.smoothers.line_search import Point, downhill
from kanmg.smoothers.quasi_newton import MIN_COSINE, PATIENCE, idle_steps

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array
    from kanmg.hierarchy import Level
    from kanmg.objective import SmoothFunction
    from kanmg.problems.base import Problem

__all__ = ["BFGS", "BFGSState"]


@dataclass(frozen=True, slots=True)
class BFGSState:
    """What `BFGS` remembers on one level.

    Attributes
    ----------
    inverse : ndarray, shape (num_coefficients, num_coefficients), or None
        Approximation of the inverse Hessian; None before the first pair.
    loss : float
    gradient : ndarray, shape (num_coefficients,)
        Loss and gradient at the current coefficients.
    lowest : float
        Lowest loss so far.
    idle : int
        Steps since then; a search that used all its evaluations for nothing counts as several.
    """

    inverse: Array | None
    loss: float
    gradient: Array
    lowest: float
    idle: int


@dataclass(frozen=True)
class BFGS(Smoother[BFGSState]):
    """The method of Broyden, Fletcher, Goldfarb and Shanno, with a line search for the strong Wolfe conditions.

    The whole history in a dense matrix: a step takes 3 n^2 multiply-adds for n coefficients besides its evaluations,
    mostly one loss and gradient. For losses that are no sums of squares, and to compare with; where they are,
    `LevenbergMarquardt` needs far fewer steps. Falls back to steepest descent, and stalls, as `LBFGS` does.

    Parameters
    ----------
    self_scaling : bool, default True
        Divide the matrix before each update by tau = min(1, y^T s / s^T B s), which takes back curvature that it has
        too much of [1]_. Without it, the textbook's method [2]_.
    max_evaluations : int, default 20
        Losses and gradients that one line search may use.
    max_coefficients : int, default 6000
        Levels with more are refused: the matrix would be too large.

    Notes
    -----
    With the step s, the change y of the gradient, H the inverse Hessian approximation and B its inverse,

        H <- (H - s u^T - u s^T) / tau,    u = H y / (y^T s) - (y^T H y / (y^T s) + tau) s / (2 y^T s).

    Since s = -alpha H g, B s = -alpha g costs nothing. The first H is y^T s / y^T y times the identity. Mini-batches
    are refused.

    References
    ----------
    .. [1] M. Al-Baali, Comput. Optim. Appl. 9 (1998) 191-203. doi:10.1023/A:1018315205474
    .. [2] J. Nocedal, S. J. Wright, *Numerical Optimization*, 2006, section 6.1. doi:10.1007/978-0-387-40065-5

    Examples
    --------
    >>> import numpy as np
    >>> import kanmg
    >>> x = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    >>> problem = kanmg.Regression(x, np.exp(np.sin(x[:, 0]) + x[:, 1] ** 2))
    >>> hierarchy = kanmg.uniform_hierarchy((2, 1, 1), degree=3, num_intervals=2, num_levels=2, evaluator="reference")
    >>> solution = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(kanmg.BFGS(), steps=150))
    >>> solution.loss < 1e-6
    True
    """

    self_scaling: bool = True
    max_evaluations: int = 20
    max_coefficients: int = 6000

    def __post_init__(self) -> None:
        require_count("BFGS", 1, max_evaluations=self.max_evaluations, max_coefficients=self.max_coefficients)
        self_scaling: Any = self.self_scaling
        if not isinstance(self_scaling, bool):
            raise KanmgTypeError(f"`BFGS` got `self_scaling={self_scaling!r}`. Pass True or False.")

    def check(self, problem: Problem, level: Level) -> None:
        """Refuse mini-batches, and matrices that are too large."""
        self._check(problem.steps_per_epoch, level.network.num_coefficients)

    def init(self, objective: SmoothFunction, theta: Array) -> BFGSState:
        """Evaluate the objective at `theta`; there is no matrix yet."""
        self._check(objective.steps_per_epoch, len(theta))
        loss, gradient = objective.value_and_gradient(theta)
        return BFGSState(None, loss, gradient, lowest=loss, idle=0)

    def step(self, objective: SmoothFunction, theta: Array, state: BFGSState) -> tuple[Array, BFGSState, StepRecord]:
        """Search along the quasi-Newton direction, else along the gradient."""
        point = None
        if state.idle < PATIENCE:
            if state.inverse is not None:
                point = self._search(objective, theta, state, -product(state.inverse, state.gradient), 1.0)
            if point is None:
                state = replace(state, inverse=None)
                first_step = 1.0 / max(1.0, norm(state.gradient))
                point = self._search(objective, theta, state, -state.gradient, first_step)
        if point is None:
            return theta, state, StepRecord(state.loss, norm(state.gradient), 0.0, stalled=True)
        idle = idle_steps(state.lowest, state.idle, point)
        inverse = self._updated(state, point.theta - theta, point)
        state = BFGSState(inverse, point.loss, point.gradient, min(point.loss, state.lowest), idle)
        return point.theta, state, StepRecord(point.loss, norm(point.gradient), point.step, idle >= PATIENCE)

    def known(self, state: BFGSState) -> tuple[float, Array]:
        return state.loss, state.gradient

    def _search(
        self, objective: SmoothFunction, theta: Array, state: BFGSState, direction: Array, first_step: float
    ) -> Point | None:
        """Search along a direction if the loss falls along it."""
        return downhill(objective, theta, state.loss, state.gradient, direction, first_step, self.max_evaluations)

    def _updated(self, state: BFGSState, step: Array, point: Point) -> Array | None:
        """Return the matrix after one more pair, as it was if the pair has no positive curvature."""
        change = point.gradient - state.gradient
        curvature, steepness = float(step.dot(change)), float(change.dot(change))
        if not curvature > MIN_COSINE * math.sqrt(float(step.dot(step)) * steepness):
            return state.inverse
        inverse, tau = state.inverse, 1.0
        if inverse is None:
            inverse = zeros((len(step), len(step)), step)
            inverse.reshape(-1)[:: len(step) + 1] = curvature / steepness
        elif self.self_scaling:
            tau = min(1.0, curvature / (-point.step * float(step.dot(state.gradient))))
        moved = product(inverse, change)
        other = moved / curvature - (0.5 / curvature) * (float(change.dot(moved)) / curvature + tau) * step
        outer = step[:, None] * other[None, :]
        return (inverse - (outer + outer.T)) / tau

    def _check(self, steps_per_epoch: int, num_coefficients: int) -> None:
        """Refuse mini-batches, and matrices that are too large."""
        if steps_per_epoch > 1:
            raise KanmgValueError(
                "`BFGS` needs all samples in every step, but the problem has mini-batches. Leave out `batch_size`, or "
                "use `kanmg.Adam()`."
            )
        if num_coefficients > self.max_coefficients:
            raise KanmgValueError(
                f"`BFGS` would hold a dense matrix for {num_coefficients} coefficients, of "
                f"{8e-9 * num_coefficients**2:.2g} GB, more than `max_coefficients={self.max_coefficients}` allows. "
                "Use `kanmg.LBFGS()`, fewer levels, or a larger `max_coefficients`."
            )
