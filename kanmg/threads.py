"""Threads of torch: one is faster where arrays are small."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["one_thread"]


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
