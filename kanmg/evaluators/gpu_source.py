"""The source of the CUDA kernels: the files in `cuda/`, and what they share with Python."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from kanmg.evaluators import plan

__all__ = ["FIELDS", "KERNELS", "MAX_DIRECTIONS", "MAX_THREADS", "MERGE_GROUPS", "OPTIONS", "expression", "source"]

FIELDS: tuple[tuple[str, str], ...] = (
    *(("const T *", name) for name in ("theta", "tables", "x", "lines", "own_lines", "curvatures", "targets")),
    *(("const T *", name) for name in ("weights", "cotangents", "first_cotangents", "second_cotangents", "tangent")),
    ("const long long *", "layers"),
    *(("T *", name) for name in ("values", "first", "second", "point_gradients", "partials", "rows", "scratch")),
    ("double *", "losses"),
    ("long long *", "status"),
    *(("long long ", name) for name in ("num_layers", "num_coefficients", "samples", "directions", "order", "entries")),
    *(("long long ", name) for name in ("staged", "gradient_is_shared", "atomic", "row_stride", "num_partials")),
)
"""C++ types and names of the parameters of every kernel: addresses, zero where there is nothing, and numbers."""

KERNELS: dict[str, tuple[int, ...]] = {
    "evaluate": (0, 2),
    "differentiate": (0, 2),
    "differentiate_rows": (0, 2),
    "push_forward": (),
    "fill_basis": (),
    "merge": (),
}
"""The kernels, and the orders of derivatives for which they are compiled."""

MAX_DIRECTIONS = 4
"""Directions of a jet that one sweep takes; more directions take more sweeps."""

MAX_THREADS = 128
"""Of a block. A power of two."""

MERGE_GROUPS = 8
"""Groups of threads among which the merge kernel divides the blocks."""

OPTIONS = ("-std=c++17",)
"""Of the compiler."""

_FILES = ("machine", "call", "basis", "layers", "sample", "sweeps", "products")
_COLUMNS: tuple[str, ...] = (
    "KIND",
    "INPUTS",
    "OUTPUTS",
    "BASIS",
    "COEFFICIENTS",
    "TABLE",
    "TABLE_STRIDE",
    "CELLS",
    "UNIFORM",
)
_COLUMNS += ("OUTSIDE", "BIAS", "NUMBER", "NUM_FIELDS", "AFFINE", "SPLINE")
_COLUMNS += ("EXTEND", "LINEAR", "CLAMP", "ZERO", "ERROR")


@cache
def source() -> str:
    """Join the files, with the constants and the parameters that Python knows.

    Returns
    -------
    str
        One piece, without includes: CuPy's cache of compiled kernels sees no other files.
    """
    folder = Path(__file__).with_name("cuda")
    parts = {"call": _call()}
    texts = (parts.get(name) or folder.joinpath(f"{name}.cu").read_text() for name in _FILES)
    return "\n".join(texts)


def expression(kernel: str, type_name: str, degree: int, order: int) -> str:
    """Name the instance of a kernel for a type, a degree and an order of derivatives.

    Parameters
    ----------
    kernel : str
        A key of `KERNELS`.
    type_name : {"double", "float"}
    degree : int
    order : int
        Left out where the kernel does not depend on it.

    Examples
    --------
    >>> expression("evaluate", "double", 3, 1), expression("merge", "float", 3, 0)
    ('evaluate<double, 3, 2>', 'merge<float>')
    """
    if kernel == "merge":
        return f"merge<{type_name}>"
    arguments = [type_name, str(degree)]
    if KERNELS[kernel]:
        arguments.append("2" if order else "0")
    return f"{kernel}<{', '.join(arguments)}>"


def _call() -> str:
    """Constants of the table of layers, and the parameters of the kernels."""
    constants = [f"{name} = {getattr(plan, name)}" for name in _COLUMNS]
    constants += [f"WIDTHS_BEFORE = {plan.INPUT_SLOT}", f"MAX_DIRECTIONS = {MAX_DIRECTIONS}"]
    constants += [f"MAX_THREADS = {MAX_THREADS}", f"MERGE_GROUPS = {MERGE_GROUPS}"]
    members = "\n".join(f"    {kind}{name};" for kind, name in FIELDS)
    parameters = ", ".join(kind + name for kind, name in FIELDS)
    arguments = ", ".join(name for _, name in FIELDS)
    return (
        f"enum {{ {', '.join(constants)} }};\n"
        f"template <typename T> struct Call {{\n{members}\n}};\n"
        f"#define PARAMETERS {parameters}\n"
        f"#define ARGUMENTS Call<T>{{{arguments}}}\n"
    )
