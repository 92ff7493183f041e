"""Kovasznay's exact solution of the Navier-Stokes equations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from kanmg.errors import KanmgValueError
from kanmg.gallery.model_problem import Array, ModelProblem, collocation_problem
from kanmg.problems.terms import Term
from kanmg.sampling import boundary, sobol

if TYPE_CHECKING:
    from kanmg.problems.fields import Field

__all__ = ["kovasznay"]

_RECTANGLE = ((-0.5, 1.0), (-0.5, 1.5))


def kovasznay(
    num_interior: int = 4_000, num_boundary: int = 400, seed: int = 0, *, reynolds: float = 20.0
) -> ModelProblem:
    """State the steady Navier-Stokes equations with the flow behind a grid of Kovasznay as solution.

    Parameters
    ----------
    num_interior : int
        Sobol points in the rectangle x from [-0.5, 1], y from [-0.5, 1.5].
    num_boundary : int
        Points on its edges, a multiple of 4.
    seed : int
        Of the points.
    reynolds : float
        The Reynolds number.

    Returns
    -------
    ModelProblem

    Raises
    ------
    KanmgValueError
        If `reynolds` is not positive.

    Notes
    -----
    The fields are the velocities u and v and the pressure p. Inside, both components of

        (u, v) . grad (u, v) + grad p = laplacian (u, v) / reynolds        and        u_x + v_y = 0;

    on the boundary the solution's velocities. They leave a constant of the pressure open, which the term `pressure`
    fixes: p at the point (1, 0.5), the middle of the outflow. Errors count the pressure as it is. The rectangle is that
    of [2]_, where the Reynolds number is 40. With
    a = reynolds / 2 - sqrt(reynolds^2 / 4 + 4 pi^2), the solution is

        u = 1 - exp(a x) cos(2 pi y),   v = a / (2 pi) exp(a x) sin(2 pi y),   p = (1 - exp(2 a x)) / 2.

    References
    ----------
    .. [1] L. I. G. Kovasznay, "Laminar flow behind a two-dimensional grid", Math. Proc. Cambridge Philos. Soc. 44
       (1948), doi:10.1017/S0305004100023999.
    .. [2] X. Jin, S. Cai, H. Li and G. E. Karniadakis, "NSFnets (Navier-Stokes flow nets): physics-informed neural
       networks for the incompressible Navier-Stokes equations", J. Comput. Phys. 426 (2021),
       doi:10.1016/j.jcp.2020.109951.

    Examples
    --------
    >>> import numpy as np
    >>> from kanmg import gallery
    >>> model = gallery.kovasznay(100, 40)
    >>> model.problem
    Collocation((x, y) -> (u, v, p), 141 points: 100 equations, 40 boundary, 1 pressure, float64)
    >>> print(np.round(model.exact(np.array([[0.0, 0.0], [0.0, 0.25]])), 4) + 0.0)
    [[ 0.      0.      0.    ]
     [ 1.     -0.2881  0.    ]]
    """
    if not reynolds > 0.0:
        raise KanmgValueError(f"`reynolds={reynolds}` is no Reynolds number. Pass a positive number.")
    a = reynolds / 2.0 - np.sqrt(reynolds**2 / 4.0 + 4.0 * np.pi**2)

    def exact(x: Array) -> Array:
        decay, angle = np.exp(a * x[:, 0]), 2.0 * np.pi * x[:, 1]
        u = 1.0 - decay * np.cos(angle)
        v = a / (2.0 * np.pi) * decay * np.sin(angle)
        return np.stack([u, v, (1.0 - decay**2) / 2.0], axis=1)

    def equations(_: torch.Tensor, u: Field, v: Field, p: Field) -> torch.Tensor:
        momentum_x = _transport(u, u, v) + p.d("x") - _laplacian(u) / reynolds
        momentum_y = _transport(v, u, v) + p.d("y") - _laplacian(v) / reynolds
        return torch.stack([momentum_x, momentum_y, u.d("x") + v.d("y")], dim=1)

    def velocities(x: torch.Tensor, u: Field, v: Field, _: Field) -> torch.Tensor:
        decay, angle = torch.exp(a * x[:, 0]), 2.0 * torch.pi * x[:, 1]
        wrong_u = u.value - 1.0 + decay * torch.cos(angle)
        return torch.stack([wrong_u, v.value - a / (2.0 * torch.pi) * decay * torch.sin(angle)], dim=1)

    def pressure(x: torch.Tensor, _u: Field, _v: Field, p: Field) -> torch.Tensor:
        return p.value - (1.0 - torch.exp(2.0 * a * x[:, 0])) / 2.0

    return collocation_problem(
        "Kovasznay",
        exact,
        coordinates=("x", "y"),
        fields=("u", "v", "p"),
        terms=[
            Term("equations", equations, sobol(_RECTANGLE, num_interior, seed=seed)),
            Term("boundary", velocities, boundary(_RECTANGLE, num_boundary // 4), weight=10.0),
            Term("pressure", pressure, np.array([[1.0, 0.5]])),
        ],
        domain=_RECTANGLE,
        hierarchy_arguments={
            # Five hidden functions suffice, but with them some starts end in minima that refine slowly.
            "widths": (2, 6, 3),
            "degree": 7,
            "num_intervals": 8,
            "num_levels": 3,
            "domain": _RECTANGLE,
        },
        source="Jin, Cai, Li, Karniadakis, J. Comput. Phys. 426, 2021",
        seed=seed,
    )


def _transport(field: Field, u: Field, v: Field) -> torch.Tensor:
    return u.value * field.d("x") + v.value * field.d("y")


def _laplacian(field: Field) -> torch.Tensor:
    return field.d("x", "x") + field.d("y", "y")
