"""Coordinates of coefficients: the same products on the host and with tensors, banded and dense, one or many knots."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import torch

import kanmg
from kanmg.coordinates import Coordinates, Factor, gram_coordinates, metric_coordinates, relu_coordinates
from kanmg.splines import gram_matrix, power_relu_matrix

METHODS = ["from_coefficients", "to_coefficients", "from_gradient", "to_gradient"]


def network_of(*, same):
    knots = [kanmg.uniform_knots(12, degree=2)] * 3
    if not same:
        knots[1] = kanmg.clamped_knots(12, degree=2)
    return kanmg.Network([kanmg.Affine(2, 3), kanmg.Spline(3, 2, knots=knots), kanmg.Spline(2, 1, knots=knots[0])])


def spd(network):
    rng = np.random.default_rng(0)
    return [
        None
        if isinstance(layer, kanmg.Affine)
        else np.eye(layer.num_basis) + np.outer(*[rng.uniform(size=layer.num_basis)] * 2)
        for layer in network.layers
    ]


MAKERS = {
    "relu": relu_coordinates,
    "gram": gram_coordinates,
    "dense": lambda network: metric_coordinates(network, spd(network)),
}


def dense(network, kind):
    """C by hand."""
    blocks = []
    for layer, matrix in zip(network.layers, spd(network), strict=True):
        if isinstance(layer, kanmg.Affine):
            blocks.append(np.eye(layer.num_coefficients))
            continue
        for knots in layer.knots:
            own = {
                "relu": lambda knots=knots: power_relu_matrix(knots, scaled=True).toarray(),
                "gram": lambda knots=knots: np.linalg.cholesky(gram_matrix(knots).toarray()),
                "dense": lambda matrix=matrix: np.linalg.cholesky(matrix),
            }[kind]()
            blocks.append(np.kron(own, np.eye(layer.num_outputs)))
    return scipy.linalg.block_diag(*blocks)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("behind", [0, 3])
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("kind", MAKERS)
def test_products_are_those_of_the_dense_factor(kind, same, behind, as_tensor):
    network = network_of(same=same)
    coordinates = MAKERS[kind](network)
    C = scipy.linalg.block_diag(dense(network, kind), np.eye(behind))
    vector = np.random.default_rng(1).standard_normal(len(C))
    matrix = np.random.default_rng(2).standard_normal(C.shape)
    matrix = matrix + matrix.T
    inverse = np.linalg.inv(C)
    expected = dict(zip(METHODS, [C.T @ vector, inverse.T @ vector, inverse @ vector, C @ vector], strict=True))
    expected["from_matrix"] = inverse @ matrix @ inverse.T
    for name, result in expected.items():
        given = matrix if name == "from_matrix" else vector
        found = getattr(coordinates, name)(torch.tensor(given) if as_tensor else given)
        assert isinstance(found, torch.Tensor) == as_tensor
        assert np.abs(np.asarray(found) - result).max() < 1e-11 * np.abs(result).max()
        assert given is not found


@pytest.mark.parametrize("kind", MAKERS)
def test_arguments_stay_as_they_are_and_so_does_their_dtype(kind):
    network = network_of(same=True)
    coordinates = MAKERS[kind](network)
    for vector in (np.ones(network.num_coefficients, np.float32), torch.ones(network.num_coefficients)):
        for name in METHODS:
            found = getattr(coordinates, name)(vector)
            assert found.dtype == vector.dtype
            assert bool((vector == 1.0).all())
            assert bool((found != 1.0).any())


def test_numbers_that_are_not_finite_go_through():
    for kind, make in MAKERS.items():
        network = network_of(same=True)
        vector = np.full(network.num_coefficients, np.nan)
        for name in METHODS:
            assert np.isnan(getattr(make(network), name)(vector)[9:]).any(), kind


def test_coordinates_are_shared_between_equal_networks():
    assert relu_coordinates(network_of(same=True)) is relu_coordinates(network_of(same=True))


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("width", [1, 2, 19])
def test_factors_with_few_and_with_many_diagonals(width, upper):
    matrix = np.random.default_rng(0).uniform(0.5, 1.0, (20, 20)) + 3.0 * np.eye(20)
    matrix = np.triu(matrix) - np.triu(matrix, width + 1)
    matrix = matrix if upper else matrix.T
    factor, right = Factor(scipy.sparse.csr_array(matrix)), np.random.default_rng(1).standard_normal((20, 3))
    for transposed in (False, True):
        own = matrix.T if transposed else matrix
        np.testing.assert_allclose(factor.multiply(right, transposed=transposed), own @ right, rtol=1e-13, atol=1e-13)
        solved = np.linalg.solve(own, right)
        np.testing.assert_allclose(factor.solve(right, transposed=transposed), solved, rtol=1e-11, atol=1e-12)


def test_layers_without_factors_are_left_alone():
    network = network_of(same=True)
    coordinates = Coordinates(network, [None, None, None])
    vector = np.arange(float(network.num_coefficients))
    assert np.array_equal(coordinates.to_coefficients(vector), vector)
