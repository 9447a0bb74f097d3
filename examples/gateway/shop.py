"""A shop: a gateway, and the services orders, users and stock. Which one a process is, SHOP_SERVICE says.

    SHOP_SERVICE=orders SHOP_PORT=8001 gunicorn -c gunicorn.conf.py shop:app

Each finds the others in Consul, by the policies of the file SMARTCLIENT_CONFIG, which may change while it runs. It
counts for Prometheus at /metrics, and sends its spans to SHOP_SPANS if that is set.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib import request as urls

import anyio
import httpx
from fastapi import FastAPI, Request, Response
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry, generate_latest, multiprocess

import smartclient
from smartclient.middleware import ASGIMiddleware
from smartclient.opentelemetry import SmartclientInstrumentor
from smartclient.prometheus import Metrics

NAME = os.environ.get("SHOP_SERVICE", "gateway")


class PostedSpans(SpanExporter):
    """Sends spans as JSON. Yours is OpenTelemetry's OTLPSpanExporter. (It cannot be imported where xds-protos, of our
    extra `xds`, is installed after it: that brings an older `opentelemetry.proto` of its own.)
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def export(self, spans: Any) -> SpanExportResult:
        body = f"[{','.join(span.to_json(indent=None) for span in spans)}]"
        with urls.urlopen(urls.Request(self._url, body.encode()), timeout=5):
            return SpanExportResult.SUCCESS


def trace_it() -> None:
    """In each worker: the thread that sends spans would not survive a fork."""
    provider = TracerProvider(resource=Resource.create({"service.name": NAME}))
    if url := os.environ.get("SHOP_SPANS"):
        provider.add_span_processor(BatchSpanProcessor(PostedSpans(url), schedule_delay_millis=200))
    trace.set_tracer_provider(provider)
    SmartclientInstrumentor().instrument()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with smartclient.AsyncClient.from_config(observers=[Metrics()]) as client:
        app.state.client = client
        yield


trace_it()
app: Any = FastAPI(title=NAME, lifespan=lifespan)


async def ask(request: Request, url: str) -> Any:
    """Another service's answer."""
    client: smartclient.AsyncClient = request.app.state.client
    response = await client.get(url)
    response.raise_for_status()
    return response.json()


@app.exception_handler(httpx.HTTPError)
async def unanswered(request: Request, error: httpx.HTTPError) -> Response:
    """A service that we need does not answer. Its name and its instances are in our log, not in the answer."""
    return Response("a service is not available\n", status_code=502)


@app.get("/metrics")
def metrics() -> Response:
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")


@app.get("/health")
def health() -> str:
    return NAME


@app.get("/status")
def status(request: Request) -> dict[str, Any]:
    """What the client of this process sees."""
    client: smartclient.AsyncClient = request.app.state.client
    return client.status().as_dict()


if NAME == "gateway":

    @app.get("/ready")
    async def ready(request: Request) -> str:
        """For a readiness probe: every service has an instance."""
        for service in ("orders", "users"):
            await request.app.state.client.ready(service, timeout=1.0)
        return "ready"

    @app.get("/shop/{number}")
    async def shop(request: Request, number: int) -> dict[str, Any]:
        """A page of the shop: what two services say, asked at once."""
        said: dict[str, Any] = {}

        async def add(service: str) -> None:
            said[service] = await ask(request, f"http://{service}/{service}/{number}")

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(add, "orders")
                group.start_soon(add, "users")
        except BaseException as error:
            raise (error.exceptions[0] if hasattr(error, "exceptions") else error) from None
        return said


if NAME == "orders":

    @app.get("/orders/{number}")
    async def order(request: Request, number: int) -> dict[str, Any]:
        return {"order": number, "pid": os.getpid(), "stock": await ask(request, f"http://stock/stock/{number}")}


if NAME == "users":

    @app.get("/users/{number}")
    async def user(number: int) -> dict[str, Any]:
        return {"user": number}


if NAME == "stock":

    @app.get("/stock/{number}")
    async def stock(number: int) -> dict[str, Any]:
        return {"left": number % 10}


FastAPIInstrumentor.instrument_app(
    app, excluded_urls="/metrics,/health,/ready,/status", exclude_spans=["receive", "send"]
)
# Outgoing calls inherit the deadline of the incoming one; our callers hear of our load.
app.add_middleware(ASGIMiddleware, deadline_header="x-request-deadline-ms")
