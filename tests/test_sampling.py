from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import kanmg
from kanmg.errors import DtypeError, KanmgTypeError, KanmgValueError, ShapeError
from kanmg.sampling import boundary, gauss, grid, sobol

BOX = [(-1.0, 1.0), (0.0, 3.0), (2.0, 2.5)]


def inside(points):
    lower, upper = np.array(BOX).T
    return ((points >= lower) & (points <= upper)).all()


def test_grids_hold_their_corners_and_are_uniform():
    points = grid(BOX, (3, 4, 2))
    assert points.shape == (24, 3)
    np.testing.assert_array_equal(points[[0, -1]], np.array(BOX).T)
    np.testing.assert_allclose(np.unique(points[:, 1]), [0, 1, 2, 3])
    assert len(np.unique(points, axis=0)) == 24


def test_midpoint_grids_integrate_linear_functions():
    points = grid(BOX, 5, ends=False)
    assert points.shape == (125, 3)
    np.testing.assert_allclose(points.mean(axis=0), np.mean(BOX, axis=1), atol=1e-15)
    assert points[:, 0].min() == pytest.approx(-0.8)


@pytest.mark.parametrize("ends", [True, False])
def test_faces_are_complete_and_on_the_boundary(ends):
    points = boundary(BOX, (3, 4, 5), ends=ends)
    assert len(points) == 2 * (4 * 5 + 3 * 5 + 3 * 4)
    lower, upper = np.array(BOX).T
    on = (points == lower) | (points == upper)
    assert on.any(axis=1).all()
    assert inside(points)
    for coordinate in range(3):
        for end in (lower, upper):
            assert (points[:, coordinate] == end[coordinate]).any()
    if not ends:
        assert (on.sum(axis=1) == 1).all()


def test_one_face_is_an_initial_condition():
    points = boundary([(-1, 1), (0, 1)], 5, faces=[(1, "lower")])
    np.testing.assert_allclose(points, np.stack([np.linspace(-1, 1, 5), np.zeros(5)], axis=1))


def test_the_boundary_of_an_interval_is_two_points():
    np.testing.assert_array_equal(boundary([(0.0, 2.0)], 7), [[0.0], [2.0]])


@pytest.mark.parametrize("num_points", [1, 2, 100, 128])
def test_sobol_points_fill_the_box_evenly(num_points):
    points = sobol(BOX, num_points)
    assert points.shape == (num_points, 3)
    assert inside(points)
    if num_points == 128:
        lower, upper = np.array(BOX).T
        cells = np.floor(4 * (points - lower) / (upper - lower)).astype(int)
        for coordinate in range(3):
            np.testing.assert_array_equal(np.bincount(cells[:, coordinate]), [32] * 4)


def test_sobol_points_depend_on_the_seed_and_begin_with_fewer():
    np.testing.assert_array_equal(sobol(BOX, 10), sobol(BOX, 16)[:10])
    np.testing.assert_array_equal(sobol(BOX, 10, seed=3), sobol(BOX, 10, seed=3))
    assert not np.isin(sobol(BOX, 10, seed=3), sobol(BOX, 10)).any()


@pytest.mark.parametrize(("num_points", "num_cells"), [(1, 1), (3, 1), (2, 4), ((1, 2, 3), (3, 2, 1))])
def test_gauss_quadrature_is_exact_up_to_its_degree(num_points, num_cells):
    points, weights = gauss(BOX, num_points, num_cells=num_cells)
    counts = np.broadcast_to(num_points, 3)
    assert len(points) == np.prod(counts) * np.prod(np.broadcast_to(num_cells, 3))
    assert inside(points)
    assert (weights > 0).all()
    assert weights.sum() == pytest.approx(3.0)
    degrees = 2 * counts - 1
    integrals = [(b ** (k + 1) - a ** (k + 1)) / (k + 1) for (a, b), k in zip(BOX, degrees, strict=True)]
    assert weights @ np.prod(points**degrees, axis=1) == pytest.approx(np.prod(integrals), rel=1e-13, abs=1e-13)
    if num_cells == 1:
        above = degrees[1] + 1
        exact = 1.0 * 3.0 ** (above + 1) / (above + 1)
        assert abs(weights @ points[:, 1] ** above - exact) > 1e-3


def test_gauss_weights_are_the_weights_of_a_term():
    points, weights = gauss([(0, 1)], 4)
    term = kanmg.Term("norm", lambda _x, u: u.value, points, point_weights=weights)
    problem = kanmg.Collocation(coordinates=("x",), fields=("u",), terms=[term])
    knots = kanmg.uniform_knots(2, degree=3)
    level = kanmg.Hierarchy.from_network(
        kanmg.Network([kanmg.Spline(1, 1, knots=knots)]), num_levels=1, evaluator="reference"
    )[0]
    # The spline of the Greville abscissae is x, and the integral of its square over [0, 1] is a third.
    assert problem.loss(level.evaluator, knots.greville) == pytest.approx(1 / 3, rel=1e-13)


@pytest.mark.parametrize("make", [grid, boundary, sobol, lambda *a, **k: gauss(*a, **k)[0]])
def test_dtype_is_what_was_asked_for(make):
    assert make(BOX, 2).dtype == np.float64
    assert make(BOX, 2, dtype="float32").dtype == np.float32
    with pytest.raises(DtypeError):
        make(BOX, 2, dtype="int32")


def test_ends_are_exact_in_single_precision():
    points = grid([(0.0, 1.1)], 7, dtype="float32")
    assert points.max() == np.float32(1.1)


@pytest.mark.parametrize("make", [grid, boundary, sobol, gauss])
def test_domains_and_counts_that_make_no_sense(make):
    for domain in ((0.0, 1.0), [(0.0, 1.0, 2.0)], [], np.zeros((1, 2, 2))):
        with pytest.raises(ShapeError, match="one interval"):
            make(domain, 4)
    for domain in ("ab", [("a", "b")], [(0.0,), (1.0, 2.0)]):
        with pytest.raises(KanmgTypeError, match="one interval"):
            make(domain, 4)
    for domain in ([(1.0, 0.0)], [(0.0, 0.0)], [(0.0, np.inf)]):
        with pytest.raises(KanmgValueError, match="the first the smaller"):
            make(domain, 4)
    with pytest.raises(KanmgValueError, match="at least"):
        make(BOX, 0)
    with pytest.raises(KanmgTypeError, match="integer"):
        make([(0.0, 1.0)], [2.5])
    with pytest.raises(ShapeError, match="for"):
        make(BOX, (2, 3))


def test_faces_and_cells_that_make_no_sense():
    for faces in ([(3, "lower")], [(0, "left")], []):
        with pytest.raises(KanmgValueError, match=r"from 0 to 2 and an end"):
            boundary(BOX, 2, faces=faces)
    with pytest.raises(KanmgValueError, match=r"`num_cells=0`"):
        gauss(BOX, 2, num_cells=0)
    with pytest.raises(KanmgValueError, match=r"at least 2"):
        grid(BOX, 1)
    assert grid(BOX, 1, ends=False).tolist() == [[0.0, 1.5, 2.25]]


def test_scipys_statistics_are_imported_on_demand():
    code = "import sys, kanmg; print('scipy.stats' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
