"""Sparse matrices with about equally many entries in every row, on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    import scipy.sparse

__all__ = ["RowMatrix"]


class RowMatrix:
    """A sparse matrix as two dense ones: the columns and the values of each row's entries.

    Products take a few operations of torch, in a fixed order of the sums. Meant for matrices whose longest row is not
    much longer than the others.

    Parameters
    ----------
    matrix : csr_array, shape (n, m)
    device : torch.device

    Examples
    --------
    >>> import scipy.sparse
    >>> matrix = scipy.sparse.csr_array(np.array([[1.0, 0.0], [0.5, 0.5]]))
    >>> RowMatrix(matrix, torch.device("cpu")).times(torch.tensor([2.0, 4.0], dtype=torch.float64))
    tensor([2., 3.], dtype=torch.float64)
    """

    def __init__(self, matrix: scipy.sparse.csr_array, device: torch.device) -> None:
        lengths = np.diff(matrix.indptr)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        places = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths)
        width = int(lengths.max(initial=0))
        columns, values = np.zeros((len(lengths), width), np.int64), np.zeros((len(lengths), width), matrix.dtype)
        columns[rows, places], values[rows, places] = matrix.indices, matrix.data
        # Places without an entry point at the row's last one: nothing else may meet the zero there, if it is infinite.
        last = np.where(lengths > 0, lengths - 1, 0)
        short = np.arange(width) >= lengths[:, None]
        columns[short] = np.broadcast_to(np.take_along_axis(columns, last[:, None], axis=1), columns.shape)[short]
        self._columns, self._values = torch.from_numpy(columns).to(device), torch.from_numpy(values).to(device)

    def times(self, right: Any) -> Any:
        """Multiply with a tensor: a vector, shape (m,), or a matrix, shape (m, k)."""
        if right.ndim == 1:
            return (self._values * right[self._columns]).sum(dim=1)
        result = right.new_zeros((len(self._columns), right.shape[1]))
        for columns, values in zip(self._columns.unbind(dim=1), self._values.unbind(dim=1), strict=True):
            result += values[:, None] * right[columns]
        return result
