# SlowFlow: `make demo` and `make test` make their own environment on first use and need only Python and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= slowflow-demo
# test processes: a core each, four at most, whole files together
WORKERS ?= auto
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test test-full check fmt docs bench bench-gpu simulate soak clean

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,demo,dev]'
	touch $@

demo: $(VENV)/ready
	$(BIN)/slowflow demo --out $(DEMO)

test: $(VENV)/ready
	$(PYTEST) -m "not full"

test-full: $(VENV)/ready
	$(PYTEST)

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_contracts.py

fmt: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# `docs` builds the site into site/ and stops at any warning; nothing is loaded from outside while it builds.
$(VENV)/ready-docs: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

docs: $(VENV)/ready-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py

bench-gpu: $(VENV)/ready
	$(BIN)/python benchmarks/bench.py --gpu

simulate: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/simulate.py

soak: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py

clean:
	rm -rf $(VENV) $(DEMO) site
