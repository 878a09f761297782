# For a stranger: `make demo`, `make test`, and, with more time, `make lessons`. All make .venv first, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo lessons test test-long test-all check install clean

demo: install
	$(BIN)/mm1 demo

lessons: install
	$(BIN)/mm1 study lessons --out runs/lessons

test: check
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not long"

test-long: install
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m long

test-all: test test-long

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python benchmarks/structure.py --check

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv runs build *.egg-info .pytest_cache .ruff_cache
