#!/usr/bin/env python3
"""A post comes into the timelines of a million followers, beside one `INSERT ... SELECT` of the same rows.

    python3 benches/fanout.py

builds the release binary, fills the tables, and prints a table. It needs python3, sqlite3 and PostgreSQL with psql, no packages.

Each round runs `notify.fanout` and, in a fresh database, a single statement, as `sqlite3` and `psql` send it: bare, in the order of the
key, and with no regard for rows that are there. Medians are shown, and the ratio of their times.
"""

import argparse
import json
import time

from harness import MB, ROOT, PostgresDatabases, Service, SqliteDatabases, binary, cpu, ended_at, forget_peak, median, memory, table, timed, until

PIPELINE = """name: bench
steps:
  - id: tell
    uses: notify.fanout
    timeout: 1d
    with:
      audience:
        followers:
          connection: app
          sql: SELECT follower_id FROM follows WHERE author_id = :author
          key: follower_id
          bind: { author: 1 }
      deliver:
        table: { into: timelines, person: user_id, reason: reason, values: { tweet_id: 7, author_id: 1 }, keys: [user_id, tweet_id] }
"""
INSERT = "INSERT INTO timelines (user_id, tweet_id, author_id, reason) SELECT follower_id, 7, 1, 'follow' FROM follows WHERE author_id = 1 ORDER BY follower_id"
TABLES = ["CREATE TABLE follows (author_id BIGINT NOT NULL, follower_id BIGINT NOT NULL, PRIMARY KEY (author_id, follower_id))"]
TABLES += ["CREATE TABLE timelines (user_id BIGINT NOT NULL, tweet_id BIGINT NOT NULL, author_id BIGINT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (user_id, tweet_id))"]
# Every third number follows, and another author has half as many followers.
FILL = """INSERT INTO follows WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < %d)
SELECT 1, 3 * n FROM numbers UNION ALL SELECT 2, 3 * n FROM numbers WHERE n %% 2 = 0"""


class Sqlite(SqliteDatabases):
    def settled(self, path):
        self.sql(path, "ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)")


class Server(PostgresDatabases):
    def settled(self, url):
        for text in ("VACUUM ANALYZE follows", "CHECKPOINT"):
            self.sql(url, text)


def fill(place, where, rows):
    for text in [*TABLES, FILL % rows]:
        place.sql(where, text)
    place.settled(where)


def written(place, where):
    return tuple(int(place.sql(where, f"SELECT count({what}) FROM timelines")) for what in ("*", "DISTINCT user_id"))


def ours(place, program, rows):
    """One fan-out by a fresh service."""
    service = Service(program, {"bench": PIPELINE}, place.settings())
    try:
        where = place.where(service)
        fill(place, where, rows)
        forget_peak(service.pid)
        idle, begun, used, served, told = memory(service.pid, "VmRSS"), time.time(), cpu(service.pid), place.server_cpu(), []
        status, run = service.call("POST", "/v1/pipelines/bench/runs", {"params": {}})
        if status != 202:
            raise SystemExit(f"the start was answered {status}: {run}")

        def ended():
            view = service.call("GET", f"/v1/runs/{run['id']}")[1]
            told.append((view["steps"][0]["progress"] or {}).get("done", 0))
            return view if view["status"] in ("succeeded", "failed", "cancelled") else time.sleep(0.1)

        view = until("the run", ended, 3600)
        seen = {"wall": ended_at(view) - begun, "cpu": cpu(service.pid) - used, "server": place.server_cpu() - served}
        seen |= {"peak": memory(service.pid, "VmHWM") - idle, "told": len(set(told))}
        if view["status"] != "succeeded":
            raise SystemExit(f"the run {view['status']}: {json.dumps(view['error'])}")
        counts = (view["steps"][0]["outputs"]["delivered"], *written(place, where))
        if counts != (rows,) * 3:
            raise SystemExit(f"delivered, rows, people: {counts}")
        if sorted(told) != told:
            raise SystemExit(f"the progress fell: {told}")
        return seen
    finally:
        service.stop()


def theirs(place, rows, folder):
    """The same by one statement."""
    where = place.fresh(folder)
    fill(place, where, rows)
    before = place.server_cpu()
    wall, used = timed(place.statement(where, INSERT))
    if written(place, where) != (rows, rows):
        raise SystemExit(f"rows, people: {written(place, where)}")
    return {"wall": wall, "cpu": used, "server": place.server_cpu() - before}


def measure(place, program, arguments, folder):
    """The rounds of one database."""
    mine, peers = [], []
    for turn in range(arguments.repeats):
        mine.append(ours(place, program, arguments.rows))
        peers.append(theirs(place, arguments.rows, folder))
        print(f"{place.name} round {turn + 1}: notify.fanout {mine[-1]['wall']:.2f} s, {place.peer} {peers[-1]['wall']:.2f} s", flush=True)
    print()
    peer = median([seen["wall"] for seen in peers])

    def row(name, rounds):
        typical = [median([seen[field] for seen in rounds]) for field in ("wall", "cpu", "server")]
        return [name, *typical, typical[0] / peer]

    head = [place.name, "wall s", "cpu s", "server cpu s", "ratio"]
    table(head, [row(f"one INSERT ... SELECT, {place.peer}", peers), row("afterload: notify.fanout", mine)])
    facts = [["memory above idle, peak", f"{max(seen['peak'] for seen in mine) / MB:.1f} MB"]]
    facts += [["values of the progress seen, at least", min(seen["told"] for seen in mine)]]
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
    print(f"{arguments.rows} followers, {arguments.repeats} rounds\n", flush=True)
    kinds = {"sqlite": Sqlite, "postgres": Server}
    for kind in [arguments.only] if arguments.only else kinds:
        place = kinds[kind]()
        try:
            measure(place, program, arguments, folder)
        finally:
            place.stop()


if __name__ == "__main__":
    main()
