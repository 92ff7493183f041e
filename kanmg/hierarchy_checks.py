"""Checks of what hierarchies are built from."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.network import Network, Spline

__all__ = ["check_networks", "check_size", "checked_num_levels", "checked_sizes"]

# A vector of so many takes 2 GB, and a smoother keeps a dozen or more of them.
MAX_COEFFICIENTS = 2**28


def checked_sizes(widths: Sequence[int], lift: str | None) -> list[int]:
    """Check `widths` and `lift`."""
    if lift not in (None, "affine"):
        raise KanmgValueError(f"`lift={lift!r}` is unknown. Write `lift='affine'`, or `lift=None` for splines only.")
    if isinstance(widths, str | bytes) or not isinstance(widths, Iterable):
        raise KanmgTypeError(
            f"`widths={widths!r}` is a {type(widths).__name__}. Pass the numbers of inputs, hidden values and outputs: "
            "`widths=(2, 5, 1)`, for example."
        )
    sizes = list(widths)
    for size in sizes:
        if isinstance(size, bool) or not hasattr(size, "__index__"):
            raise KanmgTypeError(f"`widths={tuple(sizes)}` holds {size!r}. Pass integers, such as `widths=(2, 5, 1)`.")
    least = 2 if lift is None else 3
    if len(sizes) < least:
        raise KanmgValueError(
            f"`widths={tuple(sizes)}` has {len(sizes)} entries, but at least {least} are required"
            f"{' with an affine lift' if lift else ''}: `widths=(2, 5, 1)`, for example."
        )
    return sizes


def checked_num_levels(num_levels: SupportsIndex) -> int:
    """Check the number of levels."""
    if isinstance(num_levels, bool) or not hasattr(num_levels, "__index__"):
        raise KanmgTypeError(
            f"`num_levels` is {num_levels!r} of type `{type(num_levels).__name__}`. Write e.g. `num_levels=4`."
        )
    number = operator.index(num_levels)
    if number < 1:
        raise KanmgValueError(f"`num_levels` is {number}. At least 1 level is required: `num_levels=4`, for example.")
    return number


def check_size(network: Network, num_levels: int) -> None:
    """Refuse a finest level that fits in no memory, before anything of it is built."""
    splines = [layer for layer in network.layers if isinstance(layer, Spline)]
    # Every refinement adds as many basis functions as there are cells.
    added = sum(layer.num_inputs * layer.num_intervals * layer.num_outputs for layer in splines)
    room = MAX_COEFFICIENTS - network.num_coefficients
    possible = (room // max(added, 1) + 1).bit_length()
    if room < 0 or (added and num_levels > possible):
        levels = f"`num_levels={possible}` or fewer; 3 to 6 are customary"
        raise KanmgValueError(
            f"the finest of {num_levels} levels would have more than {MAX_COEFFICIENTS} coefficients, 2 GB in float64. "
            f"Use {'fewer cells or narrower layers' if room < 0 else levels}."
        )


def check_networks(networks: tuple[Any, ...]) -> None:
    """Refuse what are no networks."""
    if not networks:
        raise KanmgValueError("`Hierarchy` got no networks. Pass at least one, coarsest first.")
    for index, network in enumerate(networks):
        if not isinstance(network, Network):
            raise KanmgTypeError(
                f"entry {index} of `networks` is a {type(network).__name__}. Pass `kanmg.Network`s, coarsest first, or "
                "write `kanmg.Hierarchy.from_network(network, num_levels=4)`."
            )
