"""The reference evaluator: plain torch, differentiable to any order, slow and obviously right.

Each layer gathers the coefficients of the k + 1 basis functions that are non-zero at a point and contracts them with
their values. Gradients and Jacobians come from torch's automatic differentiation; derivatives with respect to the
points by Taylor series, which are exact for piecewise polynomials.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from kanmg.arrays import as_array, check_dtype, resolve_dtype, row_chunks
from kanmg.errors import ShapeError
from kanmg.evaluators.base import Array, Evaluator, Jet
from kanmg.evaluators.cost import gradient_cost, value_cost
from kanmg.evaluators.torch_free_knots import TorchFreeSpline
from kanmg.evaluators.truncated_powers import torch_layers
from kanmg.threads import fitting_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kanmg.evaluators.truncated_powers import SplineBasis
    from kanmg.network import Network

__all__ = ["ReferenceEvaluator"]

_CHUNK_ENTRIES = 1 << 20


class ReferenceEvaluator(Evaluator):
    """Evaluate a network with plain torch operations.

    The methods of the interface take NumPy arrays (or CPU tensors) and return NumPy arrays. `forward` and `forward_jet`
    take and return tensors on the evaluator's device, and torch differentiates through them to any order.

    Parameters
    ----------
    network : Network
    dtype : numpy.dtype or str
        float64 or float32.
    device : str or torch.device, default "cpu"
        Any torch device; samples are moved there chunk by chunk.
    basis : {"recursion", "truncated-power"}, default "recursion"
        How B-splines are computed: those of the cell by de Boor's recursion; or, on uniform knots, all of them in one
        pass, as sums of truncated powers with clamped arguments, which is slower the more cells there are.

    Raises
    ------
    KanmgValueError
        If `basis` is unknown, or needs uniform knots and a layer has others.

    Notes
    -----
    The sums of gradients run in a fixed order: the same input gives the same bits on the CPU.

    Examples
    --------
    The cubic spline whose coefficients are the Greville abscissae is the identity:

    >>> import kanmg
    >>> knots = kanmg.uniform_knots(4, degree=3)
    >>> evaluator = ReferenceEvaluator(kanmg.Network([kanmg.Spline(1, 1, knots=knots)]), "float64")
    >>> evaluator.value(knots.greville, np.array([[-0.5], [0.25]])).ravel().round(12).tolist()
    [-0.5, 0.25]
    >>> x = torch.tensor([[0.25]], dtype=torch.float64, requires_grad=True)
    >>> u = evaluator.forward(torch.tensor(knots.greville) ** 2, x)
    >>> u_x, = torch.autograd.grad(u, x, create_graph=True)
    >>> print(f"{torch.autograd.grad(u_x, x)[0].item():.10f}")
    2.0000000000
    """

    name: ClassVar[str] = "reference"
    takes_free_knots: ClassVar[bool] = True

    def __init__(
        self,
        network: Network,
        dtype: Any,
        device: str | torch.device = "cpu",
        basis: SplineBasis = "recursion",
    ) -> None:
        super().__init__(network, resolve_dtype(dtype))
        self.device = torch.device(device)
        self.basis = basis
        self._layers = torch_layers(network, getattr(torch, self.dtype.name), self.device, basis)
        if basis != "recursion":
            # A checkpoint's run does not go on with other rounding errors.
            self.name = f"reference ({basis})"  # type: ignore[misc]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.network, self.dtype, self.device, self.basis)

    @property
    def home(self) -> None:
        """NumPy arrays, whatever the device."""
        return None

    def forward(self, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Evaluate the network on tensors, in one piece, for use with torch's automatic differentiation.

        Parameters
        ----------
        theta : Tensor, shape (num_coefficients,) or (N, num_coefficients)
            One vector for all samples, or one for each.
        x : Tensor, shape (N, num_inputs)

        Returns
        -------
        Tensor, shape (N, num_outputs)
        """
        return self.forward_jet(theta, x, x.new_empty((0, x.shape[1])), 0)[0]

    def forward_jet(
        self,
        theta: torch.Tensor,
        x: torch.Tensor,
        directions: torch.Tensor,
        order: int,
        curvatures: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Evaluate values and directional derivatives on tensors, differentiable like `forward`.

        Parameters
        ----------
        theta : Tensor, shape (num_coefficients,) or (N, num_coefficients)
        x : Tensor, shape (N, num_inputs)
        directions : Tensor, shape (D, num_inputs) or (D, N, num_inputs)
        order : int
        curvatures : Tensor, shape (D, N, num_inputs), optional

        Returns
        -------
        list of Tensor
            The values, shape (N, Q), then the derivatives of order 1, ..., `order`, each of shape (D, N, Q).

        Notes
        -----
        Truncated Taylor series in the parameter of the paths x + t v + t**2 c / 2 go through the layers one after the
        other, which is Faa di Bruno's formula without its combinatorics.
        """
        shape = (len(directions), *x.shape)
        slopes = directions if directions.ndim == 3 else directions[:, None, :].expand(shape)
        zeros = x.new_zeros(shape)
        series = [x, slopes, zeros if curvatures is None else 0.5 * curvatures][: order + 1]
        series += [zeros] * (order + 1 - len(series))
        logits = self.network.offsets[-1]
        for layer, (start, stop) in zip(self._layers, pairwise(self.network.offsets), strict=True):
            own = layer
            if isinstance(layer, TorchFreeSpline):
                own = layer.at(theta[..., logits : logits + layer.layer.num_logits])
                logits += layer.layer.num_logits
            series = own.propagate(theta[..., start:stop], series)
        return [math.factorial(j) * coefficient for j, coefficient in enumerate(series)]

    def value(self, theta: Array, x: Array) -> Array:
        coefficients, x = self._coefficients(theta), self._points(x)
        result = np.empty((len(x), self.network.num_outputs), self.dtype)
        with torch.no_grad():
            for rows, points in self._chunks(x):
                result[rows] = self.forward(coefficients, points).cpu().numpy()
        return result

    def jet(self, theta: Array, x: Array, directions: Array, order: int, *, curvatures: Array | None = None) -> Jet:
        coefficients, x = self._coefficients(theta), self._points(x)
        lines, bends = self._paths(x, directions, curvatures)
        value = np.empty((len(x), self.network.num_outputs), self.dtype)
        derivatives = tuple(np.empty((len(lines), *value.shape), self.dtype) for _ in range(order))
        with torch.no_grad():
            for rows, points in self._chunks(x, copies=1 + len(lines)):
                parts = self.forward_jet(coefficients, points, lines[:, rows], order, bends[:, rows])
                value[rows] = parts[0].cpu().numpy()
                for derivative, part in zip(derivatives, parts[1:], strict=True):
                    derivative[:, rows] = part.cpu().numpy()
        return Jet(value, derivatives)

    def adjoint(self, theta: Array, x: Array, cotangents: Array) -> tuple[Array, Array]:
        coefficients, x = self._coefficients(theta).requires_grad_(), self._points(x)
        cotangents = self._checked(cotangents, "cotangents", (len(x), self.network.num_outputs))
        gradient, x_gradient = self._zeros(), np.empty(x.shape, self.dtype)
        for rows, points in self._chunks(x):
            values = self.forward(coefficients, points.requires_grad_())
            parts = torch.autograd.grad(values, (coefficients, points), self._tensor(cotangents[rows]))
            gradient += parts[0].cpu().numpy()
            x_gradient[rows] = parts[1].cpu().numpy()
        return gradient, x_gradient

    def jet_adjoint(
        self, theta: Array, x: Array, directions: Array, cotangents: Jet, *, curvatures: Array | None = None
    ) -> Array:
        coefficients, x = self._coefficients(theta).requires_grad_(), self._points(x)
        lines, bends = self._paths(x, directions, curvatures)
        seeds = self._seeds((len(lines), len(x), self.network.num_outputs), cotangents)
        gradient = self._zeros()
        for rows, points in self._chunks(x, copies=1 + len(lines)):
            paths = lines[:, rows], bends[:, rows]
            gradient += self._pull_back(coefficients, points, paths, [seed[..., rows, :] for seed in seeds])
        return gradient

    def jet_jacobian(
        self, theta: Array, x: Array, directions: Array, cotangents: Jet, *, curvatures: Array | None = None
    ) -> Array:
        coefficients, x = self._coefficients(theta), self._points(x)
        lines, bends = self._paths(x, directions, curvatures)
        seeds = self._seeds((len(lines), len(x), self.network.num_outputs), cotangents)
        result = np.empty((len(x), len(coefficients)), self.dtype)
        for rows, points in self._chunks(x, copies=1 + len(lines)):
            # Each sample gets coefficients of its own, as in `jacobian`.
            own = coefficients.expand(len(points), -1).clone().requires_grad_()
            paths = lines[:, rows], bends[:, rows]
            result[rows] = self._pull_back(own, points, paths, [seed[..., rows, :] for seed in seeds])
        return result

    def squared_error(self, theta: Array, x: Array, y: Array, weights: Array | None = None) -> tuple[float, Array]:
        coefficients = self._coefficients(theta).requires_grad_()
        loss, gradient = 0.0, self._zeros()
        for part in self._squared_errors(coefficients, x, y, weights):
            loss += part.item()
            gradient += torch.autograd.grad(part, coefficients)[0].cpu().numpy()
        return loss, gradient

    def squared_error_value(self, theta: Array, x: Array, y: Array, weights: Array | None = None) -> float:
        coefficients = self._coefficients(theta)
        with torch.no_grad():
            return sum(part.item() for part in self._squared_errors(coefficients, x, y, weights))

    def jacobian(self, theta: Array, x: Array) -> Array:
        coefficients, x = self._coefficients(theta), self._points(x)
        num_outputs = self.network.num_outputs
        result = np.empty((len(x), num_outputs, len(coefficients)), self.dtype)
        for rows, points in self._chunks(x, copies=num_outputs):
            # Each sample gets coefficients of its own: the gradient of a sum over samples is then their Jacobian.
            own = coefficients.expand(len(points), -1).clone().requires_grad_()
            sums = self.forward(own, points).sum(dim=0)
            for q in range(num_outputs):
                (row,) = torch.autograd.grad(sums[q], own, retain_graph=q + 1 < num_outputs)
                result[rows, q] = row.cpu().numpy()
        return result

    def jvp(self, theta: Array, x: Array, direction: Array) -> Array:
        coefficients, x = self._coefficients(theta).requires_grad_(), self._points(x)
        tangent = self._tensor(self._checked(direction, "direction", (len(coefficients),)))
        result = np.empty((len(x), self.network.num_outputs), self.dtype)
        for rows, points in self._chunks(x):
            # w -> J^T w is linear: the gradient of d^T J^T w with respect to w is J d.
            values = self.forward(coefficients, points)
            w = torch.zeros_like(values, requires_grad=True)
            (pulled_back,) = torch.autograd.grad(values, coefficients, w, create_graph=True)
            result[rows] = torch.autograd.grad(pulled_back @ tangent, w)[0].cpu().numpy()
        return result

    def gauss_newton(
        self, theta: Array, x: Array, residuals: Array, weights: Array | None = None
    ) -> tuple[Array, Array]:
        x = self._points(x)
        residuals = self._checked(residuals, "residuals", (len(x), self.network.num_outputs))
        weights = self._weights(weights, len(x))
        size = self.network.num_coefficients
        matrix, vector = np.zeros((size, size), self.dtype), self._zeros()
        for rows in row_chunks(len(x), size * self.network.num_outputs, _CHUNK_ENTRIES):
            jacobian = self.jacobian(theta, x[rows])
            weighted = torch.from_numpy((jacobian * weights[rows, None, None]).reshape(-1, size)).T
            with fitting_threads(weighted.numel() * size):
                matrix += (weighted @ torch.from_numpy(jacobian.reshape(-1, size))).numpy()
                vector += (weighted @ self._tensor(residuals[rows]).cpu().reshape(-1)).numpy()
        return matrix, vector

    @property
    def cost_per_sample(self) -> float:
        return gradient_cost(self.network)

    @property
    def value_cost_per_sample(self) -> float:
        return value_cost(self.network)

    def _paths(self, x: Array, directions: Array, curvatures: Array | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Check directions and curvatures; returns both for every point, as views where they are the same."""
        lines, bends = self._checked_paths(len(x), directions, curvatures)
        shape = (len(lines), *x.shape)
        slopes = self._tensor(lines if lines.ndim == 3 else lines[:, None, :]).expand(shape)
        return slopes, self._tensor(np.zeros(1, self.dtype) if bends is None else bends).expand(shape)

    def _seeds(self, shape: tuple[int, int, int], cotangents: Jet) -> list[Array]:
        """Check the cotangents of a jet whose derivatives have this shape; returns them by order."""
        seeds = [self._checked(cotangents.value, "cotangents.value", shape[1:])]
        for j, derivative in enumerate(cotangents.derivatives):
            seeds.append(self._checked(derivative, f"cotangents.derivatives[{j}]", shape))
        return seeds

    def _pull_back(
        self,
        coefficients: torch.Tensor,
        points: torch.Tensor,
        paths: tuple[torch.Tensor, torch.Tensor],
        seeds: list[Array],
    ) -> Array:
        """Differentiate a jet's sum with its cotangents with respect to coefficients, shared or of each sample."""
        parts = self.forward_jet(coefficients, points, paths[0], len(seeds) - 1, paths[1])
        # Derivatives above the degree of a single layer are constants.
        pairs = [(part, self._tensor(seed)) for part, seed in zip(parts, seeds, strict=True) if part.requires_grad]
        outputs, weights = zip(*pairs, strict=True)
        gradient: Array = torch.autograd.grad(outputs, coefficients, weights)[0].cpu().numpy()
        return gradient

    def _squared_errors(self, theta: torch.Tensor, x: Array, y: Array, weights: Array | None) -> Iterator[torch.Tensor]:
        """Yield the weighted sum of squared errors of one chunk after the other."""
        x = self._points(x)
        y = self._checked(y, "y", (len(x), self.network.num_outputs))
        weights = self._weights(weights, len(x))
        for rows, points in self._chunks(x):
            errors = self.forward(theta, points) - self._tensor(y[rows])
            yield (self._tensor(weights[rows, None]) * errors**2).sum()

    def _zeros(self) -> Array:
        return np.zeros(self.network.num_coefficients, self.dtype)

    def _chunks(self, x: Array, copies: int = 1) -> Iterator[tuple[slice, torch.Tensor]]:
        """Cut the samples so that the largest gathered array, `copies` of it, stays bounded."""
        largest = max(layer.row_size for layer in self._layers)
        for rows in row_chunks(len(x), copies * largest, _CHUNK_ENTRIES):
            yield rows, self._tensor(x[rows])

    def _tensor(self, array: Array) -> torch.Tensor:
        """Copy an array: torch can neither share read-only memory nor negative strides."""
        return torch.from_numpy(np.array(array, order="C")).to(self.device)

    def _coefficients(self, theta: Array) -> torch.Tensor:
        return self._tensor(self._checked(theta, "theta", (self.network.num_coefficients,)))

    def _points(self, x: Array) -> Array:
        return self._checked(x, "x", (None, self.network.num_inputs))

    def _weights(self, weights: Array | None, num_samples: int) -> Array:
        if weights is None:
            return np.broadcast_to(self.dtype.type(1), (num_samples,))
        return self._checked(weights, "weights", (num_samples,))

    def _checked(self, data: Array, name: str, shape: tuple[int | None, ...]) -> Array:
        """View data as an array of this evaluator's dtype and the shape that is required (None: any length)."""
        array = as_array(data, name)
        check_dtype(array, self.dtype, name)
        fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
        if not fits:
            required = ", ".join("N" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "")
            raise ShapeError(
                f"`{name}` has shape {array.shape} but ({required}) is required by a network with "
                f"`widths={self.network.widths}` and {self.network.num_coefficients} coefficients."
            )
        return array
