#!/usr/bin/env python3
"""A hundred thousand sign-ins learn where they were, beside updates of the same rows with values that are known.

    python3 benches/geo.py

builds the release binary, fills the tables, and prints a table. It needs python3, sqlite3, PostgreSQL with psql, and for the file of
addresses the packages of scripts/test-requirements.txt.

Each round runs `geo.lookup` on the rows of a table and, in fresh databases, two single statements that set the same columns, as
`sqlite3` and `psql` send them: one takes the values of each row from a table where they are known, the other sets all rows to the same
constants, which needs no look for any row. Medians are shown, and the ratios to the time of the first.
"""

import argparse
import json
import subprocess
import sys
import time

from harness import MB, ROOT, PostgresDatabases, Service, SqliteDatabases, binary, cpu, ended_at, forget_peak, median, memory, table, timed, until

PIPELINE = """name: bench
steps:
  - id: where
    uses: geo.lookup
    timeout: 1d
    with:
      rows: { connection: app, sql: "SELECT id, ip FROM sign_ins WHERE country IS NULL", key: id }
      into: { table: sign_ins, columns: { country: country_code, city: city, latitude: latitude, longitude: longitude } }
      providers: [mmdb:large]
"""
COLUMNS = ["country", "city", "latitude", "longitude"]
UPDATES = {
    "UPDATE ... FROM known values": f"UPDATE sign_ins SET {', '.join(f'{name} = known.{name}' for name in COLUMNS)} FROM known WHERE known.id = sign_ins.id",
    "UPDATE to constants": "UPDATE sign_ins SET country = 'US', city = 'City 17', latitude = 37.5, longitude = -122.25 WHERE country IS NULL",
}
TABLES = ["CREATE TABLE sign_ins (id BIGINT PRIMARY KEY, ip TEXT NOT NULL, country CHAR(2), city TEXT, latitude DOUBLE PRECISION, longitude DOUBLE PRECISION)"]
FILL = """INSERT INTO sign_ins (id, ip) WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < %d)
SELECT n, '20.' || (n %% 256) || '.' || (n / 256 %% 256) || '.' || (n / 65536) FROM numbers"""


KNOWN = ["CREATE TABLE known (id BIGINT PRIMARY KEY, country CHAR(2), city TEXT, latitude DOUBLE PRECISION, longitude DOUBLE PRECISION)"]
KNOWN += ["INSERT INTO known SELECT id, 'US', 'City ' || (id % 1000), 37.5 + id / 100000.0, -122.25 FROM sign_ins", "ANALYZE known"]


def fill(place, where, rows):
    for text in [*TABLES, FILL % rows, "ANALYZE sign_ins"]:
        place.sql(where, text)


def filled(place, where):
    return int(place.sql(where, "SELECT count(city) FROM sign_ins WHERE country = 'US' AND latitude IS NOT NULL"))


def ours(place, program, rows, folder):
    """One look-up by a fresh service."""
    service = Service(program, {"bench": PIPELINE}, place.settings() | {"AFTERLOAD_GEO__FOLDER": str(folder)})
    try:
        where = place.where(service)
        fill(place, where, rows)
        forget_peak(service.pid)
        idle, begun, used, served = memory(service.pid, "VmRSS"), time.time(), cpu(service.pid), place.server_cpu()
        status, run = service.call("POST", "/v1/pipelines/bench/runs", {"params": {}})
        if status != 202:
            raise SystemExit(f"the start was answered {status}: {run}")

        def ended():
            view = service.call("GET", f"/v1/runs/{run['id']}")[1]
            return view if view["status"] in ("succeeded", "failed", "cancelled") else time.sleep(0.1)

        view = until("the run", ended, 3600)
        seen = {"wall": ended_at(view) - begun, "cpu": cpu(service.pid) - used, "server": place.server_cpu() - served}
        seen |= {"peak": memory(service.pid, "VmHWM") - idle}
        if view["status"] != "succeeded":
            raise SystemExit(f"the run {view['status']}: {json.dumps(view['error'])}")
        counts = (view["steps"][0]["outputs"]["found"], filled(place, where))
        if counts != (rows, rows):
            raise SystemExit(f"found, rows: {counts}")
        return seen
    finally:
        service.stop()


def theirs(place, rows, folder, update):
    """The same columns by one statement."""
    where = place.fresh(folder)
    fill(place, where, rows)
    for text in KNOWN:
        place.sql(where, text)
    before = place.server_cpu()
    wall, used = timed(place.statement(where, update))
    if filled(place, where) != rows:
        raise SystemExit(f"rows: {filled(place, where)}")
    return {"wall": wall, "cpu": used, "server": place.server_cpu() - before}


def measure(place, program, arguments, folder):
    """The rounds of one database."""
    mine, peers = [], {name: [] for name in UPDATES}
    for turn in range(arguments.repeats):
        mine.append(ours(place, program, arguments.rows, folder))
        for name, update in UPDATES.items():
            peers[name].append(theirs(place, arguments.rows, folder, update))
        took = ", ".join(f"{name} {seen[-1]['wall']:.2f} s" for name, seen in peers.items())
        print(f"{place.name} round {turn + 1}: geo.lookup {mine[-1]['wall']:.2f} s, {took}", flush=True)
    print()
    peer = median([seen["wall"] for seen in next(iter(peers.values()))])

    def row(name, rounds):
        typical = [median([seen[field] for seen in rounds]) for field in ("wall", "cpu", "server")]
        return [name, *typical, typical[0] / peer]

    head = [place.name, "wall s", "cpu s", "server cpu s", "ratio"]
    lines = [row(f"{name}, {place.peer}", seen) for name, seen in peers.items()]
    table(head, [*lines, row("afterload: geo.lookup", mine)])
    table(["", ""], [["memory above idle, peak", f"{max(seen['peak'] for seen in mine) / MB:.1f} MB"]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["sqlite", "postgres"])
    parser.add_argument("--binary", help="an afterload that is built already")
    arguments = parser.parse_args()
    program = binary(arguments.binary)
    folder = ROOT / "target" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, ROOT / "tests" / "geo.py", folder], check=True)
    print(f"{arguments.rows} rows, {arguments.repeats} rounds\n", flush=True)
    kinds = {"sqlite": SqliteDatabases, "postgres": PostgresDatabases}
    for kind in [arguments.only] if arguments.only else kinds:
        place = kinds[kind]()
        try:
            measure(place, program, arguments, folder)
        finally:
            place.stop()


if __name__ == "__main__":
    main()
