# Everything a contributor needs, one word each. `make help` lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# torch comes in a CPU build only for the version named here; without a pin pip takes gigabytes of CUDA
CONSTRAINTS := constraints-test.txt
# seconds count more than cores here: small models run fastest on one thread each
export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo test quick lint slow clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 10

$(VENV)/base:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/full: $(VENV)/base $(CONSTRAINTS)
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e '.[torch,sam,export,train,supervision,eval,data,video,mesh]' --group test
	@touch $@

setup: $(VENV)/full  ## a virtual environment with all that tests and training need

demo: $(VENV)/base  ## people and poses in the bundled photos, offline, without torch: pictures in demo-out/
	$(BIN)/bodyloop demo --out demo-out

quick: $(VENV)/full  ## the fast tests, under a minute
	$(BIN)/python -m pytest -q -n 2 -m "not slow" tests --ignore=tests/parity --ignore=tests/cli --ignore=tests/test_fuzz.py

test: $(VENV)/full lint  ## lint, types, layers and all tests but the slow ones (SLOW=1: those too)
	$(BIN)/python -m pytest -n 2 --dist worksteal $(if $(SLOW),,-m "not slow") tests

lint: $(VENV)/full  ## ruff, mypy --strict, the layers
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:  ## remove caches and what demo wrote
	rm -rf demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build
