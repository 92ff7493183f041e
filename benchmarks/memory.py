"""Memory that one loss and gradient adds to a million samples on [2, 5, 1], measured in processes of their own.

The data, the hierarchy and the compiled kernels are in memory before. Measured is how far the process's resident set
grows at most while the problem is built and its loss and gradient are evaluated (Linux only).
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import kanmg

LIMIT_MEGABYTES = 200.0
CELLS = (8, 512)


def megabytes(entry: str) -> float:
    """Read one entry of this process's status, such as its resident set (VmRSS) or the largest so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{entry}:"))


def forget_largest() -> None:
    """Set the largest resident set so far back to the present one."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def measure(num_intervals: int, num_samples: int) -> tuple[float, float]:
    """Megabytes added by a loss and gradient, and its seconds."""
    level = kanmg.uniform_hierarchy(widths=(2, 5, 1), degree=3, num_intervals=num_intervals, num_levels=1)[0]
    rng = np.random.default_rng(0)
    theta = 0.1 * rng.standard_normal(level.network.num_coefficients)
    x = rng.uniform(-1.0, 1.0, (num_samples, 2))
    y = rng.standard_normal((num_samples, 1))
    few = kanmg.Objective(kanmg.Regression(x[:1000], y[:1000]), level)
    few.value_and_gradient(theta)
    forget_largest()
    before = megabytes("VmRSS")
    objective = kanmg.Objective(kanmg.Regression(x, y), level)
    objective.value_and_gradient(theta)
    added = megabytes("VmHWM") - before
    start = time.perf_counter()
    objective.value_and_gradient(theta)
    return added, time.perf_counter() - start


def main() -> int:
    options = (
        "--measure",
        {"nargs": 2, "type": int, "metavar": ("CELLS", "SAMPLES"), "help": "measure in this process"},
    )
    if "--measure" in sys.argv:
        print(*measure(*map(int, sys.argv[2:])))
        return 0
    arguments = harness.parse_arguments(__doc__, options)
    report = harness.Report()
    num_samples = 1_000_000
    rows = []
    for cells in CELLS:
        command = [sys.executable, __file__, "--measure", str(cells), str(num_samples)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
        added, seconds = map(float, printed.split())
        rows.append([cells, num_samples, f"{24 * num_samples / 2**20:.0f}", f"{added:.1f}", f"{1e3 * seconds:.0f}"])
        report.at_most(f"{cells} cells: megabytes added to the data", added, LIMIT_MEGABYTES)
    harness.print_table(("cells", "samples", "data in MB", "added in MB", "loss and gradient in ms"), rows)
    return report.finish(strict=arguments.strict)


if __name__ == "__main__":
    raise SystemExit(main())
