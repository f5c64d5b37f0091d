# make demo   the whole way on a synthetic cohort, about five minutes on two cores, no GPU
# make test   formatting, types and every test
# make experiments-demo   raw scans -> masks -> a small grid of the paper's experiments -> report, below ten minutes
# make test-masks   the tests with the real TotalSegmentator
# They make their own virtual environment in .venv on the first call, test-masks a second one beside it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VENV_MASKS := .venv-masks
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Two processes of one thread each: two OpenMP pools on the same cores would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --durations 15

# glibc would give every large array back to the kernel and fetch it again page by page: on a virtual machine PyTorch's
# steps take up to three times as long. It keeps up to a gibibyte per process instead.
export MALLOC_MMAP_THRESHOLD_ ?= 268435456
export MALLOC_TRIM_THRESHOLD_ ?= 1073741824

# JAX compiles every program once per machine instead of once per process.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/$(VENV)/jax-cache

.PHONY: demo experiments-demo test test-masks lint clean

demo: $(VENV)/installed
	$(BIN)/anatobench demo --out demo

# The published weights are a download of their own; these are random, so sixteen patients get masks of no meaning.
STAND_IN_WEIGHTS := $(CURDIR)/build/stand-in-weights
experiments-demo: $(VENV_MASKS)/installed $(STAND_IN_WEIGHTS)
	TOTALSEG_WEIGHTS_PATH=$(STAND_IN_WEIGHTS) OMP_NUM_THREADS=1 \
		$(VENV_MASKS)/bin/python -m anatobench experiments demo --unmasked 16 --out experiments-demo

$(STAND_IN_WEIGHTS): | $(VENV_MASKS)/installed
	rm -rf $@.partial
	$(VENV_MASKS)/bin/python tests/support/stand_in_weights.py $@.partial > /dev/null
	mv $@.partial $@

test: lint $(VENV)/installed-for-tests
	$(PYTEST)

test-masks: $(VENV_MASKS)/installed
	OMP_NUM_THREADS=1 $(VENV_MASKS)/bin/python -m pytest --durations 5 tests/masks tests/cluster/test_masks_jobs.py

lint: $(VENV)/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck --external-sources slurm/*.sh slurm/site.conf containers/*.sh benchmarks/*.sh tests/support/*.sh .ci/run

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "AnatoBench needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV): PyTorch and JAX are large, this takes a few minutes once"
	$(INSTALL) --editable '.[torch,jax]'
	@touch $@

$(VENV)/installed-for-tests: $(VENV)/installed
	$(INSTALL) --editable '.[torch,jax,benchmarks,dev]'
	@touch $@

# It reads the packages of .venv and adds TotalSegmentator, which therefore never replaces PyTorch there.
PURELIB := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
$(VENV_MASKS)/installed: $(VENV)/installed-for-tests
	$(BIN)/python -m venv --clear $(VENV_MASKS)
	echo "import site; site.addsitedir('$$($(CURDIR)/$(BIN)/python $(PURELIB))')" \
		> "$$($(VENV_MASKS)/bin/python $(PURELIB))/beside.pth"
	$(VENV_MASKS)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[masks]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV_MASKS) demo experiments-demo build *.egg-info
