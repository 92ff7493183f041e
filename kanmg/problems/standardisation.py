"""Units of the data: training sees values of about unit size, whatever the units of the user's.

The last layer's coefficients have the units of the values, those of the layers before have none. Where the values are
large, small, or far from zero, the two kinds differ by orders of magnitude, and with them the curvatures of the loss:
no first-order smoother bears that. An affine change of the last layer's coefficients is an exact one of the values,
because the basis functions sum to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kanmg.arrays import row_chunks
from kanmg.network import Affine, Network

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array

__all__ = ["Standardisation", "bears_shifts"]

# Values with a standard deviation between these limits, and means that are not larger than so many of them, are left
# as they are: among them values that somebody has scaled to [0, 1].
_SMALLEST, _LARGEST, _FARTHEST = 0.1, 4.0, 4.0


@dataclass(frozen=True, eq=False)
class Standardisation:
    """Values v of the data as `shift + scale * v'`, with v' of about unit size.

    Attributes
    ----------
    shift : ndarray, shape (Q,)
    scale : float
        One for all outputs: the loss remains the same one, in units of `scale**2`.
    """

    shift: npt.NDArray[np.float64]
    scale: float

    @classmethod
    def of(cls, mean: npt.NDArray[np.float64], deviation: float, *, may_shift: bool) -> Standardisation | None:
        """Choose one for values with these means and this standard deviation; None if they may stay as they are."""
        size = deviation if may_shift else float(np.hypot(deviation, np.sqrt(np.mean(mean**2))))
        is_far = may_shift and float(np.abs(mean).max()) > _FARTHEST * size
        if not np.isfinite(size) or not np.isfinite(mean).all() or (_SMALLEST <= size <= _LARGEST and not is_far):
            return None
        shift = mean if may_shift else np.zeros_like(mean)
        if size <= np.finfo(np.float64).tiny or size <= 1e-15 * float(np.abs(mean).max()):
            # Constant values: nothing is left to be scaled.
            size = 1.0
        return cls(shift, size)

    def values(self, y: Array) -> Array:
        """Return the values v' for values v, shape (N, Q): an array of the same dtype, computed chunk by chunk."""
        result = np.empty(y.shape, y.dtype)
        for rows in row_chunks(len(y), y.shape[1]):
            result[rows] = (y[rows] - self.shift) / self.scale
        return result

    def to_user(self, network: Network, theta: Array) -> Array:
        """Return the coefficients of a network with values v for those of one with values v'."""
        return self._changed(network, theta, lambda array, constant: self.scale * array + constant)

    def from_user(self, network: Network, theta: Array) -> Array:
        """Undo `to_user`."""
        return self._changed(network, theta, lambda array, constant: (array - constant) / self.scale)

    def _changed(self, network: Network, theta: Array, change: Any) -> Array:
        result = theta.copy()
        last, layer = network.unflatten(result)[-1], network.layers[-1]
        if isinstance(layer, Affine):
            constants = np.zeros((len(last), len(self.shift)))
            if len(last) > layer.num_inputs:
                constants[layer.num_inputs] = self.shift
        else:
            # Each input's basis functions sum to one.
            constants = self.shift / layer.num_inputs
        last[...] = change(last, constants)
        return result


def bears_shifts(network: Network) -> bool:
    """Whether a network can add any constant to its values by its last layer's coefficients alone."""
    layer = network.layers[-1]
    if isinstance(layer, Affine):
        return layer.shape[0] > layer.num_inputs
    return layer.outside != "zero"
