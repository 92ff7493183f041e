"""Where in a program its execution is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kanmg.program import Instruction, Program

__all__ = ["Position"]


class Position:
    """The instruction of a program that is executed next.

    Parameters
    ----------
    program : Program

    Attributes
    ----------
    cycle : int
        Number of the cycle in execution; 0 is the prologue.
    index, step : int
        Number of the instruction within the cycle, and of the step within the instruction.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self.cycle = 0 if program.prologue else 1
        self.index, self.step = 0, 0

    @property
    def block(self) -> tuple[Instruction, ...]:
        """The instructions of the cycle in execution."""
        return self._program.cycle if self.cycle else self._program.prologue

    @property
    def instruction(self) -> Instruction | None:
        """The instruction at hand; None if the cycle has none."""
        return self.block[self.index] if self.block else None

    @property
    def following(self) -> tuple[Instruction, ...]:
        """The instruction at hand and those after it in the cycle in execution."""
        return self.block[self.index :]

    @property
    def is_between_cycles(self) -> bool:
        """Whether a cycle is about to begin, with coefficients on the finest level."""
        return self.cycle > 0 and self.index == 0 and self.step == 0

    def advance(self) -> None:
        """Move on to the next instruction."""
        self.step = 0
        self.index += 1
        if self.index == len(self.block):
            self.cycle += 1
            self.index = 0

    def skip(self, count: int) -> None:
        """Move on past so many instructions after the one at hand."""
        for _ in range(count + 1):
            self.advance()

    def snapshot(self) -> tuple[int, int, int]:
        """Return what `restore` takes."""
        return self.cycle, self.index, self.step

    def restore(self, snapshot: tuple[int, int, int]) -> None:
        """Go on from where `snapshot` was taken."""
        self.cycle, self.index, self.step = snapshot
