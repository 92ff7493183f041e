"""Weights of terms and points that follow the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kanmg.errors import KanmgValueError, ShapeError
from kanmg.smoothers.base import require_count, require_fraction, require_positive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kanmg.evaluators.base import Array, Evaluator
    from kanmg.problems.base import Problem

__all__ = ["Attention", "Balance", "Weights", "weigh"]


@dataclass(frozen=True)
class Attention:
    """Weigh the points of each term by the residuals that they have had: residual-based attention.

    Parameters
    ----------
    decay : float, default 0.9
        gamma: how much of a weight is kept, from [0, 1).
    rate : float, default 0.5
        eta: weights tend to at most `rate / (1 - decay)`.
    every : int, default 20
        Smoothing steps of a level between two updates of its weights, at which smoothers begin anew: more for L-BFGS.

    Notes
    -----
    lambda_i <- gamma lambda_i + eta |r_i| / max_j |r_j|, from lambda_i = 1; the loss has (lambda_i r_i)^2 [1]_. As
    `Collocation.with_weights` divides by the sum of the weights of a term, only their ratios count. Updates are few
    here, a handful on a level, and change the weights accordingly; there they follow every step of a first-order
    method.

    References
    ----------
    .. [1] S. J. Anagnostopoulos, J. D. Toscano, N. Stergiopulos, G. E. Karniadakis, Residual-based attention in
       physics-informed neural networks, Comput. Methods Appl. Mech. Engrg. 421 (2024).
       doi:10.1016/j.cma.2024.116805

    Examples
    --------
    >>> import numpy as np
    >>> Attention(decay=0.5, rate=0.5).updated(np.ones(3), np.array([4.0, -2.0, 0.0])).tolist()
    [1.0, 0.75, 0.5]
    """

    decay: float = 0.9
    rate: float = 0.5
    every: int = 20

    def __post_init__(self) -> None:
        require_count("Attention", 1, every=self.every)
        require_fraction("Attention", decay=self.decay)
        require_positive("Attention", rate=self.rate)

    def updated(self, weights: Array, residuals: Array) -> Array:
        """Return the next lambda of the points of one term.

        Parameters
        ----------
        weights : ndarray, shape (N,)
            lambda so far.
        residuals : ndarray, shape (N,)
            Without weights; of several at a point, the root of the sum of the squares: `Collocation.magnitudes`.

        Returns
        -------
        ndarray, shape (N,)
            `weights` as they are if all residuals are 0, or one is not finite.

        Raises
        ------
        ShapeError
            If the two do not have one shape (N,).
        """
        if np.ndim(residuals) != 1 or np.shape(weights) != np.shape(residuals):
            raise ShapeError(
                f"`weights` has shape {np.shape(weights)} but `residuals` {np.shape(residuals)}. Pass one number of "
                "each for every point, shape (N,)."
            )
        sizes = np.abs(residuals)
        largest = sizes.max(initial=0.0)
        if not 0.0 < largest < np.inf:
            return weights
        return np.asarray(self.decay * weights + self.rate * (sizes / largest))


@dataclass(frozen=True)
class Balance:
    """Weigh terms so that all of them pull at the coefficients alike.

    Parameters
    ----------
    memory : float, default 0.5
        Part of the logarithms of the factors so far that is kept, from [0, 1).
    max_ratio : float, default 1e4
        Bound on the ratio of the largest to the smallest factor, at least 1.
    every : int, default 20
        Smoothing steps of a level between two updates of its factors, at which smoothers begin anew: more for L-BFGS.

    Notes
    -----
    A term's factor is inversely proportional to its strength: the norm of its gradient [1]_, `term_gradient_norms`, or
    the trace of its J^T J [2]_, `term_traces`, which does not vanish where the term is solved: methods take the second.
    Strengths below the largest one over `max_ratio` count as that. The product of all factors is 1.

    References
    ----------
    .. [1] S. Wang, Y. Teng, P. Perdikaris, Understanding and mitigating gradient flow pathologies in physics-informed
       neural networks, SIAM J. Sci. Comput. 43 (2021). doi:10.1137/20M1318043
    .. [2] S. Wang, X. Yu, P. Perdikaris, When and why PINNs fail to train: a neural tangent kernel perspective,
       J. Comput. Phys. 449 (2022). doi:10.1016/j.jcp.2021.110768

    Examples
    --------
    >>> [round(factor, 6) for factor in Balance(memory=0.0).updated((1.0, 1.0), [100.0, 1.0])]
    [0.1, 10.0]
    """

    memory: float = 0.5
    max_ratio: float = 1e4
    every: int = 20

    def __post_init__(self) -> None:
        require_count("Balance", 1, every=self.every)
        require_fraction("Balance", memory=self.memory)
        require_positive("Balance", max_ratio=self.max_ratio)
        if self.max_ratio < 1.0:
            raise KanmgValueError(f"`Balance` got `max_ratio={self.max_ratio:g}`. It must be at least 1.")

    def updated(self, factors: Sequence[float], strengths: Any) -> tuple[float, ...]:
        """Return the next factors of the terms.

        Parameters
        ----------
        factors : sequence of float
            So far; ones to begin with.
        strengths : sequence of float
            Of the terms with the weights that their problem states, not with these factors.

        Returns
        -------
        tuple of float
            `factors` as they are if no strength is positive, or one is not finite.

        Raises
        ------
        ShapeError
            If there is not one strength for each factor.
        """
        sizes = np.asarray(strengths, np.float64)
        if sizes.shape != (len(factors),):
            raise ShapeError(
                f"`strengths` has shape {sizes.shape} but there are {len(factors)} factors. Pass one number for each "
                "term."
            )
        largest = sizes.max(initial=0.0)
        if not 0.0 < largest < np.inf:
            return tuple(factors)
        wanted = -np.log(np.maximum(sizes, largest / self.max_ratio))
        logarithms = self.memory * np.log(factors) + (1.0 - self.memory) * (wanted - wanted.mean())
        return tuple(np.exp(logarithms).tolist())


# eq=False: objectives are found by their weights, which are never changed.
@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """What the weights of a problem are multiplied with: what `Collocation.with_weights` takes.

    Attributes
    ----------
    factors : tuple of float
        One for each term.
    points : tuple of ndarray or None
        lambda of all points of each term; None: all alike.
    """

    factors: tuple[float, ...]
    points: tuple[Array, ...] | None = None

    def without_points(self) -> Weights:
        """Return the factors of the terms alone."""
        return Weights(self.factors)


def weigh(
    problem: Problem,
    seen: Problem,
    evaluator: Evaluator,
    theta: Array,
    weights: Weights | None,
    attention: Attention | None,
    balance: Balance | None,
) -> tuple[Weights, float]:
    """Update the weights of a problem at the coefficients that are reached.

    Parameters
    ----------
    problem : Problem
        With the weights that it states, and all points.
    seen : Problem
        The same on the points that the level sees, of which the strengths of terms are those.
    evaluator : Evaluator
    theta : ndarray, shape (num_coefficients,)
    weights : Weights or None
        So far; None: ones.
    attention : Attention or None
        How points are weighed; None: not at all.
    balance : Balance or None
        How terms are weighed; None: not at all.

    Returns
    -------
    weights : Weights
    work : float
        Multiply-adds: a loss for the residuals, a loss and gradient for the strengths.
    """
    names = tuple(problem.term_weights)
    weights = weights or Weights((1.0,) * len(names))
    factors, points, work = weights.factors, weights.points, 0.0
    if balance is not None:
        traces = seen.term_traces(evaluator, theta)
        factors = balance.updated(factors, [traces[name] for name in names])
        work += seen.work(evaluator)
    if attention is not None:
        sizes = problem.magnitudes(evaluator, theta)
        before = points or tuple(np.ones(len(sizes[name])) for name in names)
        points = tuple(attention.updated(own, sizes[name]) for own, name in zip(before, names, strict=True))
        work += problem.work(evaluator, gradient=False)
    return Weights(factors, points), work
