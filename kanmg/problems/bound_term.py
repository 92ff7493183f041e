"""A term whose derivatives are planned: its part of loss, gradient and normal equations on any level."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from kanmg.arrays import row_chunks
from kanmg.errors import KanmgValueError
from kanmg.jets import plan_derivatives
from kanmg.problems.fields import Field
from kanmg.problems.recording import Recording, record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kanmg.evaluators.base import Array, Evaluator, Jet
    from kanmg.jets import Request
    from kanmg.problems.terms import Term

__all__ = ["BoundTerm"]

# Entries of the jets of one chunk of points. Tensors of as many points are also below the size at which torch wakes up
# its threads, which would compete with the evaluator's.
_JET_ENTRIES = 1 << 17


class _Sweep(NamedTuple):
    """The residuals at a chunk of points, and how to differentiate them.

    Attributes
    ----------
    points : ndarray, shape (n, d)
    residuals : Tensor, shape (n, R)
        Weighted: the loss is the sum of their squares.
    leaves : list of dict
        For each request of the plan, the tensors that the fields gave out, by the number of the field.
    jet : Jet
    """

    points: Array
    residuals: torch.Tensor
    leaves: list[dict[int, torch.Tensor]]
    jet: Jet


class BoundTerm:
    """A term with the names that its residual uses, and the derivatives it needs.

    Parameters
    ----------
    term : Term
    coordinates, fields : tuple of str
    recording : Recording, optional
        What the residual asks for; found by calling it, if not given.

    Attributes
    ----------
    plan : DerivativePlan
        Of all derivatives that the residual needs of any field.
    num_residuals : int
        Points times residuals at every point.
    """

    def __init__(
        self, term: Term, coordinates: tuple[str, ...], fields: tuple[str, ...], recording: Recording | None = None
    ) -> None:
        self.term = term
        self._coordinates = coordinates
        self._fields = fields
        self._recording = record(term, coordinates, fields) if recording is None else recording
        requests = sorted({request for own in self._recording.requests for request in own}, key=_by_order)
        self.plan = plan_derivatives(requests, len(coordinates))
        self.num_residuals = len(term) * self._recording.num_components
        self._directions = self.plan.directions.astype(term.points.dtype)
        self._jet_size = len(fields) * self.cost_factor
        self._roots = self._weight_roots()

    @property
    def requests(self) -> tuple[tuple[Request, ...], ...]:
        """For each field, the coordinates of what the residual asks for."""
        return self._recording.requests

    @property
    def cost_factor(self) -> int:
        """How many values one jet costs: one, and one for each order along each direction."""
        return 1 + len(self.plan.directions) * self.plan.order

    def take(self, rows: Array) -> BoundTerm:
        """Return the term on some of its points."""
        weights = self.term.point_weights
        chosen = None if weights is None else weights[rows]
        if chosen is not None and not chosen.any():
            raise KanmgValueError(
                f"term {self.term.name!r}: the `point_weights` of all {len(rows)} points that were chosen are 0. Leave "
                "out points of weight 0, or ask for a larger `fraction`."
            )
        term = dataclasses.replace(self.term, points=self.term.points[rows], point_weights=chosen)
        return BoundTerm(term, self._coordinates, self._fields, self._recording)

    def check_evaluator(self, evaluator: Evaluator) -> None:
        """Let the evaluator refuse the order of the derivatives; evaluates nothing."""
        theta = np.zeros(evaluator.network.num_coefficients, evaluator.dtype)
        evaluator.jet(theta, self.term.points[:0], self._directions, self.plan.order)

    # ------------------------------------------------------------------------------------------------ sums over points

    def loss(self, evaluator: Evaluator, theta: Array) -> float:
        """Evaluate the term's part of the loss."""
        with torch.no_grad():
            return sum(self._sweep(evaluator, theta, rows).residuals.square().sum().item() for rows in self._chunks())

    def add_gradient(self, evaluator: Evaluator, theta: Array, gradient: Array) -> float:
        """Evaluate the term's part of the loss and add that of the gradient to `gradient`."""
        loss = 0.0
        for rows in self._chunks():
            sweep = self._sweep(evaluator, theta, rows)
            part = sweep.residuals.square().sum()
            cotangents = self._cotangents(sweep, part, None)
            gradient += evaluator.jet_adjoint(theta, sweep.points, self._directions, cotangents)
            loss += part.item()
        return loss

    def residuals(self, evaluator: Evaluator, theta: Array) -> Array:
        """Evaluate the weighted residuals: shape (num_residuals,)."""
        with torch.no_grad():
            parts = [self._sweep(evaluator, theta, rows).residuals.numpy().ravel() for rows in self._chunks()]
        return np.concatenate(parts)

    def add_pull_back(self, evaluator: Evaluator, theta: Array, cotangents: Array, gradient: Array) -> None:
        """Add J^T cotangents, J the Jacobian of `residuals`, to `gradient`."""
        columns = np.ascontiguousarray(cotangents).reshape(len(self.term), -1)
        for rows in self._chunks():
            sweep = self._sweep(evaluator, theta, rows)
            jet = self._cotangents(sweep, sweep.residuals, torch.from_numpy(columns[rows].copy()))
            gradient += evaluator.jet_adjoint(theta, sweep.points, self._directions, jet)

    def add_normal_equations(self, evaluator: Evaluator, theta: Array, vector: Array, matrix: Array) -> float:
        """Return the sum of the squared residuals R, and add J^T R to `vector`, J^T J to `matrix`."""
        loss = 0.0
        for rows in self._chunks():
            sweep = self._sweep(evaluator, theta, rows)
            residuals = sweep.residuals.detach()
            cotangents = [self._cotangents(sweep, column.sum(), None) for column in sweep.residuals.unbind(dim=1)]
            part, right = evaluator.jet_gauss_newton(
                theta, sweep.points, self._directions, cotangents, residuals.numpy()
            )
            matrix += part
            vector += right
            loss += residuals.square().sum().item()
        return loss

    # ------------------------------------------------------------------------------------------------- chunks of points

    def _chunks(self) -> Iterator[slice]:
        """Cut the points so that jets stay within their bound."""
        return row_chunks(len(self.term), self._jet_size, _JET_ENTRIES)

    def _sweep(self, evaluator: Evaluator, theta: Array, rows: slice) -> _Sweep:
        """Evaluate the weighted residuals of a chunk."""
        points = self.term.points[rows]
        jet = evaluator.jet(theta, points, self._directions, self.plan.order)
        leaves = self._leaves(jet)
        arguments = [Field(name, self._coordinates, self._look_up(leaves, q)) for q, name in enumerate(self._fields)]
        output = self.term.residual(torch.from_numpy(points), *arguments)
        residuals = output.reshape(len(points), -1) * torch.from_numpy(self._roots[rows])
        return _Sweep(points, residuals, leaves, jet)

    def _leaves(self, jet: Jet) -> list[dict[int, torch.Tensor]]:
        """Make tensors of what the fields are asked for, by which torch differentiates if it records."""
        leaves: list[dict[int, torch.Tensor]] = []
        for request, values in zip(self.plan.requests, self.plan.combine(jet), strict=True):
            users = [q for q, own in enumerate(self.requests) if request in own]
            leaves.append({q: torch.from_numpy(values[:, q].copy()).requires_grad_() for q in users})
        return leaves

    def _look_up(self, leaves: list[dict[int, torch.Tensor]], field: int) -> Callable[[Request], torch.Tensor]:
        table = {request: own[field] for request, own in zip(self.plan.requests, leaves, strict=True) if field in own}

        def look_up(request: Request) -> torch.Tensor:
            if request not in table:
                raise KanmgValueError(
                    f"the residual of term {self.term.name!r} asks `{self._fields[field]}` for something that it did "
                    "not ask for when it was first called. It must ask for the same derivatives at every call: no "
                    "branches that depend on numbers."
                )
            return table[request]

        return look_up

    def _cotangents(self, sweep: _Sweep, outputs: torch.Tensor, seed: torch.Tensor | None) -> Jet:
        """Differentiate what was computed from the residuals, by torch, with respect to the jets."""
        flat = [leaf for own in sweep.leaves for leaf in own.values()]
        gradients = torch.autograd.grad(
            outputs, flat, seed, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        remaining = iter(gradients)
        cotangents = []
        for own in sweep.leaves:
            cotangent = np.zeros_like(sweep.jet.value)
            for q in own:
                cotangent[:, q] = next(remaining).numpy()
            cotangents.append(cotangent)
        return self.plan.spread(cotangents, sweep.jet)

    def _weight_roots(self) -> Array:
        """Roots of what multiplies the squared residuals in the loss: shape (N, 1)."""
        points, weights = self.term.points, self.term.point_weights
        own = np.ones(len(points)) if weights is None else weights.astype(np.float64)
        factors = self.term.weight * own / (own.sum() * self._recording.num_components)
        return np.asarray(np.sqrt(factors)[:, None], points.dtype)


def _by_order(request: Sequence[int]) -> tuple[int, Sequence[int]]:
    return len(request), request
