"""Runs that are killed, files that are damaged, disks that are full: nothing is lost, and no bit changes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import kanmg
from kanmg.errors import CheckpointError, ConvergenceError, KanmgTypeError, KanmgValueError
from kanmg.smoothers.base import Smoother, StepRecord

X = np.linspace(-1, 1, 90).reshape(-1, 1)
Y = np.sin(4 * X)
HIERARCHY = kanmg.uniform_hierarchy((1, 2, 1), degree=3, num_intervals=3, num_levels=3, evaluator="reference")
FULL, BATCHED = kanmg.Regression(X, Y), kanmg.Regression(X, Y, batch_size=30)
NESTED = kanmg.NestedIteration(steps=(9, 7, 5))


@dataclass(frozen=True)
class CountedState:
    count: int
    trace: tuple[float, ...]


@dataclass(frozen=True)
class Counted(Smoother):
    """A user's own smoother: gradient steps that shrink."""

    def init(self, objective, theta):  # noqa: ARG002
        return CountedState(0, ())

    def step(self, objective, theta, state):
        loss, gradient = objective.value_and_gradient(theta)
        size = 0.1 / (1 + state.count)
        record = StepRecord(loss, float(gradient @ gradient) ** 0.5, size)
        return theta - size * gradient, CountedState(state.count + 1, (*state.trace, loss)), record


RUNS = {
    "nested L-BFGS": (FULL, NESTED, {}),
    "V-cycle, Adam, mini-batches": (
        BATCHED,
        kanmg.VCycle(kanmg.Adam(), pre_steps=2, post_steps=2, coarse_steps=3, coarse_smoother=kanmg.LBFGS()),
        {"max_cycles": 2},
    ),
    "tau, fewer samples": (
        FULL,
        kanmg.VCycle(pre_steps=2, post_steps=1, coarse_steps=3, gamma=2, variant="tau", coarse_fraction=0.5),
        {"max_cycles": 2},
    ),
    "galerkin, fewer samples": (
        FULL,
        kanmg.FullMultigrid(steps=2, coarse_steps=3, coarse_fraction=(0.3, 0.6, 1.0)),
        {},
    ),
    "galerkin": (FULL, kanmg.FullMultigrid(steps=2, coarse_steps=3), {"max_cycles": 2}),
    "idle": (FULL, kanmg.NestedIteration(steps=(40, 30, 4), idle=0.5), {}),
    "several starts": (FULL, kanmg.NestedIteration(steps=(4, 3, 2), starts=kanmg.Starts(3, steps=4, fraction=0.5)), {}),
    "Levenberg-Marquardt": (
        FULL,
        kanmg.FullMultigrid(kanmg.LevenbergMarquardt(), steps=2, coarse_steps=3, starts=2),
        {"max_cycles": 1},
    ),
    "torch": (FULL, kanmg.NestedIteration(kanmg.TorchOptimizer(torch.optim.RAdam, lr=0.01), steps=6), {}),
    "torch L-BFGS": (FULL, kanmg.NestedIteration(kanmg.TorchOptimizer(torch.optim.LBFGS, max_iter=3), steps=4), {}),
    "a user's smoother": (FULL, kanmg.NestedIteration(Counted(), steps=5), {}),
    "validation": (kanmg.Regression(X, Y, validation=0.3), NESTED, {"patience": 4, "throw": False}),
}


class Killed(Exception):  # noqa: N818 - not an error: what a test raises to end a run
    pass


def kill_at(number):
    """A callback that ends the run at its record of this number."""
    seen = []

    def callback(record):
        seen.append(record)
        if len(seen) == number:
            raise Killed

    return callback


def timeless(history):
    return repr([record._replace(seconds=0.0) for record in history])


def assert_same_run(first, second):
    assert first.coefficients.tobytes() == second.coefficients.tobytes()
    assert timeless(first.history) == timeless(second.history)
    for name in ("level", "loss", "status", "message", "work_units"):
        assert getattr(first, name) == getattr(second, name)


# ---------------------------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_that_is_ended_again_and_again_ends_with_the_same_bits(kind, tmp_path):
    problem, method, options = RUNS[kind]
    undisturbed = kanmg.solve(problem, HIERARCHY, method=method, **options)
    path, number = tmp_path / "run.kanmg", 0
    for _ in range(100):
        # After 1, 2, 3, ... records: every kind of instruction is hit, at its beginning, middle and end.
        number += 1
        try:
            resumed = kanmg.solve(
                problem, HIERARCHY, method=method, checkpoint=path, callback=kill_at(number), **options
            )
            break
        except Killed:
            continue
    assert number > 3
    assert_same_run(resumed, undisturbed)


def test_a_checkpoint_changes_nothing(tmp_path):
    with_file = kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=tmp_path / "a", checkpoint_seconds=0.0)
    assert_same_run(with_file, kanmg.solve(FULL, HIERARCHY, method=NESTED))


def test_seconds_go_on(tmp_path):
    with pytest.raises(Killed):
        kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=tmp_path / "a", callback=kill_at(12))
    resumed = kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=tmp_path / "a")
    assert (np.diff(resumed.history.column("seconds")) >= 0).all()


KILLED_PROGRAM = """
import os, random, signal, sys, time
import numpy as np
import kanmg

folder = sys.argv[1]
x = np.random.default_rng(0).uniform(-1, 1, (80, 2))
problem = kanmg.Regression(x, np.exp(x[:, 0]) * x[:, 1], batch_size=40)
hierarchy = kanmg.uniform_hierarchy((2, 2, 1), degree=2, num_intervals=2, num_levels=3, evaluator="reference")
method = kanmg.FullMultigrid(
    kanmg.Adam(),
    steps=30,
    coarse_steps=40,
    coarse_smoother=kanmg.LBFGS(),
    cycles_per_level=2,
    starts=kanmg.Starts(4, steps=25, fraction=0.5),
)


def run(checkpoint, callback=None):
    solution = kanmg.solve(
        problem, hierarchy, method=method, checkpoint=checkpoint, checkpoint_seconds=0.02, callback=callback
    )
    history = [record._replace(seconds=0.0) for record in solution.history]
    return solution.coefficients.tobytes().hex() + repr(history)


def slowly(record):
    time.sleep(0.002)


checkpoint, delays, kills = os.path.join(folder, "run.kanmg"), random.Random(1), 0
while True:
    child = os.fork()
    if child == 0:
        with open(os.path.join(folder, "killed"), "w") as file:
            file.write(run(checkpoint, slowly))
        os._exit(0)
    if kills < 10:
        time.sleep(delays.uniform(0.005, 0.12))
        os.kill(child, signal.SIGKILL)
        kills += 1
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
    assert os.WIFSIGNALED(status), "the run failed"
with open(os.path.join(folder, "undisturbed"), "w") as file:
    file.write(run(None))
print(kills, os.WIFEXITED(status))
"""


def test_ten_kills_change_no_bit(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    root = Path(kanmg.__file__).parent.parent
    command = [sys.executable, "-c", KILLED_PROGRAM, str(tmp_path)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=root, env=environment)
    assert ended.stdout.split() == ["10", "True"], ended.stderr
    killed, undisturbed = ((tmp_path / name).read_text() for name in ("killed", "undisturbed"))
    assert killed == undisturbed


# ---------------------------------------------------------------------------------------------- runs that were complete


def no_evaluation(*_):
    raise AssertionError


def test_a_finished_run_is_read_not_repeated(tmp_path, monkeypatch):
    first = kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=tmp_path / "a")
    monkeypatch.setattr(kanmg.Regression, "loss_and_gradient", no_evaluation)
    assert_same_run(kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=tmp_path / "a"), first)


def test_a_failed_run_fails_again(tmp_path):
    method = kanmg.NestedIteration(kanmg.TorchOptimizer(torch.optim.SGD, lr=1e6), steps=50)
    for _ in range(2):
        with pytest.raises(ConvergenceError) as info:
            kanmg.solve(FULL, HIERARCHY, method=method, checkpoint=tmp_path / "a")
        assert info.value.solution.status in {kanmg.Status.DIVERGED, kanmg.Status.NON_FINITE}


def test_a_finished_run_goes_on_if_more_is_asked_for(tmp_path):
    kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=tmp_path / "a")
    continued = kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=tmp_path / "a", max_cycles=3)
    assert_same_run(continued, kanmg.solve(FULL, HIERARCHY, method=NESTED, max_cycles=3))
    with pytest.raises(ConvergenceError) as info:
        kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=tmp_path / "a", atol=1e-30)
    assert info.value.solution.status is kanmg.Status.TOLERANCE_NOT_MET


def test_a_run_stopped_by_its_callback_goes_on(tmp_path):
    def stop(record):
        if record.step == 8:
            raise StopIteration

    stopped = kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=tmp_path / "a", callback=stop)
    assert stopped.status is kanmg.Status.STOPPED_BY_CALLBACK
    assert_same_run(
        kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=tmp_path / "a"),
        kanmg.solve(FULL, HIERARCHY, method=NESTED),
    )


# ----------------------------------------------------------------------------------------------------------- other runs


def other_hierarchy(**options):
    options = {"degree": 3, "num_intervals": 3, "num_levels": 3, "evaluator": "reference", **options}
    return kanmg.uniform_hierarchy((1, 2, 1), **options)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"problem": kanmg.Regression(X, Y + 1e-15)}, "`problem` is another one"),
        ({"problem": kanmg.Regression(X, Y, seed=1, batch_size=30)}, "`problem` is another one"),
        ({"hierarchy": other_hierarchy(num_levels=2), "method": NESTED}, "the hierarchy has 2 levels"),
        (
            {"hierarchy": other_hierarchy(outside="linear")},
            r"`hierarchy` has other networks \(their widths, degrees, knots or domains\)",
        ),
        ({"hierarchy": other_hierarchy(domain=(-1, 1.5))}, "`hierarchy` has other networks"),
        (
            {"method": kanmg.NestedIteration(steps=(9, 7, 6))},
            r"`method` had `steps=\(9, 7, 5\)` and now `steps=\(9, 7, 6\)`\.",
        ),
        ({"method": kanmg.NestedIteration(kanmg.LBFGS(history=4), steps=(9, 7, 5))}, r"history=4"),
        ({"seed": 5}, "`seed` was 0 and now is 5"),
        ({"initial": np.zeros(24)}, "`initial` was not given and now is"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused_by_name(changed, name, tmp_path):
    path = tmp_path / "a"
    kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=path)
    before = path.read_bytes()
    arguments = {"problem": FULL, "hierarchy": HIERARCHY, "method": NESTED, **changed}
    with pytest.raises(ValueError, match=name):
        kanmg.solve(**arguments, checkpoint=path)
    assert path.read_bytes() == before


def test_a_checkpoint_in_the_middle_of_another_method_is_that_of_another_run(tmp_path):
    def stop(record):
        if record.step == 4:
            raise StopIteration

    path = tmp_path / "a"
    first = kanmg.NestedIteration(kanmg.LevenbergMarquardt(), steps=9)
    kanmg.solve(FULL, HIERARCHY, method=first, checkpoint=path, callback=stop)
    with pytest.raises(CheckpointError, match=r"another run: `method` had `smoother=LevenbergMarq.* and now `smoother"):
        kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=path)


def test_the_refusal_says_what_to_do(tmp_path):
    kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=tmp_path / "a")
    with pytest.raises(
        CheckpointError,
        match=r"`problem` is another one .*; `seed` was 0 and now is 3.*Repeat.*delete the file",
    ) as info:
        kanmg.solve(BATCHED, HIERARCHY, method=NESTED, seed=3, checkpoint=tmp_path / "a")
    assert info.value.solution is None


# ---------------------------------------------------------------------------------------------------- damage, full disk


def test_damaged_checkpoints_are_refused_and_kept(tmp_path):
    path = tmp_path / "run.kanmg"
    kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=path)
    content = path.read_bytes()
    altered = bytearray(content)
    altered[len(content) // 2] ^= 4
    for damaged in (content[: len(content) // 2], content[:-1], bytes(altered), b""):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"run.kanmg` is damaged"):
            kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=path)
        assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    ("checkpoint", "error", "words"),
    [
        (5, KanmgTypeError, "`checkpoint=5` is a int. Pass the path of a file, or None."),
        ("", KanmgValueError, "`checkpoint` is empty"),
        ("/dev/full", CheckpointError, "`/dev/full` is no regular file, but a device, pipe or socket. Choose another"),
        ("nowhere/run", CheckpointError, r"the folder `.*nowhere` does not exist. Create it, or choose another path"),
    ],
)
def test_paths_that_are_none_are_refused(checkpoint, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=checkpoint)
    assert not list(tmp_path.iterdir())


def test_a_solution_is_no_checkpoint(tmp_path):
    kanmg.solve(FULL, HIERARCHY, method=NESTED).save(tmp_path / "a")
    with pytest.raises(CheckpointError, match="is a solution; a checkpoint is required"):
        kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=tmp_path / "a")


def test_a_disk_that_fills_up_loses_nothing(tmp_path, monkeypatch):
    path, fsync, calls = tmp_path / "run.kanmg", os.fsync, []

    def fills_up(descriptor):
        calls.append(descriptor)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fills_up)
    with pytest.raises(CheckpointError, match="cannot be written: No space left on device") as info:
        kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=path, checkpoint_seconds=0.0)
    monkeypatch.undo()
    solution = info.value.solution
    assert solution.status is kanmg.Status.CHECKPOINT_FAILED
    assert solution.loss == FULL.loss(HIERARCHY[solution.level].evaluator, solution.coefficients)
    assert solution.loss <= solution.history[0].loss
    assert [file.name for file in tmp_path.iterdir()] == ["run.kanmg"]
    resumed = kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=path)
    assert_same_run(resumed, kanmg.solve(FULL, HIERARCHY, method=NESTED))


def test_a_path_that_cannot_be_written_is_found_at_once(tmp_path):
    seen = []
    with pytest.raises(CheckpointError, match=r"cannot be written: the folder `.*no` does not exist"):
        kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=tmp_path / "no" / "a", callback=seen.append)
    assert [record.event for record in seen] == ["start"]


def test_a_full_disk_does_not_hide_the_error_that_ended_the_run(tmp_path, monkeypatch):
    def fail(record):
        if record.step == 3:
            monkeypatch.setattr(os, "fsync", no_space)
            raise ZeroDivisionError("mine")

    def no_space(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ZeroDivisionError, match="mine") as info:
        kanmg.solve(FULL, HIERARCHY, method=NESTED, checkpoint=tmp_path / "a", callback=fail)
    assert any("No space left" in note for note in info.value.__notes__)


def test_states_that_cannot_be_written_say_so(tmp_path):
    class Forgetful(Counted):
        def step(self, objective, theta, state):
            theta, _, record = super().step(objective, theta, state)
            return theta, CountedState(1, {1.0, 2.0}), record

    method = kanmg.NestedIteration(Forgetful(), steps=4)
    with pytest.raises(
        CheckpointError, match=r"a set cannot be written to a checkpoint. The state of a smoother must be"
    ):
        kanmg.solve(FULL, HIERARCHY, method=method, checkpoint=tmp_path / "a", checkpoint_seconds=0.0)


@pytest.mark.parametrize("batch_size", [None, 50])
def test_a_hidden_value_that_leaves_its_interval_loses_nothing(batch_size):
    hierarchy = kanmg.uniform_hierarchy(
        (2, 3, 1), degree=3, num_intervals=3, num_levels=2, outside="error", evaluator="reference"
    )
    x = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    problem = kanmg.Regression(x, 3.0 * np.sin(3 * x[:, 0]) * x[:, 1], batch_size=batch_size)
    smoother = kanmg.LBFGS() if batch_size is None else kanmg.Adam(step_size=0.3)
    with pytest.raises(kanmg.DomainError, match="outside='error'") as caught:
        kanmg.solve(problem, hierarchy, method=kanmg.NestedIteration(smoother, steps=200))
    solution = caught.value.solution
    assert solution.status is kanmg.Status.LEFT_DOMAIN
    assert solution.coefficients.shape == (hierarchy[solution.level].network.num_coefficients,)
    if batch_size is None:
        assert solution.loss <= solution.history[0].loss


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"method": kanmg.NestedIteration(steps=4, starts=kanmg.Starts(2, keep=2, further_steps=1))},
            r"`starts=Starts\(number=1, .*\)` and now `starts=Starts\(number=2",
        ),
        ({"method": kanmg.VCycle()}, r"run: `method` was a NestedIteration and now is a VCycle\."),
        (
            {"hierarchy": kanmg.Hierarchy([level.network for level in HIERARCHY][1:], evaluator="reference")},
            r"`hierarchy` was 3 levels of float64 on evaluator reference and now is 2 levels",
        ),
    ],
)
def test_a_checkpoint_of_another_run_says_in_words_what_differs(changes, words, tmp_path):
    options = {"problem": FULL, "hierarchy": HIERARCHY, "method": kanmg.NestedIteration(steps=4)}
    kanmg.solve(**options, checkpoint=tmp_path / "a")
    with pytest.raises(CheckpointError, match=words) as info:
        kanmg.solve(**(options | changes), checkpoint=tmp_path / "a")
    assert "array(" not in str(info.value)


def test_initial_coefficients_of_another_run(tmp_path):
    theta = np.zeros(HIERARCHY[0].network.num_coefficients)
    kanmg.solve(FULL, HIERARCHY, method=NESTED, initial=theta, checkpoint=tmp_path / "a")
    for initial, words in ((None, "`initial` was given and now is not"), (theta + 1.0, "`initial` has other coeffic")):
        with pytest.raises(CheckpointError, match=words):
            kanmg.solve(FULL, HIERARCHY, method=NESTED, initial=initial, checkpoint=tmp_path / "a")
