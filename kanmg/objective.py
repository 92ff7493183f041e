"""Objectives: what smoothers and a user's own optimiser minimise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kanmg.arrays import as_array, check_dtype
from kanmg.errors import KanmgError, KanmgValueError, ShapeError
from kanmg.smooth_function import SmoothFunction
from kanmg.vectors import returned, to_device

if TYPE_CHECKING:
    from kanmg.hierarchy import Level
    from kanmg.problems.base import Problem
    from kanmg.problems.linearisation import Linearisation

__all__ = ["Objective", "SmoothFunction", "loss_of_zero"]


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


def loss_of_zero(problem: Problem, level: Level, home: torch.device | None) -> float:
    """Evaluate the loss of zero coefficients, a measure of the problem's scale; 0 where that is refused."""
    theta = np.append(np.zeros(level.network.num_coefficients), problem.initial_parameters).astype(
        level.evaluator.dtype
    )
    try:
        return problem.loss(level.evaluator, to_device(theta, home))
    except KanmgError:
        return 0.0
