# Two commands set everything up on a fresh machine: `make quickstart` and `make test`. See README.md.

PYTHON ?= python3
VENV ?= .venv
# Extra words for pip, e.g. PIP_ARGS="--index-url …" for a CPU-only build of torch.
PIP_ARGS ?=
# Extra words for the command, e.g. ARGS="--text my-notes/" or ARGS="-k recipe".
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := athanor bench tests
# One thread a process: the tests run two processes, and spinning OpenMP threads on busy cores cost up to 14 times.
QUIET := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

SHELL := bash
.PHONY: help setup quickstart test test-slow test-parallel lint format schema lock bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(VENV)/.deps-run ## virtual environment with what Athanor needs

quickstart: setup ## raw text to a chat model, minutes on two CPU cores (run again: it resumes)
	$(BIN)/athanor quickstart $(ARGS)

test: $(VENV)/.deps-test lint ## everything a change must pass: lint, format, types, tests
	$(QUIET) $(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

test-slow: $(VENV)/.deps-test ## the tests that take minutes
	$(QUIET) $(BIN)/python -m pytest -m slow --timeout 3600 $(ARGS)

test-parallel: $(VENV)/.deps-test ## every layout of 2, 4 and 8 ranks, dense and with experts
	$(QUIET) $(BIN)/python -m pytest tests/parallel -n 2 -m "slow or not slow" --ignore tests/parallel/test_bubble.py $(ARGS)
	$(QUIET) $(BIN)/python -m pytest tests/parallel/test_bubble.py -m "slow or not slow" $(ARGS)  # it measures time: alone

lint: $(VENV)/.deps-test ## ruff and mypy
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: $(VENV)/.deps-test ## rewrite the sources in the house format
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

schema: $(VENV)/.deps-run ## rewrite recipes/schema.json, which editors read
	$(BIN)/athanor recipe schema --out recipes/schema.json

lock: $(VENV)/.deps-test ## rewrite constraints.txt from the environment (the peers in bench/ have their own pins)
	$(BIN)/python -m pip freeze --exclude-editable --exclude athanor | sed 's/+cpu$$//' \
	  | grep -viE "^($$(sed -n 's/==.*//p' bench/requirements.txt | paste -sd'|'))==" > constraints.txt

bench: $(VENV)/.deps-bench ## training throughput against peers on this CPU
	$(BIN)/python bench/train_cpu.py $(ARGS)

clean: ## caches and build products (not the environment, not runs/)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find athanor bench tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Athanor needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)

# torch first and alone: it is by far the largest download, and an interrupted set-up then resumes after it.
$(VENV)/.deps-run: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install $(PIP_ARGS) -c constraints.txt torch
	$(PIP) install $(PIP_ARGS) -c constraints.txt -e .
	touch $@

$(VENV)/.deps-test: $(VENV)/.deps-run
	$(PIP) install $(PIP_ARGS) -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/.deps-bench: $(VENV)/.deps-run bench/requirements.txt
	$(PIP) install $(PIP_ARGS) -c constraints.txt -e '.[bench]'
	$(PIP) install $(PIP_ARGS) --no-deps -r bench/requirements.txt
	touch $@
