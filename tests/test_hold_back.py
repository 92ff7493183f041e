"""Held-back samples choose the level of the result."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import kanmg
from kanmg.errors import KanmgTypeError, KanmgValueError

RNG = np.random.default_rng(3)
X = RNG.uniform(-1.0, 1.0, (120, 1))
CLEAN = np.sin(3.0 * X[:, 0])
NOISY = CLEAN + 0.2 * RNG.normal(size=120)
UNSEEN = np.linspace(-0.95, 0.95, 200).reshape(-1, 1)
HIERARCHY = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=2, num_levels=7, evaluator="cpu")
LM = kanmg.LevenbergMarquardt()
METHOD = kanmg.NestedIteration(LM, steps=20, hold_back=0.2)


def error(solution):
    return np.sqrt(np.mean((solution(UNSEEN)[:, 0] - np.sin(3.0 * UNSEEN[:, 0])) ** 2))


def test_noise_is_left_to_fine_levels_that_are_not_the_result():
    problem = kanmg.Regression(X, NOISY)
    chosen = kanmg.solve(problem, HIERARCHY, method=METHOD)
    finest = kanmg.solve(problem, HIERARCHY, method=kanmg.NestedIteration(LM, steps=20))
    assert chosen.status is kanmg.Status.FINISHED
    assert chosen.level < len(HIERARCHY) - 1
    assert error(chosen) < 0.1
    assert error(finest) > 3.0 * error(chosen)
    assert f"Level {chosen.level}, of " in chosen.message
    assert "has the lowest loss at held-back points" in chosen.message


def test_the_result_has_the_lowest_recorded_loss_at_the_samples_held_back():
    problem = kanmg.Regression(X, NOISY).holding_back(0.2)
    assert (problem.num_samples, problem.num_validation) == (96, 24)
    solution = kanmg.solve(kanmg.Regression(X, NOISY), HIERARCHY, method=METHOD)
    lowest = np.nanmin([record.validation_loss for record in solution.history])
    evaluator = HIERARCHY[solution.level].evaluator
    assert problem.validation_loss(evaluator, solution.coefficients) == pytest.approx(lowest, rel=1e-12)
    assert solution.loss == pytest.approx(problem.loss(evaluator, solution.coefficients), rel=1e-12)


def test_levels_above_one_that_fits_noise_are_not_climbed():
    solution = kanmg.solve(kanmg.Regression(X, NOISY), HIERARCHY, method=METHOD)
    highest = max(record.level for record in solution.history if record.event == "smooth")
    assert solution.level < highest < len(HIERARCHY) - 1
    # A tolerance is met by the training loss: for it all levels are climbed.
    wanted = kanmg.solve(kanmg.Regression(X, NOISY), HIERARCHY, method=METHOD, atol=1e-12, throw=False)
    assert max(record.level for record in wanted.history if record.event == "smooth") == len(HIERARCHY) - 1


def test_without_noise_the_finest_level_is_the_result():
    solution = kanmg.solve(
        kanmg.Regression(X, CLEAN),
        kanmg.Hierarchy([level.network for level in HIERARCHY][:5], evaluator="reference"),
        method=METHOD,
    )
    assert solution.level == 4
    assert error(solution) < 1e-5


def test_samples_of_validation_are_not_drawn_anew():
    problem = kanmg.Regression(X, NOISY, validation=0.1)
    assert problem.holding_back(0.2) is problem
    few = kanmg.Regression(X[:3], NOISY[:3])
    assert few.holding_back(0.1) is few
    solution = kanmg.solve(problem, HIERARCHY, method=METHOD)
    assert solution.level < len(HIERARCHY) - 1


def test_a_run_that_goes_on_has_the_same_bits(tmp_path):
    problem, path = kanmg.Regression(X, NOISY), tmp_path / "run"
    expected = kanmg.solve(problem, HIERARCHY, method=METHOD)
    for limit in (9, 4):
        steps = itertools.count()

        def stop(_, steps=steps, limit=limit):
            if next(steps) >= limit:
                raise RuntimeError

        with pytest.raises(RuntimeError):
            kanmg.solve(problem, HIERARCHY, method=METHOD, callback=stop, checkpoint=path, checkpoint_seconds=0.0)
    for _ in range(2):  # the second time it is complete
        solution = kanmg.solve(problem, HIERARCHY, method=METHOD, checkpoint=path)
        np.testing.assert_array_equal(solution.coefficients, expected.coefficients)
        assert solution.level == expected.level


@pytest.mark.parametrize("cycle", [kanmg.NestedIteration, kanmg.VCycle, kanmg.FullMultigrid])
def test_parts_that_make_no_sense_are_refused(cycle):
    with pytest.raises(KanmgValueError, match=r"`hold_back=1`"):
        cycle(hold_back=1.0)
    with pytest.raises(KanmgTypeError, match="`hold_back='a tenth'`"):
        cycle(hold_back="a tenth")


def test_few_samples_that_have_weight_are_not_held_back():
    """Of 120 samples two count: whichever part is drawn, the default solves the problem."""
    weights = np.zeros(120)
    weights[:2] = 1.0
    problem = kanmg.Regression(X, CLEAN, weights=weights)
    held_back = [kanmg.Regression(X, CLEAN, weights=weights, seed=seed).holding_back(0.2) for seed in range(20)]
    assert 0 in {other.num_validation for other in held_back}
    assert kanmg.solve(problem, HIERARCHY).loss < 1e-20


def test_weights_that_change_on_a_level_do_not_forget_the_best():
    """Balanced blocks of steps: their training losses do not compare, those at candidates do."""

    def equation(x, u):
        return u.d("x", "x") + 9.0 * torch.sin(3.0 * x[:, 0])

    candidates = np.linspace(-1.0, 1.0, 400).reshape(-1, 1)
    terms = [
        kanmg.Term("equation", equation, candidates[::20], candidates=candidates),
        kanmg.Term("ends", lambda x, u: u.value - torch.sin(3.0 * x[:, 0]), np.array([[-1.0], [1.0]])),
    ]
    problem = kanmg.Collocation(coordinates=("x",), fields=("u",), terms=terms)
    method = kanmg.NestedIteration(LM, steps=6, hold_back=0.1, balance=kanmg.Balance(every=2))
    solution = kanmg.solve(problem, HIERARCHY, method=method)
    lowest = np.nanmin([record.validation_loss for record in solution.history])
    evaluator = HIERARCHY[solution.level].evaluator
    assert problem.validation_loss(evaluator, solution.coefficients) == pytest.approx(lowest, rel=1e-12)


@pytest.mark.parametrize(
    "method",
    [
        kanmg.VCycle(LM, hold_back=0.2, pre_steps=3, post_steps=3, coarse_steps=5),
        kanmg.NestedIteration(LM, steps=(9, 0, 9), hold_back=0.2),
    ],
    ids=["V-cycle", "a level without steps"],
)
def test_levels_that_are_passed_through_end_nothing(method):
    hierarchy = kanmg.Hierarchy([level.network for level in HIERARCHY][:3], evaluator="cpu")
    solution = kanmg.solve(kanmg.Regression(X, CLEAN), hierarchy, method=method, max_cycles=2)
    assert solution.level == 2
    assert error(solution) < 1e-3


def test_candidates_of_equations_choose_the_level():
    """Twenty points, of which fine levels fit every one."""

    def equation(x, u):
        return u.d("x", "x") + 9.0 * torch.sin(3.0 * x[:, 0])

    candidates = np.linspace(-1.0, 1.0, 400).reshape(-1, 1)
    ends = np.array([[-1.0], [1.0]])
    terms = [
        kanmg.Term("equation", equation, candidates[::20], candidates=candidates),
        kanmg.Term("ends", lambda x, u: u.value - torch.sin(3.0 * x[:, 0]), ends),
    ]
    problem = kanmg.Collocation(coordinates=("x",), fields=("u",), terms=terms)
    method = kanmg.default_method(problem, HIERARCHY)
    assert method.hold_back > 0.0
    solution = kanmg.solve(problem, HIERARCHY)
    assert "the terms' candidates, which are held back, choose the level" in solution.message
    lowest = np.nanmin([record.validation_loss for record in solution.history])
    evaluator = HIERARCHY[solution.level].evaluator
    assert problem.validation_loss(evaluator, solution.coefficients) == pytest.approx(lowest, rel=1e-12)
    assert solution.level < len(HIERARCHY) - 1
    assert error(solution) < 1e-3


# ------------------------------------------------------------------------------------- samples in a part of the domain


@pytest.mark.parametrize(
    ("low", "high", "domain"),
    [((0.0, 0.0), (0.3, 0.3), "((0, 0.3), (0, 0.3))"), ((-1.0, 0.123), (1.0, 0.4567), "((-1, 1), (0.12, 0.46))")],
)
def test_samples_that_fill_a_part_of_the_domain_are_told_which_one_holds_them(low, high, domain):
    corners = np.array([low, high])
    x = np.concatenate([np.random.default_rng(0).uniform(low, high, (60, 2)), corners])
    hierarchy = kanmg.uniform_hierarchy((2, 1), degree=3, num_intervals=3, num_levels=1, evaluator="reference")
    method = kanmg.NestedIteration(steps=2)
    solution = kanmg.solve(kanmg.Regression(x, x[:, 0]), hierarchy, method=method)
    (line,) = [line for line in solution.message.splitlines() if line.startswith("The samples fill only")]
    assert f"{low[1]:.3g} to {high[1]:.3g} of input 1, whose interval is -1 to 1" in line
    assert line.endswith(f"Build the hierarchy with `domain={domain}`.")
    fitting = eval(domain)  # noqa: S307  (what the message says to write)
    better = kanmg.uniform_hierarchy(
        (2, 1), degree=3, num_intervals=3, num_levels=1, evaluator="reference", domain=fitting
    )
    assert "fill only" not in kanmg.solve(kanmg.Regression(x, x[:, 0]), better, method=method).message


def test_samples_that_fill_half_of_the_domain_are_enough():
    x = np.linspace(-0.5, 0.5, 40)[:, None]
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=3, num_levels=1, evaluator="reference")
    solution = kanmg.solve(kanmg.Regression(x, x), hierarchy, method=kanmg.NestedIteration(steps=2))
    assert "fill only" not in solution.message
    narrow = kanmg.solve(kanmg.Regression(0.5 * x, x), hierarchy, method=kanmg.NestedIteration(steps=2))
    assert "`domain=((-0.25, 0.25),)`" in narrow.message


def test_random_coefficients_are_no_result():
    rng = np.random.default_rng(0)
    x, noise = rng.uniform(-1, 1, (50, 2)), rng.standard_normal(50)
    hierarchy = kanmg.uniform_hierarchy((2, 2, 1), degree=3, num_intervals=4, num_levels=2)
    solution = kanmg.solve(kanmg.Regression(x, noise), hierarchy, progress=False)
    validation = solution.history.column("validation_loss")
    # Training fits the noise, so that nothing it finds is as good at held-back points as what it began with.
    assert np.nanmin(validation) == validation[0]
    initial = kanmg.initial_coefficients(hierarchy[0].network, x, seed=0)
    assert solution.loss < 0.5 * kanmg.Objective(kanmg.Regression(x, noise), hierarchy[0]).value(initial)
    (alarm,) = solution.alarms
    assert "above 9.8e-01, that of the coefficients that training began with" in alarm
    # Other starts would fit the noise as well.
    assert all(record.event != "retry" for record in solution.history)
