"""Weights that follow the run: errors without them, with attention to points, and with terms in balance.

Every problem is solved by its default method, whose smoother is Levenberg-Marquardt, and by the same schedule with
L-BFGS, as the problem states its weights and with one of the options `attention` and `balance`. The error is the
relative L2 error on 10,000 unseen points; the weights are what the solution's message says of them.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import dataclasses
import re
import statistics
from typing import TYPE_CHECKING, Any

import kanmg
from kanmg import gallery

if TYPE_CHECKING:
    from collections.abc import Callable

# Steps of L-BFGS are cheaper than those of Levenberg-Marquardt, which need a matrix each, and do less.
LBFGS_STEPS = 300


@dataclasses.dataclass(frozen=True)
class Row:
    """One problem, a smaller one for a quick look, and the hierarchy."""

    make: Callable[[int], gallery.ModelProblem]
    quick: Callable[[int], gallery.ModelProblem]
    hierarchy: dict[str, Any] = dataclasses.field(default_factory=dict)


ROWS = {
    "Helmholtz (1, 4)": Row(lambda s: gallery.helmholtz(seed=s), lambda s: gallery.helmholtz(2000, 200, seed=s)),
    "ML-2 interface": Row(
        lambda s: gallery.ml2(100, seed=s),
        lambda s: gallery.ml2(50, seed=s),
        {"degree": 7, "num_intervals": 8, "num_levels": 2},
    ),
    "Burgers 0.05": Row(
        lambda s: gallery.burgers(seed=s, nu=0.05), lambda s: gallery.burgers(2000, 200, 200, seed=s, nu=0.05)
    ),
}
OPTIONS: dict[str, Callable[[int], dict[str, Any]]] = {
    "none": lambda _: {},
    "attention": lambda every: {"attention": kanmg.Attention(every=every)},
    "balance": lambda every: {"balance": kanmg.Balance(every=every)},
}
# Steps between two changes of the weights: L-BFGS loses its pairs with each.
SMOOTHERS = {"default": 20, "L-BFGS": 100}


def method_of(model: gallery.ModelProblem, hierarchy: kanmg.Hierarchy, smoother: str) -> kanmg.NestedIteration:
    """Return the default method, or its schedule with L-BFGS."""
    method = kanmg.default_method(model.problem, hierarchy)
    if not isinstance(method, kanmg.NestedIteration):
        raise TypeError(f"the default method is {method!r}, but a nested iteration is compared here")
    if smoother == "default":
        return method
    return dataclasses.replace(method, smoother=kanmg.LBFGS(), steps=LBFGS_STEPS, idle=0.0)


def main() -> int:
    arguments = harness.parse_arguments(
        __doc__,
        ("--only", {"action": "append", "default": [], "help": "rows whose names contain this"}),
        ("--seeds", {"type": int, "default": 0, "help": "number of seeds; 3, or 1 if quick"}),
        ("--smoother", {"choices": list(SMOOTHERS), "help": "one of the two; both by default"}),
        ("--every", {"type": int, "default": 0, "help": "steps between changes of weights; by default 20, L-BFGS 100"}),
    )
    seeds = range(arguments.seeds or (1 if arguments.quick else 3))
    table = []
    for name, row in ROWS.items():
        if arguments.only and not any(part in name for part in arguments.only):
            continue
        models = [(row.quick if arguments.quick else row.make)(seed) for seed in seeds]
        for smoother in SMOOTHERS if arguments.smoother is None else (arguments.smoother,):
            for option, settings in OPTIONS.items():
                errors, seconds, work = [], [], []
                for seed, model in zip(seeds, models, strict=True):
                    hierarchy = model.hierarchy(**row.hierarchy)
                    method = dataclasses.replace(
                        method_of(model, hierarchy, smoother), **settings(arguments.every or SMOOTHERS[smoother])
                    )
                    if not errors:  # compile, untimed
                        kanmg.solve(model.problem, hierarchy, method=method, progress=False, callback=_stop)
                    solution = kanmg.solve(
                        model.problem, hierarchy, method=method, seed=seed, progress=False, throw=False
                    )
                    errors.append(model.relative_error(solution))
                    seconds.append(solution.seconds)
                    work.append(solution.work_units)
                    weights = re.search(r"terms \((.*?)\)", solution.message)
                    print(
                        f"{name}, {smoother}, {option}, seed {seed}: error {errors[-1]:.2e}, loss {solution.loss:.1e}, "
                        f"{seconds[-1]:.1f} s, weights: {weights[1] if weights else 'as stated'}",
                        flush=True,
                    )
                numbers = f"{statistics.median(errors):.1e}", f"{max(errors):.1e}"
                spent = f"{statistics.median(work):.0f}", f"{statistics.median(seconds):.1f}"
                table.append((name, smoother, option, *numbers, *spent))
    print(f"\nErrors on unseen points, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}\n")
    harness.print_table(("problem", "smoother", "weights", "median error", "worst", "work units", "seconds"), table)
    return 0


def _stop(_: kanmg.Record) -> None:
    raise StopIteration


if __name__ == "__main__":
    raise SystemExit(main())
