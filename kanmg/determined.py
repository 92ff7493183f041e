"""How well a problem's parameters are determined: by how much each may change before the loss has doubled."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from kanmg.program import Smooth
from kanmg.smoothers.damped_equations import as_tensor
from kanmg.smoothers.levenberg_marquardt import LevenbergMarquardt

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array
    from kanmg.hierarchy import Level
    from kanmg.problems.base import Problem
    from kanmg.program import Program

__all__ = ["margins_of_parameters"]

# What makes the coefficients' matrix definite in directions that change nothing, relative to each of its diagonal.
DAMPING = 1e-10

# A parameter whose change the coefficients make up for, but for this part of the curvature, is not determined at all.
MADE_UP_FOR = 1e-7


def margins_of_parameters(
    problem: Problem, program: Program, level: Level, theta: Array, loss: float
) -> dict[str, float]:
    """Return by how much each parameter may change, all else fitted anew, before the loss has doubled.

    Parameters
    ----------
    problem : Problem
    program : Program
    level : Level
    theta : ndarray, shape (num_coefficients + num_parameters,)
    loss : float

    Returns
    -------
    dict of str to float
        Infinite where nothing in the loss determines a parameter. Empty without parameters, and where the program does
        without the matrix 2 J^T J, which is what this costs.

    Notes
    -----
    The loss is quadratic near its minimum. With the coefficients fitted anew its curvature is the Schur complement
    S = D - B^T A^-1 B of their block A in 2 J^T J, and with the other parameters fitted too 1 / (S^-1)_ii, so that the
    loss has doubled at sqrt(2 loss (S^-1)_ii).
    """
    size = level.network.num_coefficients
    instructions = (*program.prologue, *program.cycle)
    smoothers = [step.smoother for step in instructions if isinstance(step, Smooth) and step.level == level.index]
    has_matrix = any(isinstance(smoother, LevenbergMarquardt) for smoother in smoothers)
    if not (problem.num_parameters and has_matrix and size <= LevenbergMarquardt().max_coefficients):
        return {}
    unknowns = as_tensor(theta).cpu().numpy()[size:]
    values = problem.parameter_values(unknowns)
    matrix = as_tensor(problem.normal_equations(level.evaluator, theta)[2]).clone()
    own, mixed, rest = matrix[:size, :size], matrix[:size, size:], matrix[size:, size:]
    diagonal = own.diagonal()
    diagonal += DAMPING * torch.clamp(diagonal, min=DAMPING * float(diagonal.max()))
    factor, info = torch.linalg.cholesky_ex(own)
    if int(info) or not math.isfinite(loss):
        return {}
    schur = rest - mixed.T @ torch.cholesky_solve(mixed, factor)
    is_lost = (schur.diagonal() <= MADE_UP_FOR * rest.diagonal()).tolist()
    inverse, info = torch.linalg.inv_ex(schur)
    spread = inverse.diagonal().cpu().numpy() if not int(info) else np.full(len(unknowns), np.inf)
    with np.errstate(over="ignore", invalid="ignore"):
        changed = problem.parameter_values(unknowns + np.sqrt(2.0 * loss * np.where(spread > 0.0, spread, np.inf)))
    return {
        name: math.inf if lost else abs(changed[name] - value)
        for (name, value), lost in zip(values.items(), is_lost, strict=True)
    }
