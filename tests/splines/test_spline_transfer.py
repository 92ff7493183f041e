"""Prolongation, Gram and injection matrices against closed forms, SciPy and NumPy."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy.interpolate import BSpline

from kanmg.errors import KanmgValueError, NestingError
from kanmg.splines import (
    Knots,
    clamped_knots,
    evaluate_spline,
    gram_matrix,
    injection_matrix,
    knots_from_breakpoints,
    prolongation_matrix,
    refine,
    uniform_knots,
)

DEGREES = range(1, 10)
GRADED = [0.0, 0.1, 0.3, 0.35, 1.0]
BUILDERS = {
    "uniform": lambda degree: uniform_knots(4, degree=degree),
    "clamped": lambda degree: clamped_knots(4, degree=degree),
    "graded": lambda degree: knots_from_breakpoints(GRADED, degree=degree),
    "graded clamped": lambda degree: knots_from_breakpoints(GRADED, degree=degree, clamped=True),
}


@pytest.fixture(params=BUILDERS)
def build(request):
    return BUILDERS[request.param]


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("num_intervals", [1, 2, 5, 16])
def test_dyadic_uniform_prolongation_is_the_binomial_mask(degree, num_intervals):
    coarse = uniform_knots(num_intervals, degree=degree, domain=(0.1, 1.3))
    fine = refine(coarse)
    # Coarse function i is a sum of the fine functions 2 i to 2 i + degree + 1; the first `degree` do not exist.
    mask = np.zeros((fine.num_basis + 3 * degree + 2, coarse.num_basis))
    for i in range(coarse.num_basis):
        mask[2 * i : 2 * i + degree + 2, i] = [comb(degree + 1, s) / 2**degree for s in range(degree + 2)]
    expected = mask[degree : degree + fine.num_basis]
    matrix = prolongation_matrix(coarse, fine)
    assert np.abs(matrix.toarray() - expected).max() < 5e-16
    assert matrix.nnz == np.count_nonzero(expected)


@pytest.mark.parametrize("degree", DEGREES)
def test_inserting_one_knot_agrees_with_scipy(build, degree):
    coarse = build(degree)
    new = 0.5 * coarse.breakpoints[2] + 0.5 * coarse.breakpoints[3]
    fine = Knots(np.sort(np.append(coarse.vector, new)), degree)
    c = np.random.default_rng(degree).normal(size=coarse.num_basis)
    oracle = BSpline(coarse.vector, c, degree).insert_knot(new)
    assert np.array_equal(oracle.t, fine.vector)
    assert np.abs(prolongation_matrix(coarse, fine) @ c - oracle.c).max() < 1e-14


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("factor", [1, 2, 3, 5, 7])
def test_any_integer_factor_nests_uniform_cells(degree, factor):
    coarse = uniform_knots(3, degree=degree, domain=(0.1, 0.7))
    fine = uniform_knots(3 * factor, degree=degree, domain=(0.1, 0.7))
    c = np.random.default_rng(degree).normal(size=coarse.num_basis)
    matrix = prolongation_matrix(coarse, fine)
    x = np.linspace(0.1, 0.7, 77)
    assert evaluate_spline(fine, matrix @ c, x) == pytest.approx(evaluate_spline(coarse, c, x), rel=0, abs=1e-13)
    assert matrix.data.min() > 0.0
    assert np.diff(matrix.indptr).max() <= degree + 1


@pytest.mark.parametrize("degree", DEGREES)
def test_exterior_knots_are_a_choice_of_basis(degree):
    clamped, unclamped = clamped_knots(3, degree=degree), refine(uniform_knots(3, degree=degree))
    c = np.random.default_rng(degree).normal(size=clamped.num_basis)
    matrix = prolongation_matrix(clamped, unclamped)
    # From clamped to simple end knots the entries alternate in sign; the function is the same all the same.
    assert degree == 1 or matrix.data.min() < 0.0
    x = np.linspace(-1, 1, 77)
    scale = np.abs(matrix.data).max()
    assert np.abs(evaluate_spline(unclamped, matrix @ c, x) - evaluate_spline(clamped, c, x)).max() < 1e-14 * scale
    assert np.abs(matrix.sum(axis=1) - 1.0).max() < 1e-14 * scale


@pytest.mark.parametrize("degree", DEGREES)
def test_clamped_prolongation_keeps_end_coefficients(degree):
    coarse = knots_from_breakpoints(GRADED, degree=degree, clamped=True)
    matrix = prolongation_matrix(coarse, refine(coarse)).toarray()
    assert np.array_equal(matrix[[0, -1]], np.eye(coarse.num_basis)[[0, -1]])


def test_prolongation_survives_extreme_grading():
    coarse = knots_from_breakpoints(2.0 ** -np.arange(30.0, -1.0, -1.0), degree=5, clamped=True)
    matrix = prolongation_matrix(coarse, refine(coarse))
    assert matrix.data.min() > 0.0
    assert np.abs(matrix.sum(axis=1) - 1.0).max() < 4e-15


@pytest.mark.parametrize(
    ("fine", "message"),
    [
        (uniform_knots(6, degree=3), r"breakpoint -0\.5 \(and 1 more\)"),
        (uniform_knots(8, degree=4), "degree 3, the fine knots degree 4"),
        (uniform_knots(8, degree=3, domain=(0, 1)), "domain"),
    ],
)
def test_knots_that_do_not_nest_are_refused(fine, message):
    coarse = uniform_knots(4, degree=3)
    with pytest.raises(NestingError, match=message):
        prolongation_matrix(coarse, fine)
    with pytest.raises(NestingError, match=message):
        injection_matrix(coarse, fine)


def test_matrices_are_shared_between_equal_knots_and_read_only():
    coarse, twin = uniform_knots(5, degree=3), uniform_knots(5, degree=3)
    matrix = prolongation_matrix(coarse, refine(coarse))
    assert matrix is prolongation_matrix(twin, refine(twin))
    assert gram_matrix(coarse) is gram_matrix(twin)
    injection = injection_matrix(coarse, refine(coarse))
    assert injection is injection_matrix(twin, refine(twin))
    for array in (matrix.data, matrix.indices, gram_matrix(coarse).data, injection):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_uniform_gram_matrix_holds_the_values_of_the_next_splines():
    # The inner products of cardinal cubic B-splines are the values of the septic one at the integers, over 7!.
    gram = gram_matrix(uniform_knots(10, degree=3, domain=(0, 10))).toarray()
    assert gram[6, 3:10] * 5040 == pytest.approx([1, 120, 1191, 2416, 1191, 120, 1], rel=1e-13)


@pytest.mark.parametrize("degree", DEGREES)
def test_gram_matrix_agrees_with_exact_integration(build, degree):
    knots = build(degree)
    rng = np.random.default_rng(degree)
    c, d = rng.normal(size=(2, knots.num_basis))
    nodes, weights = np.polynomial.legendre.leggauss(20)
    left, right = knots.breakpoints[:-1, None], knots.breakpoints[1:, None]
    x = (0.5 * (left + right) + 0.5 * (right - left) * nodes).ravel()
    quadrature = (0.5 * (right - left) * weights).ravel()
    spline = [BSpline(knots.vector, numbers, degree)(x) for numbers in (c, d)]
    gram = gram_matrix(knots)
    assert c @ (gram @ d) == pytest.approx(np.sum(quadrature * spline[0] * spline[1]), rel=1e-11, abs=1e-13)
    assert np.diff(gram.indptr).max() <= 2 * degree + 1
    assert np.linalg.eigvalsh(gram.toarray()).min() > -1e-15


@pytest.mark.parametrize("degree", range(1, 7))
def test_pinv_injection_is_the_pseudo_inverse(build, degree):
    coarse = build(degree)
    fine = refine(coarse)
    expected = np.linalg.pinv(prolongation_matrix(coarse, fine).toarray())
    assert np.abs(injection_matrix(coarse, fine, "pinv") - expected).max() < 1e-13 * (1.0 + np.abs(expected).max())


@pytest.mark.parametrize("degree", DEGREES)
def test_l2_injection_is_the_least_squares_fit(build, degree):
    coarse = build(degree)
    fine = refine(refine(coarse))
    c = np.random.default_rng(degree).normal(size=fine.num_basis)
    nodes, weights = np.polynomial.legendre.leggauss(degree + 1)
    left, right = fine.breakpoints[:-1, None], fine.breakpoints[1:, None]
    x = (0.5 * (left + right) + 0.5 * (right - left) * nodes).ravel()
    root = np.sqrt(0.5 * (right - left) * weights).ravel()
    target = root * evaluate_spline(fine, c, x)
    clamped = knots_from_breakpoints(coarse.breakpoints, degree=degree, clamped=True)
    design = root[:, None] * evaluate_spline(clamped, np.eye(clamped.num_basis), x)
    best = design @ np.linalg.lstsq(design, target)[0]
    injection = injection_matrix(coarse, fine)
    fit = root * evaluate_spline(coarse, injection @ c, x)
    assert np.abs(fit - best).max() < 1e-15 * (1e3 + np.abs(injection).max())


@pytest.mark.parametrize("kind", ["l2", "pinv"])
@pytest.mark.parametrize("degree", DEGREES)
def test_injection_undoes_prolongation(build, degree, kind):
    coarse = build(degree)
    fine = refine(coarse)
    injection = injection_matrix(coarse, fine, kind)
    assert injection.shape == (coarse.num_basis, fine.num_basis)
    defect = np.abs(injection @ prolongation_matrix(coarse, fine) - np.eye(coarse.num_basis)).max()
    assert defect < 1e-12 if degree <= 5 else defect < 1e-14 * np.abs(injection).max()


@pytest.mark.parametrize("kind", ["l2", "pinv"])
@pytest.mark.parametrize("degree", DEGREES)
def test_injection_keeps_polynomials(build, degree, kind):
    coarse = build(degree)
    fine = refine(coarse)
    constants = injection_matrix(coarse, fine, kind) @ np.ones(fine.num_basis)
    scale = 1.0 + np.abs(injection_matrix(coarse, fine, kind)).max()
    assert np.abs(constants - 1.0).max() < 1e-13 * scale
    lines = injection_matrix(coarse, fine, kind) @ fine.greville
    assert np.abs(lines - coarse.greville).max() < 1e-13 * scale * np.abs(coarse.greville).max()


def test_injection_between_equal_knots_is_the_identity(build):
    knots = build(5)
    for kind in ("l2", "pinv"):
        assert np.abs(injection_matrix(knots, knots, kind) - np.eye(knots.num_basis)).max() < 1e-13


def test_unknown_injection_is_refused():
    with pytest.raises(KanmgValueError, match=r'`kind` is \'h1\'\. Write `kind="l2"` or'):
        injection_matrix(uniform_knots(2, degree=3), uniform_knots(4, degree=3), "h1")
