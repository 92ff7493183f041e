"""Tables of results in Markdown: means over the seeds, beside what the paper prints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from kanmg.experiments.experiment import FULL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kanmg.experiments.experiment import Experiment, Size, Variant
    from kanmg.experiments.store import Result

__all__ = ["page", "table"]


def page(experiment: Experiment, results: Sequence[Result], size: Size = FULL) -> str:
    """Write what an experiment found, as a page of Markdown.

    Parameters
    ----------
    experiment : Experiment
    results : sequence of Result
    size : Size

    Returns
    -------
    str
    """
    lines = [f"# {experiment.name}: {experiment.title}", "", f"{experiment.source}.", ""]
    if size != FULL:
        shares = f"{size.steps:.3g} of the steps, {size.points:.3g} of the points"
        lines += [f"A smaller version ({shares}): its numbers do not compare with the paper's.", ""]
    lines += [experiment.notes, *_section("As in the paper", experiment, results, beyond=False)]
    lines += _section("Beyond the paper", experiment, results, beyond=True)
    return "\n".join(lines).rstrip() + "\n"


def _section(title: str, experiment: Experiment, results: Sequence[Result], *, beyond: bool) -> list[str]:
    variants = [variant for variant in experiment.variants if variant.beyond == beyond]
    known = {result.variant for result in results}
    if not any(variant.name in known for variant in variants):
        return []
    return [f"## {title}", "", *table(experiment, variants, results), ""]


def table(experiment: Experiment, variants: Sequence[Variant], results: Sequence[Result]) -> list[str]:
    """Write one row for every variant that has results.

    Parameters
    ----------
    experiment : Experiment
    variants : sequence of Variant
    results : sequence of Result

    Returns
    -------
    list of str
        Lines of Markdown.
    """
    printed = {name for variant in variants for name in variant.paper}
    header = ["variant", "parameters"]
    for measure in experiment.measures:
        header += [measure.name, "median"] + (["paper"] if measure.name in printed else [])
    rows = [[*header, "work units", "seconds", "seeds"]]
    for variant in variants:
        own = [result for result in results if result.variant == variant.name]
        if own:
            rows.append(_row(experiment, variant, own, printed))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]


def _row(experiment: Experiment, variant: Variant, own: Sequence[Result], printed: set[str]) -> list[str]:
    cells = [variant.name, str(own[0].num_parameters)]
    for measure in experiment.measures:
        values = [result.measures[measure.name] for result in own]
        cells += [mean_and_deviation(values), number(float(np.median(values)))]
        if measure.name in printed:
            cells.append(variant.paper.get(measure.name, "-"))
    work = float(np.mean([result.work for result in own]))
    seconds = float(np.median([result.seconds for result in own]))
    return [*cells, f"{work:.0f}", f"{seconds:.1f}", str(len(own))]


def mean_and_deviation(values: Sequence[float]) -> str:
    """Write a mean with the standard deviation over the seeds, as the paper does.

    Parameters
    ----------
    values : sequence of float

    Returns
    -------
    str
        Runs that ended with nothing finite are not part of the mean, but counted.

    Examples
    --------
    >>> mean_and_deviation([1e-3, 3e-3]), mean_and_deviation([2e-3]), mean_and_deviation([2e-3, float("nan")])
    ('2.00e-03 (1.0e-03)', '2.00e-03', '2.00e-03, 1 failed')
    """
    finite = [value for value in values if math.isfinite(value)]
    failed = len(values) - len(finite)
    parts = []
    if len(finite) == 1:
        parts.append(number(finite[0]))
    elif finite:
        parts.append(f"{number(float(np.mean(finite)))} ({np.std(finite):.1e})")
    return ", ".join(parts + ([f"{failed} failed"] if failed else []))


def number(value: float) -> str:
    """Write a measured number; a dash for what is not finite.

    Parameters
    ----------
    value : float
    """
    return f"{value:.2e}" if math.isfinite(value) else "-"
