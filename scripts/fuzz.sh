#!/usr/bin/env bash
# Runs each fuzz target for a minute, or for as many seconds as the first argument says; further arguments name targets.
# A crash leaves its input in fuzz/artifacts and ends the script. Needs a C++ compiler and no nightly Rust.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds="${1:-60}"
shift || true
command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/fuzz"
# The same versions as the service, and the coverage flags of the compiler, which stable Rust has but does not offer.
cp Cargo.lock fuzz/Cargo.lock
export RUSTC_BOOTSTRAP=1
cd fuzz
[ $# -gt 0 ] || mapfile -t targets < <(cargo fuzz list --fuzz-dir .)
for target in "${@:-${targets[@]}}"; do
    printf '\n== %s\n' "$target"
    mkdir -p "corpus/$target"
    [ ! -d "seeds/$target" ] || cp -n "seeds/$target"/* "corpus/$target/"
    cargo fuzz run --fuzz-dir . --sanitizer none "$target" -- -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048
done
