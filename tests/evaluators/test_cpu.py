"""The compiled CPU evaluators: the contract, and what is theirs alone."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import torch

import kanmg
from kanmg.errors import DomainError
from kanmg.evaluators.base import Jet
from kanmg.evaluators.cpu import CPUEvaluator
from kanmg.evaluators.dense import DenseCPUEvaluator, dense_is_faster
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.evaluators.strips import StripProduct
from kanmg.testing.cases import NETWORKS, outside_case
from kanmg.testing.contract import EvaluatorContract
from kanmg.testing.oracle import oracle_jacobian


class TestCPU(EvaluatorContract):
    def make(self, network, dtype):
        return CPUEvaluator(network, dtype)


class TestDense(EvaluatorContract):
    def make(self, network, dtype):
        return DenseCPUEvaluator(network, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("strips", [True, False])
class TestBothWaysToNormalEquations:
    """Whichever the costs speak for, both ways must compute the same."""

    @pytest.fixture(autouse=True)
    def _choose(self, monkeypatch, strips):
        monkeypatch.setattr(StripProduct, "is_faster", strips)

    @pytest.mark.parametrize("name", [name for name, net in NETWORKS.items() if net.num_coefficients < 1200])
    def test_contract(self, name, dtype):
        TestCPU().test_gauss_newton_of_jets(name, dtype)

    @pytest.mark.parametrize("name", ["cubic", "knots per input", "mixed degree", "affine in between", "many outputs"])
    def test_contract_of_values(self, name, dtype):
        TestCPU().test_jacobians_and_their_products(name, dtype)

    @pytest.mark.parametrize("outside", ["extend", "linear", "clamp", "zero"])
    def test_points_outside(self, outside, dtype):
        case = outside_case("non-uniform", outside, dtype)
        evaluator = CPUEvaluator(case.network, dtype)
        matrix, vector = evaluator.gauss_newton(case.theta, case.x, case.y, case.weights)
        jacobian = oracle_jacobian(case.network, case.theta, case.x)
        weighted = case.weights[:, None, None] * jacobian
        tolerance = {"float64": 1e-12, "float32": 1e-4}[dtype]
        for actual, expected in (
            (matrix, np.einsum("nqc,nqd->cd", weighted, jacobian, optimize=True)),
            (vector, np.einsum("nqc,nq->c", weighted, case.y)),
        ):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def network(widths=(2, 5, 1), num_intervals=8, degree=3, **options):
    knots = kanmg.uniform_knots(num_intervals, degree=degree)
    return kanmg.Network([kanmg.Spline(p, q, knots=knots, **options) for p, q in itertools.pairwise(widths)])


def data(num_samples, widths=(2, 5, 1), seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (num_samples, widths[0])), rng.standard_normal((num_samples, widths[-1]))


def coefficients(net, seed=1):
    return 0.4 * np.random.default_rng(seed).standard_normal(net.num_coefficients)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("make", [CPUEvaluator, DenseCPUEvaluator])
def test_equal_calls_give_equal_bits_and_threads_change_only_rounding(make):
    net = network()
    x, y = data(5000)
    evaluator = make(net, "float64")
    losses, gradients = zip(*(evaluator.squared_error(coefficients(net), x, y) for _ in range(5)), strict=True)
    assert len(set(losses)) == 1
    assert all(np.array_equal(gradients[0], gradient) for gradient in gradients)
    torch.set_num_threads(1)
    loss, gradient = evaluator.squared_error(coefficients(net), x, y)
    assert loss == pytest.approx(losses[0], rel=1e-12)
    assert np.abs(gradient - gradients[0]).max() <= 1e-12 * np.abs(gradient).max()


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("num_samples", [7, 1000, 5000, 40_000])
def test_kernels_give_the_same_bits_on_any_number_of_threads(num_samples):
    net = network()
    x, y = data(num_samples)
    evaluator = CPUEvaluator(net, "float64")
    results = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        loss, gradient = evaluator.squared_error(coefficients(net), x, y)
        results.append((loss, gradient.tobytes(), evaluator.value(coefficients(net), x).tobytes()))
    assert results.count(results[0]) == len(results)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("num_samples", [7, 1000, 9000])
def test_jets_and_normal_equations_have_the_same_bits_on_any_number_of_threads(num_samples):
    net = network((2, 6, 3))
    x, y = data(num_samples, (2, 6, 3))
    theta, lines, second = coefficients(net), np.eye(2), np.stack([y, -y])
    results = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        evaluator = CPUEvaluator(net, "float64")
        jet = evaluator.jet(theta, x, lines, 2)
        gradient = evaluator.jet_adjoint(theta, x, lines, Jet(y, (second, second)))
        matrix, vector = evaluator.jet_gauss_newton(theta, x, lines, [Jet(y, (second, second))], y[:, :1])
        arrays = (jet.value, *jet.derivatives, gradient, matrix, vector)
        results.append([array.tobytes() for array in arrays])
    assert results.count(results[0]) == len(results)


def test_remembered_jets_change_no_bit_and_are_found_by_their_numbers():
    net = network()
    x, y = data(500)
    theta, lines, second = coefficients(net), np.eye(2), np.stack([data(500)[1], -y])
    cotangents = Jet(y, (second, second))

    def fresh(x):
        evaluator = CPUEvaluator(net, "float64")
        return evaluator.jet_adjoint(theta, x, lines, cotangents), CPUEvaluator(net, "float64").jet(theta, x, lines, 2)

    evaluator = CPUEvaluator(net, "float64")
    for _ in range(2):
        jets = [evaluator.jet(theta, x, lines, 2) for _ in range(2)]
        gradient = evaluator.jet_adjoint(theta, x, lines, cotangents)
        expected_gradient, expected = fresh(x)
        assert np.array_equal(gradient, expected_gradient)
        for jet in jets:
            assert np.array_equal(jet.value, expected.value)
            assert np.array_equal(jet.derivatives, expected.derivatives)
        jets[0].derivatives[1][:] = 0.0  # what a caller got is his own
        x[0] = 0.125  # the same array with other numbers


def test_memory_for_jets_is_bounded(monkeypatch):
    net = network()
    evaluator = CPUEvaluator(net, "float64")
    x, theta = data(64)[0], coefficients(net)
    evaluator.jet(theta, x, np.eye(2), 2)
    ((_, memory),) = evaluator._jet_tasks.values()
    size = memory._calls[0].hidden.size
    monkeypatch.setattr("kanmg.evaluators.jet_memory._ENTRIES", 2 * size)
    for factor in range(2, 6):
        evaluator.jet(factor * theta, x, np.eye(2), 2)
        assert len(memory._calls) <= 2
    assert [call.arguments.theta[0] / theta[0] for call in memory._calls] == pytest.approx([5, 4])
    evaluator.jet(theta, np.concatenate([x] * 3), np.eye(2), 2)
    assert len(memory._calls) == 2


def test_read_only_and_strided_arrays_are_taken_as_they_are():
    net = network()
    x, y = data(3000)
    evaluator = CPUEvaluator(net, "float64")
    expected = evaluator.squared_error(coefficients(net), x, y)
    x.setflags(write=False)
    wide = np.zeros((3000, 7))
    wide[:, 1::4] = x
    for points, targets in ((x, y), (wide[:, 1::4], y), (np.asfortranarray(x), y[::-1][::-1])):
        loss, gradient = evaluator.squared_error(coefficients(net), points, targets)
        assert loss == pytest.approx(expected[0], rel=1e-13)
        np.testing.assert_allclose(gradient, expected[1], rtol=0, atol=1e-12 * np.abs(expected[1]).max())


def test_results_are_the_callers_own():
    net = network()
    x, y = data(200)
    evaluator = CPUEvaluator(net, "float64")
    _, first = evaluator.squared_error(coefficients(net), x, y)
    kept = first.copy()
    _, second = evaluator.squared_error(coefficients(net, seed=2), x, y)
    assert np.array_equal(first, kept)
    assert not np.array_equal(first, second)


def test_an_array_that_takes_the_place_of_a_freed_one_is_seen():
    net = network()
    evaluator, reference = CPUEvaluator(net, "float64"), ReferenceEvaluator(net, "float64")
    theta = coefficients(net)
    for seed in range(5):
        x, y = data(500, seed=seed)
        assert evaluator.squared_error_value(theta, x, y) == pytest.approx(
            reference.squared_error_value(theta, x, y), rel=1e-12
        )
        del x, y


def test_python_threads_may_share_an_evaluator():
    net = network()
    evaluator = CPUEvaluator(net, "float64")
    cases = [(coefficients(net, seed), *data(2000, seed=seed)) for seed in range(4)]
    expected = [evaluator.squared_error(*case) for case in cases]
    wrong = []

    def work(case, result):
        for _ in range(20):
            loss, gradient = evaluator.squared_error(*case)
            if loss != result[0] or not np.array_equal(gradient, result[1]):
                wrong.append(loss)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(cases, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.usefixtures("two_threads")
def test_python_threads_may_compute_at_the_same_time():
    net = network()
    x, y = data(5000)
    evaluators = [CPUEvaluator(net, "float64") for _ in range(4)]
    expected = evaluators[0].squared_error(coefficients(net), x, y)
    losses = []

    def work(evaluator):
        losses.extend(evaluator.squared_error(coefficients(net), x, y)[0] for _ in range(50))

    threads = [threading.Thread(target=work, args=(evaluator,)) for evaluator in evaluators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert losses == [expected[0]] * 200


def test_nan_goes_through_instead_of_stopping_at_the_end_of_an_interval():
    for outside in ("extend", "linear", "clamp", "zero"):
        net = network(outside=outside)
        x = np.array([[0.3, np.nan], [0.3, 0.2]])
        values = CPUEvaluator(net, "float64").value(coefficients(net), x)
        assert np.isnan(values[0, 0])
        assert np.isfinite(values[1, 0])


def test_a_value_outside_is_an_error_where_the_policy_says_so_and_the_next_call_works():
    net = network(outside="error")
    for evaluator in (CPUEvaluator(net, "float64"), DenseCPUEvaluator(net, "float64")):
        with pytest.raises(DomainError, match=r"layer 1 .*`outside='error'`"):
            evaluator.value(np.zeros(net.num_coefficients), np.array([[0.0, 1.5]]))
        assert evaluator.value(np.zeros(net.num_coefficients), np.array([[0.0, 0.5]])).tolist() == [[0.0]]


@pytest.mark.parametrize("kind", [CPUEvaluator, DenseCPUEvaluator])
def test_the_layer_of_a_value_outside_is_named(kind):
    knots = kanmg.uniform_knots(4, degree=3)
    network = kanmg.Network([kanmg.Spline(1, 2, knots=knots), kanmg.Spline(2, 1, knots=knots, outside="error")])
    with pytest.raises(DomainError, match="a value in layer 2 lies outside"):
        kind(network, "float64").value(np.full(network.num_coefficients, 9.0), np.zeros((3, 1)))


@pytest.mark.parametrize("kind", [CPUEvaluator, DenseCPUEvaluator])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("domain", [(2.18, 2.28), (0.82, 1.92), (-1.37, 0.56), (0.1, 0.7)])
def test_the_ends_of_the_interval_are_inside_however_they_are_rounded(domain, dtype, kind):
    for num_intervals in range(1, 20):
        knots = kanmg.uniform_knots(num_intervals, degree=3, domain=domain)
        network = kanmg.Network([kanmg.Spline(1, 1, knots=knots, outside="clamp")])
        theta, x, line = np.arange(num_intervals + 3.0), np.array([domain]).T, np.ones((1, 1))
        theta, x, line = theta.astype(dtype), x.astype(dtype), line.astype(dtype)
        slope = num_intervals / (domain[1] - domain[0])  # of the identity, in cells
        own = kind(network, dtype)
        slopes = [own.jet(theta, x, line, 1).derivatives[0][0], own.adjoint(theta, x, np.ones_like(x))[1]]
        np.testing.assert_allclose(slopes, slope, rtol={"float64": 1e-12, "float32": 1e-4}[dtype])


def test_higher_derivatives_come_from_the_reference():
    net = network()
    x, theta = data(5)[0], coefficients(net)
    evaluator, reference = CPUEvaluator(net, "float64"), ReferenceEvaluator(net, "float64")
    lines = np.array([[1.0, 0.0], [0.5, -1.0]])
    jet, expected = evaluator.jet(theta, x, lines, 4), reference.jet(theta, x, lines, 4)
    assert len(jet.derivatives) == 4
    assert all(map(np.array_equal, jet.derivatives, expected.derivatives))
    for method in ("jet_adjoint", "jet_jacobian"):
        assert np.array_equal(
            getattr(evaluator, method)(theta, x, lines, jet), getattr(reference, method)(theta, x, lines, jet)
        )


def test_derivatives_of_an_order_above_the_degree_vanish_in_a_cell():
    net = kanmg.Network([kanmg.Spline(2, 2, knots=kanmg.uniform_knots(3, degree=3))])
    jet = CPUEvaluator(net, "float64").jet(coefficients(net), np.array([[0.1, -0.6]]), np.eye(2), 4)
    assert jet.derivatives[2].any()
    assert not jet.derivatives[3].any()


@pytest.mark.parametrize("strips", [True, False])
def test_gauss_newton_in_chunks_is_the_dense_product(monkeypatch, strips):
    net = network()
    x, y = data(300)
    evaluator = CPUEvaluator(net, "float64")
    monkeypatch.setattr(StripProduct, "is_faster", strips)
    monkeypatch.setattr("kanmg.evaluators.base._JACOBIAN_ENTRIES", 7 * net.num_coefficients)
    monkeypatch.setattr("kanmg.evaluators.cpu._STRIP_ENTRIES", 7 * 15 * 4)
    weights = np.random.default_rng(0).uniform(0, 1, 300)
    matrix, vector = evaluator.gauss_newton(coefficients(net), x, y, weights)
    jacobian = evaluator.jacobian(coefficients(net), x)[:, 0]
    np.testing.assert_allclose(matrix, jacobian.T @ (weights[:, None] * jacobian), rtol=0, atol=1e-12 * matrix.max())
    np.testing.assert_allclose(vector, jacobian.T @ (weights * y[:, 0]), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("widths", "num_intervals", "dense"),
    [((256, 256), 1, True), ((256, 256), 64, False), ((64, 64), 8, False), ((2, 5, 1), 1, False)],
)
def test_the_dense_path_is_chosen_where_layers_are_wide_and_cells_few_and_the_table_says_so(
    widths, num_intervals, dense
):
    assert dense_is_faster(network(widths, num_intervals)) is dense
    hierarchy = kanmg.uniform_hierarchy(widths, num_intervals=num_intervals, num_levels=1)
    assert str(hierarchy).endswith("cpu, dense" if dense else "cpu")


@pytest.mark.parametrize(
    ("num_intervals", "dtype", "strips"), [(1, "float64", False), (8, "float64", True), (2, "float32", False)]
)
def test_normal_equations_use_strips_where_cells_are_many(num_intervals, dtype, strips):
    evaluator = CPUEvaluator(network((2, 5, 5, 1), num_intervals, 5), dtype)
    assert evaluator._strips.is_faster is strips
