"""Variants that train networks of splines by kanmg, watched step by step."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from kanmg.continuation import Continuation
from kanmg.cycles import Cycle, NestedIteration
from kanmg.defaults import default_method
from kanmg.driver import solve
from kanmg.experiments.experiment import Instant, Size, Trained, Variant
from kanmg.hierarchy import Hierarchy
from kanmg.problems.standardisation import bears_shifts
from kanmg.smoothers.base import Smoother, StepRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kanmg.arrays import Array
    from kanmg.gallery import ModelProblem
    from kanmg.hierarchy import Level
    from kanmg.objective import SmoothFunction
    from kanmg.problems.base import Problem
    from kanmg.solution import Record, Solution

__all__ = ["Splines", "Trace", "Watched", "cost_of_finest"]

# A course keeps the coefficients of every step up to here, and then of steps that are so much further on.
_FIRST_STEPS, _GROWTH = 10, 1.04


class Trace:
    """Coefficients after some of the steps of a run.

    Attributes
    ----------
    thetas : dict of int to ndarray
        By the number of steps done.
    """

    def __init__(self) -> None:
        self.thetas: dict[int, Array] = {}
        self._count = 0
        self._next = 1

    def note(self, theta: Array) -> None:
        """Count a step, and keep what it reached if it is time to."""
        self._count += 1
        if self._count >= self._next:
            self.thetas[self._count] = np.array(theta)
            self._next = max(self._count + 1, int(_GROWTH * self._count) if self._count > _FIRST_STEPS else 0)


@dataclass(frozen=True)
class Watched(Smoother[Any]):
    """A smoother whose steps are noted.

    Parameters
    ----------
    smoother : Smoother
    trace : Trace
    """

    smoother: Smoother[Any]
    trace: Trace = field(compare=False, repr=False)

    @property
    def needs_derivatives(self) -> bool:
        """Whether the watched smoother does."""
        return self.smoother.needs_derivatives

    def init(self, objective: SmoothFunction, theta: Array) -> Any:
        return self.smoother.init(objective, theta)

    def step(self, objective: SmoothFunction, theta: Array, state: Any) -> tuple[Array, Any, StepRecord]:
        result = self.smoother.step(objective, theta, state)
        self.trace.note(result[0])
        return result

    def check(self, problem: Problem, level: Level) -> None:
        self.smoother.check(problem, level)

    def known(self, state: Any) -> tuple[float, Array] | None:
        return self.smoother.known(state)


@dataclass(frozen=True, kw_only=True)
class Splines(Variant):
    """Train a network of splines.

    Parameters
    ----------
    method : callable, optional
        `Size` to the cycle. None: `kanmg.default_method`.
    hierarchy : mapping
        What differs from the hierarchy that the problem recommends.
    level : int, optional
        The only level that is trained; all by default.
    max_cycles : int, optional
        As for `kanmg.solve`.
    """

    method: Callable[[Size], Cycle] | None = None
    hierarchy: Mapping[str, Any] = field(default_factory=dict)
    level: int | None = None
    max_cycles: int | None = None

    def train(self, model: ModelProblem, seed: int, size: Size, *, progress: bool) -> Trained:
        hierarchy = model.hierarchy(**self.hierarchy)
        if self.level is not None:
            hierarchy = Hierarchy([hierarchy[self.level].network])
        method = shortened(default_method(model.problem, hierarchy), size) if self.method is None else self.method(size)
        trace = Trace()
        watching = {
            name: tuple(Watched(own, trace) for own in smoothers)
            if isinstance(smoothers, tuple)
            else Watched(smoothers, trace)
            for name in ("smoother", "coarse_smoother")
            if (smoothers := getattr(method, name, None)) is not None
        }
        method = dataclasses.replace(method, **watching)  # type: ignore[type-var]
        options: dict[str, Any] = {"max_cycles": self.max_cycles, "progress": progress, "throw": False}
        solution = solve(model.problem, hierarchy, method=method, seed=seed, **options)
        unit = model.problem.work(hierarchy[-1].evaluator) / cost_of_finest(model)
        return Trained(
            function=solution,
            loss=solution.loss,
            num_parameters=len(solution.coefficients),
            work=solution.work_units * unit,
            seconds=solution.seconds,
            course=tuple(_course(model.problem, solution, trace, unit)),
            message=f"{solution.status.name}: {solution.message}",
        )


def cost_of_finest(model: ModelProblem) -> float:
    """Return the multiply-adds of loss and gradient on the finest level that a problem recommends: the unit of work.

    Parameters
    ----------
    model : ModelProblem
    """
    return float(model.problem.work(model.hierarchy()[-1].evaluator))


def shortened(method: Cycle, size: Size) -> Cycle:
    """Return a nested iteration with fewer steps and starts.

    Parameters
    ----------
    method : Cycle
        As `kanmg.default_method` returns.
    size : Size
    """
    if size.steps == 1.0 or not isinstance(method, NestedIteration) or not isinstance(method.steps, int):
        return method
    (steps,), starts = size.scaled((method.steps,)), method.starts
    if not isinstance(starts, int):
        (number, own, further) = size.scaled((starts.number, starts.steps, starts.further_steps))
        # More starts are drawn by a median of the first ones.
        more = size.scaled((starts.more,))[0] if number > 1 else 0
        starts = dataclasses.replace(
            starts, number=number, steps=own, keep=min(starts.keep, number), further_steps=further, more=more
        )
    continuation = method.continuation
    if isinstance(continuation, Continuation):
        continuation = dataclasses.replace(continuation, steps=size.scaled((continuation.steps,))[0])
    return dataclasses.replace(method, steps=steps, starts=starts, continuation=continuation)


def _course(problem: Problem, solution: Solution, trace: Trace, unit: float) -> list[Instant]:
    """Return what was reached at the steps that were noted."""
    hierarchy = solution.hierarchy
    standardised = problem.standardised(may_shift=bears_shifts(hierarchy[0].network))
    instants = []
    for record in _reached(solution.history.course()):
        theta = trace.thetas.get(record.step)
        if record.event != "smooth" or theta is None:
            continue
        network = hierarchy[record.level].network
        own, unknowns = np.split(theta, [network.num_coefficients])
        if standardised is not None:
            own = standardised[1].to_user(network, own)
        parameters = problem.parameter_values(unknowns)
        then = dataclasses.replace(solution, coefficients=own, level=record.level, parameters=parameters)
        instants.append(Instant(unit * record.work_units, record.seconds, record.level, record.loss, then))
    return instants


def _reached(records: list[Record]) -> list[Record]:
    """Leave out levels that compute a correction: coarser than the finest one reached so far."""
    finest = np.maximum.accumulate([record.level for record in records])
    return [record for record, level in zip(records, finest, strict=True) if record.level == level]
