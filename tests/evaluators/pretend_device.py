"""A device that is none: tensors on the CPU with a tag, and torch refusing what it refuses for tensors on CUDA."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from cuda_standin import Standin
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

SCALARS = {torch.Tensor.item, torch.Tensor.__float__, torch.Tensor.__bool__, torch.Tensor.__int__, torch.Tensor.tolist}
ARRAYS = {torch.Tensor.numpy, torch.Tensor.__array__}
METHODS = (
    "value", "jet", "adjoint", "jet_adjoint", "jet_jacobian", "squared_error", "squared_error_value", "jacobian",
    "gauss_newton", "jet_gauss_newton", "jvp",
)  # fmt: skip


def is_there(tensor):
    return getattr(tensor, "is_there", False)


def tensors_of(*values):
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def tag(result):
    for tensor in tensors_of(result):
        tensor.is_there = True
    return result


class PretendDevice(TorchFunctionMode):
    """Tensors that are made with `device=`, moved by `.to(device)`, or computed from such tensors are on the device.

    Attributes
    ----------
    numbers : int
        How often a number was read from the device.
    copies : int
        How often an array was copied there or back.
    """

    def __init__(self):
        super().__init__()
        self.numbers = self.copies = 0
        self.is_paused = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.is_paused:
            return function(*args, **kwargs)
        given = tensors_of(args, kwargs)
        there = [tensor for tensor in given if is_there(tensor)]
        if function is torch.Tensor.cpu and there:
            self.copies += 1
            return function(*args, **kwargs).clone()
        if function is torch.Tensor.copy_ and there:
            self.copies += len(there) == 1
            return function(*args, **kwargs)
        if function is torch.Tensor.to:
            return self._moved(function, args, kwargs)
        if there and function in ARRAYS:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        self.numbers += bool(there) and function in SCALARS
        if there and any(tensor.ndim and not is_there(tensor) for tensor in given):
            raise RuntimeError(f"Expected all tensors to be on the same device: {function}")
        result = function(*args, **kwargs)
        return tag(result) if there or isinstance(kwargs.get("device"), torch.device) else result

    def _moved(self, function, args, kwargs):
        tensor, target, *_ = (*args, kwargs.get("device"))
        result = function(*args, **kwargs)
        goes = isinstance(target, torch.device) or (isinstance(target, torch.Tensor) and is_there(target))
        if goes and not is_there(tensor):
            self.copies += 1
            return tag(result.clone())
        return tag(result) if is_there(tensor) else result


class Call(NamedTuple):
    method: str
    address: int | None
    has_tensors: bool


PRETENDED = []


class Spy(Standin):
    """The stand-in of the GPU evaluator, which takes tensors on the pretended device only, and remembers the points."""

    def __init__(self, *args, **kwargs):
        self.seen = []
        self._depth = 0
        super().__init__(*args, **kwargs)


def _watched(name):
    method = getattr(Standin, name)

    @functools.wraps(method)
    def watched(self, *args, **kwargs):
        if self._depth or not PRETENDED:
            return method(self, *args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor | np.ndarray)]
        theta, x, *_ = args
        (mode,) = PRETENDED
        self._depth, mode.is_paused = 1, True
        if len(x):
            address = x.data_ptr() if isinstance(x, torch.Tensor) else None
            self.seen.append(Call(name, address, all(isinstance(each, torch.Tensor) for each in given)))
        assert len({isinstance(each, torch.Tensor) and is_there(each) for each in given}) == 1, name
        try:
            result = method(self, *args, **kwargs)
            return tag(result) if isinstance(theta, torch.Tensor) else result
        finally:
            self._depth, mode.is_paused = 0, False

    return watched


for _name in METHODS:
    setattr(Spy, _name, _watched(_name))


class Pretending:
    """A context in which the pretended device is watched."""

    def __enter__(self):
        self.mode = PretendDevice()
        PRETENDED.append(self.mode)
        self.mode.__enter__()
        return self.mode

    def __exit__(self, *error):
        self.mode.__exit__(*error)
        PRETENDED.remove(self.mode)
