"""One scenario, several drivers: a blocking face over the sync and the async clients, under asyncio and trio, in both
flavours.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio.from_thread
import pytest

KINDS = ("sync", "asyncio", "trio")
FLAVOURS = ("httpx", "httpx2")


@dataclass
class Driver:
    """kind: "sync", "asyncio" or "trio"; flavour: "httpx" or "httpx2"; portal: of the loop, where there is one."""

    kind: str
    flavour: str
    portal: Any = None

    @property
    def asynchronous(self) -> bool:
        return self.kind != "sync"

    @property
    def httpx(self) -> Any:
        return importlib.import_module(self.flavour)

    @property
    def names(self) -> Any:
        """The module with our names in this flavour."""
        return importlib.import_module("smartclient" if self.flavour == "httpx" else "smartclient.httpx2")

    def run(self, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        """Call a function; where it is async, in the loop."""
        if not self.asynchronous:
            return function(*args, **keywords)

        async def call() -> Any:
            return await function(*args, **keywords)

        return self.portal.call(call)

    @contextmanager
    def client(self, *args: Any, **keywords: Any) -> Iterator[Face]:
        keywords.setdefault("trust_env", False)
        cls = self.names.AsyncClient if self.asynchronous else self.names.Client
        face = Face(self, cls(*args, **keywords))
        try:
            yield face
        finally:
            face.close()

    @contextmanager
    def transport(self, *args: Any, clock: Any = None, **keywords: Any) -> Iterator[Face]:
        """A plain client over our transport, which takes a clock."""
        if clock is not None:
            keywords.update(clock=clock, sleep=clock.asleep if self.asynchronous else clock.sleep)
        ours = self.names.AsyncBalancedTransport if self.asynchronous else self.names.BalancedTransport
        plain = self.httpx.AsyncClient if self.asynchronous else self.httpx.Client
        face = Face(self, plain(transport=ours(*args, **keywords)))
        try:
            yield face
        finally:
            face.close()

    def mock(self, handler: Callable[[Any], Any]) -> Any:
        return self.httpx.MockTransport(handler)

    def body(self, chunks: list[bytes], on_begin: Callable[[], None] = lambda: None) -> Any:
        """A generator, of the client's kind."""
        if not self.asynchronous:

            def generate() -> Iterator[bytes]:
                on_begin()
                yield from chunks

            return generate()

        async def agenerate() -> Any:
            on_begin()
            for chunk in chunks:
                yield chunk

        return agenerate()


class Face:
    """A client, blocking whatever its kind."""

    def __init__(self, driver: Driver, client: Any) -> None:
        self.driver = driver
        self.client = client

    @property
    def balanced(self) -> Any:
        """Our transport."""
        if hasattr(self.client._transport, "_services"):
            return self.client._transport
        return next(iter(self.client._mounts.values()))

    def service(self, name: str = "orders") -> Any:
        return self.balanced._services.get(name)

    def nodes(self, name: str = "orders") -> Any:
        return self.service(name).nodes

    def request(self, method: str, url: str, **keywords: Any) -> Any:
        return self.driver.run(self.client.request, method, url, **keywords)

    def get(self, url: str, **keywords: Any) -> Any:
        return self.request("GET", url, **keywords)

    def post(self, url: str, **keywords: Any) -> Any:
        return self.request("POST", url, **keywords)

    def open(self, method: str, url: str, **keywords: Any) -> Any:
        """The response of a streamed request, its body unread."""
        request = self.client.build_request(method, url, **keywords)
        return self.driver.run(self.client.send, request, stream=True)

    def read(self, response: Any) -> bytes:
        return self.driver.run(response.aread if self.driver.asynchronous else response.read)

    def finish(self, response: Any) -> None:
        self.driver.run(response.aclose if self.driver.asynchronous else response.close)

    def close(self) -> None:
        self.driver.run(self.client.aclose if self.driver.asynchronous else self.client.close)


@contextmanager
def driver_of(kind: str, flavour: str) -> Iterator[Driver]:
    if kind == "sync":
        yield Driver(kind, flavour)
        return
    with anyio.from_thread.start_blocking_portal(kind) as portal:
        yield Driver(kind, flavour, portal)


def all_drivers(kinds: tuple[str, ...] = KINDS) -> list[Any]:
    return [pytest.param((kind, flavour), id=f"{kind}-{flavour}") for flavour in FLAVOURS for kind in kinds]


def until(condition: Callable[[], object], seconds: float = 5) -> None:
    """Wait for something that happens in another thread."""
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, "did not happen in time"
        time.sleep(0.005)


def needs(missing: str | None) -> None:
    """Skip for want of what is missing; in CI nothing may be."""
    if missing:
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)


def in_child(work: Callable[[], object]) -> None:
    """Fork; the child does the work, and it must not raise."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(20)
            work()
            status = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
