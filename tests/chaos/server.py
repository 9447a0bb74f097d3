"""One instance of the fleet under chaos: a small HTTP/1.1 server in a process of its own.

    python server.py PORT LOG

Each line on its standard input is a JSON object that says how it behaves from now on (`Behaviour`). The ids of POSTs
that reached it whole are appended to LOG, so that duplicates are seen even if it is killed. It prints a line when it
listens.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any


@dataclass
class Behaviour:
    """
    delay:     seconds before an answer
    errors:    share of the answers that are 503
    reset:     RST in the middle of the body
    drip:      seconds over which the body is sent
    listening: else connections are refused, and those there are reset
    draining:  answers say "Connection: close", and nobody new is let in
    """

    delay: float = 0.0
    errors: float = 0.0
    reset: bool = False
    drip: float = 0.0
    listening: bool = True
    draining: bool = False


class Server:
    def __init__(self, port: int, log: str) -> None:
        self.port = port
        self.behaviour = Behaviour()
        self.connections: set[asyncio.Transport] = set()
        self.busy = 0
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.listener: asyncio.Server | None = None

    async def listen(self) -> None:
        self.listener = await asyncio.get_running_loop().create_server(
            lambda: Connection(self), "127.0.0.1", self.port, reuse_address=True, backlog=1024
        )

    async def apply(self, orders: dict[str, Any]) -> None:
        self.behaviour = Behaviour(**orders)
        closed = not self.behaviour.listening or self.behaviour.draining
        if closed and self.listener is not None:
            self.listener.close()
            self.listener = None
            if not self.behaviour.listening:
                for transport in tuple(self.connections):
                    transport.abort()
        if not closed and self.listener is None:
            await self.listen()
        if self.behaviour.draining:
            for _ in range(100):
                if not self.busy:
                    break
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)  # who is idle may still have sent something
            while self.busy:
                await asyncio.sleep(0.02)
            sys.exit(0)


class Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self.server = server
        self.received = b""
        self.task: asyncio.Task[None] | None = None
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.server.connections.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.server.connections.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.task is None:
            self.next()

    def next(self) -> None:
        """Begin with the next request, if it is there whole."""
        self.task = None
        head, found, rest = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.split(b"\r\n")
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(b":") for line in lines[1:])}
        length = int(headers.get(b"content-length", b"0"))
        if b"chunked" in headers.get(b"transfer-encoding", b""):  # sidecars may send it so: one chunk is all we send
            _, found, after = rest.partition(b"0\r\n\r\n")
            if not found:
                return
            self.received = after
        else:
            if len(rest) < length:
                return
            self.received = rest[length:]
        method, target, _ = lines[0].split(b" ")
        if method == b"POST":
            os.write(self.server.log, headers.get(b"x-id", b"?") + b"\n")
        self.server.busy += 1
        self.task = asyncio.ensure_future(self.answer(target, headers))
        self.task.add_done_callback(self.answered)

    def answered(self, task: asyncio.Task[None]) -> None:
        self.server.busy -= 1
        if task.exception() is None and not self.transport.is_closing():
            self.next()

    async def answer(self, target: bytes, headers: dict[bytes, bytes]) -> None:
        behaviour = self.server.behaviour
        usual = 0.0 if target == b"/healthz" else random.expovariate(1 / 0.004)
        await asyncio.sleep(behaviour.delay or usual)
        failing = random.random() < behaviour.errors
        close = behaviour.draining or self.server.behaviour.draining
        body = b"x" * 100
        self.transport.write(
            (b"HTTP/1.1 503 Service Unavailable\r\n" if failing else b"HTTP/1.1 200 OK\r\n")
            + b"Content-Length: 100\r\n"
            + (b"Connection: close\r\n" if close else b"")
            + b"\r\n"
        )
        if behaviour.reset:
            self.transport.write(body[:50])
            await asyncio.sleep(0.005)
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
            return
        if behaviour.drip:
            for at in range(0, 100, 10):
                await asyncio.sleep(behaviour.drip / 10)
                self.transport.write(body[at : at + 10])
        else:
            self.transport.write(body)
        if close:
            self.transport.close()


async def main() -> None:
    server = Server(int(sys.argv[1]), sys.argv[2])
    await server.listen()
    print("listening", flush=True)
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        await server.apply(json.loads(line))


if __name__ == "__main__":
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # clients go away in the middle: that is all right
    asyncio.run(main())
