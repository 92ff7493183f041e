"""Hypothesis strategies for networks and for hierarchies of properly nested ones.

Coefficients come from `kanmg.initial_coefficients`, so that hidden values lie inside their intervals and rounding
errors are not amplified: properties can then be asserted to a few digits above rounding, in float32 too.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from kanmg.initialisation import initial_coefficients
from kanmg.network import Affine, Network, Spline
from kanmg.splines.knots import Knots
from kanmg.testing.strategies import KNOT_KINDS, nested_knots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypothesis.strategies import DrawFn, SearchStrategy

    from kanmg.network import Layer, Outside

__all__ = ["EXACT_POLICIES", "nested_networks", "network_coefficients", "network_points", "networks"]

FloatArray = npt.NDArray[np.float64]
Pair: TypeAlias = "tuple[Layer, Layer]"

EXACT_POLICIES: tuple[Outside, ...] = ("extend", "linear", "clamp", "error")
"""The policies outside the interval that commute with refinement: all but "zero"."""


@st.composite
def nested_networks(
    draw: DrawFn,
    *,
    max_depth: int = 4,
    max_width: int = 3,
    max_num_intervals: int = 5,
    degrees: SearchStrategy[int] | None = None,
    kinds: Sequence[str] = KNOT_KINDS,
    policies: Sequence[Outside] = EXACT_POLICIES,
) -> tuple[Network, Network]:
    """Draw pairs (coarse, fine) of properly nested networks of spline and affine layers.

    Degrees, knots and policies differ from layer to layer, intervals from input to input; the fine layers have their
    cells bisected, cut into thirds, cut at random, or left alone.

    Parameters
    ----------
    max_depth, max_width, max_num_intervals : int
        Largest numbers of layers, of inputs and outputs of a layer, and of coarse cells.
    degrees : SearchStrategy[int], optional
        1 to 5 by default.
    kinds : sequence of str
        A choice of `kanmg.testing.strategies.KNOT_KINDS`.
    policies : sequence of str
        What to draw `outside` from.

    Returns
    -------
    SearchStrategy[tuple[Network, Network]]

    Examples
    --------
    >>> from hypothesis import given
    >>> from kanmg import Hierarchy
    >>> @given(nested_networks())
    ... def check(networks):
    ...     assert Hierarchy(networks, evaluator="reference").num_levels == 2
    >>> check()
    """
    depth = draw(st.integers(1, max_depth))
    widths = draw(st.lists(st.integers(1, max_width), min_size=depth + 1, max_size=depth + 1))
    degrees = st.integers(1, 5) if degrees is None else degrees
    knots = nested_knots(degrees=degrees, max_num_intervals=max_num_intervals, kinds=kinds)
    pairs: list[Pair] = []
    for number, (width, following) in enumerate(pairwise(widths), start=1):
        if draw(st.integers(0, 4)) == 4:
            # Without a bias hidden values might miss their intervals.
            pairs.append((Affine(width, following, bias=number < depth or draw(st.booleans())),) * 2)
        else:
            pairs.append(_spline_pair(draw, width, following, draw(knots), draw(st.sampled_from(tuple(policies)))))
    domain = (-1.0, 1.0) if isinstance(pairs[0][0], Affine) else None
    coarse, fine = zip(*pairs, strict=True)
    return Network(coarse, domain=domain), Network(fine, domain=domain)


def networks(
    *,
    max_depth: int = 4,
    max_width: int = 3,
    max_num_intervals: int = 5,
    degrees: SearchStrategy[int] | None = None,
    kinds: Sequence[str] = KNOT_KINDS,
    policies: Sequence[Outside] = ("extend", "linear", "clamp", "zero", "error"),
) -> SearchStrategy[Network]:
    """Draw networks of spline and affine layers.

    Parameters
    ----------
    max_depth, max_width, max_num_intervals, degrees, kinds, policies
        As for `nested_networks`.

    Returns
    -------
    SearchStrategy[Network]

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(networks(max_depth=2))
    ... def check(network):
    ...     assert network.refine().widths == network.widths
    >>> check()
    """
    pairs = nested_networks(
        max_depth=max_depth,
        max_width=max_width,
        max_num_intervals=max_num_intervals,
        degrees=degrees,
        kinds=kinds,
        policies=policies,
    )
    return pairs.map(lambda pair: pair[0])


@st.composite
def network_points(draw: DrawFn, network: Network, *, num_samples: int = 40, reach: float = 0.0) -> FloatArray:
    """Draw points in a network's domain, the lower and upper ends of all inputs among them.

    Parameters
    ----------
    network : Network
    num_samples : int
    reach : float
        Points lie up to this part of the domain's length outside; if negative, at least so far inside.

    Returns
    -------
    SearchStrategy[ndarray]
        Of shape (num_samples, num_inputs). They depend on one drawn seed, and do not shrink.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    a, b = np.array(network.domain or ((-1.0, 1.0),) * network.num_inputs).T
    fractions = random.uniform(-reach, 1 + reach, (num_samples, network.num_inputs))
    inset = max(0.0, -reach)
    fractions[:2] = np.array([[inset], [1.0 - inset]])[:num_samples]
    points: FloatArray = np.where(fractions == 1.0, b, a + (b - a) * fractions)
    return points


@st.composite
def network_coefficients(draw: DrawFn, network: Network, *, noise: float = 0.1) -> FloatArray:
    """Draw coefficients whose hidden values lie inside their intervals.

    Parameters
    ----------
    network : Network
    noise : float
        As for `kanmg.initial_coefficients`.

    Returns
    -------
    SearchStrategy[ndarray]
        Of shape (num_coefficients,). They depend on one drawn seed, and do not shrink.
    """
    x = draw(network_points(network, num_samples=500))
    return initial_coefficients(network, x, seed=draw(st.integers(0, 2**16)), noise=noise, fill=0.8)


def _spline_pair(draw: DrawFn, num_inputs: int, num_outputs: int, knots: tuple[Knots, Knots], outside: Outside) -> Pair:
    """Build a coarse and a fine layer whose inputs have the drawn knots, or scaled and reflected ones."""
    scales = [1.0] * num_inputs
    if draw(st.booleans()):
        # Powers of two keep nested knots nested to the last bit.
        scales = [draw(st.sampled_from([1.0, 0.5, 2.0, -1.0, -2.0])) for _ in range(num_inputs)]
    coarse, fine = (
        Spline(num_inputs, num_outputs, knots=[_scaled(own, scale) for scale in scales], outside=outside)
        for own in knots
    )
    return coarse, fine


def _scaled(knots: Knots, scale: float) -> Knots:
    return Knots(np.sort(scale * knots.vector), knots.degree)
