#!/usr/bin/env python3
"""The engine beside its peers: runs of steps that do nothing, everything at full durability.

    python3 benches/engine.py
    python3 benches/engine.py --only throughput,latency --peers dbos,restate --rounds 1

It needs a C compiler, and Node.js with npm: the peers come from npm, in exact versions, into target/bench/engine. A peer that
cannot be installed is named with the reason. All take turns; the tables show medians of the rounds.

`throughput`: so many chains are open all the time, for some seconds; the CPU is that of the program and of its server, PostgreSQL
or Restate, without the caller of the API. `latency`: one chain after the other, from the accepted one. `idle`: the service with
nothing to do. `finished`: the engine in tables with finished and waiting runs beside the same in empty ones. `slow-sync`: every sync
of a file takes longer. `workers`: eight worker processes beside one.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from harness import KEY, MB, Postgres, Service, bench_program, binary, cpu, median, memory, share, table
from peers import HERE, PACKAGES, Peers, Program, Restate
from start import QUEUES

PARTS = ["throughput", "latency", "idle", "finished", "slow-sync", "workers"]
OPEN = [16, 256]
# A step that has nothing to do.
STEP = '  - {{ id: s{}, uses: wait, with: {{ until: "2020-01-01T00:00:00Z" }} }}\n'
PIPELINES = {f"steps-{steps}": f"name: steps-{steps}\nsteps:\n" + "".join(map(STEP.format, range(steps))) for steps in (1, 5)}


class Bench:
    """All that is measured, each in an empty database of its own."""

    def __init__(self, arguments, peers, sync_ms=0):
        self.arguments, self.peers, self.slow = arguments, peers, {}
        self.folder = Path(tempfile.mkdtemp(prefix="afterload-bench-engine-"))
        self.files = 0
        if sync_ms:
            self.slow = {"LD_PRELOAD": str(slow_sync(self.folder)), "SLOW_SYNC_MS": str(sync_ms)}
        # Eight workers have more connections than the default allows.
        self.server = Postgres(self.slow, ["max_connections=400"])

    def stop(self):
        self.server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def database(self, kind):
        if kind == "PostgreSQL":
            return self.server.database()
        self.files += 1
        return f"sqlite://{self.folder / f'{self.files}.db'}"

    def server_cpu(self, kind):
        return self.server.cpu() if kind == "PostgreSQL" else 0.0

    def queue(self, kind, mode, numbers, url=None):
        """The bench program on the engine or on the bare queue."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AFTERLOAD_")} | self.slow
        command = [self.arguments.queue, mode, url or self.database(kind), *numbers]
        return Program(command, env=environment).measure(lambda pid: cpu(pid) + self.server_cpu(kind))

    def load(self, kind, mode, steps, open_chains, url=None):
        numbers = [self.arguments.seconds, steps, self.arguments.concurrency, open_chains]
        return self.queue(kind, mode, numbers, url)

    def options(self, steps, open_chains, measure="load", **more):
        arguments = self.arguments
        fixed = {"seconds": arguments.seconds, "chains": arguments.paced, "concurrency": arguments.concurrency}
        return fixed | {"measure": measure, "steps": steps, "open": open_chains} | more

    def service(self, kind, settings=None, arguments=()):
        mine = {"AFTERLOAD_QUEUES__DEFAULT__CONCURRENCY": str(self.arguments.concurrency)}
        if kind == "PostgreSQL":
            mine |= {"AFTERLOAD_DATABASE": self.server.database(), "AFTERLOAD_SECRET_KEY": "5" * 64}
        return Service(self.arguments.binary, PIPELINES, mine | self.slow | (settings or {}), arguments)

    def api(self, kind, steps, open_chains, measure="load", workers=0):
        """Through the API; the caller's CPU does not count."""
        service = self.service(kind, arguments=["--queues", "none"] if workers else [])
        try:
            for _ in range(workers):
                service.worker()
            pids = [service.pid, *(worker.pid for worker in service.workers)]
            options = self.options(steps, open_chains, measure, port=int(service.address.rpartition(":")[2]), key=KEY)
            used = lambda _: sum(map(cpu, pids)) + self.server_cpu(kind)
            return self.peers.program("api", options).measure(used)
        finally:
            service.stop()

    def peer(self, name, variant, steps, open_chains, measure="load"):
        options = self.options(steps, open_chains, measure, variant=variant)
        if name != "restate":
            options["url"] = self.server.database()
            return self.peers.program(name, options).measure(lambda pid: cpu(pid) + self.server.cpu())
        server = Restate(self.peers.folder / name)
        try:
            options |= {"port": server.port, "admin": server.admin}
            return self.peers.program(name, options).measure(lambda pid: cpu(pid) + server.cpu())
        finally:
            server.stop()

    def contenders(self):
        """Names, and how each is measured with so many steps and open chains."""
        ways = {}
        for kind in ("SQLite", "PostgreSQL"):
            ways[f"afterload, {kind}, engine"] = lambda *numbers, kind=kind: self.load(kind, "open", *numbers)
            ways[f"afterload, {kind}, API"] = lambda *numbers, kind=kind: self.api(kind, *numbers)
            ways[f"the bare queue, {kind}"] = lambda *numbers, kind=kind: self.load(kind, "bare-open", *numbers)
        for title, name, variant in self.peers.usable():
            if not (self.slow and name == "restate"):
                ways[title] = lambda *numbers, name=name, variant=variant: self.peer(name, variant, *numbers)
        return ways


def slow_sync(folder):
    """The library that delays syncs, where PostgreSQL's own user can read it."""
    library = folder / "slow_sync.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, HERE / "slow_sync.c", "-ldl"], check=True)
    folder.chmod(0o755)
    return library


@contextlib.contextmanager
def reported(name):
    """Prints a failure, so that the others are measured still."""
    try:
        yield
    except SystemExit as error:
        print(f"{name} failed: {error}", flush=True)


def rates(results):
    """Chains a second, and CPU seconds per 1,000 chains: medians."""
    if not results:
        return "failed", "failed"
    speed = median([done["chains"] / done["seconds"] for done, _ in results])
    return speed, median([used / done["chains"] * 1000 for done, used in results])


def throughput(bench):
    ways, rows = bench.contenders(), []
    results = {(name, count, steps): [] for name in ways for count in OPEN for steps in (1, 5)}
    for _ in range(bench.arguments.rounds):
        for (name, count, steps), taken in results.items():
            with reported(f"{name}, {steps} steps, {count} open"):
                taken.append(ways[name](steps, count))
    for name in ways:
        for count in OPEN:
            rows.append([name, count, *(cell for steps in (1, 5) for cell in rates(results[name, count, steps]))])
    table(["", "open", "one-step runs/s", "CPU s per 1,000", "chains of five/s", "CPU s per 1,000"], rows)


def latency(bench):
    arguments, rows = bench.arguments, []
    ways = {}
    for kind in ("SQLite", "PostgreSQL"):
        ways[f"afterload, {kind}, engine"] = lambda kind=kind: bench.queue(kind, "latency", [arguments.paced, 5, arguments.concurrency])
        ways[f"afterload, {kind}, API"] = lambda kind=kind: bench.api(kind, 5, 1, "latency")
    for title, name, variant in bench.peers.usable():
        if variant != "batches":
            ways[title] = lambda name=name, variant=variant: bench.peer(name, variant, 5, 1, "latency")
    results = {name: {"start": [], "end": []} for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            with reported(name):
                for what, times in way()[0].items():
                    results[name][what] += times
    for name, times in results.items():
        if not times["end"]:
            rows.append([name, *["failed"] * 4])
            continue
        values = (share(sorted(times[what]), part) for what in ("start", "end") for part in (0.5, 0.99))
        rows.append([name, *(f"{value:.1f}" for value in values)])
    table(["ms from the accepted chain", "to its first step", "p99", "to the end of five", "p99"], rows)


def idle(bench):
    rows = []
    for kind in ("SQLite", "PostgreSQL"):
        service = bench.service(kind, QUEUES)
        try:
            time.sleep(3)
            used, begun = cpu(service.pid), time.monotonic()
            time.sleep(bench.arguments.idle)
            load = (cpu(service.pid) - used) / (time.monotonic() - begun) * 100
            rows.append([kind, load, memory(service.pid, "VmRSS") / MB, memory(service.pid, "RssAnon") / MB])
        finally:
            service.stop()
    table(["the idle service, five queues", "% of a core", "MB", "private MB"], rows)


def finished(bench):
    arguments, rows = bench.arguments, []
    for kind in ("SQLite", "PostgreSQL"):
        full = bench.database(kind)
        subprocess.run([arguments.queue, "fill", full, *map(str, (arguments.finished, 5, arguments.waiting))], check=True)
        if kind == "PostgreSQL":
            # Rows come in over weeks: what the server does behind a bulk load is not the engine's.
            for text in ("VACUUM ANALYZE", "CHECKPOINT"):
                bench.server.sql(full, text)
        for count in OPEN:
            empties, fulls = [], []
            for _ in range(arguments.rounds):
                empties.append(bench.load(kind, "open", 5, count))
                fulls.append(bench.load(kind, "open", 5, count, full))
            empty, filled = rates(empties)[0], rates(fulls)[0]
            rows.append([kind, count, empty, filled, empty / filled])
    print(f"{arguments.finished:,} finished and {arguments.waiting:,} waiting runs in the tables")
    table(["chains of five/s", "open", "empty tables", "full tables", "times as long"], rows)


def workers(bench):
    rows = []
    for kind in ("SQLite", "PostgreSQL"):
        results = {1: [], 8: []}
        for _ in range(bench.arguments.rounds):
            for count, taken in results.items():
                taken.append(bench.api(kind, 5, 256, workers=count))
        one, eight = rates(results[1]), rates(results[8])
        rows.append([kind, one[0], eight[0], eight[0] / one[0], one[1], eight[1]])
    table(["chains of five/s, 256 open", "one worker", "eight", "ratio", "CPU s per 1,000, one", "eight"], rows)


def arguments_of_the_command():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts to measure, with commas between them")
    parser.add_argument("--peers", default=",".join(PACKAGES), help="peers, with commas between them; `none`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="how long chains begin in a measurement of throughput")
    parser.add_argument("--concurrency", type=int, default=16, help="steps at a time, where the program has such a limit")
    parser.add_argument("--paced", type=int, default=200, help="chains in a measurement of latency")
    parser.add_argument("--idle", type=float, default=20, help="seconds")
    parser.add_argument("--finished", type=int, default=1_000_000, help="finished runs in the full tables")
    parser.add_argument("--waiting", type=int, default=100_000, help="waiting runs in the full tables")
    parser.add_argument("--slow-sync", type=float, default=2, help="milliseconds that a sync takes longer")
    parser.add_argument("--binary", help="an afterload that is built already")
    parser.add_argument("--queue", help="a program `queue` that is built already")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    arguments.peers = [] if arguments.peers == "none" else arguments.peers.split(",")
    for given, known in ((arguments.only, PARTS), (arguments.peers, PACKAGES)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return arguments


def main():
    arguments = arguments_of_the_command()
    peers = Peers(arguments.peers)
    arguments.binary = binary(arguments.binary)
    arguments.queue = arguments.queue or bench_program("queue")
    peers.report()
    parts = {"throughput": throughput, "latency": latency, "idle": idle, "finished": finished, "workers": workers}
    if set(arguments.only) - {"slow-sync"}:
        bench = Bench(arguments, peers)
        try:
            for name, part in parts.items():
                if name in arguments.only:
                    part(bench)
        finally:
            bench.stop()
    if "slow-sync" in arguments.only:
        bench = Bench(arguments, peers, arguments.slow_sync)
        try:
            print(f"every sync {arguments.slow_sync} ms slower (without Restate: its static binary loads no library)")
            throughput(bench)
        finally:
            bench.stop()


if __name__ == "__main__":
    main()
