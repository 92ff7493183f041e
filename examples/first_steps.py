"""Fit samples of a function: build a hierarchy, state the problem, solve, use the solution."""

from __future__ import annotations

import numpy as np

import kanmg


def function(x: np.ndarray) -> np.ndarray:
    """Return what is to be learnt, shape (N, 1)."""
    return np.exp(-4 * (x[:, :1] ** 2 + x[:, 1:] ** 2)) * np.cos(3 * x[:, :1] - x[:, 1:])


def main() -> tuple[float, float]:
    """Return the root mean square errors of the values and of a derivative on unseen points."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 1.0, (2000, 2))
    problem = kanmg.Regression(x, function(x))

    hierarchy = kanmg.uniform_hierarchy(widths=(2, 5, 1), degree=3, num_intervals=4, num_levels=4, domain=(-1.0, 1.0))
    print(hierarchy, end="\n\n")

    solution = kanmg.solve(problem, hierarchy)
    print(solution, end="\n\n")

    unseen, h = rng.uniform(-1.0, 1.0, (1000, 2)), np.array([1e-6, 0.0])
    value_error = rms(solution(unseen) - function(unseen))
    slope = (function(unseen + h) - function(unseen - h)) / (2 * h[0])
    slope_error = rms(solution.derivative(unseen, 0) - slope)
    print(f"root mean square error of the values {value_error:.1e}, of the derivative by x {slope_error:.1e}")
    return value_error, slope_error


def rms(residuals: np.ndarray) -> float:
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(residuals**2)))


if __name__ == "__main__":
    main()
