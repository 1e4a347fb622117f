# Everything a newcomer, a developer and CI need. `make` alone lists the targets.

.DEFAULT_GOAL := help
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
# The first Python on the path that is new enough; or name one: make setup PYTHON=/path/to/python
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Stamps say that an installation was finished, so that a second call has nothing to do.
SETUP := $(VENV)/.setup
DEV := $(VENV)/.dev
EXTRAS := $(VENV)/.extras

ARGS ?=
TESTS ?= tests
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
HEALTH_URL ?= http://127.0.0.1:8000/health/ready

.PHONY: help setup dev extras serve health test api-test lint bench clean \
	gate-style gate-format gate-types gate-imports gate-tests

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(SETUP) ## make .venv and install MnemoLite into it

dev: $(DEV) ## the same, with the tools of the developers

extras: $(EXTRAS) ## the optional providers too, so that no test is skipped; PyTorch is large

serve: $(SETUP) ## start the memory on 127.0.0.1:8000; options: ARGS="--port 9000"
	$(BIN)/mnemolite serve $(ARGS)

health: $(SETUP) ## ask a running server whether it is ready
	@$(BIN)/python -c "$$ASK_HEALTH" '$(HEALTH_URL)'

test: $(DEV) ## run every gate: style, format, types, imports, tests; options: TESTS=tests/unit
	@failed=''; \
	for gate in style format types imports tests; do \
		started=$$(date +%s); \
		echo "== $$gate"; \
		$(MAKE) --no-print-directory "gate-$$gate" || failed="$$failed $$gate"; \
		echo "== $$gate took $$(($$(date +%s) - started)) s"; \
	done; \
	if [ -n "$$failed" ]; then echo "FAILED:$$failed"; exit 1; fi; \
	echo "All gates passed."

api-test: $(DEV) ## run the tests of the REST interface alone
	$(PYTEST) tests/integration/api $(ARGS)

lint: gate-style gate-format gate-types gate-imports ## run the gates that need no database

bench: $(DEV) ## run the benchmarks
	@for script in benchmarks/*.py; do \
		name="benchmarks.$$(basename "$$script" .py)"; \
		echo "== $$name"; $(BIN)/python -m "$$name" $(ARGS) || exit 1; \
	done

clean: ## remove .venv and all caches; the stored memory stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

gate-style: $(DEV)
	$(BIN)/ruff check

gate-format: $(DEV)
	$(BIN)/ruff format --check

gate-types: $(DEV)
	$(BIN)/mypy

gate-imports: $(DEV)
	$(BIN)/lint-imports

gate-tests: $(DEV)
	$(PYTEST) $(TESTS) $(ARGS)

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python >= 3.11 was found. Install one, or name it: make setup PYTHON=/path/to/python"; \
		exit 1; \
	fi
	@echo "Making $(VENV) with $$($(PYTHON) --version)."
	@$(PYTHON) -m venv $(VENV) || { \
		rm -rf $(VENV); \
		echo "Python could not make a virtual environment. On Debian and Ubuntu: apt install python3-venv"; \
		exit 1; \
	}

# The interpreter is needed to be there, not to be newer than the stamp.
$(SETUP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

# Dependency groups need pip 25.1.
$(DEV): $(SETUP)
	@$(PIP) --version | awk '{ split($$2, v, "."); exit !(v[1] > 25 || (v[1] == 25 && v[2] >= 1)) }' \
		|| $(PIP) install --quiet --upgrade 'pip>=25.1'
	$(PIP) install --quiet -c constraints.txt --group dev
	@touch $@

# PyTorch goes first, on its own: a build without CUDA that is to be had satisfies the rest.
$(EXTRAS): $(DEV)
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt -e '.[sentence-transformers]' --group extras
	@touch $@

define ASK_HEALTH
import os, sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1])
if key := os.environ.get("MNEMO_API_KEY"):
    request.add_header("Authorization", f"Bearer {key}")
try:
    with urllib.request.urlopen(request, timeout=10) as answer:
        print(answer.read().decode())
except urllib.error.HTTPError as error:
    sys.exit(f"not ready: {error.read().decode()}")
except OSError as error:
    sys.exit(f"no answer from {sys.argv[1]}: {error}")
endef
export ASK_HEALTH
