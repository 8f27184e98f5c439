# Every target sets up what it needs: only make and a CPython >= 3.11 have to be there.
#
#   make demo PYTHON=python3.12        another interpreter
#   make test VENV=.venv-0.10 JAX='jax==0.10.*'   another environment, a certain JAX
#   make test ARGS='-k markowitz -x'   further arguments for the program that the target runs

PYTHON ?= python3
VENV   ?= .venv
JAX    ?=
ARGS   ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint format types imports doctest docs house generated bench clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-9s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Counts, agreement and timings on the Roe flux and the robot arm.
	@$(BIN)/python -m benchmarks.demo $(ARGS)

test: $(VENV)/.installed-test ## The test suite.
	@$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

lint: $(VENV)/.installed-dev ## Formatting and lint rules, as checked in CI.
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --diff --quiet .; exit 1; }
	@$(BIN)/ruff check --quiet .

format: $(VENV)/.installed-dev ## Reformat the code and apply the safe lint fixes.
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

types: $(VENV)/.installed-dev ## The type checkers, on the code and on what users see of it.
	@$(BIN)/mypy --no-error-summary $(ARGS)
	@$(BIN)/mypy --no-error-summary tests/types/expected_types.py
	@log=$$($(BIN)/pyright --project pyproject.toml --pythonpath $(BIN)/python 2>&1) || { echo "$$log"; exit 1; }

imports: $(VENV)/.installed-dev ## The layering of the modules.
	@log=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$log"; exit 1; }

doctest: $(VENV)/.installed-test ## The examples in the docstrings.
	@JAX_CCE_REGISTRY=off $(BIN)/python -m pytest -q --doctest-modules jax_cce search/jax_cce_search --ignore jax_cce/jaxls.py $(ARGS)

docs: $(VENV)/.installed-docs ## The documentation site, into site/.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet $(ARGS)

house: $(BIN)/python ## The rooms, the imports between them, cycles; draws the picture of them.
	@$(BIN)/python docs/house.py $(ARGS)
	@$(BIN)/python docs/house.py --svg docs/pictures/house.svg

generated: $(VENV)/.installed-test ## All pages and pictures that a program writes, anew.
	@$(BIN)/python docs/house.py --svg docs/pictures/house.svg
	@$(BIN)/python docs/generate_coverage.py
	@JAX_CCE_REGISTRY=off $(BIN)/python docs/spy.py --svg docs/pictures/spy.svg
	@$(BIN)/python docs/speed_ups.py --svg docs/pictures/speed-ups.svg
	@$(BIN)/python -m benchmarks report --write
	@$(BIN)/python -m benchmarks.searches --load
	@$(BIN)/python -m benchmarks.policies --load
	@$(BIN)/python -m benchmarks.policies --curves

bench: $(VENV)/.installed ## The measured tables: programs, counts, overhead, bottleneck, dense, time, orders, searches.
	@$(BIN)/python -m benchmarks run $(ARGS)
	@$(BIN)/python -m benchmarks.counts
	@$(BIN)/python -m benchmarks.overhead
	@$(BIN)/python -m benchmarks.bottleneck
	@$(BIN)/python -m benchmarks.dense
	@$(BIN)/python -m benchmarks.time
	@$(BIN)/python -m benchmarks.roofline
	@$(BIN)/python -m benchmarks.orders
	@$(BIN)/python -m benchmarks.searches --speed

clean: ## Remove the environment, the site and all caches.
	rm -rf $(VENV) site build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'jax_cce needs Python >= 3.11, and $(PYTHON) is not that.' \
	       'Name one that is: make PYTHON=python3.12 ...' >&2; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version)" >&2
	@$(PYTHON) -m venv $(VENV) || { \
	  echo 'The venv module does not work; on Debian and Ubuntu: apt install python3-venv' >&2; \
	  rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo 'Installing jax_cce into $(VENV)' >&2
	@$(PIP) install --editable . $(JAX)
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@echo 'Installing jax_cce[$*] into $(VENV)' >&2
	@$(PIP) install --editable '.[$*]' $(JAX)
	@touch $@
