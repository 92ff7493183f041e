"""Fixed or free knots: solve with both, and keep free ones where they are worth their parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kanmg.defaults import choose_method
from kanmg.driver import solve
from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.hierarchy import Hierarchy
from kanmg.network import Spline
from kanmg.problems.base import Problem

if TYPE_CHECKING:
    from kanmg.cycles import Cycle
    from kanmg.network import Network
    from kanmg.solution import Solution

__all__ = ["choose_knots"]


def choose_knots(
    problem: Problem, hierarchy: Hierarchy, *, method: Cycle | None = None, seed: int = 0, **options: Any
) -> Solution:
    """Solve with fixed and with free knots, and return the better solution.

    Free knots gain orders of magnitude where a function is steep or has kinks, and nothing where it is smooth
    everywhere: there the same number of parameters is better spent on cells.

    Parameters
    ----------
    problem : Problem
    hierarchy : Hierarchy
        With free knots.
    method : Cycle, optional
        Of both runs; by default what `kanmg.solve` uses for each.
    seed : int, default 0
    **options
        As for `kanmg.solve`, of both runs; `initial` and `checkpoint` belong to one hierarchy and are refused.

    Returns
    -------
    Solution
        Of `hierarchy`, or of `hierarchy.fixed()`. Its work and time are those of both runs.

    Raises
    ------
    KanmgValueError, KanmgTypeError
        If the hierarchy has no free knots, or another argument is unusable.

    Notes
    -----
    Free knots are kept if they lower the loss at held-back samples to less than a part (C / C')^(2 k + 2) of what fixed
    knots reach, k being the lowest degree and C and C' the numbers of coefficients, logits included: so much so many
    more coefficients would gain for a smooth function. Problems without held-back samples are judged by the loss.

    Examples
    --------
    >>> import numpy as np
    >>> import kanmg
    >>> x = np.linspace(-1, 1, 400).reshape(-1, 1)
    >>> hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=6, num_levels=2, free_knots=True)
    >>> steep = choose_knots(kanmg.Regression(x, np.tanh(40 * x - 8)), hierarchy)
    >>> smooth = choose_knots(kanmg.Regression(x, np.exp(x)), hierarchy)
    >>> steep.hierarchy is hierarchy, smooth.hierarchy is hierarchy
    (True, False)
    """
    _check(problem, hierarchy, options)
    if method is None:
        # Both runs must hold back the same samples.
        problem = problem.holding_back(choose_method(problem, hierarchy)[0].program(hierarchy).hold_back)
    fixed, free = (
        solve(problem, levels, method=method, seed=seed, **options) for levels in (hierarchy.fixed(), hierarchy)
    )
    losses = [_judged(problem, solution) for solution in (fixed, free)]
    part = min(1.0, fixed.coefficients.size / free.coefficients.size)
    degree = min(layer.degree for layer in hierarchy[0].network.layers if isinstance(layer, Spline))
    threshold = losses[0] * part ** (2 * degree + 2)
    keeps_free = losses[1] < threshold
    chosen = free if keeps_free else fixed
    remark = (
        f"{'Free' if keeps_free else 'Fixed'} knots are kept: with fixed ones the loss compared is {losses[0]:.3e}, "
        f"with free ones {losses[1]:.3e}, and must be below {threshold:.3e}, which as many more cells would reach."
    )
    return replace(
        chosen,
        message=f"{chosen.message}\n{remark}",
        work_units=fixed.work_units + free.work_units,
        seconds=fixed.seconds + free.seconds,
    )


def _judged(problem: Problem, solution: Solution) -> float:
    """Return the loss that a solution is judged by."""
    level = solution.hierarchy[solution.level]
    unknowns = [solution.parameters[name] for name in solution.parameters]
    if unknowns:
        return solution.loss
    held_back = problem.validation_loss(level.evaluator, solution.coefficients)
    return solution.loss if held_back is None else held_back


def _check(problem: Any, hierarchy: Any, options: dict[str, Any]) -> None:
    """Refuse what is no problem or has no free knots, and options that belong to one hierarchy."""
    if not isinstance(problem, Problem):
        raise KanmgTypeError(f"`problem` is a {type(problem).__name__}. Pass e.g. a `kanmg.Regression`.")
    if not isinstance(hierarchy, Hierarchy):
        raise KanmgTypeError(f"`hierarchy` is {hierarchy!r}. Pass what `kanmg.uniform_hierarchy(...)` returns.")
    network: Network = hierarchy[0].network
    if not network.num_logits:
        raise KanmgValueError(
            "`hierarchy` has no free knots, so that there is nothing to choose. Write `kanmg.uniform_hierarchy(..., "
            "free_knots=True)`, or use `kanmg.solve`."
        )
    for name in ("initial", "checkpoint"):
        if options.get(name) is not None:
            raise KanmgValueError(
                f"`{name}` belongs to one run, but `choose_knots` makes two. Use `kanmg.solve` with "
                "`hierarchy.fixed()` and with `hierarchy`."
            )
