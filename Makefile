# make demo   a monitored training run on this machine, and its KPI table
# make test   everything that this machine can run
# make test-truth  the arithmetic against simulated truth, ten thousand examples each (minutes)
# make test-without-cgroups   the cluster's jobs again, on a Slurm that tracks processes by their parents
# make test-second-cluster   the cluster's jobs again, on the newest Slurm, Python and Prometheus of Debian
# make test-vllm   a real vLLM as a service, in several shapes, against its own client (half an hour)
# make lint   style, types and import directions alone
# make bench  the measurements of benchmarks/README.md (minutes)
# make clean  remove what these made

# The distribution's Python where there is one: test users of the cluster must be able to run it.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
VENV := .venv
BIN := $(VENV)/bin
PROGRAMS := $(CURDIR)/.programs
SHARED := --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder # jobs mostly wait

.PHONY: demo test test-truth test-without-cgroups test-second-cluster test-vllm lint bench clean

demo: $(VENV)/.user
	@programs=$$(tools/get-programs.sh $(PROGRAMS)) && \
	PATH="$$programs:$$PATH" $(BIN)/jobmeter run examples/train-cpu.yaml --site local

test: lint
	tools/install-test-packages.sh tests/cluster_packages.txt
	@tools/get-second-root.sh $(PROGRAMS)/sid || true # says why not; the tests skip then
	@tools/get-debian-base.sh $(PROGRAMS)/debian || true # the same
	@tools/get-prometheus-3.sh $(PROGRAMS)/prometheus-3 || true # the same
	@tools/get-training-frameworks.sh $(PROGRAMS)/training $(BIN)/python || true # the same
	$(BIN)/pytest $(SHARED)

test-truth: $(VENV)/.dev
	JOBMETER_TRUTH_EXAMPLES=10000 $(BIN)/pytest tests/analysis/test_truth.py tests/analysis/test_truth_numbers.py

test-without-cgroups: $(VENV)/.dev
	tools/install-test-packages.sh tests/cluster_packages.txt
	JOBMETER_CLUSTER_CGROUPS=0 $(BIN)/pytest $(SHARED) tests/e2e

test-second-cluster: $(VENV)/.dev
	tools/install-test-packages.sh tests/cluster_packages.txt
	tools/get-second-root.sh $(PROGRAMS)/sid
	tools/get-debian-base.sh $(PROGRAMS)/debian
	tools/get-tests-base.sh $(PROGRAMS)/tests-base $(BIN)/python
	JOBMETER_CLUSTER=sid $(BIN)/pytest $(SHARED) tests/cluster tests/e2e

test-vllm: $(VENV)/.dev
	tools/install-test-packages.sh tests/cluster_packages.txt
	tools/get-vllm.sh $(PROGRAMS)/vllm $(BIN)/python
	JOBMETER_VLLM=1 $(BIN)/pytest tests/e2e/test_vllm*.py

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	tools/install-test-packages.sh tests/cluster_packages.txt
	$(BIN)/python benchmarks/run.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys, ensurepip; assert sys.version_info >= (3, 10)' 2>/dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq python3-venv; } || \
	{ echo "Python >= 3.10 with venv is needed: apt-get install python3-venv, or make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.user: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.user

clean:
	rm -rf $(VENV) .programs build dist runs
	find . -name '*.egg-info' -prune -exec rm -rf {} +
