"""Geometries of descent: iterate and gradient in the spline and in the power-ReLU basis, and the Gram metric.

ML-1's target with 2,000 samples, [2, 5, 1] with a lift, cubic. Adam on the coarsest of 4 levels alone (5 cells), on the
finest alone (40 cells), and by nested iteration, `STEPS` a level; the levels alone have as many steps as all levels of
nested iteration together. Of the step sizes the one with the lowest median of losses counts, for each row and column by
itself. L-BFGS, which finds its own step sizes, where its gradients are derivatives. Mean squared errors at the samples.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import statistics
from typing import TYPE_CHECKING

import kanmg
from kanmg import gallery

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 250
STEP_SIZES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2)
GEOMETRIES: dict[str, Callable[[kanmg.Smoother], kanmg.Smoother]] = {
    "iterate spline, gradient spline": lambda smoother: smoother,
    "iterate relu, gradient relu": kanmg.ChangeOfBasis,
    "iterate relu, gradient spline": lambda smoother: kanmg.ChangeOfBasis(smoother, "relu", "spline"),
    "iterate spline, gradient relu": lambda smoother: kanmg.ChangeOfBasis(smoother, "spline", "relu"),
    "Gram metric": kanmg.Metric,
}


def loss_of(model: gallery.ModelProblem, smoother: kanmg.Smoother, strategy: str, steps: int, seed: int) -> float:
    """Train and return the loss; what diverges has lost."""
    hierarchy = model.hierarchy(num_levels=4)
    if strategy != "nested":
        hierarchy = kanmg.Hierarchy([hierarchy[0 if strategy == "coarse" else -1].network])
    number = steps if strategy == "nested" else 4 * steps
    method = kanmg.NestedIteration(smoother, steps=number)
    return kanmg.solve(model.problem, hierarchy, method=method, seed=seed, progress=False, throw=False).loss


def main() -> int:
    """Print the table."""
    arguments = harness.parse_arguments(__doc__, harness.ONLY)
    quick, report = arguments.quick, harness.Report()
    seeds, steps = (1, 20) if quick else (5, STEPS)
    models = [gallery.ml1(200 if quick else 2000, seed=seed) for seed in range(seeds)]
    rows, nested, fine = [], {}, {}
    for kind in ("Adam", "L-BFGS"):
        sizes = STEP_SIZES if kind == "Adam" else (1.0,)
        for name, wrap in GEOMETRIES.items():
            if kind == "L-BFGS" and name.count("spline") == name.count("relu") == 1:
                continue
            cells = []
            for strategy in ("coarse", "fine", "nested"):
                medians = {}
                for size in sizes:
                    smoother = wrap(kanmg.Adam(step_size=size) if kind == "Adam" else kanmg.LBFGS())
                    losses = [loss_of(model, smoother, strategy, steps, seed) for seed, model in enumerate(models)]
                    medians[size] = statistics.median(losses)
                best = min(medians, key=medians.__getitem__)
                cells.append(f"{medians[best]:.1e}" + (f" ({best:g})" if kind == "Adam" else ""))
                {"nested": nested, "fine": fine}.get(strategy, {})[kind, name] = medians[best]
            rows.append((kind, name, *cells, f"{fine[kind, name] / nested[kind, name]:.2g}"))
    print(f"{4 * steps} steps; median loss of {seeds} seeds (step size); how much lower nested iteration ends\n")
    harness.print_table(("smoother", "geometry", "coarse", "fine", "nested", "fine / nested"), rows)
    for kind in ("Adam", "L-BFGS"):
        first, second = nested[kind, "iterate relu, gradient relu"], nested[kind, "iterate spline, gradient spline"]
        report.at_least(f"{kind}, nested: loss in the ReLU geometry / in the spline geometry", first / second, 10.0)
    return report.finish(strict=arguments.strict)


if __name__ == "__main__":
    raise SystemExit(main())
