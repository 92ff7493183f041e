"""Levenberg-Marquardt on normal equations, dense or never formed, for losses that are sums of squares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch

from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.smoothers.base import Smoother, StepRecord, require_count, require_positive
from kanmg.smoothers.damped_equations import DampedEquations, as_array_like, as_tensor
from kanmg.smoothers.matrix_free import FIRST_FORCING, MatrixFreeEquations, next_forcing
from kanmg.smoothers.preconditioners import KINDS
from kanmg.smoothers.projection import project
from kanmg.vectors import beside, norm

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array
    from kanmg.hierarchy import Level
    from kanmg.objective import SmoothFunction
    from kanmg.problems.base import Problem

__all__ = ["LevenbergMarquardt", "LevenbergMarquardtState"]

# How the damping follows the ratio of the decrease of the loss to the predicted one.
GOOD_RATIO, AFTER_GOOD = 0.5, 0.2
POOR_RATIO, AFTER_POOR = 0.2, 2.0
AFTER_REJECTION = 4.0

# Second derivatives along a step come from residuals at this part of it, ahead and back.
DIFFERENCE = 0.1

# A longer acceleration, relative to the step, says that the parabola is no better than the line.
LONGEST_ACCELERATION = 0.375


@dataclass(frozen=True, slots=True)
class LevenbergMarquardtState:
    """What `LevenbergMarquardt` remembers on one level.

    Attributes
    ----------
    damping : float
        mu of the next trial.
    scale : ndarray, shape (num_coefficients,), or None
        D, as float64; None before the first step.
    loss : float
    gradient : ndarray, shape (num_coefficients,)
        Loss and gradient at the current coefficients.
    forcing : float
        How far conjugate gradients reduce the residual of the next system.
    """

    damping: float
    scale: Array | None
    loss: float
    gradient: Array
    forcing: float = FIRST_FORCING


@dataclass(frozen=True)
class LevenbergMarquardt(Smoother[LevenbergMarquardtState]):
    """Damped Gauss-Newton steps, for losses that are sums of squares.

    The loss falls at every step. Near a minimum with small residuals convergence is quadratic: on smooth functions this
    smoother reaches in some hundred steps what L-BFGS does not in any number. A step that does not find a lower loss
    leaves the coefficients as they are and reports `stalled`.

    Parameters
    ----------
    damping : float, default 1e-3
        Of the first trial on a level, relative to the diagonal of the Gauss-Newton matrix.
    acceleration : bool, default True
        Whether steps follow a parabola instead of a line, at the cost of three vectors of residuals and one gradient
        each. Where the parabola finds no lower loss, the line is tried.
    max_rejections : int, default 15
        Trials, each with more damping than the one before, that may fail before the step reports `stalled`.
    max_coefficients : int, default 6000
        What the matrix may have, because it takes 8 n^2 bytes, and so do its factors.
    linear_solver : {"auto", "cholesky", "cg"}, default "auto"
        How the systems are solved: by factorising M; or by conjugate gradients from products with J, without M; run
        with up to 30,820 coefficients. `"auto"`: Cholesky up to `max_coefficients`, conjugate gradients beyond.
        `"cholesky"` refuses levels with more. `"cg"` solves small levels by them too, where they are slower and less
        accurate: it is for levels beyond `max_coefficients`.
    preconditioner : {"jacobi", "edges", "schwarz", "vcycle"}, default "jacobi"
        Of conjugate gradients, unused where Cholesky factorises: see
        `kanmg.smoothers.preconditioners.Preconditioners`.
    cg_iterations : int, default 200
        Of one system, at most. What they have reached is a descent direction whenever they end.
    projection : bool, default False
        Whether every trial is followed by solving for the last layer's coefficients, in which the network is linear,
        at the cost of one more matrix and gradient each. Fewer steps where the residuals are linear in the network's
        values; the coefficients may become large, and their solution hard to refine. For other residuals it is one
        Gauss-Newton step of the last layer, kept if the loss falls.

    Raises
    ------
    KanmgTypeError
        From `kanmg.solve`, if the problem's loss is no sum of squares.
    KanmgValueError
        If `projection` is combined with `linear_solver="cg"`, or a preconditioner with `"cholesky"`. From
        `kanmg.solve`, if there are mini-batches, or more than `max_coefficients` for Cholesky.

    See Also
    --------
    LBFGS : needs loss and gradient only, and memory proportional to the number of coefficients.

    Notes
    -----
    With R the residuals, J their Jacobian, M = 2 J^T J, g = 2 J^T R, and in the diagonal of D the largest ones that M
    has had so far, a trial step v solves

        (M + mu D) v = -g

    by Cholesky in float64 [1]_, [2]_. It is accepted if the loss falls. mu is divided by 5 if the decrease is more than
    half of the one that the linear model predicts, doubled if it is less than a fifth, and multiplied by 4 after a
    rejection, by 8 after the next one, and so on. Trials whose loss is not finite, and matrices that rounding has made
    indefinite, count as rejected.

    Geodesic acceleration [3]_ adds the a that solves (M + mu D) a = -J^T R'', R'' the second derivative of the
    residuals along v by central differences, unless a is longer than 3/8 of v, measured by D.

    Variable projection [4]_ is done in the simple form: a trial of all coefficients, its last layer then replaced by
    the least-squares solution, and accepted by the loss after that. A solution more than 100 times as long as the
    coefficients before it is refused, a ridge of 1e-8 keeps it from growing where the residuals hardly see it.

    With N residuals and n coefficients a step takes at most N n^2 / 2 multiply-adds for J^T J, n^3 / 6 for each trial
    besides its loss and gradient, and the memory of four matrices. Where the cells are many the compiled evaluator
    multiplies only the entries of J that are not zero: N E^2 (k + 1)^2 / 2 for E edges of degree k, however many cells.

    Conjugate gradients reduce the residual of a system by a factor that follows the norms of the gradients [5]_, from
    0.1 to 0.001. The damping is not lowered after a system that they did not finish. J's entries that are not zero, k +
    1 for every edge and residual, are kept if there are at most 2^26, 0.8 GB; else they are computed in every product.

    References
    ----------
    .. [1] D. W. Marquardt, J. SIAM 11 (1963) 431-441. doi:10.1137/0111030
    .. [2] J. J. More, Lecture Notes in Math. 630 (1978) 105-116. doi:10.1007/BFb0067700
    .. [3] M. K. Transtrum, J. P. Sethna, Improvements to the Levenberg-Marquardt algorithm for nonlinear least-squares
       minimization, 2012. arXiv:1201.5885
    .. [4] G. H. Golub, V. Pereyra, SIAM J. Numer. Anal. 10 (1973) 413-432. doi:10.1137/0710036
    .. [5] S. C. Eisenstat, H. F. Walker, SIAM J. Sci. Comput. 17 (1996) 16-32. doi:10.1137/0917003

    Examples
    --------
    >>> import numpy as np
    >>> import kanmg
    >>> x = np.random.default_rng(0).uniform(-1, 1, (500, 2))
    >>> problem = kanmg.Regression(x, np.exp(np.sin(x[:, 0]) + x[:, 1] ** 2))
    >>> hierarchy = kanmg.uniform_hierarchy((2, 1, 1), degree=5, num_intervals=2, num_levels=3, evaluator="reference")
    >>> method = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=20, starts=4)
    >>> solution = kanmg.solve(problem, hierarchy, method=method)
    >>> solution.loss < 1e-11
    True
    """

    damping: float = 1e-3
    acceleration: bool = True
    max_rejections: int = 15
    max_coefficients: int = 6000
    projection: bool = False
    linear_solver: Literal["auto", "cholesky", "cg"] = "auto"
    preconditioner: Literal["jacobi", "edges", "schwarz", "vcycle"] = "jacobi"
    cg_iterations: int = 200

    def __post_init__(self) -> None:
        require_positive("LevenbergMarquardt", damping=self.damping)
        require_count("LevenbergMarquardt", 0, max_rejections=self.max_rejections)
        require_count("LevenbergMarquardt", 1, max_coefficients=self.max_coefficients)
        require_count("LevenbergMarquardt", 1, cg_iterations=self.cg_iterations)
        _require_choice("linear_solver", self.linear_solver, ("auto", "cholesky", "cg"))
        _require_choice("preconditioner", self.preconditioner, KINDS)
        switches: dict[str, Any] = {"acceleration": self.acceleration, "projection": self.projection}
        for name, value in switches.items():
            if not isinstance(value, bool):
                raise KanmgTypeError(f"`LevenbergMarquardt` got `{name}={value!r}`. Pass True or False.")
        if self.linear_solver == "cholesky" and self.preconditioner != "jacobi":
            raise KanmgValueError(
                f"`LevenbergMarquardt` got `preconditioner={self.preconditioner!r}` and `linear_solver='cholesky'`, "
                "which needs none. Leave out `preconditioner`, or use `linear_solver='cg'` or `'auto'`."
            )
        if self.projection and self.linear_solver == "cg":
            raise KanmgValueError(
                "`LevenbergMarquardt` got `projection=True` and `linear_solver='cg'`, but projection needs the matrix "
                "that conjugate gradients do without. Leave out `linear_solver`, or `projection`."
            )

    def check(self, problem: Problem, level: Level) -> None:
        """Refuse mini-batches, losses that are no sums of squares, and matrices that are too large."""
        self._check(problem.steps_per_epoch, level.network.num_coefficients + problem.num_parameters)
        problem.require_sum_of_squares()
        if self.uses_cg(level.network.num_coefficients + problem.num_parameters):
            problem.require_jacobian_rows()

    def uses_cg(self, num_coefficients: int) -> bool:
        """Whether systems of so many unknowns are solved by conjugate gradients."""
        if self.linear_solver == "auto":
            return num_coefficients > self.max_coefficients
        return self.linear_solver == "cg"

    def init(self, objective: SmoothFunction, theta: Array) -> LevenbergMarquardtState:
        """Evaluate the objective at `theta`."""
        self._check(objective.steps_per_epoch, len(theta))
        return LevenbergMarquardtState(float(self.damping), None, *objective.value_and_gradient(theta))

    def step(
        self, objective: SmoothFunction, theta: Array, state: LevenbergMarquardtState
    ) -> tuple[Array, LevenbergMarquardtState, StepRecord]:
        """Try steps with more and more damping until one lowers the loss."""
        if math.isfinite(state.loss) and 0.0 < norm(state.gradient) < math.inf:
            equations = self._equations(objective, theta, state)
            damping, growth = state.damping, AFTER_REJECTION
            for _ in range(self.max_rejections + 1):
                line = equations.solve(equations.downhill, damping)
                trial = None if line is None else self._try(objective, theta, state, equations, line, damping)
                if line is not None and trial is not None:
                    factor = _factor(state.loss - trial.loss, equations.predicted_decrease(line, damping))
                    if equations.is_cut_off:
                        factor = max(factor, 1.0)
                    # Less would not make a matrix definite that is only positive semi-definite up to rounding.
                    damping = max(factor * damping, _rounding(theta))
                    forcing = next_forcing(state.forcing, norm(state.gradient), norm(trial.gradient))
                    scale = beside(equations.scale, theta)
                    state = LevenbergMarquardtState(damping, scale, trial.loss, trial.gradient, forcing)
                    return trial.theta, state, StepRecord(trial.loss, norm(trial.gradient), 1.0)
                damping, growth = growth * damping, 2.0 * growth
        return theta, state, StepRecord(state.loss, norm(state.gradient), 0.0, stalled=True)

    def _equations(self, objective: SmoothFunction, theta: Array, state: LevenbergMarquardtState) -> Equations:
        """Set up the systems at a point."""
        if not self.uses_cg(len(theta)):
            return DampedEquations(objective.normal_equations(theta)[2], state.gradient, state.scale)
        return MatrixFreeEquations(
            objective.linearised(theta),
            state.gradient,
            state.scale,
            self.preconditioner,
            state.forcing,
            self.cg_iterations,
        )

    def known(self, state: LevenbergMarquardtState) -> tuple[float, Array]:
        return state.loss, state.gradient

    def _try(
        self,
        objective: SmoothFunction,
        theta: Array,
        state: LevenbergMarquardtState,
        equations: Equations,
        line: torch.Tensor,
        damping: float,
    ) -> _Trial | None:
        """Go along the parabola, else along the line; None if neither lowers the loss."""
        if self.acceleration:
            bend = _acceleration(objective, theta, equations, line, damping)
            if bend is not None and equations.length(bend) <= LONGEST_ACCELERATION * equations.length(line):
                trial = self._evaluate(objective, theta + as_array_like(line + bend, theta))
                if trial.is_below(state.loss):
                    return trial
        trial = self._evaluate(objective, theta + as_array_like(line, theta))
        return trial if trial.is_below(state.loss) else None

    def _evaluate(self, objective: SmoothFunction, theta: Array) -> _Trial:
        """Evaluate a trial, after the last layer has been solved for if that is wanted."""
        if self.projection:
            return _Trial(*project(objective, theta))
        return _Trial(theta, *objective.value_and_gradient(theta))

    def _check(self, steps_per_epoch: int, num_coefficients: int) -> None:
        """Refuse mini-batches, and matrices that are too large."""
        if steps_per_epoch > 1:
            raise KanmgValueError(
                "`LevenbergMarquardt` needs all samples in every step, but the problem has mini-batches. Leave out "
                "`batch_size`, or use `kanmg.Adam()`."
            )
        if self.linear_solver == "cholesky" and num_coefficients > self.max_coefficients:
            raise KanmgValueError(
                f"`LevenbergMarquardt` would factorise a dense matrix for {num_coefficients} coefficients, of "
                f"{8e-9 * num_coefficients**2:.2g} GB, more than `max_coefficients={self.max_coefficients}` allows. "
                "Use `linear_solver='auto'`, fewer levels, or a larger `max_coefficients`."
            )

        if self.projection and self.uses_cg(num_coefficients):
            raise KanmgValueError(
                "`LevenbergMarquardt` got `projection=True`, which needs the dense matrix, but solves this level's "
                f"{num_coefficients} coefficients by conjugate gradients. Leave `projection` out, or raise "
                f"`max_coefficients={self.max_coefficients}`."
            )


class _Trial(NamedTuple):
    """Coefficients, and loss and gradient there."""

    theta: Array
    loss: float
    gradient: Array

    def is_below(self, loss: float) -> bool:
        """Whether this is a better point to go on from."""
        return self.loss < loss and math.isfinite(self.loss) and math.isfinite(norm(self.gradient))


Equations: TypeAlias = DampedEquations | MatrixFreeEquations


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise KanmgValueError(
            f"`LevenbergMarquardt` got `{name}={value!r}`. Pass one of {', '.join(map(repr, choices))}."
        )


def _acceleration(
    objective: SmoothFunction, theta: Array, equations: Equations, line: torch.Tensor, damping: float
) -> torch.Tensor | None:
    """Solve (M + mu D) a = -J^T R'': half the acceleration along a step, since M is twice J^T J."""
    offset = as_array_like(DIFFERENCE * line, theta)
    ahead, back = objective.residuals(theta + offset), objective.residuals(theta - offset)
    second = (ahead + back - 2.0 * objective.residuals(theta)) / DIFFERENCE**2
    return equations.solve(-as_tensor(objective.pull_back(theta, second)), damping)


def _factor(decrease: float, predicted: float) -> float:
    """Say what the damping is multiplied with after an accepted trial."""
    if decrease > GOOD_RATIO * predicted:
        return AFTER_GOOD
    return AFTER_POOR if decrease < POOR_RATIO * predicted else 1.0


def _rounding(theta: Array) -> float:
    """Return the relative rounding error of an array's dtype."""
    other: Any = theta
    return float(torch.finfo(other.dtype).eps if isinstance(other, torch.Tensor) else np.finfo(other.dtype).eps)
