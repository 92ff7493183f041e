"""What a run returns: its status, its history, and a function that can be evaluated, saved and loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kanmg.alarms import find_alarms, say_what_is_undetermined
from kanmg.arrays import as_array, check_columns, check_dtype, check_no_gradients
from kanmg.errors import KanmgValueError, ShapeError
from kanmg.evaluators.base import MAX_DEVICE_ORDER
from kanmg.hierarchy import Hierarchy
from kanmg.history import History, Record, Status
from kanmg.jets import partial_derivative
from kanmg.network import Affine, Network, Spline
from kanmg.problems.ansatz import load_ansatz
from kanmg.problems.terms import checked_normals
from kanmg.splines.knots import Knots
from kanmg.storage import checked_path, read_file, write_file
from kanmg.vectors import beside, is_tensor, returned, to_host

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from kanmg.arrays import Array
    from kanmg.hierarchy import EvaluatorChoice
    from kanmg.network import Layer
    from kanmg.problems.ansatz import Ansatz, Transform

__all__ = ["History", "Record", "Solution", "Status", "load"]


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """The result of `kanmg.solve`: a function, and how it was found.

    Attributes
    ----------
    coefficients : ndarray, shape (num_coefficients,)
        The best ones on the finest level reached: those with the lowest training loss; with `patience`, those with the
        lowest validation loss; with the method's `hold_back`, those with the lowest one of all levels; with
        mini-batches, the last ones.
    level : int
        The level they belong to.
    loss : float
        Their training loss on all samples, or NaN if it was not evaluated.
    status : Status
    message : str
        What happened, with numbers, and what to do about it: one thing a line, alarms first.
    history : History
        A sequence of `Record`; `history.column("loss")` is an array.
    work_units : float
        Counted work, in evaluations of loss and gradient on the finest level with all samples.
    seconds : float
        Of the run, by the clock. The first run of a degree and dtype compiles kernels, which counts: 5 to 15 s each.
    hierarchy : Hierarchy
    coordinates : tuple of str
        Names of the inputs; empty if they have none.
    parameters : dict of str to float
        What was found of the problem's parameters, by their names; empty if it has none.
    margins : dict of str to float
        By how much each of them may change, the coefficients fitted anew, before the loss has doubled: infinite where
        nothing determines it. Empty where no complete run of Levenberg-Marquardt has told.
    ansatz : Ansatz or None
        How the problem's `inputs` and `transform` make fields of the network.

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
    parameters: Mapping[str, float] = field(default_factory=dict)
    margins: Mapping[str, float] = field(default_factory=dict)
    ansatz: Ansatz | None = None

    @property
    def network(self) -> Network:
        """The network of the solution's level; free knots are fixed where training has moved them.

        Its coefficients are the first `network.num_coefficients` of the solution's.
        """
        return self.hierarchy[self.level].network.at(self.coefficients)

    def __call__(self, x: Any) -> Any:
        """Evaluate the network, or the fields that the problem makes of it.

        Points outside the domain follow the layers' `outside` policy.

        Parameters
        ----------
        x : ndarray or Tensor, shape (N, d), or one point, shape (d,); if d is 1 also shape (N,), or one number
            Tensors may be on the CPU or on the hierarchy's device.

        Returns
        -------
        ndarray or Tensor, shape (N, Q), or (Q,) for one point
            A tensor beside `x` if that is one.
        """
        points, is_single = self._points(x)
        values = self._values(points, ())
        return returned(values[0] if is_single else values, x)

    def derivative(
        self, x: Any, *coordinates: int | str, side: Literal["+", "-"] | None = None, normals: Any = None
    ) -> Any:
        """Evaluate a partial derivative of the network, or of the fields that the problem makes of it.

        Parameters
        ----------
        x : ndarray or Tensor
            As for `solution(x)`.
        *coordinates : int or str
            What to differentiate by, one after the other: numbers of inputs, or their names if the problem has named
            them. `solution.derivative(x, 0, 0)` is the second derivative by the first input, `solution.derivative(x)`
            the value.
        side : {"+", "-"}, optional
            For points on an interface, a kink of the problem's `inputs` or `transform`: the derivative on the side to
            which `normals` point, or on the other one. With one coordinate, "+" is where it is larger.
        normals : ndarray or Tensor, shape (N, d), or (d,) for one point, optional
            From side "-" to side "+", of any length, as for `kanmg.Term`. Needed for `side` if there are several
            coordinates.

        Returns
        -------
        ndarray or Tensor, shape (N, Q), or (Q,) for one point

        Raises
        ------
        KanmgError
            If the points have another shape or dtype, there is no such coordinate, there are no sides, or nobody has
            said where they are.

        Notes
        -----
        Taylor propagation through the layers; mixed derivatives from the directions' sums and differences. Spline
        derivatives of order above the degree vanish, and the one of that order jumps at the knots.
        """
        points, is_single = self._points(x)
        inputs = [self._input(coordinate) for coordinate in coordinates]
        directions = self._normals(side, normals, to_host(points), is_single=is_single)
        values = self._values(points, inputs, side or "", directions)
        return returned(values[0] if is_single else values, x)

    def _values(self, points: Any, inputs: Sequence[int], side: str = "", normals: Array | None = None) -> Any:
        """Evaluate the fields or a derivative of them, where the points are if the evaluator can."""
        if self.ansatz is not None:
            return self.ansatz.derivative(self._evaluator, self.coefficients, to_host(points), inputs, side, normals)
        own = points if len(inputs) <= MAX_DEVICE_ORDER else to_host(points)
        theta = beside(self.coefficients, own)
        return partial_derivative(self._evaluator, theta, own, inputs) if inputs else self._evaluator.value(theta, own)

    def _normals(self, side: Any, normals: Any, points: Array, *, is_single: bool) -> Array | None:
        """Check on which side of the points a derivative is wanted; returns unit vectors to side "+"."""
        if side is None:
            if normals is not None:
                raise KanmgValueError(
                    '`derivative` got `normals` but no `side`. Pass `side="+"` or `side="-"` as well.'
                )
            return None
        if side not in ("+", "-"):
            raise KanmgValueError(f'`derivative` got `side={side!r}`. Pass "+" or "-", or leave it out.')
        if self.ansatz is None:
            raise KanmgValueError(
                f"`derivative` got `side={side!r}`, but a solution without `inputs` and `transform` has no kinks. "
                "Leave out `side`, or state the problem with `inputs=` that have a kink where the interface is, such "
                "as x.abs()."
            )
        if normals is None:
            if points.shape[1] > 1:
                raise KanmgValueError(
                    f'`derivative` got `side={side!r}`, but not where side "+" is. Pass `normals`, one vector for '
                    f"each point, shape {points.shape}."
                )
            return np.ones_like(points)
        if not len(points):
            return points
        vectors = as_array(normals, "normals")
        return checked_normals(vectors.reshape(1, -1) if is_single and vectors.ndim == 1 else vectors, points)

    def _input(self, coordinate: Any) -> int:
        """Return the number of an input from its number or name."""
        num_inputs = self._num_coordinates
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
    def alarms(self) -> tuple[str, ...]:
        """Signs in the history that the solution is worse than its loss says; they are in `message` too.

        A loss at held-back points (samples for validation, or candidates of terms) far above the loss itself, a loss
        that rose when points changed at a refinement, a smoother that stopped for good; of a regression that was faired
        also samples that leave the fit open in a part of the box that holds them; parameters that nothing determines.
        """
        found = tuple(alarm.text for alarm in find_alarms(self.history.kept, self.level, self.loss))
        return found + say_what_is_undetermined(self.parameters, self.margins)

    @property
    def _evaluator(self) -> Any:
        return self.hierarchy[self.level].evaluator

    def _points(self, x: Any) -> tuple[Any, bool]:
        """Check points, and tell whether there is one without a row of its own."""
        check_no_gradients(x, "x")
        is_there = is_tensor(x) and x.device == self._evaluator.home
        points = x if is_there else as_array(x, "x")
        check_dtype(points, self.hierarchy.dtype, "x")
        num_inputs = self._num_coordinates
        is_single = points.ndim == (1 if num_inputs > 1 else 0)
        if points.ndim == 1 or (is_single and points.ndim == 0):
            points = points.reshape(1, -1) if is_single else points.reshape(-1, 1)
        if points.ndim != 2:
            raise ShapeError(
                f"`x` has shape {points.shape}. Pass points of shape (N, {num_inputs}), or one of shape "
                f"({num_inputs},)."
            )
        if self.ansatz is None:
            check_columns(points, self.hierarchy.widths, "x")
        elif points.shape[1] != num_inputs:
            raise ShapeError(
                f"`x` has shape {points.shape} but the coordinates are {self.coordinates}. Pass points of shape (N, "
                f"{num_inputs}); the map into the network's inputs is applied to them."
            )
        return points, is_single

    @property
    def _num_coordinates(self) -> int:
        return self.hierarchy.widths[0] if self.ansatz is None else len(self.ansatz.coordinates)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the solution to a file, all or nothing; `kanmg.load` reads it.

        The file holds the coefficients, the networks of all levels and the history, but not the problem, nor the
        functions of its `inputs` and `transform`, which `kanmg.load` must be given again. It is a safetensors file with
        JSON metadata: reading it executes nothing.

        Parameters
        ----------
        path : path-like

        Raises
        ------
        CheckpointError
            If it cannot be written; an earlier file of this name is then untouched.
        KanmgTypeError, KanmgValueError
            If `path` is no path, or empty.
        """
        write_file(checked_path(path, "path"), "solution", self._content())

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
            "parameters": dict(self.parameters),
            "margins": dict(self.margins),
            "ansatz": None if self.ansatz is None else self.ansatz.describe(),
        }

    def __repr__(self) -> str:
        return (
            f"<Solution {self.status.name}: level {self.level}, loss {self.loss:.3g}, {self.work_units:.4g} work units>"
        )

    def __str__(self) -> str:
        lines = [self.history.table(len(self.hierarchy)), *self.message.splitlines()]
        # Alarms stand before the status.
        place = lines.index(self.status.message) if self.status.message in lines else 1
        lines[place : place + 1] = [f"{self.status.name}: {line}" for line in lines[place : place + 1]]
        if self.parameters:
            found = (f"{name} = {value:.6g}{self._margin(name)}" for name, value in self.parameters.items())
            lines.append(f"Parameters: {', '.join(found)}")
        return "\n".join(lines)

    def _margin(self, name: str) -> str:
        return f" (the loss doubles at +-{self.margins[name]:.1e})" if name in self.margins else ""


def load(
    path: str | os.PathLike[str],
    *,
    inputs: Callable[[torch.Tensor], torch.Tensor] | None = None,
    transform: Mapping[str, Transform] | None = None,
    device: Any = "cpu",
    evaluator: EvaluatorChoice = "auto",
) -> Solution:
    """Read a solution that `solution.save` wrote.

    It can be evaluated without the problem, and given to `kanmg.solve` as `initial=solution.coefficients`.

    Parameters
    ----------
    path : path-like
    inputs, transform
        The functions of the problem that was solved, if it had any: they are not in the file.
    device, evaluator
        As for `Hierarchy`; wherever the solution was computed.

    Returns
    -------
    Solution

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is damaged, no solution, or of a newer version of kanmg.
    KanmgValueError, KanmgTypeError
        If `inputs` or `transform` is missing, or was not there when the file was written.
    DeviceError
        If the device cannot be used.
    """
    content = read_file(checked_path(path, "path"), "solution")
    networks = [_build_network(description) for description in content.pop("networks")]
    hierarchy = Hierarchy(networks, dtype=content.pop("dtype"), device=device, evaluator=evaluator)
    content["status"] = Status[content["status"]]
    content["history"] = History.from_columns(content["history"])
    content["ansatz"] = load_ansatz(path, content.pop("ansatz", None), inputs, transform)
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
        "free_knots": layer.free_knots,
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
    # Files of earlier versions know of no free knots.
    free_knots = description.get("free_knots", 0)
    return Spline(num_inputs, num_outputs, knots=knots, outside=description["outside"], free_knots=free_knots)
