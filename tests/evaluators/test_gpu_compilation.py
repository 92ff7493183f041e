"""Every instance of the CUDA kernels compiles with NVRTC, which needs no device."""

from __future__ import annotations

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor

import pytest

from kanmg.evaluators.gpu_launch import all_expressions
from kanmg.evaluators.gpu_source import FIELDS, KERNELS, OPTIONS, TILES, VARIANTS, Variant, expression, source
from kanmg.splines._checks import MAX_DEGREE
from kanmg.testing.nvrtc import compile_cuda, find_file

needs_nvrtc = pytest.mark.skipif(
    find_file("*/lib/libnvrtc.so.*") is None, reason="NVRTC is not installed: the wheel nvidia-cuda-nvrtc"
)


def compiled(names, architecture, variant=VARIANTS[0], options=OPTIONS):
    """Compile instances of kernels."""
    return compile_cuda(source(variant), names, (*options, f"--gpu-architecture={architecture}"))


# Without optimisation, which takes most of the time, and for virtual architectures: every template is
# instantiated, checked and translated. Optimisation and machine code follow for some.
@needs_nvrtc
@pytest.mark.parametrize("degree", range(1, MAX_DEGREE + 1))
@pytest.mark.parametrize("type_name", ["double", "float"])
@pytest.mark.parametrize("architecture", ["compute_80", "compute_90"])
@pytest.mark.parametrize("tile", TILES)
def test_every_instance_compiles(tile, architecture, type_name, degree):
    options = (*OPTIONS, "--Ofast-compile=max")
    assert compiled(all_expressions(type_name, degree), architecture, Variant(tile), options)[:2] == (0, "")


# Variants differ in constants, not in types: what is instantiated is the same for all degrees and types.
@needs_nvrtc
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_compiles(variant):
    options = (*OPTIONS, "--Ofast-compile=max")
    assert compiled(all_expressions("double", 3), "compute_90", variant, options)[:2] == (0, "")


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
    assert compiled(all_expressions(type_name, degree), architecture, Variant(tile))[:2] == (0, "")


def accesses(kernel, variant):
    """The kinds of instructions of a kernel that load and store."""
    ptx = compiled([expression(kernel, "double", 2, 1)], "compute_90", variant).ptx
    return set(re.findall(r"\b((?:ld|st)(?:\.\w+)*)\s", ptx.decode()))


@pytest.fixture(scope="module")
def optimising():
    """A process of its own: once NVRTC was told not to optimise, it never does so fully again."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        yield executor


@needs_nvrtc
@pytest.mark.parametrize("variant", VARIANTS[: len(VARIANTS) // len(TILES)])
@pytest.mark.parametrize("kernel", ["evaluate", "differentiate", "differentiate_rows", "push_forward"])
def test_the_compiler_knows_where_all_memory_is(kernel, variant, optimising):
    """An access to memory that may be shared or global takes longer, and addresses of twice the length."""
    found = optimising.submit(accesses, kernel, variant).result()
    assert ("ld.shared.u32" in found) == variant.jets_are_shared  # cells
    assert [access for access in found if not re.search(r"\.(shared|global|local|param)\b", access)] == []


@needs_nvrtc
@pytest.mark.parametrize("options", [OPTIONS, (*OPTIONS, "--Ofast-compile=max")])
def test_an_error_is_seen(options):
    status, log, *_ = compiled(["evaluate<double, 3, 7, 7>"], "compute_80", options=options)
    assert status != 0
    assert "evaluate" in log


def test_all_kernels_of_the_sources_are_known():
    names = re.findall(r"KERNEL (\w+)\(PARAMETERS\)", source())
    assert sorted(names) == sorted(KERNELS)
    assert len({name for _, name in FIELDS}) == len(FIELDS)
