# Everyday acts, each one command. Two are all that a newcomer needs: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SAY := @printf '\n\033[1m%s\033[0m\n'
ifeq ($(MAKE_TERMOUT),)
SAY := @printf '\n%s\n'
endif

.DEFAULT_GOAL := help
.PHONY: help demo test lint format images bench chaos attack fuzz compose lock sbom audit setup setup-dev clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: images ## start everything, run a real project's tests in containers, and look at it with psql
	@$(BIN)/python -m scripts.demo $(DEMO)

test: setup-dev ## everything that CI checks: format, lint, types, layers, tests
	@$(BIN)/python scripts/images
	@$(MAKE) --no-print-directory lint
	$(SAY) 'tests'
	@$(BIN)/python -m scripts.tests

lint: setup-dev ## format, lint, strict types, the direction of imports, and luacheck
	$(SAY) 'format and lint'
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	$(SAY) 'types'
	@$(BIN)/basedpyright
	$(SAY) 'layers'
	@$(BIN)/lint-imports
	$(SAY) 'Lua'
	@luacheck --quiet plugins examples sandbox runner cli/first_pipeline.lua

format: setup-dev ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix --quiet .

images: setup ## build the stand-in images from Debian packages, and the map that names them
	@$(BIN)/python scripts/images

bench: images ## the benchmarks, in their short form; `python -m bench NAME` runs one in full
	@$(BIN)/python -m bench process --quick
	@$(BIN)/python -m bench crowd --quick
	@$(BIN)/python -m bench pipeline --quick
	@$(BIN)/python -m bench queue --quick
	@$(BIN)/python -m bench submit --quick
	@$(BIN)/python -m bench idle --quick
	@$(BIN)/python -m bench logs --quick
	@$(BIN)/python -m bench modules --quick
	@$(BIN)/python -m bench redact --quick

chaos: images setup-dev ## break everything at random for 20 minutes, then check every promise
	@$(BIN)/python -m tests.chaos --seconds 1200 --json

fuzz: setup-dev ## ask the whole API what schemathesis makes up, as everybody, for some minutes
	@MOONYARD_FUZZ=30 $(BIN)/python -m pytest -q --timeout 3600 tests/orchestrator/test_schemathesis.py

attack: images setup-dev ## try to get out of everything, and say what got through: nothing should
	@$(BIN)/python -m tests.attack

compose: images setup-dev ## build the image, and run all of compose.yaml with a job through it
	@$(BIN)/python -m tests.compose

lock: ## write the lock files anew from pyproject.toml (needs uv)
	@scripts/lock

sbom: setup-dev ## write what an installation is made of to build/moonyard.cdx.json (CycloneDX)
	@$(BIN)/python -m scripts.sbom

audit: setup-dev ## ask the package index whether a locked package is unsafe, or was taken back
	@$(BIN)/python -m scripts.audit

setup: ## install what is missing: Podman from Debian, the locked Python packages into .venv
	@scripts/setup $(PYTHON) $(VENV) requirements.lock

setup-dev: ## the same with what tests and checks need
	@scripts/setup $(PYTHON) $(VENV) requirements-dev.lock
	@scripts/test-packages

clean: ## remove the virtual environment and what demo and tests left in the checkout
	@rm -rf $(VENV) .moonyard .pytest_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
