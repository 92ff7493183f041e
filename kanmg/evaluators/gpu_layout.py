"""How the CUDA kernels see a network: the table of layers, and the order of the coefficients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kanmg.errors import KanmgValueError
from kanmg.evaluators.gpu_source import CARDINAL
from kanmg.evaluators.plan import BASIS, CELLS, COEFFICIENTS, UNIFORM
from kanmg.network import Network, Spline

if TYPE_CHECKING:
    import numpy.typing as npt

    from kanmg.evaluators.plan import IntArray, Plan

    Order = npt.NDArray[np.int32]

__all__ = ["device_layout", "odd"]

# What the kernels' 32-bit numbers can tell apart: cells of a layer (`Column` in layers.cu), and numbers of an array,
# with room for gaps.
_MAX_CELLS = (1 << 24) - 1
_MAX_NUMBERS = 1 << 30


def device_layout(plan: Plan, network: Network) -> tuple[IntArray, Order, Order]:
    """Lay out a network for the CUDA kernels.

    Parameters
    ----------
    plan : Plan
        With outputs that are not grouped.
    network : Network

    Returns
    -------
    layers : ndarray of int64
        The table of layers; marked are those whose polynomials the compiler knows.
    order : ndarray of int32
        Of each of the kernels' coefficients the number of the user's, or -1: those of an edge are neighbours there.
    places : ndarray of int32
        Of each of the user's coefficients the number of the kernels'.

    Raises
    ------
    KanmgValueError
        If there are too many cells, coefficients, or polynomials of cells.
    """
    for name, number, most in (
        ("cells in a layer", plan.layers[:, CELLS].max(), _MAX_CELLS),
        ("coefficients", plan.num_coefficients, _MAX_NUMBERS),
        ("numbers of polynomials in cells", plan.tables.size, _MAX_NUMBERS),
    ):
        if number > most:
            raise KanmgValueError(f"{number} {name} are too many for a GPU, which takes {most}. Use `device='cpu'`.")
    layers, parts, begin = plan.layers.copy(), [], 0
    user = np.arange(network.num_coefficients)
    of_plan = np.full(plan.num_coefficients, -1)
    of_plan[user if plan.padding is None else plan.padding.positions] = user
    ends = [*plan.layers[1:, COEFFICIENTS], plan.num_coefficients]
    for row, layer, end in zip(layers, network.layers, ends, strict=True):
        part = of_plan[row[COEFFICIENTS] : end]
        row[COEFFICIENTS] = begin
        if isinstance(layer, Spline):
            edges = part.reshape(layer.num_inputs, -1, layer.num_outputs).swapaxes(1, 2)
            part = np.pad(edges, ((0, 0), (0, 0), (0, 1 - edges.shape[2] % 2)), constant_values=-1).ravel()
            row[BASIS] = odd(row[BASIS])
            if row[UNIFORM] and layer.degree == len(plan.marker) - 1:
                row[UNIFORM] = CARDINAL
        parts.append(part)
        begin += part.size
    order = np.concatenate(parts).astype(np.int32)
    places = np.empty(user.size, np.int32)
    places[order[order >= 0]] = np.flatnonzero(order >= 0)
    return layers, order, places


def odd(number: int) -> int:
    """Round up, so that neighbouring edges lie in different banks of the shared memory.

    Parameters
    ----------
    number : int

    Examples
    --------
    >>> odd(12), odd(13)
    (13, 13)
    """
    return number + 1 - number % 2
