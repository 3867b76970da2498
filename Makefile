# Each target works as the first command on a fresh clone: it makes .venv, installs, fetches data, runs.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Overrides for reproven: make reproduce-zero_one ARGS="hardware=cuda jobs=1"
ARGS ?=
TIER ?= cpu
# Two processes of tests; the tests of one file stay together, for what they share.
PYTEST_ARGS ?= -n 2 --dist loadfile
PAPERS := $(notdir $(patsubst %/,%,$(dir $(wildcard experiments/*/README.md))))

.DEFAULT_GOAL := help

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z%_-]+:.*## /{printf "  %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  papers: $(PAPERS)"

setup: $(READY)  ## make .venv and install everything

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev,docs]'
	@touch $@

test: $(READY)  ## all tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

coverage: $(READY)  ## the tests of the harness and of the data provider, with a floor under what they cover
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not slow and not mutation" --cov --cov-report=term:skip-covered \
	  tests/unit/harness tests/unit/data tests/e2e/test_command_line.py tests/e2e/test_regress.py

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

quick: $(READY)  ## all papers at the smoke tier: the first look
	$(BIN)/reproven data fetch $(PAPERS) tier=smoke
	$(BIN)/reproven reproduce $(PAPERS) tier=smoke $(ARGS)

plan: $(READY)  ## what would run, what is done or blocked, how long it takes
	$(BIN)/reproven plan tier=$(TIER) $(ARGS)

reproduce: $(READY)  ## all papers at the cpu tier
	$(BIN)/reproven data fetch $(PAPERS) tier=$(TIER)
	$(BIN)/reproven reproduce $(PAPERS) tier=$(TIER) $(ARGS)

reproduce-%: $(READY)  ## one paper at the cpu tier
	$(BIN)/reproven data fetch $* tier=$(TIER)
	$(BIN)/reproven reproduce $* tier=$(TIER) $(ARGS)

report: $(READY)  ## tables and figures of the runs at hand, and the README's table
	$(BIN)/reproven report

verify: $(READY)  ## recompute every table from run folders and compare
	$(BIN)/reproven verify

accept: $(READY)  ## make the present values the accepted ones: make accept REASON="why"
	$(BIN)/reproven accept --reason "$(REASON)"

regress: $(READY)  ## rerun the headline subset (smoke and what is fast at cpu) and compare with the accepted values
	$(BIN)/reproven regress $(ARGS)

mutate: $(READY)  ## break each method in a known way: the gate must turn red each time
	$(BIN)/python -m pytest -m mutation tests/mutation

audit: $(READY)  ## the papers' printed numbers against themselves
	$(BIN)/reproven audit

docs: $(READY)  ## the documentation site, in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: $(READY)  ## ratios against peers, measured in one run
	$(BIN)/reproven bench $(ARGS)

.PHONY: help setup test coverage lint quick plan reproduce report verify accept regress mutate audit docs bench
