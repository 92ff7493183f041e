"""The networks, points and arguments that the evaluator contract uses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from kanmg.evaluators.base import Jet
from kanmg.initialisation import initial_coefficients
from kanmg.network import Affine, Network, Spline
from kanmg.splines.knots import clamped_knots, knots_from_breakpoints, uniform_knots
from kanmg.testing.oracle import oracle_adjoint, oracle_value

if TYPE_CHECKING:
    from kanmg.evaluators.base import Evaluator
    from kanmg.network import Outside

__all__ = ["LAYOUTS", "METHODS", "NETWORKS", "Case", "chain", "outside_case", "sample_points"]

Array = npt.NDArray[Any]

_BENT = [-1.0, -0.75, -0.7, 0.0, 0.1, 0.5, 1.0]
_WIDE_BENT = [0.0, 0.1, 0.5, 2.0, 2.5, 2.75, 3.0]


def chain(widths: tuple[int, ...], degree: int, num_intervals: int, **options: Any) -> Network:
    """Build a network of splines with the same uniform knots everywhere."""
    knots = uniform_knots(num_intervals, degree=degree)
    return Network([Spline(*pair, knots=knots, **options) for pair in pairwise(widths)])


NETWORKS: dict[str, Network] = {
    "cubic": chain((2, 5, 1), 3, 8),
    "degree 1": chain((2, 3, 2), 1, 8),
    "degree 2, one cell": chain((1, 2, 3), 2, 1),
    "degree 4, odd cells": chain((3, 2, 2), 4, 7),
    "degree 5, deep": chain((2, 3, 3, 3, 1), 5, 5),
    "degree 9": chain((1, 2, 1), 9, 3),
    "many cells": chain((2, 2, 1), 3, 512),
    "many outputs": chain((1, 17), 3, 4),
    "many inputs": chain((33, 1), 2, 3),
    "wide, few cells": chain((2, 32, 32, 2), 3, 2),
    "clamped": Network(
        [Spline(2, 3, knots=clamped_knots(5, degree=3)), Spline(3, 1, knots=clamped_knots(4, degree=3, domain=(2, 3)))]
    ),
    "non-uniform": Network(
        [
            Spline(2, 4, knots=knots_from_breakpoints(_BENT, degree=3)),
            Spline(4, 2, knots=knots_from_breakpoints(_BENT, degree=3, clamped=True)),
        ]
    ),
    "knots per input": Network(
        [
            Spline(
                3,
                2,
                knots=[
                    uniform_knots(6, degree=2, domain=(-3, 0)),
                    clamped_knots(6, degree=2),
                    knots_from_breakpoints(_WIDE_BENT, degree=2),
                ],
            ),
            Spline(2, 2, knots=[uniform_knots(3, degree=2), uniform_knots(3, degree=2, domain=(0, 9))]),
        ]
    ),
    "mixed degree": Network(
        [
            Spline(2, 4, knots=uniform_knots(5, degree=5)),
            Spline(4, 3, knots=uniform_knots(9, degree=1)),
            Spline(3, 2, knots=knots_from_breakpoints(_BENT, degree=3)),
        ]
    ),
    "affine first": Network([Affine(2, 5), Spline(5, 1, knots=uniform_knots(5, degree=3))], domain=(0, 1)),
    "affine in between": Network(
        [
            Spline(2, 3, knots=uniform_knots(5, degree=3)),
            Affine(3, 4, bias=False),
            Affine(4, 3),
            Spline(3, 2, knots=uniform_knots(4, degree=2, domain=(-2, 2))),
        ]
    ),
    "affine last": Network([Spline(2, 3, knots=uniform_knots(5, degree=3)), Affine(3, 2)]),
    "affine only": Network([Affine(3, 2), Affine(2, 2, bias=False)]),
}
"""Networks that break the tiling of kernels and the look-up of cells."""


def sample_points(network: Network, num_samples: int, *, reach: float = 0.02, seed: int = 0) -> npt.NDArray[np.float64]:
    """Draw points in the domain of a network and a little outside.

    Parameters
    ----------
    network : Network
    num_samples : int
    reach : float
        How far outside, as part of the domain's length.
    seed : int

    Returns
    -------
    ndarray, shape (num_samples, num_inputs)
        Multiples of 2^-20, which float32 represents exactly.
    """
    a, b = np.array(network.domain or ((-1.0, 1.0),) * network.num_inputs).T
    fractions = np.random.default_rng(seed).uniform(-reach, 1 + reach, (num_samples, network.num_inputs))
    rounded: npt.NDArray[np.float64] = np.round((a + (b - a) * fractions) * 2.0**20) / 2.0**20
    return rounded


METHODS: dict[str, tuple[str, ...]] = {
    "value": ("theta", "x"),
    "jet": ("theta", "x", "directions", "order"),
    "adjoint": ("theta", "x", "y"),
    "squared_error": ("theta", "x", "y", "weights"),
    "squared_error_value": ("theta", "x", "y", "weights"),
    "jacobian": ("theta", "x"),
    "jvp": ("theta", "x", "tangent"),
    "jet_adjoint": ("theta", "x", "directions", "cotangents"),
    "jet_jacobian": ("theta", "x", "directions", "cotangents"),
    "gauss_newton": ("theta", "x", "y", "weights"),
}
"""The methods of an evaluator and what a `Case` passes to them."""

LAYOUTS = ("strided", "reversed", "transposed", "read-only", "tensor", "transposed tensor")
"""What `Case.arranged` knows."""


@dataclass(frozen=True)
class Case:
    """A network, coefficients, points, and everything else that an evaluator's methods take, in one dtype."""

    network: Network
    theta: Any
    x: Any
    y: Any
    weights: Any
    tangent: Any
    directions: Any
    cotangents: Jet
    order: int = 2
    curvatures: Any = None

    @classmethod
    def drawn(cls, network: Network, dtype: str, num_samples: int = 60, reach: float = 0.02) -> Case:
        """Draw coefficients whose hidden values fill their intervals, and points up to `reach` outside the domain."""
        random = np.random.default_rng(1)
        theta = initial_coefficients(network, sample_points(network, 200, reach=0.0), seed=2, noise=0.3)
        arrays = (
            theta,
            sample_points(network, num_samples, reach=reach),
            random.standard_normal((num_samples, network.num_outputs)),
            random.uniform(0.0, 2.0, num_samples),
            random.standard_normal(network.num_coefficients),
            random.standard_normal((3, network.num_inputs)),
            random.standard_normal((3, 3, num_samples, network.num_outputs)),
        )
        theta, x, y, weights, tangent, directions, seeds = (array.astype(dtype) for array in arrays)
        cotangents = Jet(seeds[0, 0], (seeds[1], seeds[2]))
        return cls(network, theta, x, y, weights, tangent, directions, cotangents)

    def curved(self) -> Case:
        """Give every point directions of its own, and curvatures."""
        shape = len(self.directions), *self.x.shape
        directions, curvatures = np.random.default_rng(5).standard_normal((2, *shape)).astype(self.x.dtype)
        return replace(self, directions=directions, curvatures=curvatures)

    def call(self, evaluator: Evaluator, method: str) -> Any:
        """Call a method of an evaluator."""
        keywords = {"curvatures": self.curvatures} if method.startswith("jet") else {}
        return getattr(evaluator, method)(*(getattr(self, name) for name in METHODS[method]), **keywords)

    def results(self, evaluator: Evaluator) -> list[Any]:
        """Call all methods and list all numbers and arrays that they return."""
        return [entry for method in METHODS for entry in _flat(self.call(evaluator, method))]

    def arranged(self, layout: str) -> Case:
        """Return the same numbers in another memory layout."""
        names = ("theta", "x", "y", "weights", "tangent", "directions")
        value, derivatives = self.cotangents
        cotangents = Jet(_arranged(value, layout), tuple(_arranged(entry, layout) for entry in derivatives))
        arrays = {name: _arranged(getattr(self, name), layout) for name in names}
        curvatures = None if self.curvatures is None else _arranged(self.curvatures, layout)
        return replace(self, **arrays, cotangents=cotangents, curvatures=curvatures)

    def squared_error(self, weights: Array | None) -> tuple[float, Array]:
        """Compute the weighted sum of squared errors and its gradient by the oracle."""
        errors = oracle_value(self.network, self.theta, self.x) - self.y
        weighted = errors if weights is None else weights[:, None] * errors
        gradient, _ = oracle_adjoint(self.network, self.theta, self.x, 2 * weighted)
        return float((weighted * errors).sum()), gradient


def outside_case(kind: str, outside: Outside, dtype: str) -> Case:
    """Draw a case with points up to half an interval away, and hidden values outside their intervals too."""
    knots = {
        "uniform": uniform_knots(4, degree=3),
        "clamped": clamped_knots(4, degree=3),
        "non-uniform": knots_from_breakpoints(_BENT, degree=3),
    }[kind]
    network = Network([Spline(2, 3, knots=knots, outside=outside), Spline(3, 2, knots=knots, outside=outside)])
    return Case.drawn(network, dtype, num_samples=200, reach=0.5)


def _flat(result: Any) -> list[Any]:
    if isinstance(result, tuple):
        return [entry for part in result for entry in _flat(part)]
    return [result]


def _arranged(array: Array, layout: str) -> Any:
    """Return the same numbers in another layout."""
    if layout == "strided":
        padded = np.zeros([3 * length for length in array.shape], array.dtype)
        view = padded[(slice(None, None, 3),) * array.ndim]
        view[...] = array
        return view
    if layout == "reversed":
        return np.flip(np.flip(array).copy())
    if layout == "transposed":
        return np.asfortranarray(array)
    if layout == "read-only":
        copy = array.copy()
        copy.setflags(write=False)
        return copy
    if layout == "tensor":
        return torch.tensor(array, requires_grad=True)
    return torch.tensor(array.T.copy()).permute(*range(array.ndim)[::-1]) if array.ndim > 1 else torch.tensor(array)
