PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# make images TAG=1.2.3 [REGISTRY=registry.example.org/team PUSH=1] [BASE=python:3.11-slim]
REGISTRY ?= helios.test
IMAGE = $(REGISTRY)/helios:$(TAG)
BASE ?= python:3.11-slim
# BUILDER=buildah works where there is no Docker.
BUILDER ?= docker
BUILD_FLAGS ?=
# Where the image is to be run from; nothing when the manifests are not to be touched.
MANIFESTS ?= k8s
# musl makes the smallest static binary; any C compiler with a static library makes one that works.
STATIC_CC ?= $(if $(shell command -v musl-gcc),musl-gcc,cc)
# PLATFORM=linux/arm64 builds for that machine; this one's is amd64 unless said.
PLATFORM ?=
MACHINE := $(if $(filter %/arm64,$(PLATFORM)),aarch64,x86_64)
# The Python of BASE.
IMAGE_PLATFORM := --only-binary=:all: --python-version 3.11 --implementation cp --platform manylinux_2_28_$(MACHINE) \
  --platform manylinux_2_17_$(MACHINE) --platform manylinux2014_$(MACHINE)
# Another machine's program needs its compiler: CROSS_CC=aarch64-linux-gnu-gcc; without one the Dockerfile compiles it there.
CROSS_CC ?= $(shell command -v aarch64-linux-gnu-gcc)
PARTS := $(if $(filter aarch64,$(MACHINE)),build/image/.made-aarch64,build/image/.made)

.DEFAULT_GOAL := help
.PHONY: help install dev demo test test-links test-install test-cluster test-cluster-long mutations bench-cluster bench-kwok bench-kwok-smoke exec images wheel sbom check fmt lock clean audit docs fuzz crash soak

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

# The stamps hold what was installed: a changed lock or project file installs again, nothing else does.
$(VENV)/.runtime: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Helios needs Python 3.11 or later; try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned dependencies into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo "Installing the pinned test tools into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

install: $(VENV)/.runtime ## make .venv with the helios command in it

dev: $(VENV)/.dev ## the same, with the test tools

demo: $(VENV)/.runtime ## run one example twice and compare what the cache saved
	@$(BIN)/python examples/demo.py

# Tests mostly wait, for processes and leases. A file's tests stay in one process, and keep the servers they share.
WORKERS ?= 2

test: $(VENV)/.dev ## run the tests; sets up all they need
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

SECONDS ?= 600

fuzz: $(VENV)/.dev ## damaged and hostile input for every way in: SECONDS=600 in all
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

test-links: $(VENV)/.dev ## all tests of broken connections, those that wait for long included: three minutes
	@HELIOS_LONG=1 $(BIN)/python -m pytest --durations=10 tests/test_faulty_link.py tests/helios/test_link.py tests/agent/test_link.py \
		tests/cli/test_link_cli.py tests/services/test_link_*.py tests/services/test_slow_clients.py

test-install: $(VENV)/.dev ## every way to install that docs/install.md has; needs a package index
	@HELIOS_LONG=1 $(BIN)/python -m pytest tests/cli/test_install_page.py

crash: $(VENV)/.dev ## kill every service at every call of a run, and compare how it ends; ten minutes at most
	@$(BIN)/python -m tests.crash

soak: $(VENV)/.dev ## 20,000 tasks while everything is killed and cut off, at most 15 minutes: SEED=7 repeats one
	@$(BIN)/python -m tests.soak $(if $(SEED),--seed $(SEED))

ON_CLUSTER = $(if $(KUBECONFIG),,tests/cluster/tool/cluster exec) $(BIN)/python -m pytest --timeout=400

test-cluster: $(VENV)/.dev build/image/.made ## the tests on a real Kubernetes: KUBECONFIG's, or one of their own (root and Go)
	@$(if $(KUBECONFIG),,tests/cluster/tool/cluster build kubernetes runtime coredns minio base kwok)
	@$(ON_CLUSTER) tests/cluster tests/k8s

test-cluster-long: $(VENV)/.dev build/image/.made ## what test-cluster leaves out: longer outages, larger runs
	@$(if $(KUBECONFIG),,tests/cluster/tool/cluster build)
	@HELIOS_LONG=1 $(ON_CLUSTER) tests/cluster/test_faults.py tests/cluster/test_scaling.py

mutations: $(VENV)/.dev ## take each promise's mechanism out of a copy, and see its test fail
	@$(BIN)/python -m tests.mutations.run

bench-cluster: $(VENV)/.dev ## Helios beside bare Jobs on the same Kubernetes (root and Go)
	@$(BIN)/python -m bench.cluster

bench-kwok: $(VENV)/.dev ## 5,000 tasks on 100 fake nodes: Jobs created, the collector's lag (root and Go)
	@$(BIN)/python -m bench.kwok

bench-kwok-smoke: $(VENV)/.dev ## the same with 200 tasks on 20 nodes, in a minute once all is built
	@$(BIN)/python -m pytest tests/cluster/test_kwok.py

build/exec: agent/exec.c
	@mkdir -p build
	@$(STATIC_CC) -std=gnu11 -static -Os -s -Wall -Wextra -Werror -o $@ $<

exec: build/exec ## compile the wrapper of tasks in containers

# What an image is built from that needs a network or a compiler, so that its build needs neither.
build/image/.made: build/exec requirements-image.lock | $(VENV)/.runtime
	@rm -rf build/image && mkdir -p build/image
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-compile --no-deps \
	  $(IMAGE_PLATFORM) --target build/image/lib -r requirements-image.lock
	@cp build/exec build/image/exec
	@touch $@

build/image/.made-aarch64: agent/exec.c requirements-image.lock | $(VENV)/.runtime
	@rm -rf build/image && mkdir -p build/image
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-compile --no-deps \
	  $(IMAGE_PLATFORM) --target build/image/lib -r requirements-image.lock
	@$(if $(CROSS_CC),$(CROSS_CC) -std=gnu11 -static -Os -s -Wall -Wextra -Werror -o build/image/exec agent/exec.c)
	@touch $@

images: $(PARTS) ## build the image and name it in k8s/: TAG=1.2.3 [REGISTRY=… PUSH=1 PLATFORM=linux/arm64]
	@test -n "$(TAG)" || { echo "Name the version: make images TAG=1.2.3" >&2; exit 1; }
	@$(BUILDER) build $(if $(PLATFORM),--platform $(PLATFORM)) $(BUILD_FLAGS) --build-arg BASE=$(BASE) --build-arg TAG=$(TAG) -t $(IMAGE) .
	@$(if $(PUSH),$(BUILDER) push $(IMAGE))
	@$(if $(MANIFESTS),$(PYTHON) k8s/set-image $(REGISTRY)/helios $(TAG) $(MANIFESTS))

check: $(VENV)/.dev ## lint, formatting, strict types, the documentation, and whether all tests can be imported
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --project pyproject.toml
	@$(MAKE) --silent docs
	@$(BIN)/python -m pytest --collect-only -q tests tests/cluster >/dev/null || \
	  { $(BIN)/python -m pytest --collect-only -q tests tests/cluster | tail -n 40 >&2; exit 1; }

docs: $(VENV)/.dev ## the documentation's site in build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

audit: $(VENV)/.dev ## what Helios is built from: pins, hashes, licences and, with pip-audit on PATH, advisories
	@$(BIN)/python -m tests.security.audit

wheel: $(VENV)/.runtime ## the package, in dist/: pipx install 'dist/helios-….whl[local]'
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

sbom: $(VENV)/.dev ## what the packages and the image are built from, as CycloneDX JSON: dist/helios.cdx.json
	@mkdir -p dist && $(BIN)/python -m tests.security.sbom > dist/helios.cdx.json

fmt: $(VENV)/.dev ## format and fix what can be fixed
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

lock: ## pin the newest versions that pyproject.toml allows
	@uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --no-annotate --extra embedded --extra tui --extra install pyproject.toml --output-file requirements.lock
	@# Not universal: pip judges markers by the Python that runs it, but the image's may be another 3.11.
	@uv pip compile --quiet --upgrade --python-platform linux --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --no-annotate --extra cluster --extra http --extra otel --constraint requirements.lock pyproject.toml --output-file requirements-image.lock
	@uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --no-annotate --extra dev --extra cluster --extra tui --extra http --extra otel --constraint requirements.lock --constraint requirements-image.lock \
	  pyproject.toml --output-file requirements-dev.lock

clean: ## remove what make and the tests made
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build *.egg-info
