#!/bin/sh
# Makes a stand-in for the base image of the Dockerfiles from Debian packages, for machines that cannot pull images.
# Debian 13 (trixie) has Python 3.13, as the base image. Needs root, podman and debootstrap of Debian 12 or later.
set -eu

image=${1:-docker.io/library/python:3.13-slim}
if podman image exists "$image"; then
    exit 0
fi

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv trixie "$tree"
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*
tar -C "$tree" -c . | podman import - "$image"
