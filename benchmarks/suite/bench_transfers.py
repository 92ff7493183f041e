"""Building hierarchies, and prolongation, restriction and injection between their two finest levels."""

from __future__ import annotations

import numpy as np

import kanmg


class Build:
    """Levels and transfers of a hierarchy of four levels."""

    params = ([(2, 5, 1), (64, 64)],)
    param_names = ("widths",)

    def setup(self, widths):
        self.build(widths)

    def time_hierarchy(self, widths):
        self.build(widths)

    def build(self, widths):
        hierarchy = kanmg.uniform_hierarchy(widths, degree=3, num_intervals=8, num_levels=4)
        for transfer in hierarchy.transfers:
            _ = transfer.prolongation, transfer.restriction
            transfer.inject(np.zeros(transfer.fine.num_coefficients))


class Apply:
    """Between 32 and 64 cells."""

    params = ([(2, 5, 1), (64, 64)],)
    param_names = ("widths",)

    def setup(self, widths):
        hierarchy = kanmg.uniform_hierarchy(widths, degree=3, num_intervals=32, num_levels=2)
        self.transfer = hierarchy.transfers[0]
        rng = np.random.default_rng(0)
        self.coarse = rng.standard_normal(hierarchy[0].network.num_coefficients)
        self.fine = self.transfer.prolong(self.coarse)
        self.transfer.restrict(self.fine)
        self.transfer.inject(self.fine)

    def time_prolong(self, _):
        self.transfer.prolong(self.coarse)

    def time_restrict(self, _):
        self.transfer.restrict(self.fine)

    def time_inject(self, _):
        self.transfer.inject(self.fine)

    def track_injection_error(self, _):
        """Largest error of Q P against the identity."""
        return float(np.abs(self.transfer.inject(self.fine) - self.coarse).max())


Apply.track_injection_error.unit = "absolute error"
