"""ML-2: Poisson's equation with a coefficient that jumps, the second experiment of multilevel training."""

from __future__ import annotations

from kanmg import gallery
from kanmg.cycles import Cycle, FullMultigrid, VCycle
from kanmg.experiments.experiment import Experiment, Measure, Size, relative_l2
from kanmg.experiments.perceptrons import Perceptron
from kanmg.experiments.schedules import Triangular, nested, nested_adam
from kanmg.experiments.splines import Splines
from kanmg.smoothers.lbfgs import LBFGS
from kanmg.weighting import Attention

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
        Splines(name="nested iteration, L-BFGS", beyond=True, method=nested(LBFGS(), *SCHEDULE)),
        Splines(name="V-cycles, L-BFGS", beyond=True, method=v_cycle, max_cycles=13),
        Splines(name="full multigrid, L-BFGS", beyond=True, method=full_multigrid),
        Splines(name="Levenberg-Marquardt (default)", beyond=True),
        *(
            Splines(
                name=f"Levenberg-Marquardt (default), degree 7, 8 to {8 * 2 ** (levels - 1)} cells, 100 x 100 points",
                beyond=True,
                hierarchy={"degree": 7, "num_intervals": 8, "num_levels": levels},
                poses=lambda seed, size: gallery.ml2(size.num_points(100, multiple=2), seed=seed),
            )
            for levels in (2, 3)
        ),
    ),
    notes=NOTES,
)
