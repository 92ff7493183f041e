"""Evolution equations in time windows, each started from the one before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from kanmg.driver import solve
from kanmg.errors import CheckpointError, ConvergenceError, DomainError, KanmgTypeError, KanmgValueError
from kanmg.hierarchy import Hierarchy, Rebuilding
from kanmg.history import Status
from kanmg.network import Affine, Network, Spline
from kanmg.piecewise import PiecewiseSolution, joined
from kanmg.problems.collocation import Collocation
from kanmg.splines.bspline import evaluate_spline
from kanmg.splines.knots import Knots
from kanmg.storage import checked_path

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from pathlib import Path

    from kanmg.cycles import Cycle
    from kanmg.evaluators.base import Array
    from kanmg.history import Record
    from kanmg.problems.fields import Field
    from kanmg.problems.terms import Term
    from kanmg.solution import Solution

__all__ = ["march"]

_TERM_BESIDE_TRANSFORM = (
    "If `transform` sets the initial values, state them as a term as well, e.g. `kanmg.Term('initial', lambda x, u: "
    "u.value - g(x), points)` at the beginning: later windows take over what it asks of the fields."
)

Windows: TypeAlias = int | Sequence[float]

# Nothing can be built on a window that ended like this.
_ENDS = {
    Status.INTERRUPTED,
    Status.STOPPED_BY_CALLBACK,
    Status.DIVERGED,
    Status.NON_FINITE,
    Status.LEFT_DOMAIN,
}


def march(
    problem: Collocation,
    hierarchy: Hierarchy,
    *,
    coordinate: str = "t",
    windows: Windows = 4,
    initial: str | Sequence[str] = "initial",
    method: Cycle | None = None,
    restart: bool = False,
    seed: int = 0,
    callback: Callable[[Record, int], object] | None = None,
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 5.0,
    throw: bool = True,
) -> PiecewiseSolution:
    """Solve an evolution equation window by window, each started from the one before.

    Over a long time a network has much to represent at once, and nothing makes it get the beginning right before it
    fits what follows. In windows every network has little to represent, and begins from what is known.

    Parameters
    ----------
    problem : Collocation
        On the whole time interval: its equations, boundary and initial conditions.
    hierarchy : Hierarchy
        For the whole time interval. Every window gets such a hierarchy with the same number of cells in the window: n
        windows have n times the coefficients.
    coordinate : str, default "t"
        What is cut into windows.
    windows : int or sequence of float, default 4
        How many of equal length; or the times at which they begin and end, from the first to the last of the
        hierarchy's domain.
    initial : str or sequence of str, default "initial"
        Names of the terms that hold at the beginning only. Later windows replace them: what they ask of a field, its
        value or derivatives, shall there be what it is in the solution of the window before. Where a `transform` sets
        the initial values, state them as a term too: it is redundant in the first window only.
    method : Cycle, optional
        Of all windows; default: `kanmg.default_method`.
    restart : bool, default False
        Draw initial coefficients in every window and begin on the coarsest level, as the first window does. By default
        later windows begin on the finest level, with the network of the window before at its end, constant in time.
    seed : int, default 0
        Of initial coefficients, and of the points of coarse levels.
    callback : callable, optional
        Called with every new `Record` and the number of its window; may raise StopIteration to end the march with that
        window.
    progress : bool, optional
        As for `kanmg.solve`: a bar for each window.
    checkpoint : path-like, optional
        Every window keeps its run in a file of this name with its number before the suffix: "run.0.kanmg",
        "run.1.kanmg", ... for "run.kanmg". A march that was killed goes on with the window that it was in, and ends
        with the same bits as one that was not.
    checkpoint_seconds : float, default 5.0
        As for `kanmg.solve`.
    throw : bool, default True
        Raise `ConvergenceError` if a window fails. Otherwise the march ends with that window, and the solution has its
        status.

    Returns
    -------
    PiecewiseSolution
        Of all windows, or of those up to one that was interrupted, stopped or failed.

    Raises
    ------
    KanmgTypeError, KanmgValueError
        If the problem is no collocation, has unknown parameters, no such coordinate or no such terms; if its `inputs`
        change the coordinate; if the hierarchy knows no domain, or the windows are no times in it; if a window has no
        points. All of this before the first window begins.
    ConvergenceError
        As `kanmg.solve`, with `throw`. As for the errors below, `error.solution` is the `PiecewiseSolution` of the
        windows so far, whose last one is that which failed; a note tells which that is.
    CheckpointError, DomainError
        As `kanmg.solve`. If the window has no solution, `error.solution` ends with the one before; it is None if there
        is none at all.

    Notes
    -----
    Every term but the initial ones keeps its points in the window, ends included, and its weight; terms without points
    there are left out. Initial terms keep the number and places of their points. Where windows meet, the solution is
    continuous only as well as the initial terms are satisfied: raise their weight if it jumps.

    Errors of a window are handed on to the next one: the first windows must be solved at least as well as the last is
    to be. Ctrl-C ends the march with the window at hand.

    Initial coefficients are constant in time, because networks that go on linearly in time move their hidden values out
    of the intervals.

    Examples
    --------
    The decay u' = -u to t = 4:

    >>> import numpy as np
    >>> import kanmg
    >>> t = np.linspace(0, 4, 161).reshape(-1, 1)
    >>> terms = [
    ...     kanmg.Term("equation", lambda x, u: u.d("t") + u.value, t),
    ...     kanmg.Term("initial", lambda x, u: u.value - 1.0, t[:1]),
    ... ]
    >>> problem = kanmg.Collocation(coordinates=("t",), fields=("u",), terms=terms)
    >>> hierarchy = kanmg.uniform_hierarchy((1, 1), degree=5, num_intervals=2, num_levels=2, domain=(0, 4))
    >>> method = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=15)
    >>> solution = kanmg.march(problem, hierarchy, windows=4, method=method)
    >>> solution
    <PiecewiseSolution of 4 windows, t from 0 to 4>
    >>> bool(np.abs(solution(t) - np.exp(-t)).max() < 1e-6)
    True
    """
    names = (initial,) if isinstance(initial, str) else tuple(initial)
    axis = _checked_axis(problem, hierarchy, coordinate)
    _check_terms(problem, names)
    problem.check(hierarchy)
    column = _network_input(problem, axis)
    times = _window_times(windows, hierarchy, column)
    _check_windows(problem, names, axis, times)
    _check_callback(callback)
    solutions: list[Solution] = []
    for number, (start, stop) in enumerate(pairwise(times)):
        own = _hierarchy_of_window(hierarchy, column, start, stop)
        before = solutions[-1] if solutions else None
        part = _problem_of_window(problem, names, axis, (start, stop), before, seed)
        theta = None if before is None or restart else _frozen(before, column, start)
        try:
            solution = solve(
                part,
                own,
                method=method,
                initial=theta,
                seed=seed,
                callback=None if callback is None else partial(_call_back, callback, number),
                progress=progress,
                checkpoint=None if checkpoint is None else _file_of_window(checkpoint, number),
                checkpoint_seconds=checkpoint_seconds,
                throw=throw,
            )
        except Exception as error:
            if isinstance(error, ConvergenceError | CheckpointError | DomainError):
                error.solution = joined([*solutions, error.solution], times, coordinate)
            error.add_note(f"This was window {number}, {coordinate} from {start:g} to {stop:g}.")
            raise
        solutions.append(solution)
        if solution.status in _ENDS:
            break
    return PiecewiseSolution(tuple(solutions), np.array(times[: len(solutions) + 1]), coordinate)


def _call_back(callback: Callable[[Record, int], object], window: int, record: Record) -> None:
    callback(record, window)


def _file_of_window(checkpoint: Any, number: int) -> Path:
    """Return the checkpoint of one window: its number before the suffix."""
    path = checked_path(checkpoint, "checkpoint", ", or None")
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


# -------------------------------------------------------------------------------------------------------------- windows


def _hierarchy_of_window(hierarchy: Hierarchy, axis: int, start: float, stop: float) -> Hierarchy:
    """Return the same hierarchy for another interval of one input."""
    networks = [_network_of_window(level.network, axis, start, stop) for level in hierarchy]
    build = Rebuilding([level.evaluator for level in hierarchy])
    return Hierarchy(networks, dtype=hierarchy.dtype, device=hierarchy.device, evaluator=build)


def _network_of_window(network: Network, axis: int, start: float, stop: float) -> Network:
    first, *others = network.layers
    if isinstance(first, Affine):
        domain = list(network.domain or ())
        domain[axis] = (start, stop)
        return Network(network.layers, domain=domain)
    knots = list(first.knots)
    knots[axis] = _knots_of_window(knots[axis], start, stop)
    layer = Spline(first.num_inputs, first.num_outputs, knots=knots, outside=first.outside, free_knots=first.free_knots)
    return Network([layer, *others])


def _knots_of_window(knots: Knots, start: float, stop: float) -> Knots:
    """Map knots to another interval, whose ends are met exactly."""
    a, b = knots.domain
    vector = start + (knots.vector - a) * ((stop - start) / (b - a))
    vector[knots.vector == a], vector[knots.vector == b] = start, stop
    return Knots(vector, knots.degree)


def _problem_of_window(
    problem: Collocation,
    initial: tuple[str, ...],
    axis: int,
    interval: tuple[float, float],
    before: Solution | None,
    seed: int,
) -> Collocation:
    """Return the problem on one window; its initial values are those that the window before ends with."""
    terms = []
    for term in problem.terms:
        if before is not None and term.name in initial:
            terms.append(_continued(term, problem, axis, interval[0], before))
        elif (inside := _restricted(term, axis, interval)) is not None:
            terms.append(inside)
    part = Collocation(
        coordinates=problem.coordinates,
        fields=problem.fields,
        terms=terms,
        inputs=problem.ansatz.inputs if problem.ansatz else None,
        transform=problem.ansatz.transforms if problem.ansatz else None,
        seed=seed,
    )
    numbers = {constant.name: constant.number for constant in problem.constants}
    return part.with_constants(**{constant.name: numbers[constant.name] for constant in part.constants})


def _restricted(term: Term, axis: int, interval: tuple[float, float]) -> Term | None:
    """Return a term on its points in a window; None if there are none, or none with a weight."""
    inside = (term.points[:, axis] >= interval[0]) & (term.points[:, axis] <= interval[1])
    weights = None if term.point_weights is None else term.point_weights[inside]
    if not inside.any() or (weights is not None and not weights.any()):
        return None
    candidates = term.candidates
    if candidates is not None:
        candidates = candidates[(candidates[:, axis] >= interval[0]) & (candidates[:, axis] <= interval[1])]
    return replace(term.take(inside), candidates=candidates if candidates is not None and len(candidates) else None)


def _continued(term: Term, problem: Collocation, axis: int, start: float, before: Solution) -> Term:
    """Return an initial term whose values are those of the window before."""
    asked = _asked(term, problem)

    def residual(x: torch.Tensor, *fields: Field) -> torch.Tensor:
        wrong = [
            field.d(*names) - (before.derivative(x, *names) if names else before(x))[:, q]
            for q, field in enumerate(fields)
            for names in asked[q].derivatives
        ]
        return torch.stack(wrong, dim=1)

    points = term.points.copy()
    points[:, axis] = start
    return replace(term, residual=residual, points=points, candidates=None, data=None)


def _asked(term: Term, problem: Collocation) -> list[_Asked]:
    """Find for every field which derivatives a residual asks for."""
    x, *data = map(torch.from_numpy, term.arrays)
    asked = [_Asked(x) for _ in problem.fields]
    term.residual(x, *asked, *data)
    return asked


class _Asked:
    """In the place of a field: remembers which derivatives a residual asks for; () is the value."""

    def __init__(self, points: torch.Tensor) -> None:
        self.derivatives: list[tuple[str, ...]] = []
        self._numbers = torch.ones(len(points), dtype=points.dtype)

    @property
    def value(self) -> torch.Tensor:
        return self.d()

    def d(self, *coordinates: str, side: str | None = None) -> torch.Tensor:
        if side is not None:
            raise KanmgValueError(
                f"an initial term asks for a derivative on the side {side!r} of an interface, which a later window "
                "cannot take over. State it without `side`, by points beside the interface."
            )
        if tuple(sorted(coordinates)) not in self.derivatives:
            self.derivatives.append(tuple(sorted(coordinates)))
        return self._numbers


def _frozen(before: Solution, axis: int, start: float) -> Array:
    """Return the coefficients of a solution at the end of its window, constant in time."""
    theta = before.coefficients.copy()
    first, layer = before.hierarchy[before.level].network.unflatten(theta)[0], before.network.layers[0]
    if isinstance(layer, Spline):
        first[axis] = evaluate_spline(layer.knots[axis], first[axis], [start])
    elif layer.bias:
        first[-1] += start * first[axis]
        first[axis] = 0.0
    return theta


# --------------------------------------------------------------------------------------------------------------- checks


def _checked_axis(problem: Any, hierarchy: Any, coordinate: Any) -> int:
    """Return the number of the coordinate; refuse problems that cannot be cut into windows."""
    if not isinstance(problem, Collocation):
        raise KanmgTypeError(f"`problem` is a {type(problem).__name__}. Pass a `kanmg.Collocation`.")
    if not isinstance(hierarchy, Hierarchy):
        raise KanmgTypeError(f"`hierarchy` is {hierarchy!r}. Pass what `kanmg.uniform_hierarchy(...)` returns.")
    if coordinate not in problem.coordinates:
        raise KanmgValueError(
            f"`coordinate={coordinate!r}` is none of the problem's coordinates, {problem.coordinates}. Pass the one "
            "that is to be cut into windows."
        )
    if problem.parameters:
        raise KanmgValueError(
            f"the problem has the unknown parameter {problem.parameters[0].name!r}, which every window would find for "
            "itself. Use `kanmg.solve` on the whole interval, or a `kanmg.Constant`."
        )
    if hierarchy.domain is None:
        raise KanmgValueError(
            "`hierarchy` begins with an affine layer and knows no domain to cut into windows. Build the network with "
            "`domain=`."
        )
    return problem.coordinates.index(coordinate)


def _network_input(problem: Collocation, axis: int) -> int:
    """Return the number of the network's input that is the coordinate, and refuse maps that mix it with others."""
    if problem.ansatz is None or problem.ansatz.inputs is None:
        return axis
    points = torch.from_numpy(np.concatenate([term.points for term in problem.terms]).astype(np.float64))
    later = points.clone()
    later[:, axis] += 1.0
    inputs = problem.ansatz.inputs(points).detach()
    changed = torch.nonzero((problem.ansatz.inputs(later).detach() != inputs).any(dim=0)).ravel().tolist()
    if len(changed) != 1 or not torch.equal(inputs[:, changed[0]], points[:, axis]):
        raise KanmgValueError(
            f"`inputs` of the problem makes the network's inputs {changed} from {problem.coordinates[axis]!r}. In "
            "windows exactly one of them must depend on it, and be the coordinate itself."
        )
    return int(changed[0])


def _check_terms(problem: Collocation, initial: tuple[str, ...]) -> None:
    """Refuse names of initial terms that do not exist."""
    names = [term.name for term in problem.terms]
    missing = [name for name in initial if name not in names]
    if missing or not initial:
        in_transform = problem.ansatz is not None and problem.ansatz.transforms
        hint = f" {_TERM_BESIDE_TRANSFORM}" if in_transform else ""
        raise KanmgValueError(
            f"`initial={initial!r}` must name the terms that hold at the beginning only; the terms are {names}.{hint}"
        )


def _check_windows(problem: Collocation, initial: tuple[str, ...], axis: int, times: Sequence[float]) -> None:
    """Refuse windows without points, and initial terms that cannot be continued, before anything is computed."""
    for interval in pairwise(times):
        others = [term for term in problem.terms if term.name not in initial]
        if not any(_restricted(term, axis, interval) is not None for term in others):
            raise KanmgValueError(
                f"no point lies in the window from {interval[0]:g} to {interval[1]:g}. Use fewer windows, or more "
                "points."
            )
    for term in problem.terms:
        if len(times) > 2 and term.name in initial:
            _asked(term, problem)


def _check_callback(callback: Any) -> None:
    """Refuse what cannot be called."""
    if callback is not None and not callable(callback):
        raise KanmgTypeError(
            f"`callback` is {callback!r}. Pass a function of a `kanmg.Record` and the number of its window, or None."
        )


def _window_times(windows: Any, hierarchy: Hierarchy, axis: int) -> list[float]:
    """Return the times at which windows begin and end."""
    start, stop = hierarchy.domain[axis] if hierarchy.domain is not None else (0.0, 1.0)
    if isinstance(windows, int | np.integer) and not isinstance(windows, bool):
        if windows < 1:
            raise KanmgValueError(f"`windows={windows}` is too few. Pass at least 1.")
        return _rounded(np.linspace(start, stop, int(windows) + 1), hierarchy)
    try:
        times = np.array(windows, np.float64)
    except (TypeError, ValueError):
        times = np.empty(0)
    if times.ndim != 1 or len(times) < 2:
        raise KanmgTypeError(
            f"`windows={windows!r}`. Pass a number of windows, or the times at which they begin and end."
        )
    if not (np.diff(times) > 0.0).all() or (times[0], times[-1]) != (start, stop):
        raise KanmgValueError(
            f"`windows={windows!r}` must increase from {start:g} to {stop:g}, the ends of the hierarchy's domain."
        )
    return _rounded(times, hierarchy)


def _rounded(times: Array, hierarchy: Hierarchy) -> list[float]:
    """Round the times between the first and the last to numbers that points can have."""
    inner = times[1:-1].astype(hierarchy.dtype)
    return [float(time) for time in (times[0], *inner, times[-1])]
