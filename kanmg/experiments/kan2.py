"""KAN-2: Poisson's equation on a square, the second example of KANs."""

from __future__ import annotations

import torch

from kanmg import gallery
from kanmg.cycles import Cycle, VCycle
from kanmg.experiments.experiment import Experiment, Measure, Size, mean_square, relative_l2
from kanmg.experiments.perceptrons import Perceptron
from kanmg.experiments.schedules import in_relu_basis, nested
from kanmg.experiments.splines import Splines
from kanmg.smoothers.lbfgs import LBFGS
from kanmg.smoothers.levenberg_marquardt import LevenbergMarquardt
from kanmg.starts import Starts

__all__ = ["EXPERIMENT"]

SQUARED = "squared L2 error"
STEPS = (200, 200, 200)
WIDE = {"widths": (2, 10, 1), "degree": 3, "num_intervals": 5, "num_levels": 3}
SMALL = {"widths": (2, 5, 1), "degree": 5, "num_intervals": 2, "num_levels": 1}
PAPER = {SQUARED: "1e-7 with 1e2 parameters"}
NOTES = """\
- Of the paper: the equation and its weight 0.01 against the boundary, 10,000 interior and 800 boundary points, two
  layers of splines, width 10; its figure gives a squared error of 1e-7 with about 1e2 parameters, and 1e-5 for a
  perceptron with 100 times as many.
- Chosen: Sobol points inside; mean squared error at 10,000 unseen points; cubic, 5 to 20 cells; L-BFGS, 200 steps a
  level, 600 where there is one; float64; three seeds, which draw points and initial coefficients.
- The network of 105 coefficients, [2,5,1] of degree 5 with 2 cells, is trained by Levenberg-Marquardt.
"""


def v_cycle(size: Size) -> Cycle:
    """Return V-cycles of 160 steps."""
    smoothing, coarse = size.scaled((20, 80))
    return VCycle(LBFGS(), pre_steps=smoothing, post_steps=smoothing, coarse_steps=coarse)


def small(size: Size) -> Cycle:
    """Return Levenberg-Marquardt on one level."""
    first, steps = size.scaled((30, 150))
    return nested(LevenbergMarquardt(), steps, starts=Starts(8, steps=first))(Size())


EXPERIMENT = Experiment(
    name="KAN-2",
    title="Poisson's equation on a square, [2,10,1], and networks of 100 coefficients",
    source="Liu et al., KAN: Kolmogorov-Arnold Networks, arXiv 2404.19756",
    make=lambda seed, size: gallery.kan2(size.num_points(10_000), size.num_points(800, multiple=4), seed=seed),
    measures=(Measure(SQUARED, mean_square), Measure("relative L2 error", relative_l2), Measure("training loss")),
    num_seeds=3,
    quick=Size(0.1, 0.1),
    variants=(
        Splines(name="spline, coarse", hierarchy=WIDE, level=0, method=nested(LBFGS(), sum(STEPS))),
        Splines(name="spline, fine", hierarchy=WIDE, level=-1, method=nested(LBFGS(), sum(STEPS))),
        Splines(name="spline, multilevel", paper=PAPER, hierarchy=WIDE, method=nested(LBFGS(), *STEPS)),
        Splines(name="ReLU basis, multilevel", hierarchy=WIDE, method=nested(in_relu_basis(LBFGS()), *STEPS)),
        Perceptron(
            name="MLP, tanh, [2,20,20,1]",
            widths=(2, 20, 20, 1),
            optimizer=torch.optim.LBFGS,
            options=(("max_iter", 20), ("history_size", 50), ("line_search_fn", "strong_wolfe")),
            steps=sum(STEPS) // 20,
        ),
        Splines(name="V-cycles, L-BFGS", beyond=True, hierarchy=WIDE, method=v_cycle, max_cycles=4),
        Splines(name="105 coefficients, Levenberg-Marquardt", beyond=True, paper=PAPER, hierarchy=SMALL, method=small),
        Splines(name="Levenberg-Marquardt (default)", beyond=True, hierarchy=WIDE),
        Splines(name="Levenberg-Marquardt (default), degree 7, [2,5,1]", beyond=True),
    ),
    notes=NOTES,
)
