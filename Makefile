# make quickstart: set up, then draw a ticket.   make test: set up, then all tests.   make check: what a change must pass.
# More arguments: make quickstart ARGS='--train.epochs 5', make test PYTEST_ARGS='-k shrink'.
PYTHON ?= python3
PYTEST_ARGS ?=
ARGS ?=

BIN := .venv/bin
MANIFESTS := $(wildcard core/pyproject.toml tasks/*/pyproject.toml transfer/pyproject.toml)
MEMBERS := $(filter-out core,$(patsubst %/pyproject.toml,%,$(MANIFESTS)))
RUN := runs/quickstart/$(shell date +%Y-%m-%d_%H-%M-%S)
CORES := $(shell getconf _NPROCESSORS_ONLN)
# Quiet: no traceback of its own below an error of ours. Without the next four accelerate warns that it guessed them;
# without the last it gives a process one thread.
LAUNCH := $(BIN)/accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
	--num_cpu_threads_per_process $(CORES)

.PHONY: install quickstart check test clean

install: .venv/.installed

# One pip command for all members: tasks ask for `supertickets` by name, and find it in the same command.
.venv/.installed: $(MANIFESTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable 'core[dev]' $(addprefix --editable ,$(MEMBERS))
	touch $@

quickstart: install
	$(LAUNCH) tasks/segmentation/train.py --run.dir $(RUN) $(ARGS)
	@echo "The ticket: $(RUN)/ticket   its curves, pictures and log: $(RUN)"

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

# Two processes of one thread each: the nets are too small to use more.
test: export OMP_NUM_THREADS ?= 1
test: install
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
