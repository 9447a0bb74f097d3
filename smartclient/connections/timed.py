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
        if times is None:
            self._stream.write(buffer, timeout)
            return
        for at in range(0, len(buffer), PIECE):
            self._stream.write(buffer[at : at + PIECE], times.cut(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, *args: Any, **keywords: Any) -> Any:
        self._backend.stream = made = SyncTimed(self._stream.start_tls(*args, **keywords), self._backend)
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

    async def start_tls(self, *args: Any, **keywords: Any) -> Any:
        return AsyncTimed(await self._stream.start_tls(*args, **keywords), self._backend)


class Backend:
    """What the backends of both kinds remember of their link.

    times:   of the present request; None: httpx's alone
    stream:  the connection
    loop:    async only: the loop it belongs to
    """

    times: TimeLeft | None = None
    stream: Any = None
    loop: Any = None

    def cut(self) -> None:
        """Make whoever waits for that connection find it ended, from any thread."""
        try:
            self.stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        except (OSError, AttributeError):
            pass


class SyncBackend(Backend):
    """Over httpcore's `SyncBackend`."""

    def connect_tcp(self, *args: Any, **keywords: Any) -> Any:
        self.stream = made = SyncTimed(super().connect_tcp(*args, **keywords), self)  # type: ignore[misc]
        return made


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
    return type("SyncBackend", (SyncBackend, flavour.httpcore.SyncBackend), {})


@cache
def async_backend(flavour: Flavour) -> Any:
    return type("AsyncBackend", (AsyncBackend, flavour.httpcore.AnyIOBackend), {})
