"""Time of one loss and gradient: kanmg, pykan and plain torch, interleaved in one run.

Cubic splines, float64, the same number of threads on all sides. kanmg is timed through `kanmg.Objective`, what every
smoother calls; pykan through its model's forward, the mean squared error and backward, as constructed and after
`model.speed()`, which switches its symbolic branch and its statistics off; torch in the three formulations of
torch_baseline.py, of which "scatter" is what the demands are about. kanmg and torch get the same coefficients and data:
their losses and gradients are compared first.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import numpy as np
import torch
from pykan_side import loss_and_gradient as pykan_loss_and_gradient
from torch_baseline import LAYERS
from torch_baseline import loss_and_gradient as torch_loss_and_gradient

import kanmg

# (cells, samples) -> demanded ratio over torch's scatter formulation.
OVER_TORCH = {(8, 1_000): 15.0, (64, 1_000): 15.0, (8, 20_000): 8.0, (64, 20_000): 15.0}
OVER_PYKAN = 100.0
WIDE_OVER_TORCH = {8: 2.5, 64: 4.0}
GROWTH_CELLS = (8, 16, 32, 64, 128, 256, 512)
GROWTH = 1.5


class Case:
    """One network and one set of random samples, as every side needs them."""

    def __init__(self, widths: tuple[int, ...], num_intervals: int, num_samples: int) -> None:
        self.widths, self.num_intervals = widths, num_intervals
        rng = np.random.default_rng(0)
        self.x = rng.uniform(-1.0, 1.0, (num_samples, widths[0]))
        self.y = rng.standard_normal((num_samples, widths[-1]))
        hierarchy = kanmg.uniform_hierarchy(widths=widths, degree=3, num_intervals=num_intervals, num_levels=1)
        self.level = hierarchy[0]
        self.objective = kanmg.Objective(kanmg.Regression(self.x, self.y), self.level)
        self.theta = 0.3 * rng.standard_normal(self.level.network.num_coefficients)

    def kanmg(self) -> tuple[float, np.ndarray]:
        return self.objective.value_and_gradient(self.theta)

    def torch(self, formulation: str):
        views = self.level.network.unflatten(self.theta)
        coefficients = [torch.from_numpy(view).clone().requires_grad_() for view in views]
        x, y = torch.from_numpy(self.x), torch.from_numpy(self.y)
        layer = LAYERS[formulation]
        return lambda: torch_loss_and_gradient(coefficients, x, y, self.num_intervals, layer=layer)

    def pykan(self, *, speed: bool):
        return pykan_loss_and_gradient(
            self.widths, self.num_intervals, torch.from_numpy(self.x), torch.from_numpy(self.y), speed=speed
        )

    def check(self) -> None:
        """Refuse to compare different things."""
        loss, gradient = self.kanmg()
        torch_loss, torch_gradients = self.torch("scatter")()
        np.testing.assert_allclose(loss, torch_loss.item(), rtol=1e-10)
        flat = self.level.network.flatten([array.numpy() for array in torch_gradients])
        np.testing.assert_allclose(gradient, flat, rtol=1e-7, atol=1e-9 * np.abs(flat).max())


def small_network(report: harness.Report, seconds: float) -> None:
    """Compare [2, 5, 1] with pykan and torch."""
    rows = []
    for (cells, samples), demanded in OVER_TORCH.items():
        case = Case((2, 5, 1), cells, samples)
        case.check()
        times = harness.interleaved_medians(
            {
                "kanmg": case.kanmg,
                "pykan": case.pykan(speed=False),
                "pykan speed": case.pykan(speed=True),
                **{name: case.torch(name) for name in LAYERS},
            },
            seconds=seconds,
        )
        own = times["kanmg"]
        rows.append([cells, samples, *(f"{1e3 * t:.3g}" for t in times.values())])
        rows[-1] += [f"{times[name] / own:.0f}" for name in ("pykan", "pykan speed", "scatter")]
        rows[-1].append(f"{min(times[name] for name in LAYERS) / own:.0f}")
        where = f"[2,5,1], {cells} cells, {samples} samples"
        report.at_least(f"{where}: times faster than pykan", times["pykan"] / own, OVER_PYKAN)
        report.at_least(f"{where}: times faster than torch (scatter)", times["scatter"] / own, demanded)
    print("Loss and gradient of a cubic [2,5,1] in milliseconds, and how many times faster kanmg is\n")
    names = ("kanmg", "pykan", "pykan speed()", *(f"torch {name}" for name in LAYERS))
    harness.print_table(
        ("cells", "samples", *names, "x pykan", "x speed()", "x scatter", "x best torch"),
        rows,
    )


def wide_layer(report: harness.Report, seconds: float) -> None:
    """Compare a 64-to-64 layer with torch."""
    rows = []
    for cells, demanded in WIDE_OVER_TORCH.items():
        case = Case((64, 64), cells, 4096)
        case.check()
        times = harness.interleaved_medians(
            {"kanmg": case.kanmg, **{name: case.torch(name) for name in ("scatter", "bag")}}, seconds=seconds
        )
        ratio, best = (t / times["kanmg"] for t in (times["scatter"], min(times["scatter"], times["bag"])))
        rows.append([cells, *(f"{1e3 * t:.3g}" for t in times.values()), f"{ratio:.2f}", f"{best:.2f}"])
        report.at_least(f"64-to-64, {cells} cells, 4096 samples: times faster than torch (scatter)", ratio, demanded)
    print("\nLoss and gradient of a cubic 64-to-64 layer, 4096 samples, in milliseconds\n")
    harness.print_table(("cells", "kanmg", "torch scatter", "torch bag", "x scatter", "x best torch"), rows)


def growth(report: harness.Report, seconds: float) -> None:
    """Measure the time over the number of cells."""
    rows = []
    for samples in (1_000, 20_000):
        cases = {str(cells): Case((2, 5, 1), cells, samples) for cells in GROWTH_CELLS}
        times = harness.interleaved_medians({name: case.kanmg for name, case in cases.items()}, seconds=seconds)
        ratio = times[str(GROWTH_CELLS[-1])] / times[str(GROWTH_CELLS[0])]
        rows.append([samples, *(f"{1e3 * t:.3g}" for t in times.values()), f"{ratio:.2f}"])
        where = f"[2,5,1], {samples} samples"
        report.at_most(f"{where}: growth of time from {GROWTH_CELLS[0]} to {GROWTH_CELLS[-1]} cells", ratio, GROWTH)
    print("\nkanmg's loss and gradient of a cubic [2,5,1] in milliseconds, over the number of cells\n")
    harness.print_table(("samples", *(f"{cells} cells" for cells in GROWTH_CELLS), "growth"), rows)


def main() -> int:
    arguments = harness.parse_arguments(__doc__)
    report = harness.Report()
    seconds = 1.5 if arguments.quick else 6.0
    small_network(report, seconds)
    wide_layer(report, seconds)
    growth(report, seconds)
    return report.finish(strict=arguments.strict)


if __name__ == "__main__":
    raise SystemExit(main())
