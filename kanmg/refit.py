"""Move hidden values back into the intervals of the splines that take them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kanmg.initialisation import can_shift, evaluate_layer, rescale, sample_rows
from kanmg.network import Spline
from kanmg.splines.bspline import basis_matrix, evaluate_spline
from kanmg.vectors import beside, to_host

if TYPE_CHECKING:
    from kanmg.arrays import Array
    from kanmg.network import Network

__all__ = ["refit", "refitted"]

FloatArray = npt.NDArray[np.float64]

# Points of an interval at which a spline is fitted to what it was on a larger one.
_NUM_POINTS = 400


def refit(network: Network, theta: Array, x: Array, *, fill: float = 0.95) -> FloatArray:
    """Change coefficients so that hidden values lie inside their intervals; the function changes as little as possible.

    Outside its interval a spline is one polynomial, whatever the level: what hidden values do there, no refinement
    improves. An output of a layer that leaves the next layer's interval is scaled and shifted into it, an exact change
    of coefficients; the splines that take it are fitted, in the sense of least squares, to what they were as functions
    of the value before. They had knots where there are none now: that is the only error, and smoothing removes it.

    Parameters
    ----------
    network : Network
    theta : ndarray, shape (num_coefficients,)
    x : ndarray, shape (N, num_inputs)
        Inputs that tell how far hidden values go; at most 4096 of them, equally spaced rows, are looked at.
    fill : float, default 0.95
        Part of the interval that the values of a moved output fill.

    Returns
    -------
    ndarray of float64, shape (num_coefficients,)
        A copy of `theta` where nothing lies outside. Values that are not finite stay where they are.

    Raises
    ------
    ShapeError
        If `x` or `theta` does not fit the network, or `x` is empty.

    Examples
    --------
    >>> import kanmg
    >>> knots = kanmg.uniform_knots(4, degree=3)
    >>> network = kanmg.Network([kanmg.Spline(1, 1, knots=knots), kanmg.Spline(1, 1, knots=knots)])
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> theta = np.concatenate([2 * knots.greville, knots.greville])  # 2 x, then the identity: 2 x
    >>> moved = refit(network, theta, x)
    >>> hidden = network.unflatten(moved)[0][0, :, 0]  # of 0.95 x instead of 2 x
    >>> bool(np.allclose(hidden, 0.95 * knots.greville))
    True
    """
    values = sample_rows(network, x)
    given = np.asarray(theta)
    arrays = [np.array(array, np.float64) for array in network.unflatten(given)]
    for number, (layer, following) in enumerate(pairwise(network.at(given).layers)):
        values = evaluate_layer(layer, arrays[number], values)
        if not isinstance(following, Spline) or not can_shift(layer):
            continue
        scale, shift = np.ones(layer.num_outputs), np.zeros(layer.num_outputs)
        for q, knots in enumerate(following.knots):
            a, b = knots.domain
            low, high = values[:, q].min(), values[:, q].max()
            if not np.isfinite(high - low) or (a <= low and high <= b):
                continue
            centre, half = 0.5 * (a + b), 0.5 * fill * (b - a)
            ratio = 2.0 * half / (high - low) if high > low else 1.0
            offset = centre - 0.5 * ratio * (low + high)
            moved = np.linspace(centre - half, centre + half, _NUM_POINTS)
            before = evaluate_spline(knots, arrays[number + 1][q], (moved - offset) / ratio, outside=following.outside)
            if np.isfinite(before).all():
                arrays[number + 1][q] = np.linalg.lstsq(basis_matrix(knots, moved), before, rcond=1e-13)[0]
                scale[q], shift[q] = ratio, offset
        arrays[number] = rescale(layer, arrays[number], scale, shift)
        values = scale * values + shift
    result: FloatArray = network.flatten(arrays, given[network.offsets[-1] :])
    return result


def refitted(network: Network, theta: Array, x: Array) -> Array | None:
    """Refit the network's part of a vector, wherever it is; None if nothing lies outside."""
    size, before = network.num_coefficients, to_host(theta)
    moved = refit(network, before[:size], x)
    if np.array_equal(moved, before[:size]):
        return None
    changed: Array = beside(np.concatenate([moved, before[size:]]).astype(before.dtype), theta)
    return changed
