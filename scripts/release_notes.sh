#!/bin/sh
# Prints the section of a version in CHANGELOG.md, without its heading: scripts/release_notes.sh 1.2.3
set -eu
cd "$(dirname "$0")/.."

notes=$(awk -v heading="## [${1:?expected a version such as 1.2.3}]" '
    index($0, heading) == 1 { inside = 1; next }
    /^## / { inside = 0 }
    inside { print }
' CHANGELOG.md)
if [ -z "$notes" ]; then
    echo "CHANGELOG.md has no section for version $1" >&2
    exit 1
fi
printf '%s\n' "$notes"
