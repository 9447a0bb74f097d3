"""Prometheus: an observer that counts. Needs the extra: pip install 'smartclient[prometheus]'.

    from smartclient.prometheus import Metrics

    client = smartclient.Client("consul://127.0.0.1:8500", observers=[Metrics()])

What happens is counted as it happens; what is (instances, calls in flight) is read from `client.status()` when
Prometheus asks. In prometheus-client's multiprocess mode (PROMETHEUS_MULTIPROC_DIR: gunicorn), where collectors of one
process alone are silently absent, a thread writes it once a second, from a process's first call on.

    smartclient_calls_total{service, method, outcome}                smartclient_call_duration_seconds{service, method}
    smartclient_attempts_total{service, kind, outcome}               smartclient_attempt_duration_seconds{service}
    smartclient_calls_refused_total{service, reason}                 smartclient_retries_denied_total{service, reason}
    smartclient_ejections_total{service, rule}                       smartclient_connections_total{service, reused}
    smartclient_discovery_failures_total{service}                    smartclient_queue_seconds{service}
    smartclient_instances{service, state}                            smartclient_in_flight{service}
    smartclient_discovery_age_seconds{service}                       smartclient_retry_budget{service}
    smartclient_circuit_open{service}

Labels are bounded, whatever is called: methods come of a list, else "_OTHER"; so does a service that no registry has
listed. A dashboard and alerts: examples/observability.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .events import (
    AttemptFinished,
    CallFinished,
    DiscoveryFailed,
    InstancesChanged,
    NodeEjected,
    RetryDenied,
)
from .services.states import STATES
from .services.status import ClientStatus, InstanceStatus, ServiceStatus
from .status.clients import Clients
from .statuses import METHODS
from .support.loggers import logger

try:
    import prometheus_client
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
except ImportError:
    raise ImportError("smartclient.prometheus needs prometheus-client: pip install 'smartclient[prometheus]'") from None

OTHER = "_OTHER"
MOST_SERVICES = 1000
WRITTEN_EVERY = 1.0  # seconds, in multiprocess mode
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# Of a service: name, what it says, how processes are added up, how it is read.
GAUGES: tuple[tuple[str, str, str, Callable[[ServiceStatus], float | None]], ...] = (
    ("smartclient_in_flight", "Attempts in flight.", "livesum", lambda one: one.in_flight),
    ("smartclient_discovery_age_seconds", "Since the source last sent a list.", "livemostrecent", lambda one: one.age),
    ("smartclient_retry_budget", "Retries that may be made now.", "livesum", lambda one: one.retry_budget),
    ("smartclient_circuit_open", "1: calls fail at once.", "livemax",
     lambda one: None if one.circuit is None else float(one.circuit == "open")),
)  # fmt: skip
INSTANCES = ("smartclient_instances", "Instances by state, as this client sees them.")


class Metrics:
    """An observer; one may serve several clients.

    registry:      prometheus-client's; None: its own default one
    per_instance:  also what each instance has had, by address: `smartclient_instance_…`. Series of instances that are
                   gone disappear. Not in multiprocess mode, where series cannot be removed: ValueError
    """

    def __init__(self, registry: Any = None, per_instance: bool = False) -> None:
        self._several = bool(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
        self._writers: dict[int, object] = {}  # by process: threads of before a fork are gone
        self._written: set[str] = set()  # services
        if per_instance and self._several:
            raise ValueError("Metrics(per_instance=True): series cannot be removed in multiprocess mode")
        registry = prometheus_client.REGISTRY if registry is None else registry
        self._per_instance = per_instance
        self._clients = Clients()
        self._listed: set[str] = set()
        self._of_calls: dict[tuple[str, str, str], tuple[Callable[[], None], Callable[[float], None]]] = {}
        self._of_attempts: dict[tuple[str, str, str], tuple[Callable[[], None], Callable[[float], None]]] = {}

        def counter(name: str, text: str, *labels: str) -> _Children:
            return _Children(prometheus_client.Counter(name, text, labels, registry=registry))

        def histogram(name: str, text: str, *labels: str) -> _Children:
            return _Children(prometheus_client.Histogram(name, text, labels, registry=registry, buckets=BUCKETS))

        def gauge(name: str, text: str, mode: Any, *labels: str) -> _Children:
            return _Children(prometheus_client.Gauge(name, text, labels, registry=registry, multiprocess_mode=mode))

        self._calls = counter("smartclient_calls_total", "Calls that are over.", "service", "method", "outcome")
        self._durations = histogram(
            "smartclient_call_duration_seconds", "Up to the headers or the error, waits included.", "service", "method"
        )
        self._attempts = counter("smartclient_attempts_total", "Attempts that are over.", "service", "kind", "outcome")
        self._attempt_durations = histogram(
            "smartclient_attempt_duration_seconds", "Up to the headers or the error.", "service"
        )
        self._refused = counter(
            "smartclient_calls_refused_total", "Calls that were not let through.", "service", "reason"
        )
        self._denied = counter("smartclient_retries_denied_total", "Retries that were not made.", "service", "reason")
        self._ejections = counter("smartclient_ejections_total", "Instances taken out.", "service", "rule")
        self._connections = counter("smartclient_connections_total", "Connections that were used.", "service", "reused")
        self._failures = counter("smartclient_discovery_failures_total", "Errors of the source.", "service")
        self._queued = histogram("smartclient_queue_seconds", "Waits for a place, of calls that waited.", "service")
        self._tell: dict[type[Any], Callable[[Any], None]] = {
            CallFinished: self._call,
            AttemptFinished: self._attempt,
            RetryDenied: lambda event: self._denied(self._service(event), event.reason).inc(),
            NodeEjected: lambda event: self._ejections(self._service(event), event.rule).inc(),
            DiscoveryFailed: lambda event: self._failures(self._service(event)).inc(),
            InstancesChanged: self._changed,
        }
        self.wants: frozenset[type[Any]] = frozenset(self._tell)
        if self._several:
            self._gauges = {name: gauge(name, text, mode, "service") for name, text, mode, _ in GAUGES}
            self._states = gauge(*INSTANCES, "livemostrecent", "service", "state")
        else:
            registry.register(_Collector(self))

    def __call__(self, event: Any) -> None:
        tell = self._tell.get(type(event))
        if tell is not None:
            tell(event)

    def watch(self, client: Any) -> None:
        """Called with each client that it observes."""
        self._clients.add(client)

    def statuses(self) -> Iterator[ClientStatus]:
        """Of the clients that it observes."""
        return self._clients.statuses()

    # ---- events ----

    def _call(self, event: CallFinished) -> None:
        count, observe = self._of_calls.get((event.service, event.method, event.outcome)) or self._new_calls(event)
        count()
        observe(event.elapsed)
        if event.reason is not None:
            self._refused(self._service(event), event.reason).inc()
        if event.queued:
            self._queued(self._service(event)).observe(event.queued)
        if self._several and os.getpid() not in self._writers:
            self._start_writing()

    def _attempt(self, event: AttemptFinished) -> None:
        key = (event.service, event.kind, event.outcome)
        count, observe = self._of_attempts.get(key) or self._new_attempts(event)
        count()
        observe(event.elapsed)
        if event.reused:
            self._connections(self._service(event), "true").inc()
        elif event.connecting:
            self._connections(self._service(event), "false").inc()

    # To find two metrics by their labels costs more than to count: what both events do is remembered by what they say.
    # Names that anybody may make up are not.

    def _new_calls(self, event: CallFinished) -> tuple[Callable[[], None], Callable[[float], None]]:
        service, method = self._service(event), event.method if event.method in METHODS else OTHER
        found = self._calls(service, method, event.outcome).inc, self._durations(service, method).observe
        if OTHER not in (service, method):
            self._of_calls[event.service, event.method, event.outcome] = found
        return found

    def _new_attempts(self, event: AttemptFinished) -> tuple[Callable[[], None], Callable[[float], None]]:
        service = self._service(event)
        found = self._attempts(service, event.kind, event.outcome).inc, self._attempt_durations(service).observe
        if service != OTHER:
            self._of_attempts[event.service, event.kind, event.outcome] = found
        return found

    def _changed(self, event: InstancesChanged) -> None:
        if event.instances and len(self._listed) < MOST_SERVICES:
            self._listed.add(event.service)

    def _service(self, event: Any) -> str:
        """The label: anybody may call any name."""
        service: str = event.service
        return service if service in self._listed else OTHER

    # ---- what is ----

    def _start_writing(self) -> None:
        """In multiprocess mode, from a process's first call."""
        mine = object()
        if self._writers.setdefault(os.getpid(), mine) is not mine:  # of two at once one starts it, without a lock
            return
        self.write()  # a short life is counted, too
        this = weakref.ref(self)
        threading.Thread(target=_write_now_and_then, args=(this,), name="smartclient-metrics", daemon=True).start()

    def write(self) -> None:
        """In multiprocess mode: what a collector would say. A gauge stays as it was last written."""
        services = self._services()
        here = {one.name for one in services}
        for service in self._written - here:  # its client is closed, or its source no longer names it
            for name, _, _, _ in GAUGES:
                self._gauges[name](service).set(0)
            for state in STATES:
                self._states(service, state).set(0)
        self._written = here
        for name, _, mode, read in GAUGES:
            for service, value in _together(mode, ((one.name, read(one)) for one in services)).items():
                self._gauges[name](service).set(value)
        for service, state, count in _counted(services):
            self._states(service, state).set(count)

    def _services(self) -> list[ServiceStatus]:
        """Of all clients, those that a registry has listed."""
        return [one for status in self.statuses() for one in status.services if one.name in self._listed]

    def families(self, described: bool = False) -> Iterable[Any]:
        """Outside of multiprocess mode: what is, in this moment. described: their names alone"""
        services = [] if described else self._services()
        for name, text, mode, read in GAUGES:
            family = GaugeMetricFamily(name, text, labels=("service",))
            for service, value in _together(mode, ((one.name, read(one)) for one in services)).items():
                family.add_metric((service,), value)
            yield family
        family = GaugeMetricFamily(*INSTANCES, labels=("service", "state"))
        for service, state, count in _counted(services):
            family.add_metric((service, state), count)
        yield family
        if self._per_instance:
            yield from self._of_instances(services)

    def _of_instances(self, services: Iterable[ServiceStatus]) -> Iterable[Any]:
        labels = ("service", "instance")
        calls = CounterMetricFamily("smartclient_instance_attempts", "Attempts on an instance.", labels=labels)
        failures = CounterMetricFamily("smartclient_instance_failures", "Failed attempts on it.", labels=labels)
        in_flight = GaugeMetricFamily("smartclient_instance_in_flight", "Attempts in flight there.", labels=labels)
        latency = GaugeMetricFamily("smartclient_instance_latency_seconds", "As the balancer sees it.", labels=labels)
        usable = GaugeMetricFamily("smartclient_instance_usable", "0: it is out.", labels=labels)
        found: dict[tuple[str, str], list[InstanceStatus]] = {}
        for one in services:
            for instance in one.instances:
                found.setdefault((one.name, instance.address), []).append(instance)
        for key, of_clients in found.items():
            calls.add_metric(key, sum(instance.calls for instance in of_clients))
            failures.add_metric(key, sum(instance.failures for instance in of_clients))
            in_flight.add_metric(key, sum(instance.in_flight for instance in of_clients))
            latencies = [instance.latency for instance in of_clients if instance.latency is not None]
            if latencies:
                latency.add_metric(key, max(latencies))
            usable.add_metric(key, min(float(instance.state in ("usable", "warming")) for instance in of_clients))
        return calls, failures, in_flight, latency, usable


def _write_now_and_then(this: weakref.ref[Metrics]) -> None:
    """Until nobody has it any more."""
    never = threading.Event()
    while not never.wait(WRITTEN_EVERY):
        metrics = this()
        if metrics is None:
            return
        try:
            metrics.write()
        except Exception:
            logger.exception("metrics could not be written")
            return
        del metrics


class _Children:
    """A metric's children by their labels: `labels()` costs more than counting."""

    def __init__(self, metric: Any) -> None:
        self._metric = metric
        self._known: dict[tuple[str, ...], Any] = {}

    def __call__(self, *labels: str) -> Any:
        child = self._known.get(labels)
        if child is None:
            child = self._known[labels] = self._metric.labels(*labels)
        return child


class _Collector:
    """Asked by a registry."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Any]:
        return self._metrics.families()

    def describe(self) -> Iterable[Any]:
        """The families without samples: a scrape that names metrics finds them by these."""
        return self._metrics.families(described=True)


def _counted(services: Iterable[ServiceStatus]) -> Iterator[tuple[str, str, int]]:
    """Instances of each service in each state, none as well: a series that comes and goes alerts nobody."""
    for one in {one.name: one for one in services}.values():
        counts = Counter(instance.state for instance in one.instances)
        for state in STATES:
            yield one.name, state, counts[state]


def _together(mode: str, values: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    """Of several clients of one service: the sum of what adds up, else the greatest."""
    found: dict[str, list[float]] = {}
    for service, value in values:
        if value is not None:
            found.setdefault(service, []).append(value)
    return {service: sum(its) if mode == "livesum" else max(its) for service, its in found.items()}


__all__ = ["Metrics"]
