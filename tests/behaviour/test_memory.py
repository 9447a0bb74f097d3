"""100,000 calls and 200 membership changes: memory flat, no container that grows."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import httpx
from inside import balanced_of, service_of

from smartclient import AsyncClient
from smartclient.testing import ScriptedDiscovery

CALLS, CHANGES = 100_000, 200


class Canned(httpx.AsyncBaseTransport):
    """Answers at once, a failure now and then: the calls are ours, the network nobody's."""

    def __init__(self) -> None:
        self.calls = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.calls += 1
        return httpx.Response(503 if self.calls % 50 == 0 else 200, stream=httpx.ByteStream(b"ok"))


def test_memory_is_flat() -> None:
    source = ScriptedDiscovery({"orders": _addresses(0)})

    async def main() -> None:
        async with AsyncClient(source, connect=lambda instance: canned, trust_env=False) as client:
            transport: Any = balanced_of(client)

            async def some(count: int, changes: int) -> None:
                for turn in range(changes):
                    source.publish("orders", _addresses(turn))
                    for _ in range(count // changes):
                        await client.get("http://orders/")

            await some(CALLS // 10, CHANGES // 10)
            before, sizes = _memory(), _sizes(transport)
            await some(CALLS - CALLS // 10, CHANGES - CHANGES // 10)
            grown = _memory() - before
            assert grown < 3_000, f"{grown} blocks more after {CALLS} calls"
            after = _sizes(transport)
            # Of nodes that left under suspicion, forgotten after seconds: as many as went in that time.
            assert after.pop("Members._left") < 200
            assert all(after[name] <= sizes[name] + 10 for name in after), (sizes, after)
            assert all(node.in_flight == 0 for node in service_of(transport).nodes)

    canned = Canned()
    asyncio.run(main())


def _addresses(turn: int) -> list[str]:
    return [f"10.0.{turn % 20}.{n}:80" for n in range(1, 6)]


def _memory() -> int:
    """Blocks of memory that live objects of Python's have."""
    gc.collect()
    return sys.getallocatedblocks()


def _sizes(transport: Any) -> dict[str, int]:
    """Every container hanging on the transport, its services and nodes."""
    sizes: dict[str, int] = {}
    seen: set[int] = set()
    queue: list[tuple[str, Any]] = [("transport", transport)]
    while queue:
        name, value = queue.pop()
        if id(value) in seen or isinstance(value, (str, bytes, type)) or callable(value):
            continue
        seen.add(id(value))
        if hasattr(value, "__len__"):
            kind = name.split("[")[0]
            sizes[kind] = sizes.get(kind, 0) + len(value)
        fields = dict(vars(value)) if hasattr(value, "__dict__") else {}
        for cls in type(value).__mro__:
            for slot in getattr(cls, "__slots__", ()):
                if hasattr(value, slot):
                    fields[slot] = getattr(value, slot)
        if type(value).__module__.startswith("smartclient"):
            queue += [(f"{type(value).__name__}.{field}", found) for field, found in fields.items()]
        if isinstance(value, dict):
            queue += [(f"{name}[]", found) for found in value.values()]
        elif isinstance(value, (list, tuple, set)):
            queue += [(f"{name}[]", found) for found in value]
    return sizes
