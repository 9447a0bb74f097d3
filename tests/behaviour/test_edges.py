"""Corners of HTTP, each with a decided behaviour. Servers that say what h11's server side will not say are scripts of
bytes on a real socket.

408              repeated elsewhere where the request may be repeated; nobody is blamed
421, 425         the server did nothing: repeated elsewhere, POST too; 421 is its fault, 425 nobody's
103              passed over: the final answer counts
100-continue     the body is sent without waiting for it, as httpx does
GOAWAY           what comes after it goes out on another connection; nobody is blamed
101              handed to the caller, never repeated; its connection does not come back
HEAD             as GET, without a body to wait for
Connection: close  honoured: the connection does not come back
redirects        to the service's own name are balanced again; to an instance's own address go there, as httpx would
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import trustme
from h2_server import h2_server

from smartclient import Policy, report
from smartclient.testing import OK, Behaviour

URL = "http://orders/v1/items"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Script:
    """A server that answers each connection's requests with the same bytes. seen: what it has read"""

    def __init__(self, answer: bytes, afterwards: Callable[[socket.socket], None] | None = None) -> None:
        self.seen: list[bytes] = []
        self._answer, self._afterwards = answer, afterwards
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    while data := connection.recv(65536):
                        self.seen.append(data)
                        connection.sendall(self._answer)
                        if self._afterwards is not None:
                            self._afterwards(connection)
                            break
                except OSError:
                    pass

    def close(self) -> None:
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        self._thread.join()


@pytest.fixture
def script() -> Iterator[Callable[..., Script]]:
    with ExitStack() as stack:

        @contextmanager
        def made(*args: Any) -> Iterator[Script]:
            server = Script(*args)
            try:
                yield server
            finally:
                server.close()

        yield lambda *args: stack.enter_context(made(*args))


@pytest.mark.parametrize(
    ("status", "method", "attempts", "blamed"),
    [
        (408, "GET", 2, False),
        (408, "POST", 1, False),
        (421, "GET", 2, True),
        (421, "POST", 2, True),
        (425, "GET", 2, False),
        (425, "POST", 2, False),
    ],
)
def test_statuses_that_say_try_again(
    driver: Any, fleet: Any, status: int, method: str, attempts: int, blamed: bool
) -> None:
    servers = fleet(2)
    servers[0].behave(Behaviour(status=status))
    with driver.client({"orders": servers.addresses}, policy=Policy("round_robin", outlier=None)) as client:
        responses = [client.request(method, URL, content=b"x") for _ in range(2)]
        [response] = [one for one in responses if report(one).attempts[0].instance.port == servers[0].port]
        story = report(response).attempts
        assert len(story) == attempts
        assert response.status_code == (200 if attempts == 2 else status)
        assert story[0].outcome == ("failure" if blamed else "abandoned")
        assert len({attempt.instance for attempt in story}) == attempts


def test_a_post_whose_body_is_spent_is_not_repeated_for_421(driver: Any, fleet: Any) -> None:
    servers = fleet(2, Behaviour(status=421))
    with driver.client({"orders": servers.addresses}) as client:
        response = client.post(URL, content=driver.body([b"a", b"b"]))
        assert (response.status_code, len(servers.received)) == (421, 1)


def test_early_hints_are_passed_over(driver: Any, script: Any) -> None:
    server = script(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n" + ANSWER)
    with driver.client({"orders": [server.address]}) as client:
        for _ in range(2):
            response = client.get(URL)
            assert (response.status_code, response.text) == (200, "ok")


def test_expect_100_continue(driver: Any, fleet: Any) -> None:
    servers = fleet(1)
    with driver.client({"orders": servers.addresses}) as client:
        response = client.post(URL, content=b"body", headers={"expect": "100-continue"})
        assert response.status_code == 200
        assert servers.received[0].body == b"body"


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(b"echo " + data)


def test_an_upgrade_is_the_callers(driver: Any, script: Any) -> None:
    server = script(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n", echo)
    headers = {"upgrade": "echo", "connection": "upgrade"}
    with driver.client({"orders": [server.address]}, policy=Policy(deadline=0.5)) as client:
        response = client.open("GET", URL, headers=headers)
        assert response.status_code == 101
        assert client.nodes()[0].in_flight == 1
        stream = response.extensions["network_stream"]
        driver.run(stream.write, b"hello")
        assert driver.run(stream.read, 100, timeout=5) == b"echo hello"
        client.finish(response)
        assert client.nodes()[0].in_flight == 0
        assert len(server.seen) == 1


def test_goaway_is_nobodys_failure(driver: Any) -> None:
    """Each connection serves one request and says GOAWAY; the next request, POST too, goes out on another."""
    authority = trustme.CA()
    context, trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("orders").configure_cert(context)
    authority.configure_trust(trusted)
    with h2_server(context, goaway=True) as server:
        with driver.client(
            {"orders": [server.address]}, http2=True, verify=trusted, policy=Policy(retry=None)
        ) as client:
            for _ in range(4):
                response = client.post("https://orders/", content=b"x")
                assert (response.status_code, response.http_version) == (200, "HTTP/2")
                assert report(response).attempts[0].outcome == "success"
        assert server.connections == 4


def test_a_head_is_retried_like_a_get(driver: Any, fleet: Any) -> None:
    servers = fleet(2)
    for server in servers.servers:
        server.behave(Behaviour(status=503, body=b"nothing of this is sent"), Behaviour(body=b"nor of this"))
    with driver.client({"orders": servers.addresses}) as client:
        for _ in range(3):
            response = client.request("HEAD", URL)
            assert (response.status_code, response.content) == (200, b"")
        assert all(server.open <= 1 for server in servers.servers)


def test_connection_close_is_honoured(driver: Any, fleet: Any) -> None:
    servers = fleet(1, Behaviour(headers=(("connection", "close"),)))
    with driver.client({"orders": servers.addresses}, policy=Policy(retry=None)) as client:
        for _ in range(3):
            assert client.post(URL, content=b"x").status_code == 200
    assert len(servers.received) == 3


def test_a_redirect_to_the_service_is_balanced_again(driver: Any, fleet: Any) -> None:
    servers = fleet(2)
    servers[0].behave(Behaviour(status=302, headers=(("location", "http://orders/elsewhere"),)))
    with driver.client({"orders": servers.addresses}, policy=Policy("round_robin")) as client:
        response = client.get(URL, follow_redirects=True)
        for _ in range(3):
            response = client.get(URL, follow_redirects=True)
            assert response.status_code == 200
        assert response.url.host == "orders"


def test_a_redirect_to_an_instances_own_address_goes_there(driver: Any, fleet: Any) -> None:
    """As httpx would: past the balancer, without the credentials meant for the service."""
    servers = fleet(1)
    location = f"http://{servers[0].address}/own"
    servers[0].behave(Behaviour(status=302, headers=(("location", location),)), OK)
    with driver.client({"orders": servers.addresses}) as client:
        response = client.get(URL, follow_redirects=True, headers={"authorization": "Bearer secret"})
        assert (response.status_code, str(response.url)) == (200, location)
        assert report(response) is None
        first, second = servers.received
        assert first.headers["host"] == "orders"
        assert second.headers["host"] == servers[0].address
        assert "authorization" not in second.headers
