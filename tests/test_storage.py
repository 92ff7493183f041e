"""Files: every bit comes back, what was damaged is refused, what was there before survives a failure."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from kanmg.errors import CheckpointError
from kanmg.storage import FORMAT_VERSION, describe, pack, read_file, unpack, write_file

ANYTHING = {"numbers": [1, -(2**70), 0.1, True, None, "text"], 3: (np.arange(6.0).reshape(2, 3), {"deep": [()]})}


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    mean: np.ndarray
    count: int
    inner: object = None


# ---------------------------------------------------------------------------------------------------------------- trees


def flat(value):
    """All leaves of a nested container with their types, arrays and numbers as bytes."""
    if isinstance(value, dict):
        parts = [part for item in value.items() for part in item]
    elif dataclasses.is_dataclass(value):
        parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif isinstance(value, list | tuple):
        parts = value
    elif isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return [(type(value), value.dtype, value.shape, np.asarray(value).tobytes())]
    else:
        return [(type(value), struct.pack("d", value) if isinstance(value, float) else value)]
    return [(type(value), len(parts)), *(leaf for part in parts for leaf in flat(part))]


def same(a, b):
    """Whether two nested containers are equal to the last bit, types included."""
    return flat(a) == flat(b)


@pytest.mark.parametrize(
    "value",
    [
        ANYTHING,
        [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, math.inf, -math.inf, math.nan],
        [np.float64(1 / 3), np.float32(1 / 3), np.int64(7), np.bool_(True)],
        [np.zeros(()), np.zeros((0, 3)), np.zeros(3, np.float32), np.array([True]), np.arange(3, dtype=np.int64)],
        np.asfortranarray(np.random.default_rng(0).normal(size=(3, 4))),
        np.random.default_rng(0).normal(size=(6, 4))[::2, ::-1],
        [torch.arange(3.0), torch.tensor(2.5, dtype=torch.float64)],
        State(np.ones(2), 3, State(np.zeros(1, np.float32), 4, (None, {"a": 1.5}))),
        {},
        [(), [], {}],
    ],
)
def test_everything_comes_back_to_the_last_bit(value, tmp_path):
    assert same(unpack(*pack(value), {"State": State}), value)
    write_file(tmp_path / "file", "solution", value)
    assert same(read_file(tmp_path / "file", "solution", {"State": State}), value)


def test_arrays_come_back_writeable(tmp_path):
    write_file(tmp_path / "file", "solution", np.zeros(3))
    array = read_file(tmp_path / "file", "solution")
    array[0] = 1.0
    assert array.flags.owndata


def test_what_cannot_be_written_is_refused():
    with pytest.raises(CheckpointError, match="a set cannot be written to a checkpoint"):
        pack({"state": {1, 2}})
    with pytest.raises(CheckpointError, match="a type cannot be written"):
        pack(State)


def test_unknown_dataclasses_are_not_built():
    tree, arrays = pack(State(np.zeros(1), 0))
    with pytest.raises(CheckpointError, match=r"holds a `State` with the fields .* which this program does not know"):
        unpack(tree, arrays, {})
    tree["fields"]["more"] = 1
    with pytest.raises(CheckpointError, match="another version"):
        unpack(tree, arrays, {"State": State})


# --------------------------------------------------------------------------------------------------------------- damage


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "file.kanmg"
    write_file(path, "checkpoint", ANYTHING)
    return path


def test_every_truncation_is_refused(written):
    content = written.read_bytes()
    for length in range(0, len(content), 7):
        written.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="is damaged"):
            read_file(written, "checkpoint")


def test_additions_are_refused(written):
    written.write_bytes(written.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_file(written, "checkpoint")


def test_every_flipped_bit_is_refused(written):
    content = written.read_bytes()
    for position in range(len(content)):
        altered = bytearray(content)
        altered[position] ^= 1 << (position % 8)
        written.write_bytes(altered)
        with pytest.raises(CheckpointError, match="is damaged"):
            read_file(written, "checkpoint")


@pytest.mark.parametrize(
    "content", [b"hello", b"%PDF-1.7 and so on", bytes(100), save({"a": np.zeros(2)}), save({}, {"format": "pt"})]
)
def test_files_of_others_are_not_called_damaged(tmp_path, content):
    (tmp_path / "theirs").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"theirs` is no kanmg checkpoint, but some other file. Choose another"):
        read_file(tmp_path / "theirs", "checkpoint")
    assert (tmp_path / "theirs").read_bytes() == content


def test_newer_formats_and_other_kinds_are_refused(written, monkeypatch):
    with pytest.raises(CheckpointError, match=r"is a checkpoint; a solution is required. `kanmg.load` reads"):
        read_file(written, "solution")
    monkeypatch.setattr("kanmg.storage.FORMAT_VERSION", FORMAT_VERSION + 1)
    write_file(written, "checkpoint", ANYTHING)
    monkeypatch.undo()
    with pytest.raises(
        CheckpointError, match=f"has format version {FORMAT_VERSION + 1}, but .* reads up to {FORMAT_VERSION}"
    ):
        read_file(written, "checkpoint")


def test_a_missing_file_is_missing_and_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "missing", "checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        read_file(tmp_path, "checkpoint")


# ------------------------------------------------------------------------------------------------------------- failures


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("function", ["os.fsync", "pathlib.Path.replace"])
def test_a_full_disk_leaves_the_old_file(written, monkeypatch, function):
    monkeypatch.setattr(function, no_space)
    with pytest.raises(CheckpointError, match=r"file.kanmg` cannot be written: No space left on device") as info:
        write_file(written, "checkpoint", "new")
    monkeypatch.undo()
    assert isinstance(info.value.__cause__, OSError)
    assert same(read_file(written, "checkpoint"), ANYTHING)
    assert [path.name for path in written.parent.iterdir()] == ["file.kanmg"]


def test_a_file_that_may_not_grow_leaves_the_old_one(written):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(CheckpointError, match="cannot be written: File too large"):
            write_file(written, "checkpoint", np.zeros(1 << 18))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same(read_file(written, "checkpoint"), ANYTHING)
    assert [path.name for path in written.parent.iterdir()] == ["file.kanmg"]


def test_folders_that_are_none_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"file` cannot be written: the folder `.*nowhere` does not exist"):
        write_file(tmp_path / "nowhere" / "file", "checkpoint", 1)
    (tmp_path / "plain").write_text("")
    with pytest.raises(CheckpointError, match=r"plain/file` cannot be written: Not a directory"):
        write_file(tmp_path / "plain" / "file", "checkpoint", 1)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no folder that takes no files")
def test_folders_that_take_no_files_are_not_called_missing():
    with pytest.raises(CheckpointError, match=r"the folder `/proc` takes no new files. Choose another path"):
        write_file("/proc/a.kanmg", "checkpoint", 1)


def test_what_is_no_regular_file_is_neither_read_nor_replaced(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(CheckpointError, match=r"is no regular file, but a device, pipe or socket. Choose another"):
            write_file(path, "checkpoint", 1)
        with pytest.raises(CheckpointError, match=r"is no regular file"):
            read_file(path, "checkpoint")
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_links_are_followed_and_modes_are_those_of_new_files(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    write_file(target, "checkpoint", 1)
    link.symlink_to(target)
    write_file(link, "checkpoint", 2)
    assert link.is_symlink()
    assert read_file(target, "checkpoint") == 2
    plain = tmp_path / "plain"
    plain.write_text("")
    assert target.stat().st_mode == plain.stat().st_mode


# --------------------------------------------------------------------------------------------------------- descriptions


def half(count):
    return 0.5**count


def test_descriptions_tell_configurations_apart():
    values = [
        State(np.zeros(2), 1),
        State(np.zeros(2), 2),
        State(np.zeros(3), 1),
        State(np.ones(2), 1),
        half,
        torch.optim.SGD,
        torch.optim.Adam,
        {"lr": 0.1},
        {"lr": 0.2},
        (1, 2),
        (1, (2,)),
        lambda count: 0.5**count,
        lambda count: count * 0.5 + 1,
    ]
    descriptions = [describe(value) for value in values]
    assert len(set(descriptions)) == len(values)
    assert descriptions == [describe(value) for value in values]
    assert not any(" at 0x" in description for description in descriptions)
