#!/usr/bin/env python3
"""What the service costs while it has nothing to do, and how soon a run that was accepted begins.

    python3 benches/start.py

On each database: memory and CPU of the idle service with five queues, then many small runs, one after the other and in bursts, and
one after the other where a service that works nothing leaves them to a worker beside it. The time to the start is that from
`created_at` of the run to `started_at` of its first step.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from harness import MB, Postgres, Service, binary, cpu, memory, share, table, until

PIPELINE = """name: small
steps:
  - id: mail
    uses: email.send
    with: { to: ops@example.com, subject: Done, body: Nothing else. }
"""


def moment(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000


def finished(service, ids):
    """The runs, once all of them have ended."""
    runs = {}
    for run in ids:
        def ended(run=run):
            view = service.call("GET", f"/v1/runs/{run}")[1]
            return view if view["status"] in ("succeeded", "failed", "cancelled") else None

        runs[run] = until("a run", ended)
    return list(runs.values())


def start(service):
    begun = time.monotonic()
    status, run = service.call("POST", "/v1/pipelines/small/runs", {})
    if status != 202:
        raise SystemExit(f"a run was answered {status}: {run}")
    return run["id"], (time.monotonic() - begun) * 1000


def line(name, runs, answers):
    begins = sorted(moment(run["steps"][0]["started_at"]) - moment(run["created_at"]) for run in runs)
    answers = sorted(answers)
    bad = sum(run["status"] != "succeeded" for run in runs)
    if bad:
        raise SystemExit(f"{bad} runs did not succeed")
    return [name, *(f"{value:.1f}" for value in (share(begins, 0.5), share(begins, 0.99), share(answers, 0.5), share(answers, 0.99)))]


def one_by_one(name, service, arguments):
    runs, answers = [], []
    for _ in range(arguments.runs):
        run, answer = start(service)
        runs += finished(service, [run])
        answers.append(answer)
    return line(name, runs, answers)


QUEUES = {f"AFTERLOAD_QUEUES__Q{number}__CONCURRENCY": "2" for number in range(4)}


def measure(name, program, settings, arguments):
    settings = settings | QUEUES
    service = Service(program, {"small": PIPELINE}, settings)
    try:
        time.sleep(3)
        used, begun = cpu(service.pid), time.monotonic()
        time.sleep(arguments.idle)
        idle = (cpu(service.pid) - used) / (time.monotonic() - begun) * 100
        print(f"{name}: idle {memory(service.pid, 'VmRSS') / MB:.1f} MB ({memory(service.pid, 'RssAnon') / MB:.1f} MB of it private), {idle:.2f} % of a core\n")
        rows = [one_by_one("one after the other", service, arguments)]
        begun = time.monotonic()
        with ThreadPoolExecutor(8) as threads:
            started = list(threads.map(lambda _: start(service), range(arguments.runs)))
        runs = finished(service, [run for run, _ in started])
        rows.append(line("8 at once", runs, [answer for _, answer in started]))
        burst = arguments.runs / (time.monotonic() - begun)
        after = memory(service.pid, "VmRSS") / MB
    finally:
        service.stop()
    service = Service(program, {"small": PIPELINE}, settings, ["--queues", "none"])
    try:
        service.worker()
        rows.append(one_by_one("by a worker beside", service, arguments))
    finally:
        service.stop()
    table(["ms", "to the start, median", "p99", "to the answer, median", "p99"], rows)
    print(f"memory afterwards {after:.1f} MB, {burst:.0f} runs/s in the burst\n", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--idle", type=float, default=20, help="seconds")
    parser.add_argument("--binary", help="an afterload that is built already")
    arguments = parser.parse_args()
    program = binary(arguments.binary)
    measure("SQLite", program, {}, arguments)
    server = Postgres()
    try:
        measure("PostgreSQL", program, {"AFTERLOAD_DATABASE": server.database(), "AFTERLOAD_SECRET_KEY": "5" * 64}, arguments)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
