"""Collection of the examples in README.md and docs/, and what all doctests share."""

from __future__ import annotations

from doctest import ELLIPSIS, NORMALIZE_WHITESPACE

import numpy as np
import pytest
from sybil import Sybil
from sybil.evaluators.doctest import NUMBER
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

collect_ignore = ["docs/conf.py"]

# Blocks fenced as `python`: plain code is executed, `>>>` is compared; the blocks of one page share their names. What
# must not run is fenced as `text`, or follows the HTML comment `skip: next`.
pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS | NORMALIZE_WHITESPACE | NUMBER), SkipParser()],
    patterns=["README.md", "docs/*.md"],
    fixtures=["example_surroundings"],
).pytest()


@pytest.fixture(scope="module")
def example_surroundings(tmp_path_factory):
    """Run the examples of one page or module in an empty folder, with NumPy's default print options."""
    with pytest.MonkeyPatch.context() as patch, np.printoptions(precision=8, suppress=False, linewidth=75):
        patch.chdir(tmp_path_factory.mktemp("examples"))
        yield


@pytest.fixture(autouse=True)
def _doctest_surroundings(request):
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("example_surroundings")
