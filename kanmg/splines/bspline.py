"""B-spline values and derivatives in float64 NumPy: the oracle that every evaluator is tested against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import scipy  # its subpackages are loaded when they are first used

from kanmg.errors import DomainError, KanmgValueError, ShapeError
from kanmg.splines._checks import checked_derivative, checked_points

if TYPE_CHECKING:
    import scipy.sparse  # noqa: TC004 - tells mypy what SciPy loads by itself

    from kanmg.splines.knots import Knots

__all__ = ["OUTSIDE_POLICIES", "Outside", "basis_matrix", "evaluate_spline", "local_basis", "local_blossom"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

Outside = Literal["extend", "linear", "clamp", "zero", "error"]
"""What a spline does outside its domain."""

OUTSIDE_POLICIES: tuple[str, ...] = get_args(Outside)


def local_basis(knots: Knots, x: npt.ArrayLike, derivative: int = 0) -> tuple[IntArray, FloatArray]:
    """Evaluate the `degree + 1` B-splines that are non-zero on each point's cell.

    Outside the domain the values are those of the end cell's polynomials. At a breakpoint the cell on its right
    counts, at the right end of the domain the last cell. NaN gives NaN.

    Parameters
    ----------
    knots : Knots
    x : array_like, shape (N,)
    derivative : int
        Order of the derivative, 0 or more.

    Returns
    -------
    cells : ndarray of int, shape (N,)
        Numbers of the cells, 0 to num_intervals - 1.
    values : ndarray, shape (N, degree + 1)
        Column s belongs to basis function `cells + s`.

    Raises
    ------
    ShapeError
        `x` is not one-dimensional.
    KanmgValueError
        `derivative` is negative.

    Notes
    -----
    The recursion of de Boor and Cox on the 2k local knots; derivatives by replacing its last steps by differences.
    Cost: k (k + 1) / 2 steps on vectors of length N.

    References
    ----------
    C. de Boor, "On calculating with B-splines", J. Approx. Theory 6 (1972), doi:10.1016/0021-9045(72)90080-9.

    Examples
    --------
    >>> from kanmg.splines import uniform_knots
    >>> cells, values = local_basis(uniform_knots(4, degree=2, domain=(0, 4)), [0.0, 1.5])
    >>> cells.tolist(), values.tolist()
    ([0, 1], [[0.5, 0.5, 0.0], [0.125, 0.75, 0.125]])
    """
    points = checked_points(x)
    order = checked_derivative(derivative)
    cells = _cells(knots, points)
    return cells, _triangle(knots.vector, cells + knots.degree, [points] * knots.degree, order)


def local_blossom(knots: Knots, cells: IntArray, arguments: FloatArray) -> FloatArray:
    """Evaluate the blossoms (polar forms) of the `degree + 1` B-splines that are non-zero on each cell.

    The blossom of a polynomial of degree k is the symmetric function of k arguments that is affine in each of them and
    reduces to the polynomial when all are equal.

    Parameters
    ----------
    knots : Knots
    cells : ndarray of int, shape (N,)
        Numbers of the cells, 0 to num_intervals - 1, whose polynomials are meant.
    arguments : ndarray, shape (N, degree)
        Their order changes rounding errors only.

    Returns
    -------
    ndarray, shape (N, degree + 1)
        Column s belongs to basis function `cells + s`.

    References
    ----------
    L. Ramshaw, "Blossoms are polar forms", Comput. Aided Geom. Design 6 (1989), doi:10.1016/0167-8396(89)90032-0.

    Examples
    --------
    >>> from kanmg.splines import uniform_knots
    >>> knots = uniform_knots(4, degree=2, domain=(0, 4))
    >>> local_blossom(knots, np.array([1]), np.array([[1.0, 2.0]])).tolist()
    [[0.0, 1.0, 0.0]]
    """
    return _triangle(knots.vector, cells + knots.degree, list(arguments.T), 0)


def basis_matrix(knots: Knots, x: npt.ArrayLike, derivative: int = 0, outside: Outside = "extend") -> FloatArray:
    """Evaluate all B-splines at all points.

    Parameters
    ----------
    knots : Knots
    x : array_like, shape (N,)
    derivative : int
        Order of the derivative, 0 or more.
    outside : str
        What happens outside the domain [a, b]: `"extend"` continues the end cell's polynomials, `"linear"` value and
        slope of the end point, `"clamp"` the value of the end point; `"zero"` evaluates the B-splines on the exterior
        cells, where they do not sum to one, and 0 beyond the last knot; `"error"` refuses.

    Returns
    -------
    ndarray, shape (N, num_basis)

    Raises
    ------
    DomainError
        Points lie outside the domain and `outside="error"`.
    ShapeError
        `x` is not one-dimensional.
    KanmgValueError
        `derivative` is negative or `outside` unknown.

    Examples
    --------
    >>> from kanmg.splines import uniform_knots
    >>> knots = uniform_knots(2, degree=1, domain=(0, 2))
    >>> basis_matrix(knots, [0.5, 3.0]).tolist()
    [[0.5, 0.5, 0.0], [0.0, -1.0, 2.0]]
    >>> basis_matrix(knots, [0.5, 3.0], outside="clamp").tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    """
    columns, values = _local_rows(knots, x, derivative, outside)
    row_starts = np.arange(len(values) + 1) * (knots.degree + 1)
    # Conversion to a dense array adds up repeated columns, which the policy "zero" produces.
    matrix = scipy.sparse.csr_array((values.ravel(), columns.ravel(), row_starts), shape=(len(values), knots.num_basis))
    dense: FloatArray = matrix.toarray()
    return dense


def evaluate_spline(
    knots: Knots, coefficients: npt.ArrayLike, x: npt.ArrayLike, derivative: int = 0, outside: Outside = "extend"
) -> FloatArray:
    """Evaluate splines or their derivatives.

    Parameters
    ----------
    knots : Knots
    coefficients : array_like, shape (num_basis,) or (num_basis, Q)
        One column per spline.
    x : array_like, shape (N,)
    derivative : int
        Order of the derivative, 0 or more.
    outside : str
        As for `basis_matrix`.

    Returns
    -------
    ndarray, shape (N,) or (N, Q)

    Raises
    ------
    ShapeError
        `coefficients` do not fit `knots`, or `x` is not one-dimensional.
    DomainError
        Points lie outside the domain and `outside="error"`.
    KanmgValueError
        `derivative` is negative or `outside` unknown.

    Examples
    --------
    The Greville abscissae are the coefficients of the identity:

    >>> from kanmg.splines import uniform_knots
    >>> knots = uniform_knots(4, degree=3)
    >>> evaluate_spline(knots, knots.greville, [-0.25, 0.5, 2.0]).round(12).tolist()
    [-0.25, 0.5, 2.0]
    >>> evaluate_spline(knots, knots.greville, [0.3], derivative=1).round(12).tolist()
    [1.0]
    """
    array = np.asarray(coefficients, dtype=np.float64)
    if array.ndim not in (1, 2) or array.shape[0] != knots.num_basis:
        raise ShapeError(
            f"`coefficients` has shape {array.shape}, but {knots!r} has {knots.num_basis} basis functions. Pass an "
            f"array of shape ({knots.num_basis},) or ({knots.num_basis}, Q)."
        )
    columns, values = _local_rows(knots, x, derivative, outside)
    result: FloatArray = np.einsum("ns,ns...->n...", values, array[columns])
    return result


class _Rows(NamedTuple):
    """The k + 1 possibly non-zero entries of each row of a basis matrix."""

    columns: IntArray
    values: FloatArray


def _local_rows(knots: Knots, x: npt.ArrayLike, derivative: int, outside: str) -> _Rows:
    points = checked_points(x)
    order = checked_derivative(derivative)
    if outside not in OUTSIDE_POLICIES:
        names = ", ".join(f'"{name}"' for name in OUTSIDE_POLICIES)
        raise KanmgValueError(f"`outside` is {outside!r}. One of {names} is required.")
    lower, upper = knots.domain
    exterior = (points < lower) | (points > upper)
    if outside == "error" and exterior.any():
        raise _outside_error(knots, points[exterior])
    if outside == "zero":
        return _zero_rows(knots, points, order, exterior)
    nearest_points = points if outside == "extend" else points.clip(lower, upper)
    cells, values = local_basis(knots, nearest_points, order)
    if outside == "linear" and order == 0:
        slopes = local_basis(knots, nearest_points[exterior], 1)[1]
        values[exterior] += (points - nearest_points)[exterior, None] * slopes
    elif (outside == "clamp" and order > 0) or (outside == "linear" and order > 1):
        values[exterior] = 0.0
    return _Rows(cells[:, None] + np.arange(knots.degree + 1), values)


def _zero_rows(knots: Knots, points: FloatArray, order: int, exterior: npt.NDArray[np.bool_]) -> _Rows:
    """Rows of the bare B-spline sum: on the exterior cells some of the k + 1 functions do not exist."""
    degree, vector = knots.degree, knots.vector
    # Functions that do not exist need knots too; their values are dropped, so any further knots will do.
    length = vector[-1] - vector[0]
    beyond = length * np.arange(1, degree + 1)
    padded = np.concatenate([vector[0] - beyond[::-1], vector, vector[-1] + beyond])
    within = (points >= vector[0]) & (points < vector[-1])
    cells = _cells(knots, points)
    outer = exterior & within
    cells[outer] = np.searchsorted(vector, points[outer], side="right") - 1 - degree
    values = np.zeros((points.size, degree + 1))
    inner = ~exterior | within
    values[inner] = _triangle(padded, cells[inner] + 2 * degree, [points[inner]] * degree, order)
    columns = cells[:, None] + np.arange(degree + 1)
    values[(columns < 0) | (columns >= knots.num_basis)] = 0.0
    return _Rows(columns.clip(0, knots.num_basis - 1), values)


def _cells(knots: Knots, points: FloatArray) -> IntArray:
    interior = knots.breakpoints[1:-1]
    return np.searchsorted(interior, points, side="right").clip(0, knots.num_intervals - 1)


def _triangle(vector: FloatArray, first: IntArray, arguments: list[FloatArray], derivative: int) -> FloatArray:
    """Run de Boor's triangle for the basis functions of the cells [vector[first], vector[first + 1]].

    Step d uses `arguments[d - 1]`; the last `derivative` steps differentiate instead.
    """
    degree = len(arguments)
    values = np.zeros((first.size, degree + 1))
    if derivative > degree:
        return values
    values[:, 0] = 1.0
    for d, x in enumerate(arguments, start=1):
        carried = np.zeros(first.size)
        for s in range(d):
            left, right = vector[first + s + 1 - d], vector[first + s + 1]
            if d <= degree - derivative:
                # Both quotients are exact when x is a knot, which makes the prolongation to the same knots exact.
                falling = values[:, s] * ((right - x) / (right - left))
                rising = values[:, s] * ((x - left) / (right - left))
            else:
                rising = values[:, s] * (d / (right - left))
                falling = -rising
            values[:, s] = carried + falling
            carried = rising
        values[:, d] = carried
    return values


def _outside_error(knots: Knots, points: FloatArray) -> DomainError:
    lower, upper = knots.domain
    farthest = points[np.maximum(lower - points, points - upper).argmax()]
    return DomainError(
        f"`x` contains {points.size} points outside the domain [{lower}, {upper}] (farthest {farthest:.17g}), and "
        '`outside="error"` refuses them. Build the knots with a `domain` that holds them, drop the points, or choose '
        'another policy, such as `outside="extend"`.'
    )
