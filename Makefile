# Every target installs what it needs; `make` alone lists them. ARGS go to the program: make demo ARGS=--json

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# the commit that `make upgrade` and `make release` begin with; empty: the last tag
FROM ?=
# parallel test processes; those of the integration tests start servers of their own, and mostly wait for them
WORKERS ?= 3
INTEGRATION_WORKERS ?= 5
# how the tests are divided: `test` has what a change can break on any engine, once, and `matrix` has the rest
IN_TEST := -m 'not matrix and not soak and not compose'
IN_MATRIX := --whole -m '(matrix or search) and not soak and not compose'
DURATIONS := --durations=20 --durations-min=1
# seconds in which `make matrix` plants defects
PLANTING ?= 120
# programs that `make soak` runs
SEEDS ?= 2000
# programs of store commands that `make soak` runs on each engine
PROGRAMS ?= 400
# minutes that `make faultlab` gives to each set-up
MINUTES ?= 10
LOCK := --upgrade --universal --python-version 3.13 --generate-hashes --no-emit-index-url --quiet \
	--custom-compile-command 'make lock'
# the theme tells of its successor at each start
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

# tests start hundreds of processes, each of which would compile every module anew where this is set
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
ifndef SIDE_BY_SIDE
.NOTPARALLEL:
endif
.PHONY: help demo quick test matrix lint lint-types lint-rest collected pyright proto blocking reference unit unit-others coverage integration matrix-tests django-suite test-soak soak faultlab test-compose mutants mutants-some slips bench bench-peers bench-remote bench-guard bench-durability bench-flows bench-web scale docs docs-serve pictures format screenshots lock dist upgrade release manifests sbom servers clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## three nodes at work on a Valkey of their own; two of them are killed
	$(BIN)/jobd demo $(ARGS)

quick: $(VENV)/.installed ## check what differs from main, in seconds
	$(BIN)/python scripts/quick.py -n 2 $(ARGS)

test: BESIDE_LINT := collected
test: lint servers unit integration ## what a change can break on any engine, once, in eight minutes

matrix: pyright docs servers unit-others matrix-tests mutants-some ## the rest of what CI runs: other Pythons, servers and drivers, long tests

# mypy takes as long as all the others, so they run at the same time
lint: $(VENV)/.installed ## style, types by mypy, the direction of imports, and whether generated code is fresh
	@$(MAKE) --no-print-directory --jobs 2 SIDE_BY_SIDE=yes lint-types lint-rest $(BESIDE_LINT)

lint-types: $(VENV)/.installed
	$(BIN)/mypy src tests scripts $(wildcard bench examples)
	$(BIN)/python scripts/check_typecheckers_see_links.py mypy

lint-rest: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/check_rings.py
	$(BIN)/python scripts/check_words.py
	$(BIN)/python scripts/generate_proto.py --check
	$(BIN)/python scripts/generate_blocking.py --check
	$(BIN)/python scripts/generate_manifests.py --check
	$(BIN)/python scripts/generate_reference.py --check
	$(BIN)/python scripts/vendor_web.py --check
	$(BIN)/python tests/mutants/run.py --check

# the workers of the tests start at the same time, and each would compile all tests: here one process does it for them
collected: $(VENV)/.installed
	@mkdir -p build
	$(BIN)/pytest tests/unit tests/integration --collect-only -q --whole >build/collected || { cat build/collected; exit 1; }
	$(BIN)/python tests/mutants/run.py --check --collected build/collected

pyright: $(VENV)/.installed ## types, by the checker of many editors
	$(BIN)/pyright $(ARGS)
	$(BIN)/python scripts/check_typecheckers_see_links.py pyright

unit: $(VENV)/.installed ## tests that need no service
	$(BIN)/pytest tests/unit -n $(WORKERS) --dist worksteal $(DURATIONS) $(IN_TEST) $(ARGS)

unit-others: $(VENV)/.installed ## the unit tests on the newest other Python that is found; ARGS=--every: on each
	$(BIN)/python scripts/unit_on_other_pythons.py -n $(WORKERS) $(ARGS)

coverage: $(VENV)/.installed ## how much of the package the unit tests run; `make unit` is what judges them
# the counting takes time, so tests that limit a time can fail here
	COVERAGE_FILE=build/coverage/data $(BIN)/pytest tests/unit -n $(WORKERS) --dist worksteal $(IN_TEST) -q \
		--cov=peerjob --cov-branch --cov-report=html:build/coverage/html --cov-report=term:skip-covered $(ARGS) || test $$? = 1

integration: $(VENV)/.installed servers ## tests with real servers, processes and faults
	$(BIN)/pytest tests/integration -n $(INTEGRATION_WORKERS) --dist worksteal $(DURATIONS) $(IN_TEST) $(ARGS)

matrix-tests: $(VENV)/.installed servers ## the tests that only `make matrix` runs
	$(BIN)/pytest tests/unit tests/integration -n $(INTEGRATION_WORKERS) --dist worksteal $(DURATIONS) $(IN_MATRIX) $(ARGS)

django-suite: $(VENV)/.installed ## Django's own tests of task backends against peerjob's; needs Python 3.12
	$(BIN)/python scripts/django_suite.py $(ARGS)

test-soak: $(VENV)/.installed servers ## the tests that run for minutes
	$(BIN)/pytest -m soak $(ARGS)

soak: $(VENV)/.installed servers ## random programs under random faults and against the reference, then each damaged value: make soak SEEDS=5000
	PYTHONPATH=tests $(BIN)/python -m support.simulation --seeds $(SEEDS) --processes 2 $(ARGS)
	PYTHONPATH=tests $(BIN)/python -m support.oracle --first 10001 --seeds $(PROGRAMS)
	$(BIN)/pytest -m soak tests/integration/test_damaged_values.py

faultlab: $(VENV)/.installed servers ## node processes and real servers under faults: make faultlab MINUTES=10 ARGS=redis
	PYTHONPATH=tests $(BIN)/python -m support.lab --minutes $(MINUTES) --page docs/inside/lab.md $(ARGS)

test-compose: $(VENV)/.installed ## the compose files on a Docker engine; ENGINE=own starts one (root on Debian)
	@sh tests/compose/run.sh "$(ENGINE)" $(BIN)/pytest -m compose tests/compose $(ARGS)

mutants: $(VENV)/.installed servers ## plant the listed defects one by one, and show which test sees each: make mutants ARGS='R01 --only-listed'
	$(BIN)/python tests/mutants/run.py $(ARGS)

mutants-some: $(VENV)/.installed servers ## plant some listed defects, others for each commit, in two minutes
	$(BIN)/python tests/mutants/run.py --only-listed --jobs 2 --seconds $(PLANTING) $(ARGS)

slips: $(VENV)/.installed servers ## plant random slips, and show which of them the unit tests catch: make slips ARGS='--seed 7 --count 20'
	$(BIN)/python tests/mutants/slips.py $(ARGS)

bench: $(VENV)/.installed servers ## measure throughput, latency and memory
	$(BIN)/python bench/run.py $(ARGS)

bench-peers: $(VENV)/.installed servers ## measure peerjob beside ten other job queues, and write docs/benchmarks.md
	PYTHONPATH=bench:tests $(BIN)/python -m peers $(ARGS)

bench-remote: $(VENV)/.installed servers ## measure jobd over gRPC: watchers, calls per second, memory, the cost of a lone job
	$(BIN)/python bench/remote.py $(ARGS)

bench-guard: $(VENV)/.installed servers ## count what the paths of a job cost, and compare with the expected counts
	PYTHONPATH=tests $(BIN)/python -m support.guard $(ARGS)

scale: $(VENV)/.installed servers ## measure how the cost of each engine grows, in an hour at most: make scale ARGS=--quick
	PYTHONPATH=tests:bench $(BIN)/python -m scale $(ARGS)

bench-flows: $(VENV)/.installed servers ## measure steps, waits, children and flows beside their goals; on a quiet machine, or with ARGS=--quick
	$(BIN)/python bench/flows.py $(ARGS)

bench-durability: $(VENV)/.installed servers ## measure what each kind of durability costs on Redis
	$(BIN)/python bench/durability.py $(ARGS)

docs: $(VENV)/.installed ## build the site into build/site; each dead link and each missing page is an error
	$(MKDOCS) build --strict $(ARGS)

docs-serve: $(VENV)/.installed ## serve the site on 127.0.0.1:8000 while you write
	$(MKDOCS) serve --dev-addr 127.0.0.1:8000 --no-strict $(ARGS)

pictures: $(VENV)/.installed ## draw the terminal pictures of docs/assets from real runs, on a quiet machine
	$(BIN)/python scripts/terminal_pictures.py $(ARGS)

bench-web: $(VENV)/.installed servers ## measure the pages of the dashboard over a full store, and its live views
	$(BIN)/python bench/web.py $(ARGS)

proto: $(VENV)/.installed ## generate the Python messages from the .proto files
	$(BIN)/python scripts/generate_proto.py

reference: $(VENV)/.installed ## write into docs/reference what its pages show of the code
	$(BIN)/python scripts/generate_reference.py

blocking: $(VENV)/.installed ## generate the blocking verbs from the asynchronous ones
	$(BIN)/python scripts/generate_blocking.py

format: $(VENV)/.installed ## rewrite the code in the house style
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

screenshots: $(VENV)/.installed servers ## take the pictures of the dashboard for the README and the docs
	PYTHONPATH=tests $(BIN)/python scripts/screenshots.py $(ARGS)

manifests: $(VENV)/.installed ## make of the manifests what is made from other files
	$(BIN)/python scripts/generate_manifests.py

lock: $(VENV)/.installed ## renew the releases that the image is made of
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile $(LOCK) --extra cluster --extra jwt --extra otel --extra sql --extra web --output-file deploy/requirements.lock pyproject.toml
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' | \
		$(BIN)/uv pip compile $(LOCK) --output-file deploy/build.lock -

dist: $(VENV)/.installed ## build the sdist and the wheel, check them and each extra in clean environments, run the demo
	$(BIN)/python -m pip install --quiet build uv
	$(BIN)/python scripts/check_dist.py

upgrade: $(VENV)/.installed servers ## nodes of the last release, or of FROM=COMMIT, and of this tree share a namespace, on each store
	UPGRADE_FROM=$(FROM) $(BIN)/pytest tests/integration/test_upgrades.py -m 'matrix or soak' $(ARGS)

release: $(VENV)/.installed servers ## make all of a release ready, and check it: make release FROM=COMMIT, which is by default the last tag
	$(BIN)/python scripts/release.py --from '$(FROM)' --engine '$(ENGINE)'

sbom: $(VENV)/.installed ## write build/sbom: the packages of the image as CycloneDX
	$(BIN)/python scripts/sbom.py $(ARGS)

servers: ## install what tests want of the system, where that is ours to do (root on Debian)
	@sh scripts/install_servers.sh

clean: ## remove all that the other targets made
	rm -rf $(VENV) .venvs build dist src/*.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# --group needs pip 25.1
$(VENV)/.installed: pyproject.toml
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { echo "peerjob needs Python 3.11 or later" >&2; exit 1; }
	@test -d src/peerjob/store || $(or $(PYTHON),$(BIN)/python) setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[all]' --group dev
	@touch $@
