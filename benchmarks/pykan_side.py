"""pykan 0.2.8 as its documentation uses it, quiet and without leaving files behind."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import tempfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import mse_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray


class Refinement(NamedTuple):
    """One level of pykan's grid refinement."""

    num_intervals: int
    test_rmse: float
    seconds: float


@contextlib.contextmanager
def quiet_and_elsewhere() -> Iterator[None]:
    """Swallow what pykan prints, and run where its checkpoints do not matter."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield


def pykan() -> Any:
    """Import pykan without opening windows."""
    os.environ.setdefault("MPLBACKEND", "agg")
    return importlib.import_module("kan")


def loss_and_gradient(
    widths: Sequence[int], num_intervals: int, x: torch.Tensor, y: torch.Tensor, *, speed: bool
) -> Callable[[], None]:
    """Return pykan's own loss and gradient: forward, mean squared error, backward; `speed` as after `model.speed()`."""
    with quiet_and_elsewhere():
        model = pykan().KAN(width=list(widths), grid=num_intervals, k=3, seed=0, auto_save=False)
    model.double()
    if speed:
        model.speed()

    def evaluate() -> None:
        model.zero_grad()
        mse_loss(model(x), y).backward()

    assert model(x).dtype == torch.float64  # noqa: S101  (the comparison would be unfair)
    return evaluate


def refine_and_fit(
    widths: Sequence[int],
    grids: Sequence[int],
    steps: int,
    train: tuple[NDArray[Any], NDArray[Any]],
    test: tuple[NDArray[Any], NDArray[Any]],
) -> list[Refinement]:
    """Run the documented refinement: fit with L-BFGS, refine, fit, and so on.

    In float32 and from seed 1, as in pykan's first example. Seconds are those of construction, refinement and fitting
    so far.
    """
    dataset = {
        name: torch.from_numpy(np.asarray(values, dtype=np.float32))
        for name, values in zip(
            ("train_input", "train_label", "test_input", "test_label"), (*train, *test), strict=True
        )
    }
    kan = pykan()
    levels: list[Refinement] = []
    with quiet_and_elsewhere():
        start = time.perf_counter()
        model = kan.KAN(width=list(widths), grid=grids[0], k=3, seed=1)
        for number, grid in enumerate(grids):
            if number > 0:
                model = model.refine(grid)
            model.fit(dataset, opt="LBFGS", steps=steps)
            seconds = time.perf_counter() - start
            levels.append(Refinement(grid, _rmse(model, dataset), seconds))
    return levels


def _rmse(model: Any, dataset: dict[str, torch.Tensor]) -> float:
    with torch.no_grad():
        return float(torch.sqrt(mse_loss(model(dataset["test_input"]), dataset["test_label"])))
