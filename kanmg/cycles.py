"""Cycles: which level is smoothed when. One recursion, `kanmg.recursion`, writes the program of any of them.

A program is a flat list of instructions. It is written before anything is computed, and executed one instruction at a
time by `kanmg.machine`: this is what makes a run resumable at any step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from kanmg.continuation import Continuation, as_continuation
from kanmg.cycle_options import (
    check_continuation,
    check_correction,
    check_fairing,
    check_fraction,
    check_retries,
    check_smoothers,
    check_starts,
    check_steps,
    check_weighting,
)
from kanmg.errors import KanmgValueError
from kanmg.recursion import Plan
from kanmg.smoothers.base import Smoother, require_count
from kanmg.smoothers.lbfgs import LBFGS
from kanmg.starts import Starts, as_starts

if TYPE_CHECKING:
    from collections.abc import Sized

    from kanmg.program import Program, Variant
    from kanmg.weighting import Attention, Balance

__all__ = ["Cycle", "FullMultigrid", "NestedIteration", "Smoothers", "Steps", "VCycle", "smoothers_of_levels"]

Steps: TypeAlias = int | tuple[int, ...]
Smoothers: TypeAlias = Smoother[Any] | tuple[Smoother[Any], ...]


# --------------------------------------------------------------------------------------------------------------- cycles


class Cycle(ABC):
    """Which level is smoothed when.

    To add one, write a frozen dataclass whose `program` lists the instructions.
    """

    @abstractmethod
    def program(self, hierarchy: Sized, start: int | None = None) -> Program:
        """Write the program for a hierarchy.

        Parameters
        ----------
        hierarchy : Hierarchy
        start : int, optional
            Level of the initial coefficients, if they are given; by default they are drawn on the coarsest level.

        Returns
        -------
        Program

        Raises
        ------
        KanmgValueError
            If the cycle's numbers of steps or fractions do not fit the number of levels.
        """


@dataclass(frozen=True)
class NestedIteration(Cycle):
    """Smooth on the coarsest level, prolong, smooth on the next, and so on to the finest.

    Parameters
    ----------
    smoother : Smoother or tuple of Smoother, default LBFGS()
        On every level, or one per level, coarsest first.
    steps : int or tuple of int, default 100
        Smoothing steps: on every level, or one number per level, coarsest first. A level with 0 steps is passed
        through.
    coarse_fraction : float or tuple of float, default 1.0
        Part of the samples that coarse levels see: each level that fraction of the samples of the level above it, or
        one fraction of all samples per level, coarsest first.
    starts : int or Starts, default 1
        How many initial coefficients to try on the coarsest level first; see `Starts`. With `kanmg.solve(initial=...)`
        there is nothing to draw, and one start whatever is said here.
    continuation : int or Continuation, optional
        How easier problems are solved first; see `Continuation`. For problems that have constants with an easier value.
    idle : float, default 0.0
        Smoothing of a level ends early where ten steps together lower the loss by less than this part of it; 0: never.
        For losses of all samples: those of mini-batches rise and fall.
    redraw : float, default 0.0
        Part of the points that is drawn anew where the residuals are large, whenever another level is reached, and at
        every stage of a continuation but the first; see `Collocation.redrawn`. For problems whose terms have
        candidates. Records and tolerances see the loss on the points drawn last, `solution.loss` is that on the
        problem's own.
    refit : int, default 0
        On so many of the coarsest levels, the finest one excepted, hidden values that have left their intervals are
        moved back (`kanmg.refit`), smoothing is repeated, and the better coefficients are kept. Lowers the floor that
        shallow networks of high degree reach by Levenberg-Marquardt.
    hold_back : float, default 0.0
        Part of the samples of a regression that is held back, in [0, 1), if the regression has no `validation` of its
        own; equations hold back the candidates of their terms, whatever the number. The result is then what has the
        lowest loss there, on whichever level that was, and a level that ends twice as high as one before it is the
        last: noise is fitted by fine levels, not by coarse ones.
    coarse_smoother : Smoother, optional
        What smooths on the coarsest level, starts included. Default: `smoother`, or the first of its tuple.
    attention : Attention, optional
        How points are weighed by their residuals when a cycle on a level begins, and between blocks of its smoothing
        steps. For problems that have terms. Starts and easier problems keep the weights that the problem states.
        Records and tolerances see the weighted loss, `solution.loss` is that of the problem as it is stated.
    balance : Balance, optional
        How terms are weighed against each other, then as well. Smoothers begin anew with the weights.
    fair : bool, default False
        Whether coefficients that the data hardly determine are moved at the end, so that the splines become smoothest
        and the losses rise by 5 % at most: see `kanmg.fairing.fair`. What lies beside the samples is mended most, such
        as the corners of a box. For losses that are sums of squares, seen as a whole.
    retries : int, default 0
        How often the whole method is repeated, from starts that have not been drawn yet, while alarms say that it has
        gone wrong (`Solution.alarms`). The attempt with the lower loss at held-back points is kept, or without any that
        with the lower loss. Takes the time of the first attempt once more, but only where there is an alarm.

    Notes
    -----
    The cascadic iteration: Algorithm 1 of Southworth et al. [1]_. Proper nesting makes the loss of a level the initial
    loss of the next. With `max_cycles` greater than 1, `kanmg.solve` repeats the steps of the finest level.

    References
    ----------
    .. [1] B. S. Southworth, J. A. Actor, G. Harper, E. C. Cyr, Multilevel Training for Kolmogorov Arnold Networks,
       arXiv:2603.04827 (2026)

    Examples
    --------
    >>> NestedIteration(steps=(40, 20)).program(range(2)).prologue
    (Smooth(level=0, steps=40, smoother=LBFGS(...), idle=0.0), Prolong(level=0))
    """

    smoother: Smoothers = field(default_factory=LBFGS)
    steps: Steps = 100
    coarse_fraction: float | tuple[float, ...] = 1.0
    starts: int | Starts = 1
    continuation: int | Continuation | None = None
    idle: float = 0.0
    redraw: float = 0.0
    refit: int = 0
    hold_back: float = 0.0
    coarse_smoother: Smoother[Any] | None = None
    attention: Attention | None = None
    balance: Balance | None = None
    fair: bool = False
    retries: int = 0

    def __post_init__(self) -> None:
        check_smoothers(self, "smoother", "coarse_smoother")
        check_steps(self, "steps")
        check_fraction(self)
        check_starts(self)
        check_continuation(self)
        require_count(type(self).__name__, 0, refit=self.refit)
        check_weighting(self)
        check_fairing(self)
        check_retries(self)

    def program(self, hierarchy: Sized, start: int | None = None) -> Program:
        steps = _per_level(self, "steps", len(hierarchy))
        smoothers, none = smoothers_of_levels(self, len(steps)), (0,) * len(steps)
        plan = Plan(smoothers, steps, none, _starts(self), gamma=0, climbs=1, **_extras(self))
        return plan.program(start, 1, _fractions(self, len(hierarchy)))


@dataclass(frozen=True)
class VCycle(Cycle):
    """Smooth on the finest level, correct it from the coarser ones, smooth again; and so on.

    Initial coefficients of a coarser level are prolonged to the finest first.

    Parameters
    ----------
    smoother : Smoother or tuple of Smoother, default LBFGS()
        On every level, or one per level, coarsest first.
    pre_steps, post_steps : int or tuple of int, default 10
        Smoothing steps before and after the correction: on every level above the coarsest, or one number for each of
        these, coarser first.
    coarse_steps : int, default 100
        Smoothing steps on the coarsest level.
    gamma : int, default 1
        How often a level's problem is treated on the level below: 1 is the V-cycle, 2 the W-cycle.
    variant : {"galerkin", "tau"}, default "galerkin"
        The problem that a coarse level solves. "galerkin": the fine level's loss itself as a function of the coarse
        correction, at the fine level's cost per sample; its correction is added as it is, and goes through a line
        search only where the coarse level sees fewer samples. "tau": its own loss, shifted by a linear term so that its
        gradient agrees with the restricted gradient of the fine level; its correction goes through a line search.
    coarse_fraction : float or tuple of float, default 1.0
        Part of the samples that coarse levels see: each level that fraction of the samples of the level above it, or
        one fraction of all samples per level, coarsest first.
    coarse_smoother : Smoother, optional
        What smooths on the coarsest level. Default: `smoother`, or the first of its tuple.
    starts : int or Starts, default 1
        How many initial coefficients to try on the coarsest level first; see `Starts`. With `kanmg.solve(initial=...)`
        there is nothing to draw, and one start whatever is said here.
    continuation, idle, redraw, refit, hold_back, attention, balance, fair, retries
        As for `NestedIteration`.

    Notes
    -----
    The "tau" variant is MG/OPT of Nash [1]_, the same as the full approximation scheme of Brandt [2]_ applied to the
    stationarity condition. For one spline layer, where the loss is quadratic, both variants are the same. For deeper
    networks the injected coefficients of inner layers move the hidden values, so that the coarse loss around them
    curves in other directions than the fine one; most corrections of the "tau" variant are then shortened or rejected,
    and those of the "galerkin" variant are not. At a stationary point of the fine level's loss neither changes
    anything.

    References
    ----------
    .. [1] S. G. Nash, A multigrid approach to discretized optimization problems, Optim. Methods Softw. 14 (2000)
       99-116. doi:10.1080/10556780008805795
    .. [2] A. Brandt, Multi-level adaptive solutions to boundary-value problems, Math. Comp. 31 (1977) 333-390.
       doi:10.1090/S0025-5718-1977-0431719-X

    Examples
    --------
    >>> for instruction in VCycle(pre_steps=2, post_steps=1, coarse_steps=9).program(range(2)).cycle:
    ...     print(instruction)
    Smooth(level=1, steps=2, smoother=LBFGS(...), idle=0.0)
    Descend(level=1, variant='galerkin')
    Smooth(level=0, steps=9, smoother=LBFGS(...), idle=0.0)
    Ascend(level=1)
    Smooth(level=1, steps=1, smoother=LBFGS(...), idle=0.0)
    """

    smoother: Smoothers = field(default_factory=LBFGS)
    pre_steps: Steps = 10
    post_steps: Steps = 10
    coarse_steps: int = 100
    gamma: int = 1
    variant: Variant = "galerkin"
    coarse_fraction: float | tuple[float, ...] = 1.0
    coarse_smoother: Smoother[Any] | None = None
    starts: int | Starts = 1
    continuation: int | Continuation | None = None
    idle: float = 0.0
    redraw: float = 0.0
    refit: int = 0
    hold_back: float = 0.0
    attention: Attention | None = None
    balance: Balance | None = None
    fair: bool = False
    retries: int = 0

    def __post_init__(self) -> None:
        check_smoothers(self, "smoother", "coarse_smoother")
        check_steps(self, "pre_steps", "post_steps")
        check_fraction(self)
        check_correction(self)
        check_starts(self)
        check_continuation(self)
        require_count(type(self).__name__, 0, refit=self.refit)
        check_weighting(self)
        check_fairing(self)
        check_retries(self)

    def program(self, hierarchy: Sized, start: int | None = None) -> Program:
        plan = _correction_plan(self, self.pre_steps, self.post_steps, len(hierarchy), climbs=0)
        return plan.program(start, 20, _fractions(self, len(hierarchy)))


@dataclass(frozen=True)
class FullMultigrid(Cycle):
    """Nested iteration whose work on every level is one or more cycles.

    Parameters
    ----------
    smoother : Smoother or tuple of Smoother, default LBFGS()
        On every level, or one per level, coarsest first.
    steps : int or tuple of int, default 10
        Smoothing steps before and after a correction: on every level above the coarsest, or one number for each of
        these, coarser first.
    pre_steps, post_steps : int or tuple of int, optional
        The same, where before and after are to differ. Default: `steps`.
    coarse_steps : int, default 100
        Smoothing steps on the coarsest level, on every visit.
    cycles_per_level : int, default 1
        Cycles on each level on the way up, and on the finest one.
    gamma, variant, coarse_fraction, coarse_smoother, starts
        As for `VCycle`.
    continuation, idle, redraw, refit, hold_back, attention, balance, fair, retries
        As for `VCycle`.

    Examples
    --------
    >>> program = FullMultigrid(steps=5, coarse_steps=50).program(range(3))
    >>> [(type(step).__name__, step.level) for step in program.prologue[:5]]
    [('Smooth', 0), ('Prolong', 0), ('Smooth', 1), ('Descend', 1), ('Smooth', 0)]
    """

    smoother: Smoothers = field(default_factory=LBFGS)
    steps: Steps = 10
    pre_steps: Steps | None = None
    post_steps: Steps | None = None
    coarse_steps: int = 100
    cycles_per_level: int = 1
    gamma: int = 1
    variant: Variant = "galerkin"
    coarse_fraction: float | tuple[float, ...] = 1.0
    coarse_smoother: Smoother[Any] | None = None
    starts: int | Starts = 1
    continuation: int | Continuation | None = None
    idle: float = 0.0
    redraw: float = 0.0
    refit: int = 0
    hold_back: float = 0.0
    attention: Attention | None = None
    balance: Balance | None = None
    fair: bool = False
    retries: int = 0

    def __post_init__(self) -> None:
        check_smoothers(self, "smoother", "coarse_smoother")
        for name in ("pre_steps", "post_steps"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.steps)
        check_steps(self, "steps", "pre_steps", "post_steps")
        require_count("FullMultigrid", 1, cycles_per_level=self.cycles_per_level)
        check_fraction(self)
        check_correction(self)
        check_starts(self)
        check_continuation(self)
        require_count(type(self).__name__, 0, refit=self.refit)
        check_weighting(self)
        check_fairing(self)
        check_retries(self)

    def program(self, hierarchy: Sized, start: int | None = None) -> Program:
        pre_steps = self.steps if self.pre_steps is None else self.pre_steps
        post_steps = self.steps if self.post_steps is None else self.post_steps
        plan = _correction_plan(self, pre_steps, post_steps, len(hierarchy), climbs=self.cycles_per_level)
        return plan.program(start, self.cycles_per_level, _fractions(self, len(hierarchy)))


# ------------------------------------------------------------------------------------------------------ plans of cycles


def _correction_plan(cycle: VCycle | FullMultigrid, pre: Steps, post: Steps, num_levels: int, climbs: int) -> Plan:
    """Write the plan of a cycle that descends: its coarsest level is smoothed once a visit."""
    return Plan(
        smoothers_of_levels(cycle, num_levels),
        (cycle.coarse_steps, *_per_level(cycle, "pre_steps", num_levels - 1, pre)),
        (0, *_per_level(cycle, "post_steps", num_levels - 1, post)),
        _starts(cycle),
        gamma=cycle.gamma,
        climbs=climbs,
        variant=cycle.variant,
        **_extras(cycle),
    )


def _per_level(cycle: Any, name: str, num_levels: int, steps: Steps | None = None) -> tuple[int, ...]:
    """Write one number of steps for every level it concerns."""
    steps = getattr(cycle, name) if steps is None else steps
    if not isinstance(steps, tuple):
        return (steps,) * num_levels
    if len(steps) != num_levels:
        which = "" if name == "steps" and isinstance(cycle, NestedIteration) else " above the coarsest"
        raise KanmgValueError(
            f"`{type(cycle).__name__}` got `{name}={steps}`, {len(steps)} numbers, but the hierarchy has "
            f"{_counted(num_levels)}{which}. Pass a tuple of {num_levels}, coarser levels first, or one integer for "
            "all."
        )
    return steps


def _counted(num_levels: int) -> str:
    return f"{num_levels} level{'' if num_levels == 1 else 's'}"


def _fractions(cycle: Any, num_levels: int) -> tuple[float, ...]:
    """Part of the samples that each level sees."""
    fraction = cycle.coarse_fraction
    if not isinstance(fraction, tuple):
        return tuple(fraction ** (num_levels - 1 - level) for level in range(num_levels))
    if len(fraction) != num_levels:
        raise KanmgValueError(
            f"`{type(cycle).__name__}` got `coarse_fraction={fraction}`, {len(fraction)} numbers, but the hierarchy "
            f"has {_counted(num_levels)}. Pass a tuple of {num_levels}, coarsest first, or one number."
        )
    return fraction


def smoothers_of_levels(cycle: NestedIteration | VCycle | FullMultigrid, num_levels: int) -> tuple[Smoother[Any], ...]:
    """Write one smoother for every level, coarsest first.

    Parameters
    ----------
    cycle : NestedIteration, VCycle or FullMultigrid
    num_levels : int

    Returns
    -------
    tuple of Smoother

    Raises
    ------
    KanmgValueError
        If the cycle has another number of smoothers.
    """
    smoothers = cycle.smoother if isinstance(cycle.smoother, tuple) else (cycle.smoother,) * num_levels
    if len(smoothers) != num_levels:
        raise KanmgValueError(
            f"`{type(cycle).__name__}` got {len(smoothers)} smoothers, but the hierarchy has "
            f"{_counted(num_levels)}. Pass a tuple of {num_levels}, coarsest level first, or one smoother for all."
        )
    return smoothers if cycle.coarse_smoother is None else (cycle.coarse_smoother, *smoothers[1:])


def _starts(cycle: NestedIteration | VCycle | FullMultigrid) -> Starts:
    return as_starts(type(cycle).__name__, cycle.starts)


def _extras(cycle: NestedIteration | VCycle | FullMultigrid) -> dict[str, Any]:
    """Return what every cycle hands to its plan."""
    continuation = as_continuation(type(cycle).__name__, cycle.continuation)
    names = ("idle", "redraw", "refit", "hold_back", "attention", "balance", "fair", "retries")
    return {"continuation": continuation} | {name: getattr(cycle, name) for name in names}
