# One command each. Every target sets up what it needs, from a fresh clone, with an empty home directory.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

VENV ?= .venv
BIN := $(VENV)/bin
# The order of the tests is shuffled. A fixed seed makes two runs of one commit equal; `make test SEED=$$RANDOM` is another order.
SEED ?= 20240229
# How many processes play the tests at once. Each starts servers and enclaves of its own, so more than there are cores is slower.
WORKERS ?= 2
ARGS ?=

READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.ready-docs
LOCK_READY := $(VENV)/.ready-lock
FUZZ_READY := $(VENV)/.ready-fuzz

# Nothing below may be changed by somebody's environment.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONWARNINGS PYTEST_ADDOPTS
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.PHONY: help setup demo test lint format docs assurance conformance fuzz bench bench-peers sbom build lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## Make the virtual environment from the lock (every other target does this by itself)

$(READY): requirements/dev.txt pyproject.toml scripts/bootstrap.sh
	@scripts/bootstrap.sh "$(VENV)" requirements/dev.txt
	@touch $@

$(DOCS_READY): requirements/docs.txt $(READY)
	@$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements/docs.txt
	@touch $@

$(LOCK_READY): requirements/lock.txt $(READY)
	@$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements/lock.txt
	@touch $@

$(FUZZ_READY): requirements/fuzz.txt $(READY)
	@$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements/fuzz.txt
	@touch $@

demo: $(READY) ## Play the whole story with all real parts
	@$(BIN)/aigovtool demo $(ARGS)

test: $(READY) ## Run the tests (ARGS="-k budget" for some of them)
	@scripts/debian-packages.sh
	@scripts/tpm-library.sh "$(VENV)"
	@$(BIN)/python -m pytest -p no:cacheprovider -q -p randomly --randomly-seed=$(SEED) \
		-n $(WORKERS) --dist worksteal $(ARGS)

lint: $(READY) ## Check style, types and import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache

format: $(READY) ## Format the code, and fix what can be fixed safely
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: $(DOCS_READY) ## Build the documentation into site/ (a warning is an error)
	@$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going --nitpicky -b dirhtml docs site
	@echo "site/index.html"

assurance: $(READY) ## Search for a broken promise until every target is met; many hours (QUICK=1: ten minutes)
	@$(BIN)/python -m assurance $(if $(QUICK),--quick) $(ARGS)

conformance: $(READY) ## Ask a verifier about every vector of the conformance suite (ARGS='--command "my-verifier"' for another one)
	@$(BIN)/python -m conformance $(ARGS)

fuzz: $(FUZZ_READY) ## Search malformed evidence, guided by the code that it reaches (ARGS="tdx -max_total_time=600")
	@$(BIN)/python -m fuzz $(ARGS)

bench: $(READY) ## Measure what it costs, and write docs/benchmarks.md (LONG=1: logs of ten million entries; ARGS="--dry" only prints)
	@scripts/debian-packages.sh
	@$(BIN)/python -m bench $(if $(LONG),--entries 0,1000000,10000000 --leases 10,100000) $(ARGS)

bench-peers: $(READY) ## The same, beside other servers, each installed into an environment of its own under .peers/
	@scripts/debian-packages.sh
	@scripts/bench-peers.sh .peers
	@$(BIN)/python -m bench --peers $(ARGS)

sbom: $(READY) ## Write the list of parts of what a user installs, dist/aigovtool.cdx.json (EXTRA=enclave: of one role)
	@mkdir -p dist
	@$(BIN)/python scripts/sbom.py $(EXTRA) > dist/aigovtool.cdx.json
	@echo "dist/aigovtool.cdx.json"

build: $(READY) ## Build wheel and source archive into dist/, the same bytes for the same commit
	@mkdir -p dist
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -c \
		'from flit_core import buildapi; buildapi.build_wheel("dist"), buildapi.build_sdist("dist")'
	@sha256sum dist/aigovtool-*

lock: $(LOCK_READY) ## Bring the locks up to pyproject.toml (UPGRADE=1 also takes newer versions)
	@scripts/lock.sh "$(BIN)/uv" $(if $(UPGRADE),--upgrade)

clean: ## Remove everything that can be made again
	@rm -rf "$(VENV)" site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
