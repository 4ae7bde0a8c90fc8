.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
DOCUMENTS := docs/troubleshooting.md $(wildcard docs/reference/*.md)
ENGINE ?= docker
REPOSITORY ?= us-docker.pkg.dev/sample/docker-repo
TAG ?= latest
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null)
IMAGE_OPTIONS = --build-arg VERSION=$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' common/__init__.py) \
  $(if $(REVISION),--label org.opencontainers.image.revision=$(REVISION)) \
  $(if $(SOURCE),--label org.opencontainers.image.source=$(SOURCE))
WIRE_TYPES := $(BIN)/python -m scripts.openapi | node_modules/.bin/openapi-typescript --output types/wire.d.ts \
  --root-types --root-types-no-schema-prefix --root-types-keep-casing --default-non-nullable=false

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-13s %s\n", $$1, $$2}'

setup: $(VENV)/installed  ## Create .venv from the hashed lock (PYTHON=python3.13 chooses the interpreter, VENV=… the folder)

$(VENV)/installed: requirements-dev.lock bench/requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock \
	  -r bench/requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

node_modules: package.json package-lock.json .npmrc
	npm ci --loglevel=error --no-progress >/dev/null
	@touch $@

demo: setup  ## Run a caller and two producers on this machine; Ctrl-C stops them
	@$(BIN)/python demo.py

two-clusters: setup  ## Run two clusters of network namespaces on this machine, to break and repair by hand; needs root
	@$(BIN)/python -m lab

test: setup  ## Run all tests (WORKERS=1: one after the other)
	$(PYTEST) --ignore tests/test_containers.py
	$(BIN)/python -m pytest tests/test_containers.py  # separately: new networks make Chromium cancel its requests

test-quick: setup  ## Run the tests that need no browser, no root and no containers
	$(PYTEST) -m "not root" --ignore tests/test_containers.py --ignore tests/page --ignore tests/lab

coverage: setup  ## Run the tests under coverage; fails below the minimum in pyproject.toml
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(WORKERS) --dist loadfile --ignore tests/test_containers.py
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: setup  ## Measure speed against other programs and the targets (needs wrk; as root also tcpdump, tshark and curl)
	@$(BIN)/python -m bench

lint: setup node_modules  ## Check style, types, scripts and workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck scripts/*.sh .ci/run
	$(BIN)/actionlint -shellcheck $(BIN)/shellcheck .github/workflows/*.yml
	@$(WIRE_TYPES) --check || { echo "types/wire.d.ts is not what the caller's OpenAPI gives: run 'make types'" >&2; exit 1; }
	node_modules/.bin/tsc

types: setup node_modules  ## Write the types of the page's modules from the caller's OpenAPI
	$(WIRE_TYPES)

docs: setup  ## Update what the documents repeat from the code
	$(BIN)/cog -I . --verbosity=1 -r $(DOCUMENTS)
	$(BIN)/python -m observability.dashboard >observability/grafana-dashboard.json

docs-check: setup  ## Fail if `make docs` would change a document
	$(BIN)/cog -I . --verbosity=1 --check --diff $(DOCUMENTS)
	$(BIN)/python -m observability.dashboard | diff observability/grafana-dashboard.json -

screenshots: setup  ## Take the screenshots in the documents again, with Chromium
	$(BIN)/python -m docs.screenshots

format: setup  ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

images:  ## Build both images (ENGINE=podman, REPOSITORY=…, TAG=…, SOURCE=URL of the repository)
	$(ENGINE) build $(IMAGE_OPTIONS) -f Dockerfile.caller -t $(REPOSITORY)/sample-caller:$(TAG) .
	$(ENGINE) build $(IMAGE_OPTIONS) -f Dockerfile.producer -t $(REPOSITORY)/sample-producer:$(TAG) .

manifests: setup  ## Build and validate every overlay and component, then print those of the two clusters
	@$(BIN)/python -m pytest -q tests/k8s >&2
	@for cluster in caller-cluster producer-cluster; do echo "# $$cluster"; kubectl kustomize k8s/overlays/$$cluster; done

locks: setup  ## Compile the hashed locks from pyproject.toml; pins that fit are kept (ARGS=--upgrade: newest versions)
	UV=$(BIN)/uv scripts/locks.sh $(ARGS)

version-set:  ## Change the version everywhere (VERSION=1.2.3)
	@$(PYTHON) scripts/version_set.py "$(VERSION)"

clean:  ## Remove what the other targets created
	rm -rf .venv .venv-* node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*

.PHONY: help setup demo two-clusters test test-quick coverage bench lint types docs docs-check screenshots format \
  images manifests locks version-set clean
