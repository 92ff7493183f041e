"""Sphinx configuration: `make docs`."""

from __future__ import annotations

import kanmg

project = "kanmg"
author = "the kanmg authors"
copyright = "2026, the kanmg authors"  # noqa: A001  (Sphinx's name)
release = version = kanmg.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx.ext.mathjax", "numpydoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "kanmg"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
# Single backquotes link to what they name, if the reference has it.
default_role = "py:obj"

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": False}
# Signatures show the types; the docstrings say shapes and dtypes.
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
