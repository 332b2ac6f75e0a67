# Every chore has one entry here; `make demo` and `make test` set up what they need.
#   make demo ARGS="--env Acrobot-v1 --target-return -100 --report report.json"
#   make setup TORCH_INDEX=https://...   takes PyTorch from another index (a CPU build, say)
PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := all
.PHONY: all setup demo test test-convert chaos check format bench

all: check test

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt examples/pyproject.toml
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(BIN)/pip install --quiet --index-url $(TORCH_INDEX) -c constraints.txt torch)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]" -e examples
	@touch $@

demo: setup
	@$(BIN)/edgerl demo $(ARGS)

test: setup
	@$(BIN)/python -m pytest $(ARGS)

# `edgerl convert`, in an environment of its own: one of litert-torch's packages holds typing_extensions back, and with it
# these five. Nothing is skipped in there.
CONVERT_BIN := .venv-convert/bin
HELD_BACK := anyio|pydantic|pydantic_core|typing-inspection|typing_extensions

test-convert: .venv-convert/installed
	@EDGERL_TEST_CONVERT=1 $(CONVERT_BIN)/python -m pytest -p no:anyio \
		tests/unit/compressor/test_module_conversion.py tests/integration/test_convert_command.py $(ARGS)

.venv-convert/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-convert
	grep -v -E '^($(HELD_BACK))==' constraints.txt > .venv-convert/constraints.txt
	$(if $(TORCH_INDEX),$(CONVERT_BIN)/pip install --quiet --index-url $(TORCH_INDEX) -c .venv-convert/constraints.txt torch)
	$(CONVERT_BIN)/pip install --quiet -c .venv-convert/constraints.txt -e ".[convert]" pytest pytest-timeout hypothesis
	@touch $@

# The whole fault matrix (docs/faults.md); make chaos ARGS=--quick takes a quarter of an hour at most.
chaos: setup
	@$(BIN)/edgerl chaos --json chaos.json $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m benchmarks $(ARGS)
