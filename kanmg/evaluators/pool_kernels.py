"""The compiled side of the thread pool: how parts of a call are taken, and how threads watch, sleep and wake up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from kanmg.evaluators.atomics import add, call2, call3, compare_exchange, exchange, pause, peek, publish
from kanmg.evaluators.kernels import SOURCE_VERSION, entry_point, part
from kanmg.evaluators.simd import pointer

# Entries of the state that all threads see, each alone in its cache lines.
LINE = 16
TICKET, DONE, WAITING, STOP, KERNEL, TASK, PARTS, CALLER_LOCK, ACQUIRE, RELEASE, FIRST_THREAD = (
    LINE * i for i in range(11)
)
SLEEPING, LOCK = 0, 1
"""Of one thread, relative to `FIRST_THREAD + slot * LINE`."""

# A ticket: number of the call, how many threads may take part, and how many of its parts nobody has taken yet. All
# three in one number, so that whoever takes a part knows which call it belongs to.
_BITS = 16
_MASK = (1 << _BITS) - 1

# Rounds of watching before a thread sleeps: about 0.2 ms, longer than a smoother needs between two evaluations; and
# before the caller sleeps: about 0.1 ms, longer than the parts of small tasks take.
_THREAD_PATIENCE = 4000
_CALLER_PATIENCE = 2000

WAIT = 1
"""Argument of PyThread_acquire_lock."""


@part
def take_parts(slot, state):
    """Run parts of the call at hand until none is left; returns whether there was any."""
    found = False
    while True:
        ticket = peek(state, TICKET)
        left = ticket & _MASK
        if left == 0 or slot >= (ticket >> _BITS) & _MASK:
            return found
        if compare_exchange(state, TICKET, ticket, ticket - 1):
            # The call is not over before this part is: what belongs to it does not change meanwhile.
            found = True
            parts = peek(state, PARTS)
            call3(peek(state, KERNEL), parts - left, slot, peek(state, TASK))
            if add(state, DONE, 1) + 1 == parts and exchange(state, WAITING, 0) == 1:
                call2(peek(state, RELEASE), peek(state, CALLER_LOCK), 0)


def make_caller() -> Any:
    """Compile `void caller(kernel, task, parts, threads, state)`: run all parts of a task, from slot 0."""
    version = SOURCE_VERSION

    @entry_point("void(int64, int64, int64, int64, int64)")
    def caller(kernel, task, parts, threads, address):
        if threads <= 1 or parts <= 1 or version < 0:  # the version is a part of the cache's key
            for part in range(parts):
                call3(kernel, part, 0, task)
            return
        state = carray(pointer(address), FIRST_THREAD, np.int64)
        publish(state, KERNEL, kernel)
        publish(state, TASK, task)
        publish(state, PARTS, parts)
        publish(state, DONE, 0)
        number = (peek(state, TICKET) >> (2 * _BITS)) + 1
        publish(state, TICKET, (number << (2 * _BITS)) | (threads << _BITS) | parts)
        for slot in range(1, threads):
            thread = FIRST_THREAD + slot * LINE
            if exchange(state, thread + SLEEPING, 0) == 1:
                call2(peek(state, RELEASE), peek(state, thread + LOCK), 0)
        take_parts(0, state)
        rounds = 0
        while peek(state, DONE) < parts:
            pause()
            rounds += 1
            if rounds >= _CALLER_PATIENCE:
                publish(state, WAITING, 1)
                # Whoever finished last before the flag was set has not seen it.
                if peek(state, DONE) < parts or exchange(state, WAITING, 0) == 0:
                    call2(peek(state, ACQUIRE), peek(state, CALLER_LOCK), WAIT)
                rounds = 0

    return caller


def make_thread() -> Any:
    """Compile `void thread(slot, state)`: take part in calls until told to stop."""
    version = SOURCE_VERSION

    @entry_point("void(int64, int64)")
    def thread(slot, address):
        if version < 0:
            return
        state = carray(pointer(address), FIRST_THREAD, np.int64)
        sleeping = FIRST_THREAD + slot * LINE + SLEEPING
        lock = FIRST_THREAD + slot * LINE + LOCK
        rounds = 0
        while peek(state, STOP) == 0:
            if take_parts(slot, state):
                rounds = 0
                continue
            pause()
            rounds += 1
            if rounds >= _THREAD_PATIENCE:
                publish(state, sleeping, 1)
                # A call that was published before the flag was set has not seen it.
                ticket = peek(state, TICKET)
                is_wanted = (ticket & _MASK) > 0 and slot < (ticket >> _BITS) & _MASK
                if not (is_wanted or peek(state, STOP) == 1) or exchange(state, sleeping, 0) == 0:
                    call2(peek(state, ACQUIRE), peek(state, lock), WAIT)
                rounds = 0

    return thread
