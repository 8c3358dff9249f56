#!/usr/bin/env python3
"""The engine beside the bare queue under it: chains of steps that do nothing, on both databases at full durability.

    python3 benches/throughput.py

The peer is the same queue with the same settings, which deletes each job and pushes the next in one transaction and keeps no
other record: no runs, no outputs, no progress. Engine and peer take turns; the table shows the medians and the ratio of the
engine's throughput to the peer's (the goal is at least 0.5). Then one chain after the other on the idle machine: how long from
the accepted run to its first step, and what a step costs from ready to done. Last, chains in tables with a million finished runs
beside the same in empty ones (the goal is at most 1.2 times as long).
"""

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

from harness import Postgres, bench_program, median, table


def run(queue, mode, url, *numbers):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AFTERLOAD_")}
    command = [queue, mode, url, *map(str, numbers)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return [float(number) for number in output.split()]


def measure(name, queue, fresh, arguments, settle=lambda _: None):
    rows = []
    for what, runs, steps in [("steps/s, runs of one step", arguments.steps, 1), ("chains/s of five steps", arguments.steps // 5, 5)]:
        seconds = {"engine": [], "bare": []}
        for _ in range(arguments.repeats):
            for mode, taken in seconds.items():
                taken += run(queue, mode, fresh(), runs, steps, arguments.concurrency, 1)
        engine, bare = (runs / median(seconds[mode]) for mode in ("engine", "bare"))
        rows.append([what, engine, bare, engine / bare])
    print(name)
    table(["", "engine", "bare queue", "ratio"], rows)
    start, overhead = run(queue, "paced", fresh(), arguments.paced, 5, arguments.concurrency)
    print(f"accepted to first step {start:.1f} ms, a step from ready to done {overhead:.1f} ms (medians)\n", flush=True)
    if not arguments.finished:
        return
    full = fresh()
    run(queue, "fill", full, arguments.finished, 3)
    settle(full)
    seconds = {"empty": [], "full": []}
    for _ in range(arguments.repeats):
        for where, url in (("empty", fresh()), ("full", full)):
            seconds[where] += run(queue, "engine", url, arguments.steps // 5, 5, arguments.concurrency, 1)
    empty, filled = (median(seconds[where]) for where in ("empty", "full"))
    print(f"with {arguments.finished:,} finished runs of three steps: {filled / empty:.2f} times as long as in empty tables\n", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--paced", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--finished", type=int, default=1_000_000, help="finished runs in the last measurement; 0: leave it out")
    parser.add_argument("--binary", help="a program `queue` that is built already")
    arguments = parser.parse_args()
    queue = arguments.binary or bench_program("queue")
    with tempfile.TemporaryDirectory(prefix="afterload-bench-") as folder:
        files = iter(range(1_000_000))
        measure("SQLite", queue, lambda: f"sqlite://{Path(folder) / f'{next(files)}.db'}", arguments)
    server = Postgres()
    try:
        # Rows come in over weeks: what the server does behind a bulk load is not the engine's.
        measure("PostgreSQL", queue, server.database, arguments, lambda url: [server.sql(url, text) for text in ("VACUUM ANALYZE", "CHECKPOINT")])
    finally:
        server.stop()


if __name__ == "__main__":
    main()
