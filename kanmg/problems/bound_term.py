"""A term whose derivatives are planned: its part of loss, gradient and normal equations on any level."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy  # its subpackages are loaded when they are first used
import torch

from kanmg.arrays import row_chunks
from kanmg.errors import DeviceError, KanmgValueError
from kanmg.evaluators.base import MAX_DEVICE_ORDER, home_of
from kanmg.jets import join_plans, plan_derivatives
from kanmg.problems.fields import Field
from kanmg.problems.linearisation import CHUNK_ENTRIES
from kanmg.problems.places import Place
from kanmg.problems.recording import Recording, record
from kanmg.problems.scalars import looking_up
from kanmg.threads import one_thread
from kanmg.vectors import Copies, beside, copied, is_tensor, joined, sum_of_squares, to_host, zeros_like

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import scipy.sparse  # noqa: TC004 - tells mypy what SciPy loads by itself

    from kanmg.evaluators.base import Array, Evaluator, Jet
    from kanmg.jets import DerivativePlan, Request
    from kanmg.problems.fields import Side, Wanted
    from kanmg.problems.paths import Paths
    from kanmg.problems.scalars import Scalar, Setting
    from kanmg.problems.terms import Term

__all__ = ["BoundTerm"]


# Entries of the jets of one chunk of points. Tensors of as many points are also below the size at which torch wakes up
# its threads, which would compete with the evaluator's.
_JET_ENTRIES = 1 << 17
# The same on a device, where large chunks keep it busy: a quarter of a gigabyte, and a few times that for the residual.
_DEVICE_ENTRIES = 1 << 25


class _Sweep(NamedTuple):
    """The residuals at a chunk of points, and how to differentiate them.

    Attributes
    ----------
    residuals : Tensor, shape (n, R)
        Weighted: the loss is the sum of their squares.
    leaves : list of dict
        For each request of the plan, the tensors that the fields gave out, by the number of the field.
    paths : Paths
        Through these points.
    jet : Jet
    unknowns : list of Tensor
        What stands for the problem's parameters, 0-d each.
    """

    residuals: torch.Tensor
    leaves: list[dict[int, torch.Tensor]]
    paths: Paths
    jet: Jet
    unknowns: list[torch.Tensor]


class BoundTerm:
    """A term with the names that its residual uses, and the derivatives it needs.

    Parameters
    ----------
    term : Term
    setting : Setting
    recording : Recording, optional
        What the residual asks for; found by calling it, if not given.

    Attributes
    ----------
    plan : DerivativePlan
        Of all derivatives that the residual needs of any field.
    num_residuals : int
        Points times residuals at every point.

    Notes
    -----
    Coefficients `theta` are those of the network, followed by one unknown for each of the problem's parameters.
    """

    def __init__(self, term: Term, setting: Setting, recording: Recording | None = None) -> None:
        self.term = term
        self._setting = setting
        self._recording = record(term, setting) if recording is None else recording
        self._wanted = sorted({wanted for own in self._recording.requests for wanted in own}, key=_by_side)
        self.plan, sides = _plan(self._wanted, len(setting.coordinates))
        self.num_residuals = len(term) * self._recording.num_components
        normals = np.ones_like(term.points) if term.normals is None else term.normals
        self.paths = setting.ansatz.paths(term.points, self.plan.directions, self.plan.order, sides, normals)
        self._jet_size = len(setting.fields) * self.cost_factor
        self._roots = self._weight_roots()
        self._places: Copies[torch.device | None, Place] = Copies()

    @property
    def requests(self) -> tuple[tuple[Wanted, ...], ...]:
        """For each field, the coordinates and sides of what the residual asks for."""
        return self._recording.requests

    @property
    def scalars(self) -> tuple[Scalar, ...]:
        """The parameters and constants that the residual uses, as they were made."""
        return self._recording.scalars

    @property
    def cost_factor(self) -> int:
        """How many values one jet costs: one, and one for each order along each direction."""
        return 1 + len(self.plan.directions) * self.plan.order

    def take(self, rows: Array) -> BoundTerm:
        """Return the term on some of its points."""
        weights = self.term.point_weights
        if weights is not None and not weights[rows].any():
            raise KanmgValueError(
                f"term {self.term.name!r}: the `point_weights` of all {len(rows)} points that were chosen are 0. Leave "
                "out points of weight 0, or ask for a larger `fraction`."
            )
        return BoundTerm(self.term.take(rows), self._setting, self._recording)

    @functools.cached_property
    def candidates(self) -> BoundTerm | None:
        """The term on its candidates instead of its points; None if it has none."""
        if self.term.candidates is None:
            return None
        term = dataclasses.replace(self.term, points=self.term.candidates, candidates=None)
        return BoundTerm(term, self._setting, self._recording)

    def replace(self, positions: Array, rows: Array) -> BoundTerm:
        """Return the term with candidates, by their rows, in the place of some of its points."""
        points = self.term.points.copy()
        if self.term.candidates is not None:
            points[positions] = self.term.candidates[rows]
        return BoundTerm(dataclasses.replace(self.term, points=points), self._setting, self._recording)

    def weighted(self, factor: float, weights: Array | None) -> BoundTerm:
        """Return the term with its weight times a factor, and the weights of its points times the squares of others.

        It has no candidates: these have no weights.
        """
        own, points = self.term.point_weights, self.term.points
        if weights is not None:
            squares = np.square(weights).astype(points.dtype)
            own = squares if own is None else squares * own
        weight = self.term.weight * factor
        term = dataclasses.replace(self.term, weight=weight, point_weights=own, candidates=None)
        return BoundTerm(term, self._setting, self._recording)

    def check_evaluator(self, evaluator: Evaluator) -> None:
        """Let the evaluator refuse the order of the derivatives; evaluates nothing."""
        theta = np.zeros(evaluator.network.num_coefficients, evaluator.dtype)
        self.paths.rows(slice(0)).jet(evaluator, theta, self.plan.order)

    # ------------------------------------------------------------------------------------------------ sums over points

    def loss(self, evaluator: Evaluator, theta: Array) -> Any:
        """Evaluate the term's part of the loss: a number, on a device a tensor that holds it."""
        theta, place = self._placed(evaluator, theta)
        with torch.no_grad():
            sweeps = (self._sweep(evaluator, theta, place, rows) for rows in self._chunks(place))
            return sum(_total(sweep.residuals, theta) for sweep in sweeps)

    def add_gradient(self, evaluator: Evaluator, theta: Array, gradient: Array) -> Any:
        """Evaluate the term's part of the loss and add that of the gradient to `gradient`."""
        loss: Any = 0.0
        theta, place = self._placed(evaluator, theta)
        for rows in self._chunks(place):
            sweep = self._sweep(evaluator, theta, place, rows)
            part = sweep.residuals.square().sum()
            gradient += beside(self._pull_back(evaluator, theta, sweep, part, None), gradient)
            loss += part.detach().double() if is_tensor(theta) else part.item()
        return loss

    def residuals(self, evaluator: Evaluator, theta: Array) -> Array:
        """Evaluate the weighted residuals: shape (num_residuals,)."""
        own, place = self._placed(evaluator, theta)
        with torch.no_grad():
            sweeps = (self._sweep(evaluator, own, place, rows) for rows in self._chunks(place))
            parts: list[Any] = [sweep.residuals.reshape(-1) for sweep in sweeps]
        found: Any = parts[0] if len(parts) == 1 else torch.cat(parts)
        return beside(found, theta) if is_tensor(theta) else to_host(found)

    def magnitudes(self, evaluator: Evaluator, theta: Array) -> Array:
        """Evaluate the residuals without weights: the root of the sum of the squares at each point, shape (N,).

        Points of weight 0 have 0. A NumPy array, wherever the coefficients are.
        """
        residuals = to_host(self.residuals(evaluator, theta)).reshape(len(self.term), -1)
        roots = self._roots[:, 0]
        sizes = np.linalg.norm(residuals, axis=1)
        return np.asarray(np.divide(sizes, roots, out=np.zeros_like(sizes), where=roots > 0.0))

    def trace(self, evaluator: Evaluator, theta: Array) -> float:
        """Evaluate the trace of J^T J, J the Jacobian of `residuals` by the network's coefficients."""
        size, trace = evaluator.network.num_coefficients, 0.0
        theta, place = self._placed(evaluator, theta)
        for rows in row_chunks(len(self.term), max(self._jet_size, size), _entries(place)):
            sweep = self._sweep(evaluator, theta, place, rows)
            paths = sweep.paths
            for column in sweep.residuals.unbind(dim=1):
                jet = self._cotangents(sweep, column.sum(), None)[0]
                part = evaluator.jet_jacobian(theta[:size], paths.inputs, paths.directions, jet, **paths.options)
                trace += float(sum_of_squares(part))
        return trace

    def add_pull_back(self, evaluator: Evaluator, theta: Array, cotangents: Array, gradient: Array) -> None:
        """Add J^T cotangents, J the Jacobian of `residuals`, to `gradient`."""
        theta, place = self._placed(evaluator, theta)
        columns = beside(cotangents, theta).reshape(len(self.term), -1)
        for rows in self._chunks(place):
            sweep = self._sweep(evaluator, theta, place, rows)
            seed = torch.as_tensor(copied(columns[rows]))
            gradient += beside(self._pull_back(evaluator, theta, sweep, sweep.residuals, seed), gradient)

    def add_normal_equations(self, evaluator: Evaluator, theta: Array, vector: Array, matrix: Array) -> Any:
        """Return the sum of the squared residuals R, and add J^T R to `vector`, J^T J to `matrix`."""
        size, loss = evaluator.network.num_coefficients, 0.0
        theta, place = self._placed(evaluator, theta)
        for rows in self._chunks(place):
            sweep = self._sweep(evaluator, theta, place, rows)
            paths, residuals = sweep.paths, sweep.residuals.detach()
            cotangents = [self._cotangents(sweep, column.sum(), None)[0] for column in sweep.residuals.unbind(dim=1)]
            own: Any = residuals if is_tensor(theta) else residuals.numpy()
            part, right = evaluator.jet_gauss_newton(
                theta[:size], paths.inputs, paths.directions, cotangents, own, **paths.options
            )
            matrix[:size, :size] += beside(part, matrix)
            vector[:size] += beside(right, vector)
            if sweep.unknowns:
                self._add_parameters(evaluator, theta, sweep, vector, matrix)
            loss += _total(residuals, theta)
        return loss

    def jacobian_rows(self, evaluator: Evaluator, theta: Array) -> Iterator[scipy.sparse.csr_array]:
        """Go through the rows of the Jacobian of `residuals`, chunk by chunk, on the host; so must `theta` be."""
        size, place = evaluator.network.num_coefficients, self._place(None)
        entries = self._recording.num_components * evaluator.entries_per_residual
        for outer in self._chunks(place):
            for inner in row_chunks(outer.stop - outer.start, entries, CHUNK_ENTRIES):
                rows = slice(outer.start + inner.start, outer.start + inner.stop)
                sweep = self._sweep(evaluator, theta, place, rows)
                paths = sweep.paths
                cotangents = [self._cotangents(sweep, column.sum(), None)[0] for column in sweep.residuals.unbind(1)]
                own = evaluator.jet_jacobian_rows(
                    theta[:size], paths.inputs, paths.directions, cotangents, **paths.options
                )
                if sweep.unknowns:
                    others = [column.numpy().ravel() for column in _columns(sweep.residuals, sweep.unknowns)]
                    right = scipy.sparse.csr_array(np.stack(others, axis=1))
                    own = scipy.sparse.hstack([own, right], format="csr")
                yield own

    def _add_parameters(self, evaluator: Evaluator, theta: Array, sweep: _Sweep, vector: Array, matrix: Array) -> None:
        """Add what belongs to the parameters, whose columns of J are taken back like any other vector."""
        size = evaluator.network.num_coefficients
        residuals = sweep.residuals.detach()
        for j, column in enumerate(_columns(sweep.residuals, sweep.unknowns), start=size):
            row = beside(self._pull_back(evaluator, theta, sweep, sweep.residuals, column), matrix)
            matrix[j] += row
            matrix[:size, j] += row[:size]
            product = (column * residuals).sum()
            vector[j] += product if is_tensor(theta) else product.item()

    # ------------------------------------------------------------------------------------------------- chunks of points

    def _chunks(self, place: Place) -> Iterator[slice]:
        """Cut the points so that jets stay within their bound."""
        return row_chunks(len(self.term), self._jet_size, _entries(place))

    def _placed(self, evaluator: Evaluator, theta: Array) -> tuple[Array, Place]:
        """Return the coefficients, and the term's arrays beside them: on their device, or on the host."""
        home = home_of(evaluator, theta) if self.plan.order <= MAX_DEVICE_ORDER else None
        return to_host(theta) if home is None else theta, self._place(home)

    def _place(self, home: torch.device | None) -> Place:
        """Return the term's arrays on a device, copied there once; None: on the host."""
        if home not in self._places:
            self._places[home] = Place.of(self.term.arrays, self._roots, self.paths, home)
        return self._places[home]

    def _sweep(self, evaluator: Evaluator, theta: Array, place: Place, rows: slice) -> _Sweep:
        """Evaluate the weighted residuals of a chunk."""
        (x, *data), roots, paths = place.rows(rows)
        size = evaluator.network.num_coefficients
        jet = paths.jet(evaluator, theta[:size], self.plan.order)
        leaves = self._leaves(jet)
        unknowns = [_leaf(unknown) for unknown in theta[size:]]
        values = self._setting.values(unknowns, x)
        named = enumerate(self._setting.fields)
        arguments = [Field(name, self._setting.coordinates, self._look_up(leaves, q)) for q, name in named]
        with looking_up(lambda scalar: self._known(values, scalar)), one_thread():
            try:
                output = self.term.residual(x, *arguments, *data)
                residuals = output.reshape(len(x), -1) * roots
            except (RuntimeError, TypeError) as error:
                is_full = isinstance(error, torch.OutOfMemoryError)
                if is_tensor(theta) and "device" in str(error) and not is_full:
                    raise self._elsewhere(x, error) from error
                raise
        return _Sweep(residuals, leaves, paths, jet, unknowns)

    def _elsewhere(self, x: torch.Tensor, error: Exception) -> DeviceError:
        return DeviceError(
            f"the residual of term {self.term.name!r} was called with tensors on {x.device}, but combines them with "
            f"something elsewhere ({str(error).splitlines()[0]}). Make its tensors beside the points, "
            "`torch.tensor(..., device=x.device)` or `table.to(x.device)`, and use torch's functions, not NumPy's."
        )

    def _known(self, values: Mapping[str, torch.Tensor], scalar: Scalar) -> torch.Tensor:
        """Return the value of a scalar."""
        if scalar.name not in values:
            raise self._asked_late(f"for {scalar!r}")
        return values[scalar.name]

    def _leaves(self, jet: Jet) -> list[dict[int, torch.Tensor]]:
        """Make tensors of what the fields are asked for, by which torch differentiates if it records."""
        leaves: list[dict[int, torch.Tensor]] = []
        for wanted, values in zip(self._wanted, self.plan.combine(jet), strict=True):
            users = [q for q, own in enumerate(self.requests) if wanted in own]
            leaves.append({q: _leaf(values[:, q]) for q in users})
        return leaves

    def _look_up(self, leaves: list[dict[int, torch.Tensor]], field: int) -> Callable[[Request, Side], torch.Tensor]:
        table = {wanted: own[field] for wanted, own in zip(self._wanted, leaves, strict=True) if field in own}

        def look_up(request: Request, side: Side) -> torch.Tensor:
            if (request, side) not in table:
                raise self._asked_late(f"`{self._setting.fields[field]}` for something")
            return table[request, side]

        return look_up

    def _asked_late(self, what: str) -> KanmgValueError:
        return KanmgValueError(
            f"the residual of term {self.term.name!r} asks {what} that it did not ask for when it was first called. It "
            "must ask for the same derivatives, parameters and constants at every call: no branches that depend on "
            "numbers."
        )

    def _pull_back(
        self, evaluator: Evaluator, theta: Array, sweep: _Sweep, outputs: torch.Tensor, seed: torch.Tensor | None
    ) -> Array:
        """Differentiate what was computed from the residuals: first by torch, then by the evaluator."""
        jet, unknowns = self._cotangents(sweep, outputs, seed)
        paths, size = sweep.paths, evaluator.network.num_coefficients
        gradient = evaluator.jet_adjoint(theta[:size], paths.inputs, paths.directions, jet, **paths.options)
        return joined([gradient, beside(torch.stack(unknowns), gradient)]) if unknowns else gradient

    def _cotangents(
        self, sweep: _Sweep, outputs: torch.Tensor, seed: torch.Tensor | None
    ) -> tuple[Jet, list[torch.Tensor]]:
        """Differentiate what was computed from the residuals, by torch, with respect to the jets and the unknowns."""
        flat = [leaf for own in sweep.leaves for leaf in own.values()]
        with one_thread():
            gradients = torch.autograd.grad(
                outputs, [*flat, *sweep.unknowns], seed, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        remaining = iter(gradients)
        cotangents: list[Any] = []
        for own in sweep.leaves:
            if len(own) == 1 == sweep.jet.value.shape[1] and is_tensor(sweep.jet.value):
                cotangents.append(next(remaining)[:, None])
                continue
            cotangent = zeros_like(sweep.jet.value)
            for q in own:
                column = next(remaining)
                cotangent[:, q] = column if is_tensor(cotangent) else column.numpy()
            cotangents.append(cotangent)
        return sweep.paths.network_cotangents(self.plan.spread(cotangents, sweep.jet)), list(remaining)

    def _weight_roots(self) -> Array:
        """Roots of what multiplies the squared residuals in the loss: shape (N, 1)."""
        points, weights = self.term.points, self.term.point_weights
        own = np.ones(len(points)) if weights is None else weights.astype(np.float64)
        factors = self.term.weight * own / (own.sum() * self._recording.num_components)
        return np.asarray(np.sqrt(factors)[:, None], points.dtype)


def _entries(place: Place) -> int:
    """Say how many entries the jets of a chunk may have."""
    return _DEVICE_ENTRIES if is_tensor(place.paths.inputs) else _JET_ENTRIES


def _leaf(values: Any) -> Any:
    """Make a tensor of some numbers, by which torch differentiates if it records."""
    if isinstance(values, np.ndarray):
        return torch.from_numpy(values.copy()).requires_grad_()
    return (values.contiguous() if is_tensor(values) else torch.tensor(values)).requires_grad_()


def _total(residuals: torch.Tensor, theta: Array) -> Any:
    """Sum the squares; on a device the sum stays there."""
    total = residuals.square().sum()
    return total.double() if is_tensor(theta) else total.item()


def _columns(residuals: torch.Tensor, unknowns: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Differentiate every residual by each of the unknowns: columns of the Jacobian, shaped like the residuals.

    The product of a vector s with the transposed Jacobian, which torch computes backwards, is linear in s; its
    derivatives by the entries of s are the columns.
    """
    seed = torch.zeros_like(residuals, requires_grad=True)
    products = torch.autograd.grad(residuals, unknowns, seed, create_graph=True, allow_unused=True)
    return [
        torch.zeros_like(residuals, requires_grad=False)
        if product is None or not product.requires_grad
        else torch.autograd.grad(product, seed, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
        for product in products
    ]


def _by_side(wanted: Wanted) -> tuple[str, int, Request]:
    request, side = wanted
    return side, len(request), request


def _plan(wanted: Sequence[Wanted], num_inputs: int) -> tuple[DerivativePlan, tuple[Side, ...]]:
    """Choose directions for each side, and tell which side each of them belongs to."""
    sides = list(dict.fromkeys(side for _, side in wanted)) or [""]
    plans = [plan_derivatives([request for request, own in wanted if own == side], num_inputs) for side in sides]
    of_directions = (side for side, plan in zip(sides, plans, strict=True) for _ in plan.directions)
    return join_plans(plans), tuple(of_directions)
