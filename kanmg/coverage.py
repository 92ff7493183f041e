"""Where a regression's samples leave open what the fit is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from kanmg.problems.regression import Regression
from kanmg.smoothers.damped_equations import as_tensor

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array
    from kanmg.hierarchy import Level
    from kanmg.problems.base import Problem

__all__ = ["expected_loss"]

# Points of the box that holds the samples.
NUM_POINTS = 512

# What makes matrices definite where samples see nothing, relative to their largest entry and to each of the diagonal.
RIDGE, DAMPING = 1e-14, 1e-10


def expected_loss(problem: Problem, level: Level, theta: Array, loss: float) -> float:
    """Estimate the loss in the box that holds a regression's samples, as far as errors at the samples explain it.

    Parameters
    ----------
    problem : Problem
    level : Level
    theta : ndarray, shape (num_coefficients,)
        A minimum of the loss.
    loss : float

    Returns
    -------
    float
        NaN where there is no estimate: of other problems than regressions, or if numbers overflow.

    Notes
    -----
    The loss times the mean leverage of random points: the variance of what is fitted there, in units of that of errors
    at the samples. At the samples its mean is the number of coefficients over that of samples; it is huge where they
    leave the fit open, at corners of the box for instance. What no coefficients can fit is not seen.
    """
    if not isinstance(problem, Regression):
        return math.nan
    inputs = as_tensor(problem.training_inputs()).cpu().numpy()
    low, high = inputs.min(axis=0), inputs.max(axis=0)
    points = np.random.default_rng(0).uniform(low, high, (NUM_POINTS, len(low))).astype(problem.dtype)
    matrix = as_tensor(problem.normal_equations(level.evaluator, theta)[2]).clone()
    other = as_tensor(problem.probing(points).normal_equations(level.evaluator, theta)[2])
    diagonal = matrix.diagonal()
    diagonal += DAMPING * diagonal + RIDGE * float(diagonal.max())
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        return math.nan
    # Both matrices are means, and have the same units.
    leverage = float(torch.cholesky_solve(other, factor).trace()) / problem.num_residuals
    return loss * leverage
