"""Derivatives that somebody asks for: which directions to propagate, and how to combine what comes out."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kanmg.evaluators.base import Array, Evaluator

__all__ = ["partial_derivative", "polarise"]


def polarise(inputs: Sequence[int], num_inputs: int) -> tuple[Array, Array]:
    """Write a partial derivative as a combination of derivatives of the same order along directions.

    Parameters
    ----------
    inputs : sequence of int
        What to differentiate by, one after the other; n of them.
    num_inputs : int

    Returns
    -------
    directions : ndarray, shape (D, num_inputs)
    weights : ndarray, shape (D,)
        The partial derivative is the sum of `weights` times the n-th derivatives along `directions`.

    Notes
    -----
    The polarisation formula of the symmetric n-linear form D of a homogeneous polynomial p of degree n,

        n! D(v_1, ..., v_n) = 2^(1-n) sum_(s_2, ..., s_n = +-1) s_2 ... s_n p(v_1 + s_2 v_2 + ... + s_n v_n),

    applied to the n-th derivative; directions that agree up to their sign are joined.

    Examples
    --------
    >>> polarise([0, 0], 2)
    (array([[1., 0.]]), array([1.]))
    >>> polarise([0, 1], 2)
    (array([[ 1., -1.],
           [ 1.,  1.]]), array([-0.25,  0.25]))
    """
    order = len(inputs)
    # A pure derivative needs no sum, and should not suffer its cancellation.
    if len(set(inputs)) == 1:
        return np.eye(num_inputs)[[inputs[0]]], np.ones(1)
    weights: dict[tuple[float, ...], float] = {}
    for signs in product((1, -1), repeat=order - 1):
        direction = np.zeros(num_inputs)
        np.add.at(direction, list(inputs), (1, *signs))
        nonzero = direction[np.flatnonzero(direction)]
        if nonzero.size:
            sign = np.sign(nonzero[0])
            key = tuple((sign * direction).tolist())
            weight = sign**order * math.prod(signs) / (2 ** (order - 1) * math.factorial(order))
            weights[key] = weights.get(key, 0.0) + weight
    kept = sorted(key for key, weight in weights.items() if weight != 0.0)
    return np.array(kept), np.array([weights[key] for key in kept])


def partial_derivative(evaluator: Evaluator, theta: Array, x: Array, inputs: Sequence[int]) -> Array:
    """Evaluate a partial derivative of a network.

    Parameters
    ----------
    evaluator : Evaluator
    theta : ndarray, shape (num_coefficients,)
    x : ndarray, shape (N, num_inputs)
    inputs : sequence of int
        What to differentiate by, one after the other; the value itself if there are none.

    Returns
    -------
    ndarray, shape (N, Q)
    """
    if not inputs:
        return evaluator.value(theta, x)
    directions, weights = polarise(inputs, x.shape[1])
    jet = evaluator.jet(theta, x, directions.astype(x.dtype), len(inputs))
    derivative: Array = np.tensordot(weights.astype(x.dtype), jet.derivatives[-1], axes=1)
    return derivative
