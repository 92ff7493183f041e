"""What a user can get wrong in a collocation problem: each is refused, by name, with what to write instead."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import kanmg
from kanmg.errors import DomainError, DtypeError, KanmgTypeError, KanmgValueError, NonFiniteError, ShapeError
from kanmg.evaluators.reference import ReferenceEvaluator
from kanmg.problems.collocation import Collocation
from kanmg.problems.terms import Term

POINTS = np.random.default_rng(0).uniform(-1.0, 1.0, (50, 2))
RATE, NU = kanmg.Parameter("rate", 1.0), kanmg.Constant("nu", 0.1)


def value(_x, u):
    return u.value


def make(residual=value, points=POINTS, coordinates=("x", "t"), fields=("u",), **options):
    term = Term("equation", residual, points, **options)
    return Collocation(coordinates=coordinates, fields=fields, terms=[term])


def make_level(widths=(2, 1), **options):
    options = {"degree": 3, "num_intervals": 3, "num_levels": 1, "evaluator": "reference"} | options
    return kanmg.uniform_hierarchy(widths, **options)[0]


def closing_over_an_array(x, u):
    return u.value - torch.zeros(50, dtype=x.dtype)


def without_gradient(_x, u):
    with torch.no_grad():
        return u.value * 2


OUTPUTS = {
    "mean over the points": (lambda _x, u: (u.value**2).mean(), ShapeError, r"shape \(\) for 8 points.*do not average"),
    "transposed": (lambda _x, u: torch.stack([u.value, u.value]), ShapeError, r"shape \(2, 8\) for 8 points"),
    "three axes": (lambda _x, u: u.value[:, None, None], ShapeError, r"shape \(8, 1, 1\)"),
    "no column": (lambda _x, u: u.value[:, None][:, :0], ShapeError, r"shape \(8, 0\)"),
    "tuple": (lambda _x, u: (u.value, u.value), KanmgTypeError, r"returned a tuple.*torch\.stack"),
    "nothing": (lambda _x, u: None, KanmgTypeError, r"returned a NoneType.*must return a tensor"),  # noqa: ARG005
    "array": (
        lambda _x, u: u.value.detach().numpy(),
        KanmgTypeError,
        r"returned a ndarray.*Use torch's functions",
    ),
    "other dtype": (lambda _x, u: u.value.float(), DtypeError, r"returned torch\.float32.*torch\.float64"),
    "integer": (lambda _x, u: (u.value > 0).long(), DtypeError, r"torch\.int64"),
    "points only": (lambda x, _u: x[:, 0], KanmgValueError, r"no gradient: it does not depend on `u`"),
    "detached": (lambda _x, u: u.value.detach(), KanmgValueError, r"no gradient.*without `\.detach\(\)`"),
    "no_grad": (without_gradient, KanmgValueError, r"no gradient"),
    "centred": (lambda _x, u: u.value - u.value.mean(), KanmgValueError, r"changes with the other points.*no means"),
    "divided by zero": (lambda x, u: u.value / (0 * x[:, 0]), NonFiniteError, r"NaN or infinite at 50 points"),
    "unknown coordinate": (lambda _x, u: u.d("y"), KanmgValueError, r"by 'y', which is no coordinate.*'x', 't'"),
    "joined names": (lambda _x, u: u.d("xx"), KanmgValueError, r"by 'xx'.*one name per derivative"),
    "number": (lambda _x, u: u.d(0), KanmgTypeError, r"`u\.d` got 0\. Pass names"),
    "list of names": (lambda _x, u: u.d(["x", "x"]), KanmgTypeError, r"got \['x', 'x'\]\. Pass names"),
    "number of derivatives": (lambda _x, u: u.d("x", 2), KanmgTypeError, r"`u\.d` got 2\. Pass names"),
    "field": (lambda _x, u: u, KanmgTypeError, r"returned a Field.*Write `u\.value`"),
    "product with a field": (lambda _x, u: u * u.d("x"), KanmgTypeError, r"for \*: 'Field'.*Write `u\.value`"),
    "sine in NumPy": (
        lambda _x, u: torch.as_tensor(np.sin(u.value)),
        KanmgTypeError,
        r"mixes a tensor with arrays of NumPy.*Use torch's functions: `torch.sin\(u.value\)`, not `np.sin\(u.value\)`",
    ),
    "array of NumPy": (lambda _x, u: np.ones(8) * u.value, KanmgTypeError, r"mixes a tensor with arrays of NumPy"),
    "sine in math": (lambda _x, u: math.sin(u.value), KanmgTypeError, r"makes a number of it.*`torch.sin\(u.value\)`"),
    "float of values": (lambda _x, u: u.value * float(u.value), KanmgTypeError, r"makes a number of it"),
    "float of a parameter": (
        lambda _x, u: float(RATE) * u.value,
        KanmgTypeError,
        r"makes a number of a `kanmg.Parameter`.*Use the parameter itself, without `float`",
    ),
    "sine of a parameter in NumPy": (
        lambda _x, u: np.sin(RATE) * u.value,
        KanmgTypeError,
        r"`kanmg.Parameter`.*`torch.sin\(p\)`, not `np.sin\(p\)`",
    ),
    "sine of a constant in NumPy": (
        lambda _x, u: np.sin(NU) * u.value,
        KanmgTypeError,
        r"`kanmg.Constant`.*Use the constant itself, .*`torch.sin\(p\)`, not `np.sin\(p\)`",
    ),
    "a number times a field": (lambda _x, u: 2 * u, KanmgTypeError, r"uses a field itself.*`u\.d\(\"x\"\)`"),
    "power of a field": (lambda _x, u: u**2, KanmgTypeError, r"uses a field itself.*Write `u\.value`"),
    "minus a field": (lambda _x, u: -u, KanmgTypeError, r"uses a field itself.*Write `u\.value`"),
    "sine of a field": (lambda _x, u: torch.sin(u), KanmgTypeError, r"uses a field itself.*Write `u\.value`"),
    "stacked field": (lambda _x, u: torch.stack([u, u]), KanmgTypeError, r"uses a field itself"),
    "called field": (lambda x, u: u(x), KanmgTypeError, r"uses a field itself.*Write `u\.value`"),
    "column of a field": (lambda _x, u: u[0], KanmgTypeError, r"uses a field itself.*Write `u\.value`"),
    "attribute": (lambda _x, u: u.dx, KanmgTypeError, r"no attribute 'dx'\)\. Write .*`u\.d\(\"x\"\)`"),
    "complex": (lambda _x, u: u.value * 1j, DtypeError, r"returned torch\.complex128"),
    "some points": (lambda _x, u: u.value[:4], ShapeError, r"shape \(4,\) for 8 points"),
    "NaN": (lambda _x, u: u.value * float("nan"), NonFiniteError, r"NaN or infinite at 50 points"),
    "infinite": (lambda _x, u: u.value + float("inf"), NonFiniteError, r"NaN or infinite at 50 points"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_residuals_that_cannot_be_trained_with(name):
    residual, error, message = OUTPUTS[name]
    with pytest.raises(error, match=message) as caught:
        make(residual)
    assert "term 'equation'" in str(caught.value) or any("term 'equation'" in n for n in caught.value.__notes__)


def test_automatic_differentiation_by_the_points_is_told_what_to_write():
    with pytest.raises(RuntimeError) as caught:
        make(lambda x, u: torch.autograd.grad(u.value.sum(), x)[0][:, 0])
    assert any('derivatives are `u.d("x")`, not torch.autograd.grad' in note for note in caught.value.__notes__)


def test_a_residual_that_changes_the_points_is_refused_before_it_does_harm():
    def shifted(x, u):
        x[:, 0] += 1.0
        return u.value

    points = POINTS.copy()
    with pytest.raises(KanmgValueError, match=r"term 'equation': .* changes the points .*`x = x \+ 1` instead"):
        make(shifted, points)
    np.testing.assert_array_equal(points, POINTS)


def test_nan_at_some_points_names_the_first():
    points = POINTS.copy()
    points[[7, 9], 0] = 0.0
    message = r"NaN or infinite at 2 points, whatever the fields are \(the first is row 7: x=0, t="
    with pytest.raises(NonFiniteError, match=message):
        make(lambda x, u: u.value / x[:, 0], points)


def test_nan_at_a_candidate_is_told_from_one_at_a_point():
    candidates = POINTS.copy()
    candidates[5, 0] = 0.0
    message = r"NaN or infinite at 1 point, whatever the fields are \(the first is row 5 of `candidates`: x=0, t="
    with pytest.raises(NonFiniteError, match=message):
        make(lambda x, u: u.value / x[:, 0], candidates=candidates)


def test_a_derivative_that_is_nan_is_seen_behind_a_finite_residual():
    points = POINTS.copy()
    points[3, 0] = 0.0

    def hidden(x, u):
        return torch.where(x[:, 0] == 0, 0.0, u.value / x[:, 0])

    with pytest.raises(NonFiniteError, match=r"at 1 point, .*row 3.*`torch\.where` hides"):
        make(hidden, points)


@pytest.mark.parametrize("residual", [lambda _x, u: u.value.sqrt(), lambda _x, u: (1 - u.value).log()])
def test_a_residual_that_is_finite_for_some_fields_is_taken(residual):
    assert make(residual).num_samples == 50


def test_exceptions_of_the_residual_keep_their_type_and_say_when_they_were_raised():
    with pytest.raises(RuntimeError) as caught:
        make(closing_over_an_array)
    assert any("term 'equation'" in note and "shape (8, 2)" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("residual", [lambda u: u.value, lambda _x, u, _v: u.value, lambda: None])
def test_a_residual_with_other_arguments(residual):
    with pytest.raises(KanmgTypeError, match=r"term 'equation'.*called with the points and 1 field.*residual\(x, u\)"):
        make(residual)


def test_a_residual_that_changes_its_mind():
    calls = []

    def residual(_x, u):
        calls.append(1)
        return u.value if len(calls) < 20 else u.d("x")

    problem, level = make(residual), make_level()
    theta = np.zeros(level.network.num_coefficients)
    problem.loss(level.evaluator, theta)
    calls += [1] * 20
    with pytest.raises(KanmgValueError, match="term 'equation' asks `u` for something that it did not ask for"):
        problem.loss(level.evaluator, theta)


TERMS = {
    "no points": ({"points": np.empty((0, 2))}, ShapeError, r"`points` is empty: its shape is \(0, 2\)"),
    "vector": ({"points": np.zeros(4)}, ShapeError, r"`points` has shape \(4,\)"),
    "NaN": ({"points": np.full((3, 2), np.nan)}, NonFiniteError, r"`points` contains 6 NaN"),
    "integers": ({"points": np.ones((3, 2), int)}, DtypeError, r"`points` has dtype int64"),
    "negative weight": ({"weight": -1.0}, KanmgValueError, r"`weight=-1\.0` is negative"),
    "infinite weight": ({"weight": float("inf")}, KanmgValueError, r"`weight=inf`"),
    "weight no number": ({"weight": "1"}, KanmgTypeError, r"`weight='1'` is a str"),
    "weights too short": (
        {"point_weights": np.ones(49)},
        ShapeError,
        r"`point_weights` has shape \(49,\) but there are 50 points",
    ),
    "weights a matrix": (
        {"point_weights": np.ones((50, 1))},
        ShapeError,
        r"`point_weights` has shape \(50, 1\) but there are 50 points",
    ),
    "a negative weight": (
        {"point_weights": -np.ones(50)},
        KanmgValueError,
        r"`point_weights` contains 50 negative values \(smallest -1\)",
    ),
    "weights all zero": ({"point_weights": np.zeros(50)}, KanmgValueError, r"`point_weights` are all 0"),
    "weights NaN": ({"point_weights": np.full(50, np.nan)}, NonFiniteError, r"`point_weights` contains 50"),
    "weights of another dtype": (
        {"point_weights": np.ones(50, "float32")},
        DtypeError,
        r"`point_weights` is float32 but",
    ),
    "candidates a vector": ({"candidates": np.ones(3)}, ShapeError, r"`candidates` has shape \(3,\)"),
    "candidates of other columns": (
        {"candidates": np.ones((3, 1))},
        ShapeError,
        r"`candidates` has shape \(3, 1\) but `points` \(50, 2\)",
    ),
    "candidates NaN": ({"candidates": np.full((3, 2), np.nan)}, NonFiniteError, r"`candidates` contains 6 NaN"),
    "candidates of another dtype": (
        {"candidates": np.ones((3, 2), "float32")},
        DtypeError,
        r"`candidates` is float32 but `points` is float64",
    ),
    "candidates beside weights": (
        {"candidates": np.ones((3, 2)), "point_weights": np.ones(50)},
        KanmgValueError,
        r"`candidates` has no `point_weights`, but `points` has\. Leave out one",
    ),
    "candidates beside normals": (
        {"candidates": np.ones((3, 2)), "normals": np.ones((50, 2))},
        KanmgValueError,
        r"`candidates` has no `normals`",
    ),
    "no function": ({"residual": 3.0}, KanmgTypeError, r"`residual` is a float"),
}


@pytest.mark.parametrize("name", TERMS)
def test_terms_that_make_no_sense(name):
    options, error, message = TERMS[name]
    with pytest.raises(error, match=f"term 'equation': {message}"):
        Term(**{"name": "equation", "residual": value, "points": POINTS} | options)


def test_a_term_needs_a_name():
    with pytest.raises(KanmgTypeError, match="`name=3`"):
        Term(3, value, POINTS)


def test_terms_that_do_not_fit_each_other():
    term = Term("equation", value, POINTS)

    def expect(error, message, terms, **options):
        arguments = {"coordinates": ("x", "t"), "fields": ("u",)} | options
        with pytest.raises(error, match=message):
            Collocation(terms=terms, **arguments)

    expect(KanmgValueError, "Pass at least one term", [])
    expect(KanmgValueError, r"\['equation', 'equation'\].*its own name", [term, term])
    expect(KanmgTypeError, r"`terms` holds 'boundary', which is no term.*`terms=\[kanmg\.Term\(", [term, "boundary"])
    expect(KanmgTypeError, "`terms` is a term, not a list of terms", term)
    expect(KanmgTypeError, "`terms` holds None, which is no term", None)
    expect(KanmgTypeError, "`terms` holds 'equation', which is no term", {"equation": term})
    for nothing in (None, 2):
        expect(KanmgTypeError, f"`coordinates={nothing}`. Pass a tuple of names", [term], coordinates=nothing)
        expect(KanmgTypeError, f"`fields={nothing}`. Pass a tuple of names", [term], fields=nothing)
    expect(KanmgValueError, "`weight` of every term is 0", [Term("equation", value, POINTS, weight=0.0)])
    expect(ShapeError, r"term 'equation'.*\(50, 2\) but there are 1 coordinates", [term], coordinates=("x",))
    single = Term("single", value, POINTS.astype("float32"))
    expect(DtypeError, "term 'single' are float32 but those of term 'equation' are float64", [term, single])
    expect(KanmgTypeError, r"`coordinates='xt'`", [term], coordinates="xt")
    expect(KanmgTypeError, r"`fields=\(1,\)`", [term], fields=(1,))
    expect(KanmgValueError, "each once", [term], coordinates=("x", "x"))
    expect(KanmgValueError, "at least one name", [term], fields=())
    expect(KanmgValueError, "`seed=-1`", [term], seed=-1)


LEVELS = {
    "points outside": (
        {"domain": (-0.5, 0.5)},
        DomainError,
        r"term 'equation': `points` contains \d+ values outside the domain \[-0\.5, 0\.5\] of input `x` \(",
    ),
    "one output too many": ({"widths": (2, 2)}, ShapeError, r"`fields` names \('u',\).*2 outputs.*widths=\(2, 1\)"),
    "one input too few": ({"widths": (1, 1)}, ShapeError, r"term 'equation': `points` has 2 columns"),
    "other dtype": ({"dtype": "float32"}, DtypeError, r"term 'equation': `points` is float64"),
}


@pytest.mark.parametrize("name", LEVELS)
def test_hierarchies_that_do_not_fit(name):
    options, error, message = LEVELS[name]
    with pytest.raises(error, match=message):
        make().check_level(make_level(**options))


def test_candidates_outside_the_domain():
    problem = make(candidates=1.5 * POINTS)
    with pytest.raises(DomainError, match=r"term 'equation': `candidates` contains? .* outside"):
        problem.check_level(make_level())


def test_a_field_that_the_network_does_not_have():
    problem = make(lambda _x, u, v: u.value + v.value, fields=("u", "v"))
    with pytest.raises(ShapeError, match=r"`fields` names \('u', 'v'\).*1 output \(.*build it with `widths=\(2, 2\)`"):
        problem.check_level(make_level())


def test_an_order_that_the_degree_cannot_give():
    problem = make(lambda _x, u: u.d("x", "t", "x", "t"))
    with pytest.raises(KanmgValueError, match=r'\("x", "x", "t", "t"\) of order 4.*degree 3.*`degree=4` or more'):
        problem.check_level(make_level())
    problem.check_level(make_level(degree=4))


class FirstOrderOnly(ReferenceEvaluator):
    def jet(self, theta, x, directions, order):
        if order > 1:
            raise KanmgValueError(f"order {order} is not for me")
        return super().jet(theta, x, directions, order)


def test_an_order_that_the_evaluator_cannot_give_is_refused_before_anything_is_computed():
    level = make_level(evaluator=FirstOrderOnly)
    make(lambda _x, u: u.d("x")).check_level(level)
    with pytest.raises(KanmgValueError, match=r"term 'equation': order 2 is not for me"):
        make(lambda _x, u: u.d("x", "x")).check_level(level)


def test_names_and_terms_may_be_generators():
    names, terms = (name for name in "xt"), (term for term in [Term("equation", value, POINTS)])
    problem = Collocation(coordinates=names, fields=iter("u"), terms=terms)
    assert (problem.coordinates, problem.fields, len(problem.terms)) == (("x", "t"), ("u",), 1)


def test_a_derivative_of_a_solution_by_an_unknown_coordinate():
    hierarchy = kanmg.uniform_hierarchy((2, 1), num_intervals=2, num_levels=1, evaluator="reference")
    solution = kanmg.solve(make(), hierarchy, method=kanmg.NestedIteration(steps=1))
    with pytest.raises(
        KanmgValueError, match=r"coordinate 'y'. Pass numbers of inputs, 0 to 1 or one of the names 'x'"
    ):
        solution.derivative(POINTS, "y")


def test_an_interrupt_in_the_middle_of_a_step_returns_the_best_so_far_and_leaves_it_in_the_checkpoint(tmp_path):
    """A second Ctrl-C does not wait for the end of a step: it comes out of the residual."""
    armed = []

    def interrupted(x, u):
        if armed:
            raise KeyboardInterrupt
        return u.value - torch.sin(torch.pi * x[:, 0])

    def arm(record):
        if record.step == 3:
            armed.append(record)

    problem = make(interrupted)
    hierarchy = kanmg.uniform_hierarchy((2, 1), num_intervals=3, num_levels=1, evaluator="reference")
    method = kanmg.NestedIteration(kanmg.LBFGS(), steps=8)
    arguments = {"method": method, "checkpoint": tmp_path / "run"}
    solution = kanmg.solve(problem, hierarchy, callback=arm, **arguments)
    assert solution.status is kanmg.Status.INTERRUPTED
    armed.clear()
    assert solution.loss == pytest.approx(problem.loss(hierarchy[0].evaluator, solution.coefficients), rel=1e-12)
    assert solution.loss == min(record.loss for record in solution.history)
    resumed = kanmg.solve(problem, hierarchy, **arguments)
    undisturbed = kanmg.solve(problem, hierarchy, method=method)
    assert resumed.coefficients.tobytes() == undisturbed.coefficients.tobytes()


def test_solve_refuses_before_it_computes():
    hierarchy = kanmg.uniform_hierarchy((2, 1), degree=3, num_intervals=3, num_levels=1, domain=(-0.5, 0.5))
    with pytest.raises(DomainError, match="term 'equation'"):
        kanmg.solve(make(), hierarchy)


def test_nan_that_appears_in_a_run_is_reported_by_its_status():
    hierarchy = kanmg.uniform_hierarchy((2, 1), degree=3, num_intervals=3, num_levels=1, evaluator="reference")
    problem = make(lambda _x, u: (u.value - 0.95).log())
    with pytest.raises(kanmg.ConvergenceError, match="\nTerm 'equation' is not finite there: look for") as caught:
        kanmg.solve(problem, hierarchy)
    assert caught.value.solution.status is kanmg.Status.NON_FINITE


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("two_threads")
def test_a_term_without_a_finite_gradient_is_named(threads):
    points = np.linspace(-1, 1, 20).reshape(-1, 1)

    def root(_x, u):
        # Its derivative is infinity times 0 below 0.95.
        return (u.value - 0.95 + (u.value - 0.95).abs()).sqrt()

    terms = [
        kanmg.Term("root", root, points),
        kanmg.Term("value", lambda x, u: u.value - x[:, 0], points),
    ]
    problem = kanmg.Collocation(coordinates=("x",), fields=("u",), terms=terms)
    hierarchy = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=3, num_levels=1)
    torch.set_num_threads(threads)
    with pytest.raises(kanmg.ConvergenceError, match="\nTerm 'root' is without a finite gradient there: look"):
        kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(kanmg.LBFGS(), steps=3, starts=3))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_of_the_caller_do_not_matter(mode):
    hierarchy = kanmg.uniform_hierarchy((2, 1), degree=3, num_intervals=3, num_levels=2, evaluator="reference")
    method = kanmg.NestedIteration(kanmg.LBFGS(), steps=5)
    expected = kanmg.solve(make(), hierarchy, method=method)
    with mode():
        solution = kanmg.solve(make(), hierarchy, method=method)
        assert torch.is_grad_enabled() is False
    assert solution.coefficients.tobytes() == expected.coefficients.tobytes()


@pytest.mark.parametrize("residual", [lambda _x, u: (u.value - 5).log(), lambda _x, u: (1e-3 - u.value**2).sqrt()])
def test_residuals_that_are_finite_for_some_fields_only_are_taken(residual):
    assert make(residual).num_samples > 0


def test_residuals_that_change_tensors_in_place_are_refused():
    term = kanmg.Term("flat", lambda x, u: u.value.sub_(1.0), np.linspace(-1, 1, 20).reshape(-1, 1))  # noqa: ARG005
    with pytest.raises(KanmgTypeError, match=r"term 'flat': the residual changes a tensor in place .* `u.value - 1`"):
        kanmg.Collocation(coordinates=("x",), fields=("u",), terms=[term])
