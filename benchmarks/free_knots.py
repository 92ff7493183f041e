"""Free knots against fixed ones: errors at unseen points, at equal parameters and work, over seeds.

The seed changes samples and starts. Errors are relative, in L2. "Fixed" is the uniform hierarchy whose finest level has
at least as many coefficients as the one with free knots has, logits counted; where `choose_knots` returns fixed knots,
whose logits are none, it has at least as many as these. It is solved from as many seeds as the work of `choose_knots`,
all of its runs, pays for, rounded (a single layer has one minimum), and that with the lowest loss at held-back samples
counts, of equations that with the lowest loss.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import kanmg

if TYPE_CHECKING:
    from collections.abc import Callable

EPSILON = 0.01


@dataclass(frozen=True)
class Target:
    """A function to be learned from samples, or from an equation that it solves."""

    function: Callable[[Any], Any]
    widths: tuple[int, ...]
    degree: int = 3
    samples: int = 2000
    seeds: int = 5
    domain: tuple[float, float] = (-1.0, 1.0)
    is_equation: bool = False
    num_levels: int = 4
    is_smooth: bool = False

    def problem(self, seed: int) -> kanmg.Problem:
        """Draw samples; the points of equations are equidistant."""
        if self.is_equation:
            return layer_equation(self.samples)
        x = self.points(self.samples, seed)
        return kanmg.Regression(x, self.function(x))

    def points(self, number: int, seed: int) -> Any:
        return np.random.default_rng(seed).uniform(*self.domain, (number, self.widths[0]))

    def hierarchy(self, num_intervals: int, *, free_knots: bool) -> kanmg.Hierarchy:
        return kanmg.uniform_hierarchy(
            self.widths,
            degree=self.degree,
            num_intervals=num_intervals,
            num_levels=self.num_levels,
            domain=self.domain,
            free_knots=free_knots,
        )

    def error(self, solution: kanmg.Solution, part: float = 1.0) -> float:
        """Return the relative error at unseen points, without the part of the points where it is largest."""
        x = self.points(20_000, 10**6)
        exact = self.function(x)
        errors = np.sort(np.abs(solution(x)[:, 0] - exact))[: int(part * len(x))]
        return float(np.linalg.norm(errors) / np.linalg.norm(exact))


def layer(x: Any) -> Any:
    """Evaluate a boundary layer at the left end of (0, 1)."""
    return (1.0 - np.exp(-x[:, 0] / EPSILON)) / (1.0 - np.exp(-1.0 / EPSILON))


def layer_equation(number: int) -> kanmg.Collocation:
    """State eps u'' + u' = 0, u(0) = 0, u(1) = 1, whose solution is `layer`."""
    ends = np.array([[0.0], [1.0]])
    return kanmg.Collocation(
        coordinates=("x",),
        fields=("u",),
        terms=[
            kanmg.Term("equation", lambda _, u: EPSILON * u.d("x", "x") + u.d("x"), np.linspace(0, 1, number)[:, None]),
            kanmg.Term("ends", lambda x, u: u.value - x[:, 0], ends, weight=10.0),
        ],
    )


TARGETS = {
    "tanh(50 (x - 0.2))": Target(lambda x: np.tanh(50 * (x[:, 0] - 0.2)), (1, 1)),
    "abs(x - 0.3) + 0.3 sin 2 x": Target(lambda x: np.abs(x[:, 0] - 0.3) + 0.3 * np.sin(2 * x[:, 0]), (1, 1)),
    "abs(x + y / 2 - 0.3) + y^2": Target(
        lambda x: np.abs(x[:, 0] + 0.5 * x[:, 1] - 0.3) + x[:, 1] ** 2, (2, 5, 1), samples=5000, num_levels=3
    ),
    "boundary layer, samples": Target(layer, (1, 1), domain=(0.0, 1.0)),
    "boundary layer, equation": Target(
        layer, (1, 1), degree=5, samples=1001, domain=(0.0, 1.0), is_equation=True, seeds=3
    ),
    "sin pi x": Target(lambda x: np.sin(np.pi * x[:, 0]), (1, 1), is_smooth=True),
    "exp x cos 5 x": Target(lambda x: np.exp(x[:, 0]) * np.cos(5 * x[:, 0]), (1, 1), is_smooth=True),
    "KAN-1": Target(lambda x: np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2), (2, 5, 1), num_levels=3, is_smooth=True),
    "exp x y": Target(lambda x: np.exp(x[:, 0] * x[:, 1]), (2, 5, 1), num_levels=3, is_smooth=True),
    "cos(3 x + y) sin 2 y": Target(
        lambda x: np.cos(3 * x[:, 0] + x[:, 1]) * np.sin(2 * x[:, 1]), (2, 5, 1), num_levels=3, is_smooth=True
    ),
}


def judged(problem: kanmg.Problem, solution: kanmg.Solution) -> float:
    level = solution.hierarchy[solution.level]
    held_back = problem.validation_loss(level.evaluator, solution.coefficients)
    return solution.loss if held_back is None else held_back


def compare(target: Target, seed: int) -> tuple[float, float, kanmg.Solution, kanmg.Solution]:
    """Return errors and solutions: of fixed knots at equal parameters and work, and of what `choose_knots` returns."""
    problem, free = target.problem(seed), target.hierarchy(5, free_knots=True)
    problem = problem.holding_back(kanmg.default_method(problem, free).hold_back)
    chosen = kanmg.choose_knots(problem, free, seed=seed, throw=False, progress=False)
    size = chosen.hierarchy[-1].network.num_coefficients
    wide = next(
        hierarchy
        for num_intervals in range(5, 20)
        if (hierarchy := target.hierarchy(num_intervals, free_knots=False))[-1].network.num_coefficients >= size
    )
    work, runs = 0.0, []
    # As many runs as have the same work, to the nearest number.
    while not runs or (len(target.widths) > 2 and work * (1 + 0.5 / len(runs)) < chosen.work_units):
        runs.append(kanmg.solve(problem, wide, seed=seed + 1000 * len(runs), throw=False, progress=False))
        work += runs[-1].work_units
    fixed = min(runs, key=lambda run: judged(problem, run))
    return target.error(fixed), target.error(chosen), fixed, chosen


def main() -> int:
    arguments = harness.parse_arguments(__doc__, harness.ONLY)
    table, failed = [], False
    for name, target in TARGETS.items():
        if not harness.is_chosen(name, arguments.only):
            continue
        errors, kept = [], 0
        for seed in range(1 if arguments.quick else target.seeds):
            fixed_error, error, fixed, chosen = compare(target, seed)
            errors.append((fixed_error, error))
            is_free = chosen.hierarchy[0].network.num_logits > 0
            kept += is_free
            print(
                f"{name}, seed {seed}: {fixed_error:.1e} ({fixed.hierarchy[-1].network.num_coefficients} coefficients, "
                f"{fixed.work_units:.0f} work units) and {error:.1e} ({chosen.hierarchy[-1].network.num_coefficients}, "
                f"{chosen.work_units:.0f}), {'free' if is_free else 'fixed'} knots kept, {chosen.seconds:.1f} s; "
                f"without the worst hundredth of the points {target.error(fixed, 0.99):.1e} and "
                f"{target.error(chosen, 0.99):.1e}"
            )
            print(f"    {chosen.message.splitlines()[-1]}", flush=True)
        (fixed_error, error), worst = np.median(errors, axis=0), max(own / other for other, own in errors)
        demand = 1.2 if target.is_smooth else 0.1
        failed |= error > demand * fixed_error
        verdict = "PASS" if error <= demand * fixed_error else "FAIL"
        row = (f"{fixed_error:.1e}", f"{error:.1e}", f"{error / fixed_error:.2g}", f"{worst:.2g}")
        table.append((name, str(target.widths), len(errors), kept, *row, f"{demand:g}", verdict))
    print("\nRelative L2 error at unseen points, medians of the seeds\n")
    head = ("target", "widths", "seeds", "kept free", "fixed", "chosen", "ratio", "worst ratio", "demand", "")
    harness.print_table(head, table)
    return int(failed and arguments.strict)


if __name__ == "__main__":
    torch.set_num_threads(harness.NUM_THREADS)
    raise SystemExit(main())
