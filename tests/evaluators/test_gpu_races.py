"""The CUDA kernels with real threads while ThreadSanitizer looks for races, without a GPU."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_races import DEGREE, FOUND
from cuda_standin import COMPILER, NO_COMPILER, compile_library

from kanmg.evaluators.gpu_source import TILES

PROGRAM = Path(__file__).with_name("cuda_races.py")
OPTIONS = ("-fsanitize=thread", "-pthread", "-g", "-DREAL_THREADS")


@functools.cache
def environment():
    """The environment of a process with ThreadSanitizer; None where it does not start."""
    asked = subprocess.run([COMPILER, "-print-file-name=libtsan.so"], check=False, capture_output=True, text=True)
    watched = {"LD_PRELOAD": asked.stdout.strip(), "OMP_NUM_THREADS": "1"}
    watched["TSAN_OPTIONS"] = f"ignore_noninstrumented_modules=1 halt_on_error=1 exitcode={FOUND}"
    watched |= {name: value for name, value in os.environ.items() if name not in watched}
    run = started([sys.executable, "-c", "print('libtsan' in open('/proc/self/maps').read())"], watched)
    return watched if run.returncode == 0 and run.stdout == "True\n" else None


def started(command, env):
    """Run a program; again where the system has put its memory to where ThreadSanitizer wants its own."""
    for _ in range(10):
        run = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
        if "unexpected memory mapping" not in run.stderr:
            break
    return run


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    if COMPILER is None:
        pytest.skip(NO_COMPILER)
    if environment() is None:
        pytest.skip("no ThreadSanitizer (libtsan of g++), or it does not start on this system")
    paths = [tmp_path_factory.mktemp("races") / f"kernels_{tile}.so" for tile in TILES]
    for path, tile in zip(paths, TILES, strict=True):
        compile_library(path, "double", DEGREE, tile, *OPTIONS)
    return list(map(str, paths))


def watched_run(*arguments):
    return started([sys.executable, str(PROGRAM), *arguments], environment())


@pytest.mark.parametrize(("shared_bytes", "num_variants"), [(232448, 1), (22000, 4)])
def test_threads_that_run_together_do_not_meet(shared_bytes, num_variants, libraries):
    """All in shared memory; and with less of it, where the kernels have jets or coefficients or sums elsewhere."""
    run = watched_run(*libraries, str(shared_bytes))
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == num_variants


def test_threads_that_do_not_wait_are_found(libraries):
    run = watched_run(*libraries, "forget")
    assert run.returncode == FOUND, run.stderr
    assert "data race" in run.stderr
