"""Networks with free knots: every derivative against torch's own, and the contract of evaluators."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from cuda_standin import COMPILER, NO_COMPILER, DenseStandin, Standin

import kanmg
from kanmg.evaluators.base import Evaluator, Jet
from kanmg.evaluators.cpu import CPUEvaluator
from kanmg.evaluators.dense import DenseCPUEvaluator
from kanmg.evaluators.free_knots import FreeKnotEvaluator
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.testing.cases import Case
from kanmg.testing.contract import EvaluatorContract

BUILDERS = (CPUEvaluator, DenseCPUEvaluator, ReferenceEvaluator)


def network_of_degree(degree, outside="extend"):
    """Free knots of several kinds, in groups and alone, with an affine layer and a layer of fixed knots in between."""
    first = [kanmg.uniform_knots(6, degree=degree), kanmg.clamped_knots(6, degree=degree)]
    last = kanmg.knots_from_breakpoints([-1, -0.5, 0.2, 0.7, 1], degree=degree)
    return kanmg.Network(
        [
            kanmg.Spline(2, 3, knots=first, outside=outside, free_knots=3),
            kanmg.Affine(3, 3),
            kanmg.Spline(3, 2, knots=kanmg.uniform_knots(4, degree=degree), outside=outside),
            kanmg.Spline(2, 2, knots=last, outside=outside, free_knots=True),
        ]
    )


def case_with_logits(network, dtype="float64", reach=0.1):
    case = Case.drawn(network, dtype, num_samples=50, reach=reach)
    case.theta[network.offsets[-1] :] = np.random.default_rng(3).standard_normal(network.num_logits)
    return case


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("degree", [1, 2, 3, 5])
@pytest.mark.parametrize("outside", ["extend", "linear", "clamp"])
def test_all_methods_agree_with_automatic_differentiation(build, degree, outside):
    network = network_of_degree(degree, outside)
    case = case_with_logits(network).curved()
    expected = case.results(ReferenceEvaluator(network, "float64"))
    evaluator = FreeKnotEvaluator(network, "float64", build)
    for result, number in zip(case.results(evaluator), expected, strict=True):
        own, wanted = np.asarray(result), np.asarray(number)
        assert own.shape == wanted.shape
        assert np.abs(own - wanted).max() <= 1e-12 * np.abs(wanted).max()


@pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)
@pytest.mark.parametrize("kind", [Standin, DenseStandin])
@pytest.mark.parametrize("as_tensors", [False, True])
def test_cuda_kernels_agree_with_automatic_differentiation(kind, as_tensors):
    network = network_of_degree(3)
    case = case_with_logits(network).curved()
    expected = case.results(ReferenceEvaluator(network, "float64"))
    evaluator = FreeKnotEvaluator(network, "float64", partial(kind, device="cpu"))
    own = case.arranged("tensor") if as_tensors else case
    for result, number in zip(own.results(evaluator), expected, strict=True):
        found = result.detach().numpy() if isinstance(result, torch.Tensor) else np.asarray(result)
        assert np.abs(found - number).max() <= 1e-12 * np.abs(np.asarray(number)).max()


@pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)
@pytest.mark.parametrize("kind", [Standin, DenseStandin])
def test_cuda_evaluators_move_their_knots_and_are_not_built_anew(kind):
    """An evaluation at other knots would otherwise take much longer than the kernels."""
    network = network_of_degree(3)
    case, built = case_with_logits(network).curved(), []

    def build(doubled, dtype):
        built.append(kind(doubled, dtype, "cpu"))
        return built[-1]

    evaluator = FreeKnotEvaluator(network, "float64", build)
    random = np.random.default_rng(5)
    for _ in range(2):
        case.theta[-network.num_logits :] = random.standard_normal(network.num_logits)
        third = evaluator.jet(case.theta, case.x, case.directions, 3).derivatives[2]
        moved = [*case.results(evaluator), third]
        fresh = FreeKnotEvaluator(network, "float64", partial(kind, device="cpu"))
        third = fresh.jet(case.theta, case.x, case.directions, 3).derivatives[2]
        for own, expected in zip(moved, [*case.results(fresh), third], strict=True):
            np.testing.assert_array_equal(own, expected)
    assert built == [evaluator.inner]


def test_an_interrupt_while_knots_move_is_survived(monkeypatch):
    network = network_of_degree(3)
    case = case_with_logits(network)
    evaluator, move = FreeKnotEvaluator(network, "float64", CPUEvaluator), CPUEvaluator.move_knots
    expected = evaluator.value(case.theta, case.x)

    def interrupted(inner, moved):
        move(inner, moved)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CPUEvaluator, "move_knots", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluator.value(case.theta + 0.1 * np.arange(len(case.theta)), case.x)
    np.testing.assert_array_equal(evaluator.value(case.theta, case.x), expected)


@pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)
@pytest.mark.parametrize("variant", ["galerkin", "tau"])
def test_runs_whose_vectors_are_tensors_find_the_same_solution(variant):
    x = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    problem = kanmg.Regression(x, np.abs(x[:, 0] - 0.3) + x[:, 1])
    network = kanmg.uniform_hierarchy((2, 3, 1), num_intervals=4, num_levels=1, free_knots=True)[0].network
    method = kanmg.FullMultigrid(
        smoother=kanmg.LevenbergMarquardt(), pre_steps=2, post_steps=1, coarse_steps=3, variant=variant
    )
    losses = []
    for build in ("cpu", partial(Standin, device="cpu")):
        hierarchy = kanmg.Hierarchy.from_network(network, 3, evaluator=build)
        assert (hierarchy.home is None) == (build == "cpu")
        losses.append(kanmg.solve(problem, hierarchy, method=method, max_cycles=1).loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("degree", [2, 3, 5])
def test_derivatives_are_differences(degree):
    """Values, first and second derivatives by logits and coefficients against central differences."""
    network = network_of_degree(degree)
    case = case_with_logits(network)
    evaluator = FreeKnotEvaluator(network, "float64", CPUEvaluator)
    order, step = (1, 1e-5) if degree == 2 else (2, 1e-5)
    cotangents = Jet(case.cotangents.value, case.cotangents.derivatives[:order])

    def weighted(theta):
        jet = evaluator.jet(theta, case.x, case.directions, order)
        sums = [(cotangents.value * jet.value).sum()]
        sums += [(a * b).sum() for a, b in zip(cotangents.derivatives, jet.derivatives, strict=True)]
        return sum(sums)

    gradient = evaluator.jet_adjoint(case.theta, case.x, case.directions, cotangents)
    differences = [
        (weighted(case.theta + step * unit) - weighted(case.theta - step * unit)) / (2 * step)
        for unit in np.eye(network.num_coefficients)
    ]
    assert np.abs(gradient - differences).max() < 1e-5 * np.abs(gradient).max()


def test_a_jet_gauss_newton_matrix_is_the_product_of_rows():
    network = network_of_degree(5)
    case = case_with_logits(network)
    evaluator = FreeKnotEvaluator(network, "float64", CPUEvaluator)
    rows = evaluator.jet_jacobian(case.theta, case.x, case.directions, case.cotangents)
    residuals = case.y[:, :1]
    matrix, vector = evaluator.jet_gauss_newton(case.theta, case.x, case.directions, [case.cotangents], residuals)
    np.testing.assert_allclose(matrix, rows.T @ rows, rtol=0, atol=1e-12 * np.abs(matrix).max())
    np.testing.assert_allclose(vector, rows.T @ residuals[:, 0], rtol=0, atol=1e-12 * np.abs(vector).max())
    sparse = evaluator.jet_jacobian_rows(case.theta, case.x, case.directions, [case.cotangents])
    np.testing.assert_allclose(sparse.toarray(), rows, rtol=0, atol=1e-12 * np.abs(rows).max())
    assert np.diff(sparse.indptr).max() <= evaluator.entries_per_residual


def test_the_evaluator_follows_the_knots_back_and_forth():
    network = network_of_degree(3)
    case = case_with_logits(network)
    evaluator, other = (FreeKnotEvaluator(network, "float64", CPUEvaluator) for _ in range(2))
    moved = case.theta.copy()
    moved[-2] += 0.5
    first = case.results(evaluator)
    away = replace(case, theta=moved).results(evaluator)
    again = case.results(evaluator)
    for before, after in zip(first, again, strict=True):
        np.testing.assert_array_equal(before, after)
    for before, after in zip(away, replace(case, theta=moved).results(other), strict=True):
        np.testing.assert_array_equal(before, after)


def test_coefficients_that_are_not_finite_give_values_that_are_not():
    network = network_of_degree(3)
    case = case_with_logits(network)
    case.theta[-1] = np.nan
    assert np.isnan(FreeKnotEvaluator(network, "float64", CPUEvaluator).value(case.theta, case.x)).all()


def test_evaluators_for_fixed_knots_refuse_free_ones():
    with pytest.raises(kanmg.KanmgValueError, match=r"FreeKnotEvaluator\(network, dtype, CPUEvaluator\)"):
        CPUEvaluator(network_of_degree(3), np.dtype("float64"))


class _WithoutLogits(Evaluator):
    """A network with fixed knots as one with free knots at zero logits: what the contract can be asked of."""

    name = "free knots at rest"

    def __init__(self, network, dtype):
        super().__init__(network, np.dtype(dtype))
        self._size = network.num_coefficients
        free = kanmg.Network([_freed(layer) for layer in network.layers], domain=network.domain)
        self._inner = FreeKnotEvaluator(free, dtype, CPUEvaluator) if free.num_logits else CPUEvaluator(network, dtype)

    def _own(self, theta, name="theta"):
        own = self._checked(theta, name, (self._size,))
        return np.append(own, np.zeros(self._inner.network.num_coefficients - self._size, self.dtype))

    def value(self, theta, x):
        return self._inner.value(self._own(theta), x)

    def jet(self, theta, x, directions, order, *, curvatures=None):
        return self._inner.jet(self._own(theta), x, directions, order, curvatures=curvatures)

    def adjoint(self, theta, x, cotangents):
        gradient, x_gradient = self._inner.adjoint(self._own(theta), x, cotangents)
        return gradient[: self._size], x_gradient

    def jet_adjoint(self, theta, x, directions, cotangents, *, curvatures=None):
        own = self._inner.jet_adjoint(self._own(theta), x, directions, cotangents, curvatures=curvatures)
        return own[: self._size]

    def jet_jacobian(self, theta, x, directions, cotangents, *, curvatures=None):
        own = self._inner.jet_jacobian(self._own(theta), x, directions, cotangents, curvatures=curvatures)
        return np.ascontiguousarray(own[:, : self._size])

    def squared_error(self, theta, x, y, weights=None):
        loss, gradient = self._inner.squared_error(self._own(theta), x, y, weights)
        return loss, gradient[: self._size]

    def squared_error_value(self, theta, x, y, weights=None):
        return self._inner.squared_error_value(self._own(theta), x, y, weights)

    def jacobian(self, theta, x):
        return np.ascontiguousarray(self._inner.jacobian(self._own(theta), x)[..., : self._size])

    def jvp(self, theta, x, direction):
        return self._inner.jvp(self._own(theta), x, self._own(direction, "direction"))

    def gauss_newton(self, theta, x, residuals, weights=None):
        matrix, vector = self._inner.gauss_newton(self._own(theta), x, residuals, weights)
        return np.ascontiguousarray(matrix[: self._size, : self._size]), vector[: self._size]

    @property
    def cost_per_sample(self):
        return self._inner.cost_per_sample

    @property
    def value_cost_per_sample(self):
        return self._inner.value_cost_per_sample


def _freed(layer):
    if not isinstance(layer, kanmg.Spline) or layer.num_intervals == 1 or layer.outside == "zero":
        return layer
    return kanmg.Spline(
        layer.num_inputs, layer.num_outputs, knots=layer.knots, outside=layer.outside, free_knots=layer.num_intervals
    )


class TestFreeKnotContract(EvaluatorContract):
    def make(self, network, dtype):
        return _WithoutLogits(network, dtype)
