"""What the message of a solution says of the run, in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from kanmg.alarms import find_alarms
from kanmg.attempts import describe_attempts
from kanmg.errors import DomainError
from kanmg.history import NOTHING_FINITE, Status
from kanmg.problems.term_sum import TermSum
from kanmg.program import Draw, Judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kanmg.evaluators.base import Evaluator
    from kanmg.event import Event
    from kanmg.history import History
    from kanmg.machine import Machine
    from kanmg.monitor import Monitor
    from kanmg.problems.base import Problem
    from kanmg.program import Program
    from kanmg.weighting import Weights

__all__ = ["describe_failure", "write_message"]


def write_message(
    problem: Problem,
    program: Program,
    machine: Machine,
    monitor: Monitor,
    history: History,
    status: Status,
    loss: float,
    remark: str,
    others: Sequence[str] = (),
) -> str:
    """Say what happened, in numbers, and what to do about it: one thing a line, alarms first, then other alarms."""
    level, steps = monitor.best.level, history[-1].step
    texts = (*(alarm.text for alarm in find_alarms(history.kept, level, loss)), *others)
    alarms = [f"ALARM: {text}" for text in texts]
    tolerance = f" (tolerance {monitor.tolerance:.3e})" if monitor.wants_tolerance else ""
    numbers = f"Loss {loss:.3e}{tolerance} on level {level} after {steps} steps."
    remedy = NOTHING_FINITE if status is Status.NON_FINITE and not steps else status.remedy
    described = _describe(problem, program, machine, monitor, history, status)
    return "\n".join(filter(None, (*alarms, status.message, numbers, *described, remedy, remark)))


def describe_failure(problem: Problem, evaluator: Evaluator, event: Event) -> str:
    """Say which terms of a problem, or their gradients, are no finite numbers after the event that has failed."""
    if not isinstance(problem, TermSum):
        return ""
    try:
        with np.errstate(all="ignore"):
            losses = problem.term_losses(evaluator, event.theta)
            norms = problem.term_gradient_norms(evaluator, event.theta)
    except DomainError:  # at points that the run has not seen
        return ""
    wrong = [name for name in losses if not math.isfinite(losses[name])]
    what = "not finite" if wrong else "without a finite gradient"
    wrong = wrong or [name for name in norms if not math.isfinite(norms[name])]
    if not wrong:
        return ""
    listed = ", ".join(map(repr, wrong))
    are = f"Terms {listed} are" if len(wrong) > 1 else f"Term {listed} is"
    return f"{are} {what} there: look for quotients, roots, logarithms and powers in the residual, and for its domain."


def _describe(
    problem: Problem, program: Program, machine: Machine, monitor: Monitor, history: History, status: Status
) -> tuple[str, ...]:
    """Say which loss is told, what the starts reached, how the level was chosen, what fairing and other attempts did.

    Returns
    -------
    tuple of str
        Sentences; empty ones where there is nothing to say.
    """
    return (
        _describe_loss(problem, machine, monitor),
        _describe_starts(program, history, status),
        _describe_level(machine, monitor),
        _describe_fairing(history.kept),
        describe_attempts(history),
    )


def _describe_loss(problem: Problem, machine: Machine, monitor: Monitor) -> str:
    """Say which loss the records and tolerances belong to, if not to the problem's own points and weights."""
    weights, loss = machine.weights, monitor.best.loss
    drawn = "on the points drawn last" if machine.has_drawn else ""
    weighted = f"with the last weights of {_describe_weights(problem, weights)}" if weights is not None else ""
    where = " and ".join(filter(None, (drawn, weighted)))
    if not where or not loss < math.inf:
        return ""
    recorded = " Recorded losses are weighted." if weighted else ""
    return f"{where[0].upper()}{where[1:]} it is {loss:.3e}.{recorded}"


def _describe_weights(problem: Problem, weights: Weights) -> str:
    """Write the weights of the terms, and whether points have some."""
    pairs = zip(problem.term_weights.items(), weights.factors, strict=True)
    listed = ", ".join(f"{name} {own * factor:.3g}" for (name, own), factor in pairs)
    return f"terms ({listed})" if weights.points is None else f"points and terms ({listed})"


def _describe_level(machine: Machine, monitor: Monitor) -> str:
    """Say how the level of the result was chosen."""
    best = monitor.validated
    if not monitor.chooses_level or best is None or monitor.best is not best:
        return ""
    last = f", of {machine.top + 1} that were reached," if machine.top else ""
    return f"Level {best.level}{last} has the lowest loss at held-back points, {best.score:.1e}."


def _describe_fairing(history: History) -> str:
    """Say whether coefficients were moved at the end."""
    faired = next((record for record in reversed(history) if record.event == "fair"), None)
    if faired is None:
        return ""
    if faired.step_size:
        return "Fairing moved coefficients that the data hardly determine to where the splines are smoothest."
    return "Fairing changed nothing: smoother splines do not fit as well."


def _describe_starts(program: Program, history: History, status: Status) -> str:
    """Say how many starts there were, and how far their losses lie apart."""
    starts = history.starts
    if not len(starts):
        return ""
    finite = starts[np.isfinite(starts)]
    if not len(finite):
        # The last start that fails ends the run before it is compared.
        has_ended = status in {Status.NON_FINITE, Status.DIVERGED}
        number = sum(record.event == "start" for record in history.kept) if has_ended else len(starts)
        return f"{'All ' if has_ended else ''}{number} starts on the coarsest level failed."
    first = program.prologue[0]
    easier = " of the easiest problem" if isinstance(first, Draw) and first.ease else ""
    losses = f", losses{easier} on all samples {finite.min():.1e} to {finite.max():.1e}"
    failed = f", {len(starts) - len(finite)} passed over" if len(finite) < len(starts) else ""
    number = _number_of_first(program)
    more = (
        f", {len(starts) - number} of them because none of the first {number} was lucky" if len(starts) > number else ""
    )
    resumed = sum(record.event == "resume" for record in history.kept)
    kept = f"; the best {min(resumed, len(finite))} went on" if resumed else ""
    return f"Best of {len(starts)} starts on the coarsest level{more}{losses}{failed}{kept}."


def _number_of_first(program: Program) -> int:
    """Return how many starts there are in any case."""
    number = 0
    for instruction in program.prologue:
        number += isinstance(instruction, Draw)
        if isinstance(instruction, Judge):
            break
    return number
