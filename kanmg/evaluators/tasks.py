"""Tasks: how Python hands a call to the compiled kernels, and in how many parts and threads it runs."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kanmg.errors import DomainError
from kanmg.evaluators import kernels, pool
from kanmg.evaluators.plan import ADJOINT_SLOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kanmg.evaluators.base import Array
    from kanmg.evaluators.plan import Plan

__all__ = ["Task", "compiled", "num_parts", "owners_of_locks"]

_logger = logging.getLogger("kanmg")

# Multiply-adds. A part of fewer is over before another thread has noticed it.
_WORK_PER_PART = 100_000

# Multiply-adds per entry of a part's own gradient, which has to be cleared and added to the others. The second part is
# worth more than the others: without it there is no second thread.
_WORK_PER_ENTRY = 128
_WORK_PER_ENTRY_OF_TWO = 16


def num_parts(multiply_adds: float, gradient_size: int) -> int:
    """Count the parts of a call: a power of two, so that threads have equal shares, and whatever the number of threads.

    Parameters
    ----------
    multiply_adds : float
        Of the whole call.
    gradient_size : int
        Entries of the gradient that every part sums up for itself; 0 if there is none.
    """
    per_entry = multiply_adds / max(gradient_size, 1)
    most = min(
        multiply_adds / _WORK_PER_PART, max(per_entry / _WORK_PER_ENTRY, min(2, per_entry / _WORK_PER_ENTRY_OF_TWO))
    )
    return min(pool.MAX_PARTS, 1 << max(0, int(most).bit_length() - 1))


@cache
def compiled(make: Callable[[tuple[int, ...], Any], Any], group: str, num_basis: int, dtype: np.dtype[Any]) -> int:
    """Find the address of a kernel for one degree and dtype, from the cache on disk or compiled now.

    Parameters
    ----------
    make : callable
        Compiles the kernel.
    group : str
        What the kernel computes, for the line that is logged.
    num_basis : int
        Basis functions per cell.
    dtype : numpy.dtype
    """
    with _announced(f"kernels of {group} for degree {num_basis - 1} in {dtype.name}"):
        return int(make((0,) * num_basis, dtype.type).address)


# Whoever has a lock that another thread may hold while the process forks; its `forget_threads` makes a new one.
owners_of_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def _forget_threads() -> None:
    for owner in owners_of_locks:
        owner.forget_threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


@contextmanager
def _announced(what: str) -> Iterator[None]:
    """Log a line if the body takes longer than a second."""
    message = "kanmg: compiling or loading %s (once, 5 to 15 s; kept on disk)"
    timer = threading.Timer(1.0, _logger.warning, (message, what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Task:
    """The workspaces of an evaluator, and the array through which a kernel finds them and everything else.

    One call at a time: whoever fills a task holds its `lock` until the results have been fetched.
    """

    def __init__(self, plan: Plan, dtype: np.dtype[Any]) -> None:
        self.lock = threading.RLock()
        self.nothing = np.zeros(0, dtype)
        self._plan, self._dtype = plan, dtype
        self._fields = np.zeros(kernels.NUM_TASK_FIELDS, np.int64)
        self._address = _address(self._fields)
        self._parts = 1
        self._theta = np.zeros(plan.num_coefficients, dtype)
        self._positions = slice(None) if plan.padding is None else plan.padding.positions
        self._gradients = np.zeros((0, plan.num_coefficients), dtype)
        self._known: dict[int, tuple[weakref.ref[Array], int]] = {}
        self._losses = np.zeros(pool.MAX_PARTS)
        self._status = np.zeros(pool.MAX_PARTS, np.int64)
        self._threads = 0
        self._work, self._cells = np.zeros((0, 0), dtype), np.zeros((0, 0), np.int64)
        static = {
            kernels.LAYERS: plan.layers,
            kernels.TABLES: plan.tables,
            kernels.THETA: self._theta,
            kernels.LOSSES: self._losses,
            kernels.STATUS: self._status,
        }
        for field, array in static.items():
            self._fields[field] = _address(array)
        self._fields[kernels.WORK_BYTES] = plan.work_size * dtype.itemsize
        self._fields[kernels.CELL_BYTES] = plan.cells_size * 8
        self._fields[kernels.BLOCK] = plan.block
        self._fields[kernels.NUM_LAYERS] = len(plan.layers)
        self._fields[kernels.NUM_COEFFICIENTS] = plan.num_coefficients
        owners_of_locks.add(self)

    def forget_threads(self) -> None:
        """Let go of what threads of the parent process held or left unfinished."""
        self.lock = threading.RLock()
        self._status[:] = 0

    def set_jets(self, directions: int, order: int) -> None:
        """Say how many directions and derivatives the jets of all calls have."""
        self._fields[kernels.NUM_DIRECTIONS] = directions
        self._fields[kernels.ORDER] = order

    def fill(self, x: Array, fields: dict[int, Array], parts: int) -> None:
        """Write down one call: contiguous points, the arrays that not every task has, and the number of parts."""
        self._fields[: kernels.NUM_VARIABLE] = 0
        self._fields[kernels.POINTS] = self._known_address(kernels.POINTS, x)
        self._fields[kernels.SAMPLES] = len(x)
        self._fields[kernels.PARTS] = self._parts = parts
        for field, array in fields.items():
            self._fields[field] = self._known_address(field, array)

    def set_coefficients(self, theta: Array) -> None:
        """Copy the coefficients to where the kernels look for them."""
        self._theta[self._positions] = theta

    def hidden_size(self, num_samples: int) -> int:
        """Count the entries of the hidden jets of all blocks."""
        per_block = int(self._plan.layers[0, ADJOINT_SLOT])
        return -(-num_samples // self._plan.block) * per_block

    def set_strips(self, rows: int) -> None:
        """Say how many rows the strips of this call have."""
        self._fields[kernels.STRIP_ROWS] = rows

    def want_gradient(self) -> None:
        """Ask for the gradient of this call."""
        if len(self._gradients) < self._parts:
            self._gradients = np.zeros((self._parts, self._plan.num_coefficients), self._dtype)
        self._fields[kernels.GRADIENTS] = self._known_address(kernels.GRADIENTS, self._gradients)
        self._fields[kernels.GRADIENT_BYTES] = self._gradients.strides[0]

    def run(self, kernel: int) -> None:
        """Run a kernel for all parts, on at most `torch.get_num_threads()` threads."""
        threads = min(torch.get_num_threads(), self._parts)
        if threads > self._threads:
            self._work = np.zeros((threads, self._plan.work_size), self._dtype)
            self._cells = np.zeros((threads, self._plan.cells_size), np.int64)
            self._fields[kernels.WORK] = _address(self._work)
            self._fields[kernels.CELL_WORK] = _address(self._cells)
            # Last, so that a process forked in between makes them anew.
            self._threads = threads
        pool.run(kernel, self._address, self._parts, threads)

    def _known_address(self, field: int, array: Array) -> int:
        """Address of an array that is often the one of the call before; asking NumPy takes two microseconds."""
        before = self._known.get(field)
        if before is not None and before[0]() is array:
            return before[1]
        address = _address(array)
        self._known[field] = weakref.ref(array), address
        return address

    def loss(self) -> float:
        """Squared error of all parts, added in their order."""
        return float(sum(self._losses[: self._parts].tolist()))

    def gradient(self) -> Array:
        """Gradients of all parts, added in their order: valid until the next call, which begins with zeros."""
        result: Array = self._gradients[0]
        for row in self._gradients[1 : self._parts]:
            result += row
        return result

    def check_status(self) -> None:
        """Raise for a layer that met a value outside its interval where the policy is `error`."""
        layer = int(self._status.max())
        self._status[:] = 0
        if layer:
            raise DomainError(
                f"a value in layer {layer} lies outside the interval of its knots, and `outside='error'` refuses that. "
                "Use `outside='extend'`, or knots on a larger `domain`."
            )


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
