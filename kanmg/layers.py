"""Spline and affine layers: shapes of their coefficients, and the knots."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from kanmg.errors import KanmgTypeError, KanmgValueError, ShapeError
from kanmg.splines.bspline import OUTSIDE_POLICIES, Outside
from kanmg.splines.free_knots import FreeKnots
from kanmg.splines.knots import Knots, refine

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["OUTSIDE_POLICIES", "Affine", "Domain", "Layer", "Outside", "Spline"]

Domain: TypeAlias = tuple[tuple[float, float], ...]
"""One interval (a, b) per input."""


@dataclass(frozen=True, init=False, repr=False)
class Spline:
    """A layer of univariate splines, one from every input to every output.

    Output q is the sum over the inputs p of `phi_pq(x_p)` with `phi_pq = sum_i c[p, i, q] B_{p,i}`.

    Parameters
    ----------
    num_inputs, num_outputs : int
        P and Q, at least 1.
    knots : Knots or sequence of Knots
        The knots of all inputs, or one for each. All of one degree and one number of intervals.
    outside : {"extend", "linear", "clamp", "zero", "error"}, default "extend"
        What the splines are outside their interval: the end cell's polynomial goes on; the tangent at the end point;
        the value at the end point; the bare sum of B-splines; or a `DomainError`.
    free_knots : bool or int, default False
        Whether the knots are trained with the coefficients, those of each input by themselves: True moves every cell's
        ends; a number, which divides that of the cells, stretches so many groups of neighbouring cells. `refine`
        bisects cells and leaves the groups as they are.

    Attributes
    ----------
    knots : tuple of Knots
        Always one per input. Where they are free, those that training begins with.
    free_knots : int
        Number of groups of cells with lengths of their own; 0 if the knots are fixed.
    shape : tuple of int
        (P, m, Q), the shape of the layer's coefficients; m basis functions.

    Raises
    ------
    ShapeError
        If the number of knot vectors is not `num_inputs`.
    KanmgValueError, KanmgTypeError
        If the knots differ in degree or in the number of intervals, or an argument is none of the above.

    Examples
    --------
    >>> import kanmg
    >>> layer = kanmg.Spline(2, 5, knots=kanmg.uniform_knots(8, degree=3))
    >>> layer.shape, layer.num_coefficients
    ((2, 11, 5), 110)
    >>> layer.refine().shape
    (2, 19, 5)
    """

    num_inputs: int
    num_outputs: int
    knots: tuple[Knots, ...]
    outside: Outside
    free_knots: int

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        *,
        knots: Knots | Sequence[Knots],
        outside: Outside = "extend",
        free_knots: bool | int = False,
    ) -> None:
        _check_widths("Spline", num_inputs, num_outputs)
        if outside not in OUTSIDE_POLICIES:
            valid = ", ".join(f"'{policy}'" for policy in OUTSIDE_POLICIES)
            raise KanmgValueError(f"`outside={outside!r}` is unknown. Use one of {valid}.")
        object.__setattr__(self, "num_inputs", int(num_inputs))
        object.__setattr__(self, "num_outputs", int(num_outputs))
        object.__setattr__(self, "knots", _knots_per_input(knots, int(num_inputs)))
        object.__setattr__(self, "outside", outside)
        object.__setattr__(self, "free_knots", _num_groups(free_knots, self.num_intervals, outside))
        # Refuses cells that are too short to be free.
        _ = self.motion

    @cached_property
    def motion(self) -> FreeKnots | None:
        """How the knots follow from logits; None if they are fixed."""
        return FreeKnots(self.knots, self.free_knots) if self.free_knots else None

    @property
    def num_logits(self) -> int:
        """Number of logits that the knots follow from, one for each group of cells of every input; 0 if fixed."""
        return self.num_inputs * self.free_knots

    def at(self, logits: Any) -> Spline:
        """Return the layer with its knots fixed where the logits, shape (num_inputs, free_knots), have moved them."""
        if self.motion is None:
            return self
        vectors = self.motion.vectors(np.asarray(logits, np.float64))
        knots = [Knots(vector, self.degree) for vector in vectors]
        return Spline(self.num_inputs, self.num_outputs, knots=knots, outside=self.outside)

    @property
    def degree(self) -> int:
        """Polynomial degree k of the splines."""
        return self.knots[0].degree

    @property
    def num_intervals(self) -> int:
        """Number of cells n of every knot vector."""
        return self.knots[0].num_intervals

    @property
    def num_basis(self) -> int:
        """Number of basis functions m = n + k per input."""
        return self.knots[0].num_basis

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (P, m, Q) of the coefficients."""
        return (self.num_inputs, self.num_basis, self.num_outputs)

    @property
    def num_coefficients(self) -> int:
        """Number of coefficients P m Q."""
        return math.prod(self.shape)

    @property
    def domain(self) -> Domain:
        """The interval (a, b) of every input's knots."""
        return tuple(knots.domain for knots in self.knots)

    def refine(self) -> Spline:
        """Bisect every cell: a layer whose splines contain this one's."""
        refined = {knots: refine(knots) for knots in set(self.knots)}
        return Spline(
            self.num_inputs,
            self.num_outputs,
            knots=[refined[knots] for knots in self.knots],
            outside=self.outside,
            free_knots=self.free_knots,
        )

    def __repr__(self) -> str:
        knots = repr(self.knots[0]) if len(set(self.knots)) == 1 else repr(list(self.knots))
        free = f", free_knots={self.free_knots}" if self.free_knots else ""
        return f"Spline({self.num_inputs}, {self.num_outputs}, knots={knots}, outside={self.outside!r}{free})"


@dataclass(frozen=True, init=False, repr=False)
class Affine:
    """A layer `y = W^T x + b`.

    Refinement leaves it alone: an affine layer is the same on all levels.

    Parameters
    ----------
    num_inputs, num_outputs : int
        P and Q, at least 1.
    bias : bool, default True
        Whether there is a b.

    Attributes
    ----------
    shape : tuple of int
        (P + 1, Q), the shape of the layer's coefficients: the weights W, then b as last row; (P, Q) without bias.

    Examples
    --------
    >>> import kanmg
    >>> kanmg.Affine(2, 5).shape
    (3, 5)
    """

    num_inputs: int
    num_outputs: int
    bias: bool

    def __init__(self, num_inputs: int, num_outputs: int, *, bias: bool = True) -> None:
        _check_widths("Affine", num_inputs, num_outputs)
        object.__setattr__(self, "num_inputs", int(num_inputs))
        object.__setattr__(self, "num_outputs", int(num_outputs))
        object.__setattr__(self, "bias", bool(bias))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (P + 1, Q) of the coefficients, or (P, Q) without bias."""
        return (self.num_inputs + int(self.bias), self.num_outputs)

    @property
    def num_coefficients(self) -> int:
        """Number of coefficients."""
        return math.prod(self.shape)

    def refine(self) -> Affine:
        """Return the layer itself."""
        return self

    def __repr__(self) -> str:
        return f"Affine({self.num_inputs}, {self.num_outputs}{'' if self.bias else ', bias=False'})"


Layer: TypeAlias = Spline | Affine


def _check_widths(kind: str, num_inputs: Any, num_outputs: Any) -> None:
    """Refuse widths that are not positive integers."""
    for name, width in (("num_inputs", num_inputs), ("num_outputs", num_outputs)):
        if isinstance(width, bool) or not isinstance(width, int | np.integer):
            raise KanmgTypeError(f"`{kind}` got `{name}={width!r}`. Pass an integer, at least 1.")
        if width < 1:
            raise KanmgValueError(f"`{kind}` got `{name}={width}`. It must be at least 1.")


def _num_groups(free_knots: Any, num_intervals: int, outside: str) -> int:
    """Check how many groups of cells have lengths of their own; 0: none."""
    if not isinstance(free_knots, bool | int | np.integer):
        raise KanmgTypeError(
            f"`Spline` got `free_knots={free_knots!r}`. Pass True, False, or a number of groups of cells."
        )
    number = num_intervals if free_knots is True else int(free_knots)
    if number == 0:
        return 0
    if number < 2 or num_intervals % number:
        raise KanmgValueError(
            f"`Spline` got `free_knots={free_knots!r}` for {num_intervals} cells. Pass True if there are several, or a "
            "number of groups, at least 2, that divides the number of cells."
        )
    if outside == "zero":
        raise KanmgValueError(
            "`Spline` got `free_knots` and `outside='zero'`, which sums B-splines between the knots outside the "
            "interval: these have no derivatives of their own. Use `outside='extend'`, or fixed knots."
        )
    return number


def _knots_per_input(knots: Any, num_inputs: int) -> tuple[Knots, ...]:
    """One knot vector per input, all of one degree and one number of intervals."""
    per_input = tuple(knots) if np.iterable(knots) else (knots,) * num_inputs
    for entry in per_input:
        if not isinstance(entry, Knots):
            raise KanmgTypeError(
                f"`knots` must be `Knots`, or one per input, but got {type(entry).__name__}. "
                "Write `kanmg.uniform_knots(5, degree=3)` or `kanmg.knots_from_breakpoints(points, degree=3)`."
            )
    if len(per_input) != num_inputs:
        raise ShapeError(
            f"`Spline` has {num_inputs} inputs but got {len(per_input)} knot vectors. "
            "Pass one `Knots` for all inputs, or one for each."
        )
    for name in ("degree", "num_intervals"):
        found = sorted({getattr(entry, name) for entry in per_input})
        if len(found) > 1:
            raise KanmgValueError(
                f"the knots of one `Spline` have `{name}` {found}; all inputs of a layer must have the same. "
                "Different layers may differ."
            )
    return per_input
