"""What happened in a run: its records, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np

from kanmg.errors import KanmgValueError

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array

__all__ = ["NOTHING_FINITE", "History", "Record", "RecordEvent", "Status"]

RecordEvent: TypeAlias = Literal[
    "start",
    "smooth",
    "choose",
    "resume",
    "pose",
    "redraw",
    "weigh",
    "refit",
    "prolong",
    "correct",
    "fair",
    "probe",
    "retry",
    "compare",
]


class Status(Enum):
    """How a run ended.

    Attributes
    ----------
    message : str
        What happened.
    remedy : str
        What to do about it; empty if nothing is to be done.

    Examples
    --------
    >>> Status.CONVERGED.message
    'The loss met the tolerance.'
    """

    CONVERGED = ("The loss met the tolerance.", "")
    FINISHED = ("The schedule is complete.", "")
    TOLERANCE_NOT_MET = (
        "The schedule is complete, but the loss did not meet the tolerance.",
        "Raise `max_cycles` or the method's numbers of steps, add a level, or loosen `rtol` or `atol`.",
    )
    STOPPED_BY_CALLBACK = (
        "The callback raised StopIteration.",
        "To go on, call `kanmg.solve` with `initial=solution.coefficients`, or with the `checkpoint` if there is one.",
    )
    STOPPED_EARLY = (
        "The validation loss has ceased to improve.",
        "The coefficients with the lowest one are returned; for more steps raise `patience`.",
    )
    INTERRUPTED = (
        "The run was interrupted from the keyboard.",
        "To go on, call `kanmg.solve` with `initial=solution.coefficients`, or with the `checkpoint` if there is one.",
    )
    CHECKPOINT_FAILED = (
        "The checkpoint could not be written.",
        "Free space on the disk or choose another path, and go on with `initial=solution.coefficients`.",
    )
    LEFT_DOMAIN = (
        "A value left the interval of its knots, which `outside='error'` refuses.",
        "Build the hierarchy with `outside='extend'`: hidden values move while a network is trained.",
    )
    DIVERGED = (
        "The loss has grown out of all proportion.",
        "Lower the smoother's step size, use `kanmg.LBFGS()`, or start from another `seed`.",
    )
    NON_FINITE = (
        "A loss or gradient is NaN or infinite.",
        "Lower the smoother's step size, scale the data, use `dtype='float64'`, or build with `outside='linear'`.",
    )
    STALLED = (
        "No step lowers the loss any more.",
        "For a lower loss add a level to the hierarchy, use `dtype='float64'`, or try another `seed` or smoother.",
    )

    def __init__(self, message: str, remedy: str) -> None:
        self.message = message
        self.remedy = remedy


NOTHING_FINITE = (
    "It is so before the first step, for the initial coefficients: look for huge numbers in the data, the weights and "
    "`initial`, and scale them."
)
"""What to do about `NON_FINITE` if there was no step."""


class Record(NamedTuple):
    """What one step of a run did.

    Attributes
    ----------
    cycle : int
        Number of the cycle; 0 is the way up to the finest level.
    level : int
        Where the step took place.
    step : int
        Smoothing steps so far.
    loss : float
        What the level minimises: the training loss on its samples; with mini-batches, of one batch; on a level that
        computes a correction, shifted so that it begins with the level's own. NaN where it was not evaluated. "choose"
        tells the loss of one of several starts on all samples; NaN if it was passed over.
    gradient_norm : float
        Euclidean norm of the gradient at the same coefficients, or NaN.
    work_units : float
        Work so far, in evaluations of loss and gradient on the finest level with all samples. Validation is not
        counted.
    seconds : float
        Time so far by the clock, those before a resumption and compilation included.
    validation_loss : float
        Loss on held-back data, where it was evaluated, else NaN.
    step_size : float
        Of the smoother, or of the line search along a correction: 0 if that was rejected; NaN if there was none.
    event : RecordEvent
        Each of several starts begins with "start" and ends with "choose"; the best of them may go on, from "resume" to
        another "choose"; and so does a level from "refit", with hidden values moved back into their intervals. With
        "pose" the level's problem becomes another one, on the way from an easier one; with "redraw" a part of its
        points becomes others, with "weigh" its weights: losses before and after do not compare. "fair" comes after
        the last step, and "probe", whose `validation_loss` is to be expected in the box that holds the samples. With
        "retry" the method begins again, "compare" ends that attempt: `loss` is what the attempt before or this one is
        judged by, and `step_size` 1 where this one is kept.
    """

    cycle: int
    level: int
    step: int
    loss: float
    gradient_norm: float
    work_units: float
    seconds: float
    validation_loss: float
    step_size: float
    event: RecordEvent


class History(Sequence[Record]):
    """The records of a run, oldest first.

    Parameters
    ----------
    records : iterable of Record, optional

    Examples
    --------
    >>> record = Record(1, 0, 1, 0.5, 0.1, 1.0, 0.0, float("nan"), 1.0, "smooth")
    >>> history = History([record, record._replace(step=2, loss=0.25)])
    >>> history[-1].loss, history.column("loss")
    (0.25, array([0.5 , 0.25]))
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._records = list(records)
        # The run appends to its own history some 10,000 times a second.
        self.append = self._records.append

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the records: a copied `append` would go on filling the original."""
        return type(self), (self._records,)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> History: ...
    def __getitem__(self, index: int | slice) -> Record | History:
        return History(self._records[index]) if isinstance(index, slice) else self._records[index]

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __repr__(self) -> str:
        return f"<History of {len(self)} records>"

    def column(self, name: str) -> Array:
        """Return one attribute of all records.

        Parameters
        ----------
        name : str
            An attribute of `Record`.

        Returns
        -------
        ndarray, shape (len(history),)
        """
        if name not in Record._fields:
            raise KanmgValueError(f"`{name}` is no attribute of a record. Use one of {', '.join(Record._fields)}.")
        index = Record._fields.index(name)
        return np.array([record[index] for record in self._records])

    @property
    def kept(self) -> History:
        """Records of the attempt that was kept; all if there was but one."""
        earlier: list[Record] = []
        kept: list[Record] = []
        for record in self._records:
            if record.event == "retry":
                earlier, kept = kept, []
            elif record.event == "compare":
                kept = kept if record.step_size else earlier
            else:
                kept.append(record)
        return History(kept)

    @property
    def starts(self) -> Array:
        """Losses of the starts that were compared, on all samples; empty if there was but one, NaN if passed over.

        Of several attempts, those of the one that was kept.

        Returns
        -------
        ndarray, shape (number of starts,)
        """
        losses = []
        for record in self.kept:
            if record.event in {"resume", "refit"}:
                break
            if record.event == "choose":
                losses.append(record.loss)
        return np.array(losses)

    def course(self) -> list[Record]:
        """Return the records of what became the solution, and the best of the starts at the end of each.

        Of several attempts the one that was kept is shown. Of several starts the first is followed, then a single
        record at the end of each shows the best one so far; so it is once more with those that were resumed. Records of
        easier problems are left out.
        """
        kept = list(self.kept)
        posed = [index for index, record in enumerate(kept) if record.event == "pose"]
        course: list[Record] = []
        best, is_other, has_resumed = None, False, False
        for record in kept[posed[-1] if posed else 0 :]:
            is_other |= record.event == ("resume" if has_resumed else "start") and bool(course)
            if record.event == "resume" and not has_resumed:
                best, has_resumed = None, True
            if record.event == "refit":
                best, is_other = course[-1] if course else None, True
            if record.event == "choose":
                is_other, best = False, _better(best, record)
                course.append(best._replace(step=record.step, work_units=record.work_units, seconds=record.seconds))
            elif not is_other and record.event != "probe":
                course.append(record)
        return course

    def columns(self) -> dict[str, Any]:
        """Return all attributes as arrays, for storage; the events as one string."""
        arrays = {name: self.column(name) for name in Record._fields[:-1]}
        return arrays | {"event": " ".join(record.event for record in self._records)}

    @classmethod
    def from_columns(cls, columns: dict[str, Any]) -> History:
        """Rebuild a history from what `columns` returned."""
        lists = [columns[name].tolist() for name in Record._fields[:-1]]
        return cls(map(Record._make, zip(*lists, columns["event"].split(), strict=True)))

    def table(self, num_levels: int) -> str:
        """Write a table with a line per level: steps, last loss and gradient norm, share of the work and of the time.

        What fairing did at the end has a line of its own.

        Parameters
        ----------
        num_levels : int
        """
        lines = [f"{'level':>5}  {'steps':>6}  {'loss':>9}  {'|gradient|':>10}  {'work units':>10}  {'seconds':>8}"]
        lines += [self._line(level) for level in range(num_levels)]
        if any(record.event == "fair" for record in self._records):
            lines.append(self._line("fair"))
        return "\n".join(lines)

    def _line(self, name: int | Literal["fair"]) -> str:
        """Sum up the records of one level or of fairing; what happened since the record before is the later one's."""
        steps, work, seconds = 0, 0.0, 0.0
        for index, record in enumerate(self._records):
            if _is_of(record, name):
                before = self._records[index - 1] if index else None
                steps += record.step - before.step if before else record.event == "smooth"
                work += record.work_units - (before.work_units if before else 0.0)
                seconds += record.seconds - (before.seconds if before else 0.0)
        last = self._last(name)
        loss = f"{last.loss:9.3e}" if last else f"{'-':>9}"
        norm = f"{last.gradient_norm:10.2e}" if last and not math.isnan(last.gradient_norm) else f"{'-':>10}"
        numbers = f"{loss}  {norm}"
        return f"{name:>5}  {steps:>6}  {numbers}  {work:>10.2f}  {seconds:>8.3f}"

    def _last(self, name: int | Literal["fair"]) -> Record | None:
        """Return the record that says what was reached on a level, or by fairing."""
        last: Record | None = None
        best: Record | None = None
        has_resumed = False
        for record in self.kept:
            if not _is_of(record, name):
                continue
            if record.event == "resume" and not has_resumed:
                best, has_resumed = None, True
            if record.event == "refit":
                best = last
            if record.event == "choose":
                best = _better(best, record)
            last = best if record.event == "choose" else last if math.isnan(record.loss) else record
        return last


def _is_of(record: Record, name: int | Literal["fair"]) -> bool:
    """Whether a record is one of a level or of fairing."""
    return name == ("fair" if record.event in {"fair", "probe"} else record.level)


def _better(best: Record | None, record: Record) -> Record:
    """Return the record of the better start; one that was passed over has NaN."""
    return record if best is None or record.loss < best.loss or math.isnan(best.loss) else best
