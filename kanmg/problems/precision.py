"""Numbers of a residual that have lost digits: tensors of float32 beside those of float64."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from kanmg.errors import DtypeError, KanmgTypeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["exact_numbers"]

# These say which dtype is meant.
_CONVERSIONS = {"to", "type", "type_as", "double", "float", "half"}


class _SeesRoundedNumbers(TorchFunctionMode):
    """Looks for operations of float64 tensors with others that have lost digits, which torch makes float64 silently.

    Attributes
    ----------
    found : str
        What is wrong, of the first of them. Not raised at once: operators of torch pass over a TypeError.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found = ""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        arguments = kwargs or {}
        if getattr(func, "__name__", "") not in _CONVERSIONS:
            tensors = [leaf for leaf in tree_leaves((args, arguments)) if isinstance(leaf, torch.Tensor)]
            if any(tensor.dtype == torch.float64 for tensor in tensors):
                self.found = self.found or next(filter(None, map(_lost_digits, tensors)), "")
        return func(*args, **arguments)


def _lost_digits(tensor: torch.Tensor) -> str:
    """Say what is wrong with a tensor of fewer digits than float64; empty if it holds numbers that need no more."""
    if not tensor.dtype.is_floating_point or tensor.dtype == torch.float64:
        return ""
    # The shortest decimal number that is rounded to an entry is the one that was written, if digits were lost.
    numbers = tensor.detach().to(torch.float32).reshape(-1).cpu().numpy()
    written = np.array([float(str(number)) for number in numbers])
    rounded = written != numbers
    if not rounded.any():
        return ""
    example = written[rounded][0]
    return (
        f"the residual computes with float64 and with a tensor of {tensor.dtype}, in which {example:g} is "
        f"{float(numbers[rounded][0]):.17g}: torch makes the result float64, but its digits are lost. Write the number "
        f"itself, {example:g}, or `torch.tensor({example:g}, dtype=torch.float64)`; `.to(torch.float64)` says that the "
        "fewer digits are meant."
    )


@contextmanager
def exact_numbers() -> Iterator[None]:
    """Refuse what costs a residual digits or gradients without an error of torch or NumPy.

    Raises
    ------
    DtypeError
        If an operation has tensors of float64 and others whose numbers were rounded to float32 or less.
    KanmgTypeError
        If a function of NumPy gets a tensor.
    """
    with warnings.catch_warnings(record=True) as caught, _SeesRoundedNumbers() as seen:
        warnings.simplefilter("always")
        yield
    if seen.found:
        raise DtypeError(seen.found)
    for warning in caught:
        if "__array_wrap__" in str(warning.message):
            raise KanmgTypeError(
                "the residual passes a tensor to a function of NumPy. Use torch's: `torch.sin(x)`, not `np.sin(x)`."
            )
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
