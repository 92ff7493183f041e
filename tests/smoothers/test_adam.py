from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from standins import Function, minimise, quadratic, rosenbrock

from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.smoothers.adam import Adam
from kanmg.smoothers.schedules import OneCycle


@pytest.mark.parametrize("options", [{}, {"lr": 0.3, "betas": (0.5, 0.9), "eps": 1e-3}, {"betas": (0.0, 0.0)}])
def test_steps_are_those_of_torch(options):
    function = rosenbrock(10)
    settings = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, **options}
    smoother = Adam(
        step_size=settings["lr"],
        beta1=settings["betas"][0],
        beta2=settings["betas"][1],
        epsilon=settings["eps"],
        ramp=0,
    )
    parameter = torch.tensor(function.start, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], **settings)
    theta, state = function.start, smoother.init(function, function.start)
    for count in range(1, 101):
        loss, gradient = function.value_and_gradient(theta)
        # From the same point, or the function would blow up the difference of earlier steps.
        parameter.data = torch.tensor(theta)
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
        theta, state, record = smoother.step(function, theta, state)
        assert np.abs(theta - parameter.detach().numpy()).max() <= 1e-15 * max(1.0, np.abs(theta).max())
        assert (record.loss, record.stalled, state.count) == (loss, False, count)
        assert record.gradient_norm == pytest.approx(np.linalg.norm(gradient))


def test_step_size_is_ramped_up_after_every_start():
    function, smoother = quadratic(4, 10.0), Adam(step_size=0.5, ramp=4)
    for _ in range(2):
        _, _, records = minimise(smoother, function, steps=6)
        assert [record.step_size for record in records] == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]


def test_first_step_moves_every_coefficient_by_the_step_size():
    function = quadratic(4, 10.0)
    theta, _, _ = minimise(Adam(step_size=0.25, ramp=0), function, steps=1)
    assert np.abs(theta) == pytest.approx(np.full(4, 0.25), rel=1e-6)


def test_schedule_scales_the_step_size():
    smoother = Adam(step_size=1.0, ramp=2, schedule=lambda count: 0.5**count)
    _, _, records = minimise(smoother, quadratic(4, 10.0), steps=4)
    assert [record.step_size for record in records] == [0.5, 0.5, 0.25, 0.125]


def test_convergence_with_a_cosine_schedule():
    smoother = Adam(step_size=0.1, schedule=lambda count: 0.5 * (1.0 + math.cos(math.pi * count / 2000)))
    _, _, records = minimise(smoother, quadratic(10, 100.0), steps=2000)
    assert records[-1].loss < 1e-10 * records[0].loss


def test_every_step_costs_one_evaluation_and_init_none():
    function = quadratic(4, 10.0)
    _, state, records = minimise(Adam(), function, steps=7)
    assert function.evaluations == len(records) == 7
    assert Adam().known(state) is None


def test_a_copied_state_goes_on_with_the_same_bits():
    function, smoother = rosenbrock(4), Adam()
    theta, state, _ = minimise(smoother, function, steps=7)
    copied = copy.deepcopy(state)
    runs = []
    for start in (state, copied, state):
        point, current = theta, start
        for _ in range(10):
            point, current, _ = smoother.step(function, point, current)
        runs.append(point)
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0], runs[2])
    assert state.count == 7


def test_float32_stays_float32():
    function = quadratic(4, 10.0)
    single = copy.copy(function)
    single.value_and_gradient = lambda theta: (function.value(theta), function._gradient(theta).astype(np.float32))
    theta, state, _ = minimise(Adam(), single, steps=3, theta=np.zeros(4, np.float32))
    assert theta.dtype == state.mean.dtype == state.variance.dtype == np.float32


def test_torch_tensors_take_the_same_steps():
    function, smoother = quadratic(6, 100.0), Adam()

    def value_and_gradient(theta):
        loss, gradient = function.value_and_gradient(theta.numpy())
        return loss, torch.from_numpy(gradient)

    tensors = copy.copy(function)
    tensors.value_and_gradient = value_and_gradient
    on_torch, _, _ = minimise(smoother, tensors, steps=20, theta=torch.zeros(6, dtype=torch.float64))
    on_numpy, _, _ = minimise(smoother, function, steps=20)
    assert isinstance(on_torch, torch.Tensor)
    assert on_torch.numpy() == pytest.approx(on_numpy, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"step_size": 0.0}, KanmgValueError, "`Adam` got `step_size=0`. It must be positive and finite."),
        ({"step_size": math.inf}, KanmgValueError, "`Adam` got `step_size=inf`. It must be positive and finite."),
        ({"step_size": "1"}, KanmgTypeError, "`Adam` got `step_size='1'`, a str. Pass a positive number."),
        ({"epsilon": -1e-8}, KanmgValueError, "`Adam` got `epsilon=-1e-08`. It must be positive and finite."),
        ({"beta1": 1.0}, KanmgValueError, "`Adam` got `beta1=1`. It must lie in [0, 1)."),
        ({"beta2": None}, KanmgTypeError, "`Adam` got `beta2=None`. Pass a number from [0, 1)."),
        ({"ramp": -1}, KanmgValueError, "`Adam` got `ramp=-1`. It must be at least 0."),
        (
            {"schedule": 0.5},
            KanmgTypeError,
            (
                "`Adam` got `schedule=0.5`. Pass a function of the number of steps done, such as "
                "`kanmg.OneCycle(1000)`, or None."
            ),
        ),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error) as caught:
        Adam(**options)
    assert str(caught.value) == message


def test_one_cycle_rises_and_falls():
    factors = np.array([OneCycle(100, rise=0.2, lowest=0.01)(count) for count in range(101)])
    assert (factors.argmax(), factors.max()) == (20, 1.0)
    assert (factors[0], factors[100]) == pytest.approx((0.01, 0.01))
    np.testing.assert_allclose(np.diff(factors[:21]), 0.99 / 20)
    np.testing.assert_allclose(np.diff(factors[20:]), -0.99 / 80)
    assert [OneCycle(1)(count) for count in range(3)] == [1e-3, 1e-3, 1e-3]
    assert OneCycle(4, rise=0.0)(0) == 1.0


def test_adam_ends_nearer_to_a_minimum_with_steps_that_fall():
    # Around a kink steps of one length go to and fro.
    function, ends = Function(lambda x: np.abs(x - 0.77).sum(), lambda x: np.sign(x - 0.77), np.zeros(5), "kinks"), []
    for schedule in (None, OneCycle(400)):
        smoother, theta = Adam(step_size=0.1, schedule=schedule), function.start
        state = smoother.init(function, theta)
        for _ in range(400):
            theta, state, _ = smoother.step(function, theta, state)
        ends.append(function.value_and_gradient(theta)[0])
    assert ends[1] < 0.01 * ends[0]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: OneCycle(0), KanmgValueError, "`OneCycle` got `steps=0`"),
        (lambda: OneCycle(10, rise=1.0), KanmgValueError, "`rise=1`"),
        (lambda: OneCycle(10, lowest="low"), KanmgTypeError, "`lowest='low'`"),
    ],
)
def test_senseless_cycles_of_steps_are_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("schedule", "error", "words"),
    [
        (lambda _: "x", KanmgTypeError, "returned 'x' after 0 steps. Return a number"),
        (lambda _: torch.tensor(1.0), KanmgTypeError, "Return a number"),
        (lambda _: -1, KanmgValueError, "returned -1 after 0 steps"),
        (lambda _: math.nan, KanmgValueError, "returned nan after 0 steps"),
    ],
)
def test_schedules_that_return_no_factors_are_refused(schedule, error, words):
    function = rosenbrock(4)
    smoother = Adam(schedule=schedule)
    with pytest.raises(error, match=words):
        smoother.step(function, function.start, smoother.init(function, function.start))


def test_a_schedule_that_was_not_called_is_refused():
    with pytest.raises(KanmgTypeError, match=r"such as `kanmg.OneCycle\(1000\)`"):
        Adam(schedule=OneCycle)
