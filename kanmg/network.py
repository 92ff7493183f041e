"""The networks that compose layers: shapes and the layout of the coefficients.

Nothing here holds coefficients or computes values. A network says how many coefficients there are and where each
layer's lie in the one flat vector; evaluators compute with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from kanmg.errors import KanmgTypeError, KanmgValueError, ShapeError
from kanmg.layers import OUTSIDE_POLICIES, Affine, Domain, Layer, Outside, Spline

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["OUTSIDE_POLICIES", "Affine", "Domain", "Layer", "Network", "Outside", "Spline", "as_domain"]


@dataclass(frozen=True, init=False, repr=False)
class Network:
    """Layers that feed each other, and the layout of their coefficients in one flat vector.

    Immutable and compared by value; it holds no coefficients. Where knots are free, the logits that they follow from
    stand behind the coefficients of all layers, in the same vector.

    Parameters
    ----------
    layers : sequence of Spline or Affine
        At least one; every layer has as many inputs as the one before has outputs.
    domain : (float, float) or sequence of (float, float), optional
        Where the inputs lie, for all or one per input, when the first layer is affine. A first layer of splines knows
        its own.

    Attributes
    ----------
    layers : tuple of Spline or Affine
    domain : tuple of (float, float), or None
        One interval per input.

    Raises
    ------
    ShapeError
        If the widths of two consecutive layers contradict each other.
    KanmgValueError, KanmgTypeError
        If there is no layer, one is no layer, or `domain` is not an interval or contradicts the first layer.

    Examples
    --------
    >>> import kanmg
    >>> knots = kanmg.uniform_knots(5, degree=3)
    >>> network = kanmg.Network([kanmg.Affine(2, 5), kanmg.Spline(5, 1, knots=knots)], domain=(0, 1))
    >>> network.widths, network.num_coefficients, network.offsets
    ((2, 5, 1), 55, (0, 15, 55))
    >>> network.refine().num_coefficients
    80
    """

    layers: tuple[Layer, ...]
    domain: Domain | None

    def __init__(
        self,
        layers: Iterable[Layer],
        domain: tuple[float, float] | Sequence[tuple[float, float]] | None = None,
    ) -> None:
        layers = tuple(layers)
        _check_layers(layers)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "domain", _domain_of_inputs(layers[0], domain))

    @property
    def num_inputs(self) -> int:
        """Number of inputs of the first layer."""
        return self.layers[0].num_inputs

    @property
    def num_outputs(self) -> int:
        """Number of outputs of the last layer."""
        return self.layers[-1].num_outputs

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of inputs, of hidden values after every layer, and of outputs."""
        return (self.num_inputs, *(layer.num_outputs for layer in self.layers))

    @cached_property
    def num_coefficients(self) -> int:
        """Length of the flat vector: coefficients of all layers, and logits of free knots."""
        return self.offsets[-1] + self.num_logits

    @cached_property
    def num_logits(self) -> int:
        """Number of the logits that free knots follow from: the last entries of the flat vector."""
        return sum(layer.num_logits for layer in self.layers if isinstance(layer, Spline))

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where the layers' coefficients begin in the flat vector, and where the last one's end."""
        offsets = [0]
        for layer in self.layers:
            offsets.append(offsets[-1] + layer.num_coefficients)
        return tuple(offsets)

    def unflatten(self, theta: Any) -> list[Any]:
        """Return the layers' coefficients as views of the flat vector.

        Parameters
        ----------
        theta : ndarray or Tensor, shape (num_coefficients,)

        Returns
        -------
        list of ndarray or Tensor
            One array of shape `layer.shape` per layer. Writing to one writes to `theta`.

        Raises
        ------
        ShapeError
            If `theta` has another shape.
        """
        if tuple(theta.shape) != (self.num_coefficients,):
            more = theta.ndim == 1 and len(theta) > self.num_coefficients
            raise ShapeError(
                f"`theta` has shape {tuple(theta.shape)} but the network with `widths={self.widths}` has "
                f"{self.num_coefficients} coefficients. Pass one flat vector of shape ({self.num_coefficients},)."
                + (" Of a solution with free knots it is `coefficients[:network.num_coefficients]`." if more else "")
            )
        return [
            theta[start:stop].reshape(layer.shape)
            for layer, (start, stop) in zip(self.layers, pairwise(self.offsets), strict=True)
        ]

    def knot_logits(self, theta: Any) -> list[Any]:
        """Return the logits that the layers' knots follow from as views of the flat vector.

        Parameters
        ----------
        theta : ndarray or Tensor, shape (num_coefficients,)

        Returns
        -------
        list of ndarray, Tensor or None
            One array of shape (num_inputs, free_knots) per layer; None where the knots are fixed.

        Examples
        --------
        >>> import kanmg
        >>> network = kanmg.Network([kanmg.Spline(1, 1, knots=kanmg.uniform_knots(4, degree=3), free_knots=2)])
        >>> network.num_coefficients, network.knot_logits(np.arange(9.0))
        (9, [array([[7., 8.]])])
        """
        logits: list[Any] = []
        begin = self.offsets[-1]
        for layer in self.layers:
            if not isinstance(layer, Spline) or not layer.free_knots:
                logits.append(None)
                continue
            logits.append(theta[begin : begin + layer.num_logits].reshape(layer.num_inputs, layer.free_knots))
            begin += layer.num_logits
        return logits

    def at(self, theta: Any) -> Network:
        """Return the network with its knots fixed where training has moved them.

        Parameters
        ----------
        theta : ndarray, shape (num_coefficients,)

        Returns
        -------
        Network
            Of `num_coefficients - num_logits` coefficients, the first ones of `theta`. The network itself if no knots
            are free.

        Raises
        ------
        NonFiniteError
            If a logit is not finite.

        Examples
        --------
        >>> import kanmg
        >>> network = kanmg.Network([kanmg.Spline(1, 1, knots=kanmg.uniform_knots(2, degree=1), free_knots=True)])
        >>> fixed = network.at(np.array([0.0, 1.0, 0.0, 1.0, -1.0]))
        >>> fixed.num_coefficients, fixed.layers[0].knots[0].breakpoints.round(4).tolist()
        (3, [-1.0, 0.7464, 1.0])
        """
        if not self.num_logits:
            return self
        logits = self.knot_logits(theta)
        layers = [
            layer if isinstance(layer, Affine) else layer.at(own)
            for layer, own in zip(self.layers, logits, strict=True)
        ]
        return Network(layers, domain=self.domain)

    def fixed(self) -> Network:
        """Return the network with fixed knots, those of the layers."""
        layers = [
            Spline(layer.num_inputs, layer.num_outputs, knots=layer.knots, outside=layer.outside)
            if isinstance(layer, Spline)
            else layer
            for layer in self.layers
        ]
        return Network(layers, domain=self.domain)

    def flatten(self, arrays: Sequence[Any], logits: Any = None) -> Any:
        """Join the layers' coefficients in one new flat vector: the inverse of `unflatten`.

        Parameters
        ----------
        arrays : sequence of ndarray or Tensor
            One array of shape `layer.shape` per layer.
        logits : ndarray or Tensor, shape (num_logits,), optional
            Of free knots; by default zero, which leaves the knots where they are in the layers.

        Returns
        -------
        ndarray or Tensor, shape (num_coefficients,)
            A tensor if the arrays are tensors.

        Raises
        ------
        ShapeError
            If the number of arrays or the shape of one is wrong.
        """
        expected = [layer.shape for layer in self.layers]
        actual = [tuple(array.shape) for array in arrays]
        if actual != expected:
            raise ShapeError(f"the arrays have the shapes {actual} but the network's layers have {expected}.")
        if isinstance(arrays[0], torch.Tensor):
            ends = [arrays[0].new_zeros(self.num_logits) if logits is None else logits]
            return torch.cat([array.reshape(-1) for array in arrays] + ends)
        ends = [np.zeros(self.num_logits, np.asarray(arrays[0]).dtype) if logits is None else logits]
        return np.concatenate([np.reshape(array, -1) for array in arrays] + ends)

    def refine(self) -> Network:
        """Bisect every cell of every spline layer: the next level."""
        domain = self.domain if isinstance(self.layers[0], Affine) else None
        return Network([layer.refine() for layer in self.layers], domain=domain)

    def __repr__(self) -> str:
        layers = ", ".join(map(repr, self.layers))
        shows_domain = self.domain is not None and isinstance(self.layers[0], Affine)
        return f"Network([{layers}]{f', domain={self.domain}' if shows_domain else ''})"


def as_domain(domain: tuple[float, float] | Sequence[tuple[float, float]], num_inputs: int) -> Domain:
    """Return one interval per input from one for all or one for each.

    Parameters
    ----------
    domain : (float, float) or sequence of (float, float)
    num_inputs : int

    Returns
    -------
    tuple of (float, float), length num_inputs

    Raises
    ------
    ShapeError
        If there are neither one nor `num_inputs` intervals.
    KanmgValueError
        If something is not a pair (a, b) of finite numbers with a < b.

    Examples
    --------
    >>> as_domain((0, 1), 2)
    ((0.0, 1.0), (0.0, 1.0))
    """
    intervals = list(domain)
    if len(intervals) == 2 and all(isinstance(end, Real) for end in intervals):
        intervals = [cast("tuple[float, float]", tuple(intervals))] * num_inputs
    if len(intervals) != num_inputs:
        raise ShapeError(
            f"`domain={domain!r}` has {len(intervals)} intervals but there are {num_inputs} inputs. "
            "Pass one pair (a, b) for all inputs, or one for each."
        )
    return tuple(_interval(pair) for pair in intervals)


def _interval(pair: Any) -> tuple[float, float]:
    """Check one interval (a, b)."""
    try:
        a, b = (float(end) for end in pair)
    except (TypeError, ValueError):
        raise KanmgValueError(f"`domain` holds {pair!r}, which is not a pair (a, b) of numbers.") from None
    if not (math.isfinite(a) and math.isfinite(b) and a < b):
        raise KanmgValueError(f"`domain` holds the interval ({a:g}, {b:g}). Pass finite numbers (a, b) with a < b.")
    return a, b


def _domain_of_inputs(first: Layer, domain: Any) -> Domain | None:
    """Where the inputs of a network lie: the first layer's interval, or what the user says of an affine one."""
    stated = None if domain is None else as_domain(domain, first.num_inputs)
    if isinstance(first, Affine):
        return stated
    if stated is not None and stated != first.domain:
        raise KanmgValueError(
            f"`domain={domain!r}` contradicts the knots of the first layer, whose domain is {first.domain}. "
            "Leave `domain` out: it is meant for networks whose first layer is affine."
        )
    return first.domain


def _check_layers(layers: tuple[Any, ...]) -> None:
    """Refuse what is no chain of layers."""
    if not layers:
        raise KanmgValueError("`Network` got no layers. Pass at least one `Spline` or `Affine`.")
    for index, layer in enumerate(layers):
        if not isinstance(layer, Spline | Affine):
            raise KanmgTypeError(f"layer {index} is a {type(layer).__name__}. Pass `Spline` or `Affine` layers.")
    for index, (layer, following) in enumerate(pairwise(layers)):
        if layer.num_outputs != following.num_inputs:
            raise ShapeError(
                f"layer {index} has {layer.num_outputs} outputs but layer {index + 1} has {following.num_inputs} "
                f"inputs. Write e.g. `{type(following).__name__}({layer.num_outputs}, {following.num_outputs}, ...)`."
            )
