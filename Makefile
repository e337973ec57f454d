# vtpm-ca. `make help` lists the targets; each one does its own set-up.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long lint bench lock clean

OUT ?=
HOLD ?=
PYTEST ?= -n 2 --dist loadfile --no-loadscope-reorder

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## install Debian packages and the locked Python environment (.venv)
	@scripts/setup dev

demo: ## run the whole story: from nothing to a certified vTPM, then two attacks (HOLD=1 OUT=DIR keeps it up)
	@scripts/setup runtime
	@.venv/bin/python -m vtpm.lab.demo $(if $(OUT),--out "$(OUT)") $(if $(filter-out 0,$(HOLD)),--hold)

test: ## run the test suite (everything but the long runs)
	@scripts/setup dev
	@.venv/bin/pytest -m "not slow" $(PYTEST)

test-long: ## run the long soak and fuzz runs, and each property with all of its examples
	@scripts/setup dev
	@.venv/bin/pytest -m slow --timeout=3600
	@.venv/bin/pytest -m "hypothesis and not slow" --hypothesis-profile=full --timeout=3600

lint: ## ruff, mypy strict, import-linter
	@scripts/setup dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: ## print a table of ratios and write build/bench.json
	@scripts/setup dev
	@.venv/bin/python tests/bench/__main__.py

lock: ## renew requirements/*.txt from pyproject.toml
	@scripts/lock

clean: ## remove what the other targets made
	rm -rf .venv .venv-keylime .venv-pkilint build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
