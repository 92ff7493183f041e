"""What `make demo` runs: two model problems, trained on all levels, on the coarsest alone, and on the finest alone.

Prints the hierarchies, what every level cost, and errors on unseen points; draws the losses into figures/demo.png.
"""

from __future__ import annotations

from pathlib import Path

import kanmg
from kanmg import gallery
from kanmg.errors import MissingDependencyError

FIGURE = Path("figures") / "demo.png"


def main() -> dict[str, float]:
    """Train, print and draw; return the mean squared errors on unseen points."""
    errors, solutions = train_ml1()
    errors["KAN-1"] = train_kan1()
    draw(solutions)
    return errors


def train_ml1() -> tuple[dict[str, float], dict[str, kanmg.Solution]]:
    """Train on ML-1 from 20,000 samples: on all four levels, then on one of them for as much work."""
    model = gallery.ml1()
    hierarchy = model.hierarchy()
    print(f"{model.name}: {model.problem}\n\n{hierarchy}\n")

    solutions = {"multilevel": train_multilevel(model, hierarchy)}
    print(f"{solutions['multilevel']}\n")
    budget = solutions["multilevel"].history[-1].work_units
    solutions["coarse level only"] = train_one_level(model, hierarchy[0], budget)
    solutions["fine level only"] = train_one_level(model, hierarchy[-1], budget)

    errors = {name: model.mean_squared_error(solution) for name, solution in solutions.items()}
    print(f"mean squared error on 10,000 unseen points, after {budget:.0f} work units each")
    for name, error in errors.items():
        print(f"  {name:18} {error:.2e}")
    return errors, solutions


def train_multilevel(model: gallery.ModelProblem, hierarchy: kanmg.Hierarchy) -> kanmg.Solution:
    """Train several starts on the coarsest level, where an eighth of the samples do, and refine the best of them."""
    starts = kanmg.Starts(8, steps=640, fraction=1 / 8)
    method = kanmg.NestedIteration(kanmg.LBFGS(), steps=(0, 320, 160, 400), coarse_fraction=0.5, starts=starts)
    return kanmg.solve(model.problem, hierarchy, method=method)


def train_one_level(model: gallery.ModelProblem, level: kanmg.Level, budget: float) -> kanmg.Solution:
    """Train on one level until the budget is spent."""

    def stop(record: kanmg.Record) -> None:
        if record.work_units >= budget:
            raise StopIteration

    method = kanmg.NestedIteration(kanmg.LBFGS(), steps=10_000)
    return kanmg.solve(model.problem, kanmg.Hierarchy([level.network]), method=method, callback=stop)


def train_kan1() -> float:
    """Train on KAN-1 from 1,000 samples; return the mean squared error on unseen points."""
    model = gallery.kan1()
    hierarchy = model.hierarchy()
    print(f"\n{model.name}: {model.problem}\n\n{hierarchy}\n")
    solution = kanmg.solve(model.problem, hierarchy, method=kanmg.NestedIteration(kanmg.LBFGS(), steps=600))
    print(f"{solution}\n\nroot mean square error on 10,000 unseen points: {model.rms_error(solution):.2e}")
    return model.mean_squared_error(solution)


def draw(solutions: dict[str, kanmg.Solution]) -> None:
    """Draw the losses over the work, if matplotlib is there."""
    from kanmg.plotting import plot_history  # noqa: PLC0415  (the rest of the script works without matplotlib)

    try:
        ax = plot_history(solutions)
    except MissingDependencyError as error:
        print(error)
        return
    ax.set_title("ML-1 (a number: this level was reached; the flat part: more starts on level 0)", fontsize=10)
    FIGURE.parent.mkdir(exist_ok=True)
    ax.figure.savefig(FIGURE, dpi=150)
    print(f"\nfigure: {FIGURE}")


if __name__ == "__main__":
    main()
