#!/usr/bin/env bash
# What afterload promises, measured on SQLite and on PostgreSQL: a table of figures, each expected and found. Without
# arguments the short form, which the tests also run; `--full` the full one, which takes about half an
# hour on two cores: more kills and rows, a crash at every pass of every failpoint, and more generated requests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
    "") ;;
    --full) export AFTERLOAD_TEST_SOAK=full ;;
    *) printf 'usage: %s [--full]\n' "$0" >&2; exit 2 ;;
esac

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
# As scripts/test.sh builds, so that nothing is built twice.
export RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-Dwarnings
venv="$CARGO_TARGET_DIR/test-venv"
if [ -z "${AFTERLOAD_TEST_PYTHON:-}" ]; then
    [ -x "$venv/bin/python" ] || { echo "soak.sh: run scripts/test.sh first; it makes $venv" >&2; exit 2; }
    export AFTERLOAD_TEST_PYTHON="$venv/bin/python"
fi

log="$(mktemp)"
trap 'rm -f "$log"' EXIT
profile=default
[ "${AFTERLOAD_TEST_SOAK:-}" != full ] || profile=soak
status=0
cargo nextest run --locked --profile "$profile" --no-fail-fast --success-output immediate --failure-output immediate \
    -E 'test(/^(soak|sweep|hostile::contract)::/)' >"$log" 2>&1 || status=$?
[ "$status" -eq 0 ] || cat "$log"

# nextest takes tabs out of what tests print.
printf 'FIGURE\tON\tWHAT\tEXPECTED\tFOUND\t\n'
sed -n 's/^ *FIGURE|//p' "$log" | sort -u -t '|' -k1,1n -k2,2 -k3,3 \
    | awk -F '|' '{ printf "%s\t%s\t%s\t%.60s\t%.60s\t%s\n", $1, $2, $3, $4, $5, $6 }'
exit "$status"
