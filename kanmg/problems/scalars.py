"""Numbers in residuals: constants that are known, and parameters that are found together with the coefficients."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from kanmg.errors import KanmgTypeError, KanmgValueError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from kanmg.problems.ansatz import Ansatz

__all__ = ["Constant", "Parameter", "Scalar", "Setting", "collect", "looking_up"]

# What scalars are while a residual is evaluated. A context variable, so that problems in several threads do not meet.
_LOOK_UP: ContextVar[Callable[[Scalar], torch.Tensor] | None] = ContextVar("_LOOK_UP", default=None)


class Scalar(ABC):
    """A number with a name, for arithmetic with tensors and numbers in residuals.

    Attributes
    ----------
    name : str
    """

    # NumPy's numbers leave the arithmetic to this class.
    __array_ufunc__ = None

    def __init__(self, name: Any) -> None:
        if not isinstance(name, str) or not name:
            raise KanmgTypeError(f"`name={name!r}` of a {type(self).__name__}. Pass a string, such as 'nu'.")
        self.name = name

    @property
    @abstractmethod
    def number(self) -> float:
        """The number that it was made with."""

    @abstractmethod
    def replaced(self, number: Any) -> Scalar:
        """Return a scalar of the same name with another number."""

    @property
    def value(self) -> torch.Tensor:
        """Its value in the problem whose residual is being evaluated: a 0-d tensor; elsewhere `number`."""
        look_up = _LOOK_UP.get()
        return torch.tensor(self.number, dtype=torch.float64) if look_up is None else look_up(self)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], _types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Let torch's functions take scalars as the tensors that they stand for."""
        keywords = {name: _as_tensor(value) for name, value in (kwargs or {}).items()}
        return function(*map(_as_tensor, args), **keywords)

    def __neg__(self) -> torch.Tensor:
        return -self.value

    def __add__(self, other: Any) -> Any:
        return self.value + _as_tensor(other)

    def __radd__(self, other: Any) -> Any:
        return _as_tensor(other) + self.value

    def __sub__(self, other: Any) -> Any:
        return self.value - _as_tensor(other)

    def __rsub__(self, other: Any) -> Any:
        return _as_tensor(other) - self.value

    def __mul__(self, other: Any) -> Any:
        return self.value * _as_tensor(other)

    def __rmul__(self, other: Any) -> Any:
        return _as_tensor(other) * self.value

    def __truediv__(self, other: Any) -> Any:
        return self.value / _as_tensor(other)

    def __rtruediv__(self, other: Any) -> Any:
        return _as_tensor(other) / self.value

    def __pow__(self, other: Any) -> Any:
        return self.value ** _as_tensor(other)

    def __rpow__(self, other: Any) -> Any:
        return _as_tensor(other) ** self.value


class Constant(Scalar):
    """A known number in residuals, which a method may vary on its way to the solution.

    Parameters
    ----------
    name : str
    number : float
    easier : float, optional
        A value at which the problem is easy, from which a continuation may set out.

    Attributes
    ----------
    name : str
    number : float
    easier : float or None
    value : Tensor
        Its value in the problem whose residual is being evaluated, a 0-d tensor; elsewhere `number`.

    Raises
    ------
    KanmgTypeError, KanmgValueError
        If the name is no string, or a number no finite number.

    See Also
    --------
    Collocation.with_constants : The same problem with another value.
    Continuation : How a method follows the solution from the easier value.

    Notes
    -----
    Use it inside residuals: what is computed from it outside of them keeps the number that it was made with.

    Examples
    --------
    >>> import torch
    >>> import kanmg
    >>> nu = kanmg.Constant("nu", 0.25, easier=1.0)
    >>> 2 * nu * torch.ones(2)
    tensor([0.5000, 0.5000])
    """

    def __init__(self, name: str, number: float, *, easier: float | None = None) -> None:
        super().__init__(name)
        self._number = _checked_number(f"the constant {name!r}", number)
        self.easier = None if easier is None else _checked_number(f"`easier` of the constant {name!r}", easier)

    @property
    def number(self) -> float:
        """The number that it was made with."""
        return self._number

    def eased(self, part: float) -> float:
        """Return the number that lies so far on the way to the easier one: geometric, if both have the same sign."""
        if self.easier is None:
            return self._number
        if self._number * self.easier > 0.0:
            return self._number * float((self.easier / self._number) ** part)
        return (1.0 - part) * self._number + part * self.easier

    def __float__(self) -> float:
        return float(self.value)

    def __repr__(self) -> str:
        easier = "" if self.easier is None else f", easier={self.easier!r}"
        return f"Constant({self.name!r}, {self.number!r}{easier})"

    def replaced(self, number: Any) -> Constant:
        """Return a constant of the same name with another number."""
        return Constant(self.name, number, easier=self.easier)


class Parameter(Scalar):
    """An unknown number in residuals, found together with the coefficients.

    Parameters
    ----------
    name : str
    initial : float
    positive : bool, default False
        Whether it is positive: it is then trained through its logarithm.

    Attributes
    ----------
    name : str
    initial : float
    positive : bool
    value : Tensor
        Its value at the point of the run at which a residual is being evaluated, a 0-d tensor that torch differentiates
        by; elsewhere `initial`.

    Raises
    ------
    KanmgTypeError, KanmgValueError
        If the name is no string, or the initial value no finite number, or not positive where it must be.

    See Also
    --------
    Solution.parameters : What was found.

    Notes
    -----
    Use it inside residuals: what is computed from it outside of them is no unknown.

    Examples
    --------
    The rate of a decay u' = -rate u, from values of u:

    >>> import numpy as np
    >>> import torch
    >>> import kanmg
    >>> rate = kanmg.Parameter("rate", 1.0, positive=True)
    >>> t = np.linspace(0, 1, 30).reshape(-1, 1)
    >>> terms = [
    ...     kanmg.Term("equation", lambda x, u: u.d("t") + rate * u.value, t),
    ...     kanmg.Term("data", lambda x, u: u.value - torch.exp(-2 * x[:, 0]), t[::5]),
    ... ]
    >>> problem = kanmg.Collocation(coordinates=("t",), fields=("u",), terms=terms)
    >>> hierarchy = kanmg.uniform_hierarchy((1, 1), degree=5, num_intervals=4, num_levels=2, domain=(0, 1))
    >>> solution = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=10))
    >>> round(solution.parameters["rate"], 4)
    2.0
    """

    def __init__(self, name: str, initial: float, *, positive: bool = False) -> None:
        super().__init__(name)
        self.initial = _checked_number(f"the initial value of the parameter {name!r}", initial)
        if not isinstance(positive, bool):
            raise KanmgTypeError(f"`positive={positive!r}` of the parameter {name!r}. Pass True or False.")
        if positive and self.initial <= 0.0:
            raise KanmgValueError(
                f"the parameter {name!r} is to be positive, but its initial value is {self.initial:g}. Pass a positive "
                "one, or leave `positive` out."
            )
        self.positive = positive

    @property
    def number(self) -> float:
        """The number that it was made with: `initial`."""
        return self.initial

    @property
    def initial_unknown(self) -> float:
        """The unknown that stands for the initial value: itself, or its logarithm."""
        return math.log(self.initial) if self.positive else self.initial

    def from_unknown(self, unknown: torch.Tensor) -> torch.Tensor:
        """Return the value that an unknown stands for."""
        return unknown.exp() if self.positive else unknown

    def __repr__(self) -> str:
        return f"Parameter({self.name!r}, {self.initial!r}{', positive=True' if self.positive else ''})"

    def replaced(self, initial: Any) -> Parameter:
        """Return a parameter of the same name with another initial value."""
        return Parameter(self.name, initial, positive=self.positive)


class Setting(NamedTuple):
    """What all terms of a problem share.

    Attributes
    ----------
    ansatz : Ansatz
        With the names of the coordinates and fields.
    parameters : tuple of Parameter
        In the order of the unknowns behind the coefficients.
    constants : tuple of Constant
    """

    ansatz: Ansatz
    parameters: tuple[Parameter, ...] = ()
    constants: tuple[Constant, ...] = ()

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return self.ansatz.coordinates

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields."""
        return self.ansatz.fields

    @property
    def scalars(self) -> dict[str, Scalar]:
        """Parameters and constants by their names."""
        return {scalar.name: scalar for scalar in (*self.parameters, *self.constants)}

    def values(self, unknowns: Sequence[torch.Tensor], like: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what parameters and constants are, by their names, from the unknowns behind the coefficients.

        Constants get the dtype and the device of `like`.
        """
        if len(unknowns) != len(self.parameters):
            names = ", ".join(repr(parameter.name) for parameter in self.parameters) or "none"
            raise ShapeError(
                f"`theta` has {len(unknowns)} entries behind the network's coefficients, but the problem has "
                f"{len(self.parameters)} parameters: {names}. Append one number for each; "
                "`problem.initial_parameters` has the initial ones."
            )
        found = {constant.name: like.new_full((), constant.number) for constant in self.constants}
        for parameter, unknown in zip(self.parameters, unknowns, strict=True):
            found[parameter.name] = parameter.from_unknown(unknown)
        return found

    def with_scalars(self, scalars: Iterable[Scalar]) -> Setting:
        """Return a setting with these parameters and constants, in their order."""
        listed = list(scalars)
        return self._replace(
            parameters=tuple(scalar for scalar in listed if isinstance(scalar, Parameter)),
            constants=tuple(scalar for scalar in listed if isinstance(scalar, Constant)),
        )

    def replaced(self, kind: type[Scalar], caller: str, numbers: Mapping[str, Any]) -> Setting:
        """Return a setting in which some constants, or some parameters, have other numbers."""
        known = [scalar for scalar in self.scalars.values() if isinstance(scalar, kind)]
        strangers = sorted(set(numbers) - {scalar.name for scalar in known})
        if strangers:
            names = ", ".join(repr(scalar.name) for scalar in known) or "none"
            raise KanmgValueError(
                f"`{caller}` got {strangers[0]!r}, but those that the residuals use are: {names}. Pass one of these "
                f"names; a residual must use the `kanmg.{kind.__name__}` itself, not a number computed from it before."
            )
        return self.with_scalars(
            scalar.replaced(numbers[scalar.name]) if scalar.name in numbers else scalar
            for scalar in self.scalars.values()
        )


def collect(scalars: Iterable[Scalar]) -> list[Scalar]:
    """Return distinct scalars in the order of their first use, and refuse two of one name."""
    found: dict[str, Scalar] = {}
    for scalar in scalars:
        other = found.setdefault(scalar.name, scalar)
        if other is not scalar:
            raise KanmgValueError(
                f"the residuals use two different scalars of the name {scalar.name!r}: {other!r} and {scalar!r}. Make "
                "it once and use it in all residuals, or give them different names."
            )
    return list(found.values())


@contextmanager
def looking_up(look_up: Callable[[Scalar], torch.Tensor]) -> Iterator[None]:
    """Let scalars have the values that a function says."""
    token = _LOOK_UP.set(look_up)
    try:
        yield
    finally:
        _LOOK_UP.reset(token)


def _as_tensor(value: Any) -> Any:
    """Replace scalars, also those in lists and tuples, by their values."""
    if isinstance(value, Scalar):
        return value.value
    return type(value)(map(_as_tensor, value)) if type(value) in (list, tuple) else value


def _checked_number(what: str, number: Any) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float | np.number):
        raise KanmgTypeError(f"{what} is {number!r}, a {type(number).__name__}. Pass a number, such as 0.01.")
    if not math.isfinite(number):
        raise KanmgValueError(f"{what} is {number}. Pass a finite number, such as 0.01.")
    return float(number)
