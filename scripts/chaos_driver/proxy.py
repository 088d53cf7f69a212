"""The fault proxy between workers and database: a process, a listener for each worker.

A link is in one of the modes of `MODES`. Bytes that a hole holds back are delivered when
it ends, as TCP would after a real partition, or dropped with their connection. The driver
sends commands on standard input and reads answers on standard output, both JSON lines.
"""

import asyncio
import json
import random
import socket
import struct
import sys

from .wire import Frames, Watcher

MODES = ("pass", "cut", "black_hole", "hole_up", "hole_down", "delay", "lose_reply", "lose_request")
# Which directions a mode holds back.
HELD = {"black_hole": ("up", "down"), "hole_up": ("up",), "hole_down": ("down",)}
CHUNK = 1 << 16


def reset(writer):
    """Ends a connection by RST, as a machine does that has forgotten it."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
    writer.transport.abort()


class Connection:
    """One connection of a worker, with its other half to the database."""

    def __init__(self, link, client, server):
        self.link, self.client, self.server = link, client, server
        self.watcher, self.answers = Watcher(), Frames()
        # Once a reply is to be lost, nothing of the server reaches the client any more.
        self.losing = False

    def cut(self):
        reset(self.client[1])
        reset(self.server[1])

    async def run(self):
        up = asyncio.ensure_future(self._pump("up", self.client[0], self.server[1]))
        down = asyncio.ensure_future(self._pump("down", self.server[0], self.client[1]))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
            down.cancel()
            for _, writer in (self.client, self.server):
                writer.close()

    async def _pump(self, direction, reader, writer):
        link = self.link
        try:
            while data := await reader.read(CHUNK):
                if link.mode == "delay":
                    await asyncio.sleep(max(0.0, link.random.gauss(link.delay, link.delay / 4)))
                await link.passable(direction)
                if direction == "down" and self.losing:
                    if any(kind == b"Z" for kind, _, _ in self.answers.feed(data)):
                        return self.cut()
                    continue
                if direction == "up" and await self._commit_lost(data, writer):
                    continue
                writer.write(data)
                await writer.drain()
            # Nor does the end of a connection get through a hole.
            await link.passable(direction)
        except (ConnectionError, OSError):
            pass

    async def _commit_lost(self, data, writer):
        """Whether a commit in these bytes is the one to lose; sends what still goes."""
        link = self.link
        frames = list(self.watcher.feed(data))
        if link.mode not in ("lose_reply", "lose_request") or self.losing:
            return False
        if not any(commits for _, commits in frames):
            return False
        request = link.mode == "lose_request"
        link.hits += 1
        link.set_mode("pass")
        if request:
            self.cut()
        else:
            self.losing = True
            writer.write(data)
            await writer.drain()
        return True


class Link:
    """The listener of one worker."""

    def __init__(self, number, database_port):
        self.number, self.database_port = number, database_port
        self.mode, self.delay, self.hits = "pass", 0.2, 0
        self.connections = set()
        self.changed = asyncio.Event()
        self.random = random.Random(number)

    async def listen(self):
        self.server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    def set_mode(self, mode):
        self.mode = mode
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def passable(self, *directions):
        """Waits until nothing holds back what goes in these directions."""
        while any(direction in HELD.get(self.mode, ()) for direction in directions):
            await self.changed.wait()

    async def _accepted(self, reader, writer):
        # Nobody answers: the client sees neither a refusal nor a greeting.
        await self.passable("up", "down")
        if self.mode == "cut":
            return reset(writer)
        try:
            server = await asyncio.open_connection("127.0.0.1", self.database_port)
        except OSError:
            return reset(writer)
        for half in (writer, server[1]):
            sock = half.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(self, (reader, writer), server)
        self.connections.add(connection)
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)

    def command(self, order):
        """Carries out an order; says how many connections it met."""
        met = len(self.connections)
        mode = order.get("mode")
        if mode is not None:
            self.delay = order.get("delay", 0.2)
            if mode == "cut" or order.get("drop"):
                for connection in list(self.connections):
                    connection.cut()
            if mode in ("lose_reply", "lose_request"):
                self.hits = 0
            self.set_mode(mode)
        return {"connections": met, "hits": self.hits, "mode": self.mode}


async def serve(database_port, count):
    links = [Link(number, database_port) for number in range(count)]
    print(json.dumps({"ports": [await link.listen() for link in links]}), flush=True)
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    # The end of the input is the end of the driver.
    while line := await orders.readline():
        order = json.loads(line)
        print(json.dumps(links[order["link"]].command(order)), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
