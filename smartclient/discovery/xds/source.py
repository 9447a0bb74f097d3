"""xDS: endpoints from a control plane (EDS), so that a process is a proxyless member of an Istio or Envoy mesh. Needs
the extra `smartclient[xds]` (grpcio, xds-protos).

The rules are those of the xDS protocol ("xDS REST and gRPC protocol"), state of the world, aggregated (ADS):

1. One stream serves all services of a source. Each request names all that are wanted; the first one says who we are.
2. An answer is acknowledged with its version and nonce (ACK), or refused with the last good version and the reason
   (NACK); the good parts of a refused answer are still used (gRPC A46).
3. A service that is not in the answer stays unchanged. One that was never known and is not mentioned within 15 s does
   not exist (Envoy: initial_fetch_timeout; gRPC A57).
4. After a disconnect everything is requested again, without version and nonce. If a control plane reconnects and does
   not mention a known service, the service is not removed.

Or by polling: POST /v3/discovery:endpoints, with the same messages as JSON. What the messages mean is in `messages`.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import SplitResult

from ..base import Addresses, Discovery
from ..http import RegistryAnswer, registry_url, tls, token_in
from ..http_client import MOST_BYTES, HttpClient
from ..options import COMMON, Option, check_options, flag, path, read_options, seconds, text
from ..threads import Lock, taken
from .messages import Assignment, Messages
from .stream import Stream

PORT = 18000
OPTIONS: dict[str, Option] = {
    **dict.fromkeys(("cluster", "node", "node_cluster"), text),
    **dict.fromkeys(("ca_file", "token_file"), path),
    **dict.fromkeys(("absent_after", "keepalive", "interval"), seconds()),
    "rest": flag,
    **COMMON,
}
FOREVER = float("inf")
REST_PATH = "/v3/discovery:endpoints"


class Xds(Discovery):
    """The endpoints of clusters, from a control plane.

    address:   "127.0.0.1:18000"; "https://…" for TLS
    cluster:   the name of a service's cluster there, "{service}" in it: Istio's are
               "outbound|80||{service}.shop.svc.cluster.local"
    node:      who we are to the control plane; None: host and process. Istio wants
               "sidecar~IP~POD.NAMESPACE~NAMESPACE.svc.cluster.local"
    node_cluster: which cluster this process belongs to
    rest:      poll by REST-JSON, every `interval` seconds
    ca_file, cert: for TLS; cert is (certificate, key)
    token_file: of a bearer token, read again for each stream
    absent_after: seconds of silence after which a cluster does not exist
    keepalive: seconds between two pings of a quiet stream
    timeout:   seconds to connect, and for an answer by REST (the whole of one: three times that)
    most_bytes: of an answer

    gRPC does not survive a fork; in servers that fork after the first call, use rest=True.
    """

    def __init__(
        self,
        address: str = f"127.0.0.1:{PORT}",
        *,
        cluster: str = "{service}",
        node: str | None = None,
        node_cluster: str = "",
        rest: bool = False,
        ca_file: str | os.PathLike[str] | None = None,
        cert: tuple[str, str] | None = None,
        token_file: str | os.PathLike[str] | None = None,
        absent_after: float = 15.0,
        keepalive: float = 60.0,
        interval: float = 5.0,
        timeout: float = 5.0,
        most_bytes: int = MOST_BYTES,
        grace: float = 10.0,
    ) -> None:
        check_options("Xds", OPTIONS, locals())
        if "{service}" not in cluster:
            raise ValueError(f"Xds.cluster: expected '{{service}}' in it, got {cluster!r}")
        self._messages = Messages(node or f"{socket.gethostname()}-{os.getpid()}", node_cluster)
        self.grace = grace
        self._address = address
        self._url = registry_url("Xds", address, PORT)
        self._cluster = cluster
        self._rest = rest
        self._tls = self._url.scheme == "https"
        self._ca_file, self._cert, self._token_file = ca_file, cert, token_file
        self._verify = tls([self._url] if rest else [], str(ca_file) if ca_file else True, cert)
        self._absent_after, self._keepalive = absent_after, keepalive
        self._interval, self._timeout, self._most_bytes = interval, timeout, most_bytes
        self._lock = Lock()
        self._shared: Stream | None = None
        self._holds_until: dict[str, float] = {}  # the last assignment of each cluster that is known
        self._queues: dict[threading.Event, SimpleQueue[Any]] = {}

    @classmethod
    def from_url(cls, parts: SplitResult, options: Mapping[str, list[str]]) -> Xds:
        """`xds://host:port?cluster=outbound|80||{service}.shop.svc.cluster.local&node=…`; `?rest=true` polls;
        `xds+https://` for TLS.
        """
        scheme = "https" if parts.scheme.endswith("https") else "http"
        address = f"{scheme}://{parts.netloc or f'127.0.0.1:{PORT}'}{parts.path}"
        return cls(address, **read_options("xds", options, OPTIONS))

    def watch(self, service: str, stop: threading.Event) -> Iterator[Addresses]:
        name = self._cluster.replace("{service}", service)
        assignments = self._polled(name, stop) if self._rest else self._streamed(name, stop)
        yield from assignments

    def interrupt(self, stop: threading.Event) -> None:
        queue = self._queues.get(stop)
        if queue is not None:
            queue.put(None)

    def __str__(self) -> str:
        return f"xds at {self._url.netloc.decode()}"

    def _streamed(self, name: str, stop: threading.Event) -> Iterator[Addresses]:
        queue = self._queues[stop] = SimpleQueue()
        stream = self._join(name, queue)
        shown: Assignment | None = None
        try:
            while True:
                known = name in self._holds_until
                wait = self._absent_after if not known else self._holds_until[name] - time.monotonic()
                try:
                    said = _newest(queue, taken(queue, stop, None if wait == FOREVER else max(wait, 0.0)))
                except Empty:
                    if not known and time.monotonic() - stream.began < 2 * self._timeout:
                        continue  # it may not be connected yet (gRFC A57): gRPC says after `timeout` if it cannot be
                    said = Assignment()  # it does not exist; or its assignment is stale
                    if known:
                        self._holds_until[name] = FOREVER
                else:
                    if isinstance(said, Assignment):
                        holds = FOREVER if said.stale_after is None else said.stale_after
                        self._holds_until[name] = time.monotonic() + holds
                if stop.is_set():
                    return
                if isinstance(said, Exception):
                    raise said
                if said != shown:
                    shown = said
                    yield said
        finally:
            self._queues.pop(stop, None)
            self._leave(stream, name, queue)

    def _polled(self, name: str, stop: threading.Event) -> Iterator[Addresses]:
        shown: Assignment | None = None
        version = ""
        headers = {"Content-Type": "application/json"}
        with HttpClient(
            self._url, verify=self._verify, timeout=self._timeout, most=self._most_bytes, headers=headers
        ) as client:
            while not stop.is_set():
                token = self._token()
                answer = client.post(
                    REST_PATH,
                    content=self._messages.as_json(self._messages.request([name], version)),
                    headers={} if token is None else {"Authorization": f"Bearer {token}"},
                )
                if answer.status_code not in (200, 304):
                    raise XdsAnswer(answer.status_code, answer.text)
                if answer.status_code == 200:
                    response = self._messages.from_json(answer.text)
                    found, problem = self._messages.assignments(response)
                    if problem is not None and name not in found:
                        raise ValueError(f"an answer was refused: {problem}")
                    version = response.version_info
                    said = found.get(name)
                    if said is None and name not in self._holds_until:
                        said = Assignment()
                    elif said is not None:
                        self._holds_until[name] = FOREVER
                    if said is not None and said != shown:
                        shown = said
                        yield said
                stop.wait(self._interval)

    def _join(self, name: str, queue: SimpleQueue[Any]) -> Stream:
        with self._lock:
            stream = self._shared
            if stream is None or stream.pid != os.getpid() or not stream.subscribe(name, queue):
                stream = Stream(self._messages, self._channel, self._token(), str(self))
                stream.subscribe(name, queue)
                try:
                    stream.start()  # only after `subscribe`: else its end might not be reported
                except RuntimeError:  # no thread available: the stream is not used
                    stream.unsubscribe(name, queue)
                    raise
                self._shared = stream
            return stream

    def _leave(self, stream: Stream, name: str, queue: SimpleQueue[Any]) -> None:
        with self._lock:
            if stream.unsubscribe(name, queue) and self._shared is stream:
                self._shared = None

    def _token(self) -> str | None:
        return None if self._token_file is None else token_in(self._token_file)

    def _channel(self) -> Any:
        grpc = self._messages.grpc
        milliseconds = int(self._keepalive * 1000)
        options = [
            ("grpc.keepalive_time_ms", milliseconds),
            ("grpc.keepalive_timeout_ms", int(self._timeout * 1000)),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.min_reconnect_backoff_ms", int(self._timeout * 1000)),  # the time limit for connecting
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.max_receive_message_length", self._most_bytes),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        ]
        target = self._url.netloc.decode()
        if not self._tls:
            return grpc.insecure_channel(target, options)
        ca = Path(self._ca_file).read_bytes() if self._ca_file else None
        certificate, key = (Path(path).read_bytes() for path in self._cert) if self._cert else (None, None)
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(ca, key, certificate), options)


def _newest(queue: SimpleQueue[Any], said: Any) -> Any:
    """The newest assignment in the queue; an end or an error before it is returned first."""
    while isinstance(said, Assignment):
        try:
            said = queue.get_nowait()
        except Empty:
            break
    return said


class XdsAnswer(RegistryAnswer):
    """An answer by REST that is none, in words that help."""

    def hint(self, status: int, message: str) -> str:
        return {401: " (is the token good?)", 403: " (is the token good?)"}.get(status, "")
