"""Variable projection: the coefficients in which a network is linear, solved for exactly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kanmg.smoothers.damped_equations import DampedEquations, as_array_like
from kanmg.vectors import norm

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array
    from kanmg.objective import SmoothFunction

__all__ = ["project"]

# Damping, relative to the diagonal: directions that the residuals hardly see stay, the others are solved for.
RIDGE = 1e-8

# Coefficients that grow so many times at once answer to cancellation, not to the problem.
LARGEST_GROWTH = 100.0


def project(objective: SmoothFunction, theta: Array) -> tuple[Array, float, Array]:
    """Solve for the coefficients in which the network is linear, all others being kept.

    What is returned has no higher loss than `theta`: where the solution does, which takes residuals that are not
    linear in the network's values, or where it is absurdly long, `theta` is left as it is.

    Parameters
    ----------
    objective : Objective
        A sum of squares.
    theta : ndarray, shape (num_coefficients,)

    Returns
    -------
    theta : ndarray, shape (num_coefficients,)
    loss : float
    gradient : ndarray, shape (num_coefficients,)
        Loss and gradient there.

    Notes
    -----
    One Gauss-Newton step of these coefficients alone, at the cost of one matrix and one gradient. Residuals that are
    affine in the network's values, those of regressions and of linear equations with linear conditions, are affine in
    the last layer's coefficients too, so that the step ends at their minimum. Combinations of coefficients that change
    the residuals less than a small ridge would are not solved for: a step leaves them nearly as they are.
    """
    part = objective.linear_part
    if len(theta[part]) == 0:
        return theta, *objective.value_and_gradient(theta)
    loss, gradient, matrix = objective.normal_equations(theta)
    kept = theta, loss, gradient
    if not math.isfinite(loss) or not 0.0 < norm(gradient[part]) < math.inf:
        return kept
    equations = DampedEquations(matrix[part, part], gradient[part], None)
    change = equations.solve(equations.downhill, RIDGE)
    if change is None:
        return kept
    moved = theta + 0.0
    moved[part] += as_array_like(change, theta)
    if 0.0 < LARGEST_GROWTH * norm(theta[part]) < norm(moved[part]):
        return kept
    solved = moved, *objective.value_and_gradient(moved)
    return solved if solved[1] <= loss and math.isfinite(norm(solved[2])) else kept
