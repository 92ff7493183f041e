"""The compiled CPU evaluator: fused kernels over blocks of samples, on several threads."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
import scipy  # its subpackages are loaded when they are first used

from kanmg.arrays import resolve_dtype, row_chunks
from kanmg.evaluators import kernels
from kanmg.evaluators.base import Array, Evaluator, Jet
from kanmg.evaluators.cost import gradient_cost, value_cost
from kanmg.evaluators.jet_kernels import MAX_ORDER, make_jet_sweep
from kanmg.evaluators.jet_memory import JetArguments, JetMemory
from kanmg.evaluators.plan import jet_plan, make_plan, move_knots
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.evaluators.strips import StripProduct
from kanmg.evaluators.sweep import make_sweep
from kanmg.evaluators.tangent_kernels import make_tangent
from kanmg.evaluators.tasks import Task, compiled, num_parts
from kanmg.network import Network, Spline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import scipy.sparse

__all__ = ["CPUEvaluator"]

# Entries of the strips of the Jacobian that are multiplied together.
_STRIP_ENTRIES = 1 << 22

# What the kernels compute, by what compiles them.
_GROUPS: dict[Any, str] = {
    make_sweep: "losses and gradients",
    make_jet_sweep: "derivatives",
    make_tangent: "derivatives by coefficients",
}

Call: TypeAlias = tuple[Array, dict[int, Array]]
"""Contiguous points, and the arrays that not every task has."""

# Entries of the points that are copied at a time when they are not contiguous.
_CHUNK_ENTRIES = 1 << 18


class CPUEvaluator(Evaluator):
    """Evaluate a network with kernels compiled by Numba.

    Blocks of samples run through all layers while their hidden values stay in cache. The samples are divided into parts
    by their number alone, whoever computes them: the same input gives the same bits on any number of threads. No more
    threads are used than `torch.get_num_threads()`.

    Compiled kernels depend on the largest degree of the layers and on the dtype only. They are kept on disk (Numba's
    cache; `NUMBA_CACHE_DIR` moves it). Derivatives of orders above 2 come from a `ReferenceEvaluator`.

    Parameters
    ----------
    network : Network
    dtype : numpy.dtype or str
        float64 or float32.

    Examples
    --------
    The cubic spline whose coefficients are the Greville abscissae is the identity:

    >>> import kanmg
    >>> knots = kanmg.uniform_knots(4, degree=3)
    >>> evaluator = CPUEvaluator(kanmg.Network([kanmg.Spline(1, 1, knots=knots)]), "float64")
    >>> evaluator.value(knots.greville, np.array([[-0.5], [0.25]])).ravel().round(12).tolist()
    [-0.5, 0.25]
    """

    name: ClassVar[str] = "cpu"

    def __init__(self, network: Network, dtype: Any) -> None:
        super().__init__(network, resolve_dtype(dtype))
        self._plan = make_plan(network, self.dtype)
        self._costs = value_cost(network), gradient_cost(network)
        self._num_coefficients, self._num_inputs = network.num_coefficients, network.num_inputs
        self._num_outputs = network.num_outputs
        self._may_fail = any(isinstance(layer, Spline) and layer.outside == "error" for layer in network.layers)
        self._task = Task(self._plan, self.dtype)
        self._jet_tasks: dict[tuple[int, int], tuple[Task, JetMemory]] = {}
        self._kernels: dict[Any, int] = {}
        # Of knots that have been moved.
        self._knots: Array | None = None

    def value(self, theta: Array, x: Array) -> Array:
        theta, x = self._coefficients(theta), self._points(x)
        result = np.empty((len(x), self._num_outputs), self.dtype)
        for rows, points in _contiguous_chunks(x):
            self._run(theta, points, {kernels.VALUES: result[rows]})
        return result

    def squared_error(self, theta: Array, x: Array, y: Array, weights: Array | None = None) -> tuple[float, Array]:
        theta, x = self._coefficients(theta), self._points(x)
        loss, gradient = 0.0, None
        for points, fields in self._targets(x, y, weights):
            part, gradient_part = self._run(theta, points, fields, gradient=True)
            loss += part
            gradient = gradient_part if gradient is None else gradient + gradient_part
        if gradient is None:
            return 0.0, np.zeros(self._num_coefficients, self.dtype)
        return loss, gradient

    def squared_error_value(self, theta: Array, x: Array, y: Array, weights: Array | None = None) -> float:
        theta, x = self._coefficients(theta), self._points(x)
        return sum((self._run(theta, points, fields)[0] for points, fields in self._targets(x, y, weights)), 0.0)

    def adjoint(self, theta: Array, x: Array, cotangents: Array) -> tuple[Array, Array]:
        theta, x = self._coefficients(theta), self._points(x)
        cotangents = self._checked(cotangents, "cotangents", (len(x), self._num_outputs))
        point_gradients = np.empty((len(x), self._num_inputs), self.dtype)
        gradient = np.zeros(self._num_coefficients, self.dtype)
        for rows, points in _contiguous_chunks(x):
            fields = {
                kernels.COTANGENTS: np.ascontiguousarray(cotangents[rows]),
                kernels.POINT_GRADIENTS: point_gradients[rows],
            }
            gradient += self._run(theta, points, fields, gradient=True)[1]
        return gradient, point_gradients

    def jacobian(self, theta: Array, x: Array) -> Array:
        theta, x = self._coefficients(theta), np.ascontiguousarray(self._points(x))
        result = np.zeros((len(x), self._num_outputs, self._plan.num_coefficients), self.dtype)
        if result.size:
            self._run(theta, x, {kernels.GRADIENTS: result, kernels.JACOBIAN: result})
        return self._without_padding(result)

    def gauss_newton(
        self, theta: Array, x: Array, residuals: Array, weights: Array | None = None
    ) -> tuple[Array, Array]:
        x = self._points(x)
        residuals = self._checked(residuals, "residuals", (len(x), self._num_outputs))
        scale = np.ones(len(x), self.dtype)
        if weights is not None:
            scale = np.sqrt(self._checked(weights, "weights", (len(x),)))
        # A residual that is a weighted output: a jet of order 0 that has one cotangent.
        units = scale[:, None, None] * np.eye(self._num_outputs, dtype=self.dtype)
        cotangents = [Jet(units[:, q], ()) for q in range(self._num_outputs)]
        return self.jet_gauss_newton(theta, x, x[:0], cotangents, scale[:, None] * residuals)

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
        order = max((len(jet.derivatives) for jet in cotangents), default=0)
        if self.normal_product(order) == "dense":
            return super().jet_gauss_newton(theta, x, directions, cotangents, residuals, curvatures=curvatures)
        theta, x = self._coefficients(theta), self._points(x)
        directions, curvatures = self._checked_paths(len(x), directions, curvatures)
        residuals = self._checked(residuals, "residuals", (len(x), len(cotangents)))
        sums: tuple[Array, Array] | None = None
        for rows in row_chunks(len(x), len(cotangents) * self._strips.entries_per_row, _STRIP_ENTRIES):
            lines = directions[:, rows] if directions.ndim == 3 else directions
            bends = None if curvatures is None else curvatures[:, rows]
            own = [Jet(jet.value[rows], tuple(part[:, rows] for part in jet.derivatives)) for jet in cotangents]
            strips, cells = self._jet_strips(theta, x[rows], lines, bends, own)
            part = self._strips.multiply(strips, cells, np.ascontiguousarray(residuals[rows].T).ravel())
            # Large matrices take longer to be cleared and added than to be multiplied.
            sums = part if sums is None else (sums[0] + part[0], sums[1] + part[1])
        if sums is None:
            size = self._num_coefficients
            return np.zeros((size, size), self.dtype), np.zeros(size, self.dtype)
        return sums

    def jet_jacobian_rows(
        self,
        theta: Array,
        x: Array,
        directions: Array,
        cotangents: Sequence[Jet],
        *,
        curvatures: Array | None = None,
    ) -> scipy.sparse.csr_array:
        if max((len(jet.derivatives) for jet in cotangents), default=0) > MAX_ORDER:
            return super().jet_jacobian_rows(theta, x, directions, cotangents, curvatures=curvatures)
        theta, x = self._coefficients(theta), self._points(x)
        directions, curvatures = self._checked_paths(len(x), directions, curvatures)
        strips, cells = self._jet_strips(theta, x, directions, curvatures, list(cotangents))
        return self._strips.rows(strips, cells, len(cotangents))

    @property
    def entries_per_residual(self) -> int:
        return self._strips.entries_per_row

    def _jet_strips(
        self, theta: Array, x: Array, directions: Array, curvatures: Array | None, cotangents: list[Jet]
    ) -> tuple[Array, Array]:
        """Compute the strips of the Jacobian and their cells: the rows of one residual after those of the other."""
        num_rows = len(cotangents) * len(x)
        strips = np.zeros((self._strips.num_strips, num_rows, len(self._plan.marker)), self.dtype)
        cells = np.zeros((self._strips.num_cell_rows, num_rows), np.int64)
        num_paths, paths = self._paths(x, directions, curvatures)
        for number, jet in enumerate(cotangents):
            first = number * len(x)
            fields = paths | self._cotangents((num_paths, len(x), self._num_outputs), jet)
            fields |= dict.fromkeys((kernels.GRADIENTS, kernels.STRIPS), strips[:, first:])
            fields[kernels.STRIP_CELLS] = cells[:, first:]
            order = len(jet.derivatives)
            self._run_jets(theta, np.ascontiguousarray(x), fields, num_paths, order, strip_rows=num_rows)
        return strips, cells

    def jet(self, theta: Array, x: Array, directions: Array, order: int, *, curvatures: Array | None = None) -> Jet:
        if order > MAX_ORDER:
            return self._reference.jet(theta, x, directions, order, curvatures=curvatures)
        theta, x = self._coefficients(theta), self._points(x)
        num_paths, fields = self._paths(x, directions, curvatures)
        value = np.empty((len(x), self._num_outputs), self.dtype)
        derivatives = np.empty((order, num_paths, *value.shape), self.dtype)
        if derivatives.size == 0:
            return Jet(self.value(theta, x), tuple(derivatives))
        fields[kernels.VALUES] = value
        fields |= dict(zip((kernels.FIRST, kernels.SECOND), derivatives, strict=False))
        self._run_jets(theta, np.ascontiguousarray(x), fields, num_paths, order)
        return Jet(value, tuple(derivatives))

    def jet_adjoint(
        self, theta: Array, x: Array, directions: Array, cotangents: Jet, *, curvatures: Array | None = None
    ) -> Array:
        if len(cotangents.derivatives) > MAX_ORDER:
            return self._reference.jet_adjoint(theta, x, directions, cotangents, curvatures=curvatures)
        theta, x = self._coefficients(theta), self._points(x)
        num_paths, fields = self._paths(x, directions, curvatures)
        fields |= self._cotangents((num_paths, len(x), self._num_outputs), cotangents)
        if len(x) == 0:
            return np.zeros(self._num_coefficients, self.dtype)
        order = len(cotangents.derivatives)
        return self._run_jets(theta, np.ascontiguousarray(x), fields, num_paths, order, gradient=True)

    def jet_jacobian(
        self, theta: Array, x: Array, directions: Array, cotangents: Jet, *, curvatures: Array | None = None
    ) -> Array:
        if len(cotangents.derivatives) > MAX_ORDER:
            return self._reference.jet_jacobian(theta, x, directions, cotangents, curvatures=curvatures)
        theta, x = self._coefficients(theta), self._points(x)
        num_paths, fields = self._paths(x, directions, curvatures)
        fields |= self._cotangents((num_paths, len(x), self._num_outputs), cotangents)
        result = np.zeros((len(x), self._plan.num_coefficients), self.dtype)
        if result.size:
            fields |= {kernels.GRADIENTS: result, kernels.JACOBIAN: result}
            self._run_jets(theta, np.ascontiguousarray(x), fields, num_paths, len(cotangents.derivatives))
        return self._without_padding(result)

    def jvp(self, theta: Array, x: Array, direction: Array) -> Array:
        theta, x = self._coefficients(theta), self._points(x)
        direction = self._padded(self._coefficients(direction))
        result = np.empty((len(x), self._num_outputs), self.dtype)
        for rows, points in _contiguous_chunks(x):
            fields = {kernels.THETA_DIRECTION: direction, kernels.FIRST: result[rows]}
            self._run(theta, points, fields, make=make_tangent)
        return result

    def move_knots(self, network: Network) -> bool:
        if not move_knots(self._plan, network):
            return False
        self.network, self._knots = network, self._plan.tables.copy()
        self.__dict__.pop("_reference", None)
        return True

    @property
    def cost_per_sample(self) -> float:
        return self._costs[1]

    @property
    def value_cost_per_sample(self) -> float:
        return self._costs[0]

    def normal_product(self, order: int) -> Literal["dense", "strips"]:
        return "strips" if order <= MAX_ORDER and self._strips.is_faster else "dense"

    @property
    def normal_cost_per_residual(self) -> float:
        return self._strips.cost_per_row if self._strips.is_faster else super().normal_cost_per_residual

    def _run(
        self, theta: Array, x: Array, fields: dict[int, Array], *, gradient: bool = False, make: Any = make_sweep
    ) -> tuple[float, Array]:
        """Run a kernel on contiguous arrays; `fields` are those that not every task has.

        Returns the squared error and, with `gradient`, its gradient.
        """
        kernel, task = self._kernel(make), self._task
        gradient_size = self._plan.num_coefficients if gradient else 0
        with task.lock:
            task.fill(x, fields, num_parts(len(x) * self._costs[1], gradient_size))
            self._execute(kernel, task, theta, gradient=gradient)
            return task.loss(), self._compressed(task.gradient()) if gradient else task.nothing

    def _run_jets(
        self,
        theta: Array,
        x: Array,
        fields: dict[int, Array],
        directions: int,
        order: int,
        *,
        gradient: bool = False,
        strip_rows: int = 0,
    ) -> Array:
        """Run the kernel of jets on contiguous arrays; returns the gradient if it is wanted."""
        directions *= order > 0
        if (directions, order) not in self._jet_tasks:
            new = Task(jet_plan(self._plan, directions, order), self.dtype)
            new.set_jets(directions, order)
            self._jet_tasks[directions, order] = new, JetMemory(self.dtype)
        kernel, (task, memory) = self._kernel(make_jet_sweep), self._jet_tasks[directions, order]
        gradient_size = self._plan.num_coefficients if gradient else 0
        with task.lock:
            lines, own, bends = map(fields.get, (kernels.DIRECTIONS, kernels.OWN_DIRECTIONS, kernels.CURVATURES))
            arguments = JetArguments(theta, x, lines, own, bends, self._knots)
            known, kept = memory.find(arguments), None
            if known is not None:
                fields[kernels.KNOWN_JETS] = known
            elif kernels.VALUES in fields:
                kept = memory.room(task.hidden_size(len(x)))
                fields |= {} if kept is None else {kernels.KEPT_JETS: kept}
            work = len(x) * (1 + directions * order) * self._costs[gradient]
            task.fill(x, fields, num_parts(work, gradient_size))
            task.set_strips(strip_rows)
            self._execute(kernel, task, theta, gradient=gradient)
            if kept is not None:
                memory.keep(arguments, kept)
            return self._compressed(task.gradient()) if gradient else task.nothing

    def _execute(self, kernel: int, task: Task, theta: Array, *, gradient: bool) -> None:
        task.set_coefficients(theta)
        if gradient:
            task.want_gradient()
        task.run(kernel)
        if self._may_fail:
            task.check_status()

    def _kernel(self, make: Any) -> int:
        if make not in self._kernels:
            self._kernels[make] = compiled(make, _GROUPS[make], len(self._plan.marker), self.dtype)
        return self._kernels[make]

    @cached_property
    def _strips(self) -> StripProduct:
        """What multiplies the entries of Jacobians that are not zero."""
        return StripProduct(self._plan, self._num_coefficients, self.dtype)

    @cached_property
    def _reference(self) -> ReferenceEvaluator:
        """What computes derivatives of higher orders than the kernels do."""
        return ReferenceEvaluator(self.network, self.dtype)

    def _paths(self, x: Array, directions: Array, curvatures: Array | None) -> tuple[int, dict[int, Array]]:
        """Check directions and curvatures; returns the number of paths and the fields that describe them."""
        directions, curvatures = self._checked_paths(len(x), directions, curvatures)
        place = kernels.DIRECTIONS if directions.ndim == 2 else kernels.OWN_DIRECTIONS
        fields = {place: np.ascontiguousarray(directions)}
        if curvatures is not None:
            fields[kernels.CURVATURES] = np.ascontiguousarray(curvatures)
        return len(directions), fields

    def _cotangents(self, shape: tuple[int, int, int], cotangents: Jet) -> dict[int, Array]:
        """Check the cotangents of a jet whose derivatives have this shape; returns their fields."""
        value = self._checked(cotangents.value, "cotangents.value", shape[1:])
        fields = {kernels.COTANGENTS: np.ascontiguousarray(value)}
        places = (kernels.FIRST_COTANGENTS, kernels.SECOND_COTANGENTS)
        for place, derivative in zip(places, cotangents.derivatives, strict=False):
            fields[place] = np.ascontiguousarray(self._checked(derivative, "cotangents.derivatives", shape))
        return fields

    def _targets(self, x: Array, y: Array, weights: Array | None) -> list[Call] | Iterator[Call]:
        """Points of one chunk after the other, and the fields that say what to compare them with."""
        y = self._checked(y, "y", (len(x), self._num_outputs))
        if weights is not None:
            weights = self._checked(weights, "weights", (len(x),))
        if not _is_contiguous(x, y, weights):
            return self._copied_targets(x, y, weights)
        fields = {kernels.TARGETS: y}
        if weights is not None:
            fields[kernels.WEIGHTS] = weights
        return [(x, fields)] if len(x) else []

    def _copied_targets(self, x: Array, y: Array, weights: Array | None) -> Iterator[Call]:
        """Do the same where the samples do not lie in memory as the kernels want them."""
        for rows, points in _contiguous_chunks(x):
            fields = {kernels.TARGETS: np.ascontiguousarray(y[rows])}
            if weights is not None:
                fields[kernels.WEIGHTS] = np.ascontiguousarray(weights[rows])
            yield points, fields

    def _padded(self, direction: Array) -> Array:
        padding = self._plan.padding
        return np.ascontiguousarray(direction) if padding is None else padding.pad(direction)

    def _without_padding(self, rows: Array) -> Array:
        """Pick what belongs to the user's coefficients, along the last axis."""
        padding = self._plan.padding
        return rows if padding is None else padding.compress(rows)

    def _compressed(self, gradient: Array) -> Array:
        """Copy what belongs to the user's coefficients."""
        padding = self._plan.padding
        return gradient.copy() if padding is None else padding.compress(gradient)

    def _coefficients(self, theta: Array) -> Array:
        return self._checked(theta, "theta", (self._num_coefficients,))

    def _points(self, x: Array) -> Array:
        return self._checked(x, "x", (None, self._num_inputs))


def _is_contiguous(*arrays: Array | None) -> bool:
    return all(array is None or array.flags.c_contiguous for array in arrays)


def _contiguous_chunks(x: Array) -> Iterator[tuple[slice, Array]]:
    """All samples at once where they lie in memory as the kernels want them; else chunk by chunk, copied."""
    if len(x) == 0:
        return
    if x.flags.c_contiguous:
        yield slice(None), x
        return
    for rows in row_chunks(len(x), x.shape[1], _CHUNK_ENTRIES):
        yield rows, np.ascontiguousarray(x[rows])
