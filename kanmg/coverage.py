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
    from kanmg.network import Network
    from kanmg.problems.base import Problem

__all__ = ["expected_loss", "say_what_is_empty"]

# Samples that fill less than this part of an input's interval leave most of its cells empty.
FILLED = 0.5

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


def say_what_is_empty(problem: Problem, network: Network) -> str:
    """Say in which inputs a regression's samples fill a small part of the domain, and which domain holds them.

    Parameters
    ----------
    problem : Problem
    network : Network

    Returns
    -------
    str
        Empty if they fill most of it, or the problem is another one.
    """
    if not isinstance(problem, Regression) or network.domain is None:
        return ""
    inputs = as_tensor(problem.training_inputs()).cpu().numpy()
    boxes = list(zip(inputs.min(axis=0).tolist(), inputs.max(axis=0).tolist(), network.domain, strict=True))
    empty = [
        f"{low:.3g} to {high:.3g} of input {number}, whose interval is {a:g} to {b:g}"
        for number, (low, high, (a, b)) in enumerate(boxes)
        if high - low < FILLED * (b - a)
    ]
    if not empty:
        return ""
    fitting = ", ".join("({:g}, {:g})".format(*_around(low, high, *interval)) for low, high, interval in boxes)
    return (
        f"The samples fill only {' and '.join(empty)}: most cells see none of them. Build the hierarchy with "
        f"`domain=({fitting}{',' if len(boxes) == 1 else ''})`."
    )


def _around(low: float, high: float, a: float, b: float) -> tuple[float, float]:
    """Return the ends of an interval of few digits that holds another one and goes no further than a third."""
    if high - low >= FILLED * (b - a):
        return a, b
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-6 * (b - a)))) / 10.0
    ends = math.floor(low / step) * step, math.ceil(high / step) * step
    return max(a, round(ends[0], 12)), min(b, round(ends[1], 12))
