"""ML-4: the equation of Allen and Cahn, the fourth experiment of multilevel training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kanmg.experiments.experiment import Experiment, Measure, Size, relative_l2
from kanmg.experiments.perceptrons import Perceptron
from kanmg.experiments.schedules import Triangular, falling_adam, nested_adam
from kanmg.experiments.splines import Splines
from kanmg.gallery import ModelProblem, allen_cahn, collocation_problem
from kanmg.gallery.equations import SPACE_TIME
from kanmg.problems.terms import Term
from kanmg.sampling import boundary, sobol
from kanmg.weighting import Attention

if TYPE_CHECKING:
    from kanmg.problems.fields import Field

__all__ = ["EXPERIMENT", "plain_allen_cahn"]

LOSS = "training loss"
DIFFUSION = 1e-4
STEPS, LEVELS = 2500, 4
PAPER = {"degree": 3, "num_intervals": 4, "num_levels": LEVELS, "outside": "clamp"}
STEP_SIZE, CYCLE = 5e-3, Triangular(0.02, 500)
ATTENTION = Attention(every=500)
NOTES = """\
- Of the paper: [2,5,5,1], cubic, 4 to 32 cells, 2500 steps of Adam a level, residual-based attention, hidden values
  squashed by a sigmoid. It shows a figure without numbers: the training loss falls from 1e-1 to 1e-5.
- Chosen: diffusion 1e-4; 4000 Sobol points, 200 at t = 0, 200 at the ends, where u_x = 0 stands for periodicity (the
  solution is even), the means of the three added; Adam with step 5e-3, and in one row from 1e-4 to 5e-3 and back in
  500 steps; attention follows every 500 steps; one seed; float64; errors at 10,000 unseen points against the spectral
  solution of `kanmg.gallery.allen_cahn`.
- Falling steps: on each level up to a longest step once and down to nearly 0, which is 1e-2 on the coarsest level and
  half as long on each finer one, with beta2 = 0.97.
- In place of the sigmoid splines are constant outside the intervals of the hidden values (`outside="clamp"`); a row
  has polynomials that go on.
"""


def plain_allen_cahn(
    num_interior: int = 4000,
    num_initial: int = 200,
    num_boundary: int = 200,
    seed: int = 0,
    *,
    initial_weight: float = 1.0,
) -> ModelProblem:
    """State the equation of Allen and Cahn in x and t, without what `kanmg.gallery.allen_cahn` knows of the solution.

    Parameters
    ----------
    num_interior, num_initial, num_boundary, seed : int
        As there.
    initial_weight : float
        Of the term at t = 0.

    Returns
    -------
    ModelProblem

    Examples
    --------
    >>> plain_allen_cahn(100, 20, 20).problem
    Collocation((x, t) -> (u), 140 points: 100 equation, 20 initial, 20 boundary, float64)
    """

    def equation(_: torch.Tensor, u: Field) -> torch.Tensor:
        return u.d("t") - DIFFUSION * u.d("x", "x") - 5.0 * u.value + 5.0 * u.value**3

    def initial(x: torch.Tensor, u: Field) -> torch.Tensor:
        return u.value - x[:, 0] ** 2 * torch.cos(torch.pi * x[:, 0])

    start = boundary(SPACE_TIME, (num_initial, 2), faces=[(1, "lower")])
    ends = boundary(SPACE_TIME, (2, num_boundary // 2), faces=[(0, "lower"), (0, "upper")], ends=False)
    return collocation_problem(
        "ML-4",
        allen_cahn(8, 8, 8).exact,
        coordinates=("x", "t"),
        fields=("u",),
        terms=[
            Term("equation", equation, sobol(SPACE_TIME, num_interior, seed=seed)),
            Term("initial", initial, start, weight=initial_weight),
            Term("boundary", lambda _, u: u.d("x"), ends),
        ],
        domain=SPACE_TIME,
        hierarchy_arguments={
            **PAPER,
            "widths": (2, 5, 5, 1),
            "domain": SPACE_TIME,
        },
        source="Southworth, Actor, Harper, Cyr, Multilevel Training for Kolmogorov Arnold Networks, arXiv 2603.04827",
        seed=seed,
    )


SCHEDULE = (STEPS,) * LEVELS


def make(seed: int, size: Size, initial_weight: float = 1.0) -> ModelProblem:
    """Return the problem of a size."""
    numbers = size.num_points(4000), size.num_points(200), size.num_points(200, multiple=2)
    return plain_allen_cahn(*numbers, seed, initial_weight=initial_weight)


EXPERIMENT = Experiment(
    name="ML-4",
    title="the equation of Allen and Cahn, [2,5,5,1], 280 to 1400 coefficients",
    source="Southworth, Actor, Harper, Cyr, Multilevel Training for Kolmogorov Arnold Networks, arXiv 2603.04827",
    make=make,
    measures=(Measure(LOSS), Measure("relative L2 error", relative_l2)),
    num_seeds=1,
    quick=Size(0.02, 0.25),
    variants=(
        Splines(
            name="spline, multilevel", paper={LOSS: "below 1e-5 (figure)"}, method=nested_adam(STEP_SIZE, *SCHEDULE)
        ),
        Splines(
            name="spline, multilevel, attention",
            paper={LOSS: "below 1e-5 (figure)"},
            method=nested_adam(STEP_SIZE, *SCHEDULE, attention=ATTENTION),
        ),
        Splines(name="spline, coarse", level=0, method=nested_adam(STEP_SIZE, LEVELS * STEPS)),
        Splines(name="spline, fine", level=-1, method=nested_adam(STEP_SIZE, LEVELS * STEPS)),
        Splines(
            name="ReLU basis, multilevel",
            paper={LOSS: "fails"},
            method=nested_adam(STEP_SIZE, *SCHEDULE, relu=True),
        ),
        Perceptron(
            name="MLP, tanh, [2,35,35,1]",
            paper={LOSS: "fails"},
            widths=(2, 35, 35, 1),
            options=(("lr", 1e-3),),
            steps=LEVELS * STEPS,
        ),
        Splines(
            name="initial values of weight 100: multilevel",
            beyond=True,
            method=nested_adam(STEP_SIZE, *SCHEDULE),
            poses=lambda seed, size: make(seed, size, initial_weight=100.0),
        ),
        Splines(
            name="initial values of weight 100, cyclic step: multilevel",
            beyond=True,
            poses=lambda seed, size: make(seed, size, initial_weight=100.0),
            method=nested_adam(STEP_SIZE, *SCHEDULE, schedule=CYCLE),
        ),
        Splines(name="falling steps: multilevel", beyond=True, method=falling_adam(1e-2, *SCHEDULE)),
        Splines(
            name="falling steps, initial values of weight 1000, x^2 for x: multilevel",
            beyond=True,
            hierarchy=PAPER,
            poses=lambda seed, size: allen_cahn(
                size.num_points(4000), size.num_points(200), size.num_points(200, multiple=2), seed
            ),
            method=falling_adam(1e-2, *SCHEDULE),
        ),
        Splines(
            name="polynomials go on: multilevel",
            beyond=True,
            hierarchy={"outside": "extend"},
            method=nested_adam(STEP_SIZE, *SCHEDULE),
        ),
        Splines(name="Levenberg-Marquardt (default)", beyond=True),
        Splines(
            name="Levenberg-Marquardt (default), degree 5, x^2 for x, 10,000 points",
            beyond=True,
            poses=lambda seed, size: allen_cahn(size.num_points(10_000), seed=seed),
        ),
    ),
    notes=NOTES,
)
