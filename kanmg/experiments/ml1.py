"""ML-1: regression of an oscillation with kinks, the first experiment of multilevel training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kanmg import gallery
from kanmg.cycles import Cycle, FullMultigrid, NestedIteration, VCycle
from kanmg.experiments.experiment import Experiment, Measure, Size, mean_square
from kanmg.experiments.perceptrons import Perceptron
from kanmg.experiments.schedules import in_relu_basis, nested
from kanmg.experiments.splines import Splines
from kanmg.smoothers.lbfgs import LBFGS
from kanmg.smoothers.torch_optimizer import TorchOptimizer
from kanmg.starts import Starts

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from kanmg.smoothers.base import Smoother

__all__ = ["EXPERIMENT"]

MSE = "MSE"
ITERATIONS = 20
COARSE, FINE, MULTILEVEL = (128,), (16,), (32, 16, 8, 4)
SAME_WORK = (sum(MULTILEVEL),)
FREE_KNOTS = {"free_knots": True}
TORCH_OPTIONS: dict[str, Any] = {"lr": 1.0, "max_iter": ITERATIONS, "history_size": 100}

NOTES = """\
- Of the paper: 20,000 points, levels of 5 to 40 cells, L-BFGS with step 1, epochs coarse 128, fine 16, multilevel
  {32, 16, 8, 4}, five seeds.
- Chosen: target, scaling and continuation outside the intervals as `kanmg.gallery.ml1` says; seed s draws the samples
  and the initial coefficients; float64; errors at 10,000 unseen points.
- An epoch is a call of torch's L-BFGS, which makes 20 iterations unless told otherwise. The main rows are kanmg's
  L-BFGS with 20 iterations an epoch; rows beyond use torch's own, without line search, and one iteration an epoch.
- ReLU basis: the same initial function, trained in its coefficients (`kanmg.ChangeOfBasis`).
- The paper prints the perceptrons' numbers of parameters only, 20, 120 and 500. One hidden layer has 21, 121 and 501,
  two of width 20 have 501. They are trained by torch's L-BFGS with a line search, 60 epochs of 20 iterations.
"""


def epochs(smoother: Smoother[Any], numbers: tuple[int, ...], iterations: int = ITERATIONS) -> Callable[[Size], Cycle]:
    """Return so many epochs on each level."""
    return nested(smoother, *(iterations * number for number in numbers))


def four_starts(size: Size) -> Cycle:
    """Return the best of four starts on a level, for the work of one run of the schedule."""
    (steps,) = size.scaled((ITERATIONS * SAME_WORK[0] // 4,))
    return NestedIteration(LBFGS(), steps=0, starts=Starts(4, steps=steps))


def eight_starts(size: Size) -> Cycle:
    """Return starts on the coarsest level, where few samples do; the best goes on, on more samples on every level."""
    first, *steps = size.scaled(tuple(ITERATIONS * number for number in (32, 16, 8, 20)))
    starts = Starts(8, steps=first, fraction=1 / 8)
    return NestedIteration(LBFGS(), steps=(0, *steps), coarse_fraction=0.5, starts=starts)


def eight_starts_finer(size: Size) -> Cycle:
    """Return the same on eight levels instead of four."""
    first, *steps = size.scaled(tuple(ITERATIONS * number for number in (32, 12, 8, 6, 6, 6, 5, 5)))
    starts = Starts(8, steps=first, fraction=1 / 8)
    fractions = (1 / 8, 1 / 4, 1 / 2, 1.0, 1.0, 1.0, 1.0, 1.0)
    return NestedIteration(LBFGS(), steps=(0, *steps), coarse_fraction=fractions, starts=starts)


def v_cycle(size: Size) -> Cycle:
    """Return V-cycles of 160 steps."""
    smoothing, coarse = size.scaled((10, 100))
    return VCycle(LBFGS(), pre_steps=smoothing, post_steps=smoothing, coarse_steps=coarse)


def full_multigrid(size: Size) -> Cycle:
    """Return full multigrid: the coarsest level is visited four times, the finest once."""
    smoothing, coarse = size.scaled((40, 170))
    return FullMultigrid(LBFGS(), steps=smoothing, coarse_steps=coarse)


def perceptron(name: str, widths: tuple[int, ...], paper: str) -> Perceptron:
    """Return a ReLU network that is trained for as many epochs as the schedule has."""
    # Its default tolerance ends training on a plateau after a tenth of the steps.
    options = (*TORCH_OPTIONS.items(), ("line_search_fn", "strong_wolfe"), ("tolerance_change", 1e-15))
    return Perceptron(
        name=name,
        paper={MSE: paper},
        widths=widths,
        activation="relu",
        optimizer=torch.optim.LBFGS,
        options=options,
        steps=SAME_WORK[0],
    )


relu_lbfgs = in_relu_basis(LBFGS())


def torch_epochs(*steps: int, relu: bool = False) -> Callable[[Size], Cycle]:
    """Return nested iteration by torch's L-BFGS, one step an epoch."""

    def cycle(size: Size) -> Cycle:
        # To look at an optimiser of torch loads its compiler: seconds that no other variant should wait for.
        smoother: Smoother[Any] = TorchOptimizer(torch.optim.LBFGS, **TORCH_OPTIONS)
        return epochs(in_relu_basis(smoother) if relu else smoother, steps, 1)(size)

    return cycle


EXPERIMENT = Experiment(
    name="ML-1",
    title="regression of an oscillation with kinks, [2,5,1], 55 to 230 coefficients",
    source="Southworth, Actor, Harper, Cyr, Multilevel Training for Kolmogorov Arnold Networks, arXiv 2603.04827",
    make=lambda seed, size: gallery.ml1(size.num_points(20_000), seed=seed),
    measures=(Measure(MSE, mean_square), Measure("training loss")),
    variants=(
        Splines(name="spline, coarse", paper={MSE: "1.65e-3 (4.2e-5)"}, level=0, method=epochs(LBFGS(), COARSE)),
        Splines(name="spline, fine", paper={MSE: "2.54e-3 (5.6e-3)"}, level=-1, method=epochs(LBFGS(), FINE)),
        Splines(name="spline, multilevel", paper={MSE: "3.67e-5 (7.2e-5)"}, method=epochs(LBFGS(), MULTILEVEL)),
        Splines(name="ReLU basis, coarse", paper={MSE: "1.10e-2"}, level=0, method=epochs(relu_lbfgs, COARSE)),
        Splines(name="ReLU basis, fine", paper={MSE: "1.35"}, level=-1, method=epochs(relu_lbfgs, FINE)),
        Splines(name="ReLU basis, multilevel", paper={MSE: "1.06e-2"}, method=epochs(relu_lbfgs, MULTILEVEL)),
        perceptron("MLP [2,5,1]", (2, 5, 1), "2.94e-2"),
        perceptron("MLP [2,30,1]", (2, 30, 1), "1.02e-3"),
        perceptron("MLP [2,125,1]", (2, 125, 1), "3.33e-4"),
        perceptron("MLP [2,20,20,1]", (2, 20, 20, 1), "3.33e-4"),
        Splines(name="torch's L-BFGS: coarse", beyond=True, level=0, method=torch_epochs(*COARSE)),
        Splines(name="torch's L-BFGS: fine", beyond=True, level=-1, method=torch_epochs(*FINE)),
        Splines(name="torch's L-BFGS: multilevel", beyond=True, method=torch_epochs(*MULTILEVEL)),
        Splines(
            name="torch's L-BFGS, ReLU basis: coarse", beyond=True, level=0, method=torch_epochs(*COARSE, relu=True)
        ),
        Splines(name="torch's L-BFGS, ReLU basis: fine", beyond=True, level=-1, method=torch_epochs(*FINE, relu=True)),
        Splines(
            name="torch's L-BFGS, ReLU basis: multilevel", beyond=True, method=torch_epochs(*MULTILEVEL, relu=True)
        ),
        Splines(name="1 iteration an epoch: coarse", beyond=True, level=0, method=epochs(LBFGS(), COARSE, 1)),
        Splines(name="1 iteration an epoch: fine", beyond=True, level=-1, method=epochs(LBFGS(), FINE, 1)),
        Splines(name="1 iteration an epoch: multilevel", beyond=True, method=epochs(LBFGS(), MULTILEVEL, 1)),
        Splines(
            name="polynomials go on: multilevel",
            beyond=True,
            hierarchy={"outside": "extend"},
            method=epochs(LBFGS(), MULTILEVEL),
        ),
        Splines(name="coarse, same work", beyond=True, level=0, method=epochs(LBFGS(), SAME_WORK)),
        Splines(name="fine, same work", beyond=True, level=-1, method=epochs(LBFGS(), SAME_WORK)),
        Splines(name="fine, best of four starts", beyond=True, level=-1, method=four_starts),
        Splines(name="multilevel, eight starts", beyond=True, method=eight_starts),
        Splines(
            name="multilevel, eight starts, 640 cells",
            beyond=True,
            hierarchy={"num_levels": 8},
            method=eight_starts_finer,
        ),
        Splines(name="multilevel, eight starts, free knots", beyond=True, hierarchy=FREE_KNOTS, method=eight_starts),
        Splines(name="V-cycles", beyond=True, method=v_cycle, max_cycles=8),
        Splines(name="full multigrid", beyond=True, method=full_multigrid),
        Splines(name="Levenberg-Marquardt (default)", beyond=True),
        Splines(name="Levenberg-Marquardt (default), free knots", beyond=True, hierarchy=FREE_KNOTS),
    ),
    notes=NOTES,
)
