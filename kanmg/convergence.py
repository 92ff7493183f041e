"""Studies of convergence: errors, orders and times of all levels of a nested iteration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from kanmg.arrays import as_columns
from kanmg.cycles import NestedIteration, smoothers_of_levels
from kanmg.defaults import default_method
from kanmg.driver import solve
from kanmg.errors import KanmgTypeError, KanmgValueError, NonFiniteError, ShapeError
from kanmg.hierarchy import Hierarchy, Level
from kanmg.history import Status
from kanmg.network import Spline
from kanmg.problems.base import Problem
from kanmg.problems.collocation import Collocation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kanmg.evaluators.base import Array, Evaluator
    from kanmg.network import Network
    from kanmg.solution import Solution

__all__ = ["ConvergenceStudy", "convergence_study"]

Function = Callable[[Any], Any]

_NUM_TEST_POINTS = 10_000
_TEST_STREAM = 2


@dataclass(frozen=True, eq=False, repr=False)
class ConvergenceStudy:
    """What `kanmg.convergence_study` found, a row per level. `print` shows it as a table.

    Attributes
    ----------
    levels, cells, coefficients : ndarray, shape (n,)
        Number of the level, cells of its first layer of splines, number of its coefficients.
    losses : ndarray, shape (n,)
        At the end of the level.
    errors : ndarray, shape (n,)
        Relative L2 errors on the test points; NaN on the finest level if there is no exact solution.
    orders : ndarray, shape (n,)
        Observed orders: log2 of how many times smaller the error is than on the level before, for cells of half the
        size. NaN on the coarsest level, and where there are no more cells than before.
    seconds : ndarray, shape (n,)
        Time spent on the level.
    reference : {"exact", "next"}
        What errors are measured against: the exact solution, or the solution of the next finer level.
    solutions : tuple of Solution
        Each on a hierarchy of its level alone.
    """

    levels: Array
    cells: Array
    coefficients: Array
    losses: Array
    errors: Array
    orders: Array
    seconds: Array
    reference: str
    solutions: tuple[Solution, ...]

    def __post_init__(self) -> None:
        for array in self.to_dict().values():
            array.setflags(write=False)

    def to_dict(self) -> dict[str, Array]:
        """Return the columns of the table by their names, for `pandas.DataFrame` or a file.

        Returns
        -------
        dict of str to ndarray, shape (n,)
        """
        return {
            "level": self.levels,
            "cells": self.cells,
            "coefficients": self.coefficients,
            "loss": self.losses,
            "error": self.errors,
            "order": self.orders,
            "seconds": self.seconds,
        }

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the errors over the cells, with the observed orders beside the lines.

        The dashed line falls with the degree + 1, the best that splines can do.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        KanmgValueError
            If no level has an error.
        """
        from kanmg.plotting import plot_convergence  # noqa: PLC0415 - sideways, like this room

        known = np.flatnonzero(np.isfinite(self.errors))
        if not len(known):
            raise KanmgValueError(
                "no level of this study has an error: there is one level, and no exact solution. Pass `exact=`, or a "
                "hierarchy of more levels."
            )
        cells, errors = self.cells[known], self.errors[known]
        degrees = [layer.degree for layer in self._networks[0].layers if isinstance(layer, Spline)]
        ax = plot_convergence(cells, {"relative error": errors.tolist()}, order=min(degrees) + 1, ax=ax)
        for level in known[1:]:
            if np.isfinite(self.orders[level]):
                ends = slice(level - 1, level + 1)
                middle = (np.sqrt(self.cells[ends].prod()), np.sqrt(self.errors[ends].prod()))
                ax.annotate(f"{self.orders[level]:.1f}", middle, xytext=(4, 4), textcoords="offset points", fontsize=8)
        ax.set_ylabel("relative error" if self.reference == "exact" else "distance to the next level")
        return ax

    @property
    def _networks(self) -> list[Any]:
        return [solution.hierarchy[0].network for solution in self.solutions]

    def __repr__(self) -> str:
        return f"<ConvergenceStudy of {len(self.levels)} levels, errors against the {_REFERENCES[self.reference]}>"

    def __str__(self) -> str:
        header = ("level", "cells", "coefficients", "loss", "error", "order", "seconds")
        formats = ("d", "d", "d", ".3e", ".3e", ".2f", ".3f")
        rows = [
            tuple("-" if np.isnan(value) else format(value, form) for value, form in zip(row, formats, strict=True))
            for row in zip(*(column.tolist() for column in self.to_dict().values()), strict=True)
        ]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = ["  ".join(map(str.rjust, row, widths)) for row in (header, *rows)]
        return "\n".join([*lines, f"errors: relative L2, against the {_REFERENCES[self.reference]}"])


_REFERENCES = {"exact": "exact solution", "next": "next finer level"}


def convergence_study(
    problem: Any,
    hierarchy: Hierarchy | None = None,
    *,
    exact: Function | None = None,
    test_points: Any = None,
    method: NestedIteration | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> ConvergenceStudy:
    """Run a nested iteration, and tell how the error falls from level to level.

    Parameters
    ----------
    problem : Problem or gallery.ModelProblem
        A problem of the gallery knows its exact solution, unseen points and a hierarchy.
    hierarchy : Hierarchy, optional
        May be left out for problems of the gallery.
    exact : callable, optional
        The exact solution: points of shape (N, d) to values of shape (N, Q), or (N,) for one output. Without it, the
        error of a level is measured against the solution of the next finer one, and the finest has none.
    test_points : ndarray or Tensor, shape (N, d), optional
        Where errors are measured. Default: 10,000 uniformly distributed points in the hierarchy's domain; problems
        with `inputs` or a `transform` have no default.
    method : NestedIteration, optional
        Default: `kanmg.default_method(problem, hierarchy)`, but with all samples on every level and none held back:
        every level shows its own error, also where `kanmg.solve` would return a coarser one.
    seed : int, default 0
        Of the initial coefficients, and of the test points.
    progress : bool, optional
        As for `kanmg.solve`.

    Returns
    -------
    ConvergenceStudy

    Raises
    ------
    KanmgTypeError, KanmgValueError
        If the method is no nested iteration or its levels see different samples, or there is no hierarchy or domain.
    ShapeError, NonFiniteError
        If `exact` returns values of another shape, or such that are not finite.
    ConvergenceError
        As `kanmg.solve`.

    Notes
    -----
    Every level is a run of its own, of the method's smoother and steps for that level, and begins with the prolonged
    coefficients (and the parameters) of the level before: together they are the nested iteration. Ctrl-C ends the study
    after the level at hand.

    An order is that of the whole method: it is the degree + 1 of the splines only where the smoother gets so far down
    on every level, where the solution is smooth, and where the error is not that of noise or of too few samples.

    Examples
    --------
    >>> import numpy as np
    >>> import kanmg
    >>> x = np.linspace(0, 1, 500).reshape(-1, 1)
    >>> hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=4, num_levels=3, domain=(0, 1))
    >>> method = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=20)
    >>> study = kanmg.convergence_study(kanmg.Regression(x, np.exp(x)), hierarchy, exact=np.exp, method=method)
    >>> study.cells.tolist(), study.orders.round(1).tolist()
    ([4, 8, 16], [nan, 3.8, 3.9])
    """
    problem, hierarchy, exact, test_points = _resolve_model(problem, hierarchy, exact, test_points)
    _check_arguments(problem, hierarchy, exact)
    chosen = _default_method(problem, hierarchy) if method is None else method
    methods = _methods_of_levels(chosen, hierarchy)
    points = _test_points(test_points, problem, hierarchy, seed)
    shape = (len(points), hierarchy.widths[-1])
    expected = None if exact is None else _exact_values(exact, points, shape)  # before the levels take their time
    solutions = _solve_levels(problem, hierarchy, methods, seed, progress)
    values = [_as_matrix(solution(points)) for solution in solutions]
    references = values[1:] if expected is None else [expected] * len(values)
    errors = np.full(len(values), np.nan)
    for level, reference in enumerate(references):
        errors[level] = np.linalg.norm(values[level] - reference) / np.linalg.norm(reference)
    cells = np.array([_num_cells(level) for level in hierarchy[: len(solutions)]])
    return ConvergenceStudy(
        levels=np.arange(len(solutions)),
        cells=cells,
        coefficients=np.array([len(solution.coefficients) for solution in solutions]),
        losses=np.array([solution.loss for solution in solutions]),
        errors=errors,
        orders=_observed_orders(cells, errors),
        seconds=np.array([solution.seconds for solution in solutions]),
        reference="next" if exact is None else "exact",
        solutions=tuple(solutions),
    )


# ------------------------------------------------------------------------------------------------------------- the runs


def _solve_levels(
    problem: Problem, hierarchy: Hierarchy, methods: list[NestedIteration], seed: int, progress: bool | None
) -> list[Solution]:
    """Solve level by level, each beginning where the one before ended."""
    solutions: list[Solution] = []
    for level, method in zip(hierarchy, methods, strict=True):
        initial = None
        if solutions:
            initial = hierarchy.transfers[level.index - 1].prolong(solutions[-1].coefficients)
            if isinstance(problem, Collocation):
                problem = problem.with_parameters(**solutions[-1].parameters)
        alone = _alone(level, hierarchy)
        solutions.append(solve(problem, alone, method=method, initial=initial, seed=seed, progress=progress))
        if solutions[-1].status is Status.INTERRUPTED:
            break
    return solutions


def _alone(level: Level, hierarchy: Hierarchy) -> Hierarchy:
    """Return a hierarchy of one level, with the evaluator there is."""
    given = _Given(level.evaluator)
    return Hierarchy([level.network], dtype=hierarchy.dtype, device=hierarchy.device, evaluator=given)


@dataclass(frozen=True)
class _Given:
    """Builds the evaluator that there is."""

    evaluator: Evaluator
    takes_free_knots: ClassVar[bool] = True

    def __call__(self, network: Network, dtype: np.dtype[Any]) -> Evaluator:  # noqa: ARG002 - it was built for them
        return self.evaluator


def _default_method(problem: Problem, hierarchy: Hierarchy) -> Any:
    """Return the method of `kanmg.solve`, on all samples of every level, none of which choose: a study compares."""
    return replace(cast("NestedIteration", default_method(problem, hierarchy)), coarse_fraction=1.0, hold_back=0.0)


def _methods_of_levels(method: Any, hierarchy: Hierarchy) -> list[NestedIteration]:
    """Cut a nested iteration into one method per level."""
    if not isinstance(method, NestedIteration):
        raise KanmgTypeError(
            f"`method` is {method!r}. A study goes from level to level by nested iteration: pass a "
            "`kanmg.NestedIteration(smoother=..., steps=...)`."
        )
    if np.any(np.asarray(method.coarse_fraction) != 1.0):
        raise KanmgValueError(
            f"`method` has `coarse_fraction={method.coarse_fraction}`, but a study compares levels that see the same "
            "samples. Leave `coarse_fraction` out."
        )
    steps = method.steps if isinstance(method.steps, tuple) else (method.steps,) * len(hierarchy)
    if len(steps) != len(hierarchy):
        raise KanmgValueError(
            f"`method` has `steps={steps}`, {len(steps)} numbers, but the hierarchy has {len(hierarchy)} levels. Pass "
            f"a tuple of {len(hierarchy)}, coarsest first, or one integer for all."
        )
    # A tuple of ones, or of smoothers, would be too long for a level alone.
    method, smoothers = replace(method, coarse_fraction=1.0), smoothers_of_levels(method, len(hierarchy))
    return [
        replace(method, steps=number, smoother=own, coarse_smoother=None, starts=1 if level else method.starts)
        for level, (number, own) in enumerate(zip(steps, smoothers, strict=True))
    ]


# ----------------------------------------------------------------------------------------------------------- the errors


def _observed_orders(cells: Array, errors: Array) -> Array:
    """Return how fast errors fall from level to level."""
    orders = np.full(len(errors), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        orders[1:] = np.log(errors[:-1] / errors[1:]) / np.log(cells[1:] / cells[:-1])
    return np.where(np.isfinite(orders), orders, np.nan)


def _num_cells(level: Level) -> int:
    """Return the cells of the first layer of splines; 0 if there is none."""
    return next((layer.num_intervals for layer in level.network.layers if isinstance(layer, Spline)), 0)


def _test_points(points: Any, problem: Problem, hierarchy: Hierarchy, seed: int) -> Array:
    """Return the points that errors are measured at."""
    if points is not None:
        return as_columns(points, "test_points").astype(hierarchy.dtype)
    if problem.ansatz is not None:
        raise KanmgValueError(
            "the problem has `inputs` or a `transform` of its own, so that the hierarchy's domain may not be that of "
            "the coordinates. Pass `test_points=`."
        )
    if hierarchy.domain is None:
        raise KanmgValueError(
            "`hierarchy` begins with an affine layer and knows no domain to draw test points from. Pass "
            "`test_points=`, or build the network with `domain=`."
        )
    lower, upper = np.array(hierarchy.domain).T
    random = np.random.default_rng([seed, _TEST_STREAM])
    return random.uniform(lower, upper, (_NUM_TEST_POINTS, len(lower))).astype(hierarchy.dtype)


def _exact_values(exact: Function, points: Array, shape: tuple[int, ...]) -> Array:
    """Evaluate the exact solution; shape (N, Q)."""
    values = _as_matrix(exact(points))
    if values.shape != shape:
        raise ShapeError(f"`exact` returned values of shape {values.shape} at {shape[0]} points. Return {shape}.")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        where = ", ".join(f"{number:g}" for number in points[bad[0]])
        raise NonFiniteError(
            f"`exact` returned NaN or infinite values at {len(bad)} of {len(points)} test points (the first is row "
            f"{bad[0]}, the point ({where})). Pass a function that is finite there, or `test_points=` without them."
        )
    if not np.linalg.norm(values) > 0.0:
        raise KanmgValueError("`exact` vanishes at all test points: relative errors have no meaning.")
    return values


def _as_matrix(values: Any) -> Array:
    array = np.asarray(values, np.float64)
    return array.reshape(-1, 1) if array.ndim == 1 else array


# -------------------------------------------------------------------------------------------------------- the arguments


def _resolve_model(problem: Any, hierarchy: Any, exact: Any, test_points: Any) -> tuple[Any, Any, Any, Any]:
    """Replace a problem of the gallery by what it knows; what the user says takes precedence."""
    from kanmg.gallery.model_problem import ModelProblem  # noqa: PLC0415 - sideways, like this room

    if not isinstance(problem, ModelProblem):
        return problem, hierarchy, exact, test_points
    return (
        problem.problem,
        problem.hierarchy() if hierarchy is None else hierarchy,
        problem.exact if exact is None else exact,
        problem.test_data()[0] if test_points is None else test_points,
    )


def _check_arguments(problem: Any, hierarchy: Any, exact: Any) -> None:
    """Refuse arguments that are something else altogether."""
    if not isinstance(problem, Problem):
        raise KanmgTypeError(
            f"`problem` is a {type(problem).__name__}. Pass a problem, such as `kanmg.Regression(x, y)`, or one of the "
            "gallery, such as `kanmg.gallery.kan2()`."
        )
    if not isinstance(hierarchy, Hierarchy):
        raise KanmgTypeError(
            f"`hierarchy` is {hierarchy!r}. Pass what `kanmg.uniform_hierarchy(...)` returns; only problems of the "
            "gallery have one of their own."
        )
    if exact is not None and not callable(exact):
        raise KanmgTypeError(f"`exact` is {exact!r}. Pass a function of points, or None.")
