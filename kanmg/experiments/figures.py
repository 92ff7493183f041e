"""Figures of results: loss and error over work, refinements marked. Needs matplotlib (`pip install kanmg[plot]`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kanmg.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kanmg.arrays import Array
    from kanmg.experiments.experiment import Experiment
    from kanmg.experiments.store import Result

__all__ = ["draw", "reached"]

_POINTS = 300


def draw(experiment: Experiment, results: Sequence[Result], path: Path) -> None:
    """Draw the lowest loss and error so far over work: every seed thin, their median thick.

    Refinements of the first seed are marked. The upper row has the paper's variants, the lower one those beyond it.

    Parameters
    ----------
    experiment : Experiment
    results : sequence of Result
    path : Path
        Of the PNG file.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - only for figures
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            "figures need matplotlib. Install it with `pip install 'kanmg[plot]'` and run the command again: what is "
            "finished is not computed again."
        ) from error
    groups = [
        [variant.name for variant in experiment.variants if variant.beyond == beyond and _of(variant.name, results)]
        for beyond in (False, True)
    ]
    groups = [names for names in groups if names]
    figure = Figure(figsize=(11.0, 4.0 * max(1, len(groups))), layout="constrained")
    axes = figure.subplots(max(1, len(groups)), 2, squeeze=False)
    colors = mpl.colormaps["tab20"].colors  # type: ignore[attr-defined]
    for names, row in zip(groups, axes, strict=False):
        for ax, column, label in zip(row, ("losses", "errors"), ("loss", experiment.error_name()), strict=True):
            for index, name in enumerate(names):
                _curve(ax, name, _of(name, results), column, colors[index % len(colors)])
            ax.set(xlabel="work units", ylabel=label, xscale="log", yscale="log")
            ax.grid(visible=True, alpha=0.3)
        row[1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(f"{experiment.name}: {experiment.title}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _of(name: str, results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result.variant == name]


def _curve(ax: Any, name: str, own: Sequence[Result], column: str, color: Any) -> None:
    """Draw one variant."""
    works = [np.asarray(result.course["work"], float) for result in own]
    first, last = (max(min(own[own > 0.0].min(initial=1.0) for own in works), 1e-3), max(own.max() for own in works))
    grid = np.geomspace(first, max(last, first), _POINTS)
    curves = [reached(grid, result, column) for result in own]
    for values in curves:
        ax.plot(grid, values, color=color, linewidth=0.5, alpha=0.4)
    ax.plot(grid, np.median(curves, axis=0), color=color, linewidth=1.8, label=name)
    levels = own[0].course["levels"]
    refined = works[0][[index for index in range(1, len(levels)) if levels[index] > levels[index - 1]]]
    ax.plot(refined, reached(refined, own[0], column), "o", color=color, markersize=5, markerfacecolor="white")


def reached(work: Array, result: Result, column: str) -> Array:
    """Return the lowest loss or error that had been reached after some work.

    Parameters
    ----------
    work : ndarray, shape (N,)
    result : Result
    column : {"losses", "errors"}

    Returns
    -------
    ndarray, shape (N,)
        NaN before the first.
    """
    values = np.fmin.accumulate(np.asarray(result.course[column], float))
    position = np.searchsorted(result.course["work"], work, side="right") - 1
    return np.where(position >= 0, values[np.maximum(position, 0)], np.nan)
