"""Equations with unknown numbers, found from noisy samples of the solution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kanmg.errors import KanmgValueError
from kanmg.gallery.equations import SPACE_TIME, cole_hopf
from kanmg.gallery.model_problem import (
    NOISE_STREAM,
    TRAINING_STREAM,
    ModelProblem,
    collocation_problem,
    draw,
)
from kanmg.problems.scalars import Parameter
from kanmg.problems.terms import Term
from kanmg.sampling import sobol

if TYPE_CHECKING:
    import torch

    from kanmg.problems.fields import Field

__all__ = ["inverse_burgers"]


def inverse_burgers(
    num_interior: int = 2_000,
    num_samples: int = 200,
    seed: int = 0,
    *,
    nu: float = 0.05,
    initial: float = 0.5,
    noise: float = 0.01,
) -> ModelProblem:
    """Find the viscosity in Burgers' equation, u_t + u u_x = nu u_xx, from noisy samples of the solution.

    Parameters
    ----------
    num_interior : int
        Sobol points in x from [-1, 1], t from [0, 1], at which the equation shall hold.
    num_samples : int
        Samples of the solution at uniformly distributed points.
    seed : int
        Of points and noise.
    nu : float
        The true viscosity. Fronts are about 4 nu wide: much smaller ones need more samples.
    initial : float
        What a run takes the viscosity for at its beginning.
    noise : float
        Standard deviation of the Gaussian noise on the samples, relative to that of their values.

    Returns
    -------
    ModelProblem
        The true viscosity is in its `parameters`; errors are measured against the solution without noise.

    Raises
    ------
    KanmgValueError
        If `nu` or `initial` is not positive, `noise` negative, or `num_samples` less than 2.

    Notes
    -----
    There are neither initial nor boundary values: what the problem knows of the solution are the samples. It is the one
    that begins as -sin(pi x), see `burgers`. The weight of the samples is 100.

    See Also
    --------
    kanmg.Parameter : The unknown number in a residual.
    kanmg.Term : Whose `data` are the samples.

    Examples
    --------
    >>> import kanmg
    >>> from kanmg import gallery
    >>> model = gallery.inverse_burgers(500, 100)
    >>> hierarchy = model.hierarchy(degree=3, num_levels=1)
    >>> method = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=30)
    >>> solution = kanmg.solve(model.problem, hierarchy, method=method)
    >>> model.parameters["nu"], abs(solution.parameters["nu"] - 0.05) < 0.002
    (0.05, True)
    """
    for name, number in (("nu", nu), ("initial", initial)):
        if not number > 0.0:
            raise KanmgValueError(f"`{name}={number}` is no viscosity. Pass a positive number.")
    if not noise >= 0.0:
        raise KanmgValueError(f"`noise={noise}` is no standard deviation. Pass 0.0 for exact values, or more.")
    if num_samples < 2:
        raise KanmgValueError(f"`num_samples={num_samples}` is too few. Pass at least 2.")
    viscosity = Parameter("nu", initial, positive=True)

    def equation(_: torch.Tensor, u: Field) -> torch.Tensor:
        return u.d("t") + u.value * u.d("x") - viscosity.value * u.d("x", "x")

    points = draw(SPACE_TIME, num_samples, seed, TRAINING_STREAM)
    values = cole_hopf(points, nu)[:, 0]
    errors = np.random.default_rng([seed, NOISE_STREAM]).standard_normal(num_samples)
    measured = values + noise * values.std() * errors
    return collocation_problem(
        "inverse Burgers",
        lambda x: cole_hopf(x, nu),
        coordinates=("x", "t"),
        fields=("u",),
        terms=[
            Term("equation", equation, sobol(SPACE_TIME, num_interior, seed=seed)),
            Term("samples", lambda _, u, y: u.value - y, points, weight=100.0, data=measured),
        ],
        domain=SPACE_TIME,
        hierarchy_arguments={
            "widths": (2, 5, 1),
            "degree": 5,
            "num_intervals": 4,
            "num_levels": 2,
            "domain": SPACE_TIME,
        },
        source="Raissi, Perdikaris, Karniadakis, J. Comput. Phys. 378, 2019",
        seed=seed,
        parameters={"nu": nu},
    )
