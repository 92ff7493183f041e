"""Exceptions and warnings.

Every exception that kanmg raises on purpose is a `KanmgError`, and also the built-in exception that a user would
expect (`ValueError`, `TypeError`, `RuntimeError`), so both can be caught.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanmg.piecewise import PiecewiseSolution
    from kanmg.solution import Solution

__all__ = [
    "CheckpointError",
    "ConvergenceError",
    "DeviceError",
    "DomainError",
    "DtypeError",
    "KanmgError",
    "KanmgTypeError",
    "KanmgValueError",
    "KanmgWarning",
    "MissingDependencyError",
    "NestingError",
    "NonFiniteError",
    "ShapeError",
]


class KanmgError(Exception):
    """Base class of all errors raised by kanmg."""


class KanmgValueError(KanmgError, ValueError):
    """An argument has the right type but an unusable value."""


class KanmgTypeError(KanmgError, TypeError):
    """An argument has the wrong type."""


class ShapeError(KanmgValueError):
    """An array has the wrong shape, or two arrays do not fit each other."""


class DomainError(KanmgValueError):
    """Points lie outside the domain of the first layer, or hidden values outside an interval where that is an error.

    Attributes
    ----------
    solution : Solution or PiecewiseSolution or None
        The best solution found by `kanmg.solve` before a hidden value left its interval; None if there is none.
    """

    solution: Solution | PiecewiseSolution | None = None


class NestingError(KanmgValueError):
    """Two levels are not properly nested."""


class NonFiniteError(KanmgValueError):
    """Data contain NaN or infinity."""


class DeviceError(KanmgValueError):
    """A device is unknown or cannot be used."""


class CheckpointError(KanmgValueError):
    """A file is damaged, of another problem, or cannot be written.

    Attributes
    ----------
    solution : Solution or PiecewiseSolution or None
        The best solution found before a checkpoint could not be written; None if there is none.
    """

    solution: Solution | PiecewiseSolution | None = None


class DtypeError(KanmgTypeError):
    """An array has a dtype that is not the hierarchy's."""


class MissingDependencyError(KanmgError, ImportError):
    """An optional package is not installed."""


class ConvergenceError(KanmgError, RuntimeError):
    """Something that was requested from `kanmg.solve` was not delivered.

    Attributes
    ----------
    solution : Solution or PiecewiseSolution
        The best solution found before the failure; of `kanmg.march`, that of the windows so far.
    """

    def __init__(self, message: str, solution: Solution | PiecewiseSolution) -> None:
        super().__init__(message)
        self.solution = solution

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle both arguments, so that a process pool can hand the exception on."""
        return type(self), (*self.args, self.solution), self.__dict__


class KanmgWarning(UserWarning):
    """Base class of all warnings issued by kanmg."""
