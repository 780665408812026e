# Everything runs in .venv, which the first target that needs it makes.
#   make demo PYTHON=python3.12      chooses the interpreter
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The first interpreter on the path that runs and is new enough.
PYTHON ?= $(firstword $(foreach p,python3 python3.12 python3.11,$(shell \
	$(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(p))))

help:
	@echo 'make demo     run the main job on built-in data and print the result'
	@echo 'make test     run the tests (TESTS="tests/unit -k name" narrows, TESTS="-m slow" runs the slow ones)'
	@echo 'make lint     ruff, mypy, import-linter'
	@echo 'make bench    what detection costs, on this machine'
	@echo 'make install  only make $(VENV)'
	@echo 'make clean    remove $(VENV) and everything built'

install: $(STAMP)

$(STAMP): pyproject.toml
	@test -n '$(PYTHON)' || { echo 'no Python 3.11 or newer found; say make PYTHON=/path/to/python' >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@# setuptools warns about every editable install.
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/badexpert demo

test: $(STAMP)
	$(BIN)/python -m pytest $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m badexpert.bench.throughput --out bench-out/throughput.json $(ARGS)

clean:
	rm -rf $(VENV) build dist demo bench-out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find badexpert moe_core cli tests -name __pycache__ -type d -prune -exec rm -rf {} +
