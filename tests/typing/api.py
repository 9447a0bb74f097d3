"""Compiled, never run: what users write must type-check under `mypy --strict`, and what is wrong must not."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import httpx
import httpx2
import tenacity

import smartclient.httpx2
from smartclient import (
    AsyncClient,
    Balancer,
    Client,
    Consul,
    Discovery,
    Event,
    Instance,
    Node,
    Picker,
    Policy,
    PollingDiscovery,
    Retry,
    call,
    report,
)


@dataclass(frozen=True)
class First(Balancer):
    def picker(self, nodes: Sequence[Node], rng: Random) -> Picker:
        return lambda call: nodes[0]


class Mine(Discovery):
    def watch(self, service: str, stop: threading.Event) -> Iterator[list[str]]:
        yield ["10.0.0.1:80"]


class Polled(PollingDiscovery):
    def resolve(self, service: str) -> tuple[list[Instance], float]:
        return [Instance("10.0.0.1", 80)], 5.0


def observe(event: Event) -> None: ...


def lookup(service: str) -> list[str]:
    return []


policy = Policy(balancer="round_robin", retry=Retry(wait=tenacity.wait_fixed(1), stop=tenacity.stop_after_delay(3)))
client = Client({"orders": ["10.0.0.1:80"]}, policy=policy, timeout=3, headers={"a": "b"}, observers=[observe])
Client({"orders": [Instance("10.0.0.1", 80), "10.0.0.2:80"]}, policies={"orders": Policy(balancer=First())})
Client(Mine(), connect=lambda instance: httpx.HTTPTransport(uds=instance.host))
Client(Polled(), follow_redirects=True)
Client(lookup, limits=httpx.Limits(max_connections=3))
Client(Consul("127.0.0.1:8500", tag=["a"]))
Client("consul://127.0.0.1:8500", base_url="http://orders")
plain: httpx.Client = client
response: httpx.Response = client.get("http://orders/", extensions=call(deadline=1.0))
story = report(response)
if story is not None:
    print(story.attempts[0].instance.host)
Policy(balancer="adaptve")  # type: ignore[arg-type]
Policy("p2c", Retry())  # type: ignore[call-arg]
Client(nonsense=1)  # type: ignore[call-arg]
Client(timeout="soon")  # type: ignore[arg-type]

other: httpx2.Client = smartclient.httpx2.Client({"orders": ["10.0.0.1:80"]}, timeout=3)
second: httpx2.Response = other.get("http://orders/")


async def main() -> None:
    async with AsyncClient({"orders": ["10.0.0.1:80"]}, transport=httpx.AsyncHTTPTransport()) as client:
        response: httpx.Response = await client.get("http://orders/")
        print(response.status_code)
