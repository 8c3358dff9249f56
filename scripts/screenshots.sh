#!/usr/bin/env bash
# A picture of each page of the dashboard in docs/screenshots/, from the demo. Needs what scripts/test.sh installs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target="${CARGO_TARGET_DIR:-$PWD/target}"
export AFTERLOAD_TEST_NODE="${AFTERLOAD_TEST_NODE:-$target/test-node}"
export AFTERLOAD_TEST_CHROMIUM="${AFTERLOAD_TEST_CHROMIUM:-/usr/bin/chromium}"
cargo build --release --locked
folder="$(mktemp -d)"
"$target/release/afterload" demo --dir "$folder/demo" >"$folder/log" &
demo=$!
trap 'kill "$demo" 2>/dev/null || true; wait "$demo" || true; rm -rf "$folder"' EXIT

# The demo prints the link once all its runs have ended.
link=""
for _ in $(seq 600); do
    link="$(grep -o 'http://[^ ]*/ui/enter#[^ ]*' "$folder/log" || true)"
    [ -n "$link" ] && break
    kill -0 "$demo" 2>/dev/null || { cat "$folder/log" >&2; exit 1; }
    sleep 0.2
done
[ -n "$link" ] || { echo "screenshots.sh: the demo printed no link" >&2; exit 1; }
mkdir -p docs/screenshots
node scripts/screenshots.mjs "$link" docs/screenshots
