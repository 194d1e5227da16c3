# `make demo` and `make test` need Python >= 3.11 and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check docs bench bench-paper clean

demo: $(STAMP)
	$(BIN)/tomopicker demo --out tomopicker-demo

test: $(STAMP)
	$(BIN)/python -m pytest --cov --cov-fail-under=90

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python docs/make_settings.py

bench: bench-paper

bench-paper: $(STAMP)
	$(BIN)/python benchmarks/paper_setting.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) tomopicker-demo build dist .pytest_cache .mypy_cache .ruff_cache .coverage
