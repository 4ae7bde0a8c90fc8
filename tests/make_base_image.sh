#!/bin/sh
# Makes the base image of the Dockerfiles from Debian packages, where no image can be pulled.
# Debian 12 has Python 3.11; the images must work with that, too.
set -eu

image=${1:-docker.io/library/python:3.13-slim}
if podman image exists "$image"; then
    exit 0
fi

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv bookworm "$tree"
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*
tar -C "$tree" -c . | podman import - "$image"
