"""Checkpoints: which run a file belongs to, when it is written, and what is found in it."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import time
from typing import TYPE_CHECKING, Any

from kanmg.attempts import Attempt
from kanmg.errors import CheckpointError
from kanmg.monitor import Candidate
from kanmg.program import Smooth
from kanmg.smoothers.base import Smoother
from kanmg.stack import Correction, Frame, Known, Start
from kanmg.storage import checked_path, describe, read_file, write_file
from kanmg.weighting import Weights

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping

    import torch

    from kanmg.cycles import Cycle
    from kanmg.evaluators.base import Array
    from kanmg.hierarchy import Hierarchy
    from kanmg.problems.base import Problem
    from kanmg.program import Program

__all__ = ["Checkpoint", "fingerprint_of_run"]

# Writing at changes of level may take this part of the time between two writes.
MAX_OVERHEAD = 0.05


def fingerprint_of_run(
    problem: Problem, hierarchy: Hierarchy, method: Cycle, seed: int, initial: Array | None
) -> dict[str, str]:
    """Describe, argument by argument of `kanmg.solve`, everything that the course of a run depends on.

    Limits are not part of it: a run may go on with other tolerances or more cycles. Nor is the number of threads,
    although it decides about the last bits.

    Parameters
    ----------
    problem : Problem
    hierarchy : Hierarchy
    method : Cycle
    seed : int
    initial : ndarray or None

    Returns
    -------
    dict of str to str
    """
    levels = describe([level.network for level in hierarchy])
    digest = hashlib.sha256(levels.encode()).hexdigest()[:16]
    evaluators = ", ".join(dict.fromkeys(level.evaluator.name for level in hierarchy))
    return {
        "problem": problem.fingerprint(),
        "hierarchy": f"{len(hierarchy)} levels of {hierarchy.dtype} on evaluator {evaluators}, networks {digest}",
        "method": describe(method),
        "seed": str(seed),
        "initial": describe(initial),
    }


class Checkpoint:
    """The checkpoint file of one run.

    Parameters
    ----------
    path : path-like
    fingerprint : dict of str to str
        As from `fingerprint_of_run`.
    interval : float
        Seconds after which a file is due.

    Attributes
    ----------
    path : pathlib.Path
    """

    def __init__(self, path: str | os.PathLike[str], fingerprint: dict[str, str], interval: float) -> None:
        self.path = checked_path(path, "checkpoint", ", or None")
        self._fingerprint = fingerprint
        self._interval = interval
        self._last_write = time.perf_counter()
        self._duration = 0.0

    def read(self, program: Program, home: torch.device | None = None) -> dict[str, Any] | None:
        """Return what the file holds, or None if there is no file.

        Parameters
        ----------
        program : Program
            Whose smoothers' states may be in the file.
        home : torch.device, optional
            Where the run keeps its vectors, if that is a device.

        Raises
        ------
        CheckpointError
            If the file is damaged, or belongs to another run.
        """
        try:
            # Compared first: another method's states are of classes that this one does not know.
            content: dict[str, Any] = read_file(
                self.path, "checkpoint", _known_classes(program), check=self._compare, device=home
            )
        except FileNotFoundError:
            return None
        del content["fingerprint"]
        return content

    def _compare(self, stored: Mapping[str, str]) -> None:
        """Refuse the file of another run."""
        differing = [name for name, value in self._fingerprint.items() if stored.get(name) != value]
        if not differing:
            return
        details = "; ".join(_difference(name, str(stored.get(name)), self._fingerprint[name]) for name in differing)
        raise CheckpointError(
            f"`checkpoint='{self.path}'` belongs to another run: {details}. Repeat the call that began that run, pass "
            "another path, or delete the file to start anew."
        )

    def is_due(self, now: float, *, level_changed: bool) -> bool:
        """Whether to write: after a few seconds, and at changes of level, as long as that takes little of the time.

        Parameters
        ----------
        now : float
            `time.perf_counter()`.
        level_changed : bool
        """
        elapsed = now - self._last_write
        return elapsed >= (self._duration / MAX_OVERHEAD if level_changed else self._interval)

    def write(self, content: Mapping[str, Any]) -> None:
        """Replace the file.

        Parameters
        ----------
        content : mapping
            What `read` is to return.

        Raises
        ------
        CheckpointError
            If it cannot be written; an earlier file is then untouched.
        """
        begin = time.perf_counter()
        write_file(self.path, "checkpoint", {**content, "fingerprint": self._fingerprint})
        self._last_write = time.perf_counter()
        self._duration = self._last_write - begin


def _known_classes(program: Program) -> dict[str, type]:
    """Collect the dataclasses that may be in the file: ours, and those of the modules that define the smoothers."""
    classes: dict[str, type] = {
        cls.__qualname__: cls for cls in (Attempt, Candidate, Correction, Frame, Known, Start, Weights)
    }
    modules: Iterable[str] = {
        type(smoother).__module__
        for instruction in program.prologue + program.cycle
        if isinstance(instruction, Smooth)
        for smoother in _with_wrapped(instruction.smoother)
    }
    for module in modules:
        found = vars(sys.modules[module]).values()
        classes |= {cls.__qualname__: cls for cls in found if isinstance(cls, type) and dataclasses.is_dataclass(cls)}
    return classes


def _with_wrapped(smoother: Smoother[Any]) -> Iterator[Smoother[Any]]:
    """Go through a smoother and those that it wraps: their states lie in its own."""
    yield smoother
    options: Any = smoother
    for field in dataclasses.fields(options) if dataclasses.is_dataclass(options) else ():
        value = getattr(options, field.name)
        if isinstance(value, Smoother):
            yield from _with_wrapped(value)


def _difference(name: str, before: str, now: str) -> str:
    """Say in words in which way an argument is another one."""
    if name == "problem":
        return "`problem` is another one (its data, points, weights, residuals or batches)"
    if name == "initial":
        given = ("was not given and now is", "was given and now is not", "has other coefficients")
        return f"`initial` {given[0 if before == 'None' else 1 if now == 'None' else 2]}"
    if name == "hierarchy":
        before, now = (described.partition(", networks")[0] for described in (before, now))
        if before == now:
            return "`hierarchy` has other networks (their widths, degrees, knots or domains)"
    if name == "method":
        return _difference_of_methods(before, now)
    return f"`{name}` was {before} and now is {now}"


def _difference_of_methods(before: str, now: str) -> str:
    """Say which options of a method differ, or that it is of another class."""
    kinds = before.partition("(")[0], now.partition("(")[0]
    if kinds[0] != kinds[1]:
        return f"`method` was a {kinds[0]} and now is a {kinds[1]}"
    options, others = _options(before), _options(now)
    names = [name for name in dict.fromkeys((*options, *others)) if options.get(name) != others.get(name)]
    changed = (f"`{name}={options.get(name)}` and now `{name}={others.get(name)}`" for name in names)
    return f"`method` had {', '.join(changed)}"


def _options(described: str) -> dict[str, str]:
    """Split the description of a dataclass into those of its fields."""
    options, depth, begin = {}, 0, described.find("(") + 1
    for place in range(begin, len(described)):
        character = described[place]
        if depth == 0 and character in ",)":
            option, _, value = described[begin:place].strip().partition("=")
            options[option] = value
            begin = place + 1
        depth += (character in "([{") - (character in ")]}")
    return options
