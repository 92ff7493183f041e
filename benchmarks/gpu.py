"""The GPU evaluator: time, share of the device's limits, and speed against plain torch on the same GPU.

    python benchmarks/gpu.py                 everything, as tables
    python benchmarks/gpu.py --samples 1e5   fewer samples in the large cases
    python benchmarks/gpu.py --only speed    one part: speed, cells, normal, parity, solve; the last two compile for the
                                             CPU first, for a minute or two

Times are medians by events on the device, and include everything that a call does on the host. The bound of a row is
the time of its counted multiply-adds at the rate of a kernel that does nothing else, or of its counted bytes at the
rate of a copy, whichever is longer. Where there is no CUDA device the script says so and ends.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from itertools import pairwise

import numpy as np
import torch

import kanmg
from kanmg.devices import import_cupy, resolve_device
from kanmg.errors import DeviceError
from kanmg.evaluators.base import Jet
from kanmg.evaluators.cpu import CPUEvaluator
from kanmg.evaluators.gpu_dense import DenseGPUEvaluator, GPUEvaluator, fastest_evaluator
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.testing.cases import METHODS, NETWORKS
from kanmg.testing.cases import Case as ContractCase

CELLS = (8, 16, 32, 64, 128, 256, 512)

MULTIPLY_ADDS = r"""
extern "C" __global__ void %(name)s(%(type)s *out, int repetitions) {
    %(type)s sums[8];
    for (int i = 0; i < 8; ++i) sums[i] = threadIdx.x + i;
    for (int k = 0; k < repetitions; ++k)
        for (int i = 0; i < 8; ++i) sums[i] = sums[i] * (%(type)s)1.0000001 + (%(type)s)1e-9;
    for (int i = 1; i < 8; ++i) sums[0] += sums[i];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sums[0];
}
"""


def chain(widths, degree, num_intervals):
    knots = kanmg.uniform_knots(num_intervals, degree=degree)
    return kanmg.Network([kanmg.Spline(*pair, knots=knots) for pair in pairwise(widths)])


def milliseconds(call, repetitions=20):
    """Median time of a call, measured by events on the device after three calls to warm up."""
    for _ in range(3):
        call()
    times = []
    for _ in range(repetitions):
        torch.cuda.synchronize()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return float(np.median(times))


def measured_rates():
    """Bytes per second of a copy, and multiply-adds per second of a kernel and of matrix products, by dtype."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    bandwidth = 2 * source.numel() / milliseconds(lambda: target.copy_(source)) * 1e3
    cupy, rates, products = import_cupy("cuda"), {}, {}
    blocks, threads, repetitions = 8 * torch.cuda.get_device_properties().multi_processor_count, 256, 2000
    for dtype, name in ((torch.float64, "double"), (torch.float32, "float")):
        out = torch.empty(blocks * threads, dtype=dtype, device="cuda")
        kernel = cupy.RawKernel(MULTIPLY_ADDS % {"name": f"multiply_{name}", "type": name}, f"multiply_{name}")
        with torch.cuda.stream(torch.cuda.default_stream()):
            spent = milliseconds(
                lambda k=kernel, o=out: k((blocks,), (threads,), (o.data_ptr(), np.int32(repetitions)))
            )
        rates[name] = 8 * repetitions * blocks * threads / spent * 1e3
        square = torch.randn(4096, 4096, dtype=dtype, device="cuda")
        products[name] = 4096**3 / milliseconds(lambda a=square: a @ a) * 1e3
    return bandwidth, rates, products


class Case:
    """A network, and data on the device."""

    def __init__(self, network, dtype, num_samples, directions=0):
        random = np.random.default_rng(0)
        self.network, self.dtype, self.num_samples, self.directions = network, dtype, num_samples, directions
        x = random.uniform(-1, 1, (num_samples, network.num_inputs))
        theta = 0.3 * random.standard_normal(network.num_coefficients)
        shape = (num_samples, network.num_outputs)
        self.theta, self.x, self.y, self.lines = (
            torch.tensor(array.astype(dtype), device="cuda")
            for array in (theta, x, random.standard_normal(shape), np.eye(network.num_inputs)[:directions])
        )
        seed = self.y.expand(directions, *shape).contiguous()
        self.cotangents = Jet(self.y, (seed, seed))

    def kanmg(self, kind=GPUEvaluator):
        evaluator = kind(self.network, self.dtype)
        if not self.directions:
            return lambda: evaluator.squared_error(self.theta, self.x, self.y)

        def run():
            evaluator.jet(self.theta, self.x, self.lines, 2)
            evaluator.jet_adjoint(self.theta, self.x, self.lines, self.cotangents)

        return run

    def torch(self, *, compiled=False):
        """Differentiate the reference automatically, by nested differentiation where there are directions."""
        reference = ReferenceEvaluator(self.network, self.dtype, "cuda")
        theta = self.theta.clone().requires_grad_()
        forward = torch.compile(reference.forward) if compiled else reference.forward

        def run():
            x = self.x.clone().requires_grad_(bool(self.directions))
            u = forward(theta, x)
            total = ((u - self.y) ** 2).sum()
            for line in self.lines:
                (gradient,) = torch.autograd.grad(u.sum(), x, create_graph=True)
                along = gradient @ line
                (second,) = torch.autograd.grad(along.sum(), x, create_graph=True)
                total = total + (along**2).sum() + ((second @ line) ** 2).sum()
            torch.autograd.grad(total, theta)

        return run

    def multiply_adds(self):
        """Count the least that one loss and gradient takes: basis functions once, contractions, sums of gradients."""
        total, D = 0, self.directions
        for layer in self.network.layers:
            k, levels = layer.degree, 4 if D else 2
            basis = sum((k + 1) * (k - level) for level in range(levels))
            forward = (3 if D else 1) * (k + 1) + 3 * D
            backward = (3 if D else 1) * (k + 1) + (3 if D else 1) * (k + 1) + 8 * D + 1
            total += layer.num_inputs * (basis + layer.num_outputs * (forward + backward))
        return total

    def bound(self, bandwidth, rates):
        """Milliseconds that the counted work takes at the measured rates."""
        rate = rates["double" if self.dtype == "float64" else "float"]
        numbers = self.x.shape[1] + self.y.shape[1] * (1 + 4 * self.directions)
        moved = self.num_samples * numbers * self.x.itemsize
        return 1e3 * max(self.num_samples * self.multiply_adds() / rate, moved / bandwidth)


def seconds_of_torch(case, repetitions=3, **options):
    try:
        return milliseconds(case.torch(**options), repetitions)
    except (torch.OutOfMemoryError, RuntimeError):
        return float("nan")
    finally:
        torch.cuda.empty_cache()


def show(*columns):
    print("| " + " | ".join(str(column) for column in columns) + " |", flush=True)


def speed(large, rates):
    print("\nLoss and gradient, milliseconds\n")
    show("network", "dtype", "samples", "evaluator", "kanmg", "torch", "torch.compile", "times faster", "of the bound")
    show(*["---"] * 9)
    cases = [
        ("[2,5,1] cubic, 8 cells", Case(chain((2, 5, 1), 3, 8), "float64", 20_000), (GPUEvaluator,), True),
        (
            "[2,10,10,1] degree 4, 8 cells, two second derivatives",
            Case(chain((2, 10, 10, 1), 4, 8), "float64", large, directions=2),
            (GPUEvaluator,),
            False,
        ),
    ]
    cases += [
        (
            f"64 to 64 cubic, {cells} cells",
            Case(chain((64, 64), 3, cells), "float32", min(large, 1 << 20)),
            (GPUEvaluator, DenseGPUEvaluator),
            False,
        )
        for cells in (8, 64)
    ]
    for name, case, kinds, compiled in cases:
        plain = seconds_of_torch(case)
        fused = seconds_of_torch(case, 10, compiled=True) if compiled else float("nan")
        for kind in kinds:
            own = milliseconds(case.kanmg(kind))
            share = case.bound(*rates[:2]) / own
            numbers = f"{own:.3f}", f"{plain:.1f}", f"{fused:.1f}", f"{plain / own:.0f}", f"{share:.0%}"
            show(name, case.dtype, case.num_samples, kind.name, *numbers)


def cells(large):
    print("\nMilliseconds over the number of cells\n")
    show("network", "dtype", "samples", *CELLS)
    show(*["---"] * (3 + len(CELLS)))
    rows = [
        ("[2,5,1] cubic", (2, 5, 1), 3, "float64", 0, large),
        ("[2,10,10,1] degree 4, two second derivatives", (2, 10, 10, 1), 4, "float64", 2, large),
        ("[2,20,20,1] cubic", (2, 20, 20, 1), 3, "float32", 0, large // 4),
        ("64 to 64 cubic", (64, 64), 3, "float32", 0, large // 4),
    ]
    for name, widths, degree, dtype, directions, num_samples in rows:
        for kind in (GPUEvaluator,) if directions else (GPUEvaluator, DenseGPUEvaluator):
            times = []
            for number in CELLS:
                case = Case(chain(widths, degree, number), dtype, num_samples, directions)
                times.append(f"{milliseconds(case.kanmg(kind), 3):.2f}")
                chosen = fastest_evaluator(case.network, dtype, "cuda")
                times[-1] += "*" if type(chosen) is kind else ""
                torch.cuda.empty_cache()
            show(f"{name}, {kind.name}", dtype, num_samples, *times)
    print("\n* what `evaluator='auto'` takes")


def normal(large, rates):
    case = Case(chain((2, 10, 10, 1), 4, 12), "float64", large, directions=2)
    evaluator, size = GPUEvaluator(case.network, "float64"), case.network.num_coefficients
    own = milliseconds(
        lambda: evaluator.jet_gauss_newton(case.theta, case.x, case.lines, [case.cotangents], case.y), repetitions=3
    )
    rows = min(large, 1 << 17)
    tall = torch.randn(rows, size, dtype=torch.float64, device="cuda")
    dense = milliseconds(lambda: tall.T @ tall, repetitions=3) * large / rows
    print(
        f"\nJ^T J and J^T r of {large} residuals, {size} coefficients, float64: {own:.1f} ms, J included; cuBLAS of a "
        f"dense J alone: {dense:.1f} ms, {size**2 * large / dense / 1e9:.1f} 10^12 multiply-adds/s (square matrices: "
        f"{rates[2]['double'] / 1e12:.1f}); {dense / own:.0%} of that rate"
    )


def parity():
    print(
        "\nLargest relative difference from the CPU evaluator, all methods, 1000 samples; and equal bits of two calls\n"
    )
    show("network", "float64", "float32", "same bits")
    show("---", "---", "---", "---")
    for name in ("cubic", "degree 5, deep", "many cells", "wide, few cells", "non-uniform"):
        worst, same = [], True
        for dtype in ("float64", "float32"):
            case = ContractCase.drawn(NETWORKS[name], dtype, num_samples=1000)
            own, cpu = GPUEvaluator(case.network, dtype), CPUEvaluator(case.network, dtype)
            ratios = []
            for method in METHODS:
                results = [flat(case.call(evaluator, method)) for evaluator in (own, own, cpu)]
                same &= all(np.array_equal(a, b) for a, b in zip(*results[:2], strict=True))
                ratios += [
                    np.abs(np.asarray(a) - b).max() / np.abs(b).max()
                    for a, b in zip(results[0], results[2], strict=True)
                    if np.size(b) and np.any(b)
                ]
            worst.append(f"{max(ratios):.1e}")
        show(name, *worst, "yes" if same else "no")


def flat(result):
    return [entry for part in result for entry in flat(part)] if isinstance(result, tuple | list) else [result]


def solve(large):
    """Time whole solves, on GPU and CPU, after a first one that compiles."""
    print("\nSeconds to solve\n")
    show("problem", "method", "cpu", "cuda", "ratio", "loss on the CPU", "loss on the GPU")
    show(*["---"] * 7)
    x = np.random.default_rng(0).uniform(-1, 1, (large, 2))
    regression = kanmg.Regression(x, np.exp(np.sin(np.pi * x[:, :1]) + x[:, 1:] ** 2))

    def equation(x, u):
        source = -2 * torch.pi**2 * torch.sin(torch.pi * x[:, 0]) * torch.sin(torch.pi * x[:, 1])
        return u.d("x", "x") + u.d("y", "y") - source

    def make(num_points):
        inside = np.random.default_rng(1).uniform(-1, 1, (num_points, 2))
        side = np.random.default_rng(2).uniform(-1, 1, (num_points // 20, 2))
        side[np.arange(len(side)), np.arange(len(side)) % 2] = np.sign(side[:, 0] + 1e-9)
        terms = [
            kanmg.Term("equation", equation, inside),
            kanmg.Term("boundary", lambda x, u: u.value, side, weight=100.0),  # noqa: ARG005 - residuals get both
        ]
        return kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=terms)

    rows = [
        (f"regression, {large} samples", regression, (2, 10, 1), 3, kanmg.NestedIteration(kanmg.LBFGS(), steps=20)),
        (
            f"Poisson, {large // 5} points",
            make(large // 5),
            (2, 10, 1),
            5,
            kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=10),
        ),
    ]
    for name, problem, widths, degree, method in rows:
        seconds, losses = [], []
        for device in ("cpu", "cuda"):
            hierarchy = kanmg.uniform_hierarchy(widths, degree=degree, num_intervals=4, num_levels=3, device=device)
            kanmg.solve(problem, hierarchy, method=method, progress=False, throw=False, callback=stop)
            begin = time.perf_counter()
            losses.append(kanmg.solve(problem, hierarchy, method=method, progress=False, throw=False).loss)
            seconds.append(time.perf_counter() - begin)
        kind = type(method.smoother).__name__
        ratio = seconds[0] / seconds[1]
        show(name, kind, *(f"{s:.2f}" for s in seconds), f"{ratio:.1f}", *(f"{loss:.3e}" for loss in losses))


def stop(_):
    raise StopIteration


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=float, default=1e6, help="of the large cases (default 1e6)")
    parser.add_argument("--only", action="append", help="parts to run (default: all)")
    arguments = parser.parse_args()
    large, parts = int(arguments.samples), arguments.only or ["speed", "cells", "normal", "parity", "solve"]
    try:
        resolve_device("cuda")
    except DeviceError as error:
        print(f"nothing was measured, there is no usable GPU here: {error}")
        sys.exit(0)
    warnings.simplefilter("ignore")
    print(torch.cuda.get_device_name(), f"torch {torch.__version__}", time.strftime("%Y-%m-%d"))
    rates = measured_rates()
    print(
        f"copy {rates[0] / 1e9:.0f} GB/s; 10^12 multiply-adds/s: float64 {rates[1]['double'] / 1e12:.1f} (products "
        f"{rates[2]['double'] / 1e12:.1f}), float32 {rates[1]['float'] / 1e12:.1f} ({rates[2]['float'] / 1e12:.1f})"
    )
    actions = {
        "parity": parity,
        "speed": lambda: speed(large, rates),
        "cells": lambda: cells(large),
        "normal": lambda: normal(large, rates),
        "solve": lambda: solve(large),
    }
    for part in parts:
        actions[part]()


if __name__ == "__main__":
    main()
