# Two commands matter: `make train` sets up and runs the main job, `make test` sets up and passes the tests.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?= --algo=ars --continuous
TEST_WORKERS ?= 2

.PHONY: train test test-slow test-gpu test-peers lint clean

train: $(VENV)/.run
	$(BIN)/python launch/train.py $(ARGS)

test: lint
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal

test-slow: $(VENV)/.test
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -m slow --timeout=7200

test-gpu: $(VENV)/.test
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -m gpu

test-peers: $(VENV)-peers/.peers
	$(VENV)-peers/bin/python -m pytest -m peers

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.run: requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

$(VENV)/.test: $(VENV)/.run requirements-test.txt
	$(BIN)/pip install --quiet -r requirements-test.txt
	touch $@

$(VENV)-peers/.peers: requirements-peers.txt requirements-test.txt constraints.txt
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/pip install --quiet -r requirements-peers.txt
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-peers .cache
