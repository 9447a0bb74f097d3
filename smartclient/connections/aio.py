"""A node's connections for the async client, under asyncio and trio. The rules are in `base`.

Idle connections are kept per running loop (a connection works only in the loop that made it); those of loops that have
ended are closed. A cancelled close leaks the socket, on asyncio and trio alike, so what is closed because of an error
is closed in a shielded scope. The success path has no extra cost.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import cache, partial
from typing import Any

import anyio

from ..calls.effects import Send
from ..flavour import Flavour
from ..node import Node
from ..retry.request_body import WatchedStream
from ..services.attempt import Attempt
from ..services.service import Service
from ..support.loggers import logger
from ..support.loops import current_loop, spawn
from .base import NodeConnections, inherited
from .dialing import Dialing
from .link import Link
from .multiplexed import Shared, SharedRequest, send_shared
from .network import async_backend
from .patched import asend_through_tool, left_to_us
from .request import Address, InMemory, instance_request
from .response_body import ResponseBody

AFTERWARDS = 0.005  # seconds


class AsyncBody(ResponseBody):
    """asking: over HTTP/2, the request on its shared connection"""

    asking: SharedRequest | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._chunks is not None:
            while self._chunks:
                yield self._chunks.popleft()
            return
        limited = self._ends_at is not None
        chunks = self.raw.__aiter__()
        if self.asking is not None or (limited and self._link is None):
            chunks = TimedBody(chunks, self)
        attempt, clock = self.attempt, self._connections.dialing.clock
        since = clock()
        try:
            async for chunk in chunks:
                attempt.in_body += clock() - since
                yield chunk
                if limited and self._too_late():
                    await self._cut_short(chunks)
                    raise self.late()
                since = clock()
            attempt.in_body += clock() - since
            self._whole = True
        except BaseException as error:
            # An unfinished async generator is closed by the garbage collector, too late and outside of any task.
            if hasattr(chunks, "aclose"):
                with anyio.CancelScope(shield=True):
                    await chunks.aclose()
            if isinstance(error, Exception):
                raise self._broken(error)  # noqa: B904  (it has its cause)
            raise

    async def _cut_short(self, chunks: AsyncIterator[bytes]) -> None:
        """Close the connection, then let httpcore's nested generators fail: it does not close the inner ones."""
        if self._link is None or self.asking is not None:
            return
        await self._connections.drop_now(self._link)
        try:
            await chunks.__anext__()
        except Exception:
            pass

    async def read_ahead(self) -> None:
        """Read it all, and be done with the connection."""
        chunks: deque[bytes] = deque()
        # Without a deadline directly from httpcore: one generator less per chunk.
        alone, clock = self._ends_at is None and self.asking is None, self._connections.dialing.clock
        began = clock() if alone else 0.0
        self._in_flow = True
        try:
            async for chunk in self.raw if alone else self:
                chunks.append(chunk)
            if alone:
                self.attempt.in_body = clock() - began
            self._whole = True
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
            await self.raw.aclose()
            if self._link is not None:
                await self._connections.give_back(self._stack, self._link, self._whole, self.asking)
        except BaseException:
            if self._link is not None:
                await self._connections.drop_now(self._link)
            raise
        finally:
            self.attempt.finish()


class TimedBody:
    """A body without httpcore's timeouts: from a user's transport, or from one of many HTTP/2 streams."""

    def __init__(self, chunks: AsyncIterator[bytes], body: AsyncBody) -> None:
        self._chunks = chunks
        self._body = body

    def __aiter__(self) -> TimedBody:
        return self

    async def __anext__(self) -> bytes:
        body = self._body
        left, patience = body.left(), math.inf if body.asking is None else body.asking.patience
        with anyio.move_on_after(min(left, patience)):
            return await self._chunks.__anext__()
        raise body.late() if left <= patience else body.httpx.ReadTimeout("nothing to read on this stream")

    async def aclose(self) -> None:
        if hasattr(self._chunks, "aclose"):
            await self._chunks.aclose()


@cache
def body_class(flavour: Flavour) -> Any:
    """`AsyncBody` as a byte stream of that flavour: its client checks."""
    return type("AsyncBody", (AsyncBody, flavour.httpx.AsyncByteStream), {})


class AsyncConnections(NodeConnections):
    """The connections of one node. Idle ones are kept per loop and address."""

    def __init__(self, node: Node, service: Service, dialing: Dialing) -> None:
        super().__init__(node, service, dialing)
        self._body_class = body_class(dialing.flavour)
        self._backend_class = async_backend(dialing.flavour)
        self._loop: Any = None  # where the transport was used last
        self._shared: dict[Any, dict[Address, Shared]] = {}  # by loop

    @property
    def idle(self) -> int:
        """How many are unused, of all loops."""
        stores = tuple(self._shared.values())
        return sum(len(shared.idle) for by_address in stores for shared in tuple(by_address.values()))

    @property
    def has_idle(self) -> bool:
        """Whether a request needs no new connection."""
        by_address = self._shared.get(current_loop(), {})
        return any(len(shared.idle) or any(True for _ in shared) for shared in by_address.values())

    async def send(self, request: Any, effect: Send, direct: bool = False) -> Any:
        """Send on an idle connection, else a new one; the response, its body unread. direct: past tools that patch
        httpx
        """
        method = self.dialing.flavour.httpx.AsyncHTTPTransport.handle_async_request
        patched = method is not self.dialing.own_method and not direct and self.is_patched(method)
        times = effect.timeouts
        if times is None or times.ends_at is None:
            return await (asend_through_tool(self, request, effect) if patched else self._send(request, effect, []))
        # For what has no httpcore timeout: users' transports, HTTP/2 streams that wait for each other, slow bodies. The
        # timeouts of the phases come first, since their errors say more.
        made: list[Link] = []
        with anyio.move_on_after(times.cut(None) + AFTERWARDS):  # type: ignore[operator]
            return await (asend_through_tool(self, request, effect) if patched else self._send(request, effect, made))
        httpx = self.dialing.flavour.httpx
        if made and made[0].backend.stream is None:
            raise httpx.ConnectTimeout("out of time while connecting")
        raise httpx.ReadTimeout("out of time")

    async def _send(self, request: Any, effect: Send, made: list[Link]) -> Any:
        attempt, dialing, link, asking = effect.attempt, self.dialing, None, None
        flavour = dialing.flavour
        address = self.address(request)
        if self.transport is not None:
            self._loop = current_loop()
            asked = instance_request(request, effect, address, flavour)
            with left_to_us(flavour.httpx.AsyncHTTPTransport.handle_async_request, flavour):
                response = await self.transport.handle_async_request(asked)
            if not response.is_closed:  # MockTransport's are, from the start
                response.stream = self.body_of(response.stream, effect)
            return response
        engine_request = self.engine_request(request, effect, address)
        if isinstance(effect.stream, flavour.ByteStream):
            engine_request.stream = InMemory(effect.stream)
        shared, now = self._shared_of(address), dialing.clock()
        if now >= dialing.sweep.due:
            for stack, links in dialing.sweep.inspect(now):
                stack.owner.drop_idle(links)
        try:
            if dialing.http2:
                raw, link, asking = await send_shared(self, engine_request, effect, address, shared, made)
            else:
                if not effect.fresh:
                    link, ended = shared.idle.take(now)
                    if ended:
                        await self.close_all(ended)
                attempt.reused = link is not None
                if link is None:
                    link = self.new(address, attempt)
                    made.append(link)
                link.attempt, link.backend.times = attempt, effect.timeouts
                dialing.active[attempt] = link
                raw = await link.http.handle_async_request(engine_request)
        except BaseException as error:
            if dialing.http2:
                raise
            dialing.active.pop(attempt, None)
            ready = link is not None and link.backend.ready
            if link is not None:
                await self.drop_now(link)
            raise flavour.translated(error, ready)  # noqa: B904  (it has its cause)
        finally:
            if isinstance(effect.stream, WatchedStream):
                with anyio.CancelScope(shield=True):
                    await effect.stream.aclose()
        if not attempt.reused and link is not None:
            self.set_up(attempt, link)
        body = self._body_class(raw.stream, self, attempt, effect.context, link, shared)
        body.asking = asking
        return self.response(raw, body)

    def new(self, address: Address, attempt: Attempt) -> Link:
        """A connection, not yet connected."""
        connection_class = self.dialing.flavour.httpcore.AsyncHTTPConnection
        return self.new_link(connection_class, self._backend_class, address, attempt)

    async def give_back(self, shared: Shared, link: Link, whole: bool, asking: SharedRequest | None) -> None:
        """The response is over. whole: it was read to its end"""
        if self.dialing.http2:
            if asking is not None and not whole:
                asking.give_up()
            await self.leave(shared, link)
        else:
            await self._rest(shared, link)

    async def leave(self, shared: Shared, link: Link) -> None:
        """A request on a connection that others may use, too, is over."""
        over = shared.leave(link)
        if link.backend.frames is not None and (untold := link.http._connection._h2_state.data_to_send()):
            with anyio.move_on_after(AFTERWARDS, shield=True):  # of streams that were given up
                try:
                    await link.backend.stream.write(untold)
                except Exception:
                    pass  # its reader will find it out
        if over:
            await self._rest(shared, link)

    async def drop_now(self, link: Link) -> None:
        """Close a connection whatever happens, cancellation too."""
        with anyio.CancelScope(shield=True):
            await _close(link)

    def forgotten(self, link: Link, shared: Shared) -> None:
        """Its response was dropped unread, wherever we are."""
        if link.streams > 1 and link.backend.loop is not None:
            spawn(link.backend.loop, partial(self.leave, shared, link), otherwise=link.backend.cut)
        else:
            self.drop(link)

    def drop(self, link: Link) -> None:
        """Close a connection from outside of its loop's tasks."""
        if link.backend.loop is not None:  # else it never got as far as a socket
            spawn(link.backend.loop, lambda: _close(link), otherwise=link.backend.abandon)

    def drop_idle(self, links: Iterable[Link]) -> None:
        for link in links:
            self.drop(link)

    async def close_all(self, links: Iterable[Link]) -> None:
        if links:
            with anyio.CancelScope(shield=True):
                for link in links:
                    await _close(link)

    async def aclose(self) -> None:
        """Close idle connections: this loop's here, other loops' in those loops."""
        here = self._shared.pop(current_loop(), {})
        self._loop = None
        self.close()
        for shared in here.values():
            await self.close_all(self._emptied(shared))
        if self.transport is not None and self.dialing.owned:
            await quietly(self.transport.aclose)

    async def end(self, link: Link) -> None:
        """Close a connection that is in use, in its own loop."""
        if link.backend.loop is current_loop():
            await self.drop_now(link)
        else:
            self.drop(link)

    def close(self) -> None:
        """Close what is idle, from any thread: each connection in its own loop."""
        if self.transport is not None and self.dialing.owned and self._loop is not None:
            spawn(self._loop, partial(quietly, self.transport.aclose), otherwise=_nothing)
        by_address, self._shared = self._shared, {}
        for stores in by_address.values():
            for shared in stores.values():
                self.drop_idle(self._emptied(shared))

    def forget_loop(self, loop: Any) -> None:
        """That loop has ended."""
        for shared in self._shared.pop(loop, {}).values():
            for link in self._emptied(shared):
                link.backend.abandon()

    def after_fork(self) -> None:
        """Drop what is shared with the parent: their loop is not ours."""
        if self.transport is not None:
            self.leave_to_parent()
        inherited.append(self._shared)
        for stores in self._shared.values():
            for shared in stores.values():
                for link in (*shared, *shared.idle.empty()):
                    _close_inherited(link)
        self._shared = {}

    def _emptied(self, shared: Shared) -> list[Link]:
        """What is to be closed: idle connections, and those that requests share."""
        self.dialing.sweep.discard(shared.idle)
        return [*shared.idle.empty(), *shared]

    def _shared_of(self, address: Address) -> Shared:
        loop = current_loop()
        stores = self._shared.get(loop)
        if stores is None:
            stores = self._shared.setdefault(loop, {})
        shared = stores.get(address)
        if shared is None:
            shared = stores[address] = Shared(self.dialing.idle(self))
        return shared

    async def _rest(self, shared: Shared, link: Link) -> None:
        """Its last request is over: keep it, or close it."""
        if self.node.removed or not link.rests(self.dialing.clock()):
            await self.drop_now(link)
        elif surplus := shared.idle.put(link):
            await self.close_all(surplus)


async def _close(link: Link) -> None:
    # During the TLS handshake httpcore has nothing to close; closing a socket twice is harmless.
    for one in (link.http, link.backend.beneath):
        try:
            if one is not None:
                await one.aclose()
        except Exception:
            pass  # what cannot be closed is gone


async def quietly(close: Callable[[], Awaitable[object]]) -> None:
    """Close something not ours: on trio an error in a separate task would end the whole run."""
    try:
        await close()
    except Exception:
        logger.exception("a connection or transport could not be closed")


def _nothing() -> None:
    pass


def _close_inherited(link: Link) -> None:
    try:
        os.close(link.backend.beneath.get_extra_info("socket").fileno())
    except (OSError, AttributeError):
        pass
