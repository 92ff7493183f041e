"""What an experiment is: a problem, the variants that are trained on it, and what is measured of each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kanmg.errors import KanmgValueError

if TYPE_CHECKING:
    from kanmg.arrays import Array
    from kanmg.gallery import ModelProblem

__all__ = [
    "FULL",
    "Experiment",
    "Instant",
    "Measure",
    "Size",
    "Trained",
    "Variant",
    "mean_square",
    "relative_l2",
    "rms",
]

Function = Callable[["Array"], "Array"]


@dataclass(frozen=True)
class Size:
    """How much of an experiment is run.

    Parameters
    ----------
    steps, points : float
        Parts of the steps and of the points, from (0, 1].

    Examples
    --------
    >>> size = Size(steps=0.1, points=0.25)
    >>> size.scaled((32, 16, 0)), size.num_points(100)
    ((3, 2, 0), 25)
    """

    steps: float = 1.0
    points: float = 1.0

    def scaled(self, steps: tuple[int, ...]) -> tuple[int, ...]:
        """Return that part of some steps, at least one of any."""
        return tuple(max(1, round(self.steps * number)) if number else 0 for number in steps)

    def num_points(self, number: int, multiple: int = 1) -> int:
        """Return that part of some points, a multiple of a number."""
        return multiple * max(1, round(self.points * number / multiple))


FULL = Size()
"""The whole experiment."""


@dataclass(frozen=True)
class Instant:
    """What training had reached at some time.

    Attributes
    ----------
    work : float
        Evaluations of loss and gradient on the finest level of the experiment.
    seconds : float
    level : int
    loss : float
    function : callable
        Points of shape (N, d) to values of shape (N, Q).
    """

    work: float
    seconds: float
    level: int
    loss: float
    function: Function = field(repr=False)


@dataclass(frozen=True)
class Trained:
    """What a variant made of a problem.

    Attributes
    ----------
    function : callable
        Points of shape (N, d) to values of shape (N, Q).
    loss : float
        On all training points.
    num_parameters : int
    work, seconds : float
        As for `Instant`.
    course : tuple of Instant
    message : str
        How training ended.
    """

    function: Function = field(repr=False)
    loss: float
    num_parameters: int
    work: float
    seconds: float
    course: tuple[Instant, ...] = field(repr=False)
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Variant(ABC):
    """One way to train: a network with its method.

    Parameters
    ----------
    name : str
    paper : mapping of str to str
        What the paper prints of this variant, by the names of the measures.
    beyond : bool, default False
        Whether the paper has no such variant.
    most_seeds : int, optional
        For what takes long: seeds from this number on are left out.
    poses : callable, optional
        Seed and `Size` to another statement of the problem, with the same solution. Default: the experiment's.
    """

    name: str
    paper: Mapping[str, str] = field(default_factory=dict)
    beyond: bool = False
    most_seeds: int | None = None
    poses: Callable[[int, Size], ModelProblem] | None = None

    @abstractmethod
    def train(self, model: ModelProblem, seed: int, size: Size, *, progress: bool) -> Trained:
        """Train on a problem.

        Parameters
        ----------
        model : ModelProblem
        seed : int
            Of the initial coefficients.
        size : Size
        progress : bool
            Whether to show a bar.
        """


@dataclass(frozen=True)
class Measure:
    """A number by which variants are compared.

    Parameters
    ----------
    name : str
    of : callable, optional
        Of the values and the exact ones at unseen points, both of shape (N, Q); None: the training loss.

    Examples
    --------
    >>> import numpy as np
    >>> round(Measure("error", relative_l2).of(np.array([[1.01]]), np.array([[1.0]])), 3)
    0.01
    """

    name: str
    of: Callable[[Array, Array], float] | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A problem and the variants that are trained on it.

    Parameters
    ----------
    name : str
        By which it is called.
    title : str
        One line.
    source : str
    make : callable
        Seed and `Size` to the `ModelProblem`.
    variants : tuple of Variant
    measures : tuple of Measure
        The first is the one that counts.
    num_seeds : int, default 5
    quick : Size
        What `--quick` runs, with one seed.
    notes : str
        What the paper leaves open and how it was chosen, as Markdown.

    Raises
    ------
    KanmgValueError
        If two variants share a name.
    """

    name: str
    title: str
    source: str
    make: Callable[[int, Size], ModelProblem]
    variants: tuple[Variant, ...]
    measures: tuple[Measure, ...]
    num_seeds: int = 5
    quick: Size = Size(0.1, 0.25)
    notes: str = ""

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise KanmgValueError(f"{self.name} has several variants of the name {', '.join(sorted(twice))}. Rename.")

    def chosen(self, only: tuple[str, ...] = ()) -> tuple[Variant, ...]:
        """Return the variants whose names contain one of some words; all if there are no words.

        Parameters
        ----------
        only : tuple of str

        Raises
        ------
        KanmgValueError
            If a word is in no name.
        """
        for word in only:
            if not any(word in variant.name for variant in self.variants):
                known = "; ".join(variant.name for variant in self.variants)
                raise KanmgValueError(
                    f"`--only {word}` is in the name of no variant of {self.name}. Use a part of one of: {known}."
                )
        return tuple(own for own in self.variants if not only or any(word in own.name for word in only))

    def error_name(self) -> str:
        """Return the name of the first measure of the error, for the axis of a figure."""
        return next(measure.name for measure in self._errors())

    def _errors(self) -> Iterator[Measure]:
        return (measure for measure in self.measures if measure.of is not None)

    def errors_of(self, values: Array, exact: Array) -> dict[str, float]:
        """Measure the errors of some values.

        Parameters
        ----------
        values, exact : ndarray, shape (N, Q)

        Returns
        -------
        dict of str to float
            By the names of the measures; the training loss is none of them.
        """
        return {own.name: own.of(values, exact) for own in self._errors() if own.of is not None}


def mean_square(values: Array, exact: Array) -> float:
    """Return the mean squared error."""
    return float(np.mean((values - exact) ** 2))


def rms(values: Array, exact: Array) -> float:
    """Return the root of the mean squared error."""
    return math.sqrt(mean_square(values, exact))


def relative_l2(values: Array, exact: Array) -> float:
    """Return the root of the sum of the squared errors, over that of the squared exact values."""
    return float(np.linalg.norm(values - exact) / np.linalg.norm(exact))
