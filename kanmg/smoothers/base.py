"""What a smoother is: a few optimisation steps on one objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from kanmg.errors import KanmgTypeError, KanmgValueError

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array
    from kanmg.hierarchy import Level
    from kanmg.objective import SmoothFunction
    from kanmg.problems.base import Problem

__all__ = ["Smoother", "StepRecord"]

State = TypeVar("State")


class StepRecord(NamedTuple):
    """What one step reports.

    Attributes
    ----------
    loss : float
        Loss of the last accepted point that was evaluated: of the returned coefficients for `LBFGS` and
        `LevenbergMarquardt`, of those that the step started from for `Adam`.
    gradient_norm : float
        Euclidean norm of the gradient at the same point.
    step_size : float
        What the search direction was multiplied by.
    stalled : bool
        No further step will change anything.
    """

    loss: float
    gradient_norm: float
    step_size: float
    stalled: bool = False


class Smoother(ABC, Generic[State]):
    """A few optimisation steps on one objective.

    A smoother is a frozen configuration. What it remembers between steps is a value, the state, which belongs to one
    level and is owned by the driver: no method changes its arguments, equal arguments give equal bits, and several
    threads may call it at once, for several starts.

    Notes
    -----
    To add a smoother, write a frozen dataclass with `init` and `step`, and a state that is a dataclass of arrays,
    floats, ints, None and nested tuples and dictionaries of these, so that a checkpoint holds it to the last bit. Only
    operators that NumPy arrays and torch tensors share may touch the arrays: on a device they are tensors there.
    """

    @property
    def needs_derivatives(self) -> bool:
        """Whether steps rely on gradients being the derivatives of the values, as line searches and models do."""
        return True

    @abstractmethod
    def init(self, objective: SmoothFunction, theta: Array) -> State:
        """Return the state of a run that starts at `theta`.

        Parameters
        ----------
        objective : Objective
        theta : ndarray, shape (num_coefficients,)
        """

    @abstractmethod
    def step(self, objective: SmoothFunction, theta: Array, state: State) -> tuple[Array, State, StepRecord]:
        """Do one step.

        Parameters
        ----------
        objective : Objective
        theta : ndarray, shape (num_coefficients,)
            What the last step returned.
        state : object
            What `init` or the last step returned.

        Returns
        -------
        theta : ndarray, shape (num_coefficients,)
        state : object
        record : StepRecord
        """

    def check(self, problem: Problem, level: Level) -> None:
        """Refuse a problem or a level that this smoother cannot treat; `kanmg.solve` calls this before it begins.

        Parameters
        ----------
        problem : Problem
        level : Level

        Raises
        ------
        KanmgError
        """

    def known(self, state: State) -> tuple[float, Array] | None:  # noqa: ARG002
        """Return loss and gradient at the coefficients that the last `init` or `step` left behind, if they are held.

        Whoever corrects the coefficients, or looks for the best ones, then need not evaluate them again. None says that
        the last record belongs to the coefficients that the step started from.

        Parameters
        ----------
        state : object

        Returns
        -------
        (float, ndarray) or None
        """
        return None


def require_positive(owner: str, **options: float) -> None:
    """Refuse options that are not positive, finite numbers."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise KanmgTypeError(f"`{owner}` got `{name}={value!r}`, a {type(value).__name__}. Pass a positive number.")
        if not 0.0 < value < float("inf"):
            raise KanmgValueError(f"`{owner}` got `{name}={value:g}`. It must be positive and finite.")


def require_count(owner: str, minimum: int, **options: int) -> None:
    """Refuse options that are not integers of at least `minimum`."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise KanmgTypeError(f"`{owner}` got `{name}={value!r}`. Pass an integer, at least {minimum}.")
        if value < minimum:
            raise KanmgValueError(f"`{owner}` got `{name}={value}`. It must be at least {minimum}.")


def require_fraction(owner: str, **options: Any) -> None:
    """Refuse options outside [0, 1)."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise KanmgTypeError(f"`{owner}` got `{name}={value!r}`. Pass a number from [0, 1).")
        if not 0.0 <= value < 1.0:
            raise KanmgValueError(f"`{owner}` got `{name}={value:g}`. It must lie in [0, 1).")
