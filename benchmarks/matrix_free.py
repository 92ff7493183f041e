"""Levenberg-Marquardt without the normal equations: preconditioners, and loss and error against time.

First the systems of one state of KAN-2 (Poisson's equation): iterations and seconds, set-up included, until the
preconditioned residual has fallen by 100. Then the finest level of [2,20,20,1] alone, for equal time: all methods begin
with the same coefficients, those of L-BFGS on 4 cells, prolonged. Errors are relative L2 errors on unseen points.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import dataclasses
import time

import numpy as np

import kanmg
from kanmg import gallery
from kanmg.smoothers.conjugate_gradients import conjugate_gradients
from kanmg.smoothers.preconditioners import KINDS, Preconditioners

WIDTHS, DEGREE, COARSE_CELLS, COARSE_STEPS = (2, 20, 20, 1), 3, 4, 60
POINTS = 6000
RTOL, MAX_ITERATIONS = 1e-2, 600
DAMPINGS = (1e-2, 1e-4, 1e-6)
METHODS = {
    "LM-CG": kanmg.LevenbergMarquardt(linear_solver="cg", acceleration=False),
    "L-BFGS": kanmg.LBFGS(),
    "Adam": kanmg.Adam(step_size=1e-3),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem, a start on its finest level, and how to measure a solution."""

    model: gallery.ModelProblem
    hierarchy: kanmg.Hierarchy
    start: np.ndarray


def make_models(points: int) -> dict[str, gallery.ModelProblem]:
    return {"KAN-2": gallery.kan2(num_interior=points), "kink": gallery.kink(points)}


def make_case(model: gallery.ModelProblem, cells: int) -> Case:
    """Prolong what L-BFGS reaches on few cells."""
    levels = 1 + int(np.log2(cells // COARSE_CELLS))
    options = {"widths": WIDTHS, "degree": DEGREE, "num_intervals": COARSE_CELLS}
    coarse = model.hierarchy(**options, num_levels=1)
    method = kanmg.NestedIteration(kanmg.LBFGS(), steps=COARSE_STEPS)
    solution = kanmg.solve(model.problem, coarse, method=method, progress=False, throw=False)
    hierarchy = model.hierarchy(**options, num_levels=levels)
    return Case(model, hierarchy, hierarchy.prolong(solution.coefficients, 0, levels - 1))


def systems(case: Case) -> list[tuple[object, ...]]:
    """Count iterations and seconds of every preconditioner and damping."""
    objective = kanmg.Objective(case.model.problem, case.hierarchy[-1])
    gradient = objective.value_and_gradient(case.start)[1]
    jacobian = objective.linearised(case.start)
    diagonal = 2.0 * jacobian.diagonal()
    scale = np.maximum(diagonal, 1e-14 * diagonal.max())
    rows = []
    for kind in KINDS:
        row: list[object] = [kind]
        for damping in DAMPINGS:
            begin = time.perf_counter()
            operators = Preconditioners(jacobian, scale)
            solved = conjugate_gradients(
                lambda vector, own=operators, mu=damping: own.multiply(vector, mu),
                -gradient,
                operators.make(kind, damping),
                rtol=RTOL,
                max_iterations=MAX_ITERATIONS,
            )
            seconds = time.perf_counter() - begin
            row.append(f"{'' if solved.converged else '> '}{solved.iterations}, {seconds:.1f} s")
            print(kind, damping, row[-1], flush=True)
        rows.append(tuple(row))
    return rows


def race(case: Case, seconds: float) -> list[tuple[str, ...]]:
    """Loss and error of every method at a half of the time, and at its end."""
    rows = []
    for name, smoother in METHODS.items():
        losses: list[tuple[float, float]] = []

        def watch(record: kanmg.Record, seen: list[tuple[float, float]] = losses) -> None:
            seen.append((record.seconds, record.loss))
            if record.seconds > seconds:
                raise StopIteration

        method = kanmg.NestedIteration(smoother, steps=1_000_000)
        solution = kanmg.solve(
            case.model.problem,
            case.hierarchy,
            method=method,
            initial=case.start,
            progress=False,
            throw=False,
            callback=watch,
        )
        half = [loss for at, loss in losses if at <= seconds / 2]
        error = case.model.relative_error(solution)
        rows.append(
            (
                name,
                f"{min(half):.1e}",
                f"{solution.loss:.1e}",
                f"{error:.1e}",
                str(len(losses)),
                f"{solution.seconds:.0f}",
            )
        )
        print(rows[-1], flush=True)
    return rows


def main() -> int:
    arguments = harness.parse_arguments(
        __doc__,
        ("--seconds", {"type": float, "default": 30.0, "help": "of every method"}),
        ("--points", {"type": int, "default": POINTS, "help": "of every problem"}),
        ("--cells", {"type": int, "action": "append", "default": [], "help": "of the finest level: 16 and 64"}),
        ("--part", {"choices": ["systems", "race"], "default": None, "help": "only one of the two parts"}),
    )
    table, results = [], []
    for name, model in make_models(arguments.points).items():
        for cells in arguments.cells or ((16,) if arguments.quick else (16, 64)):
            case = make_case(model, cells)
            size = case.hierarchy[-1].network.num_coefficients
            if arguments.part != "race" and name == "KAN-2" and not table:
                table = systems(case)
            if arguments.part != "systems":
                results += [(name, str(size), *row) for row in race(case, arguments.seconds)]
    print("\nIterations and seconds of one system\n")
    harness.print_table(("preconditioner", *(f"mu = {damping:g}" for damping in DAMPINGS)), table)
    print(f"\n{arguments.seconds:g} s on the finest level\n")
    harness.print_table(
        ("problem", "coefficients", "method", "loss at half time", "loss", "error", "steps", "seconds"), results
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
