from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from standins import minimise, quadratic, rosenbrock

from kanmg.errors import KanmgTypeError, KanmgValueError
from kanmg.smoothers.torch_optimizer import TorchOptimizer

OPTIMIZERS = [
    (torch.optim.SGD, {"lr": 1e-4}),
    (torch.optim.SGD, {"lr": 1e-4, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
    (torch.optim.Adam, {"lr": 1e-2, "amsgrad": True}),
    (torch.optim.AdamW, {"lr": 1e-2}),
    (torch.optim.NAdam, {}),
    (torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
    (torch.optim.Rprop, {}),
    (torch.optim.ASGD, {"lr": 1e-4, "t0": 5}),
    (torch.optim.LBFGS, {"lr": 0.1, "max_iter": 3}),
    (torch.optim.LBFGS, {"line_search_fn": "strong_wolfe", "history_size": 5, "max_iter": 4}),
]
IDS = [f"{optimizer.__name__}-{number}" for number, (optimizer, _) in enumerate(OPTIMIZERS)]


@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS, ids=IDS)
def test_steps_are_those_of_a_plain_loop_bit_for_bit(optimizer, options):
    function = rosenbrock(10)
    parameter = torch.tensor(function.start, requires_grad=True)
    plain = optimizer([parameter], **options)

    def closure():
        loss, gradient = function.value_and_gradient(parameter.detach().numpy())
        parameter.grad = torch.from_numpy(gradient)
        return torch.tensor(loss)

    smoother = TorchOptimizer(optimizer, **options)
    theta, state = function.start, smoother.init(function, function.start)
    for _ in range(15):
        loss, gradient = function.value_and_gradient(theta)
        plain.step(closure)
        theta, state, record = smoother.step(function, theta, state)
        assert np.array_equal(theta, parameter.detach().numpy())
        assert (record.loss, record.step_size) == (loss, plain.param_groups[0]["lr"])
        assert record.gradient_norm == pytest.approx(np.linalg.norm(gradient))


@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS, ids=IDS)
def test_states_are_values_without_tensors(optimizer, options):
    function, smoother = rosenbrock(4), TorchOptimizer(optimizer, **options)
    theta, state, _ = minimise(smoother, function, steps=4)
    kinds = set(leaves(state.entries))
    assert kinds <= {np.ndarray, int, float, type(None)}
    copied, point = copy.deepcopy(state), theta.copy()
    runs = []
    for start in (state, copied, state):
        moved, current = theta, start
        for _ in range(4):
            moved, current, _ = smoother.step(function, moved, current)
        runs.append(moved)
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0], runs[2])
    assert np.array_equal(theta, point)


def leaves(value):
    if isinstance(value, dict):
        for entry in value.values():
            yield from leaves(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from leaves(entry)
    else:
        yield type(value)


def test_evaluations_are_those_of_the_closure():
    function = quadratic(4, 10.0)
    minimise(TorchOptimizer(torch.optim.SGD, lr=1e-2), function, steps=5)
    assert function.evaluations == 5
    function.trace.clear()
    minimise(TorchOptimizer(torch.optim.LBFGS, max_iter=3), function, steps=1)
    assert 1 < function.evaluations <= 4


def test_convergence():
    smoother = TorchOptimizer(torch.optim.LBFGS, line_search_fn="strong_wolfe")
    _, _, records = minimise(smoother, quadratic(10, 100.0), steps=20)
    assert records[-1].loss <= 1e-10


def test_divergence_is_reported_not_raised():
    _, _, records = minimise(TorchOptimizer(torch.optim.SGD, lr=10.0), quadratic(4, 100.0), steps=200)
    assert not np.isfinite(records[-1].gradient_norm)


def test_float32_stays_float32():
    function = quadratic(4, 10.0)
    single = copy.copy(function)
    single.value_and_gradient = lambda theta: (function.value(theta), function._gradient(theta).astype(np.float32))
    theta, state, _ = minimise(TorchOptimizer(torch.optim.Adam), single, steps=3, theta=np.zeros(4, np.float32))
    assert theta.dtype == state.entries["exp_avg"].dtype == np.float32


def test_configurations_compare_by_value():
    smoother = TorchOptimizer(torch.optim.SGD, lr=1e-2, momentum=0.9)
    assert smoother == TorchOptimizer(torch.optim.SGD, lr=1e-2, momentum=0.9)
    assert smoother != TorchOptimizer(torch.optim.SGD, lr=1e-2)
    assert repr(smoother) == "TorchOptimizer(torch.optim.sgd.SGD, lr=0.01, momentum=0.9)"
    assert hash(smoother) == hash(copy.deepcopy(smoother))


@pytest.mark.parametrize("optimizer", ["SGD", torch.nn.Linear, None])
def test_what_is_no_optimizer_is_refused(optimizer):
    with pytest.raises(KanmgTypeError, match=r"Pass a subclass of `torch\.optim\.Optimizer` and its options, such as"):
        TorchOptimizer(optimizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"lr": -1.0},
            r"`TorchOptimizer\(torch\.optim\.sgd\.SGD, lr=-1\.0\)` is refused: Invalid learning rate: -1\.0",
        ),
        ({"speed": 1.0}, r"is refused: .*unexpected keyword argument 'speed'\. Pass the options that it takes"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(KanmgValueError, match=message):
        TorchOptimizer(torch.optim.SGD, **options)
