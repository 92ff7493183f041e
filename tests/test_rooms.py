"""The order of the rooms in docs/design.md, the size of the modules, and what `import kanmg` loads."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import kanmg

PACKAGE = Path(kanmg.__file__).parent
DESIGN = PACKAGE.parent / "docs" / "design.md"
LONGEST_MODULE = 450


def rooms_of_the_page():
    """One tuple of rooms per line of docs/design.md, from the foundation to the roof.

    A room is a module or a package (`splines.knots`, `problems`); inside one line anything goes. Names without a file
    are words of the explanation.
    """
    lines = DESIGN.read_text().split("## Rooms")[1].split("```")[1].strip().splitlines()[1:]
    names = [re.findall(r"[\w/]+(?:\.py|/)(?=\s|$)", line) for line in lines]
    files = [[name for name in row if (PACKAGE / name).exists()] for row in names]
    return [tuple(re.sub(r"\.py$|/$", "", name).replace("/", ".") for name in row) for row in files]


ROOMS = rooms_of_the_page()
SIDEWAYS = ROOMS[-1]


@dataclass(frozen=True)
class Import:
    importer: str
    imported: str
    line: int
    is_lazy: bool

    def __str__(self):
        return f"kanmg/{self.importer.replace('.', '/')}.py:{self.line} imports kanmg.{self.imported}"


def module_name(path, package=PACKAGE):
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(package=PACKAGE):
    return {module_name(path, package): path for path in sorted(package.rglob("*.py"))}


def is_for_typing(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(tree, *, is_lazy=False):
    """All nodes that are executed at run time, with whether they lie inside a function."""
    for node in ast.iter_child_nodes(tree):
        yield node, is_lazy
        inside = is_lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if is_for_typing(node):
            for child in node.orelse:
                yield from statements(child, is_lazy=inside)
        else:
            yield from statements(node, is_lazy=inside)


def imported_names(node, importer, path, known):
    """The modules of the package that an import statement names, without the leading `kanmg.`."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif node.level:
        # One dot is the module's own package, which for an __init__.py is the module itself.
        parts = ["kanmg", *(importer.split(".") if importer else [])]
        base = parts[: len(parts) + (path.name == "__init__.py") - node.level]
        names = [".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names]
    else:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    for name in names:
        head, *rest = name.split(".")
        if head != "kanmg" or not rest:
            continue
        while ".".join(rest) not in known and len(rest) > 1:
            rest.pop()
        yield ".".join(rest) if ".".join(rest) in known else ""


def imports(package=PACKAGE):
    known = modules(package)
    found = (
        Import(importer, imported, node.lineno, is_lazy)
        for importer, path in known.items()
        for node, is_lazy in statements(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for imported in imported_names(node, importer, path, known)
    )
    return list(dict.fromkeys(found))


def belongs(module, room):
    return module == room or module.startswith(room + ".")


def row(module):
    """The row of a module; a package whose modules have rows of their own stands on the last of them.

    A module that the page does not name stands above all others.
    """
    rows = [i for i, rooms in enumerate(ROOMS) for room in rooms if belongs(module, room) or belongs(room, module)]
    return max(rows, default=len(ROOMS))


def is_sideways(module):
    return any(belongs(module, room) for room in SIDEWAYS)


def is_implementation(module):
    return module.startswith("evaluators.") and module != "evaluators.base"


def upward(edges):
    """The imports of something higher, the package itself included, by anything but the package itself."""
    inner = [edge for edge in edges if edge.importer]
    return [str(edge) for edge in inner if not edge.imported or row(edge.imported) > row(edge.importer)]


def expect_none(complaints):
    lines = [str(complaint) for complaint in complaints]
    assert not lines, "\n".join(lines)


# ----------------------------------------------------------------------------------------------------------- the rooms


def test_every_module_is_on_the_page():
    expect_none(module for module in modules() if module and row(module) == len(ROOMS))


def test_the_page_orders_the_rooms_that_everything_hangs_on():
    names = [room for rooms in ROOMS for room in rooms]
    anchors = ["errors", "splines.transfer", "network", "evaluators.base", "hierarchy", "problems", "cycles", "driver"]
    assert [name for name in names if name in anchors] == anchors
    assert {"gallery", "testing"} <= set(SIDEWAYS)


def test_no_room_imports_a_higher_one():
    expect_none(upward(imports()))


def test_nothing_imports_the_sideways_rooms():
    expect_none(e for e in imports() if e.importer and is_sideways(e.imported) and not is_sideways(e.importer))


def test_evaluator_implementations_are_imported_lazily_from_outside():
    eager = [
        edge
        for edge in imports()
        if is_implementation(edge.imported) and not is_implementation(edge.importer) and not is_sideways(edge.importer)
        if not edge.is_lazy
    ]
    expect_none(eager)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import kanmg.network", True),
        ("from kanmg.network import Network", True),
        ("from kanmg import network", True),
        ("from kanmg import Network", True),
        ("from .network import Network", True),
        ("def f():\n    from kanmg import network", True),
        ("if TYPE_CHECKING:\n    from kanmg.network import Network", False),
        ("from kanmg.errors import KanmgError", False),
        ("from kanmg import errors", False),
        ("import kanmgother.network", False),
    ],
)
def test_upward_edges_are_seen(tmp_path, source, expected):
    for name, text in {"__init__": "", "errors": "", "network": "", "arrays": source}.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert bool(upward(imports(tmp_path))) is expected


def test_import_kanmg_loads_nothing_heavy_but_torch():
    code = "import sys, kanmg; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert "kanmg" in run.stdout.split()
    assert not {"numba", "cupy", "matplotlib", "sklearn", "pandas"} & set(run.stdout.split())


# --------------------------------------------------------------------------------------------------------- the modules


def test_modules_are_short():
    lengths = {module: len(path.read_text().splitlines()) for module, path in modules().items()}
    expect_none(f"{module}: {length} lines" for module, length in lengths.items() if length > LONGEST_MODULE)


def public_members(module):
    """(name, object) of the functions, classes and methods that are defined in a module and have public names."""
    for name, member in vars(module).items():
        if name.startswith("_") or getattr(member, "__module__", None) != module.__name__:
            continue
        if getattr(member, "_is_protocol", False):
            yield name, member  # its methods are described where they are implemented
        elif inspect.isclass(member):
            yield name, member
            for attribute in vars(member):
                if not attribute.startswith("_") and is_documentable(vars(member)[attribute]):
                    yield f"{name}.{attribute}", getattr(member, attribute)
        elif callable(member):
            yield name, member


def is_documentable(attribute):
    return inspect.isfunction(attribute) or isinstance(attribute, (property, classmethod, staticmethod))


def test_public_functions_classes_and_methods_have_docstrings():
    names = [info.name for info in pkgutil.walk_packages(kanmg.__path__, "kanmg.")]
    expect_none(
        f"{name}.{member}"
        for name in ["kanmg", *names]
        if "._" not in name
        for member, value in public_members(importlib.import_module(name))
        if not inspect.getdoc(value)
    )
