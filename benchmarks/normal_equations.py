"""Time of the normal equations of an equation of second order, and of one Levenberg-Marquardt step.

[2, 5, 5, 1], degree 5, float64, residual u_xx + u_yy - f at 4,000 points. J^T J is computed from the entries of the
Jacobian that are not zero (strips), from dense Jacobians, and in the way that the evaluator chooses. A step is one
gradient at a new point, the normal equations there, one Cholesky factorisation, the geodesic acceleration, and one
trial. Coefficients differ from step to step, as in training.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import kanmg
from kanmg.evaluators.base import Jet
from kanmg.evaluators.cpu import CPUEvaluator
from kanmg.evaluators.strips import StripProduct

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTHS, DEGREE, POINTS = (2, 5, 5, 1), 5, 4_000
DEMANDED_CELLS, DEMANDED_SECONDS = 20, 0.25


def laplace(x: torch.Tensor, u: Any) -> torch.Tensor:
    return u.d("x", "x") + u.d("y", "y") - torch.sin(x[:, 0])


class Case:
    """One network, one equation, and how to time it."""

    def __init__(self, cells: int, dtype: str = "float64") -> None:
        rng = np.random.default_rng(0)
        hierarchy = kanmg.uniform_hierarchy(WIDTHS, degree=DEGREE, num_intervals=cells, num_levels=1, dtype=dtype)
        self.evaluator = CPUEvaluator(hierarchy[0].network, dtype)
        self.x = rng.uniform(-1.0, 1.0, (POINTS, 2)).astype(dtype)
        term = kanmg.Term("equation", laplace, self.x)
        problem = kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=[term])
        self.objective = kanmg.Objective(problem, hierarchy[0])
        self.theta = (0.3 * rng.standard_normal(hierarchy[0].network.num_coefficients)).astype(dtype)
        self.lines = np.eye(2, dtype=dtype)
        zeros = np.zeros((2, POINTS, 1), dtype)
        self.cotangents = [Jet(zeros[0], (zeros, zeros + 1))]
        self.residuals = rng.standard_normal((POINTS, 1)).astype(dtype)
        self.square = torch.eye(len(self.theta), dtype=torch.float64)

    def product(self, *, strips: bool | None = None) -> None:
        """Compute J^T J and J^T r, in the way that is wanted."""
        chosen = StripProduct.is_faster
        try:
            if strips is not None:
                StripProduct.is_faster = strips  # type: ignore[method-assign,assignment]
            self.evaluator.jet_gauss_newton(self.theta, self.x, self.lines, self.cotangents, self.residuals)
        finally:
            StripProduct.is_faster = chosen  # type: ignore[method-assign]

    def cholesky(self) -> None:
        torch.linalg.cholesky_ex(self.square)

    def step(self) -> None:
        """Do what a step does that accepts its first trial."""
        self.theta = self.theta * (1 + 1e-6)
        objective = self.objective
        objective.value_and_gradient(self.theta)
        objective.normal_equations(self.theta)
        self.cholesky()
        ahead, back = (objective.residuals(self.theta + sign * 1e-4) for sign in (-1, 1))
        objective.pull_back(self.theta, ahead + back - 2.0 * objective.residuals(self.theta))

    def functions(self) -> dict[str, Callable[[], object]]:
        """List what is timed."""
        return {
            "strips": lambda: self.product(strips=True),
            "dense": lambda: self.product(strips=False),
            "chosen": self.product,
            "Cholesky": self.cholesky,
            "step": self.step,
        }


def main() -> int:
    arguments = harness.parse_arguments(__doc__)
    report, rows = harness.Report(), []
    for dtype in ("float64", "float32"):
        for cells in (1, 2, 4, 8, 16, DEMANDED_CELLS, 64) if dtype == "float64" else (2, 8, DEMANDED_CELLS):
            case = Case(cells, dtype)
            times = harness.interleaved_medians(case.functions(), seconds=2.0 if arguments.quick else 10.0)
            milliseconds = [f"{1e3 * times[name]:.3g}" for name in times]
            ratio = times["step"] / times["Cholesky"]
            rows.append((dtype, cells, len(case.theta), *milliseconds, f"{ratio:.1f}"))
            if (dtype, cells) == ("float64", DEMANDED_CELLS):
                report.at_most(f"{cells} cells: seconds of a step", times["step"], DEMANDED_SECONDS)
    print("J^T J of u_xx + u_yy - f for [2,5,5,1], degree 5, 4,000 points, in milliseconds\n")
    header = ("dtype", "cells", "coefficients", "strips", "dense", "chosen", "Cholesky", "step", "step / Cholesky")
    harness.print_table(header, rows)
    return report.finish(strict=arguments.strict)


if __name__ == "__main__":
    raise SystemExit(main())
