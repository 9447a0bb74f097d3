"""OpenTelemetry: spans and metrics of calls and attempts. Needs the extra: pip install 'smartclient[opentelemetry]'.

    from smartclient.opentelemetry import SmartclientInstrumentor

    SmartclientInstrumentor().instrument()      # or start the program with `opentelemetry-instrument`

A call is an INTERNAL span, each of its attempts a CLIENT span below it, with a `traceparent` of its own; a redirect is
another call. Both end with the response's body. Names are those of the semantic conventions for HTTP:

    http.request.method, url.full, server.address (the service), server.port, network.peer.address, network.peer.port,
    http.response.status_code, error.type, http.request.resend_count
    smartclient.kind, smartclient.outcome (of attempts: see `AttemptFinished`), smartclient.attempts

`url.full` has neither user and password nor the values of signatures. Retries, refused ones, and ejections are events.
Metrics: `http.client.request.duration` and `http.client.active_requests` (of attempts), `http.client.open_connections`.

Where httpx is instrumented, too (`HTTPXClientInstrumentor`), our attempts are left to us. What OpenTelemetry suppresses
(`suppress_instrumentation`) is not recorded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from .connections.patched import around_tools
from .events import (
    AttemptFinished,
    AttemptStarted,
    CallFinished,
    CallStarted,
    NodeEjected,
    RetryDenied,
    RetryScheduled,
)
from .instance import Instance
from .services.status import ServiceStatus
from .status.clients import Clients
from .statuses import METHODS
from .support.forks import renewed
from .support.loggers import logger
from .support.version import version
from .transport.base import observe_all, observe_no_more

try:
    from opentelemetry import metrics, propagate, trace
    from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
    from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled, suppress_http_instrumentation
except ImportError:
    raise ImportError(
        "smartclient.opentelemetry needs opentelemetry-api and opentelemetry-instrumentation: "
        "pip install 'smartclient[opentelemetry]'"
    ) from None

NAME = "smartclient"
# Semantic conventions: http.client.request.duration.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
# Semantic conventions: url.full; and what AWS, Google and Azure sign with.
SECRETS = re.compile(
    r"(?i)(?<=[?&])(AWSAccessKeyId|Signature|sig|X-Goog-Signature|X-Goog-Credential|X-Amz-Signature|X-Amz-Credential"
    r"|X-Amz-Security-Token)=[^&#]*"
)

_ERROR = trace.Status(trace.StatusCode.ERROR)


class SmartclientInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Instruments all clients of this process, those that there are and those to come, of all kinds.

    `instrument(tracer_provider=None, meter_provider=None)`, `uninstrument()`; each may be called again.
    """

    _spans: Spans | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        return ()

    def _instrument(self, tracer_provider: Any = None, meter_provider: Any = None, **_: Any) -> None:
        self._spans = Spans(
            trace.get_tracer(NAME, version(), tracer_provider), metrics.get_meter(NAME, version(), meter_provider)
        )
        around_tools.append(suppress_http_instrumentation)
        observe_all(self._spans)

    def _uninstrument(self, **_: Any) -> None:
        if self._spans is not None:
            observe_no_more(self._spans)
            around_tools.remove(suppress_http_instrumentation)
            self._spans.close()
            self._spans = None


class _Call:
    """A call in progress. span: its own;  inside: the context of its attempts;  about: what its attempts' spans say"""

    __slots__ = ("about", "inside", "labels", "span")

    def __init__(self, span: Any, about: dict[str, Any], labels: dict[str, Any]) -> None:
        self.span = span
        self.inside = trace.set_span_in_context(span)
        self.about = about
        self.labels = labels


class Spans:
    """The observer. Spans are kept, and ended by hand: none is current while a body is read, in whichever task."""

    def __init__(self, tracer: Any, meter: Any) -> None:
        self._tracer = tracer
        self._calls: dict[int, _Call] = {}
        self._attempts: dict[tuple[int, int, str], tuple[Any, Any, _Call]] = {}
        self._latest: dict[tuple[str, Instance], Any] = {}  # the span of the latest attempt on an instance
        self._clients = Clients()
        _all.add(self)
        self._durations = meter.create_histogram(
            "http.client.request.duration",
            unit="s",
            description="Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        meter.create_observable_up_down_counter(
            "http.client.active_requests",
            callbacks=[self._active],
            unit="{request}",
            description="Number of active HTTP requests.",
        )
        meter.create_observable_up_down_counter(
            "http.client.open_connections",
            callbacks=[self._connections],
            unit="{connection}",
            description="Number of outbound HTTP connections that are active or idle on the client.",
        )
        self._tell = {
            CallStarted: self._call_started,
            CallFinished: self._call_finished,
            AttemptStarted: self._attempt_started,
            AttemptFinished: self._attempt_finished,
            RetryScheduled: self._retry_scheduled,
            RetryDenied: self._retry_denied,
            NodeEjected: self._ejected,
        }
        self.wants: frozenset[type[Any]] = frozenset(self._tell)

    def __call__(self, event: Any) -> None:
        tell: Any = self._tell.get(type(event))
        if tell is not None:
            tell(event)

    def watch(self, client: Any) -> None:
        """Called with each client that it observes."""
        self._clients.add(client)

    def headers(self, event: AttemptStarted) -> Iterable[tuple[str, str]]:
        """What an attempt sends of its trace: its own, whatever the request had."""
        found = self._attempts.get((event.call_id, event.number, event.kind))
        if found is None:
            return ()
        carrier: dict[str, str] = {}
        try:
            propagate.inject(carrier, found[1])
        except Exception:  # of several propagators one failed, on baggage that cannot be written
            logger.debug("%s: the trace's headers are not complete", event.service, exc_info=True)
        return carrier.items()

    def close(self) -> None:
        """End what is in progress."""
        self._clients = Clients()
        while self._attempts:
            self._attempts.popitem()[1][0].end()
        while self._calls:
            self._calls.popitem()[1].span.end()

    # ---- calls ----

    def _call_started(self, event: CallStarted) -> None:
        if not is_http_instrumentation_enabled():
            return
        method = event.method if event.method in METHODS else "_OTHER"
        parts = urlsplit(event.url)
        labels: dict[str, Any] = {"http.request.method": method, "server.address": event.service}
        if (port := _port(parts)) is not None:
            labels["server.port"] = port
        about = {**labels, "url.full": SECRETS.sub(r"\1=REDACTED", event.url) if parts.query else event.url}
        if method != event.method:
            about["http.request.method_original"] = event.method
        name = f"{'HTTP' if method == '_OTHER' else method} {event.service}"
        self._calls[event.call_id] = _Call(self._tracer.start_span(name, attributes=about), about, labels)

    def _call_finished(self, event: CallFinished) -> None:
        call = self._calls.pop(event.call_id, None)
        if call is None:
            return
        span = call.span
        if span.is_recording():
            said: dict[str, Any] = {"smartclient.outcome": event.outcome, "smartclient.attempts": event.attempts}
            if event.reason is not None:
                said["smartclient.reason"] = event.reason
            _say_end(span, said, event.status, event.error, event.outcome != "cancelled")
        span.end()

    # ---- attempts ----

    def _attempt_started(self, event: AttemptStarted) -> None:
        call = self._calls.get(event.call_id)
        if call is None:
            return
        instance = event.instance
        about = {**call.about, "network.peer.address": instance.host, "smartclient.kind": event.kind}
        if instance.port is not None:
            about["network.peer.port"] = instance.port
        if event.number > 1:
            about["http.request.resend_count"] = event.number - 1
        span = self._tracer.start_span(
            about["http.request.method"] if "http.request.method_original" not in about else "HTTP",
            call.inside, trace.SpanKind.CLIENT, about,
        )  # fmt: skip
        inside = trace.set_span_in_context(span, call.inside)
        self._attempts[event.call_id, event.number, event.kind] = span, inside, call
        self._latest[event.service, instance] = span

    def _attempt_finished(self, event: AttemptFinished) -> None:
        found = self._attempts.pop((event.call_id, event.number, event.kind), None)
        if found is None:
            return
        span, inside, call = found  # a hedge that lost may end after its call
        if self._latest.get((event.service, event.instance)) is span:
            self._latest.pop((event.service, event.instance), None)
        said: dict[str, Any] = {"smartclient.outcome": event.outcome}
        if span.is_recording():
            _say_end(span, said, event.status, event.error, event.outcome != "abandoned")
        span.end()
        # Its exemplar is the attempt's span.
        self._durations.record(event.elapsed, {**call.labels, **_ending(event.status, event.error)}, inside)

    # ---- what happens meanwhile ----

    def _retry_scheduled(self, event: RetryScheduled) -> None:
        call = self._calls.get(event.call_id)
        if call is not None:
            said = {"smartclient.pause": event.pause, "smartclient.reason": event.reason}
            call.span.add_event("smartclient.retry", said)

    def _retry_denied(self, event: RetryDenied) -> None:
        call = self._calls.get(event.call_id)
        if call is not None:
            call.span.add_event("smartclient.retry_denied", {"smartclient.reason": event.reason})

    def _ejected(self, event: NodeEjected) -> None:
        """In the span of the attempt that showed it, else in the current one."""
        span = self._latest.get((event.service, event.instance)) or trace.get_current_span()
        span.add_event(
            "smartclient.instance_ejected",
            {"server.address": event.service, "network.peer.address": event.instance.host,
             "network.peer.port": event.instance.port or 0, "smartclient.rule": event.rule,
             "smartclient.reason": event.reason, "smartclient.duration": event.duration},
        )  # fmt: skip

    # ---- what is ----

    def _services(self) -> Iterator[ServiceStatus]:
        # A name that nobody has listed may be anybody's: it is no label.
        return (one for status in self._clients.statuses() for one in status.services if one.instances)

    def _active(self, _: Any) -> Iterator[metrics.Observation]:
        found: Counter[str] = Counter()
        for service in self._services():
            found[service.name] += service.in_flight
        for name, count in found.items():
            yield metrics.Observation(count, {"server.address": name})

    def _connections(self, _: Any) -> Iterator[metrics.Observation]:
        found: Counter[tuple[str, str]] = Counter()
        for service in self._services():
            for instance in service.instances:
                for state, count in zip(("idle", "active"), instance.connections, strict=True):
                    found[service.name, state] += count
        for (name, state), count in found.items():
            yield metrics.Observation(count, {"server.address": name, "http.connection.state": state})

    def after_fork(self) -> None:
        """In a forked child: what is in progress is the parent's to tell."""
        self._calls, self._attempts, self._latest = {}, {}, {}


_all = renewed()


def _port(parts: Any) -> int | None:
    try:
        port: int | None = parts.port or PORTS.get(parts.scheme)
    except ValueError:
        return None
    return port


def _ending(status: int | None, error: str | None) -> dict[str, Any]:
    said: dict[str, Any] = {} if status is None else {"http.response.status_code": status}
    if error is not None:
        said["error.type"] = error.partition(":")[0]
    elif status is not None and status >= 400:
        said["error.type"] = str(status)
    return said


def _say_end(span: Any, said: dict[str, Any], status: int | None, error: str | None, failed: bool) -> None:
    """failed: False: if there is an error, it is nobody's"""
    said.update(_ending(status, error))
    span.set_attributes(said)
    if failed and "error.type" in said:
        span.set_status(_ERROR if error is None else trace.Status(trace.StatusCode.ERROR, error))


__all__ = ["SmartclientInstrumentor"]
