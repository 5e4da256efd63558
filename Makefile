# Two commands for a newcomer: `make bench` and `make test`. Both make .venv and install into it.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CIFAR10 ?= $(wildcard ../shared/cifar10)
ARGS   ?=
PEERS  ?= onnxruntime,openvino,litert,torch,ncnn,mnn,deepsparse
TECHNIQUES ?= dense,weight,int8
JOBS   ?= $(shell nproc)
SEED   ?= $(shell date +%Y%m%d%H%M)

.PHONY: bench peers findings test docs nightly lint format mutants mutants-python sanitize oclgrind coverage-c neon clean

bench: $(VENV)/.installed
	$(BIN)/refstack bench $(ARGS)

# Other runtimes beside refstack's rows, each in an environment of its own under .peers: docs/peers.md.
peers: $(VENV)/.installed-peers
	$(BIN)/python tools/peer_environments.py
	$(BIN)/refstack bench --backends openmp --techniques $(TECHNIQUES) --peers $(PEERS) --output results/peers.jsonl --format md $(ARGS)

# The record that docs/findings.md is made from, anew and on this machine: some minutes; leave it alone meanwhile.
findings: $(VENV)/.installed
	$(BIN)/refstack bench -t dense,weight,channel,ternary,ternary+int8,int8 -b openmp --no-tuning -o data/results/record.jsonl --fresh
	$(BIN)/refstack bench -t dense -b blas --no-tuning -o data/results/record.jsonl
	$(BIN)/refstack tune -t dense,weight,channel,ternary,ternary+int8,int8 -b openmp
	$(BIN)/refstack bench -t dense,weight,channel,ternary,ternary+int8,int8 -b openmp --threads 1 -o data/results/record.jsonl
	rm -f data/results/record-*.jsonl
	$(BIN)/refstack findings --format md > docs/findings.md

test: $(VENV)/.installed-test lint
	@{ command -v "$${REFSTACK_CHROMIUM:-chromium}" || command -v chromium-browser || command -v google-chrome; } >/dev/null \
	    || echo "no browser, so the page of refstack report is not tested: apt install chromium, or set REFSTACK_CHROMIUM"
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(if $(CIFAR10),--cifar10=$(CIFAR10)) $(ARGS)

# Pages from docs/*.md and from the code; a warning is an error. Also a test: tests/test_docs.py.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -b html docs docs/_build/html $(ARGS)

# Hours: a hundred times the examples, other draws every night. What failed is kept in .hypothesis and tried first.
nightly: $(VENV)/.installed-test
	@echo "make nightly SEED=$(SEED) repeats this run"
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest --hypothesis-seed=$(SEED) --timeout=7200 $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	! grep -nE '.{121,}' accel/*/*.[ch] accel/*/*.cl
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Minutes to an hour each: docs/mutation.md. ARGS chooses, e.g. ARGS="avgpool.c --count 40".
mutants: $(VENV)/.installed-mutation
	PYTHONPATH=tools $(BIN)/python -m mutation.sample $(ARGS)

mutants-python: $(VENV)/.installed-mutation
	HYPOTHESIS_PROFILE=ci $(BIN)/mutmut run $(ARGS)
	PYTHONPATH=tools $(BIN)/python -m mutation.score

sanitize: $(VENV)/.installed-test
	PYTHONPATH=tools $(BIN)/python -m mutation.sanitize $(ARGS)

# Minutes: every OpenCL kernel in a simulated device that sees races, and reads and writes outside buffers.
oclgrind: $(VENV)/.installed-test
	$(BIN)/python tools/oclgrind.py $(ARGS)

coverage-c: $(VENV)/.installed-test
	PYTHONPATH=tools $(BIN)/python -m mutation.coverage $(ARGS)

# On x86-64: apt install gcc-aarch64-linux-gnu qemu-user. Another processor: ARGS="--cc riscv64-linux-gnu-gcc --run qemu-riscv64"
neon: $(VENV)/.installed
	PYTHONPATH=tools $(BIN)/python -m cross.verify $(ARGS)

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[opencl]"
	touch $@

$(VENV)/.installed-test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-peers: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[onnx]" # the peers themselves: tools/peer_environments.py
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

$(VENV)/.installed-mutation: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --editable ".[test,mutation]"
	touch $@

clean:
	rm -rf $(VENV) build dist mutants docs/_build
