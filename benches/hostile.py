#!/usr/bin/env python3
"""An idle service, attacked, and what is left of the attack a minute later.

    python3 benches/hostile.py [--program PATH]

Each attack comes from callers who hold at most a key that may start runs: forms of empty parts, unknown names, thousands of
files, patterns over long lists, new queues, idle connections, senders that drip, readers that never read, watchers of one run,
large uploads side by side, wrong keys and refused requests of S3. Honest runs start beside them. The table shows the answers,
the seconds, and the largest memory during each attack; then the memory and the CPU of the service once it is quiet again (the
goals: 80 MB and 1 % of a core within a minute), and whether each accepted run has ended.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import http.client
import json
import re
import resource
import socket
import time

from harness import KEY, MB, Service, binary, cpu, forget_peak, memory, table, until

PIPELINES = {
    "honest": "name: honest\nparams: { file: { type: file } }\nsteps:\n  - id: look\n    uses: file.check\n    with: { source: \"${{ params.file }}\" }\n",
    "plain": "name: plain\nparams: { name: { type: string, required: false } }\nsteps:\n  - { id: look, uses: wait, with: { for: 1ms } }\n",
    "codes": "name: codes\nparams: { codes: { type: list, items: { type: string, pattern: \"^([a-z]+[0-9]*)+$\" } } }\nsteps:\n  - { id: look, uses: wait, with: { for: 1ms } }\n",
    "files": "name: files\nparams: { files: { type: list, items: { type: file } } }\nsteps:\n  - { id: look, uses: wait, with: { for: 1ms } }\n",
    "slow": "name: slow\nsteps:\n  - { id: look, uses: wait, with: { for: 45s } }\n",
}
EDGE = "hostile"


class Attacker:
    def __init__(self, service):
        self.service = service
        host, port = service.address.split(":")
        self.where = (host, int(port))
        self.open = []

    def request(self, method, path, body=b"", headers=(), key=KEY):
        """The status of a call; 0 where the service closed the connection."""
        connection = http.client.HTTPConnection(*self.where, timeout=120)
        sent = {"Authorization": f"Bearer {key}", **dict(headers)}
        try:
            connection.request(method, path, body, sent, encode_chunked="Transfer-Encoding" in sent)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def json(self, path, value):
        return self.request("POST", path, json.dumps(value), {"Content-Type": "application/json"})

    def form(self, path, parts):
        """A form whose parts come in chunks, so that nothing tells its size."""
        head = {"Content-Type": f"multipart/form-data; boundary={EDGE}", "Transfer-Encoding": "chunked"}

        def pieces():
            piece = []
            for index, (name, content) in enumerate(parts):
                piece.append(f'--{EDGE}\r\nContent-Disposition: form-data; name="{name}"{content}')
                if index % 1000 == 999:
                    yield "".join(piece).encode()
                    piece = []
            yield ("".join(piece) + f"--{EDGE}--\r\n").encode()

        return self.request("POST", path, pieces(), head)

    def hold(self, text=b"", address=None):
        """A connection that stays open."""
        with contextlib.suppress(OSError):
            connection = socket.create_connection(address or self.where, timeout=5)
            if text:
                connection.sendall(text)
            self.open.append(connection)

    def let_go(self):
        for connection in self.open:
            connection.close()
        self.open.clear()

    # The attacks. Each gives the statuses that it was answered with.

    def empty_parts(self):
        return [self.form("/v1/pipelines/plain/runs", ((f"n{index}", "\r\n\r\n\r\n") for index in range(700_000)))]

    def unknown_params(self):
        return [self.json("/v1/pipelines/plain/runs", {"params": {f"n{index}": 1 for index in range(50_000)}})]

    def many_files(self):
        part = '; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\nx\r\n'
        return [self.form("/v1/pipelines/files/runs", (("files", part) for _ in range(3_000)))]

    def patterns(self):
        body = {"params": {"codes": ["a1" * 20] * 6_000}}
        return in_parallel(2, lambda _: self.json("/v1/pipelines/codes/runs", body))

    def queues(self):
        return in_parallel(8, lambda index: self.json(f"/v1/pipelines/plain/runs?queue=q{index}", {}), 700)

    def idle_connections(self):
        for _ in range(1_100):
            self.hold()
        return [self.json("/v1/pipelines/plain/runs", {})]

    def dripping_senders(self):
        head = f"POST /v1/pipelines/honest/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: multipart/form-data; boundary={EDGE}\r\nContent-Length: 100000\r\n\r\n--{EDGE}\r\n"
        for _ in range(64):
            self.hold(head.encode())
        return []

    def readers_that_never_read(self, artifact):
        head = f"GET /v1/artifacts/{artifact} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n"
        for _ in range(300):
            self.hold(head.encode())
        return []

    def watchers(self, run):
        head = f"GET /v1/runs/{run}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n"
        for _ in range(300):
            self.hold(head.encode())
        return []

    def parallel_uploads(self):
        content = "x" * 1_000_000

        def upload(_):
            head = {"Content-Type": f"multipart/form-data; boundary={EDGE}", "Transfer-Encoding": "chunked"}

            def pieces():
                yield f'--{EDGE}\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\n'.encode()
                for _ in range(50):
                    yield content.encode()
                yield f"\r\n--{EDGE}--\r\n".encode()

            return self.request("POST", "/v1/pipelines/honest/runs", pieces(), head)

        return in_parallel(50, upload)

    def wrong_keys(self):
        return in_parallel(8, lambda index: self.request("GET", "/v1/runs", key=f"wrong-key-number-{index}-of-enough-letters"), 2_000)

    def refused_s3(self, address):
        def ask(index):
            connection = http.client.HTTPConnection(address, timeout=30)
            try:
                connection.request("PUT", f"/private/{index}?X-Amz%2DSignature=0", b"x")
                return connection.getresponse().status, b""
            except (OSError, http.client.HTTPException):
                return 0, b""
            finally:
                connection.close()

        return in_parallel(8, ask, 2_000)


def in_parallel(workers, call, calls=None):
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(call, range(calls or workers)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", help="the binary; by default it is built")
    arguments = parser.parse_args()
    service = Service(binary(arguments.program), PIPELINES)
    # For the attacker alone: the service has begun with the limit of this shell, and raises it by itself.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    attacker = Attacker(service)
    accepted, rows = set(), []

    def note(answers):
        for status, body in answers:
            if status in (200, 201, 202):
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    accepted.add(json.loads(body)["id"])

    def attack(name, call):
        forget_peak(service.pid)
        begun = time.monotonic()
        answers = call()
        note(answers)
        honest = [attacker.json("/v1/pipelines/plain/runs", {})]
        note(honest)
        statuses = collections.Counter(status for status, _ in answers)
        largest = max((len(body) for _, body in answers), default=0)
        rows.append([name, " ".join(f"{status} x{count}" for status, count in sorted(statuses.items())), largest // 1000, time.monotonic() - begun, memory(service.pid, "VmHWM") // MB, honest[0][0]])

    try:
        idle = memory(service.pid, "VmRSS")
        _, body = attacker.json("/v1/pipelines/slow/runs", {})
        slow = json.loads(body)["id"]
        accepted.add(slow)
        big = attacker.form("/v1/pipelines/honest/runs", [("file", '; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\n' + "x" * 20_000_000 + "\r\n")])
        note([big])
        artifact = json.loads(big[1])["params"]["file"]["artifact_id"]
        s3 = until("the embedded store's address", lambda: s3_address(service))
        attack("a form of 700,000 empty parts", attacker.empty_parts)
        attack("50,000 unknown params", attacker.unknown_params)
        attack("3,000 files for a list", attacker.many_files)
        attack("patterns over long lists", attacker.patterns)
        attack("700 new queues", attacker.queues)
        attack("2,000 wrong keys", attacker.wrong_keys)
        attack("2,000 refused requests of S3", lambda: attacker.refused_s3(s3))
        attack("50 uploads of 50 MB side by side", attacker.parallel_uploads)
        attack("64 senders that drip", attacker.dripping_senders)
        attack("300 readers that never read", lambda: attacker.readers_that_never_read(artifact))
        attack("300 watchers of one run", lambda: attacker.watchers(slow))
        attack("1,100 idle connections", attacker.idle_connections)
        table(["attack", "answers", "largest kB", "s", "peak MB", "honest"], rows)
        # The attackers stay connected: the service has to get rid of them by itself.
        end = time.monotonic() + 60
        done = lambda: all(service.call("GET", f"/v1/runs/{run}")[1].get("status") in ("succeeded", "failed", "cancelled") for run in accepted)
        finished = until("the accepted runs", done, 90)
        time.sleep(max(0, end - time.monotonic() - 10))
        before, begun = cpu(service.pid), time.monotonic()
        time.sleep(10)
        share = (cpu(service.pid) - before) / (time.monotonic() - begun)
        failed = [run for run in accepted if service.call("GET", f"/v1/runs/{run}")[1]["status"] != "succeeded"]
        table(
            ["a minute later", "found", "goal"],
            [
                ["memory, MB (idle before: %d)" % (idle // MB), memory(service.pid, "VmRSS") / MB, "80"],
                ["CPU, % of a core", share * 100, "1"],
                ["accepted runs that have ended", f"{len(accepted) if finished else '?'} of {len(accepted)}", "all"],
                ["of these failed", len(failed), "0"],
            ],
        )
        attacker.let_go()
    finally:
        service.stop()


def s3_address(service):
    """Where the embedded store listens, as the log says."""
    found = re.search(r'"s3":"http://([^"]+)"', (service.folder / "log").read_text())
    return found and found[1]


if __name__ == "__main__":
    main()
