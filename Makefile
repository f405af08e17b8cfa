# make quickstart   install, then draw a ticket on the embedded scenes
# make test         install, then run all tests
# make wheels       build the packages and try them in a fresh environment (needs the package index)
# make docs         build the documentation into site/; warnings are errors
# make check        run what every change must pass: linter, formatter, types, import contracts and fast tests
#
# Pass more arguments with make quickstart ARGS='--train.epochs 5' or make test PYTEST_ARGS='-k shrink'.
PYTHON ?= python3
PYTEST_ARGS ?=
ARGS ?=

BIN := .venv/bin
MANIFESTS := $(wildcard core/pyproject.toml tasks/*/pyproject.toml transfer/pyproject.toml)
MEMBERS := $(filter-out core,$(patsubst %/pyproject.toml,%,$(MANIFESTS)))
RUN := runs/quickstart/$(shell date +%Y-%m-%d_%H-%M-%S)
CORES := $(shell getconf _NPROCESSORS_ONLN)
# --quiet stops accelerate from adding its own traceback below our error message. Without the next four options accelerate warns
# that it guessed their values, and without the last one it gives each process only one thread.
LAUNCH := $(BIN)/accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
	--num_cpu_threads_per_process $(CORES)

.PHONY: install quickstart check test wheels docs clean

install: .venv/.installed

# One pip command installs all members: tasks require `supertickets` by name, and pip finds it in the same command. The
# modules are compiled afterwards on all cores, as pip would use only one; some packages contain files that do not compile.
.venv/.installed: $(MANIFESTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile --editable 'core[dev]' $(addprefix --editable ,$(MEMBERS))
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
	touch $@

quickstart: install
	$(LAUNCH) -m supertickets_segmentation.train --run.dir $(RUN) --run.threads idle $(ARGS)
	@echo "The ticket is in $(RUN)/ticket; its curves, pictures and log are in $(RUN)"

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

# Tests run in two processes with one thread each, because the networks are too small to use more threads.
test: export OMP_NUM_THREADS ?= 1
test: install
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

wheels:
	PYTHON=$(PYTHON) .ci/wheels

docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.venv/.docs: install
	$(BIN)/python -m pip install --disable-pip-version-check --quiet 'mkdocs-material' 'mkdocstrings[python]'
	touch $@

clean:
	rm -rf .venv dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
