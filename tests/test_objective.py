from __future__ import annotations

import numpy as np
import pytest
import torch

import kanmg
from kanmg.derived_objectives import GalerkinObjective, ShiftedObjective
from kanmg.errors import DtypeError, KanmgTypeError, KanmgValueError, ShapeError
from kanmg.objective import Objective
from kanmg.problems.regression import Regression


@pytest.fixture(scope="module")
def hierarchy():
    return kanmg.uniform_hierarchy((2, 3, 1), degree=3, num_intervals=3, num_levels=2, evaluator="reference")


@pytest.fixture(scope="module")
def problem():
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (60, 2))
    return Regression(x, np.sin(3.0 * x[:, 0]) * x[:, 1], batch_size=16)


@pytest.fixture
def fine(problem, hierarchy):
    return Objective(problem, hierarchy[1])


@pytest.fixture
def coarse(problem, hierarchy):
    return Objective(problem, hierarchy[0])


def vector(objective, seed=0):
    return np.random.default_rng(seed).standard_normal(objective.level.network.num_coefficients)


def assert_gradient_is_right(function, theta, h=1e-6):
    loss, gradient = function.value_and_gradient(theta)
    assert function.value(theta) == pytest.approx(loss, rel=1e-13)
    for direction in np.random.default_rng(1).standard_normal((6, len(theta))):
        slope = (function.value(theta + h * direction) - function.value(theta - h * direction)) / (2.0 * h)
        assert gradient @ direction == pytest.approx(slope, rel=1e-7, abs=1e-7)


# ----------------------------------------------------------------------------------------------------------- objective


@pytest.mark.parametrize("batch", [None, 0, 7])
def test_gradient_agrees_with_finite_differences(coarse, batch):
    coarse.batch = batch
    assert_gradient_is_right(coarse, vector(coarse))


def test_values_are_those_of_the_problem(problem, hierarchy, fine):
    theta, evaluator = vector(fine), hierarchy[1].evaluator
    assert fine.value(theta) == problem.loss(evaluator, theta)
    fine.batch = 5
    assert fine.value(theta) == problem.loss(evaluator, theta, 5)
    loss, gradient = fine.value_and_gradient(theta)
    expected = problem.loss_and_gradient(evaluator, theta, 5)
    assert loss == expected[0]
    assert np.array_equal(gradient, expected[1])


@pytest.mark.parametrize(("num_intervals", "uses_strips"), [(1, False), (16, True)])
def test_normal_equations_count_what_is_multiplied(num_intervals, uses_strips):
    options = {"degree": 3, "num_intervals": num_intervals, "num_levels": 1}
    level = kanmg.uniform_hierarchy((2, 3, 1), evaluator="cpu", **options)[0]
    plain = kanmg.uniform_hierarchy((2, 3, 1), evaluator="reference", **options)[0]
    n, edges = level.network.num_coefficients, 9
    problem = Regression(np.zeros((7, 2)), np.zeros(7))
    dense, strips = n * (n + 1) / 2, edges * (edges + 1) / 2 * 4**2
    assert plain.evaluator.normal_cost_per_residual == dense
    assert level.evaluator.normal_cost_per_residual == (strips if uses_strips else dense)
    expected = 7 * (level.evaluator.cost_per_sample + level.evaluator.normal_cost_per_residual)
    assert problem.normal_equations_work(level.evaluator) == expected


def test_parameters_have_dense_columns_of_the_jacobian():
    rate = kanmg.Parameter("rate", 1.0)
    term = kanmg.Term("equation", lambda _, u: u.d("x") + rate * u.value, np.zeros((9, 1)))
    problem = kanmg.Collocation(coordinates=("x",), fields=("u",), terms=[term])
    level = kanmg.uniform_hierarchy((1, 2, 1), degree=3, num_intervals=3, num_levels=1, evaluator="reference")[0]
    n = level.network.num_coefficients + 1
    assert problem.normal_equations_work(level.evaluator) == problem.work(level.evaluator) + 9 * n * (n + 1) / 2


def test_tensors_in_tensors_out(coarse):
    theta = vector(coarse)
    loss, gradient = coarse.value_and_gradient(theta)
    for tensor in (torch.from_numpy(theta), torch.tensor(theta, requires_grad=True)):
        tensor_loss, tensor_gradient = coarse.value_and_gradient(tensor)
        assert type(tensor_loss) is type(loss) is float
        assert tensor_loss == loss
        assert isinstance(tensor_gradient, torch.Tensor)
        assert np.array_equal(tensor_gradient.numpy(), gradient)
        assert coarse.value(tensor) == pytest.approx(loss, rel=1e-14)


def test_gradient_is_an_array_of_its_own(coarse):
    theta = vector(coarse)
    _, first = coarse.value_and_gradient(theta)
    kept = first.copy()
    coarse.value_and_gradient(2.0 * theta)
    assert np.array_equal(first, kept)
    assert isinstance(first, np.ndarray)
    assert first.shape == theta.shape


def test_evaluations_and_work_are_counted(hierarchy, coarse):
    evaluator, theta = hierarchy[0].evaluator, vector(coarse)
    assert (coarse.evaluations, coarse.work, coarse.steps_per_epoch) == (0, 0.0, 4)
    coarse.value_and_gradient(theta)
    coarse.value(theta)
    assert coarse.evaluations == 2
    assert coarse.work == 60 * (evaluator.cost_per_sample + evaluator.value_cost_per_sample)
    coarse.batch = 3
    before = coarse.work
    coarse.value_and_gradient(theta)
    coarse.value(theta)
    assert coarse.work == before + 12 * (evaluator.cost_per_sample + evaluator.value_cost_per_sample)


def test_a_problem_that_does_not_fit_is_refused(hierarchy):
    x = np.zeros((5, 3))
    with pytest.raises(ShapeError, match="`x` has 3 columns but `hierarchy` was built for 2 inputs"):
        Objective(Regression(x, x[:, 0]), hierarchy[0])


@pytest.mark.parametrize(
    ("convert", "error", "message"),
    [
        (
            lambda theta: theta[:-1],
            ShapeError,
            (
                r"`theta` has shape \(\d+,\) but level 0 has \d+ coefficients\. Pass one flat vector of shape "
                r"\(\d+,\); `network\.flatten` makes one of the layers' arrays\."
            ),
        ),
        (lambda theta: theta[np.newaxis], ShapeError, r"`theta` has shape \(1, \d+\) but level 0 has \d+ coefficients"),
        (
            lambda theta: theta.astype("float32"),
            DtypeError,
            ("`theta` is float32 but `hierarchy` was built with `dtype='float64'`"),
        ),
        (
            lambda theta: torch.from_numpy(theta).float(),
            DtypeError,
            "`theta` is float32 but `hierarchy` was built with",
        ),
        (lambda theta: theta.astype(int), DtypeError, "`theta` has dtype int64; float64 or float32 is required"),
        (lambda theta: theta.astype(str), KanmgTypeError, "`theta` has dtype <U"),
    ],
)
@pytest.mark.parametrize("method", ["value", "value_and_gradient"])
def test_bad_coefficients(coarse, convert, error, message, method):
    with pytest.raises(error, match=message):
        getattr(coarse, method)(convert(vector(coarse)))
    assert coarse.evaluations == 0


def test_lists_and_strided_vectors_are_taken(coarse):
    theta = vector(coarse)
    loss = coarse.value(theta)
    assert coarse.value(theta.tolist()) == loss
    assert coarse.value(np.repeat(theta, 2)[::2]) == loss


# -------------------------------------------------------------------------------------------------- derived objectives


@pytest.fixture
def shifted(hierarchy, coarse, fine):
    """The tau-corrected coarse objective below a random fine iterate."""
    x, transfer = vector(fine), hierarchy.transfers[0]
    origin = transfer.inject(x)
    restricted = transfer.restrict(fine.value_and_gradient(x)[1])
    tau = coarse.value_and_gradient(origin)[1] - restricted
    return ShiftedObjective(coarse, tau, origin), origin, restricted


@pytest.fixture
def galerkin(hierarchy, fine):
    transfer = hierarchy.transfers[0]
    return GalerkinObjective(fine, vector(fine), transfer.prolong, transfer.restrict)


def test_shifted_gradient_agrees_with_finite_differences(shifted):
    objective, origin, _ = shifted
    assert_gradient_is_right(objective, origin + 0.1)


def test_shifted_objective_at_the_origin_has_the_coarse_value_and_the_restricted_fine_gradient(shifted, coarse):
    objective, origin, restricted = shifted
    loss, gradient = objective.value_and_gradient(origin)
    assert loss == coarse.value_and_gradient(origin)[0]
    assert gradient == pytest.approx(restricted, rel=1e-12, abs=1e-14)


def test_galerkin_gradient_agrees_with_finite_differences(galerkin, coarse):
    assert_gradient_is_right(galerkin, 0.1 * vector(coarse))


def test_galerkin_objective_is_the_fine_loss_of_the_corrected_iterate(hierarchy, galerkin, coarse, fine):
    correction, transfer = 0.1 * vector(coarse), hierarchy.transfers[0]
    corrected = vector(fine) + transfer.prolong(correction)
    assert galerkin.value(correction) == fine.value(corrected)
    loss, gradient = galerkin.value_and_gradient(correction)
    fine_loss, fine_gradient = fine.value_and_gradient(corrected)
    assert loss == fine_loss
    assert np.array_equal(gradient, transfer.restrict(fine_gradient))


def test_galerkin_objective_of_a_prolonged_iterate_is_the_coarse_objective(hierarchy, coarse, fine):
    transfer, z = hierarchy.transfers[0], vector(coarse)
    objective = GalerkinObjective(fine, transfer.prolong(z), transfer.prolong, transfer.restrict)
    correction = 0.1 * vector(coarse, seed=1)
    loss, gradient = objective.value_and_gradient(correction)
    expected_loss, expected_gradient = coarse.value_and_gradient(z + correction)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert gradient == pytest.approx(expected_gradient, rel=1e-9, abs=1e-12)


def test_derived_objectives_count_and_batch_where_they_evaluate(shifted, galerkin, coarse, fine):
    for derived, inner in ((shifted[0], coarse), (galerkin, fine)):
        derived.batch = 2
        assert inner.batch == 2
        before = inner.evaluations, inner.work
        derived.value_and_gradient(np.zeros(len(vector(coarse))))
        assert derived.evaluations == inner.evaluations == before[0] + 1
        assert derived.work == inner.work > before[1]
        assert derived.batch == 2
        assert derived.steps_per_epoch == inner.steps_per_epoch == 4


def test_derived_objectives_nest(galerkin, coarse):
    tau, origin = 0.1 * vector(coarse, 3), 0.1 * vector(coarse, 4)
    assert_gradient_is_right(ShiftedObjective(galerkin, tau, origin), 0.1 * vector(coarse, 5))


# ---------------------------------------------------------------------------------------------------- sums of squares


def assert_normal_equations_are_right(function, theta, shift=0.0, h=1e-6):
    loss, gradient, matrix = function.normal_equations(theta)
    expected_loss, expected_gradient = function.value_and_gradient(theta)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert gradient == pytest.approx(expected_gradient, rel=1e-9, abs=1e-12)
    residuals = function.residuals(theta)
    assert gradient + shift == pytest.approx(2.0 * function.pull_back(theta, residuals), rel=1e-9, abs=1e-12)
    for direction in np.random.default_rng(1).standard_normal((4, len(theta))):
        along = (function.residuals(theta + h * direction) - function.residuals(theta - h * direction)) / (2.0 * h)
        assert matrix @ direction == pytest.approx(2.0 * function.pull_back(theta, along), rel=1e-5, abs=1e-6)


def test_normal_equations(coarse):
    assert_normal_equations_are_right(coarse, vector(coarse))


def test_shifted_normal_equations(shifted):
    objective, origin, _ = shifted
    assert_normal_equations_are_right(objective, origin + 0.1, objective.tau)


def test_galerkin_normal_equations(galerkin, coarse):
    assert_normal_equations_are_right(galerkin, 0.1 * vector(coarse))


def test_galerkin_matrix_is_restricted_row_by_row_unless_told_otherwise(hierarchy, galerkin, coarse, fine):
    correction, transfer = 0.1 * vector(coarse), hierarchy.transfers[0]
    other = GalerkinObjective(fine, vector(fine), transfer.prolong, transfer.restrict, transfer.restrict_matrix)
    matrix = other.normal_equations(correction)[2]
    assert matrix == pytest.approx(galerkin.normal_equations(correction)[2], rel=1e-10, abs=1e-13)


def test_sums_of_squares_are_counted(hierarchy, coarse):
    evaluator, theta = hierarchy[0].evaluator, vector(coarse)
    residuals = coarse.residuals(theta)
    assert coarse.work == 60 * evaluator.value_cost_per_sample
    coarse.pull_back(theta, residuals)
    assert coarse.work == 60 * (evaluator.value_cost_per_sample + evaluator.cost_per_sample)
    before, n = coarse.work, len(theta)
    coarse.normal_equations(theta)
    assert coarse.work - before == 60 * (evaluator.cost_per_sample + n * (n + 1) / 2)
    assert coarse.evaluations == 3


def test_sums_of_squares_of_tensors_are_tensors(coarse):
    theta = vector(coarse)
    tensor = torch.from_numpy(theta)
    residuals = coarse.residuals(tensor)
    pulled_back = coarse.pull_back(tensor, residuals)
    _, gradient, matrix = coarse.normal_equations(tensor)
    assert all(isinstance(result, torch.Tensor) for result in (residuals, pulled_back, gradient, matrix))
    assert np.array_equal(matrix.numpy(), coarse.normal_equations(theta)[2])


def test_sums_of_squares_of_mini_batches_are_refused(coarse):
    theta = vector(coarse)
    coarse.batch = 1
    for call in (coarse.residuals, coarse.normal_equations, lambda theta: coarse.pull_back(theta, np.zeros(60))):
        with pytest.raises(KanmgValueError, match=r"those of all samples, but a mini-batch was asked for\. Leave out"):
            call(theta)
