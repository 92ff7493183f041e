"""The command line of the experiments."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kanmg.errors import KanmgValueError, MissingDependencyError
from kanmg.experiments.experiment import FULL
from kanmg.experiments.figures import draw
from kanmg.experiments.registry import EXPERIMENTS, find
from kanmg.experiments.runner import collect, run
from kanmg.experiments.table import page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kanmg.experiments.experiment import Experiment, Size

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an experiment as the command line says.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.

    Returns
    -------
    int
        Exit code: 2 for what cannot be run, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    if options.name is None:
        _write(_listing())
        return 0
    try:
        experiment = find(options.name)
        if options.list:
            _write("\n".join(variant.name for variant in experiment.variants))
            return 0
        return _run(experiment, options)
    except KanmgValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _run(experiment: Experiment, options: argparse.Namespace) -> int:
    """Run an experiment, and write table and figure, also of a run that is cut off."""
    size = experiment.quick if options.quick else FULL
    folder = options.output or Path("experiments") / (experiment.name + ("-quick" if options.quick else ""))
    seeds = options.seeds if options.seeds is not None else 1 if options.quick else None
    code = 0
    try:
        run(experiment, folder, num_seeds=seeds, only=tuple(options.only), size=size, report=_write)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted: the same command goes on where it was.\n")
        code = 130
    _write_results(experiment, folder, size)
    return code


def _write_results(experiment: Experiment, folder: Path, size: Size) -> None:
    """Write the table, and the figure if matplotlib is there."""
    results = collect(experiment, folder, size)
    if not results:
        return
    text = page(experiment, results, size)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(text, encoding="utf-8")
    _write(f"\n{text}\nWritten to {folder / 'table.md'}.")
    try:
        draw(experiment, results, folder / "figure.png")
        _write(f"Loss and error over work: {folder / 'figure.png'}.")
    except MissingDependencyError as error:
        sys.stderr.write(f"No figure: {error}\n")


def _listing() -> str:
    """List the experiments, one line each."""
    width = max(len(experiment.name) for experiment in EXPERIMENTS)
    lines = [f"  {experiment.name:{width}}  {experiment.title}" for experiment in EXPERIMENTS]
    return "\n".join(["python -m kanmg.experiments NAME, where NAME is one of", "", *lines])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kanmg.experiments",
        description="Repeat a published experiment: all variants from all seeds, a table and a figure.",
        epilog=_listing(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of an experiment; none: list them")
    parser.add_argument("--quick", action="store_true", help="a smaller version, one seed, in under two minutes")
    parser.add_argument("--seeds", type=int, metavar="N", help="number of seeds; default: the paper's")
    parser.add_argument("--only", action="append", default=[], metavar="VARIANT", help="variants with this in the name")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: experiments/NAME; goes on with it")
    parser.add_argument("--list", action="store_true", help="list the variants of the experiment")
    return parser


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
