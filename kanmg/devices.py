"""Devices, and the one bridge between torch and CuPy.

On a GPU torch owns the memory, and CuPy compiles and launches the kernels: they share addresses (DLPack) and torch's
current stream. Nothing here imports CuPy before a CUDA device is asked for.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

import numpy as np
import torch
import torch.utils.dlpack

from kanmg.arrays import as_array, unusable_dtype
from kanmg.errors import DeviceError

__all__ = ["current_stream", "import_cupy", "is_cupy", "on_device", "resolve_device", "tensor_of_cupy"]

_DEVICE = re.compile(r"(cpu|cuda)(:\d+)?")


def resolve_device(device: Any) -> str:
    """Return the name of the device that is meant.

    Parameters
    ----------
    device : str or torch.device

    Returns
    -------
    str
        "cpu", or "cuda:0", "cuda:1", ...; "cuda" is torch's current device.

    Raises
    ------
    DeviceError
        If the device is unknown or cannot be used.

    Examples
    --------
    >>> resolve_device("cpu")
    'cpu'
    """
    name = str(device)
    if not _DEVICE.fullmatch(name):
        raise DeviceError(f"`device={name!r}` is unknown. Valid devices are 'cpu' and 'cuda' (or 'cuda:0', ...).")
    if not name.startswith("cuda"):
        return "cpu"
    import_cupy(name)
    number = int(name.partition(":")[2] or torch.cuda.current_device())
    if number >= torch.cuda.device_count():
        raise DeviceError(
            f"`device={name!r}` was asked for, but there are {torch.cuda.device_count()} CUDA devices, numbered from "
            "0. Use `device='cuda:0'`."
        )
    return f"cuda:{number}"


def import_cupy(device: str) -> Any:
    """Import CuPy, which compiles and launches the kernels, and check that it and torch see a CUDA device.

    Parameters
    ----------
    device : str
        What the user asked for.

    Returns
    -------
    module

    Raises
    ------
    DeviceError
        If CuPy is not installed, or CuPy or torch sees no device.
    """
    asked = f"`device={device!r}` was asked for, but"
    wheels = "`pip install cupy-cuda13x` (or `cupy-cuda12x`, as the driver's version says)"
    try:
        cupy = importlib.import_module("cupy")
        is_available = cupy.cuda.is_available()
    # A package that does not fit its libraries fails in any way, and a folder of this name is imported as a package.
    except Exception as error:
        raise DeviceError(
            f"{asked} CuPy cannot be imported or used ({type(error).__name__}: {error}). Install it anew with "
            f"{wheels}. Use `device='cpu'` otherwise."
        ) from error
    if not is_available:
        raise DeviceError(
            f"{asked} CuPy sees no CUDA device. Install a driver for CuPy's version of CUDA (`nvidia-smi` shows the "
            f"driver's), or CuPy for the driver's with {wheels}. Use `device='cpu'` otherwise."
        )
    if not torch.cuda.is_available():
        raise DeviceError(
            f"{asked} torch {torch.__version__} sees no CUDA device. Install a build of torch for CUDA (see "
            "https://pytorch.org/get-started/locally). Use `device='cpu'` otherwise."
        )
    return cupy


def current_stream(device: int) -> int:
    """Return the address of torch's current stream of a device, on which CuPy launches the kernels.

    Parameters
    ----------
    device : int
        Number of the CUDA device.

    Returns
    -------
    int
        What is launched there is ordered with what torch does.
    """
    return int(torch.cuda.current_stream(device).cuda_stream)


def is_cupy(data: Any) -> bool:
    """Whether this is an array on a CUDA device of another library than torch."""
    return not isinstance(data, torch.Tensor) and hasattr(data, "__cuda_array_interface__")


def tensor_of_cupy(data: Any) -> torch.Tensor:
    """Return a CuPy array as a tensor that shares its memory, or a copy's if there are negative strides.

    Parameters
    ----------
    data : CuPy array
    """
    # Handed negative strides, torch ends the process.
    if any(stride < 0 for stride in data.__cuda_array_interface__.get("strides") or ()):
        data = data.copy()
    tensor: torch.Tensor = torch.utils.dlpack.from_dlpack(data)
    return tensor


def on_device(data: Any, device: torch.device, name: str) -> torch.Tensor:
    """Return data as a contiguous tensor of float64 or float32 on a device.

    Parameters
    ----------
    data : Tensor, CuPy array, ndarray or array_like
        Tensors and CuPy arrays must be on the device, and share their memory with the result if they are contiguous.
        NumPy arrays are copied there.
    device : torch.device
    name : str
        What error messages call the data.

    Returns
    -------
    Tensor

    Raises
    ------
    DeviceError
        If a tensor or a CuPy array is elsewhere.
    DtypeError, ShapeError
        As `as_array`.

    Examples
    --------
    >>> on_device([1.0, 1.0], torch.device("cpu"), "x")
    tensor([1., 1.], dtype=torch.float64)
    """
    # What smoothers pass, at once.
    if type(data) is torch.Tensor and data.device == device and data.is_contiguous() and not data.requires_grad:
        is_aligned = data.data_ptr() % data.element_size() == 0
        if is_aligned and data.dtype in (torch.float64, torch.float32):
            return data
    if is_cupy(data):
        data = tensor_of_cupy(data)
    if not isinstance(data, torch.Tensor):
        array = as_array(data, name)
        # torch can share neither read-only memory nor negative strides.
        return torch.from_numpy(np.array(array, order="C")).to(device)
    if data.device != device:
        raise DeviceError(
            f"`{name}` is a tensor on {data.device}, but `hierarchy` was built with `device='{device}'`. Write "
            f"`{name}.to('{device}')`, or pass a NumPy array, which is copied there."
        )
    if data.dtype not in (torch.float32, torch.float64):
        raise unusable_dtype(data, name)
    tensor = data.detach().contiguous()
    # Views of raw bytes, which CuPy can make, may begin anywhere.
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor
