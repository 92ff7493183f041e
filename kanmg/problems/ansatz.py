"""How fields are made of a network: a map of the coordinates into its inputs, and conditions that hold exactly.

Field number q at the point x is `g_q(x) + h_q(x) N_q(f(x))`, N the network: f maps the coordinates (a level set, sines
and cosines of a period), g and h make conditions exact. As the points of a problem are fixed, torch differentiates f, g
and h once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.jets import plan_derivatives
from kanmg.problems.paths import Function, Lines, Paths, called

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kanmg.evaluators.base import Array, Evaluator

__all__ = ["Ansatz", "Transform", "load_ansatz", "make_ansatz"]

# Derivatives on one side of a kink are taken at so large a part of the domain from it, and at twice that; rounding and
# points that miss the kink by less do no harm, and the extrapolation to the kink has the square of it as its error.
_STEP = 1e-7
_FEW_POINTS = 8
# The highest order of the derivatives that go through a map.
_MAX_ORDER = 2


@dataclass(frozen=True, eq=False)
class Transform:
    """A field as `offset(x) + factor(x) * network`, so that conditions hold exactly.

    Where the factor vanishes, the field is the offset, whatever the network is.

    Parameters
    ----------
    offset, factor : callable, optional
        `offset(x)`: the coordinates, a float64 tensor of shape (N, d), to a tensor of shape (N,) by torch expressions;
        0 and 1 by default.

    Raises
    ------
    KanmgTypeError
        If one of them cannot be called, or both are left out.

    See Also
    --------
    Collocation : takes one for each field that has exact conditions, as `transform`.

    Examples
    --------
    A field that is 1 at x = 0 and vanishes at x = 1:

    >>> import kanmg
    >>> kanmg.Transform(offset=lambda x: 1 - x[:, 0], factor=lambda x: x[:, 0] * (1 - x[:, 0]))
    Transform(offset, factor)
    """

    offset: Function | None = None
    factor: Function | None = None

    def __post_init__(self) -> None:
        if self.offset is None and self.factor is None:
            raise KanmgTypeError("`Transform()` has neither `offset` nor `factor`. Pass at least one function of x.")
        for name, function in (("offset", self.offset), ("factor", self.factor)):
            if function is not None and not callable(function):
                raise KanmgTypeError(
                    f"`{name}` of a `Transform` is a {type(function).__name__}. Pass a function of x, the coordinates "
                    "as a tensor of shape (N, d), that returns shape (N,)."
                )

    def __repr__(self) -> str:
        given = [name for name in ("offset", "factor") if getattr(self, name) is not None]
        return f"Transform({', '.join(given)})"


@dataclass(frozen=True, eq=False)
class Ansatz:
    """How fields are made of a network.

    Parameters
    ----------
    coordinates, fields : tuple of str
    inputs : callable or None
        Coordinates, shape (N, d), to inputs of the network, shape (N, P); None: they are the inputs.
    transforms : dict of str to Transform
        Of the fields that have one.
    step : float
        How far from a point the derivatives on one side of it are taken.
    """

    coordinates: tuple[str, ...]
    fields: tuple[str, ...]
    inputs: Function | None = None
    transforms: Mapping[str, Transform] = field(default_factory=dict)
    step: float = _STEP

    @property
    def is_plain(self) -> bool:
        """Whether the coordinates are the network's inputs, and the fields its outputs."""
        return self.inputs is None and not self.transforms

    def scaled(self, points: Sequence[Array]) -> Ansatz:
        """Return the same ansatz with a step that fits the extent of a problem's points."""
        low = np.min([own.min(axis=0) for own in points], axis=0)
        high = np.max([own.max(axis=0) for own in points], axis=0)
        extent = float((high - low).max())
        return replace(self, step=_STEP * (extent if extent > 0.0 else 1.0))

    def check(self, points: Array) -> None:
        """Call all functions with a few points, and refuse what cannot be trained with.

        Raises
        ------
        KanmgError
            If a result has another shape or dtype, is not finite, has no gradient, or depends on other points.
        """
        few = points[np.unique(np.linspace(0, len(points) - 1, _FEW_POINTS).astype(int))].astype(np.float64)
        for name, function, num_axes in self._functions():
            result = called(function, name, torch.from_numpy(few).requires_grad_(), num_axes)
            half = (len(few) + 1) // 2
            part = called(function, name, torch.from_numpy(few[:half]).requires_grad_(), num_axes).detach()
            whole = result.detach()
            if part.shape[1:] != whole.shape[1:] or not torch.allclose(part, whole[:half], rtol=1e-9, atol=1e-12):
                raise KanmgValueError(
                    f"{name} at a point changes with the other points it is called with. It must be a pointwise "
                    "expression: no means or sums over the points."
                )
            if not result.requires_grad and bool((whole != whole[0]).any()):
                raise KanmgValueError(
                    f"{name} has no gradient by the coordinates. Compute it by torch operations from x, without "
                    "`.detach()`, `.numpy()` or `torch.no_grad()`."
                )

    def _functions(self) -> list[tuple[str, Function, int]]:
        """List all functions with what errors call them, and the number of axes of their results."""
        listed: list[tuple[str, Function, int]] = [] if self.inputs is None else [("`inputs`", self.inputs, 2)]
        for name, transform in self.transforms.items():
            for part in ("offset", "factor"):
                function = getattr(transform, part)
                if function is not None:
                    listed.append((f"`{part}` of `transform[{name!r}]`", function, 1))
        return listed

    def paths(
        self,
        points: Array,
        directions: Array,
        order: int,
        sides: Sequence[str] = (),
        normals: Array | None = None,
    ) -> Paths:
        """Differentiate the map and the transforms along straight lines of the coordinates.

        Parameters
        ----------
        points : ndarray, shape (N, d)
        directions : ndarray, shape (D, d)
        order : int
        sides : sequence of {"", "+", "-"}, length D, optional
            On which side of the points the derivatives along each direction are taken.
        normals : ndarray, shape (N, d), optional
            To where side "+" lies: unit vectors.

        Returns
        -------
        Paths
            In the dtype of the points.

        Raises
        ------
        KanmgError
            If a function or a derivative of it is not finite, or the order is too high for a map.
        """
        if self.is_plain:
            return Paths(points, directions.astype(points.dtype))
        if self.inputs is not None and order > _MAX_ORDER:
            raise KanmgValueError(
                f"a derivative of order {order} was asked for, but through `inputs` there are derivatives up to order "
                f"{_MAX_ORDER} only. Leave out `inputs`, or state the equation as a system of lower order."
            )
        lines = Lines(points, directions, order, sides or ("",) * len(directions), normals, self.step)
        jets = {name: lines.jet(function, name, num_axes) for name, function, num_axes in self._functions()}
        mapped = jets.get("`inputs`")
        numbered = list(enumerate(self.fields))
        offsets, factors = (
            {q: jets[key] for q, name in numbered if (key := f"`{part}` of `transform[{name!r}]`") in jets}
            for part in ("offset", "factor")
        )
        if mapped is None:
            return Paths(points, directions.astype(points.dtype), None, offsets, factors)
        none = np.empty((len(directions), *mapped.value.shape), points.dtype)
        slopes = mapped.derivatives[0] if order else none
        return Paths(mapped.value, slopes, mapped.derivatives[1] if order > 1 else None, offsets, factors)

    def describe(self) -> dict[str, Any]:
        """Tell what there is, for a file: names and numbers, but no functions."""
        return {
            "coordinates": self.coordinates,
            "fields": self.fields,
            "inputs": self.inputs is not None,
            "transform": {name: repr(transform) for name, transform in self.transforms.items()},
            "step": self.step,
        }

    def value(self, evaluator: Evaluator, theta: Array, points: Array) -> Array:
        """Evaluate the fields: shape (N, Q)."""
        return self.derivative(evaluator, theta, points, ())

    def derivative(
        self,
        evaluator: Evaluator,
        theta: Array,
        points: Array,
        coordinates: Sequence[int],
        side: str = "",
        normals: Array | None = None,
    ) -> Array:
        """Evaluate one partial derivative of the fields, on one side of the points if that is wanted: shape (N, Q)."""
        plan = plan_derivatives([coordinates], len(self.coordinates))
        sides = (side,) * len(plan.directions)
        jet = self.paths(points, plan.directions, plan.order, sides, normals).jet(evaluator, theta, plan.order)
        return plan.combine(jet)[0]


def make_ansatz(coordinates: tuple[str, ...], fields: tuple[str, ...], inputs: Any, transform: Any) -> Ansatz:
    """Check what a user has passed, and make an ansatz of it.

    Raises
    ------
    KanmgTypeError, KanmgValueError
        If `inputs` cannot be called, or `transform` is no dictionary of transforms of the fields.
    """
    if inputs is not None and not callable(inputs):
        raise KanmgTypeError(
            f"`inputs` is a {type(inputs).__name__}. Pass a function of x, the coordinates as a tensor of shape (N, "
            "d), that returns the network's inputs, shape (N, P)."
        )
    transforms = {} if transform is None else transform
    if not isinstance(transforms, Mapping) or not all(isinstance(own, Transform) for own in transforms.values()):
        raise KanmgTypeError(
            f"`transform` is {transform!r}. Pass a dictionary of `kanmg.Transform`s by the names of fields, such as "
            f'`transform={{"{fields[0]}": kanmg.Transform(factor=h)}}`.'
        )
    strangers = [name for name in transforms if name not in fields]
    if strangers:
        names = ", ".join(map(repr, fields))
        raise KanmgValueError(f"`transform` names {strangers[0]!r}, but the fields are {names}. Use their names.")
    return Ansatz(coordinates, fields, inputs, dict(transforms))


def load_ansatz(path: Any, description: Mapping[str, Any] | None, inputs: Any, transform: Any) -> Ansatz | None:
    """Make the ansatz that a file describes from the functions that a user passes again.

    Raises
    ------
    KanmgValueError, KanmgTypeError
        If they are not those that the file describes.
    """
    nothing: dict[str, Any] = {"coordinates": (), "fields": (), "inputs": False, "transform": {}, "step": _STEP}
    stated = nothing if description is None else {"step": _STEP, **description}
    if stated["inputs"] != (inputs is not None):
        raise KanmgValueError(
            f"`{path}` holds a solution with `inputs`, a function that is not in the file. Write "
            "`kanmg.load(path, inputs=f)` with the function that it was trained with."
            if stated["inputs"]
            else f"`{path}` holds a solution without `inputs`. Leave them out."
        )
    if transform is None and stated["transform"]:
        names = ", ".join(f"{name!r}: {what}" for name, what in stated["transform"].items())
        raise KanmgValueError(
            f"`{path}` holds a solution with `transform`, {{{names}}}, whose functions are not in the file. Write "
            "`kanmg.load(path, transform=...)` with those that it was trained with."
        )
    if description is None and not transform:
        return None
    ansatz = replace(make_ansatz(stated["coordinates"], stated["fields"], inputs, transform), step=stated["step"])
    if ansatz.describe() != stated:
        raise KanmgValueError(
            f"`{path}` holds a solution with `transform` {stated['transform']}, but {ansatz.describe()['transform']} "
            "was passed. Pass the one that it was trained with."
        )
    return ansatz
