"""Calling a residual with random fields: which derivatives it needs, and what is wrong with it."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from kanmg.arrays import row_chunks
from kanmg.errors import DtypeError, KanmgTypeError, KanmgValueError, NonFiniteError, ShapeError
from kanmg.problems.fields import Field, Recorder, ScalarRecorder, Wanted
from kanmg.problems.precision import exact_numbers
from kanmg.problems.scalars import Constant, Parameter, looking_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kanmg.evaluators.base import Array
    from kanmg.problems.scalars import Scalar, Setting
    from kanmg.problems.terms import Term

__all__ = ["Recording", "record", "sample_residual"]

_FEW_POINTS = 8
# A residual may take the root of a field or divide by it: only what fails in all three is the residual's own fault.
_INTERVALS = ((0.1, 0.9), (-0.9, -0.1), (1.0, 2.0), (-1e-3, 1e-3), (10.0, 100.0), (-100.0, -10.0))
# What torch says where an array of all points, of NumPy or torch, is combined with a field at some of them.
_WHOLE_ARRAY = re.compile(r"must match the size|numpy")


# What torch says when NumPy, `float` or `math` ask a tensor for its numbers.
_CONVERSIONS = ("call numpy() on Tensor", "tensors can be converted to Python scalars", "cannot be converted to Scalar")


class Recording(NamedTuple):
    """What a residual asks for and returns.

    Attributes
    ----------
    requests : tuple of tuple
        For each field, the coordinates and sides of what it is asked for.
    num_components : int
        How many residuals there are at every point.
    scalars : tuple of Scalar
        The parameters and constants that it uses.
    """

    requests: tuple[tuple[Wanted, ...], ...]
    num_components: int
    scalars: tuple[Scalar, ...]


class _Call(NamedTuple):
    """One call of a residual with random fields."""

    output: torch.Tensor
    recorders: list[Recorder]
    scalars: ScalarRecorder

    @property
    def leaves(self) -> list[torch.Tensor]:
        return [leaf for recorder in self.recorders for leaf in recorder.leaves.values()]

    @property
    def unknowns(self) -> dict[str, torch.Tensor]:
        return self.scalars.unknowns


@torch.inference_mode(mode=False)
@torch.enable_grad()
def record(term: Term, setting: Setting) -> Recording:
    """Find the derivatives that a residual needs, and refuse a residual that cannot be trained with.

    Parameters
    ----------
    term : Term
    setting : Setting
        Names, and the numbers of scalars that differ from what they were made with.

    Returns
    -------
    Recording

    Raises
    ------
    KanmgError
        If the residual returns something else than a tensor of shape (N,) or (N, R) in the dtype of the points, that
        depends on the fields or on parameters, point by point, and is finite with finite derivatives; or if it uses
        numbers that were rounded to float32, or functions of NumPy.
    """
    _check_signature(term, setting.fields)
    few = _few(term, _FEW_POINTS)
    with exact_numbers():
        call = _call(term, few, setting)
    for array, untouched, name in zip(few, _few(term, _FEW_POINTS), ("points", "data"), strict=False):
        if not np.array_equal(array, untouched):
            raise KanmgValueError(
                f"the residual changes the {name} that it is called with, which are the term's own. Compute new "
                "tensors: `x = x + 1` instead of `x += 1`, or `x = x.clone()` first."
            )
    _check_output(call, few[0], setting.fields)
    _check_pointwise(term, call, few, setting)
    _check_finite(term, term.arrays, "points", setting)
    if term.candidates is not None:
        _check_finite(term, (term.candidates,), "candidates", setting)
    _check_parameters(term, few, setting)
    requests = tuple(tuple(sorted(recorder.leaves, key=_by_order)) for recorder in call.recorders)
    _check_sides(term, requests, setting)
    num_components = 1 if call.output.ndim == 1 else call.output.shape[1]
    return Recording(requests, num_components, tuple(call.scalars.asked))


def sample_residual(term: Term, setting: Setting, num_points: int) -> Array:
    """Evaluate a residual on a few of its points and random fields: always the same numbers for the same residual.

    Parameters
    ----------
    term : Term
    setting : Setting
    num_points : int
        At most.

    Returns
    -------
    ndarray
    """
    output: Array = _call(term, _few(term, num_points), setting).output.detach().numpy()
    return output


def _few(term: Term, num_points: int) -> tuple[Array, ...]:
    """Return copies of some points from all over the term, at most so many, and of their data."""
    rows = np.unique(np.linspace(0, len(term) - 1, num_points).astype(int))
    return tuple(array[rows] for array in term.arrays)


def _by_order(wanted: Wanted) -> tuple[int, Wanted]:
    return len(wanted[0]), wanted


def _check_sides(term: Term, requests: Sequence[Sequence[Wanted]], setting: Setting) -> None:
    """Refuse derivatives on one side where there are no sides, or nobody has said where they are."""
    if not any(side for own in requests for _, side in own):
        return
    if setting.ansatz.is_plain:
        raise KanmgValueError(
            "the residual asks for a derivative on one side of the points, but without `inputs` and `transform` fields "
            "have no kinks. Leave out `side`, or pass `inputs=` with a kink where the interface is, such as x.abs()."
        )
    if term.normals is None and len(setting.coordinates) > 1:
        raise KanmgValueError(
            'the residual asks for a derivative on one side of the points, but not where side "+" is. Pass `normals` '
            f"to the term, one vector for each point, shape {term.points.shape}."
        )


def _call(
    term: Term,
    arrays: Sequence[Array],
    setting: Setting,
    interval: tuple[float, float] = _INTERVALS[0],
) -> _Call:
    """Call a residual with random fields, and scalars that are what they are at the beginning of a run.

    `arrays` are points, and their data if the term has any.
    """
    x, *data = map(torch.from_numpy, arrays)
    recorders = [Recorder(q, arrays[0], interval) for q in range(len(setting.fields))]
    named = zip(setting.fields, recorders, strict=True)
    arguments = [Field(name, setting.coordinates, recorder) for name, recorder in named]
    scalars = ScalarRecorder(setting.scalars, x.dtype)
    try:
        with looking_up(scalars):
            output = term.residual(x, *arguments, *data)
    except Exception as error:
        named_arrays = zip(("x", "data"), arrays, strict=False)
        shapes = " and ".join(f"`{name}` of shape {array.shape}" for name, array in named_arrays)
        error.add_note(
            f"The residual of term {term.name!r} was called with {shapes}, some of its points. It must be a pointwise "
            "expression in torch that takes any number of them; derivatives are "
            f'`{setting.fields[0]}.d("{setting.coordinates[0]}")`, not torch.autograd.grad.'
        )
        if not data and _WHOLE_ARRAY.search(str(error)):
            error.add_note(
                "For measured values, one for each point, pass `data=values` to the term: the residual then gets those "
                f"of its points, `residual({', '.join(('x', *setting.fields, 'data'))})`."
            )
        # What Python and torch say of an operand, argument or attribute does not tell what to write instead.
        if isinstance(error, TypeError | AttributeError) and Field.__name__ in str(error):
            raise KanmgTypeError(_misused(str(error), setting)) from error
        if "in-place" in str(error):
            raise KanmgTypeError(
                f"the residual changes a tensor in place ({str(error).partition('.')[0]}). Write what gives a new "
                "tensor, e.g. `u.value - 1` instead of `u.value.sub_(1)`."
            ) from error
        if hint := _hint_for_numbers(error, setting):
            raise KanmgTypeError(hint) from error
        raise
    return _Call(output, recorders, scalars)


def _misused(message: str, setting: Setting) -> str:
    """Say how to write what a residual does with a field itself."""
    name, coordinate = setting.fields[0], setting.coordinates[0]
    return (
        f"the residual uses a field itself, which is no tensor ({message}). Write `{name}.value` for its values and "
        f'`{name}.d("{coordinate}")` for derivatives; it has nothing else.'
    )


def _hint_for_numbers(error: Exception, setting: Setting) -> str:
    """Say what to write instead of `float`, `math` and NumPy; empty if the error is another one."""
    message, name = str(error), setting.fields[0]
    if isinstance(error, TypeError) and ("real number" in message or "ufunc" in message):
        for kind in (Parameter.__name__, Constant.__name__):
            if kind in message:
                return (
                    f"the residual makes a number of a `kanmg.{kind}` or passes it to NumPy ({message}). Use the "
                    f"{kind.lower()} itself, without `float`, and torch's functions: `torch.sin(p)`, not `np.sin(p)`."
                )
    mixes = isinstance(error, TypeError) and "numpy.ndarray" in message
    if mixes or any(part in message for part in _CONVERSIONS):
        return (
            "the residual mixes a tensor with arrays of NumPy, or makes a number of it. Use torch's functions: "
            f"`torch.sin({name}.value)`, not `np.sin({name}.value)`, nor `float` or `math`. "
            "For measured values, one for each point, pass `data=values` to the term: the residual then gets those of "
            "its points, `residual(x, u, data)`."
        )
    return ""


def _check_signature(term: Term, fields: Sequence[str]) -> None:
    """Refuse a function that does not take the points, all fields, and the data if there are any."""
    try:
        signature = inspect.signature(term.residual)
    except (TypeError, ValueError):  # some built-in functions have none
        return
    has_data = term.data is not None
    names = ("x", *fields, *["data"] * has_data)
    if not _takes(signature, len(names)):
        what = f"the points and {_count(len(fields), 'field')}"
        if has_data:
            what = f"the points, {_count(len(fields), 'field')} and `data`"
        values = ""
        if not has_data and _takes(signature, len(names) + 1):
            values = " For measured values as its last argument, pass `data=` to the term."
        raise KanmgTypeError(
            f"the residual takes the arguments {signature}, but it is called with {what}. Define it as "
            f"`residual({', '.join(names)})`.{values}"
        )


def _takes(signature: inspect.Signature, number: int) -> bool:
    """Tell whether a function can be called with so many arguments."""
    try:
        signature.bind(*range(number))
    except TypeError:
        return False
    return True


def _check_output(call: _Call, points: Array, fields: Sequence[str]) -> None:
    """Refuse what is no residual, by type, shape, dtype and what it depends on."""
    output: Any = call.output
    if not isinstance(output, torch.Tensor):
        several = " Write `torch.stack([...], dim=1)` for several." if isinstance(output, tuple | list) else ""
        if isinstance(output, Field):
            several = f" Write `{output.name}.value`."
        if isinstance(output, np.ndarray):
            several = " Use torch's functions instead of NumPy's: of an array torch knows no derivatives."
        raise KanmgTypeError(f"the residual returned a {type(output).__name__}. It must return a tensor.{several}")
    num_points = len(points)
    if output.ndim not in (1, 2) or len(output) != num_points or 0 in output.shape:
        raise ShapeError(
            f"the residual returned shape {tuple(output.shape)} for {_count(num_points, 'point')}. It must return "
            "(N,), one number per point, or (N, R); do not average over the points."
        )
    dtype = torch.from_numpy(points).dtype
    if output.dtype != dtype:
        raise DtypeError(
            f"the residual returned {output.dtype} for points and fields of {dtype}. Make the tensors in it with "
            "`dtype=x.dtype`."
        )
    if not output.requires_grad or not (call.leaves or call.unknowns):
        names = " or ".join(f"`{name}`" for name in fields)
        raise KanmgValueError(
            f"the residual has no gradient: it does not depend on {names}. Compute it by torch operations from "
            f"`{fields[0]}.value` and `{fields[0]}.d(...)`, without `.detach()`, `.numpy()` or `torch.no_grad()`."
        )


def _check_pointwise(term: Term, call: _Call, arrays: Sequence[Array], setting: Setting) -> None:
    """Refuse a residual whose value at a point depends on the other points: samples are evaluated in chunks."""
    num_points = len(arrays[0])
    half = (num_points + 1) // 2
    if half == num_points:
        return
    alone = _call(term, [array[:half] for array in arrays], setting)
    whole, part = call.output.detach()[:half], alone.output.detach()
    if whole.shape[1:] == (num_points,) and part.shape[1:] == (half,):
        column = "x[:, 0]" if term.data is None or term.data.ndim == 1 else "data[:, 0]"
        raise ShapeError(
            f"the residual returned shape {tuple(call.output.shape)} for {num_points} points, {tuple(part.shape)} for "
            f"{half}: shapes (N,) and (N, 1) in one expression make (N, N). Use (N,) throughout, as in `{column}`."
        )
    if whole.shape != part.shape or not torch.allclose(whole, part, rtol=1e-4, atol=1e-6, equal_nan=True):
        raise KanmgValueError(
            "the residual at a point changes with the other points it is called with. It must be a pointwise "
            "expression: no means, no sums over the points, no arrays of fixed length beside `x`."
        )


def _check_finite(term: Term, arrays: Sequence[Array], name: str, setting: Setting) -> None:
    """Refuse a residual that at some point is not finite, or has no finite derivatives, for any fields tried."""
    count, first, points = 0, -1, arrays[0]
    for rows in row_chunks(len(points), 1):
        bad = np.ones(rows.stop - rows.start, bool)
        for interval in _INTERVALS:
            if bad.any():
                bad &= _not_finite(_call(term, [array[rows] for array in arrays], setting, interval))
        if bad.any() and not count:
            first = rows.start + int(np.argmax(bad))
        count += int(np.count_nonzero(bad))
    if count:
        where = ", ".join(f"{axis}={value:g}" for axis, value in zip(setting.coordinates, points[first], strict=True))
        of = "" if name == "points" else f" of `{name}`"
        raise NonFiniteError(
            f"the residual or its derivative by a field is NaN or infinite at {_count(count, 'point')}, whatever the "
            f"fields are (the first is row {first}{of}: {where}); numbers from {_INTERVALS[-1][0]:g} to "
            f"{_INTERVALS[-2][1]:g} were tried. Divide by nothing that vanishes there, and clamp what roots and "
            "logarithms see; `torch.where` hides a value that is not finite, but not its derivative."
        )


def _not_finite(call: _Call) -> Array:
    """Tell the points at which a residual or one of its derivatives is not finite."""
    inputs = [*call.leaves, *call.unknowns.values()]
    gradients = torch.autograd.grad(call.output.sum(), inputs, allow_unused=True, materialize_grads=True)
    output = call.output.detach()
    finite = torch.isfinite(output).reshape(len(output), -1).all(dim=1)
    for gradient in gradients[: len(call.leaves)]:
        finite &= torch.isfinite(gradient)
    bad: Array = (~finite).numpy()
    return bad


def _check_parameters(term: Term, arrays: Sequence[Array], setting: Setting) -> None:
    """Refuse a residual that uses a parameter it has no derivative by, or none that is finite whatever the fields."""
    bad: set[str] | None = None
    for interval in _INTERVALS:
        call = _call(term, arrays, setting, interval)
        if not call.unknowns:
            return
        gradients = torch.autograd.grad(call.output.sum(), list(call.unknowns.values()), allow_unused=True)
        found = dict(zip(call.unknowns, gradients, strict=True))
        unused = [name for name, gradient in found.items() if gradient is None]
        if unused:
            raise KanmgValueError(
                f"the residual uses the parameter {unused[0]!r} but has no gradient by it. Compute with it by torch "
                "operations, without `.detach()`, `.item()` or `torch.no_grad()`."
            )
        failed = {name for name, gradient in found.items() if gradient is None or not torch.isfinite(gradient)}
        bad = failed if bad is None else bad & failed
    if bad:
        name = min(bad)
        raise NonFiniteError(
            f"the residual's derivative by the parameter {name!r} is NaN or infinite at its initial value, whatever "
            "the fields are. Choose another `initial` value."
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
