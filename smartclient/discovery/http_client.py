"""Asking a registry over HTTP. One reader for all: an answer is limited in size and in time, even if single bytes
arrive slowly; a wait can be ended from another thread, over TLS too; no more is read than was asked for.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

from ..support.untrusted import from_json
from .http_transport import DirectTransport, unlogged

MOST_BYTES = 64 << 20  # of an answer, after decompression
Lines = Iterator[list[bytes]]
BATCH, GATHERED = 1 << 20, 0.25  # bytes, seconds: of lines that are taken together
PIECE = 1 << 16  # bytes decompressed in one step; also the most that is read of an error answer


class Answer:
    """An answer, read to its end."""

    def __init__(self, status_code: int, headers: httpx.Headers, content: bytes) -> None:
        self.status_code = status_code
        self.headers = headers
        self.content = content

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """Raises ValueError for what is no JSON."""
        return from_json(self.content)


class HttpClient:
    """A connection to a registry, for one thread after the other.

    url:      the base of all paths
    timeout:  seconds to connect, and to wait for each piece of an answer; a whole answer may take three times as long
    verify:   from `tls`
    most:     bytes of an answer, after decompression; of one line, where lines are read
    uds:      path of a Unix socket
    """

    def __init__(
        self,
        url: httpx.URL | str,
        *,
        timeout: float,
        verify: ssl.SSLContext,
        most: int = MOST_BYTES,
        headers: Mapping[str, str] | None = None,
        auth: Any = None,
        uds: str | None = None,
    ) -> None:
        self.timeout = timeout
        self._most = most
        self._network = Network()
        transport = DirectTransport(verify=verify)
        # httpx has no option for its pool's network backend.
        transport._pool = self._pool = httpcore.ConnectionPool(
            ssl_context=verify, max_connections=1, network_backend=self._network, uds=uds
        )
        headers = {**(headers or {}), "Accept-Encoding": "gzip"}
        url = httpx.URL(url)
        if url.userinfo:  # httpx logs URLs
            auth, url = auth or (url.username, url.password), url.copy_with(userinfo=b"")
        self._client = httpx.Client(base_url=url, transport=transport, headers=headers, auth=auth, trust_env=False)
        self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # none is kept
        self.headers: httpx.Headers = self._client.headers
        self.close: Callable[[], None] = self._client.close
        self.cut: Callable[[], None] = self._network.cut

    def __enter__(self) -> HttpClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def reached(self) -> bool:
        """Whether there was a connection, if only for a moment."""
        return self._network.connected

    def get(self, path: str, **options: Any) -> Answer:
        return self.ask("GET", path, **options)

    def post(self, path: str, **options: Any) -> Answer:
        return self.ask("POST", path, **options)

    def put(self, path: str, **options: Any) -> Answer:
        return self.ask("PUT", path, **options)

    def ask(self, method: str, path: str, *, wait: float = 0.0, **options: Any) -> Answer:
        """The answer. wait: seconds that the registry may keep it back. options: as of httpx

        Raises httpx's errors; ValueError for an answer that is too long, or in an encoding that was not asked for.
        """
        timeout = httpx.Timeout(self.timeout, read=self.timeout + wait)
        request = self._client.build_request(method, path, timeout=timeout, **options)
        self._network.ends_at = self._end(wait)
        answer = self._send(request)
        try:
            content = bytearray()
            for piece in self._pieces(answer):
                content += piece
                if len(content) > self._most:
                    raise ValueError(f"the answer is longer than {self._most} bytes")
            return Answer(answer.status_code, answer.headers, bytes(content))
        finally:
            self._network.ends_at = None
            answer.close()

    @contextmanager
    def lines(self, method: str, path: str, *, quiet: float, **options: Any) -> Iterator[Answer | Lines]:
        """A streamed answer, line by line (lines that have already arrived come together); if the status is not 200,
        the whole answer. quiet: seconds without data after which httpx.ReadTimeout is raised.
        """
        timeout = httpx.Timeout(self.timeout, read=quiet)
        request = self._client.build_request(method, path, timeout=timeout, **options)
        self._network.ends_at = self._end(quiet)
        answer = self._send(request)
        try:
            if answer.status_code == 200:
                yield self._batches(answer)
            else:
                self._network.ends_at = self._end()
                content = b""
                for piece in self._pieces(answer):
                    content += piece[:PIECE]
                    if len(content) > PIECE:
                        break
                yield Answer(answer.status_code, answer.headers, content)
        finally:
            self._network.ends_at = None
            answer.close()

    def _send(self, request: httpx.Request) -> httpx.Response:
        with unlogged():
            return self._client.send(request, stream=True)

    def _end(self, wait: float = 0.0) -> float:
        """When the answer to the current request must be complete. wait: seconds in which no data may arrive"""
        return time.monotonic() + wait + 3 * self.timeout

    def _batches(self, answer: httpx.Response) -> Iterator[list[bytes]]:
        self._network.ends_at = None
        lines: list[bytes] = []
        size, first_at = 0, 0.0  # of the lines
        begun = bytearray()  # a line
        for piece in self._pieces(answer):
            *whole, rest = piece.split(b"\n")
            for line in whole:
                begun += line
                if begun.strip():
                    first_at = first_at if lines else time.monotonic()
                    size += len(begun)
                    lines.append(bytes(begun))
                begun = bytearray()
            begun += rest
            if len(begun) > self._most:
                raise ValueError(f"a line is longer than {self._most} bytes")
            # A line that has begun must end in time: single bytes do not extend the time limit.
            if not begun:
                self._network.ends_at = None
            elif whole or self._network.ends_at is None:
                self._network.ends_at = self._end()
            if lines and (size > BATCH or time.monotonic() - first_at > GATHERED or not self._more()):
                yield lines
                lines, size = [], 0
        if begun.strip():
            lines.append(bytes(begun))
        if lines:
            yield lines

    def _more(self) -> bool:
        """Whether something has come that was not read yet."""
        return self._network.more() or any(map(_unparsed, self._pool.connections))

    def _pieces(self, answer: httpx.Response) -> Iterator[bytes]:
        """The content, decompressed in small steps: 64 KB may become 64 MB."""
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding in ("identity", ""):
            yield from answer.iter_raw()
            return
        if encoding not in ("gzip", "x-gzip"):
            raise ValueError(f"the answer's encoding was not asked for: {encoding[:20]}")
        decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            for data in answer.iter_raw():
                while data:
                    if decoder.eof:
                        raise ValueError("the answer goes on after its end (gzip)")
                    yield decoder.decompress(data, PIECE)
                    data = decoder.unconsumed_tail or decoder.unused_data
            if not decoder.eof:
                raise ValueError("the answer is cut short (gzip)")
        except zlib.error as error:
            raise ValueError(f"the answer is no gzip: {error}") from None


class Waits:
    """The clients that a source's watches ask with, so that another thread can end what one waits for."""

    def __init__(self) -> None:
        self._clients: dict[threading.Event, HttpClient] = {}

    @contextmanager
    def of(self, stop: threading.Event, client: HttpClient) -> Iterator[HttpClient]:
        """For one watch: `client`, closed at the end."""
        with client:
            self._clients[stop] = client
            try:
                yield client
            finally:
                self._clients.pop(stop, None)

    def end(self, stop: threading.Event) -> None:
        client = self._clients.get(stop)
        if client is not None:
            client.cut()


class Network(httpcore.NetworkBackend):
    """The network backend: it enforces a total time, and another thread can end its waits.

    ends_at:    when the answer must be complete, even if it arrives in small pieces; None: no limit
    stream:     the connection
    connected:  it was, if only for a moment
    """

    def __init__(self) -> None:
        self.ends_at: float | None = None
        self.connected: bool = False
        self._backend = httpcore.SyncBackend()
        self.stream: _Stream | None = None
        self._was_cut = False

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        """A name's addresses, one after the other, all within the total time."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        addresses = list(dict.fromkeys(address[:2] for *_, address in found))
        for number, (address, _) in enumerate(addresses, 1):
            left = self.left(timeout, httpcore.ConnectTimeout)
            try:
                return self._made(self._backend.connect_tcp(str(address), port, left, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses) or self._was_cut:
                    raise
        raise httpcore.ConnectError(f"{host} has no address")

    def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        return self._made(self._backend.connect_unix_socket(*args, **options))

    def _made(self, stream: httpcore.NetworkStream) -> _Stream:
        self.connected = True
        try:
            made = _Stream(stream, self)
        except OSError as error:  # no file descriptor available
            stream.close()
            raise httpcore.ConnectError(str(error)) from error
        self.stream = made
        if self._was_cut:
            made.close()
            raise httpcore.ConnectError("stopped")
        return made

    def cut(self) -> None:
        """End current and future waits: from any thread."""
        self._was_cut = True
        if self.stream is not None:
            self.stream.cut()

    def more(self) -> bool:
        """Whether something has come that was not read yet."""
        return self.stream is not None and self.stream.more()

    def left(self, timeout: float | None, late: type[Exception]) -> float | None:
        if self._was_cut:
            raise httpcore.ReadError("stopped")
        if self.ends_at is None:
            return timeout
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise late("the answer takes too long")
        return left if timeout is None else min(timeout, left)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, network: Network, handle: socket.socket | None = None) -> None:
        self._stream = stream
        self._network = network
        # A second handle for the same socket: TLS takes over the first one's descriptor, and has no dup(). A blocked
        # recv wakes on shutdown, not on close.
        self._handle = handle or socket.socket(fileno=os.dup(stream.get_extra_info("socket").fileno()))

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        timeout = self._network.left(timeout, httpcore.ReadTimeout)
        try:
            return self._stream.read(max_bytes, timeout)
        except httpcore.ReadTimeout:
            self._network.left(timeout, httpcore.ReadTimeout)
            raise httpcore.ReadTimeout(f"nothing came for {timeout:.3g} s") from None

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._network.left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._handle.close()
        self._stream.close()

    def start_tls(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        try:
            secure = self._stream.start_tls(*args, **options)
        except BaseException:
            self.close()
            raise
        self._network.stream = made = _Stream(secure, self._network, self._handle)
        return made

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def cut(self) -> None:
        try:
            self._handle.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def more(self) -> bool:
        secure = self._stream.get_extra_info("ssl_object")  # poll does not see data that TLS has already decrypted
        return bool(secure is not None and secure.pending()) or bool(self._stream.get_extra_info("is_readable"))


def _unparsed(connection: Any) -> bool:
    """Whether the parser has data not yet returned. (httpcore has no API for it; a test pins these names.)"""
    try:
        return bool(connection._connection._h11_state.trailing_data[0].strip())  # a chunk's end is nothing
    except AttributeError:
        return False
