"""The Evaluator interface: what every implementation computes of one level's network on one device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy  # its subpackages are loaded when they are first used
import torch

from kanmg.arrays import as_array, check_dtype, row_chunks
from kanmg.errors import KanmgValueError, ShapeError
from kanmg.threads import fitting_threads
from kanmg.vectors import is_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse  # noqa: TC004 - tells mypy what SciPy loads by itself

    from kanmg.network import Network

__all__ = ["MAX_DEVICE_ORDER", "Array", "Evaluator", "Jet", "home_of"]

Array = npt.NDArray[Any]

# Evaluators that take tensors on a device take them for derivatives up to this order, and NumPy arrays for higher ones.
MAX_DEVICE_ORDER = 2

# Entries of the dense Jacobians that `jet_gauss_newton` builds one after the other.
_JACOBIAN_ENTRIES = 1 << 22


def home_of(evaluator: Evaluator, theta: Array) -> torch.device | None:
    """Tell where a problem's own arrays are wanted: on the device of the coefficients; None: as NumPy arrays.

    Parameters
    ----------
    evaluator : Evaluator
    theta : ndarray, or Tensor on the evaluator's device

    Returns
    -------
    torch.device or None
    """
    return evaluator.home if is_tensor(theta) else None


class Jet(NamedTuple):
    """Values and directional derivatives of a network at N points.

    Attributes
    ----------
    value : ndarray, shape (N, Q)
    derivatives : tuple of ndarray, each of shape (D, N, Q)
        Entry j - 1 holds the j-th derivative along each of the D directions.
    """

    value: Array
    derivatives: tuple[Array, ...]


class Evaluator(ABC):
    """Values, derivatives, adjoints and Gauss-Newton products of one network.

    An evaluator is built for one network, dtype and device; it holds no coefficients. All methods take the flat
    coefficients `theta`, shape (num_coefficients,), and points `x`, shape (N, num_inputs), both of the evaluator's
    dtype, as NumPy arrays or torch tensors, in any memory layout; N may be 0.

    Jets are derivatives by t along paths `x + t v + t**2 c / 2` of the points. `directions` v are of shape
    (D, num_inputs), the same for all points, or of shape (D, N, num_inputs), for every point its own; `curvatures` c of
    shape (D, N, num_inputs), zero if None. With these a jet goes on through a map of the coordinates into the network's
    inputs: the first and second derivatives of the map are its `directions` and `curvatures`. Order 1 does not see
    curvatures.

    Parameters
    ----------
    network : Network
    dtype : numpy.dtype
        float64 or float32.

    Attributes
    ----------
    name : str
        What `print(hierarchy)` shows.
    """

    name: ClassVar[str]

    takes_free_knots: ClassVar[bool] = False
    """Whether the class evaluates networks with free knots by itself."""

    def __init__(self, network: Network, dtype: np.dtype[Any]) -> None:
        if network.num_logits and not self.takes_free_knots:
            raise KanmgValueError(
                f"`{type(self).__name__}` evaluates networks with fixed knots. Let `kanmg.Hierarchy` build it, "
                f"or write `FreeKnotEvaluator(network, dtype, {type(self).__name__})` (`kanmg.evaluators.free_knots`)."
            )
        self.network = network
        self.dtype = dtype

    @property
    def home(self) -> torch.device | None:
        """Where coefficients, gradients and points live in a run: the device of tensors; None: NumPy arrays.

        An evaluator with a `torch.device` as its attribute `device` takes tensors there and returns tensors for them.
        """
        device: Any = getattr(self, "device", None)
        return device if isinstance(device, torch.device) else None

    @abstractmethod
    def value(self, theta: Array, x: Array) -> Array:
        """Evaluate the network: shape (N, Q)."""

    @abstractmethod
    def jet(self, theta: Array, x: Array, directions: Array, order: int, *, curvatures: Array | None = None) -> Jet:
        """Evaluate values and derivatives up to `order` along each of D paths of the points.

        Parameters
        ----------
        theta : ndarray, shape (num_coefficients,)
        x : ndarray, shape (N, num_inputs)
        directions : ndarray, shape (D, num_inputs) or (D, N, num_inputs)
        order : int
        curvatures : ndarray, shape (D, N, num_inputs), optional

        Returns
        -------
        Jet
        """

    @abstractmethod
    def adjoint(self, theta: Array, x: Array, cotangents: Array) -> tuple[Array, Array]:
        """Gradients of `sum(cotangents * value(theta, x))` with respect to `theta` and to `x`."""

    @abstractmethod
    def jet_adjoint(
        self, theta: Array, x: Array, directions: Array, cotangents: Jet, *, curvatures: Array | None = None
    ) -> Array:
        """Gradient with respect to `theta` of a weighted sum of values and directional derivatives.

        The sum is that of `cotangents.value * value` and of all `cotangents.derivatives[j] * derivatives[j]`, over the
        entries of the jet that `jet` returns for the same paths with as many orders as there are cotangents.

        Parameters
        ----------
        theta : ndarray, shape (num_coefficients,)
        x : ndarray, shape (N, num_inputs)
        directions : ndarray, shape (D, num_inputs) or (D, N, num_inputs)
        cotangents : Jet
            `value` of shape (N, Q), `derivatives` each of shape (D, N, Q), of the evaluator's dtype.
        curvatures : ndarray, shape (D, N, num_inputs), optional

        Returns
        -------
        ndarray, shape (num_coefficients,)
        """

    @abstractmethod
    def jet_jacobian(
        self, theta: Array, x: Array, directions: Array, cotangents: Jet, *, curvatures: Array | None = None
    ) -> Array:
        """Compute what `jet_adjoint` sums, for every sample alone: dense, shape (N, num_coefficients).

        Row n is the gradient of sample n's part of the sum. With the partial derivatives of a pointwise residual as
        cotangents, the rows are those of the residual's Jacobian. Callers keep N to a chunk.

        Parameters
        ----------
        theta : ndarray, shape (num_coefficients,)
        x : ndarray, shape (N, num_inputs)
        directions : ndarray, shape (D, num_inputs) or (D, N, num_inputs)
        cotangents : Jet
            As for `jet_adjoint`.
        curvatures : ndarray, shape (D, N, num_inputs), optional

        Returns
        -------
        ndarray, shape (N, num_coefficients)
        """

    @abstractmethod
    def squared_error(self, theta: Array, x: Array, y: Array, weights: Array | None = None) -> tuple[float, Array]:
        """`sum_n w_n sum_q (value_nq - y_nq)**2` and its gradient with respect to `theta`, in one sweep."""

    @abstractmethod
    def squared_error_value(self, theta: Array, x: Array, y: Array, weights: Array | None = None) -> float:
        """`sum_n w_n sum_q (value_nq - y_nq)**2` without the gradient."""

    @abstractmethod
    def jacobian(self, theta: Array, x: Array) -> Array:
        """Differentiate all values with respect to all coefficients: dense, shape (N, Q, num_coefficients)."""

    @abstractmethod
    def jvp(self, theta: Array, x: Array, direction: Array) -> Array:
        """Directional derivative of the values along `direction` in coefficient space: shape (N, Q)."""

    @abstractmethod
    def gauss_newton(
        self, theta: Array, x: Array, residuals: Array, weights: Array | None = None
    ) -> tuple[Array, Array]:
        """Gauss-Newton matrix `J^T W J` and vector `J^T W r`.

        `residuals` r have shape (N, Q), `weights`, the diagonal of W, shape (N,); J is `jacobian(theta, x)`.
        """

    def jet_gauss_newton(
        self,
        theta: Array,
        x: Array,
        directions: Array,
        cotangents: Sequence[Jet],
        residuals: Array,
        *,
        curvatures: Array | None = None,
    ) -> tuple[Array, Array]:
        """Gauss-Newton matrix `J^T J` and vector `J^T r` of residuals that depend on jets.

        Parameters
        ----------
        theta : ndarray, shape (num_coefficients,)
        x : ndarray, shape (N, num_inputs)
        directions : ndarray, shape (D, num_inputs) or (D, N, num_inputs)
        cotangents : sequence of Jet
            For each of R residuals, its partial derivatives at all points; the rows of J are what `jet_jacobian` makes
            of them.
        residuals : ndarray, shape (N, R)
        curvatures : ndarray, shape (D, N, num_inputs), optional

        Returns
        -------
        matrix : ndarray, shape (num_coefficients, num_coefficients)
        vector : ndarray, shape (num_coefficients,)
        """
        directions, curvatures = self._checked_paths(len(x), directions, curvatures)
        residuals = self._checked(residuals, "residuals", (len(x), len(cotangents)))
        size = self.network.num_coefficients
        matrix, vector = (
            torch.from_numpy(np.zeros((size, size), self.dtype)),
            torch.from_numpy(np.zeros(size, self.dtype)),
        )
        for rows in row_chunks(len(x), size, _JACOBIAN_ENTRIES):
            lines = directions[:, rows] if directions.ndim == 3 else directions
            bends = None if curvatures is None else curvatures[:, rows]
            for jet, column in zip(cotangents, residuals.T, strict=True):
                own = Jet(jet.value[rows], tuple(derivative[:, rows] for derivative in jet.derivatives))
                # torch multiplies on as many threads as the user has set, unlike NumPy.
                tall = torch.from_numpy(self.jet_jacobian(theta, x[rows], lines, own, curvatures=bends))
                with fitting_threads(tall.numel() * size):
                    matrix.addmm_(tall.T, tall)
                    vector.addmv_(tall.T, torch.from_numpy(np.ascontiguousarray(column[rows])))
        return matrix.numpy(), vector.numpy()

    def jet_jacobian_rows(
        self,
        theta: Array,
        x: Array,
        directions: Array,
        cotangents: Sequence[Jet],
        *,
        curvatures: Array | None = None,
    ) -> scipy.sparse.csr_array:
        """Compute the Jacobian of residuals that depend on jets, without its zeros where the evaluator knows them.

        Callers keep N to a chunk.

        Parameters
        ----------
        theta : ndarray, shape (num_coefficients,)
        x : ndarray, shape (N, num_inputs)
        directions : ndarray, shape (D, num_inputs) or (D, N, num_inputs)
        cotangents : sequence of Jet
            For each of R residuals, its partial derivatives at all points; as for `jet_gauss_newton`.
        curvatures : ndarray, shape (D, N, num_inputs), optional

        Returns
        -------
        csr_array, shape (N R, num_coefficients)
            The R residuals of a sample are neighbours.
        """
        rows = [self.jet_jacobian(theta, x, directions, jet, curvatures=curvatures) for jet in cotangents]
        return scipy.sparse.csr_array(np.stack(rows, axis=1).reshape(-1, self.network.num_coefficients))

    @property
    def entries_per_residual(self) -> int:
        """Entries of each row of `jet_jacobian_rows`, at most."""
        return self.network.num_coefficients

    def move_knots(self, network: Network) -> bool:  # noqa: ARG002 - of interest to subclasses
        """Go on with a network whose free knots are elsewhere, and which differs from this evaluator's in nothing else.

        Parameters
        ----------
        network : Network
            With every interior knot of layers with free knots twice.

        Returns
        -------
        bool
            False, the default, if a new evaluator must be built.
        """
        return False

    @property
    @abstractmethod
    def cost_per_sample(self) -> float:
        """Multiply-adds of one loss and gradient, per sample: the unit behind work units."""

    @property
    @abstractmethod
    def value_cost_per_sample(self) -> float:
        """Multiply-adds of one value without gradient, per sample."""

    def normal_product(self, order: int) -> Literal["dense", "strips"]:  # noqa: ARG002 - of interest to subclasses
        """Tell how `jet_gauss_newton` multiplies J^T J, for residuals that depend on derivatives up to an order.

        Parameters
        ----------
        order : int
            0: on values only.

        Returns
        -------
        {"dense", "strips"}
            With all entries of J, or only with those that are not zero.
        """
        return "dense"

    @property
    def normal_cost_per_residual(self) -> float:
        """Multiply-adds of J^T J in `jet_gauss_newton`, for each row of J: those of dense matrices."""
        size = self.network.num_coefficients
        return 0.5 * size * (size + 1)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle an evaluator as the arguments that it is built from.

        A subclass with further arguments, or with anything else that a copy must keep, overrides this.
        """
        return type(self), (self.network, self.dtype)

    def rebuilt(self, network: Network) -> Evaluator:
        """Build an evaluator of the same kind for another network.

        Parameters
        ----------
        network : Network
        """
        build, arguments = self.__reduce__()[:2]
        evaluator: Evaluator = build(*(network if own is self.network else own for own in arguments))
        return evaluator

    def _checked_paths(
        self, num_points: int, directions: Array, curvatures: Array | None
    ) -> tuple[Array, Array | None]:
        """View directions, of all points or of every point, and curvatures as arrays of the shapes that fit."""
        every = (None, num_points, self.network.num_inputs)
        lines = as_array(directions, "directions")
        lines = self._checked(lines, "directions", every if lines.ndim == 3 else (None, self.network.num_inputs))
        if curvatures is None:
            return lines, None
        return lines, self._checked(curvatures, "curvatures", (len(lines), *every[1:]))

    def _checked(self, data: Array, name: str, shape: tuple[int | None, ...]) -> Array:
        """View data as an array of this evaluator's dtype and the shape that is required (None first: any length)."""
        array = data if type(data) is np.ndarray else as_array(data, name)
        if array.dtype is not self.dtype:
            check_dtype(as_array(array, name), self.dtype, name)
        # Only the first length may be left open: comparing tuples takes a fifth of the time of comparing their entries.
        actual = array.shape
        if actual != shape and (shape[0] is not None or len(actual) != len(shape) or actual[1:] != shape[1:]):
            required = ", ".join("N" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "")
            raise ShapeError(
                f"`{name}` has shape {array.shape} but ({required}) is required by a network with "
                f"`widths={self.network.widths}` and {self.network.num_coefficients} coefficients."
            )
        return array
