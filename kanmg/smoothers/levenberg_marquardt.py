"""Levenberg-Marquardt on normal equations, dense or never formed, for losses that are sums of squares."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch

from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.smoothers.base import Smoother, StepRecord, norm, require_count, require_positive
from kanmg.smoothers.matrix_free import FIRST_FORCING, MatrixFreeEquations, next_forcing
from kanmg.smoothers.preconditioners import KINDS
from kanmg.threads import one_thread

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

# Diagonal entries below this part of the largest one belong to coefficients that no sample sees.
SMALLEST_ENTRY = 1e-14

# Second derivatives along a step come from residuals at this part of it, ahead and back.
DIFFERENCE = 0.1

# Below, one thread factorises as fast as several.
MANY_COEFFICIENTS = 400

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
        `"cholesky"` refuses levels with more.
    preconditioner : {"jacobi", "edges", "schwarz", "vcycle"}, default "jacobi"
        Of conjugate gradients: see `kanmg.smoothers.preconditioners.Preconditioners`.
    cg_iterations : int, default 200
        Of one system, at most. What they have reached is a descent direction whenever they end.

    Raises
    ------
    KanmgTypeError
        From `kanmg.solve`, if the problem's loss is no sum of squares.
    KanmgValueError
        From `kanmg.solve`, if there are mini-batches, or more than `max_coefficients` for Cholesky.

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

    With N residuals and n coefficients a step takes at most N n^2 / 2 multiply-adds for J^T J, n^3 / 6 for each trial
    besides its loss and gradient, and the memory of four matrices. Where the cells are many the compiled evaluator
    multiplies only the entries of J that are not zero: N E^2 (k + 1)^2 / 2 for E edges of degree k, however many cells.

    Conjugate gradients reduce the residual of a system by a factor that follows the norms of the gradients [4]_, from
    0.1 to 0.001. The damping is not lowered after a system that they did not finish. J's entries that are not zero, k +
    1 for every edge and residual, are kept if there are at most 2^26, 0.8 GB; else they are computed in every product.

    References
    ----------
    .. [1] D. W. Marquardt, J. SIAM 11 (1963) 431-441. doi:10.1137/0111030
    .. [2] J. J. More, Lecture Notes in Math. 630 (1978) 105-116. doi:10.1007/BFb0067700
    .. [3] M. K. Transtrum, J. P. Sethna, Improvements to the Levenberg-Marquardt algorithm for nonlinear least-squares
       minimization, 2012. arXiv:1201.5885
    .. [4] S. C. Eisenstat, H. F. Walker, SIAM J. Sci. Comput. 17 (1996) 16-32. doi:10.1137/0917003

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
        acceleration: Any = self.acceleration
        if not isinstance(acceleration, bool):
            raise KanmgTypeError(f"`LevenbergMarquardt` got `acceleration={acceleration!r}`. Pass True or False.")

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
                    scale = equations.scale.numpy()
                    state = LevenbergMarquardtState(damping, scale, trial.loss, trial.gradient, forcing)
                    return trial.theta, state, StepRecord(trial.loss, norm(trial.gradient), 1.0)
                damping, growth = growth * damping, 2.0 * growth
        return theta, state, StepRecord(state.loss, norm(state.gradient), 0.0, stalled=True)

    def _equations(self, objective: SmoothFunction, theta: Array, state: LevenbergMarquardtState) -> Equations:
        """Set up the systems at a point."""
        if not self.uses_cg(len(theta)):
            return _Equations(objective.normal_equations(theta)[2], state.gradient, state.scale)
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
                trial = _evaluate(objective, theta + _like(line + bend, theta))
                if trial.is_below(state.loss):
                    return trial
        trial = _evaluate(objective, theta + _like(line, theta))
        return trial if trial.is_below(state.loss) else None

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


class _Trial(NamedTuple):
    """Coefficients, and loss and gradient there."""

    theta: Array
    loss: float
    gradient: Array

    def is_below(self, loss: float) -> bool:
        """Whether this is a better point to go on from."""
        return self.loss < loss and math.isfinite(self.loss) and math.isfinite(norm(self.gradient))


class _Equations:
    """Damped normal equations at one point, in float64, for any number of dampings and right-hand sides.

    Parameters
    ----------
    matrix : ndarray, shape (n, n)
        2 J^T J.
    gradient : ndarray, shape (n,)
    scale : ndarray, shape (n,), or None
        D of the step before.
    """

    def __init__(self, matrix: Array, gradient: Array, scale: Array | None) -> None:
        self._matrix = _tensor(matrix)
        self.downhill = -_tensor(gradient)
        diagonal = self._matrix.diagonal()
        if scale is not None:
            diagonal = torch.maximum(diagonal, _tensor(scale))
        self.scale = diagonal.clamp(min=SMALLEST_ENTRY * float(diagonal.max()))
        self.is_cut_off = False
        self._factored = math.nan
        self._factor: torch.Tensor | None = None

    def solve(self, right: torch.Tensor, damping: float) -> torch.Tensor | None:
        """Solve (M + damping D) v = right; None if the matrix is not positive definite."""
        if damping != self._factored:
            damped = self._matrix.clone()
            damped.diagonal().add_(self.scale, alpha=damping)
            # torch takes as many threads as the user has set, unlike SciPy.
            with one_thread() if len(damped) < MANY_COEFFICIENTS else nullcontext():
                factor, info = torch.linalg.cholesky_ex(damped)
            self._factored, self._factor = damping, None if int(info) else factor
        if self._factor is None:
            return None
        with one_thread():
            solution = torch.cholesky_solve(right[:, None], self._factor)[:, 0]
        return solution if bool(torch.isfinite(solution).all()) else None

    def predicted_decrease(self, line: torch.Tensor, damping: float) -> float:
        """Decrease of the linear model's loss at v, from (M + damping D) v = -g: positive."""
        return 0.5 * float(self.downhill @ line) + 0.5 * damping * float((self.scale * line) @ line)

    def length(self, vector: torch.Tensor) -> float:
        """Length of a vector, measured by D."""
        return math.sqrt(float((self.scale * vector) @ vector))


Equations: TypeAlias = "_Equations | MatrixFreeEquations"


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise KanmgValueError(
            f"`LevenbergMarquardt` got `{name}={value!r}`. Pass one of {', '.join(map(repr, choices))}."
        )


def _evaluate(objective: SmoothFunction, theta: Array) -> _Trial:
    return _Trial(theta, *objective.value_and_gradient(theta))


def _acceleration(
    objective: SmoothFunction, theta: Array, equations: Equations, line: torch.Tensor, damping: float
) -> torch.Tensor | None:
    """Solve (M + mu D) a = -J^T R'': half the acceleration along a step, since M is twice J^T J."""
    offset = _like(DIFFERENCE * line, theta)
    ahead, back = objective.residuals(theta + offset), objective.residuals(theta - offset)
    second = (ahead + back - 2.0 * objective.residuals(theta)) / DIFFERENCE**2
    return equations.solve(-_tensor(objective.pull_back(theta, second)), damping)


def _factor(decrease: float, predicted: float) -> float:
    """Say what the damping is multiplied with after an accepted trial."""
    if decrease > GOOD_RATIO * predicted:
        return AFTER_GOOD
    return AFTER_POOR if decrease < POOR_RATIO * predicted else 1.0


def _rounding(theta: Array) -> float:
    """Return the relative rounding error of an array's dtype."""
    other: Any = theta
    return float(torch.finfo(other.dtype).eps if isinstance(other, torch.Tensor) else np.finfo(other.dtype).eps)


def _tensor(array: Array) -> torch.Tensor:
    """Make a float64 tensor, in shared memory if possible."""
    other: Any = array
    if isinstance(other, torch.Tensor):
        return other.double()
    return torch.from_numpy(np.require(array, np.float64, ("C", "W")))


def _like(vector: torch.Tensor, theta: Array) -> Array:
    """Make an array of the kind, dtype and device of another one."""
    other: Any = theta
    if isinstance(other, torch.Tensor):
        result: Array = vector.to(other)  # type: ignore[assignment]
        return result
    return vector.numpy().astype(other.dtype, copy=False)
