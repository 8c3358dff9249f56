#!/usr/bin/env bash
# Starts the PostgreSQL of one test run; nextest calls it before the first test that needs one. The server and its folder go
# away with the runner, however that ends. Tests find the address in `AFTERLOAD_TEST_POSTGRES`.
set -euo pipefail
: "${NEXTEST_ENV:?this is a set-up script of nextest (.config/nextest.toml)}"
runner=$PPID

# Debian's newest, or that of PATH, as tests/it/support/postgres.rs finds it.
bin=""
for known in /usr/lib/postgresql/*/bin; do
    if [ -x "$known/initdb" ]; then bin="$known"; fi
done
bin="${bin:-$(dirname "$(command -v initdb || echo /none/x)")}"
[ -x "$bin/initdb" ] || { echo "\`initdb\` is missing; install it with: apt-get install postgresql" >&2; exit 1; }

folder="$(mktemp -d "${TMPDIR:-/tmp}/afterload-postgres.XXXXXX")"
as=()
if [ "$(id -u)" -eq 0 ]; then
    # PostgreSQL refuses to run as root: then it runs as the user that its package made.
    chown postgres: "$folder"
    as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
fi
cd /

# From here on the watcher cleans up. In a process group of its own, so that no signal to the runner's group reaches it.
set -m
(
    while kill -0 "$runner" 2>/dev/null; do sleep 1; done
    "${as[@]}" "$bin/pg_ctl" stop -s -m immediate -D "$folder/data"
    rm -rf "$folder"
) </dev/null >/dev/null 2>&1 &
set +m

"${as[@]}" "$bin/initdb" -D "$folder/data" -N -U postgres -A trust -E UTF8 --no-locale >"$folder/initdb.log" 2>&1 \
    || { cat "$folder/initdb.log" >&2; exit 1; }

# A free port. Somebody else may take it before the server does, so try again with another one.
for attempt in 1 2 3 4 5; do
    port="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
    # Nothing outlives a run, so nothing is flushed to the disk. Each process of a test may open some thirty connections.
    # Hundreds of databases come and go, which a launcher of autovacuum would visit one after another.
    if "${as[@]}" "$bin/pg_ctl" start -s -w -t 60 -D "$folder/data" -l "$folder/server.log" \
        -o "-F -h 127.0.0.1 -p $port -k $folder -c max_connections=1000 -c full_page_writes=off \
            -c synchronous_commit=off -c wal_level=minimal -c max_wal_senders=0 -c autovacuum=off" >/dev/null 2>&1; then
        break
    fi
    [ "$attempt" -lt 5 ] || { cat "$folder/server.log" >&2; exit 1; }
done

echo "AFTERLOAD_TEST_POSTGRES=postgres://postgres@127.0.0.1:$port" >>"$NEXTEST_ENV"
