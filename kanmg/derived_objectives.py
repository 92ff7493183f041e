"""Objectives made from another one: shifted by a linear term (tau), or of a correction (Galerkin)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kanmg.errors import KanmgValueError
from kanmg.vectors import stacked

if TYPE_CHECKING:
    from collections.abc import Callable

    from kanmg.evaluators.base import Array
    from kanmg.network import Network
    from kanmg.problems.linearisation import Linearisation
    from kanmg.smooth_function import SmoothFunction

__all__ = ["DerivedObjective", "GalerkinObjective", "ShiftedObjective"]

# The matrix of a correction is restricted from the finer level's, of 8 n^2 bytes: at most 1.2 GB.
MAX_FINE_COEFFICIENTS = 12_000


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
