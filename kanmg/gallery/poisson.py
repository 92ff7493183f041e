"""Poisson's equation where it is hard: in five dimensions, across an interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from kanmg.errors import KanmgValueError
from kanmg.gallery.model_problem import Array, ModelProblem, collocation_problem
from kanmg.problems.terms import Term
from kanmg.sampling import grid, sobol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kanmg.problems.fields import Field

__all__ = ["ml2", "poisson5d"]

_NUM_COORDINATES = 5
_CUBE = ((0.0, 1.0),) * _NUM_COORDINATES
_SQUARE = ((-1.0, 1.0), (-1.0, 1.0))


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


def ml2(num_cells: int = 50, seed: int = 0) -> ModelProblem:
    """State Poisson's equation with a coefficient that jumps at x = 0: the interface problem of multilevel training.

    Parameters
    ----------
    num_cells : int
        In each direction of the grid on [-1, 1]^2 whose nodes are the points; even.
    seed : int
        Of the points at which errors are measured.

    Returns
    -------
    ModelProblem

    Raises
    ------
    KanmgValueError
        If `num_cells` is odd or less than 4.

    Notes
    -----
    div(a grad u) = f with a = 1 for x < 0 and a = 1 / 2 for x >= 0, u = 0 on the boundary, and

        u = sin(pi x) sin(3 pi y) for x < 0,   u = sin(2 pi x) sin(3 pi y) for x >= 0,

    which is continuous at x = 0, as is a u_x. The network's third input is abs(x), so that its derivative by x may jump
    there. The terms and their weights are the paper's: the equation 0.01, the boundary 1, the jump condition of a u_x
    at the interface 0.1. What it leaves open was chosen as follows:

    - its 49 x 49 interior, 200 boundary and 49 interface points are the nodes of a grid of 50 x 50 cells; the equation
      does not hold on the interface, whose 49 nodes therefore belong to the jump condition alone: 48 x 49 remain;
    - all samples are weighted alike: there is no residual-based attention.

    References
    ----------
    .. [1] Southworth, Actor, Harper, Cyr, *Multilevel Training for Kolmogorov Arnold Networks*, 2026,
       https://arxiv.org/abs/2603.04827

    Examples
    --------
    >>> import numpy as np
    >>> from kanmg import gallery
    >>> model = gallery.ml2()
    >>> model.problem
    Collocation((x, y) -> (u), 2601 points: 2352 equation, 200 boundary, 49 interface, float64)
    >>> print(np.round(model.exact(np.array([[-0.25, 0.5], [0.25, 0.5]])).ravel(), 4))
    [ 0.7071 -1.    ]
    """
    if num_cells < 4 or num_cells % 2:
        raise KanmgValueError(
            f"`num_cells={num_cells}` must be even, so that x = 0 is a line of the grid, and at least 4."
        )
    nodes = grid(_SQUARE, num_cells + 1)
    # `linspace` does not meet 0 to the last bit.
    nodes[np.abs(nodes) < 1e-12] = 0.0
    on_boundary = (np.abs(nodes) == 1.0).any(axis=1)
    on_interface = (nodes[:, 0] == 0.0) & ~on_boundary
    interface = nodes[on_interface]

    def equation(x: torch.Tensor, u: Field) -> torch.Tensor:
        is_left = x[:, 0] < 0.0
        left = -10.0 * torch.sin(torch.pi * x[:, 0])
        right = -6.5 * torch.sin(2.0 * torch.pi * x[:, 0])
        source = torch.pi**2 * torch.sin(3.0 * torch.pi * x[:, 1]) * torch.where(is_left, left, right)
        return torch.where(is_left, 1.0, 0.5).to(x.dtype) * (u.d("x", "x") + u.d("y", "y")) - source

    return collocation_problem(
        "ML-2",
        _ml2_exact,
        coordinates=("x", "y"),
        fields=("u",),
        terms=[
            Term("equation", equation, nodes[~on_boundary & ~on_interface], weight=0.01),
            Term("boundary", lambda _, u: u.value, nodes[on_boundary]),
            Term(
                "interface",
                lambda _, u: 0.5 * u.d("x", side="+") - u.d("x", side="-"),
                interface,
                weight=0.1,
                normals=np.tile([1.0, 0.0], (len(interface), 1)),
            ),
        ],
        inputs=lambda x: torch.cat([x, x[:, :1].abs()], dim=1),
        domain=_SQUARE,
        hierarchy_arguments={
            "widths": (3, 5, 1),
            "degree": 3,
            "num_intervals": 4,
            "num_levels": 4,
            "domain": (*_SQUARE, (0.0, 1.0)),
        },
        source="Southworth, Actor, Harper, Cyr, Multilevel Training for Kolmogorov Arnold Networks, arXiv 2603.04827",
        seed=seed,
    )


def _ml2_exact(x: Array) -> Array:
    waves = np.where(x[:, :1] < 0.0, 1.0, 2.0)
    return np.asarray(np.sin(waves * np.pi * x[:, :1]) * np.sin(3.0 * np.pi * x[:, 1:]))


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
