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
    errors, histories = train_ml1()
    errors["KAN-1"] = train_kan1()
    draw(histories)
    return errors


def train_ml1() -> tuple[dict[str, float], dict[str, kanmg.Solution]]:
    """Train on ML-1 from 20,000 samples: all four levels, then only the coarsest or the finest for as much work."""
    model = gallery.ml1()
    hierarchy = model.hierarchy()
    print(f"{model.name}: {model.problem}\n\n{hierarchy}\n")

    multilevel = kanmg.NestedIteration(kanmg.LBFGS(), steps=(640, 320, 160, 80))
    solutions = {"multilevel": kanmg.solve(model.problem, hierarchy, method=multilevel)}
    print(f"{solutions['multilevel']}\n")

    for name, level in (("coarse level only", hierarchy[0]), ("fine level only", hierarchy[-1])):
        budget = solutions["multilevel"].work_units
        solutions[name] = kanmg.solve(
            model.problem,
            kanmg.Hierarchy([level.network]),
            method=kanmg.NestedIteration(kanmg.LBFGS(), steps=10_000),
            callback=lambda record, budget=budget: stop_after(budget, record),
        )

    errors = {name: model.mean_squared_error(solution) for name, solution in solutions.items()}
    print("mean squared error on 10,000 unseen points")
    for name, error in errors.items():
        print(f"  {name:18} {error:.2e}   {solutions[name].work_units:6.0f} work units")
    return errors, solutions


def stop_after(budget: float, record: kanmg.Record) -> None:
    """End a run after so many work units."""
    if record.work_units >= budget:
        raise StopIteration


def train_kan1() -> float:
    """Train on KAN-1 from 1,000 samples."""
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
    ax.set_title("ML-1: training loss; a number marks where a level was reached")
    FIGURE.parent.mkdir(exist_ok=True)
    ax.figure.savefig(FIGURE, dpi=150)
    print(f"\nfigure: {FIGURE}")


if __name__ == "__main__":
    main()
