# Two commands do everything on a fresh machine with Python >= 3.11 and a C++ compiler:
#   make demo    install into .venv, harvest a model, write a report page
#   make test    install into .venv, run the test suite
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test interop lint install benchmarks gpu clean

demo: install
	$(BIN)/mmxai demo

test: install
	$(BIN)/python -m pytest

# SAEs saved here in the libraries that read them, theirs here, each library in an environment under .peers.
interop: install
	MMXAI_INTEROP=1 $(BIN)/python -m pytest tests/interop

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

# Every CPU case; figures go to benchmarks/results and from there into README and docs. Fails on red tests and, after
# writing the tables, on a missed target. PEERS=--peers measures the rivals too, in .peers.
benchmarks: install
	status=0; $(BIN)/python -m benchmarks stats store profiles harvest shapes sae probe dissect lens trace --save $(PEERS) || status=$$?; \
	for page in README.md docs/figures.md; do $(BIN)/python -m benchmarks table --write $$page || exit; done; exit $$status

# All that needs a CUDA GPU: conformance of its kernels, their memory accesses where compute-sanitizer is, figures into
# benchmarks/results. GPU_PYTHON=python3 takes that Python, with its torch, in place of .venv.
GPU_PYTHON ?= $(BIN)/python
SEES_GPU = $(GPU_PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'

gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),install)
	@if ! $(SEES_GPU); then echo 'make gpu: torch sees no CUDA GPU here, nothing was run'; exit 0; fi; set -e; \
	$(GPU_PYTHON) setup.py -q build_ext --inplace; \
	if command -v compute-sanitizer > /dev/null; then \
	  compute-sanitizer --error-exitcode 1 $(GPU_PYTHON) -m pytest -q tests/kernels/test_capture.py tests/kernels/test_pack.py -k cuda; \
	else echo 'make gpu: no compute-sanitizer here, memory accesses were not checked'; fi; \
	$(GPU_PYTHON) -m benchmarks gpu sae_gpu dissect_gpu lens_gpu --save $(PEERS)

clean:
	rm -rf .venv build demo *.egg-info
	find mmxai -name '*.so' -delete
