"""What several starts on the coarsest level gain, on the gallery's problems: how the default was chosen.

Nested iteration with L-BFGS on the hierarchies of the gallery. Seed s draws the samples and the initial
coefficients. Errors: root mean square on unseen points.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import numpy as np

import kanmg
from kanmg import gallery

PROBLEMS = {
    "KAN-1": lambda seed: gallery.kan1(seed=seed),
    "ML-1": lambda seed: gallery.ml1(5_000, seed=seed),
    "Franke": lambda seed: gallery.franke(seed=seed),
    "complex exponential": lambda seed: gallery.complex_exponential(seed=seed),
    "Friedman": lambda seed: gallery.friedman(seed=seed),
    "kink": lambda seed: gallery.kink(seed=seed),
}
STARTS = {
    "1": 1,
    "4 x 50": kanmg.Starts(4, steps=50),
    "8 x 50": kanmg.Starts(8, steps=50),
    "16 x 50": kanmg.Starts(16, steps=50),
    "8 x 25": kanmg.Starts(8, steps=25),
    "8 x 100": kanmg.Starts(8, steps=100),
    "8 x 200": kanmg.Starts(8, steps=200),
}


def main() -> int:
    arguments = harness.parse_arguments(__doc__)
    rows = []
    for name, make in PROBLEMS.items():
        for label, starts in STARTS.items():
            errors, work = [], []
            for seed in range(2 if arguments.quick else 7):
                model = make(seed)
                method = kanmg.NestedIteration(kanmg.LBFGS(), steps=300, starts=starts)
                solution = kanmg.solve(model.problem, model.hierarchy(), method=method, seed=seed, progress=False)
                errors.append(model.mean_squared_error(solution) ** 0.5)
                work.append(solution.work_units)
            rows.append((name, label, f"{np.median(errors):.2e}", f"{max(errors):.2e}", f"{np.median(work):.0f}"))
    harness.print_table(("problem", "starts x steps", "median error", "worst", "work units"), rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
