# Every target works on a fresh clone with Python 3.11 or newer and make: it makes .venv, installs what it needs at the
# versions of constraints.txt, and leaves a stamp so that the next call starts at once.
#
#   make PYTHON=/path/to/python test      chooses the interpreter
#   make PYTEST_ARGS="tests/test_rooms.py -x" WORKERS=0 test

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first interpreter that is new enough and can make virtual environments; looked for only when one is needed.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	"$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
	echo "$$python" && break; done)
PYTEST_ARGS ?=
# Test processes, each with one thread unless a test asks for more; the examples of one page share a process.
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test lint bench docs clean

help:  ## Show the targets
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 14

demo: $(STAMPS)/plot  ## Train on two model problems; print tables, write a figure
	$(BIN)/python examples/demo.py

test: $(STAMPS)/test  ## Run all tests, docstring examples and documentation examples
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile $(PYTEST_ARGS)

lint: $(STAMPS)/lint  ## Check style and types
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

bench: $(STAMPS)/bench  ## Run asv's benchmarks and the comparison with pykan
	@$(BIN)/python -m asv machine --yes >/dev/null
	$(BIN)/python -m asv run --python=same --quick --show-stderr
	$(BIN)/python benchmarks/versus_pykan.py

docs: $(STAMPS)/docs  ## Build the documentation in docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going --quiet -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:  ## Remove the virtual environment and everything that was built
	rm -rf $(VENV) build dist docs/_build .asv .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with venv was found; say: make PYTHON=/path/to/python" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

# torch comes first and alone, so that pip settles its build (CPU or CUDA) before anything depends on it; the build tools come before the
# package, so that they are pinned too.
$(STAMPS)/core: constraints.txt pyproject.toml | $(BIN)/python
	$(INSTALL) torch
	$(INSTALL) hatchling editables
	$(INSTALL) --no-build-isolation --editable .
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/%: $(STAMPS)/core
	$(INSTALL) --no-build-isolation --editable '.[$*]'
	@touch $@
