"""Spans, trace headers and metrics, with OpenTelemetry's own SDK and, beside it, its instrumentation of httpx."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import pytest
from driving import until
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.utils import suppress_http_instrumentation, suppress_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import smartclient
from smartclient import Client, HealthCheck, Hedge, Limits, Policy, Retry
from smartclient.opentelemetry import SmartclientInstrumentor
from smartclient.testing import FAILING, RESETTING, RESETTING_BODY, SLOW, Behaviour

URL = "http://orders/v1/items?page=2"


@dataclass
class Telemetry:
    provider: TracerProvider
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader
    meters: MeterProvider

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    @property
    def calls(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.kind is SpanKind.INTERNAL]

    @property
    def attempts(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.kind is SpanKind.CLIENT]

    def metric(self, name: str) -> dict[tuple[Any, ...], Any]:
        """Its points, by the values of their attributes."""
        data: Any = self.reader.get_metrics_data()
        found = [
            metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
        ]
        points = [point for metric in found for point in metric.data.data_points]
        return {
            tuple(point.attributes[key] for key in sorted(point.attributes)): getattr(point, "value", None)
            if hasattr(point, "value")
            else point.count
            for point in points
        }


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider, meters = TracerProvider(), MeterProvider([reader])
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    SmartclientInstrumentor().instrument(tracer_provider=provider, meter_provider=meters)
    try:
        yield Telemetry(provider, exporter, reader, meters)
    finally:
        SmartclientInstrumentor().uninstrument()
        meters.shutdown()
        provider.shutdown()


def about(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_call_is_a_span_and_each_attempt_one_below_it(driver: Any, fleet: Any, telemetry: Telemetry) -> None:
    servers = fleet(2)
    servers[0].behave(FAILING)
    request_headers = {"traceparent": "stale", "x-mine": "1"}
    with driver.client({"orders": servers.addresses}, policy=Policy("round_robin")) as client:
        with telemetry.provider.get_tracer("test").start_as_current_span("root") as root:
            responses = [client.get(URL, headers=request_headers) for _ in range(2)]
        assert [response.request.headers["traceparent"] for response in responses] == ["stale"] * 2
    retried = next(span for span in telemetry.calls if about(span).get("smartclient.attempts") == 2)
    said = about(retried)
    assert retried.name == "GET orders"
    assert retried.parent is not None
    assert retried.parent.span_id == root.get_span_context().span_id
    assert retried.status.status_code is StatusCode.UNSET
    assert said["http.response.status_code"] == 200
    assert said["smartclient.outcome"] == "response"
    assert [event.name for event in retried.events] == ["smartclient.retry"]
    below = [span for span in telemetry.attempts if span.parent and span.parent.span_id == retried.context.span_id]  # type: ignore[union-attr]
    failed, good = sorted(below, key=lambda span: about(span).get("http.request.resend_count", 0))
    assert (failed.name, about(failed)) == (
        "GET",
        {
            "http.request.method": "GET",
            "server.address": "orders",
            "server.port": 80,
            "url.full": URL,
            "network.peer.address": "127.0.0.1",
            "network.peer.port": servers[0].port,
            "smartclient.kind": "first",
            "smartclient.outcome": "failure",
            "http.response.status_code": 503,
            "error.type": "503",
        },
    )
    assert failed.status.status_code is StatusCode.ERROR
    assert about(good)["http.request.resend_count"] == 1
    assert about(good)["smartclient.kind"] == "retry"
    assert "error.type" not in about(good)
    # Each attempt has a header of its own: one, and not that of the request.
    sent = {
        f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}": about(span)["network.peer.port"]  # type: ignore[union-attr]
        for span in telemetry.attempts
    }
    received = {
        request.headers["traceparent"][:-3]: server.port for server in servers.servers for request in server.received
    }
    assert sent == received
    assert all(request.headers["x-mine"] == "1" for request in servers.received)


def test_redirects_are_calls_of_one_trace(driver: Any, fleet: Any, telemetry: Telemetry) -> None:
    servers = fleet(1, Behaviour(status=302, headers=(("Location", "http://users/"),)))
    others = fleet(1)
    with driver.client({"orders": servers.addresses, "users": others.addresses}, follow_redirects=True) as client:
        with telemetry.provider.get_tracer("test").start_as_current_span("root"):
            assert client.get(URL).status_code == 200
    assert {span.name for span in telemetry.calls} == {"root", "GET orders", "GET users"}
    assert len({span.context.trace_id for span in telemetry.spans}) == 1  # type: ignore[union-attr]


def test_baggage_travels(driver: Any, fleet: Any, telemetry: Telemetry) -> None:
    servers = fleet(1)
    with driver.client({"orders": servers.addresses}) as client:
        token = context.attach(baggage.set_baggage("customer", "7"))
        try:
            client.get(URL)
        finally:
            context.detach(token)
    assert servers.received[0].headers["baggage"] == "customer=7"


def test_errors_say_what_they_are(driver: Any, fleet: Any, telemetry: Telemetry) -> None:
    servers = fleet(1, RESETTING)
    with driver.client({"orders": servers.addresses, "none": []}, policy=Policy(retry=Retry(attempts=1))) as client:
        for url in (URL, "http://none/"):
            with pytest.raises(driver.httpx.HTTPError):
                client.get(url)
    lost, nowhere = telemetry.calls
    assert about(lost)["error.type"] in ("ReadError", "RemoteProtocolError")
    assert about(lost)["smartclient.outcome"] == "error"
    assert about(nowhere)["error.type"] == "NoInstances"
    assert about(nowhere)["smartclient.outcome"] == "no_instances"
    assert {span.status.status_code for span in telemetry.spans} == {StatusCode.ERROR}
    assert [event.name for event in lost.events] in ([], ["smartclient.retry_denied"])


def test_refusals_are_calls_without_attempts(driver: Any, fleet: Any, telemetry: Telemetry) -> None:
    policy = Policy(limits=Limits(max_in_flight=1, queue=0))
    servers = fleet(1)
    with driver.client({"orders": servers.addresses}, policy=policy) as client:
        response = client.open("GET", URL)
        with pytest.raises(Exception, match="orders"):
            client.get(URL)
        client.finish(response)
    refused = next(span for span in telemetry.calls if about(span)["smartclient.outcome"] == "refused")
    assert about(refused)["smartclient.reason"] == "limits"
    assert len(telemetry.attempts) == 1


def test_secrets_of_urls_stay_here(fleet: Any, telemetry: Telemetry) -> None:
    servers = fleet(1)
    with Client({"orders": servers.addresses}) as client:
        client.get("http://me:secret@orders/a?X-Amz-Signature=s1&page=2&sig=s2&Signature=s3&X-Amz-Credential=s4#s5")
    said = about(telemetry.attempts[0])["url.full"]
    assert said.startswith("http://orders/a?X-Amz-Signature=REDACTED&page=2&sig=REDACTED&Signature=REDACTED")
    assert not any(secret in said for secret in ("secret", "s1", "s2", "s3", "s4"))


def test_strange_methods_are_bounded(fleet: Any, telemetry: Telemetry) -> None:
    with Client({"orders": fleet(1).addresses}) as client:
        client.request("FETCH", URL)
    span = telemetry.attempts[0]
    assert span.name == "HTTP"
    assert about(span)["http.request.method"] == "_OTHER"
    assert about(span)["http.request.method_original"] == "FETCH"


def test_hedges(driver: Any, fleet: Any, telemetry: Telemetry) -> None:
    servers = fleet(2)
    servers[0].behave(SLOW)
    with driver.client(
        {"orders": servers.addresses}, policy=Policy("round_robin", hedge=Hedge(0.02, budget=1.0))
    ) as client:
        for _ in range(2):
            client.get(URL)
        until(lambda: len(telemetry.attempts) == 3)
    kinds = sorted((about(span)["smartclient.kind"], about(span)["smartclient.outcome"]) for span in telemetry.attempts)
    assert kinds == [("first", "abandoned"), ("first", "success"), ("hedge", "success")]
    assert all(span.status.status_code is StatusCode.UNSET for span in telemetry.spans)


def test_ejections_are_events_of_the_attempt(fleet: Any, telemetry: Telemetry) -> None:
    servers = fleet(3)
    servers[0].behave(FAILING)
    with Client({"orders": servers.addresses}, policy=Policy("round_robin")) as client:
        for _ in range(30):
            client.get(URL)
    (ejected,) = (event for span in telemetry.attempts for event in span.events)
    assert ejected.name == "smartclient.instance_ejected"
    said = dict(ejected.attributes or {})
    assert said["network.peer.port"] == servers[0].port
    assert said["smartclient.rule"]


def test_a_span_ends_with_the_body_in_whichever_task(async_driver: Any, fleet: Any, telemetry: Telemetry) -> None:
    """opentelemetry-python#2606: a span that was current in one task could not be detached in another."""
    servers = fleet(1)

    async def main(client: Any) -> None:
        request = client.build_request("GET", URL)
        response = await client.send(request, stream=True)
        assert not telemetry.spans
        async with anyio.create_task_group() as group:
            group.start_soon(response.aread)
        assert trace.get_current_span() is trace.INVALID_SPAN

    with async_driver.client({"orders": servers.addresses}) as client:
        async_driver.run(main, client.client)
    assert len(telemetry.spans) == 2


def test_a_dropped_response_ends_its_spans(fleet: Any, telemetry: Telemetry) -> None:
    servers = fleet(1)
    with Client({"orders": servers.addresses}) as client:
        response: Any = client.send(client.build_request("GET", URL), stream=True)
        del response
        gc.collect()
        client.get(URL)
    assert len(telemetry.spans) == 4


def test_a_body_that_breaks_off_is_the_attempts_failure(fleet: Any, telemetry: Telemetry) -> None:
    servers = fleet(1, RESETTING_BODY)
    with Client({"orders": servers.addresses}, policy=Policy(retry=None)) as client:
        with pytest.raises(httpx.HTTPError):
            client.get(URL)
    for span in telemetry.spans:
        assert span.status.status_code is StatusCode.ERROR
        assert about(span)["http.response.status_code"] == 200


@pytest.mark.parametrize("first", [True, False])
def test_beside_httpxs_own_instrumentation_no_attempt_is_counted_twice(
    driver: Any, fleet: Any, telemetry: Telemetry, first: bool
) -> None:
    servers, plain = fleet(1), fleet(1)

    def asked() -> None:
        with driver.client({"orders": servers.addresses}) as client:
            client.get(URL)
            client.get(f"http://{plain.addresses[0]}/")  # not a service: httpx's business

    if driver.httpx is not httpx:
        asked()
        assert len(telemetry.spans) == 2
        return
    if first:  # instrumented before ours
        SmartclientInstrumentor().uninstrument()
    HTTPXClientInstrumentor().instrument(tracer_provider=telemetry.provider)
    if first:
        SmartclientInstrumentor().instrument(tracer_provider=telemetry.provider, meter_provider=telemetry.meters)
    try:
        asked()
    finally:
        HTTPXClientInstrumentor().uninstrument()
    scopes = sorted(span.instrumentation_scope.name for span in telemetry.spans)  # type: ignore[union-attr]
    assert scopes == ["opentelemetry.instrumentation.httpx", "smartclient", "smartclient"]
    ours = next(span for span in telemetry.attempts if "smartclient.kind" in about(span))
    assert servers.received[0].headers["traceparent"].split("-")[2] == f"{ours.context.span_id:016x}"  # type: ignore[union-attr]


def test_what_is_suppressed_is_not_recorded(driver: Any, fleet: Any, telemetry: Telemetry) -> None:
    servers = fleet(1)
    with driver.client({"orders": servers.addresses}) as client:
        for suppressed in (suppress_instrumentation, suppress_http_instrumentation):
            with suppressed():
                client.get(URL)
    assert not telemetry.spans
    assert all("traceparent" not in request.headers for request in servers.received)


def test_registries_and_checks_make_no_spans(fleet: Any, telemetry: Telemetry) -> None:
    servers = fleet(2)
    policy = Policy(health_check=HealthCheck(path="/health", interval=0.05))
    HTTPXClientInstrumentor().instrument(tracer_provider=telemetry.provider)
    try:
        with Client({"orders": servers.addresses}, policy=policy) as client:
            client.get(URL)
            until(lambda: sum(request.target == "/health" for request in servers.received) >= 4)
    finally:
        HTTPXClientInstrumentor().uninstrument()
    assert len(telemetry.spans) == 2
    assert all("traceparent" not in request.headers for request in servers.received if request.target == "/health")


def test_clients_that_are_there_already_and_twice(fleet: Any) -> None:
    servers = fleet(1)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with Client({"orders": servers.addresses}) as client:
        client.get(URL)
        instrumentor = SmartclientInstrumentor()
        instrumentor.instrument(tracer_provider=provider)
        instrumentor.instrument(tracer_provider=provider)  # "already instrumented", in the log
        try:
            client.get(URL)
            assert len(exporter.get_finished_spans()) == 2
            with client.stream("GET", URL):
                instrumentor.uninstrument()
            instrumentor.uninstrument()
            client.get(URL)
            assert len(exporter.get_finished_spans()) == 4
            instrumentor.instrument(tracer_provider=provider)
            client.get(URL)
            assert len(exporter.get_finished_spans()) == 6
        finally:
            instrumentor.uninstrument()
    assert sum("traceparent" in request.headers for request in servers.received) == 3


def test_metrics(driver: Any, fleet: Any, telemetry: Telemetry) -> None:
    servers = fleet(2)
    servers[0].behave(FAILING)
    with driver.client({"orders": servers.addresses}, policy=Policy("round_robin", outlier=None)) as client:
        for _ in range(4):
            client.get(URL)
        response = client.open("GET", URL)
        assert telemetry.metric("http.client.active_requests") == {("orders",): 1}
        active = telemetry.metric("http.client.open_connections")
        assert active["active", "orders"] == 1
        client.read(response)
        durations = telemetry.metric("http.client.request.duration")
        assert telemetry.metric("http.client.active_requests") == {("orders",): 0}
        idle = telemetry.metric("http.client.open_connections")
        assert idle["active", "orders"] == 0
        assert idle["idle", "orders"] >= 1
    counts = {key: count for key, count in durations.items() if "503" in key}
    assert sum(counts.values()) >= 2
    assert durations["GET", 200, "orders", 80] >= 4


def test_the_program_that_instruments_finds_it(fleet: Any) -> None:
    """The entry point, as `opentelemetry-instrument` looks for it."""
    found = subprocess.run(
        [sys.executable, "-c", "from opentelemetry.util._importlib_metadata import entry_points as e\n"
         "print([p.load().__name__ for p in e(group='opentelemetry_instrumentor') if p.name == 'smartclient'])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == "['SmartclientInstrumentor']"


def test_an_observer_may_give_attempts_headers(driver: Any, fleet: Any) -> None:
    class Numbers:
        wants = frozenset({smartclient.AttemptStarted})

        def __call__(self, event: Any) -> None:
            pass

        def watch(self, client: Any) -> None:
            pass

        def headers(self, event: Any) -> list[tuple[str, str]]:
            if event.number > 1:
                raise ValueError("no")
            return [("X-Number", str(event.number))]

    servers = fleet(2, FAILING)
    with driver.client({"orders": servers.addresses}, observers=[Numbers()]) as client:
        response = client.get(URL, headers={"x-number": "mine"})
        assert response.request.headers["x-number"] == "mine"
    numbers = [request.headers.get("x-number") for request in servers.received]
    assert sorted(map(str, numbers)) == ["1", "mine", "mine"]
