"""Coefficients and logits of free knots as coefficients of splines on doubled knots, and the derivative of that."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy  # its subpackages are loaded when they are first used

from kanmg.network import Affine, Network, Spline
from kanmg.splines.free_knots import DoubledSpace, FreeKnots, MovingKnots

if TYPE_CHECKING:
    import scipy.sparse  # noqa: TC004 - tells mypy what SciPy loads by itself

__all__ = ["KnotMap", "Moment"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


class _Free(NamedTuple):
    """A layer with free knots: where its numbers begin in the flat vectors, before and after doubling."""

    number: int
    layer: Spline
    motion: FreeKnots
    space: DoubledSpace


class KnotMap:
    """The map from a network's coefficients and logits to the coefficients of the same functions on doubled knots.

    Parameters
    ----------
    network : Network
        With free knots in at least one layer.

    Examples
    --------
    >>> import kanmg
    >>> layer = kanmg.Spline(1, 1, knots=kanmg.uniform_knots(2, degree=1), free_knots=True)
    >>> moment = KnotMap(kanmg.Network([layer])).moment(np.array([0.0, 1.0, 0.0, 0.0, 0.0]))
    >>> moment.network.layers[0].knots[0].vector.tolist(), moment.coefficients.tolist()
    ([-2.0, -1.0, 0.0, 0.0, 1.0, 2.0], [0.0, 1.0, 1.0, 0.0])

    As the first cell becomes longer, the peak moves to the right: values fall on its left and rise on its right.

    >>> moment.tangent.toarray()[:, 3].round(4).tolist()
    [0.0, -0.49, 0.49, 0.0]
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._free = [
            _Free(number, layer, layer.motion, DoubledSpace(layer.num_intervals, layer.degree))
            for number, layer in enumerate(network.layers)
            if isinstance(layer, Spline) and layer.motion is not None
        ]
        self._spaces = {free.number: free.space for free in self._free}

    def moment(self, theta: FloatArray) -> Moment:
        """Look at the network with the knots where the logits have moved them.

        Parameters
        ----------
        theta : ndarray of float64, shape (num_coefficients,)
        """
        logits = self.network.knot_logits(theta)
        vectors = {free.number: free.motion.vectors(logits[free.number]) for free in self._free}
        return Moment(self, theta, vectors)

    def doubled(self, vectors: dict[int, FloatArray]) -> Network:
        """Return the network with the interior ones of its free knots doubled."""
        layers = list(self.network.layers)
        for number, layer, _, space in self._free:
            knots = [MovingKnots(vector, layer.degree) for vector in vectors[number][:, space.places]]
            layers[number] = Spline(layer.num_inputs, layer.num_outputs, knots=knots, outside=layer.outside)
        return Network(layers, domain=self.network.domain if isinstance(layers[0], Affine) else None)

    def insertions(self, vectors: dict[int, FloatArray]) -> dict[int, FloatArray]:
        """Compute what `DoubledSpace.insertion` says of each layer with free knots."""
        return {number: space.insertion(vectors[number]) for number, space in self._spaces.items()}

    def insertion(self, insertions: dict[int, FloatArray]) -> scipy.sparse.csr_array:
        """Return the matrix from coefficients to those on the doubled knots."""
        parts = []
        for number, layer in enumerate(self.network.layers):
            if number not in insertions:
                parts.append(np.ones(layer.num_coefficients))
                continue
            values = insertions[number]
            entries = np.empty((*values.shape[1:], layer.num_outputs, len(values)))
            entries[...] = np.moveaxis(values, 0, 2)[:, :, None]
            parts.append(entries.ravel())
        return _matrix(np.concatenate(parts), *self._insertion_pattern, self.network.offsets[-1])

    def tangent(
        self, theta: FloatArray, vectors: dict[int, FloatArray], insertions: dict[int, FloatArray]
    ) -> scipy.sparse.csr_array:
        """Return the matrix from changes of coefficients and logits to those of coefficients on the doubled knots."""
        arrays, logits = self.network.unflatten(theta), self.network.knot_logits(theta)
        parts = {number: np.ones(layer.num_coefficients) for number, layer in enumerate(self.network.layers)}
        for number, layer, motion, space in self._free:
            insertion = insertions[number]
            change = space.change(vectors[number], motion.velocities(logits[number]))
            local = arrays[number].transpose(2, 0, 1)[:, :, space.functions]
            moved = change[0][:, None] * local[..., 0]
            for s in range(1, len(change)):
                moved += change[s][:, None] * local[..., s]
            kept = len(insertion)
            entries = np.empty((*insertion.shape[1:], layer.num_outputs, kept + len(moved)))
            entries[..., :kept] = np.moveaxis(insertion, 0, 2)[:, :, None]
            entries[..., kept:] = moved.transpose(2, 3, 1, 0)
            parts[number] = entries.ravel()
        return _matrix(np.concatenate(list(parts.values())), *self._tangent_pattern, self.network.num_coefficients)

    @cached_property
    def _insertion_pattern(self) -> tuple[IntArray, IntArray]:
        return self._pattern(with_logits=False)

    @cached_property
    def _tangent_pattern(self) -> tuple[IntArray, IntArray]:
        return self._pattern(with_logits=True)

    def _pattern(self, *, with_logits: bool) -> tuple[IntArray, IntArray]:
        """Find the columns of each row's entries, and where the rows start."""
        size = self.network.num_coefficients
        arrays = self.network.unflatten(np.arange(size))
        logits = self.network.knot_logits(np.arange(size))
        columns, lengths = [], [0]
        for number, (layer, numbers) in enumerate(zip(self.network.layers, arrays, strict=True)):
            if number not in self._spaces:
                columns.append(numbers.ravel())
                lengths += [1] * numbers.size
                continue
            own = numbers[:, self._spaces[number].functions].swapaxes(2, 3)
            if with_logits:
                shape = (*own.shape[:3], layer.free_knots)  # type: ignore[union-attr]
                own = np.concatenate([own, np.broadcast_to(logits[number][:, None, None], shape)], axis=3)
            columns.append(own.ravel())
            lengths += [own.shape[3]] * (own.size // own.shape[3])
        return np.concatenate(columns), np.cumsum(lengths)


class Moment:
    """A network with the knots where its logits have moved them.

    Parameters
    ----------
    knot_map : KnotMap
    theta : ndarray of float64, shape (num_coefficients,)
    vectors : dict of int to ndarray
        Knots of the layers whose knots are free.
    """

    def __init__(self, knot_map: KnotMap, theta: FloatArray, vectors: dict[int, FloatArray]) -> None:
        self._map, self._theta, self._vectors = knot_map, theta, vectors

    @cached_property
    def network(self) -> Network:
        """The network on doubled knots."""
        return self._map.doubled(self._vectors)

    @cached_property
    def _insertions(self) -> dict[int, FloatArray]:
        return self._map.insertions(self._vectors)

    @cached_property
    def coefficients(self) -> FloatArray:
        """Its coefficients."""
        matrix = self._map.insertion(self._insertions)
        result: FloatArray = matrix @ self._theta[: matrix.shape[1]]
        return result

    @cached_property
    def tangent(self) -> scipy.sparse.csr_array:
        """The derivative with respect to coefficients and logits, as coefficients on the doubled knots."""
        return self._map.tangent(self._theta, self._vectors, self._insertions)


def _matrix(data: FloatArray, indices: IntArray, starts: IntArray, num_columns: int) -> scipy.sparse.csr_array:
    return scipy.sparse.csr_array((data, indices, starts), shape=(len(starts) - 1, num_columns))
