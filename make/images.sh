#!/bin/sh
# Builds the two container images with docker or buildah, whichever is there.
# Usage: make images [TAG=0.1.0] [REGISTRY=localhost] [BASE=python:3.12-slim] [TORCH_BACKEND=cpu]
set -eu
cd "$(dirname "$0")/.."
tag=${TAG:-0.1.0}
registry=${REGISTRY:-localhost}
base=${BASE:-python:3.12-slim}

if docker info >/dev/null 2>&1; then
    build() { docker build "$@"; }
elif command -v buildah >/dev/null 2>&1; then
    build() { buildah bud --isolation chroot --layers "$@"; }
else
    echo "error: neither a running docker engine nor buildah was found. Install one of them (Debian: apt-get install buildah)." >&2
    exit 1
fi

for image in operator server; do
    set -- --build-arg "BASE=$base"
    if [ "$image" = server ] && [ -n "${TORCH_BACKEND:-}" ]; then
        set -- "$@" --build-arg "TORCH_BACKEND=$TORCH_BACKEND"
    fi
    echo "== $registry/tandem-$image:$tag"
    build "$@" -f images/Dockerfile --target "$image" -t "$registry/tandem-$image:$tag" .
done
