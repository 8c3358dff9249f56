#!/usr/bin/env python3
"""The main job at full size: a CSV of 1,000,000 rows goes in over HTTP, beside the loader that each database ships with.

    python3 benches/import.py
    python3 benches/import.py --refused

builds the release binary, makes the file, and prints a table. It needs python3, sqlite3 and PostgreSQL with psql, no packages.

Each round imports the file (0.5 % of its rows break a rule) through `POST /v1/pipelines/bench/runs` into a fresh service and a fresh
table, and lets the peer load the same file without its bad rows into the same table: `sqlite3 .import`, and `psql \\copy`. The peers
neither check nor keep checkpoints nor take uploads. Rounds are interleaved; medians are shown, and ratios of CPU (user + system).

`--refused` imports 20,000 rows of which the database refuses some, each time into an empty table, and shows the time beside that of
the clean file: 5 % duplicates, 10 % broken foreign keys, every row against a check, and every row a duplicate.
"""

import argparse
import json
import random
import subprocess
import time
from pathlib import Path

from harness import MB, ROOT, Health, Postgres, PostgresDatabases, Service, SqliteDatabases, binary, cpu, ended_at, forget_peak, median, memory, share, table, timed, until

PIPELINE = """name: bench
params:
  file: { type: file, accept: [text/csv], max_size: 10gb }
steps:
  - id: import
    uses: csv.import
    with:
      source: "${{ params.file }}"
      connection: app
      into: { table: people%s }
      columns:
        id: { type: integer, required: true, min: 1 }
        email: { type: email, required: true, case: lower, max_length: 254 }
        name: { type: string, required: true, trim: true, max_length: 200 }
        company: { type: string }
        city: { type: string, max_length: 100 }
        country: { type: string, pattern: "^[A-Z]{2}$" }
        amount: { type: decimal, min: 0, max: 100000 }
        score: { type: integer, min: 0, max: 100 }
        active: { type: boolean }
        joined: { type: date }
"""
# The default of `chunk`.
CHUNK_ROWS = 10_000
CONFLICT = ", on_conflict: { keys: [id], action: update }"
TYPES = {
    "id": "bigint", "email": "text", "name": "text", "company": "text", "city": "text", "country": "text",
    "amount": "numeric(12, 2)", "score": "integer", "active": "boolean", "joined": "date",
}


def columns(key):
    """The columns of the table; a key only where rows may meet others."""
    return ", ".join(f"{name} {kind}" for name, kind in (TYPES | ({"id": key} if key else {})).items())


def make(rows, folder):
    """The file with bad rows, and the clean one; always the same bytes."""
    dirty, clean = folder / f"people-{rows}.csv", folder / f"people-{rows}-clean.csv"
    if dirty.exists() and clean.exists():
        return dirty, clean
    folder.mkdir(parents=True, exist_ok=True)
    dice = random.Random(7)
    pick = lambda words: words[int(dice.random() * len(words))]
    first = "Ada Grace Linus Edsger Barbara Donald Frances Alan Radia Ken".split()
    last = "Lovelace Hopper Torvalds Dijkstra Liskov Knuth Allen Turing Perlman Thompson Müller".split()
    firms = ["Acme", "Globex", '"Hooli, Inc."', "Initech", "", "Umbrella", "Stark Industries", "Wayne Enterprises"]
    cities = ["Zürich", "Berlin", "Paris", "New York", "San Francisco", "Lima", "Nairobi", "Osaka", '"Washington, D.C."']
    lands = "CH DE FR US PE KE JP IT ES BR".split()
    head = "id,email,name,company,city,country,amount,score,active,joined\n"
    faults = [(1, "nobody"), (5, "Switzerland"), (6, "-1.00"), (7, "101"), (9, "2023-02-30")]
    with dirty.with_suffix(".part").open("w") as bad, clean.with_suffix(".part").open("w") as good:
        bad.write(head)
        good.write(head)
        for row in range(1, rows + 1):
            name, family = pick(first), pick(last)
            cells = [
                str(row), f"{name}.{family}.{row}@example{row % 97}.com".replace("ü", "u"), f"{name} {family}", pick(firms), pick(cities), pick(lands),
                f"{dice.random() * 99_999:.2f}", str(int(dice.random() * 101)), "1" if dice.random() < 0.7 else "0",
                f"20{int(dice.random() * 24):02}-{1 + int(dice.random() * 12):02}-{1 + int(dice.random() * 28):02}",
            ]
            good.write(",".join(cells) + "\n")
            if row % 200 == 0:
                at, text = faults[row // 200 % len(faults)]
                cells[at] = text
            bad.write(",".join(cells) + "\n")
    dirty.with_suffix(".part").rename(dirty)
    clean.with_suffix(".part").rename(clean)
    return dirty, clean


class Sqlite:
    name, peer = "SQLite", "sqlite3 .import"

    def __init__(self, upsert):
        self.columns = columns("integer PRIMARY KEY" if upsert else None)

    def settings(self):
        return {}

    def prepare(self, service):
        self.path = service.folder / "data" / "app.db"
        self.sql(self.path, f"CREATE TABLE people ({self.columns})")

    def count(self):
        return int(self.sql(self.path, "SELECT count(*) FROM people"))

    def server_cpu(self):
        return 0.0

    def load(self, clean, folder):
        path = folder / "peer.db"
        path.unlink(missing_ok=True)
        self.sql(path, f"CREATE TABLE people ({self.columns})")
        wall, used = timed(["sqlite3", path, "-cmd", ".mode csv", f".import --skip 1 {clean} people"])
        path.unlink()
        return wall, used, 0.0

    @staticmethod
    def sql(path, text):
        return subprocess.run(["sqlite3", path, text], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def stop(self):
        pass


class Server:
    name, peer = "PostgreSQL", "psql \\copy"

    def __init__(self, upsert):
        self.upsert = upsert
        self.columns = columns("bigint PRIMARY KEY" if upsert else None)
        self.server = Postgres()

    def settings(self):
        self.app = self.server.database()
        return {"AFTERLOAD_DATABASE": self.server.database(), "AFTERLOAD_CONNECTIONS__APP__URL": self.app, "AFTERLOAD_SECRET_KEY": "5" * 64}

    def prepare(self, _service):
        self.server.sql(self.app, f"CREATE TABLE people ({self.columns})")

    def count(self):
        return int(self.server.sql(self.app, "SELECT count(*) FROM people"))

    def server_cpu(self):
        return self.server.cpu()

    def load(self, clean, _folder):
        url = self.server.database()
        self.server.sql(url, f"CREATE TABLE people ({self.columns})")
        copy = f"\\copy people from '{clean}' with (format csv, header)"
        commands = ["-c", copy]
        if self.upsert:
            sets = ", ".join(f"{name} = excluded.{name}" for name in TYPES if name != "id")
            commands = ["-c", "CREATE TEMP TABLE stage (LIKE people)", "-c", copy.replace("people", "stage", 1)]
            commands += ["-c", f"INSERT INTO people SELECT * FROM stage ON CONFLICT (id) DO UPDATE SET {sets}"]
        before = self.server.cpu()
        wall, used = timed([self.server.tool("psql"), url, "-Xq", "-v", "ON_ERROR_STOP=1", *commands])
        return wall, used, self.server.cpu() - before

    def stop(self):
        self.server.stop()


def ours(place, program, dirty, rows, pipeline):
    """One import from an empty service to the last row."""
    service = Service(program, {"bench": pipeline}, place.settings())
    try:
        place.prepare(service)
        health = Health(service.address)
        time.sleep(2)
        seen = {"idle": memory(service.pid, "VmRSS")}
        forget_peak(service.pid)
        begun, used, served = time.monotonic(), cpu(service.pid), place.server_cpu()
        run = service.upload("bench", dirty)
        seen |= {"upload": time.monotonic() - begun, "upload cpu": cpu(service.pid) - used, "upload peak": memory(service.pid, "VmHWM")}
        seen["after upload"] = memory(service.pid, "VmRSS")
        forget_peak(service.pid)
        begun, used, told = time.monotonic(), cpu(service.pid), []

        def ended():
            view = service.call("GET", f"/v1/runs/{run}")[1]
            told.append((view["steps"][0]["progress"] or {}).get("done", 0))
            return view if view["status"] in ("succeeded", "failed", "cancelled") else time.sleep(0.1)

        view = until("the run", ended, 600)
        seen |= {"import": time.monotonic() - begun, "import cpu": cpu(service.pid) - used, "import peak": memory(service.pid, "VmHWM")}
        seen |= {"server": place.server_cpu() - served, "health": health.end(), "told": len(set(told))}
        if view["status"] != "succeeded":
            raise SystemExit(f"the run {view['status']}: {json.dumps(view['error'])}")
        outputs = view["steps"][0]["outputs"]
        counts = (outputs["rows"], outputs["rejected"], place.count())
        if counts != (rows, rows // 200, rows - rows // 200):
            raise SystemExit(f"rows read, rejected and in the table: {counts}")
        # Progress is stored at most twice a second, and only when a chunk ends; what can be seen of it depends on the machine.
        expected = min(int(seen["import"]), rows // CHUNK_ROWS) // 2
        if sorted(told) != told or told[-1] != dirty.stat().st_size:
            raise SystemExit(f"the progress fell or did not reach the end: {told}")
        if seen["told"] < expected:
            raise SystemExit(f"{seen['told']} values of the progress were seen in {seen['import']:.1f} s, expected {expected}: {told}")
        return seen
    finally:
        service.stop()


def measure(place, program, dirty, clean, arguments, folder):
    """The rounds of one database."""
    pipeline = PIPELINE % (CONFLICT if arguments.upsert else "")
    mine, peers = [], []
    for turn in range(arguments.repeats):
        mine.append(ours(place, program, dirty, arguments.rows, pipeline))
        peers.append(place.load(clean, folder))
        print(f"{place.name} round {turn + 1}: import {mine[-1]['import']:.2f} s, {place.peer} {peers[-1][0]:.2f} s", flush=True)
    print()
    typical = lambda name: median([seen[name] for seen in mine])
    wall, used, served = (median(values) for values in zip(*peers))
    whole = median([seen["import cpu"] + seen["server"] for seen in mine])
    rows = [
        [f"{place.peer}, clean file", wall, used, served, used + served, 1.0, 1.0],
        ["afterload: the import", typical("import"), typical("import cpu"), typical("server"), whole, whole / (used + served), typical("import") / wall],
        ["afterload: the upload", typical("upload"), typical("upload cpu"), "", typical("upload cpu"), "", ""],
    ]
    table([place.name, "wall s", "cpu s", "server cpu s", "cpu in all", "cpu ratio", "wall ratio"], rows)
    health = sorted(time for seen in mine for time in seen["health"])
    highest = lambda name: max(seen[name] for seen in mine) / MB
    facts = [
        ["memory, idle (RSS)", f"{typical('idle') / MB:.1f} MB"],
        ["memory, peak during the upload", f"{highest('upload peak'):.1f} MB"],
        ["memory, peak during the import", f"{highest('import peak'):.1f} MB"],
        ["growth over idle: upload, import", ", ".join(f"{max(seen[name] - seen['idle'] for seen in mine) / MB:.1f} MB" for name in ("upload peak", "import peak"))],
        ["GET /healthz: median, p99, max", ", ".join(f"{value:.1f} ms" for value in (share(health, 0.5), share(health, 0.99), health[-1]))],
        ["values of the progress seen, at least", min(seen["told"] for seen in mine)],
    ]
    table(["", ""], facts)


REFUSED_ROWS = 20_000
REFUSED_PIPELINE = """name: refused
params:
  file: { type: file, accept: [text/csv] }
steps:
  - id: import
    uses: csv.import
    with:
      source: "${{ params.file }}"
      connection: app
      into: { table: members }
      columns: { email: {}, name: {}, team: {}, score: {} }
"""
REFUSED_TABLES = (
    "CREATE TABLE teams (id integer PRIMARY KEY)",
    "INSERT INTO teams VALUES (1), (2), (3)",
    "CREATE TABLE members (email text UNIQUE, name text, team integer REFERENCES teams (id), score integer CHECK (score < 100))",
    "INSERT INTO members VALUES ('taken@example.org', 'T', 1, 0)",
)
# What the row of a number holds in each file: email, team, score; and how many rows are refused.
REFUSED_FILES = {
    "clean": (lambda row: (f"u{row}@example.org", 1, 0), 0),
    "5 % duplicates": (lambda row: (f"u{row}@example.org" if row % 20 else "taken@example.org", 1, 0), REFUSED_ROWS // 20),
    "10 % broken foreign keys": (lambda row: (f"u{row}@example.org", 1 if row % 10 else 77, 0), REFUSED_ROWS // 10),
    "every row breaks a check": (lambda row: (f"u{row}@example.org", 1, 100), REFUSED_ROWS),
    "every row is a duplicate": (lambda row: ("taken@example.org", 1, 0), REFUSED_ROWS),
}


def refused(databases, program, repeats, folder):
    """The time of imports with refused rows beside that of the clean file."""
    service = Service(program, {"refused": REFUSED_PIPELINE}, databases.settings())
    times = {name: [] for name in REFUSED_FILES}
    try:
        where = databases.where(service)
        for sql in REFUSED_TABLES:
            databases.sql(where, sql)
        for turn in range(repeats + 1):
            for name, (row, expected) in REFUSED_FILES.items():
                path = folder / f"refused-{name.split()[0]}-{expected}.csv"
                lines = (f"{email},N{at},{team},{score}\n" for at in range(REFUSED_ROWS) for email, team, score in [row(at)])
                path.write_text("email,name,team,score\n" + "".join(lines))
                databases.sql(where, "DELETE FROM members WHERE email <> 'taken@example.org'")
                begun = time.time()
                run = service.upload("refused", path)

                def ended():
                    view = service.call("GET", f"/v1/runs/{run}")[1]
                    return view if view["status"] in ("succeeded", "failed", "cancelled") else None

                view = until("the run", ended, 600)
                outputs = view["steps"][0]["outputs"]
                if view["status"] != "succeeded" or outputs["rejected"] != expected:
                    raise SystemExit(f"{name}: the run {view['status']}: {json.dumps(outputs or view['error'])[:500]}")
                # The first turn warms up.
                if turn:
                    times[name].append(ended_at(view) - begun)
    finally:
        service.stop()
    clean = median(times["clean"])
    rows = [[name, median(seen), median(seen) / clean] for name, seen in times.items()]
    table([f"{databases.name}, {REFUSED_ROWS} rows", "wall s", "ratio to the clean file"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["sqlite", "postgres"])
    parser.add_argument("--refused", action="store_true", help="files with rows that the database refuses, beside a clean one")
    parser.add_argument("--upsert", action="store_true", help="the table has a key, and rows go through on_conflict")
    parser.add_argument("--binary", help="an afterload that is built already")
    arguments = parser.parse_args()
    program = binary(arguments.binary)
    folder = ROOT / "target" / "bench"
    if arguments.refused:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, databases in {"sqlite": SqliteDatabases, "postgres": PostgresDatabases}.items():
            if arguments.only in (None, kind):
                place = databases()
                try:
                    refused(place, program, arguments.repeats, folder)
                finally:
                    place.stop()
        return
    dirty, clean = make(arguments.rows, folder)
    print(f"{arguments.rows} rows, {dirty.stat().st_size / MB:.0f} MB, {arguments.repeats} rounds\n", flush=True)
    kinds = {"sqlite": Sqlite, "postgres": Server}
    for kind in [arguments.only] if arguments.only else kinds:
        place = kinds[kind](arguments.upsert)
        try:
            measure(place, program, dirty, clean, arguments, folder)
        finally:
            place.stop()


if __name__ == "__main__":
    main()
