"""Limited-memory BFGS in matrix form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from kanmg.smoothers.base import Smoother, StepRecord, require_count
from kanmg.smoothers.line_search import Point, downhill
from kanmg.smoothers.quasi_newton import MIN_COSINE, PATIENCE, idle_steps
from kanmg.vectors import inner_products, norm, product, zeros

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array
    from kanmg.objective import SmoothFunction

__all__ = ["LBFGS", "LBFGSState"]


@dataclass(slots=True)  # not frozen: that would take five times as long to make
class LBFGSState:
    """What `LBFGS` remembers on one level: a window of rows of some arrays, and what was evaluated last.

    Later states of the same run may share the arrays: they write to rows after this state's window only.

    Attributes
    ----------
    pairs : ndarray, shape (2, C, num_coefficients)
        Rows s_i, differences of successive coefficients, and y_i, those of their gradients, the newest last; scaled so
        that s_i y_i = 1.
    inverse : ndarray, shape (C, C)
        Inverse of the upper triangle of the matrix of products s_i y_j.
    filled : ndarray of int, shape (1,)
        Number of rows that any state has written.
    first, last : int
        The pairs of this state are the rows first, ..., last - 1.
    scale : float
        Multiple of the identity that the pairs correct.
    loss : float
    gradient : ndarray, shape (num_coefficients,)
        Loss and gradient at the current coefficients.
    batch : int or None
        The mini-batch on which they were evaluated.
    lowest : float
        Lowest loss so far.
    idle : int
        Steps since then; a search that used all its evaluations for nothing counts as several.
    """

    pairs: Array
    inverse: Array
    filled: Array
    first: int
    last: int
    scale: float
    loss: float
    gradient: Array
    batch: int | None
    lowest: float
    idle: int


@dataclass(frozen=True)
class LBFGS(Smoother[LBFGSState]):
    """Limited-memory BFGS with a line search for the strong Wolfe conditions.

    The loss falls at every step, or rises by at most a millionth (in float32 a thousandth) where rounding hides what
    the slopes promise. Most steps cost one loss and gradient. If the search along the quasi-Newton direction fails, the
    pairs are dropped and the step is one of steepest descent; if that fails too, or ten steps in a row found no lower
    loss, or three in a row used all their evaluations and lowered it by rounding errors only, the step reports
    `stalled`.

    Parameters
    ----------
    history : int, default 50
        Number M of curvature pairs. A step takes 5 M `num_coefficients` multiply-adds besides its evaluations. While
        these are cheap, more pairs pay: on small networks 100 need far fewer steps than 20.
    max_evaluations : int, default 20
        Losses and gradients that one line search may use.

    Notes
    -----
    The two-loop recursion of Nocedal [1]_, written with matrices as by Byrd, Nocedal and Schnabel [2]_: with the pairs
    as columns of S and Y, R the upper triangle of S^T Y and D its diagonal, the inverse Hessian approximation H gives

        w = R^-1 S^T g,    q = g - Y w,    H g = gamma q + S R^-T (D w - gamma Y^T q).

    The pairs are scaled so that D is the identity, and R^-1 gets one new column a step, so that a step takes some
    thirty array operations however long the history. The first step has at most unit length.

    A new mini-batch is evaluated before the step, so that the two gradients of a pair belong to one batch. Batches
    should be large: L-BFGS takes their noise for curvature.

    References
    ----------
    .. [1] J. Nocedal, Math. Comp. 35 (1980) 773-782. doi:10.1090/S0025-5718-1980-0572855-7
    .. [2] R. H. Byrd, J. Nocedal, R. B. Schnabel, Math. Programming 63 (1994) 129-156. doi:10.1007/BF01582063
    """

    history: int = 50
    max_evaluations: int = 20

    def __post_init__(self) -> None:
        require_count("LBFGS", 1, history=self.history, max_evaluations=self.max_evaluations)

    def init(self, objective: SmoothFunction, theta: Array) -> LBFGSState:
        """Evaluate the objective at `theta`; there are no pairs yet."""
        return self._without_pairs(objective.batch, *objective.value_and_gradient(theta))

    def step(self, objective: SmoothFunction, theta: Array, state: LBFGSState) -> tuple[Array, LBFGSState, StepRecord]:
        """Search along the quasi-Newton direction, else along the gradient."""
        if objective.batch != state.batch and objective.steps_per_epoch > 1:
            state = _on_new_batch(objective, theta, state)
        point = None
        if state.idle < PATIENCE:
            if state.last > state.first:
                point = self._search(objective, theta, state, _direction(state), 1.0)
            if point is None:
                without = self._without_pairs(state.batch, state.loss, state.gradient)
                state = replace(without, lowest=state.lowest, idle=state.idle)
                first_step = 1.0 / max(1.0, norm(state.gradient))
                point = self._search(objective, theta, state, -state.gradient, first_step)
        if point is None:
            return theta, state, StepRecord(state.loss, norm(state.gradient), 0.0, stalled=True)
        state = _accept(state, theta, point, self.history)
        record = StepRecord(point.loss, norm(point.gradient), point.step, state.idle >= PATIENCE)
        return point.theta, state, record

    def known(self, state: LBFGSState) -> tuple[float, Array]:
        return state.loss, state.gradient

    def _search(
        self, objective: SmoothFunction, theta: Array, state: LBFGSState, direction: Array, first_step: float
    ) -> Point | None:
        """Search along a direction if the loss falls along it."""
        return downhill(objective, theta, state.loss, state.gradient, direction, first_step, self.max_evaluations)

    def _without_pairs(self, batch: int | None, loss: float, gradient: Array) -> LBFGSState:
        """Begin anew."""
        arrays = _empty(2 * self.history, gradient)
        return LBFGSState(*arrays, 0, 0, 0.0, loss, gradient, batch, lowest=loss, idle=0)


def _direction(state: LBFGSState) -> Array:
    """Minus the product of the inverse Hessian approximation with the gradient."""
    window = slice(state.first, state.last)
    steps, changes, inverse = state.pairs[0, window], state.pairs[1, window], state.inverse[window, window]
    weights = product(inverse, product(steps, state.gradient))
    reduced = state.scale * (state.gradient - product(weights, changes))
    correction = product(product(changes, reduced) - weights, inverse)
    return product(correction, steps) - reduced


def _accept(state: LBFGSState, theta: Array, point: Point, history: int) -> LBFGSState:
    """Move to a point and remember the pair, unless it has no positive curvature."""
    lowest, idle = min(point.loss, state.lowest), idle_steps(state.lowest, state.idle, point)
    step = point.theta - theta
    change = point.gradient - state.gradient
    curvature, steepness, length = inner_products(step, change)
    if not curvature > MIN_COSINE * math.sqrt(length * steepness):
        return replace(state, loss=point.loss, gradient=point.gradient, lowest=lowest, idle=idle)
    pairs, inverse, filled, first, last = _room(state, history)
    factor = 1.0 / math.sqrt(curvature)
    pairs[0, last] = factor * step
    change = factor * change
    pairs[1, last] = change
    # The last column of the inverse of an upper triangle depends on the other columns as they are.
    older = slice(first, last)
    inverse[older, last] = -product(inverse[older, older], product(pairs[0, older], change))
    inverse[last, last] = 1.0
    filled[0] = last = last + 1
    scale = curvature / steepness
    return LBFGSState(pairs, inverse, filled, first, last, scale, point.loss, point.gradient, state.batch, lowest, idle)


def _room(state: LBFGSState, history: int) -> tuple[Array, Array, Array, int, int]:
    """Return arrays with a free row after the window, and the window without a pair that is too old."""
    first = max(state.first, state.last + 1 - history)
    if state.filled[0] == state.last < len(state.inverse):
        return state.pairs, state.inverse, state.filled, first, state.last
    kept, window = state.last - first, slice(first, state.last)
    pairs, inverse, filled = _empty(len(state.inverse), state.gradient)
    pairs[:, :kept] = state.pairs[:, window]
    inverse[:kept, :kept] = state.inverse[window, window]
    return pairs, inverse, filled, 0, kept


def _empty(num_rows: int, gradient: Array) -> tuple[Array, Array, Array]:
    """Arrays for so many pairs, and the number of those written."""
    pairs = zeros((2, num_rows, len(gradient)), gradient)
    return pairs, zeros((num_rows, num_rows), gradient), np.zeros(1, np.int64)


def _on_new_batch(objective: SmoothFunction, theta: Array, state: LBFGSState) -> LBFGSState:
    """Evaluate the current coefficients on another mini-batch; the pairs stay."""
    loss, gradient = objective.value_and_gradient(theta)
    return replace(state, loss=loss, gradient=gradient, batch=objective.batch, lowest=loss, idle=0)
