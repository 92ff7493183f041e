"""Checks of what a collocation problem is made of, and of networks that it shall fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from kanmg.errors import DtypeError, KanmgTypeError, KanmgValueError, ShapeError
from kanmg.network import Spline
from kanmg.problems.terms import Term

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kanmg.evaluators.base import Array
    from kanmg.network import Network

__all__ = ["check_degree", "check_inputs", "check_outputs", "checked_names", "checked_terms", "checked_weights"]


def check_inputs(num_inputs: int, network: Network) -> None:
    """Refuse a network without one input for each column of the map of the coordinates."""
    if network.num_inputs != num_inputs:
        raise ShapeError(
            f"`inputs` returns {num_inputs} column{'' if num_inputs == 1 else 's'}, but `hierarchy` was built for "
            f"{network.num_inputs} input{'' if network.num_inputs == 1 else 's'} (`widths={network.widths}`). Every "
            f"column is one input: build it with `widths=({', '.join(map(str, (num_inputs, *network.widths[1:])))})`."
        )


def checked_names(what: str, names: Any) -> tuple[str, ...]:
    """Return names as a tuple of distinct strings."""
    checked = tuple(names) if isinstance(names, Iterable) else ()
    is_list = isinstance(names, Iterable) and not isinstance(names, str)
    if not is_list or not all(isinstance(name, str) and name for name in checked):
        raise KanmgTypeError(f'`{what}={names!r}`. Pass a tuple of names, such as `{what}=("x", "t")`.')
    if not checked or len(set(checked)) < len(checked):
        raise KanmgValueError(f"`{what}={checked!r}`. Pass at least one name, and each once.")
    return checked


def checked_terms(terms: Iterable[Term], coordinates: Sequence[str]) -> tuple[Term, ...]:
    """Return terms that fit each other and the coordinates."""
    checked: tuple[Any, ...] = tuple(terms) if isinstance(terms, Iterable) else (terms,)
    strangers = [term for term in checked if not isinstance(term, Term)]
    if strangers or isinstance(terms, Term) or not isinstance(terms, Iterable):
        what = f"holds {strangers[0]!r}, which is no term" if strangers else "is a term, not a list of terms"
        raise KanmgTypeError(
            f'`terms` {what}. Pass a list of `kanmg.Term`s: `terms=[kanmg.Term("equation", residual, points)]`.'
        )
    names = [term.name for term in checked]
    if not checked or len(set(names)) < len(names):
        raise KanmgValueError(f"`terms` has the names {names}. Pass at least one term, and give each its own name.")
    if not any(term.weight for term in checked):
        raise KanmgValueError("the `weight` of every term is 0. At least one must be positive.")
    for term in checked:
        columns = term.points.shape[1]
        if columns != len(coordinates):
            raise ShapeError(
                f"term {term.name!r}: `points` has shape {term.points.shape} but there are {len(coordinates)} "
                f"coordinates, {tuple(coordinates)}. Pass points of shape (N, {len(coordinates)})."
            )
        if term.points.dtype != checked[0].points.dtype:
            raise DtypeError(
                f"the points of term {term.name!r} are {term.points.dtype} but those of term {checked[0].name!r} are "
                f"{checked[0].points.dtype}. Convert one of them by `.astype(...)`."
            )
    return checked


def check_outputs(fields: Sequence[str], network: Network) -> None:
    """Refuse a network without one output for each field."""
    if network.num_outputs != len(fields):
        raise ShapeError(
            f"`fields` names {tuple(fields)}, but `hierarchy` was built with {network.num_outputs} "
            f"output{'' if network.num_outputs == 1 else 's'} (`widths={network.widths}`). Every field is one output: "
            f"build it with `widths=({', '.join(map(str, network.widths[:-1]))}, {len(fields)})`."
        )


def check_degree(requests: Sequence[Sequence[int]], coordinates: Sequence[str], network: Network) -> None:
    """Refuse derivatives of an order that the splines do not have."""
    degrees = [layer.degree for layer in network.layers if isinstance(layer, Spline)]
    highest = max(requests, key=len, default=())
    if degrees and len(highest) > min(degrees):
        names = ", ".join(f'"{coordinates[i]}"' for i in highest)
        raise KanmgValueError(
            f"the residual asks for the derivative ({names}) of order {len(highest)}, but splines of degree "
            f"{min(degrees)} have derivatives up to that order only. Build the hierarchy with `degree={len(highest)}` "
            f"or more; {len(highest) + 2} is a good choice."
        )


def checked_weights(terms: Sequence[Term], factors: Any, points: Any) -> list[tuple[float, Array | None]]:
    """Return a positive factor for every term, and numbers for its points or None.

    Raises
    ------
    ShapeError, KanmgValueError
        If there are not as many as terms or points, or some are negative or not finite.
    """
    array = np.asarray(factors, np.float64)
    if array.shape != (len(terms),):
        raise ShapeError(f"`factors` has shape {array.shape}. Pass one number for each of the {len(terms)} terms.")
    if not (np.isfinite(array).all() and (array > 0.0).all()):
        raise KanmgValueError(f"`factors={array.tolist()}`. All must be positive and finite.")
    weights = [None] * len(terms) if points is None else list(points)
    if len(weights) != len(terms):
        raise ShapeError(f"`points` has {len(weights)} entries. Pass one, or None, for each of the {len(terms)} terms.")
    for term, own in zip(terms, weights, strict=True):
        if own is not None and np.shape(own) != (len(term),):
            raise ShapeError(
                f"`points` has shape {np.shape(own)} for term {term.name!r}, which has {len(term)} points. Pass one "
                f"number for each, shape ({len(term)},)."
            )
        if own is not None and not (np.isfinite(own).all() and np.any(own)):
            raise KanmgValueError(
                f"`points` for term {term.name!r} are all 0, or not all finite. Pass finite numbers, such as ones."
            )
    return list(zip(array.tolist(), weights, strict=True))
