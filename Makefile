# `make demo` and `make test` need Python >= 3.11 and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEVELOPED := $(VENV)/.developed
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test check docs bench bench-paper clean

demo: $(INSTALLED)
	$(BIN)/tomopicker demo --out tomopicker-demo

test: $(DEVELOPED)
	$(BIN)/python -m pytest --cov --cov-fail-under=90

check: $(DEVELOPED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED)
	$(BIN)/python docs/make_settings.py

bench: bench-paper

bench-paper: $(INSTALLED)
	$(BIN)/python benchmarks/paper_setting.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(DEVELOPED): $(INSTALLED)
	$(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) tomopicker-demo build dist .pytest_cache .mypy_cache .ruff_cache .coverage
