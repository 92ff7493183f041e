"""Points drawn anew where a residual is large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.problems.batches import Stream, permutation
from kanmg.vectors import to_host

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array, Evaluator
    from kanmg.problems.bound_term import BoundTerm

__all__ = ["Drawn", "checked_share", "draw_candidates", "drawn_terms"]

Drawn: TypeAlias = "tuple[Array | None, ...]"
"""For each term the rows of its candidates that are in use; None for a term with its own points only."""


def checked_share(share: Any) -> float:
    """Return the part of the points that is to be drawn anew."""
    if isinstance(share, bool) or not isinstance(share, int | float | np.number):
        raise KanmgTypeError(f"`share={share!r}` is a {type(share).__name__}. Pass a number from [0, 1].")
    if not 0.0 <= share <= 1.0:
        raise KanmgValueError(f"`share={share:g}` is no part of the points. It must lie in [0, 1].")
    return float(share)


def draw_candidates(
    bound: BoundTerm, evaluator: Evaluator, theta: Array, share: float, random: np.random.Generator
) -> Array | None:
    """Draw candidates of a term, those more often at which its residual is large.

    Parameters
    ----------
    bound : BoundTerm
    evaluator : Evaluator
    theta : ndarray, shape (num_coefficients,)
    share : float
        Number of candidates to draw, relative to the number of points; at most all candidates are drawn.
    random : numpy.random.Generator

    Returns
    -------
    ndarray of int64, or None
        Sorted; None if the term has no candidates.
    """
    if bound.candidates is None:
        return None
    number = len(bound.candidates.term)
    residuals = to_host(bound.candidates.residuals(evaluator, theta)).astype(np.float64)
    squares = np.square(residuals).reshape(number, -1).sum(axis=1)
    count = min(round(share * len(bound.term)), number)
    rows = random.choice(number, count, replace=False, p=_probabilities(squares))
    return np.sort(rows).astype(np.int64)


def _probabilities(squares: Array) -> Array:
    """Return probabilities proportional to squared residuals over their mean, plus one: no point is never drawn."""
    mean = squares.mean()
    # Residuals that vanish, or overflow, tell nothing about where to draw.
    weights = squares / mean + 1.0 if 0.0 < mean < np.inf else np.ones_like(squares)
    return np.asarray(weights / weights.sum())


def drawn_terms(own: Sequence[BoundTerm], drawn: Drawn, seed: int) -> tuple[BoundTerm, ...]:
    """Return the terms with candidates in the place of some of their points: so many, always the same ones.

    Parameters
    ----------
    own : sequence of BoundTerm
        With their own points.
    drawn : tuple of ndarray or None
        Rows of the candidates.
    seed : int
        Chooses the points that make room.

    Raises
    ------
    KanmgTypeError, KanmgValueError
        If `drawn` does not fit the terms.
    """
    if not isinstance(drawn, Sequence) or len(drawn) != len(own):
        raise KanmgTypeError(
            f"`drawn={drawn!r}` must have one entry for each of the {len(own)} terms. Pass what `problem.drawn` was."
        )
    terms = []
    for number, (bound, rows) in enumerate(zip(own, drawn, strict=True)):
        if rows is None:
            terms.append(bound)
            continue
        _check_rows(bound, rows)
        places = permutation(len(bound.term), seed, Stream.REPLACED, number)[: len(rows)]
        terms.append(bound.replace(np.sort(places), rows))
    return tuple(terms)


def _check_rows(bound: BoundTerm, rows: Any) -> None:
    """Refuse what is no choice of rows of a term's candidates."""
    name, candidates = bound.term.name, bound.term.candidates
    if candidates is None:
        raise KanmgValueError(f"`drawn` has rows for term {name!r}, which has no `candidates`. Pass None for it.")
    if not isinstance(rows, np.ndarray) or rows.ndim != 1 or rows.dtype.kind != "i":
        raise KanmgTypeError(f"`drawn` has {rows!r} for term {name!r}. Pass a vector of integers, shape (K,), or None.")
    if len(rows) > len(bound.term) or (rows < 0).any() or (rows >= len(candidates)).any():
        raise KanmgValueError(
            f"`drawn` has {len(rows)} rows for term {name!r}, which has {len(bound.term)} points and "
            f"{len(candidates)} candidates. Pass at most as many as there are points, from 0 to {len(candidates) - 1}."
        )
