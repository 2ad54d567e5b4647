# The commands of this project. `make run` and `make test` need Python 3.11 or later and make; what
# else they need comes from PyPI into .venv, once.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Servers that tests are run against, in an environment of their own: see tests/servers.txt.
SERVERS := .venv/servers/.installed
# Clients of other makes, that need a C compiler and node: see tests/peers.txt. Tests do without.
JAVASCRIPT := tests/servicebus/javascript
PEERS := .venv/peers/.installed
PYTEST := RAY_AUTH_MODE=disabled $(BIN)/python -m pytest
# Measured over several calls of pytest: the first step starts afresh, the others add to it.
COVER := --cov --cov-report=
# SPEC T1: these are exercised by the contract and command-line tests and stay above 90 %; all else in
# pipeline/ is the domain and has every branch tested.
EDGES := pipeline/__main__.py,pipeline/cli/*,pipeline/telemetry/*,pipeline/providers/aws/*,pipeline/providers/azure/*

# The simulation: how many seeds, from which on, in how many processes.
SEEDS ?= 20000
START ?= 0
JOBS ?= $(shell nproc 2> /dev/null || echo 2)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help run run-aws run-azure run-sealed servers peers test static unit contract servicebus coverage-core \
	docs cluster coverage-edges faults notebooks bench bench-azure bench-crypto bench-memory \
	bench-servicebus bench-sqs format spec simulate fuzz soak clean

help:
	@echo "make run        the main job: 336,776 flights through a queue and Ray, with a checked result"
	@echo "make run-aws    27,004 of them through SQS FIFO, as a server on this machine speaks it"
	@echo "make run-azure  the same through Service Bus sessions, as a server on this machine speaks it"
	@echo "make run-sealed the main job with sealed bodies; its key is made, in .keys.json"
	@echo "make test       the whole gate, cheapest first; stops at the first failure"
	@echo "make peers      what some tests skip without: Qpid Proton and @azure/service-bus (cc, node, npm)"
	@echo "make bench      the engine's speed as ratios, in JSON lines; four minutes"
	@echo "make bench-azure  our receiver at Service Bus beside bare loops of the SDK; the pipeline"
	@echo "make bench-crypto  what sealing and opening cost: the cipher, then the pipeline beside plain bodies"
	@echo "make bench-memory  ten million messages, and a million sessions: is memory flat?"
	@echo "make bench-servicebus  what our Service Bus server costs beside the SDK, and its memory"
	@echo "make bench-sqs  our receiver at SQS beside a bare loop of the SDK; the pipeline at ministack"
	@echo "make format     format the code and repair what ruff can"
	@echo "make spec       which requirements have tests, and which have none"
	@echo "make simulate   SEEDS=20000 runs of the cores with seeded faults; each is repeated by its seed"
	@echo "make fuzz       COUNT=1000000 random and changed envelopes; SEED=... repeats a run"
	@echo "make soak       an hour of kills on a real Ray, and 100,000 seeds of the simulation"
	@echo "make clean      remove .venv and everything the tools left behind"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "queue-runtime needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	@echo "Installing queue-runtime and what it needs into .venv (once; some minutes on a slow line)"
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e ".[cluster,aws,azure,crypto,examples,dev]"
	@touch $@

$(SERVERS): tests/servers.txt | $(STAMP)
	@echo "Installing the SQS servers of the tests into .venv/servers (once)"
	@$(PYTHON) -m venv .venv/servers
	@.venv/servers/bin/python -m pip install --quiet --disable-pip-version-check -r tests/servers.txt
	@touch $@

servers: $(SERVERS)

$(PEERS): tests/peers.txt $(JAVASCRIPT)/package.json $(JAVASCRIPT)/package-lock.json | $(STAMP)
	@echo "Installing Qpid Proton into .venv and @azure/service-bus into .venv/peers (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-r tests/peers.txt
	@mkdir -p $(@D)
	@cp $(JAVASCRIPT)/package.json $(JAVASCRIPT)/package-lock.json $(@D)
	@npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

peers: $(PEERS)

run: $(STAMP)
	@$(BIN)/queue-runtime run configs/quickstart.yaml --until-empty --json

# The same against SQS, as a server of this machine speaks it: FIFO, the flights of January.
run-aws: $(STAMP) $(SERVERS)
	@$(BIN)/python -m tests.sqs.with_ministack \
		$(BIN)/queue-runtime run configs/aws.yaml --until-empty --json

# The same against Service Bus, as our own server speaks it: an aircraft is a session.
run-azure: $(STAMP)
	@$(BIN)/python -m tests.servicebus.with_server flights,session,lock=60 \
		$(BIN)/queue-runtime run configs/azure.yaml --until-empty --json

# The main job with sealed bodies: nobody reads or alters one on its way.
run-sealed: $(STAMP)
	@test -e .keys.json || $(BIN)/queue-runtime keys new configs/sealed.yaml
	@$(BIN)/queue-runtime run configs/sealed.yaml --until-empty --json

# --- the gate -------------------------------------------------------------------------------------

test: static unit contract servicebus coverage-core docs cluster coverage-edges faults notebooks
	@echo "--- all passed"

static: $(STAMP)
	@echo "--- ruff, import-linter, mypy"
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports
	$(BIN)/mypy

unit: $(STAMP)
	@echo "--- unit tests and simulation"
	$(PYTEST) tests/unit tests/simulation $(COVER)

contract: $(STAMP) $(SERVERS)
	@echo "--- contract and command-line tests"
	$(PYTEST) tests/contract $(wildcard tests/cli) --ignore tests/contract/aws \
		--ignore tests/contract/azure $(COVER) --cov-append
	@echo "--- SQS and Service Bus, on servers of our own machine: they wait more than they work"
	$(PYTEST) tests/sqs tests/contract/aws tests/contract/azure -n 5 $(COVER) --cov-append

# Our own counterpart of the service, which knows nothing of `pipeline`: no coverage is taken.
servicebus: $(STAMP)
	@echo "--- the Service Bus server of the tests, and clients of other makes"
	$(PYTEST) tests/servicebus -n 4

coverage-core: $(STAMP)
	@echo "--- every branch of the domain"
	$(BIN)/coverage report --omit="$(EDGES)" --fail-under=100

docs: $(STAMP)
	@echo "--- examples in docstrings"
	$(PYTEST) --xdoctest pipeline actors --timeout=300

cluster: $(STAMP)
	@echo "--- tests on a real Ray"
	$(PYTEST) tests/cluster --timeout=300 $(COVER) --cov-append

# After the cluster tests: the command that starts the runtime can't be exercised without one.
coverage-edges: $(STAMP)
	@echo "--- command line, telemetry and provider edges"
	$(BIN)/coverage report --include="$(EDGES)" --fail-under=90

faults: $(STAMP) $(SERVERS)
	@echo "--- processes that die"
	$(PYTEST) tests/faults --timeout=300

notebooks: $(STAMP) $(SERVERS)
	@if [ -d notebooks ]; then echo "--- notebooks"; $(PYTEST) --nbmake notebooks --timeout=600; fi

# --- beside the gate ------------------------------------------------------------------------------

bench: $(STAMP)
	@RAY_AUTH_MODE=disabled $(BIN)/python -m tests.benchmarks

bench-azure: $(STAMP)
	@RAY_AUTH_MODE=disabled $(BIN)/python -m tests.benchmarks.azure

bench-crypto: $(STAMP)
	@$(BIN)/python -m tests.benchmarks.crypto
	@RAY_AUTH_MODE=disabled $(BIN)/python -m tests.benchmarks.sealed

bench-memory: $(STAMP)
	@RAY_AUTH_MODE=disabled $(BIN)/python -m tests.benchmarks.memory

bench-servicebus: $(STAMP)
	@$(BIN)/python -m tests.servicebus.bench

bench-sqs: $(STAMP) $(SERVERS)
	@RAY_AUTH_MODE=disabled $(BIN)/python -m tests.benchmarks.sqs

format: $(STAMP)
	$(BIN)/ruff check --fix --exit-zero --quiet
	$(BIN)/ruff format

spec: $(STAMP)
	@$(BIN)/python -m tests.spec_ids

simulate: $(STAMP)
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --start $(START) --jobs $(JOBS)

fuzz: $(STAMP)
	@$(BIN)/python -m tests.fuzz --count $(or $(COUNT),1000000) --seed $(or $(SEED),0)

soak: $(STAMP)
	RAY_AUTH_MODE=disabled $(BIN)/python -m tests.faults --seconds $(or $(SECONDS),3600) --seed $(or $(SEED),0)
	$(MAKE) simulate SEEDS=100000

clean:
	rm -rf .venv .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache \
		.ruff_cache build dist
	find . -name __pycache__ -prune -exec rm -rf {} +
