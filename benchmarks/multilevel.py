"""What the hierarchy gains: the default method against its smoother on the finest level alone, for the same seconds.

The finest level begins with the coefficients that the default draws there, and goes on with steps of the same smoother
until the time is over that the default took, starts included. Kernels are loaded before. The first table is that of
`benchmarks/accuracy.py`. `--write` puts a figure of every problem into docs/figures: loss on all points of the problem,
and error on unseen ones, of the coefficients of lowest loss so far. They are evaluated after the runs, at
some of the steps, so that the runs take no longer.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import dataclasses
import functools
import re
import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from accuracy import ROWS, WORST_OVER_MEDIAN, Row

import kanmg

if TYPE_CHECKING:
    from kanmg import gallery

FIGURES = harness.ROOT / "docs" / "figures"
TIMES_BETTER = 10.0
NUM_POINTS = 60
METHODS = {"nested": "nested iteration", "alone": "finest level alone"}
COLORS = {"nested": "C0", "alone": "C1"}


# ----------------------------------------------------------------------------------------------------------------- runs


@dataclasses.dataclass(frozen=True)
class Step:
    """Coefficients after a step, and when it ended."""

    seconds: float
    theta: np.ndarray


def watched(smoother: kanmg.Smoother[Any], steps: list[Step]) -> kanmg.Smoother[Any]:
    """Return the smoother as one that notes its steps."""
    begin = time.perf_counter()

    class Watched(type(smoother)):  # type: ignore[misc]
        def step(self, objective: Any, theta: Any, state: Any) -> Any:
            result = super().step(objective, theta, state)
            steps.append(Step(time.perf_counter() - begin, np.array(result[0])))
            return result

    options = {field.name: getattr(smoother, field.name) for field in dataclasses.fields(smoother)}
    return Watched(**options)


def solve(
    problem: kanmg.problems.base.Problem, hierarchy: kanmg.Hierarchy, method: kanmg.Cycle, **options: Any
) -> tuple[kanmg.Solution, list[Step]]:
    """Solve quietly, whatever comes out, and return all steps as well."""
    steps: list[Step] = []
    method = dataclasses.replace(method, smoother=watched(method.smoother, steps))
    return kanmg.solve(problem, hierarchy, method=method, progress=False, throw=False, **options), steps


def stop_after(seconds: float) -> Any:
    """Return a callback that ends a run."""

    def stop(record: kanmg.Record) -> None:
        if record.seconds >= seconds:
            raise StopIteration

    return stop


@functools.cache
def load_kernels(name: str) -> None:
    """Do what is done once in a process: compile or load the kernels."""
    model = ROWS[name].make(0)
    finest = kanmg.Hierarchy([model.hierarchy(**ROWS[name].hierarchy)[-1].network])
    method = ROWS[name].method or kanmg.default_method(model.problem, finest)
    kanmg.solve(
        model.problem,
        finest,
        method=kanmg.NestedIteration(method.smoother, steps=2),
        progress=False,
        throw=False,
    )


def compare(name: str, seed: int) -> dict[str, Any]:
    """Solve one problem by the default method, and on its finest level alone."""
    load_kernels(name)
    row = ROWS[name]
    model = row.make(seed)
    hierarchy = model.hierarchy(**row.hierarchy)
    method = row.method or kanmg.default_method(model.problem, hierarchy)
    nested, nested_steps = solve(model.problem, hierarchy, method, seed=seed)
    # Problem and level of its own: what they remember from the first method would save time to the second.
    other = row.make(seed)
    finest = kanmg.Hierarchy([hierarchy[-1].network])
    alone, alone_steps = solve(
        other.problem,
        finest,
        kanmg.NestedIteration(method.smoother, steps=1_000_000),
        seed=seed,
        callback=stop_after(nested.seconds),
    )
    return {
        "nested": outcome(row, model, nested, nested_steps),
        "alone": outcome(row, other, alone, alone_steps),
        "coefficients": hierarchy[-1].network.num_coefficients,
    }


def outcome(row: Row, model: gallery.ModelProblem, solution: kanmg.Solution, steps: list[Step]) -> dict[str, Any]:
    """Return what a run reached, and the curves of its loss and error."""
    return {
        "error": row.error_of(model, solution),
        "loss": solution.loss,
        "seconds": solution.seconds,
        **curves(row, model, solution, steps),
    }


def curves(row: Row, model: gallery.ModelProblem, solution: kanmg.Solution, steps: list[Step]) -> dict[str, Any]:
    """Evaluate loss and error at some of the steps, for coefficients of the lowest loss so far."""
    hierarchy, problem = solution.hierarchy, model.problem
    # The unseen points are the same at every call, and the exact values there take longer than the network's.
    _, values = model.test_data()
    model = dataclasses.replace(model, exact=lambda _: values)
    sizes = [level.network.num_coefficients for level in hierarchy]
    levels = [sizes.index(len(step.theta) - problem.num_parameters) for step in steps]
    first = [levels.index(level) for level in sorted(set(levels)) if level > levels[0]]
    ends = np.array([step.seconds for step in steps])
    marks = np.searchsorted(ends, np.linspace(0.0, ends[-1], NUM_POINTS + 1)[1:])
    found: dict[str, Any] = {"at": [], "losses": [], "errors": [], "refined": [float(ends[index]) for index in first]}
    for index in sorted({0, *map(int, marks), *(index - 1 for index in first), *first}):
        loss = problem.loss(hierarchy[levels[index]].evaluator, steps[index].theta)
        if not np.isfinite(loss) or (found["losses"] and loss >= found["losses"][-1]):
            continue
        theta, unknowns = np.split(steps[index].theta, [sizes[levels[index]]])
        loss = problem.loss(hierarchy[levels[index]].evaluator, steps[index].theta)
        if not np.isfinite(loss) or (found["losses"] and loss >= found["losses"][-1]):
            continue
        now = dataclasses.replace(
            solution, coefficients=theta, level=levels[index], parameters=problem.parameter_values(unknowns)
        )
        found["at"].append(float(ends[index]))
        found["losses"].append(float(loss))
        found["errors"].append(row.error_of(model, now))
    for name, value in (("at", ends[-1]), ("losses", solution.loss), ("errors", row.error_of(model, solution))):
        found[name].append(float(value))
    return found


# -------------------------------------------------------------------------------------------------------------- figures


def draw(name: str, row: Row, results: list[dict[str, Any]]) -> None:
    """Draw loss and error over seconds: all seeds thin, their median thick, refinements of the first seed marked."""
    import matplotlib as mpl  # noqa: PLC0415  (only with --write)

    mpl.use("agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    last = max(max(result[method]["at"]) for result in results for method in METHODS)
    grid = np.linspace(0.0, last, 400)
    error = "error of the parameter" if row.error == "parameter" else f"{row.error.replace('_', ' ')}, unseen points"
    for ax, quantity, label in zip(axes, ("losses", "errors"), ("loss, all points", error), strict=True):
        for method, title in METHODS.items():
            seeds = [at(grid, result[method], quantity) for result in results]
            for values in seeds:
                ax.plot(grid, values, color=COLORS[method], linewidth=0.6, alpha=0.5)
            ax.plot(grid, np.median(seeds, axis=0), color=COLORS[method], linewidth=2.0, label=title)
        refined = np.array(results[0]["nested"]["refined"])
        ax.plot(refined, at(refined, results[0]["nested"], quantity), "o", color=COLORS["nested"], markersize=5)
        ax.set(xlabel="seconds", ylabel=label, yscale="log")
        ax.grid(visible=True, alpha=0.3)
    axes[0].legend(frameon=False)
    figure.suptitle(name)
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / f"{file_name(name)}.png", dpi=80)
    plt.close(figure)


def at(seconds: np.ndarray, result: dict[str, Any], quantity: str) -> np.ndarray:
    """Return the loss or error that had been reached at some times; NaN before the first."""
    position = np.searchsorted(result["at"], seconds, side="right") - 1
    return np.where(position >= 0, np.array(result[quantity])[np.maximum(position, 0)], np.nan)


def file_name(name: str) -> str:
    """Name of a problem's figure, without suffix."""
    return "multilevel_" + re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


# -------------------------------------------------------------------------------------------------------------- reports


def main() -> int:
    arguments = harness.parse_arguments(
        __doc__,
        harness.ONLY,
        harness.SEEDS,
        harness.KEEP,
        ("--write", {"action": "store_true", "help": "write docs/figures"}),
    )
    seeds = range(arguments.seeds or (1 if arguments.quick else 5))
    kept, report = harness.Kept(arguments.keep), harness.Report()
    accuracy, gains = [], []
    for name, row in ROWS.items():
        if not harness.is_chosen(name, arguments.only):
            continue
        results = []
        for seed in seeds:
            results.append(kept.get(f"{name}; seed {seed}", functools.partial(compare, name, seed)))
            reached = ", ".join(
                f"{title} {results[-1][key]['error']:.1e} in {results[-1][key]['seconds']:.1f} s"
                for key, title in METHODS.items()
            )
            print(f"{name}, seed {seed}: {reached}", flush=True)
        errors = {key: [result[key]["error"] for result in results] for key in METHODS}
        medians = {key: statistics.median(values) for key, values in errors.items()}
        seconds, worst = statistics.median(result["nested"]["seconds"] for result in results), max(errors["nested"])
        gain = medians["alone"] / medians["nested"]
        accuracy.append(
            (
                name,
                f"{medians['nested']:.1e}",
                f"{worst:.1e}",
                f"{seconds:.1f}",
                results[0]["coefficients"],
                f"{row.demanded:.0e}",
            )
        )
        gains.append((name, f"{medians['nested']:.1e}", f"{medians['alone']:.1e}", f"{gain:.3g}"))
        report.at_most(f"{name}: median error", medians["nested"], row.demanded)
        report.at_most(f"{name}: seconds", seconds, row.seconds)
        report.at_most(f"{name}: worst over median", worst / medians["nested"], WORST_OVER_MEDIAN)
        report.at_least(f"{name}: times smaller error", gain, TIMES_BETTER)
        if arguments.write:
            draw(name, row, results)
    of_seeds = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    print(f"\nErrors on unseen points, {of_seeds}\n")
    harness.print_table(("problem", "median error", "worst", "seconds", "coefficients", "demanded"), accuracy)
    print(f"\nMedian errors of {of_seeds} at equal time\n")
    harness.print_table(("problem", "nested iteration", "finest level alone", "ratio"), gains)
    return report.finish(strict=arguments.strict)


if __name__ == "__main__":
    raise SystemExit(main())
