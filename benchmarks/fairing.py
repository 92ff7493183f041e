"""What fairing changes: errors of the default method for regressions with and without it, on unseen points, over seeds.

The seed changes samples and starts. The error is the root of the mean squared error on 10,000 unseen points.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from accuracy import ROWS

import kanmg
from kanmg import gallery

if TYPE_CHECKING:
    from collections.abc import Callable

PROBLEMS: dict[str, tuple[Callable[[int], gallery.ModelProblem], dict[str, Any], int]] = {
    "KAN-1 [2,1,1]": (ROWS["KAN-1 [2,1,1]"].make, ROWS["KAN-1 [2,1,1]"].hierarchy, 10),
    "KAN-1 [2,5,1]": (ROWS["KAN-1 [2,5,1]"].make, ROWS["KAN-1 [2,5,1]"].hierarchy, 10),
    "Franke": (lambda s: gallery.franke(1000, seed=s), {"degree": 5}, 4),
    "Franke, 1 % noise": (lambda s: gallery.franke(1000, seed=s, noise=0.01), {}, 4),
    "Runge": (lambda s: gallery.runge(1000, seed=s), {"degree": 5}, 4),
    "complex exponential": (lambda s: gallery.complex_exponential(1000, seed=s), {"degree": 5}, 4),
}


def main() -> int:
    arguments = harness.parse_arguments(__doc__, harness.ONLY)
    table = []
    for name, (make, hierarchy_arguments, number) in PROBLEMS.items():
        if not harness.is_chosen(name, arguments.only):
            continue
        errors = []
        for seed in range(1 if arguments.quick else number):
            model = make(seed)
            hierarchy = model.hierarchy(**hierarchy_arguments)
            method = kanmg.default_method(model.problem, hierarchy)
            solutions = [
                kanmg.solve(
                    model.problem,
                    hierarchy,
                    method=dataclasses.replace(method, fair=fair, retries=0),
                    seed=seed,
                    progress=False,
                )
                for fair in (False, True)
            ]
            errors.append([model.rms_error(solution) for solution in solutions])
            losses = " and ".join(f"{solution.loss:.1e}" for solution in solutions)
            told = any(alarm.startswith("Beside the samples") for alarm in solutions[1].alarms)
            remark = ", told to be open beside the samples" if told else ""
            print(
                f"{name}, seed {seed}: {errors[-1][0]:.1e} and {errors[-1][1]:.1e}, losses {losses}{remark}", flush=True
            )
        medians, worst = np.median(errors, axis=0), np.max(errors, axis=0)
        table.append((name, len(errors), *(f"{number:.1e}" for number in (medians[0], worst[0], medians[1], worst[1]))))
    print("\nError on unseen points, median and worst of the seeds, without and with fairing\n")
    harness.print_table(("problem", "seeds", "without", "worst", "with", "worst"), table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
