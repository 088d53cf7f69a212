#!/usr/bin/env python3
"""Measures what the HTTP API promises, on a real server: streams that miss nothing while the
server is killed and restarted, many submissions at once that all survive its death, and how
long a large project takes to be accepted.

    scripts/http_api.py PROGRAM [--clients 50] [--kills 20] [--submissions 10000]
"""

import argparse
import asyncio
import collections
import datetime
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ARGUMENTS = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
ARGUMENTS.add_argument("program")
ARGUMENTS.add_argument("--clients", type=int, default=50)
ARGUMENTS.add_argument("--kills", type=int, default=20)
ARGUMENTS.add_argument("--submissions", type=int, default=10_000)
ARGUMENTS.add_argument("--connections", type=int, default=200)
ARGUMENTS.add_argument("--streams", type=int, default=500)
ARGUMENTS.add_argument("--stored", type=int, default=1_000_000, help="0: no latencies")


def figure(line, what, measured):
    print(f"FIGURE API {line} | {what} | {measured}", flush=True)


class Server:
    """The server under test, on one database and one port for its whole life."""

    def __init__(self, program, folder, database=None, more=()):
        self.program, self.port, self.more = program, 0, more
        self.database = database or f"sqlite:{folder}/http.db"
        self.process = None

    def start(self):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DANDORI")}
        environment.pop("DATABASE_URL", None)
        self.process = subprocess.Popen(
            [self.program, "serve", "--listen", f"127.0.0.1:{self.port}",
             "--database-url", self.database, *self.more],
            stderr=subprocess.PIPE, text=True, env=environment)
        for line in self.process.stderr:
            if "listening on" in line:
                self.port = int(line.rsplit(":", 1)[1])
                return
        raise SystemExit("the server does not start")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stderr.close()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()


async def ask(connection, method, path, body=b"", headers=()):
    """One request on a connection that is kept: status, headers and body."""
    reader, writer = connection
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    writer.write("\r\n".join([*head, *headers, "", ""]).encode() + body)
    await writer.drain()
    status = int((await reader.readline()).split()[1])
    answered = {}
    while (line := (await reader.readline()).strip()) != b"":
        name, value = line.decode().split(":", 1)
        answered[name.lower()] = value.strip()
    if "content-length" in answered:
        return status, answered, await reader.readexactly(int(answered["content-length"]))
    text = b""
    while answered.get("transfer-encoding") == "chunked":
        size = int((await reader.readline()).strip(), 16)
        text += await reader.readexactly(size)
        await reader.readline()
        if size == 0:
            break
    return status, answered, text


async def submit(connection, document):
    return await ask(connection, "POST", "/api/v1/projects", json.dumps(document).encode(),
                     ["Content-Type: application/json"])


async def large(server):
    tasks = {
        f"t{n}": {"kind": "noop", "with": {"output": n}, "needs": [f"t{n - 1}"] if n % 10 else []}
        for n in range(10_000)
    }
    times = []
    for _ in range(7):
        connection = await asyncio.open_connection("127.0.0.1", server.port)
        began = time.monotonic()
        status, _, body = await submit(connection, {"name": "large", "tasks": tasks})
        times.append((time.monotonic() - began) * 1000)
        assert status == 202, (status, body)
        project = json.loads(body)["id"]
        await ask(connection, "GET", f"/api/v1/projects/{project}/wait?timeout=60s")
        connection[1].close()
    figure(7, "10,000 tasks in one document, answered in ms (at most 300)",
           f"{statistics.median(times):.0f} ({min(times):.0f}–{max(times):.0f})")


async def follow(server, project, seen):
    """Follows one project over any number of interruptions."""
    last = None
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            head = ["GET /api/v1/projects/%s/events HTTP/1.1" % project, "Host: localhost",
                    "Accept: text/event-stream"]
            if last is not None:
                head.append(f"Last-Event-ID: {last}")
            writer.write("\r\n".join([*head, "", ""]).encode())
            event = {}
            while (line := await reader.readline()) != b"":
                line = line.decode().rstrip("\r\n")
                if line.startswith("id:"):
                    event["id"] = int(line[3:])
                elif line.startswith("event:"):
                    event["type"] = line[6:].strip()
                elif line.startswith("data:"):
                    if "id" in event:
                        last = event["id"]
                        seen.append(last)
                    if event.get("type") == "done":
                        writer.close()
                        return
                    assert event.get("type") != "reset", "the history began anew"
                    event = {}
            writer.close()
        except (ConnectionError, OSError, asyncio.IncompleteReadError):
            pass
        await asyncio.sleep(0.05)


async def streams(server, clients, kills):
    tasks = {
        f"t{n}": {"kind": "sleep", "with": {"for": "400ms"}, "needs": [f"t{n - 1}"] if n else []}
        for n in range(kills * 3)
    }
    connection = await asyncio.open_connection("127.0.0.1", server.port)
    projects = []
    for _ in range(clients):
        status, _, body = await submit(connection, {"name": "followed", "tasks": tasks})
        assert status == 202, (status, body)
        projects.append(json.loads(body)["id"])
    connection[1].close()
    seen = [[] for _ in projects]
    followers = [
        asyncio.create_task(follow(server, project, events))
        for project, events in zip(projects, seen)
    ]
    for _ in range(kills):
        await asyncio.sleep(0.8)
        server.kill()
        server.start()
    await asyncio.wait_for(asyncio.gather(*followers), 300)
    connection = await asyncio.open_connection("127.0.0.1", server.port)
    events = 0
    for project, numbers in zip(projects, seen):
        _, _, body = await ask(connection, "GET", f"/api/v1/projects/{project}/events?after=0")
        assert numbers == list(range(1, len(numbers) + 1)), f"{project}: {numbers}"
        assert json.loads(body)["events"][0]["seq"] == 1
        events += len(numbers)
    connection[1].close()
    figure(3, f"{kills} kills while {clients} clients follow {clients} projects: events, each "
           "seen once and in order", events)


async def timed(server, project, late):
    """Follows one project, and notes how late each of its events is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 20)
    head = [f"GET /api/v1/projects/{project}/events HTTP/1.1", "Host: localhost",
            "Accept: text/event-stream", "", ""]
    writer.write("\r\n".join(head).encode())
    done, opened = False, time.time()
    while not done:
        line = (await reader.readline()).decode()
        now = time.time()
        if line.startswith("event: done"):
            done = True
        if line.startswith("data: {\"seq\""):
            event = json.loads(line[6:])
            if event["type"] in ("step.succeeded", "step.waiting"):
                at = datetime.datetime.fromisoformat(event["at"]).timestamp()
                # What had happened before the stream began was not late.
                if at > opened + 0.5:
                    late.append((now - at) * 1000)
    writer.close()


async def latency(submitter, server, clients, what):
    """So many clients follow as many projects, whose steps end at different times."""
    connection = await asyncio.open_connection("127.0.0.1", submitter.port)
    projects = []
    for n in range(clients):
        naps = {
            f"s{k}": {"kind": "sleep", "with": {"for": f"{900 + (n * 37 + k * 113) % 1100}ms"},
                      "needs": [f"s{k - 1}"] if k else []}
            for k in range(6)
        }
        status, _, body = await submit(connection, {"name": "timed", "tasks": naps})
        assert status == 202, (status, body)
        projects.append(json.loads(body)["id"])
    connection[1].close()
    late = []
    await asyncio.wait_for(
        asyncio.gather(*(timed(server, project, late) for project in projects)), 120)
    late.sort()
    memory = 0
    for line in pathlib.Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            memory = int(line.split()[1]) // 1024
    figure(5, f"{clients} streams {what}: an event after it happened, p50 and p99 in ms",
           f"{late[len(late) // 2]:.0f}, {late[int(len(late) * 0.99)]:.0f}")
    return memory


async def many_steps(server, steps):
    """Fills the database with steps that have ended."""
    tasks = {f"t{n}": {"kind": "noop"} for n in range(10_000)}
    connection = await asyncio.open_connection("127.0.0.1", server.port)
    for _ in range(steps // 10_000):
        _, _, body = await submit(connection, {"name": "filler", "tasks": tasks})
        project = json.loads(body)["id"]
        await ask(connection, "GET", f"/api/v1/projects/{project}/wait?timeout=60s")
    connection[1].close()


class Watch:
    """Looks at the heart of a server and at `/healthz` while it is flooded."""

    AGE = ("select max(lease - (until - (extract(epoch from clock_timestamp()) * 1000000)"
           "::bigint)), min(beat) from sessions where state = 'live'")

    def __init__(self, server, cluster):
        self.server, self.cluster = server, cluster
        self.oldest, self.beats, self.slowest, self.seconds = 0, [], 0, 0

    async def run(self):
        connection = await asyncio.open_connection("127.0.0.1", self.server.port)
        began = time.monotonic()
        try:
            while True:
                asked = time.monotonic()
                status, _, _ = await ask(connection, "GET", "/healthz")
                assert status == 200
                self.slowest = max(self.slowest, (time.monotonic() - asked) * 1000)
                [[age, beat]] = await asyncio.to_thread(self.cluster.sql, self.AGE)
                self.oldest = max(self.oldest, int(age) / 1000)
                self.beats.append(int(beat))
                await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            self.seconds = time.monotonic() - began
            connection[1].close()

    def tell(self):
        figure(4, "meanwhile: beats, in how many seconds; the longest time between two, ms",
               f"{self.beats[-1] - self.beats[0]}, {self.seconds:.0f}; {self.oldest:.0f}")
        figure(4, "the slowest answer of /healthz, ms (at most 50)", f"{self.slowest:.0f}")


async def flood(server, submissions, connections, watch=None):
    document = {"name": "flood", "tasks": {"a": {"kind": "noop"}}}
    statuses, times, accepted = collections.Counter(), [], []
    left = iter(range(submissions))

    async def client():
        connection = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in left:
            began = time.monotonic()
            status, headers, body = await submit(connection, document)
            statuses[status] += 1
            if status == 202:
                times.append((time.monotonic() - began) * 1000)
                accepted.append(json.loads(body)["id"])
            elif status in (429, 503):
                assert "retry-after" in headers
        connection[1].close()

    began = time.monotonic()
    watching = asyncio.create_task(watch.run()) if watch else None
    await asyncio.gather(*(client() for _ in range(connections)))
    took = time.monotonic() - began
    if watching:
        watching.cancel()
        await watching
        watch.tell()
    server.kill()
    server.start()
    assert set(statuses) <= {202, 409, 413, 422, 429, 503}, statuses
    connection = await asyncio.open_connection("127.0.0.1", server.port)
    lost = 0
    for project in accepted:
        status, _, _ = await ask(connection, "GET", f"/api/v1/projects/{project}")
        while status == 429:
            await asyncio.sleep(0.2)
            status, _, _ = await ask(connection, "GET", f"/api/v1/projects/{project}")
        lost += status != 200
    connection[1].close()
    times.sort()
    p99 = times[int(len(times) * 0.99) - 1]
    figure(4, f"{submissions} submissions over {connections} connections: answers",
           ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items())))
    figure(4, "p50 and p99 of the accepted, ms (at most 500), and how many a second",
           f"{times[len(times) // 2]:.0f}, {p99:.0f}, {submissions / took:.0f}")
    figure(4, "accepted and lost by an immediate SIGKILL", f"{len(accepted)}, {lost}")
    assert lost == 0


def main():
    arguments = ARGUMENTS.parse_args()
    program = str(pathlib.Path(arguments.program).resolve())
    with tempfile.TemporaryDirectory(prefix="dandori-http-") as folder:
        server = Server(program, folder)
        server.start()
        try:
            asyncio.run(large(server))
            asyncio.run(streams(server, arguments.clients, arguments.kills))
            asyncio.run(flood(server, arguments.submissions, arguments.connections))
            if arguments.stored:
                asyncio.run(many_steps(server, arguments.stored))
                server.stop()
                server.start()
                memory = asyncio.run(latency(server, server, arguments.streams, "of one server"))
                figure(5, f"resident memory with {arguments.stored} stored steps, MB", memory)
        finally:
            server.stop()
        shared(program, folder, arguments)
    return 0


def shared(program, folder, arguments):
    """The same on PostgreSQL: one server executes, and another one is asked."""
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    from chaos_driver.cluster import DATABASE, Cluster

    cluster = Cluster(folder)
    servers = []
    try:
        cluster.start()
        cluster.wait_until_ready()
        cluster.create_database(DATABASE)
        for more in ([], ["--no-worker"]):
            servers.append(Server(program, folder, cluster.url(), more))
            servers[-1].start()
        if arguments.stored:
            asyncio.run(many_steps(servers[0], arguments.stored))
            cluster.sql("vacuum analyze", seconds=300)
            what = "of another server"
            memory = asyncio.run(latency(*servers, arguments.streams, what))
            figure(5, "its resident memory, MB", memory)
        watch = Watch(servers[0], cluster)
        asyncio.run(flood(servers[0], arguments.submissions, arguments.connections, watch))
    finally:
        for server in servers:
            server.stop()
        cluster.remove()


if __name__ == "__main__":
    sys.exit(main())
