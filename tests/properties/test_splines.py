"""Splines and their transfers on drawn knots: what must hold for any of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from kanmg.splines import (
    basis_matrix,
    evaluate_spline,
    gram_matrix,
    injection_matrix,
    prolongation_matrix,
    refine,
)
from kanmg.testing.strategies import coefficients, knots, nested_knots, points

EXACT_POLICIES = ["extend", "linear", "clamp"]


def magnitude(knots, c, x, derivative=0, outside="extend"):
    """What rounding errors of a spline's value are relative to."""
    return np.abs(basis_matrix(knots, x, derivative, outside)) @ np.abs(c)


def inner_points(knots, fractions=(0.1, 0.5, 0.85)):
    cells = knots.breakpoints
    return (cells[:-1, None] + np.diff(cells)[:, None] * np.array(fractions)).ravel()


@given(st.data())
def test_partition_of_unity(data):
    k = data.draw(knots())
    x = data.draw(points(k))
    values = basis_matrix(k, x)
    assert np.abs(values.sum(axis=1) - 1.0).max(initial=0.0) < 1e-14
    assert values.min(initial=0.0) >= 0.0
    assert np.abs(basis_matrix(k, x, 1).sum(axis=1)).max(initial=0.0) < 1e-13 * k.degree / np.diff(k.breakpoints).min()


@given(st.data())
def test_values_and_derivatives_agree_with_scipy(data):
    k = data.draw(knots())
    c = data.draw(coefficients(k))
    x = data.draw(points(k, reach=0.25))
    # SciPy takes the right end's derivatives from the last cell too; at other breakpoints both take the right cell.
    for derivative in range(k.degree + 2):
        expected = BSpline(k.vector, c, k.degree, extrapolate=True)(x, nu=derivative)
        error = np.abs(evaluate_spline(k, c, x, derivative) - expected)
        assert (error <= 1e-13 * (1.0 + magnitude(k, np.ones_like(c), x, derivative))).all()


@given(st.data())
def test_greville_abscissae_represent_the_identity(data):
    k = data.draw(knots())
    x = data.draw(points(k, reach=0.1))
    scale = magnitude(k, k.greville, x)
    assert (np.abs(evaluate_spline(k, k.greville, x) - x) <= 1e-14 * (1.0 + scale)).all()


@given(nested_knots())
def test_prolongation_rows_are_convex_combinations(pair):
    coarse, fine = pair
    matrix = prolongation_matrix(coarse, fine)
    assert matrix.shape == (fine.num_basis, coarse.num_basis)
    assert np.abs(matrix.sum(axis=1) - 1.0).max() < 4e-15
    assert matrix.data.min() > 0.0
    assert np.diff(matrix.indptr).max() <= coarse.degree + 1


@given(knots())
def test_prolongation_to_the_same_knots_is_the_identity(k):
    assert np.array_equal(prolongation_matrix(k, k).toarray(), np.eye(k.num_basis))


@pytest.mark.parametrize("outside", EXACT_POLICIES)
@given(data=st.data())
def test_prolongation_leaves_the_function_unchanged(outside, data):
    coarse, fine = data.draw(nested_knots())
    c = data.draw(coefficients(coarse))
    x = data.draw(points(fine, reach=0.25))
    prolonged = prolongation_matrix(coarse, fine) @ c
    error = np.abs(evaluate_spline(fine, prolonged, x, 0, outside) - evaluate_spline(coarse, c, x, 0, outside))
    scale = magnitude(coarse, c, x, 0, outside) + magnitude(fine, prolonged, x, 0, outside)
    assert (error <= 1e-12 * scale).all()


@given(st.data())
def test_prolongation_preserves_all_derivatives(data):
    coarse, fine = data.draw(nested_knots())
    c = data.draw(coefficients(coarse))
    prolonged = prolongation_matrix(coarse, fine) @ c
    x = inner_points(fine)
    for derivative in range(1, coarse.degree + 1):
        error = np.abs(evaluate_spline(fine, prolonged, x, derivative) - evaluate_spline(coarse, c, x, derivative))
        scale = magnitude(coarse, c, x, derivative) + magnitude(fine, prolonged, x, derivative)
        assert (error <= 1e-12 * scale).all()


@given(nested_knots(max_num_intervals=4))
def test_prolongations_compose(pair):
    coarse, middle = pair
    fine = refine(middle)
    product = prolongation_matrix(middle, fine) @ prolongation_matrix(coarse, middle)
    assert np.abs((product - prolongation_matrix(coarse, fine)).toarray()).max() < 1e-14


@pytest.mark.parametrize("kind", ["l2", "pinv"])
@given(pair=nested_knots())
def test_injection_is_a_left_inverse_of_prolongation(kind, pair):
    prolongation, injection = prolongation_matrix(*pair), injection_matrix(*pair, kind)
    defect = np.abs(injection @ prolongation - np.eye(pair[0].num_basis))
    # Entries are of size one for clamped knots; for others they grow with the degree, and their rounding with them.
    assert defect.max() < 1e-12 if pair[0].degree <= 5 else (defect < 1e-14 * (1.0 + np.abs(injection).max())).all()


@given(st.data())
def test_l2_injection_leaves_a_residual_orthogonal_to_coarse_splines(data):
    coarse, fine = data.draw(nested_knots(degrees=st.integers(1, 5)))
    c = data.draw(coefficients(fine))
    prolongation, gram = prolongation_matrix(coarse, fine), gram_matrix(fine)
    residual = c - prolongation @ (injection_matrix(coarse, fine) @ c)
    dual = prolongation.T @ (gram @ residual)
    assert (np.abs(dual) <= 1e-12 * (prolongation.T @ (gram @ np.abs(residual)) + 1e-3)).all()


@given(knots())
def test_gram_matrix_is_positive_definite_and_integrates(k):
    gram = gram_matrix(k).toarray()
    lower, upper = k.domain
    assert np.array_equal(gram, gram.T)
    assert gram.sum() == pytest.approx(upper - lower, rel=1e-13)
    # Row sums are the integrals of the B-splines; over the whole line each is a (k + 1)-th of the support's length.
    inner = (k.vector[: k.num_basis] >= lower) & (k.vector[k.degree + 1 :] <= upper)
    supports = k.vector[k.degree + 1 :] - k.vector[: k.num_basis]
    assume(inner.any())
    assert np.allclose(gram.sum(axis=1)[inner], supports[inner] / (k.degree + 1), rtol=1e-12, atol=0.0)
