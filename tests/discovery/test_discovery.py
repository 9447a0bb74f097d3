"""Sources, their watcher threads, and how services live by them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import httpx
import pytest
from driving import until
from inside import balanced_of, service_of, services_of, watcher_of

import smartclient
from smartclient import (
    Client,
    Discovery,
    DiscoveryFailed,
    Function,
    Instance,
    InstancesChanged,
    NoInstances,
    PollingDiscovery,
    Static,
)
from smartclient.discovery import discovery_of
from smartclient.discovery.watcher import IDLE_AFTER, Watcher
from smartclient.events import Observers
from smartclient.testing import Fleet, ScriptedDiscovery, VirtualClock


def sources() -> list[type[Discovery]]:
    found, queue = [], [Discovery]
    while queue:
        for cls in queue.pop().__subclasses__():
            queue.append(cls)
            if cls.__module__.startswith("smartclient."):
                found.append(cls)
    return found


def test_the_contract_of_every_source() -> None:
    made: list[Discovery] = [
        Static({"orders": ["10.0.0.1:80"]}),
        Function(lambda service: []),
        smartclient.Consul("127.0.0.1:1"),
        ScriptedDiscovery(),
    ]
    # Each is imported when it is first asked for: by now these have been.
    assert {cls.__name__ for cls in sources()} >= {"Static", "Function", "Consul", "ScriptedDiscovery"}
    for source in made:
        assert source.covers("orders")
        for host in ("localhost", "127.0.0.1", "[::1]", "::1", "api.example.com"):
            assert not source.covers(host), (source, host)
        assert "object at" not in str(source)
        stop = threading.Event()
        stop.set()
        source.interrupt(stop)


def test_what_names_a_source() -> None:
    assert discovery_of(None) is None
    assert isinstance(discovery_of({"orders": []}), Static)
    assert isinstance(discovery_of(lambda service: []), Function)
    consul = discovery_of("consul+https://consul.example?tag=a&tag=b&dc=eu&stale=1&wait=30&services=orders,Users.")
    assert isinstance(consul, smartclient.Consul)
    assert (consul.url, consul.tags, consul.dc, consul.stale, consul.wait) == (
        "https://consul.example", ("a", "b"), "eu", True, 30.0)  # fmt: skip
    assert consul.covers("orders")
    assert consul.covers("users")
    assert not consul.covers("payments")
    assert discovery_of("consul://h:1").url == "http://h:1"  # type: ignore[union-attr]
    assert smartclient.Consul().covers("orders.service.consul")


def test_the_list_of_a_user_is_copied() -> None:
    addresses = ["10.0.0.1:80"]
    source = Static({"Orders.": addresses})
    addresses.append("10.0.0.2:80")
    assert source.known("orders") == (Instance("10.0.0.1", 80),)


def test_static_needs_no_thread() -> None:
    before = threading.active_count()
    with Fleet(1) as fleet, Client({"orders": fleet.addresses}) as client:
        threads = threading.active_count()
        client.get("http://orders/")
        assert not any(thread.name.startswith("smartclient") for thread in threading.enumerate())
        assert threads >= before


class Recorder:
    """A watcher on a virtual clock, with what it published."""

    def __init__(self, source: Discovery) -> None:
        self.clock = VirtualClock()
        self.used_at = self.clock()
        self.lists: list[tuple[Instance, ...]] = []
        self.problems: list[str] = []
        self.events: list[Any] = []
        self.watcher = Watcher(
            "orders", source, publish=self.lists.append, failed=self.problems.append, used_at=lambda: self.used_at,
            observers=Observers([self.events.append]), clock=self.clock, rng=Random(1),
        )  # fmt: skip
        self.watcher.start()

    def close(self) -> None:
        self.watcher.stop()
        self.watcher.join(2)


def test_trouble_is_said_once_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    source = ScriptedDiscovery({"orders": ["10.0.0.1:80"]})
    recorder = Recorder(source)
    until(lambda: len(recorder.lists) == 1)
    source.fail("orders", RuntimeError("on fire"))
    until(lambda: len(recorder.problems) >= 3)
    assert recorder.problems[0] == "RuntimeError: on fire"
    assert caplog.text.count("on fire") == 1
    pauses = [event.pause for event in recorder.events if isinstance(event, DiscoveryFailed)]
    assert pauses[0] < 0.16
    assert pauses[2] > pauses[0]
    source.publish("orders", ["10.0.0.2:80"])
    until(lambda: len(recorder.lists) == 2)
    recorder.close()
    until(lambda: source.watches == 0)


def test_entries_that_cannot_be_addresses_are_refused_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    bad = ["10.0.0.1:0", "a b:1", "x\r\ny:1", "", 7, None]
    recorder = Recorder(ScriptedDiscovery({"orders": ["10.0.0.1:80", *bad, "10.0.0.2:80"]}))  # type: ignore[dict-item,list-item]
    until(lambda: bool(recorder.lists))
    assert [instance.host for instance in recorder.lists[0]] == ["10.0.0.1", "10.0.0.2"]
    assert caplog.text.count("is refused") == len(bad)
    recorder.close()


def test_a_bare_string_is_no_list(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(Function(lambda service: "10.0.0.1:80"))
    until(lambda: bool(recorder.problems))
    assert "expected a list of addresses" in recorder.problems[0]
    recorder.close()


def test_a_watch_that_returns_has_said_its_last() -> None:
    asked = []

    class Once(Discovery):
        def watch(self, service: str, stop: threading.Event) -> Iterator[list[str]]:
            asked.append(service)
            yield fleet.addresses

    with Fleet(1) as fleet, Client(Once()) as client:
        for _ in range(5):
            assert client.get("http://orders/").status_code == 200
            time.sleep(0.01)
    assert asked == ["orders"]


def test_an_unused_watch_ends_and_starts_again() -> None:
    recorder = Recorder(Function(lambda service: ["10.0.0.1:80"], interval=0.05))
    until(lambda: len(recorder.lists) >= 2)
    recorder.clock.advance(IDLE_AFTER + 1)
    until(lambda: not recorder.watcher.running)
    recorder.close()


def test_stopping_by_itself_is_for_good() -> None:
    """A call in the very moment of the stop starts a new watch; were the stop not latched, nobody would watch."""
    recorder = Recorder(Function(lambda service: ["10.0.0.1:80"], interval=0.05))
    until(lambda: bool(recorder.lists))
    recorder.clock.advance(IDLE_AFTER + 1)
    assert recorder.watcher.stop_signal.is_set()
    recorder.used_at = recorder.clock()
    assert recorder.watcher.stop_signal.is_set()
    until(lambda: not recorder.watcher.running)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_source_that_is_killed_is_watched_again() -> None:
    asked: list[str] = []

    def resolve(service: str) -> list[str]:
        asked.append(service)
        if len(asked) == 2:
            raise SystemExit  # no Exception
        return fleet.addresses

    with Fleet(1) as fleet, Client(Function(resolve, interval=0.05)) as client:
        assert client.get("http://orders/").status_code == 200
        transport: Any = balanced_of(client)
        until(lambda: not watcher_of(transport).running)
        assert client.get("http://orders/").status_code == 200
        until(lambda: len(asked) >= 4)


def test_a_watcher_that_was_never_started_can_be_joined() -> None:
    """As after a fork: the child makes watchers anew and starts them at the next call, which may never come."""
    recorder = Recorder(Function(lambda service: ["10.0.0.1:80"]))
    recorder.close()
    watcher = Watcher(
        "orders", Static({}), publish=print, failed=print, used_at=lambda: 0.0, observers=Observers(),
        clock=recorder.clock, rng=Random(1),
    )  # fmt: skip
    watcher.stop()
    watcher.join()


def test_garbage_is_no_empty_list(caplog: pytest.LogCaptureFixture) -> None:
    source = ScriptedDiscovery({"orders": ["10.0.0.1:80"]})
    recorder = Recorder(source)
    until(lambda: len(recorder.lists) == 1)
    source.publish("orders", ["a b", "10.0.0.1:0"])
    until(lambda: bool(recorder.problems))
    assert "no entry can be an address" in recorder.problems[0]
    assert len(recorder.lists) == 1
    recorder.close()


@pytest.mark.parametrize("ttl", [float("inf"), float("nan"), -1.0, 1e300])
def test_absurd_ttls(ttl: float) -> None:
    recorder = Recorder(Function(lambda service: (["10.0.0.1:80"], ttl)))
    until(lambda: bool(recorder.lists))
    time.sleep(0.12)
    assert not recorder.problems
    recorder.close()
    for wrong in (float("inf"), float("nan"), 0, -1):
        with pytest.raises(ValueError, match="interval"):
            Function(lambda service: [], interval=wrong)


def test_polling_with_a_ttl_of_the_answers() -> None:
    asked: list[float] = []

    def resolve(service: str) -> Any:
        asked.append(time.monotonic())
        return ["10.0.0.1:80"], 0.05

    recorder = Recorder(Function(resolve, interval=60))
    until(lambda: len(asked) >= 4)
    recorder.close()


def test_a_client_follows_its_source() -> None:
    events: list[Any] = []
    source = ScriptedDiscovery()
    with Fleet(2) as fleet, Client(source, observers=[events.append]) as client:
        source.publish("orders", fleet.addresses[:1])
        assert client.get("http://orders/").status_code == 200
        source.publish("orders", fleet.addresses[1:])
        until(lambda: sum(isinstance(event, InstancesChanged) for event in events) == 2)
        assert client.get("http://orders/").status_code == 200
        assert len(fleet[1].received) == 1
        source.fail("orders", RuntimeError("down"))
        until(lambda: any(isinstance(event, DiscoveryFailed) for event in events))
        assert client.get("http://orders/").status_code == 200
    until(lambda: source.watches == 0)


def test_close_is_quick_even_if_a_source_is_stuck() -> None:
    release = threading.Event()

    class Stuck(Discovery):
        def watch(self, service: str, stop: threading.Event) -> Iterator[list[str]]:
            yield ["127.0.0.1:1"]
            release.wait(10)

    client = Client(Stuck())
    with pytest.raises(httpx.ConnectError):
        client.get("http://orders/")
    began = time.monotonic()
    client.close()
    assert time.monotonic() - began < 0.5
    release.set()


def test_names_of_user_input_breed_no_threads() -> None:
    asked: list[str] = []

    def resolve(service: str) -> list[str]:
        asked.append(service)
        return []

    with Client(resolve) as client:
        for n in range(50):
            with pytest.raises(NoInstances, match="lists none"):
                client.get(f"http://made-up-{n % 10}/")
        until(lambda: not any(thread.name.startswith("smartclient-made") for thread in threading.enumerate()))
        transport: Any = balanced_of(client)
        assert not list(services_of(transport))
    assert sorted(asked) == sorted(f"made-up-{n}" for n in range(10))


class Counted(PollingDiscovery):
    """How often it was asked."""

    interval = 3600.0

    def __init__(self, lists: list[list[str]]) -> None:
        self.lists = lists
        self.asked = 0

    def resolve(self, service: str) -> list[str]:
        self.asked += 1
        return self.lists[min(self.asked, len(self.lists)) - 1]


def test_refresh_by_hand() -> None:
    source = Counted([["127.0.0.1:1"], ["127.0.0.1:2"]])
    with Client(source, transport=httpx.MockTransport(lambda request: httpx.Response(200))) as client:
        client.refresh()  # nothing is watched yet
        assert client.get("http://orders/").status_code == 200
        assert source.asked == 1
        client.refresh("users")
        client.refresh("Orders")
        until(lambda: source.asked == 2)
        balanced: Any = balanced_of(client)
        until(lambda: [str(node.instance) for node in service_of(balanced).nodes] == ["127.0.0.1:2"])
    Client(trust_env=False).refresh()


def test_refresh_has_the_last_word_and_hung_sources_pile_up_no_threads() -> None:
    begun: list[threading.Event] = []
    go_on = threading.Event()

    class Slow(Discovery):
        def watch(self, service: str, stop: threading.Event) -> Iterator[Any]:
            begun.append(stop)
            if len(begun) == 1:
                yield ["10.0.0.1:80"]
                go_on.wait(5)  # it does not look at `stop`
                yield ["10.0.0.2:80"]
            else:
                yield ["10.0.0.3:80"]
                stop.wait(5)

    with Client(Slow()) as client:
        service = service_of(client)
        until(lambda: len(service.nodes) == 1)
        old = watcher_of(balanced_of(client))
        for _ in range(5):
            client.refresh()
        until(lambda: str(service.nodes[0].instance) == "10.0.0.3:80")
        assert len(begun) == 2
        go_on.set()
        until(lambda: not old.alive)
        assert str(service.nodes[0].instance) == "10.0.0.3:80"
        client.refresh()
        until(lambda: len(begun) == 3)


def test_refresh_by_itself_when_most_fail() -> None:
    """A fleet that was replaced, and the registry's news of it got lost."""
    gone = [f"127.0.0.1:{free}" for free in (1, 2, 3)]
    with Fleet(2) as fleet:
        source = Counted([gone, fleet.addresses])
        with Client(source) as client:
            for _ in range(5):
                try:
                    client.get("http://orders/")
                except httpx.ConnectError:
                    pass
            until(lambda: source.asked == 2)
            balanced: Any = balanced_of(client)
            until(lambda: len(service_of(balanced).nodes) == 2)
            assert client.get("http://orders/").status_code == 200
            assert source.asked == 2
