"""Maps of the coordinates, exact conditions, derivatives on the sides of interfaces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kanmg
from kanmg.errors import DomainError, DtypeError, KanmgTypeError, KanmgValueError, NonFiniteError, ShapeError
from kanmg.problems import bound_term

PI = torch.pi


def level_set(x):
    """Coordinates and a signed distance from a circle, folded."""
    return torch.stack([x[:, 0], x[:, 1], (x.square().sum(dim=1) - 0.3).abs()], dim=1)


def periodic(x):
    return torch.stack([torch.sin(PI * x[:, 0]), torch.cos(PI * x[:, 0]), x[:, 1]], dim=1)


def squeezed(x):
    """Smooth and nonlinear in both coordinates, with mixed derivatives."""
    return torch.stack([torch.tanh(x[:, 0] + 0.5 * x[:, 1]), 0.5 * x[:, 0] * x[:, 1], x[:, 1]], dim=1)


TRANSFORM = kanmg.Transform(
    offset=lambda x: torch.exp(0.3 * x[:, 0]) * x[:, 1], factor=lambda x: (1 - x[:, 0] ** 2) * torch.cos(x[:, 1])
)
FACTOR = kanmg.Transform(factor=lambda x: x[:, 0] * torch.sin(x[:, 0] + x[:, 1]))
OFFSET = kanmg.Transform(offset=lambda x: x[:, 0] ** 3 * x[:, 1])

ANSATZES = {
    "map": {"inputs": squeezed},
    "periodic": {"inputs": periodic},
    "level set": {"inputs": level_set},
    "transform": {"transform": {"u": TRANSFORM, "v": FACTOR}},
    "offset": {"transform": {"v": OFFSET}},
    "both": {"inputs": squeezed, "transform": {"u": TRANSFORM}},
}


def residual(x, u, v):
    first = u.d("x") * v.value + u.d("y") - 0.1 * u.d("x", "x") + u.d("x", "y") ** 2
    return torch.stack([first, torch.exp(0.1 * v.d("y", "y")) - x[:, 0] * u.value], dim=1)


def points_of(number=30, seed=0, dtype="float64"):
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (number, 2)).astype(dtype)


def problem_of(options, dtype="float64"):
    terms = [
        kanmg.Term("equations", residual, points_of(dtype=dtype), 0.5),
        kanmg.Term("data", lambda _x, u, v: u.value - 2 * v.value**2, points_of(11, 1, dtype)),
    ]
    return kanmg.Collocation(coordinates=("x", "y"), fields=("u", "v"), terms=terms, **options)


def hierarchy_of(num_inputs, num_levels=1, dtype="float64", num_outputs=2, hidden=(4,), **options):
    options = {"degree": 4, "num_intervals": 3, "evaluator": "reference", "domain": (-1.2, 2.0)} | options
    widths = (num_inputs, *hidden, num_outputs)
    return kanmg.uniform_hierarchy(widths, num_levels=num_levels, dtype=dtype, **options)


@pytest.fixture(params=ANSATZES)
def options(request):
    return ANSATZES[request.param]


@pytest.fixture
def problem(options):
    return problem_of(options)


@pytest.fixture
def level(options):
    return hierarchy_of(3 if "inputs" in options else 2)[0]


@pytest.fixture
def theta(problem, level):
    return kanmg.initial_coefficients(level.network, problem.training_inputs(), seed=2)


class Nested:
    """A field differentiated by nested automatic differentiation."""

    def __init__(self, value, x):
        self.value, self.x = value, x

    def d(self, *names):
        result = self.value
        for name in names:
            (gradient,) = torch.autograd.grad(result.sum(), self.x, create_graph=True)
            result = gradient[:, ("x", "y").index(name)]
        return result


def fields_of(options, evaluator, theta, x):
    """The fields as torch expressions of the points."""
    outputs = evaluator.forward(theta, options.get("inputs", lambda x: x)(x))
    values = []
    for q, name in enumerate(("u", "v")):
        value, transform = outputs[:, q], options.get("transform", {}).get(name)
        if transform is not None and transform.factor is not None:
            value = value * transform.factor(x)
        if transform is not None and transform.offset is not None:
            value = value + transform.offset(x)
        values.append(Nested(value, x))
    return values


def by_autograd(problem, options, evaluator, theta):
    parts = []
    for term in problem.terms:
        x = torch.tensor(term.points, requires_grad=True)
        residuals = term.residual(x, *fields_of(options, evaluator, theta, x)).reshape(len(x), -1)
        parts.append((residuals * (term.weight / residuals.numel()) ** 0.5).reshape(-1))
    return torch.cat(parts)


# --------------------------------------------------------------------------------------------------------- derivatives


def test_residuals_and_their_jacobian_are_those_of_automatic_differentiation(problem, options, level, theta):
    def expected(vector):
        return by_autograd(problem, options, level.evaluator, vector)

    wanted = expected(torch.tensor(theta)).detach().numpy()
    residuals = problem.residuals(level.evaluator, theta)
    np.testing.assert_allclose(residuals, wanted, rtol=0, atol=1e-11 * np.abs(wanted).max())
    jacobian = torch.autograd.functional.jacobian(expected, torch.tensor(theta)).numpy()
    loss, gradient, matrix = problem.normal_equations(level.evaluator, theta)
    assert loss == pytest.approx(wanted @ wanted, rel=1e-11)
    np.testing.assert_allclose(matrix, 2 * jacobian.T @ jacobian, rtol=0, atol=1e-10 * np.abs(matrix).max())
    np.testing.assert_allclose(gradient, 2 * jacobian.T @ wanted, rtol=0, atol=1e-10 * np.abs(gradient).max())
    swept = problem.loss_and_gradient(level.evaluator, theta)[1]
    np.testing.assert_allclose(swept, gradient, rtol=0, atol=1e-11 * np.abs(gradient).max())
    cotangents = np.random.default_rng(3).standard_normal(len(wanted))
    pulled = problem.pull_back(level.evaluator, theta, cotangents)
    np.testing.assert_allclose(pulled, jacobian.T @ cotangents, rtol=0, atol=1e-10 * np.abs(pulled).max())


def test_gradient_agrees_with_finite_differences(problem, level, theta):
    _, gradient = problem.loss_and_gradient(level.evaluator, theta)
    h, direction = 1e-5, np.random.default_rng(0).standard_normal(theta.size)
    losses = [problem.loss(level.evaluator, theta + sign * h * direction) for sign in (-1, 1)]
    assert gradient @ direction == pytest.approx((losses[1] - losses[0]) / (2 * h), rel=1e-6)


def test_compiled_evaluator_and_chunks_agree(problem, level, theta, monkeypatch):
    network = level.network
    compiled = kanmg.Hierarchy([network], evaluator="cpu")[0].evaluator
    loss, gradient, matrix = problem.normal_equations(level.evaluator, theta)
    for entries in (bound_term._JET_ENTRIES, 50):
        monkeypatch.setattr(bound_term, "_JET_ENTRIES", entries)
        found = problem.normal_equations(compiled, theta)
        assert found[0] == pytest.approx(loss, rel=1e-11)
        np.testing.assert_allclose(found[1], gradient, rtol=0, atol=1e-11 * np.abs(gradient).max())
        np.testing.assert_allclose(found[2], matrix, rtol=0, atol=1e-11 * np.abs(matrix).max())


def test_solutions_go_through_map_and_transform(problem, options):
    hierarchy = hierarchy_of(3 if "inputs" in options else 2)
    solution = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(steps=3))
    points = points_of(7, seed=9)
    x = torch.tensor(points, requires_grad=True)
    fields = fields_of(options, hierarchy[0].evaluator, torch.tensor(solution.coefficients), x)
    for names in ((), ("x",), ("y",), ("x", "x"), ("x", "y")):
        expected = torch.stack([field.d(*names) for field in fields], dim=1).detach().numpy()
        found = solution.derivative(points, *names)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * max(1.0, np.abs(expected).max()))
    np.testing.assert_array_equal(solution(points), solution.derivative(points))
    assert solution(points[0]).shape == (2,)
    with torch.no_grad():
        np.testing.assert_array_equal(solution.derivative(points, 0), solution.derivative(points, "x"))
    assert isinstance(solution(torch.tensor(points)), torch.Tensor)
    assert solution(points[:0]).shape == (0, 2)
    assert solution.loss == pytest.approx(problem.loss(hierarchy[0].evaluator, solution.coefficients), rel=1e-12)


def test_subsets_are_their_terms(problem, options, level, theta):
    part = problem.subset(0.4)
    again = kanmg.Collocation(coordinates=("x", "y"), fields=("u", "v"), terms=part.terms, **options)
    assert part.loss(level.evaluator, theta) == pytest.approx(again.loss(level.evaluator, theta), rel=1e-13)


def test_float32_stays_float32(options):
    problem = problem_of(options, "float32")
    level = hierarchy_of(3 if "inputs" in options else 2, dtype="float32")[0]
    problem.check_level(level)
    theta = kanmg.initial_coefficients(level.network, problem.training_inputs(), seed=2)
    loss, gradient = problem.loss_and_gradient(level.evaluator, theta.astype(np.float32))
    exact = problem_of(options)
    evaluator = hierarchy_of(3 if "inputs" in options else 2)[0].evaluator
    expected, wanted = exact.loss_and_gradient(evaluator, theta)
    assert gradient.dtype == np.float32
    assert loss == pytest.approx(expected, rel=1e-3)
    np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())


def test_high_orders_go_through_transforms():
    def fourth(_x, u, _v):
        return u.d("x", "x", "x", "x") + u.d("x", "x", "y") + u.d("y", "y", "y")

    options = {"transform": {"u": TRANSFORM}}
    term = kanmg.Term("fourth", fourth, points_of())
    problem = kanmg.Collocation(coordinates=("x", "y"), fields=("u", "v"), terms=[term], **options)
    level = hierarchy_of(2, degree=6)[0]
    theta = kanmg.initial_coefficients(level.network, problem.training_inputs(), seed=2)
    wanted = by_autograd(problem, options, level.evaluator, torch.tensor(theta)).detach().numpy()
    found = problem.residuals(level.evaluator, theta)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())


# --------------------------------------------------------------------------------------------------------- interfaces


def test_derivatives_on_both_sides_of_a_curve_are_those_of_the_two_branches():
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 20)
    normals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = np.sqrt(0.3) * normals

    def jumps(_x, u):
        return torch.stack(
            [u.d("x", side="+"), u.d("x", side="-"), u.d("y", side="+"), u.d("x", "y", side="-"), u.value], dim=1
        )

    term = kanmg.Term("interface", jumps, points, normals=7.0 * normals)
    problem = kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=[term], inputs=level_set)
    level = hierarchy_of(3, num_outputs=1)[0]
    compiled = kanmg.Hierarchy([level.network], evaluator="cpu")[0].evaluator
    theta = kanmg.initial_coefficients(level.network, points_of(50) @ np.ones((2, 3)) / 2, seed=2)

    def branch(sign):
        x = torch.tensor(points, requires_grad=True)
        inputs = torch.stack([x[:, 0], x[:, 1], sign * (x.square().sum(dim=1) - 0.3)], dim=1)
        return Nested(level.evaluator.forward(torch.tensor(theta), inputs)[:, 0], x)

    plus, minus = branch(1.0), branch(-1.0)
    columns = [plus.d("x"), minus.d("x"), plus.d("y"), minus.d("x", "y"), plus.value]
    expected = torch.stack(columns, dim=1).detach().numpy().ravel() / np.sqrt(100)
    for evaluator in (compiled, level.evaluator):
        found = problem.residuals(evaluator, theta)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    part = problem.subset(0.5)
    rows = np.isin(points[:, 0], part.terms[0].points[:, 0])
    np.testing.assert_allclose(
        part.residuals(compiled, theta), np.sqrt(2) * expected.reshape(-1, 5)[rows].ravel(), rtol=0, atol=1e-12
    )
    assert np.abs(found.reshape(-1, 5)[:, 0] - found.reshape(-1, 5)[:, 1]).max() > 1e-3
    _, gradient = problem.loss_and_gradient(level.evaluator, theta)
    h, direction = 1e-5, np.random.default_rng(0).standard_normal(theta.size)
    losses = [problem.loss(level.evaluator, theta + sign * h * direction) for sign in (-1, 1)]
    assert gradient @ direction == pytest.approx((losses[1] - losses[0]) / (2 * h), rel=1e-6)


def test_an_elliptic_problem_with_a_jump_in_its_coefficient():
    """(a u')' = 0 with a = 1 and 3, u(-1) = 0, u(1) = 1: the slopes are 3/4 and 1/4 on the sides of the interface."""
    x = np.linspace(-1, 1, 40).reshape(-1, 1)
    terms = [
        kanmg.Term("equation", lambda _x, u: u.d("x", "x"), x),
        kanmg.Term("flux", lambda _x, u: 3 * u.d("x", side="+") - u.d("x", side="-"), np.zeros((1, 1))),
        kanmg.Term("ends", lambda x, u: u.value - (x[:, 0] + 1) / 2, x[[0, -1]], 10.0),
    ]
    problem = kanmg.Collocation(
        coordinates=("x",),
        fields=("u",),
        terms=terms,
        inputs=lambda x: torch.cat([x, x.abs()], dim=1),
    )
    hierarchy = kanmg.uniform_hierarchy((2, 1), degree=3, num_intervals=2, num_levels=1, domain=((-1, 1), (0, 1)))
    solution = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=20))
    exact = np.where(x < 0, 0.75 * (x + 1), 0.75 + 0.25 * x)
    np.testing.assert_allclose(solution(x), exact, atol=1e-8)
    np.testing.assert_allclose(solution.derivative(np.array([[-1e-3], [1e-3]]), "x").ravel(), [0.75, 0.25], atol=1e-7)
    interface = np.zeros((1, 1))
    for side, slope in (("-", 0.75), ("+", 0.25)):
        assert solution.derivative(interface, "x", side=side).item() == pytest.approx(slope, abs=1e-8)
        assert solution.derivative(interface, "x", side=side, normals=-interface - 2.0).item() == pytest.approx(
            1.0 - slope, abs=1e-8
        )
    # Beside the interface both sides are one, and values have none.
    np.testing.assert_allclose(solution.derivative(x, "x", side="+"), solution.derivative(x, "x"), rtol=0, atol=1e-7)
    np.testing.assert_array_equal(solution.derivative(interface, side="+"), solution(interface))


def across_a_circle(theta):
    """A solution with a kink on the circle |x|^2 = 0.3, and points and normals on it."""
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 20)
    normals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    term = kanmg.Term("value", lambda _x, u: u.value, points_of())
    problem = kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=[term], inputs=level_set)
    hierarchy = hierarchy_of(3, num_outputs=1)
    method = kanmg.NestedIteration(steps=0)
    solution = kanmg.solve(problem, hierarchy, method=method, initial=theta)
    return solution, np.sqrt(0.3) * normals, normals


@pytest.fixture(scope="module")
def kinked():
    network = hierarchy_of(3, num_outputs=1)[0].network
    theta = kanmg.initial_coefficients(network, points_of(50) @ np.ones((2, 3)) / 2, seed=2)
    return across_a_circle(theta)


@pytest.mark.parametrize("names", [("x",), ("y",), ("x", "y"), ("y", "y")])
def test_derivatives_of_a_solution_on_both_sides_are_those_of_the_two_branches(kinked, names):
    solution, points, normals = kinked
    evaluator = hierarchy_of(3, num_outputs=1)[0].evaluator

    def branch(sign):
        x = torch.tensor(points, requires_grad=True)
        inputs = torch.stack([x[:, 0], x[:, 1], sign * (x.square().sum(dim=1) - 0.3)], dim=1)
        return Nested(evaluator.forward(torch.tensor(solution.coefficients), inputs)[:, 0], x)

    found = {}
    for side, sign in (("+", 1.0), ("-", -1.0)):
        expected = branch(sign).d(*names).detach().numpy()[:, None]
        found[side] = solution.derivative(points, *names, side=side, normals=5.0 * normals)
        np.testing.assert_allclose(found[side], expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    opposite = solution.derivative(points, *names, side="+", normals=-normals)
    np.testing.assert_allclose(opposite, found["-"], rtol=0, atol=1e-11 * np.abs(found["-"]).max())
    assert np.abs(found["+"] - found["-"]).max() > 1e-3
    one = solution.derivative(points[3], *names, side="+", normals=normals[3])
    np.testing.assert_allclose(one, found["+"][3], rtol=1e-12)
    tensor = solution.derivative(torch.tensor(points), *names, side="+", normals=torch.tensor(normals))
    np.testing.assert_allclose(tensor.numpy(), found["+"], rtol=1e-12)
    assert solution.derivative(points[:0], *names, side="+", normals=normals[:0]).shape == (0, 1)


def test_a_solution_that_was_read_takes_its_sides_at_the_same_distance(tmp_path):
    """The distance is a part of the domain, which is a million wide here."""
    x = 1e6 * np.linspace(-1, 1, 40).reshape(-1, 1)
    term = kanmg.Term("value", lambda _x, u: u.value - 1.0, x)

    def folded(x):
        return torch.cat([x, x.abs()], dim=1)

    problem = kanmg.Collocation(coordinates=("x",), fields=("u",), terms=[term], inputs=folded)
    hierarchy = kanmg.uniform_hierarchy(
        (2, 1), num_intervals=2, num_levels=1, domain=((-1e6, 1e6), (0, 1e6)), evaluator="reference"
    )
    solution = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(steps=1))
    solution.save(tmp_path / "solution")
    again = kanmg.load(tmp_path / "solution", inputs=folded, evaluator="reference")
    assert again.ansatz.step == solution.ansatz.step == pytest.approx(0.2)
    for side in "+-":
        at_kink = [each.derivative(np.zeros((1, 1)), "x", side=side) for each in (solution, again)]
        np.testing.assert_array_equal(*at_kink)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"side": "left"}, KanmgValueError, r"`derivative` got `side='left'`. Pass \"\+\" or \"-\", or leave it out"),
        ({"side": "+"}, KanmgValueError, r"Pass `normals`, one vector for each point, shape \(20, 2\)"),
        ({"normals": np.ones((20, 2))}, KanmgValueError, r"`normals` but no `side`. Pass `side=\"\+\"`"),
        (
            {"side": "+", "normals": np.ones((19, 2))},
            ShapeError,
            r"`normals` has shape \(19, 2\) but `points` \(20, 2\)",
        ),
        ({"side": "-", "normals": np.zeros((20, 2))}, KanmgValueError, "`normals` has 20 rows of zeros"),
    ],
)
def test_sides_of_a_solution_that_nobody_knows_are_refused(kinked, options, error, message):
    solution, points, _ = kinked
    with pytest.raises(error, match=message):
        solution.derivative(points, "x", **options)


def test_a_solution_without_kinks_has_no_sides():
    x = np.linspace(-1, 1, 20).reshape(-1, 1)
    hierarchy = kanmg.uniform_hierarchy((1, 1), num_levels=1, evaluator="reference")
    solution = kanmg.solve(kanmg.Regression(x, x), hierarchy, method=kanmg.NestedIteration(steps=1))
    with pytest.raises(KanmgValueError, match=r"has no kinks. Leave out `side`, or state the problem with `inputs=`"):
        solution.derivative(x, 0, side="+")


def test_sides_without_a_kink_or_without_normals_are_refused():
    def one_sided(_x, u):
        return u.d("x", side="+")

    term = kanmg.Term("jump", one_sided, points_of())
    with pytest.raises(KanmgValueError, match=r"without `inputs` and `transform` fields have no kinks"):
        kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=[term])
    with pytest.raises(
        KanmgValueError, match=r"Pass `normals` to the term, one vector for each point, shape \(30, 2\)"
    ):
        kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=[term], inputs=level_set)
    bad = kanmg.Term("jump", lambda _x, u: u.d("x", side="left"), points_of())
    with pytest.raises(KanmgValueError, match=r"`u.d` got `side='left'`"):
        kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=[bad], inputs=level_set)
    with pytest.raises(ShapeError, match=r"`normals` has shape \(30, 1\) but `points` \(30, 2\)"):
        kanmg.Term("jump", one_sided, points_of(), normals=np.ones((30, 1)))
    with pytest.raises(KanmgValueError, match=r"`normals` has 30 rows of zeros"):
        kanmg.Term("jump", one_sided, points_of(), normals=np.zeros((30, 2)))


# --------------------------------------------------------------------------------------------------- exact solutions


def test_poisson_with_exact_boundary_values():
    def equation(x, u):
        source = 2 * PI**2 * torch.sin(PI * x[:, 0]) * torch.sin(PI * x[:, 1])
        return u.d("x", "x") + u.d("y", "y") + source

    def bubble(x):
        return (x * (1 - x)).prod(dim=1)

    def rim(x):
        return x[:, 0] + 2 * x[:, 1]

    points = np.stack(np.meshgrid(np.linspace(0, 1, 12), np.linspace(0, 1, 12)), axis=-1).reshape(-1, 2)
    problem = kanmg.Collocation(
        coordinates=("x", "y"),
        fields=("u",),
        terms=[kanmg.Term("equation", equation, points)],
        transform={"u": kanmg.Transform(offset=rim, factor=bubble)},
    )
    hierarchy = kanmg.uniform_hierarchy((2, 4, 1), degree=4, num_intervals=3, num_levels=2, domain=(0, 1))
    solution = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=15))
    edge = points[((points == 0.0) | (points == 1.0)).any(axis=1)]
    np.testing.assert_allclose(solution(edge)[:, 0], edge[:, 0] + 2 * edge[:, 1], rtol=0, atol=1e-15)
    unseen = np.random.default_rng(8).uniform(0.0, 1.0, (500, 2))
    wave = np.sin(np.pi * unseen[:, 0]) * np.sin(np.pi * unseen[:, 1])
    np.testing.assert_allclose(solution(unseen)[:, 0], wave + unseen[:, 0] + 2 * unseen[:, 1], atol=1e-3)
    slope = np.pi * np.cos(np.pi * unseen[:, 0]) * np.sin(np.pi * unseen[:, 1]) + 1
    np.testing.assert_allclose(solution.derivative(unseen, "x")[:, 0], slope, atol=1e-2)


def test_a_periodic_solution_is_periodic():
    t = np.linspace(-1, 1, 60).reshape(-1, 1)
    problem = kanmg.Collocation(
        coordinates=("t",),
        fields=("u",),
        terms=[kanmg.Term("equation", lambda x, u: u.d("t") + u.value - torch.sin(PI * x[:, 0]), t)],
        inputs=lambda x: torch.cat([torch.sin(PI * x), torch.cos(PI * x)], dim=1),
    )
    hierarchy = kanmg.uniform_hierarchy((2, 1), degree=3, num_intervals=2, num_levels=1)
    solution = kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=10))
    exact = (np.sin(np.pi * t) - np.pi * np.cos(np.pi * t)) / (1 + np.pi**2)
    np.testing.assert_allclose(solution(t), exact, atol=1e-8)
    np.testing.assert_allclose(solution(t + 2), exact, atol=1e-8)


@pytest.mark.parametrize("variant", ["tau", "galerkin"])
def test_cycles_with_fewer_points_on_coarse_levels_run_through_maps(variant):
    options = ANSATZES["both"]
    method = kanmg.VCycle(
        kanmg.LBFGS(), pre_steps=5, post_steps=5, coarse_steps=10, coarse_fraction=0.5, variant=variant
    )
    solution = kanmg.solve(problem_of(options), hierarchy_of(3, num_levels=2), method=method, max_cycles=2)
    losses = [record.loss for record in solution.history if record.level == 1]
    assert losses[-1] < 0.5 * losses[0]


# ------------------------------------------------------------------------------------------------ what a run needs


def test_training_inputs_are_mapped_and_the_loss_does_not_change_between_levels(problem, options):
    hierarchy = hierarchy_of(3 if "inputs" in options else 2, num_levels=2)
    inputs = problem.training_inputs()
    points = torch.tensor(np.concatenate([term.points for term in problem.terms]))
    expected = options.get("inputs", lambda x: x)(points).numpy()
    np.testing.assert_allclose(inputs, expected, rtol=1e-15)
    theta = kanmg.initial_coefficients(hierarchy[0].network, inputs, seed=1)
    losses = [problem.loss(level.evaluator, hierarchy.prolong(theta, 0, level.index)) for level in hierarchy]
    assert losses[1] == pytest.approx(losses[0], rel=1e-11)


def test_fingerprints_tell_maps_transforms_and_normals_apart():
    prints = {problem_of(options).fingerprint() for options in ({}, *ANSATZES.values())}
    assert len(prints) == 1 + len(ANSATZES)
    assert problem_of(ANSATZES["both"]).fingerprint() == problem_of(dict(ANSATZES["both"])).fingerprint()


def test_files_ask_for_their_functions_again(tmp_path):
    path, options = tmp_path / "solution.kanmg", ANSATZES["both"]
    solution = kanmg.solve(problem_of(options), hierarchy_of(3), method=kanmg.NestedIteration(steps=2))
    solution.save(path)
    loaded = kanmg.load(path, **options, evaluator="reference")
    points = points_of(5)
    np.testing.assert_array_equal(loaded(points), solution(points))
    np.testing.assert_array_equal(loaded.derivative(points, "x", "y"), solution.derivative(points, "x", "y"))
    with pytest.raises(KanmgValueError, match=r"`kanmg.load\(path, inputs=f\)` with the function that it was trained"):
        kanmg.load(path)
    with pytest.raises(KanmgValueError, match=r"with `transform`, \{'u': Transform\(offset, factor\)\}"):
        kanmg.load(path, inputs=squeezed)
    with pytest.raises(KanmgValueError, match=r"but \{'v': 'Transform\(factor\)'\} was passed"):
        kanmg.load(path, inputs=squeezed, transform={"v": FACTOR})
    plain = kanmg.solve(problem_of({}), hierarchy_of(2), method=kanmg.NestedIteration(steps=2))
    plain.save(path)
    assert kanmg.load(path).ansatz is None
    with pytest.raises(KanmgValueError, match="holds a solution without `inputs`"):
        kanmg.load(path, inputs=squeezed)
    with pytest.raises(KanmgValueError, match=r"transform"):
        kanmg.load(path, transform={"u": TRANSFORM})


# ------------------------------------------------------------------------------------------------------ what is wrong

INPUTS = {
    "no function": (3, KanmgTypeError, r"`inputs` is a int\. Pass a function"),
    "a vector": (lambda x: x[:, 0], ShapeError, r"`inputs` returned shape \(8,\) for 8 points.*torch\.stack"),
    "transposed": (lambda x: x.T, ShapeError, r"returned shape \(2, 8\)"),
    "array": (lambda x: x.detach().numpy(), KanmgTypeError, "returned a ndarray"),
    "other dtype": (lambda x: x.float(), DtypeError, r"returned torch\.float32 for coordinates of torch\.float64"),
    "detached": (lambda x: x.detach(), KanmgValueError, r"`inputs` has no gradient by the coordinates"),
    "centred": (lambda x: x - x.mean(), KanmgValueError, "`inputs` at a point changes with the other points"),
    "scalar": (lambda x: kanmg.Parameter("p", 1.0) * x, KanmgValueError, r"uses Parameter\('p', 1.0\), but it is"),
    "infinite": (lambda x: x / (0 * x), NonFiniteError, r"term 'equations': `inputs` is NaN or infinite at 30 of 30"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_impossible_maps_are_refused(case):
    inputs, error, words = INPUTS[case]
    with pytest.raises(error, match=words):
        problem_of({"inputs": inputs})


def test_a_map_without_finite_derivatives_is_refused():
    points = points_of()
    points[4] = 0.0
    term = kanmg.Term("equation", lambda _x, u: u.d("x"), points)
    with pytest.raises(
        NonFiniteError, match=r"derivative of order 1 of `inputs`.* at 1 of 30 points.*row 4: \[0\.0, 0\.0\]"
    ):
        kanmg.Collocation(
            coordinates=("x", "y"), fields=("u",), terms=[term], inputs=lambda x: x.square().sum(1, keepdim=True).sqrt()
        )


TRANSFORMS = {
    "no dictionary": (FACTOR, KanmgTypeError, r"Pass a dictionary of `kanmg.Transform`s"),
    "no transform": ({"u": lambda x: x[:, 0]}, KanmgTypeError, r"Pass a dictionary of `kanmg.Transform`s"),
    "unknown field": ({"w": FACTOR}, KanmgValueError, r"`transform` names 'w', but the fields are 'u', 'v'"),
    "matrix": (
        {"u": kanmg.Transform(factor=lambda x: x)},
        ShapeError,
        r"`factor` of `transform\['u'\]` returned shape \(8, 2\) for 8 points.*\(N,\)",
    ),
    "detached": (
        {"u": kanmg.Transform(offset=lambda x: x.detach()[:, 0])},
        KanmgValueError,
        r"`offset` of `transform\['u'\]` has no gradient",
    ),
    "infinite": ({"v": kanmg.Transform(factor=lambda x: x[:, 0] / 0.0)}, NonFiniteError, "NaN or infinite at 30 of 30"),
}


@pytest.mark.parametrize("case", TRANSFORMS)
def test_impossible_transforms_are_refused(case):
    transform, error, words = TRANSFORMS[case]
    with pytest.raises(error, match=words):
        problem_of({"transform": transform})


def test_transforms_are_functions():
    with pytest.raises(KanmgTypeError, match="neither `offset` nor `factor`"):
        kanmg.Transform()
    with pytest.raises(KanmgTypeError, match="`factor` of a `Transform` is a float"):
        kanmg.Transform(factor=2.0)
    constant = {"transform": {"u": kanmg.Transform(offset=lambda x: torch.ones_like(x[:, 0]))}}
    assert problem_of(constant).ansatz.transforms["u"].factor is None


def test_networks_that_do_not_fit_are_refused():
    problem = problem_of({"inputs": squeezed})
    with pytest.raises(
        ShapeError, match=r"`inputs` returns 3 columns, but `hierarchy` was built for 2.*widths=\(3, 4, 2\)"
    ):
        problem.check_level(hierarchy_of(2)[0])
    with pytest.raises(
        DomainError, match=r"`inputs\(points\)` contains .* outside the domain \[-0\.5, 0\.5\] of input 0"
    ):
        problem.check_level(hierarchy_of(3, domain=(-0.5, 0.5))[0])
    third = kanmg.Term("third", lambda _x, u: u.d("x", "x", "x"), points_of())
    with pytest.raises(KanmgValueError, match=r"term 'third': a derivative of order 3 .* up to order 2 only"):
        kanmg.Collocation(coordinates=("x", "y"), fields=("u",), terms=[third], inputs=squeezed)
    solution = kanmg.solve(problem, hierarchy_of(3), method=kanmg.NestedIteration(steps=0))
    with pytest.raises(ShapeError, match=r"`x` has shape \(5, 3\) but the coordinates are \('x', 'y'\)"):
        solution(np.zeros((5, 3)))
    with pytest.raises(KanmgValueError, match="numbers of inputs, 0 to 1"):
        solution.derivative(points_of(), 2)
