.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
ENGINE ?= docker
REPOSITORY ?= us-docker.pkg.dev/sample/docker-repo
TAG ?= latest
WORKERS ?= 2

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: .venv/installed  ## Make .venv with everything, from the hashed lock

.venv/installed: requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## Run a caller and two producers here; Ctrl-C stops them
	@$(BIN)/python demo.py

two-clusters: setup  ## Two clusters on this machine, to break and repair by hand; needs root
	@$(BIN)/python -m lab

test: setup  ## Run all tests (WORKERS=1: one after the other)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --ignore tests/test_containers.py
	$(BIN)/python -m pytest tests/test_containers.py  # apart: their networks are new, and a browser gives up its requests

bench: setup  ## Measure speed against other programs, and the bars (wants wrk and nginx)
	@$(BIN)/python -m bench

lint: setup  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup  ## Write what the documents repeat from the code
	$(BIN)/python -m docs.generate

screenshots: setup  ## Take the documents' pictures of the page anew, in a real Chromium
	$(BIN)/python -m docs.screenshots

format: setup  ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

images:  ## Build both images (ENGINE=podman, REPOSITORY=…, TAG=…)
	$(ENGINE) build -f Dockerfile.caller -t $(REPOSITORY)/sample-caller:$(TAG) .
	$(ENGINE) build -f Dockerfile.producer -t $(REPOSITORY)/sample-producer:$(TAG) .

manifests: setup  ## Build and validate every overlay and component, then print what the two clusters get
	@$(BIN)/python -m pytest -q tests/test_manifests.py tests/test_manifest_components.py >&2
	@for place in caller-cluster producer-cluster; do echo "# $$place"; kubectl kustomize k8s/overlays/$$place; done

locks: setup  ## Write the locks anew
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links pyproject.toml --extra tracing -o requirements-tracing.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links pyproject.toml --extra tracing --group dev -o requirements-dev.lock

clean:  ## Remove what the other targets made
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help setup demo two-clusters test lint docs screenshots format images manifests locks clean
