"""Cycles compared at equal work: nested iteration, V- and W-cycles, full multigrid, with Adam and with L-BFGS.

On ML-1 and KAN-1, from the same initial coefficients on the coarsest level, every method runs until it has spent the
same number of work units; what remains of nested iteration's budget goes into the finest level. Measured is the lowest
error on unseen points so far (validation is not counted as work), median of five seeds, over work units. `--write` puts
the figure and the table into docs/figures.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import kanmg
from kanmg import gallery

if TYPE_CHECKING:
    from collections.abc import Callable

FIGURES = harness.ROOT / "docs" / "figures"
TEST_SAMPLES = 2000
UNLIMITED = 100_000


@dataclass(frozen=True)
class Experiment:
    """A problem and what may be spent on it."""

    make: Callable[..., gallery.ModelProblem]
    num_samples: int
    budget: dict[str, int]
    """Work units by smoother."""


EXPERIMENTS = {
    "ML-1": Experiment(gallery.ml1, 20_000, {"L-BFGS": 1000, "Adam": 1000}),
    "KAN-1": Experiment(gallery.kan1, 1_000, {"L-BFGS": 1000, "Adam": 4000}),
}
SMOOTHERS = {"L-BFGS": kanmg.LBFGS(), "Adam": kanmg.Adam(step_size=1e-2)}


def methods(smoother: kanmg.Smoother, budget: int, num_levels: int) -> dict[str, kanmg.Cycle]:
    """Return the cycles that are compared; their steps follow from the budget."""
    per_level = budget // (2 * num_levels)
    coarse, fine = max(1, budget // 20), max(1, budget // 100)
    options = {"smoother": smoother, "coarse_steps": coarse, "pre_steps": fine, "post_steps": fine}
    tau, galerkin = {"variant": "tau", **options}, {"variant": "galerkin", **options}
    return {
        "nested": kanmg.NestedIteration(smoother, steps=per_level),
        "nested, half samples": kanmg.NestedIteration(smoother, steps=per_level, coarse_fraction=0.5),
        "V, tau": kanmg.VCycle(**tau),
        "V, Galerkin": kanmg.VCycle(**galerkin),
        "W, Galerkin": kanmg.VCycle(**galerkin, gamma=2),
        "FMG, tau": kanmg.FullMultigrid(**tau),
        "FMG, Galerkin": kanmg.FullMultigrid(**galerkin),
        "FMG, Galerkin, half samples": kanmg.FullMultigrid(**galerkin, coarse_fraction=0.5),
    }


@dataclass(frozen=True)
class Curve:
    """Lowest test error so far (RMSE) over work units."""

    work: np.ndarray
    error: np.ndarray

    def at(self, work: np.ndarray) -> np.ndarray:
        """Error when so much work has been done."""
        position = np.searchsorted(self.work, work, side="right") - 1
        return np.where(position >= 0, self.error[np.maximum(position, 0)], np.nan)


def run(experiment: Experiment, cycle: kanmg.Cycle, budget: float, seed: int) -> Curve:
    """Train until the budget is spent."""
    model = experiment.make(experiment.num_samples, seed=seed)
    problem = kanmg.Regression(model.x, model.y, validation=model.test_data(TEST_SAMPLES), seed=seed)

    def stop(record: kanmg.Record) -> None:
        if record.work_units >= budget:
            raise StopIteration

    solution = kanmg.solve(
        problem,
        model.hierarchy(),
        method=cycle,
        seed=seed,
        max_cycles=UNLIMITED,
        callback=stop,
        progress=False,
        throw=False,
    )
    work, losses = solution.history.column("work_units"), solution.history.column("validation_loss")
    known = np.isfinite(losses)
    return Curve(work[known], np.sqrt(np.minimum.accumulate(losses[known])))


def compare(experiment: Experiment, smoother: str, seeds: range, grid: np.ndarray) -> dict[str, np.ndarray]:
    """Median over the seeds of the lowest error so far at the work units of `grid`, by method."""
    budget = experiment.budget[smoother]
    num_levels = len(experiment.make(1).hierarchy())
    return {
        name: np.median([run(experiment, cycle, budget, seed).at(grid) for seed in seeds], axis=0)
        for name, cycle in methods(SMOOTHERS[smoother], budget, num_levels).items()
    }


def draw(results: dict[tuple[str, str], tuple[np.ndarray, dict[str, np.ndarray]]]) -> None:
    """Draw one panel per problem and smoother."""
    import matplotlib as mpl  # noqa: PLC0415  (only with --write)

    mpl.use("agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    rows, columns = list(EXPERIMENTS), list(SMOOTHERS)
    figure, axes = plt.subplots(len(rows), len(columns), figsize=(9, 6.5), layout="constrained", squeeze=False)
    for (problem, smoother), (grid, curves) in results.items():
        ax = axes[rows.index(problem), columns.index(smoother)]
        for name, errors in curves.items():
            ax.loglog(grid, errors, label=name, linewidth=2.0 if name == "nested" else 1.2)
        ax.set(title=f"{problem}, {smoother}", xlabel="work units", ylabel="lowest test RMSE so far")
        ax.grid(visible=True, alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / "cycles.png", dpi=110)


def main() -> int:
    arguments = harness.parse_arguments(__doc__, ("--write", {"action": "store_true", "help": "write docs/figures"}))
    seeds = range(1 if arguments.quick else 5)
    results, rows = {}, []
    marks = np.array([0.02, 0.1, 0.25, 0.5, 1.0])
    for problem, experiment in EXPERIMENTS.items():
        for smoother, budget in experiment.budget.items():
            spent = budget // 5 if arguments.quick else budget
            shortened = Experiment(experiment.make, experiment.num_samples, {smoother: spent})
            grid = np.concatenate([np.geomspace(5, spent, 60), spent * marks])
            curves = compare(shortened, smoother, seeds, grid)
            results[problem, smoother] = grid[:60], {name: errors[:60] for name, errors in curves.items()}
            for name, errors in curves.items():
                rows.append([problem, smoother, name, spent, *(f"{error:.1e}" for error in errors[60:])])
    header = ("problem", "smoother", "method", "budget", *(f"{mark:.0%}" for mark in marks))
    print(f"Lowest test RMSE after a part of the budget (work units), median of {len(seeds)} seeds\n")
    table = harness.print_table(header, rows)
    if arguments.write:
        draw(results)
        (FIGURES / "cycles.txt").write_text(table + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
