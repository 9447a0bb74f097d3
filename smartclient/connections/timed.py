"""Network streams that keep a deadline, and the backends that make them.

httpcore asks for a phase's timeout once and then reads with it as often as that takes, so a server that sends a byte
now and then is never timed out. Here each read is told what is left at its moment. A backend belongs to one link: it
also remembers the socket of a connection that is still in the making.
"""

from __future__ import annotations

import socket
from functools import cache
from typing import Any

from ..effects import TimeLeft
from ..flavour import Flavour
from ..loops import current_loop

PIECE = 1 << 16  # bytes that are written under one timeout


class Timed:
    """A network stream of httpcore's, its timeouts those of the backend's present request."""

    def __init__(self, stream: Any, backend: Any) -> None:
        self._stream = stream
        self._backend = backend
        self.get_extra_info = stream.get_extra_info


class SyncTimed(Timed):
    def read(self, max_bytes: int, timeout: float | None = None) -> Any:
        times = self._backend.times
        return self._stream.read(max_bytes, timeout if times is None else times.cut(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        times = self._backend.times
        if self._backend.was_cut:  # while it was still connecting
            raise self._backend.errors.WriteError("nobody waits for the answer any more")
        if times is None:
            self._stream.write(buffer, timeout)
            return
        for at in range(0, len(buffer), PIECE):
            self._stream.write(buffer[at : at + PIECE], times.cut(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        backend = self._backend
        # `wrap_socket` takes the socket away: to cut the connection meanwhile there is another handle on it.
        backend.handle = self.get_extra_info("socket").dup()
        try:
            stream = self._stream.start_tls(ssl_context, server_hostname, backend.cut_short(timeout))
        finally:
            handle, backend.handle = backend.handle, None
            handle.close()
        backend.stream = made = SyncTimed(stream, backend)
        return made


class AsyncTimed(Timed):
    async def read(self, max_bytes: int, timeout: float | None = None) -> Any:
        times = self._backend.times
        return await self._stream.read(max_bytes, timeout if times is None else times.cut(timeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        times = self._backend.times
        await self._stream.write(buffer, timeout if times is None else times.cut(timeout))

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> Any:
        stream = await self._stream.start_tls(ssl_context, server_hostname, self._backend.cut_short(timeout))
        return AsyncTimed(stream, self._backend)


class Backend:
    """What the backends of both kinds remember of their link.

    times:    of the present request; None: httpx's alone
    stream:   the connection
    handle:   on the socket, while TLS is agreed
    loop:     async only: the loop it belongs to
    was_cut:  nobody waits for it any more
    errors:   httpcore's module
    """

    times: TimeLeft | None = None
    stream: Any = None
    handle: Any = None
    loop: Any = None
    was_cut = False
    errors: Any = None

    def cut_short(self, timeout: float | None) -> float | None:
        return timeout if self.times is None else self.times.cut(timeout)

    def cut(self) -> None:
        """Make whoever waits for that connection find it ended, from any thread."""
        self.was_cut = True
        try:
            # Not SSLSocket's own: that goes on in clear text from then on, should another thread be about to send.
            socket.socket.shutdown(self.handle or self.stream.get_extra_info("socket"), socket.SHUT_RDWR)
        except (OSError, AttributeError, TypeError):
            pass


class SyncBackend(Backend):
    """Over httpcore's `SyncBackend`."""

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **keywords: Any) -> Any:
        addresses = [host] if self.times is None else _addresses(host, port)
        for number, address in enumerate(addresses, 1):  # `create_connection` would give each of them all of the time
            try:
                stream = super().connect_tcp(address, port, self.cut_short(timeout), **keywords)  # type: ignore[misc]
                break
            except self.errors.ConnectError:
                if number == len(addresses):
                    raise
        self.stream = made = SyncTimed(stream, self)
        return made


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return [host]  # who connects will say what is wrong with it
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class AsyncBackend(Backend):
    """Over httpcore's `AnyIOBackend`, which serves asyncio and trio.

    httpcore forgets a socket whose TLS handshake is cancelled (it closes it on `Exception` only): `stream` is the one
    beneath TLS.
    """

    async def connect_tcp(self, *args: Any, **keywords: Any) -> Any:
        self.loop = current_loop()
        self.stream = made = AsyncTimed(await super().connect_tcp(*args, **keywords), self)  # type: ignore[misc]
        return made


@cache
def sync_backend(flavour: Flavour) -> Any:
    return type("SyncBackend", (SyncBackend, flavour.httpcore.SyncBackend), {"errors": flavour.httpcore})


@cache
def async_backend(flavour: Flavour) -> Any:
    return type("AsyncBackend", (AsyncBackend, flavour.httpcore.AnyIOBackend), {"errors": flavour.httpcore})
