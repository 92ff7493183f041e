"""Initial coefficients: nearly linear splines whose hidden values lie inside their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kanmg.errors import KanmgValueError, ShapeError
from kanmg.network import Affine, Spline
from kanmg.splines.bspline import evaluate_spline

if TYPE_CHECKING:
    from kanmg.arrays import Array
    from kanmg.network import Layer, Network

__all__ = ["can_shift", "evaluate_layer", "initial_coefficients", "rescale", "sample_rows"]

FloatArray = npt.NDArray[np.float64]

_MAX_SAMPLES = 4096


def initial_coefficients(
    network: Network, x: Array, *, seed: int | np.random.SeedSequence, noise: float = 0.1, fill: float = 0.9
) -> FloatArray:
    """Draw coefficients of nearly linear splines, scaled so that every hidden value fills its interval.

    Hidden values lie inside the next layer's interval on the training inputs. The same arguments give the same bits.

    Parameters
    ----------
    network : Network
    x : ndarray, shape (N, num_inputs)
        Training inputs; at most 4096 of them, equally spaced rows, are looked at.
    seed : int or numpy.random.SeedSequence
        Of NumPy's default generator.
    noise : float, default 0.1
        Standard deviation of the noise added to the coefficients of functions that vary between -s and s over their
        interval, where s is standard normal.
    fill : float, default 0.9
        Fraction of the next layer's interval that each hidden value covers.

    Returns
    -------
    ndarray of float64, shape (num_coefficients,)

    Raises
    ------
    ShapeError
        If `x` does not fit the network or is empty.
    KanmgValueError
        If `noise` is negative or `fill` is not in (0, 1].

    Notes
    -----
    The coefficients of a linear function are its values at the Greville abscissae. As the basis functions sum to one,
    an affine change of a layer's outputs is an exact change of its coefficients. The outputs of the last layer have
    about unit variance. Without a bias an affine layer in front of splines can only be scaled.

    Examples
    --------
    >>> import kanmg
    >>> knots = kanmg.uniform_knots(5, degree=3)
    >>> network = kanmg.Network([kanmg.Spline(1, 2, knots=knots), kanmg.Spline(2, 1, knots=knots)])
    >>> theta = initial_coefficients(network, np.linspace(-1, 1, 100)[:, None], seed=0)
    >>> hidden = network.unflatten(theta)[0][0]
    >>> print(hidden.shape, theta.shape)
    (8, 2) (32,)
    """
    if noise < 0:
        raise KanmgValueError(f"`noise={noise}` is negative. Write `noise=0.1`, or 0 for linear functions.")
    if not 0 < fill <= 1:
        raise KanmgValueError(f"`fill={fill}` is not in (0, 1]. Write `fill=0.9`.")
    values = sample_rows(network, x)
    generator = np.random.default_rng(seed)
    arrays = []
    for layer, following in zip(network.layers, (*network.layers[1:], None), strict=True):
        coefficients = _draw(layer, generator, noise)
        outputs = evaluate_layer(layer, coefficients, values)
        if following is not None:
            scale, shift = _fit(outputs, _targets(following, fill), can_shift=can_shift(layer))
            coefficients = rescale(layer, coefficients, scale, shift)
            outputs = outputs * scale + shift
        arrays.append(coefficients)
        values = outputs
    theta: FloatArray = network.flatten(arrays)
    return theta


def sample_rows(network: Network, x: Array) -> FloatArray:
    """Take at most 4096 rows in float64."""
    if x.ndim != 2 or x.shape[1] != network.num_inputs or not len(x):
        raise ShapeError(
            f"`x` has shape {x.shape}; training inputs of shape (N, {network.num_inputs}), N at least 1, are required."
        )
    stride = -(-len(x) // _MAX_SAMPLES)
    given = np.asarray(x[::stride])
    rows = given.astype(np.float64)
    for end in () if network.domain is None else np.array(network.domain).T:
        # In float32 the end of an interval may lie outside the interval.
        rows = np.where(given == end.astype(given.dtype), end, rows)
    return rows


def _draw(layer: Layer, generator: np.random.Generator, noise: float) -> FloatArray:
    """Draw the coefficients of random linear functions plus noise, with outputs of about unit variance."""
    if isinstance(layer, Affine):
        weights = _orthogonal_columns(layer.num_inputs, layer.num_outputs, generator)
        return np.vstack([weights, np.zeros((int(layer.bias), layer.num_outputs))])
    slopes = generator.standard_normal((layer.num_inputs, layer.num_outputs)) / np.sqrt(layer.num_inputs)
    rise = np.stack([_centred_greville(layer, p) for p in range(layer.num_inputs)])
    perturbation = generator.standard_normal(layer.shape) * (noise / np.sqrt(layer.num_inputs))
    drawn: FloatArray = rise[:, :, None] * slopes[:, None, :] + perturbation
    return drawn


def _orthogonal_columns(num_inputs: int, num_outputs: int, generator: np.random.Generator) -> FloatArray:
    """Draw directions in blocks of orthogonal ones.

    Independent directions leave, with few units, a part of the inputs' space nearly unseen; in ML-1 a run in six then
    ended in a minimum without the direction along which the target oscillates.
    """
    num_blocks = -(-num_outputs // num_inputs)
    blocks = np.linalg.qr(generator.standard_normal((num_blocks, num_inputs, num_inputs)))[0]
    columns: FloatArray = np.concatenate(list(blocks), axis=1)[:, :num_outputs]
    return columns


def _centred_greville(layer: Spline, p: int) -> FloatArray:
    """Coefficients of the linear function that rises from -1 to 1 over the interval of input p."""
    a, b = layer.knots[p].domain
    rise: FloatArray = (2.0 * layer.knots[p].greville - (a + b)) / (b - a)
    return rise


def evaluate_layer(layer: Layer, coefficients: FloatArray, values: FloatArray) -> FloatArray:
    """Evaluate one layer at rows of inputs."""
    if isinstance(layer, Affine):
        bias = coefficients[-1] if layer.bias else 0.0
        product: FloatArray = values @ coefficients[: layer.num_inputs] + bias
        return product
    columns = zip(layer.knots, coefficients, values.T, strict=True)
    total = np.zeros((len(values), layer.num_outputs))
    for knots, own, column in columns:
        total += evaluate_spline(knots, own, column, outside=layer.outside)
    return total


def _targets(following: Layer, fill: float) -> FloatArray:
    """Intervals that the inputs of a layer shall fill: shape (P, 2). Affine layers take any values: (-1, 1)."""
    domain = following.domain if isinstance(following, Spline) else ((-1.0, 1.0),) * following.num_inputs
    a, b = np.array(domain).T
    centre, half = 0.5 * (a + b), 0.5 * fill * (b - a)
    return np.stack([centre - half, centre + half], axis=1)


def _fit(outputs: FloatArray, targets: FloatArray, *, can_shift: bool) -> tuple[FloatArray, FloatArray]:
    """Scale and shift that map the range of every output onto its target interval."""
    low, high = outputs.min(axis=0), outputs.max(axis=0)
    a, b = targets.T
    if not can_shift:
        # Scaling alone moves nothing into an interval on one side of zero.
        reachable = (a < 0) & (b > 0) & (high > low)
        ends = np.where(reachable, (low / np.where(reachable, a, 1.0), high / np.where(reachable, b, 1.0)), 1.0)
        return 1.0 / ends.max(axis=0), np.zeros_like(low)
    # Constant outputs, as of a single sample, are moved to the centre and keep their scale.
    scale = np.where(high > low, (b - a) / np.where(high > low, high - low, 1.0), 1.0)
    return scale, 0.5 * (a + b) - 0.5 * scale * (low + high)


def can_shift(layer: Layer) -> bool:
    """Tell whether a layer can add constants to its outputs."""
    return isinstance(layer, Spline) or layer.bias


def rescale(layer: Layer, coefficients: FloatArray, scale: FloatArray, shift: FloatArray) -> FloatArray:
    """Change the coefficients so that the outputs become `scale * outputs + shift`."""
    scaled = coefficients * scale
    if isinstance(layer, Spline):
        return scaled + shift / layer.num_inputs
    if layer.bias:
        scaled[-1] += shift
    return scaled
