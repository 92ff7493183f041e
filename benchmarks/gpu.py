"""The GPU evaluator: time, share of the device's limits, and speed against plain torch on the same GPU.

    python benchmarks/gpu.py                 everything, as a table
    python benchmarks/gpu.py --samples 1e5   fewer samples

Where there is no CUDA device it says so and ends.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import pairwise

import numpy as np
import torch

import kanmg
from kanmg.devices import resolve_device
from kanmg.errors import DeviceError
from kanmg.evaluators.base import Jet
from kanmg.evaluators.gpu_dense import DenseGPUEvaluator, GPUEvaluator
from kanmg.evaluators.reference import ReferenceEvaluator

HEADER = "what                               dtype     samples  kanmg ms atomic ms  torch ms  faster  bound"


def chain(widths, degree, num_intervals):
    knots = kanmg.uniform_knots(num_intervals, degree=degree)
    return kanmg.Network([kanmg.Spline(*pair, knots=knots) for pair in pairwise(widths)])


def milliseconds(call, repetitions=20):
    """Median time of a call, measured by events on the device after three calls to warm up."""
    for _ in range(3):
        call()
    times = []
    for _ in range(repetitions):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return float(np.median(times))


def measured_rates():
    """Bytes per second of a copy, and multiply-adds per second of matrix products, by dtype."""
    source = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    bandwidth = 2 * source.numel() / milliseconds(lambda: target.copy_(source)) * 1e3
    rates = {}
    for dtype in (torch.float64, torch.float32):
        square = torch.ones(4096, 4096, dtype=dtype, device="cuda")
        rates[str(dtype).removeprefix("torch.")] = 4096**3 / milliseconds(lambda a=square: a @ a) * 1e3
    return bandwidth, rates


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

    def kanmg(self, kind=GPUEvaluator, **options):
        evaluator = kind(self.network, self.dtype, **options)
        if not self.directions:
            return lambda: evaluator.squared_error(self.theta, self.x, self.y)

        def run():
            evaluator.jet(self.theta, self.x, self.lines, 2)
            evaluator.jet_adjoint(self.theta, self.x, self.lines, self.cotangents)

        return run

    def torch(self):
        """Differentiate the reference automatically, by nested differentiation where there are directions."""
        reference = ReferenceEvaluator(self.network, self.dtype, "cuda")
        theta = self.theta.clone().requires_grad_()

        def run():
            x = self.x.clone().requires_grad_(bool(self.directions))
            u = reference.forward(theta, x)
            total = ((u - self.y) ** 2).sum()
            for line in self.lines:
                (gradient,) = torch.autograd.grad(u.sum(), x, create_graph=True)
                along = gradient @ line
                (second,) = torch.autograd.grad(along.sum(), x, create_graph=True)
                total = total + (along**2).sum() + ((second @ line) ** 2).sum()
            torch.autograd.grad(total, theta)

        return run

    def bound(self, bandwidth, rate):
        """Milliseconds that the counted work takes at the measured rates."""
        evaluator = ReferenceEvaluator(self.network, self.dtype)
        work = self.num_samples * evaluator.cost_per_sample * (1 + 2 * self.directions)
        moved = self.num_samples * (self.x.shape[1] + self.y.shape[1] * (1 + 2 * self.directions)) * self.x.itemsize
        return 1e3 * max(work / rate, moved / bandwidth)


def report(name, case, rates, kind=GPUEvaluator):
    bandwidth, multiply_adds = rates
    ordered = milliseconds(case.kanmg(kind))
    atomic = milliseconds(case.kanmg(kind, deterministic=False))
    try:
        plain = milliseconds(case.torch(), repetitions=3)
    except torch.OutOfMemoryError:
        plain = float("nan")
    share = case.bound(bandwidth, multiply_adds[case.dtype]) / min(ordered, atomic)
    print(
        f"{name:34} {case.dtype:8} {case.num_samples:8} {ordered:9.3f} {atomic:9.3f} {plain:9.2f} "
        f"{plain / ordered:7.1f} {share:6.0%}"
    )
    torch.cuda.empty_cache()


def gauss_newton(num_samples):
    """J^T J for about 2,000 parameters, against a dense product of a dense J on the same device."""
    case = Case(chain((2, 10, 10, 1), 4, 12), "float64", num_samples, directions=2)
    evaluator = GPUEvaluator(case.network, "float64")
    own = milliseconds(
        lambda: evaluator.jet_gauss_newton(case.theta, case.x, case.lines, [case.cotangents], case.y), repetitions=3
    )
    rows = min(num_samples, 1 << 16)
    tall = torch.ones(rows, case.network.num_coefficients, dtype=torch.float64, device="cuda")
    dense = milliseconds(lambda: tall.T @ tall, repetitions=3) * num_samples / rows
    size = case.network.num_coefficients
    print(f"Gauss-Newton, {size} coefficients: {own:.1f} ms; cuBLAS of a dense J: {dense:.1f} ms")


def solve_time(device):
    x = np.random.default_rng(0).uniform(-1, 1, (200_000, 2))
    problem = kanmg.Regression(x, np.exp(np.sin(np.pi * x[:, :1]) + x[:, 1:] ** 2))
    hierarchy = kanmg.uniform_hierarchy((2, 10, 1), num_levels=4, device=device)
    begin = time.perf_counter()
    loss = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(steps=20)).loss
    print(f"regression with 200,000 samples, {device}: {time.perf_counter() - begin:.2f} s, loss {loss:.2e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=float, default=1e6, help="of the large cases (default 1e6)")
    large = int(parser.parse_args().samples)
    try:
        resolve_device("cuda")
    except DeviceError as error:
        print(f"nothing was measured, there is no usable GPU here: {error}")
        sys.exit(0)
    print(torch.cuda.get_device_name(), f"torch {torch.__version__}", time.strftime("%Y-%m-%d"))
    rates = measured_rates()
    print(f"copy {rates[0] / 1e9:.0f} GB/s", *(f"{key} {rate / 1e12:.1f} TFMA/s" for key, rate in rates[1].items()))
    print(HEADER)
    report("[2,5,1] cubic, loss and gradient", Case(chain((2, 5, 1), 3, 8), "float64", 20_000), rates)
    report("[2,10,10,1] degree 4, jets", Case(chain((2, 10, 10, 1), 4, 8), "float64", large, directions=2), rates)
    for num_intervals in (8, 16, 32, 64, 128, 256, 512):
        case = Case(chain((64, 64), 3, num_intervals), "float32", large)
        report(f"64 to 64 cubic, {num_intervals} cells", case, rates)
        report(f"64 to 64 cubic, {num_intervals} cells, dense", case, rates, DenseGPUEvaluator)
    gauss_newton(large)
    for device in ("cpu", "cuda"):
        solve_time(device)


if __name__ == "__main__":
    main()
