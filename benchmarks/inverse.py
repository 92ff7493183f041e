"""What accuracy a viscosity found from noisy samples can have: the errors of both methods beside the Cramer-Rao bound.

The bound is the least standard deviation of an unbiased estimate of nu from the samples of `gallery.inverse_burgers`,
for who knows the solution up to nu, initial and boundary values included; the methods know the equation and the samples
only. Nested iteration is the default method, and the finest level alone has the same seconds.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import numpy as np
from multilevel import compare

from kanmg import gallery
from kanmg.gallery.equations import cole_hopf

NAME, NUM_SAMPLES, STEP = "inverse Burgers", 200, 1e-4


def bound(seed: int) -> float:
    """Return the least standard deviation of nu, relative to nu."""
    model = gallery.inverse_burgers(num_samples=NUM_SAMPLES, seed=seed)
    nu, points = model.parameters["nu"], model.x[-NUM_SAMPLES:]
    slopes = (cole_hopf(points, nu + STEP) - cole_hopf(points, nu - STEP)) / (2.0 * STEP)
    noise = 0.01 * cole_hopf(points, nu).std()
    return float(noise / np.linalg.norm(slopes) / nu)


def main() -> int:
    arguments = harness.parse_arguments(__doc__, ("--seeds", {"type": int, "default": 0, "help": "8, or 2 if quick"}))
    table = []
    for seed in range(arguments.seeds or (2 if arguments.quick else 8)):
        outcome = compare(NAME, seed)
        table.append((seed, bound(seed), outcome["nested"]["error"], outcome["alone"]["error"]))
        print(f"seed {seed}: {table[-1][1:]}", flush=True)
    numbers = np.array(table)[:, 1:]
    rows = [(seed, *(f"{number:.1e}" for number in row)) for seed, *row in table]
    rows.append(("root mean square", *(f"{number:.1e}" for number in np.sqrt(np.mean(numbers**2, axis=0)))))
    print("\nRelative error of nu, from samples with 1 % of noise\n")
    harness.print_table(("seed", "Cramer-Rao bound", "nested iteration", "finest level alone"), rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
