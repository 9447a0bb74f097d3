"""Some clients of `sockets.py`, in one process: they play their part of the schedule, or call in a closed loop.

    python socket_load.py ORDERS.json

Prints "ready", reads from its standard input when the scenario begins (monotonic), prints what became of each call.
Latency counts from the moment a call was meant to begin (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import httpx

import smartclient
from smartclient.testing.scenario import Scenario

TIMEOUT = 60.0


def balanced(orders: dict[str, Any], scenario: Scenario, began: list[float]) -> smartclient.AsyncClient:
    def resolve(service: str) -> list[smartclient.Instance]:
        now = time.monotonic() - began[0] if began else 0.0
        there = zip(orders["ports"], scenario.servers, strict=True)
        return [smartclient.Instance("127.0.0.1", port, weight=server.weight)
                for port, server in there if server.joins <= now < server.leaves]  # fmt: skip

    policy = smartclient.Policy(orders["contender"])
    source = smartclient.Function(resolve, interval=0.1)
    return smartclient.AsyncClient(source, timeout=TIMEOUT, policy=policy, trust_env=False)


def client_of(orders: dict[str, Any], number: int, scenario: Scenario, began: list[float]) -> tuple[Any, str]:
    """A client of its own, or one of its own sidecar's; and where it calls."""
    sidecar = orders["sidecars"].get(str(number))
    if sidecar is None:
        return balanced(orders, scenario, began), "http://orders/"
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(timeout=TIMEOUT, limits=limits, trust_env=False), f"http://127.0.0.1:{sidecar}/"


class Load:
    """The clients of this process, and what became of their calls: [route, due, took, status, server]."""

    def __init__(self, orders: dict[str, Any]) -> None:
        self.orders = orders
        self.scenario = Scenario.read(orders["scenario"])
        self.results: list[list[Any]] = []
        self._began: list[float] = []
        self._clients: dict[int, tuple[Any, str]] = {}

    async def run(self) -> None:
        for number in self.orders["clients"]:
            self._clients[number] = client_of(self.orders, number, self.scenario, self._began)
        for client, url in self._clients.values():  # the list is there, and so is the first connection
            await client.get(url)
        print("ready", flush=True)
        self._began.append(float(await asyncio.to_thread(sys.stdin.readline)))
        await (self._open() if self.scenario.at_once is None else self._closed(self.scenario.at_once))
        for client, _ in self._clients.values():
            await client.aclose()

    async def _open(self) -> None:
        tasks = []
        for due, number, route, work in self.orders["schedule"]:
            await asyncio.sleep(max(0.0, self._began[0] + due - time.monotonic()))
            tasks.append(asyncio.ensure_future(self._call(number, route, work, due)))
        await asyncio.gather(*tasks)

    async def _closed(self, at_once: int) -> None:
        rng, left = Random(self.scenario.seed), itertools.count()

        async def again(number: int) -> None:
            while next(left) < self.scenario.calls:
                now = time.monotonic() - self._began[0]
                await self._call(number, self.scenario.routes[0].name, rng.expovariate(1.0), now)

        await asyncio.gather(*(again(number) for number in self._clients for _ in range(at_once)))

    async def _call(self, number: int, route: str, work: float, due: float) -> None:
        client, url = self._clients[number]
        try:
            response = await client.get(url, headers={"x-work": repr(work), "x-route": route})
            status, server = response.status_code, int(response.headers.get("x-server", -1))
        except httpx.HTTPError:
            status, server = 0, -1
        took = time.monotonic() - self._began[0] - due
        self.results.append([route, due, took, status, server])


def main() -> None:
    load = Load(json.loads(Path(sys.argv[1]).read_text()))
    asyncio.run(load.run())
    print(json.dumps(load.results), flush=True)


if __name__ == "__main__":
    main()
