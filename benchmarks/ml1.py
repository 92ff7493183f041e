"""ML-1 regression: multilevel training against the coarse and the fine level alone, beside the paper's table.

Target, samples and the choices that the paper leaves open: `kanmg.gallery.ml1`. Network [2, 5, 1] with an affine lift,
cubic, 5 cells on the coarsest of 4 levels, L-BFGS. One epoch is 20 iterations; {32, 16, 8, 4} epochs on the levels.
Seed s draws the samples and the initial coefficients. The coarse and the fine level alone get (a) the work units of the
multilevel run and (b) the epochs of the paper. Errors: mean squared error on 10,000 unseen points.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import numpy as np

import kanmg
from kanmg import gallery

ITERATIONS_PER_EPOCH = 20
MULTILEVEL, COARSE_EPOCHS, FINE_EPOCHS = (32, 16, 8, 4), 128, 16
PAPER = {"coarse": (1.65e-3, 4.2e-5), "fine": (2.54e-3, 5.6e-3), "multilevel": (3.67e-5, 7.2e-5)}
RATIO = 10.0


def train(model: gallery.ModelProblem, levels: slice, epochs: tuple[int, ...], seed: int, work: float | None = None):
    """Train on some levels of the hierarchy; `work` in units of the full hierarchy's finest level."""
    full = model.hierarchy()
    hierarchy = kanmg.Hierarchy([level.network for level in full[levels]])
    unit = hierarchy[-1].evaluator.cost_per_sample / full[-1].evaluator.cost_per_sample
    steps = tuple(ITERATIONS_PER_EPOCH * epoch for epoch in epochs)
    if work is not None:
        steps = (100_000,)

    def stop(record: kanmg.Record) -> None:
        if work is not None and record.work_units * unit >= work:
            raise StopIteration

    method = kanmg.NestedIteration(kanmg.LBFGS(), steps=steps)
    solution = kanmg.solve(model.problem, hierarchy, method=method, seed=seed, callback=stop, progress=False)
    return model.mean_squared_error(solution), solution.work_units * unit, solution.seconds


def experiment(num_seeds: int, num_samples: int) -> dict[str, list[tuple[float, float, float]]]:
    """Errors, work units and seconds of every run, by strategy."""
    runs: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(num_seeds):
        model = gallery.ml1(num_samples, seed=seed)
        multilevel = train(model, slice(None), MULTILEVEL, seed)
        work = multilevel[1]
        for name, run in {
            "multilevel": multilevel,
            "coarse, same work": train(model, slice(0, 1), (), seed, work),
            "fine, same work": train(model, slice(-1, None), (), seed, work),
            "coarse, paper's epochs": train(model, slice(0, 1), (COARSE_EPOCHS,), seed),
            "fine, paper's epochs": train(model, slice(-1, None), (FINE_EPOCHS,), seed),
        }.items():
            runs.setdefault(name, []).append(run)
    return runs


def main() -> int:
    arguments = harness.parse_arguments(__doc__)
    runs = experiment(2 if arguments.quick else 5, 20_000)
    rows = []
    for name, values in runs.items():
        errors, work, seconds = np.array(values).T
        paper = PAPER[name.split(",")[0]]
        rows.append(
            [
                name,
                f"{errors.mean():.2e} ({errors.std():.1e})",
                f"{np.median(errors):.2e}",
                f"{errors.max():.2e}",
                f"{paper[0]:.2e} ({paper[1]:.1e})",
                f"{work.mean():.0f}",
                f"{seconds.mean():.1f}",
            ]
        )
    print("ML-1, mean squared error on unseen points: mean (standard deviation) over the seeds\n")
    harness.print_table(("strategy", "MSE", "median", "worst", "paper", "work units", "seconds"), rows)
    report = harness.Report()
    means = {name: float(np.mean([error for error, _, _ in values])) for name, values in runs.items()}
    report.at_most("multilevel: mean MSE", means["multilevel"], PAPER["multilevel"][0])
    for level in ("coarse", "fine"):
        ratio = means[f"{level}, same work"] / means["multilevel"]
        report.at_least(f"multilevel: times below the {level} level alone at the same work", ratio, RATIO)
    return report.finish(strict=arguments.strict)


if __name__ == "__main__":
    raise SystemExit(main())
