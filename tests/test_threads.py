"""Threads of torch: which computations take one, and that the setting is put back."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

import kanmg
from kanmg.evaluators.base import Jet
from kanmg.threads import fitting_threads, one_thread

X = np.random.default_rng(0).uniform(-1, 1, (300, 2))


pytestmark = pytest.mark.usefixtures("two_threads")


def test_one_thread_is_set_and_put_back():
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError), one_thread():
        divmod(1, 0)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("multiply_adds", "expected"), [(0, 1), (1e6, 1), (1e8, 2)])
def test_only_large_products_take_all_threads(multiply_adds, expected):
    with fitting_threads(multiply_adds):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2


def test_small_normal_equations_have_the_same_bits_on_any_number_of_threads():
    network = kanmg.Network([kanmg.Spline(2, 3, knots=kanmg.uniform_knots(4, degree=3))])
    level = kanmg.Hierarchy([network], evaluator="reference")[0]
    evaluator, problem = level.evaluator, kanmg.Regression(X, np.ones((len(X), 3)))
    theta = np.random.default_rng(1).standard_normal(network.num_coefficients)
    outputs = [Jet(np.tile(row, (len(X), 1)), ()) for row in np.eye(3)]

    def normal_equations():
        equations = evaluator.gauss_newton(theta, X, np.ones((len(X), 3)))
        of_jets = evaluator.jet_gauss_newton(theta, X, X[:0], outputs, np.ones((len(X), 3)))
        jacobian = kanmg.Objective(problem, level).linearised(theta)
        return *equations, *of_jets, jacobian.gram(scipy.sparse.eye_array(len(theta), format="csr"))

    on_two = normal_equations()
    with one_thread():
        on_one = normal_equations()
    assert [array.tobytes() for array in on_two] == [array.tobytes() for array in on_one]
    jacobian = evaluator.jacobian(theta, X).reshape(-1, network.num_coefficients)
    for matrix in (on_two[0], on_two[2]):
        assert matrix == pytest.approx(jacobian.T @ jacobian, rel=1e-12, abs=1e-12)
