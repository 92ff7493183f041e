"""Any optimiser of torch as a smoother."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.smoothers.base import Smoother, StepRecord
from kanmg.vectors import norm

if TYPE_CHECKING:
    from collections.abc import Callable

    from kanmg.evaluators.base import Array
    from kanmg.objective import SmoothFunction

__all__ = ["TorchOptimizer", "TorchOptimizerState"]


@dataclass(frozen=True, slots=True)
class TorchOptimizerState:
    """What `TorchOptimizer` remembers on one level.

    Attributes
    ----------
    entries : dict
        The optimiser's own state of its one parameter, tensors as arrays unless the coefficients are one.
    """

    entries: dict[str, Any]


@dataclass(frozen=True, init=False, repr=False)
class TorchOptimizer(Smoother[TorchOptimizerState]):
    """An optimiser of `torch.optim`, or any other with its interface.

    Its steps are, bit for bit, those of a plain loop over `optimizer.step(closure)` on one flat parameter.

    Parameters
    ----------
    optimizer : type
        A subclass of `torch.optim.Optimizer`.
    **options
        What its constructor takes besides the parameters.

    Raises
    ------
    KanmgTypeError
        If `optimizer` is no such class.
    KanmgValueError
        If it refuses the options.

    Notes
    -----
    `StepRecord.loss` is that of the first evaluation within the step, which is where the step started. Options that a
    learning-rate scheduler would change stay as they are.

    Examples
    --------
    >>> import torch
    >>> import kanmg
    >>> kanmg.TorchOptimizer(torch.optim.SGD, lr=1e-2, momentum=0.9)
    TorchOptimizer(torch.optim.sgd.SGD, lr=0.01, momentum=0.9)
    """

    optimizer: type[torch.optim.Optimizer]
    options: tuple[tuple[str, Any], ...]

    def __init__(self, optimizer: type[torch.optim.Optimizer], **options: Any) -> None:
        if not (isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)):
            raise KanmgTypeError(
                f"`TorchOptimizer` got {optimizer!r}. Pass a subclass of `torch.optim.Optimizer` and its options, such "
                "as `kanmg.TorchOptimizer(torch.optim.SGD, lr=1e-2)`."
            )
        object.__setattr__(self, "optimizer", optimizer)
        object.__setattr__(self, "options", tuple(options.items()))
        try:
            self._make(torch.zeros(1))
        except (TypeError, ValueError) as error:
            raise KanmgValueError(f"`{self!r}` is refused: {error}. Pass the options that it takes.") from error

    @property
    def needs_derivatives(self) -> bool:
        """Of torch's own optimisers, `LBFGS` only."""
        return issubclass(self.optimizer, torch.optim.LBFGS)

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options)
        return f"TorchOptimizer({self.optimizer.__module__}.{self.optimizer.__qualname__}{options})"

    def init(self, objective: SmoothFunction, theta: Array) -> TorchOptimizerState:  # noqa: ARG002
        """Begin as the optimiser does, with nothing; nothing is evaluated."""
        return TorchOptimizerState({})

    def step(
        self, objective: SmoothFunction, theta: Array, state: TorchOptimizerState
    ) -> tuple[Array, TorchOptimizerState, StepRecord]:
        """Do one step of the optimiser."""
        given: Any = theta
        is_on_device = isinstance(given, torch.Tensor)
        parameter: torch.Tensor = given.clone() if is_on_device else torch.tensor(given)
        optimizer = self._make(parameter)
        if state.entries:
            # `load_state_dict` would cast some entries to the dtype of the parameter and change bits.
            optimizer.state[parameter] = _loaded(state.entries)
        evaluations: list[tuple[float, float]] = []

        def closure() -> torch.Tensor:
            # A new view at every call: whoever remembers a point remembers it by its identity.
            point: Any = parameter.detach() if is_on_device else parameter.numpy()
            loss, gradient = objective.value_and_gradient(point)
            evaluations.append((loss, norm(gradient)))
            parameter.grad = torch.as_tensor(gradient)
            return torch.tensor(loss)

        with np.errstate(over="ignore", invalid="ignore"):  # divergence shows in the record
            optimizer.step(closure)  # type: ignore[arg-type]
        entries = _kept(optimizer.state[parameter], as_arrays=not is_on_device)
        loss, gradient_norm = evaluations[0]
        step_size = float(optimizer.param_groups[0].get("lr", math.nan))
        result: Any = parameter if is_on_device else parameter.numpy()
        return result, TorchOptimizerState(entries), StepRecord(loss, gradient_norm, step_size)

    def _make(self, parameter: torch.Tensor) -> torch.optim.Optimizer:
        """Construct the optimiser."""
        return self.optimizer([parameter], **dict(self.options))


def _kept(value: Any, *, as_arrays: bool) -> Any:
    """Take what an optimiser remembers into a state, to the last bit: tensors as arrays, or as they are."""
    return _mapped(value, lambda entry: entry.detach().numpy() if as_arrays else entry.detach())


def _loaded(value: Any) -> Any:
    """Give an optimiser what it remembers, as tensors of its own: it writes to them."""
    return _mapped(value, lambda entry: torch.tensor(entry) if isinstance(entry, np.ndarray) else entry.clone())


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Change all tensors and arrays of a nested container."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(entry, change) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(entry, change) for entry in value)
    return value
