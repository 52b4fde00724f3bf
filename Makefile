# The commands people type. Everything runs inside .venv, which the first target that needs it creates.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo m-erasurebench test test-all lint docs bench bench-gpu chaos statistics testbed testbed-card testbed-sd3-card testbed-erased erasers-table guards-table probes filters drawings styles failures cycles sd3-audit sd3-probes sd3-cycles constraints clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "erasure-audit needs Python 3.11 or newer; try: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP) ## run a complete testbed audit and print its verdict
	$(BIN)/erasure-audit testbed scenes demo/corpus/ring --class ring --count 32
	$(BIN)/erasure-audit testbed scenes demo/corpus/arrow --class arrow --count 16
	$(BIN)/erasure-audit run deployments/specs/demo.yaml --exit-zero

# One thread and one worker for each of two cores; a file's tests stay together, because they share costly fixtures.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP) ## run the test suite without the long tests
	$(PYTEST)

test-all: $(STAMP) ## run every test
	$(PYTEST) -m ''

lint: $(STAMP) ## ruff, mypy --strict over audit/, import contracts, sqlfluff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint sql

docs: $(STAMP) ## build the documentation into build/docs; a dead link ends the build
	$(BIN)/mkdocs build

bench: $(STAMP) ## print speed and memory ratios, measured in one run
	$(BIN)/python -m tests.bench

bench-gpu: $(STAMP) ## print what an NVIDIA GPU makes of Stable Diffusion v1.4's architecture (random weights, 8 minutes)
	$(BIN)/python -m tests.bench.bench_gpu --rates build/gpu-rates.json

ROUNDS ?= 500
SEED ?= 1

chaos: $(STAMP) ## disturb ROUNDS audits by faults drawn from SEED, resume, compare (resumable; hours; needs PostgreSQL)
	$(BIN)/python -m tests.chaos --rounds $(ROUNDS) --seed $(SEED)

statistics: $(STAMP) ## print how often the gate's bounds and tests err, into docs/statistics.md (minutes)
	$(BIN)/python -m tests.bench.statistics_table

testbed: $(STAMP) ## train the testbed from scratch (resumable; hours on two cores)
	$(BIN)/python -m audit.testbed.train --stage all

testbed-card: $(STAMP) ## measure the testbed's trained parts, into audit/testbed/README.md
	$(BIN)/python -m audit.testbed.card

testbed-sd3-card: $(STAMP) ## measure the testbed's SD3-shaped backbone, into audit/testbed/README.md
	$(BIN)/python -m audit.testbed.flow_card

testbed-erased: $(STAMP) ## erase ring and star from the testbed by each method (resumable; minutes on two cores)
	$(BIN)/python -m audit.testbed.erased

PAGE = $(BIN)/python -m deployments.testbed_page
ERASERS = build/erasers-table

erasers-table: $(STAMP) ## audit the testbed's erasers, table into audit/testbed/README.md (resumable; hours on two cores)
	$(BIN)/erasure-audit run deployments/specs/testbed-erasers.yaml --root $(ERASERS)/store --exit-zero
	$(PAGE) erasers --root $(ERASERS)/store

GUARDS = build/guards-table

guards-table: $(STAMP) ## audit every guard on the testbed, table into audit/testbed/README.md (resumable; hours on two cores)
	$(BIN)/erasure-audit testbed scenes $(GUARDS)/corpus/ring --class ring --objects 2 --count 40 --regions $(GUARDS)/regions/ring
	for class in square star; do \
		$(BIN)/erasure-audit testbed scenes $(GUARDS)/corpus/$$class --class $$class --objects 2 --count 20 --without ring || exit 1; done
	$(BIN)/erasure-audit run deployments/specs/testbed-guards.yaml --root $(GUARDS)/store --exit-zero
	$(PAGE) guards --root $(GUARDS)/store

PROBES = build/probes

probes: $(STAMP) ## audit every probe of the testbed beside its control, table into audit/testbed/README.md (resumable; 2 hours on two cores)
	for class in ring star square arrow; do \
		$(BIN)/erasure-audit testbed scenes $(PROBES)/corpus/$$class --class $$class --count 64 || exit 1; done
	$(BIN)/erasure-audit run deployments/specs/testbed-probes.yaml --root $(PROBES)/store --exit-zero
	$(BIN)/erasure-audit run deployments/specs/testbed-probes-star.yaml --root $(PROBES)/store-star --exit-zero
	$(PAGE) probes --root $(PROBES)/store --beside $(PROBES)/store-star
	$(BIN)/erasure-audit run deployments/specs/testbed-probes-words.yaml --root $(PROBES)/store-words --exit-zero
	$(PAGE) probes-words --root $(PROBES)/store-words

FILTERS = build/filters

filters: $(STAMP) ## audit filters as defences, rates with and without them, into audit/testbed/README.md (resumable; minutes)
	$(BIN)/erasure-audit run deployments/specs/testbed-filters.yaml --root $(FILTERS)/store --exit-zero
	$(PAGE) filters --root $(FILTERS)/store

DRAWINGS = build/drawings

drawings: $(STAMP) ## audit with drawings for reference pictures, table into audit/testbed/README.md (resumable; minutes)
	for class in ring star arrow; do \
		$(BIN)/erasure-audit testbed scenes $(DRAWINGS)/corpus/$$class --class $$class --count 48 --ink || exit 1; done
	$(BIN)/erasure-audit run deployments/specs/testbed-drawings.yaml --root $(DRAWINGS)/store --exit-zero
	$(PAGE) drawings --root $(DRAWINGS)/store

STYLES = build/styles

styles: $(STAMP) ## audit a fill of the testbed as a concept, table into audit/testbed/README.md (resumable)
	for fill in plain striped dotted; do \
		$(BIN)/erasure-audit testbed scenes $(STYLES)/references/$$fill --class square --fill $$fill --split calibration --count 24 \
			|| exit 1; done
	$(BIN)/erasure-audit testbed scenes $(STYLES)/corpus/striped --class square --fill striped --count 24
	$(BIN)/erasure-audit testbed scenes $(STYLES)/corpus/arrow --class arrow --count 12
	$(BIN)/erasure-audit run deployments/specs/testbed-styles.yaml --root $(STYLES)/store --exit-zero
	$(PAGE) styles --root $(STYLES)/store

FAILURES = build/failures

failures: $(STAMP) ## audit which sizes, places and colours come back, table into audit/testbed/README.md (resumable; minutes)
	$(BIN)/erasure-audit testbed scenes $(FAILURES)/corpus/ring --class ring --count 128 --attributes $(FAILURES)/attributes/ring.csv
	$(BIN)/erasure-audit testbed scenes $(FAILURES)/corpus/square --class square --count 12
	$(BIN)/erasure-audit run deployments/specs/testbed-failures.yaml --root $(FAILURES)/store --exit-zero
	$(PAGE) failures --root $(FAILURES)/store

CYCLES = build/cycles

cycles: $(STAMP) ## edit and erase the testbed in turn: the concept, its neighbours and the pictures at each stage (resumable)
	$(BIN)/erasure-audit testbed scenes $(CYCLES)/corpus/ring --class ring --count 16
	$(BIN)/erasure-audit testbed scenes $(CYCLES)/corpus/arrow --class arrow --count 16
	$(BIN)/erasure-audit run deployments/specs/testbed-cycles.yaml --root $(CYCLES)/store --exit-zero
	$(PAGE) cycles --root $(CYCLES)/store

SD3 = build/sd3

sd3-audit: $(STAMP) ## audit the testbed's SD3-shaped backbone, table into audit/testbed/README.md (resumable)
	$(BIN)/erasure-audit testbed scenes $(SD3)/corpus/ring --class ring --count 32
	$(BIN)/erasure-audit testbed scenes $(SD3)/corpus/square --class square --count 12
	$(BIN)/erasure-audit run deployments/specs/testbed-sd3.yaml --root $(SD3)/store --exit-zero
	$(PAGE) sd3-audit --root $(SD3)/store

SD3_PROBES = build/sd3-probes

sd3-probes: $(STAMP) ## audit every probe of the SD3-shaped backbone beside its control, table into audit/testbed/README.md (resumable)
	for class in ring square arrow; do \
		$(BIN)/erasure-audit testbed scenes $(SD3_PROBES)/corpus/$$class --class $$class --count 32 || exit 1; done
	$(BIN)/erasure-audit run deployments/specs/testbed-sd3-probes.yaml --root $(SD3_PROBES)/store --exit-zero
	$(PAGE) sd3-probes --root $(SD3_PROBES)/store

SD3_CYCLES = build/sd3-cycles

sd3-cycles: $(STAMP) ## edit and erase the SD3-shaped backbone in turn, table into audit/testbed/README.md (resumable)
	for class in ring arrow; do \
		$(BIN)/erasure-audit testbed scenes $(SD3_CYCLES)/corpus/$$class --class $$class --count 16 || exit 1; done
	$(BIN)/erasure-audit run deployments/specs/testbed-sd3-cycles.yaml --root $(SD3_CYCLES)/store --exit-zero
	$(PAGE) sd3-cycles --root $(SD3_CYCLES)/store

MEB = build/m-erasurebench

# Without a GPU, a process with one thread for each core: two threads of one small network mostly wait for each other.
MEB_RUN = $(BIN)/erasure-audit run --runner processes --exit-zero

m-erasurebench: $(STAMP) ## run M-ErasureBench on both testbed backbones, tables into audit/testbed/README.md (resumable; 3 hours on two cores)
	for class in circle square triangle star ring cross heart moon diamond hexagon arrow; do \
		$(BIN)/erasure-audit testbed scenes $(MEB)/scenes/$$class --class $$class --count 24 || exit 1; done
	$(MEB_RUN) deployments/specs/m-erasurebench-testbed.yaml --root $(MEB)/store
	$(PAGE) benchmark --root $(MEB)/store
	$(MEB_RUN) deployments/specs/m-erasurebench-testbed-sd3.yaml --root $(MEB)/store-sd3
	$(PAGE) benchmark-sd3 --root $(MEB)/store-sd3
	$(PAGE) architectures --root $(MEB)/store --beside $(MEB)/store-sd3

constraints: ## resolve the newest compatible set and write constraints.txt
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip install --quiet -e '.[dev]'
	build/constraints/bin/python -m pip freeze --exclude-editable | sed -E 's/\+cpu$$//' > constraints.txt

clean: ## remove what the targets made, .venv included
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
