"""Poisson's equation where it is hard: in five dimensions, across an interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from kanmg.errors import KanmgValueError
from kanmg.gallery.model_problem import Array, ModelProblem, collocation_problem
from kanmg.problems.terms import Term
from kanmg.sampling import sobol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kanmg.problems.fields import Field

__all__ = ["poisson5d"]

_NUM_COORDINATES = 5
_CUBE = ((0.0, 1.0),) * _NUM_COORDINATES


def poisson5d(
    num_interior: int = 3_000, num_boundary: int = 1_000, seed: int = 0, *, widths: Sequence[int] = (5, 1)
) -> ModelProblem:
    """State Poisson's equation in the unit cube of five dimensions, with the solution sum_i cos(pi x_i).

    Parameters
    ----------
    num_interior : int
        Sobol points in the cube [0, 1]^5.
    num_boundary : int
        Sobol points on its faces, a multiple of 10.
    seed : int
        Of the points.
    widths : sequence of int, default (5, 1)
        Of the recommended network. One layer of splines can represent the solution, and the loss is then quadratic;
        (5, 5, 1) does not know this, and has to find it out.

    Returns
    -------
    ModelProblem

    Raises
    ------
    KanmgValueError
        If `widths` does not lead from 5 inputs to 1 output, or `num_boundary` is no multiple of 10.

    Notes
    -----
    -(u_11 + ... + u_55) = pi^2 sum_i cos(pi x_i) inside, the solution's values on the boundary. The weight of the
    equation is 1 / pi^4, which makes the two terms comparable.

    References
    ----------
    .. [1] J. Müller and M. Zeinhofer, "Achieving high accuracy with PINNs via energy natural gradient descent",
       Proc. ICML 2023, https://arxiv.org/abs/2302.13163

    Examples
    --------
    >>> import kanmg
    >>> from kanmg import gallery
    >>> model = gallery.poisson5d(500, 200)
    >>> method = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=10)
    >>> solution = kanmg.solve(model.problem, model.hierarchy(degree=5, num_intervals=4, num_levels=1), method=method)
    >>> model.relative_error(solution) < 1e-4
    True
    """
    sizes = tuple(widths)
    if len(sizes) < 2 or (sizes[0], sizes[-1]) != (_NUM_COORDINATES, 1):
        raise KanmgValueError(f"`widths={sizes}` must begin with 5 and end with 1: (5, 1) or (5, 5, 1), for example.")
    coordinates = tuple(f"x{i}" for i in range(1, _NUM_COORDINATES + 1))

    def solution(x: torch.Tensor) -> torch.Tensor:
        return torch.cos(torch.pi * x).sum(dim=1)

    def equation(x: torch.Tensor, u: Field) -> torch.Tensor:
        laplacian = torch.stack([u.d(name, name) for name in coordinates]).sum(dim=0)
        return -laplacian - torch.pi**2 * solution(x)

    return collocation_problem(
        "Poisson in five dimensions",
        lambda x: np.cos(np.pi * x).sum(axis=1, keepdims=True),
        coordinates=coordinates,
        fields=("u",),
        terms=[
            Term("equation", equation, sobol(_CUBE, num_interior, seed=seed), weight=1.0 / np.pi**4),
            Term("boundary", lambda x, u: u.value - solution(x), _faces(_CUBE, num_boundary, seed)),
        ],
        domain=_CUBE,
        hierarchy_arguments={"widths": sizes, "degree": 9, "num_intervals": 2, "num_levels": 4, "domain": _CUBE},
        source="Müller, Zeinhofer, ICML 2023, arXiv 2302.13163",
        seed=seed,
    )


def _faces(domain: tuple[tuple[float, float], ...], num_points: int, seed: int) -> Array:
    """Return Sobol points on all faces of a box, as many on each: grids would be huge."""
    per_face, rest = divmod(num_points, 2 * len(domain))
    if rest or per_face < 1:
        raise KanmgValueError(
            f"`num_boundary={num_points}` cannot be shared out among {2 * len(domain)} faces. Pass a positive multiple "
            f"of {2 * len(domain)}."
        )
    faces = []
    for coordinate, ends in enumerate(domain):
        others = domain[:coordinate] + domain[coordinate + 1 :]
        for side, end in enumerate(ends):
            # A stream of points of its own for each face.
            points = sobol(others, per_face, seed=seed + 1 + 2 * coordinate + side)
            faces.append(np.insert(points, coordinate, end, axis=1))
    return np.concatenate(faces)
