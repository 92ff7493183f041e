"""Growth: time of one smoothing step against the number of points and of cells.

Steps of Adam, which are one loss and gradient and an update: of a regression, and of an equation u_xx + u_yy = f;
[2,5,1], degree 5, float64. Slopes are those of least-squares lines through the logarithms of the medians.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
from typing import TYPE_CHECKING

import numpy as np

import kanmg

if TYPE_CHECKING:
    from collections.abc import Callable

POINTS, CELLS = (1_000, 10_000, 100_000, 1_000_000), (4, 16, 64, 256, 512)
MOST_OVER_POINTS, MOST_OVER_CELLS = 1.05, 0.1


def regression(x: np.ndarray) -> kanmg.Regression:
    return kanmg.Regression(x, np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2))


def equation(x: np.ndarray) -> kanmg.Collocation:
    term = kanmg.Term("equation", lambda x, u: u.d("x", "x") + u.d("y", "y") - x[:, 0], x)
    return kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=[term])


def step_of(make: Callable[[np.ndarray], kanmg.problems.base.Problem], points: int, cells: int) -> Callable[[], object]:
    """Return a function that does one step, always from the same state."""
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (points, 2))
    level = kanmg.uniform_hierarchy((2, 5, 1), degree=5, num_intervals=cells, num_levels=1)[0]
    problem, smoother = make(x), kanmg.Adam()
    objective = kanmg.Objective(problem, level)
    theta = kanmg.initial_coefficients(level.network, x, seed=0)
    state = smoother.init(objective, theta)
    return lambda: smoother.step(objective, theta, state)


def slope(sizes: tuple[int, ...], seconds: list[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def main() -> int:
    arguments = harness.parse_arguments(__doc__)
    report, seconds = harness.Report(), 5.0 if arguments.quick else 30.0
    for name, make in {"regression": regression, "equation": equation}.items():
        for what, sizes, most in (("points", POINTS, MOST_OVER_POINTS), ("cells", CELLS, MOST_OVER_CELLS)):
            steps = {str(size): step_of(make, *((size, 64) if what == "points" else (20_000, size))) for size in sizes}
            medians = list(harness.interleaved_medians(steps, seconds=seconds).values())
            print(f"One step of Adam, {name}, {'64 cells' if what == 'points' else '20,000 points'}, in milliseconds\n")
            rows = [(f"{size:,}", f"{1e3 * median:.3g}") for size, median in zip(sizes, medians, strict=True)]
            harness.print_table((what, "step"), rows)
            print()
            report.at_most(f"{name}: slope over {what}", slope(sizes, medians), most)
    return report.finish(strict=arguments.strict)


if __name__ == "__main__":
    raise SystemExit(main())
