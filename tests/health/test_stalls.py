"""What this process could not attend to says nothing of the nodes."""

from __future__ import annotations

import gc
import time
import weakref
from typing import Any

import anyio
import pytest
from inside import balanced_of, service_of, services_of
from worlds import World

from smartclient import AsyncClient, Outcome, OutlierDetection, Policy
from smartclient.testing import Behaviour

URL = "http://orders/"


def test_timeouts_of_a_stall_are_nobodys() -> None:
    world = World(3, balancer="round_robin", outlier=OutlierDetection(consecutive_local_origin_failure=2))
    for _ in range(30):
        attempt = world.start()
        world.clock.advance(2.0)
        world.service.stalls.late(1.9)
        attempt.judge(Outcome.FAILURE, None)
        attempt.finish()
    assert not any(node.health.local_failures for node in world.service.nodes)
    for _ in range(30):  # a stall long ago excuses nothing
        attempt = world.start()
        attempt.judge(Outcome.FAILURE if attempt.node.instance.port == 1 else Outcome.SUCCESS, None)
        attempt.finish()
    assert [node.instance.port for node in world.service.nodes if node.ejected_until] == [1]


def test_latencies_and_bodies_of_a_stall_are_nobodys() -> None:
    world = World(2, balancer="peak_ewma")
    attempt = world.start()
    world.clock.advance(3.0)
    world.service.stalls.late(2.9)
    attempt.judge(Outcome.SUCCESS, 200)
    attempt.fail_in_body("ReadTimeout")
    attempt.finish()
    assert attempt.node.memory.seen_at is None
    assert attempt.node.memory.penalty == 0.0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_blocked_loop_ejects_nobody(fleet: Any, backend: str) -> None:
    servers = fleet(3, Behaviour(delay=0.3))
    policy = Policy(attempt_timeout=0.5, retry=None, outlier=OutlierDetection(consecutive_local_origin_failure=1))
    failures: list[str] = []

    async def main(stall: float) -> tuple[int, float]:
        async with AsyncClient({"orders": servers.addresses}, policy=policy) as client:

            async def one() -> None:
                try:
                    await client.get(URL)
                except Exception as error:
                    failures.append(type(error).__name__)

            for _ in range(6):  # what costs time once
                await client.get(URL)
            async with anyio.create_task_group() as group:
                for _ in range(12):
                    group.start_soon(one)
                await anyio.sleep(0.05)
                time.sleep(stall)  # noqa: ASYNC251  (somebody's blocking call)
            transport: Any = balanced_of(client)
            nodes = service_of(transport).nodes
            return sum(node.ejected_until is not None for node in nodes), services_of(transport).stalls.total

    ejected, stalled = anyio.run(main, 1.5, backend=backend)
    assert stalled > 1.0
    assert ejected == 0
    assert anyio.run(main, 0.0, backend=backend)[0] == 0


def test_the_timer_keeps_nothing_alive(fleet: Any) -> None:
    servers = fleet(1, Behaviour(body=b"x" * 100))

    async def main() -> None:
        client = AsyncClient({"orders": servers.addresses})
        transport = weakref.ref(balanced_of(client))
        response = await client.send(client.build_request("GET", URL), stream=True)
        del response, client
        for _ in range(40):
            gc.collect()
            if transport() is None:
                break
            await anyio.sleep(0.05)
        assert transport() is None

    anyio.run(main)
