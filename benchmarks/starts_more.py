"""What tells a run without a lucky start, and what more starts gain it: on the coarsest level of equations.

Sixteen starts of the default method, each smoothed 30 steps and then 100 more. A start's loss is that on all points. Of
the first eight: how far the median and the highest lie above the lowest, and what the best two reach in the further
steps; then the same of all sixteen.
"""

from __future__ import annotations

import harness  # first: it fixes the number of threads

# isort: split
import dataclasses

import numpy as np

import kanmg
from kanmg import gallery
from kanmg.starts import is_outstanding

FIRST, ALL, KEEP = 8, 16, 2


@dataclasses.dataclass(frozen=True)
class Other:
    """A problem that no default was tuned on: Poisson's equation with a solution that is no product."""

    problem: kanmg.Collocation

    def hierarchy(self) -> kanmg.Hierarchy:
        """Build the hierarchy of KAN-2."""
        return kanmg.uniform_hierarchy((2, 5, 1), degree=7, num_intervals=4, num_levels=3)


def smooth_poisson(seed: int) -> Other:
    """State Poisson's equation for exp(-x^2 - y) sin(2 x y + 1) on (-1, 1)^2."""
    import torch  # noqa: PLC0415  (after the number of threads is fixed)

    def exact(x: torch.Tensor) -> torch.Tensor:
        return torch.exp(-(x[:, 0] ** 2) - x[:, 1]) * torch.sin(2 * x[:, 0] * x[:, 1] + 1)

    def laplacian(points: np.ndarray) -> np.ndarray:
        x = torch.tensor(points, requires_grad=True)
        (gradient,) = torch.autograd.grad(exact(x).sum(), x, create_graph=True)
        second = [torch.autograd.grad(gradient[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2)]
        return (second[0] + second[1]).numpy()

    square = [(-1, 1), (-1, 1)]
    inside = kanmg.sampling.sobol(square, 4000, seed=seed)
    walls = kanmg.sampling.boundary(square, (100, 100))
    terms = [
        kanmg.Term(
            "equation",
            lambda _, u, source: u.d("x", "x") + u.d("y", "y") - source[:, 0],
            inside,
            data=laplacian(inside)[:, None],
        ),
        kanmg.Term(
            "walls",
            lambda _, u, value: u.value - value[:, 0],
            walls,
            data=exact(torch.tensor(walls)).numpy()[:, None],
            weight=100.0,
        ),
    ]
    return Other(kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=terms))


PROBLEMS = {
    "KAN-2": lambda seed: gallery.kan2(seed=seed),
    "Helmholtz": lambda seed: gallery.helmholtz(seed=seed),
    "smooth Poisson": smooth_poisson,
}


def starts_of(model: gallery.ModelProblem | Other, seed: int) -> np.ndarray:
    """Losses of the starts and after their further steps, in two rows."""
    hierarchy = model.hierarchy()
    method = kanmg.default_method(model.problem, hierarchy)
    starts = dataclasses.replace(method.starts, number=ALL, keep=ALL, more=0)
    method = dataclasses.replace(
        method, steps=0, refit=0, hold_back=0.0, retries=0, starts=starts, coarse_fraction=(method.coarse_fraction[0],)
    )
    coarsest = kanmg.Hierarchy([hierarchy[0].network])
    solution = kanmg.solve(model.problem, coarsest, method=method, seed=seed, progress=False, throw=False)
    losses = np.array([record.loss for record in solution.history if record.event == "choose"])
    # The second round begins with the best of the first.
    first, second = losses[:ALL], np.empty(ALL)
    second[np.argsort(first, kind="stable")] = losses[ALL:]
    return np.stack([first, second])


def main() -> int:
    arguments = harness.parse_arguments(__doc__, harness.ONLY, harness.SEEDS)
    rows = []
    for name, make in PROBLEMS.items():
        if not harness.is_chosen(name, arguments.only):
            continue
        for seed in range(arguments.seeds or (1 if arguments.quick else 5)):
            first, second = starts_of(make(seed), seed)
            best = [second[np.argsort(first[:number], kind="stable")[:KEEP]].min() for number in (FIRST, ALL)]
            low, some = first[:FIRST].min(), first[:FIRST]
            more = "no" if is_outstanding(list(some)) else "yes"
            numbers = (f"{np.median(some) / low:.1f}", f"{some.max() / low:.0f}", more, *(f"{b:.1e}" for b in best))
            rows.append((name, seed, *numbers))
            print(*rows[-1], flush=True)
    header = ("problem", "seed", "median / lowest", "highest / lowest", "more", "best of 8", "best of 16")
    harness.print_table(header, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
