#!/bin/sh
# Compiles the three hashed locks from pyproject.toml. Pins that still satisfy it are kept.
# All arguments go to `uv pip compile`: `scripts/locks.sh --upgrade`, `scripts/locks.sh --upgrade-package aiohttp`.
set -eu
cd "$(dirname "$0")/.."

compile() {
    lock=$1
    shift
    # No index is written, so that a lock is the same whatever mirror it was made with.
    "${UV:-.venv/bin/uv}" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links --output-file "$lock" pyproject.toml "$@"
}

# The largest first, as the constraint of the others: each lock is then a part of the next.
compile requirements-dev.lock --extra tracing --group dev "$@"
compile requirements-tracing.lock --extra tracing --constraint requirements-dev.lock "$@"
compile requirements.lock --constraint requirements-dev.lock "$@"
