"""Transfers between two nested networks: prolongation, restriction, injection.

Three names for three maps: `prolong` takes coefficients up, `restrict` takes gradients down, `inject` takes
coefficients down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import scipy  # its subpackages are loaded when they are first used
import torch

from kanmg.errors import KanmgValueError, NestingError
from kanmg.network import Affine, Spline
from kanmg.row_matrix import RowMatrix
from kanmg.splines.knots import check_nested, missing_breakpoints
from kanmg.splines.transfer import injection_matrix, prolongation_matrix
from kanmg.vectors import Copies, is_tensor, joined, stacked, to_host, zeros

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import scipy.sparse  # noqa: TC004 - tells mypy what SciPy loads by itself

    from kanmg.arrays import Array
    from kanmg.network import Layer, Network
    from kanmg.splines.knots import Knots

__all__ = ["InjectionKind", "PaddedTransfer", "Transfer", "padded"]

InjectionKind: TypeAlias = Literal["l2", "pinv"]


@dataclass(frozen=True, eq=False)
class Transfer:
    """The three transfers between level `index` and the next finer one.

    All matrices are computed in float64 when first asked for, then cast to the hierarchy's dtype. Vectors that are
    tensors on a device are multiplied there, with copies of the matrices that are made once.

    Where knots are free, both levels follow from the same logits, which stand behind the coefficients and are the same
    on both. The matrices for coefficients depend on them: `prolong` and `inject` take those for the logits that they
    are given, `at` fixes them, `prolongation`, `restriction` and `injection` are those for the knots of the layers.

    Parameters
    ----------
    index : int
        Number of the coarser level.
    coarse, fine : Network
    dtype : numpy.dtype

    Raises
    ------
    NestingError
        If some function of the coarse network is none of the fine one.

    Examples
    --------
    >>> import kanmg
    >>> coarse = kanmg.Network([kanmg.Spline(1, 1, knots=kanmg.uniform_knots(2, degree=1))])
    >>> transfer = Transfer(0, coarse, coarse.refine(), np.dtype("float64"))
    >>> transfer.prolong(np.array([0.0, 1.0, 0.0])).tolist()
    [0.0, 0.5, 1.0, 0.5, 0.0]
    >>> transfer.restrict(np.ones(5)).tolist()
    [1.5, 2.0, 1.5]
    >>> transfer.inject(np.array([0.0, 0.5, 1.0, 0.5, 0.0])).round(12).tolist()
    [0.0, 1.0, 0.0]
    """

    index: int
    coarse: Network
    fine: Network
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        _check_nested(self.index, self.coarse, self.fine)

    @cached_property
    def prolongation(self) -> tuple[scipy.sparse.csr_array, ...]:
        """One matrix per layer, acting on the layer's array reshaped to (P m, Q); the identity for affine layers."""
        return tuple(_diagonal(blocks, self.dtype) for blocks in self._blocks(prolongation_matrix))

    @cached_property
    def restriction(self) -> tuple[scipy.sparse.csr_array, ...]:
        """The transposes of `prolongation`."""
        return tuple(matrix.T.tocsr() for matrix in self.prolongation)

    @property
    def injection(self) -> tuple[scipy.sparse.csr_array, ...]:
        """The L2 projections onto the coarse splines, laid out like `prolongation`, which they undo."""
        return tuple(_diagonal(blocks, self.dtype) for blocks in self._blocks(injection_matrix))

    def at(self, theta: Array) -> Transfer | PaddedTransfer:
        """Return the transfer for the knots of some coefficients: linear, whatever the logits that it is given.

        Parameters
        ----------
        theta : ndarray, shape (coarse.num_coefficients,) or (fine.num_coefficients,)

        Returns
        -------
        Transfer or PaddedTransfer
            The transfer itself if no knots are free.
        """
        number = self.coarse.num_logits
        if not number:
            return self
        own = to_host(theta)
        logits = own[len(own) - number :]
        mark = logits.tobytes()
        if mark != self._fixed.get("mark"):
            coarse, fine = (network.at(_with_logits(network, logits)) for network in (self.coarse, self.fine))
            fixed = PaddedTransfer(Transfer(self.index, coarse, fine, self.dtype), number)
            self._fixed.update(mark=mark, transfer=fixed)
        found: PaddedTransfer = self._fixed["transfer"]
        return found

    @cached_property
    def _fixed(self) -> Copies[str, Any]:
        """The transfer for the knots that were asked for last."""
        return Copies()

    def _refuse_free_knots(self, method: str, argument: str) -> None:
        if self.coarse.num_logits:
            raise KanmgValueError(
                f"`transfer.{method}` depends on where free knots are. Write `transfer.at(theta).{method}({argument})` "
                "with the coefficients of one of the two levels."
            )

    def prolong(self, theta: Array) -> Array:
        """Take coefficients from coarse to fine: the functions stay the same.

        Parameters
        ----------
        theta : ndarray, shape (coarse.num_coefficients,)

        Returns
        -------
        ndarray, shape (fine.num_coefficients,)
        """
        if self.coarse.num_logits:
            return self.at(theta).prolong(theta)
        if is_tensor(theta):
            there: Array = self._there("prolong", theta).times(theta)
            return there
        return self._multiply(self.prolongation, self.coarse, theta, self.fine)

    def restrict(self, gradient: Array) -> Array:
        """Take a gradient from fine to coarse: the dual of `prolong`.

        Parameters
        ----------
        gradient : ndarray, shape (fine.num_coefficients,)

        Returns
        -------
        ndarray, shape (coarse.num_coefficients,)
        """
        self._refuse_free_knots("restrict", "gradient")
        if is_tensor(gradient):
            there: Array = self._there("restrict", gradient).times(gradient)
            return there
        return self._multiply(self.restriction, self.fine, gradient, self.coarse)

    def restrict_matrix(self, matrix: Array) -> Array:
        """Take a symmetric matrix of second derivatives from fine to coarse: P^T M P, P what `prolong` multiplies with.

        Parameters
        ----------
        matrix : ndarray, shape (fine.num_coefficients, fine.num_coefficients)

        Returns
        -------
        ndarray, shape (coarse.num_coefficients, coarse.num_coefficients)
        """
        self._refuse_free_knots("restrict_matrix", "matrix")
        if is_tensor(matrix):
            there = self._there("restrict", matrix)
            product: Array = there.times(there.times(matrix).T)
            return product
        half = self._whole_restriction @ matrix
        return np.ascontiguousarray(self._whole_restriction @ half.T)

    @cached_property
    def _whole_restriction(self) -> scipy.sparse.csr_array:
        """The matrix that `restrict` multiplies flat vectors with."""
        blocks = [
            scipy.sparse.kron(matrix, scipy.sparse.eye_array(layer.num_outputs))
            for layer, matrix in zip(self.coarse.layers, self.restriction, strict=True)
        ]
        return scipy.sparse.block_diag(blocks, format="csr", dtype=self.dtype)

    @property
    def matrix(self) -> scipy.sparse.csr_array:
        """P, the matrix that `prolong` multiplies flat vectors with."""
        return self._whole_restriction.T.tocsr()

    def inject(self, theta: Array, kind: InjectionKind = "l2") -> Array:
        """Take coefficients from fine to coarse; undoes `prolong`.

        Parameters
        ----------
        theta : ndarray, shape (fine.num_coefficients,)
        kind : {"l2", "pinv"}, default "l2"
            What to find for each fine spline: the coarse spline nearest to it in the L2 norm, or the one whose
            prolonged coefficients are nearest in the Euclidean norm.

        Returns
        -------
        ndarray, shape (coarse.num_coefficients,)
        """
        if self.coarse.num_logits:
            return self.at(theta).inject(theta, kind)
        given: Any = theta
        # torch multiplies on as many threads as the user has set, unlike NumPy. The copy is for torch, which shares no
        # read-only memory.
        vector = given if is_tensor(given) else torch.from_numpy(np.array(given, self.dtype))
        pairs = zip(self._injections(kind, vector.device), self.fine.unflatten(vector), strict=True)
        arrays = [array if matrices is None else matrices @ array for matrices, array in pairs]
        injected = self.coarse.flatten(arrays)
        result: Array = injected if is_tensor(given) else injected.numpy()
        return result

    def _multiply(
        self, matrices: tuple[scipy.sparse.csr_array, ...], source: Network, vector: Array, target: Network
    ) -> Array:
        """Apply one matrix per layer."""
        result = np.empty(target.num_coefficients, self.dtype)
        sources, targets = source.unflatten(vector), target.unflatten(result)
        for layer, matrix, old, new in zip(source.layers, matrices, sources, targets, strict=True):
            columns = (-1, layer.num_outputs)
            new.reshape(columns)[...] = old if isinstance(layer, Affine) else matrix @ old.reshape(columns)
        return result

    def _blocks(self, matrix: Callable[[Knots, Knots], Any]) -> Iterator[list[Any]]:
        """For every layer the matrices of its inputs."""
        for coarse, fine in zip(self.coarse.layers, self.fine.layers, strict=True):
            if isinstance(coarse, Spline) and isinstance(fine, Spline):
                yield [matrix(*pair) for pair in zip(coarse.knots, fine.knots, strict=True)]
            else:
                yield [scipy.sparse.eye_array(coarse.shape[0])]

    def _injections(self, kind: InjectionKind, device: torch.device) -> tuple[torch.Tensor | None, ...]:
        """For every layer its inputs' dense matrices, shape (P, m_c, m_f) or (1, m_c, m_f); None for affine layers."""
        if (kind, device) not in self._copies:
            stacks = (
                _stacked_injections(coarse, fine, kind, self.dtype)
                for coarse, fine in zip(self.coarse.layers, self.fine.layers, strict=True)
            )
            self._copies[kind, device] = tuple(None if stack is None else stack.to(device) for stack in stacks)
        injections: tuple[torch.Tensor | None, ...] = self._copies[kind, device]
        return injections

    def _there(self, name: Literal["prolong", "restrict"], vector: Any) -> RowMatrix:
        """Return what flat vectors are multiplied with, on the device of one."""
        key = name, vector.device
        if key not in self._copies:
            matrix = self.matrix if name == "prolong" else self._whole_restriction
            self._copies[key] = RowMatrix(matrix, vector.device)
        there: RowMatrix = self._copies[key]
        return there

    @cached_property
    def _copies(self) -> Copies[tuple[str, torch.device], Any]:
        return Copies()


@dataclass(frozen=True, eq=False)
class PaddedTransfer:
    """A transfer of vectors that go on behind the coefficients, with entries that are the same on both levels.

    Parameters
    ----------
    transfer : Transfer or PaddedTransfer
    size : int
        Number of these entries.
    """

    transfer: Transfer | PaddedTransfer
    size: int

    def at(self, theta: Array) -> PaddedTransfer:
        """Return the transfer for the knots of some coefficients, see `Transfer.at`."""
        fixed = self.transfer.at(theta[: len(theta) - self.size])
        return self if fixed is self.transfer else PaddedTransfer(fixed, self.size)

    def prolong(self, theta: Array) -> Array:
        """Take coefficients from coarse to fine, and what is behind them as it is."""
        return self._map(self.transfer.prolong, theta)

    def restrict(self, gradient: Array) -> Array:
        """Take a gradient from fine to coarse, and what is behind it as it is."""
        return self._map(self.transfer.restrict, gradient)

    def inject(self, theta: Array, kind: InjectionKind = "l2") -> Array:
        """Take coefficients from fine to coarse, and what is behind them as it is."""
        return self._map(lambda head: self.transfer.inject(head, kind), theta)

    def restrict_matrix(self, matrix: Array) -> Array:
        """Take a symmetric matrix of second derivatives from fine to coarse."""
        corner = self.transfer.restrict_matrix(matrix[: -self.size, : -self.size])
        side = stacked([self.transfer.restrict(row) for row in matrix[-self.size :, : -self.size]])
        size = len(corner)
        result = zeros((size + self.size, size + self.size), corner)
        result[:size, :size], result[size:, size:] = corner, matrix[-self.size :, -self.size :]
        result[size:, :size], result[:size, size:] = side, side.T
        return result

    def _map(self, change: Callable[[Array], Array], vector: Array) -> Array:
        return joined([change(vector[: -self.size]), vector[-self.size :]])


def padded(transfers: Sequence[Transfer], size: int) -> tuple[Transfer | PaddedTransfer, ...]:
    """Return the transfers of vectors with `size` entries behind the coefficients.

    Parameters
    ----------
    transfers : sequence of Transfer
    size : int

    Returns
    -------
    tuple of Transfer or PaddedTransfer

    Examples
    --------
    >>> import kanmg
    >>> coarse = kanmg.Network([kanmg.Spline(1, 1, knots=kanmg.uniform_knots(2, degree=1))])
    >>> (transfer,) = padded([Transfer(0, coarse, coarse.refine(), np.dtype("float64"))], 1)
    >>> transfer.prolong(np.array([0.0, 1.0, 0.0, 7.0])).tolist()
    [0.0, 0.5, 1.0, 0.5, 0.0, 7.0]
    """
    return tuple(PaddedTransfer(transfer, size) if size else transfer for transfer in transfers)


def _diagonal(blocks: list[Any], dtype: np.dtype[Any]) -> scipy.sparse.csr_array:
    """Put the matrices of a layer's inputs on the diagonal of one matrix."""
    return scipy.sparse.block_diag(blocks, format="csr", dtype=dtype)


def _with_logits(network: Network, logits: Array) -> Array:
    """Return coefficients, zero, with logits behind them."""
    return np.concatenate([np.zeros(network.offsets[-1]), logits])


def _stacked_injections(coarse: Layer, fine: Layer, kind: InjectionKind, dtype: np.dtype[Any]) -> torch.Tensor | None:
    """Stack the injections of a spline layer's inputs, or one for all if they have the same knots."""
    if not (isinstance(coarse, Spline) and isinstance(fine, Spline)):
        return None
    pairs = list(zip(coarse.knots, fine.knots, strict=True))
    distinct = pairs[:1] if len(set(pairs)) == 1 else pairs
    return torch.from_numpy(np.stack([injection_matrix(*pair, kind) for pair in distinct]).astype(dtype))


def _check_nested(index: int, coarse: Network, fine: Network) -> None:
    """Refuse networks of which the second does not contain the first."""
    if len(coarse.layers) != len(fine.layers):
        raise NestingError(
            f"level {index + 1} has {len(fine.layers)} layers but level {index} has {len(coarse.layers)}. "
            "Build the levels with `network.refine()`."
        )
    for number, layers in enumerate(zip(coarse.layers, fine.layers, strict=True)):
        where = f"level {index + 1} does not contain level {index} in layer {number}"
        _check_layers(where, *layers)


def _check_layers(where: str, coarse: Layer, fine: Layer) -> None:
    """Refuse a layer that differs from the coarser level's in anything but its cells."""
    for name in ("__class__", "num_inputs", "num_outputs", "bias", "degree", "outside", "free_knots"):
        old, new = getattr(coarse, name, None), getattr(fine, name, None)
        if old != new:
            what = "type" if name == "__class__" else name
            raise NestingError(
                f"{where}: its `{what}` is {_shown(new)}, on the coarser level {_shown(old)}. "
                "Build the levels with `network.refine()`."
            )
    if isinstance(coarse, Spline) and isinstance(fine, Spline):
        _check_knots(where, coarse, fine)


def _check_knots(where: str, coarse: Spline, fine: Spline) -> None:
    """Refuse knots that lack some of the coarser level's."""
    for p, pair in enumerate(zip(coarse.knots, fine.knots, strict=True)):
        which = f"{where} (input {p})" if len(set(coarse.knots)) > 1 else where
        missing = missing_breakpoints(*pair)
        if missing.size:
            more = f" (and {missing.size - 1} more)" if missing.size > 1 else ""
            raise NestingError(
                f"{which}: knot {missing[0]:.12g} is missing{more}. Build the levels with `kanmg.refine(knots)`."
            )
        try:
            check_nested(*pair)
        except NestingError as error:
            raise NestingError(f"{which}: {error}") from None


def _shown(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else repr(value)
