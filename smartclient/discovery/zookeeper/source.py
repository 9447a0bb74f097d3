"""ZooKeeper: Curator's layout of service discovery, watched. And `register`, for services that serve. Needs the extra
`smartclient[zookeeper]` (kazoo).

    /services/orders/5f1c…   {"name": "orders", "id": "5f1c…", "address": "10.0.0.1", "port": 8080, "sslPort": null,
                              "payload": {"metadata": {"zone": "a"}}, "enabled": true}      (an ephemeral node)

One session serves all watches of a source: a server allows 60 connections per address (maxClientCnxns), not one per
service. A session that does not reconnect is replaced by a new one: a server that has lost its data permanently refuses
a client that has seen a newer zxid.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import SplitResult

from ...support.hosts import wire_name
from ...support.untrusted import shown
from ..base import Addresses, Discovery
from ..options import GRACE, TIMEOUT, Option, check_options, path, read_options, text
from ..registration import Address, Registration, checked_id, checked_ttl, kept_alive, listed, registration
from ..threads import Lock, taken
from .curator import Reading, entry_of

PORT = 2181
OPTIONS: dict[str, Option] = {
    "user": text,
    "ca_file": path,
    "timeout": TIMEOUT,
    "session_timeout": TIMEOUT,
    "grace": GRACE,
}
PATIENCE = 2.0  # seconds that a session may be without a server before a new one is tried
# Seconds that a server may be silent after it has taken a connection, at first: one that is starting forgets whoever
# asked for a session then, and kazoo would wait for it for the whole session_timeout.
SILENCE = 2.0


class ZooKeeper(Discovery):
    """The instances that Curator, or Spring Cloud ZooKeeper, has registered.

    hosts:     "10.0.0.1:2181,10.0.0.2:2181"
    base:      the path above the services
    user, password: digest authentication; the password also from ZOOKEEPER_PASSWORD
    timeout:   seconds to connect, and for an answer
    session_timeout: seconds after which the server forgets what a dead client has registered
    tls:       speak TLS, and verify the server's certificate and its name
    ca_file, cert: for that; cert is (certificate, key)
    """

    def __init__(
        self,
        hosts: str = f"127.0.0.1:{PORT}",
        *,
        base: str = "/services",
        user: str | None = None,
        password: str | None = None,
        timeout: float = 5.0,
        session_timeout: float = 10.0,
        tls: bool = False,
        ca_file: str | os.PathLike[str] | None = None,
        cert: tuple[str, str] | None = None,
        grace: float = 10.0,
    ) -> None:
        check_options("ZooKeeper", OPTIONS, locals())
        if not isinstance(hosts, str) or not hosts.strip() or "/" in hosts or "@" in hosts:
            raise ValueError(f"ZooKeeper.hosts: expected 'host:port,host:port', got {shown(hosts)}")
        self._kazoo = _Kazoo()
        self.hosts = hosts
        self.base: str = "/" + base.strip("/") if base.strip("/") else ""
        self.grace = grace
        self._auth = None if user is None else (user, password or os.environ.get("ZOOKEEPER_PASSWORD") or "")
        self._timeout = timeout
        self._session_timeout = session_timeout
        self._tls: dict[str, Any] = {}
        if tls:
            certificate, key = cert or (None, None)
            self._tls = {"use_ssl": True, "verify_certs": True, "check_hostname": True, "certfile": certificate,
                         "keyfile": key, "ca": None if ca_file is None else str(ca_file)}  # fmt: skip
        self._lock = Lock()
        self._shared: _Session | None = None
        self._queues: dict[threading.Event, SimpleQueue[Any]] = {}
        self._silence = SILENCE

    @classmethod
    def from_url(cls, parts: SplitResult, options: Mapping[str, list[str]]) -> ZooKeeper:
        """`zookeeper://host:port,host:port/base?user=…`; `zookeeper+tls://` for TLS."""
        if "@" in parts.netloc:
            raise ValueError("zookeeper:// takes no user before the host; write ?user=…, and ZOOKEEPER_PASSWORD")
        keywords = read_options("zookeeper", options, OPTIONS)
        if parts.scheme.endswith("+tls"):
            keywords["tls"] = True
        if parts.path.strip("/"):
            keywords["base"] = parts.path
        return cls(parts.netloc or f"127.0.0.1:{PORT}", **keywords)

    def watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        queue = self._queues[stop] = SimpleQueue()
        session = self._join()
        reading = Reading(self._kazoo, self.base, service, queue.put, self._timeout)
        session.listeners[stop] = lambda state: queue.put(None)
        try:
            while not stop.is_set():
                self._connected(session, queue, reading, stop)
                if stop.is_set():
                    return
                if reading.changed(session.client):
                    yield list(reading.values.values())
                said = [taken(queue, stop)]
                try:
                    while True:
                        said.append(queue.get_nowait())
                except Empty:
                    reading.told(said)
        except self._kazoo.trouble as error:
            raise ConnectionError(_in_words(error)) from None
        finally:
            self._queues.pop(stop, None)
            session.listeners.pop(stop, None)
            self._leave(session)

    def interrupt(self, stop: threading.Event) -> None:
        queue = self._queues.get(stop)
        if queue is not None:
            queue.put(None)

    def __str__(self) -> str:
        return f"zookeeper at {self.hosts}"

    def register(
        self,
        service: str,
        address: Address,
        *,
        id: str | None = None,
        meta: Mapping[str, str] | None = None,
        weight: float | None = None,
        ttl: float | None = None,
        payload: Mapping[str, Any] | None = None,
    ) -> Registration:
        """Have an instance listed while a block runs (`with` or `async with`), by an ephemeral node that is made again
        when its session was lost; its id.

            with ZooKeeper("127.0.0.1:2181").register("orders", "10.0.0.1:8080"): serve()

        id:      its own among the instances; None: made of this host and this process
        meta:    its metadata, as Spring Cloud ZooKeeper writes it
        weight:  None: the address's, else 1
        ttl:     seconds after which it leaves the list if this process dies: those of a session of its own; None: it
                 uses the source's (`session_timeout`)
        payload: what else Curator's payload has
        """
        return self._registered(service, address, id, meta, weight, ttl, payload)

    @registration
    def _registered(
        self,
        service: str,
        address: Address,
        id: str | None,
        meta: Mapping[str, str] | None,
        weight: float | None,
        ttl: float | None,
        payload: Mapping[str, Any] | None,
    ) -> Iterator[str]:
        service, instance = checked_id("register: service", wire_name(service)), listed(address, id, meta, weight)
        entry, name = entry_of(service, instance, payload, time.time()), instance.id or ""
        path, value = (
            f"{self.base}/{service}/{name}",
            json.dumps(entry).encode(),
        )
        lasting = self._session_timeout if ttl is None else checked_ttl(ttl, 1)

        def join() -> _Session:
            return self._join() if ttl is None else _Session(self._client(lasting), users=1)

        session = join()

        def beat() -> None:
            nonlocal session
            if not session.wait(self._timeout):
                self._give_up(session)
                self._leave(session)
                session = join()
                raise ConnectionError("no connection")
            there = session.client.exists(path)
            if there is not None and there.ephemeralOwner != session.client.client_id[0]:
                session.client.delete(path)  # a node of an earlier run, which would disappear with its session
                there = None
            if there is None:
                session.client.create(path, value, ephemeral=True, makepath=True)

        def end() -> None:
            session.client.delete_async(path).get(timeout=self._timeout)

        trouble = (*self._kazoo.trouble, ConnectionError)
        try:
            beat()
            with kept_alive(service, self, lasting / 5, beat, end, trouble):
                yield name
        except self._kazoo.trouble as error:
            raise ConnectionError(f"{self}: {_in_words(error)}") from None
        finally:
            self._leave(session)

    def _connected(self, session: _Session, queue: SimpleQueue[Any], reading: Reading, stop: threading.Event) -> None:
        """Wait for the session. Raises ConnectionError, and has a new one made, if it does not come (back) in time."""
        patience = self._timeout if not session.came else PATIENCE
        until = time.monotonic() + patience
        while not session.client.connected and not stop.is_set():
            silence = self._silence
            silent_until = math.inf if session.came else session.reached_at + silence
            try:
                reading.told([queue.get(timeout=max(0.0, min(until, silent_until) - time.monotonic()))])
            except Empty:
                first = self._give_up(session)
                if silent_until > until:
                    raise ConnectionError(f"no connection within {patience:g} s") from None
                if first:  # of the watches that share it; the server may be slow
                    self._silence = min(2.0 * silence, self._timeout)
                raise ConnectionError(f"it took a connection, and was silent for {silence:g} s") from None
        session.came, self._silence = True, SILENCE

    def _join(self) -> _Session:
        with self._lock:
            session = self._shared
            if session is None or session.pid != os.getpid():  # a forked child has none of its parent's threads
                session = self._shared = _Session(self._client(self._session_timeout))
            session.users += 1
            return session

    def _give_up(self, session: _Session) -> bool:
        """Nobody else shall join it. Whether somebody could have until now."""
        with self._lock:
            shared = self._shared is session
            if shared:
                self._shared = None
            return shared

    def _leave(self, session: _Session) -> None:
        with self._lock:
            session.users -= 1
            over = session.users <= 0
            if over and self._shared is session:
                self._shared = None
        if over and session.pid == os.getpid():
            session.end()

    def _client(self, session_timeout: float) -> Any:
        retry = {"max_tries": -1, "delay": 0.1, "backoff": 2, "max_delay": 1.0}
        auth = None if self._auth is None else [("digest", ":".join(self._auth))]
        return self._kazoo.client(
            hosts=self.hosts, timeout=session_timeout, connection_retry=retry, auth_data=auth,
            logger=_quiet_logger(), **self._tls,
        )  # fmt: skip


class _Session:
    """A client, the watches that share it, and who wants to know of its state.

    came:        it has had a server
    reached_at:  when a server took its newest connection; infinite: none has yet
    """

    def __init__(self, client: Any, users: int = 0) -> None:
        self.client = client
        self.pid = os.getpid()
        self.users = users
        self.came = False
        self.reached_at = math.inf
        self._create_connection = client.handler.create_connection
        client.handler.create_connection = self._reach
        self.listeners: dict[Any, Callable[[Any], None]] = {}
        client.add_listener(self._changed)
        client.start_async()

    def wait(self, timeout: float) -> bool:
        until = time.monotonic() + timeout
        woken = threading.Event()
        self.listeners[woken] = lambda state: woken.set()
        try:
            while not self.client.connected and time.monotonic() < until:
                woken.wait(max(0.0, until - time.monotonic()))
                woken.clear()
        finally:
            self.listeners.pop(woken, None)
        return bool(self.client.connected)

    def end(self) -> None:
        if self.client.connected:
            self._stop()
        else:  # kazoo waits for its own thread, which may be waiting for a silent server
            threading.Thread(target=self._stop, name="smartclient-zookeeper-end", daemon=True).start()

    def _stop(self) -> None:
        self.client.stop()
        self.client.close()

    def _reach(self, *where: Any, **how: Any) -> Any:
        self.reached_at = math.inf
        connection = self._create_connection(*where, **how)
        self.reached_at = time.monotonic()
        self._changed(None)
        return connection

    def _changed(self, state: Any) -> None:
        for listener in tuple(self.listeners.values()):
            listener(state)


class _Kazoo:
    """What is used of kazoo, imported when it is needed."""

    def __init__(self) -> None:
        try:
            from kazoo import client, exceptions
            from kazoo.handlers.threading import KazooTimeoutError
        except ImportError:
            raise ImportError("ZooKeeper needs kazoo: pip install 'smartclient[zookeeper]'") from None
        self.client: Any = client.KazooClient
        self.no_node: Any = exceptions.NoNodeError
        self.trouble: tuple[type[Exception], ...] = (exceptions.KazooException, KazooTimeoutError)


class _NoSecrets(logging.Filter):
    """kazoo logs its requests at DEBUG, the one with the password too."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple("Auth(…)" if type(one).__name__ == "Auth" else one for one in record.args)
        return True


def _quiet_logger() -> logging.Logger:
    quiet = logging.getLogger("kazoo.smartclient")
    if not quiet.filters:
        quiet.addFilter(_NoSecrets())
    return quiet


def _in_words(error: Exception) -> str:
    kind = type(error).__name__
    hint = {
        "NoAuthError": " (user and password? they need to read the base path)",
        "AuthFailedError": " (user and password?)",
        "KazooTimeoutError": " (the server is silent)",
    }.get(kind, "")
    return f"{kind}{f': {error}' if str(error) else ''}{hint}"
