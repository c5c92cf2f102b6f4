# make quickstart   install into .venv and run the main job
# make test         install into .venv and run the tests
# make lint         ruff, formatting, types
PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.ready

.PHONY: quickstart test lint fix
quickstart: $(READY)
	$(VENV)/bin/doratune quickstart

test: $(READY)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

fix: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(READY): pyproject.toml constraints.txt
	@echo "Installing doratune into $(VENV), about two minutes ..."
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $@
