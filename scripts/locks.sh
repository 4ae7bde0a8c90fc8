#!/bin/sh
# Compiles the hashed locks from pyproject.toml and bench/requirements.in. Pins that still satisfy them are kept.
# All arguments go to `uv pip compile`: `scripts/locks.sh --upgrade`, `scripts/locks.sh --upgrade-package httpx`.
set -eu
cd "$(dirname "$0")/.."

compile() {
    source=$1
    lock=$2
    shift 2
    # No index is written, so that a lock is the same whatever mirror it was made with.
    "${UV:-.venv/bin/uv}" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links --output-file "$lock" "$source" "$@"
}

# The largest first, as the constraint of the others: each lock is then a part of the next.
compile pyproject.toml requirements-dev.lock --extra tracing --group dev "$@"
compile pyproject.toml requirements-tracing.lock --extra tracing --constraint requirements-dev.lock "$@"
compile pyproject.toml requirements.lock --constraint requirements-dev.lock "$@"
compile bench/requirements.in bench/requirements.lock --constraint requirements-dev.lock "$@"
