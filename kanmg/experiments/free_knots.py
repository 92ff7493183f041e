"""Free knots: what they gain on a steep function, on a kink, and on a boundary layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kanmg.cycles import NestedIteration
from kanmg.experiments.experiment import Experiment, Measure, Size, relative_l2
from kanmg.experiments.splines import Splines
from kanmg.gallery.model_problem import regression_problem
from kanmg.smoothers.lbfgs import LBFGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from kanmg.arrays import Array
    from kanmg.cycles import Cycle
    from kanmg.gallery import ModelProblem

__all__ = ["EXPERIMENTS"]

SAMPLES = 2000
STEPS = 200
EPSILON = 0.01
# Numbers of cells with which fixed knots have at least as many coefficients on the finest level as free ones have, the
# five logits counted: 48 and 51.
CELLS, CELLS_ALONE = 5, 6

NOTES = """\
- The paper of free knots was not at hand: the targets are chosen. One layer of cubic splines, 2000 samples, four
  levels from 5 cells (free) and 6 cells (fixed), so that fixed knots have more coefficients, 51 against 48, the logits
  counted; L-BFGS takes 200 steps a level; seed s draws samples and initial coefficients; float64; errors at 10,000
  unseen points.
- `benchmarks/free_knots.py` has more targets, at equal work, with the choice by held-back samples.
"""


def steep(x: Array) -> Array:
    """Evaluate tanh(50 (x - 0.2))."""
    return np.tanh(50.0 * (x - 0.2))


def kinked(x: Array) -> Array:
    """Evaluate abs(x - 0.3) + 0.3 sin(2 x)."""
    return np.abs(x - 0.3) + 0.3 * np.sin(2.0 * x)


def layer(x: Array) -> Array:
    """Evaluate the solution of eps u'' + u' = 0 on (0, 1) with the values 0 and 1 at the ends."""
    values: Array = (1.0 - np.exp(-x / EPSILON)) / (1.0 - np.exp(-1.0 / EPSILON))
    return values


def lbfgs(size: Size) -> Cycle:
    """Return nested iteration with L-BFGS."""
    return NestedIteration(LBFGS(), steps=size.scaled((STEPS,))[0])


def experiment(name: str, title: str, function: Callable[[Array], Array], domain: tuple[float, float]) -> Experiment:
    """Return the experiment for one target."""

    def make(seed: int, size: Size) -> ModelProblem:
        arguments: dict[str, Any] = {"widths": (1, 1), "degree": 3, "num_intervals": CELLS, "num_levels": 4}
        return regression_problem(
            name,
            function,
            domain=(domain,),
            num_samples=size.num_points(SAMPLES),
            seed=seed,
            hierarchy_arguments={**arguments, "domain": domain},
            source="chosen for this study",
        )

    free, more = {"free_knots": True}, {"num_intervals": CELLS_ALONE}
    return Experiment(
        name=name,
        title=title,
        source="Actor, Harper, Southworth, Cyr, arXiv 2505.18131, has free knots; the target is chosen",
        make=make,
        measures=(Measure("relative L2 error", relative_l2), Measure("training loss")),
        variants=(
            Splines(name="L-BFGS, fixed knots", beyond=True, hierarchy=more, method=lbfgs),
            Splines(name="L-BFGS, free knots", beyond=True, hierarchy=free, method=lbfgs),
            Splines(name="Levenberg-Marquardt (default), fixed knots", beyond=True, hierarchy=more),
            Splines(name="Levenberg-Marquardt (default), free knots", beyond=True, hierarchy=free),
        ),
        notes=NOTES,
    )


EXPERIMENTS = (
    experiment("free-knots-steep", "free knots: tanh(50 (x - 0.2))", steep, (-1.0, 1.0)),
    experiment("free-knots-kinked", "free knots: abs(x - 0.3) + 0.3 sin(2 x)", kinked, (-1.0, 1.0)),
    experiment("free-knots-layer", "free knots: a boundary layer of width 0.01", layer, (0.0, 1.0)),
)
