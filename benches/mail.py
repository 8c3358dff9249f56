#!/usr/bin/env python3
"""A thousand mails through a local SMTP server, beside a plain loop over lettre's pool.

    python3 benches/mail.py

builds the release binary and the peer, and prints a table for each database. It needs python3, sqlite3 and PostgreSQL with psql, no
packages.

Each round sends the mails three times: by the peer, which keeps no record of them; by one `notify.fanout`, a mail for each row of a
table; and by runs of `email.send` with a hundred recipients each. Ours write down, on disk, whom they are about to mail and whom
they have. All use as many connections, and the server, a process of its own, takes every mail and counts those that differ.
The peer waits 40 ms for each mail, as long as Linux takes to confirm a text whose end is written by itself; ours sends that end at once.
With `--confirm` the server confirms every piece at once, as few servers do, and nobody waits.
Medians are shown: mails a second, CPU milliseconds for a mail (of the process, and of the database's server), and the ratio of the
times to the peer's.
"""

import argparse
import asyncio
import multiprocessing
import re
import socket
import subprocess
import time

from harness import PostgresDatabases, Service, SqliteDatabases, bench_program, binary, cpu, median, table, until

FANOUT = """name: fanout
steps:
  - id: tell
    uses: notify.fanout
    timeout: 1h
    with:
      audience: { followers: { sql: "SELECT id, email FROM users", key: id } }
      deliver: { email: { subject: News, body: There are news. } }
      parallel: %d
"""
SEND = """name: send
params: { to: { type: list, items: { type: email } } }
steps:
  - { id: mail, uses: email.send, with: { to: "${{ params.to }}", subject: News, body: There are news. } }
"""
USERS = """CREATE TABLE users (id BIGINT PRIMARY KEY, email TEXT NOT NULL);
INSERT INTO users WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < %d)
SELECT n, 'user' || n || '@example.com' FROM numbers"""
# The most recipients of one `email.send`.
BATCH = 100


class Sink(asyncio.Protocol):
    """An SMTP server that takes everything, and remembers the Message-IDs."""

    seen = []
    confirms = False

    def connection_made(self, transport):
        self.transport, self.rest, self.data = transport, b"", None
        transport.write(b"220 localhost\r\n")

    def data_received(self, received):
        self.rest += received
        if self.confirms:
            # The system takes it back by itself.
            self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        while True:
            if self.data is not None:
                text, end, rest = self.rest.partition(b"\r\n.\r\n")
                if not end:
                    return
                found = re.search(rb"^Message-ID: *(\S+)", text, re.M | re.I)
                self.seen.append(found[1])
                self.data, self.rest, answer = None, rest, b"250 taken"
            else:
                line, end, rest = self.rest.partition(b"\r\n")
                if not end:
                    return
                self.rest, answer = rest, self.answer(line[:4].upper())
            self.transport.write(answer + b"\r\n")

    def answer(self, verb):
        if verb == b"EHLO":
            return b"250-localhost\r\n250 8BITMIME"
        if verb == b"DATA":
            # So that an empty text ends where it begins.
            self.data, self.rest = True, b"\r\n" + self.rest
            return b"354 go on"
        return b"221 bye" if verb == b"QUIT" else b"250 ok"


async def serve(pipe):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Sink, "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    while await loop.run_in_executor(None, pipe.recv):
        pipe.send((len(Sink.seen), len(set(Sink.seen))))
        Sink.seen.clear()


def work(pipe, confirms):
    Sink.confirms = confirms
    asyncio.run(serve(pipe))


class Server:
    """The sink as a process."""

    def __init__(self, confirms):
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=work, args=(theirs, confirms), daemon=True)
        self.process.start()
        self.port = self.pipe.recv()

    def expect(self, who, mails):
        """Ends the benchmark unless so many different mails came, each once."""
        self.pipe.send(True)
        if (came := self.pipe.recv()) != (mails, mails):
            raise SystemExit(f"{who}: {came[0]} mails came, {came[1]} different ones; expected {mails}")

    def stop(self):
        self.pipe.send(False)
        self.process.join()


def ours(place, program, port, arguments, start):
    """What a fresh service takes from the first request to the end of the last run: seconds, CPU seconds, those of the database's server."""
    settings = place.settings() | {
        "AFTERLOAD_MAIL__SMTP__HOST": "127.0.0.1",
        "AFTERLOAD_MAIL__SMTP__PORT": str(port),
        "AFTERLOAD_MAIL__SMTP__TLS": "none",
        "AFTERLOAD_MAIL__SMTP__CONNECTIONS": str(arguments.connections),
        "AFTERLOAD_QUEUES__DEFAULT__CONCURRENCY": str(arguments.connections),
    }
    service = Service(program, {"fanout": FANOUT % arguments.connections, "send": SEND}, settings)
    try:
        place.sql(place.where(service), USERS % arguments.mails)
        begun, used, served = time.monotonic(), cpu(service.pid), place.server_cpu()
        runs = []
        for pipeline, params in start(arguments.mails):
            status, run = service.call("POST", f"/v1/pipelines/{pipeline}/runs", {"params": params})
            if status != 202:
                raise SystemExit(f"the start was answered {status}: {run}")
            runs.append(run["id"])
        for run in runs:
            until("the end of a run", lambda: service.call("GET", f"/v1/runs/{run}")[1]["finished_at"], 600)
            view = service.call("GET", f"/v1/runs/{run}")[1]
            if view["status"] != "succeeded":
                raise SystemExit(f"the run ended as {view['status']}: {view['error']}")
        return time.monotonic() - begun, cpu(service.pid) - used, place.server_cpu() - served
    finally:
        service.stop()


def fanout(_):
    return [("fanout", {})]


def send(mails):
    numbers = range(1, mails + 1)
    return [("send", {"to": [f"user{number}@example.com" for number in numbers[at : at + BATCH]]}) for at in range(0, mails, BATCH)]


def theirs(program, port, arguments):
    """The same by the peer."""
    command = [program, str(port), str(arguments.mails), str(arguments.connections)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    wall, used = (float(number) for number in output.split())
    return wall, used, 0.0


def measure(place, program, loop, server, arguments):
    """The rounds of one database."""
    ways = {
        "lettre's pool in a loop": lambda: theirs(loop, server.port, arguments),
        "notify.fanout": lambda: ours(place, program, server.port, arguments, fanout),
        f"email.send, {BATCH} each": lambda: ours(place, program, server.port, arguments, send),
    }
    taken = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            taken[name].append(way())
            server.expect(name, arguments.mails)
    typical = {name: [median(values) for values in zip(*rounds)] for name, rounds in taken.items()}
    peer_wall = next(iter(typical.values()))[0]
    rows = []
    for name, (wall, *used) in typical.items():
        rows.append([name, arguments.mails / wall, *(seconds * 1000 / arguments.mails for seconds in used), wall / peer_wall])
    table([place.name, "mails/s", "CPU ms a mail", "server CPU ms a mail", "time"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mails", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--confirm", action="store_true", help="the server confirms every piece at once")
    parser.add_argument("--only", choices=["sqlite", "postgres"])
    parser.add_argument("--binary", help="an afterload that is built already")
    parser.add_argument("--peer", help="a program `mail` that is built already")
    arguments = parser.parse_args()
    program, loop, server = binary(arguments.binary), arguments.peer or bench_program("mail"), Server(arguments.confirm)
    print(f"{arguments.mails} mails, {arguments.connections} connections, {arguments.repeats} rounds\n", flush=True)
    kinds = {"sqlite": SqliteDatabases, "postgres": PostgresDatabases}
    for kind in [arguments.only] if arguments.only else kinds:
        place = kinds[kind]()
        try:
            measure(place, program, loop, server, arguments)
        finally:
            place.stop()
    server.stop()


if __name__ == "__main__":
    main()
