"""Functions with known minima that stand in for objectives."""

from __future__ import annotations

import numpy as np


class Function:
    """An objective made of two callables; remembers every evaluation."""

    steps_per_epoch = 1

    def __init__(self, value, gradient, start, name=""):
        self._value, self._gradient = value, gradient
        self.start = np.asarray(start, dtype=float)
        self.name = name
        self.batch = None
        self.trace = []

    @property
    def evaluations(self):
        return len(self.trace)

    @property
    def work(self):
        return float(len(self.trace))

    def value(self, theta):
        return self.value_and_gradient(theta)[0]

    def value_and_gradient(self, theta):
        loss, gradient = float(self._value(theta)), self._gradient(theta)
        self.trace.append(loss)
        return loss, gradient


class LeastSquares(Function):
    """An objective that knows of which residuals it is the sum of squares."""

    def __init__(self, residuals, jacobian, start, name=""):
        super().__init__(lambda x: np.sum(residuals(x) ** 2), lambda x: 2.0 * jacobian(x).T @ residuals(x), start, name)
        self.residuals, self.jacobian = residuals, jacobian

    def pull_back(self, theta, cotangents):
        return self.jacobian(theta).T @ cotangents

    def normal_equations(self, theta):
        residuals, jacobian = self.residuals(theta), self.jacobian(theta)
        return float(residuals @ residuals), 2.0 * jacobian.T @ residuals, 2.0 * jacobian.T @ jacobian


def least_squares(residuals, jacobian, start, name=""):
    return LeastSquares(residuals, jacobian, start, name)


def linear_least_squares(num_residuals, num_coefficients, seed=0, noise=0.0):
    """Residuals A x - b with a random A; without noise the minimum is 0 at a random point."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((num_residuals, num_coefficients))
    right = matrix @ rng.standard_normal(num_coefficients) + noise * rng.standard_normal(num_residuals)
    return LeastSquares(lambda x: matrix @ x - right, lambda _: matrix, np.zeros(num_coefficients), "linear")


def rosenbrock_residuals(num_coefficients):
    """The function of `rosenbrock`, as a sum of squares."""
    n = num_coefficients - 1

    def residuals(x):
        return np.concatenate([10.0 * (x[1:] - x[:-1] ** 2), 1.0 - x[:-1]])

    def jacobian(x):
        result = np.zeros((2 * n, n + 1))
        i = np.arange(n)
        result[i, i], result[i, i + 1], result[n + i, i] = -20.0 * x[:-1], 10.0, -1.0
        return result

    start = np.tile([-1.2, 1.0], num_coefficients // 2)
    return LeastSquares(residuals, jacobian, start, f"rosenbrock({num_coefficients})")


def quadratic(num_coefficients, condition, seed=0):
    """Minimum 0 at a random point; eigenvalues from 1 to `condition`."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((num_coefficients, num_coefficients)))[0]
    matrix = (basis * np.geomspace(1.0, condition, num_coefficients)) @ basis.T
    solution = rng.standard_normal(num_coefficients)
    return Function(
        lambda x: 0.5 * (x - solution) @ (matrix @ (x - solution)),
        lambda x: matrix @ (x - solution),
        np.zeros(num_coefficients),
        f"quadratic({num_coefficients}, {condition:g})",
    )


def rosenbrock(num_coefficients):
    def value(x):
        return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)

    def gradient(x):
        result = np.zeros_like(x)
        result[:-1] = -400.0 * x[:-1] * (x[1:] - x[:-1] ** 2) - 2.0 * (1.0 - x[:-1])
        result[1:] += 200.0 * (x[1:] - x[:-1] ** 2)
        return result

    return Function(value, gradient, np.tile([-1.2, 1.0], num_coefficients // 2), f"rosenbrock({num_coefficients})")


def powell_badly_scaled():
    return least_squares(
        lambda x: np.array([1e4 * x[0] * x[1] - 1.0, np.exp(-x[0]) + np.exp(-x[1]) - 1.0001]),
        lambda x: np.array([[1e4 * x[1], 1e4 * x[0]], [-np.exp(-x[0]), -np.exp(-x[1])]]),
        [0.0, 1.0],
        "powell_badly_scaled",
    )


def brown_badly_scaled():
    return least_squares(
        lambda x: np.array([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2.0]),
        lambda x: np.array([[1.0, 0.0], [0.0, 1.0], [x[1], x[0]]]),
        [1.0, 1.0],
        "brown_badly_scaled",
    )


def beale():
    powers, values = np.array([1, 2, 3]), np.array([1.5, 2.25, 2.625])
    return least_squares(
        lambda x: values - x[0] * (1.0 - x[1] ** powers),
        lambda x: np.stack([x[1] ** powers - 1.0, x[0] * powers * x[1] ** (powers - 1)], axis=1),
        [1.0, 1.0],
        "beale",
    )


def wood():
    root = np.sqrt(10.0)
    linear = np.array([[0, 10, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 3 * root], [0, 0, -1, 0], [0, root, 0, root],
                       [0, 1 / root, 0, -1 / root]])  # fmt: skip
    constant = np.array([0.0, 1.0, 0.0, 1.0, -2.0 * root, 0.0])

    def residuals(x):
        return linear @ x + constant - np.array([10 * x[0] ** 2, 0, 3 * root * x[2] ** 2, 0, 0, 0])

    def jacobian(x):
        result = linear.copy()
        result[0, 0] = -20.0 * x[0]
        result[2, 2] = -6.0 * root * x[2]
        return result

    return least_squares(residuals, jacobian, [-3.0, -1.0, -3.0, -1.0], "wood")


def neural_fit(scales=1.0):
    """Ten tanh units fitted to sixty samples of a network of the same shape: the minimum is 0, far from convex."""
    x = np.linspace(-1.0, 1.0, 60)
    rng = np.random.default_rng(0)
    truth, start = rng.standard_normal(15), rng.standard_normal(15)

    def hidden(theta):
        slopes, shifts, outer = (theta * scales).reshape(3, -1)
        return np.tanh(np.outer(x, slopes) + shifts), outer

    def output(theta):
        values, outer = hidden(theta)
        return values @ outer

    y = output(truth / scales)

    def jacobian(theta):
        values, outer = hidden(theta)
        inner = (1.0 - values**2) * outer
        return np.hstack([inner * x[:, np.newaxis], inner, values]) * scales

    return least_squares(lambda theta: output(theta) - y, jacobian, start / scales, "neural_fit")


def minimise(smoother, function, *, loss=-np.inf, steps=10_000, theta=None):
    """Step until the loss is reached or the smoother stalls; return coefficients, state and records."""
    theta = function.start if theta is None else theta
    state, records = smoother.init(function, theta), []
    for _ in range(steps):
        theta, state, record = smoother.step(function, theta, state)
        records.append(record)
        if record.loss <= loss or record.stalled:
            break
    return theta, state, records
