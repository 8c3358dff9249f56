#!/usr/bin/env python3
"""How long the pages of the dashboard take with a million finished runs, and what pages that stay open cost.

    python3 benches/dashboard.py

On each database: the time to the first byte of each page (the goal is a median of at most 50 ms; each request has an address of its
own, so that no reading is shared), and the CPU of the service while 50 pages ask each second whether they have changed and ten
runs are at work (the goal is at most 5 % of a core more than the same runs without pages).
"""

import argparse
import http.client
import subprocess
import threading
import time
import urllib.parse

from harness import Postgres, Service, binary, cpu, share, table

PIPELINE = """name: small
params: { note: { type: string, default: hello } }
steps:
  - id: pause
    uses: wait
    with: { for: 1s }
  - id: mail
    uses: email.send
    with: { to: ops@example.com, subject: Done, body: Nothing else. }
"""

FILL = """INSERT INTO runs (id, pipeline, digest, status, origin, params, error, error_code, revision, created_at, started_at, finished_at)
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {last})
SELECT '01ARZ3NDEKTSV4' || (100000000000 + n.i), 'small', (SELECT digest FROM pipelines WHERE name = 'small'),
    CASE WHEN n.i % 100 = 7 THEN 'failed' ELSE 'succeeded' END, 'api', '{{"note": "hello"}}',
    CASE WHEN n.i % 100 = 7 THEN '{{"code": "csv_header_missing", "message": "the file has no column for `email`"}}' END,
    CASE WHEN n.i % 100 = 7 THEN 'csv_header_missing' END, 12, {now} - n.i * 86, {now} - n.i * 86, {now} - n.i * 86 + 50 FROM n"""


def sign_in(service):
    """The cookie of a new session."""
    made = subprocess.run(
        [service.program, "ui"], cwd=service.folder, env=service.environment, check=True, capture_output=True, text=True
    )
    form = urllib.parse.urlencode({"code": made.stdout.strip().rpartition("#")[2]})
    headers = {"Origin": f"http://{service.address}", "Content-Type": "application/x-www-form-urlencoded"}
    connection = http.client.HTTPConnection(service.address, timeout=60)
    connection.request("POST", "/ui/enter", form, headers)
    answer = connection.getresponse()
    if answer.status != 303:
        raise SystemExit(f"the sign-in was answered {answer.status}")
    return answer.headers["Set-Cookie"].partition(";")[0]


class Browser:
    """Asks for pages with the cookie of a session, on one connection."""

    def __init__(self, service, cookie):
        self.connection = http.client.HTTPConnection(service.address, timeout=60)
        self.cookie = cookie

    def get(self, path, etag=None):
        """The entity tag, and the milliseconds to the first byte."""
        begun = time.monotonic()
        self.connection.request("GET", path, headers={"Cookie": self.cookie} | ({"If-None-Match": etag} if etag else {}))
        answer = self.connection.getresponse()
        took = (time.monotonic() - begun) * 1000
        answer.read()
        if answer.status not in (200, 304):
            raise SystemExit(f"`{path}` was answered {answer.status}")
        return answer.headers["ETag"], took


def start(service):
    status, run = service.call("POST", "/v1/pipelines/small/runs", {})
    if status != 202:
        raise SystemExit(f"a run was answered {status}: {run}")
    return run["id"]


def first_bytes(service, browser, repeats):
    run = start(service)
    pages = {
        "Now": "/ui/?",
        "Runs": "/ui/runs?",
        "Runs, failed": "/ui/runs?q=status%3Afailed&",
        "Runs, by code": "/ui/runs?q=code%3Acsv_header_missing&",
        "Runs, of a pipeline that failed": "/ui/runs?q=pipeline%3Asmall+status%3Afailed&",
        "a run": f"/ui/runs/{run}?",
        "Pipelines": "/ui/pipelines?",
        "a pipeline": "/ui/pipelines/small?",
    }
    rows = []
    for name, path in pages.items():
        times = [browser.get(f"{path}n={number}")[1] for number in range(repeats)]
        first, ascending = times[0], sorted(times)
        rows.append([name, first, share(ascending, 0.5), share(ascending, 0.99)])
    table(["ms to the first byte", "first", "median", "p99"], rows)


def follow(browser, path, end):
    """Asks once a second whether a page has changed, as its script does at most."""
    etag = None
    while not end.wait(1):
        etag = browser.get(path, etag)[0] or etag


def cost(service, cookie, seconds, pages):
    """The CPU of the service in per cent of a core while runs go on and these pages are open."""
    end = threading.Event()
    threads = [threading.Thread(target=follow, args=(Browser(service, cookie), path, end)) for path in pages]
    for thread in threads:
        thread.start()
    used, begun = cpu(service.pid), time.monotonic()
    while time.monotonic() < begun + seconds:
        for _ in range(10):
            start(service)
        time.sleep(1)
    percent = (cpu(service.pid) - used) / (time.monotonic() - begun) * 100
    end.set()
    for thread in threads:
        thread.join()
    return percent


def measure(name, program, settings, fill, arguments):
    service = Service(program, {"small": PIPELINE}, settings)
    try:
        start(service)
        fill(service, FILL.format(last=arguments.finished - 1, now=int(time.time() * 1000)))
        cookie = sign_in(service)
        print(f"{name}, {arguments.finished:,} finished runs")
        first_bytes(service, Browser(service, cookie), arguments.repeats)
        pages = ["/ui/", "/ui/runs", "/ui/runs?q=status%3Afailed", "/ui/pipelines", f"/ui/runs/{start(service)}"]
        without = cost(service, cookie, arguments.seconds, [])
        with_pages = cost(service, cookie, arguments.seconds, pages * 10)
        print(f"ten runs a second: {without:.1f} % of a core; with 50 open pages {with_pages:.1f} %\n", flush=True)
    finally:
        service.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finished", type=int, default=1_000_000, help="finished runs in the tables")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--binary", help="an afterload that is built already")
    arguments = parser.parse_args()
    program = binary(arguments.binary)

    def fill_sqlite(service, sql):
        path = service.folder / "data" / "afterload.db"
        subprocess.run(["sqlite3", path, "-cmd", ".timeout 60000", sql], check=True)

    measure("SQLite", program, {}, fill_sqlite, arguments)
    server = Postgres()
    try:
        url = server.database()
        settings = {"AFTERLOAD_DATABASE": url, "AFTERLOAD_SECRET_KEY": "5" * 64}
        measure("PostgreSQL", program, settings, lambda _, sql: server.sql(url, f"{sql}; ANALYZE"), arguments)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
