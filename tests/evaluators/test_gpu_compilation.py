"""Every instance of the CUDA kernels compiles with NVRTC, which needs no device."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from pathlib import Path

import pytest

from kanmg.evaluators.gpu_launch import all_expressions
from kanmg.evaluators.gpu_source import FIELDS, KERNELS, OPTIONS, TILES, source
from kanmg.splines._checks import MAX_DEGREE


def nvrtc_path():
    """The library of the wheel `nvidia-cuda-nvrtc`, or None."""
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else spec.submodule_search_locations
    found = sorted(path for folder in folders for path in Path(folder).glob("*/lib/libnvrtc.so.*"))
    return found[-1] if found else None


NVRTC = nvrtc_path()
needs_nvrtc = pytest.mark.skipif(NVRTC is None, reason="NVRTC is not installed: the wheel nvidia-cuda-nvrtc")


def compiled(names, architecture, tile=TILES[0], options=OPTIONS):
    """Compile instances of kernels; returns the status and what the compiler says."""
    nvrtc = ctypes.CDLL(str(NVRTC))
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source(tile).encode(), b"kanmg.cu", 0, None, None) == 0
    for name in names:
        assert nvrtc.nvrtcAddNameExpression(program, name.encode()) == 0
    given = [option.encode() for option in (*options, f"--gpu-architecture={architecture}")]
    status = nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
    assert nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)) == 0
    log = ctypes.create_string_buffer(size.value)
    assert nvrtc.nvrtcGetProgramLog(program, log) == 0
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return status, log.value.decode()


# Without optimisation, which takes most of the time, and for virtual architectures: every template is
# instantiated, checked and translated. Optimisation and machine code follow for some.
@needs_nvrtc
@pytest.mark.parametrize("degree", range(1, MAX_DEGREE + 1))
@pytest.mark.parametrize("type_name", ["double", "float"])
@pytest.mark.parametrize("architecture", ["compute_80", "compute_90"])
@pytest.mark.parametrize("tile", TILES)
def test_every_instance_compiles(tile, architecture, type_name, degree):
    options = (*OPTIONS, "--Ofast-compile=max")
    assert compiled(all_expressions(type_name, degree), architecture, tile, options) == (0, "")


@needs_nvrtc
@pytest.mark.parametrize(
    ("architecture", "type_name", "degree", "tile"),
    [
        ("sm_80", "double", 3, TILES[0]),
        ("sm_90", "double", 3, TILES[0]),
        ("sm_90", "double", MAX_DEGREE, TILES[-1]),
        ("sm_80", "float", 1, TILES[-1]),
    ],
)
def test_machine_code(architecture, type_name, degree, tile):
    assert compiled(all_expressions(type_name, degree), architecture, tile) == (0, "")


@needs_nvrtc
@pytest.mark.parametrize("options", [OPTIONS, (*OPTIONS, "--Ofast-compile=max")])
def test_an_error_is_seen(options):
    status, log = compiled(["evaluate<double, 3, 7, 7>"], "compute_80", options=options)
    assert status != 0
    assert "evaluate" in log


def test_all_kernels_of_the_sources_are_known():
    names = re.findall(r"KERNEL (\w+)\(PARAMETERS\)", source())
    assert sorted(names) == sorted(KERNELS)
    assert len({name for _, name in FIELDS}) == len(FIELDS)
