# The two commands: `make repro` runs the pipeline, `make test` the tests.
VENV := .venv
BIN := $(VENV)/bin
# The first suitable Python, preferably that of an existing .venv; PYTHON= overrides it.
VERSION_CHECK := import sys, venv; assert (3, 11) <= sys.version_info < (3, 14); \
    print(getattr(sys, "_base_executable", sys.executable), "%d.%d" % sys.version_info[:2])
CANDIDATES := $(or $(PYTHON),$(BIN)/python python3 python3.13 python3.12 python3.11)
INTERPRETER := $(shell for python in $(CANDIDATES); do "$$python" -c '$(VERSION_CHECK)' 2>/dev/null && break; done)
# cpu or gpu: nvidia-smi lists the GPUs.
DEVICE ?= $(if $(shell nvidia-smi --list-gpus 2>/dev/null | grep '^GPU'),gpu,cpu)
# A change of Python, device or package lists rebuilds .venv.
READY := $(VENV)/installed-$(DEVICE)-$(word 2,$(INTERPRETER))
LISTS := requirements.txt requirements-gpu.txt \
    $(addprefix requirements/,install dvc uv.txt torch-cpu.txt torch-cuda.txt)
# Keep compiled modules even if the shell says not to: without them each stage starts ten seconds later.
export PYTHONDONTWRITEBYTECODE :=
# A cluster's packages, perhaps for another Python, would come before those of .venv.
unexport PYTHONPATH

.PHONY: help setup lock gym ray browser trl gradio harness own repro summary compare figures export release try verify mend check gpu-check test lint format clean distclean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

setup: $(READY)  ## Create .venv with the pinned packages [PYTHON=python3.12] [DEVICE=cpu|gpu]

$(READY): $(LISTS)
	@test -n "$(INTERPRETER)" || { echo "make: error: $(or $(PYTHON),python3): expected Python 3.11, 3.12 or 3.13; install one of them, or name it with make PYTHON=..." >&2; exit 1; }
	@case $(DEVICE) in cpu|gpu) ;; *) echo "make: error: DEVICE is '$(DEVICE)'; it must be cpu or gpu" >&2; exit 1; esac
	requirements/install $(word 1,$(INTERPRETER)) $(DEVICE)
	@stages/python -m stages.distil.verification.environment --device $(DEVICE) >$(VENV)/device || { rm -f $(VENV)/device; exit 1; }
	@cat $(VENV)/device
	@touch $@

lock: setup  ## Update the lists of pinned packages: make lock [FLAGS="--upgrade-package vllm"]
	requirements/lock $(FLAGS)

# Optional packages, which some targets need.
$(VENV)/gym $(VENV)/ray $(VENV)/browser $(VENV)/harness $(VENV)/trl $(VENV)/gradio: $(VENV)/%: requirements/%.txt $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r $<
	@touch $@

gym: $(VENV)/gym  ## Install reasoning-gym, a source of questions (needs a C compiler)

ray: $(VENV)/ray  ## Install Ray, for teachers and attribution on several machines

browser: $(VENV)/browser  ## Install Playwright to test the report (needs Chromium)

trl: $(VENV)/trl  ## Install TRL to test `make export`

gradio: $(VENV)/gradio  ## Install Gradio, which shows the page of `make try`

own: setup  ## Add your own questions to params.yaml: make own DATA=questions.csv [ENTRY=name] [YES=1]
	@$(BIN)/python -m stages.distil.proposals.own --entry "$$ENTRY" --set "$$SET" $(if $(YES),--yes) -- "$$DATA"

repro: setup  ## Run the stages that have changed and print the results [CONFIG=configs/thinking.yaml]
	@$(if $(CONFIG),$(BIN)/python -m stages.distil.experiments.recipe -- "$$CONFIG")
	@$(BIN)/python -m stages.distil.interface.parameters params.yaml
	@head -n 1 $(VENV)/device
	@grep -qs '^ *no_scm = true' .dvc/config .dvc/config.local || git rev-parse --git-dir >/dev/null || { echo 'make: error: DVC needs a git repository that is yours; see docs/installation.md, "Without a repository"' >&2; exit 1; }
	$(BIN)/dvc repro
	@$(BIN)/python -m stages.distil.reporting.summary

summary: setup  ## Print the results of the last run
	@$(BIN)/python -m stages.distil.reporting.summary

compare: setup  ## Test whether two runs differ: make compare A=workspace B=EXPERIMENT
	@$(BIN)/python -m stages.distil.experiments.compare $(A) $(B)

figures: setup  ## Draw the papers' figures, training what is missing [SCALE=small] [JOBS=2]
	@$(BIN)/python -m stages.distil.experiments.figures --scale $(or $(SCALE),small) $(if $(JOBS),--jobs $(JOBS))

export: setup  ## Write the data for other trainers [FORM=prompt-completion] [PER=rationale]
	@$(BIN)/python -m stages.distil.reporting.sft $(if $(FORM),--form $(FORM)) $(if $(PER),--per $(PER))

try: $(VENV)/gradio  ## Ask the student on a page at 127.0.0.1
	@stages/python -m stages.distil.demo.page

release: setup  ## Put the student and its model card into models/release
	@$(BIN)/python -m stages.distil.reporting.release

verify: setup  ## Compare this run with the committed one, or two commits [SINCE=main]
	@$(BIN)/python -m stages.distil.verification.verify $(if $(SINCE),--since $(SINCE))

mend: setup  ## Remove results that were damaged after they were written; `dvc repro` makes them again
	@$(BIN)/python -m stages.distil.verification.cache

check: setup  ## Run a small pipeline and compare it with results/check [KEEP=yes]
	@head -n 1 $(VENV)/device
	@$(BIN)/python -m stages.distil.verification.check $(if $(KEEP),--keep)

gpu-check:  ## Try and measure everything on a GPU [SMALL=yes: tiny models, on a CPU]
	@$(MAKE) --no-print-directory $(if $(SMALL),,DEVICE=gpu) setup
	stages/python -m benchmarks.gpu.check $(if $(SMALL),--small)

harness: $(VENV)/harness release  ## Answer the test questions with models/release in lm-eval
	tasks=$$(stages/python -m benchmarks.harness.prompts) && $(BIN)/lm_eval run --model hf --model_args pretrained=models/release --include_path benchmarks/harness --tasks $$tasks --batch_size 32

test: setup  ## Run all tests, or leave out those that take minutes [FAST=yes]
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder $(if $(FAST),-m "not slow") tests

lint: setup  ## Check format, style, types and imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove the stages' outputs; `dvc checkout` restores them
	rm -rf $(filter-out %/WHAT-LANDS-HERE.md,$(wildcard data/* models/*))
	rm -rf results/predictions.parquet results/report.html results/times dvc_plots
	rm -f results/changed.csv results/lengths.csv results/saliency.csv
	rm -rf .cache/datasets .cache/downloads .cache/prepare
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis

distclean: clean  ## Also remove .venv, DVC's cache and the teachers' stored texts
	rm -rf $(VENV) .dvc/cache .dvc/tmp .cache
