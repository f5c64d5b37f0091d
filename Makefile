# make demo           the whole way on a synthetic cohort, under six minutes on two cores, no GPU
# make experiments-demo   raw scans -> masks -> a small grid of the paper's experiments -> report, below ten minutes
# make check          format, types, shell scripts and the quick tests: before each commit
# make test           the same with every test but the next two: before a change is handed over
# make test-cluster   the tests on a virtual Slurm cluster and of images; they need root and install packages
# make test-masks     the tests with the real TotalSegmentator
# make test-parity    the parity ladder and its planted faults alone, compiled with every optimization, as users run it
# make docs           README and the pages as a site in build/site
# They make their own virtual environment in .venv on the first call, test-masks a second one beside it.

ifneq ($(words $(CURDIR)),1)
$(error $(CURDIR): make takes no folder with a space in its name: move the checkout)
endif

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VENV_MASKS := .venv-masks
# pip shows its bars in a terminal, and in a log nothing but what is wrong.
QUIET := $(shell test -t 2 || echo --quiet)
# uv, where it is on the path, takes a fifth of the time; it reads its own settings and none of pip's.
UV := $(shell command -v uv)
# (An option takes the place of its variable UV_CONSTRAINT, which pip's settings may have become.)
UV_INSTALL := "$(UV)" pip install --python $(BIN)/python $(addprefix --constraint ,$(UV_CONSTRAINT))
INSTALL := $(if $(UV),$(UV_INSTALL),$(BIN)/pip install --disable-pip-version-check) $(QUIET) --constraint constraints.txt

# Two processes of one thread each: two OpenMP pools on the same cores would wait for each other. In the order of the
# folders, which begins with the long files: xdist's own, by number of tests, ends with them, on one core.
PROCESSES := 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder --durations 15

# What compiles asks for memory without end: with jemalloc, where it is installed, XLA takes six seconds in place of seven.
# (An image would look for it in vain.)
JEMALLOC := $(firstword $(wildcard /usr/lib/*/libjemalloc.so.2))
ALLOCATOR := $(if $(JEMALLOC),LD_PRELOAD=$(JEMALLOC))

# What takes more than a second of a core is marked `slow`, and two folders compile models throughout.
QUICK := tests/unit tests/docs --ignore tests/unit/engines --ignore tests/unit/kernels -m 'not slow'
# Jobs wait now and then, so three processes test them, of which one has the images, the longest.
IMAGES := tests/cluster/test_images.py
CLUSTER := $(IMAGES) $(filter-out $(IMAGES) %/test_masks_jobs.py, $(wildcard tests/cluster/test_*.py))

# glibc would give every large array back to the kernel and fetch it again page by page: on a virtual machine PyTorch's
# steps take up to three times as long. It keeps up to a gibibyte per process instead.
export MALLOC_MMAP_THRESHOLD_ ?= 268435456
export MALLOC_TRIM_THRESHOLD_ ?= 1073741824

# JAX compiles every program once per machine instead of once per process.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/$(VENV)/jax-cache

.PHONY: demo experiments-demo check test test-cluster test-masks test-parity quick lint format types shell docs clean

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

check: lint quick

quick: $(VENV)/installed-for-tests
	$(ALLOCATOR) $(PYTEST) $(QUICK)

test: lint $(VENV)/installed-for-tests
	$(ALLOCATOR) $(PYTEST) --ignore tests/cluster --ignore tests/masks

test-cluster: PROCESSES := 3
test-cluster: $(VENV)/installed-for-tests
	ANATOBENCH_CLUSTER_TESTS=1 $(PYTEST) $(CLUSTER)

test-masks: $(VENV_MASKS)/installed
	OMP_NUM_THREADS=1 $(VENV_MASKS)/bin/python -m pytest --durations 5 tests/masks tests/cluster/test_masks_jobs.py

test-parity: $(VENV)/installed-for-tests
	XLA_FLAGS= $(ALLOCATOR) $(PYTEST) tests/parity

lint: format types shell

format: $(VENV)/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-for-tests
	$(BIN)/mypy --num-workers 2

shell: $(VENV)/installed-for-tests
	$(BIN)/shellcheck --external-sources slurm/*.sh slurm/site.conf containers/*.sh benchmarks/*.sh tests/support/*.sh .ci/run

docs: $(VENV)/installed-for-docs
	$(BIN)/mkdocs build --strict --site-dir build/site
	@echo "build/site/index.html"

# Python comes before pip does: an environment without pip is one whose making was ended.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "AnatoBench needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "remove $(VENV), whose making was ended, and call again" >&2; exit 1; }

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "Installing into $(VENV): PyTorch and JAX are large, this takes a few minutes once"
	$(INSTALL) --editable '.[torch,jax]'
	@touch $@

$(VENV)/installed-for-tests: $(VENV)/installed
	$(INSTALL) --editable '.[torch,jax,benchmarks,docs,dev]'
	@touch $@

# A site needs neither framework.
$(VENV)/installed-for-docs: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(INSTALL) mkdocs
	@touch $@

# It reads the packages of .venv and adds TotalSegmentator, which therefore never replaces PyTorch there.
PURELIB := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
$(VENV_MASKS)/installed: $(VENV)/installed-for-tests
	$(BIN)/python -m venv --clear $(VENV_MASKS)
	echo "import site; site.addsitedir('$$($(CURDIR)/$(BIN)/python $(PURELIB))')" \
		> "$$($(VENV_MASKS)/bin/python $(PURELIB))/beside.pth"
	$(VENV_MASKS)/bin/pip install $(QUIET) --disable-pip-version-check --constraint constraints.txt --editable '.[masks]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV_MASKS) demo experiments-demo build *.egg-info
