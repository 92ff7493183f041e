"""Where matrix products with all basis functions beat the fused local kernels, beside what the rule predicts.

One spline layer or two, cubic; loss and gradient on one thread and on two. The constants of the rule in
`kanmg.evaluators.dense` are fitted to the column for one thread.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import numpy as np
import torch

import kanmg
from kanmg.evaluators.cpu import CPUEvaluator
from kanmg.evaluators.dense import DenseCPUEvaluator, dense_is_faster

# Widths, cells, samples.
CASES = (
    ((16, 16), 1, 16_384),
    ((64, 64), 1, 4_096),
    ((64, 64), 2, 4_096),
    ((64, 64), 8, 4_096),
    ((256, 256), 1, 1_024),
    ((256, 256), 3, 1_024),
    ((256, 256), 8, 1_024),
    ((10, 40, 40, 1), 2, 4_096),
)


def ratios(widths: tuple[int, ...], cells: int, samples: int, dtype: str, seconds: float) -> tuple[list[float], bool]:
    """Time of the local kernels over that of the dense products, for one thread and two; and what the rule says."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 1.0, (samples, widths[0])).astype(dtype)
    y = rng.standard_normal((samples, widths[-1])).astype(dtype)
    network = kanmg.uniform_hierarchy(widths, degree=3, num_intervals=cells, num_levels=1, dtype=dtype)[0].network
    theta = (0.3 * rng.standard_normal(network.num_coefficients)).astype(dtype)
    local, dense = CPUEvaluator(network, dtype), DenseCPUEvaluator(network, dtype)
    np.testing.assert_allclose(
        dense.squared_error_value(theta, x, y), local.squared_error_value(theta, x, y), rtol=1e-3
    )
    result = []
    for threads in (1, harness.NUM_THREADS):
        torch.set_num_threads(threads)
        times = harness.interleaved_medians(
            {
                "local": lambda: local.squared_error(theta, x, y),
                "dense": lambda: dense.squared_error(theta, x, y),
            },
            seconds=seconds,
        )
        result.append(times["local"] / times["dense"])
    return result, dense_is_faster(network)


def main() -> int:
    arguments = harness.parse_arguments(__doc__)
    rows = []
    for dtype in ("float64", "float32"):
        for widths, cells, samples in CASES:
            (one, more), chosen = ratios(widths, cells, samples, dtype, 0.5 if arguments.quick else 2.0)
            rows.append(
                (list(widths), cells, samples, dtype, f"{one:.2f}", f"{more:.2f}", "dense" if chosen else "local")
            )
    print("Time of the fused local kernels over that of the dense products (above 1: products are faster)\n")
    harness.print_table(
        ("widths", "cells", "samples", "dtype", "1 thread", f"{harness.NUM_THREADS} threads", "rule"), rows
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
