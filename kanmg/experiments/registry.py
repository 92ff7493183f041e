"""The experiments by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kanmg.errors import KanmgValueError
from kanmg.experiments import free_knots, kan1, kan2, ml1, ml2, ml3, ml4

if TYPE_CHECKING:
    from kanmg.experiments.experiment import Experiment

__all__ = ["EXPERIMENTS", "find"]

EXPERIMENTS: tuple[Experiment, ...] = (
    *(module.EXPERIMENT for module in (ml1, ml2, ml3, ml4, kan1, kan2)),
    *free_knots.EXPERIMENTS,
)


def find(name: str) -> Experiment:
    """Return an experiment by its name, in capitals or not, with a hyphen or without.

    Parameters
    ----------
    name : str

    Raises
    ------
    KanmgValueError
        If there is none of this name.

    Examples
    --------
    >>> find("ml1").name
    'ML-1'
    """
    for experiment in EXPERIMENTS:
        if _plain(experiment.name) == _plain(name):
            return experiment
    names = ", ".join(experiment.name for experiment in EXPERIMENTS)
    raise KanmgValueError(f"there is no experiment {name!r}. Use one of {names}.")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
