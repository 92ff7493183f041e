"""Memory that one loss and gradient adds to a million samples on [2, 5, 1], measured in processes of their own.

The data, the hierarchy and the compiled kernels are in memory before. The process's largest resident set is watched
while the problem is built and its loss and gradient are evaluated.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

import numpy as np

import kanmg

LIMIT_MEGABYTES = 200.0
CELLS = (8, 512)


def resident_megabytes() -> float:
    """Resident set of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


class Watch:
    """Samples the resident set every millisecond; `added` is its largest growth."""

    def __enter__(self) -> Self:
        self._before = self._largest = resident_megabytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self.added = max(self._largest, resident_megabytes()) - self._before

    def _sample(self) -> None:
        while not self._stop.wait(1e-3):
            self._largest = max(self._largest, resident_megabytes())


def measure(num_intervals: int, num_samples: int) -> tuple[float, float]:
    """Megabytes added by a loss and gradient, and its seconds."""
    level = kanmg.uniform_hierarchy(widths=(2, 5, 1), degree=3, num_intervals=num_intervals, num_levels=1)[0]
    rng = np.random.default_rng(0)
    theta = 0.1 * rng.standard_normal(level.network.num_coefficients)
    x = rng.uniform(-1.0, 1.0, (num_samples, 2))
    y = rng.standard_normal((num_samples, 1))
    few = kanmg.Objective(kanmg.Regression(x[:1000], y[:1000]), level)
    few.value_and_gradient(theta)
    with Watch() as watch:
        objective = kanmg.Objective(kanmg.Regression(x, y), level)
        objective.value_and_gradient(theta)
        start = time.perf_counter()
        objective.value_and_gradient(theta)
        seconds = time.perf_counter() - start
    return watch.added, seconds


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
