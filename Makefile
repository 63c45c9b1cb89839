# `make up` runs a cluster on this machine, `make test` runs every test. Both set everything up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SETUP_LOG := $(VENV)/setup.log
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
COMPILES := import os, shlex, shutil, sys, sysconfig; \
	compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]; \
	headers = os.path.join(sysconfig.get_path("include"), "Python.h"); \
	sys.exit(not shutil.which(compiler) or not os.path.exists(headers))
# What is compiled: the modules are built anew when one of these changes.
SOURCES := $(shell find src -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.h' 2>/dev/null)

# The tests in which the compiled modules meet whatever may come.
SANITIZED := $(addprefix tests/,property/test_wire_fuzz.py property/test_wire_chunks.py property/test_fast_path.py \
	property/test_ring.py unit/test_wire.py $(addprefix integration/router/test_router_,limits.py torture.py))

# The files that take longest begin first, so that no worker is left alone with one in the end.
LONG := $(addprefix tests/integration/test_,crashes.py crashes_external.py up.py local.py external_replicas.py backup.py take_over.py soak.py balance.py \
	big_values.py failover_soak.py)

# The crash matrix, of which every test run has a part.
CRASHES := $(addprefix tests/integration/test_,crashes.py crashes_external.py moves_and_failovers.py replicated_repair.py)

# The store of clusters under test: sqlite, or etcd (etcd-server on PATH).
STORE ?= sqlite
export STORE
# What is run over etcd, too, where all is run over SQLite.
ON_ETCD := $(addprefix tests/integration/test_,transitions.py cancel.py)

.PHONY: up test check format bench clean crashes hosts upgrade-test sim soak failover-soak scale sanitize annotate pin docs
.DEFAULT_GOAL := help

help:
	@echo "make up [ARGS=...]  start a cluster on this machine"
	@echo "make check          format, lint, types, import contracts, unit and property tests"
	@echo "make test [STORE=etcd]  every test; of those of whole clusters some over etcd, too, or all over etcd alone"
	@echo "make crashes        every process killed and frozen at every point of a move"
	@echo "make hosts          nodes in network namespaces, with every way in which hosts and networks break (root, iproute2, etcd)"
	@echo "make upgrade-test BEFORE=COMMIT [STORE=etcd]  nodes of an earlier release, from git, beside those of this one"
	@echo "make sim [N=1000] [SEED=n]  lives of whole clusters on a virtual clock; a SEED replays one"
	@echo "make sim NODES=1000  one life of so many nodes, of which two join and one leaves"
	@echo "make soak [MINUTES=10] [SEED=n]  a long run of everything at once, which ends with a reckoning"
	@echo "make failover-soak [FAULTS=300] [MINUTES=60] [SEED=n]  leaders, replicas, agents, routers die and freeze under clients"
	@echo "make scale [N=100] [MINUTES=10] [ARGS=...]  so many nodes on this machine, under load, of which two join and one leaves"
	@echo "make sanitize       the compiled modules built with AddressSanitizer, and the tests that attack them (needs libasan)"
	@echo "make annotate       listings of the compiled modules that show which lines call Python, in build/annotated"
	@echo "make bench [ARGS=--quick]  the router beside the servers themselves and twemproxy"
	@echo "make docs           the documents as a site, in build/site"
	@echo "make pin [ARGS=--upgrade]  constraints.txt anew from pyproject.toml, versions and hashes (needs uv)"
	@echo "make clean          remove what the commands above created (not helios-data)"

$(STAMP): pyproject.toml constraints.txt $(wildcard setup.py) $(SOURCES)
	@# One of an older Python is of no use, and would be in the way of the remedy.
	@if test -x $(BIN)/python && ! $(BIN)/python -c '$(NEW_ENOUGH)'; then rm -rf $(VENV); fi
	@test -x $(BIN)/python || { $(PYTHON) -c '$(NEW_ENOUGH)' && $(PYTHON) -m venv $(VENV); } || \
		{ echo "Helios needs Python 3.11 or newer with venv: name one by make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@# Said before the packages are fetched, which takes a minute.
	@$(BIN)/python -c '$(COMPILES)' || \
		{ echo "Helios has parts in Cython: install a C compiler and Python's headers (build-essential, python3-dev)" >&2; exit 1; }
	@echo "setting up $(VENV): packages are fetched and the parts in Cython are compiled, which takes a minute or two"
	@$(BIN)/python -m pip install --quiet --retries 2 --require-hashes --only-binary :all: --requirement constraints.txt \
		>$(SETUP_LOG) 2>&1 || { echo "packages could not be fetched: is the package index within reach? $(SETUP_LOG) has" \
		"what pip says" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable . >$(SETUP_LOG) 2>&1 || \
		{ echo "the parts in Cython could not be compiled: are the C compiler and Python's headers whole (build-essential," \
		"python3-dev)? $(SETUP_LOG) has what they say" >&2; exit 1; }
	@# A package carries redis-cli for the tests; installed here too, with an old server, it would hide the system's.
	@rm -f $(BIN)/redis-cli $(BIN)/redis-server
	@# The guide starts a plain server, too: where the system has none, by the one that a package carries.
	@command -v valkey-server >/dev/null || \
		$(BIN)/python -c 'from helios.node.server import packaged_server as find; print(find() or "")' | \
		xargs -r -I {} ln -sf {} $(BIN)/valkey-server
	@touch $(STAMP)
	@echo "set up"

up: $(STAMP)
	@exec $(BIN)/helios up $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -n 2 tests/unit tests/control tests/property

test: check
	$(BIN)/python -m pytest -n 2 tests/simulation
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder tests/hosts $(LONG) tests/docs tests/integration tests/conformance
	@if [ $(STORE) != etcd ] && command -v etcd >/dev/null; then \
		STORE=etcd $(BIN)/python -m pytest -n 3 --dist loadfile $(ON_ETCD); fi

crashes: $(STAMP)
	$(BIN)/python -m pytest $(CRASHES) -m ""

hosts: $(STAMP)
	$(BIN)/python -m pytest tests/hosts -m ""

# The release before is the last tag unless a commit is named.
BEFORE ?= $(shell git describe --tags --abbrev=0 2>/dev/null)
upgrade-test: $(STAMP)
	@test -n "$(BEFORE)" || { echo "there is no tag: name the release before by make upgrade-test BEFORE=COMMIT" >&2; exit 1; }
	rm -rf build/before && mkdir -p build/before
	git archive $(BEFORE) src setup.py pyproject.toml README.md | tar x -C build/before
	cd build/before && $(abspath $(BIN))/python setup.py -q build_ext --inplace
	HELIOS_BEFORE=$(abspath build/before/src) $(BIN)/python -m pytest tests/upgrade

sim: $(STAMP)
	$(BIN)/python -m tests.simulation $(if $(NODES),--nodes $(NODES)) $(if $(SEED),--seed $(SEED),--count $(or $(N),1000)) $(if $(FIRST),--first $(FIRST)) $(if $(REPLICATED),--replicated) $(if $(PLANT),--plant $(PLANT))

soak: $(STAMP)
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

failover-soak: $(STAMP)
	$(BIN)/python -m tests.failover_soak --faults $(or $(FAULTS),300) --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m tests.failover_soak --async --faults 30 --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED))

scale: $(STAMP)
	$(BIN)/python -m benchmarks.scale --nodes $(or $(N),100) --minutes $(or $(MINUTES),10) $(ARGS)

annotate: $(STAMP)
	@mkdir -p build/annotated
	@for module in $(filter %.pyx,$(SOURCES)); do \
		$(BIN)/cython -3 -a -I src $$module -o build/annotated/$$(basename $$module .pyx).c && \
		echo build/annotated/$$(basename $$module .pyx).html; done

sanitize: $(STAMP)
	@rm -rf build/sanitized && mkdir -p build/sanitized/source
	@cp -r src pyproject.toml setup.py README.md build/sanitized/source
	@find build/sanitized/source \( -name '*.so' -o -name '*.c' \) -delete
	@CFLAGS="-fsanitize=address -fno-omit-frame-pointer -O1 -g" LDFLAGS=-fsanitize=address \
		$(BIN)/python -m pip install --quiet --no-deps --target build/sanitized/modules build/sanitized/source
	@# Python's own allocator would hide what is read behind the end of a value; and it does not free everything at exit.
	LD_PRELOAD=$$(cc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
		PYTHONPATH=build/sanitized/modules $(BIN)/python -m pytest -p no:cacheprovider $(SANITIZED)

docs: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "the site is in build/site; $(BIN)/python -m http.server -d build/site shows it with search"

bench: $(STAMP)
	$(BIN)/python -m benchmarks.router $(ARGS)

# uv is not among the packages: it comes from where you get your tools. Versions stay unless ARGS=--upgrade says otherwise.
pin:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--extra dev pyproject.toml --output-file constraints.txt $(ARGS)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	find src \( -name '*.so' -o -name '*.c' \) -delete
	rm -rf $(VENV) build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
