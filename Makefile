# Every target sets .venv up first; when it is up to date that takes no time.
SHELL := /bin/bash
BIN := .venv/bin
# One test process per core, at most four (each takes up to 3.5 GiB); one that is done takes over tests of another.
PARALLEL := -n logical --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-quick test-slow check docs lock build clean

help:  ## show these lines
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup:  ## install everything into .venv (Python 3.12, exact versions); nothing to do if it is there
	@bash launch/setup.sh

demo: setup  ## record demonstrations, learn three tasks in sequence with and without replay, write the report
	@$(BIN)/vla-cl demo

test: setup  ## all tests except the ones that take minutes each
	@$(BIN)/pytest $(PARALLEL)

test-quick: setup  ## the tests that need neither a simulator nor a browser
	@$(BIN)/pytest $(PARALLEL) -m "not slow and not sim and not browser"

test-slow: setup  ## the tests that take minutes each, alone
	@$(BIN)/pytest $(PARALLEL) -m slow

check: setup  ## style, formatting, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup  ## build the documentation as a site in outputs/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open outputs/site/index.html"

lock: setup  ## compile requirements/*.txt anew from pyproject.toml
	@bash launch/setup.sh lock

build: setup  ## wheel and source archive in dist/, the wheel tried in an empty environment
	@rm -rf dist
	$(BIN)/python -m hatchling build
	@bash launch/setup.sh try-wheel

clean:  ## remove caches and dist/; .venv, datasets and runs stay
	rm -rf dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
