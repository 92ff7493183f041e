"""ML-3: Burgers' equation, the third experiment of multilevel training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from kanmg.cycles import Cycle, VCycle
from kanmg.experiments.experiment import Experiment, Measure, Size, relative_l2
from kanmg.experiments.perceptrons import Perceptron
from kanmg.experiments.schedules import Triangular, falling_adam, nested, nested_adam
from kanmg.experiments.splines import Splines
from kanmg.gallery import ModelProblem, burgers, collocation_problem
from kanmg.gallery.equations import SPACE_TIME, cole_hopf
from kanmg.problems.terms import Term
from kanmg.sampling import grid
from kanmg.smoothers.lbfgs import LBFGS
from kanmg.smoothers.schedules import OneCycle

if TYPE_CHECKING:
    from collections.abc import Callable

    from kanmg.arrays import Array
    from kanmg.problems.fields import Field

__all__ = ["EXPERIMENT", "burgers_on_a_grid"]

LOSS = "training loss"
NU = 1e-2
EPOCHS = (800, 400, 200)
STEP_SIZE = 7e-3
# Of rows that vary the steps.
SHORT, SHORT_CYCLE = 5e-3, Triangular(0.02, 200)
# The hierarchy that `kanmg.gallery.burgers` recommends.
GALLERY = {"widths": (2, 5, 5, 1), "degree": 5, "num_intervals": 6, "lift": None, "outside": "extend"}
NOTES = """\
- Of the paper: nu = 0.01, a grid of 64 x 64 points, [2,20,20,1] with a linear lift, cubic, 5 to 20 cells, Adam with a
  cyclic step, epochs {800, 400, 200}, five seeds.
- Chosen: an epoch is one step on all points; on every level the step rises once, in a twentieth of the level's epochs,
  and falls linearly to nearly 0; the longest is 7e-3 on the coarsest level and half as long on each finer one; beta2 is
  0.97, for levels of a few hundred steps; the means of the squared residuals of the equation, of the 64 initial and of
  the 126 boundary points are added; splines are constant outside the intervals of the hidden values; seed s draws the
  initial coefficients; float64; errors at 10,000 unseen points against the Cole-Hopf solution.
- Rows with 200 epochs a cycle have steps from 1e-4 to 5e-3 and back on all levels, and beta2 0.999.
- Coarse and fine levels alone, and perceptrons of as many parameters, get 1400 epochs; rows that are not of the paper
  have one or two seeds.
"""


def burgers_on_a_grid(num_points: int = 64, seed: int = 0, *, by_numbers: bool = False) -> ModelProblem:
    """State Burgers' equation with nu = 0.01 on the nodes of a grid in space and time.

    Parameters
    ----------
    num_points : int
        In each direction, ends included.
    seed : int
        Of the points at which errors are measured.
    by_numbers : bool
        Whether terms are weighted by the numbers of their points: the loss is then the mean over all of them. By
        default it is the sum of the means of the terms.

    Returns
    -------
    ModelProblem

    Examples
    --------
    >>> burgers_on_a_grid().problem
    Collocation((x, t) -> (u), 4096 points: 3906 equation, 64 initial, 126 boundary, float64)
    """
    nodes = grid(SPACE_TIME, num_points)
    is_start = nodes[:, 1] == 0.0
    is_wall = (abs(nodes[:, 0]) == 1.0) & ~is_start

    def weight(rows: Array) -> float:
        return float(np.mean(rows)) if by_numbers else 1.0

    def equation(_: torch.Tensor, u: Field) -> torch.Tensor:
        return u.d("t") + u.value * u.d("x") - NU * u.d("x", "x")

    return collocation_problem(
        "ML-3",
        lambda x: cole_hopf(x, NU),
        coordinates=("x", "t"),
        fields=("u",),
        terms=[
            Term("equation", equation, nodes[~is_start & ~is_wall], weight(~is_start & ~is_wall)),
            Term("initial", lambda x, u: u.value + torch.sin(torch.pi * x[:, 0]), nodes[is_start], weight(is_start)),
            Term("boundary", lambda _, u: u.value, nodes[is_wall], weight(is_wall)),
        ],
        domain=SPACE_TIME,
        hierarchy_arguments={
            "widths": (2, 20, 20, 1),
            "degree": 3,
            "num_intervals": 5,
            "num_levels": 3,
            "domain": SPACE_TIME,
            "lift": "affine",
            "outside": "clamp",
        },
        source="Southworth, Actor, Harper, Cyr, Multilevel Training for Kolmogorov Arnold Networks, arXiv 2603.04827",
        seed=seed,
    )


def v_cycle(size: Size) -> Cycle:
    """Return V-cycles of 200 steps."""
    smoothing, coarse = size.scaled((25, 100))
    return VCycle(LBFGS(), pre_steps=smoothing, post_steps=smoothing, coarse_steps=coarse)


def adam(*epochs: int, relu: bool = False) -> Callable[[Size], Cycle]:
    """Return Adam with one cycle of steps a level."""
    return falling_adam(STEP_SIZE, *epochs, relu=relu)


def perceptron(width: int, paper: str) -> Perceptron:
    """Return a tanh network of two hidden layers."""
    return Perceptron(
        name=f"MLP, tanh, [2,{width},{width},1]",
        paper={LOSS: paper},
        widths=(2, width, width, 1),
        options=(("lr", STEP_SIZE),),
        steps=sum(EPOCHS),
        schedule=OneCycle(sum(EPOCHS)),
    )


# One thing changed at a time.
CHOICES = (
    Splines(
        name="mean over all points: multilevel",
        beyond=True,
        most_seeds=1,
        method=adam(*EPOCHS),
        poses=lambda seed, size: burgers_on_a_grid(size.num_points(64), seed, by_numbers=True),
    ),
    Splines(name="four steps an epoch: multilevel", beyond=True, most_seeds=1, method=adam(3200, 1600, 800)),
    Splines(
        name="200 epochs a cycle: multilevel",
        beyond=True,
        most_seeds=2,
        method=nested_adam(SHORT, *EPOCHS, schedule=SHORT_CYCLE),
    ),
    Splines(name="constant step 1e-3: multilevel", beyond=True, most_seeds=1, method=nested_adam(1e-3, *EPOCHS)),
    Splines(
        name="linear continuation: multilevel",
        beyond=True,
        most_seeds=1,
        hierarchy={"outside": "linear"},
        method=adam(*EPOCHS),
    ),
    Splines(
        name="polynomials go on: multilevel",
        beyond=True,
        most_seeds=1,
        hierarchy={"outside": "extend"},
        method=adam(*EPOCHS),
    ),
)

EXPERIMENT = Experiment(
    name="ML-3",
    title="Burgers' equation, [2,20,20,1], 3420 to 9720 coefficients",
    source="Southworth, Actor, Harper, Cyr, Multilevel Training for Kolmogorov Arnold Networks, arXiv 2603.04827",
    make=lambda seed, size: burgers_on_a_grid(size.num_points(64), seed),
    measures=(Measure(LOSS), Measure("relative L2 error", relative_l2)),
    quick=Size(0.03, 0.5),
    variants=(
        Splines(name="spline, coarse", paper={LOSS: "6.64e-3"}, level=0, method=adam(sum(EPOCHS))),
        Splines(name="spline, fine", paper={LOSS: "4.07e-3"}, level=-1, method=adam(sum(EPOCHS))),
        Splines(name="spline, multilevel", paper={LOSS: "2.40e-5"}, method=adam(*EPOCHS)),
        Splines(name="ReLU basis, coarse", level=0, method=adam(sum(EPOCHS), relu=True)),
        Splines(name="ReLU basis, fine", level=-1, method=adam(sum(EPOCHS), relu=True)),
        Splines(name="ReLU basis, multilevel", method=adam(*EPOCHS, relu=True)),
        perceptron(57, "2.33e-2"),
        perceptron(96, "1.73e-2"),
        *CHOICES,
        Splines(name="nested iteration, L-BFGS", beyond=True, most_seeds=2, method=nested(LBFGS(), *EPOCHS)),
        Splines(name="V-cycles, L-BFGS", beyond=True, most_seeds=2, method=v_cycle, max_cycles=7),
        Splines(name="Levenberg-Marquardt (default), [2,5,5,1]", beyond=True, most_seeds=1, hierarchy=GALLERY),
        Splines(
            name="Levenberg-Marquardt (default), [2,5,5,1], 20,000 points",
            beyond=True,
            most_seeds=1,
            poses=lambda seed, size: burgers(size.num_points(20_000), seed=seed, nu=NU),
        ),
    ),
    notes=NOTES,
)
