# make detect [VIDEO=my.mp4] [OUT=actions.json] [MODEL=bundle] [TRUTH=labels.json]
#               actions of a video, in a fresh environment if need be; without VIDEO, of the example, next to its labels
# make test     the whole test suite
# make test-gpu what only a CUDA GPU can show, in an environment of its own; fails where there is none
#               GPU_EXTRA=gpu leaves TensorRT out, GPU_EXTRA=trt-ci,gpu takes TensorRT-RTX (GeForce and RTX cards)
# make bench    all goals of the benchmarks, held against this machine in one run of about 20 minutes, into docs/speed.md
# make check    format, lint, types, import rules, and the documentation, whose warnings are errors
# make docs     the documentation site, into build/site
# make release  sdist and wheel, into dist; the wheel is installed and tried in a fresh environment outside the checkout
# Needs only Python >= 3.11 with venv, and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
EXAMPLE := docs/example/example.mp4
VIDEO ?= $(EXAMPLE)
TRUTH ?= $(if $(filter $(EXAMPLE),$(VIDEO)),docs/example/truth.json)
OUT ?= actions.json
MODEL ?= $(if $(filter $(EXAMPLE),$(VIDEO)),demo)
WORKERS ?= 2
GPU_VENV ?= .venv-gpu
GPU_EXTRA ?= tensorrt

.PHONY: detect test test-gpu bench check docs release format clean

detect: $(VENV)/.ready-cpu
	$(BIN)/tallformer detect "$(VIDEO)" --out "$(OUT)" $(if $(MODEL),--model "$(MODEL)") $(if $(TRUTH),--truth "$(TRUTH)")

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n $(WORKERS) -q

# One after another: tests that share a GPU would disturb each other's memory and times.
test-gpu: $(GPU_VENV)/.ready-gpu
	REQUIRE_GPU=1 $(GPU_VENV)/bin/python -m pytest -m gpu -q

# A goal that is missed is a result like any other: 1 is no failure of the run.
bench: $(VENV)/.ready-dev
	$(BIN)/python -m benchmarks --out benchmarks/results/goals.jsonl || test $$? -eq 1
	$(BIN)/python -m benchmarks.tables

check: $(VENV)/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(MAKE) --no-print-directory docs

docs: $(VENV)/.ready-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

release: $(VENV)/.ready-dev
	rm -rf dist
	$(BIN)/hatchling build
	.ci/try-wheel dist/*.whl

format: $(VENV)/.ready-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.ready-cpu: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): about 300 MB"
	$(PIP) --editable '.[cpu]'
	@touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV), torch and the tools for tests included: about 1.5 GB"
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.ready-cpu

# Not the constraints of CI: they hold the builds for the CPU.
$(GPU_VENV)/.ready-gpu: pyproject.toml
	@echo "installing into $(GPU_VENV), CUDA and torch for it included: several GB"
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[check,train,export,$(GPU_EXTRA)]'
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) $(GPU_VENV) build dist
