"""The threads that run the parts of compiled tasks."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from numba import carray, cfunc

from kanmg.evaluators import pool
from kanmg.evaluators.atomics import add
from kanmg.evaluators.simd import pointer


@cfunc("void(int64, int64, int64)")
def count(part, slot, task):
    """Note who ran a part, and how often."""
    counts = carray(pointer(task), 1024, np.int64)
    add(counts, part, 1)
    add(counts, 512 + slot, 1)


@pytest.mark.parametrize("parts", [1, 2, 5, pool.MAX_PARTS])
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_every_part_runs_once_in_one_of_the_slots(parts, threads):
    counts = np.zeros(1024, np.int64)
    for _ in range(300):
        pool.run(count.address, counts.ctypes.data, parts, threads)
    assert (counts[:parts] == 300).all()
    assert not counts[parts:512].any()
    assert counts[512 : 512 + threads].sum() == 300 * parts
    assert not counts[512 + threads :].any()


def test_threads_that_sleep_are_woken():
    counts = np.zeros(1024, np.int64)
    for _ in range(20):
        pool.run(count.address, counts.ctypes.data, 64, 3)
        time.sleep(0.01)
    assert (counts[:64] == 20).all()


def run_script(text):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        capture_output=True,
        check=False,
        env=environment,
        text=True,
        timeout=120,
    )


SETUP = """
    import numpy as np, torch, kanmg
    torch.set_num_threads(2)
    hierarchy = kanmg.uniform_hierarchy((2, 5, 1), degree=3, num_intervals=4, num_levels=1)
    x = np.random.default_rng(0).uniform(-1, 1, (20_000, 2))
    objective = kanmg.Objective(kanmg.Regression(x, x[:, 0]), hierarchy[0])
    theta = np.ones(hierarchy[0].network.num_coefficients)
    before = objective.value(theta)
"""


def test_a_forked_process_starts_threads_of_its_own():
    finished = run_script(
        SETUP
        + """
    import os
    child = os.fork()
    if child == 0:
        os._exit(0 if objective.value(theta) == before else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), objective.value(theta) == before)
    """
    )
    assert finished.stdout.strip() == "0 True", finished.stderr


def test_the_interpreter_ends_while_threads_watch_or_sleep():
    for pause in (0.0, 0.2):
        finished = run_script(
            SETUP
            + f"""
    import time
    time.sleep({pause})
    print("end")
    """
        )
        assert (finished.returncode, finished.stdout.strip(), finished.stderr) == (0, "end", "")
