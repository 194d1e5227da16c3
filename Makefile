# `make demo` and `make test` need Python >= 3.11 and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEVELOPED := $(VENV)/.developed
ACCURACY := template,filter-5,filter-10,filter-25,filter-100,paper-pn,paper-pu,paper-kl,supervised,$\
default-10,default-25,default-50,default-100,default-100~2,default-100~3,default-200,ceiling,$\
default-100:shape,default-100:pretraining,default-100:mean-of-weights,$\
default-100:pretraining-and-filter,default-100:core,default-100:augmentation,default-100:average,$\
default-100:pu,default-100:filter-in-scores
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test test-faults test-slurm test-napari check audit soak docs bench bench-paper bench-accuracy bench-person bench-speed bench-workbench clean

demo: $(INSTALLED)
	$(BIN)/tomopicker demo --out tomopicker-demo

# A process for each core, eight at most, of one thread each; a module stays in one of them, so that
# what its tests share is set up once.
test: $(DEVELOPED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile --cov \
	  --cov-fail-under=90

# napari and Qt are large, and no part of the other tests, which skip these.
test-napari: $(DEVELOPED)
	$(PIP) --editable '.[dev-napari]'
	QT_QPA_PLATFORM=offscreen $(BIN)/python -m pytest tests/test_napari.py

# Minutes: two hundred tomograms, processes that are killed while they pick them, and a full disk.
test-faults: $(DEVELOPED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults/killed.py

# Minutes: a SLURM of two nodes on this machine, its jobs preempted, requeued and out of time. It is
# skipped where there is no slurm-wlm, munge and root.
test-slurm: $(DEVELOPED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs tests/slurm/jobs.py

check: $(DEVELOPED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Known vulnerabilities of what is installed. PyPI knows them, so it takes the network.
KNOWN := import json, urllib.request as u; \
	json.load(u.urlopen("https://pypi.org/pypi/pip/json", timeout=20))["vulnerabilities"]
INTO := import sysconfig; print(sysconfig.get_path("purelib"))
audit: $(DEVELOPED)
	@if $(BIN)/python -c '$(KNOWN)' 2>/dev/null; then \
		$(PYTHON) -m venv $(VENV)/auditor && \
		$(VENV)/auditor/bin/python -m pip install --quiet pip-audit && \
		$(VENV)/auditor/bin/pip-audit --skip-editable --path "$$($(BIN)/python -c '$(INTO)')"; \
	else \
		echo "Skipped: pypi.org, which knows the vulnerabilities, does not answer"; \
	fi

# An hour of training whose memory is watched, or MINUTES.
soak: $(INSTALLED)
	$(BIN)/python benchmarks/soak.py $(if $(MINUTES),--minutes $(MINUTES))

docs: $(INSTALLED)
	$(BIN)/python docs/make_settings.py

bench: bench-paper bench-accuracy bench-speed

bench-paper: $(INSTALLED)
	$(BIN)/python benchmarks/paper_setting.py

# DATA is a folder with densities/ and ts037/; see benchmarks/accuracy/tomograms.py.
bench-accuracy: $(INSTALLED)
	$(BIN)/python benchmarks/accuracy/tomograms.py $(if $(DATA),--data $(DATA))
	$(BIN)/python benchmarks/accuracy/methods.py $(if $(DATA),--data $(DATA)) --methods $(ACCURACY)
	$(BIN)/python benchmarks/accuracy/table.py

# A simulated person clicks and reviews; half an hour of two cores. DATA as above.
bench-person: $(INSTALLED)
	$(BIN)/python benchmarks/accuracy/tomograms.py $(if $(DATA),--data $(DATA)) --only defocus-ribosome
	$(BIN)/python benchmarks/accuracy/person.py
	$(BIN)/python benchmarks/accuracy/person.py --table

# Slices of a volume of 2 GB, which is written and removed.
bench-workbench: $(DEVELOPED)
	$(BIN)/python benchmarks/workbench.py

# With monai installed in $(VENV) it is one of the rivals. QUICK=1 is a short run on smaller volumes.
bench-speed: $(INSTALLED)
	$(BIN)/python benchmarks/speed/measure.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/speed/table.py --fill docs/performance.md

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(DEVELOPED): $(INSTALLED)
	$(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) tomopicker-demo build dist .pytest_cache .mypy_cache .ruff_cache .coverage
