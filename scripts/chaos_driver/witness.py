"""The outside witness: a service that the steps call, and its log of what really ran.

A process of its own. `GET /step?ms=120[&fail=2]` waits so long and answers 200, or 503 for
the first `fail` executions of a key. Each start and each end is a line of the log, on disk
before the wait begins or the answer goes out, so that a crash of anything else loses
nothing. Lines are JSON; `t` is wall time in microseconds, taken when the request was read.
"""

import asyncio
import json
import os
import sys
import time
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit


class Log:
    """An append log whose lines are synced in groups."""

    def __init__(self, path):
        self.file = open(path, "ab", buffering=0)
        self.lines, self.waiting = [], []
        self.wanted = asyncio.Event()

    async def write(self, line):
        """Returns when the line is on disk."""
        done = asyncio.get_running_loop().create_future()
        self.lines.append(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        self.waiting.append(done)
        self.wanted.set()
        await done

    def _append(self, data):
        self.file.write(data)
        os.fdatasync(self.file.fileno())

    async def sync(self):
        loop = asyncio.get_running_loop()
        while True:
            await self.wanted.wait()
            self.wanted.clear()
            lines, self.lines = self.lines, []
            waiting, self.waiting = self.waiting, []
            await loop.run_in_executor(None, self._append, b"".join(lines))
            for done in waiting:
                if not done.done():
                    done.set_result(None)


class Service:
    """What is remembered between requests."""

    def __init__(self, log):
        self.log = log
        self.seen = {}
        self.executions = 0

    async def step(self, connection, query, headers, began):
        key = headers.get("idempotency-key", "")
        self.executions += 1
        number = self.executions
        self.seen[key] = seen = self.seen.get(key, 0) + 1
        await self.log.write({
            "e": "start", "n": number, "t": began, "key": key,
            "attempt": int(headers.get("x-dandori-attempt", "0")),
            "process": headers.get("x-process", ""), "session": headers.get("x-session", ""),
            "connection": connection.number,
        })
        milliseconds = float(query.get("ms", ["0"])[0])
        try:
            async with asyncio.timeout(milliseconds / 1000):
                await connection.lost.wait()
            await self.log.write({"e": "gone", "n": number, "t": now()})
            return None
        except TimeoutError:
            pass
        status = 503 if seen <= int(query.get("fail", ["0"])[0]) else 200
        await self.log.write({"e": "end", "n": number, "t": now(), "status": status})
        return status, {"key": key, "seen": seen, "execution": number}


def now():
    return time.time_ns() // 1000


class Connection(asyncio.Protocol):
    """A client; its requests are answered one after the other."""

    numbers = 0

    def __init__(self, service):
        Connection.numbers += 1
        self.service, self.number = service, Connection.numbers
        self.lost = asyncio.Event()
        self.data, self.work = b"", None

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, error):
        self.lost.set()

    def data_received(self, data):
        self.data += data
        self._next()

    def _next(self):
        head, separator, rest = self.data.partition(b"\r\n\r\n")
        if self.work is not None or not separator:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length") or 0)
        if len(rest) < length:
            return
        self.data = rest[length:]
        self.work = asyncio.ensure_future(self._answer(lines[0], headers, now()))

    async def _answer(self, line, headers, began):
        url = urlsplit(line.split(" ")[1])
        if url.path == "/step":
            said = await self.service.step(self, parse_qs(url.query), headers, began)
        else:
            said = 404, {"error": "no such path"}
        if said is None or self.transport.is_closing():
            return
        status, value = said
        body = json.dumps(value).encode()
        close = headers.get("connection", "").lower() == "close"
        self.transport.write((
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: {'close' if close else 'keep-alive'}\r\n\r\n"
        ).encode() + body)
        if close:
            return self.transport.close()
        self.work = None
        self._next()


async def serve(path):
    log = Log(path)
    syncing = asyncio.ensure_future(log.sync())
    service = Service(log)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=1024)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    # The end of the input is the end of the driver.
    ends = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(ends), sys.stdin)
    await asyncio.wait(
        (syncing, asyncio.ensure_future(ends.read())), return_when=asyncio.FIRST_COMPLETED)
    if syncing.done():
        syncing.result()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
