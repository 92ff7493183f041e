"""Counted multiply-adds of a network: the unit behind work units, the same for every evaluator.

Counting instead of timing keeps work units the same on every machine and in every run. The counts are those of local
evaluation: k + 1 basis functions per input, whatever the number of cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kanmg.network import Affine

if TYPE_CHECKING:
    from kanmg.network import Layer, Network

__all__ = ["gradient_cost", "value_cost"]


def value_cost(network: Network) -> float:
    """Count the multiply-adds of one value, per sample.

    Parameters
    ----------
    network : Network

    Returns
    -------
    float

    Notes
    -----
    A spline layer with P inputs, Q outputs and degree k takes `P (k + 1) Q` for the sums and `P k (k + 1)` for the
    basis functions (Horner's rule); an affine layer one for each of its coefficients.

    Examples
    --------
    >>> import kanmg
    >>> knots = kanmg.uniform_knots(5, degree=3)
    >>> network = kanmg.Network([kanmg.Spline(2, 5, knots=knots), kanmg.Spline(5, 1, knots=knots)])
    >>> value_cost(network), gradient_cost(network)
    (144.0, 284.0)
    """
    return float(sum(_sums(layer) + _basis(layer) for layer in network.layers))


def gradient_cost(network: Network) -> float:
    """Count the multiply-adds of one loss and its gradient, per sample.

    Parameters
    ----------
    network : Network

    Returns
    -------
    float

    Notes
    -----
    The value, as much again for the gradient with respect to the coefficients, and, in all layers but the first, as
    much again for the adjoint of the layer's inputs with the derivatives of the basis functions.
    """
    cost = value_cost(network) + sum(_sums(layer) for layer in network.layers)
    return cost + sum(_sums(layer) + _basis(layer) for layer in network.layers[1:])


def _sums(layer: Layer) -> int:
    """Count products of coefficients with basis functions (or inputs)."""
    if isinstance(layer, Affine):
        return layer.num_coefficients
    return layer.num_inputs * (layer.degree + 1) * layer.num_outputs


def _basis(layer: Layer) -> int:
    """Count the evaluation of the local basis functions of all inputs."""
    return 0 if isinstance(layer, Affine) else layer.num_inputs * layer.degree * (layer.degree + 1)
