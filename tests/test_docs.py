"""The documentation is complete and connected. Its examples are tests of their own: see the root's conftest.py."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

import kanmg

ROOT = Path(kanmg.__file__).parent.parent
DOCS = ROOT / "docs"
REFERENCE = sorted((DOCS / "reference").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
GUIDES = [
    ROOT / "README.md",
    *(DOCS / f"{name}.md" for name in ("conventions", "how_to_state", "how_to_choose", "how_to_extend", "how_to_look")),
]
# Modules whose __all__ is the public interface.
PUBLIC = (
    "kanmg",
    "kanmg.gallery",
    "kanmg.plotting",
    "kanmg.sampling",
    "kanmg.splines",
    "kanmg.testing.cases",
    "kanmg.testing.contract",
    "kanmg.testing.networks",
    "kanmg.testing.oracle",
    "kanmg.testing.strategies",
)


def name_of(page):
    return str(page.relative_to(ROOT))


def documented():
    """What the directives of the reference name, fully qualified."""
    directive = re.compile(r"^\.\. auto(?:class|function|exception|data|module):: (\S+)$", re.MULTILINE)
    return [name for page in REFERENCE for name in directive.findall(page.read_text())]


def resolve(name):
    """The object of a dotted name: the longest importable module, then attributes."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[n:]:
            value = getattr(value, attribute)
        return value
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_in_the_reference(module):
    # By identity: `kanmg.splines.Knots` is documented as `kanmg.Knots`.
    described = {id(resolve(name)) for name in documented()}
    names = [name for name in importlib.import_module(module).__all__ if not name.startswith("__")]
    public = {f"{module}.{name}": resolve(f"{module}.{name}") for name in names}
    missing = [name for name, value in public.items() if id(value) not in described and not inspect.ismodule(value)]
    assert missing == []


def test_the_reference_names_each_thing_once_and_only_what_exists():
    names = documented()
    assert sorted({name for name in names if names.count(name) > 1}) == []
    assert all(resolve(name) is not None for name in names)


def test_every_page_is_in_a_table_of_contents():
    entries = set()
    for page in DOCS.rglob("*.md"):
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL):
            lines = [line.strip() for line in tree.splitlines() if line.strip() and not line.startswith(":")]
            entries |= {(page.parent / line).with_suffix(".md").resolve() for line in lines}
    assert entries == {page.resolve() for page in DOCS.rglob("*.md")} - {(DOCS / "index.md").resolve()}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_pages_for_users_have_examples_that_print(page):
    assert re.search(r"^```python\n.*?^>>> .*?^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_changelog_has_a_numerics_heading_for_every_version():
    versions = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    assert versions
    assert all("### Numerics" in version for version in versions)
