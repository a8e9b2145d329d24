# Everything a clone needs: `make help` lists it. Needs make and Python 3.11 or 3.12, nothing else.
#
# Variables: PYTHON=path/to/python   the Python to build the environment with
#            VENV=folder             where the environment goes
#            TORCH_INDEX=url         the index to take torch from (a build for another CUDA, say)
#            PROMPT="..."            what `make video` shows
#            PYTEST_FLAGS="..."      further words for pytest

VENV ?= .venv
BIN := $(VENV)/bin
PROMPT ?= a red circle moves left on a black background
VIDEO ?= out/video.mp4
PYTEST_FLAGS ?=
# Two workers with a thread each: the tests are many and small, and torch's own threads would only
# fight over the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup video test test-long check format nano clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.dev ## build the environment with all tools for development

video: $(VENV)/.runtime ## build the environment and make a video with nano
	@mkdir -p "$(dir $(VIDEO))"
	$(BIN)/mochi generate "$(PROMPT)" --seed 0 --output "$(VIDEO)" --overwrite

test: $(VENV)/.dev ## build the environment and run the tests
	$(PYTEST) -n 2 $(PYTEST_FLAGS)

test-long: $(VENV)/.dev ## run the tests that take minutes
	$(PYTEST) -m long $(PYTEST_FLAGS)
	$(PYTEST) -m "hypothesis and not long" --hypothesis-profile=search $(PYTEST_FLAGS)

check: $(VENV)/.dev ## format, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## write the format and the safe fixes of the linter
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

nano: $(VENV)/.runtime ## train nano again (resumes where it was stopped)
	$(BIN)/mochi train-nano

clean: ## remove the environment and the caches (videos in out/ stay)
	rm -rf "$(VENV)" build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: a step runs again only when what it was made from has changed.
$(VENV)/.python: scripts/find-python
	@python=$$(sh scripts/find-python $(PYTHON)) && echo "Building $(VENV) with $$python" && \
	"$$python" -m venv --clear "$(VENV)" && touch $@

$(VENV)/.runtime: $(VENV)/.python pyproject.toml constraints.txt scripts/install
	sh scripts/install "$(VENV)"
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt scripts/install
	sh scripts/install "$(VENV)" dev
	@touch $@ "$(VENV)/.runtime"
