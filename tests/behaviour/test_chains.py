"""Services that call services: one deadline for all, no retries of retries; and calls that may be repeated by key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest

from smartclient import AsyncClient, Client, Policy, Retry, RetryBudget, call, deadline, report
from smartclient.balancers.load_report import parse_in_flight
from smartclient.inherited import work
from smartclient.middleware import ASGIMiddleware, WSGIMiddleware
from smartclient.testing import FAILING, OK, Behaviour

URL = "http://orders/v1/items"
CALLS = 2000


def asgi(answer: Callable[[], Any]) -> Any:
    """A small ASGI application."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        status = await answer()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


def three_layers(aware: bool) -> float:
    """Attempts that a leaf gets for each call, three clients above it, all of its answers 503."""
    leaf = 0
    policy = Policy(
        retry=Retry(attempts=4, wait=lambda state: 0.0, budget=RetryBudget(ratio=0.2, min_per_second=0.1)),
        outlier=None,
        attempt_header="x-envoy-attempt-count" if aware else None,
    )

    async def fail() -> int:
        nonlocal leaf
        leaf += 1
        return 503

    def client_of(app: Any) -> AsyncClient:
        return AsyncClient({"next": ["10.0.0.1:80", "10.0.0.2:80"]}, policy=policy, trust_env=False,
                           connect=lambda instance: httpx.ASGITransport(app))  # fmt: skip

    def layer(above: AsyncClient) -> Any:
        async def answer() -> int:
            return (await above.get("http://next/")).status_code

        app = asgi(answer)
        return ASGIMiddleware(app) if aware else app

    async def main() -> None:
        third = client_of(asgi(fail))
        second = client_of(layer(third))
        first = client_of(layer(second))
        for _ in range(CALLS):
            assert (await first.get("http://next/")).status_code == 503

    anyio.run(main)
    return leaf / CALLS


def test_three_layers_do_not_multiply() -> None:
    assert three_layers(aware=True) <= 1.25
    assert three_layers(aware=False) > 1.6


def test_the_deadline_travels(async_driver: Any) -> None:
    left: list[float | None] = []

    async def answer() -> int:
        left.append(deadline.left())
        return 200

    transport = async_driver.httpx.ASGITransport(ASGIMiddleware(asgi(answer)))
    policy = Policy(deadline_header="X-Request-Deadline-Ms")
    with async_driver.client({"orders": ["10.0.0.1:80"]}, policy=policy, connect=lambda instance: transport) as client:
        client.get(URL, extensions=call(deadline=5))
        client.get(URL)
    assert left[0] == pytest.approx(5, abs=1)
    assert left[1] is None


def test_wsgi() -> None:
    seen = []

    def app(environ: Any, start_response: Any) -> Any:
        state = work.get()
        assert state is not None
        seen.append((deadline.left(), state.retried))
        state.in_vain = environ["PATH_INFO"] == "/failing"
        start_response("503 Service Unavailable" if state.in_vain else "200 OK", [])

        def body() -> Any:
            seen.append((deadline.left(), state.retried))
            yield b"a"
            yield b"b"

        return body()

    with httpx.Client(transport=httpx.WSGITransport(WSGIMiddleware(app)), base_url="http://here") as client:
        headers = {"grpc-timeout": "5S", "x-envoy-attempt-count": "2"}
        response = client.get("/", headers=headers)
        assert (response.text, response.headers.get("grpc-retry-pushback-ms")) == ("ab", None)
        assert [retried for _, retried in seen] == [True, True]
        assert all(left == pytest.approx(5, abs=1) for left, _ in seen)
        response = client.get("/failing", headers={"x-envoy-attempt-count": "1"})
        assert (response.status_code, response.headers["grpc-retry-pushback-ms"]) == (503, "-1")
        assert seen[-1] == (None, False)
    assert deadline.left() is None
    assert work.get() is None


def test_attempts_say_their_number(driver: Any, fleet: Any) -> None:
    servers = fleet(3, FAILING)
    with driver.client({"orders": servers.addresses}, policy=Policy(attempt_header="X-Attempt")) as client:
        client.get(URL)
    assert sorted(request.headers["x-attempt"] for request in servers.received) == ["1", "2", "3"]


@pytest.mark.parametrize(("pushback", "attempts"), [("-1", 1), ("soon", 1), ("0", 3)])
def test_a_server_may_forbid_the_retry(driver: Any, fleet: Any, pushback: str, attempts: int) -> None:
    servers = fleet(3, Behaviour(status=503, headers=(("grpc-retry-pushback-ms", pushback),)))
    with driver.client({"orders": servers.addresses}) as client:
        assert client.get(URL).status_code == 503
    assert len(servers.received) == attempts


def test_work_that_is_a_retry_is_not_retried(fleet: Any) -> None:
    servers = fleet(3, FAILING)
    with Client({"orders": servers.addresses}, policy=Policy(attempt_header="X-Attempt")) as client:

        def app(environ: Any, start_response: Any) -> Any:
            response = client.get(URL)
            start_response(f"{response.status_code} ", [])
            return [b""]

        with httpx.Client(transport=httpx.WSGITransport(WSGIMiddleware(app)), base_url="http://here") as outer:
            outer.get("/", headers={"x-envoy-attempt-count": "3"})
            assert [request.headers["x-attempt"] for request in servers.received] == ["2"]
            outer.get("/", headers={"x-envoy-attempt-count": "1"})
            assert len(servers.received) == 4
            # What never reached a server is tried again all the same.
            for server in servers.servers[:2]:
                server.refuse()
            servers[2].behave(OK)
            for _ in range(5):
                assert outer.get("/", headers={"x-envoy-attempt-count": "3"}).status_code == 200


def test_an_answer_that_a_retry_saved_is_not_pushed_back(fleet: Any) -> None:
    servers = fleet(2)
    with Client({"orders": servers.addresses}) as client:

        def app(environ: Any, start_response: Any) -> Any:
            assert client.get(URL).status_code == 200
            start_response("503 ", [])  # of its own accord
            return [b""]

        with httpx.Client(transport=httpx.WSGITransport(WSGIMiddleware(app)), base_url="http://here") as outer:
            servers.behave(OK)
            for server in servers.servers:
                server.behave(FAILING, OK)
            assert "grpc-retry-pushback-ms" not in outer.get("/").headers
            assert len(servers.received) in (2, 3)


@pytest.mark.parametrize("named", [True, "X-Request-Key"])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_key_makes_a_post_repeatable(driver: Any, fleet: Any, method: str, named: Any) -> None:
    servers = fleet(3, FAILING)
    name = "idempotency-key" if named is True else named.lower()
    with driver.client({"orders": servers.addresses}, policy=Policy(idempotency_key=named)) as client:
        response = client.request(method, URL, content=b"x")
        assert len(report(response).attempts) == 3
        keys = [request.headers[name] for request in servers.received]
        assert len(set(keys)) == 1
        assert len(keys[0]) >= 32
        client.request(method, URL, content=b"x")
        assert len({request.headers[name] for request in servers.received}) == 2
        servers.behave(OK)
        client.request(method, URL, content=b"x", headers={name: "mine"})
        assert any(request.headers[name] == "mine" for request in servers.received)
        client.get(URL)
        assert sum(name not in request.headers for request in servers.received) == 1


def test_a_key_of_the_users_own_goes_out_as_it_stands(driver: Any, fleet: Any) -> None:
    servers = fleet(2, FAILING)
    with driver.client({"orders": servers.addresses}, policy=Policy(idempotency_key=True)) as client:
        response = client.post(URL, content=b"x", headers={"Idempotency-Key": "clé-✓".encode()})
        assert len(report(response).attempts) == 3
        assert {request.headers["idempotency-key"].encode("latin-1") for request in servers.received} == {
            "clé-✓".encode()
        }


def test_without_a_key_a_post_is_sent_once(driver: Any, fleet: Any) -> None:
    servers = fleet(3, FAILING)
    with driver.client({"orders": servers.addresses}) as client:
        client.post(URL, content=b"x")
        assert len(servers.received) == 1
        assert "idempotency-key" not in servers.received[0].headers


def test_a_redirect_keeps_the_key(driver: Any, fleet: Any) -> None:
    servers = fleet(1)
    servers[0].behave(Behaviour(status=307, headers=(("location", "/elsewhere"),)), OK)
    with driver.client({"orders": servers.addresses}, policy=Policy(idempotency_key=True)) as client:
        client.post(URL, content=b"x", follow_redirects=True)
        first, second = servers.received
        assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


def test_a_request_of_the_auth_flows_own_has_a_key_of_its_own(driver: Any, fleet: Any) -> None:
    servers = fleet(1)
    httpx_ = driver.httpx

    class TokenFirst(httpx_.Auth):  # type: ignore[misc, name-defined]
        def auth_flow(self, request: Any) -> Any:
            yield httpx_.Request("POST", "http://orders/oauth/token", content=b"id")
            yield request

    with driver.client({"orders": servers.addresses}, policy=Policy(idempotency_key=True)) as client:
        client.post("http://orders/pay", content=b"x", auth=TokenFirst())
        token, pay = servers.received
        assert (token.target, pay.target) == ("/oauth/token", "/pay")
        assert token.headers["idempotency-key"] != pay.headers["idempotency-key"]


LOAD = "endpoint-load-metrics"


def test_a_server_tells_its_requests_in_progress() -> None:
    inside = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/outer":
            nonlocal inside
            inside = await ask("/inner")
        own = {"/orca": [(LOAD.encode(), b"TEXT cpu_utilization=0.5")], "/binary": [(LOAD.encode(), b"BIN abc")]}
        headers = own.get(scope["path"], [])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"well"})

    aware = ASGIMiddleware(app)

    async def ask(path: str, app: Any = aware) -> str | None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return (await client.get(path)).headers.get(LOAD)

    async def main() -> None:
        assert await ask("/outer") == "TEXT named_metrics.in_flight=1"
        assert inside == "TEXT named_metrics.in_flight=2"
        assert await ask("/orca") == "TEXT cpu_utilization=0.5, named_metrics.in_flight=1"
        assert await ask("/binary") == "BIN abc"
        assert await ask("/", ASGIMiddleware(app, tell_load=False)) is None

    anyio.run(main)


def test_a_wsgi_server_counts_until_the_body_is_closed() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/failing":
            raise ValueError("no")
        start_response("200 OK", [("Endpoint-Load-Metrics", "TEXT eps=1")])
        return [b"well"]

    aware = WSGIMiddleware(app)
    told: list[str] = []

    def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> None:
        told.append(dict(headers)[LOAD])

    environ = {"PATH_INFO": "/"}
    bodies: list[Any] = [aware(environ, start), aware(environ, start)]
    for body in [*bodies, *bodies]:  # closed twice: counted once
        body.close()
    with pytest.raises(ValueError, match="no"):
        aware({"PATH_INFO": "/failing"}, start)
    aware(environ, start)
    assert told == [f"TEXT eps=1, named_metrics.in_flight={count}" for count in (1, 2, 1)]


@pytest.mark.parametrize(
    ("told", "in_flight"),
    [
        ("TEXT cpu_utilization=0.5, named_metrics.in_flight=7", 7),
        ('JSON {"named_metrics": {"in_flight": 12}}', 12),
        ("TEXT named_metrics.in_flight=0.5", None),
        ("TEXT named_metrics.in_flight=-1", None),
        ("TEXT in_flight=99999999999999", None),
        ("TEXT cpu_utilization=1", None),
        ("x" * 5000 + " in_flight=3", None),
    ],
)
def test_what_is_read_of_a_report(told: str, in_flight: int | None) -> None:
    assert parse_in_flight(told) == in_flight


def telling(in_flight: int) -> Behaviour:
    return Behaviour(headers=((LOAD, f"TEXT named_metrics.in_flight={in_flight}"),))


def test_the_default_balancer_hears_of_the_calls_of_others(driver: Any, fleet: Any) -> None:
    servers = fleet(2, telling(1))
    with driver.client({"orders": servers.addresses}) as client:
        for _ in range(40):
            client.get(URL)
        nodes = {node.instance.port: node for node in client.service().nodes}
        memory = nodes[servers[0].port].memory
        assert memory.crowd == 0.0
        servers[0].behave(telling(30))
        before = len(servers[0].received)
        while len(servers[0].received) == before:
            client.get(URL)
        assert memory.crowd > 5.0
        now = client.service().clock()
        assert memory.crowding(now + 60.0) == 1.0  # the queue has moved on
        assert nodes[servers[1].port].memory.crowd == 0.0
