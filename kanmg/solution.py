"""What a run returns: its status, its history, and a function that can be evaluated, saved and loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np

from kanmg.arrays import as_array, check_columns, check_dtype, like
from kanmg.errors import KanmgValueError, ShapeError
from kanmg.hierarchy import Hierarchy
from kanmg.jets import partial_derivative
from kanmg.network import Affine, Network, Spline
from kanmg.splines.knots import Knots
from kanmg.storage import read_file, write_file

if TYPE_CHECKING:
    import os

    from kanmg.evaluators.base import Array
    from kanmg.hierarchy import EvaluatorChoice
    from kanmg.network import Layer

__all__ = ["History", "Record", "RecordEvent", "Solution", "Status", "load"]

RecordEvent: TypeAlias = Literal["start", "smooth", "prolong", "correct"]


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
        "To go on, call `kanmg.solve` with `initial=solution.coefficients`, or with the same `checkpoint`.",
    )
    STOPPED_EARLY = (
        "The validation loss has ceased to improve.",
        "The coefficients with the lowest one are returned; for more steps raise `patience`.",
    )
    INTERRUPTED = (
        "The run was interrupted from the keyboard.",
        "To go on, call `kanmg.solve` with `initial=solution.coefficients`, or with the same `checkpoint`.",
    )
    CHECKPOINT_FAILED = (
        "The checkpoint could not be written.",
        "Free space on the disk or choose another path, and go on with `initial=solution.coefficients`.",
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
        "No step changes the coefficients any more.",
        "For a lower loss add a level to the hierarchy, use `dtype='float64'`, or try another `seed` or smoother.",
    )

    def __init__(self, message: str, remedy: str) -> None:
        self.message = message
        self.remedy = remedy


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
        computes a correction, shifted so that it begins with the level's own. NaN where it was not evaluated.
    gradient_norm : float
        Euclidean norm of the gradient at the same coefficients, or NaN.
    work_units : float
        Work so far, in evaluations of loss and gradient on the finest level with all samples. Validation is not
        counted.
    seconds : float
        Time so far, those before a resumption included.
    validation_loss : float
        Loss on held-back data, where it was evaluated, else NaN.
    step_size : float
        Of the smoother, or of the line search along a correction: 0 if that was rejected; NaN if there was none.
    event : {"start", "smooth", "prolong", "correct"}
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

    def columns(self) -> dict[str, Any]:
        """Return all attributes as arrays, for storage; the events as one string."""
        arrays = {name: self.column(name) for name in Record._fields[:-1]}
        return arrays | {"event": " ".join(record.event for record in self._records)}

    @classmethod
    def from_columns(cls, columns: dict[str, Any]) -> History:
        """Rebuild a history from what `columns` returned."""
        lists = [columns[name].tolist() for name in Record._fields[:-1]]
        return cls(map(Record._make, zip(*lists, columns["event"].split(), strict=True)))


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """The result of `kanmg.solve`: a function, and how it was found.

    Attributes
    ----------
    coefficients : ndarray, shape (num_coefficients,)
        The best ones on the finest level reached: those with the lowest training loss; with `patience`, those with the
        lowest validation loss; with mini-batches, the last ones.
    level : int
        The level they belong to.
    loss : float
        Their training loss on all samples, or NaN if it was not evaluated.
    status : Status
    message : str
        What happened, with numbers, and what to do about it.
    history : History
        A sequence of `Record`; `history.column("loss")` is an array.
    work_units : float
        Counted work, in evaluations of loss and gradient on the finest level with all samples.
    seconds : float
    hierarchy : Hierarchy
    coordinates : tuple of str
        Names of the inputs; empty if they have none.

    Examples
    --------
    >>> import numpy as np
    >>> import kanmg
    >>> x = np.linspace(-1, 1, 400).reshape(-1, 1)
    >>> hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=4, num_levels=2, evaluator="reference")
    >>> solution = kanmg.solve(kanmg.Regression(x, np.exp(x)), hierarchy)
    >>> solution(np.array([[0.0], [1.0]])).round(3).ravel().tolist()
    [1.0, 2.718]
    >>> solution.derivative(np.array([[0.5]]), 0).round(2).tolist()
    [[1.65]]
    """

    coefficients: Array
    level: int
    loss: float
    status: Status
    message: str
    history: History
    work_units: float
    seconds: float
    hierarchy: Hierarchy
    coordinates: tuple[str, ...] = field(default=())

    def __call__(self, x: Any) -> Any:
        """Evaluate the network.

        Points outside the domain follow the layers' `outside` policy.

        Parameters
        ----------
        x : ndarray or Tensor, shape (N, d), or one point, shape (d,), or shape (N,) if d is 1

        Returns
        -------
        ndarray or Tensor, shape (N, Q), or (Q,) for one point
            A tensor if `x` is one.
        """
        points, is_single = self._points(x)
        values = self._evaluator.value(self.coefficients, points)
        return like(values[0] if is_single else values, x)

    def derivative(self, x: Any, *coordinates: int | str) -> Any:
        """Evaluate a partial derivative of the network.

        Parameters
        ----------
        x : ndarray or Tensor
            As for `solution(x)`.
        *coordinates : int or str
            What to differentiate by, one after the other: numbers of inputs, or their names if the problem has named
            them. `solution.derivative(x, 0, 0)` is the second derivative by the first input.

        Returns
        -------
        ndarray or Tensor, shape (N, Q), or (Q,) for one point

        Notes
        -----
        Taylor propagation through the layers; mixed derivatives from the directions' sums and differences. Spline
        derivatives of order above the degree vanish, and the one of that order jumps at the knots.
        """
        points, is_single = self._points(x)
        inputs = [self._input(coordinate) for coordinate in coordinates]
        values = partial_derivative(self._evaluator, self.coefficients, points, inputs)
        return like(values[0] if is_single else values, x)

    def _input(self, coordinate: Any) -> int:
        """Return the number of an input from its number or name."""
        num_inputs = self.hierarchy.widths[0]
        if isinstance(coordinate, str) and coordinate in self.coordinates:
            return self.coordinates.index(coordinate)
        is_number = isinstance(coordinate, int | np.integer) and not isinstance(coordinate, bool)
        if is_number and 0 <= coordinate < num_inputs:
            return int(coordinate)
        names = f" or one of the names {', '.join(map(repr, self.coordinates))}" if self.coordinates else ""
        raise KanmgValueError(
            f"`derivative` got the coordinate {coordinate!r}. Pass numbers of inputs, 0 to {num_inputs - 1}{names}."
        )

    @property
    def _evaluator(self) -> Any:
        return self.hierarchy[self.level].evaluator

    def _points(self, x: Any) -> tuple[Array, bool]:
        """Check points, and tell whether there is one without a row of its own."""
        points = as_array(x, "x")
        check_dtype(points, self.hierarchy.dtype, "x")
        num_inputs = self.hierarchy.widths[0]
        is_single = points.ndim == 1 and num_inputs > 1
        if points.ndim == 1:
            points = points.reshape(1, -1) if is_single else points.reshape(-1, 1)
        if points.ndim != 2:
            raise ShapeError(
                f"`x` has shape {points.shape}. Pass points of shape (N, {num_inputs}), or one of shape "
                f"({num_inputs},)."
            )
        check_columns(points, self.hierarchy.widths, "x")
        return points, is_single

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the solution to a file, all or nothing; `kanmg.load` reads it.

        The file holds the coefficients, the networks of all levels and the history, but not the problem. It is a
        safetensors file with JSON metadata: reading it executes nothing.

        Parameters
        ----------
        path : path-like

        Raises
        ------
        CheckpointError
            If it cannot be written; an earlier file of this name is then untouched.
        """
        write_file(path, "solution", self._content())

    def _content(self) -> dict[str, Any]:
        """Everything that `load` needs."""
        return {
            "networks": [_describe_network(level.network) for level in self.hierarchy],
            "dtype": str(self.hierarchy.dtype),
            "coefficients": self.coefficients,
            "level": self.level,
            "loss": self.loss,
            "status": self.status.name,
            "message": self.message,
            "history": self.history.columns(),
            "work_units": self.work_units,
            "seconds": self.seconds,
            "coordinates": self.coordinates,
        }

    def __repr__(self) -> str:
        return (
            f"<Solution {self.status.name}: level {self.level}, loss {self.loss:.3g}, {self.work_units:.4g} work units>"
        )

    def __str__(self) -> str:
        return "\n".join([*_table(self.history, len(self.hierarchy)), f"{self.status.name}: {self.message}"])


def load(path: str | os.PathLike[str], *, evaluator: EvaluatorChoice = "auto") -> Solution:
    """Read a solution that `solution.save` wrote.

    It can be evaluated without the problem, and given to `kanmg.solve` as `initial=solution.coefficients`.

    Parameters
    ----------
    path : path-like
    evaluator : {"auto", "cpu", "reference"} or callable
        As for `Hierarchy`.

    Returns
    -------
    Solution

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is damaged, no solution, or of a newer version of kanmg.
    """
    content = read_file(path, "solution")
    networks = [_build_network(description) for description in content.pop("networks")]
    hierarchy = Hierarchy(networks, dtype=content.pop("dtype"), evaluator=evaluator)
    content["status"] = Status[content["status"]]
    content["history"] = History.from_columns(content["history"])
    return Solution(hierarchy=hierarchy, **content)


# --------------------------------------------------------------------------------------------------------- descriptions


def _describe_network(network: Network) -> dict[str, Any]:
    """Describe a network by names, numbers and arrays."""
    is_stated = isinstance(network.layers[0], Affine)
    return {
        "layers": [_describe_layer(layer) for layer in network.layers],
        "domain": network.domain if is_stated else None,
    }


def _describe_layer(layer: Layer) -> dict[str, Any]:
    """Describe a layer."""
    shape = {"num_inputs": layer.num_inputs, "num_outputs": layer.num_outputs}
    if isinstance(layer, Affine):
        return {"kind": "affine", **shape, "bias": layer.bias}
    # Most layers have one knot vector for all inputs.
    distinct = list(dict.fromkeys(layer.knots))
    return {
        "kind": "spline",
        **shape,
        "degree": layer.degree,
        "knots": [knots.vector for knots in distinct],
        "knots_of_inputs": [distinct.index(knots) for knots in layer.knots],
        "outside": layer.outside,
    }


def _build_network(description: dict[str, Any]) -> Network:
    """Build a network from its description."""
    return Network(map(_build_layer, description["layers"]), domain=description["domain"])


def _build_layer(description: dict[str, Any]) -> Layer:
    """Build a layer from its description."""
    num_inputs, num_outputs = description["num_inputs"], description["num_outputs"]
    if description["kind"] == "affine":
        return Affine(num_inputs, num_outputs, bias=description["bias"])
    distinct = [Knots(vector, description["degree"]) for vector in description["knots"]]
    knots = [distinct[index] for index in description["knots_of_inputs"]]
    return Spline(num_inputs, num_outputs, knots=knots, outside=description["outside"])


# --------------------------------------------------------------------------------------------------------------- tables


def _table(history: History, num_levels: int) -> list[str]:
    """One line per level: steps, last loss and gradient norm, and its share of work and time."""
    steps, work, seconds = [0] * num_levels, [0.0] * num_levels, [0.0] * num_levels
    last: list[Record | None] = [None] * num_levels
    previous = None
    for record in history:
        level = record.level
        steps[level] += record.event == "smooth"
        work[level] += record.work_units - (previous.work_units if previous else 0.0)
        seconds[level] += record.seconds - (previous.seconds if previous else 0.0)
        if not math.isnan(record.loss):
            last[level] = record
        previous = record
    lines = [f"{'level':>5}  {'steps':>6}  {'loss':>9}  {'|gradient|':>10}  {'work units':>10}  {'seconds':>8}"]
    for level, final in enumerate(last):
        numbers = (f"{final.loss:9.3e}", f"{final.gradient_norm:10.2e}") if final else ("-".rjust(9), "-".rjust(10))
        share = f"{work[level]:>10.2f}  {seconds[level]:>8.3f}"
        lines.append(f"{level:>5}  {steps[level]:>6}  {numbers[0]}  {numbers[1]}  {share}")
    return lines
