# make detect [VIDEO=my.mp4] [OUT=actions.json] [MODEL=bundle] [TRUTH=labels.json]
#               actions of a video, in a fresh environment if need be; without VIDEO, of the example, next to its labels
# make test     the whole test suite
# make test-gpu what only a CUDA GPU can show, in an environment of its own; fails where there is none
#               GPU_EXTRA=gpu leaves TensorRT out, GPU_EXTRA=trt-ci,gpu takes TensorRT-RTX (GeForce and RTX cards)
# make check    format, lint, types, import rules
# Needs only Python >= 3.11 with venv, and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
EXAMPLE := docs/example/example.mp4
VIDEO ?= $(EXAMPLE)
TRUTH ?= $(if $(filter $(EXAMPLE),$(VIDEO)),docs/example/truth.json)
OUT ?= actions.json
MODEL ?=
WORKERS ?= 2
GPU_VENV ?= .venv-gpu
GPU_EXTRA ?= tensorrt

.PHONY: detect test test-gpu check format clean

detect: $(VENV)/.ready-cpu
	$(BIN)/tallformer detect "$(VIDEO)" --out "$(OUT)" $(if $(MODEL),--model "$(MODEL)") $(if $(TRUTH),--truth "$(TRUTH)")

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n $(WORKERS) -q

# One after another: tests that share a GPU would disturb each other's memory and times.
test-gpu: $(GPU_VENV)/.ready-gpu
	REQUIRE_GPU=1 $(GPU_VENV)/bin/python -m pytest -m gpu -q

check: $(VENV)/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

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
