"""The peers of `engine.py`: their packages from npm, and each as a program that measures itself."""

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

from harness import ROOT, cpu, free_port, until

HERE = Path(__file__).with_name("engine")
# Newer than that of many distributions, as the peers ask for.
NODE = "22.23.3"
PACKAGES = {
    "dbos": {"@dbos-inc/dbos-sdk": "5.3.0"},
    "graphile": {"graphile-worker": "0.18.0"},
    "pg-boss": {"pg-boss": "12.38.0"},
    "restate": {"@restatedev/restate-server": "1.7.12", "@restatedev/restate-sdk": "1.17.2"},
}
VARIANTS = [
    ("DBOS", "dbos", ""),
    ("graphile-worker, default", "graphile", "default"),
    ("graphile-worker, tuned", "graphile", "tuned"),
    ("pg-boss, one by one", "pg-boss", ""),
    ("pg-boss, batches of 100", "pg-boss", "batches"),
    ("Restate", "restate", ""),
]
# A measurement that takes longer has failed.
LIMIT_SECONDS = 300


def npm(folder, packages):
    """Installs packages without running their scripts; a reason if it does not work."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = json.dumps({"private": True, "type": "module", "dependencies": packages})
    done = folder / "installed.json"
    if done.exists() and done.read_text() == manifest:
        return None
    (folder / "package.json").write_text(manifest)
    command = ["npm", "install", "--ignore-scripts", "--loglevel", "error", "--no-audit", "--no-fund", "--prefix", folder]
    try:
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        return f"npm: {error.strerror}"
    if ended.returncode:
        said = [line.removeprefix("npm error ") for line in ended.stdout.splitlines() if line.strip()]
        return "; ".join(said[:2]) or f"npm ended with status {ended.returncode}"
    done.write_text(manifest)
    return None


class Peers:
    """The peers, installed."""

    def __init__(self, wanted):
        self.folder = (ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "bench" / "engine").resolve()
        system = f"node-linux-{'arm64' if platform.machine() == 'aarch64' else 'x64'}"
        self.node = self.folder / "node" / "node_modules" / system / "bin" / "node"
        if reason := npm(self.folder / "node", {system: NODE}):
            self.node = shutil.which("node") or sys.exit(f"there is no Node.js: {reason}")
        self.missing = {name: npm(self.folder / name, PACKAGES[name]) for name in wanted}
        for name in ("api", *wanted):
            (self.folder / name).mkdir(exist_ok=True)
            for script in ("bench.mjs", "http.mjs", f"{name}.mjs"):
                shutil.copy(HERE / script, self.folder / name)

    def usable(self):
        return [variant for variant in VARIANTS if variant[1] in self.missing and not self.missing[variant[1]]]

    def report(self):
        for name, reason in self.missing.items():
            if reason:
                print(f"{name} is missing: {reason}")
        for name in PACKAGES.keys() - self.missing.keys():
            print(f"{name} was left out by --peers")
        print(flush=True)

    def program(self, name, options):
        script = self.folder / name / f"{name}.mjs"
        environment = os.environ | {"NODE_NO_WARNINGS": "1"}
        return Program([self.node, script, json.dumps(options)], cwd=script.parent, env=environment)


class Program:
    """A program that prints `ready`, measures after a line, prints the result and exits when its input ends."""

    def __init__(self, command, **more):
        self.command = [str(part) for part in command]
        self.child = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more)

    def line(self):
        line = self.child.stdout.readline()
        if not line:
            raise SystemExit(f"{self.command[:2]} ended with status {self.child.wait()}")
        return line.strip()

    def measure(self, used):
        """The result, and the CPU seconds by `used` meanwhile."""
        watchdog = threading.Timer(LIMIT_SECONDS, self.child.kill)
        watchdog.start()
        try:
            return self.result(used)
        finally:
            watchdog.cancel()

    def result(self, used):
        while self.line() != "ready":
            pass
        before = used(self.child.pid)
        self.child.stdin.write("go\n")
        self.child.stdin.flush()
        while not (result := self.line()).startswith("{"):
            pass
        spent = used(self.child.pid) - before
        self.child.stdin.close()
        self.child.wait()
        return json.loads(result), spent


class Restate:
    """A Restate server of its own, as it ships."""

    def __init__(self, folder):
        self.folder = Path(tempfile.mkdtemp(prefix="afterload-bench-restate-"))
        self.port, self.admin = free_port(), free_port()
        program = next((folder / "node_modules" / "@restatedev").glob("restate-server-linux-*/bin/restate-server"))
        settings = {"INGRESS__BIND_PORT": self.port, "ADMIN__BIND_PORT": self.admin, "BIND_PORT": free_port(), "DISABLE_TELEMETRY": "true"}
        environment = os.environ | {f"RESTATE_{name}": str(value) for name, value in settings.items()}
        log = (self.folder / "log").open("wb")
        command = [program, "--base-dir", self.folder / "data", "--bind-ip", "127.0.0.1", "--listen-mode", "tcp", "--no-logo"]
        self.child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        for port, path in ((self.admin, "health"), (self.port, "restate/health")):
            until("Restate", lambda port=port, path=path: self.answers(f"http://127.0.0.1:{port}/{path}"))

    @staticmethod
    def answers(url):
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(url, timeout=5).status == 200
        return False

    def cpu(self):
        return cpu(self.child.pid)

    def stop(self):
        self.child.terminate()
        self.child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
