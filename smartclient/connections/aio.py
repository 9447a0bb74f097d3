"""A node's connections for the async client, under asyncio and trio. The rules are in `base`.

Idle connections are kept per running loop (a connection works only in the loop that made it); those of loops that have
ended are dropped. A cancelled close leaves a socket open and the connection lost, on asyncio and trio alike, so what is
closed because of an error is closed in a shielded scope. The good path pays nothing for that.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import cache, partial
from typing import Any

import anyio

from ..effects import Send
from ..events import logger
from ..flavour import Flavour
from ..loops import current_loop, has_ended, spawn
from ..node import Node
from ..retry.replay import WatchedStream
from ..service import Service
from .base import Body, Dialing, Link, NodeConnections, inherited, translated
from .timed import async_backend
from .wire import Address, instance_request

AFTERWARDS = 0.005  # seconds


class AsyncBody(Body):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._chunks is not None:
            while self._chunks:
                yield self._chunks.popleft()
            return
        limited = self._ends_at is not None
        chunks = self._raw.__aiter__()
        if limited and self._link is None:
            chunks = Timed(chunks, self)
        try:
            async for chunk in chunks:
                yield chunk
                if limited and self._too_late():
                    await self._cut_short(chunks)
                    raise self.late()
        except BaseException as error:
            # An async generator left in the middle is finished by the garbage collector, too late and in no task.
            if hasattr(chunks, "aclose"):
                with anyio.CancelScope(shield=True):
                    await chunks.aclose()
            if isinstance(error, Exception):
                raise self._broken(error)  # noqa: B904  (it has its cause)
            raise

    async def _cut_short(self, chunks: AsyncIterator[bytes]) -> None:
        """Close the connection and let httpcore's nested generators find that out: it does not close the inner ones."""
        if self._link is None:
            return
        await self._connections.drop_now(self._link)
        try:
            await chunks.__anext__()
        except Exception:
            pass

    async def read_ahead(self) -> None:
        """Read it all, and be done with the connection."""
        chunks: deque[bytes] = deque()
        # Without a deadline straight from httpcore: a generator less for each chunk.
        source = self._raw if self._ends_at is None else self
        self._in_flow = True
        try:
            async for chunk in source:
                chunks.append(chunk)
        except Exception as error:
            raise self._broken(error)  # noqa: B904  (it has its cause)
        finally:
            await self.aclose()
        self._chunks = chunks

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._let_go()
        try:
            await self._raw.aclose()
            if self._link is not None:
                await self._connections.give_back(self._home, self._link, self._network)
        except BaseException:
            if self._link is not None:
                await self._connections.drop_now(self._link)
            raise
        finally:
            self.attempt.finish()


class Timed:
    """A body that httpcore does not time: of a transport of the user's, or of one stream of many (HTTP/2)."""

    def __init__(self, chunks: AsyncIterator[bytes], body: AsyncBody) -> None:
        self._chunks = chunks
        self._body = body

    def __aiter__(self) -> Timed:
        return self

    async def __anext__(self) -> bytes:
        with anyio.move_on_after(self._body.left()):
            return await self._chunks.__anext__()
        raise self._body.late()

    async def aclose(self) -> None:
        if hasattr(self._chunks, "aclose"):
            await self._chunks.aclose()


class InMemory:
    """A request body in memory. httpx's own is an async generator, which httpcore leaves in the middle when it cannot
    send all of it: trio has a warning for that.
    """

    __slots__ = ("_chunks",)

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)

    def __aiter__(self) -> InMemory:
        return self

    async def __anext__(self) -> bytes:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration


@cache
def body_class(flavour: Flavour) -> Any:
    """`AsyncBody` as a byte stream of that flavour: its client checks."""
    return type("AsyncBody", (AsyncBody, flavour.httpx.AsyncByteStream), {})


class AsyncConnections(NodeConnections):
    """The connections of one node. Idle ones are kept per loop and origin."""

    def __init__(self, node: Node, service: Service, dialing: Dialing) -> None:
        super().__init__(node, service, dialing)
        self._body_class = body_class(dialing.flavour)
        self._backend_class = async_backend(dialing.flavour)
        self._loop: Any = None  # where the transport was used last
        self._homes: dict[Any, dict[Address, Any]] = {}  # by loop: of a stack of links, or (HTTP/2) a pool

    async def send(self, request: Any, effect: Send) -> Any:
        """Send on an idle connection, else a new one; the response, its body unread."""
        times = effect.timeouts
        if times is None or times.ends_at is None:
            return await self._send(request, effect, [])
        # For what httpcore does not time: transports of the user's, HTTP/2's streams that wait for each other, a body
        # that takes its time. The phases' own timeouts come first, since they say more.
        made: list[Link] = []
        with anyio.move_on_after(times.cut(None) + AFTERWARDS):  # type: ignore[operator]
            return await self._send(request, effect, made)
        httpx = self.dialing.flavour.httpx
        if made and made[0].backend.stream is None:
            raise httpx.ConnectTimeout("out of time while connecting")
        raise httpx.ReadTimeout("out of time")

    async def _send(self, request: Any, effect: Send, made: list[Link]) -> Any:
        attempt, dialing = effect.attempt, self.dialing
        flavour = dialing.flavour
        address = self.address(request)
        if self.transport is not None:
            self._loop = current_loop()
            response = await self.transport.handle_async_request(instance_request(request, effect, address, flavour))
            if not response.is_closed:  # MockTransport's are, from the start
                response.stream = self._body_class(response.stream, self, attempt, effect.context, None, None, None)
            return response
        wire = self.wire_request(request, effect, address)
        if isinstance(effect.stream, flavour.ByteStream):
            wire.stream = InMemory(effect.stream)
        home = self._home(address)
        link = None
        try:
            if dialing.http2:
                raw = await home.handle_async_request(wire)
            else:
                link = None if effect.fresh else await self._take(home)
                attempt.reused = link is not None
                if link is None:
                    link = self.new_link(flavour.httpcore.AsyncHTTPConnection, address, attempt, self._backend_class())
                    made.append(link)
                link.attempt, link.backend.times = attempt, effect.timeouts
                dialing.active[attempt] = link
                raw = await link.http.handle_async_request(wire)
        except BaseException as error:
            if link is not None:
                await self.drop_now(link)
            raise translated(error, flavour)  # noqa: B904  (it has its cause)
        finally:
            if isinstance(effect.stream, WatchedStream):
                with anyio.CancelScope(shield=True):
                    await effect.stream.aclose()
        network = raw.extensions.get("network_stream")
        body = self._body_class(raw.stream, self, attempt, effect.context, link, home, network)
        return self.response(raw, body)

    async def give_back(self, home: deque[Link], link: Link, network: Any) -> None:
        dialing = self.dialing
        if not link.http.is_idle():
            await self.drop_now(link)
            return
        link.rest(network, dialing.clock())
        home.append(link)
        keep = 0 if self.node.removed else dialing.max_keepalive
        while keep is not None and len(home) > keep:
            await _close(home.popleft())

    async def drop_now(self, link: Link) -> None:
        """Close a connection whatever happens, cancellation too."""
        self.dialing.active.pop(link.attempt, None)
        with anyio.CancelScope(shield=True):
            await _close(link)

    def drop(self, link: Link) -> None:
        """Close a connection from outside of its loop's tasks."""
        self.dialing.active.pop(link.attempt, None)
        loop = link.backend.loop
        if loop is None:  # it never got as far as a socket
            return
        spawn(loop, lambda: _close(link), otherwise=link.backend.cut)

    async def aclose(self) -> None:
        """Close what is idle: here what is this loop's, in their loops what is others'."""
        here = self._homes.pop(current_loop(), {})
        self._loop = None
        self.close()
        for home in here.values():
            await (_quietly(home.aclose) if self.dialing.http2 else _close_all(home))
        if self.transport is not None and self.dialing.owned:
            await _quietly(self.transport.aclose)

    async def end(self, link: Link) -> None:
        """Close a connection that is in use, in its own loop."""
        if link.backend.loop is current_loop():
            await self.drop_now(link)
        else:
            self.drop(link)

    def close(self) -> None:
        """Close what is idle, from any thread: each connection in its own loop."""
        if self.transport is not None and self.dialing.owned and self._loop is not None:
            spawn(self._loop, partial(_quietly, self.transport.aclose), otherwise=_nothing)
        homes, self._homes = self._homes, {}
        for loop, stores in homes.items():
            for home in stores.values():
                if self.dialing.http2:
                    spawn(loop, partial(_quietly, home.aclose), otherwise=_nothing)
                elif home:
                    spawn(loop, partial(_close_all, home), otherwise=partial(_shut_down_all, home))

    def after_fork(self) -> None:
        """Drop what is shared with the parent: their loop is not ours."""
        if self.transport is not None:
            self.leave_to_parent()
        inherited.append(self._homes)
        if not self.dialing.http2:
            for stores in self._homes.values():
                for home in stores.values():
                    for link in home:
                        _close_inherited(link)
        self._homes = {}

    def _home(self, address: Address) -> Any:
        loop = current_loop()
        stores = self._homes.get(loop)
        if stores is None:
            for other in tuple(self._homes):
                if has_ended(other):
                    for home in self._homes.pop(other, {}).values():
                        if not self.dialing.http2:
                            _shut_down_all(home)
            stores = self._homes.setdefault(loop, {})
        home = stores.get(address)
        if home is None:
            pool_class = self.dialing.flavour.httpcore.AsyncConnectionPool
            home = self.new_pool(pool_class, address) if self.dialing.http2 else deque()
            stores[address] = home
        return home

    async def _take(self, home: deque[Link]) -> Link | None:
        now, expiry = self.dialing.clock(), self.dialing.keepalive_expiry
        while home:
            link = home.pop()
            if link.alive(now, expiry):
                return link
            await self.drop_now(link)
        return None


async def _close(link: Link) -> None:
    try:
        await link.http.aclose()
        # httpcore has nothing to close while TLS is being agreed; closing a socket twice does no harm.
        if link.backend.stream is not None:
            await link.backend.stream.aclose()
    except Exception:
        pass  # what cannot be closed is gone


async def _quietly(close: Callable[[], Awaitable[object]]) -> None:
    """Close something of another's: on trio an error in a task of its own would end the whole run."""
    try:
        await close()
    except Exception:
        logger.exception("a transport could not be closed")


async def _close_all(links: deque[Link]) -> None:
    while links:
        await _close(links.popleft())


def _shut_down_all(links: deque[Link]) -> None:
    """End connections whose loop is gone: the server is told, the descriptors go with the garbage."""
    while links:
        links.popleft().backend.cut()


def _nothing() -> None:
    pass


def _close_inherited(link: Link) -> None:
    try:
        os.close(link.backend.stream.get_extra_info("socket").fileno())
    except (OSError, AttributeError):
        pass
