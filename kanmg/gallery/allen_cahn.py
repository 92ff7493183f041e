"""The equation of Allen and Cahn, with a converged solution."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from kanmg.arrays import row_chunks
from kanmg.errors import KanmgValueError
from kanmg.gallery.equations import SPACE_TIME, draw_candidates
from kanmg.gallery.model_problem import Array, ModelProblem, collocation_problem
from kanmg.problems.scalars import Constant
from kanmg.problems.terms import Term
from kanmg.sampling import boundary, sobol

if TYPE_CHECKING:
    from kanmg.problems.fields import Field

__all__ = ["SpectralSolution", "allen_cahn", "solve_allen_cahn"]

_SMALLEST, _LARGEST, _EASY = 1e-5, 0.1, 1e-2
# The slope of the reaction 5 u - 5 u^3 at u = -1, where the kink of the initial values lies.
_SLOPE = -10.0
# Below this diffusion the kinks at x = -3 and x = 3 are not felt: exp(-1 / diffusion) is less than rounding.
_FELT_FROM_NEXT = 0.02
# Steps are bisected so often towards t = 0.
_BISECTIONS = 8


def allen_cahn(
    num_interior: int = 10_000,
    num_initial: int = 400,
    num_boundary: int = 400,
    seed: int = 0,
    *,
    diffusion: float = 1e-4,
) -> ModelProblem:
    """State the equation of Allen and Cahn, u_t = diffusion u_xx + 5 u - 5 u^3, whose solution forms steep fronts.

    Parameters
    ----------
    num_interior : int
        Sobol points in x from [-1, 1], t from [0, 1].
    num_initial : int
        Points at t = 0.
    num_boundary : int
        Points at x = -1 and x = 1, an even number.
    seed : int
        Of the points.
    diffusion : float
        From 1e-5 to 0.1; fronts are about 4 sqrt(diffusion) wide. In the equation it is a `kanmg.Constant`, which a
        method may vary; 0.01 is easier than less.

    Returns
    -------
    ModelProblem

    Raises
    ------
    KanmgValueError
        If `diffusion` lies outside these bounds.

    Notes
    -----
    u(x, 0) = x^2 cos(pi x), and u is periodic in x. Terms are pointwise and cannot compare the two ends, so that
    periodicity is stated by symmetry: as the initial values are even, so is u; an even function is periodic if its
    derivative vanishes at both ends, and the other way round. The term `boundary` is therefore u_x = 0 at x = -1 and
    x = 1. It begins after t = 0, where the initial values have a kink at the ends. The network's first input is x^2, so
    that every function it stands for is even.

    Where u is small it grows like exp(5 t): an error of the initial values grows 150-fold and moves the fronts, at no
    cost in the equation. The weight of the term `initial` is therefore 1000. The
    equation has 40,000 candidates, from which a method may draw points at the fronts.

    The exact solution is computed when it is first needed, in a few seconds, and kept until the program ends; see
    `solve_allen_cahn`.

    References
    ----------
    .. [1] M. Raissi, P. Perdikaris and G. E. Karniadakis, "Physics-informed neural networks", J. Comput. Phys. 378
       (2019), doi:10.1016/j.jcp.2018.10.045.

    Examples
    --------
    >>> import numpy as np
    >>> from kanmg import gallery
    >>> model = gallery.allen_cahn(100, 10, 10, diffusion=0.01)
    >>> model.problem
    Collocation((x, t) -> (u), 120 points: 100 equation, 10 initial, 10 boundary, float64)
    >>> print(np.round(model.exact(np.array([[0.25, 0.0], [0.25, 1.0], [1.0, 1.0]])).ravel(), 4))
    [ 0.0442  0.9703 -1.    ]
    """
    if not _SMALLEST <= diffusion <= _LARGEST:
        raise KanmgValueError(
            f"`diffusion={diffusion}`. The reference solution is made for {_SMALLEST:g} to {_LARGEST:g}; the customary "
            "value is 1e-4."
        )
    constant = Constant("diffusion", diffusion, easier=_EASY if diffusion < _EASY else None)

    def exact(x: Array) -> Array:
        return solve_allen_cahn(diffusion)(x)

    def equation(_: torch.Tensor, u: Field) -> torch.Tensor:
        return u.d("t") - constant.value * u.d("x", "x") - 5.0 * u.value + 5.0 * u.value**3

    def initial(x: torch.Tensor, u: Field) -> torch.Tensor:
        return u.value - x[:, 0] ** 2 * torch.cos(torch.pi * x[:, 0])

    start = boundary(SPACE_TIME, (num_initial, 2), faces=[(1, "lower")])
    ends = boundary(SPACE_TIME, (2, num_boundary // 2), faces=[(0, "lower"), (0, "upper")], ends=False)
    return collocation_problem(
        "Allen-Cahn",
        exact,
        coordinates=("x", "t"),
        fields=("u",),
        terms=[
            Term("equation", equation, sobol(SPACE_TIME, num_interior, seed=seed), candidates=draw_candidates(seed)),
            Term("initial", initial, start, weight=1000.0),
            Term("boundary", lambda _, u: u.d("x"), ends),
        ],
        inputs=lambda x: torch.stack([x[:, 0] ** 2, x[:, 1]], dim=1),
        domain=SPACE_TIME,
        hierarchy_arguments={
            "widths": (2, 5, 5, 1),
            "degree": 5,
            "num_intervals": 6,
            "num_levels": 3,
            "domain": (0.0, 1.0),
        },
        source="Raissi, Perdikaris, Karniadakis, J. Comput. Phys. 378, 2019",
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class SpectralSolution:
    """A cosine series whose coefficients are cubic Hermite interpolants in time, plus the smoothed kink.

    Attributes
    ----------
    diffusion : float
    times : ndarray, shape (n,)
    coefficients : ndarray, shape (n, N + 1)
        Of cos(k pi x), k = 0 to N, at these times.
    rates : ndarray, shape (n, N + 1)
        Their derivatives by time.
    """

    diffusion: float
    times: Array
    coefficients: Array
    rates: Array

    def __call__(self, x: Array) -> Array:
        """Evaluate the solution.

        Parameters
        ----------
        x : ndarray, shape (N, 2)
            Points (x, t), t from 0 to 1.

        Returns
        -------
        ndarray, shape (N, 1)
        """
        frequencies = np.pi * np.arange(self.coefficients.shape[1])
        result = np.empty((len(x), 1))
        for rows in row_chunks(len(x), len(frequencies), 1 << 20):
            series = np.cos(x[rows, :1] * frequencies) * self._interpolate(x[rows, 1])
            result[rows, 0] = series.sum(axis=1) + _smoothed_kink(x[rows, 0], x[rows, 1], self.diffusion)
        return result

    def _interpolate(self, t: Array) -> Array:
        """Return the coefficients at times of shape (N,), in rows."""
        left = np.clip(np.searchsorted(self.times, t, side="right") - 1, 0, len(self.times) - 2)
        step = (self.times[left + 1] - self.times[left])[:, None]
        s = (t - self.times[left])[:, None] / step
        values = (1 + 2 * s) * (1 - s) ** 2 * self.coefficients[left] + s**2 * (3 - 2 * s) * self.coefficients[left + 1]
        slopes = s * (1 - s) ** 2 * self.rates[left] + s**2 * (s - 1) * self.rates[left + 1]
        return np.asarray(values + step * slopes)


@functools.lru_cache(maxsize=4)
def solve_allen_cahn(diffusion: float, num_modes: int | None = None, num_steps: int = 1024) -> SpectralSolution:
    """Solve the equation of Allen and Cahn by a cosine series and exponential Runge-Kutta steps; see `allen_cahn`.

    Parameters
    ----------
    diffusion : float
    num_modes : int, optional
        Default: a power of two, 1024 for a diffusion of 1e-4.
    num_steps : int
        Their length is 1 / num_steps, but for the first ones, which are graded towards t = 0.

    Returns
    -------
    SpectralSolution
        The last four are kept in memory.

    Notes
    -----
    The initial values have a kink at x = 1, so that their cosine series converges slowly. The solution of the heat
    equation with the kink of -x^2 is known in closed form, and decays like exp(-10 t) where u is near -1. It is split
    off; the series of what is left converges fast. Time steps are those of Cox and Matthews [1]_, the coefficients by
    contour integrals [2]_. At the diffusion of 1e-4, four times as many modes and a quarter of the step change the
    solution by less than 1e-9, also at the kink.

    References
    ----------
    .. [1] S. M. Cox and P. C. Matthews, "Exponential time differencing for stiff systems", J. Comput. Phys. 176
       (2002), doi:10.1006/jcph.2002.6995.
    .. [2] A.-K. Kassam and L. N. Trefethen, "Fourth-order time-stepping for stiff PDEs", SIAM J. Sci. Comput. 26
       (2005), doi:10.1137/S1064827502410633.

    Examples
    --------
    >>> import numpy as np
    >>> coarse, fine = solve_allen_cahn(0.01, 128, 128), solve_allen_cahn(0.01, 256, 256)
    >>> x = np.array([[0.1, 0.3], [0.9, 0.6]])
    >>> bool(np.abs(coarse(x) - fine(x)).max() < 1e-6)
    True
    """
    modes = num_modes or 2 ** max(9, math.ceil(math.log2(10.0 / math.sqrt(diffusion))))
    nodes = np.arange(modes + 1) / modes
    decay = diffusion * (np.pi * np.arange(modes + 1)) ** 2

    def kink_at(t: float) -> Array:
        return _smoothed_kink(nodes, t, diffusion)

    def nonlinear(a: Array, kink: Array) -> Array:
        u = _values(a) + kink
        return _coefficients(5.0 * (u - u * u * u) - _SLOPE * kink)

    kink = kink_at(0.0)
    a = _coefficients(nodes**2 * np.cos(np.pi * nodes) - kink)
    times, coefficients, rates = [], [], []
    for start, step, count in _graded_steps(num_steps):
        whole, half, quotient, alpha, beta, gamma = _exponential_weights(-decay * step, step)
        for t in start + step * np.arange(count):
            n_a = nonlinear(a, kink)
            times.append(t)
            coefficients.append(a)
            rates.append(n_a - decay * a)
            middle, kink = kink_at(t + step / 2), kink_at(t + step)
            b = half * a + quotient * n_a
            n_b = nonlinear(b, middle)
            c = half * a + quotient * n_b
            n_c = nonlinear(c, middle)
            d = half * b + quotient * (2.0 * n_c - n_a)
            a = whole * a + alpha * n_a + 2.0 * beta * (n_b + n_c) + gamma * nonlinear(d, kink)
    times.append(1.0)
    coefficients.append(a)
    rates.append(nonlinear(a, kink) - decay * a)
    return SpectralSolution(diffusion, np.array(times), np.array(coefficients), np.array(rates))


def _smoothed_kink(x: Array, t: Array | float, diffusion: float) -> Array:
    """Solve the heat equation from the periodic continuation of -x^2, and let the solution decay."""
    # Imported when needed, like all of SciPy that training does without.
    from scipy.special import erfc  # noqa: PLC0415

    x = x - 2.0 * np.round(x / 2.0)
    spread = np.sqrt(diffusion * np.asarray(t))
    total = -(x**2) - 2.0 * spread**2
    # Every kink is a source of heat; those further away are not felt.
    for centre in (-1.0, 1.0) if diffusion < _FELT_FROM_NEXT else (-3.0, -1.0, 1.0, 3.0):
        distance = np.abs(x - centre)
        z = distance / np.maximum(2.0 * spread, 1e-30)
        total += 4.0 * spread / np.sqrt(np.pi) * np.exp(-(np.minimum(z, 30.0) ** 2)) - 2.0 * distance * erfc(z)
    return np.asarray(np.exp(_SLOPE * np.asarray(t)) * total)


def _graded_steps(num_steps: int) -> list[tuple[float, float, int]]:
    """Return panels of equal steps: where they begin, length and number of their steps."""
    steps_per_panel = num_steps // 32
    first = 1.0 / 32.0 / 2**_BISECTIONS
    panels = [(0.0, first)] + [(first * 2**i, first * 2 ** (i + 1)) for i in range(_BISECTIONS)]
    graded = [(a, (b - a) / steps_per_panel, steps_per_panel) for a, b in panels]
    return [*graded, (1.0 / 32.0, 1.0 / 32.0 / steps_per_panel, 31 * steps_per_panel)]


def _exponential_weights(z: Array, step: float) -> tuple[Array, ...]:
    """Return the weights of a step for the eigenvalues z / step, as means over a circle around each."""
    circle = z[:, None] + np.exp(1j * np.pi * (np.arange(1, 17) - 0.5) / 16.0)
    e = np.exp(circle)
    weights = (
        (np.exp(circle / 2.0) - 1.0) / circle,
        (-4.0 - circle + e * (4.0 - 3.0 * circle + circle**2)) / circle**3,
        (2.0 + circle + e * (circle - 2.0)) / circle**3,
        (-4.0 - 3.0 * circle - circle**2 + e * (4.0 - circle)) / circle**3,
    )
    return (np.exp(z), np.exp(z / 2.0), *(step * weight.mean(axis=1).real for weight in weights))


def _values(coefficients: Array) -> Array:
    """Return the values of a cosine series at k / N."""
    from scipy.fft import dct  # noqa: PLC0415 - as above

    halved = coefficients.copy()
    halved[1:-1] *= 0.5
    return np.asarray(dct(halved, type=1))


def _coefficients(values: Array) -> Array:
    """Return the cosine series with these values at k / N."""
    from scipy.fft import dct  # noqa: PLC0415 - as above

    series = dct(values, type=1) / (len(values) - 1)
    series[[0, -1]] *= 0.5
    return np.asarray(series)
