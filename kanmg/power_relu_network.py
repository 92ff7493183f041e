"""Networks whose edges are sums of truncated powers: the ReLU^k form of spline networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kanmg.arrays import as_array, check_dtype, check_finite
from kanmg.coordinates import relu_coordinates
from kanmg.errors import DomainError, KanmgValueError, ShapeError
from kanmg.network import Affine, Spline
from kanmg.splines.power_relu import power_relu_exponents, power_relu_scales

if TYPE_CHECKING:
    from kanmg.arrays import Array
    from kanmg.network import Network

__all__ = ["PowerReLUNetwork", "from_power_relu", "to_power_relu"]


@dataclass(frozen=True, eq=False)
class PowerReLUNetwork:
    """A spline network in the other basis: every edge is a sum of powers max(0, (x - t_i) / s_i)^k with weights w_i.

    Made by `to_power_relu`. It is the same function as the spline network, also outside the intervals.

    Parameters
    ----------
    network : Network
        The layers, with their knots.
    weights : ndarray, shape (num_coefficients,)
        w in the place of every layer's coefficients, `network.unflatten(weights)`; affine layers keep theirs. float64.

    Raises
    ------
    ShapeError, DtypeError
        If `weights` is not a float64 vector of that length.
    KanmgValueError
        If a layer has the policy `outside="zero"`, which takes more powers than there are coefficients, or knots that
        `power_relu_matrix` refuses.

    Notes
    -----
    With the policy `"extend"` the powers of the first k + 1 knots, which lie at or left of the interval, go on as
    polynomials to its left; right of it they go on by themselves. `"clamp"` and `"linear"` act on the arguments.

    Values are less accurate than those of B-splines, because the powers cancel: the error of a layer is at most
    4 (k + 1) roundings of the sum of |w_i| psi_i, which grows to (2 (n + k))^(k+1) / (k + 1)! times the size of the
    coefficients, with n cells. `python benchmarks/truncated_power.py` measures it.

    Examples
    --------
    >>> import kanmg
    >>> network = kanmg.Network([kanmg.Spline(1, 1, knots=kanmg.uniform_knots(2, degree=1, domain=(0, 2)))])
    >>> hat = to_power_relu(network, np.array([0.0, 1.0, 0.0]))
    >>> hat.weights.tolist()
    [0.0, 1.0, -2.0]
    >>> hat(np.array([[0.5], [1.0], [1.5]])).ravel().tolist()
    [0.5, 1.0, 0.5]
    """

    network: Network
    weights: Array

    def __post_init__(self) -> None:
        weights = np.array(as_array(self.weights, "weights"))
        check_dtype(weights, np.dtype("float64"), "weights")
        if weights.shape != (self.network.num_coefficients,):
            raise ShapeError(
                f"`weights` has shape {weights.shape}, but the network has {self.network.num_coefficients} "
                f"coefficients. Pass one flat vector of shape ({self.network.num_coefficients},), as "
                "`to_power_relu` does."
            )
        for number, layer in enumerate(self.network.layers):
            if isinstance(layer, Spline):
                _check_layer(number, layer)
        weights.setflags(write=False)
        object.__setattr__(self, "weights", weights)

    def __call__(self, x: Any) -> Array:
        """Evaluate the network.

        Parameters
        ----------
        x : ndarray, shape (N, num_inputs)

        Returns
        -------
        ndarray, shape (N, num_outputs)
            float64.

        Raises
        ------
        ShapeError
            If `x` has another shape.
        DomainError
            If a value leaves the interval of a layer with `outside="error"`.
        """
        values = np.asarray(as_array(x, "x"), np.float64)
        if values.ndim != 2 or values.shape[1] != self.network.num_inputs:
            raise ShapeError(f"`x` has shape {values.shape}. Pass points of shape (N, {self.network.num_inputs}).")
        for layer, own in zip(self.network.layers, self.network.unflatten(self.weights), strict=True):
            if isinstance(layer, Affine):
                values = values @ own[: layer.num_inputs] + (own[-1] if layer.bias else 0.0)
            else:
                values = _evaluate(layer, own, values)
        return values


def to_power_relu(network: Network, theta: Any) -> PowerReLUNetwork:
    """Write a spline network as one of truncated powers: w = A^T u for every edge.

    Parameters
    ----------
    network : Network
    theta : ndarray or Tensor, shape (num_coefficients,)
        Its coefficients u. Free knots stay where their logits have moved them.

    Returns
    -------
    PowerReLUNetwork

    Raises
    ------
    ShapeError, KanmgValueError
        As for `PowerReLUNetwork`.
    NonFiniteError
        If there are NaN or infinite coefficients.

    See Also
    --------
    from_power_relu : the way back.
    kanmg.nn.power_relu_mlp : the same network in plain torch, to be trained further.

    Examples
    --------
    >>> import kanmg
    >>> network = kanmg.Network([kanmg.Affine(2, 3), kanmg.Spline(3, 1, knots=kanmg.uniform_knots(8, degree=3))])
    >>> theta = np.random.default_rng(0).standard_normal(network.num_coefficients)
    >>> relu = to_power_relu(network, theta)
    >>> bool(np.abs(from_power_relu(relu) - theta).max() < 1e-11)
    True
    """
    coefficients = np.asarray(as_array(theta, "theta"), np.float64)
    network.unflatten(coefficients)  # checks the shape
    check_finite(coefficients, "theta")
    fixed = network.at(coefficients)
    own = coefficients[: fixed.num_coefficients]
    return PowerReLUNetwork(fixed, relu_coordinates(fixed).from_coefficients(own))


def from_power_relu(relu: PowerReLUNetwork) -> Array:
    """Return the spline coefficients of a network of truncated powers: A^T u = w for every edge.

    Parameters
    ----------
    relu : PowerReLUNetwork

    Returns
    -------
    ndarray, shape (num_coefficients,)
        Of `relu.network`, whose knots are fixed. float64.

    Notes
    -----
    Rounding errors of w are amplified by the condition number of A, which grows like n^(k+1) with the number n of
    cells: after `to_power_relu` it is the accuracy of the round trip.
    """
    return relu_coordinates(relu.network).to_coefficients(relu.weights)


def _check_layer(number: int, layer: Spline) -> None:
    """Refuse what has no such form."""
    if layer.outside == "zero":
        raise KanmgValueError(
            f"layer {number} has `outside='zero'`, whose splines end right of their interval by the powers of knots "
            "that lie there. Build the layer with another policy, e.g. `outside='extend'`."
        )
    for knots in layer.knots:
        power_relu_exponents(knots)


def _evaluate(layer: Spline, weights: Array, x: Array) -> Array:
    """Evaluate a layer: shape (N, Q)."""
    lower, upper = np.array(layer.domain).T
    nearest = x.clip(lower, upper)
    if layer.outside == "error" and (x != nearest).any():
        p = int(np.flatnonzero((x != nearest).any(axis=0))[0])
        raise DomainError(
            f"{int((x != nearest)[:, p].sum())} values of input {p} of a spline layer lie outside its interval "
            f"[{lower[p]:g}, {upper[p]:g}], and `outside='error'` refuses them. Pass points inside."
        )
    values = np.zeros((len(x), layer.num_outputs))
    for p in range(layer.num_inputs):
        points = x[:, p] if layer.outside == "extend" else nearest[:, p]
        values += _powers(layer, p, points, 0) @ weights[p]
        if layer.outside == "linear":
            values += (x - nearest)[:, p, None] * (_powers(layer, p, points, 1) @ weights[p])
    return values


def _powers(layer: Spline, p: int, x: Array, derivative: int) -> Any:
    """Evaluate the scaled powers of one input, those of the first knots not truncated: shape (N, m)."""
    knots = layer.knots[p]
    exponents, scales = power_relu_exponents(knots), power_relu_scales(knots)
    distances = (x[:, None] - knots.vector[: knots.num_basis]) / scales
    distances[:, knots.degree + 1 :] = np.maximum(distances[:, knots.degree + 1 :], 0.0)
    if derivative == 0:
        return distances**exponents
    slopes = exponents / scales * distances ** np.maximum(exponents - 1, 0)
    # A zeroth power is zero left of its knot.
    slopes[:, knots.degree + 1 :][distances[:, knots.degree + 1 :] <= 0.0] = 0.0
    return slopes
