"""Spline spaces: knots, B-splines, and the transfers between nested knots."""

from __future__ import annotations

from kanmg.splines.bspline import (
    OUTSIDE_POLICIES,
    Outside,
    basis_matrix,
    evaluate_spline,
    local_basis,
    local_blossom,
)
from kanmg.splines.knots import (
    MAX_DEGREE,
    Knots,
    check_nested,
    clamped_knots,
    knots_from_breakpoints,
    missing_breakpoints,
    refine,
    uniform_knots,
)
from kanmg.splines.power_relu import (
    from_power_relu_weights,
    power_relu_basis,
    power_relu_exponents,
    power_relu_matrix,
    power_relu_scales,
    to_power_relu_weights,
)
from kanmg.splines.transfer import gram_matrix, injection_matrix, prolongation_matrix

__all__ = [
    "MAX_DEGREE",
    "OUTSIDE_POLICIES",
    "Knots",
    "Outside",
    "basis_matrix",
    "check_nested",
    "clamped_knots",
    "evaluate_spline",
    "from_power_relu_weights",
    "gram_matrix",
    "injection_matrix",
    "knots_from_breakpoints",
    "local_basis",
    "local_blossom",
    "missing_breakpoints",
    "power_relu_basis",
    "power_relu_exponents",
    "power_relu_matrix",
    "power_relu_scales",
    "prolongation_matrix",
    "refine",
    "to_power_relu_weights",
    "uniform_knots",
]
