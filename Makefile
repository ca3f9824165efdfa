# Two commands do everything: `make demo` shows the whole story, `make test` checks the code. `make test-cluster` brings
# up a Ray cluster on machines in miniature; it needs Linux, root, sshd and rsync, and is skipped with a reason elsewhere.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test units units-sweep units-hardening units-attack units-others test-cluster lint types format clean

demo: .venv/installed
	$(BIN)/python -c "import shutil; shutil.rmtree('runs/demo', ignore_errors=True)"
	$(BIN)/dxray demo --out runs/demo

test: lint types units

# In four parts, of which `make --jobs=2 test` runs two side by side: on 2 cores more only hinder each other.
ROOMS := sweep hardening attack

units: $(ROOMS:%=units-%) units-others

$(ROOMS:%=units-%): units-%: .venv/installed-dev
	$(BIN)/python -m pytest tests/orchestrator/$*

units-others: .venv/installed-dev
	$(BIN)/python -m pytest $(ROOMS:%=--ignore tests/orchestrator/%)

test-cluster: .venv/installed-dev
	$(BIN)/python -m pytest tests/cluster -m cluster

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-dev
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "dxray needs Python 3.11 or later; '$(PYTHON)' is older: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv"; rm -rf .venv; exit 1; }

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing dxray and what it needs into .venv (a minute or two)"
	$(PIP) --editable .
	@touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing dxray and what its tests need into .venv (a minute or two)"
	$(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv runs build src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
