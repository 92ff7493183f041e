"""Truncated powers: speed and errors against the recursion of Cox and de Boor, spectra, bound of the tangent kernel.

1. Time of the values of cubic and other splines at 10,000 points, in torch: by the recursion for all basis functions of
   a knot vector, by the recursion for those of the cell, and for all in one pass over truncated powers with clamped
   arguments (`ReferenceEvaluator(basis="truncated-power")`).
2. Errors of the last two, and of the sum of powers with weights (`PowerReLUNetwork`), against rational arithmetic.
3. The ratio of the extreme eigenvalues of A^T A, and the rate at which it grows with the number of basis functions.
4. The ratio of the tangent kernels' spectral radii in the two bases, on random networks and while they are trained.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

import kanmg
from kanmg.diagnostics import kernel_bound, power_relu_spectrum, record_tangent_kernel, tangent_kernel_spectrum
from kanmg.evaluators.reference import ReferenceEvaluator

if TYPE_CHECKING:
    from collections.abc import Sequence

DEGREES = range(1, 8)
CELLS = (8, 32, 128)
NUM_POINTS = 10_000


def network_of(degree: int, cells: int) -> kanmg.Network:
    return kanmg.Network([kanmg.Spline(1, 1, knots=kanmg.uniform_knots(cells, degree=degree))])


def drawn(network: kanmg.Network, number: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.uniform(-1.0, 1.0, network.num_coefficients), rng.uniform(-1.0, 1.0, (number, 1))


# ---------------------------------------------------------------------------------------------------------------- times


def recursion_over_all(vector: torch.Tensor, degree: int, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Evaluate a spline by the recursion of Cox and de Boor for all basis functions, as most KANs in torch do."""
    basis = ((x >= vector[:-1]) & (x < vector[1:])).to(x.dtype)
    for d in range(1, degree + 1):
        left = (x - vector[: -d - 1]) / (vector[d:-1] - vector[: -d - 1])
        right = (vector[d + 1 :] - x) / (vector[d + 1 :] - vector[1:-d])
        basis = left * basis[:, :-1] + right * basis[:, 1:]
    return basis @ theta


def times(seconds: float) -> None:
    print(f"Values of one spline at {NUM_POINTS:,} points, in milliseconds: interleaved medians; and the ratios\n")
    rows = []
    for degree in DEGREES:
        for cells in CELLS:
            network = network_of(degree, cells)
            theta, x = (torch.tensor(array) for array in drawn(network, NUM_POINTS))
            vector = torch.tensor(network.layers[0].knots[0].vector)
            evaluators = {
                basis: ReferenceEvaluator(network, "float64", basis=basis) for basis in ("recursion", "truncated-power")
            }
            sides = {
                "all": partial(recursion_over_all, vector, degree, theta, x),
                "cell": partial(evaluators["recursion"].forward, theta, x),
                "pass": partial(evaluators["truncated-power"].forward, theta, x),
            }
            with torch.no_grad():
                found = harness.interleaved_medians(sides, seconds=seconds)
            ratios = [found["all"] / found["pass"], found["cell"] / found["pass"]]
            numbers = [f"{1e3 * found[side]:.3g}" for side in sides]
            rows.append((degree, cells, *numbers, *(f"{ratio:.2f}" for ratio in ratios)))
    header = ("degree", "cells", "recursion, all", "recursion, cell", "one pass", "all / one pass", "cell / one pass")
    harness.print_table(header, rows)


# --------------------------------------------------------------------------------------------------------------- errors


def exact_value(knots: kanmg.Knots, theta: np.ndarray, x: float) -> Fraction:
    """Evaluate a spline by de Boor's algorithm in rational arithmetic, on the equally spaced knots that are meant."""
    degree, number = knots.degree, knots.num_intervals
    point = (Fraction(x) + 1) * number / 2
    cell = min(int(point), number - 1)
    values = [Fraction(float(u)) for u in theta[cell : cell + degree + 1]]
    for d in range(degree, 0, -1):
        # Knot j of the cells' units is j - degree; coefficient s of this step lives on the knots behind s + cell.
        values = [
            ((point - lower) * values[s + 1] + (lower + d - point) * values[s]) / d
            for s in range(d)
            for lower in [cell + s + 1 - d]
        ]
    return values[0]


def largest_error(values: np.ndarray, exact: Sequence[Fraction]) -> float:
    return max(abs(float(Fraction(float(a)) - b)) for a, b in zip(values.ravel(), exact, strict=True))


def errors(report: harness.Report, number: int) -> None:
    print(f"\nLargest error at {number} points, coefficients in [-1, 1]\n")
    rows, growth = [], {}
    for degree in DEGREES:
        for cells in CELLS:
            network = network_of(degree, cells)
            theta, x = drawn(network, number)
            # Numbers that float32 has, too.
            theta, x = np.round(theta * 2.0**20) / 2.0**20, np.round(x * 2.0**20) / 2.0**20
            exact = [exact_value(network.layers[0].knots[0], theta, point) for point in x.ravel()]
            found = []
            for dtype in ("float64", "float32"):
                for basis in ("recursion", "truncated-power"):
                    evaluator = ReferenceEvaluator(network, dtype, basis=basis)
                    found.append(largest_error(evaluator.value(theta.astype(dtype), x.astype(dtype)), exact))
            found.insert(2, largest_error(kanmg.to_power_relu(network, theta)(x), exact))
            growth[degree, cells] = found[1]
            rows.append((degree, cells, *(f"{error:.1e}" for error in found)))
    header = ("degree", "cells", "recursion", "one pass", "ReLU^k network", "recursion, float32", "one pass, float32")
    harness.print_table(header, rows)
    for cells in CELLS:
        worst = max(growth[degree, cells] for degree in DEGREES) / 2.0**-52
        report.at_most(f"{cells} cells: largest error of one pass, in roundings of 1", worst, 100 + cells)


# -------------------------------------------------------------------------------------------------------------- spectra


def spectra(report: harness.Report, largest: int) -> None:
    print("\nRatio of the extreme eigenvalues of A^T A for m = n + k functions, and its rate over the last doubling\n")
    sizes = [size for size in (16, 32, 64, 128, 256, 512) if size <= largest]
    rows = []
    for degree in range(1, 6):
        found = [power_relu_spectrum(kanmg.uniform_knots(size - degree, degree=degree)) for size in sizes]
        ratios = [spectrum[0] / spectrum[-1] for spectrum in found]
        rate = float(np.log2(ratios[-1] / ratios[-2]))
        rows.append((degree, *(f"{ratio:.1e}" for ratio in ratios), f"{rate:.2f}", 2 * (degree + 1)))
        distance = abs(rate / (2 * (degree + 1)) - 1)
        report.at_most(f"degree {degree}: relative distance of the rate from 2 (k + 1)", distance, 0.07)
    harness.print_table(("degree", *(f"m = {size}" for size in sizes), "rate", "2 (k + 1)"), rows)


# -------------------------------------------------------------------------------------------------------------- kernels


def kernels(report: harness.Report, seeds: int, steps: int) -> None:
    print(f"\nSpectral radius of the tangent kernel, splines / ReLU: the largest of {seeds} seeds and two sizes\n")
    rows = []
    for degree in range(1, 6):
        ratios: dict[str, list[float]] = {"random": [], "Adam": [], "LBFGS": []}
        for seed in range(seeds):
            for cells in (3, 12):
                for widths, lift in (((2, 5, 1), None), ((2, 5, 1), "affine"), ((2, 5, 5, 2), None)):
                    hierarchy = kanmg.uniform_hierarchy(
                        widths, degree=degree, num_intervals=cells, num_levels=1, lift=lift
                    )
                    x = np.random.default_rng(seed).uniform(-1.0, 1.0, (200, 2))
                    y = np.sin(3 * x) * x[:, ::-1]
                    objective = kanmg.Objective(kanmg.Regression(x, y[:, : widths[-1]]), hierarchy[0])
                    theta = kanmg.initial_coefficients(hierarchy[0].network, x, seed=seed, noise=1.0)
                    radii = [
                        tangent_kernel_spectrum(hierarchy[0].evaluator, theta, x, basis=basis)[0]
                        for basis in ("spline", "relu")
                    ]
                    ratios["random"].append(radii[0] / radii[1])
                    for smoother in (kanmg.Adam(), kanmg.LBFGS()):
                        records = record_tangent_kernel(
                            objective, smoother, theta, x, steps=steps, every=max(1, steps // 5)
                        )
                        ratios[type(smoother).__name__] += [record.ratio for record in records]
        proven = kernel_bound(kanmg.uniform_hierarchy((1, 1), degree=degree, num_levels=1)[0].evaluator)
        rows.append((degree, *(f"{max(found):.2g}" for found in ratios.values()), f"{max(1.0, proven):.3g}"))
        report.at_most(f"degree {degree}: largest ratio", max(map(max, ratios.values())), 4.0)
    harness.print_table(("degree", "random", "while Adam trains", "while L-BFGS trains", "proven"), rows)


def main() -> int:
    """Print all tables."""
    arguments = harness.parse_arguments(__doc__)
    quick, report = arguments.quick, harness.Report()
    times(0.05 if quick else 0.5)
    errors(report, 20 if quick else 300)
    spectra(report, 64 if quick else 512)
    kernels(report, 1 if quick else 5, 5 if quick else 100)
    return report.finish(strict=arguments.strict)


if __name__ == "__main__":
    raise SystemExit(main())
