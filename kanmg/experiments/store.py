"""Results of experiments as files: one for every variant and seed, so that a run that was cut off goes on."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import kanmg
from kanmg.errors import KanmgValueError
from kanmg.experiments.experiment import FULL

if TYPE_CHECKING:
    from pathlib import Path

    from kanmg.experiments.experiment import Size

__all__ = ["Result", "Store"]

_COURSE = ("work", "seconds", "levels", "losses", "errors")


@dataclass(frozen=True)
class Result:
    """What one variant reached from one seed.

    Attributes
    ----------
    variant : str
    seed : int
    measures : dict of str to float
        By the names of the measures.
    num_parameters : int
    work, seconds : float
    message : str
    course : dict of str to list
        Columns "work", "seconds", "levels", "losses" and "errors".
    """

    variant: str
    seed: int
    measures: dict[str, float]
    num_parameters: int
    work: float
    seconds: float
    message: str = ""
    course: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _COURSE}, repr=False)


class Store:
    """The folder of an experiment's results.

    Parameters
    ----------
    folder : Path
        Made when the first result is written.
    experiment : str
        Name of the experiment.
    size : Size
        How much of it is run.
    """

    def __init__(self, folder: Path, experiment: str, size: Size) -> None:
        self.folder = folder
        self._experiment = experiment
        self._size = dataclasses.asdict(size)

    def claim(self) -> None:
        """Make the folder, before anything is computed, and write down whose it is.

        Raises
        ------
        KanmgValueError
            If it belongs to another experiment, or nothing can be written to it.
        """
        mark = self.folder / "experiment.txt"
        try:
            owner = mark.read_text(encoding="utf-8").strip() if mark.exists() else self._experiment
            if owner == self._experiment:
                self._replace(mark, f"{owner}\n")
        except OSError as error:
            raise KanmgValueError(
                f"nothing can be written to `{self.folder}`: {error.strerror}. Give another folder by `--output`."
            ) from error
        if owner != self._experiment:
            raise KanmgValueError(
                f"`{self.folder}` holds results of {owner}, not of {self._experiment}. Give another folder by "
                "`--output`."
            )

    def path(self, variant: str, seed: int) -> Path:
        """Return where the result of a variant and a seed is kept."""
        slug = re.sub(r"[^a-z0-9]+", "-", variant.lower()).strip("-")
        return self.folder / "runs" / f"{slug}.{seed}.json"

    def read(self, variant: str, seed: int) -> Result | None:
        """Return a result; None if there is none yet.

        Raises
        ------
        KanmgValueError
            If the file is damaged, or of another experiment, variant or size.
        """
        path = self.path(variant, seed)
        if not path.exists():
            return None
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            stated = {name: document.pop(name) for name in ("experiment", "size", "version")}
            result = Result(**_with_nan(document))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise KanmgValueError(
                f"`{path}` is no result of an experiment: {error!r}. Delete it, and it is computed again; or give "
                "another folder by `--output`."
            ) from error
        wanted = self._described(self._experiment, self._size, variant, seed)
        found = self._described(stated["experiment"], stated["size"], result.variant, result.seed)
        if found != wanted:
            raise KanmgValueError(
                f"`{path}` belongs to {found}, not to {wanted}. Give another folder by `--output`, or delete this one."
            )
        return result

    @staticmethod
    def _described(experiment: str, size: dict[str, float], variant: str, seed: int) -> str:
        amount = (
            ""
            if size == dataclasses.asdict(FULL)
            else f", {size['steps']:g} of its steps, {size['points']:g} of its points"
        )
        return f"{experiment}{amount}, {variant!r}, seed {seed}"

    def write(self, result: Result) -> None:
        """Write a result, all or nothing."""
        path = self.path(result.variant, result.seed)
        stated = {"experiment": self._experiment, "size": self._size, "version": kanmg.__version__}
        self._replace(path, json.dumps(_without_nan(stated | dataclasses.asdict(result)), allow_nan=False) + "\n")

    def write_text(self, name: str, text: str) -> Path:
        """Write a file of the folder, all or nothing, and return its path."""
        path = self.folder / name
        self._replace(path, text)
        return path

    @staticmethod
    def _replace(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        other = path.with_name(path.name + ".part")
        other.write_text(text, encoding="utf-8")
        other.replace(path)


def _without_nan(value: Any) -> Any:
    """Replace numbers that JSON does not have by null."""
    if isinstance(value, dict):
        return {name: _without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(value: Any) -> Any:
    """Undo `_without_nan`; infinity has become NaN."""
    if isinstance(value, dict):
        return {name: _with_nan(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_with_nan(entry) for entry in value]
    return math.nan if value is None else value
