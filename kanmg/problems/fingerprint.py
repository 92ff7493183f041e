"""What makes a collocation problem another one, as a hash."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from kanmg.arrays import row_chunks
from kanmg.problems.recording import sample_residual

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kanmg.evaluators.base import Array
    from kanmg.problems.bound_term import BoundTerm
    from kanmg.problems.scalars import Setting

__all__ = ["fingerprint_of_terms"]

# Each residual is called on no more points than these.
_SAMPLED_POINTS = 256


def fingerprint_of_terms(terms: Iterable[BoundTerm], setting: Setting, seed: int) -> str:
    """Hash names, scalars, weights, points, data, the derivatives that residuals ask for, and their values.

    Parameters
    ----------
    terms : iterable of BoundTerm
    setting : Setting
    seed : int

    Returns
    -------
    str
        SHA-256.
    """
    digest = hashlib.sha256(f"Collocation {setting.coordinates} {setting.fields} {seed}".encode())
    for scalar in (*setting.parameters, *setting.constants):
        digest.update(repr(scalar).encode())
    for bound in terms:
        term = bound.term
        digest.update(f"{term.name} {term.weight!r} {bound.requests}".encode())
        for array in (term.points, term.point_weights):
            _update(digest, array)
        for array in (term.normals, term.candidates):
            if array is not None:
                _update(digest, array)
        if term.data is not None:
            digest.update(b"data")
            _update(digest, term.data)
        if not setting.ansatz.is_plain:
            # A function cannot be hashed, nor can its values to the last bit.
            digest.update(_digits(*bound.paths.sample(_SAMPLED_POINTS)))
        values = sample_residual(term, setting, _SAMPLED_POINTS)
        digest.update(_digits(values))
    return digest.hexdigest()


def _digits(*arrays: Array) -> bytes:
    """Write numbers with six digits."""
    return " ".join(f"{value:.5e}" for array in arrays for value in array.ravel().tolist()).encode()


def _update(digest: hashlib._Hash, array: Array | None) -> None:
    """Add shape, dtype and data to a hash, chunk by chunk."""
    if array is None:
        digest.update(b"none")
        return
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    for rows in row_chunks(len(array), array[0].size):
        digest.update(array[rows].data.cast("B"))
