"""Running an experiment: every variant from every seed, each result written as soon as it is there."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from kanmg.errors import KanmgValueError
from kanmg.experiments.experiment import FULL, Experiment, Size, Variant
from kanmg.experiments.store import Result, Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kanmg.arrays import Array
    from kanmg.experiments.experiment import Trained
    from kanmg.gallery import ModelProblem

__all__ = ["collect", "run", "run_one"]


def run(
    experiment: Experiment,
    folder: Path,
    *,
    num_seeds: int | None = None,
    only: tuple[str, ...] = (),
    size: Size = FULL,
    progress: bool | None = None,
    report: Callable[[str], object] | None = None,
) -> list[Result]:
    """Run what is not in the folder yet.

    Parameters
    ----------
    experiment : Experiment
    folder : Path
        Where results are written, and read from if they are there.
    num_seeds : int, optional
        Default: the experiment's.
    only : tuple of str
        Parts of the names of the variants that are run; all by default.
    size : Size
        How much of the experiment is run.
    progress : bool, optional
        Whether to show bars on stderr. Default: if it is a terminal.
    report : callable, optional
        Gets a line for every result that is computed.

    Returns
    -------
    list of Result
        Seed by seed.

    Raises
    ------
    KanmgValueError
        If there are no seeds or no such variants, the folder cannot be written to or belongs to another experiment, or
        a file in it is not what its name says.
    """
    number = experiment.num_seeds if num_seeds is None else num_seeds
    if number < 1:
        raise KanmgValueError(f"`--seeds {number}` runs nothing. Pass at least 1.")
    variants = experiment.chosen(only)
    store = Store(folder, experiment.name, size)
    store.claim()
    shows = sys.stderr.isatty() if progress is None else progress
    results: list[Result] = []
    runs = [[own for own in variants if own.most_seeds is None or seed < own.most_seeds] for seed in range(number)]
    with tqdm(total=sum(map(len, runs)), unit="run", dynamic_ncols=True, disable=not shows) as bar:
        for seed, of_seed in enumerate(runs):
            model: ModelProblem | None = None
            for variant in of_seed:
                bar.set_description(f"{variant.name}, seed {seed}")
                result = store.read(variant.name, seed)
                if result is None:
                    model = experiment.make(seed, size) if model is None else model
                    result = run_one(experiment, variant, model, seed, size, progress=shows)
                    store.write(result)
                    if report is not None:
                        with tqdm.external_write_mode():
                            report(_line(result))
                results.append(result)
                bar.update()
    return results


def collect(experiment: Experiment, folder: Path, size: Size = FULL) -> list[Result]:
    """Return all results that a folder holds of an experiment, variant by variant.

    Parameters
    ----------
    experiment : Experiment
    folder : Path
    size : Size
    """
    store = Store(folder, experiment.name, size)
    found = []
    for variant in experiment.variants:
        seed = 0
        while (result := store.read(variant.name, seed)) is not None:
            found.append(result)
            seed += 1
    return found


def run_one(
    experiment: Experiment, variant: Variant, model: ModelProblem, seed: int, size: Size, *, progress: bool = False
) -> Result:
    """Train one variant and measure what came out.

    Parameters
    ----------
    experiment : Experiment
    variant : Variant
    model : ModelProblem
        That of the experiment, whose unseen points count.
    seed : int
    size : Size
    progress : bool
    """
    posed = model if variant.poses is None else variant.poses(seed, size)
    trained = variant.train(posed, seed, size, progress=progress)
    x, exact = model.test_data()
    errors = _errors(experiment, trained.function, x, exact)
    measures = {own.name: trained.loss if own.of is None else errors[own.name] for own in experiment.measures}
    return Result(
        variant=variant.name,
        seed=seed,
        measures=measures,
        num_parameters=trained.num_parameters,
        work=trained.work,
        seconds=trained.seconds,
        message=trained.message,
        course=_course(experiment, trained, errors, x, exact),
    )


def _course(
    experiment: Experiment, trained: Trained, errors: dict[str, float], x: Array, exact: Array
) -> dict[str, list[float]]:
    """Measure the error on the way; the last entries are those of the result."""
    name, course = experiment.error_name(), trained.course
    last = course[-1].level if course else 0
    return {
        "work": [*(then.work for then in course), trained.work],
        "seconds": [*(then.seconds for then in course), trained.seconds],
        "levels": [*(then.level for then in course), last],
        "losses": [*(then.loss for then in course), trained.loss],
        "errors": [*(_errors(experiment, then.function, x, exact)[name] for then in course), errors[name]],
    }


def _errors(experiment: Experiment, function: Any, x: Array, exact: Array) -> dict[str, float]:
    """Measure a function's errors."""
    return experiment.errors_of(function(x), exact)


def _line(result: Result) -> str:
    measures = ", ".join(f"{name} {value:.2e}" for name, value in result.measures.items() if not math.isnan(value))
    return f"{result.variant}, seed {result.seed}: {measures or 'nothing finite'}, {result.seconds:.1f} s"
