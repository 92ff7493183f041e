"""Fixed or free knots: solve with both, and keep free ones where they are worth their parameters."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from kanmg.cycles import NestedIteration
from kanmg.defaults import choose_method
from kanmg.driver import check_limits, check_types, raise_failure, solve
from kanmg.errors import CheckpointError, KanmgValueError
from kanmg.history import Status
from kanmg.network import Spline
from kanmg.objective import loss_of_zero
from kanmg.problems.collocation import Collocation
from kanmg.splines.bspline import basis_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kanmg.arrays import Array
    from kanmg.cycles import Cycle
    from kanmg.hierarchy import Hierarchy
    from kanmg.history import Record
    from kanmg.network import Network
    from kanmg.problems.base import Problem
    from kanmg.solution import Solution

__all__ = ["choose_knots"]

# On the coarsest level free knots must gain ten times more than cells would: smooth functions gain as much as these at
# most, steep ones and those with kinks hundreds of times more (benchmarks/free_knots.py).
_MARGIN = 0.1
# So small a part of the loss of zero says that the coarsest level sees what the function is.
_RESOLVED = 0.01

# Where splines are compared with what they are to become.
_POINTS_PER_CELL = 12


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
        Of all runs; by default what `kanmg.solve` uses for each.
    seed : int, default 0
        Of the run with fixed knots. That with free ones has the next seed, and so other starts.
    **options
        As for `kanmg.solve`, of all runs; `initial` and `checkpoint` belong to one hierarchy and are refused.

    Returns
    -------
    Solution
        Of `hierarchy`, or of `hierarchy.fixed()`. Its work and time are those of all runs. If one of them is
        interrupted, or ended by a callback, the better one so far, with the status that says so.

    Raises
    ------
    KanmgValueError, KanmgTypeError
        If the hierarchy has no free knots, or another argument is unusable.
    CheckpointError
        If there is no temporary folder to pause runs in, or it is full; as from `kanmg.solve`.
    ConvergenceError
        As from `kanmg.solve`, if that is so of the better solution.

    Notes
    -----
    Free knots first show on the coarsest level whether they pay: only if they lower the loss at held-back samples there
    to less than a tenth of (C / C')^(2 k + 2) times what fixed knots reach, k being the lowest degree and C and C' the
    numbers of coefficients, logits included, they go on to the finest level. So much so many more coefficients would
    gain for a smooth function. Where the coarsest level does not see what the function is, or the method does not
    smooth it before others, they go on in any case. On the finest level they are kept if they are below the same part.
    Problems without held-back samples are judged by the loss.

    Where fixed knots are kept and layers follow each other, so that there are many minima, the one that the run with
    free knots has found is carried over to fixed knots, by least squares for every spline, and refined: a second
    candidate, which is returned if it is better.

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
    _check(problem, hierarchy, method, seed, options)
    throw = options.pop("throw", True)
    chosen = choose_method(problem, hierarchy)[0] if method is None else method
    # All runs must hold back the same samples.
    problem = problem.holding_back(chosen.program(hierarchy).hold_back)
    with _temporary_folder() as folder:
        begin = functools.partial(_Run, problem, {**options, "method": method, "throw": False}, Path(folder))
        solution = _choose(problem, hierarchy, begin, seed, pauses=isinstance(chosen, NestedIteration))
    if throw:
        raise_failure(solution, wants_tolerance=any(options.get(name) is not None for name in ("rtol", "atol")))
    return solution


def _temporary_folder() -> TemporaryDirectory[str]:
    """Make a folder for the checkpoints of runs that pause."""
    try:
        return TemporaryDirectory()
    except OSError as error:
        raise CheckpointError(
            f"`choose_knots` pauses runs in a temporary folder, and cannot make one: {error}. Let the environment "
            "variable TMPDIR name a folder that can be written, or use `kanmg.solve` with `hierarchy` and with "
            "`hierarchy.fixed()`."
        ) from error


def _choose(problem: Problem, hierarchy: Hierarchy, begin: Callable[..., _Run], seed: int, *, pauses: bool) -> Solution:
    """Make the runs and return the best solution; `pauses`: the coarsest level is smoothed before it is left."""
    uniform = hierarchy.fixed()
    fixed = begin(uniform, "fixed", pauses=pauses, seed=seed)
    reached = _judged(problem, fixed.solution)
    fixed.finish()
    if fixed.is_stopped:
        return _with_remark([fixed], fixed.solution, "It was ended before free knots could be tried.")
    # Other starts: where free knots do not pay, the second run has found another minimum.
    free = begin(hierarchy, "free", pauses=pauses, seed=seed + 1)
    promise, runs = _judged(problem, free.solution), [fixed, free]
    needed = reached * _gain_of_cells(uniform, hierarchy, 0) * _MARGIN
    is_resolved = reached < _RESOLVED * loss_of_zero(problem, uniform[0], None)
    if promise < needed or not is_resolved:
        free.finish()
    remark = f"On the coarsest level the loss compared is {reached:.3e} with fixed knots, {promise:.3e} with free ones"
    if free.is_complete:
        said, keeps_free = _compare(problem, fixed.solution, free.solution)
        remark = f"{said} {remark}." if pauses else said
    else:
        remark = f"Fixed knots are kept. {remark}, which only below {needed:.3e} would have gone on."
        keeps_free = False
    chosen = runs[keeps_free].solution
    if not (keeps_free or free.is_stopped) and len(uniform[0].network.layers) > 1 and math.isfinite(promise):
        initial = _carried_over(free.solution, uniform)
        with_values = _with_values(problem, free.solution)
        runs.append(begin(uniform, "carried", pauses=False, seed=seed, initial=initial, restated=with_values))
        losses = [_judged(problem, solution) for solution in (chosen, runs[-1].solution)]
        remark += f" The minimum found with free knots, carried over to fixed ones, ends at {losses[1]:.3e}"
        remark += f", which is better than {losses[0]:.3e}." if losses[1] < losses[0] else "."
        chosen = runs[-1].solution if losses[1] < losses[0] else chosen
    return _with_remark(runs, chosen, remark)


def _with_remark(runs: Sequence[_Run], chosen: Solution, remark: str) -> Solution:
    """Return the solution that was chosen, with the cost of all runs, and the status of one that the user has ended."""
    solutions = [run.solution for run in runs]
    ended = next((run.solution.status for run in runs if run.is_stopped), None)
    if ended is not None and len(runs) > 1:
        remark = f"{ended.message} It was not the only run, and not all could be compared to their ends. {remark}"
    return replace(
        chosen,
        status=chosen.status if ended is None else ended,
        message=f"{chosen.message}\n{remark}",
        work_units=sum(solution.work_units for solution in solutions),
        seconds=sum(solution.seconds for solution in solutions),
    )


class _Run:
    """A run that pauses where it leaves the coarsest level, and then goes on to the same end as without the pause.

    Attributes
    ----------
    solution : Solution
        So far.
    is_complete : bool
        Whether it has come to its end.
    is_stopped : bool
        Whether the user has ended it.
    """

    def __init__(
        self,
        problem: Problem,
        options: dict[str, Any],
        folder: Path,
        hierarchy: Hierarchy,
        name: str,
        *,
        pauses: bool,
        restated: Problem | None = None,
        **others: Any,
    ) -> None:
        self._arguments = restated or problem, hierarchy
        self._options = options | others | {"checkpoint": folder / name, "callback": self._watch}
        self._callback = options.get("callback")
        self._is_to_pause, self._has_paused, self.is_stopped = pauses, False, False
        self.solution = self._solve()
        self.is_complete = self.is_stopped or not self._has_paused

    def finish(self) -> None:
        """Go to the end."""
        if not self.is_complete:
            self.solution, self.is_complete = self._solve(), True

    def _solve(self) -> Solution:
        solution = solve(*self._arguments, **self._options)
        self.is_stopped |= solution.status is Status.INTERRUPTED
        return solution

    def _watch(self, record: Record) -> None:
        try:
            if self._callback is not None:
                self._callback(record)
        except StopIteration:
            self.is_stopped = True
            raise
        if self._is_to_pause and record.event == "prolong":
            self._is_to_pause, self._has_paused = False, True
            raise StopIteration


def _compare(problem: Problem, fixed: Solution, free: Solution) -> tuple[str, bool]:
    """Say whether free knots are worth their parameters."""
    losses = [_judged(problem, solution) for solution in (fixed, free)]
    threshold = losses[0] * _gain_of_cells(fixed.hierarchy, free.hierarchy, -1)
    keeps_free = losses[1] < threshold or (math.isfinite(losses[1]) and not math.isfinite(losses[0]))
    return (
        f"{'Free' if keeps_free else 'Fixed'} knots are kept: with fixed ones the loss compared is {losses[0]:.3e}, "
        f"with free ones {losses[1]:.3e}, and must be below {threshold:.3e}, which as many more cells would reach."
    ), keeps_free


def _gain_of_cells(fixed: Hierarchy, free: Hierarchy, level: int) -> float:
    """Return what a level's loss would be multiplied with by as many more coefficients as it has logits."""
    networks = fixed[level].network, free[level].network
    degree = min(layer.degree for layer in networks[0].layers if isinstance(layer, Spline))
    part = networks[0].num_coefficients / networks[1].num_coefficients
    return float(min(1.0, part) ** (2 * degree + 2))


def _judged(problem: Problem, solution: Solution) -> float:
    """Return the loss that a solution is judged by."""
    level = solution.hierarchy[solution.level]
    if solution.parameters:
        return solution.loss
    held_back = problem.validation_loss(level.evaluator, solution.coefficients)
    return solution.loss if held_back is None else held_back


def _carried_over(free: Solution, uniform: Hierarchy) -> Array:
    """Fit splines with fixed knots to those that training has moved the knots of; returns coefficients of its level."""
    own, theta = free.hierarchy[free.level].network, np.asarray(free.coefficients)
    moved = own.at(theta)
    arrays = [np.array(array) for array in own.unflatten(theta)]
    network = uniform[free.level].network
    for array, before, after in zip(arrays, moved.layers, network.layers, strict=True):
        if not (isinstance(before, Spline) and isinstance(after, Spline)):
            continue
        for p, (source, target) in enumerate(zip(before.knots, after.knots, strict=True)):
            x = np.linspace(*target.domain, _POINTS_PER_CELL * target.num_intervals + 1)
            values = basis_matrix(source, x) @ array[p].astype(np.float64)
            array[p] = np.linalg.lstsq(basis_matrix(target, x), values, rcond=None)[0]
    return np.asarray(network.flatten(arrays), theta.dtype)


def _with_values(problem: Problem, solution: Solution) -> Problem:
    """Return the problem whose parameters begin with what a solution has found."""
    if isinstance(problem, Collocation) and solution.parameters:
        return problem.with_parameters(**solution.parameters)
    return problem


def _check(problem: Any, hierarchy: Any, method: Any, seed: Any, options: dict[str, Any]) -> None:
    """Refuse what `solve` refuses, hierarchies without free knots, and options that belong to one hierarchy."""
    check_types(problem, hierarchy, method, options.get("callback"))
    numbers = {name: options.get(name) for name in ("rtol", "atol", "max_cycles", "patience")}
    check_limits(seed=seed, interval=None, **numbers)
    network: Network = hierarchy[0].network
    if not network.num_logits:
        raise KanmgValueError(
            "`hierarchy` has no free knots, so that there is nothing to choose. Write `kanmg.uniform_hierarchy(..., "
            "free_knots=True)`, or use `kanmg.solve`."
        )
    for name in ("initial", "checkpoint"):
        if options.get(name) is not None:
            raise KanmgValueError(
                f"`{name}` belongs to one run, but `choose_knots` makes several. Use `kanmg.solve` with "
                "`hierarchy.fixed()` and with `hierarchy`."
            )
