"""Derivatives that somebody asks for, from derivatives along directions.

Evaluators compute derivatives of order 1, ..., r along given directions. A mixed derivative is a combination of r-th
derivatives along several directions (polarisation): u_xy, for example, is a quarter of the difference of the second
derivatives along x + y and x - y. This module chooses the directions and the weights.
"""

from __future__ import annotations

import functools
import math
import operator
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.vectors import beside, is_tensor, zeros_like

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kanmg.evaluators.base import Evaluator, Jet

__all__ = ["DerivativePlan", "Request", "join_plans", "partial_derivative", "plan_derivatives"]

FloatArray = npt.NDArray[np.float64]
Direction: TypeAlias = tuple[int, ...]

Request: TypeAlias = tuple[int, ...]
"""The coordinates of a derivative: () the value, (0,) u_x, (0, 0) u_xx, (0, 1) u_xy."""


@dataclass(frozen=True, eq=False)
class DerivativePlan:
    """The directions and the order that an evaluator is asked for, and how its answer becomes derivatives.

    Attributes
    ----------
    requests : tuple of tuple of int
        As asked for.
    order : int
        The highest order among them.
    directions : ndarray, shape (D, num_inputs)
    weights : tuple of ndarray, each of shape (D,)
        Request number i of order r is the sum of `weights[i]` times the r-th derivatives along the directions.
    """

    requests: tuple[Request, ...]
    order: int
    directions: FloatArray
    weights: tuple[FloatArray, ...]

    def combine(self, jet: Jet) -> list[npt.NDArray[Any]]:
        """Compute the derivatives that were asked for.

        Parameters
        ----------
        jet : Jet
            Along `directions`, up to `order`.

        Returns
        -------
        list of ndarray, each of shape (N, Q)
            One for each request, in the dtype of the jet.
        """
        return [self._combine(jet, request, own) for request, own in zip(self.requests, self.weights, strict=True)]

    def _combine(self, jet: Jet, request: Request, weights: FloatArray) -> npt.NDArray[Any]:
        if not request:
            return jet.value
        derivatives: Any = jet.derivatives[len(request) - 1]
        if is_tensor(derivatives):
            # Weights are few, and mostly a single 1: as numbers they need not be copied to the device.
            used = [int(d) for d in np.flatnonzero(weights)]
            parts = [derivatives[d] if weights[d] == 1.0 else float(weights[d]) * derivatives[d] for d in used]
            combined: npt.NDArray[Any] = functools.reduce(operator.add, parts)
            return combined
        return np.tensordot(weights.astype(derivatives.dtype), derivatives, axes=1)

    def spread(self, cotangents: Sequence[npt.NDArray[Any]], like: Jet) -> Jet:
        """Turn cotangents of the derivatives that were asked for into cotangents of the jet: `combine` transposed.

        Parameters
        ----------
        cotangents : sequence of ndarray, each of shape (N, Q)
            One for each request.
        like : Jet
            A jet of the same points, for its shapes and dtype.

        Returns
        -------
        Jet
            For `evaluator.jet_adjoint` and `evaluator.jet_jacobian`.
        """
        if is_tensor(like.value):
            return self._spread_there(cotangents, like)
        value, *derivatives = (np.zeros_like(part) for part in (like.value, *like.derivatives))
        for request, own, cotangent in zip(self.requests, self.weights, cotangents, strict=True):
            if not request:
                value += cotangent
                continue
            for d in np.flatnonzero(own):
                derivatives[len(request) - 1][d] += own[d].astype(value.dtype) * cotangent
        return type(like)(value, tuple(derivatives))

    def _spread_there(self, cotangents: Sequence[Any], like: Jet) -> Jet:
        """Do the same on a device, in as few operations as possible: each takes longer to begin than to end."""
        found: dict[tuple[int, int], Any] = {}
        for request, own, cotangent in zip(self.requests, self.weights, cotangents, strict=True):
            for d in np.flatnonzero(own).tolist() if request else [0]:
                part = cotangent if not request or own[d] == 1.0 else float(own[d]) * cotangent
                key = len(request), d
                found[key] = found[key] + part if key in found else part
        none: Any = zeros_like(like.value)
        directions = range(len(self.directions))
        derivatives = (
            torch.stack([found.get((order, d), none) for d in directions])
            for order in range(1, len(like.derivatives) + 1)
        )
        return type(like)(found.get((0, 0), none), tuple(derivatives))  # type: ignore[arg-type]


def plan_derivatives(requests: Iterable[Sequence[int]], num_inputs: int) -> DerivativePlan:
    """Choose few directions from which all requested derivatives can be computed.

    Parameters
    ----------
    requests : iterable of sequence of int
        The coordinates of each derivative, in any order: () the value, (0,) u_x, (0, 0) u_xx, (0, 1) u_xy.
    num_inputs : int

    Returns
    -------
    DerivativePlan

    Raises
    ------
    KanmgValueError
        If a coordinate is no input.
    KanmgTypeError
        If a coordinate is no integer.

    Notes
    -----
    Pure derivatives need their axis. A mixed second derivative needs the axes' sum if both axes are there, their sum
    and difference otherwise; one of higher order r all directions with non-negative integer entries that add up to r
    [1]_. First derivatives need new directions only where the others do not span their axis.

    References
    ----------
    .. [1] A. Griewank, J. Utke and A. Walther, "Evaluating higher derivative tensors by forward propagation of
       univariate Taylor series", Math. Comp. 69 (2000), doi:10.1090/S0025-5718-00-01120-0.

    Examples
    --------
    >>> plan = plan_derivatives([(0, 1)], num_inputs=2)
    >>> plan.order, plan.directions.tolist(), plan.weights[0].tolist()
    (2, [[1.0, 1.0], [1.0, -1.0]], [0.25, -0.25])
    >>> len(plan_derivatives([(0,), (1,), (0, 0)], num_inputs=2).directions)
    2
    """
    checked = tuple(_checked(request, num_inputs) for request in requests)
    directions = _directions(checked, num_inputs)
    table = np.array(directions, np.float64).reshape(len(directions), num_inputs)
    weights = tuple(_weights(request, directions) for request in checked)
    return DerivativePlan(checked, max(map(len, checked), default=0), table, weights)


def join_plans(plans: Sequence[DerivativePlan]) -> DerivativePlan:
    """Return one plan for the requests of several, one after the other, along all their directions.

    Parameters
    ----------
    plans : sequence of DerivativePlan
        At least one, all of the same number of inputs.

    Returns
    -------
    DerivativePlan

    Examples
    --------
    >>> plan = join_plans([plan_derivatives([(0,)], 1), plan_derivatives([(0, 0)], 1)])
    >>> plan.requests, plan.order, [weights.tolist() for weights in plan.weights]
    (((0,), (0, 0)), 2, [[1.0, 0.0], [0.0, 1.0]])
    """
    directions = np.concatenate([plan.directions for plan in plans])
    weights, start = [], 0
    for plan in plans:
        for own in plan.weights:
            row = np.zeros(len(directions))
            row[start : start + len(own)] = own
            weights.append(row)
        start += len(plan.directions)
    requests = tuple(request for plan in plans for request in plan.requests)
    return DerivativePlan(requests, max(plan.order for plan in plans), directions, tuple(weights))


def partial_derivative(
    evaluator: Evaluator, theta: npt.NDArray[Any], x: npt.NDArray[Any], coordinates: Sequence[int]
) -> npt.NDArray[Any]:
    """Evaluate one partial derivative of a network.

    Parameters
    ----------
    evaluator : Evaluator
    theta : ndarray, shape (num_coefficients,)
    x : ndarray, shape (N, num_inputs)
    coordinates : sequence of int
        What to differentiate by, one after the other; nothing for the value.

    Returns
    -------
    ndarray, shape (N, Q)

    Raises
    ------
    KanmgValueError, KanmgTypeError
        As `plan_derivatives`.
    """
    plan = plan_derivatives([coordinates], evaluator.network.num_inputs)
    jet = evaluator.jet(theta, x, beside(plan.directions.astype(evaluator.dtype), x), plan.order)
    return plan.combine(jet)[0]


def _checked(request: Sequence[int], num_inputs: int) -> Request:
    """Check the coordinates of one derivative."""
    for coordinate in request:
        if isinstance(coordinate, bool) or not isinstance(coordinate, int | np.integer):
            raise KanmgTypeError(
                f"a derivative by {coordinate!r} was asked for. Coordinates are numbers of inputs: write (0, 1) for "
                "the mixed derivative by the first two."
            )
        if not 0 <= coordinate < num_inputs:
            raise KanmgValueError(
                f"a derivative by coordinate {coordinate} was asked for, but the inputs are numbered 0 to "
                f"{num_inputs - 1}."
            )
    return tuple(sorted(int(coordinate) for coordinate in request))


def _directions(requests: Sequence[Request], num_inputs: int) -> list[Direction]:
    """Choose directions in the order pure, mixed second, mixed higher, first derivatives."""
    found: dict[Direction, None] = {}
    several = sorted({request for request in requests if len(request) > 1})
    for request in several:
        if len(set(request)) == 1:
            found[_axes_sum(request[:1], num_inputs)] = None
    for request in several:
        if len(request) == 2 and len(set(request)) == 2:
            found |= dict.fromkeys(_for_mixed_second(request, found, num_inputs))
    for request in several:
        if len(request) > 2 and len(set(request)) > 1:
            found |= dict.fromkeys(_for_mixed_higher(request, num_inputs))
    for request in sorted({request for request in requests if len(request) == 1}):
        if not _solve(request, list(found)):
            found[_axes_sum(request, num_inputs)] = None
    return list(found)


def _axes_sum(coordinates: Sequence[int], num_inputs: int) -> Direction:
    """Add up unit vectors and divide by the greatest common divisor of the entries."""
    counts = Counter(coordinates)
    divisor = math.gcd(*counts.values())
    return tuple(counts[i] // divisor for i in range(num_inputs))


def _for_mixed_second(request: Request, found: dict[Direction, None], num_inputs: int) -> list[Direction]:
    plus = _axes_sum(request, num_inputs)
    if all(_axes_sum((i,), num_inputs) in found for i in request):
        return [plus]
    return [plus, tuple(-entry if i == request[1] else entry for i, entry in enumerate(plus))]


def _for_mixed_higher(request: Request, num_inputs: int) -> list[Direction]:
    combinations = combinations_with_replacement(sorted(set(request)), len(request))
    return [_axes_sum(coordinates, num_inputs) for coordinates in combinations]


def _weights(request: Request, directions: Sequence[Direction]) -> FloatArray:
    """Find the weights of the directions; zeros for the value itself."""
    weights = np.zeros(len(directions))
    for position, weight in (_solve(request, directions) if request else {}).items():
        weights[position] = weight
    return weights


def _solve(request: Request, directions: Sequence[Direction]) -> dict[int, float]:
    """Express a derivative of order r by r-th derivatives along directions; empty if that is impossible.

    Tries one direction alone, then those that lie in the span of the request's own axes, then all.
    """
    inside = [i for i, v in enumerate(directions) if set(np.flatnonzero(v)) <= set(request)]
    for positions in [*([i] for i in inside), inside, list(range(len(directions)))]:
        weights = _combination(request, [directions[i] for i in positions])
        if weights:
            return dict(zip(positions, weights, strict=True))
    return {}


def _combination(request: Request, directions: Sequence[Direction]) -> list[float]:
    """Find the weights of these directions; empty if there are none.

    The r-th derivative along v is the sum over all multi-indices b of order r of r! / b! v^b times derivative b.
    """
    if not directions:
        return []
    axes = sorted({*request, *(int(i) for v in directions for i in np.flatnonzero(v))})
    multi_indices = list(combinations_with_replacement(axes, len(request)))
    matrix = np.array([[_multiplicity(b) * _power(v, b) for v in directions] for b in multi_indices], np.float64)
    target = np.array([float(b == request) for b in multi_indices])
    weights = np.linalg.lstsq(matrix, target)[0]
    if not np.allclose(matrix @ weights, target, atol=1e-9):
        return []
    # The weights are fractions with small denominators: this removes the rounding of the solution.
    return [float(Fraction(weight).limit_denominator(10**6)) for weight in weights]


def _multiplicity(multi_index: Request) -> int:
    """How many orderings a multi-index has: r! / b!."""
    return math.factorial(len(multi_index)) // math.prod(math.factorial(n) for n in Counter(multi_index).values())


def _power(direction: Direction, multi_index: Request) -> int:
    return math.prod(direction[i] for i in multi_index)
