"""The truncated powers max(0, x - t)^k: a second basis of every spline space, and the matrix between the two."""

from __future__ import annotations

from functools import lru_cache
from math import comb, factorial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy  # its subpackages are loaded when they are first used

from kanmg.errors import KanmgTypeError, KanmgValueError, ShapeError
from kanmg.splines._checks import checked_derivative, checked_points
from kanmg.splines.knots import Knots

if TYPE_CHECKING:
    import scipy.linalg
    import scipy.sparse  # noqa: TC004 - tells mypy what SciPy loads by itself


__all__ = [
    "from_power_relu_weights",
    "power_relu_basis",
    "power_relu_exponents",
    "power_relu_matrix",
    "power_relu_scales",
    "to_power_relu_weights",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


def power_relu_matrix(knots: Knots, *, scaled: bool = False) -> scipy.sparse.csr_array:
    """Build the matrix A with B = A psi on the domain: B-splines from truncated powers.

    A is upper triangular with `degree + 2` diagonals. A spline with coefficients u is the combination of the truncated
    powers with weights w = A^T u.

    Parameters
    ----------
    knots : Knots
        Any, with simple or clamped knots at the left end.
    scaled : bool, default False
        False: psi_i(x) = max(0, x - t_i)^k. True: the same in units of `power_relu_scales`, which are the spacing h of
        uniform knots; A then has no unit: (-1)^s C(k + 1, s) / k! on its diagonal s.

    Returns
    -------
    scipy.sparse.csr_array, shape (num_basis, num_basis)
        Read-only, shared between calls.

    Raises
    ------
    KanmgTypeError, KanmgValueError
        If `knots` is no `Knots`, or exterior knots on the left are repeated without being repetitions of the first one.

    See Also
    --------
    power_relu_basis : psi.
    to_power_relu_weights, from_power_relu_weights : w from u, u from w.

    Notes
    -----
    Of the knots only the first `num_basis` count: what begins at the right end of the domain or beyond vanishes on it.
    Uniform knots have the closed form (-1)^s C(r, s) / (k! h^k) with r = k + 1, a finite difference [1]_. Others are
    found by the recursion over the orders

        A^[r][i, j] = A^[r-1][i, j] / (t_{i+r-1} - t_i) - A^[r-1][i+1, j] / (t_{i+r} - t_{i+1}),

    which adds terms of one sign only, so that every entry is accurate to a few roundings.

    At a knot of multiplicity above one, divided differences become derivatives: psi_i is max(0, x - t_i)^(k - j), j the
    number of later knots equal to t_i (`power_relu_exponents`). For clamped knots these are the monomials of the left
    end. In the recursion the first k + 1 columns then take the factor (r - 1) / (r - 1 - j), and begin with 1 on the
    diagonal at the order r = j + 1.

    The ratio of the extreme eigenvalues of A^T A grows like n^(2r) [1]_: on [a, b], sums of truncated powers cancel.

    References
    ----------
    .. [1] C. de Boor, A Practical Guide to Splines, Springer 2001, chapters VIII and IX.

    Examples
    --------
    >>> from kanmg.splines import uniform_knots
    >>> power_relu_matrix(uniform_knots(2, degree=1, domain=(0, 2))).toarray().tolist()
    [[1.0, -2.0, 1.0], [0.0, 1.0, -2.0], [0.0, 0.0, 1.0]]
    """
    return _matrix(_checked_knots(knots), bool(scaled))


def power_relu_exponents(knots: Knots) -> IntArray:
    """Return the exponents of the truncated powers: the degree, but at repeated knots.

    Parameters
    ----------
    knots : Knots

    Returns
    -------
    ndarray of int, shape (num_basis,)

    Raises
    ------
    KanmgValueError
        As for `power_relu_matrix`.

    Examples
    --------
    >>> from kanmg.splines import clamped_knots
    >>> power_relu_exponents(clamped_knots(3, degree=2)).tolist()
    [0, 1, 2, 2, 2]
    """
    vector, number = knots.vector, knots.num_basis
    same = vector[1:number] == vector[: number - 1]
    first = int(np.argmin(same)) if not same.all() else len(same)
    if same[first:].any():
        index = first + int(np.argmax(same[first:]))
        raise KanmgValueError(
            f"knots {index} and {index + 1} are both {vector[index]:.17g}, but the first knot is {vector[0]:.17g}. "
            "Truncated powers need exterior knots on the left that are distinct, or of which the first ones are equal. "
            "Build them with `knots_from_breakpoints(breakpoints, degree=...)`."
        )
    exponents = np.full(number, knots.degree)
    exponents[:first] -= np.arange(first, 0, -1)
    return exponents


def power_relu_scales(knots: Knots) -> FloatArray:
    """Return the length in which each scaled truncated power measures x - t_i.

    It is the mean length of the `degree + 1` cells between knots i and i + degree + 1, the support of B-spline i: the
    spacing h of uniform knots.

    Parameters
    ----------
    knots : Knots

    Returns
    -------
    ndarray, shape (num_basis,)

    Examples
    --------
    >>> from kanmg.splines import uniform_knots
    >>> power_relu_scales(uniform_knots(4, degree=2)).tolist()
    [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    """
    if knots.is_uniform:
        return np.full(knots.num_basis, knots.spacing)
    order = knots.degree + 1
    lengths: FloatArray = (knots.vector[order:] - knots.vector[:-order]) / order
    return lengths


def power_relu_basis(knots: Knots, x: npt.ArrayLike, derivative: int = 0, *, scaled: bool = False) -> FloatArray:
    """Evaluate the truncated powers psi_i(x) = max(0, x - t_i)^k at all points.

    Parameters
    ----------
    knots : Knots
    x : array_like, shape (N,)
    derivative : int
        Order of the derivative, 0 or more. At a knot the right one is taken.
    scaled : bool, default False
        Whether x - t_i is measured in `power_relu_scales`.

    Returns
    -------
    ndarray, shape (N, num_basis)

    Raises
    ------
    ShapeError, KanmgValueError
        If `x` is not one-dimensional, `derivative` is negative, or the knots are refused by `power_relu_matrix`.

    Notes
    -----
    Right of the domain `power_relu_basis @ w` goes on with the last cell's polynomial, as splines with the policy
    `"extend"` do. Left of it the powers are zero one after the other: the sum is the one of the policy `"zero"`.

    Examples
    --------
    >>> from kanmg.splines import uniform_knots
    >>> power_relu_basis(uniform_knots(2, degree=1, domain=(0, 2)), [0.5, 1.5]).tolist()
    [[1.5, 0.5, 0.0], [2.5, 1.5, 0.5]]
    """
    points, order = checked_points(x), checked_derivative(derivative)
    exponents = power_relu_exponents(knots)
    distances = points[:, None] - knots.vector[: knots.num_basis]
    factors = np.array([float(factorial(p) // factorial(p - order)) if p >= order else 0.0 for p in exponents])
    if scaled:
        scales = power_relu_scales(knots)
        distances = distances / scales
        factors /= scales**order
    powers = np.maximum(distances, 0.0) ** np.maximum(exponents - order, 0)
    # A zeroth power steps up at its knot.
    values: FloatArray = factors * np.where((exponents == order) & (distances < 0.0), 0.0, powers)
    return values


def to_power_relu_weights(knots: Knots, coefficients: npt.ArrayLike, *, scaled: bool = False) -> FloatArray:
    """Return the weights w = A^T u of the truncated powers whose sum is a spline on the domain.

    Parameters
    ----------
    knots : Knots
    coefficients : array_like, shape (num_basis,) or (num_basis, Q)
        u, one column per spline.
    scaled : bool, default False
        As for `power_relu_matrix`.

    Returns
    -------
    ndarray of the same shape

    Raises
    ------
    ShapeError
        If `coefficients` do not fit `knots`.

    Examples
    --------
    The hat function:

    >>> from kanmg.splines import uniform_knots
    >>> to_power_relu_weights(uniform_knots(2, degree=1, domain=(0, 2)), [0, 1, 0]).tolist()
    [0.0, 1.0, -2.0]
    """
    array = _checked(knots, coefficients, "coefficients")
    weights: FloatArray = power_relu_matrix(knots, scaled=scaled).T @ array
    return weights


def from_power_relu_weights(knots: Knots, weights: npt.ArrayLike, *, scaled: bool = False) -> FloatArray:
    """Return the coefficients u of the spline that a sum of truncated powers is: A^T u = w.

    Parameters
    ----------
    knots : Knots
    weights : array_like, shape (num_basis,) or (num_basis, Q)
        w, one column per spline.
    scaled : bool, default False
        As for `power_relu_matrix`.

    Returns
    -------
    ndarray of the same shape

    Raises
    ------
    ShapeError
        If `weights` do not fit `knots`.

    Notes
    -----
    A banded triangular solution, O(m k) for each column. An error of w is amplified by the condition number of A^T,
    which grows like n^(k+1).

    Examples
    --------
    >>> from kanmg.splines import uniform_knots
    >>> from_power_relu_weights(uniform_knots(2, degree=1, domain=(0, 2)), [0, 1, -2]).tolist()
    [0.0, 1.0, 0.0]
    """
    array = _checked(knots, weights, "weights")
    bands = _bands(knots, bool(scaled))
    solution, _ = scipy.linalg.lapack.dtbtrs(bands, array.reshape(len(array), -1), uplo="U", trans="T")
    result: FloatArray = solution.reshape(array.shape)
    return result


def _checked_knots(knots: Any) -> Knots:
    if not isinstance(knots, Knots):
        raise KanmgTypeError(
            f"`knots` is a {type(knots).__name__}. Pass a `Knots`, such as `kanmg.uniform_knots(8, degree=3)`."
        )
    return knots


def _checked(knots: Knots, values: npt.ArrayLike, name: str) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2) or array.shape[0] != knots.num_basis:
        raise ShapeError(
            f"`{name}` has shape {array.shape}, but {knots!r} has {knots.num_basis} basis functions. Pass an array of "
            f"shape ({knots.num_basis},) or ({knots.num_basis}, Q)."
        )
    return array


@lru_cache(maxsize=128)
def _matrix(knots: Knots, scaled: bool) -> scipy.sparse.csr_array:
    number, order = knots.num_basis, knots.degree + 1
    if knots.is_uniform:
        unit = factorial(knots.degree) * (1.0 if scaled else knots.spacing**knots.degree)
        diagonals = [np.full(max(number - s, 0), (-1) ** s * comb(order, s) / unit) for s in range(order + 1)]
    else:
        diagonals = _recursion(knots)
        if scaled:
            units = power_relu_scales(knots) ** power_relu_exponents(knots)
            diagonals = [diagonal * units[s:] for s, diagonal in enumerate(diagonals)]
    kept = [(s, diagonal) for s, diagonal in enumerate(diagonals) if s < number]
    matrix = scipy.sparse.diags_array([band for _, band in kept], offsets=[s for s, _ in kept], format="csr")
    matrix.eliminate_zeros()
    matrix.sort_indices()
    for array in (matrix.data, matrix.indices, matrix.indptr):
        array.setflags(write=False)
    return matrix


def _recursion(knots: Knots) -> list[FloatArray]:
    """Return the diagonals of A by the recursion over the orders."""
    vector, number, order = knots.vector, knots.num_basis, knots.degree + 1
    # later[j]: how many knots after knot j are equal to it; those of dropped columns do not matter.
    later = np.zeros(len(vector), int)
    later[:number] = knots.degree - power_relu_exponents(knots)
    # entries[s, i]: A[i, i + s] of one order, for all rows i whose knots exist.
    entries = np.zeros((order + 1, len(vector) - 1))
    entries[:2] = np.where(np.diff(vector) > 0.0, [[1.0], [-1.0]], 0.0)
    for r in range(2, order + 1):
        rows = len(vector) - r
        lengths = vector[r - 1 :] - vector[: -r + 1]
        shares = entries[:, : rows + 1] * np.where(lengths > 0.0, 1.0 / np.where(lengths > 0.0, lengths, 1.0), 0.0)
        raised = shares[:, :rows].copy()
        raised[1:] -= shares[:-1, 1:]
        for s in range(r + 1):
            columns = later[s : s + rows]
            raised[s] *= np.where(columns < r - 1, (r - 1) / np.maximum(r - 1 - columns, 1), 0.0)
        # Where the first r knots of a B-spline are equal, it begins with a jump to one.
        raised[0][later[:rows] == r - 1] = 1.0
        entries = raised
    return [entries[s, : number - s] for s in range(order + 1)]


@lru_cache(maxsize=128)
def _bands(knots: Knots, scaled: bool) -> FloatArray:
    """Return A in LAPACK's form for upper triangular bands."""
    matrix = power_relu_matrix(knots, scaled=scaled)
    width = min(knots.degree + 1, knots.num_basis - 1)
    bands = np.zeros((width + 1, knots.num_basis))
    for s in range(width + 1):
        bands[width - s, s:] = matrix.diagonal(s)
    bands.setflags(write=False)
    return bands
