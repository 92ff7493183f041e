"""Fairing: the smoothest coefficients among those that fit equally well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
import torch

from kanmg.errors import KanmgValueError
from kanmg.network import Spline
from kanmg.objective import Objective
from kanmg.smoothers.damped_equations import as_array_like, as_tensor
from kanmg.smoothers.levenberg_marquardt import LevenbergMarquardt
from kanmg.vectors import norm

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from kanmg.evaluators.base import Array
    from kanmg.hierarchy import Level
    from kanmg.network import Network
    from kanmg.problems.base import Problem
    from kanmg.problems.linearisation import Linearisation
    from kanmg.splines.knots import Knots

__all__ = ["FAIRING_SMOOTHER", "Faired", "FairedObjective", "fair", "jumps"]

FAIRING_SMOOTHER = LevenbergMarquardt(linear_solver="cholesky")

# The first weight makes typical jumps, all together, count for this part of the loss.
FIRST_SHARE = 0.01

# What failed is tried again with so much less weight, so many times.
LESS_WEIGHT, NUM_WEIGHTS = 0.01, 6

# Steps for one weight; fewer if so many together lower the penalised loss by less than this part of it.
STEPS, IDLE_STEPS, IDLE = 20, 5, 0.1

# How far losses may rise: that of all samples, and that of the few that are held back, which tells less.
HIGHEST_LOSS, HIGHEST_HELD_BACK = 1.05, 1.2

# Values of a standardised problem are of unit size, its Gauss-Newton matrix has no larger entries by far.
LARGEST_WEIGHT = 1.0


@dataclass(frozen=True, slots=True)
class Faired:
    """What fairing has found.

    Attributes
    ----------
    theta : ndarray, shape (num_coefficients,)
        The coefficients that were given, if none of those tried fits as well.
    loss : float
    gradient_norm : float
        Of the loss; NaN if nothing was found.
    held_back : float or None
        Loss at held-back points; None if there are none.
    has_changed : bool
        Whether other coefficients were found.
    steps : int
        That were made.
    work : float
        Multiply-adds.
    """

    theta: Array
    loss: float
    gradient_norm: float
    held_back: float | None
    has_changed: bool
    steps: int
    work: float


def fair(
    problem: Problem,
    level: Level,
    theta: Array,
    highest_loss: float = np.inf,
    is_interrupted: Callable[[], bool] = lambda: False,
) -> Faired:
    """Move coefficients that the data hardly determine to where the splines are smoothest.

    Where no sample goes, a fit does what rounding and the path of the smoother make it do: coefficients at the ends of
    hidden intervals are seen by few samples through a tiny value of a basis function, or by none. Here the jumps of the
    highest derivative at the knots are minimised together with the loss, with a weight that is small against it.

    Parameters
    ----------
    problem : Problem
        Whose loss is a sum of squares, without mini-batches.
    level : Level
    theta : ndarray, shape (num_coefficients,)
        A minimum, or near one; with the problem's parameters behind the coefficients.
    highest_loss : float, optional
        What the loss may be at most.
    is_interrupted : callable, optional
        Asked between steps; if true nothing further is tried.

    Returns
    -------
    Faired
        Losses are at most 5 % above those before, that at held-back points at most 20 %.

    Notes
    -----
    The penalty is Dierckx's measure of smoothness [1]_, on equidistant knots the differences of P-splines [2]_. Its
    weight follows the loss: as if jumps were normally distributed with the median of their squares as variance, and
    residuals with the loss, times 0.01. If the losses rise too much, the same is tried from `theta` with 0.01 of the
    weight, six times at most. Each weight takes up to 20 steps of Levenberg-Marquardt.

    References
    ----------
    .. [1] P. Dierckx, Curve and Surface Fitting with Splines, Oxford University Press, 1993.
    .. [2] P. H. C. Eilers, B. D. Marx, Flexible smoothing with B-splines and penalties, Statist. Sci. 11 (1996) 89-121.
       doi:10.1214/ss/1038425655
    """
    objective = Objective(problem, level)
    # Where knots are free, the penalty is that of the knots that fairing begins with.
    fixed = level.network.at(_numpy(theta)[: level.network.num_coefficients])
    rows = jumps(fixed, len(theta) - fixed.num_coefficients)
    sizes = np.abs(rows @ _numpy(theta))
    penalty_rows = rows if isinstance(theta, np.ndarray) else torch.as_tensor(rows.toarray(), device=theta.device)
    loss, held_back = objective.value(theta), problem.validation_loss(level.evaluator, theta)
    steps = 0
    # Jumps of exact polynomials are what rounding makes of them.
    typical = max(float(np.median(sizes)), np.finfo(np.float64).eps * float(sizes.max())) if len(sizes) else 0.0
    if loss > 0.0 and typical > 0.0:
        weight = min(FIRST_SHARE * loss / (len(sizes) * typical**2), LARGEST_WEIGHT)
        for _ in range(NUM_WEIGHTS):
            tried, number = _smooth(FairedObjective(objective, penalty_rows, weight), theta, is_interrupted)
            steps += number
            if is_interrupted():
                break
            reached = objective.value(tried)
            unseen = problem.validation_loss(level.evaluator, tried)
            if reached <= min(HIGHEST_LOSS * loss, highest_loss) and _is_as_low(unseen, held_back):
                length = norm(objective.value_and_gradient(tried)[1])
                return Faired(tried, reached, length, unseen, has_changed=True, steps=steps, work=objective.work)
            weight *= LESS_WEIGHT
    return Faired(theta, loss, np.nan, held_back, has_changed=False, steps=steps, work=objective.work)


def jumps(network: Network, num_parameters: int = 0) -> scipy.sparse.csr_array:
    """Return the matrix whose products are the jumps of every spline's k-th derivative at its knots.

    Parameters
    ----------
    network : Network
    num_parameters : int, default 0
        Numbers behind the coefficients, which have no jumps.

    Returns
    -------
    csr_array, shape (number of jumps, num_coefficients + num_parameters)
        One row of unit length for every spline of degree k and simple knot inside its interval. On equidistant knots
        the entries are the binomial coefficients of k + 1 with alternating signs.

    Examples
    --------
    >>> import kanmg
    >>> network = kanmg.Network([kanmg.Spline(1, 1, knots=kanmg.uniform_knots(2, degree=1))])
    >>> (jumps(network).toarray() * 6**0.5).round(12)
    array([[ 1., -2.,  1.]])
    """
    size = network.num_coefficients
    blocks = []
    for layer, numbers in zip(network.layers, network.unflatten(np.arange(size)), strict=True):
        if not isinstance(layer, Spline):
            continue
        for knots, columns in zip(layer.knots, np.asarray(numbers), strict=True):
            own = _jumps(knots)
            for column in columns.T:
                choice = scipy.sparse.csr_array(
                    (np.ones(len(column)), (np.arange(len(column)), column)), shape=(len(column), size + num_parameters)
                )
                blocks.append(own @ choice)
    if not blocks:
        return scipy.sparse.csr_array((0, size + num_parameters))
    return scipy.sparse.csr_array(scipy.sparse.vstack(blocks, format="csr"))


def _jumps(knots: Knots) -> scipy.sparse.csr_array:
    """Return the jumps of one spline's k-th derivative: B-splines are divided differences of truncated powers."""
    t, k = knots.vector, knots.degree
    inner = range(k + 1, len(t) - k - 1)
    rows = scipy.sparse.lil_array((len(inner), knots.num_basis))
    for row, j in enumerate(inner):
        starts = range(j - k - 1, j + 1)
        spans = [np.delete(t[i : i + k + 2], j - i) for i in starts]
        # Relative to the interval, so that nothing over- or underflows.
        scale = t[-1] - t[0]
        entries = [(span.max(initial=t[j]) - span.min(initial=t[j])) / scale for span in spans]
        entries = [entry / np.prod((t[j] - span) / scale) for entry, span in zip(entries, spans, strict=True)]
        rows[row, starts] = np.array(entries) / np.linalg.norm(entries) * np.sign(entries[0])
    return scipy.sparse.csr_array(rows)


class FairedObjective:
    """A loss plus the weighted squares of jumps.

    Parameters
    ----------
    objective : Objective
    rows : csr_array, or Tensor where the coefficients are tensors
        What `jumps` returns. On a device the matrix is dense: of the size of the Gauss-Newton matrix, and multiplied
        with the same bits every time.
    weight : float
    """

    def __init__(self, objective: Objective, rows: scipy.sparse.csr_array | torch.Tensor, weight: float) -> None:
        self._objective = objective
        self._rows: Any = rows * weight**0.5
        self._matrix = 2.0 * (self._rows.T @ self._rows)
        self.batch: int | None = None
        self.steps_per_epoch = objective.steps_per_epoch
        self.linear_part = objective.linear_part
        self.network = objective.network

    @property
    def evaluations(self) -> int:
        """Evaluations of the loss so far."""
        return self._objective.evaluations

    @property
    def work(self) -> float:
        """Multiply-adds of the loss so far."""
        return self._objective.work

    def _penalty(self, theta: Array) -> float:
        weighted = self._rows @ _vector(theta)
        return float(weighted @ weighted)

    def value(self, theta: Array) -> float:
        """Return loss and penalty."""
        return self._objective.value(theta) + self._penalty(theta)

    def value_and_gradient(self, theta: Array) -> tuple[float, Array]:
        """Return loss and penalty, and the gradient of both."""
        loss, gradient = self._objective.value_and_gradient(theta)
        return loss + self._penalty(theta), gradient + _like(self._matrix @ _vector(theta), gradient)

    def residuals(self, theta: Array) -> Array:
        """Return the residuals, and the weighted jumps behind them."""
        own = self._objective.residuals(theta)
        return as_array_like(torch.cat([as_tensor(own), as_tensor(self._rows @ _vector(theta))]), own)

    def pull_back(self, theta: Array, cotangents: Array) -> Array:
        """Return the product of the transposed Jacobian with a vector."""
        number = self._rows.shape[0]
        own, others = cotangents[: len(cotangents) - number], cotangents[len(cotangents) - number :]
        pulled = self._objective.pull_back(theta, own)
        total: Array = pulled + _like(self._rows.T @ _vector(others), pulled)
        return total

    def normal_equations(self, theta: Array) -> tuple[float, Array, Array]:
        """Return loss and penalty, gradient and Gauss-Newton matrix."""
        loss, gradient, matrix = self._objective.normal_equations(theta)
        gradient = gradient + _like(self._matrix @ _vector(theta), gradient)
        return loss + self._penalty(theta), gradient, _like(matrix + self._matrix, matrix)

    def linearised(self, theta: Array) -> Linearisation:  # noqa: ARG002
        """Refuse: the systems are solved by Cholesky's method."""
        raise KanmgValueError("fairing has no sparse Jacobian. Use `LevenbergMarquardt(linear_solver='cholesky')`.")


def _smooth(objective: FairedObjective, theta: Array, is_interrupted: Callable[[], bool]) -> tuple[Array, int]:
    """Minimise a loss with penalty, and count the steps."""
    state = FAIRING_SMOOTHER.init(objective, theta)
    losses = [state.loss]
    while len(losses) <= STEPS and not is_interrupted():
        theta, state, record = FAIRING_SMOOTHER.step(objective, theta, state)
        losses.append(record.loss)
        is_idle = len(losses) > IDLE_STEPS and losses[-1 - IDLE_STEPS] - losses[-1] < IDLE * losses[-1 - IDLE_STEPS]
        if record.stalled or is_idle:
            break
    return theta, len(losses) - 1


def _is_as_low(unseen: float | None, before: float | None) -> bool:
    """Whether the loss at held-back points has not risen visibly; true if there are none."""
    return unseen is None or before is None or unseen <= HIGHEST_HELD_BACK * before


def _numpy(array: Array) -> npt.NDArray[np.float64]:
    numbers: npt.NDArray[np.float64] = as_tensor(array).detach().cpu().numpy()
    return numbers


def _vector(array: Array) -> Any:
    """Take numbers in double precision, where they are."""
    other: Any = array
    return other.double() if isinstance(other, torch.Tensor) else np.asarray(other, np.float64)


def _like(numbers: Any, array: Array) -> Array:
    return as_array_like(as_tensor(numbers), array)
