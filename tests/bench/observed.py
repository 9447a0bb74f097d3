"""CPU per call with nobody looking, with an observer that does nothing, with `Metrics`, and with OpenTelemetry, beside
what its instrumentation of httpx costs a plain client; `status()` of many instances.

    python tests/bench/observed.py [--calls 2000]

The least of several turns, so that what else the machine does counts little. Calls end in a `MockTransport`: what is
compared is the difference.
"""

from __future__ import annotations

import argparse
import logging
import time
from typing import Any

import httpcore
import httpx
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from smartclient import Client, Instance
from smartclient.opentelemetry import SmartclientInstrumentor
from smartclient.prometheus import Metrics

TURNS = 9


def cpu_per_call(observers: list[Any], calls: int) -> float:
    """Microseconds."""
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    with Client({"orders": ["10.0.0.1:80", "10.0.0.2:80"]}, observers=observers, transport=transport) as client:
        return least(lambda: client.get("http://orders/"), calls)


def plain_per_call(calls: int) -> float:
    """The same of httpx itself, through the method that OpenTelemetry patches."""

    class Pool(httpcore.ConnectionPool):
        def handle_request(self, request: Any) -> Any:
            return httpcore.Response(200, content=[])

    transport = httpx.HTTPTransport()
    vars(transport)["_pool"] = Pool()
    with httpx.Client(transport=transport) as client:
        return least(lambda: client.get("http://orders/"), calls)


def least(call: Any, calls: int) -> float:
    turns = []
    for _ in range(TURNS):
        began = time.process_time()
        for _ in range(calls):
            call()
        turns.append(time.process_time() - began)
    return min(turns) / calls * 1e6


def with_opentelemetry(calls: int) -> None:
    provider, meters = TracerProvider(), MeterProvider([InMemoryMetricReader()])
    provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
    settings = {"tracer_provider": provider, "meter_provider": meters}
    bare, plain = cpu_per_call([], calls), plain_per_call(calls)
    SmartclientInstrumentor().instrument(**settings)
    ours = cpu_per_call([], calls)
    SmartclientInstrumentor().uninstrument()
    HTTPXClientInstrumentor().instrument(**settings)
    theirs = plain_per_call(calls)
    HTTPXClientInstrumentor().uninstrument()
    print(f"{'SmartclientInstrumentor':28}{ours:8.1f} µs of CPU per call{ours - bare:+8.1f}")
    print(
        f"{'HTTPXClientInstrumentor':28}{theirs:8.1f} µs of CPU per call{theirs - plain:+8.1f}  (httpx, not balanced)"
    )
    provider.shutdown()
    meters.shutdown()


def status_ms(instances: int) -> float:
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    listed = [Instance(f"10.0.{n >> 8}.{n & 255}", 80) for n in range(instances)]
    with Client({"orders": listed}, transport=transport) as client:
        client.get("http://orders/")
        turns = []
        for _ in range(TURNS):
            began = time.process_time()
            client.status()
            turns.append(time.process_time() - began)
        return min(turns) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    options = parser.parse_args()
    logging.getLogger("smartclient").addHandler(logging.NullHandler())
    rows = {"nobody": [], "an observer of everything": [lambda event: None], "Metrics": [Metrics(CollectorRegistry())]}
    bare = cpu_per_call([], options.calls)
    for name, observers in rows.items():
        found = cpu_per_call(observers, options.calls)
        print(f"{name:28}{found:8.1f} µs of CPU per call{found - bare:+8.1f}")
    with_opentelemetry(options.calls)
    print(f"status() of 1,000 instances {status_ms(1000):9.2f} ms")


if __name__ == "__main__":
    main()
