"""A hierarchy by hand, with knots where the function needs them, and SciPy's optimiser instead of kanmg's smoothers."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

import kanmg


def function(x: np.ndarray) -> np.ndarray:
    """Return a step of width 0.02 at 0.3 on top of a slow wave, shape (N, 1)."""
    return np.tanh((x - 0.3) / 0.02) + 0.5 * np.sin(3 * x)


def main() -> list[float]:
    """Return the root mean square error on unseen points at the end of each level."""
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (4000, 1))
    problem = kanmg.Regression(x, function(x))

    breakpoints = np.concatenate([np.linspace(-1.0, 0.2, 5), np.linspace(0.24, 0.36, 7), np.linspace(0.4, 1.0, 4)])
    knots = kanmg.knots_from_breakpoints(breakpoints, degree=3)
    network = kanmg.Network([kanmg.Spline(1, 1, knots=knots)])
    hierarchy = kanmg.Hierarchy.from_network(network, num_levels=3)
    print(hierarchy, end="\n\n")

    theta = kanmg.initial_coefficients(network, x, seed=0)
    unseen = np.linspace(-1.0, 1.0, 2001)[:, None]
    errors = []
    for level in hierarchy:
        if level.index > 0:
            theta = hierarchy.prolong(theta, level.index - 1, level.index)
        objective = kanmg.Objective(problem, level)
        theta = minimize(objective.value_and_gradient, theta, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
        errors.append(float(np.sqrt(np.mean((level.evaluator.value(theta, unseen) - function(unseen)) ** 2))))
        print(f"level {level.index}: {objective.evaluations} evaluations, root mean square error {errors[-1]:.1e}")
    return errors


if __name__ == "__main__":
    main()
