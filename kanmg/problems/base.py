"""What a problem is: data or equations that turn a network's values into a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kanmg.errors import KanmgTypeError
from kanmg.problems.linearisation import Linearisation
from kanmg.vectors import to_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import scipy.sparse

    from kanmg.evaluators.base import Array, Evaluator
    from kanmg.hierarchy import Level
    from kanmg.problems.ansatz import Ansatz
    from kanmg.problems.standardisation import Standardisation

__all__ = ["Problem"]


class Problem(ABC):
    """A loss of the coefficients of any network that fits it.

    A problem knows no level: every method that computes takes the evaluator of one. Computing does not change it.

    Vectors and matrices are NumPy arrays, or tensors on `evaluator.home` if the class says that it `takes_tensors`.

    Notes
    -----
    The samples may be cut into mini-batches. Batch number b of a run is a function of the problem and of b alone, so
    that a resumed run sees the batches that an undisturbed one would have seen; None means all samples.

    A problem may have unknowns besides the network's coefficients, its parameters. Where it says `theta`, these stand
    behind the coefficients: `num_coefficients + num_parameters` entries, also in gradients and matrices.

    To add a problem, implement the abstract methods; `check_level` should refuse whatever an evaluator would choke on.
    If the loss is a sum of squares, `residuals`, `pull_back` and `normal_equations` make Levenberg-Marquardt possible.
    """

    takes_tensors: ClassVar[bool] = False

    @property
    @abstractmethod
    def num_samples(self) -> int:
        """Number of samples of the loss."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of mini-batches that together hold every sample once; 1 if there are none."""
        return 1

    @abstractmethod
    def loss(self, evaluator: Evaluator, theta: Array, batch: int | None = None) -> float:
        """Evaluate the loss, or an unbiased estimate of it from one mini-batch.

        Parameters
        ----------
        evaluator : Evaluator
        theta : ndarray, shape (num_coefficients,)
        batch : int, optional
            Number of the mini-batch; all samples by default.
        """

    @abstractmethod
    def loss_and_gradient(self, evaluator: Evaluator, theta: Array, batch: int | None = None) -> tuple[float, Array]:
        """Evaluate the loss and its gradient, or unbiased estimates of both, in one sweep over the samples.

        Parameters
        ----------
        evaluator : Evaluator
        theta : ndarray, shape (num_coefficients,)
        batch : int, optional
            Number of the mini-batch; all samples by default.

        Returns
        -------
        loss : float
        gradient : ndarray, shape (num_coefficients,)
            A new array.
        """

    @property
    def num_parameters(self) -> int:
        """Number of unknowns besides the network's coefficients."""
        return len(self.initial_parameters)

    @property
    def initial_parameters(self) -> Array:
        """What a run begins with in the place of these unknowns: shape (num_parameters,)."""
        return np.empty(0)

    def parameter_values(self, unknowns: Array) -> dict[str, float]:  # noqa: ARG002
        """Tell what the unknowns besides the coefficients stand for, by their names.

        Parameters
        ----------
        unknowns : ndarray, shape (num_parameters,)
        """
        return {}

    @property
    def ansatz(self) -> Ansatz | None:
        """How fields are made of the network, if they are not its outputs at the points themselves."""
        return None

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of the inputs, for `solution.derivative`; empty if they have none."""
        return ()

    def validation_loss(self, evaluator: Evaluator, theta: Array) -> float | None:  # noqa: ARG002
        """Evaluate the loss on held-back data; None if there are none."""
        return None

    def holding_back(self, part: float) -> Problem:  # noqa: ARG002
        """Return the problem without a part of its samples, which its validation loss is one of from then on.

        The same problem, the default, where it has held-back data already, or where one part would have no weight.

        Parameters
        ----------
        part : float
            In [0, 1).
        """
        return self

    @abstractmethod
    def training_inputs(self) -> Array:
        """Points on which an initialisation looks at hidden values: at most a few thousand, shape (N, num_inputs)."""

    @abstractmethod
    def subset(self, fraction: float) -> Problem:
        """Return the problem on a part of its samples, for coarse levels: always the same part.

        Parameters
        ----------
        fraction : float
            In (0, 1].
        """

    def standardised(self, *, may_shift: bool) -> tuple[Problem, Standardisation] | None:  # noqa: ARG002
        """Return the same problem for networks with values of about unit size, and how their values become this one's.

        None, the default, where the values may stay as they are. Losses remain in units of this problem.

        Parameters
        ----------
        may_shift : bool
            Whether the networks can add a constant to their values.
        """
        return None

    @property
    def can_be_eased(self) -> bool:
        """Whether there is an easier problem from which the solution can be followed to this one's."""
        return False

    def eased(self, part: float) -> Problem:  # noqa: ARG002
        """Return the problem that is so far on the way from this one to an easier one; here there is no other.

        Parameters
        ----------
        part : float
            From 0, this problem, to 1, the easiest.
        """
        return self

    @property
    def can_be_redrawn(self) -> bool:
        """Whether there are candidates from which points can be drawn where the residuals are large."""
        return False

    @property
    def drawn(self) -> tuple[Array | None, ...]:
        """What `with_drawn` takes to make this problem of the one with its own points."""
        return ()

    def redrawn(
        self,
        evaluator: Evaluator,  # noqa: ARG002 - nothing is drawn, here and below
        theta: Array,  # noqa: ARG002
        share: float,  # noqa: ARG002
        *,
        seed: int = 0,  # noqa: ARG002
    ) -> Problem:
        """Return the problem with a part of its points drawn anew; here there are no others.

        Parameters
        ----------
        evaluator : Evaluator
        theta : ndarray, shape (num_coefficients,)
            Where residuals are evaluated.
        share : float
            From [0, 1].
        seed : int, default 0
            Of this draw.
        """
        return self

    def with_drawn(self, drawn: tuple[Array | None, ...]) -> Problem:  # noqa: ARG002
        """Return the problem whose points were drawn before.

        Parameters
        ----------
        drawn : tuple of ndarray or None
            What `redrawn(...).drawn` was.
        """
        return self

    def candidates_work(self, evaluator: Evaluator) -> float:  # noqa: ARG002
        """Count the multiply-adds of the residuals that `redrawn` evaluates.

        Parameters
        ----------
        evaluator : Evaluator
        """
        return 0.0

    @property
    def term_weights(self) -> dict[str, float]:
        """Weights of the terms by their names; empty, the default, if a method cannot change them."""
        return {}

    def with_weights(
        self,
        factors: Sequence[float],  # noqa: ARG002 - there are no terms, here and below
        points: Sequence[Array | None] | None = None,  # noqa: ARG002
    ) -> Problem:
        """Return the problem with other weights of terms and points; here there are none.

        Parameters
        ----------
        factors : sequence of float
            One for each term, of its weight.
        points : sequence of ndarray or None, optional
            For each term numbers of its points, with whose squares their weights are multiplied.
        """
        return self

    def term_traces(self, evaluator: Evaluator, theta: Array) -> dict[str, float]:  # noqa: ARG002
        """Evaluate the traces of J^T J of the terms, by their names.

        Parameters
        ----------
        evaluator : Evaluator
        theta : ndarray, shape (num_coefficients,)
        """
        return {}

    def magnitudes(self, evaluator: Evaluator, theta: Array) -> dict[str, Array]:  # noqa: ARG002
        """Evaluate the residuals at the points of the terms without weights, by the names of the terms.

        Parameters
        ----------
        evaluator : Evaluator
        theta : ndarray, shape (num_coefficients,)
        """
        return {}

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash everything that the losses depend on: a checkpoint of another problem is refused by it."""

    def check(self, hierarchy: Sequence[Level]) -> None:
        """Refuse a hierarchy that does not fit; `kanmg.solve` calls this once.

        Raises
        ------
        KanmgError
            If shapes, dtype or domain contradict the hierarchy's.
        """
        self.check_level(hierarchy[0])

    def check_level(self, level: Level) -> None:  # noqa: B027 - nothing to refuse is a valid answer
        """Refuse a level that does not fit; `kanmg.Objective` calls this once.

        Raises
        ------
        KanmgError
            If shapes, dtype or domain contradict the level's.
        """

    # ------------------------------------------------------------------------------------------------- sums of squares

    def residuals(self, evaluator: Evaluator, theta: Array) -> Array:  # noqa: ARG002
        """Evaluate the vector R of all samples whose sum of squares is the loss, weights included.

        Parameters
        ----------
        evaluator : Evaluator
        theta : ndarray, shape (num_coefficients,)

        Returns
        -------
        ndarray, shape (M,)

        Raises
        ------
        KanmgTypeError
            If the loss is no sum of squares, here and below.
        """
        raise self._no_sum_of_squares()

    def pull_back(self, evaluator: Evaluator, theta: Array, cotangents: Array) -> Array:  # noqa: ARG002
        """Multiply a vector with the transpose of the Jacobian J of `residuals`.

        Parameters
        ----------
        evaluator : Evaluator
        theta : ndarray, shape (num_coefficients,)
        cotangents : ndarray, shape (M,)

        Returns
        -------
        ndarray, shape (num_coefficients,)
        """
        raise self._no_sum_of_squares()

    def normal_equations(self, evaluator: Evaluator, theta: Array) -> tuple[float, Array, Array]:  # noqa: ARG002
        """Evaluate the loss, its gradient 2 J^T R and the Gauss-Newton matrix 2 J^T J.

        Parameters
        ----------
        evaluator : Evaluator
        theta : ndarray, shape (num_coefficients,)

        Returns
        -------
        loss : float
        gradient : ndarray, shape (num_coefficients,)
        matrix : ndarray, shape (num_coefficients, num_coefficients)
            Symmetric; new arrays.
        """
        raise self._no_sum_of_squares()

    def linearised(
        self, evaluator: Evaluator, theta: Array, count: Callable[[float], None] | None = None
    ) -> Linearisation:
        """Return the Jacobian of `residuals` as an operator, on the host: for what does not need the matrix J^T J.

        Parameters
        ----------
        evaluator : Evaluator
        theta : ndarray, shape (num_coefficients,)
        count : callable, optional
            `count(multiply_adds)` is called for every product.

        Returns
        -------
        Linearisation
        """
        size, own = len(theta), to_host(theta)
        num_entries = self.num_residuals * (evaluator.entries_per_residual + self.num_parameters)
        return Linearisation(
            evaluator.network.at(own[: evaluator.network.num_coefficients]),
            size,
            num_entries,
            lambda: self.jacobian_rows(evaluator, own),
            cost=self.work(evaluator),
            count=count,
        )

    def jacobian_rows(self, evaluator: Evaluator, theta: Array) -> Iterator[scipy.sparse.csr_array]:  # noqa: ARG002
        """Go through the rows of the Jacobian of `residuals`, chunk by chunk.

        Parameters
        ----------
        evaluator : Evaluator
        theta : ndarray, shape (num_coefficients,)

        Yields
        ------
        csr_array, shape (rows, num_coefficients)
        """
        raise self._no_jacobian_rows()

    def normal_equations_work(self, evaluator: Evaluator) -> float:
        """Count the multiply-adds of `normal_equations`: a loss and gradient, and half a symmetric product J^T J.

        Parameters
        ----------
        evaluator : Evaluator
            Which knows whether it multiplies zeros too.
        """
        own, others = self.num_parameters, evaluator.network.num_coefficients
        cost = evaluator.normal_cost_per_residual + own * (others + 0.5 * (own + 1))
        return self.work(evaluator) + self.num_residuals * cost

    @property
    def num_residuals(self) -> int:
        """Length M of `residuals`; by default one for each sample."""
        return self.num_samples

    def require_sum_of_squares(self) -> None:
        """Refuse what needs the three methods above if this problem does not implement them.

        Raises
        ------
        KanmgTypeError
        """
        if type(self).normal_equations is Problem.normal_equations:
            raise self._no_sum_of_squares()

    def require_jacobian_rows(self) -> None:
        """Refuse what needs `jacobian_rows` if this problem does not implement it.

        Raises
        ------
        KanmgTypeError
        """
        if type(self).jacobian_rows is Problem.jacobian_rows:
            raise self._no_jacobian_rows()

    def _no_jacobian_rows(self) -> KanmgTypeError:
        return KanmgTypeError(
            f"`{type(self).__name__}` does not say how its residuals depend on the coefficients without forming J^T J. "
            "Use `kanmg.LevenbergMarquardt(linear_solver='cholesky')`, or implement `jacobian_rows`."
        )

    def _no_sum_of_squares(self) -> KanmgTypeError:
        return KanmgTypeError(
            f"`{type(self).__name__}` does not say of which residuals its loss is the sum of squares. Use "
            "`kanmg.LBFGS()`, which needs no more than loss and gradient, instead of `kanmg.LevenbergMarquardt()`; or "
            "implement `residuals`, `pull_back` and `normal_equations`."
        )

    # ----------------------------------------------------------------------------------------------------- counted work

    def batch_length(self, batch: int | None = None) -> int:  # noqa: ARG002
        """Count the samples of a mini-batch, or all."""
        return self.num_samples

    def work(self, evaluator: Evaluator, batch: int | None = None, *, gradient: bool = True) -> float:
        """Count the multiply-adds of one loss, with its gradient or without.

        Parameters
        ----------
        evaluator : Evaluator
        batch : int, optional
            Number of the mini-batch; all samples by default.
        gradient : bool, default True
        """
        cost = evaluator.cost_per_sample if gradient else evaluator.value_cost_per_sample
        return cost * self.batch_length(batch)
