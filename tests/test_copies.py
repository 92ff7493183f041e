"""Copies, pickles and process pools: everything that a run takes and returns survives them."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import kanmg
from kanmg import errors
from kanmg.solution import History

X = np.linspace(-1, 1, 60).reshape(-1, 1)
PROBLEM = kanmg.Regression(X, np.sin(3 * X), weights=np.linspace(1, 2, 60), validation=0.2)
EVALUATORS = ("cpu", "dense", "reference")


def hierarchy_of(evaluator, dtype="float64"):
    return kanmg.uniform_hierarchy((1, 2, 1), num_intervals=3, num_levels=2, evaluator=evaluator, dtype=dtype)


def pickled(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - written on the same line


@pytest.fixture(params=[pickled, copy.deepcopy], ids=["pickle", "deepcopy"])
def copied(request):
    return request.param


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_copies_of_a_hierarchy_compute_the_same_bits(evaluator, copied):
    hierarchy = hierarchy_of(evaluator)
    theta = np.random.default_rng(0).standard_normal(hierarchy[0].network.num_coefficients)
    before = hierarchy[0].evaluator.squared_error(theta, X, X)
    again = copied(hierarchy)
    assert str(again) == str(hierarchy)
    assert np.array_equal(again.prolong(theta), hierarchy.prolong(theta))
    for level in (again[0], copied(hierarchy[0])):
        assert level.evaluator is not hierarchy[0].evaluator
        loss, gradient = level.evaluator.squared_error(theta, X, X)
        assert loss == before[0]
        assert np.array_equal(gradient, before[1])
    twin = copied(hierarchy[1].evaluator)
    assert (type(twin), twin.dtype) == (type(hierarchy[1].evaluator), hierarchy.dtype)


def test_a_copied_evaluator_keeps_its_dtype_and_device(copied):
    evaluator = copied(hierarchy_of("reference", "float32")[0].evaluator)
    assert (evaluator.dtype, str(evaluator.device)) == (np.float32, "cpu")


def test_copies_of_an_objective_compute_the_same_bits(copied):
    objective = kanmg.Objective(PROBLEM, hierarchy_of("cpu")[0])
    theta = np.random.default_rng(0).standard_normal(objective.level.network.num_coefficients)
    loss, gradient = objective.value_and_gradient(theta)
    again = copied(objective)
    assert again.evaluations == objective.evaluations
    assert again.value_and_gradient(theta)[0] == loss
    assert np.array_equal(again.value_and_gradient(theta)[1], gradient)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_copies_of_a_solution_say_the_same(evaluator, copied):
    solution = kanmg.solve(PROBLEM, hierarchy_of(evaluator), method=kanmg.NestedIteration(steps=4))
    again = copied(solution)
    assert np.array_equal(again(X), solution(X))
    assert np.array_equal(again.derivative(X, 0), solution.derivative(X, 0))
    assert (str(again), again.status) == (str(solution), solution.status)


def test_a_copied_history_grows_alone(copied):
    history = History(kanmg.solve(PROBLEM, hierarchy_of("reference"), method=kanmg.NestedIteration(steps=2)).history)
    again = copied(history)
    length = len(history)
    again.append(history[0])
    assert (len(history), len(again)) == (length, length + 1)
    assert np.array_equal(again.column("loss")[:-1], history.column("loss"))
    assert again.column("event").tolist() == [*history.column("event"), "start"]


def test_all_exceptions_survive_a_process_boundary():
    kinds = [kind for name in errors.__all__ if issubclass(kind := getattr(errors, name), errors.KanmgError)]
    assert len(kinds) > 8
    for kind in kinds:
        error = kind("message", "solution") if kind is errors.ConvergenceError else kind("message")
        error.add_note("a note")
        again = pickled(error)
        assert (type(again), str(again), again.__notes__) == (kind, "message", ["a note"])
    assert pickled(errors.ConvergenceError("message", 5)).solution == 5
    error = errors.CheckpointError("message")
    error.solution = 6
    assert pickled(error).solution == 6


def run_script(path, timeout=120):
    """Run a program of its own with a guarded main part, as process pools require."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, path], capture_output=True, check=False, env=environment, text=True, timeout=timeout
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_process_pools_return_solutions(method, tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(
        textwrap.dedent("""
        import multiprocessing
        import numpy as np, kanmg

        X = np.linspace(-1, 1, 60).reshape(-1, 1)

        def train(seed):
            hierarchy = kanmg.uniform_hierarchy((1, 2, 1), num_intervals=3, num_levels=2)
            return kanmg.solve(kanmg.Regression(X, X**2), hierarchy, method=kanmg.NestedIteration(steps=5), seed=seed)

        def fail(seed):
            hierarchy = kanmg.uniform_hierarchy((1, 1), num_levels=1)
            kanmg.solve(kanmg.Regression(X, X**2), hierarchy, method=kanmg.NestedIteration(steps=1), atol=0.0)

        if __name__ == "__main__":
            expected = [train(seed)(X) for seed in range(2)]
            with multiprocessing.get_context("METHOD").Pool(2) as pool:
                found = [solution(X) for solution in pool.map(train, range(2))]
                print(all(map(np.array_equal, found, expected)))
                try:
                    pool.apply(fail, (0,))
                except kanmg.errors.ConvergenceError as error:
                    print(error.solution.status.name)
        """).replace('"METHOD"', repr(method))
    )
    assert run_script(script).split() == ["True", "TOLERANCE_NOT_MET"]
