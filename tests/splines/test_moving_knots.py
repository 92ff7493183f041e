"""Knots that follow from logits: order, bounds, nesting, and the change of splines with their knots."""

import numpy as np
import pytest

import kanmg
from kanmg.splines import clamped_knots, evaluate_spline, knots_from_breakpoints, refine, uniform_knots
from kanmg.splines.free_knots import SMALLEST_PART, DoubledSpace, FreeKnots, MovingKnots

DEGREES = (1, 2, 3, 5, 9)


def references(num_intervals, degree):
    """Reference knots of three inputs: uniform, clamped on another domain, and graded."""
    graded = np.linspace(0.0, 1.0, num_intervals + 1) ** 2 * 3.0 - 1.0
    return (
        uniform_knots(num_intervals, degree=degree),
        clamped_knots(num_intervals, degree=degree, domain=(0, 3)),
        knots_from_breakpoints(graded, degree=degree),
    )


def drawn(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("degree", DEGREES)
def test_zero_logits_give_the_reference_knots(degree):
    knots = references(6, degree)
    vectors = FreeKnots(knots, 3).vectors(np.zeros((3, 3)))
    for vector, own in zip(vectors, knots, strict=True):
        np.testing.assert_allclose(vector, own.vector, rtol=0, atol=1e-14)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3, 1e300])
def test_knots_stay_in_order_and_cells_above_their_bound_for_any_logits(scale):
    knots = references(8, 3)
    motion = FreeKnots(knots, 4)
    for seed in range(20):
        with np.errstate(over="ignore"):
            vectors = motion.vectors(scale * drawn((3, 4), seed))
        for vector, own in zip(vectors, knots, strict=True):
            moved = kanmg.Knots(vector, 3)  # refuses knots in the wrong order
            assert moved.domain == own.domain
            shortest = SMALLEST_PART * np.diff(own.breakpoints)
            assert (np.diff(moved.breakpoints) >= shortest * (1 - 1e-12)).all()


@pytest.mark.parametrize("degree", DEGREES)
def test_the_same_logits_give_bisected_cells_on_refined_knots(degree):
    coarse = references(6, degree)
    fine = tuple(map(refine, coarse))
    logits = 2.0 * drawn((3, 3))
    vectors = FreeKnots(coarse, 3).vectors(logits), FreeKnots(fine, 3).vectors(logits)
    for pair in zip(*vectors, strict=True):
        before, after = (kanmg.Knots(vector, degree) for vector in pair)
        np.testing.assert_array_equal(after.breakpoints[::2], before.breakpoints)
        np.testing.assert_allclose(after.vector, refine(before).vector, rtol=0, atol=1e-14)


@pytest.mark.parametrize("degree", DEGREES)
def test_velocities_are_differences_of_knots(degree):
    motion, logits, step = FreeKnots(references(6, degree), 3), drawn((3, 3)), 1e-6
    velocities = motion.velocities(logits)
    for i in range(3):
        offset = step * np.eye(3)[i]
        difference = (motion.vectors(logits + offset) - motion.vectors(logits - offset)) / (2 * step)
        np.testing.assert_allclose(velocities[i], difference, rtol=0, atol=1e-8)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize(("num_intervals", "num_groups"), [(2, 2), (5, 5), (8, 4)])
def test_doubled_knots_hold_the_spline_and_its_change(degree, num_intervals, num_groups):
    knots = references(num_intervals, degree)
    motion, space = FreeKnots(knots, num_groups), DoubledSpace(num_intervals, degree)
    logits, coefficients = drawn((3, num_groups)), drawn((3, num_intervals + degree), 1)
    vectors, velocities = motion.vectors(logits), motion.velocities(logits)
    insertion, change = space.insertion(vectors), space.change(vectors, velocities)
    step = 1e-6
    for p, own in enumerate(knots):
        low, high = own.domain
        x = low + (high - low) * np.random.default_rng(2).uniform(-0.05, 1.05, 60)
        doubled = MovingKnots(vectors[p][space.places], degree)
        local = coefficients[p][space.functions].T

        def spline(logits, p=p, x=x):
            return evaluate_spline(MovingKnots(motion.vectors(logits)[p], degree), coefficients[p], x)

        scale = np.abs(spline(logits)).max()
        held = evaluate_spline(doubled, (insertion[:, p] * local).sum(axis=0), x)
        assert np.abs(held - spline(logits)).max() < 1e-12 * scale
        for i in range(num_groups):
            found = evaluate_spline(doubled, (change[:, i, p] * local).sum(axis=0), x)
            offset = step * np.eye(num_groups)[i]
            expected = (spline(logits + offset) - spline(logits - offset)) / (2 * step)
            assert np.abs(found - expected).max() < 1e-6 * max(scale, np.abs(expected).max())


def test_the_change_with_one_knot_is_the_closed_form():
    """The derivative by knot j is -sum_r (c_r - c_{r-1}) / (t_{r+k} - t_r) B_r, r = j-k..j, on knots with t_j twice."""
    degree, j = 3, 6
    own = knots_from_breakpoints([0.0, 0.5, 0.8, 1.7, 2.0, 3.0], degree=degree)
    space, t = DoubledSpace(5, degree), own.vector
    velocities = np.zeros((1, 1, t.size))
    velocities[0, 0, j] = 1.0
    coefficients, x = drawn(own.num_basis), np.linspace(0.0, 3.0, 101)
    change = space.change(t[None], velocities)[:, 0, 0]
    found = evaluate_spline(
        MovingKnots(t[space.places], degree), (change * coefficients[space.functions].T).sum(axis=0), x
    )
    slopes = np.zeros(own.num_basis + 1)
    for r in range(j - degree, j + 1):
        slopes[r] = -(coefficients[r] - coefficients[r - 1]) / (t[r + degree] - t[r])
    expected = evaluate_spline(MovingKnots(np.insert(t, j, t[j]), degree), slopes, x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_infinite_logits_give_no_number_instead_of_knots():
    vectors = FreeKnots(references(4, 3), 2).vectors(np.full((3, 2), np.inf))
    assert np.isnan(vectors[:, 4]).all()


def test_cells_that_rounding_could_close_are_refused():
    with pytest.raises(kanmg.KanmgValueError, match="fewer cells, or an interval nearer to zero"):
        FreeKnots((uniform_knots(4, degree=3, domain=(1e9, 1e9 + 1e-5)),), 2)
