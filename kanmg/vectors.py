"""NumPy arrays on the CPU, torch tensors on a device: what the two spell differently, and the ways between them.

Whoever computes with coefficients, gradients or residuals uses the operators that both share, and these functions. So
the same code runs on the host and on a device, and nothing leaves the device but the numbers that are asked for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from kanmg.arrays import like

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kanmg.arrays import Array

__all__ = [
    "Copies",
    "beside",
    "copied",
    "inner_products",
    "is_tensor",
    "joined",
    "norm",
    "product",
    "returned",
    "square_roots",
    "stacked",
    "sum_of_squares",
    "to_device",
    "to_host",
    "zeros",
    "zeros_like",
]

Key = TypeVar("Key")
Kept = TypeVar("Kept")


class Copies(dict[Key, Kept]):
    """What is kept on devices, by the device: empty in copies and files of its owner, which make their own.

    Examples
    --------
    >>> import copy
    >>> copy.deepcopy(Copies({"cuda:0": 1.0}))
    {}
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


def is_tensor(array: Any) -> bool:
    """Whether this is a torch tensor, not a NumPy array."""
    return isinstance(array, torch.Tensor)


def to_device(array: Any, device: torch.device | None) -> Any:
    """Copy a NumPy array to a device; None: leave it as it is.

    Parameters
    ----------
    array : ndarray
    device : torch.device or None

    Returns
    -------
    Tensor or ndarray
    """
    if device is None:
        return array
    # torch can share neither read-only memory nor negative strides.
    return torch.from_numpy(np.array(array, order="C")).to(device)


def to_host(array: Any) -> Array:
    """Copy a tensor to the host, as a NumPy array; NumPy arrays are returned as they are."""
    result: Array = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array
    return result


def beside(array: Any, other: Any) -> Any:
    """Take an array to where another one is.

    Examples
    --------
    >>> beside(np.ones(2), torch.zeros(2))
    tensor([1., 1.], dtype=torch.float64)
    """
    if isinstance(other, torch.Tensor):
        return array.to(other.device) if isinstance(array, torch.Tensor) else to_device(array, other.device)
    return to_host(array)


def returned(result: Any, original: Any) -> Any:
    """Return a result in the kind of the user's own array, and on its device."""
    if isinstance(original, torch.Tensor) and (isinstance(result, torch.Tensor) or original.device.type != "cpu"):
        return beside(result, original)
    return like(to_host(result), original)


def zeros(shape: tuple[int, ...], like: Array) -> Array:
    """Zeros of the kind, dtype and device of another array."""
    other: Any = like
    return np.zeros(shape, like.dtype) if type(like) is np.ndarray else other.new_zeros(shape)


def zeros_like(array: Array) -> Array:
    """Zeros of the shape, kind, dtype and device of another array."""
    other: Any = array
    return np.zeros_like(array) if isinstance(other, np.ndarray) else other.new_zeros(other.shape)


def copied(array: Array) -> Array:
    """Return a copy."""
    other: Any = array
    return array.copy() if isinstance(other, np.ndarray) else other.clone()


def square_roots(array: Array) -> Array:
    """Return the square roots of all entries."""
    other: Any = array
    return np.sqrt(array) if isinstance(other, np.ndarray) else other.sqrt()


def sum_of_squares(array: Array) -> Any:
    """Sum the squares of all entries in float64: a number, or a tensor that holds it."""
    other: Any = array
    return np.square(array, dtype=np.float64).sum() if isinstance(other, np.ndarray) else other.double().square().sum()


def joined(parts: Sequence[Array]) -> Array:
    """Concatenate vectors of one kind."""
    first: Any = parts[0]
    return np.concatenate(parts) if isinstance(first, np.ndarray) else torch.cat(list(parts))  # type: ignore[arg-type,return-value]


def stacked(parts: Sequence[Array]) -> Array:
    """Put vectors of one kind into the rows of a matrix."""
    first: Any = parts[0]
    return np.stack(parts) if isinstance(first, np.ndarray) else torch.stack(list(parts))  # type: ignore[arg-type,return-value]


def inner_products(a: Array, b: Array) -> tuple[float, float, float]:
    """Return the inner products of a and b, of b with itself and of a with itself, read from a device together."""
    ab, bb, aa = a.dot(b), b.dot(b), a.dot(a)
    if type(a) is np.ndarray:
        return float(ab), float(bb), float(aa)
    found: tuple[float, float, float] = tuple(torch.stack([ab, bb, aa]).tolist())
    return found


def product(a: Array, b: Array) -> Array:
    """Matrix product of two arrays of one or two dimensions: `a @ b`, in half the time if they are small."""
    return a.dot(b) if type(a) is np.ndarray else a @ b


def norm(vector: Array) -> float:
    """Euclidean norm."""
    return math.sqrt(float(vector.dot(vector)))
