"""A fleet of real servers on loopback, in threads of this process, with faults on demand."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from dataclasses import dataclass, field, replace
from types import TracebackType

import h11

from ..instance import Instance


@dataclass(frozen=True)
class Behaviour:
    """How a server of the fleet answers.

    delay:  seconds before the answer
    fault:  what goes wrong: "silent" (never answers), "reset" (RST in place of an answer), "close" (FIN in place of an
            answer), "garbage" (no HTTP), "truncate" (FIN in the middle of the body), "reset_body" (RST there),
            "slow_body", "slow_headers" (a byte every 50 ms), "close_idle" (a good answer; the connection is closed some
            10 ms later, without a word)
    """

    status: int = 200
    body: bytes = b"ok"
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0
    fault: str | None = None


OK = Behaviour()
FAILING = Behaviour(status=503, body=b"failing")
SLOW = Behaviour(delay=0.3)
SILENT = Behaviour(fault="silent")
RESETTING = Behaviour(fault="reset")
CLOSING = Behaviour(fault="close")
GARBAGE = Behaviour(fault="garbage")
TRUNCATING = Behaviour(fault="truncate", body=b"x" * 5000)
RESETTING_BODY = Behaviour(fault="reset_body", body=b"x" * 5000)
SLOW_BODY = Behaviour(fault="slow_body", body=b"x" * 100)
SLOW_HEADERS = Behaviour(fault="slow_headers", body=b"x" * 100)
CLOSING_IDLE = Behaviour(fault="close_idle")


@dataclass(frozen=True)
class Received:
    """A request as it reached a server. complete: its body came whole."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    complete: bool


@dataclass
class Server:
    """One instance of the fleet: a real server in threads of this process.

    tls:       a server's `ssl.SSLContext`, to speak TLS
    received:  requests, in order of arrival
    open:      connections that are open now
    peak:      the most there were at once
    """

    behaviour: Behaviour = OK
    tls: ssl.SSLContext | None = None
    received: list[Received] = field(default_factory=list)
    peak: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._script: list[Behaviour] = []
        self._listener = _bound(0)
        self.port: int = self._listener.getsockname()[1]
        self._listen()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def instance(self) -> Instance:
        return Instance("127.0.0.1", self.port)

    @property
    def open(self) -> int:
        return len(self._connections)

    def behave(self, behaviour: Behaviour, *then: Behaviour) -> None:
        """Behave like that from now on; with more than one: for one request each, the last for good."""
        with self._lock:
            *script, self.behaviour = (behaviour, *then)
            self._script = list(script)

    def refuse(self) -> None:
        """Refuse connections and drop those there are, like a process that was killed."""
        _shut(self._listener)
        self._listener.close()
        self._listener = _bound(self.port)  # bound and not listening: refused, and the port stays ours
        self.drop_connections()

    def accept(self) -> None:
        """Undo `refuse`."""
        self._listen()

    def drop_connections(self) -> None:
        """Close all connections, in use or not."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            _shut(connection)

    def stop(self) -> None:
        self._stop.set()
        _shut(self._listener)
        self._listener.close()
        self.drop_connections()
        for thread in self._threads:
            thread.join(5)

    def _listen(self) -> None:
        self._listener.listen(256)
        self._start(self._accept, self._listener)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        with self._lock:
            self._threads = [old for old in self._threads if old.is_alive()]
            self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections.add(connection)
                self.peak = max(self.peak, len(self._connections))
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        raw = connection
        try:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._connections.discard(raw)
                    self._connections.add(connection)
            http = h11.Connection(h11.SERVER)
            while not self._stop.is_set() and self._serve_one(connection, http):
                http.start_next_cycle()
        except (OSError, h11.ProtocolError):
            pass
        finally:
            with self._lock:
                self._connections.difference_update((raw, connection))
            connection.close()
            raw.close()

    def _serve_one(self, connection: socket.socket, http: h11.Connection) -> bool:
        """Serve one request; whether the connection can serve another."""
        request, body, complete = None, b"", False
        try:
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(connection.recv(65536))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    complete = True
                    break
                else:
                    return False
        finally:
            if request is not None:
                headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
                received = Received(request.method.decode(), request.target.decode(), headers, body, complete)
                with self._lock:
                    self.received.append(received)
        with self._lock:
            behaviour = self._script.pop(0) if self._script else self.behaviour
        bodiless = (request is not None and request.method == b"HEAD") or behaviour.status in (204, 304)
        return self._answer(connection, http, behaviour, bodiless)

    def _answer(self, connection: socket.socket, http: h11.Connection, behaviour: Behaviour, bodiless: bool) -> bool:
        """Answer as it is told to; whether the connection goes on."""
        fault = behaviour.fault
        if behaviour.delay and self._stop.wait(behaviour.delay):
            return False
        if fault is not None and fault in BEFORE_ANSWER:
            return _fail_at_once(connection, fault)
        head = self._head(http, behaviour)
        if bodiless:
            behaviour = answering(behaviour, b"")
        if fault in ("truncate", "reset_body"):
            connection.sendall(head + behaviour.body[: len(behaviour.body) // 2])
            # The client shall have the headers before the end comes.
            self._stop.wait(0.02)
            return _reset(connection) if fault == "reset_body" else False
        if fault in ("slow_body", "slow_headers"):
            return self._drip(connection, head, behaviour.body, slow_headers=fault == "slow_headers")
        body = (http.send(h11.Data(behaviour.body)) or b"") if behaviour.body else b""
        connection.sendall(head + body + (http.send(h11.EndOfMessage()) or b""))
        if fault == "close_idle":
            self._stop.wait(0.01)
            return False
        return http.our_state is h11.DONE and http.their_state is h11.DONE

    def _head(self, http: h11.Connection, behaviour: Behaviour) -> bytes:
        headers = [*behaviour.headers]
        named = "content-length" in {name.lower() for name, _ in headers}
        if not named and behaviour.status != 204:
            headers.append(("content-length", str(len(behaviour.body))))
        return http.send(h11.Response(status_code=behaviour.status, headers=headers, reason=b"")) or b""

    def _drip(self, connection: socket.socket, head: bytes, body: bytes, slow_headers: bool) -> bool:
        """A byte now and then."""
        if not slow_headers:
            connection.sendall(head)
            head = b""
        for byte in head + body:
            if self._stop.wait(0.05):
                return False
            connection.sendall(bytes([byte]))
        return False


BEFORE_ANSWER = {"silent", "reset", "close", "garbage"}


def _fail_at_once(connection: socket.socket, fault: str) -> bool:
    if fault == "reset":
        return _reset(connection)
    if fault == "silent":
        connection.recv(1)  # returns when either side closes
    if fault == "garbage":
        connection.sendall(b"\x00\x01 this is not HTTP \xff\r\n\r\n")
    return False


class Fleet:
    """Some servers on loopback. A context manager: they stop at its end."""

    def __init__(self, count: int = 3, behaviour: Behaviour = OK, *, tls: ssl.SSLContext | None = None) -> None:
        self.servers = [Server(behaviour, tls) for _ in range(count)]

    @property
    def addresses(self) -> list[str]:
        return [server.address for server in self.servers]

    @property
    def received(self) -> list[Received]:
        """What reached any of them."""
        return [request for server in self.servers for request in server.received]

    @property
    def open(self) -> int:
        return sum(server.open for server in self.servers)

    def behave(self, behaviour: Behaviour) -> None:
        for server in self.servers:
            server.behave(behaviour)

    def server_of(self, instance: Instance) -> Server:
        return next(server for server in self.servers if server.port == instance.port)

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def __getitem__(self, index: int) -> Server:
        return self.servers[index]

    def __len__(self) -> int:
        return len(self.servers)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def answering(behaviour: Behaviour, body: bytes) -> Behaviour:
    """That behaviour with another body."""
    return replace(behaviour, body=body)


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener


def _reset(connection: socket.socket) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    return False


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
