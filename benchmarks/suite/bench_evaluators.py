"""Losses and gradients of the compiled evaluator."""

from __future__ import annotations

import numpy as np

import kanmg


def objective_and_coefficients(widths, num_intervals, num_samples, degree=3, dtype="float64"):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 1.0, (num_samples, widths[0])).astype(dtype)
    y = rng.standard_normal((num_samples, widths[-1])).astype(dtype)
    hierarchy = kanmg.uniform_hierarchy(widths, degree=degree, num_intervals=num_intervals, num_levels=1, dtype=dtype)
    theta = 0.3 * rng.standard_normal(hierarchy[0].network.num_coefficients).astype(dtype)
    objective = kanmg.Objective(kanmg.Regression(x, y), hierarchy[0])
    objective.value_and_gradient(theta)
    return objective, theta


class SmallNetwork:
    """[2, 5, 1], the demands' network."""

    params = ([8, 64, 512], [1_000, 20_000])
    param_names = ("num_intervals", "num_samples")

    def setup(self, num_intervals, num_samples):
        self.objective, self.theta = objective_and_coefficients((2, 5, 1), num_intervals, num_samples)

    def time_loss(self, *_):
        self.objective.value(self.theta)

    def time_loss_and_gradient(self, *_):
        self.objective.value_and_gradient(self.theta)


class DegreeAndDtype:
    """[2, 5, 1], 8 cells, 20,000 samples."""

    params = ([3, 5], ["float64", "float32"])
    param_names = ("degree", "dtype")

    def setup(self, degree, dtype):
        self.objective, self.theta = objective_and_coefficients((2, 5, 1), 8, 20_000, degree, dtype)

    def time_loss_and_gradient(self, *_):
        self.objective.value_and_gradient(self.theta)


class WideLayer:
    """64 to 64, 4,096 samples."""

    params = ([8, 64],)
    param_names = ("num_intervals",)

    def setup(self, num_intervals):
        self.objective, self.theta = objective_and_coefficients((64, 64), num_intervals, 4096)

    def time_loss_and_gradient(self, *_):
        self.objective.value_and_gradient(self.theta)


class MillionSamples:
    """Peak memory with 24 MB of data."""

    params = ([8, 512],)
    param_names = ("num_intervals",)

    def setup(self, num_intervals):
        self.objective, self.theta = objective_and_coefficients((2, 5, 1), num_intervals, 1_000_000)

    def peakmem_loss_and_gradient(self, *_):
        self.objective.value_and_gradient(self.theta)
