"""BFGS with a dense matrix: its updates by the books, minima of hard functions, and what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from standins import beale, minimise, powell_badly_scaled, quadratic, rosenbrock, wood

import kanmg
from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.smoothers.bfgs import BFGS


def by_the_books(inverse, s, y, phi, tau):
    """Broyden's family, scaled: formula of the inverse as in the literature."""
    w, ys = inverse @ y, s @ y
    v = np.sqrt(y @ w) * (s / ys - w / (y @ w))
    return (inverse - np.outer(w, w) / (y @ w) + phi * np.outer(v, v)) / tau + np.outer(s, s) / ys


def member(inverse, s, y, update):
    """Phi and tau of Al-Baali's formulas, from B itself."""
    n, ys = len(s), s @ y
    h, b = y @ inverse @ y / ys, s @ np.linalg.solve(inverse, s) / ys
    if update == "bfgs":
        return 1.0, min(1.0, 1.0 / b)
    a = h * b - 1.0
    below = min(1.0, h * (1.0 - np.sqrt(a / (1.0 + a))))
    theta = np.clip((1.0 - b) / b, (below - 1.0) / a, 1.0 / below)
    sigma, shorter = 1.0 + theta * a, min(1.0, 1.0 / b)
    power = sigma ** (1.0 / (1.0 - n))
    tau = min(shorter * power, sigma) if theta <= 0.0 else shorter * min(power, 1.0 / theta)
    return (1.0 - theta) / sigma, tau


@pytest.mark.parametrize("update", ["bfgs", "broyden"])
@pytest.mark.parametrize("self_scaling", [False, True])
@pytest.mark.parametrize("function", [quadratic(6, 100.0), rosenbrock(6)], ids=lambda f: f.name)
def test_matrices_are_those_of_the_books(function, self_scaling, update):
    smoother = BFGS(self_scaling=self_scaling, update=update)
    theta = function.start
    state, used = smoother.init(function, theta), []
    for number in range(25 if "rosenbrock" in function.name else 8):
        before, previous = state, theta
        theta, state, record = smoother.step(function, theta, state)
        s, y = theta - previous, state.gradient - before.gradient
        inverse, phi, tau = before.inverse, 1.0, 1.0
        if inverse is None:
            assert number == 0
            inverse = s @ y / (y @ y) * np.eye(6)
        else:
            phi, tau = member(inverse, s, y, update)
            tau = tau if self_scaling else 1.0
            used.append((phi, tau))
        expected = by_the_books(inverse, s, y, phi, tau)
        np.testing.assert_allclose(state.inverse, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())
        np.testing.assert_allclose(state.inverse @ y, s, rtol=1e-6, atol=1e-9 * np.abs(s).max())
        np.testing.assert_array_equal(state.inverse, state.inverse.T)
        assert np.linalg.eigvalsh(state.inverse).min() > 0.0
        assert record.loss == state.loss == function.value_and_gradient(theta)[0]
    assert any(tau != 1.0 for _, tau in used) == self_scaling
    assert any(phi != 1.0 for phi, _ in used) == (update == "broyden")


@pytest.mark.parametrize("update", ["bfgs", "broyden"])
@pytest.mark.parametrize("self_scaling", [False, True])
@pytest.mark.parametrize("function", [rosenbrock(10), beale(), wood(), powell_badly_scaled()], ids=lambda f: f.name)
def test_minima_of_hard_functions(function, self_scaling, update):
    with np.errstate(over="ignore", invalid="ignore"):
        theta = minimise(BFGS(self_scaling=self_scaling, update=update), function, steps=400)[0]
    assert function.value_and_gradient(theta)[0] < 1e-12


@pytest.mark.parametrize("update", ["bfgs", "broyden"])
def test_a_quadratic_is_solved_in_about_as_many_steps_as_it_has_unknowns(update):
    function = quadratic(12, 100.0)
    theta = minimise(BFGS(update=update), function, steps=40)[0]
    assert np.linalg.norm(function.value_and_gradient(theta)[1]) < 1e-8 * np.linalg.norm(
        function.value_and_gradient(function.start)[1]
    )


def test_arguments_stay_as_they_are_and_tensors_give_the_same():
    function, smoother = rosenbrock(4), BFGS()
    theta = function.start
    state = smoother.init(function, theta)
    for _ in range(5):
        theta, state, _ = smoother.step(function, theta, state)
    copies = theta.copy(), dataclasses.replace(state, inverse=state.inverse.copy(), gradient=state.gradient.copy())
    first = smoother.step(function, theta, state)
    np.testing.assert_array_equal(theta, copies[0])
    np.testing.assert_array_equal(state.inverse, copies[1].inverse)
    np.testing.assert_array_equal(first[0], smoother.step(function, *copies)[0])


def test_hierarchies_are_solved_in_every_cycle():
    x = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    problem = kanmg.Regression(x, np.exp(x[:, 0]) * x[:, 1])
    hierarchy = kanmg.uniform_hierarchy((2, 2, 1), degree=3, num_intervals=2, num_levels=2, evaluator="reference")
    for method in (
        kanmg.NestedIteration(BFGS(), steps=60),
        kanmg.NestedIteration(BFGS(update="broyden"), steps=60),
        kanmg.FullMultigrid(BFGS(), steps=30, coarse_steps=60, variant="tau"),
    ):
        assert kanmg.solve(problem, hierarchy, method=method).loss < 1e-5


def test_mini_batches_large_levels_and_bad_options_are_refused():
    x = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    hierarchy = kanmg.uniform_hierarchy((2, 2, 1), degree=3, num_intervals=2, num_levels=1, evaluator="reference")
    method = kanmg.NestedIteration(BFGS(max_coefficients=20))
    with pytest.raises(KanmgValueError, match="`BFGS` would hold a dense matrix for 30 coefficients"):
        kanmg.solve(kanmg.Regression(x, x[:, 0]), hierarchy, method=method)
    with pytest.raises(KanmgValueError, match="`BFGS` needs all samples"):
        kanmg.solve(kanmg.Regression(x, x[:, 0], batch_size=50), hierarchy, method=kanmg.NestedIteration(BFGS()))
    with pytest.raises(KanmgTypeError, match="`self_scaling=1`"):
        BFGS(self_scaling=1)
    with pytest.raises(KanmgValueError, match=r"`BFGS` got `update='dfp'`\. Pass 'bfgs' or"):
        BFGS(update="dfp")
    with pytest.raises(KanmgValueError, match="`max_evaluations=0`"):
        BFGS(max_evaluations=0)


def test_float32_tensors():
    dtype = torch.float32
    matrix = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=dtype)

    class Bowl:
        batch, steps_per_epoch = None, 1

        def value_and_gradient(self, theta):
            return float(0.5 * theta @ matrix @ theta), matrix @ theta

    theta = torch.tensor([2.0, -1.0], dtype=dtype)
    smoother = BFGS()
    state = smoother.init(Bowl(), theta)
    for _ in range(8):
        theta, state, _ = smoother.step(Bowl(), theta, state)
    assert theta.dtype == dtype
    assert float(theta.abs().max()) < 1e-3
