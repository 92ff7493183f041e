"""Devices: what is asked of CuPy and torch, and in which words it is refused."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cuda_standin import FakeCuPyArray

import kanmg
from kanmg import devices
from kanmg.errors import DeviceError, DtypeError
from kanmg.evaluators.gpu import GPUEvaluator
from kanmg.evaluators.gpu_launch import CudaKernels, Launch, Limits, Sums, geometry, max_blocks
from kanmg.evaluators.gpu_source import TILES, VARIANTS, CallArguments, Variant
from kanmg.hierarchy import uniform_hierarchy
from kanmg.testing.cases import NETWORKS


class FakeCuPy:
    """As much of CuPy as the launcher uses; writes down what it is asked for."""

    def __init__(self, is_available=True):
        self.calls = []
        self.cuda = SimpleNamespace(
            is_available=lambda: is_available,
            Device=lambda _: SimpleNamespace(
                attributes={"MultiProcessorCount": 132, "MaxSharedMemoryPerBlockOptin": 232448}
            ),
            runtime=SimpleNamespace(setDevice=lambda index: self.calls.append(("context", index))),
            driver=SimpleNamespace(
                launchKernel=self.launch,
                occupancyMaxActiveBlocksPerMultiprocessor=lambda function, threads, shared_bytes: 2,  # noqa: ARG005
            ),
        )
        self.functions = []

    def launch(self, function, *sizes):
        *grid, stream, parameters, extra = sizes
        assert extra == 0
        call = CallArguments.from_address(ctypes.c_void_p.from_address(parameters).value)
        name = self.functions[function]
        self.calls.append((name.name, *grid, stream, call.samples, name.max_dynamic_shared_size_bytes))

    @contextlib.contextmanager
    def entered(self, index):
        self.calls.append(("device", index))
        yield

    def RawModule(self, *, code, options, name_expressions):  # noqa: N802 - CuPy's name
        assert "KERNEL differentiate" in code
        assert options == ("-std=c++17",)
        return SimpleNamespace(get_function=lambda name: self.function(name, name_expressions))

    def function(self, name, name_expressions):
        assert (name,) == name_expressions
        kernel = SimpleNamespace(ptr=len(self.functions))
        self.functions.append(SimpleNamespace(name=name, kernel=kernel, max_dynamic_shared_size_bytes=0))
        return self.functions[-1]


@pytest.fixture
def two_devices(monkeypatch):
    """Two CUDA devices, as far as anybody asks."""
    cupy = FakeCuPy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device", cupy.entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=100 + device))
    return cupy


@pytest.mark.usefixtures("two_devices")
def test_names_of_devices() -> None:
    assert devices.resolve_device("cpu") == devices.resolve_device(torch.device("cpu")) == "cpu"
    assert devices.resolve_device("cuda") == "cuda:1"
    assert devices.resolve_device(torch.device("cuda:0")) == "cuda:0"
    with pytest.raises(DeviceError, match=r"`device='cuda:2'` .* there are 2 CUDA devices, numbered from 0"):
        devices.resolve_device("cuda:2")
    with pytest.raises(DeviceError, match=r"`device='tpu'` is unknown. Valid devices are 'cpu' and 'cuda'"):
        devices.resolve_device("tpu")


def fails(error):
    """A module whose part `cuda` fails."""

    def is_available():
        raise error

    return SimpleNamespace(cuda=SimpleNamespace(is_available=is_available))


@pytest.mark.parametrize("cupy", [None, SimpleNamespace(), fails(RuntimeError("cudaErrorInsufficientDriver"))])
def test_without_a_cupy_that_works_its_package_is_named(cupy, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(
        DeviceError, match=r"CuPy cannot be imported or used.*cupy-cuda13x.*`cupy-cuda12x`.*Use `device=.cpu.`"
    ):
        devices.resolve_device("cuda")


def test_solutions_are_loaded_for_a_device(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    hierarchy = uniform_hierarchy((1, 1), num_levels=1, evaluator="reference")
    problem = kanmg.Regression(np.linspace(-1, 1, 20)[:, None], np.zeros((20, 1)))
    kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(steps=1), throw=False).save(tmp_path / "solution")
    assert kanmg.load(tmp_path / "solution", evaluator="reference").hierarchy.device == "cpu"
    with pytest.raises(DeviceError, match="`device='cuda'` was asked for"):
        kanmg.load(tmp_path / "solution", device="cuda")


def test_without_a_device_the_driver_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", FakeCuPy(is_available=False))
    with pytest.raises(DeviceError, match=r"CuPy sees no CUDA device. Install a driver .* Use `device='cpu'`"):
        uniform_hierarchy((2, 1), device="cuda:0")


@pytest.mark.usefixtures("two_devices")
def test_a_torch_for_the_cpu_is_named(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"torch .* sees no CUDA device. Install a build of torch for CUDA"):
        GPUEvaluator(NETWORKS["cubic"], "float64", "cuda")


@pytest.mark.usefixtures("two_devices")
def test_evaluators_belong_to_devices() -> None:
    with pytest.raises(DeviceError, match=r"`evaluator='cpu'` does not compute on `device='cuda:0'`. Write"):
        uniform_hierarchy((2, 1), device="cuda:0", evaluator="cpu")
    with pytest.raises(DeviceError, match=r"`evaluator='cuda'` does not compute on `device='cpu'`. Write"):
        uniform_hierarchy((2, 1), evaluator="cuda")
    with pytest.raises(DeviceError, match=r"`GPUEvaluator` got `device='cpu'`"):
        GPUEvaluator(NETWORKS["cubic"], "float64", "cpu")


@pytest.mark.parametrize("index", [0, 1])
def test_kernels_are_launched_on_their_device_and_torchs_stream(two_devices, index) -> None:
    """Device 1 is the current one; on another one the launch happens inside a `with` statement."""
    kernels = CudaKernels(index, "float", 4, Variant())
    assert kernels.limits == Limits(132, 232448)
    for _ in range(2):
        kernels.launch(CallArguments(samples=5), Launch("differentiate", 2, 7, 64, 1000), Launch("merge", 0, 1, 256))
    sizes = [("differentiate<float, 4, 2>", 7, 1, 1, 64, 1, 1, 1000), ("merge<float>", 1, 1, 1, 256, 1, 1, 0)]
    launches = [(*launch, 100 + index, 5, 232448) for launch in sizes]
    context = [("context", 1)] * (index == 1)
    assert two_devices.calls == [*context, *2 * ([*[("device", 0)] * (index == 0), *launches])]
    assert kernels.resident("differentiate", 2, 64, 1000) == 2 * 132
    assert devices.current_stream(1) == 101


def test_a_new_thread_gets_its_context_once(two_devices) -> None:
    """The driver launches nothing in a thread in which the runtime has not been told of a device."""
    kernels = CudaKernels(1, "double", 3, Variant())
    kernels.launch(CallArguments(), Launch("merge", 0, 1, 256))
    two_devices.calls.clear()

    def launch_twice():
        for _ in range(2):
            kernels.launch(CallArguments(), Launch("merge", 0, 1, 256))

    thread = threading.Thread(target=launch_twice)
    thread.start()
    thread.join()
    assert [call[0] for call in two_devices.calls] == ["context", "merge<double>", "merge<double>"]


H200 = Limits(132, 232448)
SMALL = {"tile": 64, "slots": 23, "numbers": 5, "sorted_inputs": 10, "wants_gradient": True, "itemsize": 8}
SMALL |= {"layers": [Sums(20, 260), Sums(100, 1300), Sums(10, 130)]}


def test_launches_fit_the_device() -> None:
    fits = geometry(H200, **SMALL)
    assert (fits.threads, fits.scratch_size, fits.variant) == (128, 0, Variant())
    assert fits.shared_bytes <= H200.shared_bytes // 2
    assert fits.copies == (6, 1, 8)
    alone = geometry(H200, **(SMALL | {"slots": 50}))
    assert (alone.threads, alone.scratch_size, alone.variant) == (256, 0, Variant())
    huge = geometry(H200, **(SMALL | {"slots": 10**4}))
    assert (huge.threads, huge.variant) == (128, Variant(64, *[False] * 3))
    assert huge.scratch_size == 10**4 * (5 * 65 + (64 + 4) // 2)
    many = geometry(H200, **(SMALL | {"layers": [Sums(100, 10**6)]}))
    assert (many.threads, many.variant, many.copies) == (128, Variant(64, True, False, False), ())


def test_moments_are_summed_where_they_fit() -> None:
    few, many = (geometry(H200, **(SMALL | {"layers": [Sums(100, 1300, moments)]})) for moments in (4100, 10**6))
    assert (few.sums_are_moments, few.variant) == (True, Variant())
    assert (many.sums_are_moments, many.variant) == (False, Variant())


def test_all_that_geometries_ask_for_is_known() -> None:
    changes = [
        {"tile": tile, "slots": slots, "wants_gradient": wants_gradient, "layers": [Sums(1, size)]}
        for tile in TILES
        for slots in (3, 10**5)
        for wants_gradient in (False, True)
        for size in (10, 20_000, 10**6)
    ]
    assert {geometry(H200, **(SMALL | change)).variant for change in changes} == set(VARIANTS)


def test_blocks_are_as_many_as_run_together_or_have_memory() -> None:
    fits, huge = geometry(H200, **SMALL), geometry(H200, **(SMALL | {"slots": 10**4}))
    options = {"resident": 264, "num_coefficients": 1690, "itemsize": 8}
    assert max_blocks(fits, **options) == 264
    assert max_blocks(fits, **(options | {"num_coefficients": 10**6})) == (1 << 28) // (8 * 10**6)
    assert max_blocks(fits, **(options | {"num_coefficients": 10**9})) == 1
    assert max_blocks(huge, **options) == (1 << 28) // (8 * huge.scratch_size)


def test_arrays_that_are_elsewhere_are_refused() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(
        DeviceError, match=r"`x` is a tensor on meta, but .* Write `x.to\('cpu'\)`, or pass a NumPy array"
    ):
        devices.on_device(torch.zeros(2, device="meta"), cpu, "x")
    with pytest.raises(DtypeError, match=r"`x` has dtype torch.float16"):
        devices.on_device(torch.zeros(2, dtype=torch.float16), cpu, "x")
    array = np.arange(6.0).reshape(2, 3)[:, ::-1]
    np.testing.assert_array_equal(devices.on_device(array, cpu, "x").numpy(), array)
    tensor = torch.ones(3, requires_grad=True)
    assert devices.on_device(tensor, cpu, "x").data_ptr() == tensor.data_ptr()
    assert not devices.on_device(tensor, cpu, "x").requires_grad


def test_cupy_arrays_with_negative_strides_are_copied() -> None:
    """Others share their memory. To take these, torch would end the process."""
    cpu, array = torch.device("cpu"), np.arange(6.0).reshape(3, 2)
    assert devices.on_device(FakeCuPyArray(array), cpu, "x").data_ptr() == array.ctypes.data
    for view in (array[::-1], array[:, ::-1]):
        np.testing.assert_array_equal(devices.on_device(FakeCuPyArray(view), cpu, "x").numpy(), view)
