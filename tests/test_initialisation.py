"""Initial coefficients: hidden values fill their intervals, whatever the layers."""

from __future__ import annotations

import numpy as np
import pytest

from kanmg.errors import KanmgValueError, ShapeError
from kanmg.initialisation import initial_coefficients
from kanmg.network import Affine, Network, Spline
from kanmg.splines.bspline import evaluate_spline
from kanmg.splines.knots import clamped_knots, knots_from_breakpoints, uniform_knots
from kanmg.testing.oracle import oracle_value

CUBIC = uniform_knots(5, degree=3)
SHIFTED = knots_from_breakpoints([2.0, 2.5, 4.0, 5.0], degree=5)
NETWORKS = {
    "splines": Network([Spline(2, 5, knots=CUBIC), Spline(5, 3, knots=SHIFTED), Spline(3, 1, knots=CUBIC)]),
    "affine first": Network([Affine(2, 5), Spline(5, 1, knots=SHIFTED)], domain=(-1, 1)),
    "affine within": Network([Spline(2, 4, knots=CUBIC), Affine(4, 3), Spline(3, 2, knots=CUBIC)]),
    "per-input knots": Network(
        [
            Spline(2, 2, knots=CUBIC),
            Spline(2, 1, knots=[clamped_knots(4, degree=2, domain=(0, 9)), uniform_knots(4, degree=2)]),
        ]
    ),
    "no bias": Network([Affine(2, 5, bias=False), Spline(5, 1, knots=clamped_knots(4, degree=3, domain=(-3, 1)))]),
}


def points(num_samples: int = 10_000) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (num_samples, 2))


def hidden_values(network: Network, theta: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    """The inputs of every layer but the first."""
    depths = range(1, len(network.layers))
    return [oracle_value(Network(network.layers[:d]), theta[: network.offsets[d]], x) for d in depths]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_hidden_values_lie_inside_their_intervals_on_the_training_inputs(name: str, seed: int) -> None:
    network, x = NETWORKS[name], points()
    theta = initial_coefficients(network, x, seed=seed)
    assert theta.shape == (network.num_coefficients,)
    for layer, values in zip(network.layers[1:], hidden_values(network, theta, x), strict=True):
        if isinstance(layer, Spline):
            a, b = np.array(layer.domain).T
            assert (values >= a).all()
            assert (values <= b).all()


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "no bias"])
@pytest.mark.parametrize("fill", [0.5, 0.9])
def test_hidden_values_fill_the_given_fraction_of_their_intervals(name: str, fill: float) -> None:
    network, x = NETWORKS[name], points(4096)
    theta = initial_coefficients(network, x, seed=3, fill=fill)
    for layer, values in zip(network.layers[1:], hidden_values(network, theta, x), strict=True):
        a, b = np.array(layer.domain if isinstance(layer, Spline) else ((-1.0, 1.0),) * layer.num_inputs).T
        np.testing.assert_allclose(np.ptp(values, axis=0) / (b - a), fill, rtol=1e-12)
        np.testing.assert_allclose(values.min(axis=0) - a, b - values.max(axis=0), atol=1e-12)


def test_without_noise_all_functions_are_linear() -> None:
    network = NETWORKS["splines"]
    theta = initial_coefficients(network, points(), seed=0, noise=0.0)
    for layer, coefficients in zip(network.layers, network.unflatten(theta), strict=True):
        for knots, own in zip(layer.knots, coefficients, strict=True):
            x = np.linspace(*knots.domain, 50)
            assert np.abs(evaluate_spline(knots, own, x, derivative=2)).max() < 1e-11


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_of_order_one(name: str) -> None:
    x = points(1000)
    spreads = [
        oracle_value(NETWORKS[name], initial_coefficients(NETWORKS[name], x, seed=seed), x).std(axis=0)
        for seed in range(8)
    ]
    assert 0.05 < np.mean(spreads) < 2.0


def test_same_seed_same_bits_and_other_seed_other_coefficients() -> None:
    network, x = NETWORKS["splines"], points(100)
    first, again, other = (initial_coefficients(network, x, seed=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_single_sample_and_float32_inputs() -> None:
    network = NETWORKS["splines"]
    theta = initial_coefficients(network, points(1), seed=0)
    for layer, values in zip(network.layers[1:], hidden_values(network, theta, points(1)), strict=True):
        np.testing.assert_allclose(values[0], np.mean(layer.domain, axis=1), atol=1e-12)
    assert initial_coefficients(network, points(50).astype(np.float32), seed=0).dtype == np.float64


@pytest.mark.parametrize("domain", [(0.82, 1.92), (-1.37, 0.56), (0.1, 0.7)])
def test_ends_in_single_precision_are_not_outside(domain) -> None:
    """Rounded to float32, 0.82 lies below 0.82."""
    knots = uniform_knots(4, degree=3, domain=domain)
    network = Network([Spline(1, 1, knots=knots, outside="error")])
    x = np.linspace(*domain, 9, dtype=np.float32)[:, None]
    drawn = [initial_coefficients(network, points, seed=0) for points in (x, np.linspace(*domain, 9)[:, None])]
    np.testing.assert_allclose(*drawn, rtol=1e-6, atol=1e-6)


def test_a_layer_without_bias_is_left_alone_where_scaling_does_not_help() -> None:
    network = Network([Affine(2, 1, bias=False), Spline(1, 1, knots=uniform_knots(4, degree=2, domain=(2, 3)))])
    for x in (points(50), np.zeros((3, 2))):
        weights = network.unflatten(initial_coefficients(network, x, seed=0))[0]
        assert np.abs(weights).max() < 3


def test_unusable_arguments_are_refused() -> None:
    network = NETWORKS["splines"]
    with pytest.raises(ShapeError, match=r"\(4, 3\); training inputs of shape \(N, 2\)"):
        initial_coefficients(network, np.zeros((4, 3)), seed=0)
    with pytest.raises(KanmgValueError, match=r"`fill=1.5` is not in \(0, 1\]"):
        initial_coefficients(network, points(4), seed=0, fill=1.5)
    with pytest.raises(KanmgValueError, match=r"`noise=-1` is negative"):
        initial_coefficients(network, points(4), seed=0, noise=-1)
