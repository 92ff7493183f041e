"""The CUDA kernels compiled as C++, and the GPU evaluator on top of them, on the CPU."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from kanmg.evaluators.gpu_dense import DenseGPUEvaluator, GPUEvaluator
from kanmg.evaluators.gpu_launch import Limits
from kanmg.evaluators.gpu_source import KERNELS, VARIANTS, Variant, source

COMPILER = shutil.which("g++") or shutil.which("clang++")
NO_COMPILER = "no C++ compiler (g++ or clang++) to compile the CUDA sources with"

H200 = Limits(num_processors=132, shared_bytes=232448)


PLACES = Variant._fields[1:]


def source_of_all_places(tile):
    """The source for which cuda_standin.cpp says at every call what is in shared memory: one library serves all."""
    text = source(Variant(tile))
    for name in PLACES:
        constant = f", {name.upper()} = 1"
        assert constant in text
        text = text.replace(constant, "")
    return text


def compile_library(target, type_name, degree, tile, *options):
    """Compile all kernels of a type, a degree and a number of samples in a tile."""
    text = target.with_suffix(".h")
    text.write_text(source_of_all_places(tile))
    command = [COMPILER, "-std=c++17", "-O1", "-Wall", "-Wno-unknown-pragmas", "-shared", "-fPIC", *options]
    command += [f"-DREAL={type_name}", f"-DOF_DEGREE={degree}", f'-DSOURCE="{text}"']
    command += [str(Path(__file__).with_name("cuda_standin.cpp")), "-o", str(target)]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@functools.cache
def library(type_name, degree, tile):
    """Compile kernels and load them."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "kernels.so")
        compile_library(target, type_name, degree, tile)
        return ctypes.CDLL(str(target))


class StandinKernels:
    """What `gpu_launch.CudaKernels` is, without a device."""

    def __init__(self, type_name, degree, variant, limits=H200):
        self.limits = limits
        self.launched = []
        self.variant = variant
        self._library_arguments = type_name, degree, variant.tile

    def launch(self, call, *launches):
        self.library.place(*(getattr(self.variant, name) for name in PLACES))
        for kernel, directions, blocks, threads, shared_bytes in launches:
            self.launched.append((kernel, directions, blocks, threads, shared_bytes))
            function = getattr(self.library, f"{kernel}_{directions if KERNELS[kernel] else 0}")
            sizes = map(ctypes.c_longlong, (blocks, threads, shared_bytes))
            assert function(*sizes, ctypes.byref(call)) == 0, "wrote beyond the end of the shared memory"
            assert shared_bytes <= self.limits.shared_bytes

    @property
    def library(self):
        return library(*self._library_arguments)

    def resident(self, kernel, directions, threads, shared_bytes):
        del kernel, directions, threads  # registers are of no concern
        return self.limits.num_processors * max(1, self.limits.shared_bytes // max(1, shared_bytes))


class OnTheCPU:
    """A GPU evaluator with its tensors on the CPU and its kernels in C++."""

    limits = H200
    kernels_class = StandinKernels

    def _resolved(self, device):
        return str(device).replace("cuda", "cpu")

    def kernels_of_degree(self, degree, variant=VARIANTS[0]):
        assert variant in VARIANTS
        kernels, key = self.__dict__.setdefault("kernels", {}), (degree, variant)
        if key not in kernels:
            type_name = {"float64": "double", "float32": "float"}[self.dtype.name]
            kernels[key] = self.kernels_class(type_name, degree, variant, self.limits)
        return kernels[key]


class Standin(OnTheCPU, GPUEvaluator):
    pass


class DenseStandin(OnTheCPU, DenseGPUEvaluator):
    pass


class FakeCuPyArray:
    """An array of another library, as far as its interfaces say; without a GPU its memory is the host's."""

    def __init__(self, array):
        self.array, self.ndim = array, array.ndim
        self.__cuda_array_interface__ = array.__array_interface__ | {"strides": array.strides}
        self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__

    def __len__(self):
        return len(self.array)

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def copy(self):
        return FakeCuPyArray(self.array.copy())
