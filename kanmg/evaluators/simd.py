"""Explicit short vectors for Numba.

LLVM's loop vectoriser gains nothing from the short inner loops of spline networks (k + 1 basis functions, a handful of
outputs): it unrolls them into scalar code. So the kernels say what they want: a `Vector` is a value of LLVM's own
vector type, which every CPU target lowers to its registers (two for a vector wider than one register, padding for odd
lengths). Nothing here depends on an instruction set.

The length is known at compile time from the type of a *marker*: a tuple of that many integers. In this way one source
of a kernel serves all degrees, and Numba's own cache on disk tells the compiled versions apart by their signatures.

Indices are not checked: the kernels are called through `kanmg.evaluators.cpu`, which checks shapes first.
"""

# Numba calls an intrinsic with (typing context, argument types...) and the code generator with (context, builder,
# signature, arguments), whether they are used or not.
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic, models, register_model

__all__ = [
    "BROAD",
    "QUAD",
    "WIDE",
    "add",
    "affine",
    "column",
    "dot",
    "dots",
    "gather",
    "lane",
    "limit",
    "load",
    "multiply",
    "multiply_add",
    "nothing",
    "pointer",
    "read",
    "store",
    "store_floor",
    "subtract",
    "total",
    "totals",
    "where_same",
    "write",
]

QUAD = (0, 0, 0, 0)
"""Marker of vectors with four entries: how outputs are grouped."""

WIDE = (0,) * 16
"""Marker of vectors with sixteen entries, for layers with many outputs."""

BROAD = (0,) * 32
"""Marker of vectors with thirty-two entries: so many sums in registers hide the latency of an addition."""


class Vector(types.Type):
    """Numba type of a short vector of floats."""

    def __init__(self, dtype: types.Float, length: int) -> None:
        self.dtype = dtype
        self.length = length
        super().__init__(name=f"Vector({dtype}, {length})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A Vector is LLVM's vector type, in memory as in registers."""

    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        element = ir.DoubleType() if fe_type.dtype.bitwidth == 64 else ir.FloatType()
        super().__init__(dmm, fe_type, ir.VectorType(element, fe_type.length))


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: ir.VectorType) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _splat(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.IntType(32)(0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), mask)


def _call(builder: Any, name: str, vector: ir.VectorType, arguments: list[Any]) -> Any:
    suffix = f"v{vector.count}f{64 if isinstance(vector.element, ir.DoubleType) else 32}"
    kind = ir.FunctionType(vector, [vector] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.{suffix}")
    return builder.call(function, arguments)


@intrinsic
def load(typingctx: Any, array: Any, index: Any, marker: Any) -> Any:
    """Vector of the entries of a contiguous `array` from flat `index` on."""
    vector = Vector(array.dtype, marker.count)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(vector)
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], kind)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return vector(array, types.intp, marker), codegen


@intrinsic
def store(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Write the vector `value` to a contiguous `array` from flat `index` on."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(value)
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], kind)
        builder.store(arguments[2], pointer, align=value.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def read(typingctx: Any, array: Any, index: Any) -> Any:
    """Entry of a contiguous `array`; unlike `array[index]` it spends nothing on negative indices."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load(builder.gep(data, [arguments[1]]))

    return array.dtype(array, types.intp), codegen


@intrinsic
def write(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Set an entry of a contiguous `array`; unlike `array[index] = value` it spends nothing on negative indices."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.store(arguments[2], builder.gep(data, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), codegen


@intrinsic
def gather(typingctx: Any, array: Any, index: Any, stride: Any, marker: Any) -> Any:
    """Vector of the entries of a contiguous `array` from flat `index` on, `stride` apart."""
    vector = Vector(array.dtype, marker.count)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        result = ir.Constant(context.get_value_type(vector), ir.Undefined)
        place = arguments[1]
        for i in range(vector.length):
            result = builder.insert_element(result, builder.load(builder.gep(data, [place])), ir.IntType(32)(i))
            place = builder.add(place, arguments[2])
        return result

    return vector(array, types.intp, types.intp, marker), codegen


@intrinsic(prefer_literal=True)
def lane(typingctx: Any, a: Any, number: Any) -> Any:
    """Entry of a vector, whose number is a constant."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.extract_element(arguments[0], ir.IntType(32)(number.literal_value))

    return a.dtype(a, number), codegen


@intrinsic
def affine(typingctx: Any, a: Any, origin: Any, scale: Any) -> Any:
    """Vector `(a - origin) * scale`; `origin` and `scale` are scalars."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(a)
        shifted = builder.fsub(arguments[0], _splat(builder, arguments[1], kind))
        return builder.fmul(shifted, _splat(builder, arguments[2], kind))

    return a(a, a.dtype, a.dtype), codegen


@intrinsic
def subtract(typingctx: Any, a: Any, b: Any) -> Any:
    """Vector `a - b`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fsub(arguments[0], arguments[1])

    return a(a, b), codegen


@intrinsic
def limit(typingctx: Any, a: Any, low: Any, high: Any) -> Any:
    """Vector with entries of `a` within the scalars `low` and `high`; NaN stays NaN."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _limited(builder, arguments[0], arguments[1], arguments[2], "olt", "ogt")

    return a(a, a.dtype, a.dtype), codegen


def _limited(builder: Any, vector: Any, low: Any, high: Any, below: str, above: str) -> Any:
    lows, highs = _splat(builder, low, vector.type), _splat(builder, high, vector.type)
    compare = {"o": builder.fcmp_ordered, "u": builder.fcmp_unordered}
    sign = {"lt": "<", "gt": ">"}
    raised = builder.select(compare[below[0]](sign[below[1:]], vector, lows), lows, vector)
    return builder.select(compare[above[0]](sign[above[1:]], raised, highs), highs, raised)


@intrinsic
def store_floor(typingctx: Any, array: Any, index: Any, a: Any, last: Any) -> Any:
    """Write the integer parts of a vector, within 0 and `last`, to an integer array; returns them as a vector too.

    NaN becomes 0.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(a)
        zero = ir.Constant(kind.element, 0.0)
        inside = _limited(builder, arguments[2], zero, arguments[3], "ult", "ogt")
        # Through 32 bits: processors without AVX-512 convert no vector of floats to 64 bits.
        short = builder.fptosi(inside, ir.VectorType(ir.IntType(32), a.length))
        long = ir.VectorType(ir.IntType(64), a.length)
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], long)
        builder.store(builder.sext(short, long), pointer, align=8)
        return builder.sitofp(short, kind)

    return a(array, types.intp, a, a.dtype), codegen


@intrinsic
def where_same(typingctx: Any, a: Any, b: Any, value: Any) -> Any:
    """Vector with the scalar `value` where two vectors agree, or hold NaN, and 0 elsewhere."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(a)
        same = builder.fcmp_unordered("==", arguments[0], arguments[1])
        return builder.select(same, _splat(builder, arguments[2], kind), ir.Constant(kind, None))

    return a(a, b, a.dtype), codegen


@intrinsic
def multiply_add(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Vector `a * b + c`, fused where the CPU can; `a` may be a scalar."""
    scalar = not isinstance(a, Vector)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(c)
        first = _splat(builder, arguments[0], kind) if scalar else arguments[0]
        return _call(builder, "fmuladd", kind, [first, arguments[1], arguments[2]])

    return c(c.dtype if scalar else a, b, c), codegen


@intrinsic
def multiply(typingctx: Any, a: Any, b: Any) -> Any:
    """Vector `a * b`; `a` may be a scalar."""
    scalar = not isinstance(a, Vector)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = _splat(builder, arguments[0], context.get_value_type(b)) if scalar else arguments[0]
        return builder.fmul(first, arguments[1])

    return b(b.dtype if scalar else a, b), codegen


@intrinsic
def nothing(typingctx: Any, array: Any, marker: Any) -> Any:
    """Vector of zeros, of the dtype of an array."""
    vector = Vector(array.dtype, marker.count)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(context.get_value_type(vector), None)

    return vector(array, marker), codegen


def _sum_in_halves(builder: Any, values: list[Any]) -> Any:
    """Add pairwise: a fixed order, and half the latency of adding one after the other."""
    while len(values) > 1:
        half = len(values) // 2
        added = [builder.fadd(values[i], values[i + half]) for i in range(half)]
        values = added + values[2 * half :]
    return values[0]


@intrinsic
def total(typingctx: Any, a: Any) -> Any:
    """Sum of the entries of a vector, in a fixed order."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        entries = [builder.extract_element(arguments[0], ir.IntType(32)(i)) for i in range(a.length)]
        return _sum_in_halves(builder, entries)

    return a.dtype(a), codegen


@intrinsic
def dot(typingctx: Any, a: Any, b: Any) -> Any:
    """Inner product of two vectors, summed in a fixed order."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        product = builder.fmul(arguments[0], arguments[1])
        entries = [builder.extract_element(product, ir.IntType(32)(i)) for i in range(a.length)]
        return _sum_in_halves(builder, entries)

    return a.dtype(a, b), codegen


@intrinsic
def add(typingctx: Any, a: Any, b: Any) -> Any:
    """Vector `a + b`."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(arguments[0], arguments[1])

    return a(a, b), codegen


def _shuffled(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)
    return builder.shuffle_vector(a, b, mask)


def _totals(builder: Any, quads: list[Any]) -> Any:
    """Sum the entries of four vectors with four entries, side by side."""
    pairs = [
        builder.fadd(
            _shuffled(builder, quads[i], quads[i + 1], [0, 4, 2, 6]),
            _shuffled(builder, quads[i], quads[i + 1], [1, 5, 3, 7]),
        )
        for i in (0, 2)
    ]
    low, high = (_shuffled(builder, pairs[0], pairs[1], places) for places in ([0, 1, 4, 5], [2, 3, 6, 7]))
    return builder.fadd(low, high)


@intrinsic
def totals(typingctx: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Vector of the sums of the entries of four vectors with four entries, in a fixed order."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _totals(builder, list(arguments))

    return a(a, b, c, d), codegen


@intrinsic
def dots(typingctx: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    """Vector of the inner products of one vector with four others, summed in a fixed order.

    Four sums side by side take a third of the instructions of one after the other.
    """
    quad = Vector(a.dtype, 4)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zero = ir.Constant(context.get_value_type(a), None)
        folded = []
        for other in arguments[1:]:
            product = builder.fmul(arguments[0], other)
            chunks = [
                _shuffled(builder, product, zero, [min(i + j, a.length) for j in range(4)])
                for i in range(0, a.length, 4)
            ]
            folded.append(_sum_in_halves(builder, chunks))
        return _totals(builder, folded)

    return quad(a, b, c, d, e), codegen


@intrinsic(prefer_literal=True)
def column(typingctx: Any, a: Any, b: Any, c: Any, number: Any) -> Any:
    """Vector of the entries of three vectors with four entries, whose number is a constant, and a zero."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        result = ir.Constant(context.get_value_type(a), None)
        for i in range(3):
            entry = builder.extract_element(arguments[i], ir.IntType(32)(number.literal_value))
            result = builder.insert_element(result, entry, ir.IntType(32)(i))
        return result

    return a(a, b, c, number), codegen


@intrinsic
def pointer(typingctx: Any, address: Any) -> Any:
    """Address as the void pointer that `numba.carray` takes."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), codegen
