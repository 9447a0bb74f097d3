"""Every call and every attempt that has a beginning has an end that observers see: one table of ways that a call can
end, all drivers.
"""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import MagicMock, Mock

import anyio
import httpx
import pytest
from driving import until

import smartclient
from smartclient import (
    AttemptFinished,
    AttemptStarted,
    Balancer,
    CallFinished,
    CallStarted,
    Circuit,
    Hedge,
    Limits,
    Policy,
    Retry,
    RetryBudget,
    RetryDenied,
    Throttle,
)
from smartclient.discovery.base import Listing
from smartclient.testing import (
    FAILING,
    RESETTING,
    RESETTING_BODY,
    SILENT,
    SLOW,
    SLOW_BODY,
    Behaviour,
    ScriptedDiscovery,
)

URL = "http://orders/v1/items?page=2"
ONCE = Retry(attempts=1)


class Seen(list[Any]):
    """An observer: what it was told."""

    def __call__(self, event: Any) -> None:
        self.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]

    def paired(self) -> bool:
        """Each start has its end, and nothing else has one."""
        calls = [Counter(event.call_id for event in self.of(kind)) for kind in (CallStarted, CallFinished)]
        attempts = [
            Counter((event.call_id, event.number, event.kind) for event in self.of(kind))
            for kind in (AttemptStarted, AttemptFinished)
        ]
        return calls[0] == calls[1] and attempts[0] == attempts[1] and set(calls[0].values()) <= {1}


@dataclass
class World:
    """What a way of ending has at hand."""

    driver: Any
    fleet: Callable[..., Any]
    seen: Seen = field(default_factory=Seen)

    def client(self, discovery: Any, policy: Policy | None = None, **keywords: Any) -> Any:
        return self.driver.client(discovery, policy=policy, observers=[self.seen], **keywords)

    def only(self, call_id: int) -> None:
        """Look at one call's events."""
        self.seen[:] = [event for event in self.seen if getattr(event, "call_id", 0) == call_id]

    def fails(self, work: Callable[[], object], kind: str | None = None) -> None:
        with pytest.raises(Exception) as caught:
            work()
        assert kind is None or type(caught.value).__name__ == kind, repr(caught.value)


def success(world: World) -> None:
    with world.client({"orders": world.fleet(1).addresses}) as client:
        client.get(URL)


def kept_503(world: World) -> None:
    with world.client({"orders": world.fleet(2, FAILING).addresses}) as client:
        assert client.get(URL).status_code == 503


def transport_error(world: World) -> None:
    with world.client({"orders": world.fleet(2, RESETTING).addresses}) as client:
        world.fails(lambda: client.get(URL))


def retried(world: World) -> None:
    servers = world.fleet(2)
    servers[0].behave(FAILING)
    with world.client({"orders": servers.addresses}, Policy("round_robin")) as client:
        for _ in range(2):
            assert client.get(URL).status_code == 200
    assert {event.kind for event in world.seen.of(AttemptStarted)} == {"first", "retry"}
    world.only(next(event.call_id for event in world.seen.of(AttemptStarted) if event.kind == "retry"))


def no_instances_listed(world: World) -> None:
    with world.client({"orders": []}) as client:
        world.fails(lambda: client.get(URL), "NoInstances")


def no_list_in_time(world: World) -> None:
    with world.client(ScriptedDiscovery(), timeout=0.1) as client:
        world.fails(lambda: client.get(URL), "NoInstances")


def none_matches(world: World) -> None:
    with world.client({"orders": world.fleet(1).addresses}, Policy(require={"version": "v2"})) as client:
        world.fails(lambda: client.get(URL), "NoInstances")


def deadline_before_the_list(world: World) -> None:
    with world.client(ScriptedDiscovery(), Policy(deadline=0.1)) as client:
        world.fails(lambda: client.get(URL), "DeadlineExceeded")


def deadline_before_the_pick(world: World) -> None:
    with world.client({"orders": world.fleet(1).addresses}) as client, smartclient.deadline(0.001):
        time.sleep(0.01)
        world.fails(lambda: client.get(URL), "DeadlineExceeded")


def deadline_in_flight(world: World) -> None:
    with world.client({"orders": world.fleet(1, SILENT).addresses}, Policy(deadline=0.1, retry=None)) as client:
        world.fails(lambda: client.get(URL), "DeadlineExceeded")


def deadline_in_the_body(world: World) -> None:
    with world.client({"orders": world.fleet(1, SLOW_BODY).addresses}, Policy(deadline=0.2, retry=None)) as client:
        world.fails(lambda: client.get(URL), "DeadlineExceeded")


def broken_body(world: World) -> None:
    with world.client({"orders": world.fleet(1, RESETTING_BODY).addresses}, Policy(retry=None)) as client:
        world.fails(lambda: client.get(URL))


def second_is_refused(world: World, policy: Policy | None = None, **keywords: Any) -> None:
    """While the response of another call is open."""
    with world.client({"orders": world.fleet(1).addresses}, policy, **keywords) as client:
        response = client.open("GET", URL)
        world.fails(lambda: client.get(URL), "Overloaded")
        client.finish(response)
    world.only(world.seen.of(CallFinished)[0].call_id)


def too_many_in_flight(world: World) -> None:
    second_is_refused(world, Policy(limits=Limits(max_in_flight=1, queue=0)))


def queued_too_long(world: World) -> None:
    second_is_refused(world, Policy(limits=Limits(max_in_flight=1, queue=5, queue_timeout=0.1)))
    [refused] = world.seen.of(CallFinished)
    assert 0.09 < refused.queued <= refused.elapsed


def connections_used_up(world: World) -> None:
    second_is_refused(world, limits=world.driver.httpx.Limits(max_connections=1), timeout=0.1)


def throttled(world: World) -> None:
    policy = Policy(throttle=Throttle(1.0, at_most=0.99), retry=None, outlier=None)
    with world.client({"orders": world.fleet(1, FAILING).addresses}, policy) as client:
        with pytest.raises(world.driver.names.Overloaded):
            for _ in range(200):
                client.get(URL)
    world.only(world.seen.of(CallFinished)[-1].call_id)


def circuit_open(world: World) -> None:
    policy = Policy(circuit=Circuit(2, probe=60), retry=None, outlier=None)
    with world.client({"orders": world.fleet(1, FAILING).addresses}, policy) as client:
        for _ in range(2):
            client.get(URL)
        world.fails(lambda: client.get(URL), "NoInstances")
    assert [event.state for event in world.seen.of(smartclient.CircuitChanged)] == ["open"]
    world.only(world.seen.of(CallFinished)[-1].call_id)


class Dropping(smartclient.Discovery):
    """Wants all calls dropped, as an xDS server may."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses

    def watch(self, service: str, stop: threading.Event) -> Any:
        yield Listing(self._addresses, drop=1.0)
        stop.wait()


def dropped(world: World) -> None:
    with world.client(Dropping(world.fleet(1).addresses)) as client:
        world.fails(lambda: client.get(URL), "Overloaded")


def hedge_won(world: World) -> None:
    servers = world.fleet(2)
    servers[0].behave(SILENT)
    policy = Policy("round_robin", hedge=Hedge(0.05, budget=1.0), retry=None)
    with world.client({"orders": servers.addresses}, policy) as client:
        until(lambda: client.get(URL) and any(event.kind == "hedge" for event in world.seen.of(AttemptStarted)))
    hedged = next(event for event in world.seen.of(AttemptStarted) if event.kind == "hedge")
    until(world.seen.paired)
    world.only(hedged.call_id)
    assert sorted(event.outcome for event in world.seen.of(AttemptFinished)) == ["abandoned", "success"]


def hedge_lost(world: World) -> None:
    servers = world.fleet(2)
    servers[0].behave(SLOW)
    servers[1].behave(SILENT)
    policy = Policy("round_robin", hedge=Hedge(0.05, budget=1.0), retry=None)
    with world.client({"orders": servers.addresses}, policy) as client:
        client.get(URL)
        until(world.seen.paired)


def hedges_failed(world: World) -> None:
    policy = Policy(hedge=Hedge(0.02, budget=1.0), retry=None, attempt_timeout=0.2)
    with world.client({"orders": world.fleet(2, SILENT).addresses}, policy) as client:
        world.fails(lambda: client.get(URL))
        until(world.seen.paired)


def raising_strategy(world: World) -> None:
    def strategy(state: Any) -> bool:
        raise ZeroDivisionError

    with world.client({"orders": world.fleet(1).addresses}, Policy(retry=Retry(retry=strategy))) as client:
        world.fails(lambda: client.get(URL), "ZeroDivisionError")


class Raising(Balancer):
    name = "raising"

    def picker(self, nodes: Any, rng: Any) -> Any:
        def pick(call: Any) -> Any:
            raise ZeroDivisionError

        return pick


def raising_picker(world: World) -> None:
    with world.client({"orders": world.fleet(1).addresses}, Policy(Raising())) as client:
        try:
            client.get(URL)
        except ZeroDivisionError:
            return
        pytest.fail("a picker's error is the user's")


def raising_body(world: World) -> None:
    def begin() -> None:
        raise ZeroDivisionError

    with world.client({"orders": world.fleet(1).addresses}) as client:
        world.fails(lambda: client.post(URL, content=world.driver.body([b"a"], begin)), "ZeroDivisionError")


def raising_observer(world: World) -> None:
    def observer(event: Any) -> None:
        raise ZeroDivisionError

    servers = world.fleet(1)
    with world.driver.client({"orders": servers.addresses}, observers=[observer, world.seen]) as client:
        assert client.get(URL).status_code == 200


def closed_client(world: World) -> None:
    """Closed while a response is open: that ends its call."""
    client = world.driver.client({"orders": world.fleet(1).addresses}, observers=[world.seen])
    with client as face:
        face.open("GET", URL)


def closed_early(world: World) -> None:
    with world.client({"orders": world.fleet(1, SLOW_BODY).addresses}) as client:
        client.finish(client.open("GET", URL))


def forgotten(world: World) -> None:
    """A response that is neither read nor closed: its end is told by a later call."""
    with world.client({"orders": world.fleet(1).addresses}) as client:
        response = client.open("GET", URL)
        del response
        gc.collect()
        first = world.seen.of(CallStarted)[0].call_id
        told = len(world.seen)
        client.get(URL)
        assert len(world.seen) > told
    world.only(first)


def mocked(world: World) -> None:
    """A mock's responses come closed."""
    transport = world.driver.mock(lambda request: world.driver.httpx.Response(200))
    with world.client({"orders": ["10.0.0.1:80"]}, transport=transport) as client:
        client.get(URL)


WAYS: list[tuple[Callable[[World], None], str, str | None]] = [
    (success, "response", None),
    (kept_503, "response", None),
    (retried, "response", None),
    (transport_error, "error", None),
    (no_instances_listed, "no_instances", None),
    (no_list_in_time, "no_instances", None),
    (none_matches, "no_instances", None),
    (deadline_before_the_list, "deadline", None),
    (deadline_before_the_pick, "deadline", None),
    (deadline_in_flight, "deadline", None),
    (deadline_in_the_body, "deadline", None),
    (broken_body, "error", None),
    (too_many_in_flight, "refused", "limits"),
    (queued_too_long, "refused", "limits"),
    (connections_used_up, "refused", "limits"),
    (throttled, "refused", "throttle"),
    (circuit_open, "refused", "circuit"),
    (dropped, "refused", "dropped"),
    (hedge_won, "response", None),
    (hedge_lost, "response", None),
    (hedges_failed, "error", None),
    (raising_strategy, "error", None),
    (raising_picker, "error", None),
    (raising_body, "error", None),
    (raising_observer, "response", None),
    (closed_client, "response", None),
    (closed_early, "response", None),
    (forgotten, "response", None),
    (mocked, "response", None),
]


@pytest.mark.parametrize(("way", "outcome", "reason"), WAYS, ids=lambda one: getattr(one, "__name__", None))
def test_every_call_is_accounted_for(
    driver: Any, fleet: Any, way: Callable[[World], None], outcome: str, reason: str | None
) -> None:
    world = World(driver, fleet)
    way(world)
    until(world.seen.paired)
    [finished] = world.seen.of(CallFinished)
    assert (finished.outcome, finished.reason) == (outcome, reason)
    assert finished.attempts == len(world.seen.of(AttemptStarted))
    assert (finished.error is None) == (outcome == "response")
    assert all(event.service == "orders" for event in world.seen)


@pytest.mark.parametrize("where", ["nodes", "place", "response", "pause", "body"])
def test_a_cancelled_call_is_accounted_for(async_driver: Any, fleet: Any, where: str) -> None:
    seen = Seen()
    behaviour = {"response": SILENT, "pause": FAILING, "body": SLOW_BODY}.get(where)
    servers = fleet(1) if behaviour is None else fleet(1, behaviour)
    discovery: Any = ScriptedDiscovery() if where == "nodes" else {"orders": servers.addresses}
    policy = Policy(retry=Retry(wait=lambda state: 30.0)) if where == "pause" else None
    limits = async_driver.httpx.Limits(max_connections=1)
    with async_driver.client(discovery, policy=policy, observers=[seen], limits=limits, timeout=60) as face:
        held = face.open("GET", URL) if where == "place" else None

        async def cancelled() -> None:
            with anyio.move_on_after(0.2):
                await face.client.get(URL)
                raise AssertionError("it was to be cancelled")

        async_driver.run(cancelled)
        [finished] = seen.of(CallFinished)
        assert finished.outcome == "cancelled"
        if held is not None:
            face.finish(held)
    assert seen.paired()


@pytest.mark.parametrize(
    ("reason", "policy", "method"),
    [
        ("attempts", {"retry": Retry(attempts=2)}, "GET"),
        ("budget", {"retry": Retry(budget=RetryBudget(0.0, min_per_second=0.0))}, "GET"),
        ("method", {}, "POST"),
        ("body", {}, "PUT"),
        ("deadline", {"retry": Retry(wait=lambda state: 5.0), "deadline": 1.0}, "GET"),
        ("pushback", {}, "GET"),
        ("circuit", {"circuit": Circuit(1, probe=60)}, "GET"),
    ],
)
def test_why_a_retry_is_denied(driver: Any, fleet: Any, reason: str, policy: dict[str, Any], method: str) -> None:
    seen = Seen()
    headers = (("grpc-retry-pushback-ms", "-1"),) if reason == "pushback" else ()
    servers = fleet(1, Behaviour(status=503, headers=headers))
    content = driver.body([b"x"]) if reason == "body" else None
    with driver.client({"orders": servers.addresses}, policy=Policy(**policy), observers=[seen]) as client:
        client.request(method, URL, content=content)
    assert [event.reason for event in seen.of(RetryDenied)] == [reason]
    assert seen.paired()


def test_the_events_of_threads_pair_up(fleet: Any) -> None:
    """Ids are unique, and no event is lost between threads."""
    seen = Seen()
    servers = fleet(3)
    servers[0].behave(FAILING)
    with smartclient.Client({"orders": servers.addresses}, observers=[seen]) as client:

        def work() -> None:
            for _ in range(50):
                client.get(URL)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({event.call_id for event in seen.of(CallStarted)}) == 200
    assert seen.paired()


def test_a_url_is_told_without_its_user(fleet: Any) -> None:
    seen = Seen()
    with smartclient.Client({"orders": fleet(1).addresses}, observers=[seen]) as client:
        client.get("http://me:secret@orders/v1")
    assert [event.url for event in seen.of(CallStarted)] == ["http://orders/v1"]


def test_a_probe_is_told_as_one(fleet: Any) -> None:
    seen = Seen()
    servers = fleet(2)
    servers[0].behave(FAILING)
    policy = Policy("round_robin", outlier=smartclient.OutlierDetection(base_ejection_time=0.05, jitter=0.0))
    with smartclient.Client({"orders": servers.addresses}, policy=policy, observers=[seen]) as client:
        until(lambda: client.get(URL) and seen.of(smartclient.NodeEjected))
        until(lambda: client.get(URL) and any(event.kind == "probe" for event in seen.of(AttemptStarted)))
    ejected = seen.of(smartclient.NodeEjected)
    assert ejected[0].rule in {"consecutive_5xx", "consecutive_gateway_failure", "evidence"}
    assert seen.paired()


def test_an_error_after_an_error_does_not_hide_the_end(fleet: Any) -> None:
    """The user's strategy raises, and so does the close of the response that it was asked about."""

    class Body(httpx.SyncByteStream):
        def __iter__(self) -> Any:
            yield b"x"

        def close(self) -> None:
            raise OSError("it cannot be closed")

    def strategy(state: Any) -> bool:
        raise ZeroDivisionError

    seen = Seen()
    transport = httpx.MockTransport(lambda request: httpx.Response(503, stream=Body()))
    policy = Policy(retry=Retry(retry=strategy, methods=set()))
    with smartclient.Client(
        {"orders": ["10.0.0.1:80"]}, policy=policy, transport=transport, observers=[seen]
    ) as client:
        with pytest.raises(Exception):  # noqa: B017
            client.post(URL)
    assert seen.paired()


@pytest.mark.parametrize("kind", [Mock, MagicMock])
def test_a_mock_is_an_observer(fleet: Any, kind: Any) -> None:
    observer = kind()
    with smartclient.Client({"orders": fleet(1).addresses}, observers=[observer]) as client:
        assert client.get(URL).status_code == 200
    told = [type(one.args[0]) for one in observer.call_args_list]
    assert {CallStarted, AttemptStarted, AttemptFinished, CallFinished} <= set(told)


def test_an_answer_before_the_body_is_sent_ends_the_attempt(driver: Any) -> None:
    """vert.x#6328: an early 413 during an upload left the attempt without an end. This server answers and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                time.sleep(0.05)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    seen = Seen()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    with listener, driver.client({"orders": [address]}, policy=Policy(retry=None), observers=[seen]) as client:
        for _ in range(2):
            try:
                client.post(URL, content=b"x" * 20_000_000)
            except driver.httpx.HTTPError:  # the connection is reset before the answer is read
                pass
        assert client.service().in_flight == 0
    assert seen.paired()
    assert len(seen.of(CallFinished)) == 2
