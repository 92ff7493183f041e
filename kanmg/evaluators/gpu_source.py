"""The source of the CUDA kernels: the files in `cuda/`, and what they share with Python."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import NamedTuple

from kanmg.evaluators import plan

__all__ = [
    "CARDINAL",
    "COPIES",
    "FIELDS",
    "IS_SORTED",
    "KERNELS",
    "MAX_DIRECTIONS",
    "MAX_THREADS",
    "MERGE_GROUPS",
    "OPTIONS",
    "SUMS",
    "SUM_CELL",
    "SUM_ROW",
    "TILES",
    "VARIANTS",
    "CallArguments",
    "Variant",
    "expression",
    "source",
]

FIELDS: tuple[tuple[str, str], ...] = (
    *(("const T *", name) for name in ("theta", "tables", "x", "lines", "own_lines", "curvatures", "targets")),
    *(("const T *", name) for name in ("weights", "cotangents", "first_cotangents", "second_cotangents", "tangent")),
    ("const long long *", "layers"),
    *(("const int *", name) for name in ("order", "places")),
    *(("T *", name) for name in ("values", "first", "second", "point_gradients", "partials", "rows", "scratch")),
    ("double *", "losses"),
    ("long long *", "status"),
    *(("long long ", name) for name in ("num_layers", "num_coefficients", "num_places", "samples", "all_samples")),
    *(
        ("long long ", name)
        for name in ("entries", "scratch_size", "order_bytes", "row_stride", "num_sums", "num_partials")
    ),
)
"""C++ types and names of what every kernel is told: addresses, zero where there is nothing, and numbers."""

MAX_DIRECTIONS = 3
"""Directions of a jet that one sweep takes; more directions take more sweeps."""

_UP_TO_ALL = tuple(range(MAX_DIRECTIONS + 1))

KERNELS: dict[str, tuple[int, ...]] = {
    "evaluate": _UP_TO_ALL,
    "differentiate": _UP_TO_ALL,
    "differentiate_rows": _UP_TO_ALL,
    "push_forward": (),
    "fill_basis": (),
    "pull_basis": (),
    "merge": (),
}
"""The kernels, and the numbers of directions for which they are compiled."""

CARDINAL = 2
"""What stands in the place of `plan.UNIFORM` where the polynomials of a cell are those that the compiler knows."""

SUMS, COPIES, SUM_ROW, SUM_CELL = plan.ADJOINT_SLOT, plan.COTANGENT_SLOT, plan.CELL_SLOT, plan.VALUE_SLOT
IS_SORTED = plan.SLOPE_SLOT
"""Columns that mean something else here than on the CPU: where a layer's sums of gradients begin in a block's memory,
how many copies of them there are, how far apart those of two edges and of two cells are, and whether they are added in
the order of the samples' cells."""

MAX_THREADS = 256
"""Of a block. A power of two."""

TILES = (64, 32)
"""Samples that run through the network together; the kernels are compiled for one of these."""


class Variant(NamedTuple):
    """What the sources are compiled for, besides types and degrees.

    Attributes
    ----------
    tile : int
        Samples that run through the network together.
    jets_are_shared, theta_is_shared, sums_are_shared : bool
        Whether the tile's jets, a copy of the coefficients and the sums of gradients are in a block's shared memory.
    """

    tile: int = TILES[0]
    jets_are_shared: bool = True
    theta_is_shared: bool = True
    sums_are_shared: bool = True


_PLACES = [(True, True, True), (True, False, True), (True, False, False), (False, False, False)]

VARIANTS: tuple[Variant, ...] = tuple(Variant(tile, *places) for tile in TILES for places in _PLACES)
"""All that the evaluators ask for."""

MERGE_GROUPS = 16
"""Groups of threads among which the merge kernel divides the blocks."""

OPTIONS = ("-std=c++17",)
"""Of the compiler."""


class CallArguments(ctypes.Structure):
    """What a kernel is told: the C++ structure `Call`, which holds `FIELDS` of 8 bytes each; all zero at first."""

    _fields_ = tuple((name, ctypes.c_longlong) for _, name in FIELDS)


_FILES = ("machine", "call", "basis", "layers", "sample", "block", "gradient", "sweeps", "products")
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
    "INPUT_SLOT",
    "OUTPUT_SLOT",
)
_COLUMNS += ("OUTSIDE", "BIAS", "NUMBER", "NUM_FIELDS", "AFFINE", "SPLINE")
_COLUMNS += ("EXTEND", "LINEAR", "CLAMP", "ZERO", "ERROR")


@cache
def source(variant: Variant = VARIANTS[0]) -> str:
    """Join the files, with the constants and the parameters that Python knows.

    Parameters
    ----------
    variant : Variant

    Returns
    -------
    str
        One piece, without includes: CuPy's cache of compiled kernels sees no other files.
    """
    folder = Path(__file__).with_name("cuda")
    parts = {"call": _call(variant)}
    texts = (parts.get(name) or folder.joinpath(f"{name}.cu").read_text() for name in _FILES)
    return "\n".join(texts)


def expression(kernel: str, type_name: str, degree: int, directions: int) -> str:
    """Name the instance of a kernel for a type, a degree and a number of directions.

    Parameters
    ----------
    kernel : str
        A key of `KERNELS`.
    type_name : {"double", "float"}
    degree : int
    directions : int
        Left out where the kernel does not depend on it.

    Examples
    --------
    >>> expression("evaluate", "double", 3, 1), expression("merge", "float", 3, 0)
    ('evaluate<double, 3, 1>', 'merge<float>')
    """
    if kernel == "merge":
        return f"merge<{type_name}>"
    arguments = [type_name, str(degree)]
    if KERNELS[kernel]:
        arguments.append(str(directions))
    return f"{kernel}<{', '.join(arguments)}>"


def _call(variant: Variant) -> str:
    """Constants of the table of layers, and the argument of the kernels."""
    constants = [f"{name} = {getattr(plan, name)}" for name in _COLUMNS]
    own = {"SUMS": SUMS, "COPIES": COPIES, "SUM_ROW": SUM_ROW, "SUM_CELL": SUM_CELL, "CARDINAL": CARDINAL}
    own["IS_SORTED"] = IS_SORTED
    constants += [f"{name} = {value}" for name, value in own.items()]
    constants += [f"MAX_THREADS = {MAX_THREADS}", f"MERGE_GROUPS = {MERGE_GROUPS}"]
    constants += [f"{name.upper()} = {int(value)}" for name, value in variant._asdict().items()]
    members = "\n".join(f"    {kind}{name};" for kind, name in FIELDS)
    return f"enum {{ {', '.join(constants)} }};\ntemplate <typename T> struct Call {{\n{members}\n}};\n"
