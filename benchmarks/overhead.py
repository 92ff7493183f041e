"""What is paid besides evaluations: a smoother's step, the import, the start, the compilation.

The times of starting and compiling are taken in processes of their own; with an empty cache where the first run ever is
meant, in a warm one where any later run is.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import kanmg

STEP_OVER_EVALUATIONS = 2.0
IMPORT_SECONDS = 0.5
START_SECONDS = 5.0
COMPILATION_SECONDS = 20.0
NEW_SHAPE_SECONDS = 1.0

# Runs the script that is named on the command line, and prints the time of the first smoothing step's end.
UNTIL_FIRST_STEP = """
import runpy, sys, time
import kanmg
step = kanmg.LBFGS.step
def first_step(self, *arguments):
    result = step(self, *arguments)
    print(f"first step at {time.time()!r}", flush=True)
    raise SystemExit
kanmg.LBFGS.step = first_step
runpy.run_path(sys.argv[1], run_name="__main__")
"""

# Trains a network whose widths are given on the command line for one step, and prints the seconds that this took.
SOLVE_ONCE = """
import sys, time
import numpy as np
import kanmg
widths = tuple(map(int, sys.argv[1].split(",")))
x = np.random.default_rng(0).uniform(-1.0, 1.0, (1000, widths[0]))
y = np.repeat(np.sin(x.sum(axis=1, keepdims=True)), widths[-1], axis=1)
start = time.perf_counter()
hierarchy = kanmg.uniform_hierarchy(widths=widths, degree=3, num_intervals=5, num_levels=2)
kanmg.solve(kanmg.Regression(x, y), hierarchy, method=kanmg.NestedIteration(kanmg.LBFGS(), steps=1), progress=False)
print(time.perf_counter() - start)
"""
SEEN, NEW = "2,5,1", ("3,7,4,2", "6,3,1", "1,9,9,9,1")


class TimedObjective:
    """An objective that adds up the time of its evaluations."""

    def __init__(self, objective: kanmg.Objective) -> None:
        self._objective = objective
        self.seconds = 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self._objective, name)

    def value(self, theta):
        return self._timed(self._objective.value, theta)

    def value_and_gradient(self, theta):
        return self._timed(self._objective.value_and_gradient, theta)

    def _timed(self, evaluate, theta):
        start = time.perf_counter()
        result = evaluate(theta)
        self.seconds += time.perf_counter() - start
        return result


def step_ratio(smoother, num_steps: int, repetitions: int) -> tuple[float, float, float]:
    """Median microseconds of a step, of its evaluations, and the median of their ratio."""
    model = kanmg.gallery.kan1(1000)
    level = model.hierarchy(widths=(2, 5, 1), num_intervals=8, num_levels=1)[0]
    steps, evaluations = [], []
    for seed in range(repetitions):
        objective = TimedObjective(kanmg.Objective(model.problem, level))
        theta = kanmg.initial_coefficients(level.network, model.x, seed=seed)
        state = smoother.init(objective, theta)
        objective.seconds, start = 0.0, time.perf_counter()
        for _ in range(num_steps):
            theta, state, _ = smoother.step(objective, theta, state)
        steps.append((time.perf_counter() - start) / num_steps)
        evaluations.append(objective.seconds / num_steps)
    ratio = statistics.median(np.divide(steps, evaluations))
    return 1e6 * statistics.median(steps), 1e6 * statistics.median(evaluations), ratio


def solve_ratio(smoother, num_steps: int) -> float:
    """Time of `kanmg.solve`, records and all, over that of as many bare steps."""
    model = kanmg.gallery.kan1(1000)
    hierarchy = model.hierarchy(widths=(2, 5, 1), num_intervals=8, num_levels=1)
    method = kanmg.NestedIteration(smoother, steps=num_steps)
    solution = kanmg.solve(model.problem, hierarchy, method=method, progress=False)
    objective = kanmg.Objective(model.problem, hierarchy[0])
    evaluation = harness.interleaved_medians(
        {"gradient": lambda: objective.value_and_gradient(solution.coefficients)}, seconds=0.3
    )
    return solution.seconds / (evaluation["gradient"] * solution.work_units)


def run(code: str, *arguments: str, cache: str | None = None) -> str:
    """Run code in a new process and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(harness.ROOT)}
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = cache
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout  # noqa: S603


def steps(report: harness.Report, repetitions: int) -> None:
    """Compare smoothers' steps with their evaluations."""
    rows = []
    for smoother in (kanmg.LBFGS(), kanmg.Adam()):
        name = type(smoother).__name__
        step, evaluation, ratio = step_ratio(smoother, 200, repetitions)
        rows.append([name, f"{step:.0f}", f"{evaluation:.0f}", f"{ratio:.2f}", f"{solve_ratio(smoother, 400):.2f}"])
        report.at_most(f"one {name} step over its evaluations", ratio, STEP_OVER_EVALUATIONS)
    print("[2,5,1], 8 cells, 1,000 samples: one step, its evaluations (microseconds), `solve` per counted work unit\n")
    harness.print_table(("smoother", "step", "evaluations", "ratio", "solve / work"), rows)


def imports(report: harness.Report, repetitions: int) -> None:
    """Compare the imports of kanmg and of torch."""
    seconds: dict[str, list[float]] = {"import torch": [], "import kanmg": []}
    for statement in list(seconds) * (repetitions + 1):
        seconds[statement].append(_process_seconds(statement))
    torch, own = (statistics.median(values[1:]) for values in seconds.values())
    print(f"\nimport torch {torch:.2f} s, import kanmg {own:.2f} s, in new processes")
    report.at_most("`import kanmg` over `import torch` in seconds", own - torch, IMPORT_SECONDS)


def _process_seconds(code: str) -> float:
    start = time.perf_counter()
    run(code)
    return time.perf_counter() - start


def first_step(report: harness.Report, repetitions: int) -> None:
    """Measure the cached start of the demo."""
    times = []
    for _ in range(repetitions + 1):
        start = time.time()
        with tempfile.TemporaryDirectory() as folder:
            demo = str(harness.ROOT / "examples" / "demo.py")
            code = f"import os; os.chdir({folder!r})\n{UNTIL_FIRST_STEP}"
            printed = run(code, demo)
        times.append(float(printed.split("first step at ")[1].split()[0]) - start)
    print(f"\nexamples/demo.py reaches the end of its first step after {statistics.median(times[1:]):.2f} s")
    report.at_most(
        "cached start of the demo until its first step in seconds", statistics.median(times[1:]), START_SECONDS
    )


def compilation(report: harness.Report, repetitions: int) -> None:
    """Measure the first solve ever, and new shapes afterwards."""
    with tempfile.TemporaryDirectory() as cache:
        cold = float(run(SOLVE_ONCE, SEEN, cache=cache))
        files = _files(cache)
        seen, new = [], []
        for _ in range(repetitions):
            seen.append(float(run(SOLVE_ONCE, SEEN, cache=cache)))
            new.append(max(float(run(SOLVE_ONCE, shape, cache=cache)) for shape in NEW))
        compiled = len(_files(cache) - files)
    warm, shape = statistics.median(seen), statistics.median(new)
    print(
        f"\nfirst solve ever {cold:.1f} s; the same in a new process {warm:.2f} s; the slowest new shape {shape:.2f} s"
    )
    print(f"files that new shapes added to the cache: {compiled}")
    report.at_most("compilation of the first solve ever in seconds", cold - warm, COMPILATION_SECONDS)
    report.at_most("a new shape with a warm cache in seconds", shape - warm, NEW_SHAPE_SECONDS)


def _files(folder: str) -> set[Path]:
    return {path for path in Path(folder).rglob("*") if path.is_file()}


def main() -> int:
    arguments = harness.parse_arguments(__doc__)
    report = harness.Report()
    repetitions = 3 if arguments.quick else 7
    steps(report, repetitions)
    imports(report, repetitions)
    first_step(report, repetitions)
    compilation(report, repetitions)
    return report.finish(strict=arguments.strict)


if __name__ == "__main__":
    raise SystemExit(main())
