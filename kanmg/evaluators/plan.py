"""How the compiled kernels see a network: two tables of numbers, made once per level.

This module is plain NumPy; `kanmg.evaluators.kernels` says what the columns mean to the kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import BSpline

from kanmg.network import OUTSIDE_POLICIES, Affine, Network, Spline
from kanmg.splines import Knots, local_basis
from kanmg.splines.free_knots import MovingKnots

__all__ = ["Padding", "Plan", "jet_plan", "make_plan", "move_knots"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Columns of `Plan.layers`. A slot is where in a thread's workspace something begins.
KIND, INPUTS, OUTPUTS, BASIS, COEFFICIENTS, TABLE, TABLE_STRIDE, CELLS, UNIFORM, OUTSIDE = range(10)
INPUT_SLOT, OUTPUT_SLOT, ADJOINT_SLOT, COTANGENT_SLOT, CELL_SLOT, VALUE_SLOT, SLOPE_SLOT, BIAS, NUMBER = range(10, 19)
ORDER_SLOT = 19
# Among the strips of the normal equations: a layer's first strip, and its first input's row of cells.
STRIP, CELL_ROW = 20, 21
NUM_FIELDS = 22

# Columns of `StripPlan.strips`: the row of cells, the functions on all cells, and where their places begin.
STRIP_CELL, STRIP_BASIS, STRIP_PLACE = range(3)
NUM_STRIP_FIELDS = 3

AFFINE, SPLINE = 0, 1

# Outputs that are computed together.
GROUP = 4
EXTEND, LINEAR, CLAMP, ZERO, ERROR = range(5)

# A block's basis values and hidden values should stay in the second-level cache. Blocks for the first-level cache are
# slower by a tenth, because their loops are shorter; in wide layers, blocks of 8 samples by a fifth.
_BLOCK_BYTES = 65536
_BLOCK_LIMITS = (32, 128)
_JET_BLOCK_LIMITS = (8, 64)


@dataclass(frozen=True)
class Padding:
    """Where the coefficients lie among those of the kernels, which have another order and rows that no user sees.

    Of one input, the coefficients of the outputs that fill groups of four come first, (function, output); then those of
    the remaining outputs one by one, (output, function). So both are read as vectors: four outputs, or the k + 1
    functions of a cell.

    Rows are added where a layer's degree is below the kernels' (the missing functions are zero) and where the policy is
    `zero` (functions beyond the first and the last, which have coefficient zero).
    """

    positions: IntArray
    size: int

    def pad(self, theta: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Coefficients as the kernels want them."""
        padded = np.zeros(self.size, theta.dtype)
        padded[self.positions] = theta
        return padded

    def compress(self, gradient: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Pick what belongs to the user's coefficients, along the last axis."""
        return np.take(gradient, self.positions, axis=-1)


@dataclass(frozen=True)
class Plan:
    """A network as the kernels see it.

    Attributes
    ----------
    marker : tuple of int
        As many entries as basis functions per cell: the kernels' compile-time constant.
    layers : ndarray of int64, shape (L, NUM_FIELDS)
    tables : ndarray, shape (any,)
    block : int
        Samples that run through the network together.
    work_size, cells_size : int
        Entries of a thread's workspaces.
    num_coefficients : int
        With padding.
    padding : Padding or None
    """

    marker: tuple[int, ...]
    layers: IntArray
    tables: npt.NDArray[Any]
    block: int
    work_size: int
    cells_size: int
    num_coefficients: int
    padding: Padding | None


def make_plan(network: Network, dtype: np.dtype[Any], *, grouped: bool = True) -> Plan:
    """Lay out a network for the kernels of the largest degree among its layers.

    Parameters
    ----------
    network : Network
    dtype : numpy.dtype
    grouped : bool, default True
        Whether the outputs of spline layers are grouped as the kernels want them; else the coefficients of a layer have
        the order (input, function, output).
    """
    splines = [layer for layer in network.layers if isinstance(layer, Spline)]
    degree = max((layer.degree for layer in splines), default=1)
    block = _block_size(network, degree, dtype)
    layers = np.zeros((len(network.layers), NUM_FIELDS), np.int64)
    tables, positions = _Pile(), []
    num_coefficients = num_strips = 0
    num_cell_rows = 1
    for number, layer in enumerate(network.layers):
        row = layers[number]
        row[[STRIP, CELL_ROW]] = num_strips, num_cell_rows
        row[[INPUTS, OUTPUTS, COEFFICIENTS, NUMBER]] = layer.num_inputs, layer.num_outputs, num_coefficients, number + 1
        if isinstance(layer, Affine):
            shape, first = _fill_affine(row, layer), 0
            num_strips += -(-layer.num_coefficients // (degree + 1))
        else:
            shape, first = _fill_spline(row, layer, degree, tables)
            num_strips += layer.num_inputs * layer.num_outputs
            num_cell_rows += layer.num_inputs
        positions.append(num_coefficients + _positions(layer, shape, first, grouped=grouped))
        num_coefficients += math.prod(shape)
    work_size, cells_size = _fill_slots(layers, network.widths, block, degree)
    places = np.concatenate(positions)
    padding = None
    if num_coefficients != places.size or not np.array_equal(places, np.arange(places.size)):
        padding = Padding(places, num_coefficients)
    return Plan(
        marker=(0,) * (degree + 1),
        layers=layers,
        tables=tables.array(dtype),
        block=block,
        work_size=work_size,
        cells_size=cells_size,
        num_coefficients=num_coefficients,
        padding=padding,
    )


def _block_size(network: Network, degree: int, dtype: np.dtype[Any]) -> int:
    per_sample = sum(2 * network.widths[i] + 2 * (degree + 2) * network.widths[i] for i in range(len(network.layers)))
    smallest, largest = _BLOCK_LIMITS
    return int(np.clip(_BLOCK_BYTES // (per_sample * dtype.itemsize) // 8 * 8, smallest, largest))


class _Pile:
    """Numbers put one behind the other; the same key is stored once."""

    def __init__(self) -> None:
        self.parts: list[FloatArray] = []
        self.size = 0
        self.places: dict[Any, int] = {}

    def put(self, key: Any, values: FloatArray) -> int:
        if key not in self.places:
            self.places[key] = self.size
            self.parts.append(values)
            self.size += values.size
        return self.places[key]

    def array(self, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        # One entry at least: the kernels take the address of the first.
        return np.concatenate([*self.parts, np.zeros(1)]).astype(dtype)


def _fill_affine(row: IntArray, layer: Affine) -> tuple[int, ...]:
    row[KIND] = AFFINE
    row[BIAS] = layer.shape[0] > layer.num_inputs
    return layer.shape


def _fill_spline(row: IntArray, layer: Spline, degree: int, tables: _Pile) -> tuple[tuple[int, ...], int]:
    """Describe a spline layer; returns the padded shape and the first row of the user's coefficients in it."""
    zero = layer.outside == "zero"
    uniform = all(knots.is_uniform for knots in layer.knots) and not zero
    outer_cells = layer.degree if zero else 0
    num_cells = layer.num_intervals + 2 * outer_cells
    shared = len(set(layer.knots)) == 1
    inputs = layer.knots[:1] if shared else layer.knots
    if isinstance(layer.knots[0], MovingKnots):
        blocks = list(_moving_tables(layer, degree))
    else:
        blocks = [_table(knots, uniform, outer_cells, degree) for knots in inputs]
    row[[KIND, CELLS, UNIFORM, OUTSIDE]] = SPLINE, num_cells, uniform, OUTSIDE_POLICIES.index(layer.outside)
    row[TABLE] = tables.put((inputs, uniform, outer_cells), np.concatenate(blocks))
    row[TABLE_STRIDE] = 0 if shared else blocks[0].size
    row[BASIS] = num_cells + degree
    return (layer.num_inputs, num_cells + degree, layer.num_outputs), outer_cells


def _positions(layer: Affine | Spline, padded: tuple[int, ...], first: int, *, grouped: bool) -> IntArray:
    """Where a layer's coefficients lie in the flattened padded array, which is grouped for the kernels."""
    places = np.arange(math.prod(padded), dtype=np.int64)
    if isinstance(layer, Affine):
        return places
    num_inputs, num_basis, num_outputs = padded
    size = num_outputs - num_outputs % GROUP if grouped else num_outputs
    inputs = places.reshape(num_inputs, num_basis * num_outputs)
    groups = inputs[:, : num_basis * size].reshape(num_inputs, num_basis, size)
    singles = inputs[:, num_basis * size :].reshape(num_inputs, num_outputs - size, num_basis)
    together = np.concatenate([groups, singles.swapaxes(1, 2)], axis=2)
    return together[:, first : first + layer.num_basis].ravel()


@lru_cache(maxsize=256)
def _table(knots: Knots, uniform: bool, outer_cells: int, degree: int) -> FloatArray:
    """Put ends, inverse cell lengths and local polynomials of one knot vector into one row of numbers.

    Uniform: left end, right end, inverse length, the polynomials of one cell. Otherwise: left end, right end, cells + 1
    breakpoints, the inverse lengths, and the polynomials of every cell; `outer_cells` on either side are included.
    """
    lower, upper = knots.domain
    if uniform:
        polynomials = _cardinal_polynomials(knots.degree)
        numbers = [np.array([lower, upper, knots.num_intervals / (upper - lower)]), _widened(polynomials, degree)]
    else:
        breakpoints = knots.vector[knots.degree - outer_cells : knots.vector.size - knots.degree + outer_cells]
        lengths = np.diff(breakpoints)
        lengths[lengths == 0.0] = 1.0  # only outside clamped ends; never divided into
        polynomials = _inner_polynomials(knots)
        if outer_cells:
            polynomials = np.concatenate([_outer_polynomials(knots, 0), polynomials, _outer_polynomials(knots, 1)])
        numbers = [breakpoints[:1], breakpoints[-1:], breakpoints, 1.0 / lengths, _widened(polynomials, degree)]
    return np.concatenate([np.ravel(part) for part in numbers])


def move_knots(plan: Plan, network: Network) -> bool:
    """Write the tables of layers with free knots anew, in the place of those before.

    Parameters
    ----------
    plan : Plan
    network : Network
        That differs from the plan's in the places of free knots only.

    Returns
    -------
    bool
        Whether there are any.
    """
    degree, moves = len(plan.marker) - 1, False
    for row, layer in zip(plan.layers, network.layers, strict=True):
        if isinstance(layer, Spline) and isinstance(layer.knots[0], MovingKnots):
            tables, moves = _moving_tables(layer, degree), True
            plan.tables[row[TABLE] : row[TABLE] + tables.size] = tables.ravel()
    return moves


def _moving_tables(layer: Spline, degree: int) -> FloatArray:
    """Compute what `_table` does for free knots, of all inputs at once: shape (P, any).

    Their interior knots are double: every second cell is empty, and the kernels never find a value in it.
    """
    k, n = layer.degree, layer.num_intervals
    vectors = np.stack([knots.vector for knots in layer.knots])
    breakpoints = vectors[:, k : k + n + 1]
    cells = (n + 1) // 2
    polynomials = np.zeros((len(vectors), n, degree + 1, degree + 1))
    polynomials[:, ::2, : k + 1, : k + 1] = _moving_polynomials(vectors, k, cells).transpose(2, 3, 1, 0)
    inverses = np.ones((len(vectors), n))
    inverses[:, ::2] = 1.0 / (breakpoints[:, 1::2] - breakpoints[:, ::2])
    numbers = [breakpoints[:, :1], breakpoints[:, -1:], breakpoints, inverses, polynomials.reshape(len(vectors), -1)]
    return np.concatenate(numbers, axis=1)


def _moving_polynomials(vectors: FloatArray, degree: int, cells: int) -> FloatArray:
    """Power coefficients of the local functions of every second cell: shape (function, power, P, cells).

    The recursion of Cox and de Boor on polynomials of the place in the cell, from 0 to 1.
    """

    def knots(shift: int) -> FloatArray:
        return vectors[:, degree + shift : degree + shift + 2 * cells - 1 : 2]

    start, length = knots(0), knots(1) - knots(0)
    values = np.zeros((degree + 1, degree + 1, *start.shape))
    values[0, 0] = 1.0
    for d in range(1, degree + 1):
        carried = np.zeros(values.shape[1:])
        for s in range(d):
            left, right = knots(s + 1 - d), knots(s + 1)
            width = right - left
            slope, own = length / width, values[s]
            rising = (start - left) / width * own
            rising[1:] += slope * own[:-1]
            values[s] = carried + own - rising
            carried = rising
        values[d] = carried
    return values


def _widened(polynomials: FloatArray, degree: int) -> FloatArray:
    """Polynomials of a lower degree among those of `degree`: functions and powers that are missing are zero."""
    missing = degree + 1 - polynomials.shape[-1]
    return np.pad(polynomials, ((0, 0), (0, missing), (0, missing)))


def _cardinal_polynomials(degree: int) -> FloatArray:
    """Power coefficients of the uniform B-splines on one cell of length one, shape (1, power, function).

    `B^k_s(t) = ((t + k - s) B^{k-1}_{s-1}(t) + (1 + s - t) B^{k-1}_s(t)) / k`: the recursion of Cox and de Boor with
    the knots at integers, in exact fractions.
    """
    pieces = [[Fraction(1)]]
    for k in range(1, degree + 1):
        nothing = [Fraction(0)] * k
        padded = [nothing, *pieces, nothing]
        pieces = [
            [
                (low + (k - s) * high - left + (1 + s) * right) / k
                for low, high, left, right in zip(
                    [Fraction(0), *padded[s]], [*padded[s], Fraction(0)],
                    [Fraction(0), *padded[s + 1]], [*padded[s + 1], Fraction(0)], strict=True,
                )
            ]
            for s in range(k + 1)
        ]  # fmt: skip
    return np.array(pieces, dtype=np.float64).T[np.newaxis]


def _inner_polynomials(knots: Knots) -> FloatArray:
    """Power coefficients of the local basis functions of every cell, shape (cells, power, function).

    Taylor coefficients at the cell's left end, in units of the cell's length.
    """
    lengths = np.diff(knots.breakpoints)
    powers = [
        local_basis(knots, knots.breakpoints[:-1], j)[1] * (lengths**j / math.factorial(j))[:, np.newaxis]
        for j in range(knots.degree + 1)
    ]
    return np.stack(powers, axis=1)


def _outer_polynomials(knots: Knots, side: int) -> FloatArray:
    """Do the same for the `degree` cells between the exterior knots on one side (0: left, 1: right).

    An empty cell (clamped knots) is met at the right end of the domain only: there it continues the last cell.
    """
    degree, vector = knots.degree, knots.vector
    extended = np.concatenate([vector[0] - np.arange(degree, 0, -1.0), vector, vector[-1] + np.arange(1.0, degree + 1)])
    basis = BSpline(extended, np.eye(extended.size - degree - 1), degree)
    result = np.zeros((degree, degree + 1, degree + 1))
    for cell in range(degree):
        span = cell + (degree if side == 0 else knots.num_basis + degree)
        length = extended[span + 1] - extended[span]
        for j in range(degree + 1):
            if length > 0.0:
                values = basis(extended[span], nu=j) * length**j
            else:
                values = np.zeros(extended.size)
                values[knots.num_intervals - 1 + degree : knots.num_basis + degree] = local_basis(
                    knots, np.array([knots.domain[1]]), j
                )[1]
            result[cell, j] = values[span - degree : span + 1] / math.factorial(j)
    return result


def _fill_slots(layers: IntArray, widths: tuple[int, ...], block: int, degree: int) -> tuple[int, int]:
    """Give every layer its places in the workspaces; returns the sizes of both.

    Values, then adjoints, of all hidden points; then, per spline layer, the basis values and slopes of its inputs.
    Behind the cells there is room for an order of the samples.
    """
    sizes = [block * width for width in widths]
    values = np.concatenate([[0], np.cumsum(sizes)])
    layers[:, INPUT_SLOT], layers[:, OUTPUT_SLOT] = values[:-2], values[1:-1]
    layers[:, ADJOINT_SLOT], layers[:, COTANGENT_SLOT] = values[:-2] + values[-1], values[1:-1] + values[-1]
    end, cells = 2 * int(values[-1]), 0
    for row, size in zip(layers, sizes, strict=False):
        row[[CELL_SLOT, VALUE_SLOT, SLOPE_SLOT]] = cells, end, end + size * (degree + 1)
        cells += size
        end += 2 * size * (degree + 1)
    # The kernel of tangents keeps two values with derivatives and one input's local functions instead.
    tangent_size = 4 * max(widths) + 4 * (degree + 1)
    # Wide layers with few cells order the samples of a block by their cells.
    layers[:, ORDER_SLOT] = cells
    return max(end, tangent_size), cells + 2 * block + 1


def jet_plan(plan: Plan, directions: int, order: int) -> Plan:
    """Lay out a network for the kernel of jets: workspaces for so many directions and derivatives, shorter blocks.

    Values, then adjoints, of the jets of all hidden points, in rows of whole vectors; then, per spline layer, the basis
    functions of its inputs and their first three derivatives; then two rows for slopes and curvatures of outputs.
    """
    count, numbers = len(plan.marker), 1 + (directions + directions % 2) * order
    widths = np.append(plan.layers[:, INPUTS], plan.layers[-1, OUTPUTS])
    lengths = -(-widths // GROUP) * GROUP
    per_sample = 2 * numbers * int(lengths.sum()) + 4 * count * int(widths[:-1].sum())
    smallest, largest = _JET_BLOCK_LIMITS
    block = int(np.clip(_BLOCK_BYTES // (per_sample * plan.tables.itemsize) // 4 * 4, smallest, largest))
    layers = plan.layers.copy()
    values = np.concatenate([[0], np.cumsum(block * numbers * lengths)])
    layers[:, INPUT_SLOT], layers[:, OUTPUT_SLOT] = values[:-2], values[1:-1]
    layers[:, ADJOINT_SLOT], layers[:, COTANGENT_SLOT] = values[:-2] + values[-1], values[1:-1] + values[-1]
    cells = np.concatenate([[0], np.cumsum(block * widths[:-1])])
    layers[:, CELL_SLOT], layers[:, VALUE_SLOT] = cells[:-1], 2 * values[-1] + 4 * count * cells[:-1]
    end = int(2 * values[-1] + 4 * count * cells[-1])
    layers[:, SLOPE_SLOT] = end
    work_size = end + 2 * int(lengths.max())
    return replace(plan, layers=layers, block=block, work_size=work_size, cells_size=int(cells[-1]))
