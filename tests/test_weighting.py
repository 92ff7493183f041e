"""Weights of terms and points: the formulas against plain loops, the weighted problem, and cycles that weigh."""

from __future__ import annotations

import numpy as np
import pytest

import kanmg
from kanmg import Attention, Balance
from kanmg.errors import KanmgTypeError, KanmgValueError, ShapeError
from kanmg.program import Pose, Prolong, Redraw, Smooth, Weigh

LINE = np.linspace(-1.0, 1.0, 41).reshape(-1, 1)
HIERARCHY = kanmg.uniform_hierarchy((1, 2, 1), degree=4, num_intervals=3, num_levels=2, evaluator="reference")
EVALUATOR = HIERARCHY[0].evaluator
THETA = np.random.default_rng(0).uniform(-0.5, 0.5, HIERARCHY[0].network.num_coefficients)


def make(equation=1.0, boundary=1.0):
    terms = [
        kanmg.Term("equation", lambda x, u: u.d("x", "x") + u.value - x[:, 0], LINE, weight=equation),
        kanmg.Term("boundary", lambda _, u: u.value - 1.0, LINE[[0, -1]], weight=boundary),
    ]
    return kanmg.Collocation(coordinates=("x",), fields=("u",), terms=terms)


PROBLEM = make(0.5, 3.0)


def jacobian(problem):
    """Columns by central differences of the residuals."""
    columns = []
    for entry in np.eye(len(THETA)):
        ahead, back = (problem.residuals(EVALUATOR, THETA + sign * 1e-6 * entry) for sign in (1.0, -1.0))
        columns.append((ahead - back) / 2e-6)
    return np.stack(columns, axis=1)


def test_attention_is_the_formula_point_by_point():
    random = np.random.default_rng(1)
    weights, residuals = random.uniform(0.5, 2.0, 7), random.standard_normal(7)
    largest = max(abs(residual) for residual in residuals)
    expected = [0.9 * old + 0.2 * abs(residual) / largest for old, residual in zip(weights, residuals, strict=True)]
    np.testing.assert_allclose(Attention(0.9, 0.2).updated(weights, residuals), expected, rtol=1e-15)


@pytest.mark.parametrize("residuals", [[0.0, 0.0], [1.0, np.inf], [np.nan, 1.0]])
def test_attention_keeps_its_weights_where_residuals_tell_nothing(residuals):
    weights = np.array([1.0, 2.0])
    assert Attention().updated(weights, np.array(residuals)) is weights


def test_balance_makes_strengths_alike():
    strengths = [4.0, 0.01, 30.0]
    factors = Balance(memory=0.0).updated((1.0, 1.0, 1.0), strengths)
    products = [factor * strength for factor, strength in zip(factors, strengths, strict=True)]
    np.testing.assert_allclose(products, products[0], rtol=1e-12)
    assert np.prod(factors) == pytest.approx(1.0)
    half = Balance(memory=0.5).updated((1.0, 1.0, 1.0), strengths)
    np.testing.assert_allclose(half, np.sqrt(factors), rtol=1e-12)


def test_balance_bounds_the_ratio_of_the_factors():
    factors = Balance(memory=0.0, max_ratio=100.0).updated((1.0, 1.0), [1e9, 0.0])
    assert factors == pytest.approx((0.1, 10.0))
    for _ in range(50):
        factors = Balance(memory=0.5, max_ratio=100.0).updated(factors, [1e9, 1e-9])
    assert factors[1] / factors[0] == pytest.approx(100.0)


@pytest.mark.parametrize("strengths", [[0.0, 0.0], [np.inf, 1.0], [np.nan, 1.0]])
def test_balance_keeps_its_factors_where_strengths_tell_nothing(strengths):
    assert Balance().updated((0.5, 2.0), strengths) == (0.5, 2.0)


def test_strengths_of_terms_are_those_of_their_parts():
    matrix = jacobian(PROBLEM)
    parts = {"equation": matrix[:41], "boundary": matrix[41:]}
    residuals = np.split(PROBLEM.residuals(EVALUATOR, THETA), [41])
    traces, norms = PROBLEM.term_traces(EVALUATOR, THETA), PROBLEM.term_gradient_norms(EVALUATOR, THETA)
    for (name, part), own in zip(parts.items(), residuals, strict=True):
        assert traces[name] == pytest.approx(np.sum(part**2), rel=1e-6)
        assert norms[name] == pytest.approx(np.linalg.norm(2.0 * part.T @ own), rel=1e-6)


def test_weighted_problems_have_the_loss_that_one_would_write_down():
    points = np.random.default_rng(2).uniform(0.5, 2.0, 41)
    weighted = PROBLEM.with_weights((2.0, 0.25), (points, None))
    sizes = PROBLEM.magnitudes(EVALUATOR, THETA)
    equation = sum((w * r) ** 2 for w, r in zip(points, sizes["equation"], strict=True)) / sum(points**2)
    boundary = sum(r**2 for r in sizes["boundary"]) / 2
    assert weighted.loss(EVALUATOR, THETA) == pytest.approx(2.0 * 0.5 * equation + 0.25 * 3.0 * boundary, rel=1e-12)
    matrix = jacobian(weighted)
    found = weighted.normal_equations(EVALUATOR, THETA)[2]
    np.testing.assert_allclose(found, 2.0 * matrix.T @ matrix, atol=1e-5 * np.abs(found).max())
    assert weighted.fingerprint() != PROBLEM.fingerprint()
    assert PROBLEM.with_weights((1.0, 1.0)).loss(EVALUATOR, THETA) == PROBLEM.loss(EVALUATOR, THETA)


def test_weights_of_points_go_with_the_points_that_a_level_sees():
    points = np.random.default_rng(3).uniform(0.5, 2.0, 41)
    part = PROBLEM.with_weights((1.0, 1.0), (points, None)).subset(0.5)
    rows = [int(np.flatnonzero(LINE[:, 0] == x)[0]) for x in part.terms[0].points[:, 0]]
    assert len(rows) == 20
    np.testing.assert_array_equal(part.terms[0].point_weights, points[rows] ** 2)


@pytest.mark.parametrize(
    ("factors", "points", "error", "words"),
    [
        ((1.0,), None, ShapeError, r"`factors` has shape \(1,\)\. Pass one number for each of the 2 terms"),
        ((1.0, -1.0), None, KanmgValueError, r"`factors=\[1\.0, -1\.0\]`"),
        ((1.0, 1.0), (None,), ShapeError, "`points` has 1 entries"),
        ((1.0, 1.0), (np.ones(3), None), ShapeError, r"shape \(3,\) for term 'equation', which has 41 points"),
        ((1.0, 1.0), (np.zeros(41), None), KanmgValueError, "'equation' are all 0"),
    ],
)
def test_senseless_weights_are_refused(factors, points, error, words):
    with pytest.raises(error, match=words):
        PROBLEM.with_weights(factors, points)


@pytest.mark.parametrize(
    ("make_option", "error", "words"),
    [
        (lambda: Attention(decay=1.0), KanmgValueError, r"`decay=1`\. It must lie in \[0, 1\)"),
        (lambda: Attention(rate=0.0), KanmgValueError, r"`rate=0`\. It must be positive"),
        (lambda: Balance(memory="half"), KanmgTypeError, "`memory='half'`"),
        (lambda: Attention(every=0), KanmgValueError, r"`Attention` got `every=0`\. It must be at least 1"),
        (lambda: Balance(every=2.5), KanmgTypeError, r"`Balance` got `every=2\.5`\. Pass an integer"),
        (lambda: Balance(max_ratio=0.5), KanmgValueError, r"`max_ratio=0\.5`\. It must be at least 1"),
        (lambda: Attention().updated(np.ones(3), np.ones(2)), ShapeError, r"shape \(3,\) but `residuals` \(2,\)"),
        (lambda: Balance().updated((1.0, 1.0), [1.0]), ShapeError, r"shape \(1,\) but there are 2 factors"),
    ],
)
def test_senseless_options_are_refused(make_option, error, words):
    with pytest.raises(error, match=words):
        make_option()


# ------------------------------------------------------------------------------------------------------------- programs


def letters(program):
    names = {Smooth: "S", Prolong: "P", Redraw: "R", Pose: "E", Weigh: "W"}
    listed = [*program.prologue, *program.cycle]
    return " ".join(names.get(type(step), type(step).__name__) + str(step.level) for step in listed)


def test_programs_weigh_before_a_level_and_between_blocks_of_its_steps():
    method = kanmg.NestedIteration(steps=(2, 7), balance=Balance(every=3), redraw=0.5)
    program = method.program(range(2))
    assert letters(program) == "W0 S0 P0 R1 W1 S1 W1 S1 W1 S1"
    assert [step.steps for step in program.cycle if isinstance(step, Smooth)] == [3, 3, 1]
    assert {step.balance for step in program.cycle if isinstance(step, Weigh)} == {Balance(every=3)}
    assert letters(method.program(range(2), 1)) == "W1 S1 W1 S1 W1 S1"


def test_the_shorter_of_two_intervals_counts():
    method = kanmg.NestedIteration(steps=6, balance=Balance(every=3), attention=Attention(every=2))
    program = method.program(range(1))
    assert letters(program) == "W0 S0 W0 S0 W0 S0"
    assert program.cycle[0] == Weigh(0, Attention(every=2), Balance(every=3))


def test_starts_and_easier_problems_are_not_weighed():
    starts, path = kanmg.Starts(2, steps=9, keep=1, further_steps=9), kanmg.Continuation(2, 9)
    method = kanmg.NestedIteration(steps=9, balance=Balance(every=6), starts=starts, continuation=path)
    start = "Draw0 S0 Choose0"
    expected = f"{start} {start} Resume0 S0 Choose0 S0 E0 W0 S0 W0 S0 P0 W1 S1 W1 S1"
    assert letters(method.program(range(2))) == expected


def test_corrections_are_not_weighed():
    method = kanmg.VCycle(pre_steps=3, post_steps=1, coarse_steps=9, attention=Attention(every=2))
    assert letters(method.program(range(2))) == "P0 W1 S1 W1 S1 Descend1 S0 Ascend1 S1"
    full = kanmg.FullMultigrid(steps=1, coarse_steps=1, cycles_per_level=2, balance=Balance())
    assert letters(full.program(range(2))) == "W0 S0 W0 S0 P0 W1 S1 Descend1 S0 Ascend1 S1"


@pytest.mark.parametrize("cycle", [kanmg.NestedIteration, kanmg.VCycle, kanmg.FullMultigrid])
def test_without_the_options_programs_weigh_nothing(cycle):
    assert (cycle().attention, cycle().balance) == (None, None)
    assert "W" not in letters(cycle().program(range(3)))
    passed_through = kanmg.NestedIteration(steps=(0, 1), balance=Balance()).program(range(2))
    assert letters(passed_through) == "P0 W1 S1"


# ----------------------------------------------------------------------------------------------------------------- runs

LM = kanmg.LevenbergMarquardt()


def make_layer(**options):
    """A boundary layer that the cells do not resolve: the equation and the boundary values cannot both hold."""
    terms = [
        kanmg.Term("equation", lambda _, u: 0.02 * u.d("x", "x") - u.value + 1.0, LINE, weight=100.0, **options),
        kanmg.Term("boundary", lambda _, u: u.value, LINE[[0, -1]]),
    ]
    return kanmg.Collocation(coordinates=("x",), fields=("u",), terms=terms)


LAYER = make_layer()
LAYER_EXACT = 1.0 - np.cosh(LINE / np.sqrt(0.02)) / np.cosh(1.0 / np.sqrt(0.02))
LEVELS = kanmg.uniform_hierarchy((1, 1), degree=3, num_intervals=4, num_levels=2, evaluator="cpu")
LEVEL = kanmg.Hierarchy([LEVELS[0].network], evaluator="cpu")


def solve(method, problem=LAYER, hierarchy=LEVELS, **options):
    return kanmg.solve(problem, hierarchy, method=method, throw=False, **options)


@pytest.mark.parametrize(
    ("smoother", "steps"),
    [(LM, 40), (kanmg.LBFGS(), 200), (kanmg.Adam(step_size=1e-2), 600)],
)
def test_balance_mends_a_boundary_term_that_is_far_too_weak(smoother, steps):
    theta = np.zeros(LEVEL[0].network.num_coefficients)
    traces = LAYER.term_traces(LEVEL[0].evaluator, theta)
    factors = Balance(memory=0.0).updated((1.0, 1.0), list(traces.values()))

    def error(problem, **options):
        found = solve(kanmg.NestedIteration(smoother, steps=steps, **options), problem, LEVEL)
        return float(np.abs(found(LINE) - LAYER_EXACT).max())

    undisturbed = error(LAYER)
    assert error(LAYER.with_weights(factors)) < 0.15 * undisturbed
    assert error(LAYER, balance=Balance(memory=0.0, every=50)) < 0.15 * undisturbed


def test_it_is_what_one_would_do_by_hand():
    random = np.random.default_rng(4)
    initial = random.uniform(-0.5, 0.5, LEVELS[1].network.num_coefficients)
    balance, attention = Balance(memory=0.3, every=2), Attention(every=3)
    method = kanmg.NestedIteration(LM, steps=4, balance=balance, attention=attention)
    found = solve(method, PROBLEM, kanmg.Hierarchy([LEVELS[1].network], evaluator="cpu"), initial=initial)
    theta, factors, points = initial, (1.0, 1.0), [np.ones(41), np.ones(2)]
    evaluator = LEVELS[1].evaluator
    for _ in range(2):
        factors = balance.updated(factors, list(PROBLEM.term_traces(evaluator, theta).values()))
        sizes = PROBLEM.magnitudes(evaluator, theta)
        points = [attention.updated(old, new) for old, new in zip(points, sizes.values(), strict=True)]
        objective = kanmg.Objective(PROBLEM.with_weights(factors, points), LEVELS[1])
        state = LM.init(objective, theta)
        for _ in range(2):
            theta, state, record = LM.step(objective, theta, state)
    assert found.coefficients.tobytes() == theta.tobytes()
    assert found.history[-1].loss == record.loss
    assert found.loss == PROBLEM.loss(evaluator, theta)
    own = (0.5 * factors[0], 3.0 * factors[1])
    expected = f"points and terms (equation {own[0]:.3g}, boundary {own[1]:.3g}) it is {record.loss:.3e}."
    assert f"With the last weights of {expected} Recorded losses are weighted." in found.message


def test_a_finer_level_begins_with_the_factors_of_the_level_before():
    method = kanmg.NestedIteration(LM, steps=3, balance=Balance(memory=0.5))
    found = solve(method)
    assert [record.event for record in found.history if record.event != "smooth"] == [
        "start", "weigh", "prolong", "weigh",
    ]  # fmt: skip
    coarse = solve(method, hierarchy=LEVEL)
    factors = (1.0, 1.0)
    theta = kanmg.initial_coefficients(LEVELS[0].network, LAYER.training_inputs(), seed=np.random.SeedSequence(0))
    factors = Balance().updated(factors, list(LAYER.term_traces(LEVELS[0].evaluator, theta).values()))
    theta = LEVELS.transfers[0].prolong(coarse.coefficients)
    factors = Balance().updated(factors, list(LAYER.term_traces(LEVELS[1].evaluator, theta).values()))
    assert f"terms (equation {100 * factors[0]:.3g}, boundary {factors[1]:.3g})" in found.message


def test_losses_before_do_not_count():
    method = kanmg.NestedIteration(LM, steps=3, balance=Balance(memory=0.0))
    found = solve(method, hierarchy=LEVEL)
    events, losses = found.history.column("event").tolist(), found.history.column("loss")
    assert found.history[events.index("weigh")].loss != losses[0]
    assert found.loss == LAYER.loss(LEVEL[0].evaluator, found.coefficients) > losses[-1]
    plain = solve(kanmg.NestedIteration(LM, steps=3), hierarchy=LEVEL)
    assert plain.loss == plain.history[-1].loss
    assert plain.loss < found.loss
    assert "weight" not in plain.message


def test_tolerances_see_the_weighted_loss():
    method = kanmg.NestedIteration(LM, steps=3, balance=Balance(memory=0.0))
    weighted = solve(method).history[-1].loss
    found = solve(method, atol=1.0001 * weighted)
    assert found.status is kanmg.Status.CONVERGED
    assert found.loss > 1.0001 * weighted


def test_cycles_that_weigh_are_not_called_idle():
    method = kanmg.NestedIteration(kanmg.LBFGS(), steps=3, balance=Balance(memory=0.9))
    found = solve(method, max_cycles=8, hierarchy=LEVEL)
    assert found.status is kanmg.Status.FINISHED
    assert found.history[-1].cycle == 8


def test_strengths_and_residuals_are_counted_as_work():
    unit = LAYER.work(LEVELS[1].evaluator)
    for options, expected in (
        ({"balance": Balance()}, unit),
        ({"attention": Attention()}, LAYER.work(LEVELS[1].evaluator, gradient=False)),
    ):
        found = solve(kanmg.VCycle(LM, pre_steps=1, post_steps=0, coarse_steps=1, **options), max_cycles=1)
        before, weigh = found.history[1], found.history[2]
        assert (before.event, weigh.event) == ("prolong", "weigh")
        # The weighted loss and gradient are evaluated too.
        assert weigh.work_units - before.work_units == pytest.approx(1.0 + expected / unit, rel=1e-12)


@pytest.mark.parametrize("variant", ["galerkin", "tau"])
def test_corrections_lower_the_weighted_loss(variant):
    options = {"balance": Balance(), "attention": Attention(), "variant": variant, "coarse_fraction": 0.6}
    found = solve(kanmg.VCycle(kanmg.Adam(), pre_steps=2, post_steps=0, coarse_steps=20, **options), max_cycles=1)
    records = list(found.history)
    before = [record for record in records if record.level == 1 and record.event == "smooth"][-1]
    assert records[-1].event == "correct"
    assert records[-1].step_size > 0.0
    assert records[-1].loss < before.loss


# ---------------------------------------------------------------------------------------------------------- checkpoints


class Killed(Exception):  # noqa: N818 - not an error: what a test raises to end a run
    pass


def timeless(records):
    return [repr(record._replace(seconds=0.0)) for record in records]


@pytest.mark.parametrize(
    "method",
    [
        kanmg.NestedIteration(LM, steps=3, balance=Balance(every=2), starts=2, coarse_fraction=0.5),
        kanmg.NestedIteration(
            kanmg.LBFGS(), steps=3, balance=Balance(every=2), attention=Attention(every=2), redraw=0.3
        ),
        kanmg.VCycle(kanmg.Adam(), pre_steps=2, coarse_steps=2, attention=Attention(every=1), variant="tau"),
    ],
)
def test_a_run_killed_anywhere_ends_with_the_same_bits(method, tmp_path):
    problem = make_layer(candidates=np.linspace(-1.0, 1.0, 101).reshape(-1, 1))

    def run(**more):
        return solve(method, problem, max_cycles=2, **more)

    undisturbed = run()
    first = undisturbed.history.column("event").tolist().index("weigh")
    assert np.isfinite(undisturbed.loss)
    for stop in range(first, len(undisturbed.history)):
        path, seen = tmp_path / f"{stop}.kanmg", []

        def kill(record, seen=seen, stop=stop):
            seen.append(record)
            if len(seen) == stop:
                raise Killed

        with pytest.raises(Killed):
            run(checkpoint=path, callback=kill)
        resumed = run(checkpoint=path)
        assert resumed.coefficients.tobytes() == undisturbed.coefficients.tobytes()
        assert timeless(resumed.history) == timeless(undisturbed.history)
        assert (resumed.loss, resumed.message) == (undisturbed.loss, undisturbed.message)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("options", [{"attention": Attention()}, {"balance": Balance()}])
def test_problems_without_terms_are_refused(options):
    problem = kanmg.Regression(LINE, np.sin(LINE))
    with pytest.raises(KanmgValueError, match=r"`Regression` has no terms.*`kanmg\.Collocation`"):
        solve(kanmg.NestedIteration(**options), problem)


def test_a_single_term_is_not_balanced_but_attended_to():
    term = kanmg.Term("wave", lambda x, u: u.value - x[:, 0], LINE)
    problem = kanmg.Collocation(coordinates=("x",), fields=("u",), terms=[term])
    with pytest.raises(KanmgValueError, match=r"this problem has only 'wave'.*`attention=kanmg\.Attention\(\)`"):
        solve(kanmg.NestedIteration(balance=Balance()), problem)
    found = solve(kanmg.NestedIteration(LM, steps=3, attention=Attention()), problem)
    assert np.abs(found(LINE) - LINE).max() < 1e-6


@pytest.mark.parametrize("cycle", [kanmg.NestedIteration, kanmg.VCycle, kanmg.FullMultigrid])
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"attention": True}, KanmgTypeError, r"got `attention=True`\. Pass `kanmg\.Attention\(\)`, or None"),
        ({"attention": Balance()}, KanmgTypeError, r"`attention=Balance\(.*Pass `kanmg\.Attention"),
        ({"balance": 0.5}, KanmgTypeError, r"got `balance=0\.5`\. Pass `kanmg\.Balance\(\)`"),
        ({"balance": Balance(), "refit": 1}, KanmgValueError, r"`refit=1` and `balance`.*Leave out one"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(cycle, options, error, words):
    with pytest.raises(error, match=words):
        cycle(**options)
