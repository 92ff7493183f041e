"""KAN-1: regression of exp(sin(pi x) + y^2) by finer and finer grids, the first example of KANs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kanmg import gallery
from kanmg.cycles import Cycle, FullMultigrid, VCycle
from kanmg.experiments.experiment import Experiment, Measure, Size, rms
from kanmg.experiments.perceptrons import Perceptron
from kanmg.experiments.schedules import in_relu_basis, nested
from kanmg.experiments.splines import Splines
from kanmg.smoothers.lbfgs import LBFGS
from kanmg.starts import Starts

if TYPE_CHECKING:
    from typing import Any

__all__ = ["EXPERIMENT"]

RMSE = "RMSE"
STEPS = 200
MOST_LEVELS = 9
PYKAN = {1: "1.5e-2 (3 cells)", 3: "3.3e-4 (10 cells)", 4: "4.0e-5 (20 cells)", 5: "1.2e-5 (50 cells)"}
SHALLOW, WIDE = (2, 1, 1), (2, 5, 1)
NOTES = """\
- Of the paper: the function, 1,000 points, cubic splines, grids of 3 to 1000 cells; the numbers are those of pykan's
  documentation for [2,1,1], 200 steps of L-BFGS a grid.
- Chosen: 3, 6, 12, ... 768 cells, 200 steps of L-BFGS on each, the best of four starts of 50 steps on the coarsest;
  errors at 10,000 unseen points; float64; five seeds, which draw points and initial coefficients. A row is a run that
  ends on that level.
"""


def ladder(levels: int, widths: tuple[int, ...]) -> Splines:
    """Return the nested iteration that ends on a level."""
    return Splines(
        name=f"[2,{widths[1]},1], {3 * 2 ** (levels - 1)} cells",
        paper={RMSE: PYKAN[levels]} if widths == SHALLOW and levels in PYKAN else {},
        hierarchy={"widths": widths, "num_levels": levels},
        method=nested(LBFGS(), *(STEPS,) * levels, starts=Starts(4, steps=50)),
    )


def alone(widths: tuple[int, ...], levels: int) -> Splines:
    """Return the same steps on the finest level alone."""
    return Splines(
        name=f"[2,{widths[1]},1], {3 * 2 ** (levels - 1)} cells alone",
        hierarchy={"widths": widths, "num_levels": levels},
        level=-1,
        method=nested(LBFGS(), STEPS * levels, starts=Starts(4, steps=50)),
    )


def v_cycle(size: Size) -> Cycle:
    """Return V-cycles of 200 steps."""
    smoothing, coarse = size.scaled((10, 120))
    return VCycle(LBFGS(), pre_steps=smoothing, post_steps=smoothing, coarse_steps=coarse, starts=Starts(4, steps=50))


def full_multigrid(size: Size) -> Cycle:
    """Return full multigrid of 1,000 steps."""
    smoothing, coarse = size.scaled((20, 120))
    return FullMultigrid(LBFGS(), steps=smoothing, coarse_steps=coarse, starts=Starts(4, steps=50))


def beyond(name: str, hierarchy: dict[str, Any], **options: Any) -> Splines:
    """Return a variant that the paper does not have."""
    return Splines(name=name, beyond=True, hierarchy=hierarchy, **options)


SEVENTH, FIFTH = {"degree": 7, "num_intervals": 2}, {"degree": 5, "num_intervals": 2}

EXPERIMENT = Experiment(
    name="KAN-1",
    title="regression of exp(sin(pi x) + y^2) on 3 to 768 cells",
    source="Liu et al., KAN: Kolmogorov-Arnold Networks, arXiv 2404.19756, and the documentation of pykan 0.2.8",
    make=lambda seed, size: gallery.kan1(size.num_points(1000), seed=seed),
    measures=(Measure(RMSE, rms), Measure("training loss")),
    quick=Size(0.25, 1.0),
    variants=(
        *(ladder(levels, SHALLOW) for levels in range(1, MOST_LEVELS + 1)),
        alone(SHALLOW, 5),
        *(ladder(levels, WIDE) for levels in range(1, MOST_LEVELS + 1)),
        alone(WIDE, 5),
        Splines(
            name="[2,1,1], 48 cells, ReLU basis",
            hierarchy={"widths": SHALLOW, "num_levels": 5},
            method=nested(in_relu_basis(LBFGS()), *(STEPS,) * 5, starts=Starts(4, steps=50)),
        ),
        Perceptron(name="MLP, tanh, [2,10,10,1]", widths=(2, 10, 10, 1), options=(("lr", 1e-2),), steps=5 * STEPS),
        beyond("V-cycles, [2,1,1], 48 cells", {"widths": SHALLOW, "num_levels": 5}, method=v_cycle, max_cycles=5),
        beyond("full multigrid, [2,1,1], 48 cells", {"widths": SHALLOW, "num_levels": 5}, method=full_multigrid),
        beyond("Levenberg-Marquardt, [2,1,1], 48 cells", {"widths": SHALLOW, "num_levels": 5}),
        beyond("Levenberg-Marquardt, [2,1,1], degree 7", SEVENTH | {"widths": SHALLOW, "num_levels": 6}),
        beyond("Levenberg-Marquardt, [2,5,1], degree 5", FIFTH | {"widths": WIDE, "num_levels": 4}),
    ),
    notes=NOTES,
)
