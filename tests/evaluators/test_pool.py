"""The threads that run the parts of compiled tasks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import numpy as np
import pytest
from numba import carray, cfunc

from kanmg.evaluators import pool, tasks
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
        timeout=600,
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
        # On a busy machine it takes more than a second to load kernels, which is announced.
        errors = [line for line in finished.stderr.splitlines() if not line.startswith("kanmg: compiling or loading")]
        assert (finished.returncode, finished.stdout.strip(), errors) == (0, "end", [])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("evaluator", ["cpu", "dense"])
def test_forked_processes_need_no_lock_that_another_thread_held(evaluator):
    """A thread is nearly always inside an evaluation when the process forks; its children still compute."""
    result = run_script(
        f"""
        import os, signal, threading
        import numpy as np, torch, kanmg
        torch.set_num_threads(1)
        hierarchy = kanmg.uniform_hierarchy((2, 5, 1), num_intervals=4, num_levels=1, evaluator="{evaluator}")
        x = np.random.default_rng(0).uniform(-1, 1, (200_000, 2))
        theta = np.ones(hierarchy[0].network.num_coefficients)
        evaluator = hierarchy[0].evaluator
        expected = evaluator.value(theta, x[:1000])
        is_over = False

        def work():
            while not is_over:
                evaluator.value(theta, x)

        thread = threading.Thread(target=work)
        thread.start()
        codes = []
        for _ in range(10):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                same = np.array_equal(evaluator.value(theta, x[:1000]), expected)
                os._exit(0 if same else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        is_over = True
        thread.join()
        print(codes == [0] * 10, codes)
        """
    )
    assert result.stdout.startswith("True"), result.stdout + result.stderr


def test_without_a_folder_for_the_cache_kernels_are_compiled_in_memory():
    result = run_script(
        """
        import warnings
        import numpy as np, kanmg
        from numba.core import caching

        def no_place(*_):
            raise RuntimeError("cannot cache function 'sweep': no locator available for file 'sweep.py'")

        caching.CacheImpl.__init__ = no_place
        x = np.linspace(-1, 1, 50).reshape(-1, 1)
        hierarchy = kanmg.uniform_hierarchy((1, 1), degree=1, num_intervals=2, num_levels=1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            solution = kanmg.solve(kanmg.Regression(x, abs(x)), hierarchy)
            slope = solution.derivative(x[:1], 0)
        print(len(caught), caught[0].category.__name__, "NUMBA_CACHE_DIR" in str(caught[0].message))
        print(bool(abs(solution(x) - abs(x)).max() < 1e-6), slope.round(6).item())
        """
    )
    assert result.stdout.split() == ["1", "KanmgWarning", "True", "True", "-1.0"], result.stderr


def test_the_line_about_compiling_names_the_group(monkeypatch):
    messages = []
    monkeypatch.setattr(tasks, "_announced", lambda what: messages.append(what) or contextlib.nullcontext())
    monkeypatch.setattr(tasks, "compiled", tasks.compiled.__wrapped__)
    groups = ("losses and gradients", "derivatives")
    for group in groups:
        tasks.compiled(lambda marker, _: SimpleNamespace(address=len(marker)), group, 4, np.dtype(np.float32))
    assert messages == [
        f"kernels of {group} for degree 3 in float32" for group in ("losses and gradients", "derivatives")
    ]
