# Two commands for a newcomer: `make bench` and `make test`. Both make .venv and install into it.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CIFAR10 ?= $(wildcard ../shared/cifar10)
ARGS   ?=
PEERS  ?= onnxruntime,openvino,litert,torch,ncnn,mnn,deepsparse
TECHNIQUES ?= dense,weight,int8
SEED   ?= $(shell date +%Y%m%d%H%M)

.PHONY: bench peers test nightly lint format mutants mutants-python sanitize coverage-c neon clean

bench: $(VENV)/.installed
	$(BIN)/refstack bench $(ARGS)

# Other runtimes beside refstack's rows, each in an environment of its own under .peers: docs/peers.md.
peers: $(VENV)/.installed-peers
	$(BIN)/python tools/peer_environments.py
	$(BIN)/refstack bench --backends openmp --techniques $(TECHNIQUES) --peers $(PEERS) --output results/peers.jsonl --format md $(ARGS)

test: $(VENV)/.installed-test lint
	@{ command -v "$${REFSTACK_CHROMIUM:-chromium}" || command -v chromium-browser || command -v google-chrome; } >/dev/null \
	    || echo "no browser, so the page of refstack report is not tested: apt install chromium, or set REFSTACK_CHROMIUM"
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

# Minutes to an hour each: docs/mutation.md. ARGS chooses, e.g. ARGS="avgpool.c --count 40".
mutants: $(VENV)/.installed-mutation
	PYTHONPATH=tools $(BIN)/python -m mutation.sample $(ARGS)

mutants-python: $(VENV)/.installed-mutation
	HYPOTHESIS_PROFILE=ci $(BIN)/mutmut run $(ARGS)
	PYTHONPATH=tools $(BIN)/python -m mutation.score

sanitize: $(VENV)/.installed-test
	PYTHONPATH=tools $(BIN)/python -m mutation.sanitize $(ARGS)

coverage-c: $(VENV)/.installed-test
	PYTHONPATH=tools $(BIN)/python -m mutation.coverage $(ARGS)

# On x86-64: apt install gcc-aarch64-linux-gnu qemu-user. Another processor: ARGS="--cc riscv64-linux-gnu-gcc --run qemu-riscv64"
neon: $(VENV)/.installed
	PYTHONPATH=tools $(BIN)/python -m cross.verify $(ARGS)

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-peers: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[onnx]" # the peers themselves: tools/peer_environments.py
	touch $@

$(VENV)/.installed-mutation: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --editable ".[test,mutation]"
	touch $@

clean:
	rm -rf $(VENV) build dist mutants
