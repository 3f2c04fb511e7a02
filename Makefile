# The two commands: `make repro` runs the pipeline, `make test` the tests.
VENV := .venv
BIN := $(VENV)/bin
# The first suitable Python, that of an existing .venv before others; PYTHON= names one.
ASK := import sys, venv; assert (3, 11) <= sys.version_info < (3, 14); \
    print(getattr(sys, "_base_executable", sys.executable), "%d.%d" % sys.version_info[:2])
CANDIDATES := $(or $(PYTHON),$(BIN)/python python3 python3.13 python3.12 python3.11)
FOUND := $(shell for python in $(CANDIDATES); do "$$python" -c '$(ASK)' 2>/dev/null && break; done)
# cpu or gpu: an NVIDIA GPU is found by its driver's tool.
DEVICE ?= $(if $(shell nvidia-smi --list-gpus 2>/dev/null | grep '^GPU'),gpu,cpu)
# Another Python, another device or newer lists of packages rebuild .venv.
READY := $(VENV)/installed-$(DEVICE)-$(word 2,$(FOUND))
LISTS := requirements.txt requirements-gpu.txt \
    $(addprefix requirements/,install uv.txt torch-cpu.txt torch-cuda.txt)
# Keep compiled modules even if the shell says otherwise: without them, a stage takes ten seconds more
# to start.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup lock gym browser harness repro summary compare figures release verify check gpu-check test lint format clean distclean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

setup: $(READY)  ## Create .venv with the pinned packages [PYTHON=python3.12] [DEVICE=cpu|gpu]

$(READY): $(LISTS)
	@test -n "$(FOUND)" || { echo "make: error: $(or $(PYTHON),python3): not Python 3.11, 3.12 or 3.13; install one of them or name it: make PYTHON=..." >&2; exit 1; }
	@case $(DEVICE) in cpu|gpu) ;; *) echo "make: error: DEVICE is '$(DEVICE)'; it must be cpu or gpu" >&2; exit 1; esac
	requirements/install $(word 1,$(FOUND)) $(DEVICE)
	@stages/python -m stages.distil.verification.environment --device $(DEVICE) >$(VENV)/device || { rm -f $(VENV)/device; exit 1; }
	@cat $(VENV)/device
	@touch $@

lock: setup  ## Update the lists of pinned packages: make lock [FLAGS="--upgrade-package vllm"]
	requirements/lock $(FLAGS)

# What some targets need beside requirements.txt.
$(VENV)/gym $(VENV)/browser $(VENV)/harness: $(VENV)/%: requirements/%.txt $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r $<
	@touch $@

gym: $(VENV)/gym  ## Add reasoning-gym, a source of questions (needs a C compiler)

browser: $(VENV)/browser  ## Add what tests the report in Chromium (apt-get install chromium)

repro: setup  ## Run what has changed of the pipeline and print the results
	@$(BIN)/python -m stages.distil.interface.parameters params.yaml
	@head -n 1 $(VENV)/device
	$(BIN)/dvc repro
	@$(BIN)/python -m stages.distil.reporting.summary

summary: setup  ## Print the results of the last run
	@$(BIN)/python -m stages.distil.reporting.summary

compare: setup  ## Test whether two runs differ: make compare A=workspace B=EXPERIMENT
	@$(BIN)/python -m stages.distil.experiments.compare $(A) $(B)

figures: setup  ## Draw the papers' figures: make figures [SCALE=small] [JOBS=2]
	@$(BIN)/python -m stages.distil.experiments.figures --scale $(or $(SCALE),small) $(if $(JOBS),--jobs $(JOBS))

release: setup  ## Put the student and its model card together in models/release
	@$(BIN)/python -m stages.distil.reporting.release

verify: setup  ## Compare this run with the committed one, or the commit with another: [SINCE=main]
	@$(BIN)/python -m stages.distil.verification.verify $(if $(SINCE),--since $(SINCE))

check: setup  ## Run the pipeline at a small size and compare it with results/check [KEEP=yes]
	@head -n 1 $(VENV)/device
	@$(BIN)/python -m stages.distil.verification.check $(if $(KEEP),--keep)

gpu-check:  ## On a machine with a GPU: `make check` and the teachers' speed, computed on it
	@$(MAKE) --no-print-directory DEVICE=gpu check
	$(BIN)/dvc repro fetch@smollm2-135m
	stages/python -m benchmarks.rationales

harness: $(VENV)/harness release  ## Answer the test questions with models/release in lm-eval
	$(BIN)/lm_eval run --model hf --model_args pretrained=models/release --include_path benchmarks/harness --tasks student --batch_size 32

test: setup  ## Run all tests
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder tests

lint: setup  ## Check format, style, types and which room imports which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

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
