"""The one recursion that writes the program of any cycle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kanmg.errors import KanmgValueError
from kanmg.program import (
    Ascend,
    Choose,
    Descend,
    Draw,
    Instruction,
    Judge,
    Pose,
    Program,
    Prolong,
    Redraw,
    Refit,
    Resume,
    Smooth,
    Variant,
    Weigh,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kanmg.continuation import Continuation
    from kanmg.smoothers.base import Smoother
    from kanmg.starts import Starts
    from kanmg.weighting import Attention, Balance

__all__ = ["Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the cycles differ in: steps per level, how often to descend, and how often to cycle on the way up."""

    smoothers: tuple[Smoother[Any], ...]
    pre_steps: tuple[int, ...]
    post_steps: tuple[int, ...]
    starts: Starts
    gamma: int
    climbs: int
    variant: Variant = "galerkin"
    continuation: Continuation | None = None
    idle: float = 0.0
    redraw: float = 0.0
    refit: int = 0
    hold_back: float = 0.0
    attention: Attention | None = None
    balance: Balance | None = None
    fair: bool = False
    retries: int = 0

    def program(self, given: int | None, num_cycles: int, fractions: tuple[float, ...]) -> Program:
        """Climb from the level of the initial coefficients to the finest, and cycle there."""
        finest, start = len(self.pre_steps) - 1, given or 0
        if not 0 <= start <= finest:
            raise KanmgValueError(
                f"`start={start}` is no level of a hierarchy with {finest + 1} levels (0 to {finest})."
            )
        prologue = list(self.begin(is_alone=finest == 0)) if given is None else []
        for level in range(start, finest):
            prologue += self.climbs * self.weighed(level, self.visit(level))
            if level < self.refit:
                prologue += [Refit(level), *self.smooth(level, self.pre_steps[level]), Choose(level)]
            prologue.append(Prolong(level))
            # A level that is only passed through needs no points.
            if self.climbs or level + 1 == finest:
                prologue += self.draw_points(level + 1)
        cycle = tuple(self.weighed(finest, self.visit(finest)))
        # Coefficients that are given leave nothing to draw.
        retries = self.retries if given is None else 0
        return Program(start, tuple(prologue), cycle, num_cycles, fractions, self.hold_back, self.fair, retries)

    def begin(self, *, is_alone: bool) -> Iterator[Instruction]:
        """Try several starts on the coarsest level, and follow the solution from an easier problem."""
        path = self.continuation
        if self.starts.number > 1:
            yield from self.draw(ease=float(path is not None))
        elif path is not None:
            yield Pose(0, 1.0)
        if path is not None:
            for stage in range(1, path.stages):
                yield from self.smooth(0, path.steps)
                yield Pose(0, 1.0 - stage / (path.stages - 1))
                yield from self.draw_points(0)
            # A cycle that does not visit the coarsest level on the way up would take the solution of the easier problem
            # to the finest level, where the problem itself would be met for the first time.
            if not (self.climbs or is_alone):
                yield from self.smooth(0, self.pre_steps[0])

    def draw_points(self, level: int) -> Iterator[Redraw]:
        """Draw points of a level anew, if that is wanted."""
        if self.redraw > 0.0:
            yield Redraw(level, self.redraw)

    def weighed(self, level: int, visit: Iterable[Instruction]) -> list[Instruction]:
        """Weigh terms and points, if that is wanted, before a cycle on a level and between blocks of its smoothing.

        Not on the coarser levels of the cycle, which correct this one.
        """
        intervals = [option.every for option in (self.attention, self.balance) if option is not None]
        instructions = list(visit)
        if not (intervals and instructions):
            return instructions
        every, weigh = min(intervals), Weigh(level, self.attention, self.balance)
        weighed: list[Instruction] = [weigh]
        for instruction in instructions:
            if not isinstance(instruction, Smooth) or instruction.level != level:
                weighed.append(instruction)
                continue
            for done in range(0, instruction.steps, every):
                weighed += [weigh] if done else []
                weighed.append(replace(instruction, steps=min(every, instruction.steps - done)))
        return weighed

    def draw(self, ease: float) -> Iterator[Instruction]:
        """Smooth several starts, then the best of them further, and choose."""
        starts = self.starts
        keep = starts.keep if starts.further_steps > 0 else 1
        more = [
            instruction
            for number in range(starts.number, starts.number + starts.more)
            for instruction in self.draw_one(number, keep, ease)
        ]
        for number in range(starts.number):
            yield from self.draw_one(number, keep, ease)
        if more:
            yield Judge(0, len(more))
            yield from more
        for rank in range(keep if starts.further_steps > 0 else 0):
            yield Resume(0, rank)
            yield from self.smooth(0, starts.further_steps)
            yield Choose(0)

    def draw_one(self, number: int, keep: int, ease: float) -> Iterator[Instruction]:
        """Smooth one start."""
        yield Draw(0, number, self.starts.fraction, ease)
        yield from self.smooth(0, self.starts.steps)
        yield Choose(0, keep)

    def visit(self, level: int) -> Iterator[Instruction]:
        """One cycle on a level: the only recursion there is."""
        yield from self.smooth(level, self.pre_steps[level])
        if level > 0 and self.gamma > 0:
            yield Descend(level, self.variant)
            # Below level 1 a second visit would only be more steps of the same smoother.
            for _ in range(self.gamma if level > 1 else 1):
                yield from self.visit(level - 1)
            yield Ascend(level)
        yield from self.smooth(level, self.post_steps[level])

    def smooth(self, level: int, steps: int) -> Iterator[Smooth]:
        """Smooth on a level, if there is anything to do."""
        if steps > 0:
            yield Smooth(level, steps, self.smoothers[level], self.idle)
