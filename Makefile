# For a stranger: `make demo`, `make test`, `make docs`, and, with more time, `make lessons`. All make .venv first, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo lessons test test-long test-all check docs browser install clean

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

# The site, in build/site; a broken link fails.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "build/site/index.html; with search: $(BIN)/python -m http.server --directory build/site"

# A Chromium for the tests of pages: the system's, else Playwright's, else they are skipped.
browser: install
	$(BIN)/python tests/browser.py

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv runs build *.egg-info .pytest_cache .ruff_cache
