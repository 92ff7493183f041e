"""The method that `kanmg.solve` uses unless told otherwise, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kanmg.continuation import Continuation
from kanmg.cycles import Cycle, NestedIteration
from kanmg.network import Spline
from kanmg.problems.collocation import Collocation
from kanmg.problems.regression import Regression
from kanmg.smoothers.adam import Adam
from kanmg.smoothers.lbfgs import LBFGS
from kanmg.smoothers.levenberg_marquardt import LevenbergMarquardt
from kanmg.smoothers.schedules import OneCycle
from kanmg.starts import Starts

if TYPE_CHECKING:
    from kanmg.cycles import Steps
    from kanmg.hierarchy import Hierarchy
    from kanmg.network import Network
    from kanmg.problems.base import Problem

__all__ = ["choose_method", "default_method"]

# Starts of a regression see so many samples per coefficient, if that is less than a half of them.
_SAMPLES_PER_COEFFICIENT = 50
_MOST_OF_THE_SAMPLES = 0.5

# Regressions hold back so many samples to choose the level by: a part, but not too few, nor more than tell it apart.
_HELD_BACK, _FEWEST_HELD_BACK, _MOST_OF_FEW, _MOST_HELD_BACK = 0.05, 40, 0.2, 10_000

# With fewer samples, in all or for a coefficient of the coarsest level, L-BFGS fits less closely: the better choice.
_FEWEST_SAMPLES, _FEWEST_SAMPLES_PER_COEFFICIENT = 50, 2

# A step of Levenberg-Marquardt on the finest level takes no more multiply-adds than these: some seconds.
_MOST_WORK_A_STEP = 3e10

# Coarse levels of equations see so many residuals per coefficient.
_RESIDUALS_PER_COEFFICIENT = 8

# Levels on which hidden values are moved back into their intervals: what they do outside is a floor of the error.
_REFITTED = 2

# With mini-batches, on every level.
_LEAST_STEPS_ON_BATCHES = 1000

# Acceleration along the step helps networks of so many spline layers, and costs more than it gains in deeper ones.
_MOST_LAYERS_TO_ACCELERATE = 2


def default_method(problem: Problem, hierarchy: Hierarchy) -> Cycle:
    """Return the method that `kanmg.solve` uses unless told otherwise.

    Parameters
    ----------
    problem : Problem
    hierarchy : Hierarchy

    Returns
    -------
    Cycle

    Examples
    --------
    >>> import numpy as np
    >>> import kanmg
    >>> x = np.linspace(-1, 1, 400).reshape(-1, 1)
    >>> hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=4, num_levels=2, evaluator="reference")
    >>> method = kanmg.default_method(kanmg.Regression(x, np.exp(x)), hierarchy)
    >>> method.steps, method.starts.number
    (60, 1)
    >>> deep = kanmg.uniform_hierarchy((1, 2, 1), degree=3, num_intervals=4, num_levels=2, evaluator="reference")
    >>> kanmg.default_method(kanmg.Regression(x, np.exp(x)), deep).starts.number
    16
    >>> adam = kanmg.default_method(kanmg.Regression(x, np.exp(x), batch_size=40), hierarchy).smoother
    >>> [smoother.step_size for smoother in adam]
    [0.01, 0.005]
    """
    return choose_method(problem, hierarchy)[0]


def choose_method(problem: Problem, hierarchy: Hierarchy) -> tuple[Cycle, str]:
    """Return the default method and the reason for it.

    Nested iteration, because no cycle has beaten it at equal work yet. After these numbers of steps, on the gallery's
    problems, more steps on a level gain less than the next level does; and several starts there lower the worst error
    of several seeds by up to four orders of magnitude (benchmarks/starts.py).
    """
    if problem.steps_per_epoch > 1:
        return _for_batches(problem, len(hierarchy))
    finest = hierarchy[-1].network.num_coefficients + problem.num_parameters
    if finest <= LevenbergMarquardt().max_coefficients:
        if isinstance(problem, Collocation):
            return _for_equations(problem, hierarchy)
        if isinstance(problem, Regression) and _can_fit_closely(problem, hierarchy):
            return _for_samples(problem, hierarchy)
    starts = _starts_of_regression(problem, hierarchy[0].network)
    reason = "`method=None` chose nested iteration with L-BFGS, which sees all samples: 300 steps a level"
    if isinstance(starts, Starts):
        reason += f", after {starts.number} starts of {starts.steps} steps on the coarsest"
    hold_back = 0.0
    if isinstance(problem, Regression):
        hold_back = _part_held_back(problem.num_samples)
        reason += _by_held_back(problem, hold_back)
    return NestedIteration(smoother=LBFGS(), steps=300, starts=starts, hold_back=hold_back), f"{reason}."


def _for_batches(problem: Problem, num_levels: int) -> tuple[Cycle, str]:
    """Return Adam; the last coefficients of the finest level may be worse than those of a coarser one, also on it."""
    reason = (
        "`method=None` chose nested iteration with Adam, which bears mini-batches: 30 epochs a level, but "
        f"at least {_LEAST_STEPS_ON_BATCHES} steps, whose lengths fall"
    )
    hold_back = 0.0
    if isinstance(problem, Regression):
        hold_back = _part_held_back(problem.num_samples)
        reason += _by_held_back(problem, hold_back)
    # Fewer steps that fall do not come near a minimum.
    steps = max(30 * problem.steps_per_epoch, _LEAST_STEPS_ON_BATCHES)
    # Steps of one length end in the noise of the batches; finer levels begin nearer to their minima.
    smoothers = tuple(Adam(1e-2 / 2**level, schedule=OneCycle(steps)) for level in range(num_levels))
    return NestedIteration(smoother=smoothers, steps=steps, hold_back=hold_back), f"{reason}."


def _by_held_back(problem: Regression, part: float) -> str:
    """Say how many samples choose the level."""
    number = problem.num_validation or round(part * problem.num_samples)
    return f"; {number} held-back samples choose the level" if number else ""


def _for_equations(problem: Collocation, hierarchy: Hierarchy) -> tuple[Cycle, str]:
    """Return Levenberg-Marquardt from several starts, on few points where there are few coefficients."""
    networks = [level.network for level in hierarchy]
    is_deep = sum(isinstance(layer, Spline) for layer in networks[0].layers) > _MOST_LAYERS_TO_ACCELERATE
    share = _RESIDUALS_PER_COEFFICIENT / max(problem.num_residuals, 1)
    coarse = [min(1.0, share * network.num_coefficients) for network in networks[:-1]]
    has_choice = len(networks[0].layers) > 1 or networks[0].num_logits > 0
    fraction = coarse[0] if coarse else 1.0
    # Starts of deep networks take minutes, and on a path from easier problems the first losses say less.
    more = 0 if is_deep else 8
    starts = Starts(8, steps=30, fraction=fraction, keep=2, further_steps=100, more=more) if has_choice else 1
    method = NestedIteration(
        smoother=LevenbergMarquardt(acceleration=not is_deep),
        steps=150,
        starts=starts,
        coarse_fraction=(*coarse, 1.0),
        continuation=Continuation() if problem.can_be_eased else None,
        idle=0.1,
        refit=_REFITTED if has_choice and not is_deep else 0,
        # Candidates are held back anyway; this makes them choose the level.
        hold_back=_HELD_BACK if problem.can_be_redrawn else 0.0,
        # Deep networks take minutes: there the alarm is told, and what to do about it left to the user.
        retries=0 if is_deep else 1,
    )
    reason = _reason(networks[-1], method.steps, starts)
    if problem.can_be_eased:
        reason += ", on a path from easier problems"
    if problem.can_be_redrawn:
        reason += "; the terms' candidates, which are held back, choose the level"
    return method, f"{reason}."


def _can_fit_closely(problem: Regression, hierarchy: Hierarchy) -> bool:
    """Whether Levenberg-Marquardt is affordable, and samples are enough to tell noise from the function."""
    work = problem.num_residuals * hierarchy[-1].evaluator.normal_cost_per_residual
    fewest = max(_FEWEST_SAMPLES, _FEWEST_SAMPLES_PER_COEFFICIENT * hierarchy[0].network.num_coefficients)
    return problem.num_samples >= fewest and problem.dtype == np.float64 and work <= _MOST_WORK_A_STEP


def _for_samples(problem: Regression, hierarchy: Hierarchy) -> tuple[Cycle, str]:
    """Return Levenberg-Marquardt whose level is chosen by samples that are held back."""
    networks = [level.network for level in hierarchy]
    share = _SAMPLES_PER_COEFFICIENT / problem.num_samples
    coarse = [share * network.num_coefficients for network in networks[:-1]]
    coarse = [part if part < _MOST_OF_THE_SAMPLES else 1.0 for part in coarse]
    part = _part_held_back(problem.num_samples)
    # A single layer with fixed knots has one minimum.
    has_choice = len(networks[0].layers) > 1 or networks[0].num_logits > 0
    starts = Starts(16, steps=30, fraction=coarse[0] if coarse else 1.0) if has_choice else 1
    method = NestedIteration(
        smoother=LevenbergMarquardt(),
        steps=60,
        starts=starts,
        coarse_fraction=(*coarse, 1.0),
        idle=0.1,
        refit=_REFITTED if has_choice else 0,
        hold_back=part,
        fair=True,
        retries=1,
    )
    reason = _reason(networks[-1], method.steps, starts)
    return method, f"{reason}{_by_held_back(problem, part)}."


def _reason(finest: Network, steps: Steps, starts: int | Starts) -> str:
    """Say why Levenberg-Marquardt was chosen, and how much of it."""
    reason = (
        "`method=None` chose nested iteration with Levenberg-Marquardt, because the loss is a sum of squares and the "
        f"finest level has {finest.num_coefficients} coefficients: up to {steps} steps a level"
    )
    if isinstance(starts, Starts):
        reason += f", after {starts.number} starts of {starts.steps} steps on the coarsest"
    return reason


def _part_held_back(num_samples: int) -> float:
    """Return the part of the samples that chooses the level."""
    part = max(_HELD_BACK * num_samples, min(_FEWEST_HELD_BACK, _MOST_OF_FEW * num_samples))
    return min(part, _MOST_HELD_BACK) / max(num_samples, 1)


def _starts_of_regression(problem: Problem, coarsest: Network) -> int | Starts:
    """Return several starts where there can be several minima: where layers follow each other."""
    if len(coarsest.layers) == 1 and not coarsest.num_logits:
        return 1
    fraction = _SAMPLES_PER_COEFFICIENT * coarsest.num_coefficients / max(problem.num_samples, 1)
    return Starts(fraction=fraction if fraction < _MOST_OF_THE_SAMPLES else 1.0)
