"""Variable projection in the default method, and Broyden's family against BFGS.

Projection on the coarsest level only, where the starts are, or on all levels; against steps without acceleration and
with it. Equations are stated with 4,000 points inside and 400 on the edges, and solved by `kanmg.default_method` with
another smoother; KAN-1 with the method of `accuracy.py`. Errors on unseen points.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import dataclasses
import statistics
from typing import TYPE_CHECKING, Any

from accuracy import CLEAN, ROWS

import kanmg
from kanmg import gallery

if TYPE_CHECKING:
    from collections.abc import Callable

PLAIN = kanmg.LevenbergMarquardt(acceleration=False)
ACCELERATED = kanmg.LevenbergMarquardt()
PROJECTED = kanmg.LevenbergMarquardt(projection=True)
LEVENBERG_MARQUARDT: dict[str, dict[str, Any]] = {
    "plain": {"smoother": PLAIN},
    "accelerated": {"smoother": ACCELERATED},
    "projected on the coarsest": {"smoother": ACCELERATED, "coarse_smoother": PROJECTED},
    "projected on all levels": {"smoother": PROJECTED},
}
QUASI_NEWTON: dict[str, dict[str, Any]] = {
    name: {"smoother": smoother, "steps": 300, "idle": 0.0}
    for name, smoother in (
        ("L-BFGS", kanmg.LBFGS()),
        ("BFGS", kanmg.BFGS()),
        ("Broyden's family", kanmg.BFGS(update="broyden")),
    )
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """A problem, its hierarchy, and the methods that are compared on it."""

    make: Callable[[int], gallery.ModelProblem]
    methods: dict[str, dict[str, Any]] = dataclasses.field(default_factory=lambda: LEVENBERG_MARQUARDT)
    hierarchy: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str = "relative_error"
    method: kanmg.Cycle | None = None


PROBLEMS = {
    "KAN-1 [2,5,1]": Problem(
        lambda s: gallery.kan1(seed=s),
        hierarchy=ROWS["KAN-1 [2,5,1]"].hierarchy,
        error="rms_error",
        method=CLEAN,
    ),
    "KAN-2 Poisson": Problem(lambda s: gallery.kan2(4000, 400, seed=s)),
    "2-D Poisson": Problem(lambda s: gallery.helmholtz(4000, 400, a1=1.0, a2=1.0, k=0.0, seed=s)),
    "Helmholtz (1, 4)": Problem(lambda s: gallery.helmholtz(4000, 400, seed=s)),
    "ML-2 interface": Problem(lambda s: gallery.ml2(seed=s), hierarchy=ROWS["ML-2 interface"].hierarchy),
    "KAN-2, quasi-Newton": Problem(lambda s: gallery.kan2(4000, 400, seed=s), QUASI_NEWTON),
}


def main() -> int:
    arguments = harness.parse_arguments(
        __doc__,
        ("--only", {"action": "append", "default": [], "help": "problems whose names contain this"}),
        ("--methods", {"action": "append", "default": [], "help": "methods whose names contain this"}),
        ("--seeds", {"type": int, "default": 0, "help": "number of seeds; 3, or 1 if quick"}),
    )
    seeds = range(arguments.seeds or (1 if arguments.quick else 3))
    table = []
    for name, problem in PROBLEMS.items():
        if arguments.only and not any(part in name for part in arguments.only):
            continue
        wanted = [key for key in problem.methods if not arguments.methods or any(m in key for m in arguments.methods)]
        runs: dict[str, list[tuple[float, float]]] = {key: [] for key in wanted}
        for seed in seeds:
            model = problem.make(seed)
            hierarchy = model.hierarchy(**problem.hierarchy)
            default = problem.method or kanmg.default_method(model.problem, hierarchy)
            for key in wanted:
                method = dataclasses.replace(default, **problem.methods[key])
                if not any(runs.values()):  # compile, untimed
                    kanmg.solve(model.problem, hierarchy, method=method, progress=False, throw=False, callback=_stop)
                solution = kanmg.solve(model.problem, hierarchy, method=method, seed=seed, progress=False, throw=False)
                runs[key].append((float(getattr(model, problem.error)(solution)), solution.seconds))
                lowest = solution.history.starts.min()
                print(
                    f"{name}, {key}, seed {seed}: error {runs[key][-1][0]:.1e}, {solution.seconds:.1f} s, "
                    f"loss {solution.loss:.1e}, best start {lowest:.1e}, {solution.work_units:.0f} work units",
                    flush=True,
                )
        for key, pairs in runs.items():
            errors, seconds = zip(*pairs, strict=True)
            median = statistics.median(errors)
            table.append((name, key, f"{median:.1e}", f"{max(errors):.1e}", f"{statistics.median(seconds):.1f}"))
    print(f"\nMedians of {len(seeds)} seed{'s' if len(seeds) > 1 else ''}\n")
    harness.print_table(("problem", "method", "median error", "worst", "seconds"), table)
    return 0


def _stop(_: kanmg.Record) -> None:
    raise StopIteration


if __name__ == "__main__":
    raise SystemExit(main())
