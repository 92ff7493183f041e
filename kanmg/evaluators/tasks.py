"""Tasks: how Python hands a call to the compiled kernels, and on how many threads it runs."""

from __future__ import annotations

import logging
import threading
import weakref
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch

from kanmg.errors import DomainError
from kanmg.evaluators import kernels
from kanmg.evaluators.sweep import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kanmg.evaluators.base import Array
    from kanmg.evaluators.plan import Plan

__all__ = ["Task", "compiled", "lock", "num_threads"]

_logger = logging.getLogger("kanmg")

lock = threading.RLock()
"""One Python thread at a time: workspaces belong to an evaluator, and Numba's portable thread pool aborts the process
when two threads enter it at once."""

# Below this many multiply-adds per thread, waking another thread costs more than it saves.
_WORK_PER_THREAD = 100_000


def num_threads(multiply_adds: float) -> int:
    """Count the threads for so much work: at most `torch.get_num_threads()`."""
    most = min(torch.get_num_threads(), int(numba.config.NUMBA_NUM_THREADS))
    return max(1, min(most, int(multiply_adds) // _WORK_PER_THREAD))


@cache
def compiled(make: Callable[[tuple[int, ...], Any], Any], num_basis: int, dtype: np.dtype[Any]) -> int:
    """Find the address of a kernel for one degree and dtype, from the cache on disk or compiled now."""
    with _announced(f"kernels for degree {num_basis - 1} in {dtype.name}"):
        return int(make((0,) * num_basis, dtype.type).address)


@contextmanager
def _announced(what: str) -> Iterator[None]:
    """Log a line if the body takes longer than a second."""
    message = "kanmg: compiling %s (once, about 10 s; kept on disk)"
    timer = threading.Timer(1.0, _logger.warning, (message, what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Task:
    """The workspaces of so many threads, and the array through which a kernel finds them and everything else."""

    def __init__(self, plan: Plan, dtype: np.dtype[Any], threads: int) -> None:
        self._threads = threads
        self.fields = np.zeros(kernels.NUM_TASK_FIELDS, np.int64)
        self.address = _address(self.fields)
        self.nothing = np.zeros(0, dtype)
        self._theta = np.zeros(plan.num_coefficients, dtype)
        self._positions = slice(None) if plan.padding is None else plan.padding.positions
        self._gradients = np.zeros((threads, plan.num_coefficients), dtype)
        self._gradients_address = _address(self._gradients)
        self._known: dict[int, tuple[weakref.ref[Array], int]] = {}
        self._losses = np.zeros(threads)
        self._status = np.zeros(threads, np.int64)
        # The kernels know arrays by their addresses alone: whatever they use is kept alive here.
        self._kept = (
            plan.layers, plan.tables, np.zeros((threads, plan.work_size), dtype),
            np.zeros((threads, plan.cells_size), np.int64),
        )  # fmt: skip
        static = (kernels.LAYERS, kernels.TABLES, kernels.WORK, kernels.CELL_WORK)
        for field, array in zip(static, self._kept, strict=True):
            self.fields[field] = _address(array)
        self.fields[kernels.THETA] = _address(self._theta)
        self.fields[kernels.LOSSES] = _address(self._losses)
        self.fields[kernels.STATUS] = _address(self._status)
        self.fields[kernels.WORK_BYTES] = plan.work_size * dtype.itemsize
        self.fields[kernels.CELL_BYTES] = plan.cells_size * 8
        self.fields[kernels.BLOCK] = plan.block
        self.fields[kernels.THREADS] = threads
        self.fields[kernels.NUM_LAYERS] = len(plan.layers)
        self.fields[kernels.NUM_COEFFICIENTS] = plan.num_coefficients

    def fill(self, x: Array, fields: dict[int, Array]) -> None:
        """Write down one call: contiguous points, and the arrays that not every task has."""
        self.fields[: kernels.NUM_VARIABLE] = 0
        self.fields[kernels.POINTS] = self._known_address(kernels.POINTS, x)
        self.fields[kernels.SAMPLES] = len(x)
        for field, array in fields.items():
            self.fields[field] = self._known_address(field, array)

    def set_coefficients(self, theta: Array) -> None:
        """Copy the coefficients to where the kernels look for them."""
        self._theta[self._positions] = theta

    def want_gradient(self) -> None:
        """Ask for the gradient of this call."""
        self.fields[kernels.GRADIENTS] = self._gradients_address
        self.fields[kernels.GRADIENT_BYTES] = self._gradients.strides[0]

    def run(self, kernel: int) -> None:
        """Run a kernel on all threads."""
        before = numba.get_num_threads() if self._threads > 1 else self._threads
        if before == self._threads:
            run(kernel, self.address, self._threads)
            return
        numba.set_num_threads(self._threads)
        try:
            run(kernel, self.address, self._threads)
        finally:
            numba.set_num_threads(before)

    def _known_address(self, field: int, array: Array) -> int:
        """Address of an array that is often the one of the call before; asking NumPy takes two microseconds."""
        before = self._known.get(field)
        if before is not None and before[0]() is array:
            return before[1]
        address = _address(array)
        self._known[field] = weakref.ref(array), address
        return address

    def loss(self) -> float:
        """Squared error of all threads, added in their order."""
        return float(sum(self._losses.tolist()))

    def gradient(self) -> Array:
        """Gradients of all threads, added in their order."""
        result: Array = self._gradients[0].copy()
        for row in self._gradients[1:]:
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
