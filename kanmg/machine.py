"""Execute a program's instructions one by one: smoothing, prolongation, and the corrections between levels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kanmg.correction import correct
from kanmg.errors import KanmgValueError
from kanmg.event import Event
from kanmg.position import Position
from kanmg.program import (
    Ascend,
    Choose,
    Descend,
    Draw,
    Judge,
    Pose,
    Program,
    Prolong,
    Redraw,
    Refit,
    Resume,
    Smooth,
    Weigh,
)
from kanmg.refit import refitted
from kanmg.smoothing import is_over, smooth, with_loss
from kanmg.stack import Frame, Stack, Start
from kanmg.starts import is_outstanding
from kanmg.starts_ahead import StartAhead, StartsAhead, starts_at
from kanmg.vectors import norm

if TYPE_CHECKING:
    from collections.abc import Callable

    from kanmg.evaluators.base import Array
    from kanmg.hierarchy import Hierarchy
    from kanmg.history import RecordEvent
    from kanmg.problems.base import Problem
    from kanmg.stack import Known
    from kanmg.weighting import Weights

__all__ = ["Machine"]


class Machine:
    """Executes a program on a hierarchy.

    Between two calls of `advance` everything that the rest of the run depends on is in `snapshot()`.

    Parameters
    ----------
    problem : Problem
    hierarchy : Hierarchy
    program : Program
    theta : ndarray
        Initial coefficients, of level `program.start`.
    draw : callable, optional
        `draw(level, number)` returns the coefficients that another start begins with.

    Attributes
    ----------
    top : int
        The highest level in use: the one whose coefficients are the run's result so far.
    position : Position
        Where in the program the execution is.
    attempt : int
        How often the program was begun anew.
    batch : int
        Number of the mini-batch that the next step sees.
    changed : bool
        Whether this cycle has changed the coefficients of the highest level.
    stalled : bool
        Whether the last smoothing ended because its smoother stalled.

    Notes
    -----
    Corrections between levels are computed from all samples, whatever the size of the mini-batches that the smoothers
    see.
    """

    def __init__(
        self,
        problem: Problem,
        hierarchy: Hierarchy,
        program: Program,
        theta: Array,
        draw: Callable[[int, int], Array] | None = None,
    ) -> None:
        self._program, self._problem, self._hierarchy = program, problem, hierarchy
        self._drawn, self.attempt = draw, 0
        self._ahead = StartsAhead(problem, hierarchy[program.start])
        self._stack = Stack(problem, hierarchy, program.fractions)
        self._transfers = self._stack.transfers
        self._go_to_begin(theta)

    def _go_to_begin(self, theta: Array) -> None:
        """Stand before the first instruction."""
        self._ahead.end()
        self._initial = theta
        # The best starts of the choice at hand, best first, and those of the choice before, which are resumed.
        self._found: tuple[Start, ...] = ()
        self._kept: tuple[Start, ...] = ()
        self._compared: tuple[float, ...] = ()
        self._losses: tuple[float, ...] = ()
        self._is_passed_over = False
        for level in range(len(self._hierarchy)):
            self._stack.drop(level)
        self._stack.put(self._program.start, Frame(theta))
        self.top = self._program.start
        self.position, self.batch = Position(self._program), 0
        self.changed, self.stalled = False, False

    # -------------------------------------------------------------------------------------------------- what is reached

    @property
    def theta(self) -> Array:
        """Coefficients of the highest level in use."""
        return self._stack[self.top].theta

    @property
    def loss(self) -> float:
        """Loss at `theta` from all samples; evaluated unless it is known."""
        return self._stack.loss(self.top)

    @property
    def is_choosing(self) -> bool:
        """Whether `theta` belongs to one of several starts, of which the best has not been chosen yet."""
        return self._stack[self.top].fraction is not None

    @property
    def has_other_start(self) -> bool:
        """Whether there is a start to go on with if the one at hand fails: a finished one, or one not drawn yet."""
        return bool(self._found) or any(isinstance(following, Draw | Resume) for following in self.position.following)

    @property
    def has_drawn(self) -> bool:
        """Whether losses are those of points that were drawn anew."""
        return self._stack[self.top].drawn is not None

    @property
    def weights(self) -> Weights | None:
        """What the problem's weights are multiplied with in losses; None if these are its own."""
        return self._stack[self.top].weights

    @property
    def knows_loss(self) -> bool:
        """Whether the loss at `theta` is known: smoothers that know it never raise it."""
        return self._stack[self.top].known is not None

    @property
    def work_units(self) -> float:
        """Work so far, in evaluations of loss and gradient on the finest level with all samples."""
        return self._stack.work_units

    def add_work(self, work: float) -> None:
        """Count multiply-adds that were done elsewhere."""
        self._stack.add_work(work)

    def _begins_with_gradient(self, level: int) -> bool:
        """Whether the instruction at hand begins with the gradient at a level's coefficients, from all samples."""
        instruction = self.position.instruction
        if isinstance(instruction, Smooth) and self._stack.has_batches:
            return False
        return isinstance(instruction, Smooth | Descend) and instruction.level == level

    # -------------------------------------------------------------------------------------------------------- execution

    def start(self) -> Event:
        """Evaluate the initial coefficients."""
        instruction = self.position.instruction
        if isinstance(instruction, Draw):
            return self._draw(instruction)
        if self._begins_with_gradient(self.top):
            return self._event("start", self.top)
        return Event("start", self.top, self.theta, self.loss)

    def begin_again(self) -> Event:
        """Begin anew with starts that have not been drawn yet; what was reached is left behind."""
        self.attempt += 1
        self._go_to_begin(self._drawn_first())
        return self.start()

    def _drawn_first(self) -> Array:
        """Draw the initial coefficients of a later attempt."""
        if self._drawn is None:
            raise RuntimeError("nothing can be drawn where coefficients are given")
        return self._drawn(self._program.start, self.attempt * self._program.num_starts)

    def advance(self) -> Event | None:
        """Execute one step of smoothing, or one transfer.

        Returns
        -------
        Event or None
            None for `Descend` and `Judge`, which change no coefficients.
        """
        if self.position.is_between_cycles:
            self.changed = False
        instruction = self.position.following[0]
        if isinstance(instruction, Smooth):
            return self._smooth(instruction)
        if isinstance(instruction, Judge):
            self.position.skip(instruction.skipped if is_outstanding(self._compared) else 0)
            return None
        if isinstance(instruction, Prolong):
            return self._prolong(instruction.level)
        if isinstance(instruction, Descend):
            self._stack.descend(instruction.level, instruction.variant)
            self.position.advance()
            return None
        if isinstance(instruction, Ascend):
            return self._ascend(instruction.level)
        return self._begin(instruction)

    def _begin(self, instruction: Draw | Choose | Resume | Pose | Redraw | Weigh | Refit) -> Event:
        """Execute what only the way to the finest level consists of."""
        if isinstance(instruction, Draw):
            return self._draw(instruction)
        if isinstance(instruction, Choose):
            return self._choose(instruction.level, instruction.keep)
        if isinstance(instruction, Resume):
            return self._resume(instruction)
        if isinstance(instruction, Refit):
            return self._refit(instruction.level)
        return self._restate(instruction)

    def _restate(self, instruction: Pose | Redraw | Weigh) -> Event:
        """Go on with another problem on a level."""
        level, stack = instruction.level, self._stack
        if isinstance(instruction, Weigh):
            return self._begin_frame("weigh", level, stack.weighed(instruction))
        if isinstance(instruction, Redraw):
            # The number of the instruction tells this draw from others.
            return self._begin_frame("redraw", level, stack.redrawn(level, instruction.share, seed=self.position.index))
        return self._begin_frame("pose", level, Frame(stack[level].theta, ease=instruction.ease))

    def _smooth(self, instruction: Smooth) -> Event:
        """Do one step of a smoother, or take it from the thread that has done it."""
        level = instruction.level
        frame, stack = self._stack[level], self._stack
        start, ahead = frame.theta, self._begin_ahead(level)
        if ahead is not None:
            smoothed = ahead.take(stack.add_work)
        else:
            model, known = stack.model(level, self.batch), None if stack.has_batches else frame.known
            smoothed = smooth(instruction.smoother, model, start, frame.state, known)

        frame.theta, frame.state, known, record = smoothed
        frame.known = None if stack.has_batches else known
        if frame.theta is not start:
            self.changed |= level == self.top
            frame.lifted = stack.lifted(level)
        self.stalled = record.stalled
        self.batch += 1
        self._losses = with_loss(self._losses if self.position.step else (), record.loss)
        self.position.step += 1
        step = self.position.step
        if is_over(instruction, step, self._losses, stalled=record.stalled) or not frame.is_plausible(record.loss):
            self._finish_smoothing(instruction)
        evaluated = start if known is None else frame.theta
        numbers = record.loss, record.gradient_norm, record.step_size
        return Event("smooth", level, evaluated, *numbers, frame.fraction, frame.ease)

    def _finish_smoothing(self, instruction: Smooth) -> None:
        """Move on; the smoother's state is kept for the level's next smoothing, unless that is another smoother's."""
        self.position.advance()
        for following in self.position.following + self._program.cycle:
            if isinstance(following, Smooth) and following.level == instruction.level:
                if following.smoother != instruction.smoother:
                    self._stack[instruction.level].state = None
                return

    def _prolong(self, level: int) -> Event:
        """Make the coefficients of a level those of the next one."""
        theta, weights = self._transfers[level].prolong(self._stack[level].theta), self._stack[level].weights
        self._stack.drop(level)
        self._ahead.end()
        self.top = level + 1
        return self._begin_frame("prolong", self.top, Frame(theta, weights=weights))

    # --------------------------------------------------------------------------------------------------- several starts

    def _draw(self, instruction: Draw) -> Event:
        """Begin one of several starts; the loss of others than the first is evaluated only if a smoother uses it."""
        level, number, ahead = instruction.level, instruction.number, self._ahead.at(self.position.index + 1)
        frame = self._drawn_frame(instruction, None if ahead is None else ahead.theta)
        self._stack.put(level, frame)
        self.position.advance()
        if self._begins_with_gradient(level):
            return self._event("start", level)
        loss = self._stack.loss(level) if number == 0 else math.nan
        return Event("start", level, frame.theta, loss, fraction=instruction.fraction, ease=instruction.ease)

    def _drawn_frame(self, instruction: Draw, theta: Array | None = None) -> Frame:
        """Return the frame that a start begins with, and draw its coefficients unless they are at hand."""
        if instruction.number == 0:
            theta = self._initial
        if theta is None:
            if self._drawn is None:
                raise KanmgValueError(
                    f"the method's program draws start {instruction.number}, but `initial` was given. Write `Draw` "
                    "only if `program(hierarchy, start)` is called without `start`."
                )
            theta = self._drawn(instruction.level, self.attempt * self._program.num_starts + instruction.number)
        return Frame(theta, fraction=instruction.fraction, ease=instruction.ease)

    def _kept_frame(self, instruction: Resume) -> Frame | None:
        """Return the frame of a start that goes on; None if fewer have been kept."""
        if instruction.rank >= len(self._kept):
            return None
        start = self._kept[instruction.rank]
        fraction = self._stack.fraction(instruction.level)
        return Frame(start.theta, known=start.known, fraction=fraction, ease=start.ease)

    def _begin_ahead(self, level: int) -> StartAhead | None:
        """Return the start at hand if a thread smooths it; let threads begin with it and the next ones if that pays."""
        at_hand, fraction = self._stack[level], self._stack[level].fraction
        pays = self._ahead.pays and level == self._program.start
        if fraction is not None and pays and self._ahead.at(self.position.index) is None:
            starts = {}
            for number, begin, instruction in starts_at(self.position):
                frame: Frame | None = at_hand
                if number > self.position.index:
                    frame = self._drawn_frame(begin) if isinstance(begin, Draw) else self._kept_frame(begin)
                if frame is not None:
                    problem = self._stack.objective_of_start(level, fraction, frame.ease).problem
                    progress = (self.position.step, self._losses) if frame is at_hand else ()
                    starts[number] = StartAhead(problem, instruction, frame, *progress)
            self._ahead.begin(starts)
        return self._ahead.at(self.position.index)

    def _choose(self, level: int, keep: int) -> Event:
        """Compare a start with the best ones before; what follows begins as a run from the best one's coefficients."""
        theta, loss, gradient_norm = self._stack[level].theta, math.nan, math.nan
        ease = self._stack[level].ease
        if not self._is_passed_over:
            start = self._stack.start(level)
            loss = start.loss
            if start.known is not None and self._stack.sees_all(level):
                gradient_norm = norm(start.known.gradient)
            if loss < math.inf:
                self._found = tuple(sorted((*self._found, start), key=lambda found: found.loss)[:keep])
        if self._found:
            best = self._found[0]
            self._stack.put(level, Frame(best.theta, known=best.known, ease=best.ease))
        self._compared += (loss,)
        self.batch, self.stalled, self._is_passed_over = 0, False, False
        self.position.advance()
        return Event("choose", level, theta, loss, gradient_norm, fraction=1.0, ease=ease)

    def _resume(self, instruction: Resume) -> Event:
        """Go on with one of the best starts; if fewer have been found, with the choice that follows."""
        if instruction.rank == 0:
            self._kept, self._found = self._found, ()
        level, frame = instruction.level, self._kept_frame(instruction)
        if frame is not None:
            return self._begin_frame("resume", level, frame)
        frame = self._stack[level]
        self.pass_over()
        return Event("resume", level, frame.theta, math.nan, fraction=self._stack.fraction(level), ease=frame.ease)

    def _refit(self, level: int) -> Event:
        """Begin a start with hidden values moved back; the coefficients as they are remain to be chosen."""
        stack, theta = self._stack, self._stack[level].theta
        fraction, ease = stack.fraction(level), stack[level].ease
        self._found = (stack.start(level),)
        changed = refitted(self._hierarchy[level].network, theta, self._problem.training_inputs())
        if changed is None:
            self.pass_over()
            return Event("refit", level, theta, math.nan, fraction=fraction, ease=ease)
        return self._begin_frame("refit", level, Frame(changed, fraction=fraction, ease=ease))

    def _begin_frame(self, kind: RecordEvent, level: int, frame: Frame) -> Event:
        """Go on with another frame on a level; its loss is evaluated only if a smoother or a correction uses it."""
        self._stack.put(level, frame)
        self.position.advance()
        if self._begins_with_gradient(level):
            return self._event(kind, level)
        return Event(kind, level, frame.theta, math.nan, fraction=frame.fraction, ease=frame.ease)

    def pass_over(self) -> None:
        """Go to the end of the start at hand, which then is no candidate: its numbers have failed."""
        self._is_passed_over = True
        if (ahead := self._ahead.at(self.position.index)) is not None:
            ahead.give_up()
        while not isinstance(self.position.instruction, Choose):
            self.position.advance()

    # ------------------------------------------------------------------------------------------------------ corrections

    def _ascend(self, level: int) -> Event:
        """Correct a level by what was found on the one below."""
        corrected = correct(self._stack, level)
        self.position.advance()
        if corrected is None:
            return self._event("correct", level, step_size=0.0)
        theta, known, step = corrected
        self._move(level, theta, known)
        if known is not None or self._begins_with_gradient(level):
            return self._event("correct", level, step_size=step)
        return Event("correct", level, theta, math.nan, step_size=step)

    def _move(self, level: int, theta: Array, known: Known | None) -> None:
        """Replace a level's coefficients from outside its smoother, which starts afresh."""
        frame = self._stack[level]
        frame.theta, frame.known, frame.state = theta, known, None
        self.changed |= level == self.top

    def _event(self, kind: RecordEvent, level: int, *, step_size: float = math.nan) -> Event:
        """Report loss and gradient norm of a level's coefficients."""
        frame, ahead = self._stack[level], self._ahead.at(self.position.index)
        if frame.known is None and ahead is not None:
            frame.known = ahead.take(self._stack.add_work)
        known = self._stack.known(level)
        gradient_norm = norm(known.gradient)
        return Event(kind, level, frame.theta, known.loss, gradient_norm, step_size, frame.fraction, frame.ease)

    def close(self) -> None:
        """Let the threads end that smooth starts ahead."""
        self._ahead.end()

    # ------------------------------------------------------------------------------------------------------ checkpoints

    def snapshot(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: numbers, arrays, and dataclasses of them."""
        return {
            "position": self.position.snapshot(),
            "numbers": (self.batch, self.top, self.attempt),
            "flags": (self.changed, self.stalled, self._is_passed_over),
            "starts": (self._found, self._kept),
            "losses": (self._losses, self._compared),
            "frames": list(self._stack.frames),
            "work": self._stack.work,
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go on from where `snapshot` was taken."""
        self._ahead.end()
        self.position.restore(snapshot["position"])
        self.batch, self.top, self.attempt = snapshot["numbers"]
        if self.attempt:
            self._initial = self._drawn_first()
        self.changed, self.stalled, self._is_passed_over = snapshot["flags"]
        self._found, self._kept = snapshot["starts"]
        self._losses, self._compared = snapshot["losses"]
        self._stack.restore(snapshot["frames"], snapshot["work"])
