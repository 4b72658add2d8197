# make quickstart   install into .venv, run the whole loop on the embedded task, print the path of report.html
# make test         install with the test extra, then ruff, the room order (import-linter) and pytest
# make parity       install torch, transformers and trl beside jaxprm into .venv-parity, then compare models and text with theirs
# make clean        remove .venv, .venv-parity and caches (runs/ stays)
#
# PYTHON=...        the interpreter to build .venv with (default: the first of python3, python3.13, 3.12, 3.11 that fits)
# PYTEST_ARGS=...   more arguments for pytest, e.g. PYTEST_ARGS="tests/data -x"
# PARITY=...        more requirements of .venv-parity, e.g. PARITY="transformers<5" (run make clean before another choice)

SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c "$(SUPPORTED)" 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart test parity clean
.DEFAULT_GOAL := quickstart

quickstart: .venv/core.stamp
	$(BIN)/jaxprm quickstart

test: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

parity: .venv-parity/stamp
	.venv-parity/bin/python -m pytest tests/parity $(PYTEST_ARGS)

clean:
	rm -rf .venv .venv-parity .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second call start at once; a change of pyproject.toml installs again.
.venv/core.stamp: pyproject.toml | .venv/bin/python
	@echo "Installing jaxprm into .venv ..."
	$(PIP) --editable .
	@touch $@

.venv/test.stamp: pyproject.toml | .venv/bin/python
	@echo "Installing jaxprm with its test tools into .venv ..."
	$(PIP) --editable ".[test]"
	@touch $@ .venv/core.stamp

.venv-parity/stamp: pyproject.toml | .venv-parity/bin/python
	@echo "Installing jaxprm with torch, transformers and trl into .venv-parity ..."
	.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test,parity]" $(foreach \
		requirement,$(PARITY),"$(requirement)")
	@touch $@

%/bin/python:
	@test -n "$(PYTHON)" || { echo "error: jaxprm needs Python 3.11, 3.12 or 3.13 with the venv module (Debian, Ubuntu:\
	 apt install python3-venv); found $$(python3 --version 2>&1). Name one with: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(PYTHON) -c "$(SUPPORTED)" || { echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13 with the venv module" >&2; exit 2; }
	$(PYTHON) -m venv $*
