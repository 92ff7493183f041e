"""Whole runs: time, and error on unseen points at equal work."""

from __future__ import annotations

import kanmg
from kanmg import gallery

BUDGET = 300.0
CYCLES = {
    "NestedIteration": kanmg.NestedIteration(steps=60),
    "VCycle, tau": kanmg.VCycle(pre_steps=5, post_steps=5, coarse_steps=20, variant="tau"),
    "VCycle, Galerkin": kanmg.VCycle(pre_steps=5, post_steps=5, coarse_steps=20),
    "FullMultigrid": kanmg.FullMultigrid(steps=5, coarse_steps=20),
}


def solve(model, cycle):
    def stop(record):
        if record.work_units >= BUDGET:
            raise StopIteration

    options = {"max_cycles": 10_000, "callback": stop, "progress": False, "throw": False}
    return kanmg.solve(model.problem, model.hierarchy(), method=CYCLES[cycle], **options)


class Cycles:
    """KAN-1 from 1,000 samples, L-BFGS, 300 work units."""

    params = (list(CYCLES),)
    param_names = ("cycle",)

    def setup(self, _):
        self.model = gallery.kan1()

    def time_solve(self, cycle):
        solve(self.model, cycle)

    def track_test_error(self, cycle):
        return self.model.rms_error(solve(self.model, cycle))


Cycles.track_test_error.unit = "test RMSE"
