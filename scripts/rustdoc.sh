#!/usr/bin/env bash
# Stands in for rustdoc under `cargo test --doc`: before the examples of a crate run, its documentation is made. Both use what
# the tests are built with; `cargo doc` would check every dependency once more, which takes minutes.
set -euo pipefail

all=("$@")
document=()
test=false
while [ $# -gt 0 ]; do
    case "$1" in
        --test) test=true ;;
        --test-run-directory | --test-args) shift ;;
        *) document+=("$1") ;;
    esac
    shift
done
if [ "$test" = true ]; then
    rustdoc "${document[@]}" --out-dir "${CARGO_TARGET_DIR:-target}/doc"
fi
exec rustdoc "${all[@]}"
