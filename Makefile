# Everything here works from nothing but make and Python 3.11: the first target that needs it makes .venv.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
SEEDS ?= 200
MINUTES ?= 60
CIFAR10 ?=

# The CPU build of torch, pinned: on x86-64 Linux the package index's own torch brings several GB of CUDA libraries that an
# edge device has no use for. `+cpu` names the build that lacks them; where pip is not set up to find it, it comes from
# PyTorch's own index.
TORCH := torch==2.13.0
TORCH_INDEX := https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help demo test soak soak-memory agreement lint format bench bench-restart clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 12

$(VENV)/ready: pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check '$(TORCH)+cpu' \
	  || $(BIN)/pip install --quiet --disable-pip-version-check '$(TORCH)' --index-url $(TORCH_INDEX)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/ready  ## three nodes on this machine share the features of real photographs (ARGS=--exit: and stop)
	$(BIN)/python -m edgecache.node.demo $(ARGS)

test: $(VENV)/ready  ## every test, as many at once as there are cores
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup $(ARGS)

soak: $(VENV)/ready  ## what takes minutes: SEEDS=N random days on virtual time, a writer killed two hundred times
	$(BIN)/edgecache-sim soak --seeds $(SEEDS)
	$(BIN)/python -m pytest -m soak $(ARGS)

soak-memory: $(VENV)/ready  ## two real nodes under mixed load for MINUTES=60: do memory and descriptors stay what they are?
	$(BIN)/python -m tests.bench.mixed_load --minutes $(MINUTES) $(ARGS)

lint: $(VENV)/ready  ## ruff, mypy --strict, and the dependency rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/ready  ## let ruff format and sort
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/ready  ## measure what docs/benchmarks.md says, and write it (CIFAR10=FILE.npz: edgecache/tiny's table too)
	$(if $(CIFAR10),$(BIN)/python -m tests.bench.encoders tiny --images $(CIFAR10) --keep $(VENV)/bench-tiny)
	$(BIN)/python -m tests.bench $(ARGS)

bench-restart: $(VENV)/ready  ## a node's hit ratio before and after a restart (ARGS=--kill: by SIGKILL)
	$(BIN)/python -m tests.bench.restart $(ARGS)

agreement: $(VENV)/ready  ## the same requests through five real processes and through the simulation, side by side
	$(BIN)/python -m tests.bench.agreement $(ARGS)

clean:  ## remove what the targets made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
