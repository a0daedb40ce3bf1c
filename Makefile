# Two commands do everything on a fresh machine with Python >= 3.11 and a C++ compiler:
#   make demo    install into .venv, harvest a model, write a report page
#   make test    install into .venv, run the test suite
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint install benchmarks clean

demo: install
	$(BIN)/mmxai demo

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(STAMP)

# torch comes first and pinned: an unpinned torch would fetch whatever build is newest.
$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard csrc/*/*)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmxai needs Python >= 3.11, got " + sys.version.split()[0] + "; run make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,dev,plot]'
	touch $@

benchmarks: install
	$(BIN)/python -m benchmarks store
	$(BIN)/python -m benchmarks harvest
	$(BIN)/python -m benchmarks shapes

clean:
	rm -rf .venv build demo *.egg-info
	find mmxai -name '*.so' -delete
