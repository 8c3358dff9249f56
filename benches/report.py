#!/usr/bin/env python3
"""Reports at full size: 5,000,000 rows as CSV and 1,000,000 as XLSX, beside what people use for that.

    python3 benches/report.py

builds the release binary, fills the tables, and prints a table for each. It needs python3, sqlite3 and PostgreSQL with psql; for XLSX
also the Python package XlsxWriter (`--python` names a Python that has it).

Each round starts a report through `POST /v1/pipelines/bench/runs` in a fresh service, which writes it into its own object store (the
upload is part of it), and lets the peer write the same rows to a file: `psql \\copy to`, `sqlite3 -csv`, and XlsxWriter in
constant-memory mode on rows of Python's sqlite3. The peers guard no formulas. The service and the peer read the same table; each has
been read once before. Rounds are interleaved; medians are shown, and ratios of CPU (user + system, with that of the PostgreSQL server).
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from harness import KEY, MB, Health, Postgres, Service, binary, cpu, forget_peak, median, memory, share, table, timed, until

PIPELINE = """name: bench
steps:
  - id: report
    uses: report.query
    with: { connection: app, sql: SELECT * FROM people ORDER BY id, format: %s, timeout: 1h }
"""
QUERY = "SELECT * FROM people ORDER BY id"
TYPES = "id integer PRIMARY KEY, email text, name text, company text, city text, country text, amount %s, score integer, active integer, joined text"
# The same rows each time, by arithmetic that both databases have.
FILL = """INSERT INTO people WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
SELECT i, 'person.' || i || '@example' || (i %% 97) || '.com', 'Person ' || (i %% 10007 * 7919 %% 10007), CASE i %% 7 WHEN 0 THEN 'Hooli, Inc.' WHEN 1 THEN NULL ELSE 'Company ' || (i %% 1000) END,
'City ' || (i %% 500), substr('CHDEFRUSPEKEJPITESBR', 1 + 2 * (i %% 10), 2), (i %% 9999999) / 100.0, i %% 101, i %% 2, '20' || (10 + i %% 15) || '-0' || (1 + i %% 9) || '-1' || (i %% 10) FROM n"""
XLSXWRITER = """import sqlite3, sys, xlsxwriter
book = xlsxwriter.Workbook(sys.argv[2], {"constant_memory": True, "tmpdir": sys.argv[3]})
sheet = book.add_worksheet()
rows = sqlite3.connect(sys.argv[1]).execute(sys.argv[4])
sheet.write_row(0, 0, [column[0] for column in rows.description])
for at, row in enumerate(rows, 1):
    sheet.write_row(at, 0, row)
book.close()
"""


class Sqlite:
    name, peer = "CSV from SQLite", "sqlite3 -csv"

    def __init__(self, rows, folder):
        self.path = folder / "app.db"
        self.sql(f"CREATE TABLE people ({TYPES % 'real'}); {FILL % rows}")
        self.sql("PRAGMA journal_mode = WAL; SELECT sum(length(email)) FROM people")

    def settings(self):
        return {"AFTERLOAD_CONNECTIONS__APP__URL": f"sqlite://{self.path}"}

    def server_cpu(self):
        return 0.0

    def write(self, path):
        with path.open("wb") as out:
            begun = time.monotonic()
            used = run_to(["sqlite3", "-csv", "-header", self.path, QUERY], out)
            return time.monotonic() - begun, used, 0.0

    def sql(self, text):
        subprocess.run(["sqlite3", self.path, text], check=True, stdout=subprocess.DEVNULL)

    def stop(self):
        pass


class Xlsx(Sqlite):
    name, peer = "XLSX from SQLite", "XlsxWriter, constant memory"
    python = sys.executable

    def write(self, path):
        wall, used = timed([self.python, "-c", XLSXWRITER, self.path, path, path.parent, QUERY])
        return wall, used, 0.0


class Server:
    name, peer = "CSV from PostgreSQL", "psql \\copy to"

    def __init__(self, rows, _folder):
        self.server = Postgres()
        self.app = self.server.database()
        self.server.sql(self.app, f"CREATE TABLE people ({TYPES % 'numeric(12, 2)'})")
        self.server.sql(self.app, FILL % rows)
        self.server.sql(self.app, "VACUUM ANALYZE people")
        self.server.sql(self.app, "SELECT sum(length(email)) FROM people")

    def settings(self):
        return {"AFTERLOAD_DATABASE": self.server.database(), "AFTERLOAD_CONNECTIONS__APP__URL": self.app, "AFTERLOAD_SECRET_KEY": "5" * 64}

    def server_cpu(self):
        return self.server.cpu()

    def write(self, path):
        before = self.server.cpu()
        copy = f"\\copy ({QUERY}) to '{path}' with (format csv, header)"
        wall, used = timed([self.server.tool("psql"), self.app, "-Xq", "-v", "ON_ERROR_STOP=1", "-c", copy])
        return wall, used, self.server.cpu() - before

    def stop(self):
        self.server.stop()


def run_to(command, out):
    """CPU seconds of a command that writes to a file."""
    child = subprocess.Popen(command, stdout=out)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command[0]} ended with status {child.returncode}")
    return usage.ru_utime + usage.ru_stime


def ours(place, program, rows, pipeline, check):
    """One report from an idle service to the whole file."""
    service = Service(program, {"bench": pipeline}, place.settings())
    try:
        health = Health(service.address)
        time.sleep(2)
        seen = {"idle": memory(service.pid, "VmRSS")}
        forget_peak(service.pid)
        begun, used, served, told = time.monotonic(), cpu(service.pid), place.server_cpu(), []
        status, run = service.call("POST", "/v1/pipelines/bench/runs", {"params": {}})
        if status != 202:
            raise SystemExit(f"the call was answered {status}: {run}")

        def ended():
            view = service.call("GET", f"/v1/runs/{run['id']}")[1]
            told.append((view["steps"][0]["progress"] or {}).get("done", 0))
            return view if view["status"] in ("succeeded", "failed", "cancelled") else time.sleep(0.1)

        view = until("the run", ended, 1200)
        seen |= {"wall": time.monotonic() - begun, "cpu": cpu(service.pid) - used, "peak": memory(service.pid, "VmHWM")}
        seen |= {"server": place.server_cpu() - served, "health": health.end(), "told": len(set(told))}
        if view["status"] != "succeeded" or view["steps"][0]["outputs"]["rows"] != rows:
            raise SystemExit(f"the run {view['status']}: {json.dumps(view['error'])}")
        # Progress is stored at most twice a second; how much of it can be seen depends on the machine.
        expected = int(seen["wall"]) // 2
        if sorted(told) != told or seen["told"] < expected:
            raise SystemExit(f"the progress fell, or fewer than {expected} values of it were seen: {told}")
        seen["size"] = view["steps"][0]["outputs"]["size"]
        if check:
            check(view["steps"][0]["outputs"]["file"]["url"])
        return seen
    finally:
        service.stop()


def same_as(path):
    """Compares a CSV with the peer's, value by value; how floating point numbers end may differ."""

    def value(text):
        try:
            return float(text)
        except ValueError:
            return text

    def check(url):
        answer = urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": f"Bearer {KEY}"}))
        lines = (line.decode() for line in answer)
        with path.open(newline="") as theirs:
            for at, (mine, other) in enumerate(zip(csv.reader(lines), csv.reader(theirs), strict=True)):
                if mine != other and list(map(value, mine)) != list(map(value, other)):
                    raise SystemExit(f"row {at} differs: {mine} and {other}")

    return check


def measure(place, program, rows, repeats, folder):
    """The rounds of one table."""
    is_xlsx = isinstance(place, Xlsx)
    pipeline = PIPELINE % ("xlsx" if is_xlsx else "csv")
    mine, peers, path = [], [], folder / ("peer.xlsx" if is_xlsx else "peer.csv")
    for turn in range(repeats):
        peers.append(place.write(path))
        check = same_as(path) if turn == 0 and not is_xlsx else None
        mine.append(ours(place, program, rows, pipeline, check))
        print(f"{place.name} round {turn + 1}: report {mine[-1]['wall']:.2f} s, {place.peer} {peers[-1][0]:.2f} s", flush=True)
    print()
    typical = lambda name: median([seen[name] for seen in mine])
    wall, used, served = (median(values) for values in zip(*peers))
    whole = median([seen["cpu"] + seen["server"] for seen in mine])
    lines = [
        [place.peer, wall, used, served, used + served, 1.0, 1.0],
        ["afterload", typical("wall"), typical("cpu"), typical("server"), whole, whole / (used + served), typical("wall") / wall],
    ]
    table([place.name, "wall s", "cpu s", "server cpu s", "cpu in all", "cpu ratio", "wall ratio"], lines)
    health = sorted(time for seen in mine for time in seen["health"])
    facts = [
        ["size of the file, of the peer's", f"{typical('size') / MB:.0f} MB, {path.stat().st_size / MB:.0f} MB"],
        ["memory, idle (RSS)", f"{typical('idle') / MB:.1f} MB"],
        ["memory, peak during the report", f"{max(seen['peak'] for seen in mine) / MB:.1f} MB"],
        ["GET /healthz: median, p99, max", ", ".join(f"{value:.1f} ms" for value in (share(health, 0.5), share(health, 0.99), health[-1]))],
        ["values of the progress seen, at least", min(seen["told"] for seen in mine)],
    ]
    table(["", ""], facts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--xlsx-rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["sqlite", "postgres", "xlsx"])
    parser.add_argument("--binary", help="an afterload that is built already")
    parser.add_argument("--python", default=sys.executable, help="a Python with XlsxWriter")
    arguments = parser.parse_args()
    Xlsx.python = arguments.python
    program = binary(arguments.binary)
    kinds = {"postgres": (Server, arguments.rows), "sqlite": (Sqlite, arguments.rows), "xlsx": (Xlsx, arguments.xlsx_rows)}
    for kind in [arguments.only] if arguments.only else kinds:
        with tempfile.TemporaryDirectory(prefix="afterload-bench-") as folder:
            make, rows = kinds[kind]
            place = make(rows, Path(folder))
            try:
                print(f"{place.name}: {rows} rows, {arguments.repeats} rounds\n", flush=True)
                measure(place, program, rows, arguments.repeats, Path(folder))
            finally:
                place.stop()


if __name__ == "__main__":
    main()
