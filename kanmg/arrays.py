"""Dtypes, and the checks of arrays that users pass.

NumPy arrays and torch tensors come in without a copy. Large arrays are looked at in chunks of rows, so that no check
builds a temporary as large as the data. Every error says what to write instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from kanmg.errors import (
    DeviceError,
    DomainError,
    DtypeError,
    KanmgTypeError,
    KanmgValueError,
    NonFiniteError,
    ShapeError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "Array",
    "as_array",
    "as_columns",
    "check_columns",
    "check_domain",
    "check_dtype",
    "check_finite",
    "check_lengths",
    "check_no_gradients",
    "like",
    "resolve_dtype",
    "row_chunks",
    "unusable_dtype",
]

Array = npt.NDArray[Any]

_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}
_CHUNK_ENTRIES = 1 << 17


def resolve_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the NumPy dtype that is meant.

    Parameters
    ----------
    dtype : str, numpy.dtype, NumPy scalar type or torch.dtype
        float64 or float32, in any spelling.

    Returns
    -------
    numpy.dtype

    Raises
    ------
    DtypeError
        If it is neither.

    Examples
    --------
    >>> resolve_dtype(torch.float32)
    dtype('float32')
    """
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES and dtype is not None:  # NumPy takes None for float64
        try:
            name = np.dtype(dtype).name
        except TypeError:
            name = repr(dtype)
    if name not in _DTYPES:
        raise DtypeError(f"`dtype={dtype!r}` is not supported. Use `dtype='float64'` or `dtype='float32'`.")
    return _DTYPES[name]


def as_array(data: Any, name: str) -> Array:
    """Return data as a NumPy array of float64 or float32 that shares their memory.

    Parameters
    ----------
    data : ndarray, Tensor or array_like
        Nested lists of numbers become float64; arrays keep their dtype.
    name : str
        What error messages call the data.

    Returns
    -------
    ndarray

    Raises
    ------
    DeviceError
        If a tensor is not on the CPU.
    DtypeError
        If the data are anything but float64 or float32.
    ShapeError
        If rows have unequal lengths.
    KanmgValueError
        If values are masked: there is no mask in what is returned.
    """
    if isinstance(data, torch.Tensor):
        return _from_tensor(data, name)
    if np.ma.is_masked(data):
        _refuse_mask(data, name)
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise ShapeError(f"`{name}` is no array: {error} Pass rows of equal length.") from None
    if not hasattr(data, "dtype") and array.dtype.kind in "iub":
        array = array.astype(np.float64)
    if array.dtype.kind not in "fiub":
        what = f"has dtype {array.dtype}" if array.dtype.kind != "O" else f"holds {_first_stranger(array)}"
        raise DtypeError(f"`{name}` {what}; real numbers are required. Pass an array of float64 or float32.")
    if array.dtype not in _DTYPES.values():
        raise DtypeError(
            f"`{name}` has dtype {array.dtype}; float64 or float32 is required. Write `{name}.astype('float64')`."
        )
    return array


def _refuse_mask(data: Any, name: str) -> None:
    """Say how to drop the rows that have masked values."""
    mask = np.ma.getmaskarray(data)
    count = int(np.count_nonzero(mask))
    axes = "" if mask.ndim < 2 else ".any(axis=1)" if mask.ndim == 2 else f".any(axis={tuple(range(1, mask.ndim))})"
    raise KanmgValueError(
        f"`{name}` is a masked array with {_plural(count, 'masked value')}, which would be taken for data. Keep the "
        f"rows without any, the same ones of all arrays: `keep = ~np.ma.getmaskarray({name}){axes}`, then "
        f"`{name}.data[keep]`."
    )


def _first_stranger(array: Array) -> str:
    """Name the type of the first entry of an object array that is no real number."""
    strangers = (entry for entry in array.flat if not isinstance(entry, int | float | np.number))
    return f"an object of type {type(next(strangers, array.flat[0] if array.size else None)).__name__}"


def _from_tensor(tensor: torch.Tensor, name: str) -> Array:
    """View a tensor as an array."""
    if tensor.device.type != "cpu":
        raise DeviceError(f"`{name}` is a tensor on {tensor.device}; it must be on the CPU. Write `{name}.cpu()`.")
    if tensor.dtype not in (torch.float32, torch.float64):
        raise unusable_dtype(tensor, name)
    return tensor.detach().numpy()


def unusable_dtype(tensor: torch.Tensor, name: str) -> DtypeError:
    """Say what is wrong with the dtype of a tensor that is neither float64 nor float32.

    Parameters
    ----------
    tensor : Tensor
    name : str

    Returns
    -------
    DtypeError
        To be raised.
    """
    if tensor.dtype.is_complex or tensor.is_quantized:
        return DtypeError(f"`{name}` has dtype {tensor.dtype}; real numbers are required.")
    return DtypeError(
        f"`{name}` has dtype {tensor.dtype}; torch.float64 or torch.float32 is required. "
        f"Write `{name}.to(torch.float64)`."
    )


def check_no_gradients(data: Any, name: str) -> None:
    """Refuse a tensor that requires gradients where the caller would wait for them in vain.

    Parameters
    ----------
    data : object
        Points or samples. (Coefficients may require gradients: `Objective` returns them.)
    name : str

    Raises
    ------
    KanmgTypeError
    """
    if isinstance(data, torch.Tensor) and data.requires_grad:
        raise KanmgTypeError(
            f"`{name}` is a tensor that requires gradients, and none flow through kanmg. Write `{name}.detach()`; "
            "`solution.derivative` gives derivatives of a solution."
        )


def as_columns(data: Any, name: str, *, allow_vector: bool = False) -> Array:
    """Return samples as a finite, non-empty array with one row per sample.

    Parameters
    ----------
    data : ndarray, Tensor or array_like, shape (N, d)
    name : str
        What error messages call the data.
    allow_vector : bool, default False
        Take shape (N,) for one column.

    Returns
    -------
    ndarray, shape (N, d)
        It shares memory with `data`.

    Raises
    ------
    ShapeError
        If the data are no matrix, or empty.
    NonFiniteError
        If there are NaN or infinite values.
    DtypeError, DeviceError
        As `as_array`.
    KanmgTypeError
        As `check_no_gradients`.
    """
    check_no_gradients(data, name)
    array = as_array(data, name)
    if array.ndim == 1 and allow_vector:
        array = array[:, np.newaxis]
    if array.ndim != 2:
        vector = f"; for one column write `{name}.reshape(-1, 1)`" if array.ndim == 1 else ""
        raise ShapeError(f"`{name}` has shape {array.shape} but one row per sample is required, (N, d){vector}.")
    if array.size == 0:
        raise ShapeError(f"`{name}` is empty: its shape is {array.shape}. Pass at least one sample.")
    check_finite(array, name)
    return array


def check_finite(array: Array, name: str) -> None:
    """Refuse NaN and infinity, telling how many there are and where the first is.

    Parameters
    ----------
    array : ndarray, shape (N, ...)
    name : str

    Raises
    ------
    NonFiniteError
    """
    count, first = 0, -1
    for rows in row_chunks(len(array), array[:1].size):
        bad = ~np.isfinite(array[rows])
        found = int(np.count_nonzero(bad))
        if found and not count:
            first = rows.start + int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
        count += found
    if count:
        raise NonFiniteError(
            f"`{name}` contains {count} NaN or infinite value{'s' if count > 1 else ''} (the first in row {first}). "
            "Remove or replace them."
        )


def check_dtype(array: Array | torch.Tensor, dtype: np.dtype[Any], name: str) -> None:
    """Refuse data of another dtype than the hierarchy's: nothing is converted silently.

    Parameters
    ----------
    array : ndarray or Tensor
    dtype : numpy.dtype
    name : str

    Raises
    ------
    DtypeError
    """
    found: Any = str(array.dtype).removeprefix("torch.") if isinstance(array, torch.Tensor) else array.dtype
    if found != dtype:
        raise DtypeError(
            f"`{name}` is {found} but `hierarchy` was built with `dtype='{dtype}'`. "
            f"Convert the data (`{name}.astype('{dtype}')` in NumPy, `{name}.to(torch.{dtype})` in torch), or build "
            f"the hierarchy with `dtype='{found}'`."
        )


def check_columns(array: Array, widths: Sequence[int], name: str, *, outputs: bool = False) -> None:
    """Refuse data with more or fewer columns than the network has inputs, or outputs.

    Parameters
    ----------
    array : ndarray, shape (N, d)
    widths : sequence of int
        The network's.
    name : str
    outputs : bool, default False
        Whether the data are outputs.

    Raises
    ------
    ShapeError
    """
    width, kind, what = (widths[-1], "output", "values") if outputs else (widths[0], "input", "points")
    columns = array.shape[1]
    if columns != width:
        raise ShapeError(
            f"`{name}` has {_plural(columns, 'column')} but `hierarchy` was built for {_plural(width, kind)} "
            f"(`widths={tuple(widths)}`). Pass {what} of shape (N, {width})."
        )


def check_lengths(**arrays: Array | None) -> None:
    """Refuse arrays that do not have one row for each sample.

    Parameters
    ----------
    **arrays : ndarray or None
        By the names that the user knows; None is skipped.

    Raises
    ------
    ShapeError
    """
    lengths = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"`{name}` has {_plural(length, 'row')}" for name, length in lengths.items())
        raise ShapeError(f"{found}. Pass the same number of rows in each, one per sample.")


def check_domain(
    x: Array, domain: Sequence[tuple[float, float]], name: str, *, inputs: Sequence[str] | None = None
) -> None:
    """Refuse points outside the domain, telling how many there are and the one farthest out.

    Parameters
    ----------
    x : ndarray, shape (N, d)
    domain : sequence of (float, float), length d
    name : str
    inputs : sequence of str, optional
        The names of the inputs; their numbers otherwise.

    Raises
    ------
    DomainError

    Notes
    -----
    The ends are compared in the dtype of `x`, so that a float32 point on the end of the interval lies inside.
    """
    for index, (a, b) in enumerate(domain):
        count, worst = _outside(x[:, index], a, b)
        if count:
            label = f"{index}" if inputs is None else f"`{inputs[index]}`"
            raise DomainError(
                f"`{name}` contains {count} value{'s' if count > 1 else ''} outside the domain [{a:g}, {b:g}] of input "
                f"{label} ({'largest' if worst > b else 'smallest'} {worst!s}). Build the hierarchy with a `domain` "
                "that holds them, or drop them."
            )


def _outside(column: Array, a: float, b: float) -> tuple[int, Any]:
    """Count the values outside [a, b] and return the one farthest from it."""
    count, low, high = 0, column.dtype.type(a), column.dtype.type(b)
    for rows in row_chunks(len(column), 1):
        chunk = column[rows]
        count += int(np.count_nonzero((chunk < a) | (chunk > b)))
        low, high = min(low, chunk.min()), max(high, chunk.max())
    return count, high if high - b >= a - low else low


def like(result: Array, original: Any) -> Any:
    """Return a result as a torch tensor if the user's own array was one.

    Parameters
    ----------
    result : ndarray
    original : ndarray, Tensor or array_like

    Returns
    -------
    ndarray or Tensor
        It shares memory with `result`.

    Examples
    --------
    >>> like(np.ones(2), torch.zeros(2))
    tensor([1., 1.], dtype=torch.float64)
    """
    return torch.from_numpy(result) if isinstance(original, torch.Tensor) else result


def row_chunks(num_rows: int, row_size: int, entries: int = _CHUNK_ENTRIES) -> Iterator[slice]:
    """Cut rows into slices of a bounded number of entries.

    Parameters
    ----------
    num_rows : int
    row_size : int
        Entries per row.
    entries : int, optional
        At most so many entries in one slice, but at least one row.

    Yields
    ------
    slice

    Examples
    --------
    >>> list(row_chunks(5, 2, entries=4))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, entries // max(1, row_size))
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def _plural(number: int, noun: str) -> str:
    """`1 column`, `2 columns`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
