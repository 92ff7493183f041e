"""Model problems with known answers.

Each function returns a `ModelProblem`: the problem, its exact solution, unseen points, and the hierarchy that suits it.

Examples
--------
>>> from kanmg import gallery
>>> model = gallery.franke()
>>> model.problem.num_samples, model.domain
(2000, ((0.0, 1.0), (0.0, 1.0)))
"""

from __future__ import annotations

from kanmg.gallery.allen_cahn import allen_cahn
from kanmg.gallery.equations import burgers, helmholtz, kan2
from kanmg.gallery.functions import chirp, complex_exponential, franke, friedman, kink, least_squares, runge
from kanmg.gallery.inverse import inverse_burgers
from kanmg.gallery.kovasznay_flow import kovasznay
from kanmg.gallery.model_problem import ModelProblem, collocation_problem, regression_problem
from kanmg.gallery.poisson import ml2, poisson5d
from kanmg.gallery.published import kan1, ml1

__all__ = [
    "ModelProblem",
    "allen_cahn",
    "burgers",
    "chirp",
    "collocation_problem",
    "complex_exponential",
    "franke",
    "friedman",
    "helmholtz",
    "inverse_burgers",
    "kan1",
    "kan2",
    "kink",
    "kovasznay",
    "least_squares",
    "ml1",
    "ml2",
    "poisson5d",
    "regression_problem",
    "runge",
]
