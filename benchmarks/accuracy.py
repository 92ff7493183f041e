"""Accuracy of the default method: errors on unseen points, over seeds, for the gallery's problems.

Every row is solved by `kanmg.solve(problem, hierarchy)` with no further option but the seed, which changes points and
starts, from compiled kernels. The error is the relative L2 error on 10,000 unseen points (KAN-1: the root of the mean
squared error; inverse Burgers: the relative error of nu).
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import dataclasses
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

import kanmg
from kanmg import gallery

if TYPE_CHECKING:
    from collections.abc import Callable

WORST_OVER_MEDIAN = 30.0


@dataclasses.dataclass(frozen=True)
class Row:
    """One problem, the hierarchy it is solved on, and what is demanded of the median."""

    make: Callable[[int], gallery.ModelProblem]
    demanded: float
    seconds: float
    hierarchy: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str = "relative_error"
    method: kanmg.Cycle | None = None

    def error_of(self, model: gallery.ModelProblem, solution: kanmg.Solution) -> float:
        """Error of a solution in the row's measure."""
        if self.error == "parameter":
            return max(abs(solution.parameters[name] / value - 1.0) for name, value in model.parameters.items())
        return float(getattr(model, self.error)(solution))


KAN1 = {"degree": 7, "num_intervals": 2, "num_levels": 6}
ROWS = {
    "KAN-1 [2,1,1]": Row(lambda s: gallery.kan1(seed=s), 1e-11, 10, {"widths": (2, 1, 1), **KAN1}, "rms_error"),
    "KAN-1 [2,5,1]": Row(
        lambda s: gallery.kan1(seed=s),
        1e-6,
        20,
        {"widths": (2, 5, 1), "degree": 5, "num_intervals": 2, "num_levels": 4},
        "rms_error",
    ),
    "KAN-2 Poisson": Row(lambda s: gallery.kan2(seed=s), 1e-6, 30),
    "Helmholtz (1, 4)": Row(lambda s: gallery.helmholtz(seed=s), 2e-5, 60),
    "ML-2 interface": Row(
        lambda s: gallery.ml2(100, seed=s), 1e-4, 60, {"degree": 7, "num_intervals": 8, "num_levels": 2}
    ),
    "Poisson 5-D": Row(lambda s: gallery.poisson5d(seed=s), 1e-8, 60),
    "Kovasznay": Row(lambda s: gallery.kovasznay(seed=s), 1e-4, 120),
    "Burgers 1e-2": Row(lambda s: gallery.burgers(seed=s, nu=0.01), 2e-5, 120, {"num_levels": 4}),
    "Burgers 0.01/pi": Row(lambda s: gallery.burgers(seed=s), 1e-4, 300),
    "Allen-Cahn 1e-4": Row(lambda s: gallery.allen_cahn(seed=s), 1e-3, 300),
    "inverse Burgers": Row(lambda s: gallery.inverse_burgers(seed=s), 1e-2, 120, {}, "parameter"),
}


def main() -> int:
    arguments = harness.parse_arguments(
        __doc__,
        ("--only", {"action": "append", "default": [], "help": "rows whose names contain this"}),
        ("--seeds", {"type": int, "default": 0, "help": "number of seeds; 5, or 1 if quick"}),
        ("--verbose", {"action": "store_true", "help": "print every solution"}),
    )
    seeds = range(arguments.seeds or (1 if arguments.quick else 5))
    report, table = harness.Report(), []
    for name, row in ROWS.items():
        if arguments.only and not any(part in name for part in arguments.only):
            continue
        errors, seconds = [], []
        for seed in seeds:
            model = row.make(seed)
            hierarchy = model.hierarchy(**row.hierarchy)
            if not errors:  # compile, untimed
                kanmg.solve(model.problem, hierarchy, method=row.method, progress=False, throw=False, callback=_stop)
            solution = kanmg.solve(model.problem, hierarchy, method=row.method, seed=seed, progress=False, throw=False)
            if arguments.verbose:
                print(solution, flush=True)
            errors.append(row.error_of(model, solution))
            seconds.append(solution.seconds)
            print(
                f"{name}, seed {seed}: error {errors[-1]:.2e}, loss {solution.loss:.1e}, {seconds[-1]:.1f} s",
                flush=True,
            )
        median, size = statistics.median(errors), hierarchy[-1].network.num_coefficients
        table.append(
            (name, f"{median:.1e}", f"{max(errors):.1e}", f"{np.median(seconds):.1f}", size, f"{row.demanded:.0e}")
        )
        report.at_most(f"{name}: median error", median, row.demanded)
        report.at_most(f"{name}: seconds", statistics.median(seconds), row.seconds)
        report.at_most(f"{name}: worst over median", max(errors) / median, WORST_OVER_MEDIAN)
    print(f"\nErrors on unseen points, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}\n")
    harness.print_table(("problem", "median error", "worst", "seconds", "coefficients", "demanded"), table)
    return report.finish(strict=arguments.strict)


def _stop(_: kanmg.Record) -> None:
    raise StopIteration


if __name__ == "__main__":
    raise SystemExit(main())
