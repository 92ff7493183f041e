"""The published experiments, each by one command: `python -m kanmg.experiments NAME`.

An `Experiment` names a problem of the gallery, the `Variant`s that are trained on it, splines by kanmg (`Splines`) and
perceptrons by torch (`Perceptron`), and the `Measure`s by which they are compared. `run` writes a file for every
variant and seed and skips those that are there; `page` makes a table of them, with the paper's numbers beside, and
`draw` a figure.

Examples
--------
>>> from kanmg.experiments import EXPERIMENTS
>>> EXPERIMENTS[0].name, EXPERIMENTS[0].num_seeds
('ML-1', 5)
"""

from __future__ import annotations

from kanmg.experiments.experiment import FULL, Experiment, Instant, Measure, Size, Trained, Variant
from kanmg.experiments.figures import draw
from kanmg.experiments.perceptrons import Perceptron
from kanmg.experiments.registry import EXPERIMENTS, find
from kanmg.experiments.runner import collect, run, run_one
from kanmg.experiments.splines import Splines
from kanmg.experiments.store import Result, Store
from kanmg.experiments.table import page, table

__all__ = [
    "EXPERIMENTS",
    "FULL",
    "Experiment",
    "Instant",
    "Measure",
    "Perceptron",
    "Result",
    "Size",
    "Splines",
    "Store",
    "Trained",
    "Variant",
    "collect",
    "draw",
    "find",
    "page",
    "run",
    "run_one",
    "table",
]
