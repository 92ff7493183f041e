"""Threads that run the parts of a compiled task.

The parts of a task do not depend on who computes them, nor on how many threads there are: results have the same bits on
any number of threads. Threads take parts until none is left, so that the calling thread never waits for one that has
not begun: beside other busy processes a call takes as long as on one thread, at worst. After a call the threads watch
for the next one a little while, because a smoother's evaluations follow each other within microseconds, and then sleep.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from kanmg.evaluators.pool_kernels import (
    ACQUIRE,
    CALLER_LOCK,
    FIRST_THREAD,
    LINE,
    LOCK,
    RELEASE,
    STOP,
    WAIT,
    make_caller,
    make_thread,
)

__all__ = ["MAX_PARTS", "run"]

MAX_PARTS = 128
MAX_THREADS = MAX_PARTS


@cache
def _compiled() -> tuple[Any, Any]:
    """Return both compiled functions; called through ctypes they run without Python's global lock."""
    caller, thread = make_caller().address, make_thread().address
    return (
        ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 5)(caller),
        ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 2)(thread),
    )


def _new_lock() -> int:
    """Make a lock of the interpreter's own kind, which compiled code can wait for; it is held."""
    ctypes.pythonapi.PyThread_allocate_lock.restype = ctypes.c_void_p
    lock = int(ctypes.pythonapi.PyThread_allocate_lock())
    ctypes.pythonapi.PyThread_acquire_lock(ctypes.c_void_p(lock), WAIT)
    return lock


class _Pool:
    """The threads of this process, started when they are first wanted."""

    def __init__(self) -> None:
        self._free = threading.Lock()
        self._threads: list[threading.Thread] = []
        # One line more, so that the first entry can lie at the beginning of one.
        raw = np.zeros(FIRST_THREAD + (MAX_THREADS + 1) * LINE, np.int64)
        first = -raw.ctypes.data // raw.itemsize % LINE
        self._state: npt.NDArray[np.int64] = raw[first:]
        self._address = self._state.ctypes.data
        self._state[CALLER_LOCK] = _new_lock()
        for field, function in ((ACQUIRE, "PyThread_acquire_lock"), (RELEASE, "PyThread_release_lock")):
            self._state[field] = ctypes.cast(getattr(ctypes.pythonapi, function), ctypes.c_void_p).value or 0

    def run(self, kernel: int, task: int, parts: int, threads: int) -> None:
        """Run all parts of a task, on as many threads as are free."""
        caller = _compiled()[0]
        threads = min(threads, parts, MAX_THREADS)
        # While the threads serve another Python thread's call, this one runs all of its parts itself.
        if threads <= 1 or self._state[STOP] or not self._free.acquire(blocking=False):
            caller(kernel, task, parts, 1, self._address)
            return
        try:
            while len(self._threads) < threads - 1:
                self._start()
            caller(kernel, task, parts, threads, self._address)
        finally:
            self._free.release()

    def _start(self) -> None:
        slot = len(self._threads) + 1
        self._state[FIRST_THREAD + slot * LINE + LOCK] = _new_lock()
        thread = threading.Thread(target=_compiled()[1], args=(slot, self._address), name=f"kanmg-{slot}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def stop(self) -> None:
        """Let the threads end, before the interpreter takes apart what they use."""
        self._state[STOP] = 1
        for slot, thread in enumerate(self._threads, 1):
            ctypes.pythonapi.PyThread_release_lock(ctypes.c_void_p(int(self._state[FIRST_THREAD + slot * LINE + LOCK])))
            thread.join()


_pool = _Pool()


def run(kernel: int, task: int, parts: int, threads: int) -> None:
    """Run a compiled kernel for every part of a task.

    Parameters
    ----------
    kernel : int
        Address of a compiled `void kernel(int64 part, int64 slot, int64 task)`.
    task : int
        What is passed on; the address of a task's fields.
    parts : int
        At most `MAX_PARTS`.
    threads : int
        No more than so many take part, the calling one among them; each has its own slot below this number.
    """
    _pool.run(kernel, task, parts, threads)


def _begin_anew() -> None:
    """Forget the threads of the parent process, which a forked one does not have."""
    global _pool  # noqa: PLW0603
    _pool = _Pool()


def _end() -> None:
    _pool.stop()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
