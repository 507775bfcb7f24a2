# Every target makes its own environment in .venv first (once; tools/environment.py), from requirements.lock.
# Other Python: make PYTHON=/path/to/python3.11 ...      More options to the program behind a target: make test ARGS="-k mimi"

.DEFAULT_GOAL := help
.PHONY: help run test test-quick test-lane check docs charts images bench clean lock env

PYTHON ?= python3.11 python3 python
BIN := .venv/bin

help:  ## print these lines
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  make \1\t\2/p' Makefile | expand -t 20

run: env  ## corpus to spoken answer: ingest, tokenise, train, export, judge, register, serve, speak
	$(BIN)/csm run $(ARGS)

test: env  ## everything that proves the product on this machine, on two cores; ARGS go to pytest
	$(BIN)/python tools/lanes.py main -- $(ARGS)

test-quick: env  ## what a change touches, and the rules of the house, in three minutes; ARGS="--list" says which
	$(BIN)/python tools/affected.py $(ARGS)

test-lane: env  ## the tests that take long or need more: LANE=images, cluster, kills, company or avx2; docs/testing.md
	$(BIN)/python tools/lanes.py $(LANE) -- $(ARGS)

check: env  ## lint, format, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: env  ## the docs site, build/docs/site/index.html; a broken link is an error
	$(BIN)/python tools/docs.py $(ARGS)

charts: env  ## schemas and pages of the charts, and their tests: lint, render, validate, policies, rules
	$(BIN)/python tools/charts.py --check
	$(BIN)/python -m pytest tests/charts $(ARGS)

images: env  ## container images, by docker, podman or buildah: ARGS="--python-digest sha256:... [--push]", docs/images.md
	$(BIN)/python tools/images.py $(ARGS)

bench: env  ## measure again what the documents say of speed
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" $(ARGS); done

clean:  ## remove .venv, caches and build outputs; runs/ stays
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

lock: env  ## write requirements.lock from pyproject.toml; ARGS=--upgrade takes the newest versions
	$(BIN)/python tools/lock.py $(ARGS)

env:  ## make .venv, or bring it up to the lock
	@for python in $(PYTHON); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then exec "$$python" tools/environment.py; fi; \
	done; \
	echo "error: no Python 3.11 among: $(PYTHON); install python3.11, or name one: make PYTHON=/path/to/python3.11" >&2; exit 2
