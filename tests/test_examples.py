"""The examples run and reach what they show; the demonstration is run on fewer samples."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from kanmg import gallery

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    """Import an example from its file, without putting its folder on the path."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_example_is_tested():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {"by_hand", "checkpoint", "demo", "first_steps", "own_data_torch"}


def test_first_steps_fit_values_and_slopes(capsys):
    value_error, slope_error = load("first_steps").main()
    assert value_error < 2e-4
    assert slope_error < 5e-3
    assert "level  cells  coefficients" in capsys.readouterr().out


def test_noise_is_averaged_out_and_the_run_ends_early(capsys):
    example = load("own_data_torch")
    assert example.main() < example.NOISE / 3
    assert "STOPPED_EARLY" in capsys.readouterr().out


def test_an_interrupted_run_ends_with_the_same_bits(capsys):
    assert load("checkpoint").main() == 0.0
    printed = capsys.readouterr().out
    assert "STOPPED_BY_CALLBACK at step 70" in printed
    assert "FINISHED at step 150" in printed


def test_errors_fall_from_level_to_level_with_a_foreign_optimiser():
    errors = load("by_hand").main()
    assert len(errors) == 3
    assert errors[0] < 1e-2
    assert errors[2] < errors[1] < errors[0] / 5


def test_demonstration_prints_tables_and_draws_a_figure(capsys, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    demo = load("demo")
    monkeypatch.setattr(gallery, "ml1", lambda make=gallery.ml1: make(1000))
    errors = demo.main()
    printed = capsys.readouterr().out

    assert errors["multilevel"] < 1e-3
    assert errors["multilevel"] < errors["coarse level only"] / 2
    assert errors["KAN-1"] < 1e-10
    assert printed.count("non-zeros of P") == 2
    assert printed.count("work units") >= 3
    assert demo.FIGURE.read_bytes().startswith(b"\x89PNG")


def test_demonstration_works_without_matplotlib(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    demo = load("demo")
    demo.draw({})
    assert demo.FIGURE.exists() is False
    assert "pip install kanmg[plot]" in capsys.readouterr().out
