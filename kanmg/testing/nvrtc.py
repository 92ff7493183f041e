"""NVIDIA's compiler for CUDA sources, which needs no device: the wheel `nvidia-cuda-nvrtc`."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Compiled", "compile_cuda", "find_file"]


class Compiled(NamedTuple):
    """What the compiler returned.

    Attributes
    ----------
    status : int
        0 if it could compile.
    log : str
    ptx : bytes
        Empty after an error.
    code : bytes
        Machine code; empty for virtual architectures such as `compute_90`.
    """

    status: int
    log: str
    ptx: bytes = b""
    code: bytes = b""


def find_file(pattern: str) -> Path | None:
    """Find a file of NVIDIA's wheels.

    Parameters
    ----------
    pattern : str
        Below the folder `nvidia`, such as "*/lib/libnvrtc.so.*".

    Returns
    -------
    Path or None
        The last one in the order of names; None if there is none.
    """
    spec = importlib.util.find_spec("nvidia")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return max((path for folder in folders for path in Path(folder).glob(pattern)), default=None)


def compile_cuda(text: str, names: Sequence[str], options: Sequence[str]) -> Compiled:
    """Compile instances of templates.

    Parameters
    ----------
    text : str
        The source.
    names : sequence of str
        Of the instances, such as "merge<double>".
    options : sequence of str
        Of the compiler, the architecture among them.

    Returns
    -------
    Compiled

    Raises
    ------
    FileNotFoundError
        If the compiler is not installed.
    """
    path = find_file("*/lib/libnvrtc.so.*")
    if path is None:
        raise FileNotFoundError("NVRTC is not installed. Write `pip install nvidia-cuda-nvrtc`.")
    nvrtc, program = ctypes.CDLL(str(path)), ctypes.c_void_p()
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kanmg.cu", 0, None, None))
    for name in names:
        _check(nvrtc.nvrtcAddNameExpression(program, name.encode()))
    status = nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*map(str.encode, options))
    )
    log = _part(nvrtc, program, "ProgramLog").decode().rstrip("\0")
    ptx, code = (_part(nvrtc, program, name) for name in ("PTX", "CUBIN")) if status == 0 else (b"", b"")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return Compiled(status, log, ptx, code)


def _part(nvrtc: Any, program: ctypes.c_void_p, name: str) -> bytes:
    """Copy a part of the result."""
    size = ctypes.c_size_t()
    _check(getattr(nvrtc, f"nvrtcGet{name}Size")(program, ctypes.byref(size)))
    part = ctypes.create_string_buffer(size.value)
    _check(getattr(nvrtc, f"nvrtcGet{name}")(program, part))
    return part.raw


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"NVRTC returned error {status}")
