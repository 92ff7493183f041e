"""Objectives: what smoothers and a user's own optimiser minimise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kanmg.arrays import as_array, check_dtype
from kanmg.errors import KanmgError, KanmgValueError, ShapeError
from kanmg.smooth_function import SmoothFunction
from kanmg.vectors import returned, stacked, to_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from kanmg.evaluators.base import Array
    from kanmg.hierarchy import Level
    from kanmg.network import Network
    from kanmg.problems.base import Problem
    from kanmg.problems.linearisation import Linearisation

__all__ = [
    "DerivedObjective",
    "GalerkinObjective",
    "Objective",
    "ShiftedObjective",
    "SmoothFunction",
    "loss_of_zero",
]


# The matrix of a correction is restricted from the finer level's, of 8 n^2 bytes: at most 1.2 GB.
MAX_FINE_COEFFICIENTS = 12_000


class Objective:
    """A problem seen on one level: its loss and gradient as functions of the level's coefficients.

    Parameters
    ----------
    problem : Problem
    level : Level
        `hierarchy[l]`.
    batch : int, optional
        Number of the mini-batch that evaluations see; all samples by default.

    Attributes
    ----------
    batch : int or None
        May be set at any time.
    steps_per_epoch : int
        Number of mini-batches in an epoch.
    evaluations : int
        Calls of `value`, `value_and_gradient` and the methods of sums of squares so far.
    work : float
        Multiply-adds of the evaluations so far.
    linear_part : slice
        Where the coefficients lie in which the network is linear: those of its last layer.
    network : Network
        Whose coefficients come first in the vectors that are passed; the problem's parameters follow.

    Raises
    ------
    KanmgError
        If the problem does not fit the level.

    Examples
    --------
    A user's own optimiser:

    >>> import numpy as np
    >>> import scipy.optimize
    >>> import kanmg
    >>> hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=4, num_levels=1, evaluator="reference")
    >>> x = np.linspace(-1, 1, 200).reshape(-1, 1)
    >>> objective = kanmg.Objective(kanmg.Regression(x, np.exp(x)), hierarchy[0])
    >>> fit = scipy.optimize.minimize(objective.value_and_gradient, np.zeros(7), jac=True, method="BFGS")
    >>> print(f"{fit.fun:.0e}")
    2e-08
    """

    def __init__(self, problem: Problem, level: Level, *, batch: int | None = None) -> None:
        problem.check_level(level)
        self.problem = problem
        self.level = level
        self.batch = batch
        self.steps_per_epoch = problem.steps_per_epoch
        self.linear_part = slice(*level.network.offsets[-2:])
        self.network = level.network
        self.evaluations = 0
        self.work = 0.0
        self._evaluator = level.evaluator
        self._dtype = level.evaluator.dtype
        self._home = level.evaluator.home if problem.takes_tensors else None
        self._shape = (level.network.num_coefficients + problem.num_parameters,)
        # Of all samples, with the gradient and without: asked for once, because a small evaluation takes microseconds.
        self._full_work = (problem.work(self._evaluator), problem.work(self._evaluator, gradient=False))

    def value(self, theta: Any) -> float:
        """Evaluate the loss.

        Parameters
        ----------
        theta : ndarray or Tensor, shape (num_coefficients,)

        Returns
        -------
        float
        """
        theta = self._checked(theta)
        self._count(1)
        return self.problem.loss(self._evaluator, theta, self.batch)

    def value_and_gradient(self, theta: Any) -> tuple[float, Any]:
        """Evaluate the loss and its gradient in one sweep over the samples.

        Parameters
        ----------
        theta : ndarray or Tensor, shape (num_coefficients,)

        Returns
        -------
        loss : float
        gradient : ndarray or Tensor, shape (num_coefficients,)
            A tensor on the device of `theta` if that is one.

        Raises
        ------
        ShapeError, DtypeError
            If `theta` is not a vector of the level's coefficients in the hierarchy's dtype.
        """
        coefficients = self._checked(theta)
        self._count(0)
        loss, gradient = self.problem.loss_and_gradient(self._evaluator, coefficients, self.batch)
        return loss, gradient if coefficients is theta else returned(gradient, theta)

    def residuals(self, theta: Any) -> Any:
        """Evaluate the vector R with `loss == R @ R`, of all samples; counted as one loss without gradient.

        Parameters
        ----------
        theta : ndarray or Tensor, shape (num_coefficients,)

        Returns
        -------
        ndarray or Tensor, shape (M,)

        Raises
        ------
        KanmgTypeError
            If the problem's loss is no sum of squares, here and in the next two methods.
        KanmgValueError
            If `batch` is set, here and in the next two methods.
        """
        coefficients = self._checked(theta)
        self._count_all(self._full_work[1])
        return returned(self.problem.residuals(self._evaluator, coefficients), theta)

    def pull_back(self, theta: Any, cotangents: Any) -> Any:
        """Multiply a vector with the transposed Jacobian of `residuals`; counted as one loss with gradient.

        Parameters
        ----------
        theta : ndarray or Tensor, shape (num_coefficients,)
        cotangents : ndarray or Tensor, shape (M,)

        Returns
        -------
        ndarray or Tensor, shape (num_coefficients,)
        """
        coefficients = self._checked(theta)
        self._count_all(self._full_work[0])
        seeds = self._placed(cotangents, "cotangents")
        return returned(self.problem.pull_back(self._evaluator, coefficients, seeds), theta)

    def normal_equations(self, theta: Any) -> tuple[float, Any, Any]:
        """Evaluate the loss, its gradient and the Gauss-Newton matrix 2 J^T J, J the Jacobian of `residuals`.

        Counted as one loss with gradient and half a product of J^T with J, for each residual what the evaluator says:
        n (n + 1) / 2 multiply-adds with n coefficients if J is taken as dense, fewer if only its strips are.

        Parameters
        ----------
        theta : ndarray or Tensor, shape (num_coefficients,)

        Returns
        -------
        loss : float
        gradient : ndarray or Tensor, shape (num_coefficients,)
        matrix : ndarray or Tensor, shape (num_coefficients, num_coefficients)
        """
        coefficients = self._checked(theta)
        self._count_all(self.problem.normal_equations_work(self._evaluator))
        loss, gradient, matrix = self.problem.normal_equations(self._evaluator, coefficients)
        return loss, returned(gradient, theta), returned(matrix, theta)

    def linearised(self, theta: Any) -> Linearisation:
        """Return the Jacobian of `residuals` at a point, as an operator; its products are counted when they are made.

        Parameters
        ----------
        theta : ndarray or Tensor, shape (num_coefficients,)

        Returns
        -------
        Linearisation
        """
        coefficients = self._checked(theta)
        self._count_all(0.0)
        return self.problem.linearised(self._evaluator, coefficients, self._add_work)

    def _add_work(self, work: float) -> None:
        self.work += work

    def _count_all(self, work: float) -> None:
        """Count an evaluation that has no mini-batches."""
        if self.batch is not None and self.steps_per_epoch > 1:
            raise KanmgValueError(
                "the residuals of a sum of squares are those of all samples, but a mini-batch was asked for. Leave out "
                "`batch_size`, or use a smoother that bears mini-batches, such as `kanmg.Adam()`."
            )
        self.evaluations += 1
        self.work += work

    def _count(self, kind: int) -> None:
        """Count an evaluation with the gradient (0) or without (1)."""
        self.evaluations += 1
        if self.batch is None or self.steps_per_epoch == 1:
            self.work += self._full_work[kind]
        else:
            self.work += self.problem.work(self._evaluator, self.batch, gradient=not kind)

    def _checked(self, theta: Any) -> Any:
        """Return the coefficients where the evaluator takes them; the smoothers' own vectors pass at once."""
        if self._home is None and type(theta) is np.ndarray and theta.dtype == self._dtype:
            array = theta
        else:
            array = self._placed(theta, "theta")
        if tuple(array.shape) != self._shape:
            number = self.problem.num_parameters
            unknowns = f" and the problem {number} parameter{'s' if number > 1 else ''}" if number else ""
            raise ShapeError(
                f"`theta` has shape {tuple(array.shape)} but level {self.level.index} has {self._shape[0] - number} "
                f"coefficients{unknowns}. Pass one flat vector of shape {self._shape}; `network.flatten` makes one of "
                f"the layers' arrays{', to which `problem.initial_parameters` can be appended' if number else ''}."
            )
        return array

    def _placed(self, vector: Any, name: str) -> Any:
        """Check a vector's dtype and take it to where the evaluator takes vectors, unless it is there."""
        if isinstance(vector, torch.Tensor) and vector.device == self._home:
            check_dtype(vector, self._dtype, name)
            return vector.detach() if vector.requires_grad else vector
        array = as_array(vector, name)
        check_dtype(array, self._dtype, name)
        return to_device(array, self._home)


class DerivedObjective:
    """An objective made from another one, whose counts and mini-batches it shares."""

    def __init__(self, objective: SmoothFunction) -> None:
        self.objective = objective

    @property
    def batch(self) -> int | None:
        """Number of the mini-batch that evaluations of the inner objective see."""
        return self.objective.batch

    @batch.setter
    def batch(self, number: int | None) -> None:
        self.objective.batch = number

    @property
    def steps_per_epoch(self) -> int:
        """Number of mini-batches in an epoch."""
        return self.objective.steps_per_epoch

    @property
    def evaluations(self) -> int:
        """Evaluations of the inner objective so far."""
        return self.objective.evaluations

    @property
    def work(self) -> float:
        """Multiply-adds of the inner objective so far."""
        return self.objective.work

    @property
    def linear_part(self) -> slice:
        """Where the coefficients lie in which the network is linear."""
        return self.objective.linear_part

    @property
    def network(self) -> Network | None:
        """The network whose coefficients the variables are."""
        return self.objective.network


class ShiftedObjective(DerivedObjective):
    """A coarse objective whose gradient is corrected by a constant: f(z) - <tau, z - origin>.

    With `tau = grad f(origin) - P^T grad f_fine(x)` its gradient at the origin is the restricted fine gradient, so that
    a stationary fine iterate is left alone. Its value at the origin is f's.

    Parameters
    ----------
    objective : Objective
        f; evaluations and work are counted there.
    tau : ndarray, shape (num_coefficients,)
    origin : ndarray, shape (num_coefficients,)

    References
    ----------
    S. G. Nash, Optim. Methods Softw. 14 (2000) 99-116. doi:10.1080/10556780008805795
    """

    def __init__(self, objective: SmoothFunction, tau: Array, origin: Array) -> None:
        super().__init__(objective)
        self.tau = tau
        self.origin = origin

    def value(self, theta: Array) -> float:
        """Evaluate f(z) - <tau, z - origin>."""
        return self.objective.value(theta) - float(self.tau @ (theta - self.origin))

    def value_and_gradient(self, theta: Array) -> tuple[float, Array]:
        """Evaluate f(z) - <tau, z - origin> and its gradient."""
        loss, gradient = self.objective.value_and_gradient(theta)
        return loss - float(self.tau @ (theta - self.origin)), gradient - self.tau

    def residuals(self, theta: Array) -> Array:
        """Evaluate the residuals of f alone: their sum of squares is f, not the shifted value."""
        return self.objective.residuals(theta)

    def pull_back(self, theta: Array, cotangents: Array) -> Array:
        """Multiply a vector with the transposed Jacobian of `residuals`."""
        return self.objective.pull_back(theta, cotangents)

    def normal_equations(self, theta: Array) -> tuple[float, Array, Array]:
        """Evaluate f(z) - <tau, z - origin>, its gradient, and the matrix of f: a linear shift has no curvature."""
        loss, gradient, matrix = self.objective.normal_equations(theta)
        return loss - float(self.tau @ (theta - self.origin)), gradient - self.tau, matrix

    def linearised(self, theta: Array) -> Linearisation:
        """Return the Jacobian of `residuals`."""
        return self.objective.linearised(theta)


class GalerkinObjective(DerivedObjective):
    """The fine loss as a function of a coarse correction: e -> f(x + P e).

    Parameters
    ----------
    objective : Objective
        f on the fine level; evaluations and work are counted there.
    theta : ndarray, shape (num_coefficients,)
        x, the fine iterate.
    prolong, restrict : callable
        P and its transpose, such as `transfer.prolong` and `transfer.restrict`.
    restrict_matrix : callable, optional
        M -> P^T M P for symmetric M, such as `transfer.restrict_matrix`; by default `restrict` on every row and column.
    linear_part : slice, optional
        Where the coarse coefficients of the last layer lie; by default nowhere.
    network : Network, optional
        The coarse one, for smoothers that ask for it.

    Attributes
    ----------
    last : (ndarray, float, ndarray) or None
        The correction at which the gradient was evaluated last, the loss there, and the gradient of f, so that whoever
        applies that correction knows the gradient at x + P e.
    """

    def __init__(
        self,
        objective: SmoothFunction,
        theta: Array,
        prolong: Callable[[Array], Array],
        restrict: Callable[[Array], Array],
        restrict_matrix: Callable[[Array], Array] | None = None,
        linear_part: slice = slice(0),
        network: Network | None = None,
    ) -> None:
        super().__init__(objective)
        self.theta = theta
        self.prolong = prolong
        self.restrict = restrict
        self.restrict_matrix = restrict_matrix or self._restrict_by_rows
        self.last: tuple[Array, float, Array] | None = None
        self._linear_part = linear_part
        self._network = network

    @property
    def linear_part(self) -> slice:
        """Where the coarse coefficients lie in which the network is linear."""
        return self._linear_part

    @property
    def network(self) -> Network | None:
        """The coarse network, if it was given."""
        return self._network

    def value(self, correction: Array) -> float:
        """Evaluate f(x + P e)."""
        return self.objective.value(self.theta + self.prolong(correction))

    def value_and_gradient(self, correction: Array) -> tuple[float, Array]:
        """Evaluate f(x + P e) and its gradient P^T f'."""
        loss, gradient = self.objective.value_and_gradient(self.theta + self.prolong(correction))
        self.last = correction, loss, gradient
        return loss, self.restrict(gradient)

    def residuals(self, correction: Array) -> Array:
        """Evaluate the residuals at x + P e."""
        return self.objective.residuals(self.theta + self.prolong(correction))

    def pull_back(self, correction: Array, cotangents: Array) -> Array:
        """Multiply a vector with P^T J^T, J the Jacobian of f's residuals."""
        return self.restrict(self.objective.pull_back(self.theta + self.prolong(correction), cotangents))

    def normal_equations(self, correction: Array) -> tuple[float, Array, Array]:
        """Evaluate f(x + P e), its gradient P^T f' and the matrix P^T M P."""
        if len(self.theta) > MAX_FINE_COEFFICIENTS:
            raise KanmgValueError(
                f"the correction of a level with {len(self.theta)} coefficients would take its dense matrix, of "
                f"{8e-9 * len(self.theta) ** 2:.2g} GB. Use `kanmg.LBFGS()` on coarse levels, `variant='tau'`, or "
                "`kanmg.NestedIteration`."
            )
        loss, gradient, matrix = self.objective.normal_equations(self.theta + self.prolong(correction))
        return loss, self.restrict(gradient), self.restrict_matrix(matrix)

    def linearised(self, correction: Array) -> Linearisation:  # noqa: ARG002
        """Refuse: the correction's Jacobian is J P, of which no sparse form is known."""
        raise KanmgValueError(
            "`LevenbergMarquardt(linear_solver='cg')` cannot smooth the correction of a finer level. Use "
            "`linear_solver='cholesky'` for coarse levels, `variant='tau'`, or `kanmg.NestedIteration`."
        )

    def _restrict_by_rows(self, matrix: Array) -> Array:
        """P^T M P of a symmetric M, by P^T on all rows, twice."""
        half = stacked([self.restrict(row) for row in matrix])
        return stacked([self.restrict(column) for column in half.T])


def loss_of_zero(problem: Problem, level: Level, home: torch.device | None) -> float:
    """Evaluate the loss of zero coefficients, a measure of the problem's scale; 0 where that is refused."""
    theta = np.append(np.zeros(level.network.num_coefficients), problem.initial_parameters).astype(
        level.evaluator.dtype
    )
    try:
        return problem.loss(level.evaluator, to_device(theta, home))
    except KanmgError:
        return 0.0
