"""Points in boxes: grids, faces, Sobol points, and Gauss quadratures.

A domain is one interval (a, b) for each coordinate. All functions return points of shape (N, d), coordinate i in
column i; the last coordinate runs fastest.

Examples
--------
>>> import kanmg
>>> kanmg.sampling.grid([(0, 1), (0, 2)], 2).tolist()
[[0.0, 0.0], [0.0, 2.0], [1.0, 0.0], [1.0, 2.0]]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from kanmg.arrays import Array, resolve_dtype
from kanmg.errors import KanmgTypeError, KanmgValueError, ShapeError

__all__ = ["boundary", "gauss", "grid", "sobol"]

Domain: TypeAlias = Sequence[tuple[float, float]]
"""One interval for each coordinate."""

Face: TypeAlias = tuple[int, Literal["lower", "upper"]]
"""A coordinate, and the end of its interval."""


def grid(domain: Domain, num_points: int | Sequence[int], *, ends: bool = True, dtype: Any = "float64") -> Array:
    """Return all points of a uniform tensor grid.

    Parameters
    ----------
    domain : sequence of (float, float)
        One interval for each coordinate.
    num_points : int or sequence of int
        In each direction.
    ends : bool, default True
        Whether the ends of the intervals belong to the grid; otherwise its points are the midpoints of as many cells.
    dtype : str or numpy.dtype, default "float64"

    Returns
    -------
    ndarray, shape (N, d)

    Raises
    ------
    KanmgValueError
        If an interval is empty, or there are no points; with `ends`, if there are fewer than two in some direction.

    Examples
    --------
    >>> grid([(0, 1)], 3).ravel().tolist()
    [0.0, 0.5, 1.0]
    >>> grid([(0, 1)], 2, ends=False).ravel().tolist()
    [0.25, 0.75]
    """
    intervals = _checked_domain(domain)
    counts = _checked_counts(num_points, len(intervals), at_least=2 if ends else 1)
    axes = [_axis(a, b, count, ends=ends) for (a, b), count in zip(intervals, counts, strict=True)]
    return _product(axes, dtype)


def boundary(
    domain: Domain,
    num_points: int | Sequence[int],
    *,
    faces: Sequence[Face] | None = None,
    ends: bool = True,
    dtype: Any = "float64",
) -> Array:
    """Return grid points on faces of a box, one face after the other.

    Parameters
    ----------
    domain : sequence of (float, float)
        One interval for each coordinate.
    num_points : int or sequence of int
        In each direction; a face has the grid of the other directions.
    faces : sequence of (int, {"lower", "upper"}), optional
        Which faces: the coordinate that is constant, and at which end; all by default. An initial condition at the
        lower end of coordinate 1 is `[(1, "lower")]`.
    ends : bool, default True
        Whether the edges of the faces belong to the grids. Faces that meet then have their common points both.
    dtype : str or numpy.dtype, default "float64"

    Returns
    -------
    ndarray, shape (N, d)

    Raises
    ------
    KanmgValueError
        As `grid`; or if there is no such face.

    Examples
    --------
    >>> boundary([(-1, 1), (0, 3)], 2, faces=[(0, "lower"), (1, "upper")]).tolist()
    [[-1.0, 0.0], [-1.0, 3.0], [-1.0, 3.0], [1.0, 3.0]]
    """
    intervals = _checked_domain(domain)
    counts = _checked_counts(num_points, len(intervals), at_least=2 if ends else 1)
    axes = [_axis(a, b, count, ends=ends) for (a, b), count in zip(intervals, counts, strict=True)]
    parts = []
    for coordinate, side in _checked_faces(faces, len(intervals)):
        end = intervals[coordinate][side == "upper"]
        own = [np.array([end]) if i == coordinate else axis for i, axis in enumerate(axes)]
        parts.append(_product(own, dtype))
    return np.concatenate(parts)


def sobol(domain: Domain, num_points: int, *, seed: int = 0, dtype: Any = "float64") -> Array:
    """Return scrambled Sobol points, which fill a box more evenly than random ones.

    Parameters
    ----------
    domain : sequence of (float, float)
        One interval for each coordinate.
    num_points : int
        Powers of two are the most even; fewer points are the first ones of more.
    seed : int, default 0
        Of the scrambling.
    dtype : str or numpy.dtype, default "float64"

    Returns
    -------
    ndarray, shape (N, d)

    Raises
    ------
    KanmgValueError
        If an interval is empty, or there are no points.

    References
    ----------
    .. [1] A. B. Owen, "Scrambling Sobol' and Niederreiter-Xing points", J. Complexity 14 (1998),
       doi:10.1006/jcom.1998.0487.

    Examples
    --------
    >>> points = sobol([(0, 1), (0, 1)], 16)
    >>> sorted((4 * points[:, 0]).astype(int).tolist())  # four in each quarter
    [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    """
    # Imported when needed, like all of SciPy that training does without.
    from scipy.stats import qmc  # noqa: PLC0415

    intervals = _checked_domain(domain)
    (count,) = _checked_counts(num_points, 1, at_least=1)
    points = qmc.Sobol(len(intervals), scramble=True, rng=np.random.default_rng(seed))
    lower, upper = np.array(intervals).T
    fractions = points.random_base2(max(0, (count - 1).bit_length()))[:count]
    return np.asarray(lower + (upper - lower) * fractions, resolve_dtype(dtype))


def gauss(
    domain: Domain, num_points: int | Sequence[int], *, num_cells: int | Sequence[int] = 1, dtype: Any = "float64"
) -> tuple[Array, Array]:
    """Return points and weights of a Gauss-Legendre quadrature on a box, or on every cell of one.

    Exact for polynomials of degree 2 n - 1 in every coordinate, n the points per cell and direction.

    Parameters
    ----------
    domain : sequence of (float, float)
        One interval for each coordinate.
    num_points : int or sequence of int
        In each direction, per cell.
    num_cells : int or sequence of int, default 1
        In each direction. With the cells of a spline, all its polynomial pieces are integrated exactly.
    dtype : str or numpy.dtype, default "float64"

    Returns
    -------
    points : ndarray, shape (N, d)
    weights : ndarray, shape (N,)
        Positive; their sum is the volume of the box. They are what `kanmg.Term` takes as `point_weights`.

    Raises
    ------
    KanmgValueError
        If an interval is empty, or there are no points or cells.

    Examples
    --------
    >>> points, weights = gauss([(0, 1), (0, 2)], 2)
    >>> print(f"{weights @ (points[:, 0] ** 3 * points[:, 1]):.12f}")
    0.500000000000
    """
    intervals = _checked_domain(domain)
    counts = _checked_counts(num_points, len(intervals), at_least=1)
    cells = _checked_counts(num_cells, len(intervals), at_least=1, name="num_cells")
    rules = [_gauss_axis(a, b, n, m) for (a, b), n, m in zip(intervals, counts, cells, strict=True)]
    points = _product([nodes for nodes, _ in rules], dtype)
    weights = np.prod(_product([own for _, own in rules], "float64"), axis=1)
    return points, weights.astype(resolve_dtype(dtype))


def _gauss_axis(a: float, b: float, num_points: int, num_cells: int) -> tuple[Array, Array]:
    """Return nodes and weights on one interval."""
    nodes, weights = np.polynomial.legendre.leggauss(num_points)
    length = (b - a) / num_cells
    lefts = a + length * np.arange(num_cells)
    return (lefts[:, None] + 0.5 * length * (nodes + 1)).ravel(), np.tile(0.5 * length * weights, num_cells)


def _axis(a: float, b: float, count: int, *, ends: bool) -> Array:
    """Return the points of a grid in one direction."""
    if ends:
        return np.linspace(a, b, count)
    return np.asarray(a + (b - a) * (np.arange(count) + 0.5) / count)


def _product(axes: Sequence[Array], dtype: Any) -> Array:
    """Return all combinations, the last coordinate fastest: shape (N, d)."""
    mesh = np.meshgrid(*axes, indexing="ij")
    return np.stack([part.ravel() for part in mesh], axis=1).astype(resolve_dtype(dtype))


def _checked_domain(domain: Any) -> list[tuple[float, float]]:
    """Return a domain as a list of proper intervals."""
    try:
        ends = np.array(domain, np.float64)
    except (TypeError, ValueError):
        raise KanmgTypeError(
            f"`domain={domain!r}`. Pass one interval for each coordinate: [(-1, 1), (0, 1)]."
        ) from None
    if ends.ndim != 2 or ends.shape[1] != 2 or len(ends) == 0:
        raise ShapeError(
            f"`domain={domain!r}`. Pass one interval (a, b) for each coordinate, such as [(-1, 1), (0, 1)]."
        )
    if not (np.isfinite(ends).all() and (ends[:, 0] < ends[:, 1]).all()):
        raise KanmgValueError(f"`domain={domain!r}`. The ends of every interval must be finite, the first the smaller.")
    return [(float(a), float(b)) for a, b in ends]


def _checked_counts(counts: Any, length: int, *, at_least: int, name: str = "num_points") -> list[int]:
    """Return one count for each direction."""
    numbers = [counts] * length if isinstance(counts, int | np.integer) else list(counts)
    if len(numbers) != length:
        raise ShapeError(f"`{name}={counts!r}` for {length} coordinates. Pass one number, or one for each of them.")
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise KanmgTypeError(f"`{name}={counts!r}`. Pass an integer, or one for each coordinate.")
        if number < at_least:
            raise KanmgValueError(f"`{name}={counts!r}`. There must be at least {at_least} in each direction.")
    return [int(number) for number in numbers]


def _checked_faces(faces: Any, num_coordinates: int) -> list[Face]:
    """Return faces that exist."""
    everything: list[Face] = [(i, side) for i in range(num_coordinates) for side in ("lower", "upper")]
    if faces is None:
        return everything
    chosen = [tuple(face) for face in faces]
    wrong = [face for face in chosen if face not in everything]
    if wrong or not chosen:
        raise KanmgValueError(
            f"`faces={faces!r}`. A face is a coordinate from 0 to {num_coordinates - 1} and an end, such as "
            '(0, "lower").'
        )
    return [everything[everything.index(face)] for face in chosen]
