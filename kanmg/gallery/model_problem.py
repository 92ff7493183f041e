"""What a problem of the gallery is: a problem whose solution is known, and how far a function is from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kanmg.errors import KanmgValueError
from kanmg.hierarchy import Hierarchy, uniform_hierarchy
from kanmg.problems.collocation import Collocation
from kanmg.problems.regression import Regression

if TYPE_CHECKING:
    from kanmg.problems.base import Problem
    from kanmg.problems.terms import Term

__all__ = ["ModelProblem", "collocation_problem", "draw", "regression_problem"]

Array = npt.NDArray[np.float64]
Function = Callable[[Array], Array]

TRAINING_STREAM, NOISE_STREAM, TEST_STREAM = 0, 1, 2


@dataclass(frozen=True)
class ModelProblem:
    """A problem whose solution is known: regression of a function, or equations.

    Training and test points come from independent streams of one seed: no test point is ever a training point.

    Attributes
    ----------
    name : str
    x : ndarray, shape (N, d), float64
        Training points; of equations, those of all terms.
    y : ndarray, shape (N, Q), float64
        Values there: of a regression the training values, of equations those of the exact solution.
    problem : Regression or Collocation
        The problem of fitting the values, or of solving the equations.
    exact : callable
        The solution: points of shape (N, d) to values of shape (N, Q), float64.
    domain : tuple of (float, float)
        The interval of each coordinate from which points are drawn.
    hierarchy_arguments : mapping
        What `kanmg.uniform_hierarchy` is recommended to be called with.
    source : str
        Where the problem comes from.
    seed : int
        Seed of the samples.
    parameters : mapping of str to float
        True values of the problem's unknown parameters; empty if it has none.

    Examples
    --------
    >>> from kanmg import gallery
    >>> model = gallery.kan1(num_samples=100)
    >>> model.problem.num_samples
    100
    >>> x, y = model.test_data(5)
    >>> x.shape, y.shape
    ((5, 2), (5, 1))
    >>> model.rms_error(model.exact)
    0.0
    """

    name: str
    x: Array = field(repr=False)
    y: Array = field(repr=False)
    problem: Problem
    exact: Function = field(repr=False)
    domain: tuple[tuple[float, float], ...]
    hierarchy_arguments: Mapping[str, Any]
    source: str
    seed: int = 0
    parameters: Mapping[str, float] = field(default_factory=dict)

    def hierarchy(self, **changes: Any) -> Hierarchy:
        """Build the recommended hierarchy.

        Parameters
        ----------
        **changes
            Arguments of `kanmg.uniform_hierarchy` that replace the recommended ones.

        Returns
        -------
        Hierarchy

        Examples
        --------
        >>> from kanmg import gallery
        >>> len(gallery.ml1(num_samples=100).hierarchy(num_levels=2))
        2
        """
        return uniform_hierarchy(**{**self.hierarchy_arguments, **changes})

    def test_data(self, num_samples: int = 10_000) -> tuple[Array, Array]:
        """Draw unseen points and the exact, noise-free values there.

        The same points at every call.

        Parameters
        ----------
        num_samples : int

        Returns
        -------
        x : ndarray, shape (num_samples, d), float64
        y : ndarray, shape (num_samples, Q), float64
        """
        x = draw(self.domain, num_samples, self.seed, TEST_STREAM)
        return x, self.exact(x)

    def mean_squared_error(self, function: Callable[[Array], Array], num_samples: int = 10_000) -> float:
        """Mean squared error of `function`, say of a `Solution`, on unseen points.

        Parameters
        ----------
        function : callable
            Points of shape (N, d) to values of shape (N, Q).
        num_samples : int

        Returns
        -------
        float
            Mean over points and outputs, against the noise-free values.
        """
        x, y = self.test_data(num_samples)
        return float(np.mean((np.asarray(function(x), dtype=np.float64) - y) ** 2))

    def rms_error(self, function: Callable[[Array], Array], num_samples: int = 10_000) -> float:
        """Root of the mean squared error of `function` on unseen points; see `mean_squared_error`."""
        return float(np.sqrt(self.mean_squared_error(function, num_samples)))

    def relative_error(self, function: Callable[[Array], Array], num_samples: int = 10_000) -> float:
        """Relative L2 error of `function` on unseen points.

        Parameters
        ----------
        function : callable
            Points of shape (N, d) to values of shape (N, Q).
        num_samples : int

        Returns
        -------
        float
            Root of the sum over points and outputs of the squared errors, divided by that of the squared exact values.

        Examples
        --------
        >>> from kanmg import gallery
        >>> model = gallery.kan2(num_interior=100, num_boundary=40)
        >>> print(f"{model.relative_error(lambda x: 1.01 * model.exact(x)):.4f}")
        0.0100
        """
        x, y = self.test_data(num_samples)
        return float(np.linalg.norm(np.asarray(function(x), dtype=np.float64) - y) / np.linalg.norm(y))


def regression_problem(
    name: str,
    exact: Function,
    *,
    domain: tuple[tuple[float, float], ...],
    hierarchy_arguments: Mapping[str, Any],
    source: str,
    num_samples: int,
    seed: int,
    noise: float = 0.0,
    **regression_arguments: Any,
) -> ModelProblem:
    """Sample `exact` at uniformly distributed points.

    Parameters
    ----------
    name, exact, domain, hierarchy_arguments, source, seed
        See `ModelProblem`.
    num_samples : int
        Number of training samples.
    noise : float
        Standard deviation of Gaussian noise added to the training values (never to the test values).
    **regression_arguments
        Passed to `kanmg.Regression`.

    Returns
    -------
    ModelProblem

    Raises
    ------
    KanmgValueError
        If `num_samples` is not positive or `noise` is negative.

    Examples
    --------
    >>> import numpy as np
    >>> from kanmg.gallery import regression_problem
    >>> hierarchy_arguments = {"widths": (1, 1), "degree": 3, "num_intervals": 4, "domain": (0.0, 3.0)}
    >>> model = regression_problem(
    ...     "sine",
    ...     np.sin,
    ...     domain=((0.0, 3.0),),
    ...     hierarchy_arguments=hierarchy_arguments,
    ...     source="textbook",
    ...     num_samples=7,
    ...     seed=0,
    ... )
    >>> model.problem.num_samples
    7
    """
    if num_samples < 1:
        raise KanmgValueError(f"`num_samples={num_samples}` is too few. Pass at least 1.")
    if noise < 0.0:
        raise KanmgValueError(f"`noise={noise}` is no standard deviation. Pass 0.0 for exact values, or more.")
    x = draw(domain, num_samples, seed, TRAINING_STREAM)
    y = exact(x)
    if noise > 0.0:
        y = y + noise * np.random.default_rng([seed, NOISE_STREAM]).standard_normal(y.shape)
    return ModelProblem(
        name=name,
        x=x,
        y=y,
        problem=Regression(x, y, seed=seed, **regression_arguments),
        exact=exact,
        domain=domain,
        hierarchy_arguments=hierarchy_arguments,
        source=source,
        seed=seed,
    )


def collocation_problem(
    name: str,
    exact: Function,
    *,
    coordinates: Sequence[str],
    fields: Sequence[str],
    terms: Sequence[Term],
    domain: tuple[tuple[float, float], ...],
    hierarchy_arguments: Mapping[str, Any],
    source: str,
    seed: int,
    parameters: Mapping[str, float] | None = None,
    **collocation_arguments: Any,
) -> ModelProblem:
    """State equations with a known solution.

    Parameters
    ----------
    name, exact, domain, hierarchy_arguments, source, seed, parameters
        See `ModelProblem`.
    coordinates, fields, terms
        See `kanmg.Collocation`.
    **collocation_arguments
        Passed to `kanmg.Collocation`, such as `inputs`.

    Returns
    -------
    ModelProblem

    Examples
    --------
    >>> import numpy as np
    >>> import kanmg
    >>> from kanmg.gallery import collocation_problem
    >>> points = kanmg.sampling.grid([(0.0, 1.0)], 21)
    >>> growth = kanmg.Term("growth", lambda t, u: u.d("t") - u.value, points)
    >>> start = kanmg.Term("start", lambda t, u: u.value - 1.0, points[:1])
    >>> model = collocation_problem(
    ...     "exponential",
    ...     np.exp,
    ...     coordinates=("t",),
    ...     fields=("u",),
    ...     terms=[growth, start],
    ...     domain=((0.0, 1.0),),
    ...     hierarchy_arguments={"widths": (1, 1), "num_intervals": 4, "num_levels": 1, "domain": (0.0, 1.0)},
    ...     source="textbook",
    ...     seed=0,
    ... )
    >>> solution = kanmg.solve(model.problem, model.hierarchy(), method=kanmg.NestedIteration(steps=50))
    >>> model.relative_error(solution) < 1e-4
    True
    """
    x = np.concatenate([term.points for term in terms])
    return ModelProblem(
        name=name,
        x=x,
        y=exact(x),
        problem=Collocation(coordinates=coordinates, fields=fields, terms=terms, seed=seed, **collocation_arguments),
        exact=exact,
        domain=domain,
        hierarchy_arguments=hierarchy_arguments,
        source=source,
        seed=seed,
        parameters=parameters or {},
    )


def draw(domain: tuple[tuple[float, float], ...], num_samples: int, seed: int, stream: int) -> Array:
    """Draw uniformly distributed points.

    Parameters
    ----------
    domain : tuple of (float, float)
    num_samples, seed, stream : int
        Points of different streams of one seed are independent.

    Returns
    -------
    ndarray, shape (num_samples, d)
    """
    lower, upper = np.array(domain).T
    return np.random.default_rng([seed, stream]).uniform(lower, upper, size=(num_samples, len(domain)))
