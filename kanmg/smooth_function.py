"""What smoothers ask of an objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kanmg.evaluators.base import Array
    from kanmg.network import Network
    from kanmg.problems.linearisation import Linearisation

__all__ = ["SmoothFunction"]


class SmoothFunction(Protocol):
    """What smoothers ask of an objective.

    Attributes
    ----------
    batch : int or None
        Number of the mini-batch that evaluations see; None: all samples.
    steps_per_epoch : int
        Number of mini-batches in an epoch; 1: every evaluation sees all samples.
    evaluations : int
        Calls of `value`, `value_and_gradient` and the methods of sums of squares so far.
    work : float
        Multiply-adds of the evaluations so far.
    linear_part : slice
        Where the coefficients lie in which the network is linear: those of its last layer. Asked for by few smoothers.
    network : Network or None
        Whose coefficients come first in the vectors that are passed; a problem's parameters follow. None where it is
        not known. Asked for by few smoothers.
    """

    batch: int | None

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def linear_part(self) -> slice: ...

    @property
    def network(self) -> Network | None: ...

    @property
    def evaluations(self) -> int: ...

    @property
    def work(self) -> float: ...

    def value(self, theta: Array) -> float: ...

    def value_and_gradient(self, theta: Array) -> tuple[float, Array]: ...

    def residuals(self, theta: Array) -> Array: ...

    def pull_back(self, theta: Array, cotangents: Array) -> Array: ...

    def normal_equations(self, theta: Array) -> tuple[float, Array, Array]: ...

    def linearised(self, theta: Array) -> Linearisation: ...
