"""Other coordinates of a network's coefficients: u = C^-T v with a triangular C for every input of a spline layer."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # its subpackages are loaded when they are first used
import torch

from kanmg.errors import KanmgTypeError, KanmgValueError, ShapeError
from kanmg.network import Spline
from kanmg.splines.power_relu import power_relu_matrix
from kanmg.splines.transfer import gram_matrix
from kanmg.vectors import Copies, is_tensor, stacked

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.linalg
    import scipy.sparse  # noqa: TC004 - tells mypy what SciPy loads by itself

    from kanmg.arrays import Array
    from kanmg.network import Layer, Network

__all__ = ["Coordinates", "Factor", "gram_coordinates", "metric_coordinates", "relu_coordinates"]

# A factor with more diagonals than this part of its rows is multiplied and solved with as a dense matrix.
DENSE_PART = 0.25


class Factor:
    """A triangular matrix C: products with it, its inverse and their transposes, on the host and on devices.

    Parameters
    ----------
    matrix : csr_array, shape (m, m)
        Upper or lower triangular with a diagonal that is nowhere zero; float64.

    Examples
    --------
    >>> factor = Factor(scipy.sparse.csr_array(np.array([[1.0, -1.0], [0.0, 2.0]])))
    >>> factor.multiply(np.array([[1.0], [1.0]]), transposed=True).ravel().tolist()
    [1.0, 1.0]
    >>> factor.solve(np.array([[1.0], [1.0]]), transposed=True).ravel().tolist()
    [1.0, 1.0]
    """

    def __init__(self, matrix: scipy.sparse.csr_array) -> None:
        self.matrix = matrix
        entries = matrix.tocoo()
        offsets = entries.col - entries.row
        self._is_upper = not (offsets < 0).any()
        self._width = int(np.abs(offsets).max(initial=0))
        self._copies: Copies[torch.device, torch.Tensor] = Copies()

    @cached_property
    def _transposed(self) -> scipy.sparse.csr_array:
        return self.matrix.T.tocsr()

    def multiply(self, right: Any, *, transposed: bool = False) -> Any:
        """Multiply C or C^T with columns.

        Parameters
        ----------
        right : ndarray or Tensor, shape (m, K)
            float64.
        transposed : bool, default False

        Returns
        -------
        ndarray or Tensor, shape (m, K)
        """
        if is_tensor(right):
            dense = self._dense(right.device)
            return (dense.T if transposed else dense) @ right
        return (self._transposed if transposed else self.matrix) @ right

    def solve(self, right: Any, *, transposed: bool = False) -> Any:
        """Multiply C^-1 or C^-T with columns, by substitution.

        Parameters
        ----------
        right : ndarray or Tensor, shape (m, K)
            float64.
        transposed : bool, default False

        Returns
        -------
        ndarray or Tensor, shape (m, K)
        """
        if is_tensor(right):
            dense = self._dense(right.device)
            matrix = dense.T if transposed else dense
            return torch.linalg.solve_triangular(matrix, right, upper=self._is_upper != transposed)
        size = self.matrix.shape[0]
        if self._width > DENSE_PART * size:
            # No checks: what is not finite is the driver's business.
            options = {"lower": not self._is_upper, "trans": int(transposed), "check_finite": False}
            return scipy.linalg.solve_triangular(self._bands, right, **options)
        uplo, trans = "U" if self._is_upper else "L", "T" if transposed else "N"
        return scipy.linalg.lapack.dtbtrs(self._bands, right, uplo=uplo, trans=trans)[0]

    @cached_property
    def _bands(self) -> Array:
        """C as LAPACK takes it: its diagonals, or all of it if there are many."""
        size, width = self.matrix.shape[0], self._width
        if width > DENSE_PART * size:
            dense: Array = self.matrix.toarray()
            return dense
        bands = np.zeros((width + 1, size))
        for s in range(width + 1):
            if self._is_upper:
                bands[width - s, s:] = self.matrix.diagonal(s)
            else:
                bands[s, : size - s] = self.matrix.diagonal(-s)
        return bands

    def _dense(self, device: torch.device) -> torch.Tensor:
        if device not in self._copies:
            self._copies[device] = torch.from_numpy(self.matrix.toarray()).to(device)
        return self._copies[device]


class Coordinates:
    """Coordinates v of a network's coefficients u: v = C^T u, gradients g_v = C^-1 g_u.

    C is block diagonal, one triangular block for every input of a spline layer, the same for all outputs. Affine layers
    keep their own coordinates, and so does what is behind the coefficients: the parameters of a problem, and logits of
    free knots, whose splines are changed as those on the knots before training. A step v - D g_v is the step
    u - C^-T D C^-1 g_u: descent in the metric C D^-1 C^T.

    All products are computed in float64 and returned in the vector's dtype.

    Parameters
    ----------
    network : Network
    factors : sequence of (None or sequence of Factor)
        For every layer None, or the blocks of its inputs.

    Examples
    --------
    >>> import kanmg
    >>> network = kanmg.Network([kanmg.Spline(1, 1, knots=kanmg.uniform_knots(2, degree=1))])
    >>> coordinates = relu_coordinates(network)
    >>> coordinates.from_coefficients(np.array([0.0, 1.0, 0.0])).tolist()
    [0.0, 1.0, -2.0]
    >>> coordinates.to_coefficients(np.array([0.0, 1.0, -2.0])).tolist()
    [0.0, 1.0, 0.0]
    """

    def __init__(self, network: Network, factors: Sequence[Sequence[Factor] | None]) -> None:
        self.network = network
        self._blocks = [
            (slice(start, stop), layer, tuple(own))
            for layer, own, start, stop in zip(
                network.layers, factors, network.offsets[:-1], network.offsets[1:], strict=True
            )
            if own is not None
        ]

    def from_coefficients(self, u: Array) -> Array:
        """Return v = C^T u."""
        return self._map(u, "multiply", transposed=True)

    def to_coefficients(self, v: Array) -> Array:
        """Return u = C^-T v."""
        return self._map(v, "solve", transposed=True)

    def from_gradient(self, gradient: Array) -> Array:
        """Return the gradient with respect to v, C^-1 g, of a gradient with respect to u."""
        return self._map(gradient, "solve", transposed=False)

    def to_gradient(self, gradient: Array) -> Array:
        """Return the gradient with respect to u, C g, of a gradient with respect to v."""
        return self._map(gradient, "multiply", transposed=False)

    def from_matrix(self, matrix: Array) -> Array:
        """Return C^-1 M C^-T, the second derivatives with respect to v, of symmetric ones with respect to u."""
        half = self.from_gradient(matrix)
        both: Array = self.from_gradient(half.T)
        return both if is_tensor(both) else np.ascontiguousarray(both)

    def _map(self, array: Array, name: str, *, transposed: bool) -> Array:
        """Apply every block to its rows of a vector, or of a matrix with one vector per column."""
        given: Any = array
        wide = given.double() if is_tensor(given) else np.asarray(given, np.float64)
        result = wide + 0.0
        for rows, layer, factors in self._blocks:
            blocks = wide[rows].reshape(layer.num_inputs, layer.shape[1], -1)
            result[rows] = _applied(factors, blocks, name, transposed).reshape(wide[rows].shape)
        original: Any = result
        changed: Array = original.to(given.dtype) if is_tensor(given) else original.astype(given.dtype, copy=False)
        return changed


def _applied(factors: tuple[Factor, ...], blocks: Any, name: str, transposed: bool) -> Any:
    """Apply the factors of a layer's inputs to their columns, shape (P, m, K); at once if they are one."""
    if all(factor is factors[0] for factor in factors):
        # Column p K + j of the wide matrix is column j of input p.
        columns = blocks.swapaxes(0, 1)
        wide = getattr(factors[0], name)(columns.reshape(len(columns), -1), transposed=transposed)
        return wide.reshape(columns.shape).swapaxes(0, 1)
    own = [getattr(factor, name)(block, transposed=transposed) for factor, block in zip(factors, blocks, strict=True)]
    return stacked(own)


@lru_cache(maxsize=64)
def relu_coordinates(network: Network) -> Coordinates:
    """Return the weights of the scaled truncated powers as coordinates: C is `power_relu_matrix(knots, scaled=True)`.

    Parameters
    ----------
    network : Network

    Returns
    -------
    Coordinates
        Shared between calls.

    Raises
    ------
    KanmgValueError
        If a layer's knots are refused by `power_relu_matrix`.
    """
    return _by_knots(network, lambda knots: power_relu_matrix(knots, scaled=True))


@lru_cache(maxsize=64)
def gram_coordinates(network: Network) -> Coordinates:
    """Return coordinates whose Euclidean length is the L2 norm of the splines: C C^T is their Gram matrix.

    Parameters
    ----------
    network : Network

    Returns
    -------
    Coordinates
        Shared between calls.

    Raises
    ------
    KanmgValueError
        If the Gram matrix of a layer's knots is singular up to rounding.
    """
    return _by_knots(network, lambda knots: _cholesky(gram_matrix(knots).toarray(), f"the Gram matrix of {knots!r}"))


def _by_knots(network: Network, make: Any) -> Coordinates:
    """Make one factor for all inputs that share their knots."""
    knots = {own for layer in network.layers if isinstance(layer, Spline) for own in layer.knots}
    factors = {own: Factor(make(own)) for own in knots}
    return Coordinates(
        network,
        [[factors[own] for own in layer.knots] if isinstance(layer, Spline) else None for layer in network.layers],
    )


def metric_coordinates(network: Network, matrices: Sequence[Any]) -> Coordinates:
    """Return coordinates whose Euclidean length is that of the coefficients in a metric: C C^T = M.

    Parameters
    ----------
    network : Network
    matrices : sequence
        For every layer None, which leaves the layer as it is, and for spline layers also the matrix M of all inputs,
        shape (m, m), or those of each, shape (P, m, m). Symmetric and positive definite.

    Returns
    -------
    Coordinates

    Raises
    ------
    ShapeError, KanmgTypeError, KanmgValueError
        If the matrices do not fit the network, or are not symmetric and positive definite.

    Examples
    --------
    >>> import kanmg
    >>> network = kanmg.Network([kanmg.Spline(1, 1, knots=kanmg.uniform_knots(2, degree=1))])
    >>> metric_coordinates(network, [4.0 * np.eye(3)]).to_coefficients(np.array([2.0, 4.0, 6.0])).tolist()
    [1.0, 2.0, 3.0]
    """
    if not isinstance(matrices, list | tuple):
        raise KanmgTypeError(
            f"the metric is a {type(matrices).__name__}. Return a list with one entry per layer: None, a matrix, or "
            "one matrix per input."
        )
    entries = list(matrices)
    if len(entries) != len(network.layers):
        raise ShapeError(
            f"the metric has {len(entries)} entries, but the network has {len(network.layers)} layers. Pass one for "
            "each: None, a matrix, or one matrix per input."
        )
    return Coordinates(
        network,
        [_factors(number, *pair) for number, pair in enumerate(zip(network.layers, entries, strict=True))],
    )


def _factors(number: int, layer: Layer, matrices: Any) -> list[Factor] | None:
    """Factorise the matrices of a layer's inputs."""
    if matrices is None:
        return None
    if not isinstance(layer, Spline):
        raise KanmgValueError(
            f"the metric has a matrix for layer {number}, which is affine. Write None: only spline layers have one."
        )
    array = np.asarray(matrices, np.float64)
    size = layer.num_basis
    if array.shape not in ((size, size), (layer.num_inputs, size, size)):
        raise ShapeError(
            f"the metric of layer {number} has shape {array.shape}, but ({size}, {size}) or "
            f"({layer.num_inputs}, {size}, {size}) is required: one matrix for all inputs, or one for each."
        )
    name = f"the metric of layer {number}"
    if array.ndim == 2:
        return [Factor(_cholesky(array, name))] * layer.num_inputs
    return [Factor(_cholesky(own, f"{name}, input {p},")) for p, own in enumerate(array)]


def _cholesky(matrix: Array, name: str) -> scipy.sparse.csr_array:
    """Factorise M = L L^T."""
    if not np.isfinite(matrix).all() or np.abs(matrix - matrix.T).max() > 1e-12 * np.abs(matrix).max():
        raise KanmgValueError(f"{name} is not symmetric, or not finite. Pass symmetric, positive definite matrices.")
    eigenvalues = np.linalg.eigvalsh(matrix)
    if eigenvalues[0] <= len(matrix) * np.finfo(np.float64).eps * eigenvalues[-1]:
        raise KanmgValueError(
            f"{name} is not positive definite up to rounding: its eigenvalues reach from {eigenvalues[0]:.2g} to "
            f"{eigenvalues[-1]:.2g}. Pass symmetric, positive definite matrices, of splines those of a lower degree; "
            "add a multiple of the identity to one that is nearly singular."
        )
    lower = np.linalg.cholesky(0.5 * (matrix + matrix.T))
    return scipy.sparse.csr_array(lower)
