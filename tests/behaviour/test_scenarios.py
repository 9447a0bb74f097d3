"""What a call does, against real sockets: one table of scenarios, all drivers."""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import anyio
import pytest
from inside import places_of

import smartclient
import smartclient.testing
from smartclient import OutlierDetection, Policy, Retry, RetryBudget, call, report
from smartclient.testing import (
    CLOSING,
    CLOSING_IDLE,
    FAILING,
    GARBAGE,
    OK,
    RESETTING,
    RESETTING_BODY,
    SILENT,
    SLOW_BODY,
    TRUNCATING,
    Behaviour,
    VirtualClock,
)

URL = "http://orders/v1/items?page=2"


def settled(face: Any) -> bool:
    """Nothing of a call is left behind."""
    places = places_of(face.balanced)
    return all(node.in_flight == 0 for node in face.nodes()) and (places is None or places.taken == 0)


def test_a_call_is_balanced_and_stays_logical(driver: Any, fleet: Any) -> None:
    servers = fleet(3)
    with driver.client({"orders": servers.addresses}) as client:
        for _ in range(12):
            response = client.get(URL)
            assert response.text == "ok"
            assert str(response.url) == URL
        assert all(server.received for server in servers.servers)
        assert {request.headers["host"] for request in servers.received} == {"orders"}
        assert {request.target for request in servers.received} == {"/v1/items?page=2"}
        story = report(response)
        assert story is not None
        assert (story.service, len(story.attempts), story.attempts[0].status) == ("orders", 1, 200)
        assert settled(client)


def test_a_failing_instance_is_not_seen(driver: Any, fleet: Any) -> None:
    servers = fleet(3)
    servers[0].behave(FAILING)
    with driver.client({"orders": servers.addresses}) as client:
        assert {client.get(URL).status_code for _ in range(20)} == {200}
        assert settled(client)


@pytest.mark.parametrize("behaviour", [RESETTING, CLOSING, GARBAGE, TRUNCATING, RESETTING_BODY], ids=lambda b: b.fault)
def test_a_broken_instance_is_not_seen(driver: Any, fleet: Any, behaviour: Behaviour) -> None:
    servers = fleet(3)
    servers[0].behave(behaviour)
    with driver.client({"orders": servers.addresses}) as client:
        assert {client.get(URL).text for _ in range(10)} == {"ok"}
        assert settled(client)


def test_a_refusing_instance_is_not_seen_even_by_post(driver: Any, fleet: Any) -> None:
    servers = fleet(3)
    servers[0].refuse()
    with driver.client({"orders": servers.addresses}) as client:
        assert {client.post(URL, content=driver.body([b"a", b"b"])).status_code for _ in range(10)} == {200}
        assert {request.body for request in servers.received} == {b"ab"}
        assert settled(client)


def test_a_silent_instance_costs_an_attempt_timeout(driver: Any, fleet: Any) -> None:
    servers = fleet(2)
    servers[0].behave(SILENT)
    with driver.client({"orders": servers.addresses}, policy=Policy(attempt_timeout=0.2)) as client:
        for _ in range(4):
            assert client.get(URL).status_code == 200
        assert settled(client)


def test_the_last_real_response_is_returned(driver: Any, fleet: Any) -> None:
    servers = fleet(3, FAILING)
    with driver.client({"orders": servers.addresses}) as client:
        response = client.get(URL)
        assert (response.status_code, response.text) == (503, "failing")
        story = report(response)
        assert story is not None
        assert len({attempt.instance for attempt in story.attempts}) == 3
        assert settled(client)


def test_the_last_real_error_is_raised_with_its_story(driver: Any, fleet: Any) -> None:
    servers = fleet(2)
    for server in servers.servers:
        server.refuse()
    with driver.client({"orders": servers.addresses}) as client:
        with pytest.raises(driver.httpx.ConnectError) as caught:
            client.get(URL)
        story = report(caught.value)
        assert story is not None
        assert len(story.attempts) == 3
        text = "".join(getattr(caught.value, "__notes__", [])) or str(caught.value)
        assert all(address in text for address in servers.addresses)
        assert caught.value.request.url.host == "orders"
        assert settled(client)


def test_post_is_not_sent_twice(driver: Any, fleet: Any) -> None:
    servers = fleet(3, FAILING)
    with driver.client({"orders": servers.addresses}) as client:
        assert client.post(URL, content=b"x").status_code == 503
        assert len(servers.received) == 1
        assert client.post(URL, content=b"x", extensions=call(retry=Retry(methods={"post"}))).status_code == 503
        assert len(servers.received) == 4


def test_a_generator_once_begun_is_sent_once(driver: Any, fleet: Any) -> None:
    servers = fleet(3, RESETTING)
    begun = []
    with driver.client({"orders": servers.addresses}) as client:
        with pytest.raises(driver.httpx.TransportError):
            client.request("PUT", URL, content=driver.body([b"a", b"b"], lambda: begun.append(1)))
        assert begun == [1]
        assert len(servers.received) == 1


def test_a_file_restarts_where_it_was_given(driver: Any, fleet: Any, tmp_path: Any) -> None:
    servers = fleet(3)
    servers[0].behave(FAILING)
    servers[1].behave(FAILING)
    path = tmp_path / "body"
    path.write_bytes(b"head:" + b"tail" * 1000)
    size = str(path.stat().st_size - 5)
    with driver.client({"orders": servers.addresses}) as client:
        for _ in range(5):
            with path.open("rb") as file:
                file.seek(5)
                content: Any = file if not driver.asynchronous else _fresh(file)
                response = client.request("PUT", URL, content=content, headers={"content-length": size})
            assert response.status_code == 200
    assert {request.body for request in servers.received if request.complete} == {b"tail" * 1000}


class _fresh:
    """An async iterable that gives a fresh iterator each time."""

    def __init__(self, file: Any) -> None:
        self.data = file.read()

    async def __aiter__(self) -> Any:
        yield self.data


def test_multipart_is_repeated(driver: Any, fleet: Any, tmp_path: Any) -> None:
    servers = fleet(3)
    servers[0].behave(FAILING)
    servers[1].behave(FAILING)
    with driver.client({"orders": servers.addresses}) as client:
        for _ in range(4):
            response = client.request("PUT", URL, data={"a": "1"}, files={"f": ("n", b"content")})
            assert response.status_code == 200
    assert all(request.complete and b"content" in request.body for request in servers.received)


def test_the_keep_alive_race_is_nobodys_failure(driver: Any, fleet: Any) -> None:
    servers = fleet(1)
    policy = Policy(retry=None)
    with driver.client({"orders": servers.addresses}, policy=policy) as client:
        client.get(URL)
        # The connection is idle; the server will close it as the next request reaches it.
        servers[0].behave(CLOSING, OK)
        response = client.get(URL)
        assert response.status_code == 200
        story = report(response)
        assert story is not None
        assert len(story.attempts) == 1
        assert client.nodes()[0].health.local_failures == 0


def test_connections_the_server_closed_are_not_taken(driver: Any, fleet: Any) -> None:
    servers = fleet(1, CLOSING_IDLE)
    with driver.client({"orders": servers.addresses}, policy=Policy(retry=None)) as client:
        for _ in range(3):
            assert client.post(URL, content=b"x").status_code == 200
            _until(lambda: servers.open == 0)
    assert len(servers.received) == 3


def test_streaming_holds_the_node_until_closed(driver: Any, fleet: Any) -> None:
    servers = fleet(1, Behaviour(body=b"y" * 300_000))
    with driver.client({"orders": servers.addresses}) as client:
        response = client.open("GET", URL)
        assert client.nodes()[0].in_flight == 1
        assert len(client.read(response)) == 300_000
        client.finish(response)
        client.finish(response)
        assert settled(client)


def test_a_response_never_read_does_not_pin_its_node(driver: Any, fleet: Any) -> None:
    servers = fleet(1, Behaviour(body=b"y" * 300_000))
    with driver.client({"orders": servers.addresses}) as client:
        response = client.open("GET", URL)
        assert client.nodes()[0].in_flight == 1
        del response
        gc.collect()
        assert client.get(URL).status_code == 200
        assert settled(client)


def test_closing_the_client_ends_what_is_in_use(driver: Any, fleet: Any) -> None:
    servers = fleet(2, Behaviour(body=b"y" * 3_000_000))
    with driver.client({"orders": servers.addresses}) as client:
        response = client.open("GET", URL)
        nodes = client.nodes()
    assert all(node.in_flight == 0 for node in nodes)
    _until(lambda: servers.open == 0)
    del response


def test_a_deadline_covers_retries_and_waits(driver: Any, fleet: Any) -> None:
    servers = fleet(2, SILENT)
    with driver.client({"orders": servers.addresses}, policy=Policy(deadline=0.3)) as client:
        began = time.monotonic()
        with pytest.raises(driver.names.DeadlineExceeded, match=r"deadline of 0.3 s") as caught:
            client.get(URL)
        assert time.monotonic() - began < 1.5
        assert isinstance(caught.value, driver.httpx.TimeoutException)
        assert isinstance(caught.value.__cause__, driver.httpx.TransportError)
        assert settled(client)


def test_a_deadline_covers_a_body_that_is_not_streamed(driver: Any, fleet: Any) -> None:
    servers = fleet(1, SLOW_BODY)
    with driver.client({"orders": servers.addresses}) as client:
        began = time.monotonic()
        with pytest.raises(driver.names.DeadlineExceeded):
            client.post(URL, extensions=call(deadline=0.4))
        assert time.monotonic() - began < 2
        assert settled(client)


def test_retry_after_is_honoured_within_the_deadline(driver: Any, fleet: Any) -> None:
    servers = fleet(1)
    busy = Behaviour(status=503, headers=(("Retry-After", "1"),))
    with driver.client({"orders": servers.addresses}) as client:
        servers[0].behave(busy, OK)
        began = time.monotonic()
        assert client.get(URL).status_code == 200
        assert time.monotonic() - began >= 1
        servers[0].behave(busy, OK)
        began = time.monotonic()
        assert client.get(URL, extensions=call(deadline=0.5)).status_code == 503
        assert time.monotonic() - began < 0.5


def test_limits_queue_and_time_out(driver: Any, fleet: Any) -> None:
    servers = fleet(1, Behaviour(body=b"y" * 300_000))
    limits = driver.httpx.Limits(max_connections=1)
    timeout = driver.httpx.Timeout(5, pool=0.1)
    with driver.client({"orders": servers.addresses}, limits=limits, timeout=timeout) as client:
        response = client.open("GET", URL)
        with pytest.raises(driver.httpx.PoolTimeout) as caught:
            client.get(URL)
        assert isinstance(caught.value, driver.names.Overloaded)
        assert client.nodes()[0].health.local_failures == 0
        client.finish(response)
        assert client.get(URL).status_code == 200
        assert settled(client)


def test_total_outage_is_not_multiplied(driver: Any, fleet: Any) -> None:
    servers = fleet(3, FAILING)
    budget = RetryBudget(ratio=0.2, min_per_second=1, ttl=10)
    with driver.client({"orders": servers.addresses}, policy=Policy(retry=Retry(budget=budget))) as client:
        calls = 200
        for _ in range(calls):
            assert client.get(URL).status_code == 503
        assert len(servers.received) <= 1.2 * calls + 10


def test_redirects_and_their_bodies(driver: Any, fleet: Any) -> None:
    servers = fleet(1)
    servers[0].behave(Behaviour(status=307, headers=(("location", "/elsewhere"),)), OK)
    with driver.client({"orders": servers.addresses}, follow_redirects=True) as client:
        response = client.post(URL, content=b"kept")
        assert [request.target for request in servers.received] == ["/v1/items?page=2", "/elsewhere"]
        assert [request.body for request in servers.received] == [b"kept", b"kept"]
        assert str(response.url) == "http://orders/elsewhere"


def test_a_server_that_hangs_up_on_an_upload_leaves_no_generator_behind(async_driver: Any, fleet: Any) -> None:
    """httpcore goes on to read the answer when it cannot write, and forgets the async generator in the middle."""
    servers = fleet(1)
    ended: list[int] = []

    async def chunks() -> Any:
        try:
            yield b"a" * 100_000
            while not servers[0].open:
                await anyio.sleep(0.001)
            servers[0].drop_connections()
            for _ in range(200):
                await anyio.sleep(0.001)
                yield b"b" * 100_000
        finally:
            ended.append(1)

    with async_driver.client({"orders": servers.addresses}) as client:
        with pytest.raises(async_driver.httpx.TransportError):
            client.post(URL, content=chunks())
        assert ended == [1]
        assert settled(client)


def test_a_spent_body_is_not_redirected(driver: Any, fleet: Any) -> None:
    """httpx itself would send an empty body, and take the 200 for it."""
    servers = fleet(1)
    servers[0].behave(Behaviour(status=307, headers=(("location", "/elsewhere"),)), OK)
    with driver.client({"orders": servers.addresses}, follow_redirects=True) as client:
        with pytest.raises(driver.httpx.StreamConsumed):
            client.post(URL, content=driver.body([b"once"]))
        assert len(servers.received) == 1
        assert settled(client)


def test_a_strategy_that_raises_leaves_nothing_open(driver: Any, fleet: Any) -> None:
    servers = fleet(1, FAILING)

    def broken(state: Any) -> bool:
        raise ZeroDivisionError

    for retry in (Retry(retry=broken), Retry(wait=broken), Retry(stop=broken)):
        with driver.client({"orders": servers.addresses}, policy=Policy(retry=retry)) as client:
            with pytest.raises(ZeroDivisionError):
                client.get(URL)
            assert settled(client)


def test_unknown_service_says_so(driver: Any) -> None:
    with driver.client(lambda service: []) as client:
        with pytest.raises(driver.names.NoInstances, match=r"orders: no instances: .* lists none"):
            client.get(URL)


def test_first_list_is_waited_for(driver: Any, fleet: Any) -> None:
    servers = fleet(1)
    source = smartclient.testing.ScriptedDiscovery()
    with driver.client(source) as client:
        timer = threading.Timer(0.1, source.publish, ("orders", servers.addresses))
        timer.start()
        assert client.get(URL).status_code == 200
        timer.join()


def test_a_source_that_does_not_answer(driver: Any) -> None:
    source = smartclient.testing.ScriptedDiscovery()
    source.fail("orders", RuntimeError("registry on fire"))
    with driver.client(source, timeout=0.2) as client:
        with pytest.raises(driver.names.NoInstances, match="registry on fire"):
            client.get(URL)
        with pytest.raises(driver.names.DeadlineExceeded, match="registry on fire"):
            client.get(URL, extensions=call(deadline=0.1))


def test_an_ejected_instance_comes_back_by_one_probe(driver: Any, fleet: Any) -> None:
    servers = fleet(3)
    servers[0].behave(FAILING)
    outlier = OutlierDetection(consecutive_5xx=2, base_ejection_time=0.3)
    events: list[Any] = []
    clock = VirtualClock()
    policy = Policy(balancer="round_robin", outlier=outlier)
    where = {"orders": servers.addresses}
    with driver.transport(where, policy=policy, observers=[events.append], clock=clock) as client:

        def calls(count: int) -> int:
            for _ in range(count):
                assert client.get(URL).status_code == 200
            return len(servers[0].received)

        assert calls(20) == 2
        clock.advance(0.4)
        assert calls(9) == 3  # one probe, failed
        servers[0].behave(OK)
        clock.advance(0.8)
        assert calls(9) > 5
        kinds = [type(event) for event in events]
        assert kinds.count(smartclient.NodeEjected) == 2
        assert kinds.count(smartclient.NodeReturned) == 1


def _until(condition: Any, seconds: float = 5) -> None:
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, "did not happen in time"
        time.sleep(0.01)
