"""What the benchmark scripts share: thread counts, interleaved timing, demands with PASS or FAIL, tables.

Import this module before anything numerical: it fixes the number of threads of all sides (two, or OMP_NUM_THREADS).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

# The libraries count their threads when they are loaded: none of them is imported above.
NUM_THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", "2"))
for _variable in ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = str(NUM_THREADS)

ROOT = Path(__file__).parent.parent
# A sample shorter than this is repeated and averaged, so that the clock and the caches do not decide.
SHORTEST_SAMPLE = 1e-2
# Threads of OpenMP that have nothing to do spin for some 10 ms before they sleep, on the cores of whoever comes next.
WARM_UP = 0.03


def parse_arguments(description: str | None, *options: tuple[str, dict[str, object]]) -> argparse.Namespace:
    """Parse the command line, set torch's threads, and print how the script was called and on what."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and smaller runs")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a demand is not met")
    for name, settings in options:
        parser.add_argument(name, **settings)  # type: ignore[arg-type]
    arguments = parser.parse_args()
    print_header()
    return arguments


def print_header() -> None:
    """Print the command line and what the numbers depend on."""
    import numpy as np  # noqa: PLC0415  (after the number of threads is fixed)
    import torch  # noqa: PLC0415

    torch.set_num_threads(NUM_THREADS)
    print(f"$ python {Path(sys.argv[0]).as_posix()} {' '.join(sys.argv[1:])}".rstrip())
    print(
        f"Python {platform.python_version()}, NumPy {np.__version__}, torch {torch.__version__}, "
        f"{NUM_THREADS} threads of {os.cpu_count()} cores, "
        f"{processor()}, load {os.getloadavg()[0]:.1f}\n"
    )


def processor() -> str:
    """Name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


# --------------------------------------------------------------------------------------------------------------- timing


def interleaved_medians(
    functions: Mapping[str, Callable[[], object]], *, seconds: float, least_rounds: int = 5
) -> dict[str, float]:
    """Median time of one call of each function, in seconds; all are timed in turn, round after round.

    Before every sample its function is called for a while untimed: meanwhile the threads of the function before fall
    asleep, its own wake up, and the caches are loaded.
    """
    repetitions = {name: _repetitions(function) for name, function in functions.items()}
    samples: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, samples.values())) < least_rounds:
        for name, function in functions.items():
            _warm_up(function)
            samples[name].append(_time(function, repetitions[name]))
    return {name: statistics.median(values) for name, values in samples.items()}


def _warm_up(function: Callable[[], object]) -> None:
    end = time.perf_counter() + WARM_UP
    function()
    while time.perf_counter() < end:
        function()


def _repetitions(function: Callable[[], object]) -> int:
    function()
    return max(1, round(SHORTEST_SAMPLE / max(_time(function, 1), 1e-7)))


def _time(function: Callable[[], object], repetitions: int) -> float:
    start = time.perf_counter()
    for _ in range(repetitions):
        function()
    return (time.perf_counter() - start) / repetitions


# -------------------------------------------------------------------------------------------------------- kept results


class Kept:
    """Results by name, each written to a file as soon as it is known: what was cut off goes on where it ended.

    Delete the file when the package or a script has changed: nothing else makes its results void.

    Parameters
    ----------
    path : str or None
        A file of one JSON object per line; None keeps results for this run alone.
    """

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None
        self._results: dict[str, Any] = {}
        if self._path is not None and self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                # A run that was killed may have left half a line.
                with suppress(json.JSONDecodeError):
                    self._results.update(json.loads(line))

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return the result of this name, computed and written if it is not there yet: what JSON can hold."""
        if name not in self._results:
            self._results[name] = compute()
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    # The line break comes first, and ends what a killed run may have left.
                    file.write("\n" + json.dumps({name: self._results[name]}))
        return self._results[name]


KEEP = ("--keep", {"metavar": "FILE", "help": "write results there one by one, and do not repeat those that are there"})
ONLY = ("--only", {"action": "append", "default": [], "help": "rows whose names contain this"})
SEEDS = ("--seeds", {"type": int, "default": 0, "help": "number of seeds"})


def is_chosen(name: str, parts: Sequence[str]) -> bool:
    """Whether a name contains one of the parts, or there are none."""
    return not parts or any(part in name for part in parts)


# -------------------------------------------------------------------------------------------------------------- reports


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Print a Markdown table, with aligned columns, and return it."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, " | ".join("-" * width for width in widths))
    table = "\n".join(f"| {line} |" for line in lines)
    print(table, flush=True)
    return table


class Report:
    """Collects demands and prints PASS or FAIL for each."""

    def __init__(self) -> None:
        self._lines: list[tuple[str, str, str, str]] = []
        self.failures = 0

    def at_least(self, what: str, value: float, demanded: float) -> str:
        """Demand `value >= demanded`."""
        return self._add(what, value, f"at least {demanded:g}", met=value >= demanded)

    def at_most(self, what: str, value: float, demanded: float) -> str:
        """Demand `value <= demanded`."""
        return self._add(what, value, f"at most {demanded:g}", met=value <= demanded)

    def _add(self, what: str, value: float, demand: str, *, met: bool) -> str:
        verdict = "PASS" if met else "FAIL"
        self.failures += not met
        self._lines.append((what, f"{value:.3g}", demand, verdict))
        return verdict

    def finish(self, *, strict: bool = False) -> int:
        """Print all demands; the exit code is 0, or 1 if `strict` and one was not met."""
        print("\nDemands\n")
        print_table(("demand", "measured", "demanded", ""), self._lines)
        print(f"\n{len(self._lines) - self.failures} of {len(self._lines)} demands met")
        return int(strict and self.failures > 0)
