"""The gallery: known values, reproducible samples, unseen test points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import kanmg
from kanmg import gallery
from kanmg.errors import KanmgValueError
from kanmg.evaluators.base import Evaluator
from kanmg.gallery.allen_cahn import solve_allen_cahn
from kanmg.gallery.equations import cole_hopf

MODELS = {
    name: getattr(gallery, name)
    for name in ("chirp", "complex_exponential", "franke", "friedman", "kan1", "kink", "least_squares", "ml1", "runge")
}


EQUATIONS = {
    "allen_cahn": lambda **options: gallery.allen_cahn(100, 20, 20, diffusion=0.05, **options),
    "burgers": lambda **options: gallery.burgers(100, 20, 20, **options),
    "helmholtz": lambda **options: gallery.helmholtz(100, 40, **options),
    "inverse_burgers": lambda **options: gallery.inverse_burgers(100, 20, **options),
    "kan2": lambda **options: gallery.kan2(100, 40, **options),
    "kovasznay": lambda **options: gallery.kovasznay(100, 40, **options),
    "ml2": lambda **options: gallery.ml2(10, **options),
    "poisson5d": lambda **options: gallery.poisson5d(100, 40, **options),
}
MAKERS = {"ModelProblem", "collocation_problem", "regression_problem"}


@pytest.fixture(params=MODELS)
def make(request):
    return MODELS[request.param]


def test_every_public_function_is_tested():
    assert set(MODELS) | set(EQUATIONS) == set(gallery.__all__) - MAKERS


def test_training_values_are_the_exact_ones_inside_the_domain(make):
    model = make(200)
    lower, upper = np.array(model.domain).T
    assert model.problem.num_samples == 200
    assert model.x.shape == (200, len(model.domain))
    assert ((model.x >= lower) & (model.x <= upper)).all()
    np.testing.assert_array_equal(model.y, model.exact(model.x))


def test_points_fill_the_domain(make):
    model = make(2000)
    lower, upper = np.array(model.domain).T
    np.testing.assert_allclose(model.x.min(axis=0), lower, atol=0.02 * (upper - lower).max())
    np.testing.assert_allclose(model.x.max(axis=0), upper, atol=0.02 * (upper - lower).max())


def test_same_seed_same_samples_other_seed_other_samples(make):
    np.testing.assert_array_equal(make(50, seed=3).x, make(50, seed=3).x)
    assert not np.isin(make(50, seed=3).x, make(50, seed=4).x).any()


def test_no_test_point_is_a_training_point(make):
    model = make(500)
    x, y = model.test_data(500)
    assert not np.isin(x, model.x).any()
    np.testing.assert_array_equal(y, model.exact(x))
    np.testing.assert_array_equal(x, model.test_data(500)[0])


def test_errors_vanish_for_the_exact_function_and_are_means(make):
    model = make(50)
    assert model.rms_error(model.exact) == 0.0
    assert model.relative_error(lambda x: 0.9 * model.exact(x)) == pytest.approx(0.1)
    assert model.mean_squared_error(lambda x: model.exact(x) + 0.5) == pytest.approx(0.25)
    assert model.rms_error(lambda x: model.exact(x) + 0.5, num_samples=10) == pytest.approx(0.5)


def test_recommended_hierarchy_fits_the_problem(make):
    model = make(50)
    hierarchy = model.hierarchy(evaluator="reference")
    model.problem.check(hierarchy)
    assert hierarchy.widths == tuple(model.hierarchy_arguments["widths"])
    assert isinstance(hierarchy[0].evaluator, Evaluator)
    assert len(model.hierarchy(evaluator="reference", num_levels=2)) == 2


def test_ml1_fills_the_unit_interval():
    model = gallery.ml1(10)
    axis = np.linspace(1e-4, 0.9999, 1001)
    values = model.exact(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2))
    assert values.min() == pytest.approx(0.0, abs=5e-4)
    assert values.max() == pytest.approx(1.0, abs=5e-4)
    assert values.min() >= 0.0
    assert values.max() <= 1.0


def test_ml1_at_a_point_by_hand():
    angle, (x, y) = 0.175, (0.3, 0.6)
    u, v = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    f = np.cos(4 * np.pi * u) + np.sin(np.pi * v) + np.sin(2 * np.pi * v) + abs(np.sin(3 * np.pi * v * v))
    low = np.sin(np.pi * np.sqrt(2 / 3)) + np.sin(2 * np.pi * np.sqrt(2 / 3)) - 1
    expected = (f - low) / (3.6157227009882068 - low)
    assert gallery.ml1(10).exact(np.array([[x, y]]))[0, 0] == pytest.approx(expected, rel=1e-14)


def test_ml1_has_the_parameter_counts_of_the_paper():
    counts = [level.network.num_coefficients for level in gallery.ml1(10).hierarchy(evaluator="reference")]
    assert counts[0] == 55
    assert counts[-1] == 230


def test_noise_is_on_the_training_values_only():
    noisy, clean = gallery.franke(4000, noise=0.1), gallery.franke(4000)
    np.testing.assert_array_equal(noisy.x, clean.x)
    np.testing.assert_array_equal(noisy.test_data(10)[1], clean.test_data(10)[1])
    assert np.std(noisy.y - clean.y) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("arguments", [{"num_samples": 0}, {"noise": -0.1}])
def test_impossible_arguments_are_refused(arguments):
    (name, value) = next(iter(arguments.items()))
    with pytest.raises(KanmgValueError, match=f"`{name}={value}`"):
        gallery.franke(**{"num_samples": 10, **arguments})


def test_outputs_of_the_complex_exponential_satisfy_the_cauchy_riemann_equations():
    model, h = gallery.complex_exponential(10), 1e-6
    x = model.test_data(20)[0]
    d_x, d_y = ((model.exact(x + step) - model.exact(x - step)) / (2 * h) for step in h * np.eye(2))
    np.testing.assert_allclose(d_y, np.pi * np.stack([-d_x[:, 1], d_x[:, 0]], axis=1), atol=1e-7)


def test_five_inputs_of_friedman_do_nothing():
    model = gallery.friedman(10)
    x = model.test_data(20)[0]
    other = x.copy()
    other[:, 5:] = 0.5
    np.testing.assert_array_equal(model.exact(x), model.exact(other))


# ---------------------------------------------------------------------------------------------------------- equations


class Differenced:
    """A field of a known function, with derivatives of second or first order by central differences of order eight."""

    STEP = 0.01
    FIRST = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])
    SECOND = np.array([-1 / 560, 8 / 315, -1 / 5, 8 / 5, -205 / 72, 8 / 5, -1 / 5, 8 / 315, -1 / 560])

    def __init__(self, function, x, coordinates, output=0):
        self.function, self.x, self.coordinates, self.output = function, x, coordinates, output
        self.value = torch.tensor(function(x)[:, output])

    def d(self, *names):
        assert len(set(names)) == 1
        steps = self.STEP * np.arange(-4, 5)
        direction = np.eye(len(self.coordinates))[self.coordinates.index(names[0])]
        values = np.stack([self.function(self.x + step * direction)[:, self.output] for step in steps])
        weights = (self.FIRST, self.SECOND)[len(names) - 1]
        return torch.tensor(weights @ values / self.STEP ** len(names))


@pytest.fixture(params=EQUATIONS)
def pose(request):
    return EQUATIONS[request.param]


@pytest.mark.parametrize(
    "model",
    [
        gallery.kan2(100, 40),
        gallery.helmholtz(100, 40),
        gallery.helmholtz(100, 40, a1=1.5, a2=0.7, k=3.0),
        gallery.burgers(100, 20, 20, nu=0.2),
        gallery.burgers(100, 20, 20, nu=0.5),
        gallery.inverse_burgers(100, 20, nu=0.2, initial=0.2, noise=0.0),
        gallery.kovasznay(100, 40),
        gallery.kovasznay(100, 40, reynolds=40.0),
        gallery.poisson5d(100, 40),
    ],
    ids=lambda model: model.name,
)
def test_exact_solutions_satisfy_their_equations(model):
    coordinates = model.problem.coordinates
    for term in model.problem.terms:
        # Away from t = 0, where differences would look into the past.
        late = term.take(term.points[:, 1] > 0.1) if term.name == "equation" and "t" in coordinates else term
        points, *data = late.arrays
        assert len(points) > 5 or term.name == "pressure"
        fields = [Differenced(model.exact, points, coordinates, i) for i in range(len(model.problem.fields))]
        residual = term.residual(torch.tensor(points), *fields, *map(torch.tensor, data))
        assert float(residual.abs().max()) < 1e-7, term.name


def test_data_of_equations_are_their_points_and_the_solution_there(pose):
    model = pose()
    lower, upper = np.array(model.domain).T
    np.testing.assert_array_equal(model.x, np.concatenate([term.points for term in model.problem.terms]))
    np.testing.assert_array_equal(model.y, model.exact(model.x))
    assert ((model.x >= lower) & (model.x <= upper)).all()
    assert model.relative_error(model.exact) == 0.0
    assert not np.isin(model.test_data(100)[0], model.x).any()


def test_points_of_equations_depend_on_the_seed(pose):
    np.testing.assert_array_equal(pose(seed=3).x, pose(seed=3).x)
    is_grid = pose(seed=3).name == "ML-2"
    assert is_grid or not np.isin(pose(seed=3).problem.terms[0].points, pose(seed=4).problem.terms[0].points).any()
    assert pose(seed=3).problem.fingerprint() != pose(seed=4).problem.fingerprint()


def test_recommended_hierarchies_fit_the_equations(pose):
    model = pose()
    hierarchy = model.hierarchy(evaluator="reference")
    model.problem.check(hierarchy)
    # The first input of Allen and Cahn's networks is x^2.
    expected = ((0.0, 1.0), (0.0, 1.0)) if model.name == "Allen-Cahn" else model.domain
    assert hierarchy.domain[: len(model.domain)] == expected


@pytest.mark.parametrize("nu", [1.0, 0.1, 1e-2, 0.01 / np.pi, 1e-3])
def test_reference_solution_of_burgers_has_converged(nu):
    x = gallery.burgers(10, 4, 4).test_data(2000)[0]
    np.testing.assert_allclose(cole_hopf(x, nu), cole_hopf(x, nu, step=0.05), rtol=0, atol=1e-14)


def test_reference_solution_of_burgers_is_that_of_another_quadrature():
    """Gauss-Hermite with 300 nodes, where it has converged: a wide kernel, little time."""
    nu = 0.1
    x = gallery.burgers(10, 4, 4).test_data(200)[0]
    nodes, weights = np.polynomial.hermite.hermgauss(150)
    angles = np.pi * (x[:, :1] - np.sqrt(4 * nu * x[:, 1:]) * nodes)
    kernel = weights * np.exp(-np.cos(angles) / (2 * np.pi * nu))
    expected = -(np.sin(angles) * kernel).sum(axis=1) / kernel.sum(axis=1)
    np.testing.assert_allclose(cole_hopf(x, nu)[:, 0], expected, rtol=0, atol=1e-12)


def test_solution_of_burgers_begins_with_the_sine_is_odd_and_vanishes_at_the_walls():
    exact = gallery.burgers(10, 4, 4).exact
    x = np.linspace(-1, 1, 41)
    np.testing.assert_allclose(exact(np.stack([x, 0 * x], axis=1))[:, 0], -np.sin(np.pi * x), atol=1e-14)
    late = np.stack([x, 0 * x + 0.9], axis=1)
    np.testing.assert_allclose(exact(late), -exact(late * [-1, 1]), atol=1e-12)
    np.testing.assert_allclose(exact(late)[[0, 20, -1]], 0.0, atol=1e-12)


def test_reference_solution_of_allen_cahn_satisfies_the_terms():
    """Differences see the kink of the initial values until it has spread over many of their steps."""
    model = gallery.allen_cahn(400, 20, 40, diffusion=0.05)
    for term in model.problem.terms:
        t = term.points[:, 1]
        points = term.points if term.name == "initial" else term.points[(t > 0.3) & (t < 0.95)]
        assert len(points) > 5
        residual = term.residual(torch.tensor(points), Differenced(model.exact, points, ("x", "t")))
        assert float(residual.abs().max()) < 1e-6, term.name


@pytest.mark.parametrize(("diffusion", "modes"), [(0.1, 256), (0.01, 256), (1e-3, 512)])
def test_reference_solution_of_allen_cahn_has_converged(diffusion, modes):
    rng = np.random.default_rng(0)
    inside = rng.uniform((-1, 0), (1, 1), (500, 2))
    at_the_kink = np.stack([1 - 0.02 * rng.random(500), rng.random(500) ** 4], axis=1)
    coarse, fine = solve_allen_cahn(diffusion, modes, 256), solve_allen_cahn(diffusion, 2 * modes, 512)
    np.testing.assert_allclose(coarse(inside), fine(inside), rtol=0, atol=1e-7)
    np.testing.assert_allclose(coarse(at_the_kink), fine(at_the_kink), rtol=0, atol=1e-7)


def test_time_steps_for_allen_cahn_are_of_order_four():
    x = np.random.default_rng(0).uniform((-1, 0), (1, 1), (500, 2))
    exact, coarse, fine = (solve_allen_cahn(0.01, 256, steps)(x) for steps in (512, 64, 128))
    ratio = np.linalg.norm(coarse - exact) / np.linalg.norm(fine - exact)
    assert np.log2(ratio) == pytest.approx(4.0, abs=0.5)


def test_reference_solution_of_allen_cahn_is_that_of_finite_differences():
    """Another discretisation and another integrator, extrapolated from two grids."""
    diffusion, end = 0.05, 0.5
    solutions = []
    for cells in (100, 200):
        x = np.linspace(0.0, 1.0, cells + 1)

        def rate(_, u, cells=cells):
            mirrored = np.concatenate([u[1:2], u, u[-2:-1]])
            return diffusion * cells**2 * np.diff(mirrored, 2) + 5 * u - 5 * u**3

        run = solve_ivp(rate, (0.0, end), x**2 * np.cos(np.pi * x), method="LSODA", rtol=1e-9, atol=1e-10)
        solutions.append(run.y[:: cells // 100, -1])
    coarse, fine = solutions
    x = np.linspace(0.0, 1.0, 101)
    exact = gallery.allen_cahn(10, 4, 4, diffusion=diffusion).exact
    np.testing.assert_allclose(
        exact(np.stack([x, 0 * x + end], axis=1))[:, 0], (4 * fine - coarse) / 3, rtol=0, atol=1e-6
    )


def test_solution_of_allen_cahn_is_even_and_periodic():
    exact = gallery.allen_cahn(10, 4, 4, diffusion=0.05).exact
    points = np.random.default_rng(0).uniform((0, 0), (1, 1), (100, 2))
    np.testing.assert_allclose(exact(points), exact(points * np.array([-1, 1])), rtol=0, atol=1e-13)
    np.testing.assert_allclose(exact(points), exact(points + np.array([2, 0])), rtol=0, atol=1e-12)


def test_the_conditions_of_allen_cahn_do_not_contradict_each_other_at_the_beginning():
    *_, ends = gallery.allen_cahn(10, 4, 40, diffusion=0.05).problem.terms
    assert set(ends.points[:, 0]) == {-1.0, 1.0}
    assert ends.points[:, 1].min() > 0.0


def test_one_solution_of_allen_cahn_is_computed_once():
    assert solve_allen_cahn(0.05) is solve_allen_cahn(0.05)


@pytest.mark.parametrize(
    ("model", "name", "number", "easier"),
    [
        (gallery.burgers(10, 4, 4, nu=0.01), "nu", 0.01, 0.05),
        (gallery.burgers(10, 4, 4, nu=0.2), "nu", 0.2, None),
        (gallery.allen_cahn(10, 4, 4, diffusion=0.005), "diffusion", 0.005, 0.01),
        (gallery.allen_cahn(10, 4, 4, diffusion=0.05), "diffusion", 0.05, None),
    ],
)
def test_methods_may_vary_what_makes_the_equations_hard(model, name, number, easier):
    (constant,) = model.problem.constants
    assert (constant.name, constant.number, constant.easier) == (name, number, easier)


def test_samples_of_the_inverse_problem_are_noisy_and_the_exact_solution_is_not():
    model = gallery.inverse_burgers(10, 400, noise=0.02)
    samples = model.problem.terms[1]
    field = Differenced(model.exact, samples.points, ("x", "t"))
    errors = samples.residual(torch.tensor(samples.points), field, torch.tensor(samples.data)).numpy()
    assert np.std(errors) == pytest.approx(0.02 * model.exact(samples.points).std(), rel=0.1)
    assert abs(errors.mean()) < 0.01


def test_the_inverse_problem_does_not_know_its_viscosity():
    model = gallery.inverse_burgers(10, 20, nu=0.1, initial=0.7)
    (parameter,) = model.problem.parameters
    assert (parameter.name, parameter.initial, parameter.positive) == ("nu", 0.7, True)
    assert model.parameters == {"nu": 0.1}
    assert gallery.burgers(10, 4, 4).parameters == {}


class TwoSided(Differenced):
    """A field that is one function on the left of x = 0 and another one on the right."""

    def d(self, *names, side=None):
        waves = {"-": 1.0, "+": 2.0}
        at = np.where(self.x[:, 0] < 0.0, 1.0, 2.0) if side is None else np.full(len(self.x), waves[side])

        def smooth(x):
            return np.sin(at * np.pi * x[:, 0])[:, None] * np.sin(3.0 * np.pi * x[:, 1:])

        return Differenced(smooth, self.x, self.coordinates).d(*names)


def test_the_solution_of_the_interface_problem_satisfies_its_terms():
    model = gallery.ml2()
    for term in model.problem.terms:
        field = TwoSided(model.exact, term.points, ("x", "y"))
        residual = term.residual(torch.tensor(term.points), field)
        assert float(residual.abs().max()) < 1e-6, term.name


def test_points_of_the_interface_problem_are_those_of_the_paper():
    equation, boundary, interface = gallery.ml2().problem.terms
    assert [len(equation), len(boundary), len(interface)] == [49 * 48, 200, 49]
    assert [equation.weight, boundary.weight, interface.weight] == [0.01, 1.0, 0.1]
    assert np.abs(equation.points[:, 0]).min() == pytest.approx(0.04)
    assert (interface.points[:, 0] == 0.0).all()
    np.testing.assert_array_equal(interface.normals, np.tile([1.0, 0.0], (49, 1)))
    levels = gallery.ml2(10).hierarchy(evaluator="reference")
    assert [level.network.num_coefficients for level in levels] == [140, 220, 380, 700]


def test_points_on_the_faces_of_the_cube_lie_there_and_differ_from_face_to_face():
    points = gallery.poisson5d(10, 200).problem.terms[1].points
    on_faces = (points == 0.0) | (points == 1.0)
    np.testing.assert_array_equal(on_faces.sum(axis=1), np.ones(200))
    np.testing.assert_array_equal(on_faces.sum(axis=0), np.full(5, 40))
    inner = points[~on_faces].reshape(10, 20, 4)
    assert len(np.unique(inner[:, 0, 0])) == 10


@pytest.mark.parametrize("widths", [(5, 1), [5, 5, 1]])
def test_the_network_for_five_dimensions_can_be_chosen(widths):
    model = gallery.poisson5d(100, 40, widths=widths)
    assert model.hierarchy(evaluator="reference").widths == tuple(widths)


def test_poisson_in_five_dimensions_is_solved_to_many_digits():
    model = gallery.poisson5d(600, 200)
    hierarchy = model.hierarchy(num_intervals=4, num_levels=1, evaluator="reference")
    method = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=12)
    solution = kanmg.solve(model.problem, hierarchy, method=method)
    assert model.relative_error(solution) < 1e-8


def test_kovasznay_flow_is_found_with_its_pressure():
    model = gallery.kovasznay(500, 80)
    hierarchy = model.hierarchy(degree=5, num_intervals=2, num_levels=1)
    solution = kanmg.solve(
        model.problem, hierarchy, method=kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=50, starts=2)
    )
    assert model.relative_error(solution) < 0.05
    x, y = model.test_data(1000)
    for field in range(3):
        error = solution(x)[:, field] - y[:, field]
        assert np.linalg.norm(error) < 0.1 * np.linalg.norm(y[:, field]), model.problem.fields[field]


def test_pressure_of_kovasznay_flow_is_fixed_at_one_point():
    pressure = gallery.kovasznay(10, 40).problem.terms[2]
    assert pressure.name == "pressure"
    np.testing.assert_array_equal(pressure.points, [[1.0, 0.5]])


@pytest.mark.parametrize(
    ("make_wrong", "message"),
    [
        (lambda: gallery.allen_cahn(100, 20, 20, diffusion=1e-6), "`diffusion=1e-06`"),
        (lambda: gallery.inverse_burgers(10, 10, nu=0.0), "`nu=0.0`"),
        (lambda: gallery.inverse_burgers(10, 10, initial=-1.0), "`initial=-1.0`"),
        (lambda: gallery.inverse_burgers(10, 10, noise=-1.0), "`noise=-1.0`"),
        (lambda: gallery.inverse_burgers(10, 1), "`num_samples=1`"),
        (lambda: gallery.kovasznay(100, 40, reynolds=0.0), "`reynolds=0.0`"),
        (lambda: gallery.ml2(9), "`num_cells=9`"),
        (lambda: gallery.ml2(2), "`num_cells=2`"),
        (lambda: gallery.poisson5d(100, 45), "`num_boundary=45`"),
        (lambda: gallery.poisson5d(100, 0), "`num_boundary=0`"),
        (lambda: gallery.poisson5d(100, 40, widths=(4, 1)), r"`widths=\(4, 1\)`"),
        (lambda: gallery.burgers(100, 20, 20, nu=0.0), "`nu=0.0`"),
        (lambda: gallery.helmholtz(100, 40, a1=0.0, a2=0.0), "make the solution zero"),
    ],
)
def test_impossible_equations_are_refused(make_wrong, message):
    with pytest.raises(KanmgValueError, match=message):
        make_wrong()
