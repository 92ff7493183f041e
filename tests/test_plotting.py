"""Figures hold the right numbers, on the axes that were given, with labels."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from kanmg import plotting
from kanmg.errors import KanmgTypeError, KanmgValueError, MissingDependencyError
from kanmg.hierarchy import Hierarchy
from kanmg.network import Affine, Network, Spline
from kanmg.solution import History, Record, Solution, Status
from kanmg.splines.knots import uniform_knots

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402

NAN = float("nan")


def record(level, step, loss, event="smooth", validation_loss=NAN):
    return Record(1, level, step, loss, 0.1 * loss, 2.0 * step, 0.5 * step, validation_loss, 1.0, event)


NESTED = [
    record(0, 0, 1.0, "start"),
    record(0, 1, 0.5),
    record(1, 1, NAN, "prolong"),
    record(1, 2, 0.1, validation_loss=0.2),
    record(1, 3, 0.01, validation_loss=0.1),
]
# A V-cycle: the loss on the coarse level is not that of the solution.
VCYCLE = [
    record(1, 0, 1.0, "start"),
    record(1, 1, 0.5),
    record(0, 2, 0.4),
    record(0, 3, 0.3),
    record(1, 3, 0.2, "correct"),
]


# Two starts that were compared, the second of which was better, and a third that was worse.
STARTS = [
    record(0, 0, 1.0, "start"),
    record(0, 1, 0.5),
    record(0, 1, 0.6, "choose"),
    record(0, 1, 3.0, "start"),
    record(0, 2, 0.2),
    record(0, 2, 0.3, "choose"),
    record(0, 2, 9.0, "start"),
    record(0, 3, 8.0),
    record(0, 3, 7.0, "choose"),
    record(1, 3, 0.3, "prolong"),
    record(1, 4, 0.1),
]
# The two best of them go on, the second of which ends lower.
RESUMED = [
    *STARTS[:9],
    record(0, 3, 0.25, "resume"),
    record(0, 4, 0.2),
    record(0, 4, 0.21, "choose"),
    record(0, 4, NAN, "resume"),
    record(0, 5, 0.1),
    record(0, 5, 0.11, "choose"),
    record(1, 5, 0.11, "prolong"),
]
# The first start was passed over; then an easier problem was solved.
EASED = [
    record(0, 0, 1.0, "start"),
    record(0, 0, NAN, "choose"),
    record(0, 0, 1.0, "start"),
    record(0, 1, 1e-9, "choose"),
    record(0, 1, 0.5, "pose"),
    record(0, 2, 1e-8),
    record(0, 2, 0.4, "pose"),
    record(0, 3, 0.3),
]


def make_solution(history, layers=None):
    knots = uniform_knots(4, degree=3, domain=(0.0, 2.0))
    network = Network(layers or [Spline(2, 3, knots=knots), Spline(3, 1, knots=knots)])
    hierarchy = Hierarchy.from_network(network, 2, evaluator="reference")
    coefficients = np.random.default_rng(0).standard_normal(hierarchy[1].network.num_coefficients)
    return Solution(coefficients, 1, 0.01, Status.FINISHED, "", History(history), 6.0, 1.5, hierarchy)


@pytest.fixture
def solution():
    return make_solution(NESTED)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    ("against", "expected", "unit"),
    [
        ("work_units", [0, 2, 4, 6], "work units"),
        ("seconds", [0, 0.5, 1, 1.5], "seconds"),
        ("steps", [0, 1, 2, 3], "steps"),
    ],
)
def test_history_is_drawn_against_work_time_or_steps(solution, against, expected, unit):
    ax = plotting.plot_history(solution, against=against)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), expected)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [1.0, 0.5, 0.1, 0.01])
    assert unit in ax.get_xlabel()
    assert ax.get_ylabel() == "loss"
    assert ax.get_yscale() == "log"


def test_level_changes_are_marked_with_the_level(solution):
    ax = plotting.plot_history(solution)
    assert [text.get_text() for text in ax.texts] == ["1"]
    np.testing.assert_array_equal(np.ravel(ax.lines[1].get_data()), [4.0, 0.1])


def test_coarse_part_of_a_cycle_is_left_out():
    ax = plotting.plot_history(make_solution(VCYCLE))
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [1.0, 0.5, 0.2])
    assert len(ax.texts) == 0


def test_other_starts_show_as_the_best_so_far():
    ax = plotting.plot_history(make_solution(STARTS), against="steps")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [1.0, 0.5, 0.6, 0.3, 0.3, 0.3, 0.1])
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [0, 1, 1, 2, 3, 3, 4])
    interrupted = plotting.plot_history(make_solution(STARTS[:8]))
    np.testing.assert_array_equal(interrupted.lines[0].get_ydata(), [1.0, 0.5, 0.6, 0.3])


def test_resumed_starts_show_as_the_best_once_more():
    ax = plotting.plot_history(make_solution(RESUMED), against="steps")
    first = [1.0, 0.5, 0.6, 0.3, 0.3]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [*first, 0.25, 0.2, 0.21, 0.11, 0.11])
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [0, 1, 1, 2, 3, 3, 4, 4, 5, 5])


def test_a_start_that_was_passed_over_is_not_the_best():
    ax = plotting.plot_history(make_solution(EASED[:4]))
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [1.0, 1e-9])


def test_losses_of_easier_problems_are_left_out():
    ax = plotting.plot_history(make_solution(EASED), against="steps")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [0.4, 0.3])
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [2, 3])


def test_several_histories_share_axes_and_have_a_legend(solution):
    _, own = plt.subplots()
    ax = plotting.plot_history({"nested": solution, "V": make_solution(VCYCLE)}, ax=own, linestyle="--")
    assert ax is own
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["nested", "V"]
    assert ax.lines[0].get_linestyle() == "--"
    assert len(plotting.plot_history([solution, solution]).get_legend_handles_labels()[1]) == 0


def test_validation_loss_is_drawn_where_it_is_known(solution):
    ax = plotting.plot_history(solution, quantity="validation_loss")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [0.2, 0.1])
    assert ax.get_ylabel() == "validation loss"


def test_missing_quantities_and_unknown_options_are_refused(solution):
    with pytest.raises(KanmgValueError, match="no record of the history has a `validation_loss`"):
        plotting.plot_history(make_solution(VCYCLE), quantity="validation_loss")
    with pytest.raises(KanmgValueError, match="`against='epochs'` is unknown"):
        plotting.plot_history(solution, against="epochs")
    with pytest.raises(KanmgValueError, match="`quantity='error'`"):
        plotting.plot_history(solution, quantity="error")


def test_edge_is_the_spline_with_its_breakpoints(solution):
    network = solution.hierarchy[1].network
    first = network.layers[0]
    ax = plotting.plot_edge(solution, 0, 1, 2)
    x, y = ax.lines[0].get_data()

    alone = Hierarchy([Network([Spline(1, 1, knots=first.knots[1])])], evaluator="reference")[0].evaluator
    coefficients = network.unflatten(solution.coefficients)[0][1, :, 2]
    np.testing.assert_allclose(y, alone.value(coefficients.copy(), x[:, None])[:, 0], atol=1e-13)
    assert (x[0], x[-1]) == first.knots[1].domain
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), first.knots[1].breakpoints)


def test_edge_of_an_affine_layer_is_a_line_on_the_domain():
    layers = [Affine(2, 3), Spline(3, 1, knots=uniform_knots(4, degree=3))]
    solution = make_solution(NESTED, layers)
    weights = solution.hierarchy[1].network.unflatten(solution.coefficients)[0]
    x, y = plotting.plot_edge(solution, 0, 1, 2).lines[0].get_data()
    np.testing.assert_allclose(y, weights[1, 2] * x)


@pytest.mark.parametrize(("edge", "message"), [((2, 0, 0), "`layer=2`"), ((0, 2, 0), "`p=2`"), ((0, 0, -1), "`q=-1`")])
def test_edges_that_do_not_exist_are_refused(solution, edge, message):
    with pytest.raises(KanmgValueError, match=message):
        plotting.plot_edge(solution, *edge)


def test_all_edges_of_a_layer_are_drawn_in_a_grid(solution):
    axes = plotting.plot_edges(solution, 0)
    assert axes.shape == (3, 2)
    expected = plotting.plot_edge(solution, 0, 1, 2).lines[0].get_ydata()
    np.testing.assert_array_equal(axes[2, 1].lines[0].get_ydata(), expected)
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["to output 0", "to output 1", "to output 2"]
    assert [ax.get_xlabel() for ax in axes[-1]] == ["input 0", "input 1"]


def test_what_is_no_solution_is_refused(solution):
    for draw in (plotting.plot_history, plotting.plot_network, lambda what: plotting.plot_edge(what, 0, 0, 0)):
        for wrong in (solution.history, solution.hierarchy, 5):
            with pytest.raises(KanmgTypeError, match=r"a figure of a \w+ was asked for. Pass the solution itself"):
                draw(wrong)
    with pytest.raises(KanmgValueError, match=r"`layer=0.5` does not exist: there are 2"):
        plotting.plot_edges(solution, 0.5)


def test_axes_of_the_wrong_shape_are_refused(solution):
    _, axes = plt.subplots(2, 3)
    with pytest.raises(KanmgValueError, match=r"`axes` has shape \(2, 3\) but layer 0 has 3 outputs and 2 inputs"):
        plotting.plot_edges(solution, 0, axes=axes)


def test_network_is_drawn_with_one_small_plot_per_edge(solution):
    ax = plotting.plot_network(solution)
    assert len(ax.child_axes) == 2 * 3 + 3 * 1
    assert [label.get_text() for label in ax.get_yticklabels()] == ["inputs", "hidden 1", "outputs"]
    ax.figure.canvas.draw()


def test_convergence_is_drawn_with_the_slope_of_an_order():
    cells = np.array([4, 8, 16])
    ax = plotting.plot_convergence(cells, {"a": 3.0 / cells**2, "b": 5.0 / cells**2}, order=2)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), ax.lines[2].get_ydata())
    assert ax.get_legend_handles_labels()[1] == ["a", "b", "order 2"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert plotting.plot_convergence(cells, 1.0 / cells).get_legend() is None
    with pytest.raises(KanmgValueError, match="`errors` has 2 values but `num_intervals` has 3"):
        plotting.plot_convergence(cells, [1.0, 2.0])


def test_without_matplotlib_the_error_says_what_to_install(solution, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingDependencyError, match=r"pip install kanmg\[plot\]"):
        plotting.plot_history(solution)
    with pytest.raises(ImportError):
        plotting.plot_network(solution)
