"""Problems given by residuals at points: equations, initial and boundary conditions, data."""

from __future__ import annotations

import copy
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kanmg.arrays import check_columns, check_domain, check_dtype, row_chunks
from kanmg.errors import KanmgValueError
from kanmg.problems.ansatz import Transform, make_ansatz
from kanmg.problems.base import Problem
from kanmg.problems.batches import Stream, generator, permutation
from kanmg.problems.bound_term import BoundTerm
from kanmg.problems.checks import check_degree, check_inputs, check_outputs, checked_names, checked_terms
from kanmg.problems.recording import record, sample_residual
from kanmg.problems.scalars import Constant, Parameter, Setting, collect
from kanmg.problems.terms import naming

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kanmg.evaluators.base import Array, Evaluator
    from kanmg.hierarchy import Level
    from kanmg.problems.ansatz import Ansatz
    from kanmg.problems.terms import Term

__all__ = ["Collocation"]

# An initialisation looks at no more points than these.
_MAX_TRAINING_INPUTS = 4096
# A part of a term has no fewer points than these, if the term has them.
_MIN_POINTS = 8
# The fingerprint calls each residual on no more points than these.
_SAMPLED_POINTS = 256


class Collocation(Problem):
    """Find fields whose residuals vanish at points, in the sense of least squares.

    The loss is the sum over the terms of their weights times the weighted means over the points of the means over the
    residuals at a point of their squares,

        sum_terms weight sum_n w_n mean_i r_ni^2 / sum_n w_n.

    Parameters
    ----------
    coordinates : sequence of str
        Names of the columns of the points; without `inputs` they are the network's inputs.
    fields : sequence of str
        Names of the network's outputs.
    terms : sequence of Term
    inputs : callable, optional
        `inputs(x)`: the coordinates, a float64 tensor of shape (N, d), to the network's inputs, shape (N, P), by torch
        expressions: kinks of the fields (`torch.stack([x[:, 0], x[:, 0].abs()], dim=1)`), or periods (sine and cosine).
        Residuals see coordinates, and derivatives by them, all the same.
    transform : dict of str to Transform, optional
        By the names of fields, for those that are not the network's output itself but `offset(x) + factor(x) * output`.
    seed : int, default 0
        Of the points of coarse levels.

    Attributes
    ----------
    coordinates, fields : tuple of str
    terms : tuple of Term
    parameters : tuple of Parameter
        The unknown numbers that the residuals use.
    constants : tuple of Constant
        The known ones that a method may vary, with this problem's values.
    dtype : numpy.dtype
        Of all points.
    num_samples : int
        Points of all terms.
    num_residuals : int
        Residuals of all terms.

    Raises
    ------
    KanmgError
        If names or terms are missing, twice there, or contradict each other; if a residual does not return a finite
        tensor of shape (N,) or (N, R) in the dtype of the points, is no pointwise expression, or does not depend on
        the fields or on parameters; if it differentiates by what is no coordinate; if `inputs` or a transform does not
        return a finite tensor of the right shape with finite derivatives.

    Notes
    -----
    Which derivatives a residual needs is found by calling it with random fields. Every term gets only the derivatives
    it needs, along as few directions as possible (`plan_derivatives`). The evaluator computes them forwards and their
    adjoint backwards; torch differentiates nothing but the residual's own, pointwise expression. Points are evaluated
    in chunks.

    Derivatives of order above the degree of the network's splines are refused: those of a single spline vanish there,
    and those of a composition are wrong at the knots.

    Numbers in residuals may be a `Constant`, which `with_constants` replaces, or a `Parameter`, which is unknown. The
    same calls find them.

    Examples
    --------
    The boundary value problem u'' = -pi^2 sin(pi x), u(-1) = u(1) = 0:

    >>> import numpy as np
    >>> import torch
    >>> import kanmg
    >>> def equation(x, u):
    ...     return u.d("x", "x") + torch.pi**2 * torch.sin(torch.pi * x[:, 0])
    >>> points = np.linspace(-1, 1, 101).reshape(-1, 1)
    >>> terms = [
    ...     kanmg.Term("equation", equation, points),
    ...     kanmg.Term("boundary", lambda x, u: u.value, points[[0, -1]], weight=100.0),
    ... ]
    >>> problem = kanmg.Collocation(coordinates=("x",), fields=("u",), terms=terms)
    >>> problem
    Collocation((x) -> (u), 103 points: 101 equation, 2 boundary, float64)
    >>> hierarchy = kanmg.uniform_hierarchy((1, 1), degree=5, num_intervals=4, num_levels=2)
    >>> solution = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(steps=60))
    >>> bool(np.abs(solution(points) - np.sin(np.pi * points)).max() < 1e-3)
    True
    >>> round(solution.derivative(np.array([[0.0]]), "x").item(), 2)
    3.14
    """

    def __init__(
        self,
        *,
        coordinates: Sequence[str],
        fields: Sequence[str],
        terms: Sequence[Term],
        inputs: Callable[[torch.Tensor], torch.Tensor] | None = None,
        transform: Mapping[str, Transform] | None = None,
        seed: int = 0,
    ) -> None:
        names = checked_names("coordinates", coordinates), checked_names("fields", fields)
        ansatz = make_ansatz(*names, inputs, transform)
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise KanmgValueError(f"`seed={seed!r}`. Pass an integer, at least 0.")
        self._seed = int(seed)
        checked = checked_terms(terms, ansatz.coordinates)
        ansatz.check(checked[0].points)
        setting = Setting(ansatz.scaled([term.points for term in checked]))
        recordings = []
        for term in checked:
            with naming(term.name):
                recordings.append(record(term, setting))
        scalars = collect(scalar for recording in recordings for scalar in recording.scalars)
        self._setting = setting.with_scalars(scalars)
        bound = []
        for term, recording in zip(checked, recordings, strict=True):
            with naming(term.name):
                bound.append(BoundTerm(term, self._setting, recording))
        self._bound = tuple(bound)

    def __repr__(self) -> str:
        inputs, outputs = ", ".join(self.coordinates), ", ".join(self.fields)
        points = ", ".join(f"{len(term)} {term.name}" for term in self.terms)
        return f"Collocation(({inputs}) -> ({outputs}), {self.num_samples} points: {points}, {self.dtype})"

    @property
    def coordinates(self) -> tuple[str, ...]:
        return self._setting.coordinates

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the network's outputs."""
        return self._setting.fields

    @property
    def ansatz(self) -> Ansatz | None:
        ansatz = self._setting.ansatz
        return None if ansatz.is_plain else ansatz

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The unknown numbers that the residuals use, in the order of the unknowns behind the coefficients."""
        return self._setting.parameters

    @property
    def constants(self) -> tuple[Constant, ...]:
        """The known numbers that the residuals use and a method may vary, with this problem's values."""
        return self._setting.constants

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms of the loss."""
        return tuple(bound.term for bound in self._bound)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of all points."""
        return self.terms[0].points.dtype

    @property
    def num_samples(self) -> int:
        return sum(map(len, self.terms))

    @property
    def num_residuals(self) -> int:
        return sum(bound.num_residuals for bound in self._bound)

    # --------------------------------------------------------------------------------------------------------- scalars

    @property
    def initial_parameters(self) -> Array:
        return np.array([parameter.initial_unknown for parameter in self.parameters], self.dtype)

    def parameter_values(self, unknowns: Array) -> dict[str, float]:
        values = (
            parameter.from_unknown(torch.tensor(float(unknown), dtype=torch.float64)).item()
            for parameter, unknown in zip(self.parameters, unknowns, strict=True)
        )
        return {parameter.name: value for parameter, value in zip(self.parameters, values, strict=True)}

    def with_constants(self, **values: float) -> Collocation:
        """Return the same problem with other values of some constants; this one stays as it is.

        Parameters
        ----------
        **values : float
            By the names of constants.

        Raises
        ------
        KanmgError
            If there is no such constant, or a residual is not finite at the new value.

        Examples
        --------
        >>> import numpy as np
        >>> import kanmg
        >>> nu = kanmg.Constant("nu", 0.01, easier=0.1)
        >>> term = kanmg.Term("equation", lambda x, u: u.value - nu * u.d("x", "x"), np.zeros((5, 1)))
        >>> problem = kanmg.Collocation(coordinates=("x",), fields=("u",), terms=[term])
        >>> problem.with_constants(nu=0.05).constants, problem.constants
        ((Constant('nu', 0.05, easier=0.1),), (Constant('nu', 0.01, easier=0.1),))
        """
        return self._restated(self._setting.replaced(Constant, "with_constants", values))

    def with_parameters(self, **initial: float) -> Collocation:
        """Return the same problem with other initial values of some parameters; this one stays as it is.

        Parameters
        ----------
        **initial : float
            By the names of parameters, such as `**solution.parameters`.

        Raises
        ------
        KanmgError
            If there is no such parameter, or a residual is not finite at the new value.
        """
        return self._restated(self._setting.replaced(Parameter, "with_parameters", initial))

    @property
    def can_be_eased(self) -> bool:
        """Whether a constant has an easier value."""
        return any(constant.easier is not None for constant in self.constants)

    def eased(self, part: float) -> Collocation:
        """Return the problem whose constants are so far on the way to their easier values.

        Parameters
        ----------
        part : float
            From 0, this problem, to 1. Constants move along geometric sequences, or straight lines where the two values
            differ in sign or one is 0.
        """
        values = {constant.name: constant.eased(part) for constant in self.constants if constant.easier is not None}
        return self.with_constants(**values) if part and values else self

    def _restated(self, setting: Setting) -> Collocation:
        """Return the problem with other numbers in its residuals, which are checked anew."""
        bound = []
        for old in self._bound:
            with naming(old.term.name):
                bound.append(BoundTerm(old.term, setting))
        other = copy.copy(self)
        other._setting, other._bound = setting, tuple(bound)  # noqa: SLF001 - another collocation
        return other

    # ---------------------------------------------------------------------------------------------------------- losses

    def loss(self, evaluator: Evaluator, theta: Array, batch: int | None = None) -> float:  # noqa: ARG002
        return sum(bound.loss(evaluator, theta) for bound in self._bound)

    def loss_and_gradient(
        self,
        evaluator: Evaluator,
        theta: Array,
        batch: int | None = None,  # noqa: ARG002 - there is one batch
    ) -> tuple[float, Array]:
        gradient = np.zeros_like(theta)
        loss = sum(bound.add_gradient(evaluator, theta, gradient) for bound in self._bound)
        return loss, gradient

    def term_losses(self, evaluator: Evaluator, theta: Array) -> dict[str, float]:
        """Evaluate the parts of the loss, weights included.

        Parameters
        ----------
        evaluator : Evaluator
        theta : ndarray, shape (num_coefficients,)
            The network's coefficients, and one unknown for each parameter behind them.

        Returns
        -------
        dict of str to float
            By the names of the terms.
        """
        return {bound.term.name: bound.loss(evaluator, theta) for bound in self._bound}

    def residuals(self, evaluator: Evaluator, theta: Array) -> Array:
        return np.concatenate([bound.residuals(evaluator, theta) for bound in self._bound])

    def pull_back(self, evaluator: Evaluator, theta: Array, cotangents: Array) -> Array:
        gradient, start = np.zeros_like(theta), 0
        for bound in self._bound:
            part = np.asarray(cotangents)[start : start + bound.num_residuals]
            bound.add_pull_back(evaluator, theta, part, gradient)
            start += bound.num_residuals
        return gradient

    def normal_equations(self, evaluator: Evaluator, theta: Array) -> tuple[float, Array, Array]:
        vector, matrix = np.zeros_like(theta), np.zeros((len(theta), len(theta)), theta.dtype)
        loss = sum(bound.add_normal_equations(evaluator, theta, vector, matrix) for bound in self._bound)
        return loss, 2.0 * vector, 2.0 * matrix

    def work(self, evaluator: Evaluator, batch: int | None = None, *, gradient: bool = True) -> float:  # noqa: ARG002
        """Count the multiply-adds of one loss, with its gradient or without.

        A jet with D directions of order r counts as 1 + D r values.

        Parameters
        ----------
        evaluator : Evaluator
        batch : int, optional
            There is one batch.
        gradient : bool, default True
        """
        cost = evaluator.cost_per_sample if gradient else evaluator.value_cost_per_sample
        return cost * sum(len(bound.term) * bound.cost_factor for bound in self._bound)

    # ----------------------------------------------------------------------------------------------- what a run needs

    def training_inputs(self) -> Array:
        """Points on which an initialisation looks at hidden values: all, or 4096 drawn at random."""
        every = [bound.paths.inputs for bound in self._bound]
        if self.num_samples <= _MAX_TRAINING_INPUTS:
            return np.concatenate(every)
        random = generator(self._seed, Stream.INPUTS)
        drawn = np.sort(random.choice(self.num_samples, _MAX_TRAINING_INPUTS, replace=False))
        ends = np.cumsum([len(term) for term in self.terms])
        parts = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
        starts = (0, *ends[:-1])
        return np.concatenate([own[part - start] for own, part, start in zip(every, parts, starts, strict=True)])

    def subset(self, fraction: float) -> Collocation:
        """Return the problem on a random part of every term's points: for one fraction always the same part.

        A smaller part is contained in a larger one. No term has fewer than 8 points, unless it has fewer in all.

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
        part = copy.copy(self)
        part._bound = tuple(  # noqa: SLF001 - another collocation
            bound.take(self._chosen(len(bound.term), fraction, number)) for number, bound in enumerate(self._bound)
        )
        return part

    def _chosen(self, length: int, fraction: float, term: int) -> Array:
        """Choose the points of a term; sorted, so that gathering them goes through memory in order."""
        count = min(length, max(_MIN_POINTS, round(fraction * length)))
        return np.sort(permutation(length, self._seed, Stream.SUBSET, term)[:count])

    def fingerprint(self) -> str:
        """SHA-256 of names, scalars, weights, points, the derivatives that residuals ask for, and their values.

        The residuals are called on some of their points with random fields, so that another equation is another
        problem, however it is written; the values are rounded to six digits.
        """
        digest = hashlib.sha256(f"Collocation {self.coordinates} {self.fields} {self._seed}".encode())
        for scalar in (*self.parameters, *self.constants):
            digest.update(repr(scalar).encode())
        for bound in self._bound:
            term = bound.term
            digest.update(f"{term.name} {term.weight!r} {bound.requests}".encode())
            for array in (term.points, term.point_weights):
                _update_digest(digest, array)
            if term.normals is not None:
                _update_digest(digest, term.normals)
            if self.ansatz is not None:
                # A function cannot be hashed, nor can its values to the last bit.
                digest.update(_digits(*bound.paths.sample(_SAMPLED_POINTS)))
            values = sample_residual(term, self._setting, _SAMPLED_POINTS)
            digest.update(_digits(values))
        return digest.hexdigest()

    def check_level(self, level: Level) -> None:
        network = level.network
        check_outputs(self.fields, network)
        for bound in self._bound:
            with naming(bound.term.name):
                points, inputs = bound.term.points, bound.paths.inputs
                has_map = self._setting.ansatz.inputs is not None
                if has_map:
                    check_inputs(inputs.shape[1], network)
                else:
                    check_columns(points, network.widths, "points")
                check_dtype(points, level.evaluator.dtype, "points")
                if network.domain is not None:
                    names = (None, "inputs(points)") if has_map else (self.coordinates, "points")
                    check_domain(inputs, network.domain, names[1], inputs=names[0])
                check_degree(bound.plan.requests, self.coordinates, network)
                bound.check_evaluator(level.evaluator)


def _digits(*arrays: Array) -> bytes:
    """Write numbers with six digits."""
    return " ".join(f"{value:.5e}" for array in arrays for value in array.ravel().tolist()).encode()


def _update_digest(digest: hashlib._Hash, array: Array | None) -> None:
    """Add shape, dtype and data to a hash, chunk by chunk."""
    if array is None:
        digest.update(b"none")
        return
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    for rows in row_chunks(len(array), array[0].size):
        digest.update(array[rows].data.cast("B"))
