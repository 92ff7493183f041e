"""Networks as modules of torch: splines, and plain multichannel ReLU^k networks, to be trained by any loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kanmg.arrays import as_array, resolve_dtype
from kanmg.errors import KanmgTypeError, KanmgValueError, ShapeError
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.network import Affine, Spline
from kanmg.power_relu_network import to_power_relu
from kanmg.splines.power_relu import power_relu_exponents, power_relu_scales

if TYPE_CHECKING:
    from kanmg.arrays import Array
    from kanmg.network import Network

__all__ = ["PowerReLU", "SplineNetwork", "power_relu_mlp"]


class SplineNetwork(torch.nn.Module):
    """A spline network as a module with one parameter, its coefficients.

    It is evaluated by the reference evaluator: differentiable to any order, also with respect to the points, and much
    slower than what `kanmg.solve` uses.

    Parameters
    ----------
    network : Network
    coefficients : ndarray or Tensor, shape (num_coefficients,)
        Copied; their dtype, float64 or float32, and device are the module's.

    Attributes
    ----------
    coefficients : torch.nn.Parameter, shape (num_coefficients,)

    Raises
    ------
    ShapeError, DtypeError
        If the coefficients do not fit the network, or are neither float64 nor float32; if points are no matrix.

    Examples
    --------
    >>> import kanmg
    >>> knots = kanmg.uniform_knots(4, degree=3)
    >>> module = SplineNetwork(kanmg.Network([kanmg.Spline(1, 1, knots=knots)]), knots.greville)
    >>> x = torch.tensor([[0.25]], dtype=torch.float64)
    >>> round(module(x).item(), 12)
    0.25
    """

    def __init__(self, network: Network, coefficients: Any) -> None:
        super().__init__()
        network.unflatten(coefficients)  # checks the shape
        self.network = network
        self.coefficients = torch.nn.Parameter(_tensor(coefficients))
        self._evaluator = self._fitting_evaluator()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate the network at points of shape (N, num_inputs)."""
        if not isinstance(x, torch.Tensor):
            raise KanmgTypeError(f"`x` is a {type(x).__name__}. Pass a tensor, e.g. `torch.as_tensor(x)`.")
        if x.ndim != 2 or x.shape[1] != self.network.num_inputs:
            raise ShapeError(
                f"`x` has shape {tuple(x.shape)} but the network takes points of shape (N, {self.network.num_inputs})"
                + ("; one point is `x[None, :]`." if x.ndim == 1 else ".")
            )
        if not self._fits(self._evaluator):
            self._evaluator = self._fitting_evaluator()
        return self._evaluator.forward(self.coefficients, x)

    def _fitting_evaluator(self) -> ReferenceEvaluator:
        """Return one for the dtype and device that the module has been moved to."""
        parameter = self.coefficients
        return ReferenceEvaluator(self.network, str(parameter.dtype).removeprefix("torch."), parameter.device)

    def _fits(self, evaluator: ReferenceEvaluator) -> bool:
        parameter = self.coefficients
        return getattr(torch, evaluator.dtype.name) == parameter.dtype and evaluator.device == parameter.device


class PowerReLU(torch.nn.Module):
    """A layer of a multichannel ReLU^k network: y_q = sum_p sum_i w_piq max(0, (x_p - b_pi) / s_pi)^k.

    Parameters
    ----------
    biases : Tensor, shape (P, m)
        b, the knots.
    weights : Tensor, shape (P, m, Q)
    scales : Tensor, shape (P, m)
        s; not trained.
    degree : int
        k.
    num_polynomials : int, default 0
        So many channels of every input are powers (x_p - b_pi)^k that are not cut off at zero.

    Examples
    --------
    The hat function:

    >>> biases, weights = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[[1.0], [-2.0], [1.0]]])
    >>> layer = PowerReLU(biases, weights, torch.ones(1, 3), degree=1)
    >>> layer(torch.tensor([[0.5], [1.0], [3.0]])).ravel().tolist()
    [0.5, 1.0, 0.0]
    """

    def __init__(
        self,
        biases: torch.Tensor,
        weights: torch.Tensor,
        scales: torch.Tensor,
        degree: int,
        num_polynomials: int = 0,
    ) -> None:
        super().__init__()
        self.degree, self.num_polynomials = degree, num_polynomials
        self.biases, self.weights = torch.nn.Parameter(biases), torch.nn.Parameter(weights)
        self.scales: torch.Tensor
        self.register_buffer("scales", scales)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate the layer at points of shape (N, P)."""
        distances = (x[..., None] - self.biases) / self.scales
        cut = torch.relu(distances[..., self.num_polynomials :])
        channels = torch.cat([distances[..., : self.num_polynomials], cut], dim=-1) ** self.degree
        return torch.einsum("npm,pmq->nq", channels, self.weights)

    def extra_repr(self) -> str:
        """Describe the layer in `print(module)`."""
        num_inputs, num_channels, num_outputs = self.weights.shape
        return f"{num_inputs}, {num_outputs}, num_channels={num_channels}, degree={self.degree}"


def power_relu_mlp(network: Network, theta: Any, *, plain: bool = False) -> torch.nn.Sequential:
    """Export a spline network to a multichannel ReLU^k network: modules with plain parameters.

    Spline layers become `PowerReLU` with the knots as biases and w = A^T u as weights, affine ones `torch.nn.Linear`.
    All of them can be trained, the knots included.

    Parameters
    ----------
    network : Network
    theta : ndarray or Tensor, shape (num_coefficients,)
        Its coefficients; their dtype, float64 or float32, and device are the module's. Free knots stay where their
        logits have moved them.
    plain : bool, default False
        False: the powers of the first k + 1 knots of every input go on as polynomials on the left, so that the module
        is the same function everywhere. True: all are cut off at zero, so that it is the same where no value lies left
        of its interval.

    Returns
    -------
    torch.nn.Sequential

    Raises
    ------
    ShapeError, DtypeError
        If `theta` does not fit the network, or is neither float64 nor float32.
    KanmgValueError
        If a layer has another policy than `outside="extend"` and `plain` is False, or repeated knots.

    Notes
    -----
    Accurate as `PowerReLUNetwork` is. float32 is enough for few cells and low degrees only.

    Examples
    --------
    >>> import kanmg
    >>> network = kanmg.Network([kanmg.Affine(2, 3), kanmg.Spline(3, 1, knots=kanmg.uniform_knots(8, degree=3))])
    >>> theta = np.random.default_rng(0).standard_normal(network.num_coefficients)
    >>> power_relu_mlp(network, theta)
    Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)
      (1): PowerReLU(3, 1, num_channels=11, degree=3)
    )
    """
    given = _tensor(theta)
    network.unflatten(given)  # checks the shape
    network = network.at(given.cpu())
    coefficients = given[: network.num_coefficients]
    arrays = network.unflatten(to_power_relu(_extending(network, plain), coefficients.cpu()).weights)
    modules: list[torch.nn.Module] = []
    for number, (layer, weights) in enumerate(zip(network.layers, arrays, strict=True)):
        if isinstance(layer, Affine):
            modules.append(_linear(layer, weights))
        else:
            modules.append(_power_relu(number, layer, weights, plain=plain))
    return torch.nn.Sequential(*modules).to(given)


def _extending(network: Network, plain: bool) -> Network:
    """Return the network if its splines are extended, else refuse it, or what it is inside its intervals."""
    policies = {layer.outside for layer in network.layers if isinstance(layer, Spline)}
    if policies <= {"extend"}:
        return network
    if not plain:
        policy = min(policies - {"extend"})
        raise KanmgValueError(
            f"a layer has `outside={policy!r}`, which sums of powers are not. Pass `plain=True` for a module that is "
            "the same function inside the intervals, or build the layer with `outside='extend'`."
        )
    layers = [
        Spline(layer.num_inputs, layer.num_outputs, knots=layer.knots) if isinstance(layer, Spline) else layer
        for layer in network.layers
    ]
    return type(network)(layers)


def _linear(layer: Affine, weights: Array) -> torch.nn.Linear:
    module = torch.nn.Linear(layer.num_inputs, layer.num_outputs, bias=layer.bias, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(torch.tensor(weights[: layer.num_inputs].T))
        if layer.bias:
            module.bias.copy_(torch.tensor(weights[-1]))
    return module


def _power_relu(number: int, layer: Spline, weights: Array, *, plain: bool) -> PowerReLU:
    if any((power_relu_exponents(knots) != layer.degree).any() for knots in layer.knots):
        raise KanmgValueError(
            f"layer {number} has repeated knots, whose powers are lower than {layer.degree}: no channels of a ReLU^k "
            "network. Use knots with simple exterior knots, `knots_from_breakpoints(breakpoints, degree=...)`, and "
            "coefficients by `kanmg.splines.prolongation_matrix(clamped, simple)`."
        )
    biases = torch.tensor(np.stack([knots.vector[: layer.num_basis] for knots in layer.knots]))
    scales = torch.tensor(np.stack([power_relu_scales(knots) for knots in layer.knots]))
    return PowerReLU(biases, torch.tensor(weights), scales, layer.degree, 0 if plain else layer.degree + 1)


def _tensor(values: Any) -> torch.Tensor:
    """Copy an array or a tensor of float64 or float32 to a tensor."""
    tensor = values.detach().clone() if isinstance(values, torch.Tensor) else torch.tensor(as_array(values, "theta"))
    resolve_dtype(tensor.dtype)  # refuses others
    return tensor
