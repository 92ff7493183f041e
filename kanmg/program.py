"""Programs: the flat lists of instructions that cycles write and the machine executes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from kanmg.smoothers.base import Smoother
    from kanmg.weighting import Attention, Balance

__all__ = [
    "Ascend",
    "Choose",
    "Descend",
    "Draw",
    "Instruction",
    "Judge",
    "Pose",
    "Program",
    "Prolong",
    "Redraw",
    "Refit",
    "Resume",
    "Smooth",
    "Variant",
    "Weigh",
]

Variant: TypeAlias = Literal["tau", "galerkin"]
"""What a coarse level minimises: its own loss, shifted, or the fine level's as a function of the correction."""


@dataclass(frozen=True, slots=True)
class Smooth:
    """Do so many steps of a smoother on a level; fewer where ten lower the loss by less than the part `idle` of it."""

    level: int
    steps: int
    smoother: Smoother[Any]
    idle: float = 0.0


@dataclass(frozen=True, slots=True)
class Prolong:
    """Make the coefficients of level l those of level l + 1."""

    level: int


@dataclass(frozen=True, slots=True)
class Descend:
    """Pose on level l - 1 the problem of correcting the coefficients of level l."""

    level: int
    variant: Variant = "galerkin"


@dataclass(frozen=True, slots=True)
class Ascend:
    """Correct the coefficients of level l by what has been found on level l - 1."""

    level: int


@dataclass(frozen=True, slots=True)
class Draw:
    """Begin one of several starts: draw its coefficients, to be smoothed on a part of the samples.

    Start 0 has the initial coefficients of the run. `ease` says how far the problem is on the way to an easier one:
    0 is the problem itself.
    """

    level: int
    number: int
    fraction: float = 1.0
    ease: float = 0.0


@dataclass(frozen=True, slots=True)
class Choose:
    """End a start: go on with its coefficients or those of the best start before, whichever loss is lower.

    So many of the best starts are kept, for `Resume`.
    """

    level: int
    keep: int = 1


@dataclass(frozen=True, slots=True)
class Judge:
    """Skip so many instructions, unless the best of the starts so far is hardly better than most.

    See `kanmg.starts.is_outstanding`.
    """

    level: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on with one of the starts that were kept, rank 0 the best, on the level's own part of the samples."""

    level: int
    rank: int


@dataclass(frozen=True, slots=True)
class Pose:
    """Pose on a level the problem that is so far on the way to an easier one: 0 is the problem itself."""

    level: int
    ease: float = 0.0


@dataclass(frozen=True, slots=True)
class Redraw:
    """Draw this part of a level's points anew from the candidates of the problem, by the residuals at what is reached.

    The draw holds until `Prolong`, `Pose`, or another `Redraw`.
    """

    level: int
    share: float


@dataclass(frozen=True, slots=True)
class Weigh:
    """Weigh a level's terms and points by what is reached.

    The weights hold until `Pose` or another `Weigh`, which begins with them; `Redraw` ends those of points.
    """

    level: int
    attention: Attention | None = None
    balance: Balance | None = None


@dataclass(frozen=True, slots=True)
class Refit:
    """Begin a start from a level's coefficients, hidden values moved back into their intervals.

    `Choose` follows, after smoothing, and compares it with the coefficients as they were.
    """

    level: int


Instruction: TypeAlias = (
    Smooth | Prolong | Descend | Ascend | Draw | Choose | Judge | Resume | Pose | Redraw | Weigh | Refit
)


@dataclass(frozen=True, slots=True)
class Program:
    """What a cycle does on a hierarchy, instruction by instruction.

    Attributes
    ----------
    start : int
        Level of the initial coefficients.
    prologue : tuple of instructions
        Executed once. It ends with coefficients on the finest level.
    cycle : tuple of instructions
        Executed again and again, from and to the finest level.
    num_cycles : int
        How often `cycle` is executed if `kanmg.solve` is not told by `max_cycles`.
    fractions : tuple of float
        Part of the samples that each level sees.
    hold_back : float
        Part of the samples that no level sees, and which choose the level of the result.
    fair : bool
        Whether the result is faired at the end; see `kanmg.fairing.fair`.
    retries : int
        How often the program is executed again, from other starts, while alarms say that it went wrong.
    """

    start: int
    prologue: tuple[Instruction, ...]
    cycle: tuple[Instruction, ...]
    num_cycles: int
    fractions: tuple[float, ...]
    hold_back: float = 0.0
    fair: bool = False
    retries: int = 0

    def num_steps(self, num_cycles: int) -> int:
        """How many smoothing steps one execution has with so many cycles."""
        prologue, cycle = (
            sum(instruction.steps for instruction in block if isinstance(instruction, Smooth))
            for block in (self.prologue, self.cycle)
        )
        return prologue + num_cycles * cycle

    @property
    def num_starts(self) -> int:
        """How many initial coefficients one execution draws."""
        return 1 + max((step.number for step in self.prologue if isinstance(step, Draw)), default=0)
