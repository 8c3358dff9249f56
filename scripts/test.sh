#!/usr/bin/env bash
# Every check of this repository, on a fresh Debian with Rust, gcc, Node.js and Python. Installs what is missing where it
# may (root, or sudo without a password); elsewhere it says what to run and stops.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# One folder for everything that is built, so that no check compiles what another has compiled.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
venv="$CARGO_TARGET_DIR/test-venv"
node="$CARGO_TARGET_DIR/test-node"

say() { printf '\n== %s\n' "$*"; }
die() { printf 'test.sh: %s\n' "$*" >&2; exit 2; }
has() { command -v "$1" >/dev/null 2>&1; }

has_postgres() {
    local bin
    for bin in "$(dirname "$(command -v initdb || echo /none/x)")" /usr/lib/postgresql/*/bin; do
        [ -x "$bin/initdb" ] && [ -x "$bin/postgres" ] && return 0
    done
    return 1
}

# Other programs are called `convert`, too: only what says so itself is ImageMagick.
has_imagemagick() {
    { magick -version || convert -version; } 2>/dev/null | grep -q '^Version: ImageMagick'
}

# Debian packages that are missing, by what they are needed for.
install_missing() {
    local missing=()
    has_postgres || missing+=(postgresql)
    has cc || missing+=(gcc libc6-dev)
    has chromium || missing+=(chromium)
    has npm || missing+=(npm)
    has_imagemagick || missing+=(imagemagick)
    has curl || missing+=(curl ca-certificates)
    has rclone || missing+=(rclone)
    has nginx || [ -x /usr/sbin/nginx ] || missing+=(nginx-light)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
    [ ${#missing[@]} -eq 0 ] && return
    local as=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! has sudo || ! sudo -n true 2>/dev/null; then
            die "please run: sudo apt-get update && sudo apt-get install -y ${missing[*]}"
        fi
        as=(sudo -n)
    fi
    has apt-get || die "please install what Debian calls: ${missing[*]}"
    say "installing ${missing[*]}"
    "${as[@]}" apt-get update -qq
    "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# A Python of our own with the clients that tests use; made anew when the list changes.
make_venv() {
    if ! cmp -s scripts/test-requirements.txt "$venv/requirements.txt"; then
        say "making $venv"
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r scripts/test-requirements.txt
        cp scripts/test-requirements.txt "$venv/requirements.txt"
    fi
}

# Node packages that the tests use; installed anew when the list changes.
make_node() {
    if ! cmp -s scripts/test-packages.json "$node/installed.json"; then
        say "making $node"
        rm -rf "$node"
        mkdir -p "$node"
        cp scripts/test-packages.json "$node/package.json"
        npm install --prefix "$node" --silent --no-audit --no-fund --no-package-lock
        cp scripts/test-packages.json "$node/installed.json"
    fi
}

# A cargo subcommand from a ready-made binary, which takes seconds.
fetch_tool() {
    "$venv/bin/pip" install --quiet --disable-pip-version-check "astral-dev-toolchain-$1==$2" >/dev/null 2>&1
}

# What the checks use beside Rust.
get_tools() {
    make_venv
    scripts/corpora.sh
    make_node
    has cargo-nextest || fetch_tool cargo-nextest 0.9.148 || cargo install --locked cargo-nextest
    # Building cargo-deny takes minutes; where it is not at hand, the check of dependencies is left out.
    has cargo-deny || fetch_tool cargo-deny 0.20.2 || true
}

# Waits for a background job, and shows its logs if it failed.
finish_job() {
    local job="$1"
    shift
    wait "$job" || { cat "$@" >&2; exit 1; }
}

check_dependencies() {
    if ! has cargo-deny; then
        echo "cargo-deny is not here: licences, bans and sources are not checked"
    elif timeout 60 cargo deny fetch db >/dev/null 2>&1; then
        cargo deny --locked check
    else
        echo "the list of advisories cannot be fetched: licences, bans and sources are checked without it"
        # Not `--offline`: cargo still has to fetch the crates that only other systems need.
        cargo deny --locked check licenses bans sources
    fi
}

has cargo || die "please install Rust first, from https://rustup.rs"
if ! has rustfmt || ! has cargo-clippy; then
    die "please run: rustup component add rustfmt clippy"
fi
install_missing

export AFTERLOAD_TEST_PYTHON="$venv/bin/python"
export AFTERLOAD_TEST_NODE="$node"
export PATH="$PATH:$venv/bin"
mkdir -p "$CARGO_TARGET_DIR"
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
# What waits for the network does so while the code compiles.
tools_log="$CARGO_TARGET_DIR/tools.log"
dependencies_log="$CARGO_TARGET_DIR/dependencies.log"
: >"$tools_log"
: >"$dependencies_log"
prepare() {
    get_tools >"$tools_log" 2>&1
    check_dependencies >"$dependencies_log" 2>&1
}
prepare &
prepared=$!

say "formatting"
cargo fmt --all --check

# Clippy compiles what it lints, so that nothing is compiled once to be looked at and once more to be run.
export RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-Dwarnings
say "lints"
cargo build --locked --workspace --all-targets
say "dependencies"
finish_job "$prepared" "$tools_log" "$dependencies_log"
cat "$dependencies_log"
say "book"
mdbook build --dest-dir "$CARGO_TARGET_DIR/book" >"$CARGO_TARGET_DIR/book.log" 2>&1 \
    || { cat "$CARGO_TARGET_DIR/book.log" >&2; exit 1; }
# The documentation is made for one crate after another, on one core. So the tests begin meanwhile.
say "documentation and its tests, beside the others"
docs_log="$CARGO_TARGET_DIR/docs.log"
RUSTDOC="$PWD/scripts/rustdoc.sh" RUSTDOCFLAGS="-D warnings" \
    cargo test --locked --workspace --doc --quiet >"$docs_log" 2>&1 &
docs=$!
say "tests"
if [ "${CI:-}" = true ]; then profile=ci; else profile=default; fi
status=0
# They wait more than they compute.
cargo nextest run --locked --workspace --profile "$profile" --test-threads "$((2 * $(nproc)))" || status=$?
# A documentation without faults prints nothing: the last line is that of the tests.
finish_job "$docs" "$docs_log"
exit "$status"
