#!/bin/sh
# Renders every overlay with released images: scripts/release_overlays.sh IMAGES OUTPUT
# IMAGES is a folder with a file for each image, named as in the overlays, that contains its name with the digest.
# Changes the overlays in place. Needs kustomize.
set -eu
images=$(cd "${1:?expected the folder of the images}" && pwd)
mkdir -p "${2:?expected the folder to write to}"
output=$(cd "$2" && pwd)
cd "$(dirname "$0")/../k8s/overlays"

for overlay in */; do
    overlay=${overlay%/}
    (
        cd "$overlay"
        for image in "$images"/*; do
            name=$(basename "$image")
            if grep -q "name: $name\$" kustomization.yaml; then
                kustomize edit set image "$name=$(cat "$image")"
            fi
        done
        kustomize build . > "$output/$overlay.yaml"
    )
done
