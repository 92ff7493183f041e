"""BFGS and Broyden's family with a dense matrix, scaled by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.smoothers.base import Smoother, StepRecord, require_count
from kanmg.smoothers.line_search import Point, downhill
from kanmg.smoothers.quasi_newton import MIN_COSINE, PATIENCE, idle_steps
from kanmg.vectors import inner_products, norm, product, zeros

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array
    from kanmg.hierarchy import Level
    from kanmg.objective import SmoothFunction
    from kanmg.problems.base import Problem

__all__ = ["BFGS", "BFGSState", "Update"]

Update = Literal["bfgs", "broyden"]

# By Cauchy's inequality y^T H y s^T B s / (y^T s)^2 is at least 1; rounding can make it less.
LEAST_EXCESS = 2.0**-52


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


class _Member(NamedTuple):
    """A member of Broyden's family, phi, and what its matrix is divided by before the update, tau."""

    phi: float
    tau: float


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
    update : {"bfgs", "broyden"}, default "bfgs"
        "broyden": the member of Broyden's family, and its scaling, that Al-Baali's formulas choose at every step [3]_.

    Notes
    -----
    With the step s, the change y of the gradient, H the inverse Hessian approximation, B its inverse, and w = H y,

        H <- (H - s u^T - u s^T - (1 - phi) w w^T / (y^T w)) / tau,
        u = phi w / (y^T s) - (phi y^T w / (y^T s) + tau) s / (2 y^T s).

    phi = 1 is BFGS, phi = 0 the method of Davidon, Fletcher and Powell. "broyden" takes, with n coefficients,
    h = y^T H y / (y^T s), b = s^T B s / (y^T s), a = b h - 1, c = (a / (1 + a))^(1/2),

        r = min(1, h (1 - c)),    theta = max((r - 1) / a, min(1 / r, (1 - b) / b)),    sigma = 1 + a theta,
        phi = (1 - theta) / sigma,
        tau = min(1, 1 / b) min(sigma^(1 / (1 - n)), 1 / theta)          if theta > 0,
              min(min(1, 1 / b) sigma^(1 / (1 - n)), sigma)              else,

    formulas 13 to 23 of [3]_; tau = 1 without `self_scaling`. Since s = -alpha H g, B s = -alpha g costs nothing. The
    first H is y^T s / y^T y times the identity, and its first update that of BFGS. Mini-batches are refused.

    References
    ----------
    .. [1] M. Al-Baali, Comput. Optim. Appl. 9 (1998) 191-203. doi:10.1023/A:1018315205474
    .. [2] J. Nocedal, S. J. Wright, *Numerical Optimization*, 2006, section 6.1. doi:10.1007/978-0-387-40065-5
    .. [3] J. F. Urban, P. Stefanou, J. A. Pons, Unveiling the optimization process of physics informed neural networks,
       J. Comput. Phys. 523 (2025) 113656. doi:10.1016/j.jcp.2024.113656

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
    update: Update = "bfgs"

    def __post_init__(self) -> None:
        require_count("BFGS", 1, max_evaluations=self.max_evaluations, max_coefficients=self.max_coefficients)
        self_scaling: Any = self.self_scaling
        if not isinstance(self_scaling, bool):
            raise KanmgTypeError(f"`BFGS` got `self_scaling={self_scaling!r}`. Pass True or False.")
        if self.update not in get_args(Update):
            raise KanmgValueError(f"`BFGS` got `update={self.update!r}`. Pass 'bfgs' or 'broyden'.")

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
        curvature, steepness, square = inner_products(step, change)
        if not curvature > MIN_COSINE * math.sqrt(square * steepness):
            return state.inverse
        inverse, member = state.inverse, _Member(1.0, 1.0)
        if inverse is None:
            inverse = zeros((len(step), len(step)), step)
            inverse.reshape(-1)[:: len(step) + 1] = curvature / steepness
        moved = product(inverse, change)
        length = float(change.dot(moved))
        if state.inverse is not None:
            member = self._member(
                length / curvature, -point.step * float(step.dot(state.gradient)), curvature, len(step)
            )
        phi, tau = member
        other = phi * moved / curvature - (0.5 / curvature) * (phi * length / curvature + tau) * step
        outer = step[:, None] * other[None, :]
        if phi != 1.0:
            inverse = inverse - ((1.0 - phi) / length) * (moved[:, None] * moved[None, :])
        return (inverse - (outer + outer.T)) / tau

    def _member(self, h: float, steepness: float, curvature: float, size: int) -> _Member:
        """Choose phi and tau from y^T H y / y^T s, s^T B s and y^T s; the letters are those of the notes."""
        shorter = min(1.0, curvature / steepness)
        if self.update == "bfgs":
            return _Member(1.0, shorter if self.self_scaling else 1.0)
        b = steepness / curvature
        a = max(b * h - 1.0, LEAST_EXCESS)
        r = min(1.0, h * (1.0 - math.sqrt(a / (1.0 + a))))
        theta = max((r - 1.0) / a, min(1.0 / r, (1.0 - b) / b))
        sigma = 1.0 + a * theta
        root = sigma ** (-1.0 / max(size - 1, 1))
        tau = shorter * min(root, 1.0 / theta) if theta > 0.0 else min(shorter * root, sigma)
        return _Member((1.0 - theta) / sigma, tau if self.self_scaling else 1.0)

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
