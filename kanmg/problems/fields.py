"""Fields: what a residual sees of a network, a value and derivatives by the names of the coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch

from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.problems.scalars import Parameter, collect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kanmg.evaluators.base import Array
    from kanmg.jets import Request
    from kanmg.problems.scalars import Scalar

__all__ = ["Field", "Recorder", "ScalarRecorder", "Side", "Wanted"]

Side: TypeAlias = Literal["", "+", "-"]

Wanted: TypeAlias = tuple["Request", Side]
"""The coordinates of a derivative, and on which side of the points it is taken: "" where there are no sides."""


class Field:
    """A field at the points that a residual was called with: `u.value`, `u.d("x")`, `u.d("x", "t")`.

    Residuals get fields as arguments; nobody else makes them.

    Parameters
    ----------
    name : str
    coordinates : sequence of str
        Names of the coordinates.
    look_up : callable
        A derivative's coordinates, sorted, and its side to a tensor of shape (N,): () the value, (0, 1) the mixed one.

    Examples
    --------
    >>> known = {(): torch.tensor([1.0]), (0, 1): torch.tensor([2.0])}
    >>> u = Field("u", ("x", "t"), lambda coordinates, side: known[coordinates])
    >>> u.value, u.d("t", "x")
    (tensor([1.]), tensor([2.]))
    """

    def __init__(self, name: str, coordinates: Sequence[str], look_up: Callable[[Request, Side], torch.Tensor]) -> None:
        self.name = name
        self._coordinates = tuple(coordinates)
        self._look_up = look_up

    @property
    def value(self) -> torch.Tensor:
        """The field itself: shape (N,)."""
        return self._look_up((), "")

    def d(self, *coordinates: str, side: str | None = None) -> torch.Tensor:
        """Differentiate by one coordinate after the other.

        Parameters
        ----------
        *coordinates : str
            Names of coordinates, in any order: `u.d("x", "x")` is the second derivative by x.
        side : {"+", "-"}, optional
            For points on a kink of the problem's `inputs` or `transform`, an interface: the derivative on the side to
            which the term's `normals` point, or on the other one. With one coordinate, "+" is where it is larger.

        Returns
        -------
        Tensor, shape (N,)

        Raises
        ------
        KanmgValueError
            If there is no coordinate of that name, or no such side.
        """
        request = tuple(sorted(self._number(coordinate) for coordinate in coordinates))
        if side is None or not request:
            return self._look_up(request, "")
        if side not in ("+", "-"):
            raise KanmgValueError(f'`{self.name}.d` got `side={side!r}`. Pass "+" or "-", or leave it out.')
        return self._look_up(request, "+" if side == "+" else "-")

    def _number(self, coordinate: str) -> int:
        if not isinstance(coordinate, str):
            raise KanmgTypeError(
                f'`{self.name}.d` got {coordinate!r}. Pass names of coordinates, such as `{self.name}.d("'
                f'{self._coordinates[0]}")`.'
            )
        if coordinate not in self._coordinates:
            names = ", ".join(map(repr, self._coordinates))
            raise KanmgValueError(
                f"`{self.name}` is to be differentiated by {coordinate!r}, which is no coordinate. The coordinates are "
                f"{names}; write one name per derivative, `{self.name}.d({names})`."
            )
        return self._coordinates.index(coordinate)

    def __repr__(self) -> str:
        return f"Field({self.name!r}, coordinates={self._coordinates})"


class Recorder:
    """Random numbers in the place of a field's value and derivatives; remembers what was asked for.

    Parameters
    ----------
    field : int
        Number of the field.
    points : ndarray, shape (N, d)
        For their number and dtype.
    interval : (float, float)
        From which the numbers are drawn.

    Attributes
    ----------
    leaves : dict
        What was asked for, with the numbers that were given out, which torch differentiates by.
    """

    def __init__(self, field: int, points: Array, interval: tuple[float, float]) -> None:
        self.leaves: dict[Wanted, torch.Tensor] = {}
        self._field = field
        self._points = points
        self._interval = interval

    def __call__(self, request: Request, side: Side) -> torch.Tensor:
        wanted = request, side
        if wanted not in self.leaves:
            key = (ord(side),) if side else ()
            sequence = np.random.SeedSequence((self._field, *request), spawn_key=key)
            numbers = np.random.Generator(np.random.Philox(sequence)).uniform(*self._interval, len(self._points))
            self.leaves[wanted] = torch.from_numpy(numbers.astype(self._points.dtype)).requires_grad_()
        return self.leaves[wanted]


class ScalarRecorder:
    """Remembers which scalars a residual uses.

    Parameters
    ----------
    known : mapping of str to Scalar
        Those whose numbers differ from what they were made with.
    dtype : torch.dtype

    Attributes
    ----------
    asked : list of Scalar
        In the order of their first use.
    unknowns : dict of str to Tensor
        What stands for the parameters among them, which torch differentiates by.
    """

    def __init__(self, known: Mapping[str, Scalar], dtype: torch.dtype) -> None:
        self.asked: list[Scalar] = []
        self.unknowns: dict[str, torch.Tensor] = {}
        self._known = known
        self._dtype = dtype

    def __call__(self, scalar: Scalar) -> torch.Tensor:
        self.asked = collect([*self.asked, scalar])
        current = self._known.get(scalar.name, scalar)
        if not isinstance(current, Parameter):
            return torch.tensor(current.number, dtype=self._dtype)
        if current.name not in self.unknowns:
            unknown = torch.tensor(current.initial_unknown, dtype=self._dtype, requires_grad=True)
            self.unknowns[current.name] = unknown
        return current.from_unknown(self.unknowns[current.name])
