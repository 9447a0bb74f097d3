"""The clients as drop-ins: what is httpx's stays httpx's."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import pickle
import socket
import ssl
import threading
import time
from typing import Any

import httpx
import httpx2
import pytest
import respx
import trustme
from driving import in_child
from inside import balanced_of, places_of, service_of, shared_of

import smartclient
import smartclient.client
import smartclient.httpx2
from smartclient import (
    AsyncClient,
    BalancedTransport,
    Client,
    Instance,
    NoInstances,
    Policy,
    Retry,
    Static,
    call,
    report,
)
from smartclient.testing import OK, Behaviour, Fleet, ScriptedDiscovery

URL = "http://orders/v1"


# ---- construction ----


@pytest.mark.parametrize("ours", [smartclient.client, smartclient.httpx2], ids=["httpx", "httpx2"])
@pytest.mark.parametrize("name", ["Client", "AsyncClient"])
def test_keywords_are_theirs(ours: Any, name: str) -> None:
    theirs = getattr(httpx if ours is smartclient.client else httpx2, name)
    expected = set(inspect.signature(theirs.__init__).parameters) - {"self"}
    keywords = getattr(ours, f"{name}Keywords")
    assert keywords.__required_keys__ | keywords.__optional_keys__ == expected


def test_they_are_httpx_clients() -> None:
    with Client({"orders": ["127.0.0.1:1"]}) as client:
        assert isinstance(client, httpx.Client)
    assert issubclass(AsyncClient, httpx.AsyncClient)
    assert issubclass(smartclient.httpx2.Client, httpx2.Client)
    assert issubclass(BalancedTransport, httpx.BaseTransport)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (("http://orders",), {}, "Did you mean base_url="),
        (("nonsense://x",), {}, "consul://"),
        (({"orders": "10.0.0.1:80"},), {}, "expected a list of addresses, got '10.0.0.1:80'"),
        (({"orders": ["10.0.0.1:99999"]},), {}, "port: expected 1 to 65535"),
        (({"orders": ["bad host:1"]},), {}, "host: expected a name"),
        ((42,), {}, "discovery: expected"),
        ((Static,), {}, "got the class"),
        ((None,), {"policy": {"retry": 3}}, "policy: expected a Policy"),
        (({"orders": []},), {"policies": {"orders": "x"}}, r"policies\['orders'\]"),
        (({"orders": []},), {"observers": print}, "observers: expected a list"),
        (({"orders": []},), {"connect": "x"}, "connect: expected a callable"),
        (("consul://h?nonsense=1",), {}, "no option 'nonsense'"),
        (("consul://h?wait=x",), {}, "wait: expected seconds"),
    ],
)
def test_mistakes_are_said_at_construction(arguments: Any, keywords: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Client(*arguments, **keywords)


def test_without_discovery_nothing_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client() as client:
        assert client._mounts == httpx.Client()._mounts
    monkeypatch.setenv("SMARTCLIENT_DISCOVERY", "consul://127.0.0.1:1")
    with Client(trust_env=False) as client:
        assert not client._mounts
    with Client() as client:
        assert len(client._mounts) == 1


# ---- the hook into httpx ----


def test_other_hosts_go_their_way() -> None:
    """`_mounts` is private: this pins it. Mounts, proxies and the environment see only what is not ours."""
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(200)

    with Fleet(1) as fleet:
        mounts = {"all://": httpx.MockTransport(handler)}
        with Client({"orders": fleet.addresses}, mounts=mounts) as client:
            assert client.get("http://elsewhere/").status_code == 200
            assert client.get(URL).text == "ok"
            assert client.get("http://ORDERS./").text == "ok"
    assert seen == ["http://elsewhere/"]


def test_a_balanced_host_never_goes_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with Fleet(1) as fleet:
        with Client({"orders": fleet.addresses}) as client:
            assert client.get(URL).text == "ok"
            with pytest.raises(httpx.ConnectError):
                client.get("http://elsewhere/")
        with Client({"orders": fleet.addresses}, proxy="http://127.0.0.1:1") as client:
            assert client.get(URL).text == "ok"


def test_auth_cookies_hooks_and_base_url_are_logical() -> None:
    class Twice(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Any:
            response = yield request
            assert response.status_code == 401
            request.headers["Authorization"] = "yes"
            yield request

    hooked: list[str] = []
    hooks: Any = {"response": [lambda response: hooked.append(str(response.url))]}
    denied = Behaviour(status=401, headers=(("set-cookie", "a=b; Path=/"),))
    with Fleet(1) as fleet:
        fleet[0].behave(denied, OK, OK)
        with Client({"orders": fleet.addresses}, base_url="http://orders/v1", event_hooks=hooks) as client:
            assert client.get("items", auth=Twice()).status_code == 200
            assert client.cookies.get("a", domain="orders.local") == "b"
            assert client.get("more").status_code == 200
        assert hooked == ["http://orders/v1/items"] * 2 + ["http://orders/v1/more"]
        assert fleet.received[-1].headers["cookie"] == "a=b"


# ---- in place of connections ----


def test_mock_transport_carries_balanced_calls() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(503 if request.url.host == "10.0.0.1" else 200, text="mocked")

    static = {"orders": ["10.0.0.1:80", "10.0.0.2:8080"]}
    with Client(static, transport=httpx.MockTransport(handler)) as client:
        for _ in range(6):
            response = client.get("http://orders/x?y=1")
            assert (response.status_code, response.text) == (200, "mocked")
            story = report(response)
            assert story is not None
            assert {attempt.outcome for attempt in story.attempts} <= {"success", "failure"}
        assert str(response.url) == "http://orders/x?y=1"
        assert {str(request.url) for request in seen} <= {"http://10.0.0.1/x?y=1", "http://10.0.0.2:8080/x?y=1"}
        assert {request.headers["host"] for request in seen} == {"orders"}
        transport: Any = balanced_of(client)
        assert all(node.in_flight == 0 for node in service_of(transport).nodes)


def test_connect_makes_a_transport_per_instance() -> None:
    closed: list[str] = []

    class Own(httpx.AsyncBaseTransport):
        def __init__(self, instance: Instance) -> None:
            self.instance = instance

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, text=self.instance.host)

        async def aclose(self) -> None:
            closed.append(self.instance.host)

    async def main() -> None:
        async with AsyncClient({"orders": ["a", "b"]}, connect=Own, policy=Policy(balancer="round_robin")) as client:
            assert {(await client.get(URL)).text for _ in range(4)} == {"a", "b"}

    asyncio.run(main())
    assert sorted(closed) == ["a", "b"]


def test_a_removed_instance_s_transport_is_closed(driver: Any) -> None:
    closed: list[str] = []
    base = driver.httpx.AsyncBaseTransport if driver.asynchronous else driver.httpx.BaseTransport

    class Own(base):  # type: ignore[misc]
        def __init__(self, instance: Instance) -> None:
            self.instance = instance

        def handle_request(self, request: Any) -> Any:
            return driver.httpx.Response(200, text=self.instance.host)

        async def handle_async_request(self, request: Any) -> Any:
            return self.handle_request(request)

        def close(self) -> None:
            closed.append(self.instance.host)

        async def aclose(self) -> None:
            self.close()

    source = ScriptedDiscovery({"orders": ["a", "b"]})
    with driver.client(source, connect=Own) as client:
        assert {client.get(URL).text for _ in range(20)} == {"a", "b"}
        source.publish("orders", ["b"])
        ends_at = time.monotonic() + 5
        while closed != ["a"] and time.monotonic() < ends_at:
            time.sleep(0.01)
        assert closed == ["a"]
        assert client.get(URL).text == "b"
    assert closed == ["a", "b"]


def test_a_closed_transport_says_so() -> None:
    transport = BalancedTransport({"orders": ["10.0.0.1:80"]})
    transport.close()
    with pytest.raises(RuntimeError, match="has been closed"):
        transport.handle_request(httpx.Request("GET", URL))


@pytest.mark.parametrize("using", ["httpx", "httpcore"])
def test_respx(using: str) -> None:
    with respx.mock(using=using) as mocker:
        route = mocker.get("http://orders/v1").mock(return_value=httpx.Response(200, json={"a": 1}))
        with Client({"orders": ["127.0.0.1:9"]}) as client:
            assert client.get(URL).json() == {"a": 1}
            assert client.get(URL).json() == {"a": 1}

        async def main() -> None:
            async with AsyncClient({"orders": ["127.0.0.1:9"]}) as client:
                assert (await client.get(URL)).json() == {"a": 1}

        asyncio.run(main())
        assert route.call_count == 3


def test_balanced_transport_alone() -> None:
    with Fleet(2) as fleet:
        fallback = httpx.MockTransport(lambda request: httpx.Response(204))
        with httpx.Client(transport=BalancedTransport({"orders": fleet.addresses}, fallback=fallback)) as client:
            assert client.get(URL).text == "ok"
            assert client.get("http://elsewhere/").status_code == 204
        with httpx.Client(transport=BalancedTransport({"orders": fleet.addresses})) as client:
            with pytest.raises(NoInstances, match="does not cover"):
                client.get("http://elsewhere/")


# ---- addresses, TLS, HTTP/2 ----


def test_ports_and_host_header() -> None:
    with Fleet(1) as fleet:
        port = fleet[0].port
        with Client({"orders": [f"127.0.0.1:{port}"], "portless": ["127.0.0.1"]}) as client:
            assert client.get("http://orders:81/").text == "ok"
            assert client.get(f"http://portless:{port}/").text == "ok"
        assert [request.headers["host"] for request in fleet.received] == ["orders:81", f"portless:{port}"]
        with Client({"orders": fleet.addresses}, policy=Policy(host_header="instance")) as client:
            client.get(URL)
        assert fleet.received[-1].headers["host"] == f"127.0.0.1:{port}"


class _Certified:
    """A TLS fleet that notes the names it was asked for."""

    def __init__(self, *names: str) -> None:
        self.asked: list[str | None] = []
        authority = trustme.CA()
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.server.sni_callback = lambda _socket, name, _context: self.asked.append(name)
        authority.issue_cert(*names).configure_cert(self.server)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_tls_with_the_service_s_name(scheme: str) -> None:
    certified = _Certified("orders")
    with Fleet(1, tls=certified.server) as fleet:
        address = f"https://{fleet[0].address}" if scheme == "http" else fleet[0].address
        with Client({"orders": [address]}, verify=certified.client) as client:
            assert client.get(f"{scheme}://orders/").text == "ok"
    assert set(certified.asked) == {"orders"}


def test_tls_with_other_names() -> None:
    certified = _Certified("named.example", "localhost.localdomain")
    with Fleet(1, tls=certified.server) as fleet:
        policy = Policy(tls_server_name="named.example")
        with Client({"orders": fleet.addresses}, verify=certified.client, policy=policy) as client:
            assert client.get("https://orders/").text == "ok"
        with Client({"orders": fleet.addresses}, verify=certified.client) as client:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED") as caught:
                client.get("https://orders/")
            # Trouble of our own is nobody's failure.
            story = report(caught.value)
            assert story is not None
            assert {attempt.outcome for attempt in story.attempts} == {"abandoned"}
            extensions = {"sni_hostname": "named.example"}
            assert client.get("https://orders/", extensions=extensions).text == "ok"
    assert set(certified.asked) == {"named.example", "orders"}


def test_instances_that_are_names_are_asked_by_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    certified = _Certified("a.example")
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: real("127.0.0.1" if host == "a.example" else host, *rest, **more),
    )
    with Fleet(1, tls=certified.server) as fleet:
        with Client({"orders": [f"https://a.example:{fleet[0].port}"]}, verify=certified.client) as client:
            assert client.get(URL).text == "ok"
    assert certified.asked == ["a.example"]
    assert fleet.received[0].headers["host"] == "orders"


def test_http2(driver: Any) -> None:
    from h2_server import h2_server

    certified = _Certified("orders")
    with h2_server(certified.server) as one, h2_server(certified.server) as two:
        with driver.client({"orders": [one.address, two.address]}, verify=certified.client, http2=True) as client:
            versions = {client.get("https://orders/").http_version for _ in range(6)}
            assert versions == {"HTTP/2"}
            assert client.post("https://orders/", content=b"x" * 100_000).status_code == 200
            assert all(node.in_flight == 0 for node in client.nodes())
            response = client.open("GET", "https://orders/")
            nodes = client.nodes()
        assert all(node.in_flight == 0 for node in nodes)  # closed with the client, though never read
        del response
        # One connection per node, whatever the calls.
        assert one.connections + two.connections == 2
        assert one.requests
        assert two.requests


# ---- errors ----


def test_errors_pickle() -> None:
    with Client({"orders": ["127.0.0.1:1", Instance("127.0.0.1", 2, metadata={"a": "b"})], "none": []}) as client:
        with pytest.raises(httpx.ConnectError) as refused:
            client.get(URL)
        with pytest.raises(NoInstances) as empty:
            client.get("http://none/")
    for error in (refused.value, empty.value):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert report(again) == report(error)
    assert pickle.loads(pickle.dumps(empty.value)).service == "none"
    late = smartclient.httpx2.DeadlineExceeded.of("orders", 0.5, "somewhere")
    assert pickle.loads(pickle.dumps(late)).deadline == 0.5


def test_report_of_what_was_not_balanced() -> None:
    assert report(httpx.Response(200)) is None
    assert report(ValueError()) is None


def test_prefer_and_options_are_checked() -> None:
    v1, v2 = ({"version": version} for version in ("v1", "v2"))
    with Fleet(2) as fleet:
        instances = [
            Instance("127.0.0.1", server.port, metadata=m) for server, m in zip(fleet.servers, (v1, v2), strict=True)
        ]
        with Client({"orders": instances}) as client:
            for _ in range(5):
                client.get(URL, extensions=call(prefer=v2))
            assert not fleet[0].received
            assert client.get(URL, extensions=call(prefer={"version": "v3"})).status_code == 200
    for wrong in ({"deadline": -1}, {"deadline": "1"}, {"retry": 3}, {"hash_key": 5}, {"prefer": "x"}):
        with pytest.raises((ValueError, TypeError)):
            call(**wrong)  # type: ignore[arg-type]


# ---- threads, loops, forks ----


def test_many_threads_on_one_client() -> None:
    with Fleet(3) as fleet, Client({"orders": fleet.addresses}) as client:
        failures: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(30):
                    assert client.get(URL).status_code == 200
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        transport: Any = balanced_of(client)
        assert all(node.in_flight == 0 for node in service_of(transport).nodes)
        assert places_of(transport).taken == 0


def test_one_client_over_three_loops() -> None:
    """The connections of a loop that ended are closed (asyncio has nothing to complain of, as it does with httpx)."""
    with Fleet(2) as fleet:
        client = AsyncClient({"orders": fleet.addresses}, trust_env=False)

        async def some() -> None:
            for _ in range(4):
                assert (await client.get(URL)).status_code == 200

        asyncio.run(some())
        asyncio.run(some())

        async def last() -> None:
            await some()
            transport: Any = balanced_of(client)
            for node in service_of(transport).nodes:
                assert len(shared_of(node)) <= 1
            await client.aclose()

        asyncio.run(last())
        gc.collect()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_has_its_own_connections_and_watches() -> None:
    source = smartclient.Function(lambda service: fleet.addresses, interval=0.05)
    with Fleet(2) as fleet, Client(source) as client:
        assert client.get(URL).status_code == 200
        opened = fleet.open

        def work() -> None:
            assert [client.get(URL).status_code for _ in range(3)] == [200] * 3
            assert any(thread.name == "smartclient-orders" for thread in threading.enumerate())

        in_child(work)
        assert client.get(URL).status_code == 200
        ends_at = time.monotonic() + 5
        while fleet.open > opened and time.monotonic() < ends_at:
            time.sleep(0.01)
        assert fleet.open <= opened + 1


def test_user_strategies_of_tenacity() -> None:
    import tenacity

    with Fleet(1) as fleet:
        fleet[0].behave(Behaviour(status=202), Behaviour(status=202), OK)
        retry = Retry(
            retry=tenacity.retry_if_result(lambda response: response.status_code == 202),
            stop=tenacity.stop_after_attempt(5) | tenacity.stop_after_delay(10),
            wait=tenacity.wait_fixed(0.01),
        )
        with Client({"orders": fleet.addresses}, policy=Policy(retry=retry)) as client:
            response = client.get(URL)
            story = report(response)
            assert response.status_code == 200
            assert story is not None
            assert [attempt.status for attempt in story.attempts] == [202, 202, 200]
            assert story.attempts[1].waited >= 0.01
