"""Time of a residual with second derivatives: fused jets and their adjoints against torch's double backward.

[2, 10, 10, 1], degree 5, 16 cells, float64: mean((u_xx + u_yy - f)^2) and its gradient. kanmg: one forward sweep
for the jets, the residual's own derivative, one adjoint sweep. torch: the reference evaluator's layers (gathered
coefficients, local basis functions) with automatic differentiation: twice for u_xx and u_yy, once for the gradient.
Losses and gradients are compared first. Coefficients differ from call to call, as in training: the evaluator would
otherwise find the jets of the call before.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import numpy as np
import torch

import kanmg
from kanmg.evaluators.base import Jet
from kanmg.evaluators.cpu import CPUEvaluator
from kanmg.evaluators.reference import ReferenceEvaluator

WIDTHS, DEGREE, CELLS = (2, 10, 10, 1), 5, 16
OVER_TORCH = 30.0
DIRECTIONS = np.eye(2)


class Case:
    """One network, random points and coefficients."""

    def __init__(self, num_points: int) -> None:
        rng = np.random.default_rng(0)
        network = kanmg.uniform_hierarchy(WIDTHS, degree=DEGREE, num_intervals=CELLS, num_levels=1)[0].network
        self.cpu, self.reference = CPUEvaluator(network, "float64"), ReferenceEvaluator(network, "float64")
        self.theta = 0.3 * rng.standard_normal(network.num_coefficients)
        self.x, self.f = rng.uniform(-1.0, 1.0, (num_points, 2)), rng.standard_normal((num_points, 1))

    def move(self) -> None:
        """Change the coefficients."""
        self.theta = self.theta * (1.0 + 1e-12)

    def kanmg(self) -> tuple[float, np.ndarray]:
        self.move()
        jet = self.cpu.jet(self.theta, self.x, DIRECTIONS, 2)
        residuals = jet.derivatives[1].sum(axis=0) - self.f
        cotangents = 2.0 / len(residuals) * residuals
        second = np.broadcast_to(cotangents, jet.derivatives[1].shape)
        zeros = Jet(np.zeros_like(jet.value), (np.zeros_like(jet.derivatives[0]), second))
        gradient = self.cpu.jet_adjoint(self.theta, self.x, DIRECTIONS, zeros)
        return float(np.mean(residuals**2)), gradient

    def torch(self) -> tuple[float, np.ndarray]:
        self.move()
        theta = torch.from_numpy(self.theta).clone().requires_grad_()
        x = torch.from_numpy(self.x).clone().requires_grad_()
        u = self.reference.forward(theta, x)
        (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        laplacian = sum(
            torch.autograd.grad(first[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1])
        )
        loss = torch.mean((laplacian[:, None] - torch.from_numpy(self.f)) ** 2)
        return loss.item(), torch.autograd.grad(loss, theta)[0].numpy()

    def check(self) -> None:
        """Refuse to compare different things."""
        (loss, gradient), (torch_loss, torch_gradient) = self.kanmg(), self.torch()
        np.testing.assert_allclose(loss, torch_loss, rtol=1e-9)
        np.testing.assert_allclose(gradient, torch_gradient, rtol=1e-7, atol=1e-9 * np.abs(gradient).max())


def main() -> int:
    arguments = harness.parse_arguments(__doc__)
    report, rows = harness.Report(), []
    for points in (1_000, 10_000):
        case = Case(points)
        case.check()
        times = harness.interleaved_medians(
            {"kanmg": case.kanmg, "torch": case.torch}, seconds=5.0 if arguments.quick else 30.0
        )
        ratio = times["torch"] / times["kanmg"]
        rows.append((points, f"{1e3 * times['kanmg']:.3g}", f"{1e3 * times['torch']:.3g}", f"{ratio:.1f}"))
        if points == 10_000:
            report.at_least("10,000 points: times faster than torch's double backward", ratio, OVER_TORCH)
    print("Loss and gradient of mean((u_xx + u_yy - f)^2) for [2,10,10,1], degree 5, 16 cells, in milliseconds\n")
    harness.print_table(("points", "kanmg", "torch", "times faster"), rows)
    return report.finish(strict=arguments.strict)


if __name__ == "__main__":
    raise SystemExit(main())
