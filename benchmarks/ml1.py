"""ML-1 regression: multilevel training against the coarse and the fine level alone, beside the paper's table.

Target, samples and the choices that the paper leaves open: `kanmg.gallery.ml1`. Network [2, 5, 1] with an affine lift,
cubic, 5 cells on the coarsest of 4 levels, hidden values clamped to their intervals, L-BFGS. One epoch is 20
iterations. Seed s draws the samples and the initial coefficients. Errors: mean squared error on 10,000 unseen points.

one start      {32, 16, 8, 4} epochs on the levels, all samples: the paper's multilevel schedule
eight starts   on the coarsest level with an eighth of the samples, 32 epochs each; the one of the lowest loss on
               all of them goes on with {16, 8, 20} epochs on a quarter, a half and all: as much work as the one start
coarse, fine   one level alone: for the work of the one start; (fine) in four starts for the same work together, of
               which the one of the lowest training loss counts; for the epochs of the paper
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import kanmg
from kanmg import gallery

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ITERATIONS_PER_EPOCH = 20
MULTILEVEL, REFINED, COARSE_EPOCHS, FINE_EPOCHS = (32, 16, 8, 4), (0, 16, 8, 20), 128, 16
STARTS, FINE_STARTS = 8, 4
COARSE_FRACTION = 0.5
PAPER = {"multilevel": (3.67e-5, 7.2e-5), "coarse": (1.65e-3, 4.2e-5), "fine": (2.54e-3, 5.6e-3)}
RATIO = 10.0


class Run(NamedTuple):
    """What a strategy reached from one seed, and what it cost in work units of the finest level."""

    error: float
    work: float
    seconds: float


def multilevel(model: gallery.ModelProblem, seed: int) -> Run:
    """Run the paper's schedule."""
    return _run(model, [_solve(model, model.hierarchy(), MULTILEVEL, seed)])


def eight_starts(model: gallery.ModelProblem, seed: int) -> Run:
    """Choose among several starts on the coarsest level, where few samples do."""
    starts = kanmg.Starts(STARTS, steps=ITERATIONS_PER_EPOCH * MULTILEVEL[0], fraction=COARSE_FRACTION**3)
    return _run(model, [_solve(model, model.hierarchy(), REFINED, seed, fraction=COARSE_FRACTION, starts=starts)])


def single_level(model: gallery.ModelProblem, level: int, seed: int, work: float, num_starts: int = 1) -> Run:
    """Spend some work on one level, in one or several starts."""
    hierarchy = kanmg.Hierarchy([model.hierarchy()[level].network])

    def stop(record: kanmg.Record) -> None:
        if record.work_units * _unit(model, hierarchy) >= work / num_starts:
            raise StopIteration

    epochs = (int(work),)
    seeds = range(num_starts * seed, num_starts * (seed + 1))
    return _run(model, [_solve(model, hierarchy, epochs, start, callback=stop) for start in seeds])


def paper_epochs(model: gallery.ModelProblem, level: int, epochs: int, seed: int) -> Run:
    """Spend the epochs of the paper on one level."""
    hierarchy = kanmg.Hierarchy([model.hierarchy()[level].network])
    return _run(model, [_solve(model, hierarchy, (epochs,), seed)])


def _solve(
    model: gallery.ModelProblem,
    hierarchy: kanmg.Hierarchy,
    epochs: Sequence[int],
    seed: int,
    *,
    fraction: float = 1.0,
    starts: int | kanmg.Starts = 1,
    callback: Callable[[kanmg.Record], object] | None = None,
) -> kanmg.Solution:
    steps = tuple(ITERATIONS_PER_EPOCH * number for number in epochs)
    method = kanmg.NestedIteration(kanmg.LBFGS(), steps=steps, coarse_fraction=fraction, starts=starts)
    return kanmg.solve(model.problem, hierarchy, method=method, seed=seed, callback=callback, progress=False)


def _run(model: gallery.ModelProblem, solutions: list[kanmg.Solution]) -> Run:
    """Sum up the costs; the solution is the one of the lowest loss."""
    work = sum(solution.work_units * _unit(model, solution.hierarchy) for solution in solutions)
    best = min(solutions, key=lambda solution: solution.loss)
    return Run(model.mean_squared_error(best), work, sum(solution.seconds for solution in solutions))


def _unit(model: gallery.ModelProblem, hierarchy: kanmg.Hierarchy) -> float:
    """One work unit of a hierarchy in those of the full one."""
    return hierarchy[-1].evaluator.cost_per_sample / model.hierarchy()[-1].evaluator.cost_per_sample


def experiment(num_seeds: int, num_samples: int) -> dict[str, list[Run]]:
    """Return the runs of every strategy, one per seed."""
    runs: dict[str, list[Run]] = {}
    for seed in range(num_seeds):
        model = gallery.ml1(num_samples, seed=seed)
        one_start = multilevel(model, seed)
        strategies = {
            "multilevel, one start": one_start,
            "multilevel, eight starts": eight_starts(model, seed),
            "coarse, same work": single_level(model, 0, seed, one_start.work),
            "fine, same work": single_level(model, -1, seed, one_start.work),
            "fine, four starts": single_level(model, -1, seed, one_start.work, FINE_STARTS),
            "coarse, paper's epochs": paper_epochs(model, 0, COARSE_EPOCHS, seed),
            "fine, paper's epochs": paper_epochs(model, -1, FINE_EPOCHS, seed),
        }
        for name, run in strategies.items():
            runs.setdefault(name, []).append(run)
    return runs


def print_runs(runs: dict[str, list[Run]]) -> None:
    """Print one row per strategy, beside the paper's numbers."""
    rows = []
    for name, of_strategy in runs.items():
        errors, work, seconds = np.array(of_strategy).T
        mean, deviation = PAPER[name.split(",")[0]]
        numbers = (f"{errors.mean():.2e} ({errors.std():.1e})", f"{np.median(errors):.2e}", f"{errors.max():.2e}")
        paper = f"{mean:.2e} ({deviation:.1e})"
        rows.append([name, *numbers, paper, f"{work.mean():.0f}", f"{seconds.mean():.1f}"])
    print("ML-1, mean squared error on unseen points: mean (standard deviation) over the seeds\n")
    harness.print_table(("strategy", "MSE", "median", "worst", "paper", "work units", "seconds"), rows)


def main() -> int:
    arguments = harness.parse_arguments(__doc__)
    runs = experiment(2 if arguments.quick else 5, 20_000)
    print_runs(runs)
    report = harness.Report()
    means = {name: float(np.mean([run.error for run in of_strategy])) for name, of_strategy in runs.items()}
    for name in ("multilevel, one start", "multilevel, eight starts"):
        report.at_most(f"{name}: mean MSE", means[name], PAPER["multilevel"][0])
        for level in ("coarse", "fine"):
            ratio = means[f"{level}, same work"] / means[name]
            report.at_least(f"{name}: times below the {level} level alone at the same work", ratio, RATIO)
    return report.finish(strict=arguments.strict)


if __name__ == "__main__":
    raise SystemExit(main())
