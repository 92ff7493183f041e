"""Knots: construction, values as keys, refinement, nesting, refusals."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest

from kanmg.errors import KanmgTypeError, KanmgValueError, NestingError, NonFiniteError, ShapeError
from kanmg.splines import (
    Knots,
    check_nested,
    clamped_knots,
    knots_from_breakpoints,
    missing_breakpoints,
    refine,
    uniform_knots,
)

DEGREES = range(1, 10)
GRADED = [0.0, 0.1, 0.3, 0.35, 1.0]


@pytest.mark.parametrize("degree", DEGREES)
def test_uniform_knots_continue_the_spacing_on_both_sides(degree):
    knots = uniform_knots(5, degree=degree, domain=(-1, 4))
    assert knots.vector.tolist() == list(range(-1 - degree, 5 + degree))
    assert (knots.num_intervals, knots.num_basis, knots.domain) == (5, 5 + degree, (-1.0, 4.0))
    assert knots.breakpoints.tolist() == [-1, 0, 1, 2, 3, 4]
    assert knots.is_uniform
    assert not knots.is_clamped
    assert knots.spacing == 1.0


def test_domain_ends_are_exact_where_the_formula_rounds():
    for num_intervals in range(1, 200):
        assert uniform_knots(num_intervals, degree=2, domain=(0.1, 0.7)).domain == (0.1, 0.7)


@pytest.mark.parametrize("degree", DEGREES)
def test_clamped_knots_repeat_their_ends(degree):
    knots = clamped_knots(2, degree=degree, domain=(0, 1))
    assert knots.vector.tolist() == [0.0] * (degree + 1) + [0.5] + [1.0] * (degree + 1)
    assert knots.is_clamped
    assert not knots.is_uniform


def test_breakpoints_continue_the_end_cells_or_are_clamped():
    assert knots_from_breakpoints([0, 1, 3], degree=2).vector.tolist() == [-2, -1, 0, 1, 3, 5, 7]
    assert knots_from_breakpoints([0, 1, 3], degree=2, clamped=True).vector.tolist() == [0, 0, 0, 1, 3, 3, 3]


def test_equally_spaced_breakpoints_are_recognised_up_to_rounding():
    for num_intervals in (3, 7, 10, 49):
        knots = knots_from_breakpoints(np.linspace(-0.3, 1.1, num_intervals + 1), degree=3)
        assert knots.is_uniform
        assert knots.spacing == pytest.approx(1.4 / num_intervals, rel=1e-15)
    assert not knots_from_breakpoints([0, 1, 2 + 1e-12], degree=3).is_uniform


def test_greville_abscissae_are_means_of_inner_knots():
    knots = knots_from_breakpoints(GRADED, degree=3, clamped=True)
    expected = [knots.vector[j + 1 : j + 4].mean() for j in range(7)]
    assert knots.greville == pytest.approx(expected, rel=1e-15)
    assert knots.greville[[0, -1]].tolist() == [0.0, 1.0]


def test_knots_are_values():
    first, second = uniform_knots(5, degree=3), uniform_knots(5, degree=3)
    assert first == second
    assert hash(first) == hash(second)
    assert first != uniform_knots(5, degree=4)
    assert first != uniform_knots(5, degree=3, domain=(-1, 2))
    assert first != clamped_knots(5, degree=3)
    assert first != "knots"
    assert len({first, second, refine(first)}) == 2


def test_minus_zero_and_zero_are_one_key():
    first, second = Knots([-1.0, 0.0, 1.0, 2.0], 1), Knots([-1.0, -0.0, 1.0, 2.0], 1)
    assert first == second
    assert hash(first) == hash(second)


def pickled(knots):
    return pickle.loads(pickle.dumps(knots))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
def test_copies_are_equal_and_read_only(duplicate):
    knots = uniform_knots(5, degree=3)
    twin = duplicate(knots)
    assert twin == knots
    assert hash(twin) == hash(knots)
    assert not twin.vector.flags.writeable


def test_knots_cannot_be_changed():
    given = np.arange(8.0)
    knots = Knots(given, 3)
    given[:] = 0.0
    assert knots.vector.tolist() == list(range(8))
    for array in (knots.vector, knots.breakpoints, knots.greville):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        knots.degree = 2


def test_repr_names_what_matters():
    assert repr(uniform_knots(5, degree=3)) == "Knots(num_intervals=5, degree=3, domain=(-1.0, 1.0), uniform)"
    assert repr(clamped_knots(2, degree=1)).endswith("domain=(-1.0, 1.0), clamped)")
    assert repr(knots_from_breakpoints(GRADED, degree=1)).endswith("domain=(0.0, 1.0), non-uniform)")


@pytest.mark.parametrize("num_intervals", [1, 3, 5, 7])
@pytest.mark.parametrize("domain", [(-1.0, 1.0), (0.1, 0.7), (-3.0, 1e3)])
def test_refined_uniform_knots_are_the_uniform_knots_of_twice_the_cells(num_intervals, domain):
    knots = uniform_knots(num_intervals, degree=3, domain=domain)
    for level in range(1, 8):
        fine = refine(knots)
        assert fine == uniform_knots(num_intervals * 2**level, degree=3, domain=domain)
        assert np.array_equal(fine.breakpoints[::2], knots.breakpoints)
        knots = fine


@pytest.mark.parametrize("clamped", [False, True])
def test_refined_breakpoints_keep_the_coarse_ones_and_their_kind(clamped):
    knots = knots_from_breakpoints(GRADED, degree=4, clamped=clamped)
    fine = refine(knots)
    assert np.array_equal(fine.breakpoints[::2], knots.breakpoints)
    assert fine.breakpoints[1::2] == pytest.approx([0.05, 0.2, 0.325, 0.675], rel=1e-15)
    assert fine.is_clamped == clamped
    assert np.allclose(fine.vector, knots_from_breakpoints(fine.breakpoints, degree=4, clamped=clamped).vector)


def test_linspace_cells_stay_nested_and_uniform_under_refinement():
    knots = knots_from_breakpoints(np.linspace(0.1, 0.8, 8), degree=3)
    for _ in range(8):
        fine = refine(knots)
        assert np.array_equal(fine.breakpoints[::2], knots.breakpoints)
        assert fine.is_uniform
        knots = fine


def test_exterior_cells_are_bisected_too():
    fine = refine(Knots([-3, -1, -1, 0, 1, 5, 5, 6], 3))
    assert fine.vector.tolist() == [-1, -1, -0.5, 0, 0.5, 1, 3, 5, 5]


def test_missing_breakpoints_are_found():
    coarse = uniform_knots(4, degree=3)
    assert missing_breakpoints(coarse, refine(coarse)).size == 0
    assert missing_breakpoints(coarse, coarse).size == 0
    assert missing_breakpoints(coarse, uniform_knots(6, degree=3)).tolist() == [-0.5, 0.5]
    assert missing_breakpoints(refine(coarse), coarse).tolist() == [-0.75, -0.25, 0.25, 0.75]


def test_rounding_does_not_count_as_missing():
    for num_intervals in range(1, 60):
        coarse = uniform_knots(num_intervals, degree=3, domain=(0.1, 0.7))
        for factor in (3, 5, 7):
            assert (
                missing_breakpoints(coarse, uniform_knots(factor * num_intervals, degree=3, domain=(0.1, 0.7))).size
                == 0
            )


@pytest.mark.parametrize(
    ("fine", "message"),
    [
        (uniform_knots(6, degree=3), r"lack the coarse breakpoint -0\.5 \(and 1 more\).*`kanmg\.refine\(knots\)`"),
        (knots_from_breakpoints([-1, -0.5, 0, 1], degree=3), r"lack the coarse breakpoint 0\.5\. "),
        (uniform_knots(8, degree=2), "degree 3, the fine knots degree 2"),
        (uniform_knots(8, degree=3, domain=(-1, 2)), r"domain \(-1\.0, 1\.0\), the fine knots \(-1\.0, 2\.0\)"),
        (uniform_knots(12, degree=3, domain=(-2, 1)), r"the fine knots \(-2\.0, 1\.0\)"),
    ],
)
def test_knots_that_do_not_nest_are_refused(fine, message):
    with pytest.raises(NestingError, match=message):
        check_nested(uniform_knots(4, degree=3), fine)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: uniform_knots(0, degree=3), KanmgValueError, "`num_intervals` is 0. At least 1 cell"),
        (lambda: clamped_knots(-2, degree=3), KanmgValueError, "`num_intervals` is -2"),
        (lambda: uniform_knots(2.0, degree=3), KanmgTypeError, "`num_intervals` is 2.0 of type `float`"),
        (lambda: uniform_knots(5, degree=0), KanmgValueError, "`degree` is 0. Splines of degree 1 to 9"),
        (lambda: uniform_knots(5, degree=10), KanmgValueError, "`degree` is 10"),
        (lambda: knots_from_breakpoints([0, 1], degree="3"), KanmgTypeError, "`degree` is '3' of type `str`"),
        (lambda: Knots(np.arange(8.0), -1), KanmgValueError, "`degree` is -1"),
        (lambda: uniform_knots(5, degree=3, domain=(1, 1)), KanmgValueError, r"`domain` is \(1\.0, 1\.0\)"),
        (lambda: uniform_knots(5, degree=3, domain=(1, -1)), KanmgValueError, r"Write `domain=\(-1\.0, 1\.0\)`"),
        (lambda: uniform_knots(5, degree=3, domain=(0, 1, 2)), ShapeError, "`domain` has 3 entries"),
        (lambda: uniform_knots(5, degree=3, domain=3.0), ShapeError, r"`domain` has shape \(\)"),
        (lambda: uniform_knots(5, degree=3, domain=(0, np.nan)), NonFiniteError, "`domain` contains nan at index 1"),
        (lambda: uniform_knots(5, degree=3, domain=(-np.inf, 0)), NonFiniteError, "`domain` contains -inf"),
        (lambda: uniform_knots(5, degree=3, domain=("a", "b")), KanmgTypeError, "`domain` is"),
        (lambda: uniform_knots(9, degree=3, domain=(1e16, 1e16 + 8)), KanmgValueError, "shorter than rounding"),
        (lambda: knots_from_breakpoints([0.0], degree=3), ShapeError, "`breakpoints` has 1 entries"),
        (lambda: knots_from_breakpoints([], degree=3), ShapeError, "`breakpoints` has 0 entries"),
        (lambda: knots_from_breakpoints([[0, 1]], degree=3), ShapeError, r"`breakpoints` has shape \(1, 2\)"),
        (lambda: knots_from_breakpoints([0, np.nan, 1], degree=3), NonFiniteError, "contains nan at index 1"),
        (
            lambda: knots_from_breakpoints([0, 2, 1], degree=3),
            KanmgValueError,
            r"\(1\) does not lie above knot 4 \(2\)",
        ),
        (lambda: knots_from_breakpoints([0, 1, 1, 2], degree=3, clamped=True), KanmgValueError, "strictly increasing"),
        (lambda: Knots(np.arange(7.0), 3), ShapeError, "has 7 knots, but one cell of degree 3 needs 8"),
        (lambda: Knots([0, 1, 2, 2, 3, 4], 2), KanmgValueError, r"knot 3 \(2\) does not lie above knot 2 \(2\)"),
        (lambda: Knots([1, 0, 2, 3, 4, 5], 2), KanmgValueError, "exterior knots non-decreasing"),
        (lambda: clamped_knots(5, degree=3).spacing, KanmgValueError, r"Use `numpy\.diff\(knots\.breakpoints\)`"),
    ],
)
def test_bad_input_is_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
