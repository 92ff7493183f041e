"""Steps of the smoothers, and the loss that they reach."""

from __future__ import annotations

import torch

import kanmg
from kanmg import gallery

SMOOTHERS = {
    "LBFGS": kanmg.LBFGS(),
    "Adam": kanmg.Adam(),
    "torch.optim.Adam": kanmg.TorchOptimizer(torch.optim.Adam, lr=1e-2),
}


class Smoothers:
    """KAN-1 on [2, 5, 1] with 8 cells and 1,000 samples, on one level."""

    params = (list(SMOOTHERS),)
    param_names = ("smoother",)

    def setup(self, name):
        model = gallery.kan1()
        level = model.hierarchy(widths=(2, 5, 1), num_intervals=8, num_levels=1)[0]
        self.smoother = SMOOTHERS[name]
        self.objective = kanmg.Objective(model.problem, level)
        self.theta = kanmg.initial_coefficients(level.network, model.x, seed=0)

    def smooth(self, num_evaluations):
        theta, state = self.theta, self.smoother.init(self.objective, self.theta)
        start = self.objective.evaluations
        while self.objective.evaluations - start < num_evaluations:
            theta, state, record = self.smoother.step(self.objective, theta, state)
        return record.loss

    def time_hundred_evaluations(self, _):
        self.smooth(100)

    def track_loss_after_five_hundred_evaluations(self, _):
        return self.smooth(500)


Smoothers.track_loss_after_five_hundred_evaluations.unit = "loss"
