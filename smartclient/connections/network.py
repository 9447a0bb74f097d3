"""Network streams that keep a deadline, and the backends that make them.

httpcore gets a phase's timeout once and uses it for each read, so a server that sends a byte from time to time never
times out. Here the clock is checked at every read and write. A backend belongs to one link: it also keeps the socket of
a connection that is still being set up, and the state of HTTP/2's frames (`frames`).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import anyio

from ..calls.context import TimeLeft
from ..flavour import Flavour
from ..support.hosts import is_link_local
from ..support.loops import current_loop
from .frames import Frames

PIECE = 1 << 16  # bytes that are written under one timeout


class Timed:
    """A network stream of httpcore's, its timeouts those of the backend's present request."""

    def __init__(self, stream: Any, backend: Backend) -> None:
        self._stream = stream
        self._backend = backend
        self.get_extra_info: Any = stream.get_extra_info

    @property
    def transport(self) -> Any:
        """asyncio's transport, if it is on one."""
        return getattr(getattr(self._stream, "_stream", None), "_transport", None)


class SyncTimed(Timed):
    def read(self, max_bytes: int, timeout: float | None = None) -> Any:
        backend = self._backend
        if backend.times is not None:
            timeout = backend.times.left(timeout, backend.errors.ReadTimeout)
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        backend = self._backend
        if backend.was_cut:  # while it was still connecting
            raise backend.errors.WriteError("nobody waits for the answer any more")
        if backend.times is None:
            self._stream.write(buffer, timeout)
            return
        for at in range(0, len(buffer), PIECE):
            self._stream.write(buffer[at : at + PIECE], backend.times.left(timeout, backend.errors.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        """httpcore's, in two steps: another thread can shut down the socket during the handshake."""
        backend, errors = self._backend, self._backend.errors
        sock = self.get_extra_info("socket")
        try:
            sock.settimeout(backend.cut_short(timeout))
            backend.handle = tls = ssl_context.wrap_socket(
                sock, server_hostname=server_hostname, do_handshake_on_connect=False
            )
            if backend.was_cut:
                raise errors.ConnectError("nobody waits for the answer any more")
            tls.do_handshake()
        except BaseException as error:
            (backend.handle or sock).close()
            if isinstance(error, socket.timeout):
                raise errors.ConnectTimeout(str(error)) from error
            if isinstance(error, (OSError, ValueError)):  # ValueError: a name that TLS cannot ask for
                raise errors.ConnectError(str(error)) from error
            raise
        finally:
            backend.handle = None
        return backend.connected(type(self._stream)(tls))


class AsyncTimed(Timed):
    async def read(self, max_bytes: int, timeout: float | None = None) -> Any:
        backend = self._backend
        if backend.times is not None:
            timeout = backend.times.left(timeout, backend.errors.ReadTimeout)
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        backend = self._backend
        if backend.times is not None:
            timeout = backend.times.left(timeout, backend.errors.WriteTimeout)
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> Any:
        backend = self._backend
        return backend.connected(await self._stream.start_tls(ssl_context, server_hostname, backend.cut_short(timeout)))


class SyncFramed(SyncTimed):
    """Over HTTP/2."""

    def read(self, max_bytes: int, timeout: float | None = None) -> Any:
        while True:
            data = super().read(max_bytes, timeout)
            passed = self._backend.frames.inbound(data) if data else b""
            if passed or not data:
                return passed

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._backend.frames.outbound(buffer)
        super().write(buffer, timeout)


class AsyncFramed(AsyncTimed):
    """Over HTTP/2, for several requests at once: each has its own timeout: if the one that reads for all
    timed out in the read, the connection would end for all.
    """

    def __init__(self, stream: Any, backend: Backend) -> None:
        super().__init__(stream, backend)
        self._writing = anyio.Lock()
        self._unsent = b""

    async def read(self, max_bytes: int, timeout: float | None = None) -> Any:
        while True:
            data = await self._stream.read(max_bytes, None)
            passed = self._backend.frames.inbound(data) if data else b""
            if passed or not data:
                return passed

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """All that h2 produces must be sent, in order, or the connection is broken. So a cancelled request does not
        interrupt a write, and data that was not written goes out with the next write.
        """
        self._backend.frames.outbound(buffer)
        self._unsent += buffer
        async with self._writing:
            with anyio.CancelScope(shield=True):
                data, self._unsent = self._unsent, b""
                whole = not data
                try:
                    await self._stream.write(data, timeout)
                    whole = True
                finally:
                    if not whole:
                        self._backend.frames.open = False
                        await self._stream.aclose()


class Backend:
    """What the backends of both kinds remember of their link.

    times:    of the present request; None: httpx's alone
    stream:   the connection so far; beneath: without TLS
    secure:   TLS, after its handshake; arrived: what it has not yet read; queue: what the event loop has read for it
    ready:    it is connected, TLS included; ready_at: since when, by `clock`
    frames:   over HTTP/2: what they say
    handle:   the socket, during the handshake
    loop:     async only: the loop it belongs to
    was_cut:  shut down: its answer is not wanted
    failed:   async only: why connecting failed, also for others that wait for it
    errors:   httpcore's module
    tls, http2: whether TLS comes next, and whether HTTP/2 is used without ALPN
    link_local: it may lead to link-local addresses
    """

    errors: Any = None
    _plain: type[Timed] = Timed
    _framed: type[Timed] = Timed

    def __init__(
        self, tls: bool, http2: bool, link_local: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self.clock: Callable[[], float] = clock
        self.ready_at: float = 0.0
        self.link_local = link_local
        self.tls = tls
        self.http2 = http2
        self.times: TimeLeft | None = None
        self.stream: Any = None
        self.beneath: Any = None
        self.secure: Any = None
        self.arrived: Any = None
        self.queue: Any = None
        self.ready: bool = False
        self.frames: Any = None
        self.handle: Any = None
        self.loop: Any = None
        self.was_cut: bool = False
        self.failed: Exception | None = None

    def connected(self, stream: Any) -> Any:
        """A stage is reached: the socket, or TLS over it."""
        agreed = stream.get_extra_info("ssl_object")
        self.ready = agreed is not None or not self.tls
        if self.ready:
            self.ready_at = self.clock()
        if self.ready and (self.http2 if agreed is None else agreed.selected_alpn_protocol() == "h2"):
            self.frames = Frames()
        self.secure = agreed
        inner = getattr(stream, "_stream", None)  # anyio's; httpcore's blocking one reads from the socket itself
        self.arrived = getattr(inner, "_read_bio", None)
        self.stream = made = (self._plain if self.frames is None else self._framed)(stream, self)
        if self.beneath is None:
            self.beneath = made
            # asyncio's; trio's stream reads when it is asked. (Private names of anyio's: a test pins them.)
            self.queue = getattr(getattr(inner, "_protocol", None), "read_queue", None)
        return made

    def refusal(self, stream: Any) -> Exception | None:
        """Why nothing may be sent there: a registry's name may resolve to a cloud's metadata service, with its secrets.
        Checked on the connection itself: a name may resolve to another address the next time.
        """
        if self.link_local:
            return None
        peer = stream.get_extra_info("server_addr")
        host = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        if not is_link_local(host):
            return None
        error: Exception = self.errors.ConnectError(f"{host} is link-local (allow it with the source's link_local)")
        return error

    def cut_short(self, timeout: float | None) -> float | None:
        return timeout if self.times is None else self.times.left(timeout, self.errors.ConnectTimeout)

    def abandon(self) -> None:
        """Its event loop has ended and cannot close it: shut it down and free the descriptor."""
        self.cut()
        if self.beneath is None:
            return
        # asyncio closes a socket in a callback of its loop, which is gone: so it is called here. (Else the socket stays
        # open until garbage collection, which warns about it.) trio's own is a plain socket.
        close = getattr(self.beneath.transport, "_call_connection_lost", None)
        try:
            if close is not None:
                close(None)
            else:
                self.beneath.get_extra_info("socket").close()
        except (OSError, AttributeError, RuntimeError):  # RuntimeError: it would wake a task of that loop
            pass

    def cut(self) -> None:
        """Shut it down, from any thread, so that its waiting call wakes up."""
        self.was_cut = True
        try:
            # Not SSLSocket's own: after it, data that another thread sends would go out in clear text.
            socket.socket.shutdown(self.handle or self.stream.get_extra_info("socket"), socket.SHUT_RDWR)
        except (OSError, AttributeError, TypeError):
            pass


class SyncBackend(Backend):
    """Over httpcore's `SyncBackend`."""

    _plain, _framed = SyncTimed, SyncFramed

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **keywords: Any) -> Any:
        """httpcore's, which tries a name's addresses one after the other; a deadline's remaining time is divided
        among them, else a silent one would use all of it.
        """
        if self.times is None:
            return self._to(host, port, timeout, keywords)
        addresses = _addresses(host, port)
        for left in range(len(addresses), 0, -1):
            share = self.times.left(timeout, self.errors.ConnectTimeout, among=left)
            try:
                return self._to(addresses[-left], port, share, keywords)
            except (self.errors.ConnectError, self.errors.ConnectTimeout):
                if left == 1:
                    raise
        raise AssertionError

    def _to(self, host: str, port: int, timeout: float | None, keywords: dict[str, Any]) -> Any:
        stream = super().connect_tcp(host, port, timeout, **keywords)  # type: ignore[misc]
        refusal = self.refusal(stream)
        if refusal is not None:
            stream.close()
            raise refusal
        return self.connected(stream)


def _addresses(host: str, port: int) -> list[str]:
    """A name's addresses in the resolver's order, link-local ones with their zone."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return [host]  # connecting will raise the proper error
    return list(dict.fromkeys(_with_zone(*address) for *_, address in found))


def _with_zone(host: Any, port: Any, flow: int = 0, zone: int = 0) -> str:
    return f"{host}%{zone}" if zone and "%" not in str(host) else str(host)


class AsyncBackend(Backend):
    """Over httpcore's `AnyIOBackend`, which serves asyncio and trio, and tries a name's addresses side by side.

    httpcore forgets a socket whose TLS handshake is cancelled (it closes it on `Exception` only): `beneath` is the one
    beneath TLS.
    """

    _plain, _framed = AsyncTimed, AsyncFramed

    async def connect_tcp(self, *args: Any, **keywords: Any) -> Any:
        if self.failed is not None:  # those who wait for one connection fail with it, not one after the other
            raise type(self.failed)(str(self.failed)) from self.failed
        self.loop = current_loop()
        try:
            stream = await super().connect_tcp(*args, **keywords)  # type: ignore[misc]
            refusal = self.refusal(stream)
            if refusal is not None:
                await stream.aclose()
                raise refusal
            return self.connected(stream)
        except Exception as error:
            self.failed = error
            raise


@cache
def sync_backend(flavour: Flavour) -> Any:
    return type("SyncBackend", (SyncBackend, flavour.httpcore.SyncBackend), {"errors": flavour.httpcore})


@cache
def async_backend(flavour: Flavour) -> Any:
    return type("AsyncBackend", (AsyncBackend, flavour.httpcore.AnyIOBackend), {"errors": flavour.httpcore})
