"""Spectra of the power-ReLU basis and of the tangent kernel, and the bound between the two bases."""

from __future__ import annotations

from itertools import pairwise
from math import factorial

import numpy as np
import pytest
import scipy.linalg
import torch

import kanmg
from kanmg.diagnostics import kernel_bound, power_relu_spectrum, record_tangent_kernel, tangent_kernel_spectrum
from kanmg.errors import KanmgTypeError, KanmgValueError, NonFiniteError
from kanmg.splines import power_relu_matrix

DEGREES = range(1, 6)


def level_of(degree, widths=(2, 3, 1), num_intervals=6, lift=None, evaluator="reference"):
    options = {"degree": degree, "num_intervals": num_intervals, "num_levels": 1, "evaluator": evaluator}
    return kanmg.uniform_hierarchy(widths, lift=lift, **options)[0]


def points(number=80, num_inputs=2, seed=0):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (number, num_inputs))


# ----------------------------------------------------------------------------------------------------- spectra of A^T A


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_the_spectrum_is_that_of_the_matrix(degree, scaled):
    knots = kanmg.knots_from_breakpoints([0.0, 0.3, 0.4, 1.0], degree=degree)
    A = power_relu_matrix(knots, scaled=scaled).toarray()
    expected = np.linalg.eigvalsh(A.T @ A)[::-1]
    assert np.abs(power_relu_spectrum(knots, scaled=scaled) - expected).max() < 1e-13 * expected[0]


@pytest.mark.parametrize("degree", DEGREES)
def test_small_eigenvalues_are_accurate(degree):
    # det A is the product of its diagonal: an error of the smallest would show at once.
    for num_intervals in (4, 32, 128):
        knots = kanmg.uniform_knots(num_intervals, degree=degree)
        spectrum = power_relu_spectrum(knots)
        assert 0.5 * np.log(spectrum).sum() == pytest.approx(-knots.num_basis * np.log(factorial(degree)), abs=1e-7)


@pytest.mark.parametrize("degree", DEGREES)
def test_the_ratio_grows_like_the_cells_to_the_power_of_twice_the_order(degree):
    sizes = np.array([64, 128, 256])
    spectra = [power_relu_spectrum(kanmg.uniform_knots(size - degree, degree=degree)) for size in sizes]
    rates = np.diff(np.log2([spectrum[0] / spectrum[-1] for spectrum in spectra]))
    # The rate in the number of functions, n + k; the limit is approached from either side.
    assert np.abs(rates - 2 * (degree + 1)).max() < 0.1 * (degree + 1)
    assert abs(rates[1] - 2 * (degree + 1)) < abs(rates[0] - 2 * (degree + 1))


@pytest.mark.parametrize("degree", DEGREES)
def test_the_largest_eigenvalue_tends_to_that_of_the_finite_difference(degree):
    limit = 4.0 ** (degree + 1) / factorial(degree) ** 2
    largest = [power_relu_spectrum(kanmg.uniform_knots(n, degree=degree))[0] for n in (8, 32, 128)]
    assert largest[0] < largest[1] < largest[2] < limit
    assert largest[2] > 0.99 * limit


# ------------------------------------------------------------------------------------------------------- tangent kernel


@pytest.mark.parametrize("lift", [None, "affine"])
def test_the_kernel_is_that_of_the_dense_jacobian(lift):
    level = level_of(2, lift=lift)
    network, x = level.network, points()
    theta = kanmg.initial_coefficients(network, x, seed=0)
    J = level.evaluator.jacobian(theta, x).reshape(80, -1)
    factors = [
        np.eye(layer.num_coefficients)
        if isinstance(layer, kanmg.Affine)
        else scipy.linalg.block_diag(
            *[np.kron(power_relu_matrix(k, scaled=True).toarray(), np.eye(layer.num_outputs)) for k in layer.knots]
        )
        for layer in network.layers
    ]
    in_relu = J @ np.linalg.inv(scipy.linalg.block_diag(*factors)).T
    for basis, matrix in (("spline", J), ("relu", in_relu)):
        found = tangent_kernel_spectrum(level.evaluator, theta, x, basis=basis)
        kernels = np.linalg.eigvalsh(matrix @ matrix.T)[::-1], np.linalg.eigvalsh(matrix.T @ matrix)[::-1]
        assert len(found) == min(J.shape)
        for expected in kernels:
            assert np.abs(found - expected[: len(found)]).max() < 1e-12 * expected[0]


def test_parameters_behind_the_coefficients_are_left_out_and_tensors_are_taken():
    level, x = level_of(2), points()
    theta = kanmg.initial_coefficients(level.network, x, seed=0)
    expected = tangent_kernel_spectrum(level.evaluator, theta, x)
    found = tangent_kernel_spectrum(level.evaluator, torch.tensor([*theta, 7.0]), torch.tensor(x))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("widths", [(2, 1), (2, 3, 1), (2, 4, 4, 2)])
@pytest.mark.parametrize("degree", DEGREES)
def test_the_spectral_radius_of_splines_is_below_four_times_that_of_relu(degree, widths):
    for num_intervals in (3, 12):
        for seed in range(3):
            lift = "affine" if seed == 1 and len(widths) > 2 else None
            level = level_of(degree, widths, num_intervals, lift, evaluator="cpu")
            x = points(seed=seed)
            theta = kanmg.initial_coefficients(level.network, x, seed=seed, noise=1.0)
            radii = [tangent_kernel_spectrum(level.evaluator, theta, x, basis=basis)[0] for basis in ("spline", "relu")]
            ratio = radii[0] / radii[1]
            assert ratio < 4.0
            # What is proved for values inside of their intervals.
            edges = sum(a * b for a, b in pairwise(widths))
            assert ratio <= (lift is not None) + edges / degree ** (2 * degree)


@pytest.mark.parametrize("degree", DEGREES)
def test_the_proven_bound_is_sharp_and_holds_for_any_jacobian(degree):
    level = level_of(degree, (1, 1), num_intervals=40)
    bound = kernel_bound(level.evaluator)
    A = power_relu_matrix(level.network.layers[0].knots[0], scaled=True).toarray()
    # The direction that A lengthens most: where published constants end that hold for all Jacobians.
    J = np.linalg.svd(A)[2][:1]
    assert bound == pytest.approx(4.0 ** (degree + 1) / factorial(degree) ** 2)
    assert 0.9 * bound < (J @ A.T @ A @ J.T).item() < bound


def test_the_bound_of_other_knots_and_of_affine_layers():
    knots = kanmg.knots_from_breakpoints([0.0, 0.3, 0.4, 1.0], degree=2)
    hierarchy = kanmg.Hierarchy([kanmg.Network([kanmg.Spline(1, 1, knots=knots)])], evaluator="reference")
    assert kernel_bound(hierarchy[0].evaluator) == power_relu_spectrum(knots)[0]
    assert kernel_bound(level_of(5).evaluator) == pytest.approx(4.0**6 / 120**2)
    assert kernel_bound(level_of(5, lift="affine").evaluator) == 1.0


# ------------------------------------------------------------------------------------------------------ during training


@pytest.mark.parametrize("smoother", [kanmg.Adam(), kanmg.LBFGS(), kanmg.ChangeOfBasis(kanmg.LBFGS())], ids=repr)
@pytest.mark.parametrize("degree", [1, 3])
def test_spectra_during_training(smoother, degree):
    level, x = level_of(degree), points()
    objective = kanmg.Objective(kanmg.Regression(x, np.sin(3 * x[:, :1]) * x[:, 1:]), level)
    theta = kanmg.initial_coefficients(level.network, x, seed=0)
    records = record_tangent_kernel(objective, smoother, theta, x, steps=12, every=5)
    assert [record.step for record in records] == [0, 5, 10, 12]
    assert records[-1].loss < records[0].loss
    assert records[0].loss == objective.value(theta)
    assert max(record.ratio for record in records) < 4.0
    assert np.array_equal(records[0].spline, tangent_kernel_spectrum(level.evaluator, theta, x))
    assert not np.array_equal(records[0].relu, records[-1].relu)


def test_the_iterates_are_those_of_the_smoother_alone():
    level, x = level_of(3), points()
    problem = kanmg.Regression(x, np.sin(3 * x[:, :1]), batch_size=20)
    theta = kanmg.initial_coefficients(level.network, x, seed=0)
    objective, smoother = kanmg.Objective(problem, level), kanmg.Adam()
    recorded = record_tangent_kernel(objective, smoother, theta, x, steps=6, every=2)
    state = smoother.init(objective, theta)
    for step in range(6):
        objective.batch = step
        theta, state, _ = smoother.step(objective, theta, state)
    objective.batch = None
    assert recorded[-1].loss == objective.value(theta)


def test_recording_ends_where_the_smoother_stalls():
    level, x = level_of(3, (1, 1)), points(num_inputs=1)
    objective = kanmg.Objective(kanmg.Regression(x, np.sin(3 * x)), level)
    records = record_tangent_kernel(objective, kanmg.LBFGS(), np.zeros(9), x, steps=100_000, every=1000)
    assert records[-1].step < 1000


# -------------------------------------------------------------------------------------------------------------- errors


def test_bad_arguments_are_refused(monkeypatch):
    level, x = level_of(2), points()
    theta = kanmg.initial_coefficients(level.network, x, seed=0)
    with pytest.raises(KanmgValueError, match="`basis='ReLU'` is unknown"):
        tangent_kernel_spectrum(level.evaluator, theta, x, basis="ReLU")
    objective = kanmg.Objective(kanmg.Regression(x, x[:, :1]), level)
    with pytest.raises(KanmgValueError, match="every=0"):
        record_tangent_kernel(objective, kanmg.Adam(), theta, x, steps=3, every=0)
    monkeypatch.setattr("kanmg.diagnostics.MAX_ENTRIES", 100)
    with pytest.raises(KanmgValueError, match="Take fewer points"):
        tangent_kernel_spectrum(level.evaluator, theta, x)


def test_what_is_no_evaluator_and_what_is_not_finite():
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=4, num_levels=1, evaluator="reference")
    x = np.zeros((2, 1))
    for function in (lambda given: tangent_kernel_spectrum(given, np.zeros(7), x), kernel_bound):
        with pytest.raises(KanmgTypeError, match=r"`evaluator` is a Level. Pass an evaluator, such as `hierarchy\[0\]"):
            function(hierarchy[0])
    with pytest.raises(NonFiniteError, match="theta"):
        tangent_kernel_spectrum(hierarchy[0].evaluator, np.full(7, np.nan), x)


def test_logits_of_free_knots_are_the_same_in_both_bases():
    hierarchy = kanmg.uniform_hierarchy(
        (1, 1), degree=5, num_intervals=2, num_levels=1, free_knots=True, evaluator="reference"
    )
    evaluator, x = hierarchy[0].evaluator, np.linspace(-1, 1, 50)[:, None]
    theta = np.zeros(hierarchy[0].network.num_coefficients)
    theta[:7] = 1e6 * np.random.default_rng(0).standard_normal(7)
    spline, relu = (tangent_kernel_spectrum(evaluator, theta, x, basis=basis)[0] for basis in ("spline", "relu"))
    assert 0.9 < spline / relu <= kernel_bound(evaluator) == 1.0
