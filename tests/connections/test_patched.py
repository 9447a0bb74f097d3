"""Tools that patch httpx see each attempt: OpenTelemetry, pytest-httpx, vcrpy, and whoever else replaces
`HTTPTransport.handle_request`.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import smartclient
from smartclient import Client, Policy, report
from smartclient.testing import FAILING, RESETTING, Behaviour

URL = "http://orders/v1/items?page=2"
REPEATED = smartclient.call(retry=smartclient.Retry(methods={"POST"}))
LONG = Behaviour(body=b"x" * 200_000)


class Tool:
    """Patches both methods of a flavour: sees requests, adds a header, calls what was there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, flavour: Any) -> None:
        self.seen: list[tuple[str, str]] = []
        sync, asynchronous = flavour.HTTPTransport.handle_request, flavour.AsyncHTTPTransport.handle_async_request

        def note(request: Any) -> None:
            self.seen.append((request.method, str(request.url)))
            request.headers["x-seen"] = str(len(self.seen))

        def handle_request(transport: Any, request: Any) -> Any:
            note(request)
            return sync(transport, request)

        async def handle_async_request(transport: Any, request: Any) -> Any:
            note(request)
            return await asynchronous(transport, request)

        monkeypatch.setattr(flavour.HTTPTransport, "handle_request", handle_request)
        monkeypatch.setattr(flavour.AsyncHTTPTransport, "handle_async_request", handle_async_request)


def test_each_attempt_is_seen_once(driver: Any, fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = fleet(2)
    servers[0].behave(FAILING)
    policy = Policy("round_robin", outlier=None, attempt_header="x-attempt")
    with driver.client({"orders": servers.addresses}, policy=policy) as client:
        client.get(URL)  # not yet patched
        before = len(servers.received)
        tool = Tool(monkeypatch, driver.httpx)
        for _ in range(4):
            response = client.post(
                URL, content=b"body", extensions=smartclient.call(retry=smartclient.Retry(methods={"POST"}))
            )
            assert (response.status_code, response.text) == (200, "ok")
            assert str(response.url) == URL
            assert "x-seen" not in response.request.headers  # the caller's request is as it was
        received = [request for request in servers.received if "x-seen" in request.headers]
        assert len(servers.received) == before + 6
        assert len(tool.seen) == len(received) == 6
        assert set(tool.seen) == {("POST", URL)}
        assert sorted(request.headers["x-seen"] for request in received) == [str(n) for n in range(1, 7)]
        assert {request.headers["x-attempt"] for request in received} == {"1", "2"}
        assert {request.headers["host"] for request in received} == {"orders"}
        assert {request.body for request in received} == {b"body"}
        story = report(response)
        assert story is not None
        assert {attempt.outcome for attempt in story.attempts} <= {"success", "failure"}
        monkeypatch.undo()
        client.get(URL)
        assert len(tool.seen) == 6
        assert all(node.in_flight == 0 for node in client.nodes())


def test_connections_are_kept_and_bodies_stream(driver: Any, fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = fleet(1, LONG)
    Tool(monkeypatch, driver.httpx)
    with driver.client({"orders": servers.addresses}) as client:
        for _ in range(3):
            assert len(client.get(URL).content) == 200_000
        assert servers.open == 1
        held = client.open("GET", URL)
        assert [node.in_flight for node in client.nodes()] == [1]
        assert len(client.read(held)) == 200_000
        assert [node.in_flight for node in client.nodes()] == [0]
        held = client.open("GET", URL)
        client.finish(held)
        assert [node.in_flight for node in client.nodes()] == [0]


def test_errors_are_ours(driver: Any, fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = fleet(2)
    servers[0].behave(RESETTING)
    Tool(monkeypatch, driver.httpx)
    with driver.client({"orders": servers.addresses}) as client:
        assert {client.get(URL).status_code for _ in range(8)} == {200}
        servers[1].refuse()
        servers[0].refuse()
        with pytest.raises(driver.httpx.TransportError, match=r"^orders: "):
            client.get(URL)


def test_a_users_transport_is_not_patched_twice(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = Tool(monkeypatch, driver.httpx)
    mock = driver.mock(lambda request: driver.httpx.Response(200))
    with driver.client({"orders": ["10.0.0.1:80"]}, transport=mock) as client:
        assert client.get(URL).status_code == 200
    assert not tool.seen


def test_what_is_discarded_is_closed(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock's response that is retried, and one that is left unread."""
    answers = iter([503, 200, 200])

    def answer() -> Any:
        return driver.httpx.Response(next(answers), content=b"mocked")

    async def handle_async_request(transport: Any, request: Any) -> Any:
        return answer()

    monkeypatch.setattr(driver.httpx.HTTPTransport, "handle_request", lambda transport, request: answer())
    monkeypatch.setattr(driver.httpx.AsyncHTTPTransport, "handle_async_request", handle_async_request)
    with driver.client({"orders": ["10.0.0.1:80", "10.0.0.2:80"]}) as client:
        assert client.get(URL).text == "mocked"
        client.finish(client.open("GET", URL))
        assert all(node.in_flight == 0 for node in client.nodes())


def test_a_tool_that_reads_the_body_hides_nothing_from_health(
    driver: Any, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, asynchronous = driver.httpx.HTTPTransport.handle_request, driver.httpx.AsyncHTTPTransport.handle_async_request

    def handle_request(transport: Any, request: Any) -> Any:
        response = sync(transport, request)
        response.read()
        return response

    async def handle_async_request(transport: Any, request: Any) -> Any:
        response = await asynchronous(transport, request)
        await response.aread()
        return response

    monkeypatch.setattr(driver.httpx.HTTPTransport, "handle_request", handle_request)
    monkeypatch.setattr(driver.httpx.AsyncHTTPTransport, "handle_async_request", handle_async_request)
    with driver.client({"orders": fleet(1, FAILING).addresses}, policy=Policy(retry=None, outlier=None)) as client:
        for _ in range(3):
            story = report(client.get(URL))
            assert story is not None
            assert [(attempt.outcome, attempt.status) for attempt in story.attempts] == [("failure", 503)]
        [node] = client.nodes()
        assert (node.calls, node.failures, node.in_flight) == (3, 3, 0)


def test_a_deadline_holds_for_tools(async_driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handle_async_request(transport: Any, request: Any) -> Any:
        await anyio.sleep(5)
        return async_driver.httpx.Response(200)

    monkeypatch.setattr(async_driver.httpx.AsyncHTTPTransport, "handle_async_request", handle_async_request)
    with async_driver.client({"orders": ["10.0.0.1:80"]}, policy=Policy(deadline=0.2, retry=None)) as client:
        with pytest.raises(async_driver.names.DeadlineExceeded):
            client.get(URL)


# ---- the tools ----


@pytest.fixture
def spans() -> Any:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        yield exporter
    finally:
        instrumentor.uninstrument()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_opentelemetry_s_own_instrumentation(fleet: Any, spans: Any, asynchronous: bool) -> None:
    servers = fleet(2)
    servers[0].behave(FAILING)
    policy = Policy("round_robin", outlier=None)

    async def run() -> None:
        async with smartclient.AsyncClient({"orders": servers.addresses}, policy=policy) as client:
            for _ in range(2):
                assert (await client.get(URL)).status_code == 200

    if asynchronous:
        anyio.run(run)
    else:
        with Client({"orders": servers.addresses}, policy=policy) as client:
            for _ in range(2):
                assert client.get(URL).status_code == 200
    made = spans.get_finished_spans()
    assert len(made) == len(servers.received) == 3
    ids = {format(span.context.span_id, "016x") for span in made}
    assert {request.headers["traceparent"].split("-")[2] for request in servers.received} == ids


@pytest.mark.parametrize("asynchronous", [False, True])
def test_pytest_httpx(httpx_mock: Any, asynchronous: bool) -> None:
    httpx_mock.add_response(status_code=503)
    httpx_mock.add_response(url=URL, json={"mocked": True})

    async def run() -> Any:
        async with smartclient.AsyncClient({"orders": ["10.0.0.1:80", "10.0.0.2:80"]}) as client:
            return (await client.get(URL)).json()

    if asynchronous:
        found = anyio.run(run)
    else:
        with Client({"orders": ["10.0.0.1:80", "10.0.0.2:80"]}) as client:
            found = client.get(URL).json()
    assert found == {"mocked": True}
    assert [str(request.url) for request in httpx_mock.get_requests()] == [URL, URL]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_vcrpy_records_and_replays(fleet: Any, tmp_path: Path, asynchronous: bool) -> None:
    """From vcrpy 7 on. What was recorded is found again whichever instance is picked: it has the service's URL."""
    import vcr

    servers = fleet(3, Behaviour(body=b"recorded"))
    cassette = str(tmp_path / "calls.yaml")

    async def run() -> str:
        async with smartclient.AsyncClient({"orders": servers.addresses}) as client:
            return (await client.post(URL, content=b"body")).text

    def ask() -> str:
        if asynchronous:
            return anyio.run(run)
        with Client({"orders": servers.addresses}) as client:
            return client.post(URL, content=b"body").text

    with vcr.use_cassette(cassette):
        assert ask() == "recorded"
    assert len(servers.received) == 1
    with vcr.use_cassette(cassette, record_mode="none") as played:
        for _ in range(1):
            assert ask() == "recorded"
        assert played.play_count == 1
    assert len(servers.received) == 1
    assert "http://orders/v1/items?page=2" in Path(cassette).read_text()


@pytest.mark.parametrize("before", [True, False])
def test_patched_before_and_after_our_import(fleet: Any, before: bool) -> None:
    servers = fleet(1)
    patch = "httpx.HTTPTransport.handle_request = lambda transport, request: httpx.Response(299)"
    script = f"""
        import httpx
        {patch if before else ""}
        import smartclient
        client = smartclient.Client({{"orders": {servers.addresses!r}}})
        if not {before}:
            assert client.get("http://orders/").status_code == 200
        {patch if not before else ""}
        assert client.get("http://orders/").status_code == 299
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)
    assert len(servers.received) == (0 if before else 1)


def test_who_calls_httpx_beside_us_is_not_disturbed(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = fleet(1)
    tool = Tool(monkeypatch, httpx)
    with httpx.Client() as plain:
        assert plain.get(f"http://{servers.addresses[0]}/").status_code == 200
    assert len(tool.seen) == 1
