"""The published experiments: every variant trains, runs go on where they were cut off, tables say what they should."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import kanmg
from kanmg import gallery
from kanmg.errors import KanmgValueError, MissingDependencyError
from kanmg.experiments import EXPERIMENTS, Experiment, Measure, Result, Size, Splines, Store, collect, find, page, run
from kanmg.experiments.command import main
from kanmg.experiments.experiment import FULL, Variant, mean_square, relative_l2, rms
from kanmg.experiments.figures import draw, reached
from kanmg.experiments.ml3 import burgers_on_a_grid
from kanmg.experiments.perceptrons import LossOfPerceptron, Perceptron
from kanmg.experiments.schedules import Triangular, in_relu_basis, nested, nested_adam
from kanmg.experiments.splines import cost_of_finest, shortened
from kanmg.experiments.table import mean_and_deviation

TINY = Size(steps=0.002, points=0.1)


def small_model(seed, size):
    return gallery.least_squares(size.num_points(200), seed=seed)


def small_experiment(**changes):
    options = {
        "name": "small",
        "title": "a sine",
        "source": "nowhere",
        "make": small_model,
        "measures": (Measure("MSE", mean_square), Measure("training loss")),
        "num_seeds": 2,
        "variants": (
            Splines(name="nested", paper={"MSE": "1e-3 (2e-4)"}, method=nested(kanmg.LBFGS(), 5, 5, 5, 5)),
            Splines(name="fine", level=-1, method=nested(kanmg.LBFGS(), 20)),
            Perceptron(name="MLP", widths=(1, 4, 1), steps=20, beyond=True, most_seeds=1),
        ),
        "notes": "- Chosen: everything.\n",
    }
    return Experiment(**(options | changes))


# ------------------------------------------------------------------------------------------------------ the experiments


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_every_variant_trains_and_is_in_the_table(experiment, tmp_path):
    results = run(experiment, tmp_path, num_seeds=1, size=TINY, progress=False)
    assert [result.variant for result in results] == [variant.name for variant in experiment.variants]
    text = page(experiment, results, TINY)
    for variant, result in zip(experiment.variants, results, strict=True):
        assert f"| {variant.name} " in text
        assert set(result.measures) == {measure.name for measure in experiment.measures}
        assert all(paper in text for paper in variant.paper.values())
        assert result.num_parameters > 0
        assert result.work > 0.0
        lengths = {len(column) for column in result.course.values()}
        assert len(lengths) == 1
        assert result.course["errors"][-1] == result.measures[experiment.error_name()]
        assert result.course["work"] == sorted(result.course["work"])
    files = [Store(tmp_path, experiment.name, TINY).path(variant.name, 0) for variant in experiment.variants]
    assert len(set(files)) == len(files)


def test_the_parameters_are_those_of_the_paper():
    numbers = {
        "ML-1": [55, 80, 130, 230],
        "ML-2": [140, 220, 380, 700],
        "ML-3": [3420, 5520, 9720],
        "ML-4": [280, 440, 760, 1400],
    }
    for name, expected in numbers.items():
        hierarchy = find(name).make(0, TINY).hierarchy(evaluator="reference")
        assert [level.network.num_coefficients for level in hierarchy] == expected


def test_burgers_on_a_grid_is_solved_by_the_cole_hopf_solution():
    model = burgers_on_a_grid(16)
    start = model.problem.terms[1].points
    assert np.allclose(model.exact(start)[:, 0], -np.sin(np.pi * start[:, 0]), atol=1e-12)
    # u_t + u u_x - nu u_xx by central differences of the exact solution, away from the start.
    x = np.array([[0.3, 0.5], [-0.7, 0.8], [0.05, 0.3]])
    step = 1e-4

    def shifted(dx, dt):
        return model.exact(x + np.array([[dx * step, dt * step]]))[:, 0]

    middle = shifted(0, 0)
    u_t = (shifted(0, 1) - shifted(0, -1)) / (2 * step)
    u_x = (shifted(1, 0) - shifted(-1, 0)) / (2 * step)
    u_xx = (shifted(1, 0) - 2 * middle + shifted(-1, 0)) / step**2
    assert np.abs(u_t + middle * u_x - 0.01 * u_xx).max() < 1e-4


# ---------------------------------------------------------------------------------------------------------- the runner


def without_seconds(results):
    plain = [dataclasses.asdict(result) for result in results]
    for document in plain:
        del document["seconds"], document["course"]["seconds"]
    return json.dumps(plain)


def test_a_run_that_was_cut_off_goes_on_to_the_same_table(tmp_path):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Fragile(Splines):
        fails: bool = True

        def train(self, model, seed, size, *, progress):
            if self.fails and seed == 1:
                raise KeyboardInterrupt
            return super().train(model, seed, size, progress=progress)

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    experiment = small_experiment()
    expected = run(experiment, whole, progress=False)
    assert [(result.variant, result.seed) for result in expected] == [
        ("nested", 0),
        ("fine", 0),
        ("MLP", 0),
        ("nested", 1),
        ("fine", 1),
    ]
    fragile = Fragile(name="fine", level=-1, method=nested(kanmg.LBFGS(), 20))
    first, _, last = experiment.variants
    with pytest.raises(KeyboardInterrupt):
        run(small_experiment(variants=(first, fragile, last)), cut, progress=False)
    assert len(list((cut / "runs").iterdir())) == 4
    computed = []
    resumed = run(experiment, cut, progress=False, report=computed.append)
    assert len(computed) == 1
    assert computed[0].startswith("fine, seed 1: MSE ")
    assert without_seconds(resumed) == without_seconds(expected)
    assert without_seconds(collect(experiment, cut)) == without_seconds(collect(experiment, whole))
    assert run(experiment, cut, progress=False, report=computed.append) == resumed
    assert len(computed) == 1


def test_watching_changes_no_bit_and_the_course_ends_at_the_solution():
    model = gallery.least_squares(200)
    variant = Splines(name="nested", method=nested(kanmg.LBFGS(), 5, 5, 5, 5))
    trained = variant.train(model, 3, FULL, progress=False)
    method = kanmg.NestedIteration(kanmg.LBFGS(), steps=(5, 5, 5, 5))
    solution = kanmg.solve(model.problem, model.hierarchy(), method=method, seed=3, progress=False)
    assert np.array_equal(trained.function.coefficients, solution.coefficients)
    assert trained.work == solution.work_units
    assert [instant.level for instant in trained.course] == sorted(instant.level for instant in trained.course)
    assert {instant.level for instant in trained.course} == {0, 1, 2, 3}
    for instant in trained.course:
        values = instant.function(model.x)
        assert np.mean((values - model.y) ** 2) == pytest.approx(instant.loss, rel=1e-10)


def test_the_course_of_standardised_values_is_in_the_units_of_the_data():
    model = gallery.least_squares(200)
    large = dataclasses.replace(model, y=1000 * model.y, problem=kanmg.Regression(model.x, 1000 * model.y))
    trained = Splines(name="nested", method=nested(kanmg.LBFGS(), 5, 5, 5, 5)).train(large, 0, FULL, progress=False)
    last = trained.course[-1]
    assert np.mean((last.function(large.x) - large.y) ** 2) == pytest.approx(last.loss, rel=1e-8)


def test_the_unit_of_work_is_the_finest_level_of_the_experiment():
    model = gallery.ml1(200)
    ratio = cost_of_finest(model) / model.problem.work(model.hierarchy(num_levels=1)[0].evaluator)
    method = nested(kanmg.Adam(), 10)
    whole = Splines(name="fine", level=-1, method=method).train(model, 0, FULL, progress=False)
    coarse = Splines(name="coarse", level=0, method=method).train(model, 0, FULL, progress=False)
    assert whole.work / coarse.work == pytest.approx(ratio)


def test_the_relu_basis_begins_at_the_same_function():
    model = gallery.ml1(300)
    both = [
        Splines(name="x", level=0, method=nested(smoother, 1)).train(model, 0, FULL, progress=False)
        for smoother in (kanmg.Adam(1e-12), in_relu_basis(kanmg.Adam(1e-12)))
    ]
    assert both[0].loss == pytest.approx(both[1].loss, rel=1e-6)


def test_shortened_methods_keep_fewer_steps_and_starts():
    method = kanmg.NestedIteration(
        steps=60, starts=kanmg.Starts(16, steps=30), continuation=kanmg.Continuation(stages=3, steps=50)
    )
    short = shortened(method, Size(steps=0.1))
    assert (short.steps, short.starts.number, short.starts.steps) == (6, 2, 3)
    assert (short.continuation.stages, short.continuation.steps) == (3, 5)
    assert shortened(method, FULL) is method


# ------------------------------------------------------------------------------------------------------ the perceptrons


def line(hierarchy, slopes, constant):
    """Coefficients of one layer of splines for a linear function."""
    layer = hierarchy[0].network.layers[0]
    array = np.stack([slope * knots.greville for slope, knots in zip(slopes, layer.knots, strict=True)])[:, :, None]
    array[0] += constant
    return hierarchy[0].network.flatten([array])


@pytest.mark.parametrize(
    ("model", "slopes"),
    [(gallery.kan2(40, 40), (0.3, -0.7)), (gallery.ml2(6), (0.3, -0.7, 0.9)), (burgers_on_a_grid(8), (0.3, -0.7))],
    ids=["KAN-2", "ML-2", "ML-3"],
)
def test_a_perceptron_and_splines_of_the_same_function_have_the_same_loss(model, slopes):
    hierarchy = model.hierarchy(widths=(len(slopes), 1), num_levels=1, lift=None, evaluator="reference")
    theta = line(hierarchy, slopes, 0.2)
    network = torch.nn.Linear(len(slopes), 1, dtype=torch.float64)
    with torch.no_grad():
        network.weight[:] = torch.tensor(slopes, dtype=torch.float64)
        network.bias[:] = 0.2
    # A line has no second derivatives for automatic differentiation to find: a square with no weight gives it some.
    loss = LossOfPerceptron(model, Curved(network))
    assert loss.value().item() == pytest.approx(model.problem.loss(hierarchy[0].evaluator, theta), rel=1e-9)


class Curved(torch.nn.Module):
    def __init__(self, line):
        super().__init__()
        self.line = line

    def forward(self, x):
        return self.line(x) + 0.0 * (x**3).sum(dim=1, keepdim=True)


def test_a_perceptron_learns_a_line():
    x = np.linspace(-1, 1, 50).reshape(-1, 1)
    model = dataclasses.replace(small_model(0, FULL), x=x, y=2 * x, problem=kanmg.Regression(x, 2 * x))
    options = (("line_search_fn", "strong_wolfe"), ("tolerance_change", 0.0), ("tolerance_grad", 0.0))
    variant = Perceptron(name="MLP", widths=(1, 3, 1), optimizer=torch.optim.LBFGS, options=options, steps=20)
    trained = variant.train(model, 0, FULL, progress=False)
    assert trained.loss < 1e-6
    assert trained.num_parameters == 10
    assert trained.course[0].loss > 1e3 * trained.loss
    assert np.abs(trained.function(x) - 2 * x).max() < 1e-2


def test_the_same_seed_gives_the_same_perceptron():
    model, variant = small_model(0, FULL), Perceptron(name="MLP", widths=(1, 4, 1), steps=5)
    first, again, other = (variant.train(model, seed, FULL, progress=False).loss for seed in (1, 1, 2))
    assert first == again != other


# -------------------------------------------------------------------------------------------------------- the schedules


def test_the_triangular_schedule_is_torchs_cyclic_one():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CyclicLR(
        optimizer, base_lr=1e-4, max_lr=5e-3, step_size_up=50, cycle_momentum=False
    )
    schedule = Triangular(1e-4 / 5e-3, 100)
    for count in range(250):
        assert 5e-3 * schedule(count) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_adam_gets_the_schedule():
    method = nested_adam(1e-2, 100, 50, schedule=Triangular(0.1, 10))(Size(steps=0.1))
    assert method.steps == (10, 5)
    assert method.smoother == kanmg.Adam(1e-2, schedule=Triangular(0.1, 10))


# --------------------------------------------------------------------------------------------------- tables and figures


def result(variant, seed, mse, **changes):
    course = {"work": [1.0, 5.0], "seconds": [0.1, 0.2], "levels": [0, 1], "losses": [1.0, 0.5], "errors": [2.0, mse]}
    return Result(variant, seed, {"MSE": mse, "training loss": 0.5}, 7, 5.0, 0.2, "", course, **changes)


def test_the_table_shows_ours_beside_the_papers():
    results = [result("nested", 0, 1e-3), result("nested", 1, 3e-3), result("MLP", 0, math.nan)]
    text = page(small_experiment(), results, Size(0.5, 0.25))
    assert text.startswith("# small: a sine\n\nnowhere.\n\nA smaller version (0.5 of the steps, 0.25 of the points)")
    assert "- Chosen: everything." in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[0][:5] == ["variant", "parameters", "MSE", "median", "paper"]
    assert rows[2] == ["nested", "7", "2.00e-03 (1.0e-03)", "2.00e-03", "1e-3 (2e-4)", "5.00e-01 (0.0e+00)", "5.00e-01",
                       "5", "0.2", "2"]  # fmt: skip
    assert rows[-1][:4] == ["MLP", "7", "1 failed", "-"]
    assert text.index("## As in the paper") < text.index("## Beyond the paper")
    assert "smaller version" not in page(small_experiment(), results)


def test_numbers_of_tables():
    assert mean_and_deviation([1.0, 2.0, math.nan, math.inf]) == "1.50e+00 (5.0e-01), 2 failed"
    values, exact = np.array([[1.0], [3.0]]), np.array([[0.0], [1.0]])
    assert mean_square(values, exact) == 2.5
    assert rms(values, exact) == pytest.approx(2.5**0.5)
    assert relative_l2(values, exact) == pytest.approx(5.0**0.5)


def test_the_lowest_so_far_is_drawn(tmp_path):
    own = result("nested", 0, 3.0)
    assert reached(np.array([0.5, 1.0, 4.0, 9.0]), own, "errors")[1:].tolist() == [2.0, 2.0, 2.0]
    assert np.isnan(reached(np.array([0.5]), own, "losses"))[0]
    path = tmp_path / "new" / "figure.png"
    draw(small_experiment(), [own, result("MLP", 0, 1.0)], path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_is_a_table_and_a_message(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'kanmg\[plot\]'"):
        draw(small_experiment(), [], tmp_path / "figure.png")
    monkeypatch.setattr("kanmg.experiments.registry.EXPERIMENTS", (small_experiment(),))
    assert main(["small", "--output", str(tmp_path), "--only", "nested"]) == 0
    printed = capsys.readouterr()
    assert "No figure: figures need matplotlib." in printed.err
    assert "| nested " in (tmp_path / "table.md").read_text()
    assert not (tmp_path / "figure.png").exists()


# ----------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr("kanmg.experiments.registry.EXPERIMENTS", (small_experiment(),))


def test_without_a_name_the_experiments_are_listed(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {experiment.name} " in printed for experiment in EXPERIMENTS)
    assert len(printed.strip().splitlines()) == 2 + len(EXPERIMENTS)


def test_the_module_is_a_command():
    command = [sys.executable, "-m", "kanmg.experiments", "ML-7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().startswith("there is no experiment 'ML-7'. Use one of ML-1, ")


@pytest.mark.usefixtures("_small")
def test_the_command_runs_writes_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["SMALL", "--list"]) == 0
    assert capsys.readouterr().out.split() == ["nested", "fine", "MLP"]
    assert main(["small", "--seeds", "1"]) == 0
    assert capsys.readouterr().out.count(", seed 0: MSE ") == 3
    folder = tmp_path / "experiments" / "small"
    assert {path.name for path in folder.iterdir()} == {"experiment.txt", "runs", "table.md", "figure.png"}
    assert main(["small", "--seeds", "2", "--only", "nested"]) == 0
    assert capsys.readouterr().out.count(", seed 1: MSE ") == 1
    assert "| fine " in (folder / "table.md").read_text()
    assert main(["small", "--quick"]) == 0
    assert "A smaller version" in (tmp_path / "experiments" / "small-quick" / "table.md").read_text()


def test_an_interrupted_command_writes_what_there_is(tmp_path, monkeypatch, capsys):
    class Interrupted(Variant):
        def train(self, *_, **__):
            raise KeyboardInterrupt

    variants = (*small_experiment().variants, Interrupted(name="last"))
    monkeypatch.setattr("kanmg.experiments.registry.EXPERIMENTS", (small_experiment(variants=variants),))
    assert main(["small", "--output", str(tmp_path)]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert "| fine " in (tmp_path / "table.md").read_text()


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small", "--only", "coarse"], "`--only coarse` is in the name of no variant of small. Use a part of one of"),
        (["small", "--seeds", "0"], "`--seeds 0` runs nothing. Pass at least 1."),
        (["large"], "there is no experiment 'large'. Use one of small."),
    ],
)
def test_what_cannot_be_run_is_said(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--output", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_two_variants_of_one_name_are_refused():
    variant = small_experiment().variants[0]
    with pytest.raises(KanmgValueError, match="several variants of the name nested"):
        small_experiment(variants=(variant, variant))


# -------------------------------------------------------------------------------------------------------------- storage


def test_results_come_back_with_their_bits(tmp_path):
    store = Store(tmp_path, "small", FULL)
    own = result("a variant, with: signs", 3, 0.1 + 0.2)
    assert store.read(own.variant, 3) is None
    store.write(own)
    assert store.read(own.variant, 3) == own
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a-variant-with-signs.3.json"]
    store.write(result("nested", 0, math.inf))
    assert math.isnan(store.read("nested", 0).measures["MSE"])


def test_files_that_are_no_results_are_refused(tmp_path):
    store = Store(tmp_path, "small", FULL)
    store.write(result("nested", 0, 1.0))
    for other in (Store(tmp_path, "large", FULL), Store(tmp_path, "small", TINY)):
        with pytest.raises(KanmgValueError, match=r"belongs to .* Give another folder by `--output`"):
            other.read("nested", 0)
    path = store.path("nested", 0)
    for text in ("", "{}", path.read_text()[:-20], "[1]", path.read_text().replace('"seed"', '"sead"')):
        path.write_text(text)
        with pytest.raises(KanmgValueError, match=r"is no result of an experiment.* Delete it"):
            store.read("nested", 0)


def test_a_folder_belongs_to_one_experiment(tmp_path):
    Store(tmp_path / "own", "KAN-1", TINY).claim()
    with pytest.raises(KanmgValueError, match=r"holds results of KAN-1, not of ML-1. Give another folder"):
        Store(tmp_path / "own", "ML-1", TINY).claim()
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(KanmgValueError, match=r"nothing can be written to .*file.*Give another folder"):
        run(find("KAN-1"), tmp_path / "file" / "deeper", num_seeds=1, size=TINY, progress=False)
