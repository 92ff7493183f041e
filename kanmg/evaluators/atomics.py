"""Atomic operations for Numba: what threads need to share work without locks.

All of them act on entries of a contiguous int64 array, sequentially consistent: the few that a parallel call makes cost
nothing beside it, and the weakest order that would do is not worth the thought.
"""

# Numba calls an intrinsic with (typing context, argument types...) and the code generator with (context, builder,
# signature, arguments), whether they are used or not.
from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic

__all__ = ["add", "call2", "call3", "compare_exchange", "exchange", "pause", "peek", "publish"]

_ORDER = "seq_cst"

# A hint to the processor that a thread is waiting: its sibling on the same core gets what it would have burnt.
_PAUSE: dict[str, tuple[str, list[int]]] = {
    "x86_64": ("llvm.x86.sse2.pause", []),
    "amd64": ("llvm.x86.sse2.pause", []),
    "aarch64": ("llvm.aarch64.hint", [1]),
    "arm64": ("llvm.aarch64.hint", [1]),
}


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    return builder.gep(data, [arguments[1]])


@intrinsic
def peek(typingctx: Any, array: Any, index: Any) -> Any:
    """Entry of an array as it is now."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_pointer(context, builder, signature, arguments), _ORDER, 8)

    return types.int64(array, types.intp), codegen


@intrinsic
def publish(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Set an entry, after everything that was written before."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[2], _pointer(context, builder, signature, arguments), _ORDER, 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), codegen


@intrinsic
def exchange(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Set an entry; returns what it was."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("xchg", _pointer(context, builder, signature, arguments), arguments[2], _ORDER)

    return types.int64(array, types.intp, types.int64), codegen


@intrinsic
def add(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Add to an entry; returns what it was."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", _pointer(context, builder, signature, arguments), arguments[2], _ORDER)

    return types.int64(array, types.intp, types.int64), codegen


@intrinsic
def compare_exchange(typingctx: Any, array: Any, index: Any, expected: Any, value: Any) -> Any:
    """Set an entry if it is what is expected; returns whether it was."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, signature, arguments)
        pair = builder.cmpxchg(place, arguments[2], arguments[3], _ORDER, _ORDER)
        return builder.extract_value(pair, 1)

    return types.boolean(array, types.intp, types.int64, types.int64), codegen


@intrinsic
def pause(typingctx: Any) -> Any:
    """Wait for a few dozen cycles."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name, values = _PAUSE.get(platform.machine().lower(), ("", []))
        if name:
            integer = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [integer] * len(values))
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [integer(v) for v in values])
        return context.get_dummy_value()

    return types.void(), codegen


def _call(context: Any, builder: Any, arguments: Any, result: Any, kinds: list[Any]) -> Any:
    function = builder.inttoptr(arguments[0], ir.FunctionType(result, kinds).as_pointer())
    values = [
        builder.trunc(value, kind) if kind.width < 64 else value
        for value, kind in zip(arguments[1:], kinds, strict=True)
    ]
    return builder.call(function, values)


@intrinsic
def call3(typingctx: Any, function: Any, first: Any, second: Any, third: Any) -> Any:
    """Call the compiled `void function(int64, int64, int64)` at an address.

    A call through an address hides the kernel from the loop that runs it, which is then compiled once for all kernels.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _call(context, builder, arguments, ir.VoidType(), [ir.IntType(64)] * 3)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def call2(typingctx: Any, function: Any, first: Any, second: Any) -> Any:
    """Call the C function `int function(void *, int)` at an address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _call(context, builder, arguments, ir.IntType(32), [ir.IntType(64), ir.IntType(32)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen
