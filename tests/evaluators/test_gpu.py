"""The GPU evaluator on a GPU. Without one, tests/evaluators/test_gpu_kernels.py runs the same kernels as C++."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import kanmg
from kanmg.evaluators.cpu import CPUEvaluator
from kanmg.evaluators.free_knots import FreeKnotEvaluator
from kanmg.evaluators.gpu import GPUEvaluator
from kanmg.evaluators.gpu_dense import DenseGPUEvaluator
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.testing.cases import METHODS, NETWORKS, Case, chain
from kanmg.testing.contract import EvaluatorContract

pytestmark = pytest.mark.gpu

SIZES = [0, 1, 31, 32, 33, 127, 128, 129, 132 * 128 - 1, 132 * 128 + 1, 4 * 132 * 128 + 1]


class TestGPU(EvaluatorContract):
    def make(self, network, dtype):
        return GPUEvaluator(network, dtype)

    @pytest.mark.parametrize("layout", ["strided", "reversed", "transposed", "read-only"])
    def test_any_memory_layout(self, layout, dtype):
        super().test_any_memory_layout(layout, dtype)


def flat(result):
    return [entry for part in result for entry in flat(part)] if isinstance(result, tuple | list) else [result]


def assert_close(actual, expected, tolerance):
    for own, wanted in zip(flat(actual), flat(expected), strict=True):
        assert np.shape(own) == np.shape(wanted)
        if np.size(own):
            assert np.abs(own - wanted).max() <= tolerance * (np.abs(wanted).max() or 1.0)


def on_gpu(case):
    return torch.tensor(case.theta, device="cuda"), torch.tensor(case.x, device="cuda")


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("name", ["cubic", "degree 4, odd cells", "mixed degree", "affine first"])
def test_parity_with_the_cpu(name, dtype, tolerance):
    case = Case.drawn(NETWORKS[name], dtype, num_samples=1000)
    own, cpu = GPUEvaluator(case.network, dtype), CPUEvaluator(case.network, dtype)
    for method in METHODS:
        # Rounding of second derivatives grows with the square of the number of cells, in either evaluator.
        bound = tolerance * (100 if method.startswith("jet") else 1)
        assert_close(case.call(own, method), case.call(cpu, method), bound)


@pytest.mark.parametrize("num_samples", SIZES)
def test_sizes_around_the_limits_of_blocks_and_warps(num_samples):
    case = Case.drawn(NETWORKS["cubic"], "float64", num_samples)
    own, cpu = GPUEvaluator(case.network, "float64"), CPUEvaluator(case.network, "float64")
    for method in ("value", "squared_error", "adjoint", "jet_adjoint"):
        assert_close(case.call(own, method), case.call(cpu, method), 1e-11)


def test_dense_products_agree_with_the_fused_kernels():
    case = Case.drawn(chain((2, 64, 64, 1), 3, 4), "float64", 1000)
    own, fused = DenseGPUEvaluator(case.network, "float64"), GPUEvaluator(case.network, "float64")
    for method in ("value", "squared_error", "adjoint"):
        assert_close(case.call(own, method), case.call(fused, method), 1e-12)


def test_whole_solves_agree_with_the_cpu():
    x = np.random.default_rng(0).uniform(-1, 1, (2000, 2))
    problem = kanmg.Regression(x, np.exp(np.sin(np.pi * x[:, :1]) + x[:, 1:] ** 2))
    losses = []
    for device in ("cpu", "cuda"):
        hierarchy = kanmg.uniform_hierarchy((2, 5, 1), num_levels=3, device=device)
        losses.append(kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(steps=5)).loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_a_side_stream_while_the_main_one_is_busy():
    case = Case.drawn(NETWORKS["cubic"], "float64", 50_000)
    evaluator = GPUEvaluator(case.network, "float64")
    expected = case.call(evaluator, "jet_adjoint")
    theta, x = on_gpu(case)
    torch.cuda.synchronize()
    busy = torch.ones(4096, 4096, device="cuda")
    for _ in range(50):
        busy = busy @ busy * 1e-4
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # What the kernels read is made on the same stream just before.
        doubled = (2 * theta) / 2
        gradient = evaluator.jet_adjoint(doubled, x, case.directions, case.cotangents)
    stream.synchronize()
    np.testing.assert_array_equal(gradient.cpu().numpy(), expected)


def test_a_new_thread_of_the_users():
    """Torch takes the memory from what it has kept, so that nothing but the launch needs the driver."""
    case = Case.drawn(NETWORKS["cubic"], "float64", 1000)
    evaluator = GPUEvaluator(case.network, "float64")
    theta, x = on_gpu(case)
    expected = evaluator.value(theta, x)
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(evaluator.value, theta, x).result(), expected)


def test_a_thousand_calls_leak_nothing():
    case = Case.drawn(NETWORKS["cubic"], "float64", 1000)
    evaluator = GPUEvaluator(case.network, "float64")
    theta, x = on_gpu(case)
    y = torch.tensor(case.y, device="cuda")
    evaluator.squared_error(theta, x, y)
    before = torch.cuda.memory_allocated()
    for _ in range(1000):
        evaluator.squared_error(theta, x, y)
    assert torch.cuda.memory_allocated() == before


@pytest.mark.parametrize("num_cells", [8, 64, 512])
def test_the_same_bits_wherever_the_sums_are(num_cells):
    """In shared memory with copies and without, and in global memory."""
    case = Case.drawn(chain((2, 10, 10, 1), 4, num_cells), "float64", 20_000)
    own, cpu = GPUEvaluator(case.network, "float64"), CPUEvaluator(case.network, "float64")
    expected = case.call(own, "jet_adjoint")
    assert_close(expected, case.call(cpu, "jet_adjoint"), 1e-10)
    for _ in range(5):
        assert_close(case.call(own, "jet_adjoint"), expected, 0)


def test_another_device_than_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    case = Case.drawn(NETWORKS["cubic"], "float64")
    with torch.cuda.device(0):
        other = GPUEvaluator(case.network, "float64", "cuda:1")
        assert_close(case.results(other), case.results(GPUEvaluator(case.network, "float64", "cuda:0")), 0)


def test_a_cupy_array_shares_its_memory():
    cupy = pytest.importorskip("cupy")
    case = Case.drawn(NETWORKS["cubic"], "float64")
    evaluator = GPUEvaluator(case.network, "float64")
    value = evaluator.value(cupy.asarray(case.theta), cupy.asarray(case.x))
    np.testing.assert_array_equal(value.cpu().numpy(), evaluator.value(case.theta, case.x))
    turned = evaluator.value(cupy.asarray(case.theta), cupy.asarray(case.x)[::-1])
    np.testing.assert_array_equal(turned.cpu().numpy(), evaluator.value(case.theta, case.x[::-1]))
    third = evaluator.jet(*map(cupy.asarray, (case.theta, case.x, case.directions)), 3).derivatives[2]
    expected = ReferenceEvaluator(case.network, "float64").jet(case.theta, case.x, case.directions, 3).derivatives[2]
    assert_close(third.cpu().numpy(), expected, 1e-12)


def test_the_device_runs_full_and_recovers():
    case = Case.drawn(NETWORKS["cubic"], "float64", 1000)
    evaluator = GPUEvaluator(case.network, "float64")
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(free - (1 << 26), dtype=torch.uint8, device="cuda")
    large = np.zeros((20_000_000, 2))
    with pytest.raises(kanmg.errors.DeviceError, match="chunk_size"):
        evaluator.value(case.theta, large)
    del hog
    torch.cuda.empty_cache()
    assert evaluator.value(case.theta, case.x).shape == (1000, 1)


@pytest.mark.parametrize("kind", [GPUEvaluator, DenseGPUEvaluator])
def test_free_knots_agree_with_automatic_differentiation(kind):
    knots = kanmg.uniform_knots(6, degree=3)
    network = kanmg.Network(
        [kanmg.Spline(2, 3, knots=knots, free_knots=3), kanmg.Spline(3, 1, knots=knots, free_knots=True)]
    )
    case = Case.drawn(network, "float64", num_samples=129)
    case.theta[-network.num_logits :] = np.random.default_rng(3).standard_normal(network.num_logits)
    evaluator = FreeKnotEvaluator(network, "float64", kind)
    reference = ReferenceEvaluator(network, "float64")
    for method in METHODS:
        assert_close(case.call(evaluator, method), case.call(reference, method), 1e-12)
