"""Smaller spline spaces inside those of a network: what preconditioners solve on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy  # its subpackages are loaded when they are first used

from kanmg.network import Affine, Network, Spline
from kanmg.splines import basis_matrix, knots_from_breakpoints, uniform_knots
from kanmg.transfers import Transfer

if TYPE_CHECKING:
    import scipy.sparse  # noqa: TC004 - tells mypy what SciPy loads by itself

    from kanmg.evaluators.base import Array
    from kanmg.network import Layer
    from kanmg.splines import Knots

__all__ = ["coarsened", "edge_groups", "polynomial_space", "prolongations"]


def edge_groups(network: Network) -> list[Array]:
    """List the coefficients of every edge; those of an affine layer, output by output.

    Parameters
    ----------
    network : Network

    Returns
    -------
    list of ndarray of int

    Examples
    --------
    >>> import kanmg
    >>> network = kanmg.Network([kanmg.Spline(1, 2, knots=kanmg.uniform_knots(2, degree=1))])
    >>> [group.tolist() for group in edge_groups(network)]
    [[0, 2, 4], [1, 3, 5]]
    """
    groups: list[Array] = []
    for layer, own in zip(network.layers, network.unflatten(np.arange(network.num_coefficients)), strict=True):
        columns = own[None] if isinstance(layer, Affine) else own
        groups += [block[:, q] for block in columns for q in range(layer.num_outputs)]
    return groups


def coarsened(network: Network) -> Network | None:
    """Return the network with pairs of cells merged wherever their number is even; None if nothing could be merged.

    Parameters
    ----------
    network : Network

    Examples
    --------
    >>> import kanmg
    >>> network = kanmg.Network([kanmg.Spline(1, 1, knots=kanmg.uniform_knots(6, degree=1))])
    >>> coarse = coarsened(network)
    >>> coarse.layers[0].num_intervals, coarsened(coarse) is None
    (3, True)
    """
    layers: list[Layer] = []
    changed = False
    for layer in network.layers:
        if isinstance(layer, Spline) and layer.num_intervals % 2 == 0 and layer.outside != "zero":
            knots = [_merged(own) for own in layer.knots]
            layers.append(Spline(layer.num_inputs, layer.num_outputs, knots=knots, outside=layer.outside))
            changed = True
        else:
            layers.append(layer)
    return Network(layers, domain=network.domain) if changed else None


def _merged(knots: Knots) -> Knots:
    if knots.is_uniform:
        return uniform_knots(knots.num_intervals // 2, degree=knots.degree, domain=knots.domain)
    return knots_from_breakpoints(knots.breakpoints[::2], degree=knots.degree, clamped=knots.is_clamped)


def prolongations(network: Network) -> list[scipy.sparse.csr_array]:
    """Return P from each coarser space to the next finer one, from the network's own downwards.

    Parameters
    ----------
    network : Network

    Returns
    -------
    list of csr_array
        Empty where no cells can be merged.
    """
    result, fine = [], network
    while (coarse := coarsened(fine)) is not None:
        result.append(Transfer(0, coarse, fine, np.dtype(np.float64)).matrix)
        fine = coarse
    return result


def polynomial_space(network: Network, max_size: int) -> scipy.sparse.csr_array | None:
    """Return P from polynomials on every edge, of the largest degree with at most `max_size` coefficients.

    The splines of degree k contain the polynomials of degree k and less, whatever the cells: their coefficients are
    those of Legendre polynomials. Affine layers are taken as they are.

    Parameters
    ----------
    network : Network
    max_size : int

    Returns
    -------
    csr_array, shape (num_coefficients, r), or None
        None if constants are already too many.
    """
    splines = [layer for layer in network.layers if isinstance(layer, Spline)]
    edges = sum(layer.num_inputs * layer.num_outputs for layer in splines)
    others = network.num_coefficients - sum(layer.num_coefficients for layer in splines)
    most = min((layer.degree + 1 for layer in splines), default=0)
    number = min(most, (max_size - others) // max(edges, 1))
    if number < 1:
        return None
    blocks = []
    for layer in network.layers:
        if isinstance(layer, Spline):
            inputs = scipy.sparse.block_diag([_legendre(knots, number) for knots in layer.knots])
            blocks.append(scipy.sparse.kron(inputs, scipy.sparse.eye_array(layer.num_outputs)))
        else:
            blocks.append(scipy.sparse.eye_array(layer.num_coefficients))
    return scipy.sparse.block_diag(blocks, format="csr")


def _legendre(knots: Knots, number: int) -> Array:
    """Spline coefficients of the first Legendre polynomials on the knots' domain, shape (m, number)."""
    t = np.cos(np.pi * (np.arange(8 * knots.num_basis) + 0.5) / (8 * knots.num_basis))
    a, b = knots.domain
    values = np.polynomial.legendre.legvander(t, number - 1)
    result: Array = np.linalg.lstsq(basis_matrix(knots, 0.5 * (a + b) + 0.5 * (b - a) * t), values)[0]
    return result
