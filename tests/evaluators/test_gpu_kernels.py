"""The CUDA kernels as C++, and the evaluators that launch them, without a GPU."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from cuda_standin import COMPILER, NO_COMPILER, DenseStandin, FakeCuPyArray, Standin
from hypothesis import given, settings
from hypothesis import strategies as st

import kanmg
from kanmg.errors import DeviceError, DomainError, DtypeError, KanmgValueError, ShapeError
from kanmg.evaluators import gpu, gpu_dense, gpu_launch, gpu_layout, gpu_sweep
from kanmg.evaluators.base import Jet
from kanmg.evaluators.gpu_launch import Limits
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.testing.cases import METHODS, NETWORKS, Case, chain, outside_case
from kanmg.testing.contract import EvaluatorContract
from kanmg.testing.networks import networks

pytestmark = pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER)

SAMPLED = ("value", "adjoint", "squared_error", "squared_error_value")


def assert_close(actual, expected, tolerance):
    """Compare all numbers, relative to the largest of each result."""
    for own, wanted in zip(flat(actual), flat(expected), strict=True):
        assert np.shape(own) == np.shape(wanted)
        if np.size(own):
            assert np.abs(own - wanted).max() <= tolerance * (np.abs(wanted).max() or 1.0)


def flat(result):
    return [entry for part in result for entry in flat(part)] if isinstance(result, tuple | list) else [result]


class TestStandin(EvaluatorContract):
    def make(self, network, dtype):
        return Standin(network, dtype, "cpu")

    @pytest.mark.parametrize("layout", ["strided", "reversed", "transposed", "read-only"])
    def test_any_memory_layout(self, layout, dtype):
        super().test_any_memory_layout(layout, dtype)


RANDOM = networks(degrees=st.sampled_from([1, 3, 5]), policies=["extend", "linear", "clamp", "zero"])


@given(network=RANDOM)
@settings(max_examples=12)
def test_random_networks_agree_with_the_reference(network):
    case = Case.drawn(network, "float64", num_samples=40)
    own, reference = Standin(network, "float64", "cpu"), ReferenceEvaluator(network, "float64")
    for method in METHODS:
        # Rounding of second derivatives grows with the square of the number of cells, in either evaluator.
        tolerance = 1e-10 if method.startswith("jet") else 1e-12
        assert_close(case.call(own, method), case.call(reference, method), tolerance)


@given(network=RANDOM)
@settings(max_examples=12)
def test_random_networks_in_single_precision(network):
    """The error is below 1e-5, or below twice what rounding does to the exact values where steep networks amplify it.

    What it does is the larger one of the reference's own error and the change of the exact values with coefficients
    that are rounded once more, up or down: the error of one evaluation alone is a random number, which may be small.
    """
    exact, case = Case.drawn(network, "float64", num_samples=40), Case.drawn(network, "float32", num_samples=40)
    exact = replace(exact, **{name: getattr(case, name).astype("f8") for name in ("theta", "x", "y", "weights")})
    truth = ReferenceEvaluator(network, "float64")
    own, reference = Standin(network, "float32", "cpu"), ReferenceEvaluator(network, "float32")
    signs = np.random.default_rng(3).choice([-1.0, 1.0], (4, len(exact.theta)))
    changed = [replace(exact, theta=exact.theta * (1.0 + np.finfo("f4").eps * sign)) for sign in signs]
    for method in SAMPLED:
        expected = flat(exact.call(truth, method))
        others = [flat(case.call(reference, method)), *(flat(other.call(truth, method)) for other in changed)]
        actual = flat(case.call(own, method))
        for number, (found, wanted) in enumerate(zip(actual, expected, strict=True)):
            unit = max(np.abs(np.asarray(other[number], "f8") - wanted).max() for other in others)
            bound = max(1e-5 * np.abs(wanted).max(), 2 * unit)
            assert np.abs(np.asarray(found, "f8") - wanted).max() <= bound


def limited(num_processors, shared_bytes):
    """The stand-in of another device."""
    return type("Limited", (Standin,), {"limits": Limits(num_processors, shared_bytes)})


PLACES = ["cubic", "many outputs", "many inputs", "wide, few cells", "affine in between", "non-uniform", "mixed degree"]


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("shared_bytes", [232448, 40000, 19000])
def test_where_the_jets_and_gradients_lie_changes_nothing(name, shared_bytes):
    """All in shared memory; gradients in global memory; jets in global memory too."""
    case = Case.drawn(NETWORKS[name], "float64", num_samples=300)
    expected = case.results(Standin(case.network, "float64", "cpu"))
    assert_close(case.results(limited(2, shared_bytes)(case.network, "float64", "cpu")), expected, 1e-13)


@pytest.mark.parametrize("outside", ["extend", "linear", "clamp", "zero"])
@pytest.mark.parametrize("kind", ["uniform", "clamped", "non-uniform"])
@pytest.mark.parametrize("num_samples", [1, 3, 63, 130])
def test_the_order_of_cells_changes_no_more_than_rounding(num_samples, kind, outside, monkeypatch):
    """Sorted or not, and with sums of moments or of derivatives where knots are not uniform."""
    layer = outside_case(kind, outside, "float64").network.layers[0]
    network = kanmg.Network([replaced(layer, 2, 5), replaced(layer, 5, 4), replaced(layer, 4, 1)])
    case = Case.drawn(network, "float64", num_samples=num_samples, reach=0.5).curved()
    expected = case.results(ReferenceEvaluator(network, "float64"))
    assert_close(case.results(Standin(network, "float64", "cpu")), expected, 1e-12)
    monkeypatch.setattr(gpu_sweep, "_SORTED_OUTPUTS", 99)
    assert_close(case.results(Standin(network, "float64", "cpu")), expected, 1e-12)
    monkeypatch.setattr(gpu_launch.Sums, "moments", property(lambda _: 0))
    assert_close(case.results(Standin(network, "float64", "cpu")), expected, 1e-12)


def replaced(layer, num_inputs, num_outputs):
    """A layer of another size."""
    return kanmg.Spline(num_inputs, num_outputs, knots=layer.knots[0], outside=layer.outside)


def test_no_block_takes_more_shared_memory_than_there_is():
    case = Case.drawn(chain((2, 40, 40, 1), 3, 20), "float64", num_samples=200)
    evaluator = limited(132, 49152)(case.network, "float64", "cpu")
    for method in ("value", "squared_error", "jet_adjoint"):
        case.call(evaluator, method)
    sizes = [launch[-1] for kernels in evaluator.kernels.values() for launch in kernels.launched]
    assert 0 < max(sizes) <= 49152


@pytest.mark.parametrize("name", NETWORKS)
def test_no_thread_reads_what_another_one_writes_in_the_same_phase(name):
    """The threads of a phase in the opposite order give the same bits: on a device they run together."""
    case = Case.drawn(NETWORKS[name], "float64", num_samples=200).curved()
    evaluator = Standin(case.network, "float64", "cpu")
    expected = case.results(evaluator)
    libraries = [kernels.library for kernels in evaluator.kernels.values()]
    try:
        for library in libraries:
            library.reverse_threads(1)
        actual = case.results(evaluator)
    finally:
        for library in libraries:
            library.reverse_threads(0)
    assert_close(actual, expected, 0)


@pytest.mark.parametrize(("num_inputs", "shared_bytes"), [(3700, 232448), (784, 49152)])
def test_wide_layers_with_several_outputs(num_inputs, shared_bytes):
    """The order of their samples would not fit into shared memory."""
    network = kanmg.Network([kanmg.Spline(num_inputs, 4, knots=kanmg.uniform_knots(2, degree=1))])
    case = Case.drawn(network, "float64", num_samples=3)
    own, reference = limited(132, shared_bytes)(network, "float64", "cpu"), ReferenceEvaluator(network, "float64")
    assert_close(case.call(own, "adjoint"), case.call(reference, "adjoint"), 1e-12)


@pytest.mark.parametrize("kind", [Standin, DenseStandin])
@pytest.mark.parametrize("outside", ["linear", "clamp"])
@pytest.mark.parametrize("x", [-5e-324, -1e-300, 10.000000000000002])
def test_points_hardly_outside(x, outside, kind):
    """Their distance in cells may be rounded to zero, which has no sign."""
    knots = kanmg.uniform_knots(4, degree=3, domain=(0, 10))
    network = kanmg.Network([kanmg.Spline(1, 1, knots=knots, outside=outside)], domain=(0, 10))
    theta, points = np.arange(7.0), np.array([[x]])
    own, reference = (each(network, "float64", "cpu") for each in (kind, ReferenceEvaluator))
    assert_close(own.value(theta, points), reference.value(theta, points), 1e-14)
    seeds = np.ones((1, 1))
    assert_close(own.adjoint(theta, points, seeds)[0], reference.adjoint(theta, points, seeds)[0], 1e-14)


@pytest.mark.parametrize(
    "full",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
@pytest.mark.parametrize("kind", [Standin, DenseStandin])
def test_a_layer_is_named_and_a_failed_call_forgotten(kind, full, monkeypatch):
    knots = kanmg.uniform_knots(4, degree=3)
    layers = [kanmg.Spline(1, 2, knots=knots), kanmg.Spline(2, 1, knots=knots, outside="error")]
    network = kanmg.Network(layers)
    evaluator, x = kind(network, "float64", "cpu"), np.zeros((5, 1))
    large, small = (np.full(network.num_coefficients, number) for number in (9.0, 0.1))
    with pytest.raises(DomainError, match="a value in layer 2 lies outside"):
        evaluator.value(large, x)
    with monkeypatch.context() as patch:

        def refuse(*_):
            raise full

        patch.setattr(kind, "_check_status", refuse)
        with pytest.raises(DeviceError, match="chunk_size"):
            evaluator.value(large, x)
    assert evaluator.value(small, x).shape == (5, 1)


def test_what_32_bits_cannot_count_is_refused(monkeypatch):
    monkeypatch.setattr(gpu_layout, "_MAX_CELLS", 7)
    with pytest.raises(KanmgValueError, match=r"8 cells in a layer are too many for a GPU, .* Use `device='cpu'`"):
        Standin(NETWORKS["cubic"], "float64", "cpu")


@pytest.mark.parametrize("columns", [1, 7, 20, 512])
def test_normal_matrices_are_summed_by_blocks(columns, monkeypatch):
    monkeypatch.setattr(gpu, "_GRAM_COLUMNS", columns)
    case = Case.drawn(NETWORKS["cubic"], "float64", num_samples=50)
    matrix, right = Standin(case.network, "float64", "cpu").gauss_newton(case.theta, case.x, case.y)
    rows = ReferenceEvaluator(case.network, "float64").jacobian(case.theta, case.x)[:, 0]
    assert_close((matrix, right), (rows.T @ rows, rows.T @ case.y[:, 0]), 1e-13)


@pytest.mark.parametrize("num_directions", [3, 4, 5, 9])
@pytest.mark.parametrize("order", [1, 2])
def test_more_directions_than_one_sweep_takes(num_directions, order):
    random = np.random.default_rng(0)
    case = Case.drawn(NETWORKS["mixed degree"], "float64", num_samples=20)
    directions = random.standard_normal((num_directions, 2))
    seeds = random.standard_normal((order, num_directions, 20, 2))
    cotangents = Jet(case.cotangents.value, tuple(seeds))
    own, reference = Standin(case.network, "float64", "cpu"), ReferenceEvaluator(case.network, "float64")
    arguments = case.theta, case.x, directions
    assert_close(own.jet(*arguments, order), reference.jet(*arguments, order), 1e-11)
    for method in ("jet_adjoint", "jet_jacobian"):
        actual, expected = (getattr(each, method)(*arguments, cotangents) for each in (own, reference))
        assert_close(actual, expected, 1e-11)
    system = [each.jet_gauss_newton(*arguments, [cotangents], case.y[:, :1]) for each in (own, reference)]
    assert_close(*system, 1e-11)


@pytest.mark.parametrize("options", [{"chunk_size": 7}, {"chunk_size": 64}])
def test_options_change_no_more_than_rounding(options):
    case = Case.drawn(NETWORKS["cubic"], "float64").curved()
    plain, other = Standin(case.network, "float64", "cpu"), Standin(case.network, "float64", "cpu", **options)
    assert_close(case.results(other), case.results(plain), 1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_dense_products_agree_with_the_fused_kernels(name, dtype):
    case = Case.drawn(NETWORKS[name], dtype)
    own, expected = DenseStandin(case.network, dtype, "cpu", chunk_size=33), Standin(case.network, dtype, "cpu")
    for method in SAMPLED:
        tolerance = {"float64": 1e-12, "float32": 1e-4}[dtype]
        assert_close(case.call(own, method), case.call(expected, method), tolerance)


def test_a_call_of_another_thread_in_between_changes_nothing(monkeypatch):
    case, other = (Case.drawn(NETWORKS["mixed degree"], "float64", num_samples=number) for number in (40, 25))
    evaluator, compare = DenseStandin(case.network, "float64", "cpu"), gpu_dense._compare
    expected = case.call(evaluator, "squared_error")

    def after_another(*arguments):
        other.call(evaluator, "value")
        return compare(*arguments)

    monkeypatch.setattr(gpu_dense, "_compare", after_another)
    assert_close(case.call(evaluator, "squared_error"), expected, 0)


@pytest.mark.parametrize("kind", [torch.from_numpy, FakeCuPyArray])
def test_third_derivatives_are_returned_where_the_arguments_are(kind):
    case = Case.drawn(NETWORKS["cubic"], "float64", num_samples=7)
    own, reference = Standin(case.network, "float64", "cpu"), ReferenceEvaluator(case.network, "float64")
    seeds = np.random.default_rng(0).standard_normal((3, len(case.directions), 7, 1))
    plain, jet = (case.theta, case.x, case.directions), Jet(case.y, tuple(seeds))
    there = [kind(array) for array in plain]
    seeds_there = Jet(kind(jet.value), tuple(map(kind, jet.derivatives)))
    value, derivatives = own.jet(*there, 3)
    results = [value, *derivatives, own.jet_adjoint(*there, seeds_there), own.jet_jacobian(*there, seeds_there)]
    results += own.jet_gauss_newton(*there, [seeds_there], kind(case.y))
    value, derivatives = reference.jet(*plain, 3)
    expected = [value, *derivatives, reference.jet_adjoint(*plain, jet), reference.jet_jacobian(*plain, jet)]
    expected += reference.jet_gauss_newton(*plain, [jet], case.y)
    assert all(isinstance(result, torch.Tensor) for result in results)
    assert_close([result.numpy() for result in results], expected, 1e-13)


@pytest.mark.parametrize("outside", ["linear", "clamp", "zero"])
@pytest.mark.parametrize("kind", ["uniform", "clamped", "non-uniform"])
def test_dense_products_outside_the_interval(kind, outside):
    case = outside_case(kind, outside, "float64")
    own, expected = DenseStandin(case.network, "float64", "cpu"), Standin(case.network, "float64", "cpu")
    for method in SAMPLED:
        assert_close(case.call(own, method), case.call(expected, method), 1e-12)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda evaluator: pickle.loads(pickle.dumps(evaluator))])  # noqa: S301 - our own
def test_copies_compute_the_same(copied):
    case = Case.drawn(NETWORKS["cubic"], "float32")
    evaluator = Standin(case.network, "float32", "cpu", chunk_size=50)
    other = copied(evaluator)
    assert other.chunk_size == 50
    np.testing.assert_array_equal(other.value(case.theta, case.x), evaluator.value(case.theta, case.x))


def test_whole_solves_agree_with_the_cpu():
    x = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    regression = kanmg.Regression(x, np.exp(np.sin(np.pi * x[:, :1]) + x[:, 1:] ** 2))

    def poisson(x, u):
        return u.d("x", "x") + u.d("y", "y") + u.value - torch.sin(3 * x[:, 0])

    collocation = kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=[kanmg.Term("equation", poisson, x)])
    for problem, smoother in ((regression, kanmg.LBFGS()), (collocation, kanmg.LevenbergMarquardt())):
        losses = []
        for evaluator in ("cpu", partial(Standin, device="cpu")):
            hierarchy = kanmg.uniform_hierarchy((2, 3, 1), num_levels=2, evaluator=evaluator)
            method = kanmg.NestedIteration(smoother=smoother, steps=4)
            losses.append(kanmg.solve(problem, hierarchy, method=method).loss)
        assert losses[1] == pytest.approx(losses[0], rel=1e-6)


# ---------------------------------------------------------------------------------------------------------- arguments


def tensors(case):
    return torch.tensor(case.theta), torch.tensor(case.x)


def test_tensors_stay_on_the_device():
    case = Case.drawn(NETWORKS["cubic"], "float64")
    evaluator = Standin(case.network, "float64", "cpu")
    theta, x = tensors(case)
    assert isinstance(evaluator.value(case.theta, x), torch.Tensor)
    assert isinstance(evaluator.value(theta, case.x), np.ndarray)
    gradient, point_gradients = evaluator.adjoint(theta, case.x, case.y)
    assert isinstance(gradient, torch.Tensor)
    assert isinstance(point_gradients, np.ndarray)


def test_non_contiguous_and_misaligned_views_are_copied():
    case = Case.drawn(NETWORKS["cubic"], "float64")
    evaluator = Standin(case.network, "float64", "cpu")
    expected = evaluator.value(case.theta, case.x)
    theta, x = tensors(case)
    wide = torch.zeros(2 * len(x), 4, dtype=torch.float64)
    wide[::2, ::2] = x
    np.testing.assert_array_equal(evaluator.value(theta, wide[::2, ::2]).numpy(), expected)
    raw = np.zeros(case.x.nbytes + 1, np.uint8)
    misaligned = np.frombuffer(raw.data, np.float64, case.x.size, offset=1).reshape(case.x.shape)
    misaligned[...] = case.x
    np.testing.assert_array_equal(evaluator.value(case.theta, misaligned), expected)
    np.testing.assert_array_equal(evaluator.value(theta, torch.from_numpy(misaligned)).numpy(), expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x.half(), DtypeError, r"`x` has dtype torch.float16.*Write `x.to\(torch.float64\)`"),
        (lambda x: x.long(), DtypeError, r"`x` has dtype torch.int64"),
        (lambda x: x.float(), DtypeError, r"`x` is float32 but `hierarchy` was built with `dtype='float64'`"),
        (lambda x: x.to("meta"), DeviceError, r"`x` is a tensor on meta, but .* `device='cpu'`. Write `x.to\('cpu'\)`"),
        (lambda x: x[:, :1], ShapeError, r"`x` has shape \(60, 1\) but \(N, 2\) is required"),
        (lambda x: x.numpy().astype(int), DtypeError, r"`x` has dtype int64"),
    ],
)
def test_tensors_that_cannot_be_used_are_refused(change, error, message):
    case = Case.drawn(NETWORKS["cubic"], "float64")
    evaluator = Standin(case.network, "float64", "cpu")
    theta, x = tensors(case)
    with pytest.raises(error, match=message):
        evaluator.value(theta, change(x))


@pytest.mark.parametrize("kind", [Standin, DenseStandin])
def test_a_full_device_is_a_clear_error_and_the_next_call_works(kind, monkeypatch):
    case = Case.drawn(NETWORKS["cubic"], "float64")
    evaluator = kind(case.network, "float64", "cpu", chunk_size=1000)
    expected = evaluator.squared_error(case.theta, case.x, case.y)

    def refuse(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    with monkeypatch.context() as patch:
        for name in ("_zeros", "_empty"):
            patch.setattr(kind, name, refuse)
        with pytest.raises(DeviceError, match=r"too small for `chunk_size=1000` samples .* `.*chunk_size=250\)`"):
            evaluator.squared_error(case.theta, case.x, case.y)
    assert_close(evaluator.squared_error(case.theta, case.x, case.y), expected, 0)
