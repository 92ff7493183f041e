"""Spline networks in ReLU^k form, and as modules of torch: the same function, to the accuracy of the powers."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from math import factorial

import numpy as np
import pytest
import torch

import kanmg
from kanmg.errors import DomainError, DtypeError, KanmgTypeError, KanmgValueError, NonFiniteError, ShapeError
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.nn import PowerReLU, SplineNetwork, power_relu_mlp
from kanmg.splines import basis_matrix, power_relu_basis, power_relu_matrix, prolongation_matrix

EPS = np.finfo(float).eps


def network_of(degree=3, outside="extend", *, clamped=True):
    knots = [
        kanmg.uniform_knots(5, degree=degree),
        kanmg.knots_from_breakpoints([-1, -0.2, 0.1, 0.5, 0.8, 1], degree=degree),
        kanmg.clamped_knots(5, degree=degree) if clamped else kanmg.uniform_knots(5, degree=degree),
    ]
    layers = [
        kanmg.Affine(2, 3),
        kanmg.Spline(3, 2, knots=knots, outside=outside),
        kanmg.Affine(2, 2, bias=False),
        kanmg.Spline(2, 1, knots=knots[0], outside=outside),
    ]
    return kanmg.Network(layers)


def drawn(network, *, spread=1.0, number=200):
    """Coefficients and points; of a spread above one hidden values leave their intervals."""
    rng = np.random.default_rng(0)
    theta = rng.uniform(-0.4, 0.4, network.num_coefficients)
    return theta, spread * rng.uniform(-1.0, 1.0, (number, network.num_inputs))


# -------------------------------------------------------------------------------------------------------- same function


@pytest.mark.parametrize("degree", range(1, 8))
@pytest.mark.parametrize("num_intervals", [4, 16, 64])
def test_one_layer_is_as_accurate_as_its_cancellation_allows(degree, num_intervals):
    knots = kanmg.uniform_knots(num_intervals, degree=degree)
    network = kanmg.Network([kanmg.Spline(1, 2, knots=knots)])
    u = np.random.default_rng(0).uniform(-1.0, 1.0, (knots.num_basis, 2))
    x = np.linspace(-1.0, 1.0, 301)
    relu = kanmg.to_power_relu(network, u.ravel())
    error = np.abs(relu(x[:, None]) - basis_matrix(knots, x) @ u)
    sums = power_relu_basis(knots, x, scaled=True) @ np.abs(power_relu_matrix(knots, scaled=True)).T @ np.abs(u)
    assert (error <= 4 * (degree + 1) * EPS * sums).all()
    # What the docstring says of their size.
    claimed = (2.0 * (num_intervals + degree)) ** (degree + 1) / factorial(degree + 1)
    assert 0.05 < sums.max() / claimed < 1.5


@pytest.mark.parametrize("outside", ["extend", "linear", "clamp"])
@pytest.mark.parametrize("degree", [1, 2, 3, 5])
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_networks_agree_inside_and_outside_of_their_intervals(degree, outside, spread):
    network = network_of(degree, outside)
    theta, x = drawn(network, spread=spread)
    expected = ReferenceEvaluator(network, "float64").value(theta, x)
    found = kanmg.to_power_relu(network, theta)(x)
    assert np.abs(found - expected).max() < 1e-15 * 40.0**degree * np.abs(expected).max()


@pytest.mark.parametrize("degree", [1, 3, 5])
def test_the_round_trip_is_as_accurate_as_the_condition_number_says(degree):
    network = network_of(degree)
    theta, _ = drawn(network)
    back = kanmg.from_power_relu(kanmg.to_power_relu(network, theta))
    condition = max(
        np.linalg.cond(power_relu_matrix(knots, scaled=True).toarray()) for knots in network.layers[1].knots
    )
    assert np.abs(back - theta).max() <= EPS * condition
    assert np.array_equal(back[:9], theta[:9])


def test_affine_layers_keep_their_coefficients():
    network = network_of()
    theta, _ = drawn(network)
    relu = kanmg.to_power_relu(network, theta)
    for layer, old, new in zip(network.layers, network.unflatten(theta), network.unflatten(relu.weights), strict=True):
        assert np.array_equal(old, new) == isinstance(layer, kanmg.Affine)


def test_torch_coefficients_are_taken():
    network = network_of()
    theta, x = drawn(network)
    assert np.array_equal(kanmg.to_power_relu(network, torch.tensor(theta))(x), kanmg.to_power_relu(network, theta)(x))


def test_weights_are_a_copy_that_nobody_changes():
    network = network_of()
    weights = np.zeros(network.num_coefficients)
    relu = kanmg.PowerReLUNetwork(network, weights)
    weights[0] = 1.0
    assert relu.weights[0] == 0.0
    assert relu.weights.flags.writeable is False


# ------------------------------------------------------------------------------------------------------------- modules


@pytest.mark.parametrize("spread", [1.0, 3.0])
@pytest.mark.parametrize("degree", [1, 2, 3, 5])
def test_the_exported_module_is_the_same_function(degree, spread):
    network = network_of(degree, clamped=False)
    theta, x = drawn(network, spread=spread)
    expected = ReferenceEvaluator(network, "float64").value(theta, x)
    found = power_relu_mlp(network, theta)(torch.tensor(x)).detach().numpy()
    assert np.abs(found - expected).max() < 1e-15 * 40.0**degree * np.abs(expected).max()


def test_the_plain_module_is_the_bare_sum_on_the_left():
    knots = kanmg.uniform_knots(5, degree=3)
    network = kanmg.Network([kanmg.Spline(1, 1, knots=knots, outside="clamp")])
    theta, _ = drawn(network)
    module, x = power_relu_mlp(network, theta, plain=True), np.linspace(-3.0, 1.0, 200)
    expected = basis_matrix(knots, x, outside="zero") @ theta
    assert np.abs(module(torch.tensor(x[:, None])).detach().numpy().ravel() - expected).max() < 1e-13


def test_gradients_of_the_weights_are_those_of_the_other_basis():
    network = kanmg.Network([kanmg.Spline(1, 1, knots=kanmg.uniform_knots(5, degree=3))])
    theta, x = drawn(network)
    module, points = power_relu_mlp(network, theta), torch.tensor(x)
    (module(points) ** 2).sum().backward()
    evaluator = ReferenceEvaluator(network, "float64")
    gradient = evaluator.adjoint(theta, x, 2.0 * evaluator.value(theta, x))[0]
    found = module[0].weights.grad.numpy().ravel()
    # grad_u = A grad_w
    back = power_relu_matrix(network.layers[0].knots[0], scaled=True) @ found
    assert np.abs(back - gradient).max() < 1e-11 * np.abs(gradient).max()


def test_the_exported_module_is_trained_by_an_ordinary_loop():
    network = kanmg.Network([kanmg.Spline(1, 1, knots=kanmg.uniform_knots(5, degree=2))])
    theta, x = drawn(network)
    module, points = power_relu_mlp(network, theta), torch.tensor(x)
    assert [name for name, _ in module.named_parameters()] == ["0.biases", "0.weights"]
    optimizer, losses = torch.optim.Adam(module.parameters(), lr=1e-3), []
    for _ in range(200):
        loss = ((module(points) - torch.sin(3 * points)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    restored = power_relu_mlp(network, np.zeros_like(theta))
    restored.load_state_dict(module.state_dict())
    assert torch.equal(restored(points), module(points))


def test_spline_module_is_the_reference_evaluator():
    network = network_of()
    theta, x = drawn(network)
    module = SplineNetwork(network, theta)
    values = module(torch.tensor(x))
    evaluator = ReferenceEvaluator(network, "float64")
    assert np.array_equal(values.detach().numpy(), evaluator.value(theta, x))
    values.sum().backward()
    gradient = evaluator.adjoint(theta, x, np.ones((len(x), 1)))[0]
    np.testing.assert_allclose(module.coefficients.grad.numpy(), gradient, rtol=1e-13, atol=1e-13)


def test_spline_module_moves_to_another_dtype_and_is_copied_and_saved():
    network = network_of()
    theta, x = drawn(network)
    module = SplineNetwork(network, theta)
    double = module(torch.tensor(x))
    single = copy.deepcopy(module).float()(torch.tensor(x, dtype=torch.float32))
    assert single.dtype == torch.float32
    assert (single - double).abs().max() < 1e-4
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = SplineNetwork(network, np.zeros_like(theta))
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(torch.tensor(x)), double)
    module.coefficients.data.zero_()
    assert theta.any()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_modules_have_the_dtype_of_the_coefficients(dtype):
    network = network_of(clamped=False)
    theta = drawn(network)[0].astype(dtype)
    for module in (SplineNetwork(network, theta), power_relu_mlp(network, theta)):
        assert {parameter.dtype for parameter in module.parameters()} == {getattr(torch, dtype)}


def test_modules_are_loaded_on_demand():
    code = "import sys, kanmg; print('kanmg.nn' in sys.modules); kanmg.nn; print('kanmg.nn' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]


# -------------------------------------------------------------------------------------------------------------- errors


def test_the_bare_sum_of_splines_is_refused():
    with pytest.raises(KanmgValueError, match="layer 1 has `outside='zero'`"):
        kanmg.to_power_relu(network_of(outside="zero"), drawn(network_of())[0])


def test_values_outside_are_refused_by_the_policy():
    network = network_of(outside="error")
    with pytest.raises(DomainError, match=r"values of input \d of a spline layer lie outside"):
        kanmg.to_power_relu(network, drawn(network)[0])(np.full((1, 2), 40.0))


def test_wrong_shapes_are_refused():
    network = network_of()
    with pytest.raises(ShapeError, match=r"`theta` has shape \(3,\)"):
        kanmg.to_power_relu(network, np.zeros(3))
    with pytest.raises(ShapeError, match=r"`weights` has shape \(3,\)"):
        kanmg.PowerReLUNetwork(network, np.zeros(3))
    with pytest.raises(ShapeError, match=r"Pass points of shape \(N, 2\)"):
        kanmg.to_power_relu(network, drawn(network)[0])(np.zeros(2))
    with pytest.raises(DtypeError):
        kanmg.PowerReLUNetwork(network, np.zeros(network.num_coefficients, np.float32))
    for make in (SplineNetwork, power_relu_mlp):
        with pytest.raises(ShapeError, match="coefficients"):
            make(network, np.zeros(3))
        with pytest.raises(DtypeError):
            make(network, np.zeros(network.num_coefficients, int))


def test_modules_refuse_what_is_no_power_of_relu():
    with pytest.raises(KanmgValueError, match=r"outside='clamp'.*plain=True"):
        power_relu_mlp(network_of(outside="clamp"), drawn(network_of())[0])
    with pytest.raises(KanmgValueError, match="layer 1 has repeated knots"):
        power_relu_mlp(network_of(), drawn(network_of())[0])


def test_repeated_knots_are_exchanged_as_the_message_says():
    clamped = kanmg.clamped_knots(4, degree=3)
    simple = kanmg.knots_from_breakpoints(clamped.breakpoints, degree=3)
    u, x = np.random.default_rng(0).standard_normal(7), np.linspace(-1, 1, 50)
    theta = prolongation_matrix(clamped, simple) @ u
    module = power_relu_mlp(kanmg.Network([kanmg.Spline(1, 1, knots=simple)]), theta)
    found = module(torch.tensor(x[:, None])).detach().numpy().ravel()
    assert np.abs(found - basis_matrix(clamped, x) @ u).max() < 1e-10


def test_a_layer_by_hand():
    layer = PowerReLU(torch.zeros(2, 1), torch.ones(2, 1, 3), torch.full((2, 1), 2.0), degree=2)
    assert layer(torch.tensor([[4.0, -4.0], [2.0, 6.0]])).tolist() == [[4.0] * 3, [10.0] * 3]
    assert repr(layer) == "PowerReLU(2, 3, num_channels=1, degree=2)"


def test_free_knots_stay_where_they_are():
    knots = kanmg.uniform_knots(4, degree=3)
    network = kanmg.Network([kanmg.Affine(2, 3), kanmg.Spline(3, 1, knots=knots, free_knots=True)])
    rng = np.random.default_rng(5)
    theta = np.concatenate([rng.standard_normal(network.offsets[-1]), 0.5 * rng.standard_normal(network.num_logits)])
    x = rng.uniform(-0.3, 0.3, (50, 2))
    expected = ReferenceEvaluator(network, "float64").value(theta, x)
    relu = kanmg.to_power_relu(network, theta)
    np.testing.assert_allclose(relu(x), expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(kanmg.from_power_relu(relu), theta[: network.offsets[-1]], rtol=0, atol=1e-9)
    points = torch.from_numpy(x)
    for module in (kanmg.nn.power_relu_mlp(network, theta), kanmg.nn.SplineNetwork(network, theta)):
        np.testing.assert_allclose(module(points).detach().numpy(), expected, rtol=0, atol=1e-10)


def test_what_does_not_fit_is_told():
    network = kanmg.Network([kanmg.Spline(2, 1, knots=kanmg.uniform_knots(4, degree=3))])
    theta = np.ones(network.num_coefficients)
    module = SplineNetwork(network, theta)
    for x in (torch.zeros(2, dtype=torch.float64), torch.zeros((3, 1), dtype=torch.float64)):
        with pytest.raises(ShapeError, match=r"takes points of shape \(N, 2\)"):
            module(x)
    with pytest.raises(KanmgTypeError, match="Pass a tensor"):
        module(np.zeros((3, 2)))
    theta[3] = np.nan
    with pytest.raises(NonFiniteError, match="`theta` contains 1 NaN or infinite value"):
        kanmg.to_power_relu(network, theta)
    with pytest.raises(ShapeError, match=r"`coefficients\[:network.num_coefficients\]`"):
        power_relu_mlp(network, np.ones(network.num_coefficients + 2))
