"""Dtypes and the checks of user arrays: what is shared, what is refused and in which words."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from kanmg import arrays
from kanmg.errors import (
    DeviceError,
    DomainError,
    DtypeError,
    KanmgTypeError,
    KanmgValueError,
    NonFiniteError,
    ShapeError,
)
from kanmg.problems.regression import Regression

WIDTHS = (2, 5, 1)


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32"), torch.float32, np.zeros(1, "f4").dtype])
def test_dtypes_in_any_spelling(dtype) -> None:
    assert arrays.resolve_dtype(dtype) == np.dtype("float32")
    assert arrays.resolve_dtype(float) == np.dtype("float64")


@pytest.mark.parametrize("dtype", ["float16", torch.bfloat16, int, "floot", None, 3])
def test_other_dtypes_are_refused(dtype) -> None:
    with pytest.raises(DtypeError, match=r"is not supported. Use `dtype='float64'` or `dtype='float32'`"):
        arrays.resolve_dtype(dtype)


def test_arrays_and_tensors_come_in_without_a_copy() -> None:
    array = np.zeros((6, 4), np.float32)[::2, ::-2]
    assert np.shares_memory(arrays.as_columns(array, "x"), array)
    tensor = torch.zeros(3, 2, dtype=torch.float64)
    shared = arrays.as_columns(tensor, "x")
    shared[0, 0] = 7.0
    assert tensor[0, 0] == 7.0
    assert arrays.as_columns(torch.zeros(4, 3).T, "x").shape == (3, 4)


def test_lists_become_float64_and_vectors_one_column() -> None:
    assert arrays.as_columns([[0, 1], [2, 3]], "x").dtype == np.float64
    assert arrays.as_columns([0.5, 1.5, 2.5], "y", allow_vector=True).shape == (3, 1)


def test_results_are_tensors_where_tensors_came_in() -> None:
    result = np.ones((3, 1), np.float32)
    tensor = arrays.like(result, torch.zeros(3, 2))
    assert tensor.dtype == torch.float32
    assert np.shares_memory(tensor.numpy(), result)
    assert arrays.like(result, np.zeros(3)) is result


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (np.zeros((3, 2), int), DtypeError, r"`x` has dtype int64.*Write `x.astype\('float64'\)`"),
        (np.zeros((3, 2), ">f8"), DtypeError, r"Write `x.astype\('float64'\)`"),
        (torch.zeros(3, 2, dtype=torch.float16), DtypeError, r"torch.float16.*Write `x.to\(torch.float64\)`"),
        (torch.zeros(3, 2, device="meta"), DeviceError, r"`x` is a tensor on meta.*Write `x.cpu\(\)`"),
        ("points", DtypeError, r"`x` has dtype <U6"),
        (np.zeros(3), ShapeError, r"\(3,\) but one row per sample is required.*`x.reshape\(-1, 1\)`"),
        (np.zeros((3, 2, 1)), ShapeError, r"\(3, 2, 1\) but one row per sample"),
        (np.zeros((0, 2)), ShapeError, r"`x` is empty: its shape is \(0, 2\). Pass at least one sample"),
        ([], ShapeError, r"`x` "),
    ],
)
def test_unusable_data_are_refused(data, error, message) -> None:
    with pytest.raises(error, match=message):
        arrays.as_columns(data, "x")


@pytest.mark.parametrize(("shape", "any_of_a_row"), [((4,), ""), ((4, 2), r"\.any\(axis=1\)")])
def test_masked_values_are_no_data(shape, any_of_a_row) -> None:
    data = np.ma.masked_greater(np.arange(8.0)[: np.prod(shape)].reshape(shape), 2.5)
    count = int(data.mask.sum())
    with pytest.raises(KanmgValueError, match=f"`x` .* {count} masked value.*getmaskarray.x.{any_of_a_row}`"):
        arrays.as_array(data, "x")
    with pytest.raises(KanmgValueError, match="`y` is a masked array"):
        Regression(np.zeros((len(data), 1)), data)
    unmasked = np.ma.array(np.ones(3))
    np.testing.assert_array_equal(arrays.as_array(unmasked, "x"), np.ones(3))


def test_non_finite_values_are_counted_and_the_first_row_is_named() -> None:
    x = np.zeros((200_000, 2))
    x[150_000, 1], x[150_001] = np.nan, np.inf
    with pytest.raises(NonFiniteError, match=r"`x` contains 3 NaN or infinite values \(the first in row 150000\)"):
        arrays.as_columns(x, "x")
    with pytest.raises(NonFiniteError, match=r"`w` contains 1 NaN or infinite value \(the first in row 1\)"):
        arrays.check_finite(np.array([1.0, -np.inf]), "w")


def test_dtype_mismatch_says_what_to_write() -> None:
    with pytest.raises(DtypeError) as caught:
        arrays.check_dtype(np.zeros((1, 1), np.float32), np.dtype("float64"), "x")
    assert str(caught.value) == (
        "`x` is float32 but `hierarchy` was built with `dtype='float64'`. Convert the data (`x.astype('float64')` in "
        "NumPy, `x.to(torch.float64)` in torch), or build the hierarchy with `dtype='float32'`."
    )


def test_wrong_number_of_columns() -> None:
    with pytest.raises(ShapeError) as caught:
        arrays.check_columns(np.zeros((4, 3)), WIDTHS, "x")
    assert str(caught.value) == (
        "`x` has 3 columns but `hierarchy` was built for 2 inputs (`widths=(2, 5, 1)`). Pass points of shape (N, 2)."
    )
    with pytest.raises(ShapeError, match=r"`y` has 2 columns but `hierarchy` was built for 1 output .*shape \(N, 1\)"):
        arrays.check_columns(np.zeros((4, 2)), WIDTHS, "y", outputs=True)


def test_lengths_that_differ() -> None:
    arrays.check_lengths(x=np.zeros((3, 2)), y=np.zeros((3, 1)), weights=None)
    with pytest.raises(ShapeError, match=r"`x` has 3 rows, `y` has 1 row. Pass the same number of rows"):
        arrays.check_lengths(x=np.zeros((3, 2)), y=np.zeros((1, 1)), weights=None)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            np.array(["1.0", "2.0"]),
            r"`x` has dtype <U3; real numbers are required. Pass an array of float64",
        ),
        ([1.0, None], r"`x` holds an object of type NoneType; real numbers are required"),
        (None, r"`x` holds an object of type NoneType"),
        (np.array([1j]), r"`x` has dtype complex128; real numbers are required"),
        (torch.ones(2, dtype=torch.complex64), r"`x` has dtype torch.complex64; real numbers are required"),
        (np.array(["2020-01-01"], "datetime64[D]"), r"real numbers are required"),
    ],
)
def test_what_is_no_number_is_called_so(data: object, words: str) -> None:
    with pytest.raises(DtypeError, match=words) as caught:
        arrays.as_array(data, "x")
    assert "astype" not in str(caught.value)


def test_rows_of_unequal_length_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"`x` is no array.*Pass rows of equal length"):
        arrays.as_array([[1.0, 2.0], [3.0]], "x")


def test_tensors_that_require_gradients_are_refused() -> None:
    samples = torch.ones(2, 1, requires_grad=True)
    with pytest.raises(KanmgTypeError, match=r"`x` is a tensor that requires gradients, .* Write `x.detach\(\)`"):
        arrays.as_columns(samples, "x")
    with pytest.raises(KanmgTypeError, match=r"`y` is a tensor that requires gradients"):
        Regression(samples.detach(), samples)


def test_points_outside_the_domain() -> None:
    x = np.linspace(-1, 1.31, 200_000).reshape(-1, 2)
    with pytest.raises(DomainError) as caught:
        arrays.check_domain(x, [(-1, 2), (-1, 1)], "points", inputs=("t", "x"))
    count = np.count_nonzero(x[:, 1] > 1)
    assert str(caught.value) == (
        f"`points` contains {count} values outside the domain [-1, 1] of input `x` (largest 1.31). Build the "
        "hierarchy with a `domain` that holds them, or drop them."
    )
    with pytest.raises(DomainError, match=r"1 value outside the domain \[0, 1\] of input 0 \(smallest -0.25\)"):
        arrays.check_domain(np.array([[-0.25], [1.0]]), [(0, 1)], "x")


def test_ends_of_the_domain_lie_inside_in_either_dtype() -> None:
    for dtype in (np.float32, np.float64):
        ends = np.array([[0.1], [0.3], [0.7]], dtype)
        arrays.check_domain(ends, [(0.1, 0.7)], "x")


def test_checks_of_a_million_rows_build_no_large_temporaries() -> None:
    x = np.zeros((1_000_000, 2))
    tracemalloc.start()
    try:
        checked = arrays.as_columns(x, "x")
        arrays.check_domain(checked, [(-1, 1), (-1, 1)], "x")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_row_chunks_cover_all_rows_once() -> None:
    slices = list(arrays.row_chunks(10, 3, entries=12))
    assert [s.stop - s.start for s in slices] == [4, 4, 2]
    assert list(arrays.row_chunks(0, 3)) == []
    assert [s.stop for s in arrays.row_chunks(2, 100, entries=12)] == [1, 2]
