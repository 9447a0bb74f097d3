"""The fleet of `sockets.py`: the simulator's servers behind real sockets, all in one process.

    python socket_fleet.py SCENARIO.json

Prints its ports as JSON. Each line on its standard input is the moment (monotonic) at which the scenario's clock is 0.
A request says its work in `x-work` and its route in `x-route`; an answer says its server in `x-server`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from random import Random
from typing import Any

from smartclient.testing.scenario import Route, Scenario
from smartclient.testing.simulated import SimulatedServer, Ticket

BODY = b"x" * 100
NEVER = 1e9


class Clock:
    """The scenario's time, on a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.began = NEVER

    def now(self) -> float:
        return max(time.monotonic() - self.began, 0.0)

    def plan(self, at: float, act: Callable[..., Any], what: Any = None) -> None:
        self._loop.call_later(max(at - self.now(), 0.0), lambda: act(what, max(self.now(), at)))


class Connection(asyncio.Protocol):
    """Requests without bodies, one after the other."""

    def __init__(self, server: SimulatedServer, clock: Clock, routes: dict[str, Route]) -> None:
        self._server, self._clock, self._routes = server, clock, routes
        self._transport: Any = None
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if not self._server.listed(self._clock.now()):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            self._asked(head)

    def _asked(self, head: bytes) -> None:
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if b"x-work" not in fields:  # a health check
            self._answer(200)
            return
        route, now = self._routes[fields[b"x-route"].decode()], self._clock.now()
        trouble, way = self._server.trouble(now), self._server.half_way
        if trouble is not None:
            self._clock.plan(now + 2 * way + trouble.fail_after, lambda _, at: self._answer(trouble.status))
            return

        def answer(status: int) -> None:
            if way:
                self._clock.plan(self._clock.now() + way, lambda _, at: self._answer(status, route.streamed))
            else:
                self._answer(status, route.streamed)

        ticket = Ticket(route, float(fields[b"x-work"]) * route.cost, answer)
        if way:
            self._clock.plan(now + way, self._server.take, ticket)
        else:
            self._server.take(ticket, now)

    def _answer(self, status: int, streamed: bool = False) -> None:
        """The status; of a stream its headers (0), then its body."""
        if self._transport.is_closing():
            return
        if streamed and status:
            self._transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
            return
        length = b"transfer-encoding: chunked" if streamed else b"content-length: %d" % len(BODY)
        head = b"HTTP/1.1 %d X\r\nx-server: %d\r\n%b\r\n\r\n" % (status or 200, self._server.number, length)
        self._transport.write(head if streamed else head + BODY)


async def main() -> None:
    loop = asyncio.get_running_loop()
    scenario, clock = Scenario.read(json.loads(sys.argv[1])), Clock(loop)
    routes = {route.name: route for route in scenario.routes}
    ports, listeners = [], []
    for number, settings in enumerate(scenario.servers):
        server = SimulatedServer(number, settings, scenario.events, clock.plan, Random(number))

        def accepted(server: SimulatedServer = server) -> Connection:
            return Connection(server, clock, routes)

        listeners.append(await loop.create_server(accepted, "127.0.0.1", 0, backlog=1024))
        ports.append(listeners[-1].sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        clock.began = float(line)


if __name__ == "__main__":
    asyncio.run(main())
