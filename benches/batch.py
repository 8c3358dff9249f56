#!/usr/bin/env python3
"""A million rows are deleted from under somebody who goes on writing, beside one `DELETE` for all of them.

    python3 benches/batch.py

builds the release binary, fills the tables, and prints a table. It needs python3, sqlite3 and PostgreSQL with psql, no packages.

Each round deletes the rows of one account with `sql.batch` and, in a fresh database, with a single statement, as `sqlite3` and `psql` send
it. All the while a writer inserts rows of another account into the same table, one by one, and times each. Medians are shown, and of the
writer the longest time that it had to wait.
"""

import argparse
import json
import multiprocessing
import sqlite3
import subprocess
import time

from harness import MB, ROOT, Health, Postgres, PostgresDatabases, Service, SqliteDatabases, binary, cpu, forget_peak, median, memory, share, table, timed, until

PIPELINE = """name: bench
steps:
  - id: purge
    uses: sql.batch
    timeout: 1d
    with:
      connection: app
      sql: DELETE FROM events WHERE id IN (SELECT id FROM events WHERE account_id = :account LIMIT :limit)
      count: SELECT COUNT(*) FROM events WHERE account_id = :account
      bind: { account: 1 }
"""
DELETE = "DELETE FROM events WHERE account_id = 1"
TABLE = ["CREATE TABLE events (id BIGINT PRIMARY KEY, account_id BIGINT NOT NULL, body TEXT NOT NULL)"]
TABLE += ["CREATE INDEX events_of_account ON events (account_id)"]
# Of ten rows one stays.
FILL = """INSERT INTO events WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < %d)
SELECT n, CASE WHEN n %% 10 = 0 THEN 2 ELSE 1 END, 'an event with a body of some sixty characters, as they are: ' || n FROM numbers"""
FIRST = 1_000_000_000
PAUSE = 0.005


class Writer:
    """Inserts rows from another process, each in a transaction of its own, and times each."""

    def __init__(self, place, where):
        self.mine, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=self.write, args=(place.inserts, where, theirs), daemon=True)
        self.process.start()
        self.mine.recv()

    @staticmethod
    def write(inserts, where, pipe):
        times, insert = [], inserts(where)
        insert(FIRST)
        pipe.send(None)
        while not pipe.poll(PAUSE):
            begun = time.monotonic()
            insert(FIRST + 1 + len(times))
            times.append((time.monotonic() - begun) * 1000)
        pipe.send(times)

    def end(self):
        """The times in milliseconds, ascending."""
        self.mine.send(None)
        times = sorted(self.mine.recv())
        self.process.join()
        return times


class Sqlite(SqliteDatabases):
    @staticmethod
    def inserts(path):
        connection = sqlite3.connect(path, timeout=600, isolation_level=None)
        return lambda number: connection.execute("INSERT INTO events VALUES (?, 2, 'written meanwhile')", (number,))


class Server(PostgresDatabases):
    @staticmethod
    def inserts(url):
        psql = subprocess.Popen([Postgres.tool("psql"), url, "-XqAt", "-v", "ON_ERROR_STOP=1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def insert(number):
            psql.stdin.write(f"INSERT INTO events VALUES ({number}, 2, 'written meanwhile') RETURNING id;\n")
            psql.stdin.flush()
            if psql.stdout.readline().strip() != str(number):
                raise SystemExit("the writer's row was refused")

        return insert


def fill(place, where, rows):
    for text in [*TABLE, FILL % rows]:
        place.sql(where, text)


def left(place, where):
    """Rows of the account that are left, and rows of the other that were there."""
    count = "SELECT count(*) FROM events WHERE account_id = %d AND id < %d"
    return tuple(int(place.sql(where, count % (account, FIRST))) for account in (1, 2))


def ours(place, program, rows):
    """One purge by a fresh service."""
    service = Service(program, {"bench": PIPELINE}, place.settings())
    try:
        where = place.where(service)
        fill(place, where, rows)
        health, writer = Health(service.address), Writer(place, where)
        forget_peak(service.pid)
        begun, used, served, told = time.monotonic(), cpu(service.pid), place.server_cpu(), []
        status, run = service.call("POST", "/v1/pipelines/bench/runs", {"params": {}})
        if status != 202:
            raise SystemExit(f"the start was answered {status}: {run}")

        def ended():
            view = service.call("GET", f"/v1/runs/{run['id']}")[1]
            told.append((view["steps"][0]["progress"] or {}).get("done", 0))
            return view if view["status"] in ("succeeded", "failed", "cancelled") else time.sleep(0.1)

        view = until("the run", ended, 3600)
        seen = {"wall": time.monotonic() - begun, "cpu": cpu(service.pid) - used, "server": place.server_cpu() - served}
        seen |= {"peak": memory(service.pid, "VmHWM"), "waits": writer.end(), "health": health.end(), "told": len(set(told))}
        if view["status"] != "succeeded":
            raise SystemExit(f"the run {view['status']}: {json.dumps(view['error'])}")
        outputs = view["steps"][0]["outputs"]
        counts = (outputs["rows_affected"], *left(place, where))
        if counts != (rows - rows // 10, 0, rows // 10):
            raise SystemExit(f"rows deleted, left and of others: {counts}")
        if sorted(told) != told:
            raise SystemExit(f"the progress fell: {told}")
        return seen | {"chunks": outputs["chunks"]}
    finally:
        service.stop()


def theirs(place, rows, folder):
    """The same by one statement."""
    where = place.fresh(folder)
    fill(place, where, rows)
    writer, before = Writer(place, where), place.server_cpu()
    wall, used = timed(place.statement(where, DELETE))
    seen = {"wall": wall, "cpu": used, "server": place.server_cpu() - before, "waits": writer.end()}
    if left(place, where) != (0, rows // 10):
        raise SystemExit(f"rows left and of others: {left(place, where)}")
    return seen


def measure(place, program, arguments, folder):
    """The rounds of one database."""
    mine, peers = [], []
    for turn in range(arguments.repeats):
        mine.append(ours(place, program, arguments.rows))
        peers.append(theirs(place, arguments.rows, folder))
        print(f"{place.name} round {turn + 1}: sql.batch {mine[-1]['wall']:.2f} s, {place.peer} {peers[-1]['wall']:.2f} s", flush=True)
    print()

    def row(name, rounds):
        typical = [median([seen[field] for seen in rounds]) for field in ("wall", "cpu", "server")]
        waits = sorted(wait for seen in rounds for wait in seen["waits"])
        return [name, *typical, share(waits, 0.5), share(waits, 0.99), waits[-1]]

    head = [place.name, "wall s", "cpu s", "server cpu s", "writer ms: median", "p99", "max"]
    table(head, [row(f"one DELETE, {place.peer}", peers), row("afterload: sql.batch", mine)])
    health = sorted(time for seen in mine for time in seen["health"])
    facts = [
        ["chunks, median", median([seen["chunks"] for seen in mine])],
        ["memory, peak", f"{max(seen['peak'] for seen in mine) / MB:.1f} MB"],
        ["GET /healthz: median, p99, max", ", ".join(f"{value:.1f} ms" for value in (share(health, 0.5), share(health, 0.99), health[-1]))],
        ["values of the progress seen, at least", min(seen["told"] for seen in mine)],
    ]
    table(["", ""], facts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["sqlite", "postgres"])
    parser.add_argument("--binary", help="an afterload that is built already")
    arguments = parser.parse_args()
    program = binary(arguments.binary)
    folder = ROOT / "target" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{arguments.rows} rows, {arguments.repeats} rounds\n", flush=True)
    kinds = {"sqlite": Sqlite, "postgres": Server}
    for kind in [arguments.only] if arguments.only else kinds:
        place = kinds[kind]()
        try:
            measure(place, program, arguments, folder)
        finally:
            place.stop()


if __name__ == "__main__":
    main()
