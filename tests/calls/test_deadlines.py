"""Deadlines: a call's own, its policy's, and the ambient one; against every fault."""

from __future__ import annotations

import contextvars
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import smartclient
from smartclient import Policy, Retry, call, deadline, report
from smartclient.inherited import as_header
from smartclient.testing import (
    CLOSING,
    FAILING,
    GARBAGE,
    RESETTING,
    RESETTING_BODY,
    SILENT,
    SLOW,
    SLOW_BODY,
    SLOW_HEADERS,
    TRUNCATING,
    Behaviour,
)

URL = "http://orders/v1/items"
GIVEN, GRACE = 0.2, 0.02
FAULTS = {
    "failing": FAILING,
    "slow": SLOW,
    "silent": SILENT,
    "resetting": RESETTING,
    "closing": CLOSING,
    "garbage": GARBAGE,
    "truncating": TRUNCATING,
    "resetting body": RESETTING_BODY,
    "slow body": SLOW_BODY,
    "dripping headers": SLOW_HEADERS,
}


class Elapsed:
    """How long something took. A shared machine may hold it up: the least of a few counts."""

    def __enter__(self) -> Elapsed:
        self._began = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.monotonic() - self._began


@pytest.mark.parametrize("fault", FAULTS)
def test_no_call_returns_later(driver: Any, fleet: Any, fault: str) -> None:
    servers = fleet(2, FAULTS[fault])
    with driver.client({"orders": servers.addresses}, policy=Policy(deadline=GIVEN)) as client:
        least = float("inf")
        for _ in range(5):
            with Elapsed() as elapsed:
                try:
                    client.get(URL)
                except driver.httpx.TransportError:
                    pass
            least = min(least, elapsed.seconds)
            if least < GIVEN + GRACE:
                break
        assert least < GIVEN + GRACE


def test_a_call_turns_the_policy_s_off(driver: Any, fleet: Any) -> None:
    servers = fleet(1, Behaviour(delay=0.3))
    policy = Policy(deadline=0.1, attempt_timeout=0.1, retry=None)
    with driver.client({"orders": servers.addresses}, policy=policy) as client:
        with pytest.raises(driver.httpx.TimeoutException):
            client.get(URL)
        for off in (call(deadline=None), call(attempt_timeout=None)):
            with pytest.raises(driver.httpx.TimeoutException):
                client.get(URL, extensions=off)
        assert client.get(URL, extensions=call(deadline=None, attempt_timeout=None)).status_code == 200


@pytest.fixture
def unreachable() -> Iterator[str]:
    """An address whose backlog is full: connecting to it never ends."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(8):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        for one in waiting:
            one.close()


def test_not_even_while_connecting(driver: Any, unreachable: str) -> None:
    with driver.client({"orders": [unreachable]}, policy=Policy(deadline=GIVEN)) as client:
        least = float("inf")
        for _ in range(3):
            with Elapsed() as elapsed, pytest.raises(driver.httpx.TransportError):
                client.get(URL)
            least = min(least, elapsed.seconds)
        assert least < GIVEN + GRACE


def test_it_counts_for_the_body_of_a_large_upload(driver: Any, fleet: Any) -> None:
    """A server that reads nothing: the socket's buffer fills up."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with driver.client({"orders": [address]}, policy=Policy(deadline=GIVEN, retry=None)) as client:
            least = float("inf")
            for _ in range(3):
                with Elapsed() as elapsed, pytest.raises(driver.httpx.TransportError):
                    client.post(URL, content=b"x" * 10_000_000)
                least = min(least, elapsed.seconds)
            assert least < GIVEN + GRACE


def test_a_streamed_body_is_the_callers_to_time(driver: Any, fleet: Any) -> None:
    servers = fleet(1, Behaviour(fault=SLOW_BODY.fault, body=b"x" * 8))
    with driver.client({"orders": servers.addresses}, policy=Policy(deadline=GIVEN)) as client:
        response = client.open("GET", URL)
        assert client.read(response) == b"x" * 8  # 0.4 s
        client.finish(response)


def within(driver: Any, seconds: float, function: Any, *args: Any, **keywords: Any) -> Any:
    """Call it inside an ambient deadline, where it runs."""
    if not driver.asynchronous:
        with deadline(seconds):
            return function(*args, **keywords)

    async def run() -> Any:
        with deadline(seconds):
            return await function(*args, **keywords)

    return driver.run(run)


def test_an_ambient_deadline(driver: Any, fleet: Any) -> None:
    servers = fleet(2, SILENT)
    with driver.client({"orders": servers.addresses}) as client:
        with Elapsed() as elapsed, pytest.raises(driver.names.DeadlineExceeded, match=r"deadline of 0.2 s exceeded"):
            within(driver, GIVEN, client.client.get, URL)
        assert elapsed.seconds < 1
        # The nearest end wins, whichever it is.
        with pytest.raises(driver.names.DeadlineExceeded, match=r"deadline of 0.1 s"):
            within(driver, 5, client.client.get, URL, extensions=call(deadline=0.1))
        with pytest.raises(driver.names.DeadlineExceeded, match=r"deadline of 0.1 s"):
            within(driver, 0.1, client.client.get, URL, extensions=call(deadline=5))
        with pytest.raises(driver.names.DeadlineExceeded, match="before anything was sent"):
            within(driver, 0, client.client.get, URL)


def test_of_nested_deadlines_the_nearest_end_wins() -> None:
    assert deadline.left() is None
    with deadline(10):
        with deadline(20):
            assert 9 < (deadline.left() or 0) <= 10
        with deadline(1):
            assert 0 < (deadline.left() or 0) <= 1
        with deadline(None):
            assert 9 < (deadline.left() or 0) <= 10
        assert 9 < (deadline.left() or 0) <= 10
    assert deadline.left() is None


def test_tasks_and_threads_inherit_it() -> None:
    found = []

    async def main() -> None:
        async def child() -> None:
            found.append(deadline.left())

        with deadline(10):
            async with anyio.create_task_group() as group:
                group.start_soon(child)
            thread = threading.Thread(
                target=contextvars.copy_context().run, args=(lambda: found.append(deadline.left()),)
            )
            thread.start()
            thread.join()

    anyio.run(main)
    assert len(found) == 2
    assert all(left is not None and 9 < left <= 10 for left in found)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_seconds_are_checked(seconds: float) -> None:
    with pytest.raises(ValueError, match="deadline: expected seconds"):
        deadline(seconds)
    with pytest.raises(TypeError):
        deadline("0.8")  # type: ignore[arg-type]


def test_a_retry_that_does_not_fit_is_not_made(driver: Any, fleet: Any) -> None:
    """The service usually takes 100 ms; 60 are left after the first failure."""
    servers = fleet(2, Behaviour(delay=0.1))
    with driver.client({"orders": servers.addresses}, policy=Policy("round_robin", deadline=5)) as client:
        for _ in range(20):
            client.get(URL)
        for server in servers.servers:
            server.behave(Behaviour(status=503, delay=0.1))
        response = client.get(URL, extensions=call(deadline=0.16))
        assert response.status_code == 503
        assert len(report(response).attempts) == 1
        response = client.get(URL, extensions=call(deadline=1))
        assert len(report(response).attempts) == 3


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"X-Request-Deadline-Ms": "800"}, 0.8),
        ({"x-request-deadline-ms": " 12.5 "}, 0.0125),
        ({"x-request-deadline-ms": "-3"}, 0.0),
        ({"grpc-timeout": "250m"}, 0.25),
        ({"Grpc-Timeout": "2S"}, 2.0),
        ({"grpc-timeout": "1H"}, 3600.0),
        ({"x-envoy-expected-rq-timeout-ms": "15"}, 0.015),
        ([(b"grpc-timeout", b"5000u")], 0.005),
        ({"x-request-deadline-ms": "soon"}, None),
        ({"grpc-timeout": "123456789m"}, None),
        ({"grpc-timeout": "5"}, None),
        ({}, None),
    ],
)
def test_headers_in(headers: Any, seconds: float | None) -> None:
    with deadline.from_headers(headers):
        left = deadline.left()
    if seconds is None:
        assert left is None
    else:
        assert left == pytest.approx(seconds, abs=0.05)


def test_headers_in_by_name() -> None:
    with deadline.from_headers({"X-Time-Left": "700", "grpc-timeout": "1S"}, "x-time-left"):
        assert deadline.left() == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize(("name", "value"), [("X-Request-Deadline-Ms", b"800"), ("grpc-timeout", b"800m")])
def test_header_forms(name: str, value: bytes) -> None:
    assert as_header(name, 0.8) == value
    assert int(as_header(name, -1).rstrip(b"m")) == 1


@pytest.mark.parametrize("name", ["X-Request-Deadline-Ms", "grpc-timeout"])
def test_each_attempt_says_what_is_left(driver: Any, fleet: Any, name: str) -> None:
    servers = fleet(3, Behaviour(status=503, delay=0.02))
    policy = Policy(deadline=5, deadline_header=name)
    with driver.client({"orders": servers.addresses}, policy=policy) as client:
        client.get(URL, headers={name: "99999"})
        left = sorted(int(request.headers[name.lower()].rstrip("m")) for request in servers.received)
        assert len(left) == 3
        assert 4000 < left[0] < left[1] < left[2] <= 5000


def test_without_a_deadline_no_header(driver: Any, fleet: Any) -> None:
    servers = fleet(1)
    with driver.client({"orders": servers.addresses}, policy=Policy(deadline_header="grpc-timeout")) as client:
        client.get(URL)
    assert "grpc-timeout" not in servers.received[0].headers


@pytest.mark.parametrize("name", ["", "a b", "a\r\nb", 7])
def test_header_names_are_checked(name: Any) -> None:
    for field in ("deadline_header", "attempt_header"):
        with pytest.raises(ValueError, match=f"Policy.{field}"):
            Policy(**{field: name})


def test_a_slow_loris_is_ended_even_where_httpx_would_wait(driver: Any, fleet: Any) -> None:
    servers = fleet(1, SLOW_BODY)  # 5 s, a byte at a time
    with driver.client({"orders": servers.addresses}, policy=Policy(retry=Retry(attempts=1)), timeout=1) as client:
        with Elapsed() as elapsed, pytest.raises(driver.names.DeadlineExceeded, match="while reading the body"):
            within(driver, 0.3, client.client.get, URL)
        assert elapsed.seconds < 0.6
    assert smartclient.deadline.left() is None


def test_one_object_may_be_entered_more_than_once() -> None:
    one = deadline(10)
    with one, one:
        assert 9 < (deadline.left() or 0) <= 10
    assert deadline.left() is None

    async def main() -> None:
        async def child(seconds: float) -> None:
            with one:
                await anyio.sleep(seconds)
            assert deadline.left() is None

        async with anyio.create_task_group() as group:
            group.start_soon(child, 0.02)
            group.start_soon(child, 0.01)

    anyio.run(main)


def test_background_work_is_detached() -> None:
    with deadline(10):
        with deadline.detached():
            assert deadline.left() is None
            with deadline(20):
                assert 19 < (deadline.left() or 0) <= 20
        assert 9 < (deadline.left() or 0) <= 10


def test_it_holds_for_transports_of_the_users(async_driver: Any) -> None:
    """Async: whatever they do. (A blocking one is timed by its own timeouts alone.)"""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep(2)

    def connect(instance: Any) -> Any:
        return async_driver.httpx.ASGITransport(app)

    with async_driver.client({"orders": ["10.0.0.1:80"]}, policy=Policy(deadline=GIVEN), connect=connect) as client:
        with Elapsed() as elapsed, pytest.raises(async_driver.names.DeadlineExceeded):
            client.get(URL)
        assert elapsed.seconds < 1


def test_it_holds_for_a_body_that_takes_its_time(async_driver: Any, fleet: Any) -> None:
    servers = fleet(1)

    async def body() -> Any:
        yield b"a"
        await anyio.sleep(2)
        yield b"b"

    with async_driver.client({"orders": servers.addresses}, policy=Policy(deadline=GIVEN)) as client:
        with Elapsed() as elapsed, pytest.raises(async_driver.names.DeadlineExceeded):
            client.post(URL, content=body())
        assert elapsed.seconds < 1


def test_it_holds_for_a_name_with_several_dead_addresses(sync_driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = []
        for _ in range(8):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(("127.0.0.1", port))
        known = socket.getaddrinfo

        def four(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
            if host != "a.example":
                return known(host, port, *rest, **more)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in range(1, 5)]

        monkeypatch.setattr(socket, "getaddrinfo", four)
        policy = Policy(deadline=GIVEN, retry=None)
        with sync_driver.client({"orders": [f"a.example:{port}"]}, policy=policy) as client:
            with Elapsed() as elapsed, pytest.raises(sync_driver.httpx.TransportError):
                client.get(URL)
            assert elapsed.seconds < 2 * GIVEN
        for one in waiting:
            one.close()
