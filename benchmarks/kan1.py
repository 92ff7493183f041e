"""KAN-1: nested L-BFGS against pykan's documented grid refinement, both on the same samples in one script.

exp(sin(pi x) + y^2) from 1,000 samples by a cubic [2, 1, 1]. pykan 0.2.8 runs its first documented example: 3, 10, 20
and 50 cells, 200 L-BFGS steps each, float32, seed 1 (100 cells make it worse). Test RMSE on 1,000 unseen points, the
same for both.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import math
from itertools import pairwise

from pykan_side import refine_and_fit

import kanmg
from kanmg import gallery

PYKAN_GRIDS, PYKAN_STEPS = (3, 10, 20, 50), 200
TEST_SAMPLES = 1000
RMSE, PART_OF_TIME = 1.2e-5, 0.1
# What pykan's documentation prints for these grids.
DOCUMENTED = {3: 1.53e-2, 10: 3.29e-4, 20: 4.04e-5, 50: 1.24e-5}


def kanmg_levels(model: gallery.ModelProblem) -> list[tuple[int, float, float]]:
    """Cells, test RMSE at the end of each level, and seconds so far."""
    problem = kanmg.Regression(model.x, model.y, validation=model.test_data(TEST_SAMPLES))
    hierarchy = model.hierarchy()
    method = kanmg.NestedIteration(kanmg.LBFGS(), steps=100)
    solution = kanmg.solve(problem, hierarchy, method=method, progress=False)
    last = {record.level: record for record in solution.history if record.event == "smooth"}
    return [
        (hierarchy[level].network.layers[0].num_intervals, math.sqrt(record.validation_loss), record.seconds)
        for level, record in sorted(last.items())
    ]


def main() -> int:
    arguments = harness.parse_arguments(__doc__)
    model = gallery.kan1()
    kanmg_levels(model)  # compiles or loads the kernels
    own = kanmg_levels(model)
    steps = 20 if arguments.quick else PYKAN_STEPS
    pykan = refine_and_fit((2, 1, 1), PYKAN_GRIDS, steps, (model.x, model.y), model.test_data(TEST_SAMPLES))

    print("kanmg, nested L-BFGS\n")
    harness.print_table(("cells", "test RMSE", "seconds so far"), [(n, f"{e:.2e}", f"{t:.2f}") for n, e, t in own])
    print(f"\npykan, {steps} L-BFGS steps a grid\n")
    rows = [(n, f"{e:.2e}", f"{DOCUMENTED[n]:.2e}", f"{t:.1f}") for n, e, t in pykan]
    harness.print_table(("cells", "test RMSE", "documented (200 steps)", "seconds so far"), rows)

    report = harness.Report()
    errors = [error for _, error, _ in own]
    report.at_most("test RMSE on the finest level", errors[-1], RMSE)
    part = own[-1][2] / pykan[-1].seconds
    report.at_most(f"part of pykan's time ({steps} steps a grid)", part, PART_OF_TIME)
    worst = max(fine / coarse for coarse, fine in pairwise(errors))
    report.at_most("largest ratio of a level's test RMSE to that of the level before", worst, 1.0)
    return report.finish(strict=arguments.strict)


if __name__ == "__main__":
    raise SystemExit(main())
