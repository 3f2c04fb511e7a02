# The two commands: `make repro` runs the pipeline, `make test` the tests.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/installed
# Compiled modules are kept, whatever the shell says: a stage that compiles torch anew takes ten
# seconds more to start.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup gym browser harness repro summary compare figures release verify test lint format clean distclean

help:  ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  \1\t/' | expand -t 14

setup: $(READY)  ## Create .venv and install the pinned requirements

$(READY): requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: error: no $(PYTHON) found; install Python 3.11 or name it: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-compile -r requirements.txt
	@touch $@

gym: $(VENV)/gym  ## Add reasoning-gym, a source of questions (needs a C compiler)

$(VENV)/gym: requirements-gym.txt $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-compile -r requirements-gym.txt
	@touch $@

repro: setup  ## Run what has changed of the pipeline and print the results
	@$(BIN)/python -m stages.distil.parameters params.yaml
	$(BIN)/dvc repro
	@$(BIN)/python -m stages.distil.summary

summary: setup  ## Print the results of the last run
	@$(BIN)/python -m stages.distil.summary

compare: setup  ## Test whether two runs differ: make compare A=workspace B=EXPERIMENT
	@$(BIN)/python -m stages.distil.compare $(A) $(B)

figures: setup  ## Draw the papers' figures: make figures [SCALE=small] [JOBS=2]
	@$(BIN)/python -m stages.distil.figures --scale $(or $(SCALE),small) $(if $(JOBS),--jobs $(JOBS))

release: setup  ## Put the student and its model card together in models/release
	@$(BIN)/python -m stages.distil.release

verify: setup  ## Compare this run with the committed one, or the commit with another: [SINCE=main]
	@$(BIN)/python -m stages.distil.verify $(if $(SINCE),--since $(SINCE))

browser: $(VENV)/browser  ## Add what tests the report in Chromium (apt-get install chromium)

$(VENV)/browser: requirements-browser.txt $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-compile -r requirements-browser.txt
	@touch $@

harness: $(VENV)/harness release  ## Answer the test questions with models/release in lm-eval
	$(BIN)/lm_eval run --model hf --model_args pretrained=models/release --include_path benchmarks/harness --tasks student --batch_size 32

$(VENV)/harness: requirements-harness.txt $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-compile -r requirements-harness.txt
	@touch $@

test: setup  ## Run all tests
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder tests

lint: setup  ## Check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove what the stages wrote; DVC's cache can bring it back
	rm -rf data models results/predictions.parquet results/report.html results/times dvc_plots
	rm -f results/changed.csv results/lengths.csv results/saliency.csv
	rm -rf .cache/datasets .cache/downloads .cache/prepare
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis

distclean: clean  ## Remove also .venv, DVC's cache and all that teachers wrote
	rm -rf $(VENV) .dvc/cache .dvc/tmp .cache
