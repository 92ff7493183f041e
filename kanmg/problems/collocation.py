"""Problems given by residuals at points: equations, initial and boundary conditions, data."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch

from kanmg.arrays import check_columns, check_domain, check_dtype
from kanmg.errors import KanmgValueError
from kanmg.problems.ansatz import Transform, make_ansatz
from kanmg.problems.batches import Stream, generator, permutation
from kanmg.problems.bound_term import BoundTerm
from kanmg.problems.checks import (
    check_degree,
    check_inputs,
    check_outputs,
    checked_names,
    checked_terms,
    checked_weights,
)
from kanmg.problems.drawing import checked_share, draw_candidates, drawn_terms
from kanmg.problems.fingerprint import fingerprint_of_terms
from kanmg.problems.recording import record
from kanmg.problems.scalars import Constant, Parameter, Setting, collect
from kanmg.problems.term_sum import TermSum
from kanmg.problems.terms import naming

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kanmg.evaluators.base import Array, Evaluator
    from kanmg.hierarchy import Level
    from kanmg.problems.ansatz import Ansatz
    from kanmg.problems.drawing import Drawn
    from kanmg.problems.terms import Term

__all__ = ["Collocation"]

# An initialisation looks at no more points than these.
_MAX_TRAINING_INPUTS = 4096
# A part of a term has no fewer points than these, if the term has them.
_MIN_POINTS = 8


class Collocation(TermSum):
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
        Of the points of coarse levels, and of those that are drawn anew.

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
        self._own = self._bound = tuple(bound)
        self._drawn: Drawn = (None,) * len(bound)

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
        for old in self._own:
            with naming(old.term.name):
                bound.append(BoundTerm(old.term, setting))
        return self._with_terms(tuple(bound), self._drawn, setting)

    def _with_terms(
        self, own: tuple[BoundTerm, ...], drawn: Drawn | None = None, setting: Setting | None = None
    ) -> Collocation:
        """Return the problem with other terms, candidates drawn for some of their points, or other scalars."""
        other = copy.copy(self)
        rows = (None,) * len(own) if drawn is None else drawn
        terms = drawn_terms(own, rows, self._seed)
        vars(other).update(_own=own, _drawn=rows, _bound=terms, _setting=setting or self._setting)
        return other

    def with_weights(self, factors: Sequence[float], points: Sequence[Array | None] | None = None) -> Collocation:
        """Return the same problem with other weights, and without candidates; see `checked_weights`."""
        pairs = checked_weights(self.terms, factors, points)
        return self._with_terms(tuple(bound.weighted(*pair) for bound, pair in zip(self._bound, pairs, strict=True)))

    # ------------------------------------------------------------------------------------------------ points drawn anew

    @property
    def drawn(self) -> Drawn:
        """For each term the rows of its candidates that `points` has now; None if it has its own points only."""
        return self._drawn

    @property
    def can_be_redrawn(self) -> bool:
        """Whether a term has candidates."""
        return any(term.candidates is not None for term in self.terms)

    def redrawn(self, evaluator: Evaluator, theta: Array, share: float, *, seed: int = 0) -> Collocation:
        """Return the problem with a part of the points drawn anew, more of them where the residuals are large.

        The points of terms without candidates, and all numbers of points and weights, stay as they are.

        Parameters
        ----------
        evaluator : Evaluator
        theta : ndarray, shape (num_coefficients,)
            Where residuals are evaluated: the network's coefficients, and one unknown for each parameter behind them.
        share : float
            Part of a term's own points, always the same random ones, whose place is taken by candidates; from [0, 1].
            At most all candidates are taken.
        seed : int, default 0
            Of this draw.

        Raises
        ------
        KanmgTypeError, KanmgValueError
            If `share` is no number, or lies outside [0, 1].

        Notes
        -----
        Candidates are drawn without replacement with probabilities proportional to r^2 / mean(r^2) + 1: the residual's
        square, of several the sum of the squares, mixed half and half with the uniform distribution [1]_. A problem
        that is drawn anew again begins with its own points.

        References
        ----------
        .. [1] C. Wu, M. Zhu, Q. Tan, Y. Kartha, L. Lu, "A comprehensive study of non-adaptive and residual-based
           adaptive sampling for physics-informed neural networks", Comput. Methods Appl. Mech. Engrg. 403 (2023),
           doi:10.1016/j.cma.2022.115671.

        Examples
        --------
        >>> import numpy as np
        >>> import torch
        >>> import kanmg
        >>> def peak(x, u):
        ...     return u.value - torch.exp(-100 * x[:, 0] ** 2)
        >>> points, candidates = (kanmg.sampling.grid([(-1.0, 1.0)], number) for number in (50, 999))
        >>> term = kanmg.Term("peak", peak, points, candidates=candidates)
        >>> problem = kanmg.Collocation(coordinates=("x",), fields=("u",), terms=[term])
        >>> level = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=4, num_levels=1)[0]
        >>> other = problem.redrawn(level.evaluator, np.zeros(7), share=0.5)
        >>> [int(np.sum(np.abs(own.terms[0].points) < 0.1)) for own in (problem, other)]
        [4, 13]
        """
        part = checked_share(share)
        rows = (
            draw_candidates(bound, evaluator, theta, part, generator(self._seed, Stream.CANDIDATES, number, seed))
            for number, bound in enumerate(self._own)
        )
        return self.with_drawn(tuple(rows))

    def with_drawn(self, drawn: Drawn) -> Collocation:
        """Return the problem with these candidates in the place of some of its own points.

        Parameters
        ----------
        drawn : tuple of ndarray or None
            What `redrawn(...).drawn` was.

        Raises
        ------
        KanmgTypeError, KanmgValueError
            If it does not fit the terms.
        """
        return self._with_terms(self._own, drawn)

    def candidates_work(self, evaluator: Evaluator) -> float:
        candidates = (bound.candidates for bound in self._own)
        counts = (len(bound.term) * bound.cost_factor for bound in candidates if bound is not None)
        return evaluator.value_cost_per_sample * sum(counts)

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
        chosen = (self._chosen(len(term), fraction, number) for number, term in enumerate(self.terms))
        return self._with_terms(tuple(bound.take(rows) for bound, rows in zip(self._bound, chosen, strict=True)))

    def _chosen(self, length: int, fraction: float, term: int) -> Array:
        """Choose the points of a term; sorted, so that gathering them goes through memory in order."""
        count = min(length, max(_MIN_POINTS, round(fraction * length)))
        return np.sort(permutation(length, self._seed, Stream.SUBSET, term)[:count])

    def fingerprint(self) -> str:
        """SHA-256 of names, scalars, weights, points, data, the derivatives that residuals ask for, and their values.

        The residuals are called on some of their points with random fields, so that another equation is another
        problem, however it is written; the values are rounded to six digits.
        """
        return fingerprint_of_terms(self._bound, self._setting, self._seed)

    def check_level(self, level: Level) -> None:
        network = level.network
        check_outputs(self.fields, network)
        for bound in self._bound:
            with naming(bound.term.name):
                self._check_points(bound, "points", level)
                if bound.candidates is not None:
                    self._check_points(bound.candidates, "candidates", level)
                check_degree(bound.plan.requests, self.coordinates, network)
                bound.check_evaluator(level.evaluator)

    def _check_points(self, bound: BoundTerm, name: str, level: Level) -> None:
        """Refuse points that a level's network does not take."""
        network, points, inputs = level.network, bound.term.points, bound.paths.inputs
        has_map = self._setting.ansatz.inputs is not None
        if has_map:
            check_inputs(inputs.shape[1], network)
        else:
            check_columns(points, network.widths, name)
        check_dtype(points, level.evaluator.dtype, name)
        if network.domain is not None:
            names = (None, f"inputs({name})") if has_map else (self.coordinates, name)
            check_domain(inputs, network.domain, names[1], inputs=names[0])
