"""Smoothers in another geometry: the coefficients of the power-ReLU basis, or another inner product."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from kanmg.coordinates import gram_coordinates, metric_coordinates, relu_coordinates
from kanmg.derived_objectives import DerivedObjective
from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.smoothers.base import Smoother, StepRecord
from kanmg.smoothers.levenberg_marquardt import LevenbergMarquardt
from kanmg.vectors import Copies

if TYPE_CHECKING:
    from kanmg.coordinates import Coordinates
    from kanmg.evaluators.base import Array
    from kanmg.hierarchy import Level
    from kanmg.network import Network
    from kanmg.objective import SmoothFunction
    from kanmg.problems.base import Problem
    from kanmg.problems.linearisation import Linearisation

__all__ = ["Basis", "ChangeOfBasis", "GeometryState", "Metric"]

Basis: TypeAlias = Literal["spline", "relu"]


@dataclass(frozen=True, slots=True)
class GeometryState:
    """What `ChangeOfBasis` and `Metric` remember on one level.

    Attributes
    ----------
    inner : object
        The state of the smoother that they wrap.
    iterate : ndarray, shape (num_coefficients,), or None
        What that smoother returned last, in its own coordinates; None where these are the coefficients.
    known : (float, ndarray) or None
        Loss and gradient at the current coefficients, if the inner state holds them.
    """

    inner: Any
    iterate: Array | None
    known: tuple[float, Array] | None


class _Geometry(Smoother[GeometryState]):
    """A smoother whose iterate or gradient are expressed in other coordinates."""

    smoother: Smoother[Any]

    @abstractmethod
    def _coordinates(self, network: Network) -> Coordinates:
        """Return the coordinates of a network's coefficients."""

    @property
    def _changes(self) -> tuple[bool, bool]:
        """Whether the iterate, and whether the gradient, are given in the coordinates."""
        return True, True

    @property
    def needs_derivatives(self) -> bool:
        """Whether the wrapped smoother does."""
        return self.smoother.needs_derivatives

    def check(self, problem: Problem, level: Level) -> None:
        """Refuse what the wrapped smoother refuses, and knots or matrices that define no coordinates."""
        self.smoother.check(problem, level)
        self._check()
        if any(self._changes):
            self._coordinates(level.network)
            self._refuse_rows(level.network.num_coefficients + problem.num_parameters)

    def _check(self) -> None:
        """Refuse gradients that are no derivatives, where the smoother needs them."""
        iterate, gradient = self._changes
        if iterate != gradient and self.smoother.needs_derivatives:
            names: dict[bool, Basis] = {False: "spline", True: "relu"}
            raise KanmgValueError(
                f"`{type(self).__name__}` got `iterate={names[iterate]!r}` and `gradient={names[gradient]!r}`, whose "
                f"gradient is not the derivative with respect to the iterate, but `{type(self.smoother).__name__}` "
                "relies on that. Use the same basis for both, or a smoother that only follows gradients: "
                "`kanmg.Adam()` or `kanmg.TorchOptimizer(torch.optim.SGD, lr=...)`. A smoother of your own says so by "
                "`needs_derivatives`."
            )

    def _refuse_rows(self, size: int) -> None:
        """Refuse systems without a matrix: the Jacobian of other coordinates is not sparse."""
        if isinstance(self.smoother, LevenbergMarquardt) and self.smoother.uses_cg(size):
            raise KanmgValueError(
                f"`{type(self).__name__}` cannot wrap `LevenbergMarquardt` where it solves for {size} unknowns by "
                "conjugate gradients: in other coordinates the rows of the Jacobian are not sparse. Use "
                "`linear_solver='cholesky'`, a larger `max_coefficients`, or `kanmg.LBFGS()`."
            )

    def init(self, objective: SmoothFunction, theta: Array) -> GeometryState:
        """Begin as the wrapped smoother does."""
        self._check()
        if not any(self._changes):
            inner = self.smoother.init(objective, theta)
            return GeometryState(inner, None, self.smoother.known(inner))
        iterate = self._network_coordinates(objective).from_coefficients(theta) if self._changes[0] else None
        posed = self._posed(objective, theta, iterate)
        inner = self.smoother.init(posed, posed.start)
        return GeometryState(inner, iterate, self._known(inner, posed))

    def step(
        self, objective: SmoothFunction, theta: Array, state: GeometryState
    ) -> tuple[Array, GeometryState, StepRecord]:
        """Do one step of the wrapped smoother."""
        if not any(self._changes):
            moved, inner, record = self.smoother.step(objective, theta, state.inner)
            return moved, GeometryState(inner, None, self.smoother.known(inner)), record
        posed = self._posed(objective, theta, state.iterate)
        known = self.smoother.known(state.inner)
        if known is not None and state.known is not None:
            posed.remember(known[1], state.known[1])
        moved, inner, record = self.smoother.step(posed, posed.start, state.inner)
        iterate = None if state.iterate is None else moved
        return posed.point(moved), GeometryState(inner, iterate, self._known(inner, posed)), record

    def known(self, state: GeometryState) -> tuple[float, Array] | None:
        return state.known

    def _posed(self, objective: SmoothFunction, theta: Array, iterate: Array | None) -> _Posed:
        """Return what the wrapped smoother minimises, from where it is."""
        coordinates = self._network_coordinates(objective)
        return _Posed(objective, coordinates, theta, iterate, changes_gradient=self._changes[1])

    def _known(self, inner: Any, posed: _Posed) -> tuple[float, Array] | None:
        """Return loss and gradient that the inner state holds, the gradient as it was before the change."""
        known = self.smoother.known(inner)
        return None if known is None else (known[0], posed.original(known[1]))

    def _network_coordinates(self, objective: SmoothFunction) -> Coordinates:
        network = objective.network
        if network is None:
            raise KanmgValueError(
                f"`{type(self).__name__}` needs to know whose coefficients it moves, but the objective has no "
                "`network`. Pass `network=hierarchy[l].network` to `kanmg.GalerkinObjective`."
            )
        return self._coordinates(network)


class _Posed(DerivedObjective):
    """An objective f as its wrapped smoother sees it: v -> f(u + C^-T (v - v0)), from v0, which stands for u.

    Differences are converted, not coefficients: whatever the condition of C, v0 belongs to u exactly, and rounding
    errors of one step are not seen by the next one.
    """

    def __init__(
        self,
        objective: SmoothFunction,
        coordinates: Coordinates,
        theta: Array,
        iterate: Array | None,
        *,
        changes_gradient: bool,
    ) -> None:
        super().__init__(objective)
        self._coordinates = coordinates
        self._changes_gradient = changes_gradient
        self._origin = theta, iterate
        # Points and gradients are recognised by their identity, as they are by those who asked for them.
        self._points: list[tuple[Array, Array]] = [] if iterate is None else [(iterate, theta)]
        self._gradients: list[tuple[Array, Array]] = []

    @property
    def start(self) -> Array:
        """Where the smoother is."""
        theta, iterate = self._origin
        return theta if iterate is None else iterate

    def point(self, variable: Array) -> Array:
        """Return the coefficients that a point of the smoother stands for."""
        theta, iterate = self._origin
        if iterate is None:
            return variable
        for known, point in self._points:
            if known is variable:
                return point
        point = theta + self._coordinates.to_coefficients(variable - iterate)
        self._points.append((variable, point))
        return point

    def remember(self, changed: Array, gradient: Array) -> None:
        """Keep what a gradient was before it was changed."""
        self._gradients.append((changed, gradient))

    def original(self, changed: Array) -> Array:
        """Return a gradient of the objective from what the smoother holds of it."""
        for known, gradient in self._gradients:
            if known is changed:
                return gradient
        return self._coordinates.to_gradient(changed) if self._changes_gradient else changed

    def value(self, theta: Array) -> float:
        """Evaluate f."""
        return self.objective.value(self.point(theta))

    def value_and_gradient(self, theta: Array) -> tuple[float, Array]:
        """Evaluate f and its gradient in the coordinates that were asked for."""
        loss, gradient = self.objective.value_and_gradient(self.point(theta))
        return loss, self._changed(gradient)

    def residuals(self, theta: Array) -> Array:
        """Evaluate the residuals of f."""
        return self.objective.residuals(self.point(theta))

    def pull_back(self, theta: Array, cotangents: Array) -> Array:
        """Multiply a vector with the transposed Jacobian."""
        return self._changed(self.objective.pull_back(self.point(theta), cotangents))

    def normal_equations(self, theta: Array) -> tuple[float, Array, Array]:
        """Evaluate f, its gradient and its Gauss-Newton matrix in the coordinates."""
        loss, gradient, matrix = self.objective.normal_equations(self.point(theta))
        return loss, self._changed(gradient), self._coordinates.from_matrix(matrix)

    def linearised(self, theta: Array) -> Linearisation:  # noqa: ARG002
        """Refuse: the Jacobian is J C^-T, which is not sparse."""
        raise KanmgValueError(
            "the Jacobian in other coordinates has no sparse rows. Use `LevenbergMarquardt(linear_solver='cholesky')`."
        )

    def _changed(self, gradient: Array) -> Array:
        if not self._changes_gradient:
            return gradient
        changed = self._coordinates.from_gradient(gradient)
        self.remember(changed, gradient)
        return changed


@dataclass(frozen=True)
class ChangeOfBasis(_Geometry):
    """Any smoother, with its iterate and its gradients in the spline or in the power-ReLU basis.

    The network, its evaluators and everything else keep the spline coefficients u: the same function is the sum of
    truncated powers with weights w = A^T u, and its gradient with respect to w is A^-1 times the one with respect to u.
    What this changes is which way is downhill. With D what the smoother does to a gradient, a step of size eta is

    - `iterate="spline", gradient="spline"`: u - eta D g_u, the smoother itself, to the last bit;
    - `iterate="relu", gradient="relu"`: w - eta D g_w, descent of a ReLU^k network;
    - `iterate="relu", gradient="spline"`: w - eta D g_u;
    - `iterate="spline", gradient="relu"`: u - eta D g_w.

    Parameters
    ----------
    smoother : Smoother
    iterate : {"spline", "relu"}, default "relu"
        What the smoother moves.
    gradient : {"spline", "relu"}, default "relu"
        With respect to what the loss is differentiated. Where that is not the iterate, gradients are no derivatives,
        and smoothers with line searches or models of the loss are refused.

    Raises
    ------
    KanmgTypeError, KanmgValueError
        If `smoother` is none, or a basis is unknown. From `kanmg.solve`, if the smoother needs derivatives and does not
        get them, if it is `LevenbergMarquardt` with conjugate gradients, or if a layer's knots have no power-ReLU
        basis.

    See Also
    --------
    Metric : descent in another inner product.
    kanmg.power_relu_matrix : A.

    Notes
    -----
    The powers are scaled by the spacing of the knots [1]_, so that step sizes are of one size in both bases. Affine
    layers, parameters of a problem and logits of free knots keep their coordinates; A is that of the knots before
    training. The iterate w is kept between steps. Differences of w are
    converted, not w: w0 stands for u exactly and what is returned is where the loss was evaluated, so that rounding
    errors do not accumulate, however ill-conditioned A is. The gradient norms of records are those the smoother saw.

    A step takes one banded triangular solution for every gradient and every trial, O(k) for each coefficient; that of
    `LevenbergMarquardt` 2 n of them for its matrix of n rows.

    References
    ----------
    .. [1] B. S. Southworth, J. A. Actor, G. Harper, E. C. Cyr, Multilevel training for Kolmogorov Arnold networks,
       2026. arXiv:2603.04827

    Examples
    --------
    >>> import numpy as np
    >>> import kanmg
    >>> x = np.linspace(-1, 1, 200).reshape(-1, 1)
    >>> problem = kanmg.Regression(x, np.sin(6 * x))
    >>> hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=16, num_levels=1, evaluator="reference")
    >>> def loss(smoother):
    ...     method = kanmg.NestedIteration(smoother, steps=100)
    ...     return kanmg.solve(problem, hierarchy, method=method, progress=False).loss
    >>> loss(kanmg.Adam(step_size=0.03)) < 0.01 * loss(kanmg.ChangeOfBasis(kanmg.Adam(step_size=0.03)))
    True
    """

    smoother: Smoother[Any]
    iterate: Basis = "relu"
    gradient: Basis = "relu"

    def __post_init__(self) -> None:
        _require_smoother("ChangeOfBasis", self.smoother)
        for name, value in (("iterate", self.iterate), ("gradient", self.gradient)):
            if value not in get_args(Basis):
                raise KanmgValueError(f"`ChangeOfBasis` got `{name}={value!r}`. Pass 'spline' or 'relu'.")

    @property
    def _changes(self) -> tuple[bool, bool]:
        return self.iterate == "relu", self.gradient == "relu"

    def _coordinates(self, network: Network) -> Coordinates:
        return relu_coordinates(network)


@dataclass(frozen=True, eq=False)
class Metric(_Geometry):
    """Any smoother, in another inner product of the coefficients.

    With the symmetric positive definite matrix M of the inner product and M = L L^T the smoother moves y = L^T u, whose
    Euclidean length is the length of u in the metric. Gradient descent becomes u - eta M^-1 g.

    Parameters
    ----------
    smoother : Smoother
    metric : "gram", callable or sequence, default "gram"
        `"gram"`: the L2 inner product of the splines over their interval, of every edge alone. Else a function of the
        level's network that returns one entry per layer, or, for methods that smooth one level only, these entries:
        None leaves a layer as it is, a matrix of shape (m, m) is that of all inputs of a spline layer, an array of
        shape (P, m, m) has one for each. All outputs have the same. A named function of a module lets a checkpoint
        recognise its run.

    Raises
    ------
    KanmgTypeError, KanmgValueError
        If `smoother` is none, or `metric` none of the above. From `kanmg.solve`, if matrices do not fit the network,
        are not symmetric and positive definite, or the smoother is `LevenbergMarquardt` with conjugate gradients.

    See Also
    --------
    ChangeOfBasis : the metric A A^T of the power-ReLU basis, and gradients in another basis than the iterate.

    Notes
    -----
    Conversions as in `ChangeOfBasis`. The Gram matrix has the unit of the interval's length: step sizes of gradient
    descent follow it, those of Adam its root.

    Examples
    --------
    >>> import kanmg
    >>> kanmg.Metric(kanmg.LBFGS())
    Metric(smoother=LBFGS(history=50, max_evaluations=20), metric='gram')
    """

    smoother: Smoother[Any]
    metric: Any = "gram"

    def __post_init__(self) -> None:
        _require_smoother("Metric", self.smoother)
        if callable(self.metric) or (isinstance(self.metric, str) and self.metric == "gram"):
            return
        if not isinstance(self.metric, list | tuple):
            raise KanmgTypeError(
                f"`Metric` got `metric={self.metric!r}`. Pass 'gram', a function of the network that returns one entry "
                "per layer, or these entries: None, a matrix, or one matrix per input."
            )
        # A copy that nobody changes: a smoother is a value.
        entries = tuple(map(_entry, self.metric))
        for entry in entries:
            if entry is not None:
                entry.setflags(write=False)
        object.__setattr__(self, "metric", entries)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Metric):
            return NotImplemented
        return self.smoother == other.smoother and _equal(self.metric, other.metric)

    def __hash__(self) -> int:
        return hash((Metric, self.smoother, len(self.metric) if isinstance(self.metric, tuple) else self.metric))

    def _coordinates(self, network: Network) -> Coordinates:
        if isinstance(self.metric, str):
            return gram_coordinates(network)
        # Made once for a network, because every step asks for them; not a field, because it is no option.
        made: dict[Network, Coordinates] = self.__dict__.setdefault("_made", Copies())
        if network not in made:
            entries = self.metric(network) if callable(self.metric) else self.metric
            made[network] = metric_coordinates(network, entries)
        return made[network]


def _entry(entry: Any) -> Array | None:
    """Copy what a metric has for one layer."""
    if entry is None:
        return None
    try:
        numbers = np.array(entry)
    except ValueError:
        numbers = np.array(None)
    if numbers.dtype.kind not in "iuf":
        raise KanmgTypeError(
            f"`Metric` got `{entry!r}` for a layer. Pass None, or real numbers: a matrix, or one matrix per input."
        )
    result: Array = numbers.astype(np.float64)
    return result


def _equal(first: Any, second: Any) -> bool:
    """Whether two metrics are the same."""
    if not (isinstance(first, tuple) and isinstance(second, tuple)):
        return bool(first == second) if isinstance(first, tuple) == isinstance(second, tuple) else False
    return len(first) == len(second) and all(
        a is b or (a is not None and b is not None and np.array_equal(a, b)) for a, b in zip(first, second, strict=True)
    )


def _require_smoother(owner: str, smoother: object) -> None:
    """Refuse what is no smoother."""
    if not isinstance(smoother, Smoother):
        hint = f" Write `{smoother.__name__}(...)`." if isinstance(smoother, type) else ""
        raise KanmgTypeError(f"`{owner}` got `smoother={smoother!r}`. Pass a smoother, e.g. `kanmg.Adam()`.{hint}")
