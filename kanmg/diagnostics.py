"""Spectra that explain how networks are trained: of the power-ReLU basis, and of the tangent kernel in both bases."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy  # its subpackages are loaded when they are first used

from kanmg.arrays import as_array, check_finite
from kanmg.coordinates import relu_coordinates
from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.evaluators.base import Evaluator
from kanmg.network import Affine, Spline
from kanmg.smoothers.base import require_count
from kanmg.splines.power_relu import power_relu_matrix
from kanmg.vectors import to_host

if TYPE_CHECKING:
    import scipy.linalg  # noqa: TC004 - tells mypy what SciPy loads by itself

    from kanmg.arrays import Array
    from kanmg.network import Network
    from kanmg.objective import Objective
    from kanmg.smoothers.base import Smoother
    from kanmg.smoothers.geometry import Basis
    from kanmg.splines import Knots

__all__ = [
    "KernelRecord",
    "kernel_bound",
    "power_relu_spectrum",
    "record_tangent_kernel",
    "tangent_kernel_spectrum",
]

# Singular values below this part of the largest one are computed from the inverse.
SMALL_PART = 1e-4

# The Jacobian is dense.
MAX_ENTRIES = 1 << 27


def power_relu_spectrum(knots: Knots, *, scaled: bool = True) -> Array:
    """Compute the eigenvalues of A^T A, A the matrix between B-splines and truncated powers.

    They are accurate relative to themselves, small ones too, as long as their ratio is below the square of 1e16.

    Parameters
    ----------
    knots : Knots
    scaled : bool, default True
        As for `kanmg.power_relu_matrix`.

    Returns
    -------
    ndarray, shape (num_basis,)
        Falling.

    Raises
    ------
    KanmgValueError
        If `power_relu_matrix` refuses the knots.

    Notes
    -----
    The ratio of the first to the last grows like n^(2 (k + 1)) with the number n of cells [1]_: the largest tends to
    (2^(k + 1) / k!)^2, the smallest falls. Large ones are squares of singular values of A, small ones those of A^-1,
    whose entries, on uniform knots, are positive sums.

    References
    ----------
    .. [1] B. S. Southworth, J. A. Actor, G. Harper, E. C. Cyr, Multilevel training for Kolmogorov Arnold networks,
       2026. arXiv:2603.04827

    Examples
    --------
    >>> import kanmg
    >>> for num_intervals in (16, 32, 64):
    ...     spectrum = power_relu_spectrum(kanmg.uniform_knots(num_intervals, degree=1))
    ...     print(f"{spectrum[0]:.1f} {spectrum[0] / spectrum[-1]:.1e}")
    15.7 1.3e+05
    15.9 1.7e+06
    16.0 2.5e+07
    """
    matrix = power_relu_matrix(knots, scaled=scaled).toarray()
    values = np.linalg.svd(matrix, compute_uv=False)
    inverse = scipy.linalg.solve_triangular(matrix, np.eye(len(matrix)))
    small = 1.0 / np.linalg.svd(inverse, compute_uv=False)[::-1]
    spectrum: Array = np.where(values < SMALL_PART * values[0], small, values) ** 2
    return spectrum


def tangent_kernel_spectrum(evaluator: Evaluator, theta: Any, x: Any, *, basis: Basis = "spline") -> Array:
    """Compute the eigenvalues of the empirical neural tangent kernel J J^T, which are those of J^T J.

    Parameters
    ----------
    evaluator : Evaluator
        `hierarchy[l].evaluator`.
    theta : ndarray or Tensor, shape (num_coefficients,)
        What stands behind the coefficients, such as parameters of a problem, is left out.
    x : ndarray or Tensor, shape (N, num_inputs)
        Points; divide by their number for a mean over samples.
    basis : {"spline", "relu"}, default "spline"
        J is the Jacobian of the network's values with respect to the spline coefficients u; or to the weights
        w = A^T u of the scaled truncated powers, J A^-T. Affine layers are the same in both, and so are logits of free
        knots; A is then that of the knots before training, as in `kanmg.ChangeOfBasis`.

    Returns
    -------
    ndarray, shape (min(N num_outputs, num_coefficients),)
        Falling. float64.

    Raises
    ------
    KanmgValueError, KanmgTypeError, ShapeError, NonFiniteError
        If `basis` is unknown, J has more than 2^27 entries, `evaluator` is none, or `theta` does not fit or is not
        finite.

    Examples
    --------
    >>> import kanmg
    >>> hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=16, num_levels=1, evaluator="reference")
    >>> x, theta = np.linspace(-1, 1, 100).reshape(-1, 1), np.zeros(19)
    >>> for basis in ("spline", "relu"):
    ...     spectrum = tangent_kernel_spectrum(hierarchy[0].evaluator, theta, x, basis=basis)
    ...     print(f"{spectrum[0]:.1e} {spectrum[-1]:.1e}")
    6.1e+00 7.1e-03
    2.4e+09 2.6e-03
    """
    if basis not in ("spline", "relu"):
        raise KanmgValueError(f"`basis={basis!r}` is unknown. Use 'spline' or 'relu'.")
    return _spectrum(evaluator, _jacobian(evaluator, theta, x), basis)


def kernel_bound(evaluator: Evaluator) -> float:
    """Return a constant c with rho(spline) <= c rho(ReLU), rho the largest eigenvalues of the two tangent kernels.

    It holds for every vector of coefficients and every set of points, inside the intervals or not.

    Parameters
    ----------
    evaluator : Evaluator

    Returns
    -------
    float

    Notes
    -----
    The Jacobians are J_u = J_w A^T, so that rho(spline) <= |A|^2 rho(ReLU) with the largest eigenvalue |A|^2 of A^T A,
    or 1, that of affine layers and of logits of free knots, if that is larger. On uniform knots A is a finite
    difference and |A|^2 is less than 4^(k+1) / (k!)^2: 16, 16, 7.1, 1.8 for degrees 1 to 4, less than 1 beyond.

    Published is the constant 4 [1]_. From degree 4 on it follows from this. For lower degrees it does not, but on
    uniform knots the ratio is far smaller as long as all values lie inside their intervals. There the kernels of one
    edge at two points are 0 <= sum_i B_i(x) B_i(y) <= 1 and sum_i psi_i(x) psi_i(y) >= psi_0(x) psi_0(y) >= k^(2k), and
    the spectral radius of matrices without negative entries, scaled from both sides, grows with the entries. So E edges
    have a ratio of at most E / k^(2k), with affine layers 1 more: 4 holds for 48 edges of degree 2, 2187 of degree 3.

    References
    ----------
    .. [1] B. S. Southworth, J. A. Actor, G. Harper, E. C. Cyr, Multilevel training for Kolmogorov Arnold networks,
       2026. arXiv:2603.04827

    Examples
    --------
    >>> import kanmg
    >>> knots = kanmg.uniform_knots(20, degree=3)
    >>> hierarchy = kanmg.Hierarchy([kanmg.Network([kanmg.Spline(2, 1, knots=knots)])], evaluator="reference")
    >>> round(kernel_bound(hierarchy[0].evaluator), 2)
    7.11
    """
    layers = _network(evaluator).layers
    bounds = {_largest(knots) for layer in layers if isinstance(layer, Spline) for knots in layer.knots}
    # Affine layers and logits of free knots are the same in both bases.
    has_others = any(isinstance(layer, Affine) or layer.free_knots for layer in layers)
    return max(1.0 if has_others else 0.0, *bounds, 0.0)


def _largest(knots: Knots) -> float:
    if knots.is_uniform:
        return 4.0 ** (knots.degree + 1) / factorial(knots.degree) ** 2
    return float(power_relu_spectrum(knots)[0])


@dataclass(frozen=True, slots=True)
class KernelRecord:
    """What `record_tangent_kernel` has found at one iterate.

    Attributes
    ----------
    step : int
        Steps so far.
    loss : float
        On all samples.
    spline, relu : ndarray
        Falling eigenvalues of the tangent kernel in both bases.
    """

    step: int
    loss: float
    spline: Array
    relu: Array

    @property
    def ratio(self) -> float:
        """The spectral radius in the spline basis, divided by the one in the ReLU basis."""
        return float(self.spline[0] / self.relu[0])


def record_tangent_kernel(
    objective: Objective, smoother: Smoother[Any], theta: Any, x: Any, *, steps: int, every: int = 1
) -> list[KernelRecord]:
    """Train on one level and record the spectra of the tangent kernel in both bases on the way.

    Parameters
    ----------
    objective : Objective
        `kanmg.Objective(problem, hierarchy[l])`.
    smoother : Smoother
        Any, also `kanmg.ChangeOfBasis(...)`.
    theta : ndarray, shape (num_coefficients,)
        Where to begin.
    x : ndarray, shape (N, num_inputs)
        Points of the kernel.
    steps : int
        Of the smoother.
    every : int, default 1
        Steps between two records; the first is of `theta`, the last of the last iterate.

    Returns
    -------
    list of KernelRecord

    Examples
    --------
    >>> import kanmg
    >>> x = np.linspace(-1, 1, 100).reshape(-1, 1)
    >>> hierarchy = kanmg.uniform_hierarchy((1, 2, 1), degree=3, num_intervals=5, num_levels=1, evaluator="reference")
    >>> objective = kanmg.Objective(kanmg.Regression(x, np.sin(3 * x)), hierarchy[0])
    >>> theta = kanmg.initial_coefficients(hierarchy[0].network, x, seed=0)
    >>> records = record_tangent_kernel(objective, kanmg.Adam(), theta, x, steps=20, every=10)
    >>> [record.step for record in records], all(record.ratio < 4 for record in records)
    ([0, 10, 20], True)
    """
    require_count("record_tangent_kernel", 1, steps=steps, every=every)
    evaluator, state = objective.level.evaluator, None
    records = []
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            jacobian = _jacobian(evaluator, theta, x)
            spectra = [_spectrum(evaluator, jacobian, basis) for basis in ("spline", "relu")]
            objective.batch = None
            records.append(KernelRecord(step, objective.value(theta), *spectra))
        if step == steps:
            break
        objective.batch = step if objective.steps_per_epoch > 1 else None
        state = smoother.init(objective, theta) if state is None else state
        theta, state, record = smoother.step(objective, theta, state)
        if record.stalled:
            steps = step + 1
    return records


def _jacobian(evaluator: Evaluator, theta: Any, x: Any) -> Array:
    """Compute J, shape (N num_outputs, num_coefficients), in float64."""
    network, points = _network(evaluator), as_array(x, "x")
    entries = len(points) * network.num_outputs * network.num_coefficients
    if entries > MAX_ENTRIES:
        raise KanmgValueError(
            f"the Jacobian at {len(points)} points has {entries} entries, more than 2^27. Take fewer points."
        )
    # Parameters of a problem may stand behind the coefficients.
    coefficients = as_array(theta, "theta")[: network.num_coefficients]
    check_finite(coefficients, "theta")
    rows = to_host(evaluator.jacobian(coefficients, points)).astype(np.float64)
    return rows.reshape(-1, network.num_coefficients)


def _network(evaluator: Any) -> Network:
    if not isinstance(evaluator, Evaluator):
        raise KanmgTypeError(
            f"`evaluator` is a {type(evaluator).__name__}. Pass an evaluator, such as `hierarchy[0].evaluator`."
        )
    return evaluator.network


def _spectrum(evaluator: Evaluator, jacobian: Array, basis: str) -> Array:
    if basis == "relu":
        jacobian = relu_coordinates(evaluator.network).from_gradient(jacobian.T).T
    spectrum: Array = np.linalg.svd(jacobian, compute_uv=False) ** 2
    return spectrum
