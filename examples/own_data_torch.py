"""Noisy torch tensors, mini-batches, a tenth held back for validation, and a stop when that no longer improves."""

from __future__ import annotations

import torch

import kanmg

NOISE = 0.1


def main() -> float:
    """Return the root mean square error on unseen, noise-free points."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4000, 3, generator=generator, dtype=torch.float64)
    y = function(x) + NOISE * torch.randn(4000, 1, generator=generator, dtype=torch.float64)

    problem = kanmg.Regression(x, y, batch_size=500, validation=0.1)
    hierarchy = kanmg.uniform_hierarchy(widths=(3, 4, 1), degree=3, num_intervals=3, num_levels=3, domain=(0.0, 1.0))
    epoch = problem.steps_per_epoch
    solution = kanmg.solve(
        problem,
        hierarchy,
        method=kanmg.NestedIteration(kanmg.Adam(step_size=1e-2), steps=(100 * epoch, 50 * epoch, 100 * epoch)),
        patience=10 * epoch,
    )
    print(solution, end="\n\n")

    unseen = torch.rand(2000, 3, generator=generator, dtype=torch.float64)
    error = float(torch.sqrt(torch.mean((solution(unseen) - function(unseen)) ** 2)))
    print(f"noise {NOISE}, root mean square error on unseen points {error:.3f}")
    return error


def function(x: torch.Tensor) -> torch.Tensor:
    """Return what is to be learnt, shape (N, 1)."""
    return torch.sin(4 * x[:, :1]) + x[:, 1:2] * torch.exp(-x[:, 2:])


if __name__ == "__main__":
    main()
