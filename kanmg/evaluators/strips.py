"""Normal equations from the entries of the Jacobian that are not zero: where these lie, and their product."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # its subpackages are loaded when they are first used

from kanmg.evaluators import kernels
from kanmg.evaluators.normal_kernels import make_normal_equations
from kanmg.evaluators.plan import (
    AFFINE,
    BASIS,
    BIAS,
    CELL_ROW,
    COEFFICIENTS,
    GROUP,
    INPUTS,
    KIND,
    NUM_STRIP_FIELDS,
    OUTPUTS,
    STRIP_BASIS,
    STRIP_CELL,
    STRIP_PLACE,
    IntArray,
)
from kanmg.evaluators.tasks import Task, compiled, num_parts

if TYPE_CHECKING:
    import scipy.sparse  # noqa: TC004 - tells mypy what SciPy loads by itself

    from kanmg.evaluators.base import Array
    from kanmg.evaluators.plan import Plan

__all__ = ["StripProduct"]

# Relative costs, fitted to what benchmarks/normal_equations.py prints: of a row in the product of two strips, by the
# number of their entries, in any dtype; of a multiply-add in the product of dense matrices, by the bytes of a number.
_STRIPS_PER_ROW, _STRIPS_PER_ENTRY = 1.0, 1.0
_DENSE_MULTIPLY_ADD = 0.0094


class StripProduct:
    """Compute J^T J and J^T r from the strips of J.

    Parameters
    ----------
    plan : Plan
    num_coefficients : int
        Of the network, without padding.
    dtype : numpy.dtype

    Attributes
    ----------
    num_strips, num_cell_rows : int
        Lengths of the first axes of strips and of their cells.
    entries_per_row : int
        Of all strips together.
    """

    def __init__(self, plan: Plan, num_coefficients: int, dtype: np.dtype[Any]) -> None:
        table, self._places = _strips(plan, num_coefficients)
        self._table = table
        count = len(plan.marker)
        self.num_strips, self.num_cell_rows = len(table), 1 + int(table[:, 0].max())
        self.entries_per_row = self.num_strips * count
        self._num_coefficients, self._dtype = num_coefficients, dtype
        self._num_basis, self._num_pairs = count, self.num_strips * (self.num_strips + 1) // 2
        block_size = int(table[:, STRIP_BASIS].max()) ** 2
        product = replace(
            plan, layers=table, work_size=block_size, cells_size=1, num_coefficients=num_coefficients, padding=None
        )
        self._task = Task(product, dtype)

    @property
    def is_faster(self) -> bool:
        """Whether it beats a product of dense matrices."""
        strips = self._num_pairs * (_STRIPS_PER_ROW + _STRIPS_PER_ENTRY * self._num_basis)
        return strips < self._num_coefficients**2 * self._dtype.itemsize * _DENSE_MULTIPLY_ADD

    @property
    def cost_per_row(self) -> float:
        """Multiply-adds for each row of J: one block for every pair of strips."""
        return float(self._num_pairs * self._num_basis**2)

    def multiply(self, strips: Array, cells: IntArray, residuals: Array) -> tuple[Array, Array]:
        """Compute J^T J and J^T r.

        Parameters
        ----------
        strips : ndarray, shape (num_strips, N, k + 1)
            As the kernel of jets writes them.
        cells : ndarray of int64, shape (num_cell_rows, N)
        residuals : ndarray, shape (N,)

        Returns
        -------
        matrix : ndarray, shape (num_coefficients, num_coefficients)
        vector : ndarray, shape (num_coefficients,)
        """
        matrix = np.empty((self._num_coefficients, self._num_coefficients), self._dtype)
        vector = np.empty(self._num_coefficients, self._dtype)
        fields = {
            kernels.STRIPS: strips,
            kernels.STRIP_CELLS: cells,
            kernels.PLACES: self._places,
            kernels.MATRIX: matrix,
            kernels.VECTOR: vector,
        }
        kernel = compiled(make_normal_equations, "normal equations", self._num_basis, self._dtype)
        with self._task.lock:
            work = len(residuals) * self.cost_per_row
            self._task.fill(residuals, fields, num_parts(work, 0))
            self._task.run(kernel)
        return matrix, vector

    def rows(self, strips: Array, cells: IntArray, num_residuals: int) -> scipy.sparse.csr_array:
        """Write the rows of J as a sparse matrix; those of the residuals at one sample become neighbours.

        Parameters
        ----------
        strips : ndarray, shape (num_strips, R N, k + 1)
            The rows of one residual after those of the other.
        cells : ndarray of int64, shape (num_cell_rows, R N)
        num_residuals : int
            R.

        Returns
        -------
        csr_array, shape (N R, num_coefficients)
        """
        count, length = strips.shape[1], self.entries_per_row
        order = np.arange(count).reshape(num_residuals, -1).T.ravel()
        # The last functions of an affine layer's strip, and those beyond a padded interval, are nobody's.
        places = np.append(self._places, np.full(self._num_basis, -1))
        first = self._table[:, STRIP_PLACE] + cells[self._table[:, STRIP_CELL]].T[order]
        columns = places[first[:, :, None] + np.arange(self._num_basis)].reshape(count, length)
        entries = np.ascontiguousarray(strips.transpose(1, 0, 2)[order]).reshape(count, length)
        own = columns >= 0
        starts = np.append(0, np.cumsum(own.sum(axis=1)))
        if not own.all():
            entries, columns = entries[own], columns[own]
        # Indices of four bytes, where they suffice, are read in half the time.
        index = np.int32 if starts[-1] < 2**31 else np.int64
        parts = entries.ravel(), columns.ravel().astype(index), starts.astype(index)
        return scipy.sparse.csr_array(parts, shape=(count, self._num_coefficients))


def _strips(plan: Plan, num_coefficients: int) -> tuple[IntArray, IntArray]:
    """List the strips: a table with one row for each, and the user's coefficients of all their functions, -1 for none.

    Strips have the order (layer, input, output); those of affine layers cut the layer's coefficients into equal parts.
    """
    count = len(plan.marker)
    users = np.full(plan.num_coefficients, -1, np.int64)
    users[slice(None) if plan.padding is None else plan.padding.positions] = np.arange(num_coefficients)
    table, places = [], []
    for layer in plan.layers:
        first, num_inputs, num_outputs = layer[[COEFFICIENTS, INPUTS, OUTPUTS]]
        if layer[KIND] == AFFINE:
            size = (num_inputs + layer[BIAS]) * num_outputs
            own = np.full((-(-size // count), count), -1, np.int64)
            own.ravel()[:size] = users[first : first + size]
            rows = np.zeros(len(own), np.int64)
        else:
            kernel_places = first + _spline_places(num_inputs, layer[BASIS], num_outputs)
            own = users[kernel_places].reshape(num_inputs * num_outputs, layer[BASIS])
            rows = np.repeat(layer[CELL_ROW] + np.arange(num_inputs), num_outputs)
        table += [(row, own.shape[1]) for row in rows]
        places.append(own.ravel())
    strips = np.zeros((len(table), NUM_STRIP_FIELDS), np.int64)
    strips[:, : STRIP_BASIS + 1] = table
    strips[1:, STRIP_BASIS + 1] = np.cumsum(strips[:-1, STRIP_BASIS])
    return strips, np.concatenate(places)


def _spline_places(num_inputs: int, num_basis: int, num_outputs: int) -> IntArray:
    """Where the kernels have the coefficients of a spline layer, by (input, output, function); see `Padding`."""
    grouped = num_outputs - num_outputs % GROUP
    functions, outputs = np.arange(num_basis), np.arange(num_outputs)[:, None]
    places = np.where(outputs < grouped, outputs + functions * grouped, outputs * num_basis + functions)
    result: IntArray = places + np.arange(num_inputs)[:, None, None] * (num_basis * num_outputs)
    return result
