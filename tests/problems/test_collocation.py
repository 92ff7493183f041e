from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

import kanmg
from kanmg.errors import KanmgValueError
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.problems import bound_term
from kanmg.problems.batches import Stream
from kanmg.problems.collocation import Collocation
from kanmg.problems.terms import Term

PI = torch.pi


def draw(num_points=30, seed=0, dtype="float64"):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (num_points, 2)).astype(dtype)


def burgers(_x, u):
    return u.d("t") + u.value * u.d("x") - 0.1 * u.d("x", "x")


def initial(x, u):
    return u.value + torch.sin(PI * x[:, 0])


def cauchy_riemann(_x, u, v):
    mixed = u.d("x", "t") * v.value + torch.exp(0.1 * v.d("x"))
    return torch.stack([u.d("x") - v.d("t"), u.d("t") + v.d("x"), mixed], dim=1)


def scalar(dtype="float64", **options):
    terms = [
        Term("equation", burgers, draw(40, dtype=dtype), weight=0.5),
        Term("initial", initial, draw(13, seed=1, dtype=dtype), weight=3.0, **options),
    ]
    return Collocation(coordinates=("x", "t"), fields=("u",), terms=terms)


def system():
    weights = np.random.default_rng(5).uniform(0.0, 2.0, 40)
    terms = [
        Term("equations", cauchy_riemann, draw(40), point_weights=weights),
        Term("data", lambda x, _u, v: v.value**2 - x[:, 1], draw(9, seed=1), weight=2.0),
    ]
    return Collocation(coordinates=("x", "t"), fields=("u", "v"), terms=terms)


def measured():
    """Values of a field, several at some points, and of a derivative and a product."""
    random = np.random.default_rng(6)
    places = np.concatenate([draw(20, seed=1), draw(20, seed=1)[:7]])

    def pairs(_x, u, v, y):
        return torch.stack([u.d("x") - y[:, 0], u.value * v.value - y[:, 1]], dim=1)

    terms = [
        Term("equation", lambda _x, u, v: u.d("x", "x") - v.d("t"), draw(15)),
        Term("samples", lambda _x, u, _v, y: u.value - y, places, data=random.standard_normal(27)),
        Term("pairs", pairs, draw(30, seed=4), 2.0, np.arange(30.0), data=random.standard_normal((30, 2))),
    ]
    return Collocation(coordinates=("x", "t"), fields=("u", "v"), terms=terms)


PROBLEMS = {"scalar": scalar, "system": system, "measured": measured}


def make_level(num_outputs=1, dtype="float64", evaluator="reference", degree=4, **options):
    options = {"num_levels": 1, "num_intervals": 3} | options
    hierarchy = kanmg.uniform_hierarchy((2, 3, num_outputs), degree=degree, dtype=dtype, evaluator=evaluator, **options)
    return hierarchy[0]


def coefficients(level, seed=2):
    theta = kanmg.initial_coefficients(level.network, draw(100), seed=seed)
    return theta.astype(level.evaluator.dtype)


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]()


@pytest.fixture
def level(problem):
    return make_level(len(problem.fields))


@pytest.fixture
def theta(level):
    return coefficients(level)


def by_autograd(problem, evaluator, theta):
    """The weighted residuals by nested automatic differentiation of the network, differentiable by theta."""
    parts = []
    for term in problem.terms:
        x = torch.tensor(term.points, requires_grad=True)
        outputs = evaluator.forward(theta, x)
        fields = [Nested(outputs[:, q], x, problem.coordinates) for q in range(outputs.shape[1])]
        data = () if term.data is None else (torch.tensor(term.data),)
        residuals = term.residual(x, *fields, *data).reshape(len(x), -1)
        weights = torch.ones(len(x), dtype=x.dtype) if term.point_weights is None else torch.tensor(term.point_weights)
        factors = term.weight * weights / (weights.sum() * residuals.shape[1])
        parts.append((residuals * factors.sqrt()[:, None]).reshape(-1))
    return torch.cat(parts)


class Nested:
    def __init__(self, value, x, coordinates):
        self.value, self.x, self.coordinates = value, x, coordinates

    def d(self, *names):
        result = self.value
        for name in names:
            (gradient,) = torch.autograd.grad(result.sum(), self.x, create_graph=True)
            result = gradient[:, self.coordinates.index(name)]
        return result


# ------------------------------------------------------------------------------------------------------------- losses


def test_loss_and_residuals_are_those_of_nested_automatic_differentiation(problem, level, theta):
    expected = by_autograd(problem, level.evaluator, torch.tensor(theta)).detach().numpy()
    residuals = problem.residuals(level.evaluator, theta)
    assert residuals.shape == (problem.num_residuals,)
    np.testing.assert_allclose(residuals, expected, rtol=1e-10, atol=1e-12 * np.abs(expected).max())
    loss = problem.loss(level.evaluator, theta)
    assert loss == pytest.approx(residuals @ residuals, rel=1e-13)
    assert problem.loss_and_gradient(level.evaluator, theta)[0] == pytest.approx(loss, rel=1e-14)
    assert problem.term_losses(level.evaluator, theta).keys() == {term.name for term in problem.terms}
    assert sum(problem.term_losses(level.evaluator, theta).values()) == pytest.approx(loss, rel=1e-14)


def test_loss_is_the_weighted_mean_that_the_documentation_states():
    points, weights = draw(20), np.random.default_rng(3).uniform(0.0, 1.0, 20)
    term = Term("both", lambda _x, u: torch.stack([u.value, 2 * u.value], dim=1), points, 7.0, weights)
    problem = Collocation(coordinates=("x", "t"), fields=("u",), terms=[term])
    level = make_level()
    theta = coefficients(level)
    squares = level.evaluator.value(theta, points)[:, 0] ** 2
    expected = 7.0 * np.average((squares + 4 * squares) / 2, weights=weights)
    assert problem.loss(level.evaluator, theta) == pytest.approx(expected, rel=1e-13)


def test_gradient_agrees_with_finite_differences(problem, level, theta):
    _, gradient = problem.loss_and_gradient(level.evaluator, theta)
    h = 1e-5
    for seed in range(3):
        direction = np.random.default_rng(seed).standard_normal(theta.size)
        losses = [problem.loss(level.evaluator, theta + sign * h * direction) for sign in (-1, 1)]
        assert gradient @ direction == pytest.approx((losses[1] - losses[0]) / (2 * h), rel=1e-6)


def test_normal_equations_and_pull_back_are_those_of_automatic_differentiation(problem, level, theta):
    jacobian = torch.autograd.functional.jacobian(
        lambda vector: by_autograd(problem, level.evaluator, vector), torch.tensor(theta)
    ).numpy()
    residuals = problem.residuals(level.evaluator, theta)
    loss, gradient, matrix = problem.normal_equations(level.evaluator, theta)
    assert loss == pytest.approx(residuals @ residuals, rel=1e-12)
    expected = 2 * jacobian.T @ jacobian
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    np.testing.assert_allclose(gradient, 2 * jacobian.T @ residuals, rtol=0, atol=1e-11 * np.abs(gradient).max())
    np.testing.assert_allclose(
        gradient, problem.loss_and_gradient(level.evaluator, theta)[1], rtol=0, atol=1e-12 * np.abs(gradient).max()
    )
    cotangents = np.random.default_rng(4).standard_normal(problem.num_residuals)
    pulled = problem.pull_back(level.evaluator, theta, cotangents)
    np.testing.assert_allclose(pulled, jacobian.T @ cotangents, rtol=0, atol=1e-11 * np.abs(pulled).max())


def test_compiled_evaluator_agrees_with_the_reference(problem, theta):
    results = []
    for evaluator in ("reference", "cpu"):
        level = make_level(len(problem.fields), evaluator=evaluator)
        loss, gradient, matrix = problem.normal_equations(level.evaluator, theta)
        also = problem.loss_and_gradient(level.evaluator, theta)[1]
        results.append((np.array([loss]), gradient, matrix, also, problem.residuals(level.evaluator, theta)))
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


def test_chunks_change_nothing_but_the_order_of_sums(problem, level, theta, monkeypatch):
    cotangents = np.random.default_rng(4).standard_normal(problem.num_residuals)

    def results():
        evaluator = level.evaluator
        yield from problem.loss_and_gradient(evaluator, theta)
        yield from problem.normal_equations(evaluator, theta)
        yield problem.loss(evaluator, theta)
        yield problem.residuals(evaluator, theta)
        yield problem.pull_back(evaluator, theta, cotangents)

    whole = list(results())
    monkeypatch.setattr(bound_term, "_JET_ENTRIES", 50)
    monkeypatch.setattr("kanmg.evaluators.base._JACOBIAN_ENTRIES", 3 * theta.size)
    for actual, expected in zip(results(), whole, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13 * np.abs(expected).max())


def test_memory_does_not_grow_with_the_number_of_points():
    """Doubling the points adds nothing but what is proportional to them by design: nothing, for loss and gradient."""
    peaks = []
    level = make_level(evaluator="cpu")
    theta = coefficients(level)
    for num_points in (200_000, 400_000):
        term = Term("equation", burgers, draw(num_points))
        problem = Collocation(coordinates=("x", "t"), fields=("u",), terms=[term])
        problem.loss_and_gradient(level.evaluator, theta)
        tracemalloc.start()
        problem.loss_and_gradient(level.evaluator, theta)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 20e6


def test_float32_stays_float32():
    problem, level = scalar("float32"), make_level(dtype="float32", degree=3)
    exact = scalar(), make_level(degree=3)
    theta = coefficients(level)
    problem.check_level(level)
    loss, gradient = problem.loss_and_gradient(level.evaluator, theta)
    assert gradient.dtype == np.float32
    expected, wanted = exact[0].loss_and_gradient(exact[1].evaluator, theta.astype(np.float64))
    assert loss == pytest.approx(expected, rel=1e-3)
    np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())
    assert problem.normal_equations(level.evaluator, theta)[2].dtype == np.float32
    assert problem.residuals(level.evaluator, theta).dtype == np.float32


def test_third_and_fourth_derivatives_on_the_reference():
    def residual(_x, u):
        return u.d("x", "x", "t") * u.value + u.d("t", "t", "t", "t")

    problem = Collocation(coordinates=("x", "t"), fields=("u",), terms=[Term("beam", residual, draw(12))])
    level = make_level(degree=5)
    theta = coefficients(level)
    expected = by_autograd(problem, level.evaluator, torch.tensor(theta)).detach().numpy()
    np.testing.assert_allclose(
        problem.residuals(level.evaluator, theta), expected, rtol=0, atol=1e-9 * np.abs(expected).max()
    )
    h, direction = 1e-6, np.random.default_rng(0).standard_normal(theta.size)
    losses = [problem.loss(level.evaluator, theta + sign * h * direction) for sign in (-1, 1)]
    slope = problem.loss_and_gradient(level.evaluator, theta)[1] @ direction
    assert slope == pytest.approx((losses[1] - losses[0]) / (2 * h), rel=1e-5)


def test_only_the_derivatives_of_a_term_are_computed(problem, level, theta, monkeypatch):
    asked = []
    jet = ReferenceEvaluator.jet

    def spy(self, theta, x, directions, order):
        asked.append((len(x), len(directions), order))
        return jet(self, theta, x, directions, order)

    monkeypatch.setattr(ReferenceEvaluator, "jet", spy)
    problem.loss(level.evaluator, theta)
    assert asked[0][2] == 2
    assert asked[1] == (len(problem.terms[1]), 0, 0)


def test_work_counts_a_jet_as_values_and_derivatives():
    problem, level = scalar(), make_level()
    # Two directions of order two at 40 points, values alone at 13.
    evaluations = 40 * (1 + 2 * 2) + 13
    assert problem.work(level.evaluator) == evaluations * level.evaluator.cost_per_sample
    assert problem.work(level.evaluator, gradient=False) == evaluations * level.evaluator.value_cost_per_sample
    assert problem.num_samples == 53


# ------------------------------------------------------------------------------------------------- exact solutions


def poisson(num_points=12, weight=100.0):
    """The Laplacian of sin(pi x) sin(pi y) on the unit square."""

    def equation(x, u):
        source = 2 * PI**2 * torch.sin(PI * x[:, 0]) * torch.sin(PI * x[:, 1])
        return u.d("x", "x") + u.d("y", "y") + source

    axis = np.linspace(0.0, 1.0, num_points)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    edge = points[((points == 0.0) | (points == 1.0)).any(axis=1)]
    terms = [Term("equation", equation, points), Term("boundary", lambda _x, u: u.value, edge, weight)]
    return Collocation(coordinates=("x", "y"), fields=("u",), terms=terms)


def exact_poisson(x):
    return (np.sin(np.pi * x[:, 0]) * np.sin(np.pi * x[:, 1]))[:, None]


def test_residual_of_a_solution_projected_on_splines_vanishes_with_the_cells():
    """exp(x + t) = exp(x) exp(t) is one spline of one sum: u_x = u_t, and u_xx = u, with errors of order k - 1."""

    def equations(_x, u):
        return torch.stack([u.d("x") - u.d("t"), u.d("x", "x") - u.value, u.d("x", "t") - u.value], dim=1)

    problem = Collocation(coordinates=("x", "t"), fields=("u",), terms=[Term("equations", equations, draw(200))])
    losses = []
    for num_intervals in (4, 8, 16):
        knots = kanmg.uniform_knots(num_intervals, degree=4, domain=(-2.0, 2.0))
        network = kanmg.Network([kanmg.Affine(2, 1), kanmg.Spline(1, 1, knots=knots)])
        nodes = np.linspace(-2.0, 2.0, 400)
        values = [kanmg.splines.evaluate_spline(knots, column, nodes) for column in np.eye(num_intervals + 4)]
        outer = np.linalg.lstsq(np.stack(values, axis=1), np.exp(nodes))[0]
        theta = np.concatenate([[1.0, 1.0, 0.0], outer])
        losses.append(problem.loss(ReferenceEvaluator(network, "float64"), theta))
    rates = np.log2(np.sqrt(np.array(losses[:-1]) / np.array(losses[1:])))
    assert losses[-1] < 3e-8
    assert (rates > 2.7).all()


def test_nested_iteration_solves_a_small_poisson_problem():
    problem = poisson()
    hierarchy = kanmg.uniform_hierarchy(
        (2, 4, 1), degree=4, num_intervals=3, num_levels=2, domain=(0.0, 1.0), evaluator="cpu"
    )
    method = kanmg.NestedIteration(smoother=kanmg.LBFGS(), steps=(300, 150))
    solution = kanmg.solve(problem, hierarchy, method=method, seed=0)
    unseen = np.random.default_rng(8).uniform(0.0, 1.0, (1000, 2))
    exact = exact_poisson(unseen)
    error = np.linalg.norm(solution(unseen) - exact) / np.linalg.norm(exact)
    assert error < 5e-3
    slope = np.pi * np.cos(np.pi * unseen[:, :1]) * np.sin(np.pi * unseen[:, 1:])
    assert np.abs(solution.derivative(unseen, "x") - slope).max() < 0.1
    assert solution.coordinates == ("x", "y")


def test_loss_does_not_change_between_levels(problem):
    hierarchy = kanmg.uniform_hierarchy(
        (2, 3, len(problem.fields)), degree=4, num_intervals=3, num_levels=3, evaluator="reference"
    )
    theta = coefficients(hierarchy[0])
    losses = [problem.loss(level.evaluator, hierarchy.prolong(theta, 0, level.index)) for level in hierarchy]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-11)


def test_gradients_of_two_levels_are_related_by_the_transfer(problem):
    hierarchy = kanmg.uniform_hierarchy(
        (2, 3, len(problem.fields)), degree=4, num_intervals=3, num_levels=2, evaluator="reference"
    )
    theta, transfer = coefficients(hierarchy[0]), hierarchy.transfers[0]
    _, coarse = problem.loss_and_gradient(hierarchy[0].evaluator, theta)
    _, fine = problem.loss_and_gradient(hierarchy[1].evaluator, transfer.prolong(theta))
    np.testing.assert_allclose(transfer.restrict(fine), coarse, rtol=0, atol=1e-11 * np.abs(coarse).max())


def test_fields_are_the_outputs_of_the_solution():
    problem = system()
    hierarchy = kanmg.uniform_hierarchy((2, 3, 2), degree=3, num_intervals=3, num_levels=1, evaluator="reference")
    solution = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(steps=5))
    x = draw(7)
    assert solution(x).shape == (7, 2)
    assert solution.derivative(x, "x", "t").shape == (7, 2)
    np.testing.assert_array_equal(solution.derivative(x, "t"), solution.derivative(x, 1))
    assert solution.loss == pytest.approx(problem.loss(hierarchy[0].evaluator, solution.coefficients), rel=1e-12)


def test_cycles_with_fewer_points_on_coarse_levels_run():
    hierarchy = kanmg.uniform_hierarchy((2, 3, 1), degree=4, num_intervals=3, num_levels=2, domain=(0.0, 1.0))
    method = kanmg.VCycle(kanmg.LBFGS(), pre_steps=5, post_steps=5, coarse_steps=10, coarse_fraction=0.5)
    solution = kanmg.solve(poisson(), hierarchy, method=method, max_cycles=3)
    losses = [record.loss for record in solution.history if record.level == 1]
    assert losses[-1] < losses[0]


# ------------------------------------------------------------------------------------------------- what a run needs


def test_training_inputs_are_points_of_all_terms():
    problem = scalar()
    expected = np.concatenate([term.points for term in problem.terms])
    np.testing.assert_array_equal(problem.training_inputs(), expected)
    many = [Term("equation", burgers, draw(6000)), Term("initial", initial, draw(3000, seed=1))]
    problem = Collocation(coordinates=("x", "t"), fields=("u",), terms=many)
    inputs = problem.training_inputs()
    assert inputs.shape == (4096, 2)
    np.testing.assert_array_equal(inputs, problem.training_inputs())
    of_first = np.isin(inputs[:, 0], many[0].points[:, 0])
    assert of_first.mean() == pytest.approx(2 / 3, abs=0.03)
    assert np.isin(inputs[~of_first][:, 0], many[1].points[:, 0]).all()


def test_subsets_are_nested_parts_of_every_term():
    problem = system()
    halves, tenths = problem.subset(0.5), problem.subset(0.1)
    assert [len(term) for term in halves.terms] == [20, 8]
    assert [len(term) for term in tenths.terms] == [8, 8]
    for small, large in zip(tenths.terms, halves.terms, strict=True):
        assert np.isin(small.points[:, 0], large.points[:, 0]).all()
    np.testing.assert_array_equal(problem.subset(0.5).terms[0].points, halves.terms[0].points)
    chosen = [np.flatnonzero(problem.terms[0].points[:, 0] == x)[0] for x in halves.terms[0].points[:, 0]]
    np.testing.assert_array_equal(halves.terms[0].point_weights, problem.terms[0].point_weights[chosen])
    assert problem.subset(1.0) is problem
    assert problem.num_samples == 49


def test_loss_of_a_subset_is_that_of_its_terms():
    problem, level = system(), make_level(2)
    theta = coefficients(level)
    part = problem.subset(0.3)
    again = Collocation(coordinates=problem.coordinates, fields=problem.fields, terms=part.terms)
    assert part.loss(level.evaluator, theta) == pytest.approx(again.loss(level.evaluator, theta), rel=1e-14)


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5])
def test_subset_refuses_impossible_fractions(fraction):
    with pytest.raises(KanmgValueError, match="fraction="):
        scalar().subset(fraction)


def test_subset_refuses_points_without_weight():
    points = draw(100)
    weights = np.zeros(100)
    permutation = kanmg.problems.batches.permutation(100, 0, Stream.SUBSET, 0)
    weights[permutation[-1]] = 1.0
    term = Term("initial", initial, points, point_weights=weights)
    problem = Collocation(coordinates=("x", "t"), fields=("u",), terms=[term])
    with pytest.raises(KanmgValueError, match="`point_weights` of all 10 points"):
        problem.subset(0.1)


def test_fingerprint_tells_equations_points_and_weights_apart():
    def make(residual=burgers, points=None, weight=1.0, name="equation", weights=None, coordinates=("x", "t")):
        term = Term(name, residual, draw() if points is None else points, weight, weights)
        return Collocation(coordinates=coordinates, fields=("u",), terms=[term]).fingerprint()

    def other_viscosity(_x, u):
        return u.d("t") + u.value * u.d("x") - 0.2 * u.d("x", "x")

    def more_derivatives(x, u):
        return burgers(x, u) + 0 * u.d("t", "t")

    moved = draw()
    moved[3, 1] += 1e-9
    names = "burgers", "other viscosity", "more derivatives", "moved", "weight", "name", "point weights", "zeros"
    prints = [
        make(),
        make(other_viscosity),
        make(more_derivatives),
        make(points=moved),
        make(weight=2.0),
        make(name="other"),
        make(weights=np.ones(30)),
        make(weights=np.arange(30.0)),
    ]
    assert len(set(prints)) == len(names)

    def rewritten(_x, u):
        return -0.1 * u.d("x", "x") + (u.value * u.d("x") + u.d("t"))

    assert make(rewritten) == make()


def test_checkpoints_refuse_another_equation(tmp_path):
    def make(nu):
        term = Term("equation", lambda _x, u: u.d("t") - nu * u.d("x", "x"), draw())
        return Collocation(coordinates=("x", "t"), fields=("u",), terms=[term])

    hierarchy = kanmg.uniform_hierarchy((2, 1), degree=3, num_intervals=2, num_levels=1, evaluator="reference")
    method = kanmg.NestedIteration(steps=3)
    path = tmp_path / "run.kanmg"
    kanmg.solve(make(0.1), hierarchy, method=method, checkpoint=path)
    kanmg.solve(make(0.1), hierarchy, method=method, checkpoint=path)
    with pytest.raises(kanmg.CheckpointError, match="problem"):
        kanmg.solve(make(0.2), hierarchy, method=method, checkpoint=path)


def test_representations():
    problem = scalar()
    assert repr(problem) == "Collocation((x, t) -> (u), 53 points: 40 equation, 13 initial, float64)"
    assert repr(problem.terms[0]) == "Term('equation', 40 points, weight=0.5)"


def test_tensors_lists_and_any_memory_layout_are_taken():
    level = make_level()
    theta = coefficients(level)
    x = draw(20)
    frozen = x.copy()
    frozen.setflags(write=False)
    losses = []
    for points in (x, torch.tensor(x), np.asfortranarray(x), x[::-1][::-1], frozen, x.tolist()):
        problem = Collocation(coordinates=("x", "t"), fields=("u",), terms=[Term("equation", burgers, points)])
        losses.append(problem.loss_and_gradient(level.evaluator, theta)[0])
    assert len(set(losses)) == 1
