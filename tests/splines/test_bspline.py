"""The B-spline oracle against known numbers, SciPy, and the outside policies' definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import BSpline

from kanmg.errors import DomainError, KanmgTypeError, KanmgValueError, ShapeError
from kanmg.splines import (
    OUTSIDE_POLICIES,
    Knots,
    basis_matrix,
    clamped_knots,
    evaluate_spline,
    knots_from_breakpoints,
    local_basis,
    local_blossom,
    uniform_knots,
)

DEGREES = range(1, 10)
BUILDERS = {
    "uniform": lambda degree: uniform_knots(4, degree=degree, domain=(-1, 1)),
    "clamped": lambda degree: clamped_knots(4, degree=degree, domain=(0, 3)),
    "graded": lambda degree: knots_from_breakpoints([0.0, 0.1, 0.3, 0.35, 1.0], degree=degree),
    "one cell": lambda degree: uniform_knots(1, degree=degree, domain=(0, 1)),
}


@pytest.fixture(params=BUILDERS)
def build(request):
    return BUILDERS[request.param]


def spread(knots, margin=0.2, count=101):
    lower, upper = knots.domain
    reach = margin * (upper - lower)
    return np.concatenate([np.linspace(lower - reach, upper + reach, count), knots.breakpoints])


def test_cubic_values_on_uniform_knots():
    cells, values = local_basis(uniform_knots(4, degree=3, domain=(0, 4)), [2.0, 1.5])
    assert cells.tolist() == [2, 1]
    assert values[0] * 6 == pytest.approx([1, 4, 1, 0], abs=1e-15)
    assert values[1] * 48 == pytest.approx([1, 23, 23, 1], rel=1e-15)


def test_cells_are_closed_on_the_left_and_the_last_one_on_both_sides():
    knots = uniform_knots(4, degree=2, domain=(0, 4))
    cells, _ = local_basis(knots, [-7.0, 0.0, 1.0, np.nextafter(1.0, 0.0), 3.0, 4.0, 9.0])
    assert cells.tolist() == [0, 0, 1, 0, 3, 3, 3]


@pytest.mark.parametrize("degree", DEGREES)
def test_all_derivatives_agree_with_scipy(build, degree):
    knots = build(degree)
    x = spread(knots)
    c = np.random.default_rng(degree).normal(size=(knots.num_basis, 2))
    oracle = BSpline(knots.vector, c, degree, extrapolate=True)
    for derivative in range(degree + 3):
        values = evaluate_spline(knots, c, x, derivative)
        scale = 1.0 + np.abs(basis_matrix(knots, x, derivative)).sum(axis=1, keepdims=True)
        assert (np.abs(values - oracle(x, nu=derivative)) <= 1e-13 * scale).all()


@pytest.mark.parametrize("degree", DEGREES)
def test_the_highest_derivative_is_right_sided_inside_and_left_sided_at_the_end(degree):
    knots = uniform_knots(3, degree=degree, domain=(0, 3))
    c = np.random.default_rng(1).normal(size=knots.num_basis)
    pieces = evaluate_spline(knots, c, [0.5, 1.5, 2.5], degree)
    assert np.ptp(pieces) > 0.1
    assert evaluate_spline(knots, c, [0.0, 1.0, 2.0, 3.0], degree) == pytest.approx(pieces[[0, 1, 2, 2]], rel=1e-12)


def test_local_basis_and_basis_matrix_and_evaluation_are_one(build):
    knots = build(3)
    x = spread(knots)
    c = np.random.default_rng(0).normal(size=(knots.num_basis, 3))
    cells, values = local_basis(knots, x, 1)
    matrix = basis_matrix(knots, x, 1)
    assert matrix.shape == (x.size, knots.num_basis)
    assert np.array_equal(matrix[np.arange(x.size)[:, None], cells[:, None] + np.arange(4)], values)
    assert np.count_nonzero(matrix) <= values.size
    assert np.allclose(matrix @ c, evaluate_spline(knots, c, x, 1), rtol=1e-13, atol=1e-13)
    assert np.allclose(matrix @ c[:, 0], evaluate_spline(knots, c[:, 0], x, 1), rtol=1e-13, atol=1e-13)


def test_blossom_is_symmetric_multi_affine_and_diagonal(build):
    knots = build(3)
    cells = np.zeros(1, dtype=int)
    u, v, w, t = 0.11, 0.42, 0.77, 0.3
    first = local_blossom(knots, cells, np.array([[u, v, w]]))
    assert local_blossom(knots, cells, np.array([[w, u, v]])) == pytest.approx(first, rel=1e-12)
    mixed = local_blossom(knots, cells, np.array([[(1 - t) * u + t * w, v, w]]))
    other = local_blossom(knots, cells, np.array([[w, v, w]]))
    assert mixed == pytest.approx((1 - t) * first + t * other, rel=1e-12, abs=1e-13)
    x = knots.breakpoints[:1]
    assert local_blossom(knots, cells, np.full((1, 3), x[0])) == pytest.approx(local_basis(knots, x)[1], abs=1e-15)


@pytest.mark.parametrize("outside", OUTSIDE_POLICIES)
@pytest.mark.parametrize("degree", [1, 2, 3, 5, 9])
def test_policies_agree_inside(build, degree, outside):
    knots = build(degree)
    x = spread(knots, margin=0.0)
    for derivative in (0, 1, 2):
        inside = basis_matrix(knots, x, derivative, outside)
        scale = 1.0 + np.abs(inside).max()
        assert np.allclose(inside, basis_matrix(knots, x, derivative), rtol=0.0, atol=1e-14 * scale)


@pytest.mark.parametrize("degree", DEGREES)
def test_extension_is_the_polynomial_of_the_end_cell(build, degree):
    knots = build(degree)
    lower, upper = knots.domain
    c = np.random.default_rng(degree).normal(size=knots.num_basis)
    for end, step in ((lower, -0.1), (upper, 0.1)):
        taylor = sum(
            evaluate_spline(knots, c, [end], derivative) * step**derivative / np.prod(np.arange(1.0, derivative + 1))
            for derivative in range(degree + 1)
        )
        scale = np.abs(basis_matrix(knots, [end + step])) @ np.abs(c)
        assert abs(evaluate_spline(knots, c, [end + step]) - taylor) <= 1e-12 * scale


@pytest.mark.parametrize("degree", DEGREES)
def test_linear_continues_value_and_slope(build, degree):
    knots = build(degree)
    lower, upper = knots.domain
    c = np.random.default_rng(degree).normal(size=knots.num_basis)
    value, slope = (evaluate_spline(knots, c, [lower, upper], derivative) for derivative in (0, 1))
    x = [lower - 1.5, upper + 0.25]
    expected = value + slope * [-1.5, 0.25]
    scale = 1.0 + np.abs(slope).max()
    assert evaluate_spline(knots, c, x, 0, "linear") == pytest.approx(expected, abs=1e-13 * scale)
    assert evaluate_spline(knots, c, x, 1, "linear") == pytest.approx(slope, abs=1e-13 * scale)
    assert evaluate_spline(knots, c, x, 2, "linear").tolist() == [0.0, 0.0]


@pytest.mark.parametrize("degree", DEGREES)
def test_clamp_is_constant_outside(build, degree):
    knots = build(degree)
    lower, upper = knots.domain
    c = np.random.default_rng(degree).normal(size=knots.num_basis)
    x = [lower - 1.5, upper + 0.25, np.inf]
    expected = evaluate_spline(knots, c, [lower, upper, upper])
    assert evaluate_spline(knots, c, x, 0, "clamp").tolist() == expected.tolist()
    assert evaluate_spline(knots, c, x, 1, "clamp").tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("degree", DEGREES)
def test_zero_is_the_bare_sum_on_all_knots(build, degree):
    knots = build(degree)
    length = np.ptp(knots.vector)
    x = np.linspace(knots.vector[0] - 0.1 * length, knots.vector[-1] + 0.1 * length, 203)
    for derivative in range(degree):
        matrix = basis_matrix(knots, x, derivative, "zero")
        for j in range(knots.num_basis):
            element = BSpline.basis_element(knots.vector[j : j + degree + 2], extrapolate=False)
            expected = np.nan_to_num(element(x, nu=derivative))
            assert np.allclose(matrix[:, j], expected, rtol=0.0, atol=1e-13 * (1.0 + np.abs(expected).max()))


def test_zero_vanishes_beyond_the_last_knot_and_evaluates_like_its_matrix():
    knots = uniform_knots(2, degree=3, domain=(0, 2))
    c = np.random.default_rng(0).normal(size=knots.num_basis)
    x = np.linspace(-4, 6, 41)
    values = evaluate_spline(knots, c, x, 0, "zero")
    assert (values[(x <= -3) | (x >= 5)] == 0.0).all()
    assert (values[(x > -3) & (x < 5)] != 0.0).all()
    assert np.allclose(values, basis_matrix(knots, x, 0, "zero") @ c, rtol=1e-14, atol=1e-14)


def test_zero_allows_repeated_exterior_knots():
    knots = Knots([-1, -1, -1, 0, 1, 2, 2, 3], 3)
    x = np.linspace(-1.5, 3.5, 101)
    matrix = basis_matrix(knots, x, 0, "zero")
    assert np.isfinite(matrix).all()
    assert matrix[0] == pytest.approx(0.0)
    assert matrix[50] == pytest.approx(basis_matrix(knots, x[50:51])[0], abs=1e-15)


def test_error_refuses_and_names_the_farthest_point():
    knots = uniform_knots(4, degree=3)
    with pytest.raises(DomainError, match=r"2 points outside the domain \[-1\.0, 1\.0\] \(farthest -1\.5\)"):
        basis_matrix(knots, [0.0, 1.25, -1.5], outside="error")
    assert evaluate_spline(knots, np.ones(7), [-1.0, 1.0], 0, "error") == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("outside", OUTSIDE_POLICIES)
def test_nan_gives_nan_and_no_points_give_no_values(outside):
    knots = uniform_knots(4, degree=3)
    assert np.isnan(evaluate_spline(knots, np.ones(7), [np.nan], 0, outside)).all()
    assert evaluate_spline(knots, np.ones((7, 2)), [], 0, outside).shape == (0, 2)
    assert basis_matrix(knots, [], 0, outside).shape == (0, 7)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda k: local_basis(k, 0.5), ShapeError, r"`x` has shape \(\)\. Pass points of shape \(N,\)"),
        (lambda k: local_basis(k, [[0.5]]), ShapeError, r"`x` has shape \(1, 1\)"),
        (lambda k: local_basis(k, ["left"]), KanmgTypeError, "`x` is"),
        (lambda k: local_basis(k, [0.5], -1), KanmgValueError, "`derivative` is -1"),
        (lambda k: local_basis(k, [0.5], 0.5), KanmgTypeError, "`derivative` is 0.5"),
        (lambda k: basis_matrix(k, [0.5], outside="wrap"), KanmgValueError, "`outside` is 'wrap'. One of \"extend\""),
        (lambda k: evaluate_spline(k, np.ones(6), [0.5]), ShapeError, r"shape \(6,\), but .* has 7 basis functions"),
        (lambda k: evaluate_spline(k, np.ones((7, 1, 1)), [0.5]), ShapeError, r"shape \(7,\) or \(7, Q\)"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(uniform_knots(4, degree=3))
