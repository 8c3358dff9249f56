"""What the benchmarks share: the service and PostgreSQL as processes, and what they cost."""

import contextlib
import datetime
import http.client
import json
import multiprocessing
import os
import pwd
import re
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICK = os.sysconf("SC_CLK_TCK")
KEY = "bench-key-of-more-than-24-characters"
MB = 1_000_000


def binary(given=None):
    """The release binary, built if it is not given."""
    if given:
        return Path(given).resolve()
    subprocess.run(["cargo", "build", "--release"], cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return (ROOT / target / "release" / "afterload").resolve()


def bench_program(name):
    """The program of a bench target, built."""
    command = ["cargo", "bench", "--bench", name, "--no-run", "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in built.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == name and message.get("executable"):
            return message["executable"]
    raise SystemExit(f"cargo built no program `{name}`")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, probe, seconds=60):
    """The first true answer of `probe`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := probe():
            return answer
        time.sleep(0.02)
    raise SystemExit(f"timed out waiting for {what}")


def ended_at(view):
    """When a run ended, as `time.time` counts: asking often enough to see it would take the time that is measured."""
    return datetime.datetime.fromisoformat(view["finished_at"]).timestamp()


def _stat(pid):
    """Fields of /proc/PID/stat behind the name, from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu(pid):
    """User and system seconds of a process, without its children."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICK


def cpu_of_family(pid):
    """The same with all children, dead or alive."""
    fields = _stat(pid)
    total = sum(int(field) for field in fields[11:15])
    for entry in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            total += sum(int(field) for field in _stat(entry)[11:15])
    return total / TICK


def memory(pid, field):
    """A field of /proc/PID/status, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(found[1]) * 1024


def forget_peak(pid):
    """Lets VmHWM begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def timed(command, **more):
    """Runs a command: wall seconds, and its user and system seconds."""
    begun = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, **more)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command[0]} ended with status {child.returncode}")
    return time.monotonic() - begun, usage.ru_utime + usage.ru_stime


class Postgres:
    """A server of its own with the settings that it ships with but for `settings`, on a free port, in a temporary folder."""

    def __init__(self, environment=None, settings=()):
        self.folder = Path(tempfile.mkdtemp(prefix="afterload-bench-pg-"))
        self.port = free_port()
        self.databases = 0
        owner = pwd.getpwnam("postgres") if os.getuid() == 0 else None
        self.who = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
        if owner:
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        data = self.folder / "data"
        init = [self.tool("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]
        subprocess.run(init, check=True, stdout=subprocess.DEVNULL, cwd="/", **self.who)
        run = [self.tool("postgres"), "-D", data, "-k", self.folder, "-h", "127.0.0.1", "-p", str(self.port)]
        run += [part for setting in settings for part in ("-c", setting)]
        log = (self.folder / "log").open("wb")
        self.child = subprocess.Popen(run, stdout=log, stderr=log, cwd="/", env=os.environ | (environment or {}), **self.who)
        until("PostgreSQL", lambda: subprocess.run([self.tool("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]).returncode == 0)

    @staticmethod
    def tool(name):
        versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
        found = versions[-1] if versions else shutil.which(name)
        return str(found or sys.exit(f"`{name}` is missing; install it with: apt-get install postgresql"))

    def database(self):
        """The address of a new, empty database."""
        self.databases += 1
        name = f"bench_{self.databases}"
        self.sql(self.url("postgres"), f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, name):
        return f"postgres://postgres@127.0.0.1:{self.port}/{name}"

    def sql(self, url, text):
        """Runs statements and gives what they print."""
        command = [self.tool("psql"), url, "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", text]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def cpu(self):
        return cpu_of_family(self.child.pid)

    def stop(self):
        self.child.send_signal(signal.SIGINT)
        self.child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class SqliteDatabases:
    """The application's databases as SQLite files: that of a service, and fresh ones for the peer."""

    name, peer = "SQLite", "sqlite3"

    def settings(self):
        return {}

    def where(self, service):
        return service.folder / "data" / "app.db"

    def sql(self, path, text):
        # The service may be writing to the same file.
        command = ["sqlite3", path, "-cmd", ".timeout 60000", text]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def fresh(self, folder):
        path = folder / "peer.db"
        for file in folder.glob("peer.db*"):
            file.unlink()
        # As the service opens its own.
        self.sql(path, "PRAGMA journal_mode = WAL")
        return path

    def statement(self, path, sql):
        """The peer's command for one statement, at full durability."""
        return ["sqlite3", path, "-cmd", ".timeout 60000", "-cmd", "PRAGMA synchronous = FULL", sql]

    def server_cpu(self):
        return 0.0

    def stop(self):
        pass


class PostgresDatabases:
    """The same on a server of its own."""

    name, peer = "PostgreSQL", "psql"

    def __init__(self):
        self.server = Postgres()

    def settings(self):
        self.app = self.server.database()
        return {"AFTERLOAD_DATABASE": self.server.database(), "AFTERLOAD_CONNECTIONS__APP__URL": self.app, "AFTERLOAD_SECRET_KEY": "5" * 64}

    def where(self, _service):
        return self.app

    def sql(self, url, text):
        return self.server.sql(url, text)

    def fresh(self, _folder):
        return self.server.database()

    def statement(self, url, sql):
        return [self.server.tool("psql"), url, "-Xq", "-v", "ON_ERROR_STOP=1", "-c", sql]

    def server_cpu(self):
        return self.server.cpu()

    def stop(self):
        self.server.stop()


class Service:
    """`afterload serve` in a folder of its own."""

    def __init__(self, program, pipelines, settings=None, arguments=()):
        self.folder = Path(tempfile.mkdtemp(prefix="afterload-bench-"))
        (self.folder / "pipelines").mkdir()
        for name, text in pipelines.items():
            (self.folder / "pipelines" / f"{name}.yaml").write_text(text)
        places = {"AFTERLOAD_LISTEN": "127.0.0.1:0", "AFTERLOAD_OBJECTS__LISTEN": "127.0.0.1:0", "AFTERLOAD_ADMIN_KEY": KEY}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AFTERLOAD_")}
        self.log = (self.folder / "log").open("wb")
        self.program, self.environment, self.workers = program, environment | places | (settings or {}), []
        self.child = self.spawn("serve", *arguments)
        if not select.select([self.child.stdout], [], [], 60)[0]:
            raise SystemExit("the service did not start within 60 s")
        line = self.child.stdout.readline()
        if not (found := re.search(r"http://(\S+)", line)):
            raise SystemExit(f"the service did not start:\n{(self.folder / 'log').read_text()}")
        self.address = found[1]
        self.pid = self.child.pid

    def spawn(self, *arguments):
        return subprocess.Popen(
            [self.program, *arguments], cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=self.log, text=True
        )

    def worker(self):
        """`afterload worker` beside the service, once it works."""
        self.workers.append(self.spawn("worker"))
        if "is working" not in self.workers[-1].stdout.readline():
            raise SystemExit(f"the worker did not start:\n{(self.folder / 'log').read_text()}")

    def call(self, method, path, body=None):
        """Status and JSON of a call, on a connection of its own."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        headers = {"Authorization": f"Bearer {KEY}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(body)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        read = answer.read()
        connection.close()
        return answer.status, json.loads(read)

    def upload(self, pipeline, path):
        """Starts a run with a file, as `curl -F file=@…` does."""
        edge = "----------------------------afterload"
        part = f'Content-Disposition: form-data; name="file"; filename="{path.name}"\r\nContent-Type: text/csv'
        head, tail = f"--{edge}\r\n{part}\r\n\r\n".encode(), f"\r\n--{edge}--\r\n".encode()
        connection = http.client.HTTPConnection(self.address, timeout=300)
        connection.putrequest("POST", f"/v1/pipelines/{urllib.parse.quote(pipeline)}/runs")
        connection.putheader("Authorization", f"Bearer {KEY}")
        connection.putheader("Content-Type", f"multipart/form-data; boundary={edge}")
        connection.putheader("Content-Length", str(len(head) + path.stat().st_size + len(tail)))
        connection.endheaders(head)
        with path.open("rb") as file:
            connection.sock.sendfile(file)
        connection.send(tail)
        answer = connection.getresponse()
        status, run = answer.status, json.loads(answer.read())
        connection.close()
        if status != 202:
            raise SystemExit(f"the upload was answered {status}: {run}")
        return run["id"]

    def stop(self):
        for child in (*self.workers, self.child):
            child.send_signal(signal.SIGTERM)
            child.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Health:
    """Asks `/healthz` again and again from another process, each time on a new connection, and times the answers."""

    PAUSE = 0.02

    def __init__(self, address):
        self.mine, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=self.ask, args=(address, theirs), daemon=True)
        self.process.start()

    @classmethod
    def ask(cls, address, pipe):
        times = []
        while not pipe.poll(cls.PAUSE):
            begun = time.monotonic()
            connection = http.client.HTTPConnection(address, timeout=60)
            connection.request("GET", "/healthz")
            ok = connection.getresponse().read() and True
            connection.close()
            times.append((time.monotonic() - begun) * 1000 if ok else float("inf"))
        pipe.send(times)

    def end(self):
        """The latencies in milliseconds, ascending."""
        self.mine.send(None)
        times = sorted(self.mine.recv())
        self.process.join()
        return times


def share(ascending, part):
    """A quantile of ascending values."""
    return ascending[min(len(ascending) - 1, int(len(ascending) * part))]


def median(values):
    return statistics.median(values)


def table(head, rows):
    """Prints columns under each other."""
    rows = [head] + [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[index]) for row in rows) for index in range(len(head))]
    for row in rows:
        cells = [cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())
    print(flush=True)
