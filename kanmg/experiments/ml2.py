"""ML-2: Poisson's equation with a coefficient that jumps, the second experiment of multilevel training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from kanmg import gallery
from kanmg.cycles import Cycle, FullMultigrid, VCycle
from kanmg.experiments.experiment import Experiment, Measure, Size, relative_l2
from kanmg.experiments.perceptrons import Perceptron
from kanmg.experiments.schedules import Triangular, falling_adam, nested, nested_adam
from kanmg.experiments.splines import Splines
from kanmg.problems.collocation import Collocation
from kanmg.sampling import boundary, grid, sobol
from kanmg.smoothers.lbfgs import LBFGS
from kanmg.starts import Starts
from kanmg.weighting import Attention

if TYPE_CHECKING:
    from kanmg.gallery import ModelProblem

__all__ = ["EXPERIMENT"]

ERROR = "relative L2 error"
STEP_SIZE, STEPS = 1e-2, 5000
CYCLE = Triangular(0.01, 1250)
SCHEDULE = (1250, 1250, 1250, 1250)
ATTENTION = Attention(every=50)
NOTES = """\
- Of the paper: the terms and their weights, a grid of 50 x 50 cells, the level-set input, cubic splines of 4 to 32
  cells, Adam with step 1e-2, 5000 steps, refined at 1250, 2500 and 3750. It shows a figure without numbers.
- Chosen: points on the grid as `kanmg.gallery.ml2` says; seed s draws the initial coefficients; float64; three seeds;
  errors at 10,000 unseen points. Polynomials of the end cells go on outside the intervals.
- Residual-based attention is a row of its own: kanmg's updates follow every 50 steps, and Adam begins anew with them.
- Cyclic step: on each level from a hundredth up to 1e-2, or 3e-2, and back.
- Falling steps: on each level up to a longest step once and down to nearly 0, which is 1e-2 or 2e-2 on the coarsest
  level and half as long on each finer one, with beta2 = 0.97. With eight starts of 125 steps each level has 1000 steps,
  5000 in all.
- 2401 Sobol points: as many as the grid has nodes, with 200 and 49 at the edges and the interface. 10,000 Sobol points:
  with 200 on each edge and 400 on the interface.
- ReLU basis: the same initial function, trained in its coefficients.
"""


def v_cycle(size: Size) -> Cycle:
    """Return V-cycles of L-BFGS."""
    smoothing, coarse = size.scaled((20, 200))
    return VCycle(LBFGS(), pre_steps=smoothing, post_steps=smoothing, coarse_steps=coarse)


def full_multigrid(size: Size) -> Cycle:
    """Return full multigrid by L-BFGS."""
    smoothing, coarse = size.scaled((150, 700))
    return FullMultigrid(LBFGS(), steps=smoothing, coarse_steps=coarse)


def finer_grid(seed: int, size: Size) -> ModelProblem:
    """State the problem on the nodes of 100 x 100 cells."""
    return gallery.ml2(size.num_points(100, multiple=2), seed=seed)


def scattered(seed: int, size: Size, inside: int = 10_000, edge: int = 200, interface: int = 400) -> ModelProblem:
    """State the problem on Sobol points instead of a grid, whose lines show a spline of x a hundred values only."""
    model = finer_grid(seed, Size(points=0.1))
    problem = cast("Collocation", model.problem)
    equation, edges, between = problem.terms
    square, number = model.domain, size.num_points(interface)
    nodes = np.insert(grid(square[1:], number, ends=False), 0, 0.0, axis=1)
    terms = [
        replace(equation, points=sobol(square, size.num_points(inside), seed=seed)),
        replace(edges, points=boundary(square, size.num_points(edge))),
        replace(between, points=nodes, normals=np.tile([1.0, 0.0], (number, 1))),
    ]
    inputs = None if problem.ansatz is None else problem.ansatz.inputs
    own = Collocation(coordinates=problem.coordinates, fields=problem.fields, terms=terms, inputs=inputs, seed=seed)
    x = np.concatenate([term.points for term in terms])
    return replace(model, problem=own, x=x, y=model.exact(x))


def few_scattered(seed: int, size: Size) -> ModelProblem:
    """State the problem on as many Sobol points as the grid has nodes."""
    return scattered(seed, size, 49**2, 50, 49)


SMOOTH = {"degree": 7, "num_intervals": 8, "num_levels": 2}
FIGURE = {ERROR: "near 1e-1 (figure)"}

EXPERIMENT = Experiment(
    name="ML-2",
    title="Poisson's equation with a jump, [3,5,1], 140 to 700 coefficients",
    source="Southworth, Actor, Harper, Cyr, Multilevel Training for Kolmogorov Arnold Networks, arXiv 2603.04827",
    make=lambda seed, size: gallery.ml2(size.num_points(50, multiple=2), seed=seed),
    measures=(Measure(ERROR, relative_l2), Measure("training loss")),
    num_seeds=3,
    quick=Size(0.04, 0.5),
    variants=(
        Splines(name="spline, coarse", level=0, method=nested_adam(STEP_SIZE, STEPS)),
        Splines(name="spline, fine", level=-1, method=nested_adam(STEP_SIZE, STEPS)),
        Splines(name="spline, multilevel", paper=FIGURE, method=nested_adam(STEP_SIZE, *SCHEDULE)),
        Splines(
            name="spline, multilevel, attention",
            paper=FIGURE,
            method=nested_adam(STEP_SIZE, *SCHEDULE, attention=ATTENTION),
        ),
        Splines(
            name="ReLU basis, multilevel",
            paper={ERROR: "near 1 (figure)"},
            method=nested_adam(STEP_SIZE, *SCHEDULE, relu=True),
        ),
        Perceptron(name="MLP, tanh, [3,24,24,1]", widths=(3, 24, 24, 1), options=(("lr", 1e-3),), steps=STEPS),
        Splines(name="cyclic step: multilevel", beyond=True, method=nested_adam(STEP_SIZE, *SCHEDULE, schedule=CYCLE)),
        Splines(
            name="cyclic step to 3e-2: multilevel", beyond=True, method=nested_adam(3e-2, *SCHEDULE, schedule=CYCLE)
        ),
        Splines(name="falling steps: multilevel", beyond=True, method=falling_adam(1e-2, *SCHEDULE)),
        Splines(
            name="falling steps, eight starts, 2401 Sobol points, linear continuation: multilevel",
            beyond=True,
            hierarchy={"outside": "linear"},
            method=falling_adam(2e-2, 1000, 1000, 1000, 1000, beta1=0.95, starts=Starts(number=8, steps=125)),
            poses=few_scattered,
        ),
        Splines(name="nested iteration, L-BFGS", beyond=True, method=nested(LBFGS(), *SCHEDULE)),
        Splines(name="V-cycles, L-BFGS", beyond=True, method=v_cycle, max_cycles=13),
        Splines(name="full multigrid, L-BFGS", beyond=True, method=full_multigrid),
        Splines(name="Levenberg-Marquardt (default)", beyond=True),
        Splines(
            name="Levenberg-Marquardt (default), degree 7, 8 to 16 cells, 100 x 100 points",
            beyond=True,
            hierarchy=SMOOTH,
            poses=finer_grid,
        ),
        Splines(
            name="Levenberg-Marquardt (default), degree 7, 8 to 32 cells, 100 x 100 points",
            beyond=True,
            most_seeds=1,
            hierarchy=SMOOTH | {"num_levels": 3},
            poses=finer_grid,
        ),
        Splines(
            name="Levenberg-Marquardt (default), degree 7, 8 to 32 cells, 10,000 Sobol points",
            beyond=True,
            hierarchy=SMOOTH | {"num_levels": 3},
            poses=scattered,
        ),
    ),
    notes=NOTES,
)
