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

__all__ = ["OracleJet", "oracle_adjoint", "oracle_jacobian", "oracle_jet", "oracle_jet_jacobian", "oracle_value"]

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


def oracle_jet(
    network: Network,
    theta: npt.ArrayLike,
    x: npt.ArrayLike,
    directions: npt.ArrayLike,
    curvatures: npt.ArrayLike | None = None,
) -> OracleJet:
    """Evaluate a network and its first and second derivatives along paths of the points.

    Parameters
    ----------
    network : Network
    theta : array_like, shape (num_coefficients,)
    x : array_like, shape (N, num_inputs)
    directions : array_like, shape (D, num_inputs) or (D, N, num_inputs)
    curvatures : array_like, shape (D, N, num_inputs), optional

    Returns
    -------
    OracleJet

    Notes
    -----
    z2 of the outputs is the sum of phi''(z0) z1^2 + phi'(z0) z2 over the inputs.
    """
    z0 = np.asarray(x, np.float64)
    z1, z2 = _paths(z0, directions, curvatures)
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


def oracle_jet_jacobian(
    network: Network,
    theta: npt.ArrayLike,
    x: npt.ArrayLike,
    directions: npt.ArrayLike,
    curvatures: npt.ArrayLike | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Differentiate values, first and second directional derivatives with respect to all coefficients.

    Parameters
    ----------
    network : Network
    theta : array_like, shape (num_coefficients,)
    x : array_like, shape (N, num_inputs)
    directions : array_like, shape (D, num_inputs) or (D, N, num_inputs)
    curvatures : array_like, shape (D, N, num_inputs), optional

    Returns
    -------
    tuple of ndarray, shapes (N, num_outputs, num_coefficients) and twice (D, N, num_outputs, num_coefficients)

    Notes
    -----
    The sensitivities s0, s1, s2 of z0, z1, z2 go through the layers with them, by the chain and product rules.
    """
    z0 = np.asarray(x, np.float64)
    z1, z2 = _paths(z0, directions, curvatures)
    s0 = np.zeros((*z0.shape, network.num_coefficients))
    s1, s2 = (np.zeros((*z1.shape, network.num_coefficients)) for _ in range(2))
    arrays = network.unflatten(np.asarray(theta, np.float64))
    for layer, coefficients, start in zip(network.layers, arrays, network.offsets[:-1], strict=True):
        first, second, third = (_edges(layer, coefficients, z0, order) for order in (1, 2, 3))
        s2 = (
            np.einsum("npq,dnp,npc->dnqc", third, z1**2, s0, optimize=True)
            + 2 * np.einsum("npq,dnp,dnpc->dnqc", second, z1, s1, optimize=True)
            + np.einsum("npq,dnp,npc->dnqc", second, z2, s0, optimize=True)
            + np.einsum("npq,dnpc->dnqc", first, s2, optimize=True)
        )
        s1 = np.einsum("npq,dnp,npc->dnqc", second, z1, s0, optimize=True) + np.einsum(
            "npq,dnpc->dnqc", first, s1, optimize=True
        )
        s0 = np.einsum("npq,npc->nqc", first, s0)
        features = _jet_features(layer, z0, z1, z2)
        for q in range(layer.num_outputs):
            columns = start + q + layer.num_outputs * np.arange(features[0].shape[-1])
            for sensitivity, part in zip((s0, s1, s2), features, strict=True):
                sensitivity[..., q, columns] += part
        z2 = np.einsum("npq,dnp->dnq", second, z1**2) + np.einsum("npq,dnp->dnq", first, z2)
        z1 = np.einsum("npq,dnp->dnq", first, z1)
        z0 = _edges(layer, coefficients, z0, 0).sum(axis=1) + _bias(layer, coefficients)
    return s0, s1, s2


def _paths(x: FloatArray, directions: npt.ArrayLike, curvatures: npt.ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    """First and second derivatives of the paths of all points, shapes (D, N, P)."""
    lines = np.asarray(directions, np.float64)
    if lines.ndim == 2:
        lines = np.repeat(lines[:, None, :], len(x), axis=1)
    return lines, np.zeros_like(lines) if curvatures is None else np.asarray(curvatures, np.float64)


def _edges(layer: Layer, coefficients: FloatArray, z: FloatArray, derivative: int) -> FloatArray:
    """Evaluate all univariate functions phi_pq(z_p) of a layer, or their derivatives: shape (N, P, Q)."""
    if isinstance(layer, Affine):
        weights = coefficients[: layer.num_inputs]
        powers = (z, np.ones_like(z), np.zeros_like(z))[min(derivative, 2)]
        return powers[:, :, None] * weights
    columns = [
        basis_matrix(knots, z[:, p], derivative, layer.outside) @ coefficients[p] for p, knots in enumerate(layer.knots)
    ]
    return np.stack(columns, axis=1)


def _bias(layer: Layer, coefficients: FloatArray) -> FloatArray | float:
    return coefficients[-1] if isinstance(layer, Affine) and layer.bias else 0.0


def _features(layer: Layer, z: FloatArray, derivative: int = 0) -> FloatArray:
    """Evaluate what a layer's coefficients multiply, in their order: shape (N, P m), or (N, P + 1)."""
    if isinstance(layer, Affine):
        return np.hstack([z, np.ones((len(z), 1))]) if layer.bias else z
    matrices = [basis_matrix(knots, z[:, p], derivative, layer.outside) for p, knots in enumerate(layer.knots)]
    return np.hstack(matrices)


def _jet_features(
    layer: Layer, z0: FloatArray, z1: FloatArray, z2: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Evaluate what a layer's coefficients multiply in values, first and second derivatives."""
    value = _features(layer, z0)
    if isinstance(layer, Affine):
        # The bias adds nothing to derivatives.
        padding = ((0, 0), (0, 0), (0, int(layer.bias)))
        return value, np.pad(z1, padding), np.pad(z2, padding)
    first, second = _features(layer, z0, 1), _features(layer, z0, 2)
    num_basis = layer.num_basis
    z1, z2 = np.repeat(z1, num_basis, axis=-1), np.repeat(z2, num_basis, axis=-1)
    return value, first * z1, second * z1**2 + first * z2
