"""The levels in use: the iterate of each, what it minimises, and the counted work of all evaluations."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kanmg.derived_objectives import GalerkinObjective, ShiftedObjective
from kanmg.errors import KanmgValueError
from kanmg.objective import Objective
from kanmg.transfers import padded
from kanmg.vectors import zeros
from kanmg.weighting import weigh

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kanmg.evaluators.base import Array
    from kanmg.hierarchy import Hierarchy
    from kanmg.network import Network
    from kanmg.objective import SmoothFunction
    from kanmg.problems.base import Problem
    from kanmg.problems.drawing import Drawn
    from kanmg.problems.linearisation import Linearisation
    from kanmg.program import Variant, Weigh
    from kanmg.transfers import PaddedTransfer, Transfer
    from kanmg.weighting import Weights

__all__ = ["Correction", "Frame", "Known", "Remembering", "Stack", "Start"]


@dataclass(frozen=True, slots=True)
class Known:
    """Loss and gradient at a frame's coefficients, from all samples, so that nothing is evaluated twice."""

    loss: float
    gradient: Array


@dataclass(frozen=True, slots=True)
class Start:
    """What one of several starts has reached.

    Attributes
    ----------
    theta : ndarray, shape (num_coefficients,)
    loss : float
        On all samples, whatever the level sees.
    known : Known or None
        What is known at `theta` from the samples that the level sees.
    ease : float
        How far the start's problem is on the way to an easier one.
    """

    theta: Array
    loss: float
    known: Known | None
    ease: float = 0.0


@dataclass(frozen=True, slots=True)
class Correction:
    """How a coarse level's coefficients stand for a correction of the finer level's.

    Attributes
    ----------
    variant : {"tau", "galerkin"}
    origin : ndarray, shape (num_coefficients,)
        Where the coarse level started: z0, or zeros for the Galerkin variant, whose variable is the correction itself.
    tau : ndarray of the same shape, or None
        Shift of the coarse gradient; None where the coarse loss is the fine one.
    floor : float
        A shifted loss below this promises to lower the fine loss by more than all of it.
    """

    variant: Variant
    origin: Array
    tau: Array | None = None
    floor: float = -math.inf


@dataclass(slots=True)
class Frame:
    """What one level holds while it is in use.

    Attributes
    ----------
    theta : ndarray, shape (num_coefficients,)
        The iterate; replaced, never written to.
    state : object
        The smoother's; None before its first step.
    known : Known or None
        What is known at `theta`.
    correction : Correction or None
        None on the highest level in use.
    lifted : Known or None
        What is known at the finer level's coefficients, corrected by `theta`.
    fraction : float or None
        Part of the samples that one of several starts sees; None after the choice: the level's own part.
    ease : float
        How far the level's problem is on the way to an easier one.
    drawn : tuple of ndarray or None, or None
        The candidates in the place of some of the problem's points, as `problem.drawn`; None: its own points only.
    weights : Weights or None
        What the problem's weights are multiplied with; None: its own weights.
    """

    theta: Array
    state: Any = None
    known: Known | None = None
    correction: Correction | None = None
    lifted: Known | None = None
    fraction: float | None = None
    ease: float = 0.0
    drawn: Drawn | None = None
    weights: Weights | None = None

    def is_plausible(self, loss: float) -> bool:
        """Whether smoothing makes sense after such a loss; if not, a correction will be shortened or rejected."""
        return math.isfinite(loss) and (self.correction is None or loss >= self.correction.floor)


class Stack:
    """The frames of the levels in use, and what each of these levels minimises.

    Parameters
    ----------
    problem : Problem
    hierarchy : Hierarchy
    fractions : sequence of float
        Part of the samples that each level sees.

    Attributes
    ----------
    frames : list of Frame or None
        One per level; None where a level is not in use. Replaced and removed by `put` and `drop` only.
    transfers : tuple of Transfer or PaddedTransfer
        Between the levels, for coefficients with the problem's parameters behind them.
    has_batches : bool
        Whether smoothers see mini-batches.
    """

    def __init__(self, problem: Problem, hierarchy: Hierarchy, fractions: Sequence[float]) -> None:
        self._problem = problem
        self._hierarchy = hierarchy
        self._fractions = fractions
        self.transfers = padded(hierarchy.transfers, problem.num_parameters)
        self._objectives: dict[tuple[Any, ...], Objective] = {}
        self._models: dict[int, SmoothFunction] = {}
        self._past_work = 0.0
        self._work_unit = problem.work(hierarchy[-1].evaluator)
        self.frames: list[Frame | None] = [None] * len(hierarchy)
        self.has_batches = problem.steps_per_epoch > 1

    def __getitem__(self, level: int) -> Frame:
        frame = self.frames[level]
        if frame is None:
            raise KanmgValueError(
                f"the method's program uses level {level} where there are no coefficients. `Prolong` and `Ascend` take "
                "theirs from the level below, `Smooth` and `Descend` from their own."
            )
        return frame

    def put(self, level: int, frame: Frame) -> None:
        """Take a level into use, or pose another problem on it."""
        self.frames[level] = frame
        self._models.pop(level, None)

    def drop(self, level: int) -> None:
        """Take a level out of use."""
        self.frames[level] = None
        self._models.pop(level, None)

    # ----------------------------------------------------------------------------------------------------------- models

    def model(self, level: int, batch: int | None = None) -> SmoothFunction:
        """Return what a level minimises, seeing a mini-batch or all samples.

        That is the level's objective; or, if the level computes a correction, its shifted objective, or the finer
        level's as a function of the correction.
        """
        if level not in self._models:
            fraction = self[level].fraction
            self._models[level] = self._model(level, self._fractions[level] if fraction is None else fraction)
        if self.has_batches:
            for objective in self._objectives.values():
                objective.batch = batch
        return self._models[level]

    def _model(self, level: int, fraction: float) -> SmoothFunction:
        """Make what a level minimises, on a part of the samples that need not be its own."""
        correction = self[level].correction
        if correction is None or correction.variant == "tau":
            inner: SmoothFunction = self._objective(level, fraction, self[level])
        else:
            transfer = self.transfer(level + 1)
            fine = self._model(level + 1, fraction)
            theta = self[level + 1].theta
            network = self._hierarchy[level].network
            linear_part = slice(*network.offsets[-2:])
            inner = GalerkinObjective(
                fine, theta, transfer.prolong, transfer.restrict, transfer.restrict_matrix, linear_part, network
            )
        if correction is None or correction.tau is None:
            return inner
        return ShiftedObjective(inner, correction.tau, correction.origin)

    def transfer(self, level: int) -> Transfer | PaddedTransfer:
        """Return the transfer of corrections of a level; free knots are those of the iterate that is corrected."""
        iterate = level
        # The variable of Galerkin's variant is a correction, not an iterate.
        while (correction := self[iterate].correction) is not None and correction.variant == "galerkin":
            iterate += 1
        return self.transfers[level - 1].at(self[iterate].theta)

    def _objective(self, level: int, fraction: float, frame: Frame) -> Objective:
        """Return the objective of a level on a part of the samples: made once, as it counts its work."""
        drawn, weights = frame.drawn, frame.weights
        key = level, fraction, frame.ease, weights, *(rows is not None and rows.tobytes() for rows in drawn or ())
        if key not in self._objectives:
            problem = self._stated(drawn)
            problem = problem if weights is None else problem.with_weights(weights.factors, weights.points)
            problem = problem if fraction == 1.0 else problem.subset(fraction)
            self._objectives[key] = Objective(_eased(problem, frame.ease), self._hierarchy[level])
        return self._objectives[key]

    def objective_of_start(self, level: int, fraction: float, ease: float) -> Objective:
        """Return what one of several starts minimises on a part of the samples."""
        return self._objective(level, fraction, Frame(np.empty(0), ease=ease))

    def _stated(self, drawn: Drawn | None) -> Problem:
        """Return the problem with its own weights."""
        return self._problem if drawn is None else self._problem.with_drawn(drawn)

    def redrawn(self, level: int, share: float, seed: int) -> Frame:
        """Draw a part of the points anew by the residuals at a level's coefficients, and count that as work."""
        frame, evaluator = self[level], self._hierarchy[level].evaluator
        problem = _eased(self._problem, frame.ease)
        self._past_work += problem.candidates_work(evaluator)
        drawn = problem.redrawn(evaluator, frame.theta, share, seed=seed).drawn
        weights = frame.weights and frame.weights.without_points()
        return Frame(frame.theta, ease=frame.ease, drawn=drawn, weights=weights)

    def weighed(self, instruction: Weigh) -> Frame:
        """Weigh terms and points by what a level has reached, and count that as work."""
        level = instruction.level
        frame, evaluator = self[level], self._hierarchy[level].evaluator
        problem = _eased(self._stated(frame.drawn), frame.ease)
        seen = problem if self.sees_all(level) else problem.subset(self._fractions[level])
        weights, work = weigh(
            problem, seen, evaluator, frame.theta, frame.weights, instruction.attention, instruction.balance
        )
        self._past_work += work
        # Nothing will be evaluated with the weights before.
        for key in [key for key in self._objectives if key[3] is not None]:
            self._past_work += self._objectives.pop(key).work
        return Frame(frame.theta, ease=frame.ease, drawn=frame.drawn, weights=weights)

    def descend(self, level: int, variant: Variant) -> None:
        """Pose the problem of correcting a level on the one below.

        The shift tau makes the coarse gradient at the origin equal to the restricted fine gradient, so that to first
        order a correction that lowers the coarse loss lowers the fine one too (Nash 2000, section 2). A shifted loss
        need not have a minimum, though: it is followed no further than to a decrease by all of the fine loss.
        """
        transfer, fine = self.transfer(level), self.known(level)
        restricted = transfer.restrict(fine.gradient)
        origin = transfer.inject(self[level].theta) if variant == "tau" else zeros(restricted.shape, restricted)
        drawn, weights = self[level].drawn, self[level].weights
        unshifted = Frame(origin, correction=Correction(variant, origin), drawn=drawn, weights=weights)
        self.put(level - 1, unshifted)
        if variant == "galerkin" and self.shares_samples(level - 1):
            unshifted.known = Known(fine.loss, restricted)
            return
        coarse = self.known(level - 1)
        floor = coarse.loss - fine.loss if fine.loss > 0.0 else -math.inf
        correction = Correction(variant, origin, coarse.gradient - restricted, floor)
        shifted = replace(unshifted, known=Known(coarse.loss, restricted), correction=correction)
        self.put(level - 1, shifted)

    def shares_samples(self, level: int) -> bool:
        """Whether a level sees the same samples as the finer one."""
        return self._fractions[level] == self._fractions[level + 1]

    def sees_all(self, level: int) -> bool:
        """Whether a level sees all samples."""
        return self._fractions[level] == 1.0

    def fraction(self, level: int) -> float:
        """Part of the samples that a level sees."""
        return self._fractions[level]

    # ------------------------------------------------------------------------------------------------------ evaluations

    def known(self, level: int) -> Known:
        """Return loss and gradient at a level's coefficients from all samples, evaluating what is not known."""
        frame = self[level]
        if frame.known is None:
            frame.known = Known(*self.model(level).value_and_gradient(frame.theta))
        return frame.known

    def lifted(self, level: int) -> Known | None:
        """Return loss and gradient of the finer level, corrected by this level's coefficients, if just evaluated."""
        model = self._models.get(level)
        if self.has_batches or not isinstance(model, GalerkinObjective) or model.last is None:
            return None
        correction, loss, gradient = model.last
        return Known(loss, gradient) if correction is self[level].theta else None

    def loss(self, level: int) -> float:
        """Return the loss at a level's coefficients from all samples."""
        frame = self[level]
        return frame.known.loss if frame.known is not None else self.model(level).value(frame.theta)

    def start(self, level: int) -> Start:
        """Return what one of several starts has reached on a level, evaluating its loss on all samples if not known."""
        frame = self[level]
        if frame.known is not None and frame.fraction == 1.0:
            loss = frame.known.loss
        else:
            objective = self.objective_of_start(level, 1.0, frame.ease)
            objective.batch = None
            loss = objective.value(frame.theta)
        known = frame.known if frame.fraction == self._fractions[level] else None
        return Start(frame.theta, loss, known, frame.ease)

    @property
    def work(self) -> float:
        """Multiply-adds so far."""
        work = self._past_work
        for objective in self._objectives.values():
            work += objective.work
        return work

    @property
    def work_units(self) -> float:
        """Work so far, in evaluations of loss and gradient on the finest level with all samples."""
        return self.work / self._work_unit

    def add_work(self, work: float) -> None:
        """Count multiply-adds that were done elsewhere."""
        self._past_work += work

    def restore(self, frames: Sequence[Frame | None], work: float) -> None:
        """Go on from frames and work that were written down."""
        self.frames = list(frames)
        self._past_work = work
        self._objectives.clear()
        self._models.clear()


def _eased(problem: Problem, ease: float) -> Problem:
    """Return the problem that is so far on the way to an easier one."""
    return problem.eased(ease) if ease else problem


class Remembering:
    """A model whose value and gradient at one point are known.

    Parameters
    ----------
    model : Objective
    theta : ndarray
        The point; recognised by its identity.
    known : Known
    """

    def __init__(self, model: SmoothFunction, theta: Array, known: Known) -> None:
        self._model, self._theta, self._known = model, theta, known
        self.batch = model.batch
        self.steps_per_epoch = model.steps_per_epoch

    @property
    def evaluations(self) -> int:
        """Evaluations of the model so far."""
        return self._model.evaluations

    @property
    def work(self) -> float:
        """Multiply-adds of the model so far."""
        return self._model.work

    @property
    def linear_part(self) -> slice:
        """Where the model's coefficients lie in which the network is linear."""
        return self._model.linear_part

    @property
    def network(self) -> Network | None:
        """The network whose coefficients the variables are."""
        return self._model.network

    def value(self, theta: Array) -> float:
        """Return the model's value."""
        return self._known.loss if theta is self._theta else self._model.value(theta)

    def value_and_gradient(self, theta: Array) -> tuple[float, Array]:
        """Return the model's value and gradient."""
        if theta is self._theta:
            return self._known.loss, self._known.gradient
        return self._model.value_and_gradient(theta)

    def residuals(self, theta: Array) -> Array:
        """Return the model's residuals."""
        return self._model.residuals(theta)

    def pull_back(self, theta: Array, cotangents: Array) -> Array:
        """Return the model's product of the transposed Jacobian with a vector."""
        return self._model.pull_back(theta, cotangents)

    def normal_equations(self, theta: Array) -> tuple[float, Array, Array]:
        """Return the model's value, gradient and Gauss-Newton matrix."""
        return self._model.normal_equations(theta)

    def linearised(self, theta: Array) -> Linearisation:
        """Return the Jacobian of the model's residuals."""
        return self._model.linearised(theta)
