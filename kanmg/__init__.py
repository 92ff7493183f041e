"""Multilevel training of Kolmogorov-Arnold networks.

Build a hierarchy of properly nested spline spaces, state a problem, and solve it:

>>> import numpy as np
>>> import kanmg
>>> x = np.linspace(-1, 1, 200).reshape(-1, 1)
>>> problem = kanmg.Regression(x, np.sin(4 * x))
>>> hierarchy = kanmg.uniform_hierarchy(widths=(1, 1), degree=3, num_intervals=4, num_levels=4)
>>> solution = kanmg.solve(problem, hierarchy, progress=False)
>>> bool(np.abs(solution(x) - np.sin(4 * x)).max() < 1e-4)
True
"""

from importlib import import_module
from types import ModuleType

from kanmg import errors, sampling
from kanmg.continuation import Continuation
from kanmg.convergence import ConvergenceStudy, convergence_study
from kanmg.cycles import FullMultigrid, NestedIteration, VCycle
from kanmg.defaults import default_method
from kanmg.derived_objectives import GalerkinObjective, ShiftedObjective
from kanmg.driver import solve
from kanmg.errors import (
    CheckpointError,
    ConvergenceError,
    DeviceError,
    DomainError,
    DtypeError,
    KanmgError,
    KanmgTypeError,
    KanmgValueError,
    KanmgWarning,
    NestingError,
    NonFiniteError,
    ShapeError,
)
from kanmg.hierarchy import Hierarchy, Level, Transfer, uniform_hierarchy
from kanmg.initialisation import initial_coefficients
from kanmg.knot_choice import choose_knots
from kanmg.network import Affine, Network, Spline
from kanmg.objective import Objective
from kanmg.piecewise import PiecewiseSolution
from kanmg.power_relu_network import PowerReLUNetwork, from_power_relu, to_power_relu
from kanmg.problems.ansatz import Transform
from kanmg.problems.base import Problem
from kanmg.problems.collocation import Collocation
from kanmg.problems.regression import Regression
from kanmg.problems.scalars import Constant, Parameter
from kanmg.problems.terms import Term
from kanmg.refit import refit
from kanmg.smoothers.adam import Adam
from kanmg.smoothers.base import Smoother, StepRecord
from kanmg.smoothers.bfgs import BFGS
from kanmg.smoothers.geometry import ChangeOfBasis, Metric
from kanmg.smoothers.lbfgs import LBFGS
from kanmg.smoothers.levenberg_marquardt import LevenbergMarquardt
from kanmg.smoothers.schedules import OneCycle
from kanmg.smoothers.torch_optimizer import TorchOptimizer
from kanmg.solution import History, Record, Solution, Status, load
from kanmg.splines import Knots, clamped_knots, knots_from_breakpoints, power_relu_matrix, refine, uniform_knots
from kanmg.starts import Starts
from kanmg.time_windows import march
from kanmg.weighting import Attention, Balance

__version__ = "0.1.0"

__all__ = [
    "BFGS",
    "LBFGS",
    "Adam",
    "Affine",
    "Attention",
    "Balance",
    "ChangeOfBasis",
    "CheckpointError",
    "Collocation",
    "Constant",
    "Continuation",
    "ConvergenceError",
    "ConvergenceStudy",
    "DeviceError",
    "DomainError",
    "DtypeError",
    "FullMultigrid",
    "GalerkinObjective",
    "Hierarchy",
    "History",
    "KanmgError",
    "KanmgTypeError",
    "KanmgValueError",
    "KanmgWarning",
    "Knots",
    "Level",
    "LevenbergMarquardt",
    "Metric",
    "NestedIteration",
    "NestingError",
    "Network",
    "NonFiniteError",
    "Objective",
    "OneCycle",
    "Parameter",
    "PiecewiseSolution",
    "PowerReLUNetwork",
    "Problem",
    "Record",
    "Regression",
    "ShapeError",
    "ShiftedObjective",
    "Smoother",
    "Solution",
    "Spline",
    "Starts",
    "Status",
    "StepRecord",
    "Term",
    "TorchOptimizer",
    "Transfer",
    "Transform",
    "VCycle",
    "__version__",
    "choose_knots",
    "clamped_knots",
    "convergence_study",
    "default_method",
    "errors",
    "from_power_relu",
    "initial_coefficients",
    "knots_from_breakpoints",
    "load",
    "march",
    "power_relu_matrix",
    "refine",
    "refit",
    "sampling",
    "solve",
    "to_power_relu",
    "uniform_hierarchy",
    "uniform_knots",
]

_ON_DEMAND = ("diagnostics", "gallery", "nn", "plotting", "testing")


def __getattr__(name: str) -> ModuleType:
    """Import the rooms that training does not need when they are first asked for."""
    if name in _ON_DEMAND:
        return import_module(f"kanmg.{name}")
    raise AttributeError(f"module 'kanmg' has no attribute {name!r}")
