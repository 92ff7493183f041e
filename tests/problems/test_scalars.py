"""Constants and parameters in residuals: arithmetic, derivatives, transfers, runs, files, and what is refused."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
import torch

import kanmg
from kanmg.errors import KanmgTypeError, KanmgValueError, NonFiniteError, ShapeError
from kanmg.problems import bound_term
from kanmg.problems.scalars import looking_up

POINTS = np.linspace(0.0, 1.0, 40).reshape(-1, 1)
RATE = 1.7


def decay(parameter, *, data_points=POINTS[::4], weight=1.0):
    """u' = -rate u beside values of exp(-RATE t)."""
    terms = [
        kanmg.Term("equation", lambda _x, u: u.d("t") + parameter * u.value, POINTS),
        kanmg.Term("data", lambda x, u: u.value - torch.exp(-RATE * x[:, 0]), data_points, weight),
    ]
    return kanmg.Collocation(coordinates=("t",), fields=("u",), terms=terms)


def diffusion(nu, points=None):
    def residual(x, u):
        return u.d("t") + u.value * u.d("x") - nu * u.d("x", "x") + torch.sin(x[:, 0])

    x = np.random.default_rng(0).uniform(-1.0, 1.0, (30, 2)) if points is None else points
    term = kanmg.Term("equation", residual, x)
    return kanmg.Collocation(coordinates=("x", "t"), fields=("u",), terms=[term])


def two_parameters():
    """Both kinds of parameters, several residuals at a point, one of which knows no parameter, and a prior."""
    a, b = kanmg.Parameter("a", 0.7, positive=True), kanmg.Parameter("b", -0.4)

    def several(x, u, v):
        return torch.stack([u.d("x") * a**2 + b, torch.sin(b * v.value) / a - x[:, 1], u.value * v.value], dim=1)

    points = np.random.default_rng(1).uniform(-1.0, 1.0, (25, 2))
    terms = [
        kanmg.Term("several", several, points, 0.5),
        kanmg.Term("data", lambda _x, u, _v: u.value - 0.3, points[:9]),
        kanmg.Term("prior", lambda x, _u, _v: (a - 1.0).expand(len(x)), points[:1], 0.1),
    ]
    return kanmg.Collocation(coordinates=("x", "y"), fields=("u", "v"), terms=terms)


def hierarchy_of(widths=(1, 1), num_levels=2, **options):
    options = {"degree": 4, "num_intervals": 3, "domain": (0.0, 1.0), "evaluator": "reference"} | options
    return kanmg.uniform_hierarchy(widths, num_levels=num_levels, **options)


def point_of(problem, level, seed=0):
    random = np.random.default_rng(seed)
    theta = 0.5 * random.standard_normal(level.network.num_coefficients)
    return np.concatenate([theta, problem.initial_parameters + 0.1 * random.standard_normal(problem.num_parameters)])


@pytest.fixture
def problem():
    return two_parameters()


@pytest.fixture
def level():
    return hierarchy_of((2, 3, 2), num_levels=1, domain=(-1.0, 1.0))[0]


# --------------------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("scalar", [kanmg.Constant("c", 0.5), kanmg.Parameter("p", 0.5)], ids=["constant", "parameter"])
@pytest.mark.parametrize("other", [3.0, 2, np.float64(3.0), torch.tensor([1.0, 2.0])], ids=str)
def test_arithmetic_is_that_of_the_number(scalar, other):
    pairs = [
        (scalar + other, 0.5 + other),
        (other + scalar, other + 0.5),
        (scalar - other, 0.5 - other),
        (other - scalar, other - 0.5),
        (scalar * other, 0.5 * other),
        (other * scalar, other * 0.5),
        (scalar / other, 0.5 / other),
        (other / scalar, other / 0.5),
        (scalar**other, 0.5**other),
        (other**scalar, other**0.5),
    ]
    for found, expected in pairs:
        assert isinstance(found, torch.Tensor)
        torch.testing.assert_close(found, torch.as_tensor(expected), check_dtype=False)


def test_scalars_are_what_torch_functions_take():
    a, b = kanmg.Constant("a", 0.5), kanmg.Parameter("b", 2.0)
    assert torch.exp(a).item() == np.exp(0.5)
    assert torch.stack([a, b]).tolist() == [0.5, 2.0]
    assert torch.where(torch.tensor([True, False]), a, b).tolist() == [0.5, 2.0]
    assert (-a).item() == -0.5
    assert (a * b).item() == 1.0
    assert float(a) == 0.5
    with looking_up(lambda scalar: torch.tensor(len(scalar.name))):
        assert (a + b).item() == 2
    assert a.value.dtype == torch.float64
    assert a.value.shape == ()


def test_representations():
    assert repr(kanmg.Constant("nu", 0.01, easier=0.05)) == "Constant('nu', 0.01, easier=0.05)"
    assert repr(kanmg.Parameter("lam", 1, positive=True)) == "Parameter('lam', 1.0, positive=True)"


# ---------------------------------------------------------------------------------------------------------- constants


def test_residuals_tell_which_scalars_they_use(problem):
    assert [parameter.name for parameter in problem.parameters] == ["a", "b"]
    assert problem.constants == ()
    np.testing.assert_allclose(problem.initial_parameters, [np.log(0.7), -0.4], rtol=1e-15)
    nu = kanmg.Constant("nu", 0.3)
    assert diffusion(nu).constants == (nu,)
    assert diffusion(nu).num_parameters == 0


def test_with_constants_is_the_problem_with_another_number(level):
    nu = kanmg.Constant("nu", 0.3, easier=1.0)
    problem, level = diffusion(nu), hierarchy_of((2, 3, 1), num_levels=1, domain=(-1.0, 1.0))[0]
    other = problem.with_constants(nu=0.8)
    theta = point_of(problem, level)
    for stated, number in ((problem, 0.3), (other, 0.8), (other.subset(0.5), None), (problem, 0.3)):
        expected = diffusion(number) if number else diffusion(0.8, stated.terms[0].points)
        assert stated.loss(level.evaluator, theta) == expected.loss(level.evaluator, theta)
        np.testing.assert_array_equal(
            stated.loss_and_gradient(level.evaluator, theta)[1], expected.loss_and_gradient(level.evaluator, theta)[1]
        )
    assert [constant.number for constant in (*problem.constants, *other.constants)] == [0.3, 0.8]
    assert other.constants[0].easier == 1.0
    assert nu.number == 0.3


def test_two_values_may_be_in_use_at_the_same_time():
    problem, level = diffusion(kanmg.Constant("nu", 0.3)), hierarchy_of((2, 3, 1), num_levels=1, domain=(-1, 1))[0]
    problems = [problem.with_constants(nu=number) for number in (0.1, 0.9)]
    theta = point_of(problem, level)
    expected = [stated.loss(level.evaluator, theta) for stated in problems]
    assert expected[0] != expected[1]
    found = [set(), set()]

    def work(i):
        for _ in range(100):
            found[i].add(problems[i].loss(level.evaluator, theta))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{expected[0]}, {expected[1]}]


NU = kanmg.Constant("nu", 0.3)


def module_level(_x, u):
    return u.d("t") - NU * u.d("x", "x")


def test_copies_have_their_own_values():
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (30, 2))
    problem = kanmg.Collocation(
        coordinates=("x", "t"), fields=("u",), terms=[kanmg.Term("equation", module_level, points)]
    ).with_constants(nu=0.6)
    level = hierarchy_of((2, 3, 1), num_levels=1, domain=(-1, 1))[0]
    theta = point_of(problem, level)
    for other in (copy.deepcopy(problem), pickle.loads(pickle.dumps(problem))):  # noqa: S301 - written on the same line
        assert other.loss(level.evaluator, theta) == problem.loss(level.evaluator, theta)


def test_fingerprints_know_names_and_values():
    nu = kanmg.Constant("nu", 0.3)
    problems = [
        diffusion(0.3),
        diffusion(nu),
        diffusion(nu).with_constants(nu=0.3 + 1e-12),
        diffusion(kanmg.Constant("mu", 0.3)),
        diffusion(kanmg.Parameter("nu", 0.3)),
        diffusion(kanmg.Parameter("nu", 0.3, positive=True)),
    ]
    prints = {problem.fingerprint() for problem in problems}
    assert len(prints) == len(problems)
    assert diffusion(kanmg.Constant("nu", 0.3)).fingerprint() == problems[1].fingerprint()


# -------------------------------------------------------------------------------------------------------- derivatives


def test_gradient_agrees_with_finite_differences(problem, level):
    theta = point_of(problem, level)
    loss, gradient = problem.loss_and_gradient(level.evaluator, theta)
    assert gradient.shape == theta.shape
    assert loss == pytest.approx(problem.loss(level.evaluator, theta), rel=1e-14)
    h = 1e-6
    for i in (0, 5, -2, -1):
        step = np.zeros_like(theta)
        step[i] = h
        losses = [problem.loss(level.evaluator, theta + sign * step) for sign in (-1, 1)]
        assert gradient[i] == pytest.approx((losses[1] - losses[0]) / (2 * h), rel=1e-6, abs=1e-9)


def test_normal_equations_and_pull_back_agree_with_finite_differences(problem, level, monkeypatch):
    theta = point_of(problem, level)
    h = 1e-6
    columns = [
        (problem.residuals(level.evaluator, theta + step) - problem.residuals(level.evaluator, theta - step)) / (2 * h)
        for step in h * np.eye(theta.size)
    ]
    jacobian, residuals = np.stack(columns, axis=1), problem.residuals(level.evaluator, theta)
    cotangents = np.random.default_rng(4).standard_normal(problem.num_residuals)
    for entries in (bound_term._JET_ENTRIES, 50):
        monkeypatch.setattr(bound_term, "_JET_ENTRIES", entries)
        loss, gradient, matrix = problem.normal_equations(level.evaluator, theta)
        assert loss == pytest.approx(residuals @ residuals, rel=1e-12)
        np.testing.assert_allclose(matrix, 2 * jacobian.T @ jacobian, rtol=0, atol=1e-8)
        np.testing.assert_allclose(gradient, 2 * jacobian.T @ residuals, rtol=0, atol=1e-8)
        exact = problem.loss_and_gradient(level.evaluator, theta)[1]
        np.testing.assert_allclose(gradient, exact, rtol=0, atol=1e-13 * np.abs(exact).max() + 1e-14)
    pulled = problem.pull_back(level.evaluator, theta, cotangents)
    np.testing.assert_allclose(pulled, jacobian.T @ cotangents, rtol=0, atol=1e-8)


def test_compiled_evaluator_agrees_with_the_reference(problem, level):
    theta = point_of(problem, level)
    compiled = kanmg.Hierarchy([level.network], evaluator="cpu")[0].evaluator
    for method in ("normal_equations", "loss_and_gradient"):
        pairs = zip(
            getattr(problem, method)(compiled, theta), getattr(problem, method)(level.evaluator, theta), strict=True
        )
        for found, expected in pairs:
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_float32_stays_float32():
    parameter = kanmg.Parameter("rate", 1.0, positive=True)
    x = POINTS.astype(np.float32)
    term = kanmg.Term("equation", lambda _x, u: u.d("t") + parameter * u.value, x)
    problem = kanmg.Collocation(coordinates=("t",), fields=("u",), terms=[term])
    hierarchy = hierarchy_of(dtype="float32")
    solution = kanmg.solve(problem, hierarchy, method=CYCLES["galerkin"](kanmg.LBFGS()), max_cycles=1)
    assert solution.coefficients.dtype == np.float32
    assert problem.initial_parameters.dtype == np.float32


def test_padded_transfers_agree_with_the_plain_ones(problem):
    hierarchy = hierarchy_of((2, 3, 2), domain=(-1.0, 1.0))
    plain, padded = hierarchy.transfers[0], kanmg.transfers.padded(hierarchy.transfers, 2)[0]
    coarse, fine = point_of(problem, hierarchy[0]), point_of(problem, hierarchy[1])
    np.testing.assert_array_equal(padded.prolong(coarse), np.append(plain.prolong(coarse[:-2]), coarse[-2:]))
    np.testing.assert_array_equal(padded.inject(fine), np.append(plain.inject(fine[:-2]), fine[-2:]))
    assert padded.prolong(coarse) @ fine == pytest.approx(coarse @ padded.restrict(fine), rel=1e-12)
    matrix = np.outer(fine, fine) + np.diag(np.abs(fine))
    prolongation = np.stack([padded.prolong(row) for row in np.eye(coarse.size)], axis=1)
    expected = prolongation.T @ matrix @ prolongation
    np.testing.assert_allclose(padded.restrict_matrix(matrix), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    lifted = padded.prolong(coarse)
    assert problem.loss(hierarchy[1].evaluator, lifted) == pytest.approx(
        problem.loss(hierarchy[0].evaluator, coarse), rel=1e-12
    )


# --------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize(
    ("smoother", "steps"), [(kanmg.LevenbergMarquardt(), 40), (kanmg.LBFGS(), 400)], ids=["LM", "LBFGS"]
)
def test_a_rate_is_recovered_from_data(smoother, steps, positive):
    problem = decay(kanmg.Parameter("rate", 1.0, positive=positive), weight=100.0)
    hierarchy = hierarchy_of(degree=5, num_intervals=4, evaluator="cpu")
    solution = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(smoother, steps=steps))
    assert solution.parameters["rate"] == pytest.approx(RATE, abs=1e-6)
    np.testing.assert_allclose(solution(POINTS), np.exp(-RATE * POINTS), atol=1e-6)
    assert solution.coefficients.shape == (hierarchy[1].network.num_coefficients,)


CYCLES = {
    "nested": lambda smoother: kanmg.NestedIteration(smoother, steps=30),
    "tau": lambda smoother: kanmg.VCycle(smoother, pre_steps=10, post_steps=10, coarse_steps=20, variant="tau"),
    "galerkin": lambda smoother: kanmg.VCycle(
        smoother, pre_steps=10, post_steps=10, coarse_steps=20, variant="galerkin"
    ),
    "full": lambda smoother: kanmg.FullMultigrid(smoother, steps=5),
    "fewer points": lambda smoother: kanmg.VCycle(
        smoother, pre_steps=10, post_steps=10, coarse_steps=20, coarse_fraction=0.5
    ),
}
SMOOTHERS = {"LM": kanmg.LevenbergMarquardt(), "LBFGS": kanmg.LBFGS(), "Adam": kanmg.Adam(step_size=1e-2)}


@pytest.mark.parametrize("smoother", SMOOTHERS)
@pytest.mark.parametrize("cycle", CYCLES)
def test_every_cycle_moves_the_parameter_with_every_smoother(cycle, smoother):
    problem = decay(kanmg.Parameter("rate", 1.5, positive=True), weight=100.0)
    hierarchy = hierarchy_of(evaluator="cpu")
    # Coefficients that fit the data: what is wrong at the beginning is the parameter.
    initial = np.exp(-RATE * hierarchy[0].network.layers[0].knots[0].greville)
    method = CYCLES[cycle](SMOOTHERS[smoother])
    solution = kanmg.solve(problem, hierarchy, method=method, initial=initial, max_cycles=2)
    assert abs(solution.parameters["rate"] - RATE) < (0.1 if smoother == "Adam" else 0.01)
    assert solution.level == 1
    assert solution.loss < solution.history[0].loss


def test_starts_begin_with_the_initial_parameters():
    problem = decay(kanmg.Parameter("rate", 1.0), weight=100.0)
    method = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=20, starts=kanmg.Starts(3, steps=3))
    solution = kanmg.solve(problem, hierarchy_of((1, 2, 1), evaluator="cpu"), method=method)
    assert len(solution.history.starts) == 3
    assert solution.parameters["rate"] == pytest.approx(RATE, abs=1e-2)


def test_initial_coefficients_may_have_the_parameters_behind_them():
    problem, hierarchy = decay(kanmg.Parameter("rate", 1.2, positive=True)), hierarchy_of()
    size = hierarchy[0].network.num_coefficients
    theta = np.linspace(1.0, 0.2, size)

    def first_loss(problem, initial):
        method = kanmg.NestedIteration(steps=0)
        return kanmg.solve(problem, hierarchy, method=method, initial=initial).history[0].loss

    evaluator = hierarchy[0].evaluator
    without = first_loss(problem, theta)
    assert without == problem.loss(evaluator, np.append(theta, np.log(1.2)))
    assert without == first_loss(problem, np.append(theta, problem.initial_parameters))
    other = first_loss(problem, np.append(theta, np.log(2.5)))
    assert other == pytest.approx(first_loss(problem.with_parameters(rate=2.5), theta), rel=1e-14)
    assert other != without
    with pytest.raises(ShapeError, match=r"with or without the 1 unknowns"):
        first_loss(problem, np.append(theta, [1.0, 2.0]))


def test_solutions_say_what_was_found(tmp_path):
    problem = decay(kanmg.Parameter("rate", 1.0))
    solution = kanmg.solve(problem, hierarchy_of(), method=kanmg.NestedIteration(steps=100))
    assert f"Parameters: rate = {solution.parameters['rate']:.6g}" in str(solution)
    solution.save(tmp_path / "decay.kanmg")
    loaded = kanmg.load(tmp_path / "decay.kanmg", evaluator="reference")
    assert loaded.parameters == solution.parameters
    plain = kanmg.solve(diffusion(0.1), hierarchy_of((2, 1), domain=(-1, 1)), method=kanmg.NestedIteration(steps=1))
    assert plain.parameters == {}
    assert "Parameters" not in str(plain)


@pytest.mark.parametrize("cycle", ["nested", "galerkin"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, cycle):
    problem = decay(kanmg.Parameter("rate", 1.0, positive=True))
    method, options = CYCLES[cycle](kanmg.LBFGS()), {"max_cycles": 2}
    whole = kanmg.solve(problem, hierarchy_of(), method=method, **options)

    def stop(record):
        if record.step == 13:
            raise StopIteration

    path = tmp_path / "run.kanmg"
    kanmg.solve(problem, hierarchy_of(), method=method, checkpoint=path, callback=stop, **options)
    resumed = kanmg.solve(problem, hierarchy_of(), method=method, checkpoint=path, **options)
    assert resumed.parameters == whole.parameters
    np.testing.assert_array_equal(resumed.coefficients, whole.coefficients)
    other = decay(kanmg.Parameter("rate", 1.1, positive=True))
    with pytest.raises(kanmg.CheckpointError, match="problem"):
        kanmg.solve(other, hierarchy_of(), method=method, checkpoint=path, **options)


def test_objectives_take_coefficients_and_parameters():
    problem, level = decay(kanmg.Parameter("rate", 1.0)), hierarchy_of()[0]
    objective = kanmg.Objective(problem, level)
    theta = point_of(problem, level)
    assert objective.value_and_gradient(theta)[1].shape == theta.shape
    with pytest.raises(ShapeError, match=r"7 coefficients and the problem 1 parameter.*\(8,\)"):
        objective.value(theta[:-1])
    with pytest.raises(ShapeError, match=r"0 entries behind.*1 parameters: 'rate'"):
        problem.loss(level.evaluator, theta[:-1])


# ------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: kanmg.Constant("", 1.0), KanmgTypeError, "`name=''` of a Constant"),
        (lambda: kanmg.Constant("nu", "1"), KanmgTypeError, "constant 'nu' is '1', a str"),
        (lambda: kanmg.Constant("nu", np.nan), KanmgValueError, "constant 'nu' is nan"),
        (lambda: kanmg.Constant("nu", 1.0, easier=np.inf), KanmgValueError, "`easier` of the constant 'nu' is inf"),
        (lambda: kanmg.Parameter("lam", None), KanmgTypeError, "parameter 'lam' is None"),
        (lambda: kanmg.Parameter("lam", 1.0, positive=1), KanmgTypeError, "`positive=1`"),
        (lambda: kanmg.Parameter("lam", 0.0, positive=True), KanmgValueError, "initial value is 0. Pass a positive"),
    ],
)
def test_impossible_scalars_are_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def collocation(*residuals):
    terms = [kanmg.Term(f"term {i}", residual, POINTS) for i, residual in enumerate(residuals)]
    return kanmg.Collocation(coordinates=("t",), fields=("u",), terms=terms)


def test_two_scalars_of_one_name_are_refused():
    first, second = kanmg.Constant("nu", 0.1), kanmg.Parameter("nu", 0.1)
    with pytest.raises(KanmgValueError, match=r"two different scalars of the name 'nu'.*Make it once"):
        collocation(lambda _x, u: first * u.value, lambda _x, u: second * u.value)
    with pytest.raises(KanmgValueError, match=r"two different scalars of the name 'nu'"):
        collocation(lambda _x, u: first * u.value + kanmg.Constant("nu", 0.1))


def test_unknown_names_are_refused():
    problem = diffusion(kanmg.Constant("nu", 0.1))
    with pytest.raises(KanmgValueError, match=r"`with_constants` got 'mu'.*use are: 'nu'"):
        problem.with_constants(mu=1.0)
    with pytest.raises(KanmgValueError, match=r"`with_parameters` got 'nu'.*use are: none"):
        problem.with_parameters(nu=1.0)
    with pytest.raises(KanmgTypeError, match="constant 'nu' is 'a'"):
        problem.with_constants(nu="a")


def test_residuals_that_cannot_be_differentiated_by_a_parameter_are_refused():
    lam = kanmg.Parameter("lam", 0.0)
    with pytest.raises(KanmgValueError, match=r"term 'term 0': the residual uses the parameter 'lam' but has no grad"):
        collocation(lambda _x, u: u.value * lam.value.detach())
    with pytest.raises(NonFiniteError, match="derivative by the parameter 'lam' is NaN or infinite"):
        collocation(lambda _x, u: u.value + torch.sqrt(lam))
    nu = kanmg.Constant("nu", 1.0)
    with pytest.raises(NonFiniteError, match=r"term 'term 0'.*NaN or infinite at 40 points"):
        collocation(lambda _x, u: u.value / nu).with_constants(nu=0.0)


def test_scalars_that_appear_late_are_refused():
    nu, calls = kanmg.Constant("nu", 1.0), []

    def residual(_x, u):
        return nu * u.value if len(calls) else u.value

    problem = collocation(residual)
    calls.append(1)
    level = hierarchy_of()[0]
    with pytest.raises(KanmgValueError, match=r"for Constant\('nu', 1.0\) that it did not ask for when"):
        problem.loss(level.evaluator, np.zeros(7))
