"""Files: arrays in safetensors, everything else in JSON, a hash over both, and writing that is all or nothing.

A file is never executed when it is read: there is no pickle, and a dataclass in it is rebuilt only if the reader named
its class. What was written comes back to the last bit: floats pass through Python's shortest exact decimal form or as
arrays.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as parse_arrays
from safetensors.numpy import save as serialise_arrays

from kanmg.errors import CheckpointError, KanmgTypeError, KanmgValueError
from kanmg.vectors import to_host

if TYPE_CHECKING:
    from collections.abc import Callable

    from kanmg.evaluators.base import Array

__all__ = ["FORMAT_VERSION", "describe", "pack", "read_file", "unpack", "write_file"]

FORMAT_VERSION = 1

# Keys of a JSON object that stands for something JSON does not have.
_ARRAY, _TENSOR, _SCALAR, _TUPLE, _MAPPING, _DATACLASS = "$array", "$tensor", "$scalar", "$tuple", "$dict", "$class"
# Beside a tensor: that it was not on the CPU.
_DEVICE = "device"


# ----------------------------------------------------------------------------------------------------- values and trees


def pack(value: Any) -> tuple[Any, dict[str, Array]]:
    """Split a value into a tree that JSON can hold and the arrays that it refers to.

    Parameters
    ----------
    value : object
        None, bool, int, float, str, NumPy scalars and arrays, torch tensors on any device, and lists, tuples,
        dictionaries and dataclasses of these.

    Returns
    -------
    tree : object
        Of dictionaries, lists, strings, numbers and None.
    arrays : dict of str to ndarray

    Raises
    ------
    CheckpointError
        If there is anything else in it.

    Examples
    --------
    >>> import numpy as np
    >>> tree, arrays = pack({"step": 3, "moments": (np.zeros(2), np.ones(2))})
    >>> tree
    {'$dict': [['step', 3], ['moments', {'$tuple': [{'$array': '0'}, {'$array': '1'}]}]]}
    >>> sorted(arrays)
    ['0', '1']
    """
    arrays: dict[str, Array] = {}
    return _pack(value, arrays), arrays


def _pack(value: Any, arrays: dict[str, Array]) -> Any:
    """Pack one value, adding its arrays to those found so far."""
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, np.generic)):
        return value
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return _pack_array(value, arrays)
    if isinstance(value, Mapping):
        return {_MAPPING: [[_pack(key, arrays), _pack(item, arrays)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [_pack(item, arrays) for item in value]
        return items if isinstance(value, list) else {_TUPLE: items}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _pack(getattr(value, field.name), arrays) for field in dataclasses.fields(value)}
        return {_DATACLASS: type(value).__qualname__, "fields": fields}
    raise CheckpointError(
        f"a {type(value).__name__} cannot be written to a checkpoint. The state of a smoother must be a dataclass of "
        "arrays, numbers, strings, None, and lists, tuples and dictionaries of these."
    )


def _pack_array(value: Any, arrays: dict[str, Array]) -> dict[str, str]:
    """Set an array, tensor or NumPy scalar aside, and say where."""
    kind = _TENSOR if isinstance(value, torch.Tensor) else _ARRAY if isinstance(value, np.ndarray) else _SCALAR
    name = str(len(arrays))
    arrays[name] = np.array(to_host(value), order="C")
    return {kind: name, _DEVICE: value.device.type} if kind == _TENSOR and _is_elsewhere(value) else {kind: name}


def _is_elsewhere(tensor: torch.Tensor) -> bool:
    """Whether a tensor is not on the CPU."""
    return tensor.device.type != "cpu"


def unpack(
    tree: Any,
    arrays: Mapping[str, Array],
    classes: Mapping[str, type] | None = None,
    device: torch.device | None = None,
) -> Any:
    """Rebuild what `pack` took apart.

    Parameters
    ----------
    tree : object
    arrays : mapping of str to ndarray
    classes : mapping of str to type, optional
        The dataclasses that may occur, by their qualified names. No others are built.
    device : torch.device, optional
        Where tensors go that were not on the CPU; there by default.

    Returns
    -------
    object

    Raises
    ------
    CheckpointError
        If there is a dataclass in it that `classes` does not have, or one whose fields have changed.

    Examples
    --------
    >>> unpack(*pack([1, (2.5, None)]))
    [1, (2.5, None)]
    """
    if isinstance(tree, list):
        return [unpack(item, arrays, classes, device) for item in tree]
    if not isinstance(tree, dict):
        return tree
    kind = next(iter(tree))
    content = tree[kind]
    if kind in {_ARRAY, _TENSOR, _SCALAR}:
        return _array(kind, arrays[content], device if _DEVICE in tree else None)
    if kind == _TUPLE:
        return tuple(unpack(item, arrays, classes, device) for item in content)
    if kind == _MAPPING:
        pairs = (tuple(unpack(item, arrays, classes, device) for item in pair) for pair in content)
        return dict(pairs)
    fields = {name: unpack(item, arrays, classes, device) for name, item in tree["fields"].items()}
    return _rebuild(content, fields, classes or {})


def _array(kind: str, array: Array, device: torch.device | None) -> Any:
    """Return an array, tensor or NumPy scalar."""
    if kind == _TENSOR:
        return torch.from_numpy(array).to(device)
    return array if kind == _ARRAY else array[()]


def _rebuild(name: str, fields: dict[str, Any], classes: Mapping[str, type]) -> Any:
    """Make a dataclass without calling its constructor, which may check or convert."""
    cls = classes.get(name)
    if cls is None or {field.name for field in dataclasses.fields(cls)} != set(fields):
        raise CheckpointError(
            f"the file holds a `{name}` with the fields {sorted(fields)}, which this program does not know. It was "
            "written with another version of kanmg or of your smoother; delete the file to start anew."
        )
    value: Any = object.__new__(cls)
    for field, item in fields.items():
        object.__setattr__(value, field, item)
    return value


# ---------------------------------------------------------------------------------------------------------------- files


def checked_path(path: Any, name: str, otherwise: str = "") -> Path:
    """Check what was given as the path of a file.

    Parameters
    ----------
    path : object
    name : str
        Of the argument.
    otherwise : str
        What else it may be, e.g. ", or None".

    Raises
    ------
    KanmgTypeError, KanmgValueError
        If it is no path, or empty.
    """
    if not isinstance(path, str | os.PathLike):
        raise KanmgTypeError(f"`{name}={path!r}` is a {type(path).__name__}. Pass the path of a file{otherwise}.")
    if not os.fspath(path):
        raise KanmgValueError(f"`{name}` is empty. Pass the path of a file{otherwise}.")
    return Path(path)


def write_file(path: str | os.PathLike[str], kind: str, value: Any) -> None:
    """Write a value to a file, all or nothing.

    Whatever happens on the way (a full disk, a crash, a power cut), `path` then holds either all of the new content or
    all of the old.

    Parameters
    ----------
    path : path-like
        Replaced if it exists.
    kind : str
        What the file is, e.g. "solution"; asked for when it is read.
    value : object
        As for `pack`.

    Raises
    ------
    CheckpointError
        If the file cannot be written, or is no regular file. What was there before is untouched.

    Notes
    -----
    The content goes to a temporary file in the same folder and is flushed to the disk before it is renamed over `path`;
    then the folder is flushed, so that the new name survives a power cut too.
    """
    tree, arrays = pack(value)
    document = json.dumps({"kind": kind, "version": FORMAT_VERSION, "content": tree})
    metadata = {"kanmg": document, "sha256": _digest(document, arrays)}
    _replace(Path(os.path.realpath(path)), serialise_arrays(arrays, metadata))


def _replace(path: Path, content: bytes) -> None:
    """Put new content in a file's place."""
    # The name is fixed, so that the left-overs of a killed process are overwritten, not collected.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        _refuse_devices(path)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)
    except FileNotFoundError as error:
        is_there = path.parent.is_dir()
        what, remedy = ("takes no new files", "Choose") if is_there else ("does not exist", "Create it, or choose")
        raise CheckpointError(
            f"`{path}` cannot be written: the folder `{path.parent}` {what}. {remedy} another path."
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"`{path}` cannot be written: {error.strerror or error}. An earlier file of this name is untouched. Free "
            "space on the disk, make the folder writable, or choose another path."
        ) from error


def _refuse_devices(path: Path) -> None:
    """Refuse devices, pipes and sockets: reading them may never end, and a rename would replace them."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise CheckpointError(f"`{path}` is no regular file, but a device, pipe or socket. Choose another path.")


def _flush_folder(folder: Path) -> None:
    """Make a rename durable, where folders can be opened (not on Windows)."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_file(
    path: str | os.PathLike[str],
    kind: str,
    classes: Mapping[str, type] | None = None,
    *,
    check: Callable[[Any], None] | None = None,
    device: torch.device | None = None,
) -> Any:
    """Read what `write_file` wrote, and refuse anything else.

    Parameters
    ----------
    path : path-like
    kind : str
        What the file must be.
    classes : mapping of str to type, optional
        As for `unpack`.
    check : callable, optional
        Called with the entry "fingerprint" of a mapping before the rest is unpacked, so that it can refuse what has
        classes of its own.
    device : torch.device, optional
        As for `unpack`.

    Returns
    -------
    object

    Raises
    ------
    FileNotFoundError
        If there is no file.
    CheckpointError
        If it cannot be read, is no regular file, was truncated or altered, is no kanmg file, of another kind, or of a
        newer version.
    """
    try:
        _refuse_devices(Path(path))
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"`{path}` cannot be read: {error.strerror or error}.") from error
    if not _is_ours(content):
        raise CheckpointError(f"`{path}` is no kanmg {kind}, but some other file. Choose another path.")
    document, arrays = _verified(path, content)
    if document["version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"`{path}` has format version {document['version']}, but this version of kanmg reads up to "
            f"{FORMAT_VERSION}. Upgrade kanmg to read it."
        )
    if document["kind"] != kind:
        raise CheckpointError(f"`{path}` is a {document['kind']}; a {kind} is required. {_REMEDY[kind]}")
    if check is not None:
        check(unpack(dict(document["content"][_MAPPING])["fingerprint"], arrays))
    return unpack(document["content"], arrays, classes, device)


_REMEDY = {
    "solution": "`kanmg.load` reads what `solution.save` wrote; `kanmg.solve(..., checkpoint=path)` reads checkpoints.",
    "checkpoint": "Pass as `checkpoint` the path of one, or of no file yet; `kanmg.load` reads solutions.",
}


# How safetensors begins a file of ours, after eight bytes: its header, and one of the names that kanmg puts there.
_HEADER = b'{"__metadata__":{'
_NAMES = (b'"kanmg":', b'"sha256":')


def _is_ours(content: bytes) -> bool:
    """Whether kanmg wrote a file, which may have been truncated or altered since."""
    is_beginning = not any(content[4:8]) and any((_HEADER + name).startswith(content[8:]) for name in _NAMES)
    return is_beginning or any(name in content for name in _NAMES)


def _verified(path: str | os.PathLike[str], content: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """Take a file's content apart if its hash is right."""
    try:
        metadata = _metadata(content)
        document, stored = metadata["kanmg"], metadata["sha256"]
        # A private copy: arrays that view the file's bytes would be read-only.
        arrays = {name: np.array(array) for name, array in parse_arrays(content).items()}
        if _digest(document, arrays) == stored:
            parsed: dict[str, Any] = json.loads(document)
            return parsed, arrays
        found = "its content does not match the hash stored in it"
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        found = f"it is not a kanmg file, or its beginning or end is missing ({type(error).__name__})"
    raise CheckpointError(
        f"`{path}` is damaged: {found}. If kanmg wrote it, it was truncated or altered since: restore a copy, or "
        "move it away and start anew."
    )


def _metadata(content: bytes) -> dict[str, str]:
    """Read the string-to-string map in the header of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata


def _digest(document: str, arrays: Mapping[str, Array]) -> str:
    """SHA-256 of the JSON text and of every array's name, dtype, shape and bytes."""
    digest = hashlib.sha256(document.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------------- descriptions


def describe(value: Any) -> str:
    """Describe a configuration by its values alone, the same in every process.

    Dataclasses are described field by field, classes and functions by their module and name, and arrays by a hash; so
    two descriptions are equal exactly if the configurations are, also where `repr` would print an address.

    Parameters
    ----------
    value : object

    Returns
    -------
    str

    Examples
    --------
    >>> import torch
    >>> describe((torch.optim.SGD, 0.5))
    '(torch.optim.sgd.SGD, 0.5)'
    """
    if isinstance(value, type | FunctionType):
        code = getattr(value, "__code__", None)
        return f"{value.__module__}.{value.__qualname__}{_digest(code.co_code.hex(), {})[:8] if code else ''}"
    if isinstance(value, np.ndarray):
        return f"array({_digest('', {'': value})[:16]})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{describe(key)}: {describe(item)}" for key, item in value.items()) + "}"
    if dataclasses.is_dataclass(value):
        fields = (f"{field.name}={describe(getattr(value, field.name))}" for field in dataclasses.fields(value))
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(describe, value)) + ")"
    return repr(value)
