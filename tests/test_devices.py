"""Devices: what is asked of CuPy and torch, and in which words it is refused."""

from __future__ import annotations

import contextlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kanmg import devices
from kanmg.errors import DeviceError, DtypeError
from kanmg.evaluators.gpu import GPUEvaluator
from kanmg.evaluators.gpu_launch import CudaKernels, Limits, geometry
from kanmg.hierarchy import uniform_hierarchy
from kanmg.testing.cases import NETWORKS


class FakeCuPy:
    """As much of CuPy as the launcher uses; writes down what it is asked for."""

    def __init__(self, is_available=True):
        self.calls = []
        self.cuda = SimpleNamespace(
            is_available=lambda: is_available,
            Device=self.device,
            ExternalStream=lambda pointer, device: contextlib.nullcontext(("stream", pointer, device)),
        )

    def device(self, index):
        @contextlib.contextmanager
        def entered():
            self.calls.append(("device", index))
            yield

        manager = entered()
        manager.attributes = {"MultiProcessorCount": 132, "MaxSharedMemoryPerBlockOptin": 232448}
        return manager

    def RawModule(self, *, code, options, name_expressions):  # noqa: N802 - CuPy's name
        assert "KERNEL differentiate" in code
        assert options == ("-std=c++17",)
        return SimpleNamespace(get_function=lambda name: self.function(name, name_expressions))

    def function(self, name, name_expressions):
        assert (name,) == name_expressions
        calls = self.calls

        class Function:
            max_dynamic_shared_size_bytes = 0

            def __call__(self, blocks, threads, arguments, *, shared_mem):
                calls.append((name, blocks, threads, arguments, shared_mem, self.max_dynamic_shared_size_bytes))

        return Function()


@pytest.fixture
def two_devices(monkeypatch):
    """Two CUDA devices, as far as anybody asks."""
    cupy = FakeCuPy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
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


def test_without_cupy_its_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match=r"CuPy cannot be imported.*kanmg\[cuda13\].*`cuda12`.*Use `device=.cpu.`"):
        devices.resolve_device("cuda")


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


def test_kernels_are_launched_on_their_device_and_torchs_stream(two_devices) -> None:
    kernels = CudaKernels(1, "float", 4)
    assert kernels.limits == Limits(132, 232448)
    for _ in range(2):
        kernels.launch("differentiate", 1, 7, 64, 1000, [1, 2, 3])
    launch = ("differentiate<float, 4, 2>", (7,), (64,), (1, 2, 3), 1000, 232448)
    assert two_devices.calls == [("device", 1), launch] * 2
    with devices.current_stream(1) as stream:
        assert stream == ("stream", 101, 1)


def test_launches_fit_the_device() -> None:
    small = {"num_samples": 10**6, "functions": 15, "num_coefficients": 130 * 12, "itemsize": 8}
    h200 = Limits(132, 232448)
    fits = geometry(h200, entries=115, **small)
    assert (fits.threads, fits.scratch_entries, fits.gradient_is_shared) == (128, 0, True)
    wide = geometry(h200, entries=5 * 131, **small)
    assert (wide.threads, wide.scratch_entries) == (32, 0)
    huge = geometry(h200, entries=10**5, **small)
    assert huge.threads == 128
    assert huge.scratch_entries == huge.blocks * 129 * 10**5
    assert huge.scratch_entries * 8 <= 1 << 28
    many = geometry(h200, entries=115, **(small | {"num_coefficients": 10**6}))
    assert (many.blocks, many.gradient_is_shared) == (33, False)
    assert geometry(h200, entries=115, **(small | {"num_samples": 0})).blocks == 1


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
