"""Least-squares regression on samples of a function."""

from __future__ import annotations

import copy
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from kanmg.arrays import check_columns, check_domain, check_dtype, row_chunks
from kanmg.errors import KanmgTypeError, KanmgValueError, ShapeError
from kanmg.evaluators.base import Jet, home_of
from kanmg.problems.base import Problem
from kanmg.problems.batches import Batches, Stream, generator, permutation
from kanmg.problems.linearisation import CHUNK_ENTRIES
from kanmg.problems.samples import Samples, check_same_dtype
from kanmg.problems.standardisation import Standardisation
from kanmg.vectors import beside, joined, square_roots, zeros, zeros_like

if TYPE_CHECKING:
    from collections.abc import Iterator

    import scipy.sparse
    import torch

    from kanmg.evaluators.base import Array, Evaluator
    from kanmg.hierarchy import Level
    from kanmg.problems.samples import Chunk

__all__ = ["Regression"]

# An initialisation looks at no more points than these.
MAX_TRAINING_INPUTS = 4096

# Sums of the fourth powers of values up to this are finite.
_LARGEST = 1e75


class Regression(Problem):
    """Fit samples of a function in the sense of least squares.

    The loss is the weighted mean over the samples of the mean over the outputs of the squared errors,

        sum_n w_n mean_q (u_q(x_n) - y_nq)^2 / sum_n w_n,

    torch's `mse_loss` if there are no weights. The data are not copied (but `kanmg.solve` makes a standardised copy of
    values that are far from unit size); do not change them during a run. On a GPU they are copied once for a
    problem, which does not see later changes.

    Parameters
    ----------
    x : ndarray or Tensor, shape (N, d)
        Points, float64 or float32.
    y : ndarray or Tensor, shape (N,) or (N, Q)
        Values, of the same dtype.
    weights : ndarray or Tensor, shape (N,), optional
        Not negative, not all zero; of the same dtype.
    batch_size : int, optional
        Samples per mini-batch; by default every evaluation sees all samples. An epoch visits every sample once, in an
        order that depends on `seed` and the epoch only; its last batch may be smaller.
    validation : float or (x, y), optional
        Data whose loss is recorded but not minimised: a fraction of the samples from (0, 1), drawn at random and held
        back, or a pair of arrays.
    seed : int, default 0
        Of the mini-batches, the held-back samples and the samples of coarse levels.

    Attributes
    ----------
    num_samples : int
        Without those held back.
    num_validation : int
        Samples of the validation loss; 0 if there is none.
    num_inputs, num_outputs : int
    dtype : numpy.dtype
    steps_per_epoch : int
        Mini-batches in an epoch.

    Raises
    ------
    ShapeError
        If the data are empty, no matrices, or of different lengths.
    NonFiniteError
        If there are NaN or infinite values in them.
    DtypeError
        If the data are neither float64 nor float32, or of different dtypes.
    KanmgValueError, KanmgTypeError
        If weights are negative or all zero, or `batch_size`, `validation` or `seed` make no sense.

    Notes
    -----
    The sum over a mini-batch B is scaled by N / size(B) more than the full one, with weights or without. This makes its
    loss and gradient unbiased estimates: their mean over an epoch, weighted with the sizes of the batches, is the full
    loss and gradient.

    Errors of all outputs count alike, in units of the data, and `kanmg.solve` scales all outputs by one number. An
    output whose values are far smaller than another one's, by 1e6 say, is therefore not fitted: divide the columns of
    `y` by their sizes, and multiply what the solution returns. Values of which the largest is beyond
    1e75 or below 1e-75 are refused.

    The evaluator sweeps over the arrays themselves, unless `batch_size`, a fraction for `validation` or `subset` choose
    samples. These are named by index arrays (4 bytes per sample) and copied chunk by chunk, a megabyte at a time.

    Examples
    --------
    >>> import numpy as np
    >>> import kanmg
    >>> x = np.linspace(0, 1, 1000).reshape(-1, 1)
    >>> kanmg.Regression(x, np.sin(6 * x), batch_size=64, validation=0.1)
    Regression(900 samples, 100 for validation, batches of 64, 1 -> 1, float64)
    """

    takes_tensors = True

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        weights: Any = None,
        batch_size: int | None = None,
        validation: float | tuple[Any, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self._seed = _checked_integer("seed", seed, 0)
        # What one unit of the squared errors of the samples is in units of the data.
        self._unit = 1.0
        self._batch_size = None if batch_size is None else _checked_integer("batch_size", batch_size, 1)
        whole = Samples.from_user(x, y, weights)
        _check_magnitude(whole)
        samples, self._validation = _split(whole, validation, self._seed)
        self._set_samples(samples, self._batch_size)

    def _set_samples(self, samples: Samples, batch_size: int | None) -> None:
        """Choose the samples that the loss is a mean over."""
        self._samples = samples
        self._factor = self._unit / (_checked_weight(samples, "samples") * samples.y.shape[1])
        self._batches = Batches(len(samples), batch_size, self._seed)
        self._last_batch: tuple[tuple[int, torch.device | None], Samples] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The last batch may lie on a device.
        return {**vars(self), "_last_batch": None}

    def __repr__(self) -> str:
        held_back = f"{self.num_validation} for validation, " if self.num_validation else ""
        batches = f"batches of {self._batches.batch_size}, " if self.steps_per_epoch > 1 else ""
        widths = f"{self.num_inputs} -> {self.num_outputs}"
        return f"Regression({self.num_samples} samples, {held_back}{batches}{widths}, {self.dtype})"

    @property
    def num_samples(self) -> int:
        return len(self._samples)

    @property
    def num_validation(self) -> int:
        """Number of samples of the validation loss; 0 if there is none."""
        return 0 if self._validation is None else len(self._validation)

    @property
    def num_inputs(self) -> int:
        """Number of columns of the points."""
        return int(self._samples.x.shape[1])

    @property
    def num_outputs(self) -> int:
        """Number of columns of the values."""
        return int(self._samples.y.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the data."""
        return self._samples.x.dtype

    @property
    def steps_per_epoch(self) -> int:
        return self._batches.steps_per_epoch

    # ------------------------------------------------------------------------------------------------------- losses

    def loss(self, evaluator: Evaluator, theta: Array, batch: int | None = None) -> float:
        samples, factor = self._choose(batch, home_of(evaluator, theta))
        return factor * samples.squared_error_value(evaluator, theta)

    def loss_and_gradient(self, evaluator: Evaluator, theta: Array, batch: int | None = None) -> tuple[float, Array]:
        samples, factor = self._choose(batch, home_of(evaluator, theta))
        total, gradient = samples.squared_error(evaluator, theta)
        # In place: the memory of a new array costs more than the product.
        gradient *= factor
        return factor * total, gradient

    def residuals(self, evaluator: Evaluator, theta: Array) -> Array:
        chunks = self._rooted_chunks(home_of(evaluator, theta))
        parts = [(roots * (evaluator.value(theta, chunk.x) - chunk.y)).ravel() for chunk, roots in chunks]
        return parts[0] if len(parts) == 1 else joined(parts)

    def pull_back(self, evaluator: Evaluator, theta: Array, cotangents: Array) -> Array:
        gradient, first = zeros_like(theta), 0
        columns = beside(cotangents, theta).reshape(self.num_samples, self.num_outputs)
        for chunk, roots in self._rooted_chunks(home_of(evaluator, theta)):
            last = first + len(chunk.x)
            gradient += evaluator.adjoint(theta, chunk.x, roots * columns[first:last])[0]
            first = last
        return gradient

    def normal_equations(self, evaluator: Evaluator, theta: Array) -> tuple[float, Array, Array]:
        loss, gradient, matrix = 0.0, zeros_like(theta), zeros((len(theta), len(theta)), theta)
        for x, y, weights in self._samples.on(home_of(evaluator, theta)).pieces():
            errors = evaluator.value(theta, x) - y
            part, vector = evaluator.gauss_newton(theta, x, errors, weights)
            weighted = errors if weights is None else weights[:, None] * errors
            loss += float(weighted.ravel().dot(errors.ravel()))
            gradient += vector
            matrix += part
        return self._factor * loss, 2.0 * self._factor * gradient, 2.0 * self._factor * matrix

    def jacobian_rows(self, evaluator: Evaluator, theta: Array) -> Iterator[scipy.sparse.csr_array]:
        entries = self.num_outputs * evaluator.entries_per_residual
        for chunk, roots in self._rooted_chunks(None):
            for rows in row_chunks(len(chunk.x), entries, CHUNK_ENTRIES):
                x = chunk.x[rows]
                own = roots[rows] if len(roots) > 1 else np.repeat(roots, len(x), axis=0)
                # A residual that is a weighted output: a jet of order 0 that has one cotangent.
                units = own[:, :, None] * np.eye(self.num_outputs, dtype=self.dtype)
                cotangents = [Jet(np.ascontiguousarray(units[:, q]), ()) for q in range(self.num_outputs)]
                yield evaluator.jet_jacobian_rows(theta, x, x[:0], cotangents)

    @property
    def num_residuals(self) -> int:
        return self.num_samples * self.num_outputs

    def _rooted_chunks(self, home: torch.device | None) -> Iterator[tuple[Chunk, Array]]:
        """Go through all samples; with the roots of what multiplies their squared errors in the loss, as a column."""
        for chunk in self._samples.on(home).pieces():
            x: Any = chunk.x
            factors = np.full(1, self._factor, self.dtype) if home is None else x.new_full((1,), self._factor)
            yield chunk, square_roots(factors if chunk.weights is None else chunk.weights * factors)[:, None]

    def validation_loss(self, evaluator: Evaluator, theta: Array) -> float | None:
        if self._validation is None:
            return None
        factor = self._unit / (self._validation.total_weight * self.num_outputs)
        return factor * self._validation.on(home_of(evaluator, theta)).squared_error_value(evaluator, theta)

    def batch_length(self, batch: int | None = None) -> int:
        return self.num_samples if batch is None else self._batches.length(batch)

    def _choose(self, batch: int | None, home: torch.device | None = None) -> tuple[Samples, float]:
        """Return the samples of a mini-batch, or all, and the factor of their squared errors."""
        if batch is None or self._batches.steps_per_epoch == 1:
            return self._samples.on(home), self._factor
        if self._last_batch is None or self._last_batch[0] != (batch, home):
            samples = self._samples.on(home).take(self._batches.positions(batch, home))
            self._last_batch = (batch, home), samples
        samples = self._last_batch[1]
        return samples, self._factor * self.num_samples / len(samples)

    # ---------------------------------------------------------------------------------------------- what a run needs

    def training_inputs(self) -> Array:
        """Points on which an initialisation looks at hidden values: all, or 4096 drawn at random."""
        x, rows = self._samples.x, self._samples.rows
        if self.num_samples <= MAX_TRAINING_INPUTS:
            return x if rows is None else x[rows]
        drawn = generator(self._seed, Stream.INPUTS).choice(self.num_samples, MAX_TRAINING_INPUTS, replace=False)
        return x[drawn if rows is None else rows[drawn]]

    def subset(self, fraction: float) -> Regression:
        """Return the regression on a random part of its samples: for one fraction always the same part.

        A smaller part is contained in a larger one. Mini-batches shrink by the same fraction.

        Parameters
        ----------
        fraction : float
            In (0, 1].

        Raises
        ------
        KanmgValueError
            If `fraction` is not.
        """
        if not 0.0 < fraction <= 1.0:
            raise KanmgValueError(f"`subset` got `fraction={fraction!r}`. It must lie in (0, 1].")
        if fraction == 1.0:
            return self
        order = permutation(self.num_samples, self._seed, Stream.SUBSET)
        # Sorted, so that gathering them goes through memory in order.
        chosen = np.sort(order[: max(1, round(fraction * self.num_samples))])
        batch_size = None if self._batch_size is None else max(1, round(fraction * self._batches.batch_size))
        part = copy.copy(self)
        part._set_samples(self._samples.take(chosen), batch_size)  # noqa: SLF001 - another regression
        return part

    def probing(self, x: Array) -> Regression:
        """Return the regression of zero values at other points, in the same units of loss.

        Parameters
        ----------
        x : ndarray, shape (N, d)
        """
        other = copy.copy(self)
        other._validation = None  # noqa: SLF001 - another regression, here and below
        samples = Samples.from_user(x, np.zeros((len(x), self.num_outputs), self.dtype), None)
        other._set_samples(samples, None)  # noqa: SLF001
        return other

    def holding_back(self, part: float) -> Regression:
        if self._validation is not None or not 0 < round(part * self.num_samples) < self.num_samples:
            return self
        samples, held_back = _parted(self._samples, round(part * self.num_samples), self._seed)
        if not (samples.total_weight > 0.0 and held_back.total_weight > 0.0):
            return self
        other = copy.copy(self)
        other._validation = held_back  # noqa: SLF001 - another regression, here and below
        other._set_samples(samples, self._batch_size)  # noqa: SLF001
        return other

    def standardised(self, *, may_shift: bool) -> tuple[Regression, Standardisation] | None:
        standardisation = Standardisation.of(*self._samples.moments(), may_shift=may_shift)
        if standardisation is None:
            return None
        other = copy.copy(self)
        other._unit = self._unit * standardisation.scale**2  # noqa: SLF001 - another regression, here and below
        values = standardisation.values(self._samples.y)
        if self._validation is not None:
            # Samples that are held back are rows of the same array.
            is_held_back = self._validation.y is self._samples.y
            own = values if is_held_back else standardisation.values(self._validation.y)
            other._validation = self._validation.with_values(own)  # noqa: SLF001
        other._set_samples(self._samples.with_values(values), self._batch_size)  # noqa: SLF001
        return other, standardisation

    def fingerprint(self) -> str:
        """SHA-256 of data, weights, held-back samples and options, read chunk by chunk."""
        digest = hashlib.sha256(f"Regression {self._batches.batch_size} {self._seed}".encode())
        self._samples.update_digest(digest)
        if self._validation is not None:
            self._validation.update_digest(digest)
        return digest.hexdigest()

    def check_level(self, level: Level) -> None:
        network = level.network
        check_columns(self._samples.x, network.widths, "x")
        check_columns(self._samples.y, network.widths, "y", outputs=True)
        check_dtype(self._samples.x, level.evaluator.dtype, "x")
        if network.domain is not None:
            check_domain(self._samples.x, network.domain, "x")
            if self._validation is not None:
                check_domain(self._validation.x, network.domain, "validation")


def _check_magnitude(samples: Samples) -> None:
    """Refuse values so large or so small that their squares are no normal numbers."""
    # Without a copy of the absolute values.
    largest = max(float(max(y.max(), -y.min())) for _, y, _ in samples.pieces())
    if largest > _LARGEST or 0.0 < largest < 1.0 / _LARGEST:
        raise KanmgValueError(
            f"the largest of the values `y` is {largest:.1e}, whose powers float64 cannot hold. Divide `y` by a number "
            "of that size, and multiply what the solution returns by it."
        )


def _split(samples: Samples, validation: Any, seed: int) -> tuple[Samples, Samples | None]:
    """Return the samples of the loss and those of the validation loss."""
    if validation is None:
        return samples, None
    if not isinstance(validation, bool) and isinstance(validation, int | float | np.number):
        return _hold_back(samples, float(validation), seed)
    if isinstance(validation, tuple | list) and len(validation) == 2:
        return samples, _checked_pair(validation[0], validation[1], samples)
    raise KanmgTypeError(
        f"`validation` is a {type(validation).__name__}. Pass a fraction of the samples from (0, 1), or a pair "
        "`(x, y)`."
    )


def _hold_back(samples: Samples, fraction: float, seed: int) -> tuple[Samples, Samples]:
    """Hold back a random part of the samples."""
    if not 0.0 < fraction < 1.0:
        raise KanmgValueError(
            f"`validation={fraction:g}` is no fraction of the samples. Pass a number from (0, 1), or a pair `(x, y)`."
        )
    count = round(fraction * len(samples))
    if not 0 < count < len(samples):
        raise KanmgValueError(
            f"`validation={fraction:g}` holds back {count} of {len(samples)} samples. At least one must be held back "
            "and one be left: pass more samples, or a pair `(x, y)`."
        )
    rest, held_back = _parted(samples, count, seed)
    _checked_weight(held_back, "held-back samples")
    return rest, held_back


def _parted(samples: Samples, count: int, seed: int) -> tuple[Samples, Samples]:
    """Draw so many samples at random; return the others and these."""
    order = permutation(len(samples), seed, Stream.SPLIT)
    return samples.take(np.sort(order[count:])), samples.take(np.sort(order[:count]))


def _checked_pair(x: Any, y: Any, samples: Samples) -> Samples:
    """Return validation data that came as a pair of arrays."""
    names = ("validation[0]", "validation[1]")
    pair = Samples.from_user(x, y, names=names)
    for name, theirs, what, mine in ((names[0], pair.x, "x", samples.x), (names[1], pair.y, "y", samples.y)):
        if theirs.shape[1] != mine.shape[1]:
            raise ShapeError(
                f"`{name}` has shape {theirs.shape} but `{what}` has shape {mine.shape}. "
                "Pass arrays with the same number of columns."
            )
        check_same_dtype(mine, theirs, (what, name))
    return pair


def _checked_integer(name: str, value: Any, minimum: int) -> int:
    """Return an option that must be an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise KanmgTypeError(f"`{name}={value!r}` is a {type(value).__name__}. Pass an integer, at least {minimum}.")
    if value < minimum:
        raise KanmgValueError(f"`{name}={value}` is too small. It must be at least {minimum}.")
    return int(value)


def _checked_weight(samples: Samples, what: str) -> float:
    """Return the sum of the weights, which must not vanish."""
    if not samples.total_weight > 0.0:
        raise KanmgValueError(f"the `weights` of all {len(samples)} {what} are 0. At least one must be positive.")
    return samples.total_weight
