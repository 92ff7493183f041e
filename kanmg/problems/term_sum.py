"""Losses that are sums over terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kanmg.problems.base import Problem
from kanmg.vectors import beside, joined, to_host, zeros, zeros_like

if TYPE_CHECKING:
    from collections.abc import Iterator

    import scipy.sparse

    from kanmg.evaluators.base import Array, Evaluator
    from kanmg.problems.bound_term import BoundTerm
    from kanmg.problems.terms import Term

__all__ = ["TermSum"]


class TermSum(Problem):
    """The part of a collocation problem that adds up its terms."""

    takes_tensors = True
    _bound: tuple[BoundTerm, ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms of the loss."""
        return tuple(bound.term for bound in self._bound)

    @property
    def term_weights(self) -> dict[str, float]:
        """Weights of the terms by their names."""
        return {term.name: term.weight for term in self.terms}

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of all points."""
        return self.terms[0].points.dtype

    @property
    def num_samples(self) -> int:
        return sum(map(len, self.terms))

    @property
    def num_residuals(self) -> int:
        return sum(bound.num_residuals for bound in self._bound)

    def loss(self, evaluator: Evaluator, theta: Array, batch: int | None = None) -> float:  # noqa: ARG002
        # On a device the parts are added there, so that one number comes back.
        return float(sum(bound.loss(evaluator, theta) for bound in self._bound))

    def loss_and_gradient(
        self,
        evaluator: Evaluator,
        theta: Array,
        batch: int | None = None,  # noqa: ARG002 - there is one batch
    ) -> tuple[float, Array]:
        gradient = zeros_like(theta)
        loss = sum(bound.add_gradient(evaluator, theta, gradient) for bound in self._bound)
        return float(loss), gradient

    def term_losses(self, evaluator: Evaluator, theta: Array) -> dict[str, float]:
        """Evaluate the parts of the loss, weights included.

        Parameters
        ----------
        evaluator : Evaluator
        theta : ndarray, shape (num_coefficients,)
            The network's coefficients, and one unknown for each parameter behind them.

        Returns
        -------
        dict of str to float
            By the names of the terms.
        """
        return {bound.term.name: float(bound.loss(evaluator, theta)) for bound in self._bound}

    def term_gradient_norms(self, evaluator: Evaluator, theta: Array) -> dict[str, float]:
        """Evaluate the Euclidean norms of the gradients of the parts of the loss.

        Parameters
        ----------
        evaluator : Evaluator
        theta : ndarray, shape (num_coefficients,)

        Returns
        -------
        dict of str to float
            By the names of the terms.
        """
        norms = {}
        for bound in self._bound:
            gradient = zeros_like(theta)
            bound.add_gradient(evaluator, theta, gradient)
            norms[bound.term.name] = float(np.linalg.norm(to_host(gradient)))
        return norms

    def term_traces(self, evaluator: Evaluator, theta: Array) -> dict[str, float]:
        """Evaluate the traces of J^T J of the terms, weights included, J by the network's coefficients.

        Parameters
        ----------
        evaluator : Evaluator
        theta : ndarray, shape (num_coefficients,)

        Returns
        -------
        dict of str to float
            By the names of the terms.
        """
        return {bound.term.name: bound.trace(evaluator, theta) for bound in self._bound}

    def magnitudes(self, evaluator: Evaluator, theta: Array) -> dict[str, Array]:
        """Evaluate the residuals without weights: at each point the root of the sum of the squares.

        Parameters
        ----------
        evaluator : Evaluator
        theta : ndarray, shape (num_coefficients,)

        Returns
        -------
        dict of str to ndarray, shape (N,)
            By the names of the terms; 0 at points of weight 0.
        """
        return {bound.term.name: bound.magnitudes(evaluator, theta) for bound in self._bound}

    def validation_loss(self, evaluator: Evaluator, theta: Array) -> float | None:
        """Evaluate the loss with candidates in the place of the points of terms that have them; None if none has."""
        candidates = [bound.candidates for bound in self._bound]
        if all(other is None for other in candidates):
            return None
        pairs = zip(self._bound, candidates, strict=True)
        return float(sum((bound if other is None else other).loss(evaluator, theta) for bound, other in pairs))

    def residuals(self, evaluator: Evaluator, theta: Array) -> Array:
        return joined([bound.residuals(evaluator, theta) for bound in self._bound])

    def pull_back(self, evaluator: Evaluator, theta: Array, cotangents: Array) -> Array:
        gradient, start = zeros_like(theta), 0
        for bound in self._bound:
            part = beside(cotangents, theta)[start : start + bound.num_residuals]
            bound.add_pull_back(evaluator, theta, part, gradient)
            start += bound.num_residuals
        return gradient

    def jacobian_rows(self, evaluator: Evaluator, theta: Array) -> Iterator[scipy.sparse.csr_array]:
        for bound in self._bound:
            yield from bound.jacobian_rows(evaluator, theta)

    def normal_equations(self, evaluator: Evaluator, theta: Array) -> tuple[float, Array, Array]:
        vector, matrix = zeros_like(theta), zeros((len(theta), len(theta)), theta)
        loss = sum(bound.add_normal_equations(evaluator, theta, vector, matrix) for bound in self._bound)
        return float(loss), 2.0 * vector, 2.0 * matrix

    def work(self, evaluator: Evaluator, batch: int | None = None, *, gradient: bool = True) -> float:  # noqa: ARG002
        """Count the multiply-adds of one loss, with its gradient or without.

        A jet with D directions of order r counts as 1 + D r values.

        Parameters
        ----------
        evaluator : Evaluator
        batch : int, optional
            There is one batch.
        gradient : bool, default True
        """
        cost = evaluator.cost_per_sample if gradient else evaluator.value_cost_per_sample
        return cost * sum(len(bound.term) * bound.cost_factor for bound in self._bound)
