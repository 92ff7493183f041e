"""Interrupt a run and go on: the result is the same to the last bit. Then save the solution and load it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import kanmg
from kanmg import gallery


def main() -> float:
    """Return the largest difference between an interrupted run and one in one go."""
    model = gallery.franke()
    hierarchy = model.hierarchy()
    method = kanmg.NestedIteration(kanmg.LBFGS(), steps=50)
    undisturbed = kanmg.solve(model.problem, hierarchy, method=method)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.kanmg"
        interrupted = kanmg.solve(model.problem, hierarchy, method=method, checkpoint=path, callback=stop_at_step_70)
        print(f"{interrupted.status.name} at step {interrupted.history[-1].step}: {interrupted.message}")
        resumed = kanmg.solve(model.problem, hierarchy, method=method, checkpoint=path)
        print(f"{resumed.status.name} at step {resumed.history[-1].step}, loss {resumed.loss:.2e}")

        resumed.save(Path(folder) / "franke.kanmg")
        loaded = kanmg.load(Path(folder) / "franke.kanmg")

    difference = float(np.abs(loaded.coefficients - undisturbed.coefficients).max())
    print(f"largest difference from an undisturbed run: {difference}")
    return difference


def stop_at_step_70(record: kanmg.Record) -> None:
    """Stand in for whatever ends a run too early."""
    if record.step == 70:
        raise StopIteration


if __name__ == "__main__":
    main()
