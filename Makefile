# make quickstart   install into .venv and run the main job
# make test         install into .venv and run the tests
# make lint         ruff, formatting, types
PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.ready
READY_FOR_TESTS := $(VENV)/.ready-for-tests

.PHONY: quickstart test lint fix
quickstart: $(READY)
	$(VENV)/bin/doratune quickstart

test: $(READY_FOR_TESTS)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2

lint: $(READY_FOR_TESTS)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

fix: $(READY_FOR_TESTS)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(READY): pyproject.toml constraints.txt
	@echo "Installing doratune into $(VENV), about two minutes ..."
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	@touch $@

$(READY_FOR_TESTS): $(READY)
	@echo "Adding what the tests need, about a minute ..."
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $@
