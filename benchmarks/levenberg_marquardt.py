"""Levenberg-Marquardt against L-BFGS at the same seconds: nested iteration on the gallery's regression problems.

Both begin with the same number of starts on the coarsest level. Steps per level are fixed for Levenberg-Marquardt;
those of L-BFGS are the number that takes as many seconds. Seed s draws the samples and the initial coefficients.
Errors: root mean square on unseen points.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import statistics
import time
from typing import TYPE_CHECKING, NamedTuple

import kanmg
from kanmg import gallery

if TYPE_CHECKING:
    from collections.abc import Callable

    from kanmg.smoothers.base import Smoother

SEEDS = 5
TRIAL_STEPS = 100


class Row(NamedTuple):
    """One problem, one hierarchy, and what Levenberg-Marquardt spends on it."""

    name: str
    make: Callable[[int], gallery.ModelProblem]
    changes: dict[str, object]
    starts: int
    start_steps: int
    steps: int


def kan1(seed: int) -> gallery.ModelProblem:
    return gallery.kan1(seed=seed)


def franke(seed: int) -> gallery.ModelProblem:
    return gallery.franke(seed=seed)


def friedman(seed: int) -> gallery.ModelProblem:
    return gallery.friedman(seed=seed)


ROWS = [
    *(
        Row(
            f"KAN-1 [2,1,1], degree {degree}, 2 to 64 cells",
            kan1,
            {"widths": (2, 1, 1), "degree": degree, "num_intervals": 2, "num_levels": 6},
            *(16, 30, 60),
        )
        for degree in (3, 5, 7)
    ),
    Row(
        "KAN-1 [2,5,1], degree 5, 2 to 16 cells",
        kan1,
        {"widths": (2, 5, 1), "degree": 5, "num_intervals": 2, "num_levels": 4},
        *(8, 40, 80),
    ),
    Row(
        "Franke [2,5,1], degree 5, 2 to 8 cells",
        franke,
        {"degree": 5, "num_intervals": 2, "num_levels": 3},
        *(8, 40, 80),
    ),
    Row(
        "Franke [2,3,3,1], degree 5, 2 to 8 cells",
        franke,
        {"widths": (2, 3, 3, 1), "degree": 5, "num_intervals": 2, "num_levels": 3},
        *(8, 40, 80),
    ),
    Row("Friedman [10,4,1], degree 3, 2 to 8 cells", friedman, {}, *(4, 40, 40)),
]


class Run(NamedTuple):
    """What one run ended with."""

    error: float
    loss: float
    seconds: float


def train(row: Row, seed: int, smoother: Smoother, start_steps: int, steps: int) -> Run:
    """Train once."""
    model = row.make(seed)
    hierarchy = model.hierarchy(**row.changes)
    method = kanmg.NestedIteration(smoother, steps=steps, starts=kanmg.Starts(row.starts, steps=start_steps))
    begin = time.perf_counter()
    solution = kanmg.solve(model.problem, hierarchy, method=method, seed=seed, progress=False)
    return Run(model.rms_error(solution), solution.loss, time.perf_counter() - begin)


def train_with_lbfgs(row: Row, seed: int, seconds: float) -> Run:
    """Train with as many L-BFGS steps as take so many seconds."""
    part = row.start_steps / row.steps
    trial = train(row, seed, kanmg.LBFGS(), round(part * TRIAL_STEPS), TRIAL_STEPS)
    steps = max(TRIAL_STEPS // 2, round(TRIAL_STEPS * seconds / trial.seconds))
    return train(row, seed, kanmg.LBFGS(), round(part * steps), steps)


def main() -> int:
    arguments = harness.parse_arguments(__doc__)
    seeds = range(2 if arguments.quick else SEEDS)
    table = []
    for row in ROWS:
        train(row, 0, kanmg.LevenbergMarquardt(), 1, 1)  # compiles or loads the kernels
        own, plain, lbfgs = [], [], []
        for seed in seeds:
            own.append(train(row, seed, kanmg.LevenbergMarquardt(), row.start_steps, row.steps))
            smoother = kanmg.LevenbergMarquardt(acceleration=False)
            plain.append(train(row, seed, smoother, row.start_steps, row.steps))
            lbfgs.append(train_with_lbfgs(row, seed, own[-1].seconds))
        size = row.make(0).hierarchy(**row.changes)[-1].network.num_coefficients
        for name, runs in (("accelerated", own), ("not accelerated", plain), ("L-BFGS", lbfgs)):
            errors = [run.error for run in runs]
            losses, seconds = (statistics.median(run[i] for run in runs) for i in (1, 2))
            numbers = f"{statistics.median(errors):.1e}", f"{max(errors):.1e}", f"{losses:.1e}", f"{seconds:.1f}"
            table.append((row.name, size, name, *numbers))
            print(table[-1], flush=True)
    header = ("problem", "coefficients", "smoother", "median error", "worst", "median loss", "seconds")
    harness.print_table(header, table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
