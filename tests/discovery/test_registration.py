"""Registration, without a registry: one shape, both flavours of `with`, and what a cancel leaves behind."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from smartclient import Instance
from smartclient.discovery import Consul, Etcd, ZooKeeper
from smartclient.discovery.registration import Registration, listed, registration


class Registry:
    """Notes who is listed. slow: an Event that entering waits for"""

    def __init__(self, slow: threading.Event | None = None) -> None:
        self.names: list[str] = []
        self.entered = threading.Event()
        self.left = threading.Event()
        self._slow = slow

    @registration
    def register(self, name: str) -> Iterator[str]:
        if self._slow is not None:
            self._slow.wait(5)
        self.names.append(name)
        self.entered.set()
        try:
            yield name
        finally:
            self.names.remove(name)
            self.left.set()


@pytest.mark.parametrize("source", [Consul, Etcd, ZooKeeper])
def test_one_shape(source: Any) -> None:
    said = inspect.signature(source.register).parameters
    assert [*said][:7] == ["self", "service", "address", "id", "meta", "weight", "ttl"]
    assert all(one.kind is one.KEYWORD_ONLY for one in [*said.values()][3:])


def test_with() -> None:
    registry = Registry()
    with registry.register("a") as name:
        assert registry.names == [name] == ["a"]
    assert registry.names == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_with(backend: str) -> None:
    registry = Registry()

    async def serve() -> None:
        async with registry.register("a") as name:
            assert registry.names == [name]

    anyio.run(serve, backend=backend)
    assert registry.names == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_block_that_is_cancelled_is_deregistered(backend: str) -> None:
    registry = Registry()

    async def serve() -> None:
        with anyio.CancelScope() as scope:
            async with registry.register("a"):
                scope.cancel()
                await anyio.sleep_forever()

    anyio.run(serve, backend=backend)
    assert registry.names == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_nor_stays_what_was_cancelled_while_it_was_registered(backend: str) -> None:
    slow = threading.Event()
    registry = Registry(slow)

    async def serve() -> None:
        async def enter() -> None:
            async with registry.register("a"):
                await anyio.sleep_forever()

        async with anyio.create_task_group() as group:
            group.start_soon(enter)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
            slow.set()

    anyio.run(serve, backend=backend)
    assert registry.left.wait(5)
    assert registry.names == []


def test_a_cancel_of_asyncio_s_own_leaves_nothing() -> None:
    """asyncio's `cancel` goes through the shield that anyio puts around a thread."""
    slow = threading.Event()
    registry = Registry(slow)

    async def serve() -> None:
        async def enter() -> None:
            async with registry.register("a"):
                await asyncio.sleep(5)

        task = asyncio.create_task(enter())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        slow.set()

    asyncio.run(serve())
    assert registry.left.wait(5)
    assert registry.names == []


def test_an_error_of_the_block_comes_through() -> None:
    registry = Registry()
    with pytest.raises(ZeroDivisionError), registry.register("a"):
        1 / 0  # noqa: B018
    assert registry.names == []


def test_what_is_listed() -> None:
    given = Instance("10.0.0.1", 80, weight=3.0, zone="a", metadata={"version": "v1", "x": "y"}, id="own")
    made = listed(given, None, {"version": "v2"}, None)
    assert (made.id, made.weight, made.zone, dict(made.metadata)) == ("own", 3.0, "a", {"version": "v2", "x": "y"})
    assert listed(given, "other", None, 1.0).weight == 1.0
    assert listed("10.0.0.1:80", None, None, None, prefix="orders-").id.startswith("orders-")  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="an address with a port"):
        listed("10.0.0.1", None, None, None)


def test_it_is_a_registration() -> None:
    assert isinstance(Consul("127.0.0.1:1").register("orders", "10.0.0.1:80"), Registration)
