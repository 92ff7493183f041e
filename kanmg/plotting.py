"""Figures: histories of runs, the splines of a network, convergence under refinement.

Needs matplotlib (`pip install kanmg[plot]`), which is imported when the first figure is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from kanmg.errors import KanmgTypeError, KanmgValueError, MissingDependencyError
from kanmg.network import Affine, Spline
from kanmg.solution import History, Solution
from kanmg.splines.bspline import evaluate_spline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kanmg.evaluators.base import Array
    from kanmg.solution import Record

__all__ = ["plot_convergence", "plot_edge", "plot_edges", "plot_history", "plot_network"]

AxesArray: TypeAlias = npt.NDArray[np.object_]
Against: TypeAlias = Literal["work_units", "seconds", "steps"]
Quantity: TypeAlias = Literal["loss", "validation_loss", "gradient_norm"]

ATTRIBUTES = {"work_units": "work_units", "seconds": "seconds", "steps": "step"}
AXIS_LABELS = {
    "work_units": "work units (evaluations of loss and gradient on the finest level)",
    "seconds": "time in seconds",
    "steps": "smoothing steps",
}
POINTS_PER_EDGE = 200


# ------------------------------------------------------------------------------------------------------------ histories


def plot_history(
    solutions: Solution | Mapping[str, Solution] | Iterable[Solution],
    *,
    against: Against = "work_units",
    quantity: Quantity = "loss",
    ax: Axes | None = None,
    **line_options: Any,
) -> Axes:
    """Plot how the loss of one or several runs fell, with a numbered marker where a finer level was reached.

    Records on levels coarser than the finest one reached so far, as in the coarse part of a V-cycle, are left out:
    their loss is not that of the solution. Neither is that of an easier problem: what came before the last "pose" is
    left out too. Of several starts the first is shown, then the best at the end of each; so it is once more with those
    that were resumed.

    Parameters
    ----------
    solutions : Solution, mapping of str to Solution, or iterable of Solution
        The keys of a mapping become the legend.
    against : {"work_units", "seconds", "steps"}
        The horizontal axis.
    quantity : {"loss", "validation_loss", "gradient_norm"}
        The vertical axis, logarithmic. Records without it are left out.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    **line_options
        Passed to `Axes.plot`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    KanmgValueError
        If `against` or `quantity` is unknown, or no record has the quantity.
    MissingDependencyError
        If matplotlib is not installed.

    Examples
    --------
    >>> import kanmg
    >>> from kanmg import gallery
    >>> from kanmg.plotting import plot_history
    >>> model = gallery.least_squares(100)
    >>> solution = kanmg.solve(model.problem, model.hierarchy(), method=kanmg.NestedIteration(steps=5))
    >>> ax = plot_history({"nested": solution})
    >>> ax.get_yscale(), ax.get_legend_handles_labels()[1]
    ('log', ['nested'])
    """
    _check_choice("against", against, Against)
    _check_choice("quantity", quantity, Quantity)
    ax = _axes_or_new(ax)
    for label, solution in _labelled(solutions):
        records = _on_the_finest_reached(solution.history, quantity)
        if not records:
            raise KanmgValueError(
                f"no record of the history has a `{quantity}`. "
                "Pass `quantity='loss'`, or build the problem with `kanmg.Regression(x, y, validation=0.1)`."
            )
        x = np.array([getattr(record, ATTRIBUTES[against]) for record in records])
        y = np.array([getattr(record, quantity) for record in records])
        (line,) = ax.plot(x, y, label=label, **{"linewidth": 1.5, **line_options})
        _mark_levels(ax, [record.level for record in records], x, y, line.get_color())
    ax.set(xlabel=AXIS_LABELS[against], ylabel=quantity.replace("_", " "), yscale="log")
    _finish(ax)
    return ax


def _labelled(solutions: Solution | Mapping[str, Solution] | Iterable[Solution]) -> list[tuple[str | None, Solution]]:
    """Pairs of label and solution."""
    if isinstance(solutions, Solution | History) or not isinstance(solutions, Iterable):
        solutions = [solutions]
    pairs = solutions.items() if isinstance(solutions, Mapping) else ((None, solution) for solution in solutions)
    return [(label, _checked(solution)) for label, solution in pairs]


def _checked(solution: Any) -> Solution:
    if not isinstance(solution, Solution):
        raise KanmgTypeError(f"a figure of a {type(solution).__name__} was asked for. Pass the solution itself.")
    return solution


def _on_the_finest_reached(history: History, quantity: str) -> list[Record]:
    """Keep the records on the finest level reached so far that have the quantity."""
    records = history.course()
    finest = np.maximum.accumulate([record.level for record in records])
    pairs = zip(records, finest, strict=True)
    return [record for record, level in pairs if record.level == level and np.isfinite(getattr(record, quantity))]


def _mark_levels(ax: Axes, levels: list[int], x: Array, y: Array, color: Any) -> None:
    """Put a numbered marker where the level changes; nothing if it never does."""
    changes = [i for i, level in enumerate(levels) if i > 0 and level != levels[i - 1]]
    for i in changes:
        ax.plot(x[i], y[i], marker="o", markersize=5, markerfacecolor="white", color=color, linestyle="none")
        ax.annotate(f"{levels[i]}", (x[i], y[i]), xytext=(3, 4), textcoords="offset points", fontsize=8, color=color)


# ---------------------------------------------------------------------------------------------------------------- edges


def plot_edge(solution: Solution, layer: int, p: int, q: int, *, ax: Axes | None = None, **line_options: Any) -> Axes:
    """Plot the univariate function of one edge, with its breakpoints as ticks along the bottom.

    Parameters
    ----------
    solution : Solution
    layer : int
        Number of a layer; an affine layer's edges are straight lines.
    p, q : int
        Which of the layer's inputs and outputs the edge joins.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    **line_options
        Passed to `Axes.plot`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    KanmgValueError
        If the network has no such layer, input or output.

    Examples
    --------
    >>> import kanmg
    >>> from kanmg import gallery
    >>> from kanmg.plotting import plot_edge
    >>> model = gallery.least_squares(100)
    >>> solution = kanmg.solve(model.problem, model.hierarchy(), method=kanmg.NestedIteration(steps=5))
    >>> plot_edge(solution, 0, 0, 0).get_title()
    'layer 0, input 0 to output 0'
    """
    network = _network(solution)
    edges = network.layers[_checked_index("layer", layer, len(network.layers))]
    _checked_index("p", p, edges.num_inputs)
    _checked_index("q", q, edges.num_outputs)
    ax = _axes_or_new(ax)
    x, y, breakpoints = _edge(solution, layer, p, q)
    ax.plot(x, y, **{"linewidth": 1.5, **line_options})
    if len(breakpoints):
        bottom = ax.get_xaxis_transform()
        ax.plot(breakpoints, np.zeros_like(breakpoints), "|", color="0.4", transform=bottom, clip_on=False)
    ax.set(xlabel=f"input {p}", ylabel="value", title=f"layer {layer}, input {p} to output {q}")
    ax.grid(visible=True, alpha=0.3)
    return ax


def plot_edges(solution: Solution, layer: int, *, axes: AxesArray | None = None) -> AxesArray:
    """Plot all univariate functions of a layer, each with its breakpoints: a row per output, a column per input.

    Parameters
    ----------
    solution : Solution
    layer : int
    axes : ndarray of matplotlib.axes.Axes, shape (num_outputs, num_inputs), optional
        Where to draw; a new figure by default.

    Returns
    -------
    ndarray of matplotlib.axes.Axes, shape (num_outputs, num_inputs)

    Raises
    ------
    KanmgValueError
        If the network has no such layer, or `axes` has another shape.

    Examples
    --------
    >>> import kanmg
    >>> from kanmg import gallery
    >>> from kanmg.plotting import plot_edges
    >>> model = gallery.kan1(100)
    >>> solution = kanmg.solve(model.problem, model.hierarchy(num_levels=2), method=kanmg.NestedIteration(steps=5))
    >>> plot_edges(solution, 0).shape
    (1, 2)
    """
    network = _network(solution)
    edges = network.layers[_checked_index("layer", layer, len(network.layers))]
    shape = (edges.num_outputs, edges.num_inputs)
    if axes is None:
        size = (2.2 * edges.num_inputs + 0.8, 1.8 * edges.num_outputs + 0.6)
        _, axes = _pyplot().subplots(*shape, squeeze=False, sharex="col", figsize=size, layout="constrained")
    axes = np.asarray(axes)
    if axes.shape != shape:
        raise KanmgValueError(
            f"`axes` has shape {axes.shape} but layer {layer} has {shape[0]} outputs and {shape[1]} inputs. "
            f"Pass axes of shape {shape}: `plt.subplots{shape}`, with `squeeze=False`."
        )
    for q, row in enumerate(axes):
        for p, ax in enumerate(row):
            plot_edge(solution, layer, p, q, ax=ax)
            ax.set(title="", xlabel="", ylabel="")
        row[0].set_ylabel(f"to output {q}")
    for p, ax in enumerate(axes[-1]):
        ax.set_xlabel(f"input {p}")
    return axes


def plot_network(solution: Solution, *, ax: Axes | None = None) -> Axes:
    """Plot the network as a graph, inputs at the bottom, with the function of every edge halfway.

    An edge is the darker the more its function varies, relative to the layer's most variable one.

    Parameters
    ----------
    solution : Solution
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import kanmg
    >>> from kanmg import gallery
    >>> from kanmg.plotting import plot_network
    >>> model = gallery.kan1(100)
    >>> solution = kanmg.solve(model.problem, model.hierarchy(num_levels=2), method=kanmg.NestedIteration(steps=5))
    >>> ax = plot_network(solution)
    >>> len(ax.child_axes)                              # one small plot per edge: 2 of the first layer, 1 of the second
    3
    """
    network = _network(solution)
    num_edges = max(layer.num_inputs * layer.num_outputs for layer in network.layers)
    if ax is None:
        size = (max(4.0, 0.9 * num_edges), 2.0 * len(network.layers) + 0.6)
        _, ax = _pyplot().subplots(figsize=size, layout="constrained")
    for number, layer in enumerate(network.layers):
        lower = _positions(layer.num_inputs)
        upper = _positions(layer.num_outputs)
        middle = _positions(layer.num_inputs * layer.num_outputs)
        curves = [_edge(solution, number, p, q)[:2] for p in range(layer.num_inputs) for q in range(layer.num_outputs)]
        ranges = np.array([np.ptp(y) for _, y in curves])
        weights = 0.15 + 0.85 * ranges / max(ranges.max(), np.finfo(float).tiny)
        for edge, (x, y) in enumerate(curves):
            p, q = divmod(edge, layer.num_outputs)
            _draw_edge(ax, number, (lower[p], middle[edge], upper[q]), 0.8 / len(curves), x, y, float(weights[edge]))
    for level, width in enumerate(network.widths):
        ax.plot(_positions(width), np.full(width, float(level)), "o", color="black", markersize=6, zorder=3)
    ax.set(xlim=(0.0, 1.0), ylim=(-0.15, len(network.layers) + 0.15))
    ax.set_yticks(range(len(network.widths)), _layer_names(len(network.widths)))
    ax.set_xticks([])
    ax.spines[:].set_visible(False)
    ax.tick_params(left=False)
    return ax


def _draw_edge(
    ax: Axes,
    layer: int,
    positions: tuple[float, float, float],
    width: float,
    x: Array,
    y: Array,
    weight: float,
) -> None:
    """Draw one edge: from its input to the small plot of its function, and from there to its output."""
    start, centre, end = positions
    low, high = layer + 0.35, layer + 0.65
    ax.plot([start, centre], [layer, low], color="black", alpha=weight, linewidth=1)
    ax.plot([centre, end], [high, layer + 1], color="black", alpha=weight, linewidth=1)
    inset = ax.inset_axes((centre - width / 2, low, width, high - low), transform=ax.transData)
    inset.plot(x, y, color="black", alpha=weight, linewidth=1)
    inset.set(xticks=[], yticks=[])
    for spine in inset.spines.values():
        spine.set_alpha(weight)


def _positions(number: int) -> Array:
    """Abscissae of so many things in a row of width 1."""
    return (np.arange(number) + 0.5) / number


def _layer_names(number: int) -> list[str]:
    return ["inputs", *(f"hidden {i}" for i in range(1, number - 1)), "outputs"]


def _network(solution: Solution) -> Any:
    return _checked(solution).network


def _edge(solution: Solution, layer: int, p: int, q: int) -> tuple[Array, Array, Array]:
    """Points, values and breakpoints of one edge's function on its interval."""
    network = _network(solution)
    edges: Spline | Affine = network.layers[layer]
    theta = np.asarray(solution.coefficients, dtype=np.float64)[: network.num_coefficients]
    coefficients = np.asarray(network.unflatten(theta)[layer])
    if isinstance(edges, Affine):
        a, b = network.domain[p] if layer == 0 and network.domain is not None else (-1.0, 1.0)
        x = np.linspace(a, b, POINTS_PER_EDGE)
        return x, coefficients[p, q] * x, np.empty(0)
    knots = edges.knots[p]
    x = np.linspace(*knots.domain, POINTS_PER_EDGE)
    return x, evaluate_spline(knots, coefficients[p, :, q], x), knots.breakpoints


# ---------------------------------------------------------------------------------------------------------- convergence


def plot_convergence(
    num_intervals: Sequence[int] | Array,
    errors: Mapping[str, Sequence[float]] | Sequence[float] | Array,
    *,
    order: float | None = None,
    ax: Axes | None = None,
    **line_options: Any,
) -> Axes:
    """Plot errors over the number of cells, both logarithmic, beside the slope of an order of convergence.

    Parameters
    ----------
    num_intervals : sequence of int, length n
        Number of cells on each level.
    errors : sequence of float, length n, or mapping of str to such sequences
        The keys of a mapping become the legend.
    order : float, optional
        Also draw a dashed line of errors proportional to `num_intervals ** -order` through the first error;
        `degree + 1` is the best that splines can do.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.
    **line_options
        Passed to `Axes.plot`.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    KanmgValueError
        If there are not as many errors as levels.

    Examples
    --------
    >>> from kanmg.plotting import plot_convergence
    >>> ax = plot_convergence([4, 8, 16], {"cubic": [1e-2, 7e-4, 4e-5]}, order=4)
    >>> ax.get_legend_handles_labels()[1]
    ['cubic', 'order 4']
    """
    cells = np.asarray(num_intervals, dtype=np.float64)
    curves: dict[Any, Any] = dict(errors) if isinstance(errors, Mapping) else {None: errors}
    ax = _axes_or_new(ax)
    first = np.inf
    for label, values in curves.items():
        if len(values) != len(cells):
            raise KanmgValueError(
                f"`errors` has {len(values)} values but `num_intervals` has {len(cells)}. Pass one error per level."
            )
        first = min(first, float(values[0]))
        ax.plot(cells, values, label=label, **{"marker": "o", "linewidth": 1.5, **line_options})
    if order is not None:
        ax.plot(cells, first * (cells / cells[0]) ** -order, "--", color="0.5", label=f"order {order:g}")
    ax.set(xlabel="cells", ylabel="error", xscale="log", yscale="log")
    ax.set_xticks(cells, [f"{n:g}" for n in cells])
    ax.minorticks_off()
    _finish(ax)
    return ax


# -------------------------------------------------------------------------------------------------------------- helpers


def _pyplot() -> Any:
    """Import matplotlib.pyplot, or say how to get it."""
    try:
        import matplotlib.pyplot as plt  # noqa: PLC0415  (optional, and slow to import)
    except ImportError as error:
        raise MissingDependencyError("`kanmg.plotting` needs matplotlib: `pip install kanmg[plot]`.") from error
    return plt


def _axes_or_new(ax: Axes | None) -> Axes:
    return _pyplot().subplots(figsize=(6.4, 4.0), layout="constrained")[1] if ax is None else ax


def _finish(ax: Axes) -> None:
    """Add a light grid, and a legend if a line has a label."""
    ax.grid(visible=True, which="major", alpha=0.3)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, fontsize=9)


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise KanmgValueError(f"`{name}={value!r}` is unknown. Use one of {', '.join(map(repr, get_args(choices)))}.")


def _checked_index(name: str, value: int, number: int) -> int:
    if not (isinstance(value, int | np.integer) and 0 <= value < number):
        raise KanmgValueError(f"`{name}={value}` does not exist: there are {number}. Pass 0 to {number - 1}.")
    return value
