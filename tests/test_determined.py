"""Parameters: by how much they may change before the loss has doubled, and an alarm where nothing determines them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import kanmg

LINE = np.linspace(-1.0, 1.0, 101)[:, None]
HIERARCHY = kanmg.uniform_hierarchy((1, 1), degree=5, num_intervals=4, num_levels=1, evaluator="cpu")
METHOD = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=60)
NOISE = 1e-2 * np.random.default_rng(0).normal(size=LINE.shape)


def decay(rate, values=None):
    """u' = -rate u, with or without samples of u."""
    terms = [
        kanmg.Term("equation", lambda _, u: u.d("x") + rate * u.value, LINE),
        kanmg.Term("begin", lambda _, u: u.value - 1.0, LINE[:1]),
    ]
    if values is not None:
        terms.append(kanmg.Term("samples", lambda _, u, data: u.value - data[:, 0], LINE, data=values))
    return kanmg.Collocation(coordinates=("x",), fields=("u",), terms=terms)


def solve(problem, method=METHOD, **options):
    return kanmg.solve(problem, HIERARCHY, method=method, **options)


def fitted_loss(rate):
    """The loss with the parameter held fixed, and all coefficients fitted."""
    return solve(decay(kanmg.Constant("rate", rate), np.exp(-2.0 * (LINE + 1.0)) + NOISE)).loss


@pytest.mark.parametrize("positive", [False, True])
def test_the_loss_doubles_there(positive):
    parameter = kanmg.Parameter("rate", 1.0, positive=positive)
    solution = solve(decay(parameter, np.exp(-2.0 * (LINE + 1.0)) + NOISE))
    rate, margin = solution.parameters["rate"], solution.margins["rate"]
    assert rate == pytest.approx(2.0, abs=0.1)
    assert 0.01 < margin < 0.5
    # The loss is quadratic to first order only: beyond the margin it is another one on either side.
    losses = [fitted_loss(rate + sign * margin) / solution.loss for sign in (1.0, -1.0)]
    assert np.mean(losses) == pytest.approx(2.0, rel=0.05)
    assert f"rate = {rate:.6g} (the loss doubles at +-{margin:.1e})" in str(solution)
    assert not [alarm for alarm in solution.alarms if "determined" in alarm]


@pytest.mark.parametrize("positive", [False, True])
def test_a_parameter_that_nothing_determines_is_told(positive):
    # Without samples every rate has a solution.
    solution = solve(decay(kanmg.Parameter("rate", 1.5, positive=positive)))
    assert solution.margins == {"rate": math.inf}
    (alarm,) = [alarm for alarm in solution.alarms if "determined" in alarm]
    assert alarm.startswith("The parameter 'rate' is not determined: the loss does not depend on it")
    assert f"ALARM: {alarm}" in solution.message.splitlines()


def test_noise_that_hides_a_parameter_is_told():
    # u = 1 + rate (x + 1) to first order: a small rate is lost in the noise.
    values = np.exp(-1e-4 * (LINE + 1.0)) + 10.0 * NOISE
    solution = solve(decay(kanmg.Parameter("rate", 1e-3), values))
    assert solution.margins["rate"] > abs(solution.parameters["rate"])
    (alarm,) = [alarm for alarm in solution.alarms if "determined" in alarm]
    assert f"the loss doubles only at {solution.margins['rate']:.1e} from it, once" in alarm


def test_two_parameters_one_of_which_does_not_matter():
    rate, other = kanmg.Parameter("rate", 1.0), kanmg.Parameter("other", 0.5)
    terms = [
        kanmg.Term("equation", lambda _, u: u.d("x") + rate * u.value, LINE),
        kanmg.Term("samples", lambda x, u: u.value - torch.exp(-2.0 * (x[:, 0] + 1.0)) + 1e-3 * x[:, 0] ** 9, LINE),
        kanmg.Term("nothing", lambda _, u: (1e-12 * other) * u.value, LINE),
    ]
    solution = solve(kanmg.Collocation(coordinates=("x",), fields=("u",), terms=terms))
    assert solution.margins["rate"] < 0.1
    assert solution.margins["other"] > 1e3
    assert ["'other'" in alarm for alarm in solution.alarms if "determined" in alarm] == [True]


def test_margins_are_kept_in_files_and_need_a_complete_run_with_a_matrix(tmp_path):
    problem = decay(kanmg.Parameter("rate", 1.0), np.exp(-2.0 * (LINE + 1.0)) + NOISE)
    solution = solve(problem)
    solution.save(tmp_path / "a")
    assert kanmg.load(tmp_path / "a").margins == solution.margins

    def stop(_):
        raise StopIteration

    assert solve(problem, callback=stop).margins == {}
    assert solve(problem, kanmg.NestedIteration(kanmg.LBFGS(), steps=5)).margins == {}
    assert solve(decay(kanmg.Constant("rate", 1.0))).margins == {}
