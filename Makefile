# Two commands for a newcomer: `make bench` and `make test`. Both make .venv and install into it.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CIFAR10 ?= $(wildcard ../shared/cifar10)
ARGS   ?=
SEED   ?= $(shell date +%Y%m%d%H%M)

.PHONY: bench test nightly lint format clean

bench: $(VENV)/.installed
	$(BIN)/refstack bench $(ARGS)

test: $(VENV)/.installed-test lint
	$(BIN)/python -m pytest $(if $(CIFAR10),--cifar10=$(CIFAR10)) $(ARGS)

# Hours: a hundred times the examples, other draws every night. What failed is kept in .hypothesis and tried first.
nightly: $(VENV)/.installed-test
	@echo "make nightly SEED=$(SEED) repeats this run"
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest --hypothesis-seed=$(SEED) --timeout=7200 $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	! grep -nE '.{121,}' accel/*/*.[ch]
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist
