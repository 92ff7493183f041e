"""Threads of torch: one is faster where arrays are small.

It also fixes the bits of what it computes: on some processors MKL divides even small sums among its threads.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

__all__ = ["fitting_threads", "one_thread"]

# Multiply-adds that take one thread about a millisecond.
_WORTH_ANOTHER_THREAD = 20_000_000


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute the body on one thread.

    Torch and MKL wake up their threads for arrays of a thousand numbers. Where another process, or kanmg's own pool, is
    on the other cores, the barrier at the end of such an operation takes milliseconds, the operation itself
    microseconds. The setting is the calling thread's own; threads that begin meanwhile inherit it.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fitting_threads(multiply_adds: float) -> AbstractContextManager[None]:
    """Let torch compute the body on one thread, unless it has so much to do that waiting for others is worth it.

    The choice does not depend on how many threads there are: what runs on one has the same bits for any number.

    Parameters
    ----------
    multiply_adds : float
        What there is to do in the body.
    """
    return nullcontext() if multiply_adds >= _WORTH_ANOTHER_THREAD else one_thread()
