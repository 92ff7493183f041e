"""Truncated powers against rational arithmetic: B = A psi, conversions both ways, how condition numbers grow."""

from __future__ import annotations

from fractions import Fraction
from math import comb, factorial

import numpy as np
import pytest

import kanmg
from kanmg.errors import KanmgTypeError, KanmgValueError, ShapeError
from kanmg.splines import (
    Knots,
    basis_matrix,
    clamped_knots,
    evaluate_spline,
    from_power_relu_weights,
    knots_from_breakpoints,
    power_relu_basis,
    power_relu_exponents,
    power_relu_matrix,
    power_relu_scales,
    to_power_relu_weights,
    uniform_knots,
)

EPS = np.finfo(float).eps
DEGREES = range(1, 6)
KINDS = ["uniform", "random", "random exterior", "clamped", "random clamped"]


def knots_of(kind, degree, num_intervals=6, seed=0):
    rng = np.random.default_rng([seed, degree])
    breakpoints = np.cumsum(rng.uniform(0.05, 1.0, num_intervals + 1))
    if kind == "uniform":
        return uniform_knots(num_intervals, degree=degree, domain=(-0.3, 1.1))
    if kind == "clamped":
        return clamped_knots(num_intervals, degree=degree, domain=(-0.3, 1.1))
    if kind == "random exterior":
        return Knots(np.cumsum(rng.uniform(0.05, 1.0, num_intervals + 2 * degree + 1)), degree)
    return knots_from_breakpoints(breakpoints, degree=degree, clamped="clamped" in kind)


# ----------------------------------------------------------------------------------------------------- exact arithmetic


def exact_basis(knots, x):
    """All B-splines at one point of the domain, by the recursion of de Boor and Cox on fractions."""
    t, degree = [Fraction(knot) for knot in knots.vector], knots.degree
    x = Fraction(x)
    values = [Fraction(int(t[i] <= x < t[i + 1])) for i in range(len(t) - 1)]
    for d in range(1, degree + 1):
        raised = []
        for i in range(len(t) - d - 1):
            left, right = t[i + d] - t[i], t[i + d + 1] - t[i + 1]
            first = (x - t[i]) / left * values[i] if left else 0
            second = (t[i + d + 1] - x) / right * values[i + 1] if right else 0
            raised.append(first + second)
        values = raised
    return values[: knots.num_basis]


def exact_powers(knots, x):
    exponents = power_relu_exponents(knots)
    distances = [Fraction(x) - Fraction(knot) for knot in knots.vector[: knots.num_basis]]
    return [
        distance ** int(p) if distance >= 0 else Fraction(0) for distance, p in zip(distances, exponents, strict=True)
    ]


def points_inside(knots, seed=0, number=25):
    lower, upper = knots.domain
    random = np.random.default_rng(seed).uniform(lower, upper, number)
    return np.concatenate([random, knots.breakpoints[:-1]])


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("degree", DEGREES)
def test_b_splines_are_a_times_the_powers_to_rounding(degree, kind, scaled):
    for seed in range(4):
        knots = knots_of(kind, degree, seed=seed)
        matrix = power_relu_matrix(knots, scaled=scaled).toarray()
        units = [
            Fraction(s) ** int(p) for s, p in zip(power_relu_scales(knots), power_relu_exponents(knots), strict=True)
        ]
        for x in points_inside(knots, seed):
            psi = exact_powers(knots, x)
            if scaled:
                psi = [value / unit for value, unit in zip(psi, units, strict=True)]
            for row, exact in zip(matrix, exact_basis(knots, x), strict=True):
                terms = [Fraction(entry) * value for entry, value in zip(row, psi, strict=True)]
                # Every entry of A is within a few units in the last place: the error is one of the terms' sizes.
                assert abs(sum(terms) - exact) <= 4 * (degree + 1) * EPS * sum(map(abs, terms))


@pytest.mark.parametrize("degree", DEGREES)
def test_entries_are_those_of_exact_divided_differences(degree):
    knots = knots_of("random exterior", degree)
    t, order = [Fraction(knot) for knot in knots.vector], degree + 1
    for i, j in np.argwhere(power_relu_matrix(knots).toarray()):
        product = Fraction(1)
        for other in range(i, i + order + 1):
            product *= t[other] - t[j] if other != j else 1
        exact = (t[i + order] - t[i]) * (-1) ** order * (1 if order % 2 == 0 else -1) / product
        found = Fraction(power_relu_matrix(knots)[i, j])
        assert abs(found - exact) <= 4 * order * EPS * abs(exact)


@pytest.mark.parametrize("degree", range(1, 10))
def test_uniform_knots_have_the_closed_form(degree):
    knots = uniform_knots(4, degree=degree, domain=(0.0, 4 * 0.37))
    scaled, plain = power_relu_matrix(knots, scaled=True).toarray(), power_relu_matrix(knots).toarray()
    for i in range(knots.num_basis):
        for j in range(knots.num_basis):
            s = j - i
            expected = (-1) ** s * comb(degree + 1, s) / factorial(degree) if 0 <= s <= degree + 1 else 0.0
            assert scaled[i, j] == pytest.approx(expected, rel=4 * EPS, abs=0.0)
            assert plain[i, j] == pytest.approx(expected / knots.spacing**degree, rel=4 * EPS, abs=0.0)


@pytest.mark.parametrize("degree", DEGREES)
def test_the_recursion_agrees_with_the_closed_form(degree):
    knots = uniform_knots(5, degree=degree)
    vector = knots.vector.copy()
    vector[-1] += 0.5  # a knot that only B-splines at the right end see, in columns that are dropped
    other = power_relu_matrix(Knots(vector, degree)).toarray()[:-1]
    assert (
        np.abs(other / np.where(other == 0, 1, power_relu_matrix(knots).toarray()[:-1]) - (other != 0)).max() < 20 * EPS
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("degree", DEGREES)
def test_the_matrix_is_a_band_of_an_upper_triangle(degree, kind):
    matrix = power_relu_matrix(knots_of(kind, degree, 12))
    rows, columns = matrix.nonzero()
    assert (columns >= rows).all()
    assert (columns - rows).max() <= degree + 1
    assert (matrix.diagonal() > 0).all()
    assert matrix.data.flags.writeable is False
    assert power_relu_matrix(knots_of(kind, degree, 12)) is matrix


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("derivative", [1, 2])
def test_derivatives_are_those_of_the_splines(kind, derivative):
    knots = knots_of(kind, 4)
    x = points_inside(knots)
    for scaled in (False, True):
        matrix, psi = power_relu_matrix(knots, scaled=scaled), power_relu_basis(knots, x, derivative, scaled=scaled)
        error = np.abs(psi @ matrix.T.toarray() - basis_matrix(knots, x, derivative))
        assert (error <= 40 * EPS * (np.abs(psi) @ np.abs(matrix.T.toarray()))).all()


def test_right_of_the_domain_the_last_polynomial_goes_on_and_left_of_it_the_bare_sum():
    knots = uniform_knots(4, degree=3)
    u = np.random.default_rng(0).standard_normal(7)
    w = to_power_relu_weights(knots, u, scaled=True)
    right, left = np.linspace(1.0, 1.4, 9), np.linspace(-4.0, -1.0, 13)
    powers = [power_relu_basis(knots, x, scaled=True) @ w for x in (right, left)]
    assert np.abs(powers[0] - evaluate_spline(knots, u, right)).max() < 1e-11
    assert np.abs(powers[1] - evaluate_spline(knots, u, left, outside="zero")).max() < 1e-12


# ---------------------------------------------------------------------------------------------------------- conversions


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("num_intervals", [3, 20])
def test_the_round_trip_is_as_accurate_as_the_condition_number_says(degree, kind, scaled, num_intervals):
    knots = knots_of(kind, degree, num_intervals)
    u = np.random.default_rng(1).standard_normal((knots.num_basis, 3))
    w = to_power_relu_weights(knots, u, scaled=scaled)
    back = from_power_relu_weights(knots, w, scaled=scaled)
    # Skeel's condition number of A^T: rows of w carry errors of (k + 2) roundings of |A^T| |u|, solving adds as much.
    matrix = power_relu_matrix(knots, scaled=scaled).toarray().T
    amplified = np.abs(np.linalg.inv(matrix)) @ np.abs(matrix) @ np.abs(u)
    assert (np.abs(back - u) <= 2 * (degree + 2) * EPS * amplified).all()


@pytest.mark.parametrize("degree", DEGREES)
def test_weights_are_those_of_exact_arithmetic(degree):
    knots = knots_of("random", degree)
    u = np.random.default_rng(2).standard_normal(knots.num_basis)
    x = points_inside(knots)[0]
    w = to_power_relu_weights(knots, u)
    exact = sum(Fraction(c) * b for c, b in zip(u, exact_basis(knots, x), strict=True))
    terms = [Fraction(c) * b for c, b in zip(w, exact_powers(knots, x), strict=True)]
    size = sum(
        abs(Fraction(c)) * b
        for c, b in zip(np.abs(power_relu_matrix(knots)).T @ np.abs(u), exact_powers(knots, x), strict=True)
    )
    assert abs(sum(terms) - exact) <= 8 * (degree + 2) * EPS * size


def test_the_eigenvalue_ratio_grows_like_the_cells_to_the_power_of_twice_the_order():
    for degree in (1, 2, 3):
        ratios = []
        for num_intervals in (32, 64, 128):
            matrix = power_relu_matrix(uniform_knots(num_intervals, degree=degree), scaled=True).toarray()
            ratios.append(np.linalg.cond(matrix) ** 2)
        rates = np.log2(np.divide(ratios[1:], ratios[:-1]))
        # n + k unknowns, not n: from below, and nearer with every refinement.
        assert 2 * (degree + 1) - 1 < rates[0] < rates[1] < 2 * (degree + 1)


# ----------------------------------------------------------------------------------------------------- repeated knots


@pytest.mark.parametrize("degree", DEGREES)
def test_clamped_knots_begin_with_monomials(degree):
    knots = clamped_knots(5, degree=degree, domain=(0.0, 1.0))
    assert power_relu_exponents(knots).tolist() == [*range(degree), *[degree] * 5]
    powers = power_relu_basis(knots, [0.0, 0.5])
    assert powers[1, : degree + 1].tolist() == [0.5**p for p in range(degree + 1)]
    assert powers[0].tolist() == [1.0] + [0.0] * (knots.num_basis - 1)


def test_partly_repeated_first_knots():
    knots = Knots([-1.0, -1.0, 0.0, 0.5, 1.0, 1.0, 1.0], degree=2)
    x = np.array([0.0, 0.2, 0.6, 0.99])
    assert power_relu_exponents(knots).tolist() == [1, 2, 2, 2]
    found = power_relu_basis(knots, x) @ power_relu_matrix(knots).T.toarray()
    assert np.abs(found - basis_matrix(knots, x)).max() < 1e-13


def test_other_repeated_knots_on_the_left_are_refused():
    knots = Knots([-2.0, -1.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0], degree=3)
    for call in (power_relu_matrix, power_relu_exponents, lambda knots: power_relu_basis(knots, [0.1])):
        with pytest.raises(KanmgValueError, match="knots 1 and 2 are both -1, but the first knot is -2"):
            call(knots)


def test_repeated_knots_on_the_right_do_not_matter():
    knots = Knots([-3.0, -2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 2.0, 3.0], degree=3)
    x = np.array([0.0, 0.2, 0.6, 0.99])
    found = power_relu_basis(knots, x) @ power_relu_matrix(knots).T.toarray()
    assert np.abs(found - basis_matrix(knots, x)).max() < 1e-12


@pytest.mark.parametrize("convert", [to_power_relu_weights, from_power_relu_weights])
def test_vectors_of_another_length_are_refused(convert):
    with pytest.raises(ShapeError, match=r"has shape \(5,\).*has 7 basis functions"):
        convert(uniform_knots(4, degree=3), np.zeros(5))


def test_public_name():
    assert kanmg.power_relu_matrix is power_relu_matrix


@pytest.mark.parametrize("knots", [np.linspace(0, 1, 9), [0.0, 1.0], None])
def test_what_is_no_knots_is_refused(knots):
    with pytest.raises(KanmgTypeError, match=r"`knots` is a .*. Pass a `Knots`"):
        power_relu_matrix(knots)
