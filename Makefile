# valuealign: `make` lists what can be made.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
# Where the loopback-only part of the tests runs; empty to run it on the ordinary network.
NETLESS ?= PYTHON=$(BIN)/python .ci/netless
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo browser test test-unit test-ray check format prove clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: $(STAMP)  ## the virtual environment .venv with the pinned packages

$(STAMP): pyproject.toml requirements.lock .ci/setup
	@PYTHON="$(PYTHON)" .ci/setup
	@touch $@

demo: export VALUEALIGN_HOME ?= $(CURDIR)/.valuealign
demo: setup  ## the whole road on the embedded population (KEEP=1 leaves it serving)
	@$(BIN)/python jobs/demo.py

browser:  ## Debian's Chromium, for the tests that open pages (without it they are skipped)
	@.ci/browser

test: test-unit test-ray  ## every test: first the quick ones, then those that start clusters

test-unit: setup  ## the tests that need no cluster
	OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist worksteal -m "not ray and not prove"

test-ray: setup  ## the tests that start clusters and servers, on loopback alone
	$(NETLESS) $(PYTEST) --durations=20 -m "ray and not prove"

check: setup  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict valuealign

format: setup  ## let ruff mend format and lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

prove: setup  ## the long proofs
	$(NETLESS) $(PYTEST) -m prove

clean:  ## remove what setup and the tests made (a demo's .valuealign is kept)
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
