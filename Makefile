# Everyday acts, each one command. Two are all that a newcomer needs: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types images bench lock setup clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: ## install what is missing: Podman from Debian, the locked Python packages into .venv
	@scripts/setup $(PYTHON) $(VENV) requirements.lock

setup-dev: ## the same with what tests and checks need
	@scripts/setup $(PYTHON) $(VENV) requirements-dev.lock
	@scripts/test-packages

images: setup ## build the stand-in images from Debian packages, and the map that names them
	@$(BIN)/python scripts/images

demo: images ## start everything, run a real project's tests in containers, and look at it with psql
	@$(BIN)/python -m scripts.demo

test: setup-dev ## everything that CI checks: lint, format, types, layers, tests
	@$(BIN)/python scripts/images
	@$(MAKE) --no-print-directory lint
	@$(BIN)/pytest -q

lint: ## formatting, lint, strict types, the direction of imports
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports
	@luacheck --quiet plugins examples sandbox

format: ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix --quiet .

bench: images ## the benchmarks, in their short form
	@$(BIN)/python -m bench process --quick --json
	@$(BIN)/python -m bench pipeline --quick --json

lock: ## write the lock files anew from pyproject.toml (needs uv)
	@scripts/lock

clean: ## remove the virtual environment and what demo and tests left in the checkout
	@rm -rf $(VENV) .moonyard .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
