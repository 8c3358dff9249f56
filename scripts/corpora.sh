#!/usr/bin/env bash
# Brings the pictures that tests go over into target/corpora: PngSuite, as the crate minipng carries it, and the test images
# of Pillow, as its source package carries them. What is there already is left alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
corpora="${CARGO_TARGET_DIR:-$PWD/target}/corpora"

# name, URL, SHA-256, folder in the archive
fetch() {
    [ -e "$corpora/$1" ] && return
    echo "fetching $1"
    local work
    mkdir -p "$corpora"
    work="$(mktemp -d "$corpora/.fetch-XXXXXX")"
    curl --silent --show-error --fail --location --retry 3 --output "$work/archive" "$2"
    echo "$3  $work/archive" | sha256sum --check --quiet
    mkdir "$work/files"
    tar -xzf "$work/archive" -C "$work/files" "$4"
    mv "$work/files/$4" "$corpora/$1"
    rm -rf "$work"
}

fetch pngsuite https://static.crates.io/crates/minipng/minipng-0.1.1.crate \
    44aaf824f3dbcc8a4ab8fd66964fed5200a632d5794775a2426e77e3833776a8 minipng-0.1.1/test/pngsuite
fetch pillow https://files.pythonhosted.org/packages/ce/a4/9cc30690a394a8305e8be4c9036aa16d0dfddadd09079860b582f562496d/pillow-13.0.0.tar.gz \
    cdcd1ba258178f7356d74170c9a81ba4eab6a5d55748bc402a5a2a6fe6be3510 pillow-13.0.0/Tests/images
