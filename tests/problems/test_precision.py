"""Residuals that lose digits, or use NumPy, without an error of their own."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import kanmg
from kanmg.errors import DtypeError, KanmgTypeError

POINTS = np.linspace(0.0, 1.0, 9)[:, None]
SMALL, TWO = torch.tensor(0.01), torch.tensor([2.0])
EXACT = torch.tensor(0.01, dtype=torch.float64)


def stated(residual, dtype=np.float64):
    return kanmg.Collocation(
        coordinates=("x",), fields=("u",), terms=[kanmg.Term("equation", residual, POINTS.astype(dtype))]
    )


@pytest.mark.parametrize(
    "residual",
    [
        lambda _, u: u.d("x", "x") * SMALL - u.value,
        lambda _, u: SMALL * u.d("x", "x") - u.value,
        lambda x, u: torch.where(x[:, 0] > 0.5, u.value, SMALL),
        lambda _, u: torch.add(u.value, SMALL[None]),
        lambda _, u: u.value - torch.full((), 0.01, dtype=torch.float16),
        lambda x, u: torch.stack([u.value, SMALL.expand(len(x))], dim=1),
    ],
)
def test_numbers_rounded_to_fewer_digits_are_refused(residual):
    with pytest.raises(DtypeError, match=r"the residual computes with float64.*Write the number itself") as info:
        stated(residual)
    assert "`torch.tensor(0.01" in str(info.value)


def test_the_message_tells_both_numbers():
    with pytest.raises(DtypeError, match=r"in which 0\.01 is 0\.0099999997764825821:.*torch\.tensor\(0\.01, dtype="):
        stated(lambda _, u: u.value * SMALL)


@pytest.mark.parametrize(
    "residual",
    [
        lambda _, u: u.value * TWO + 0.5 * u.d("x"),
        lambda _, u: u.value * EXACT,
        lambda _, u: u.value * 0.01,
        lambda _, u: u.value * SMALL.to(torch.float64),
        lambda x, u: u.value * SMALL.to(x),
        lambda _, u: u.value * torch.tensor(3),
    ],
)
def test_numbers_with_all_their_digits_are_not(residual):
    assert stated(residual).num_residuals == len(POINTS)


def test_float32_problems_have_float32_numbers():
    assert stated(lambda _, u: u.value * SMALL, np.float32).dtype == np.float32


def test_functions_of_numpy_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            KanmgTypeError, match=r"function of NumPy. Use torch's: `torch.sin\(x\)`, not `np.sin\(x\)`"
        ):
            stated(lambda x, u: u.value - np.sin(x[:, 0]))


def test_other_warnings_of_a_residual_are_the_users():
    def residual(_, u):
        warnings.warn("mind this", stacklevel=1)
        return u.value

    with pytest.warns(UserWarning, match="mind this"):
        stated(residual)
