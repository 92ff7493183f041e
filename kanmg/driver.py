"""Solve a problem on a hierarchy: the arguments of a run, their defaults and their checks."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kanmg.arrays import as_array, check_dtype, check_finite
from kanmg.checkpoint import Checkpoint, fingerprint_of_run
from kanmg.coverage import say_what_is_empty
from kanmg.cycles import Cycle
from kanmg.defaults import choose_method
from kanmg.errors import ConvergenceError, KanmgTypeError, KanmgValueError, ShapeError
from kanmg.fairing import FAIRING_SMOOTHER
from kanmg.hierarchy import Hierarchy
from kanmg.history import Status
from kanmg.initialisation import initial_coefficients
from kanmg.problems.base import Problem
from kanmg.problems.standardisation import bears_shifts
from kanmg.program import Draw, Pose, Redraw, Smooth, Weigh
from kanmg.repeated_run import RepeatedRun
from kanmg.smoothers.base import Smoother
from kanmg.vectors import to_device

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from kanmg.evaluators.base import Array
    from kanmg.history import Record
    from kanmg.program import Program
    from kanmg.solution import Solution

__all__ = ["check_limits", "check_types", "raise_failure", "solve"]


# A caller's `torch.no_grad()` is for what the caller computes: residuals are differentiated all the same.
@torch.inference_mode(mode=False)
@torch.enable_grad()
def solve(
    problem: Problem,
    hierarchy: Hierarchy,
    *,
    method: Cycle | None = None,
    initial: Any = None,
    seed: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
    max_cycles: int | None = None,
    patience: int | None = None,
    callback: Callable[[Record], object] | None = None,
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 5.0,
    throw: bool = True,
) -> Solution:
    """Train a network by a multilevel method.

    Equal arguments give equal bits, with equal numbers of threads. A run that was killed and goes on from its
    checkpoint ends with the same bits as one that was not.

    Parameters
    ----------
    problem : Problem
        Such as `kanmg.Regression(x, y)`.
    hierarchy : Hierarchy
        Such as `kanmg.uniform_hierarchy((2, 5, 1), degree=3, num_intervals=5, num_levels=4)`.
    method : Cycle, optional
        `NestedIteration`, `VCycle` or `FullMultigrid`; by default `kanmg.default_method(problem, hierarchy)`.
    initial : ndarray or Tensor, shape (num_coefficients,), optional
        Initial coefficients of any level; their number tells which. By default nearly linear functions are drawn on the
        coarsest level. Where they are given there is nothing to choose from: one start, whatever the method's `starts`.
        Parameters of the problem begin with their initial values, or with what stands behind the coefficients, as
        `problem.initial_parameters` would.
    seed : int, default 0
        Of the initial coefficients, those of further starts included.
    rtol, atol : float, optional
        The run has converged when the loss on the finest level is at most `max(atol, rtol * initial loss)`. Of several
        starts the first one's initial loss counts.
    max_cycles : int, optional
        How often the part of the method that begins and ends on the finest level is repeated: the cycles of `VCycle`
        (default 20), those of `FullMultigrid` on the finest level, the smoothing of `NestedIteration` there (default
        1).
    patience : int, optional
        Stop when the validation loss has not improved for so many records on the finest level, and return the
        coefficients with the lowest one. The problem must have validation data.
    callback : callable, optional
        Called with every new `Record`; may raise StopIteration to stop. Any other exception ends the run too, after the
        checkpoint has been written.
    progress : bool, optional
        Whether to show a bar on stderr; by default if stderr is a terminal.
    checkpoint : path-like, optional
        A file that holds the run: written at the beginning, at changes of level, every `checkpoint_seconds` and at the
        end. If it exists, the run in it goes on. If that run is complete, its result is returned, unless there are more
        cycles to do than before or a tighter tolerance to meet.
    checkpoint_seconds : float, default 5.0
    throw : bool, default True
        Raise `ConvergenceError`, with the best solution attached, if something requested was not delivered.

    Returns
    -------
    Solution
        Of the finest level reached: the coefficients with the lowest loss on all samples. With `patience`, those with
        the lowest validation loss; with the method's `hold_back`, as by default for a regression, those with the lowest
        one of all levels; with mini-batches, the last ones.

    Raises
    ------
    KanmgValueError, KanmgTypeError
        If the arguments do not fit each other.
    ConvergenceError
        If a tolerance was not met, the loss diverged, or something is not finite, and `throw` is true.
    CheckpointError
        If the checkpoint is damaged, belongs to another run or cannot be written. `error.solution` is then the best
        solution so far, or None if there is none.

    Notes
    -----
    Units do not matter: where the values of a regression are large, small or far from zero, the run sees them shifted
    and scaled, and the coefficients of the last layer are changed back exactly. Losses, tolerances and `initial` are in
    units of the data; the norms of gradients then belong to the scaled coefficients.

    Work units are counted, not estimated: multiply-adds of all losses and gradients on all levels, divided by those of
    one loss and gradient on the finest level with all samples. Validation losses are computed every 10 records or every
    epoch, whichever is longer, but not more seldom than `patience` says, and at the end of every smoothing. They take
    time but are not counted as work.

    Changes of level are written to the checkpoint as long as that takes less than a twentieth of the time.

    Ctrl-C ends the run after the step at hand: the best solution so far is returned with status `INTERRUPTED`.

    Examples
    --------
    >>> import numpy as np
    >>> import kanmg
    >>> x = np.random.default_rng(0).uniform(-1, 1, (500, 2))
    >>> problem = kanmg.Regression(x, np.sin(x[:, 0]) * x[:, 1])
    >>> hierarchy = kanmg.uniform_hierarchy((2, 3, 1), degree=3, num_intervals=2, num_levels=2, evaluator="reference")
    >>> solution = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(steps=(60, 30)), atol=1e-4)
    >>> solution.status.name, solution.level
    ('CONVERGED', 1)
    """
    check_types(problem, hierarchy, method, callback)
    check_limits(seed=seed, rtol=rtol, atol=atol, max_cycles=max_cycles, patience=patience, interval=checkpoint_seconds)
    problem.check(hierarchy)
    chosen, reason = (method, "") if method is not None else choose_method(problem, hierarchy)
    level, theta = _initial_coefficients(problem, hierarchy, initial, seed)
    program = chosen.program(hierarchy) if initial is None else chosen.program(hierarchy, level)
    whole, problem = problem, problem.holding_back(program.hold_back)
    standardised = problem.standardised(may_shift=bears_shifts(hierarchy[0].network))
    inner, standardisation = (problem, None) if standardised is None else standardised
    _check_program(problem, hierarchy, program)
    file = None
    if checkpoint is not None:
        fingerprint = fingerprint_of_run(whole, hierarchy, chosen, seed, None if initial is None else theta)
        file = Checkpoint(checkpoint, fingerprint, checkpoint_seconds)
    if standardisation is not None and initial is not None:
        theta = standardisation.from_user(hierarchy[level].network, theta)
    home = hierarchy.home if inner.takes_tensors else None
    run = RepeatedRun(
        inner,
        hierarchy,
        program,
        to_device(theta, home),
        home=home,
        standardisation=standardisation,
        draw=functools.partial(_draw_there, problem, hierarchy, seed, home) if initial is None else None,
        rtol=rtol,
        atol=atol,
        max_cycles=max_cycles,
        patience=patience,
        callback=callback,
        progress=progress,
        checkpoint=file,
        remark="\n".join(filter(None, (say_what_is_empty(problem, hierarchy[0].network), reason))),
    )
    solution = run.execute()
    if throw:
        raise_failure(solution, wants_tolerance=rtol is not None or atol is not None)
    return solution


def raise_failure(solution: Solution, *, wants_tolerance: bool) -> None:
    """Raise `ConvergenceError` if something requested was not delivered."""
    failures = {Status.TOLERANCE_NOT_MET, Status.DIVERGED, Status.NON_FINITE}
    unmet = {Status.STALLED, Status.STOPPED_EARLY} if wants_tolerance else set()
    if solution.status in failures | unmet:
        raise ConvergenceError(solution.message, solution)


# ------------------------------------------------------------------------------------------------------------ arguments


def _check_program(problem: Problem, hierarchy: Hierarchy, program: Program) -> None:
    """Refuse instructions that the problem cannot follow."""
    for instruction in (*program.prologue, *program.cycle):
        if isinstance(instruction, Smooth):
            instruction.smoother.check(problem, hierarchy[instruction.level])
        elif isinstance(instruction, Draw | Pose) and instruction.ease and not problem.can_be_eased:
            raise KanmgValueError(
                "`continuation` leads from an easier problem, but this one has none. State it with a constant that has "
                'an easier value, `kanmg.Constant("nu", 1e-3, easier=0.05)`, or leave `continuation` out.'
            )
        elif isinstance(instruction, Redraw) and not problem.can_be_redrawn:
            raise KanmgValueError(
                "`redraw` takes points from the candidates of terms, but this problem has none. State a term with "
                "`kanmg.Term(..., candidates=kanmg.sampling.sobol(domain, 40_000, seed=1))`, or leave `redraw` out."
            )
        elif isinstance(instruction, Weigh):
            _check_terms(problem, instruction)
    if program.fair:
        FAIRING_SMOOTHER.check(problem, hierarchy[-1])


def _check_terms(problem: Problem, instruction: Weigh) -> None:
    """Refuse to weigh what has no terms, or a single term against others."""
    names = list(problem.term_weights)
    if not names:
        raise KanmgValueError(
            f"`attention` and `balance` change weights of terms and their points, but `{type(problem).__name__}` has "
            "no terms. Leave them out, or state the problem as a `kanmg.Collocation`."
        )
    if instruction.balance is not None and len(names) == 1:
        raise KanmgValueError(
            f"`balance` weighs terms against each other, but this problem has only {names[0]!r}. Leave `balance` out; "
            "`attention=kanmg.Attention()` weighs the points of a term."
        )


def _initial_coefficients(problem: Problem, hierarchy: Hierarchy, initial: Any, seed: int) -> tuple[int, Array]:
    """Return the level to start on and the coefficients to start with."""
    if initial is None:
        return 0, _draw(problem, hierarchy, seed, 0, 0)
    theta = np.array(as_array(initial, "initial"))
    check_dtype(theta, hierarchy.dtype, "initial")
    number = problem.num_parameters
    sizes = {level.index: level.network.num_coefficients for level in hierarchy}
    fitting = [index for index, size in sizes.items() if theta.shape == (size,)]
    complete = [index for index, size in sizes.items() if number and theta.shape == (size + number,)]
    if not fitting + complete:
        listed = ", ".join(f"{size} (level {index})" for index, size in sizes.items())
        unknowns = f", with or without the {number} unknowns of the problem's parameters behind them" if number else ""
        raise ShapeError(
            f"`initial` has shape {theta.shape}, which fits no level. Pass one flat vector of coefficients of one "
            f"level: {listed}{unknowns}."
        )
    check_finite(theta, "initial")
    return (fitting[0], _with_parameters(problem, theta)) if fitting else (complete[0], theta)


def _with_parameters(problem: Problem, theta: Array) -> Array:
    """Append the initial values of the problem's parameters to coefficients."""
    return np.concatenate([theta, problem.initial_parameters.astype(theta.dtype)])


def _draw(problem: Problem, hierarchy: Hierarchy, seed: int, level: int, number: int) -> Array:
    """Draw the initial coefficients of one of several starts."""
    # A spawn key, unlike a sequence of seeds, collides with no other seed.
    sequence = np.random.SeedSequence(seed, spawn_key=(number,) if number else ())
    theta = initial_coefficients(hierarchy[level].network, problem.training_inputs(), seed=sequence)
    return _with_parameters(problem, theta.astype(hierarchy.dtype))


def _draw_there(
    problem: Problem, hierarchy: Hierarchy, seed: int, home: torch.device | None, level: int, number: int
) -> Array:
    """Draw the initial coefficients of a start, and take them to where the run keeps its vectors."""
    theta: Array = to_device(_draw(problem, hierarchy, seed, level, number), home)
    return theta


def check_types(problem: Any, hierarchy: Any, method: Any, callback: Any) -> None:
    """Refuse arguments that are something else altogether."""
    if not isinstance(problem, Problem):
        raise KanmgTypeError(
            f"`problem` is a {type(problem).__name__}. Pass a problem, e.g. `kanmg.Regression(x, y)`, as the first "
            "argument."
        )
    if not isinstance(hierarchy, Hierarchy):
        raise KanmgTypeError(
            f"`hierarchy` is a {type(hierarchy).__name__}. Pass what `kanmg.uniform_hierarchy(...)` or "
            "`kanmg.Hierarchy(networks)` returns as the second argument."
        )
    if method is not None and not isinstance(method, Cycle):
        hint = " A smoother alone is no method: write `kanmg.NestedIteration(smoother=...)`."
        raise KanmgTypeError(
            f"`method` is {method!r}. Pass a cycle, e.g. `kanmg.NestedIteration()` or `kanmg.VCycle()`, or None."
            f"{hint if isinstance(method, Smoother) else ''}"
        )
    if callback is not None and not callable(callback):
        raise KanmgTypeError(f"`callback` is {callback!r}. Pass a function of one `kanmg.Record`, or None.")


def check_limits(*, seed: Any, rtol: Any, atol: Any, max_cycles: Any, patience: Any, interval: Any) -> None:
    """Refuse numbers that make no sense."""
    for name, value in (("rtol", rtol), ("atol", atol), ("checkpoint_seconds", interval)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise KanmgTypeError(f"`{name}={value!r}` is a {type(value).__name__}. Pass a number, at least 0.")
        if not value >= 0.0:
            raise KanmgValueError(f"`{name}={value}` must be at least 0.")
    for name, value, minimum in (("seed", seed, 0), ("max_cycles", max_cycles, 0), ("patience", patience, 1)):
        if value is None and name != "seed":
            continue
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise KanmgTypeError(
                f"`{name}={value!r}` is a {type(value).__name__}. Pass an integer, at least {minimum}."
            )
        if value < minimum:
            raise KanmgValueError(f"`{name}={value}` must be at least {minimum}.")
