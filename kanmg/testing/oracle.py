"""Networks evaluated with dense float64 basis matrices: what every evaluator is compared with.

Nothing here is shared with an evaluator: values come from `kanmg.splines.bspline`, derivatives with respect to the
points from the recursions for first and second derivatives, derivatives with respect to the coefficients from forward
sensitivities. Everything is dense: for small networks only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from kanmg.network import Affine
from kanmg.splines.bspline import basis_matrix

if TYPE_CHECKING:
    from kanmg.network import Layer, Network

__all__ = ["OracleJet", "oracle_adjoint", "oracle_jacobian", "oracle_jet", "oracle_value"]

FloatArray = npt.NDArray[np.float64]


class OracleJet(NamedTuple):
    """Values (N, Q), first and second derivatives (D, N, Q) along D directions."""

    value: FloatArray
    first: FloatArray
    second: FloatArray


def oracle_value(network: Network, theta: npt.ArrayLike, x: npt.ArrayLike) -> FloatArray:
    """Evaluate a network.

    Parameters
    ----------
    network : Network
    theta : array_like, shape (num_coefficients,)
    x : array_like, shape (N, num_inputs)

    Returns
    -------
    ndarray, shape (N, num_outputs)

    Examples
    --------
    >>> import kanmg
    >>> network = kanmg.Network([kanmg.Affine(2, 1)])
    >>> oracle_value(network, [1.0, 2.0, 10.0], [[1.0, 1.0]]).tolist()
    [[13.0]]
    """
    return oracle_jet(network, theta, x, np.empty((0, network.num_inputs))).value


def oracle_jet(network: Network, theta: npt.ArrayLike, x: npt.ArrayLike, directions: npt.ArrayLike) -> OracleJet:
    """Evaluate a network and its first and second derivatives along directions.

    Parameters
    ----------
    network : Network
    theta : array_like, shape (num_coefficients,)
    x : array_like, shape (N, num_inputs)
    directions : array_like, shape (D, num_inputs)

    Returns
    -------
    OracleJet

    Notes
    -----
    z2 of the outputs is the sum of phi''(z0) z1^2 + phi'(z0) z2 over the inputs.
    """
    z0, lines = np.asarray(x, np.float64), np.asarray(directions, np.float64)
    z1 = np.repeat(lines[:, None, :], len(z0), axis=1)
    z2 = np.zeros_like(z1)
    for layer, coefficients in zip(network.layers, network.unflatten(np.asarray(theta, np.float64)), strict=True):
        value = _edges(layer, coefficients, z0, 0).sum(axis=1) + _bias(layer, coefficients)
        slopes, curvatures = (_edges(layer, coefficients, z0, order) for order in (1, 2))
        z2 = np.einsum("npq,dnp->dnq", curvatures, z1**2) + np.einsum("npq,dnp->dnq", slopes, z2)
        z1 = np.einsum("npq,dnp->dnq", slopes, z1)
        z0 = value
    return OracleJet(z0, z1, z2)


def oracle_jacobian(network: Network, theta: npt.ArrayLike, x: npt.ArrayLike) -> FloatArray:
    """Differentiate all values of a network with respect to all coefficients.

    Parameters
    ----------
    network : Network
    theta : array_like, shape (num_coefficients,)
    x : array_like, shape (N, num_inputs)

    Returns
    -------
    ndarray, shape (N, num_outputs, num_coefficients)
    """
    z = np.asarray(x, np.float64)
    sensitivity = np.zeros((*z.shape, network.num_coefficients))
    arrays = network.unflatten(np.asarray(theta, np.float64))
    for layer, coefficients, start in zip(network.layers, arrays, network.offsets[:-1], strict=True):
        sensitivity = np.einsum("npq,npc->nqc", _edges(layer, coefficients, z, 1), sensitivity)
        features = _features(layer, z)
        for q in range(layer.num_outputs):
            columns = start + q + layer.num_outputs * np.arange(features.shape[1])
            sensitivity[:, q, columns] += features
        z = _edges(layer, coefficients, z, 0).sum(axis=1) + _bias(layer, coefficients)
    return sensitivity


def oracle_adjoint(
    network: Network, theta: npt.ArrayLike, x: npt.ArrayLike, cotangents: npt.ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Differentiate `sum(cotangents * values)` with respect to the coefficients and to the points.

    Parameters
    ----------
    network : Network
    theta : array_like, shape (num_coefficients,)
    x : array_like, shape (N, num_inputs)
    cotangents : array_like, shape (N, num_outputs)

    Returns
    -------
    tuple of ndarray, shapes (num_coefficients,) and (N, num_inputs)
    """
    arrays = network.unflatten(np.asarray(theta, np.float64))
    inputs = [np.asarray(x, np.float64)]
    for layer, coefficients in zip(network.layers[:-1], arrays, strict=False):
        inputs.append(_edges(layer, coefficients, inputs[-1], 0).sum(axis=1) + _bias(layer, coefficients))
    bar = np.asarray(cotangents, np.float64)
    gradients = []
    for layer, coefficients, z in reversed(list(zip(network.layers, arrays, inputs, strict=True))):
        gradients.append((_features(layer, z).T @ bar).ravel())
        bar = np.einsum("npq,nq->np", _edges(layer, coefficients, z, 1), bar)
    return np.concatenate(gradients[::-1]), bar


def _edges(layer: Layer, coefficients: FloatArray, z: FloatArray, derivative: int) -> FloatArray:
    """Evaluate all univariate functions phi_pq(z_p) of a layer, or their derivatives: shape (N, P, Q)."""
    if isinstance(layer, Affine):
        weights = coefficients[: layer.num_inputs]
        powers = (z, np.ones_like(z), np.zeros_like(z))[derivative]
        return powers[:, :, None] * weights
    columns = [
        basis_matrix(knots, z[:, p], derivative, layer.outside) @ coefficients[p] for p, knots in enumerate(layer.knots)
    ]
    return np.stack(columns, axis=1)


def _bias(layer: Layer, coefficients: FloatArray) -> FloatArray | float:
    return coefficients[-1] if isinstance(layer, Affine) and layer.bias else 0.0


def _features(layer: Layer, z: FloatArray) -> FloatArray:
    """Evaluate what a layer's coefficients multiply, in their order: shape (N, P m), or (N, P + 1)."""
    if isinstance(layer, Affine):
        return np.hstack([z, np.ones((len(z), 1))]) if layer.bias else z
    matrices = [basis_matrix(knots, z[:, p], 0, layer.outside) for p, knots in enumerate(layer.knots)]
    return np.hstack(matrices)
