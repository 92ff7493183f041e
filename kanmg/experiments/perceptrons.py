"""Variants that train multilayer perceptrons by torch alone, on the same problems."""

from __future__ import annotations

import copy
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from kanmg.experiments.experiment import Instant, Size, Trained, Variant
from kanmg.problems.collocation import Collocation
from kanmg.problems.fields import Field
from kanmg.threads import one_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kanmg.arrays import Array
    from kanmg.gallery import ModelProblem
    from kanmg.problems.terms import Term

__all__ = ["LossOfPerceptron", "Perceptron", "make_network"]

_ACTIVATIONS: dict[str, Callable[[], torch.nn.Module]] = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}

# How far to either side of an interface its derivatives are taken.
_BESIDE = 1e-9

# So many instants are kept of a course.
_KEPT = 40


@dataclass(frozen=True, kw_only=True)
class Perceptron(Variant):
    """Train a multilayer perceptron by one of torch's optimisers.

    Parameters
    ----------
    widths : sequence of int
    activation : {"relu", "tanh"}
    optimizer : type
        Of `torch.optim`.
    options : tuple of (str, object)
        What it is called with.
    steps : int
    schedule : callable, optional
        Factor of the step size as a function of the number of steps done.

    Notes
    -----
    Weights are drawn as torch does, in float64. Work counts an evaluation of loss and gradient as one unit.
    """

    widths: Sequence[int]
    activation: Literal["relu", "tanh"] = "tanh"
    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam
    options: tuple[tuple[str, Any], ...] = (("lr", 1e-3),)
    steps: int = 1000
    schedule: Callable[[int], float] | None = None

    def train(self, model: ModelProblem, seed: int, size: Size, *, progress: bool) -> Trained:
        network = make_network(self.widths, self.activation, seed)
        loss_of = LossOfPerceptron(model, network)
        optimizer: Any = self.optimizer(network.parameters(), **dict(self.options))
        factor = self.schedule or (lambda _: 1.0)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        (steps,) = size.scaled((self.steps,))
        every = max(1, steps // _KEPT)
        course: list[Instant] = []
        begin = time.perf_counter()
        with one_thread():
            for step in tqdm(range(steps), unit="step", dynamic_ncols=True, leave=False, disable=not progress):
                loss = float(optimizer.step(loss_of))
                scheduler.step()
                if step % every == 0:
                    # L-BFGS and Adam return the loss that they began the step with.
                    seconds = time.perf_counter() - begin
                    course.append(Instant(loss_of.evaluations, seconds, 0, loss, frozen(network, loss_of.inputs)))
            seconds = time.perf_counter() - begin
            loss = float(loss_of.value().detach())
        function = frozen(network, loss_of.inputs)
        count = sum(parameter.numel() for parameter in network.parameters())
        return Trained(function, loss, count, float(loss_of.evaluations), seconds, tuple(course))


def make_network(widths: Sequence[int], activation: str, seed: int) -> torch.nn.Sequential:
    """Build a perceptron with torch's own initial weights.

    Parameters
    ----------
    widths : sequence of int
    activation : {"relu", "tanh"}
    seed : int

    Examples
    --------
    >>> sum(parameter.numel() for parameter in make_network((2, 5, 1), "relu", 0).parameters())
    21
    """
    layers: list[torch.nn.Module] = []
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        for inputs, outputs in itertools.pairwise(widths):
            layers += [torch.nn.Linear(inputs, outputs, dtype=torch.float64), _ACTIVATIONS[activation]()]
    return torch.nn.Sequential(*layers[:-1])


def frozen(network: torch.nn.Module, inputs: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Array], Array]:
    """Return a network as a function of arrays that further training does not change.

    Parameters
    ----------
    network : torch.nn.Module
    inputs : callable
        Coordinates to inputs of the network.
    """
    own = copy.deepcopy(network)

    def function(x: Array) -> Array:
        with torch.no_grad():
            return np.asarray(own(inputs(torch.from_numpy(x))).numpy())

    return function


class LossOfPerceptron:
    """The loss of a problem for a network of torch: a closure for torch's optimisers.

    Parameters
    ----------
    model : ModelProblem
        Of a regression, or of equations whose terms have no point weights.
    network : torch.nn.Module

    Attributes
    ----------
    evaluations : int
        Calls so far.
    inputs : callable
        Coordinates to inputs of the network.

    Examples
    --------
    >>> from kanmg import gallery
    >>> network = make_network((2, 3, 1), "tanh", seed=0)
    >>> loss = LossOfPerceptron(gallery.kan2(50, 40), network)
    >>> loss().item() == loss.value().item(), loss.evaluations
    (True, 1)
    """

    def __init__(self, model: ModelProblem, network: torch.nn.Module) -> None:
        self.evaluations = 0
        self._network = network
        problem = model.problem
        self._terms: tuple[Term, ...] = ()
        ansatz = None
        if isinstance(problem, Collocation):
            self._terms, self._coordinates, ansatz = problem.terms, problem.coordinates, problem.ansatz
        else:
            self._x, self._y = torch.from_numpy(model.x), torch.from_numpy(model.y)
        given = None if ansatz is None else ansatz.inputs
        self.inputs: Callable[[torch.Tensor], torch.Tensor] = given or (lambda x: x)

    def __call__(self) -> torch.Tensor:
        """Evaluate the loss, and leave its gradient with the parameters."""
        self.evaluations += 1
        for parameter in self._network.parameters():
            parameter.grad = None
        loss = self.value()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def value(self) -> torch.Tensor:
        """Evaluate the loss."""
        if not self._terms:
            return torch.mean((self._network(self._x) - self._y) ** 2)
        return torch.stack([term.weight * self._term(term) for term in self._terms]).sum()

    def _term(self, term: Term) -> torch.Tensor:
        """Return the mean squared residual of a term."""
        points = torch.from_numpy(term.points)
        found: dict[tuple[tuple[int, ...], str], torch.Tensor] = {}
        places: dict[str, torch.Tensor] = {}

        def look_up(request: tuple[int, ...], side: str) -> torch.Tensor:
            if (request, side) not in found:
                if not request:
                    normals = 0.0 if term.normals is None else torch.from_numpy(term.normals)
                    shift = {"": 0.0, "+": _BESIDE, "-": -_BESIDE}[side] * normals
                    places[side] = (points + shift).requires_grad_()
                    found[request, side] = self._network(self.inputs(places[side]))[:, 0]
                else:
                    lower = look_up(request[:-1], side)
                    slopes = torch.autograd.grad(lower.sum(), places[side], create_graph=True)[0]
                    for coordinate in range(points.shape[1]):
                        found[(*request[:-1], coordinate), side] = slopes[:, coordinate]
            return found[request, side]

        field = Field("u", self._coordinates, look_up)
        residual = term.residual(points, field)
        return torch.mean(residual**2)
