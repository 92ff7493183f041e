"""Networks with free knots, on any evaluator of networks with fixed ones."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from kanmg.arrays import resolve_dtype
from kanmg.evaluators.base import Array, Evaluator, Jet
from kanmg.evaluators.knot_map import KnotMap
from kanmg.vectors import beside, is_tensor, to_host

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    import scipy.sparse

    from kanmg.evaluators.knot_map import Moment
    from kanmg.network import Network

__all__ = ["FreeKnotEvaluator"]

# Points at which what follows from the knots is kept: the iterate of a smoother, and its last trial.
_MOMENTS = 2


class FreeKnotEvaluator(Evaluator):
    """Evaluate a network with free knots by an evaluator of networks with fixed ones.

    At given coefficients and logits, the network and all its derivatives with respect to both are splines on the knots
    with the interior ones doubled. An evaluator for these knots computes everything; a sparse matrix takes gradients
    and Jacobians to the network's own coefficients and logits.

    Parameters
    ----------
    network : Network
    dtype : numpy.dtype or str
        float64 or float32.
    build : callable
        `build(network, dtype)` returns an evaluator for fixed knots, such as the class `CPUEvaluator`.

    Notes
    -----
    A derivative with respect to a knot of the derivatives of order k of splines of degree k jumps where the knot is.
    Losses of the k-th derivatives at points are then not continuous in the knots, those of lower ones are.

    Examples
    --------
    >>> import kanmg
    >>> from kanmg.evaluators.cpu import CPUEvaluator
    >>> network = kanmg.Network([kanmg.Spline(1, 1, knots=kanmg.uniform_knots(2, degree=1), free_knots=True)])
    >>> evaluator = FreeKnotEvaluator(network, "float64", CPUEvaluator)
    >>> theta = np.array([0.0, 1.0, 0.0, 0.0, 0.0])
    >>> evaluator.jacobian(theta, np.array([[-0.5]])).round(4).tolist()
    [[[0.5, 0.5, 0.0, -0.245, 0.245]]]
    """

    takes_free_knots: ClassVar[bool] = True

    def __init__(self, network: Network, dtype: Any, build: Callable[[Network, np.dtype[Any]], Evaluator]) -> None:
        super().__init__(network, resolve_dtype(dtype))
        self._build = build
        self._lock = threading.RLock()
        self._map = KnotMap(network)
        self._moments: list[tuple[bytes, Moment]] = []
        moment = self._map.moment(np.zeros(network.num_coefficients))
        self._inner = build(moment.network, self.dtype)
        self._is_at: Moment = moment
        self._is_moving = False

    @property
    def name(self) -> str:  # type: ignore[override]
        """What `print(hierarchy)` shows."""
        return f"{self._inner.name}, free knots"

    @property
    def home(self) -> torch.device | None:
        """Where the inner evaluator keeps vectors."""
        return self._inner.home

    @property
    def inner(self) -> Evaluator:
        """The evaluator for the knots as they were in the last call."""
        return self._inner

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.network, self.dtype, self._build)

    def rebuilt(self, network: Network) -> Evaluator:
        return super().rebuilt(network) if network.num_logits else self._build(network, self.dtype)

    # ------------------------------------------------------------------------------------------------- the interface

    def value(self, theta: Array, x: Array) -> Array:
        with self._lock:
            return self._go_to(theta).value(self._coefficients(theta), x)

    def jet(self, theta: Array, x: Array, directions: Array, order: int, *, curvatures: Array | None = None) -> Jet:
        with self._lock:
            return self._go_to(theta).jet(self._coefficients(theta), x, directions, order, curvatures=curvatures)

    def adjoint(self, theta: Array, x: Array, cotangents: Array) -> tuple[Array, Array]:
        with self._lock:
            gradient, x_gradient = self._go_to(theta).adjoint(self._coefficients(theta), x, cotangents)
            return self._pulled(gradient), x_gradient

    def jet_adjoint(
        self, theta: Array, x: Array, directions: Array, cotangents: Jet, *, curvatures: Array | None = None
    ) -> Array:
        with self._lock:
            own = self._go_to(theta), self._coefficients(theta)
            return self._pulled(own[0].jet_adjoint(own[1], x, directions, cotangents, curvatures=curvatures))

    def jet_jacobian(
        self, theta: Array, x: Array, directions: Array, cotangents: Jet, *, curvatures: Array | None = None
    ) -> Array:
        with self._lock:
            own = self._go_to(theta), self._coefficients(theta)
            return self._rows(own[0].jet_jacobian(own[1], x, directions, cotangents, curvatures=curvatures))

    def squared_error(self, theta: Array, x: Array, y: Array, weights: Array | None = None) -> tuple[float, Array]:
        with self._lock:
            loss, gradient = self._go_to(theta).squared_error(self._coefficients(theta), x, y, weights)
            return loss, self._pulled(gradient)

    def squared_error_value(self, theta: Array, x: Array, y: Array, weights: Array | None = None) -> float:
        with self._lock:
            return self._go_to(theta).squared_error_value(self._coefficients(theta), x, y, weights)

    def jacobian(self, theta: Array, x: Array) -> Array:
        with self._lock:
            return self._rows(self._go_to(theta).jacobian(self._coefficients(theta), x))

    def jvp(self, theta: Array, x: Array, direction: Array) -> Array:
        with self._lock:
            inner, coefficients = self._go_to(theta), self._coefficients(theta)
            pushed = (self._is_at.tangent @ self._on_host(direction, "direction")).astype(self.dtype)
            return inner.jvp(coefficients, x, beside(pushed, coefficients))

    def gauss_newton(
        self, theta: Array, x: Array, residuals: Array, weights: Array | None = None
    ) -> tuple[Array, Array]:
        with self._lock:
            found = self._go_to(theta).gauss_newton(self._coefficients(theta), x, residuals, weights)
            return self._restricted(found[0]), self._pulled(found[1])

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
        with self._lock:
            own = self._go_to(theta), self._coefficients(theta)
            found = own[0].jet_gauss_newton(own[1], x, directions, cotangents, residuals, curvatures=curvatures)
            return self._restricted(found[0]), self._pulled(found[1])

    def jet_jacobian_rows(
        self,
        theta: Array,
        x: Array,
        directions: Array,
        cotangents: Sequence[Jet],
        *,
        curvatures: Array | None = None,
    ) -> scipy.sparse.csr_array:
        with self._lock:
            own = self._go_to(theta), self._coefficients(theta)
            rows = own[0].jet_jacobian_rows(own[1], x, directions, cotangents, curvatures=curvatures)
            return (rows @ self._is_at.tangent).astype(self.dtype).tocsr()

    @property
    def entries_per_residual(self) -> int:
        # Neighbours among the doubled functions may come from the functions of two cells.
        most = 2 * self._inner.entries_per_residual + self.network.num_logits
        return min(most, self.network.num_coefficients)

    @property
    def cost_per_sample(self) -> float:
        return self._inner.cost_per_sample

    @property
    def value_cost_per_sample(self) -> float:
        return self._inner.value_cost_per_sample

    def normal_product(self, order: int) -> Literal["dense", "strips"]:
        return self._inner.normal_product(order)

    @property
    def normal_cost_per_residual(self) -> float:
        return self._inner.normal_cost_per_residual

    # --------------------------------------------------------------------------------------------------------- knots

    def _go_to(self, theta: Array) -> Evaluator:
        """Move the knots to where the logits want them; returns the evaluator for these."""
        own = self._on_host(theta, "theta")
        mark = own.tobytes()
        moment = next((found for before, found in self._moments if before == mark), None)
        if moment is None:
            moment = self._map.moment(own.copy())
        others = [entry for entry in self._moments if entry[1] is not moment]
        self._moments = [(mark, moment), *others[: _MOMENTS - 1]]
        if moment is not self._is_at or self._is_moving:
            # After an interrupt in between, the knots may be anywhere.
            self._is_moving = True
            if not self._inner.move_knots(moment.network):
                self._inner = self._build(moment.network, self.dtype)
            self._is_at, self._is_moving = moment, False
        return self._inner

    def _on_host(self, vector: Array, name: str) -> npt.NDArray[np.float64]:
        """Check a vector of coefficients and logits, and bring it to where knots are computed."""
        own = to_host(vector) if self.home is not None else vector
        return np.asarray(self._checked(own, name, (self.network.num_coefficients,)), np.float64)

    def _coefficients(self, theta: Array) -> Array:
        """Return the coefficients on the doubled knots, where those of the network are."""
        own: Array = self._is_at.coefficients.astype(self.dtype, copy=False)
        result: Array = beside(own, theta) if self.home is not None else own
        return result

    # ----------------------------------------------------------------------------------------------------- gradients

    def _pulled(self, gradient: Array) -> Array:
        """Take a gradient to coefficients and logits."""
        pulled = self._is_at.tangent.T @ to_host(gradient).astype(np.float64, copy=False)
        result: Array = beside(pulled.astype(self.dtype, copy=False), gradient)
        return result

    def _rows(self, rows: Array) -> Array:
        """Take rows of a Jacobian, along their last axis, to coefficients and logits."""
        if is_tensor(rows):
            taken: Array = rows @ self._dense(rows)
            return taken
        flat = rows.reshape(-1, rows.shape[-1])
        product = np.ascontiguousarray((self._is_at.tangent.T @ flat.T).T, self.dtype)
        return product.reshape(*rows.shape[:-1], self.network.num_coefficients)

    def _restricted(self, matrix: Array) -> Array:
        """Take a symmetric matrix of second derivatives to coefficients and logits."""
        if is_tensor(matrix):
            dense: Any = self._dense(matrix)
            product: Array = dense.T @ (matrix @ dense)
            return product
        transposed = self._is_at.tangent.T
        half = transposed @ matrix
        return np.ascontiguousarray(transposed @ half.T, self.dtype)

    def _dense(self, other: Any) -> Any:
        """Return the matrix of all these products as a tensor, beside another one."""
        return torch.from_numpy(self._is_at.tangent.toarray().astype(self.dtype)).to(other.device)
