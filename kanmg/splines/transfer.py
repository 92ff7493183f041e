"""Matrices between two nested knot vectors: prolongation, Gram matrix, injection.

All are float64. They are computed once per pair of knots and then shared, hence read-only: layers with many inputs have
the same knots on every input.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import scipy  # its subpackages are loaded when they are first used

from kanmg.errors import KanmgValueError
from kanmg.splines.bspline import local_basis, local_blossom
from kanmg.splines.knots import check_nested, knots_from_breakpoints, nearest, rounding_tolerance, uniform_knots

if TYPE_CHECKING:
    import scipy.linalg
    import scipy.sparse  # noqa: TC004 - tells mypy what SciPy loads by itself

    from kanmg.splines.knots import Knots

__all__ = ["gram_matrix", "injection_matrix", "prolongation_matrix"]

FloatArray = npt.NDArray[np.float64]


def prolongation_matrix(coarse: Knots, fine: Knots) -> scipy.sparse.csr_array:
    """Build the matrix P that takes a spline's coefficients on coarse knots to its coefficients on fine knots.

    Rows sum to one and have at most `degree + 1` entries. They are non-negative if the exterior fine knots refine the
    coarse ones, as for uniform knots, clamped knots, and whatever `refine` returns. P is the identity for equal knots.

    Parameters
    ----------
    coarse, fine : Knots
        Of one degree and domain; every breakpoint of `coarse` must be one of `fine`, up to rounding.

    Returns
    -------
    scipy.sparse.csr_array, shape (fine.num_basis, coarse.num_basis)
        Read-only, shared between calls.

    Raises
    ------
    NestingError
        The knots are not nested; the message names the missing breakpoint.

    See Also
    --------
    kanmg.splines.knots.refine : knots with every cell bisected.
    injection_matrix : from fine to coarse.

    Notes
    -----
    Fine coefficient j is the blossom of the coarse polynomial on a cell in the support of fine function j, at the k
    fine knots inside that support [1]_, [2]_. For k = 3 on uniform knots, bisected, the columns are
    (1, 4, 6, 4, 1) / 8. The blossom's arguments are taken from the cell outwards: then every step adds non-negative
    terms only, nothing cancels, and entries that should be zero are exactly zero. Uniform knots are measured in cells,
    so that their prolongation is free of the rounding of the knots, as closed-form evaluation on uniform knots is.

    References
    ----------
    .. [1] L. Ramshaw, "Blossoms are polar forms", Comput. Aided Geom. Design 6 (1989),
       doi:10.1016/0167-8396(89)90032-0.
    .. [2] E. Cohen, T. Lyche and R. Riesenfeld, "Discrete B-splines and subdivision techniques in computer-aided
       geometric design and computer graphics", Comput. Graph. Image Process. 14 (1980),
       doi:10.1016/0146-664X(80)90040-4.

    Examples
    --------
    >>> from kanmg.splines import knots_from_breakpoints, refine, uniform_knots
    >>> knots = uniform_knots(2, degree=1)
    >>> prolongation_matrix(knots, refine(knots)).toarray().tolist()
    [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]
    >>> coarse, fine = (knots_from_breakpoints(cells, degree=2, clamped=True) for cells in ([0, 4], [0, 1, 4]))
    >>> prolongation_matrix(coarse, fine).toarray().tolist()
    [[1.0, 0.0, 0.0], [0.75, 0.25, 0.0], [0.0, 0.75, 0.25], [0.0, 0.0, 1.0]]
    """
    return _prolongation(coarse, fine)


def gram_matrix(knots: Knots) -> scipy.sparse.csr_array:
    """Build the L2 inner products of the B-splines over the domain.

    Symmetric positive definite with 2 * degree + 1 diagonals.

    Parameters
    ----------
    knots : Knots

    Returns
    -------
    scipy.sparse.csr_array, shape (num_basis, num_basis)
        Read-only, shared between calls.

    Notes
    -----
    Gauss-Legendre quadrature with `degree + 1` points on every cell, which is exact for these polynomials.

    Examples
    --------
    >>> from kanmg.splines import uniform_knots
    >>> (6 * gram_matrix(uniform_knots(2, degree=1, domain=(0, 2))).toarray()).round(12).tolist()
    [[2.0, 1.0, 0.0], [1.0, 4.0, 1.0], [0.0, 1.0, 2.0]]
    """
    return _gram(knots)


def injection_matrix(coarse: Knots, fine: Knots, kind: Literal["l2", "pinv"] = "l2") -> FloatArray:
    """Build a left inverse Q of the prolongation P, which takes fine coefficients to coarse ones.

    `Q @ P` is the identity up to rounding.

    Parameters
    ----------
    coarse, fine : Knots
        Of one degree and domain; every breakpoint of `coarse` must be one of `fine`, up to rounding.
    kind : str
        `"l2"`: the coarse spline nearest to the fine one in the L2 norm over the domain; `"pinv"`: the pseudo-inverse
        of P, which finds the coarse spline whose prolonged coefficients are nearest in the Euclidean norm.

    Returns
    -------
    ndarray, shape (coarse.num_basis, fine.num_basis)
        Read-only, shared between calls.

    Raises
    ------
    NestingError
        The knots are not nested.
    KanmgValueError
        `kind` is unknown.

    See Also
    --------
    prolongation_matrix : from coarse to fine.

    Notes
    -----
    Q = (P^T W P)^{-1} P^T W with the Gram matrix or the identity as W, by a banded Cholesky factorisation, followed by
    two steps of Newton's iteration Q <- 2 Q - Q P Q for the left inverse, which squares the error of Q P. The L2
    projection is computed in the basis of the clamped knots with the same cells: unclamped B-splines at the ends are
    tiny on the domain, and their Gram matrix is numerically singular from degree 8 on. For the same reason Q has large
    entries for unclamped knots of high degree (3e2 for degree 5, 2e6 for degree 9), and `Q @ P` differs from the
    identity by rounding errors of entries of that size. Cost: O(m_c^2 m_f).

    Examples
    --------
    >>> from kanmg.splines import refine, uniform_knots
    >>> coarse = uniform_knots(3, degree=3)
    >>> injection = injection_matrix(coarse, refine(coarse))
    >>> print((injection @ prolongation_matrix(coarse, refine(coarse))).round(10).diagonal())
    [1. 1. 1. 1. 1. 1.]
    """
    if kind not in ("l2", "pinv"):
        raise KanmgValueError(f'`kind` is {kind!r}. Write `kind="l2"` or `kind="pinv"`.')
    return _injection(coarse, fine, kind)


@lru_cache(maxsize=128)
def _prolongation(coarse: Knots, fine: Knots) -> scipy.sparse.csr_array:
    check_nested(coarse, fine)
    if coarse.is_uniform and fine.is_uniform:
        coarse, fine = _in_cells(coarse, coarse.num_intervals), _in_cells(fine, coarse.num_intervals)
    degree = coarse.degree
    cells = _coarse_cells(coarse, fine)
    values = local_blossom(coarse, cells, _snapped(coarse, fine)[_arguments_outwards(fine)])
    columns = cells[:, None] + np.arange(degree + 1)
    row_starts = np.arange(fine.num_basis + 1) * (degree + 1)
    matrix = scipy.sparse.csr_array(
        (values.ravel(), columns.ravel(), row_starts), shape=(fine.num_basis, coarse.num_basis)
    )
    matrix.eliminate_zeros()
    return _frozen(matrix)


def _in_cells(knots: Knots, length: int) -> Knots:
    """Map uniform knots to the domain (0, length), where those of whole coarse cells are integers, free of rounding."""
    return uniform_knots(knots.num_intervals, degree=knots.degree, domain=(0.0, float(length)))


def _coarse_cells(coarse: Knots, fine: Knots) -> npt.NDArray[np.intp]:
    """For every fine function the coarse cell around the first fine cell of its support that lies in the domain."""
    first = np.maximum(np.arange(fine.num_basis) - fine.degree, 0)
    middles = 0.5 * (fine.breakpoints[first] + fine.breakpoints[first + 1])
    cells: npt.NDArray[np.intp] = np.searchsorted(coarse.breakpoints[1:-1], middles)
    return cells


def _arguments_outwards(fine: Knots) -> npt.NDArray[np.intp]:
    """Find the knots inside each function's support: their indices, shape (num_basis, degree).

    The ones to the left of the cell that `_coarse_cells` chose come first, from right to left, then the ones to its
    right, from left to right: each leading part is a run of neighbours, whose blossom values are discrete B-splines
    and so non-negative.
    """
    degree = fine.degree
    function = np.arange(fine.num_basis)[:, None]
    step = np.arange(1, degree + 1)
    num_left = np.maximum(degree - function, 0)
    leftwards, rightwards = degree + 1 - step, np.maximum(function, degree) + step - num_left
    indices: npt.NDArray[np.intp] = np.where(step <= num_left, leftwards, rightwards)
    return indices


def _snapped(coarse: Knots, fine: Knots) -> FloatArray:
    """Fine knots, with those that are coarse knots up to rounding replaced by these."""
    candidates = nearest(coarse.vector, fine.vector)
    snapped: FloatArray = np.where(
        np.abs(candidates - fine.vector) <= rounding_tolerance(coarse), candidates, fine.vector
    )
    return snapped


@lru_cache(maxsize=128)
def _gram(knots: Knots) -> scipy.sparse.csr_array:
    degree, num_intervals, breakpoints = knots.degree, knots.num_intervals, knots.breakpoints
    nodes, weights = np.polynomial.legendre.leggauss(degree + 1)
    lengths = np.diff(breakpoints)
    points = breakpoints[:-1, None] + 0.5 * lengths[:, None] * (1.0 + nodes)
    values = local_basis(knots, points.ravel())[1].reshape(num_intervals, degree + 1, degree + 1)
    weighted = values * (0.5 * lengths[:, None, None] * weights[:, None])
    # Only the upper diagonals are summed, so that the matrix is symmetric to the last bit.
    diagonals = [np.zeros(knots.num_basis - offset) for offset in range(degree + 1)]
    for offset, diagonal in enumerate(diagonals):
        for s in range(degree + 1 - offset):
            diagonal[s : s + num_intervals] += np.einsum("cg,cg->c", weighted[:, :, s], values[:, :, s + offset])
    offsets = range(-degree, degree + 1)
    return _frozen(scipy.sparse.diags_array(diagonals[:0:-1] + diagonals, offsets=offsets, format="csr"))


@lru_cache(maxsize=32)
def _injection(coarse: Knots, fine: Knots, kind: str) -> FloatArray:
    prolongation = prolongation_matrix(coarse, fine)
    if kind == "l2":
        injection = _nearest_in_l2(coarse, fine)
    else:
        normal = prolongation.T @ prolongation
        injection = _solve_banded(normal, prolongation.T.toarray(), bandwidth=coarse.degree)
    for _ in range(2):
        # Q P = (P^T Q^T)^T, because SciPy multiplies sparse by dense.
        injection += injection - (prolongation.T @ injection.T).T @ injection
    injection.setflags(write=False)
    return injection


def _nearest_in_l2(coarse: Knots, fine: Knots) -> FloatArray:
    clamped_coarse, clamped_fine = _clamped(coarse), _clamped(fine)
    dual = prolongation_matrix(clamped_coarse, clamped_fine).T @ gram_matrix(clamped_fine)
    right_hand_side = (dual @ prolongation_matrix(fine, clamped_fine)).toarray()
    projected = _solve_banded(gram_matrix(clamped_coarse), right_hand_side, bandwidth=coarse.degree)
    injection: FloatArray = prolongation_matrix(clamped_coarse, coarse) @ projected
    return injection


def _clamped(knots: Knots) -> Knots:
    return knots_from_breakpoints(knots.breakpoints, degree=knots.degree, clamped=True)


def _solve_banded(matrix: Any, right_hand_side: FloatArray, bandwidth: int) -> FloatArray:
    """Solve with a symmetric positive definite banded matrix, scaled to unit diagonal."""
    size = matrix.shape[0]
    scale = 1.0 / np.sqrt(matrix.diagonal())
    bands = np.zeros((min(bandwidth, size - 1) + 1, size))
    for offset, band in enumerate(bands):
        band[: size - offset] = matrix.diagonal(-offset) * scale[offset:] * scale[: size - offset]
    solution = scipy.linalg.solveh_banded(bands, scale[:, None] * right_hand_side, lower=True)
    scaled: FloatArray = scale[:, None] * solution
    return scaled


def _frozen(matrix: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    matrix.sort_indices()
    for array in (matrix.data, matrix.indices, matrix.indptr):
        array.setflags(write=False)
    return matrix
