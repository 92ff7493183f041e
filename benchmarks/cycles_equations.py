"""Cycles against nested iteration on equations, and where cycles should pay: large networks, little work, many samples.

Equations are compared at equal time: all methods go on from the same coefficients of the coarsest level, which several
starts have found, and end after the same seconds, kernels loaded before. The others are compared at equal work: all
methods begin with the same random coefficients of the coarsest level, and end after the same number of work units:
evaluations of loss and gradient on the finest level with all samples. Measured is the relative L2 error on 10,000
unseen points of the best coefficients on the finest level reached.

"Fewer samples" means that a level sees a quarter of the samples of the one above it, but at least four for each of its
coefficients. Steps follow from the number of steps on the finest level that the budget pays for, and from what a step
costs on each level: nested iteration spends half of the budget below the finest level, the same part on each; of cycles
as many steps as let four V-cycles fit.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import dataclasses
import functools
import itertools
import math
import statistics
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import kanmg
from kanmg import gallery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

UNLIMITED = 1_000_000
# So many V-cycles are to fit into the budget where all levels see all samples.
NUM_CYCLES = 4
# Steps on the coarsest level for every step before or after a correction.
COARSE_STEPS = 5
FRACTION, SAMPLES_PER_COEFFICIENT = 0.25, 4
FINEST, NESTED, CYCLES = "finest level alone", "nested", ("V", "FMG")

LEVENBERG_MARQUARDT = "Levenberg-Marquardt"
SMOOTHERS: dict[str, kanmg.Smoother[Any]] = {
    LEVENBERG_MARQUARDT: kanmg.LevenbergMarquardt(),
    "L-BFGS": kanmg.LBFGS(),
    "BFGS": kanmg.BFGS(),
    "Adam": kanmg.Adam(step_size=1e-2),
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A problem, its hierarchy, and what may be spent on it."""

    name: str
    make: Callable[[int], gallery.ModelProblem]
    unit: Literal["seconds", "work_units"]
    budgets: tuple[float, ...]
    smoothers: tuple[str, ...]
    hierarchy: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    omitted: tuple[str, ...] = ()
    """Methods that are not run."""


FIRST_ORDER = ("L-BFGS", "Adam")
SMALL = (10, 30, 100)
DEEP = {"widths": (2, 20, 20, 1), "lift": None, "outside": "extend"}
# With all samples, a coarse evaluation costs as much with tau as with Galerkin, which is ahead of it.
TAU = ("V, tau", "V, tau, fewer samples", "FMG, tau")
EXPERIMENTS = (
    Experiment("KAN-2 [2,5,1]", lambda s: gallery.kan2(seed=s), "seconds", (10,), tuple(SMOOTHERS)),
    Experiment("Helmholtz", lambda s: gallery.helmholtz(seed=s), "seconds", (10,), tuple(SMOOTHERS)),
    Experiment(
        "ML-2",
        lambda s: gallery.ml2(100, seed=s),
        "seconds",
        (10,),
        tuple(SMOOTHERS),
        {"degree": 7, "num_intervals": 4, "num_levels": 3},
    ),
    Experiment("Burgers 0.01", lambda s: gallery.burgers(seed=s, nu=0.01), "seconds", (30,), tuple(SMOOTHERS)),
    Experiment(
        "KAN-2, 200,000 points",
        lambda s: gallery.kan2(200_000, seed=s),
        "seconds",
        (30,),
        (LEVENBERG_MARQUARDT, "L-BFGS"),
    ),
    Experiment(
        "ML-1 [2,20,20,1], 16 cells",
        lambda s: gallery.ml1(50_000, seed=s),
        "work_units",
        SMALL,
        FIRST_ORDER,
        {**DEEP, "num_intervals": 2, "num_levels": 4},
        TAU,
    ),
    Experiment(
        "ML-1 [2,20,20,1], 128 cells",
        lambda s: gallery.ml1(100_000, seed=s),
        "work_units",
        SMALL,
        FIRST_ORDER,
        {**DEEP, "num_intervals": 4, "num_levels": 6},
        TAU,
    ),
    Experiment(
        "ML-1 [2,40,40,1], 32 cells",
        lambda s: gallery.ml1(50_000, seed=s),
        "work_units",
        SMALL,
        FIRST_ORDER,
        {**DEEP, "widths": (2, 40, 40, 1), "num_intervals": 4, "num_levels": 4},
        TAU,
    ),
    Experiment(
        "KAN-2 [2,20,20,1], 32 cells",
        lambda s: gallery.kan2(20_000, seed=s),
        "work_units",
        SMALL,
        FIRST_ORDER,
        {"widths": (2, 20, 20, 1), "degree": 5, "num_intervals": 4, "num_levels": 4},
        TAU,
    ),
    Experiment(
        "ML-1, 1,000,000 samples", lambda s: gallery.ml1(1_000_000, seed=s), "work_units", SMALL, FIRST_ORDER, {}, TAU
    ),
    Experiment(
        "KAN-2, 200,000 points, random start",
        lambda s: gallery.kan2(200_000, seed=s),
        "work_units",
        SMALL,
        FIRST_ORDER,
        {},
        TAU,
    ),
)


# -------------------------------------------------------------------------------------------------------------- methods


def methods(smoother: kanmg.Smoother[Any], num_steps: int, fractions: tuple[float, ...]) -> dict[str, kanmg.Cycle]:
    """Return the methods that are compared.

    Parameters
    ----------
    smoother : Smoother
    num_steps : int
        Steps on the finest level that the budget pays for.
    fractions : tuple of float
        Part of the samples that each level sees where levels see fewer.
    """
    result: dict[str, Any] = {FINEST: kanmg.NestedIteration(smoother, steps=(*[0] * (len(fractions) - 1), UNLIMITED))}
    for samples, parts in (("", (1.0,) * len(fractions)), (", fewer samples", fractions)):
        below = [max(1, round(num_steps / (2 * len(parts) * part))) for part in parts[:-1]]
        cost = 2 * sum(parts[1:]) + COARSE_STEPS * parts[0]
        steps = max(1, round(num_steps / (NUM_CYCLES * cost)))
        work = {"pre_steps": steps, "post_steps": steps, "coarse_steps": COARSE_STEPS * steps, "coarse_fraction": parts}
        result |= {
            f"{NESTED}{samples}": kanmg.NestedIteration(smoother, steps=(*below, UNLIMITED), coarse_fraction=parts),
            f"V, tau{samples}": kanmg.VCycle(smoother, **work, variant="tau"),
            f"V, Galerkin{samples}": kanmg.VCycle(smoother, **work, variant="galerkin"),
            f"FMG, tau{samples}": kanmg.FullMultigrid(smoother, **work, variant="tau"),
            f"FMG, Galerkin{samples}": kanmg.FullMultigrid(smoother, **work, variant="galerkin"),
        }
    return result


def fewer_samples(experiment: Experiment) -> list[float]:
    """Part of the samples that each level sees where levels see fewer."""
    model = experiment.make(0)
    sizes = [level.network.num_coefficients for level in model.hierarchy(**experiment.hierarchy)]
    parts = [FRACTION**depth for depth in reversed(range(len(sizes)))]
    least = [SAMPLES_PER_COEFFICIENT * size / model.problem.num_samples for size in sizes[:-1]]
    return [min(1.0, max(pair)) for pair in zip(parts, [*least, 1.0], strict=True)]


# ----------------------------------------------------------------------------------------------------------------- runs


def solve(
    problem: kanmg.problems.base.Problem, hierarchy: kanmg.Hierarchy, method: kanmg.Cycle, **options: Any
) -> kanmg.Solution:
    """Solve quietly, whatever comes out."""
    return kanmg.solve(problem, hierarchy, method=method, progress=False, throw=False, **options)


def on_finest_alone(experiment: Experiment, smoother: str, num_steps: int) -> kanmg.Solution:
    """Do a few steps on the finest level, from random coefficients."""
    model = experiment.make(0)
    finest = kanmg.Hierarchy([model.hierarchy(**experiment.hierarchy)[-1].network])
    return solve(model.problem, finest, kanmg.NestedIteration(SMOOTHERS[smoother], steps=num_steps))


@functools.cache
def load_kernels(experiment: Experiment, smoother: str) -> None:
    """Do what is done once in a process: compile or load the kernels of a smoother."""
    on_finest_alone(experiment, smoother, num_steps=2)


def cost_of_step(experiment: Experiment, smoother: str) -> float:
    """Median cost of a step on the finest level, in the experiment's unit."""
    load_kernels(experiment, smoother)
    history = on_finest_alone(experiment, smoother, num_steps=8).history
    return float(np.median(np.diff(history.column(experiment.unit))[1:]))


def chosen_start(experiment: Experiment, smoother: str, seed: int) -> list[float]:
    """Coefficients of the coarsest level that the starts of the default method, and its path, lead to."""
    model = experiment.make(seed)
    hierarchy = model.hierarchy(**experiment.hierarchy)
    method = kanmg.default_method(model.problem, hierarchy)
    method = dataclasses.replace(method, smoother=SMOOTHERS[smoother], steps=10, coarse_fraction=1.0)
    coarsest = kanmg.Hierarchy([hierarchy[0].network])
    return [float(value) for value in solve(model.problem, coarsest, method, seed=seed).coefficients]


def run(
    experiment: Experiment, smoother: str, cycle: kanmg.Cycle, budget: float, seed: int, start: list[float] | None
) -> dict[str, Any]:
    """Train until the budget is spent."""
    load_kernels(experiment, smoother)
    # Problem and levels of its own: what they remember from one method would save time to the next.
    model = experiment.make(seed)

    def stop(record: kanmg.Record) -> None:
        if getattr(record, experiment.unit) >= budget:
            raise StopIteration

    solution = solve(
        model.problem,
        model.hierarchy(**experiment.hierarchy),
        cycle,
        seed=seed,
        initial=None if start is None else np.array(start),
        max_cycles=UNLIMITED,
        callback=stop,
    )
    return {
        "error": model.relative_error(solution),
        "loss": solution.loss,
        "level": solution.level,
        "work_units": solution.work_units,
        "seconds": solution.seconds,
        "status": solution.status.name,
    }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What all methods did with one smoother and one budget: by method, one result for each seed."""

    experiment: str
    budget: str
    smoother: str
    results: dict[str, list[dict[str, Any]]]

    def errors(self, method: str) -> list[float]:
        """Errors by seed; infinite where a run failed."""
        return [result["error"] if math.isfinite(result["error"]) else math.inf for result in self.results[method]]

    def median(self, method: str, quantity: str | None = None) -> float:
        """Median error over the seeds, or that of another quantity."""
        values = self.errors(method) if quantity is None else [result[quantity] for result in self.results[method]]
        return statistics.median(values)

    def ratio(self, method: str) -> float:
        """Median over the seeds of the error's ratio to that of nested iteration with all samples; NaN without it."""
        if NESTED not in self.results:
            return math.nan
        pairs = zip(self.errors(method), self.errors(NESTED), strict=True)
        return statistics.median(error / nested for error, nested in pairs)

    def best(self, prefixes: str | tuple[str, ...]) -> str | None:
        """Return the method of lowest median error among those whose names begin so."""
        return min((name for name in self.results if name.startswith(prefixes)), key=self.median, default=None)


def compare(
    experiment: Experiment, smoother: str, budget: float, seeds: range, kept: harness.Kept, chosen: list[str]
) -> Comparison:
    """Run all methods with one smoother and one budget."""
    unit = experiment.unit.replace("_", " ")
    case = f"{experiment.name}; {smoother}"
    cost = kept.get(f"{case}; {unit} of a step", lambda: cost_of_step(experiment, smoother))
    fractions = kept.get(f"{experiment.name}; fewer samples", lambda: fewer_samples(experiment))
    cycles = methods(SMOOTHERS[smoother], int(budget / cost), tuple(fractions))
    names = [name for name in cycles if name not in experiment.omitted and harness.is_chosen(name, chosen)]
    # What Levenberg-Marquardt finds on the coarsest level is beyond what the others could still improve in the time.
    starter = smoother if smoother == LEVENBERG_MARQUARDT else "L-BFGS"
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed, name in itertools.product(seeds, names):
        start = None
        if experiment.unit == "seconds":
            start = kept.get(
                f"{experiment.name}; start of seed {seed} by {starter}",
                functools.partial(chosen_start, experiment, starter, seed),
            )
        result = kept.get(
            f"{case}; {budget:g} {unit}; {name}; seed {seed}",
            functools.partial(run, experiment, smoother, cycles[name], budget, seed, start),
        )
        results[name].append(result)
        print(
            f"{case}, {name}, seed {seed}: error {result['error']:.2e}, loss {result['loss']:.1e}, "
            f"{result['work_units']:.0f} work units, {result['seconds']:.1f} s",
            flush=True,
        )
    return Comparison(experiment.name, f"{budget:g} {unit}", smoother, results)


# -------------------------------------------------------------------------------------------------------------- reports


def print_all(comparisons: Iterable[Comparison]) -> None:
    """Print every method's errors."""
    header = ("problem", "budget", "smoother", "method", "median error", "worst", "to nested", "work units", "seconds")
    rows = [
        (
            found.experiment,
            found.budget,
            found.smoother,
            name,
            f"{found.median(name):.1e}",
            f"{max(found.errors(name)):.1e}",
            f"{found.ratio(name):.2g}",
            f"{found.median(name, 'work_units'):.0f}",
            f"{found.median(name, 'seconds'):.1f}",
        )
        for found in comparisons
        for name in found.results
    ]
    harness.print_table(header, rows)


def print_winners(comparisons: Iterable[Comparison]) -> None:
    """Print the best nested iteration and the best cycle of each comparison, each with the samples that suit it."""
    header = ("problem", "budget", "smoother", "best nested", "error", "best cycle", "error", "cycle / nested", FINEST)
    rows = []
    for found in comparisons:
        nested, cycle = found.best(NESTED), found.best(CYCLES)
        if nested is None or cycle is None:
            continue
        errors = found.median(nested), found.median(cycle)
        rows.append(
            (
                found.experiment,
                found.budget,
                found.smoother,
                nested,
                f"{errors[0]:.1e}",
                cycle,
                f"{errors[1]:.1e}",
                f"{errors[1] / errors[0]:.2g}",
                f"{found.median(FINEST):.1e}" if FINEST in found.results else "",
            )
        )
    harness.print_table(header, rows)


def main() -> int:
    arguments = harness.parse_arguments(
        __doc__,
        harness.ONLY,
        ("--smoother", {"action": "append", "default": [], "help": "smoothers whose names contain this"}),
        ("--method", {"action": "append", "default": [], "help": "methods whose names contain this"}),
        harness.SEEDS,
        harness.KEEP,
    )
    seeds = range(arguments.seeds or (1 if arguments.quick else 3))
    kept, comparisons = harness.Kept(arguments.keep), []
    for experiment in EXPERIMENTS:
        if not harness.is_chosen(experiment.name, arguments.only):
            continue
        shortened = experiment.budgets[0] / (5 if experiment.unit == "seconds" else 1)
        budgets = [shortened] if arguments.quick else experiment.budgets
        for smoother, budget in itertools.product(experiment.smoothers, budgets):
            if harness.is_chosen(smoother, arguments.smoother):
                comparisons.append(compare(experiment, smoother, budget, seeds, kept, arguments.method))
    print(f"\nRelative L2 errors on unseen points, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}\n")
    print_all(comparisons)
    print("\nBest nested iteration and best cycle; a ratio below 1 says that the cycle is ahead\n")
    print_winners(comparisons)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
