"""The sources that need no server, the sources made of others, and what no source can pass on."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest
from driving import in_child, until
from hypothesis import given
from hypothesis import strategies as st
from inside import balanced_of, resolver_of, service_of
from stand_ins import StandIn

from smartclient import (
    Cached,
    Client,
    Discovery,
    Dns,
    Environment,
    Etcd,
    Fallback,
    File,
    Filter,
    Instance,
    Listing,
    Map,
    Merge,
    NoInstances,
    Routed,
)
from smartclient.discovery import discovery_of
from smartclient.discovery.etcd import EtcdAnswer, changes, readable, value_of
from smartclient.discovery.file import PARSERS, parsed
from smartclient.discovery.threads import Lock, taken
from smartclient.discovery.watcher import StopSignal
from smartclient.testing import Fleet, ScriptedDiscovery

URL = "http://orders/"


def listed(client: Client, service: str = "orders") -> set[str]:
    balanced: Any = balanced_of(client)
    return {str(node.instance) for node in service_of(balanced, service).nodes}


class Watched:
    """The lists a source yields, in a thread."""

    def __init__(self, source: Any, service: str = "orders") -> None:
        self.lists: list[list[Any]] = []
        self.error: BaseException | None = None
        self.stop = threading.Event()
        self._source, self._service = source, service
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            for addresses in self._source.watch(self._service, self.stop):
                self.lists.append(list(addresses))
        except Exception as error:
            self.error = error

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self._source.interrupt(self.stop)
        self._thread.join(5)
        assert not self._thread.is_alive()

    def until(self, addresses: list[Any]) -> None:
        until(lambda: self.lists and [str(one) for one in self.lists[-1]] == addresses)


# ---- files ----

FORMS = {
    "json": '{"orders": ["10.0.0.1:80", {"host": "10.0.0.2", "port": 81, "weight": 2}], "Users.": []}',
    "yaml": "services:\n  orders:\n    - 10.0.0.1:80\n    - {host: 10.0.0.2, port: 81, weight: 2}\n  users: []\n",
    "toml": 'users = []\norders = ["10.0.0.1:80", {host = "10.0.0.2", port = 81, weight = 2}]\n',
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_files(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"services.{form}"
    path.write_text(FORMS[form])
    source = File(path)
    assert source.covers("orders")
    assert source.covers("users")
    assert not source.covers("stock")
    with Client(source) as client:
        with pytest.raises(NoInstances):
            client.get("http://users/")
        client._mounts  # noqa: B018
        balanced: Any = balanced_of(client)
        service_of(balanced)
        until(lambda: listed(client) == {"10.0.0.1:80", "10.0.0.2:81"})
        weights = {node.instance.weight for node in service_of(balanced).nodes}
        assert weights == {1, 2}


def test_prometheus_file_sd(tmp_path: Path) -> None:
    path = tmp_path / "targets.json"
    path.write_text(
        json.dumps(
            [
                {"targets": ["10.0.0.1:80", "10.0.0.2:80"], "labels": {"job": "orders", "zone": "eu-1a"}},
                {"targets": ["10.0.0.3:80"], "labels": {"service": "orders", "job": "other"}},
            ]
        )
    )
    with Watched(File(path)) as watched:
        until(lambda: watched.lists)
        found = [Instance.parse(one) for one in watched.lists[0]]
    assert [(str(one), one.zone, one.metadata["job"]) for one in found] == [
        ("10.0.0.1:80", "eu-1a", "orders"),
        ("10.0.0.2:80", "eu-1a", "orders"),
        ("10.0.0.3:80", None, "other"),
    ]


def write(path: Path, addresses: list[str]) -> None:
    """As good tools do: anew, and renamed."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"orders": addresses}))
    os.replace(new, path)


def test_a_file_is_watched(tmp_path: Path) -> None:
    path = tmp_path / "services.json"
    write(path, ["10.0.0.1:80"])
    with Watched(File(path, interval=0.02)) as watched:
        watched.until(["10.0.0.1:80"])
        began = time.monotonic()
        write(path, ["10.0.0.2:80"])
        watched.until(["10.0.0.2:80"])
        assert time.monotonic() - began < 1
        path.write_text(json.dumps({"orders": ["10.0.0.1:80", "10.0.0.2:80"]}))
        watched.until(["10.0.0.1:80", "10.0.0.2:80"])
        write(path, [])
        watched.until([])


def test_a_config_map_is_swapped(tmp_path: Path) -> None:
    """Kubernetes: services.json → ..data/services.json, and ..data is a link to the version's directory."""
    for version, address in (("v1", "10.0.0.1:80"), ("v2", "10.0.0.2:80")):
        (tmp_path / version).mkdir()
        write(tmp_path / version / "services.json", [address])
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "services.json").symlink_to("..data/services.json")
    with Watched(File(tmp_path / "services.json", interval=0.02)) as watched:
        watched.until(["10.0.0.1:80"])
        (tmp_path / "..new").symlink_to("v2")
        os.replace(tmp_path / "..new", tmp_path / "..data")
        watched.until(["10.0.0.2:80"])


def test_a_broken_file_keeps_the_last_good_list_and_says_the_line(tmp_path: Path) -> None:
    with Fleet(1) as fleet:
        path = tmp_path / "services.json"
        write(path, fleet.addresses)
        with Client(File(path, interval=0.02)) as client:
            assert client.get(URL).status_code == 200
            balanced: Any = balanced_of(client)
            service = service_of(balanced)
            path.write_text('{\n"orders": [\n}')
            until(lambda: "line 3" in (service.problem or ""))
            assert client.get(URL).status_code == 200
            path.unlink()
            until(lambda: "FileNotFoundError" in (service.problem or ""))
            assert client.get(URL).status_code == 200
            write(path, [*fleet.addresses, "127.0.0.2:1"])
            until(lambda: len(listed(client)) == 2)


@pytest.mark.parametrize(
    ("form", "content", "said"),
    [
        ("json", "[1]", "file_sd: expected"),
        ("json", '{"orders": "10.0.0.1:80"}', "expected a list of addresses"),
        ("json", "7", "expected services with their addresses"),
        ("yaml", "orders:\n  - a\n - b", "line 3"),
        ("toml", "a = 1\norders = ]\n", "line 2"),
    ],
)
def test_what_is_wrong_with_a_file(form: str, content: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parsed(content, form)


@given(st.text(max_size=200), st.sampled_from(sorted(PARSERS)))
def test_no_file_breaks_anything(content: str, form: str) -> None:
    try:
        services = parsed(content, form)
    except (ValueError, RecursionError):
        return
    for addresses in services.values():
        assert isinstance(addresses, list)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
FIELDS = st.dictionaries(
    st.sampled_from(["host", "port", "scheme", "weight", "zone", "priority", "metadata", "id", "address", "x"]), JSON
)


@given(st.one_of(JSON, FIELDS, st.lists(FIELDS)))
def test_no_content_of_a_file_breaks_anything(content: Any) -> None:
    try:
        services = parsed(json.dumps(content), "json")
    except ValueError:
        return
    for addresses in services.values():
        for address in addresses:
            try:
                instance = Instance.parse(address)
            except (ValueError, TypeError):
                continue
            assert instance.port is None or 1 <= instance.port <= 65535
            assert not set(instance.host) & set(" /\r\n")


# ---- environment ----


def test_environment() -> None:
    source = Environment(
        {
            "SMARTCLIENT_SERVICE_ORDERS": "10.0.0.1:80, 10.0.0.2:80",
            "MY_USERS_SERVICE_HOST": "10.0.0.3",
            "MY_USERS_SERVICE_PORT": "81",
            "STOCK_PORT_8080_TCP_ADDR": "fd00::5",
            "STOCK_PORT_8080_TCP_PORT": "8080",
            "SMARTCLIENT_SERVICE_NONE": "",
        }
    )
    assert source.known("orders") == ["10.0.0.1:80", "10.0.0.2:80"]
    assert source.known("my-users") == ["10.0.0.3:81"]
    assert source.known("stock") == ["[fd00::5]:8080"]
    assert [source.covers(name) for name in ("orders", "my-users", "stock", "none", "elsewhere", "a.example")] == [
        True, True, True, True, False, False]  # fmt: skip


def test_environment_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with Fleet(1) as fleet:
        monkeypatch.setenv("SMARTCLIENT_SERVICE_ORDERS", fleet.addresses[0])
        with Client("env://") as client:
            assert client.get(URL).status_code == 200


# ---- sources made of others ----


def test_merge() -> None:
    here, there = ScriptedDiscovery({"orders": ["10.0.0.1:80"]}), ScriptedDiscovery()
    with Watched(Merge(here, there, {"orders": ["10.0.0.9:80"]}, priorities=(0, 1, 2))) as watched:
        watched.until(["10.0.0.1:80", "10.0.0.9:80"])
        there.publish("orders", ["10.1.0.1:80"])
        watched.until(["10.0.0.1:80", "10.1.0.1:80", "10.0.0.9:80"])
        assert [one.priority for one in watched.lists[-1]] == [0, 1, 2]
        here.fail("orders", ConnectionError("gone"))
        there.publish("orders", ["10.1.0.2:80"])
        watched.until(["10.0.0.1:80", "10.1.0.2:80", "10.0.0.9:80"])


def test_merge_says_nothing_while_only_those_have_answered_that_know_nothing() -> None:
    dead = ScriptedDiscovery()
    dead.fail("orders", ConnectionError("no registry"))
    with Watched(Merge({"payments": ["10.0.0.9:80"]}, dead)) as watched:
        until(lambda: watched.error is not None)
        assert "no registry" in str(watched.error)
        assert watched.lists == []


def test_a_source_in_trouble_takes_no_instances_away_when_the_watch_begins_anew() -> None:
    here, there = ScriptedDiscovery({"orders": ["10.0.0.1:80"]}), ScriptedDiscovery({"orders": ["10.1.0.1:80"]})
    source = Merge(here, there)
    with Watched(source) as watched:
        watched.until(["10.0.0.1:80", "10.1.0.1:80"])
    there.fail("orders", ConnectionError("gone"))
    with Watched(source) as watched:
        watched.until(["10.0.0.1:80", "10.1.0.1:80"])
        assert len(watched.lists) == 1


def test_sources_of_sources_end_when_their_service_is_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartclient.discovery.threads.LOOK_UP", 0.05)
    unused = False
    stop = StopSignal(lambda: unused)
    watch = Merge(ScriptedDiscovery({"orders": ["10.0.0.1:80"]})).watch("orders", stop)
    assert [str(one) for one in next(watch)] == ["10.0.0.1:80"]
    unused = True
    assert next(watch, None) is None


def test_fallback() -> None:
    primary = ScriptedDiscovery()
    primary.fail("orders", ConnectionError("gone"))
    with Watched(Fallback(primary, {"orders": ["10.0.0.9:80"]})) as watched:
        watched.until(["10.0.0.9:80"])
        primary.publish("orders", ["10.0.0.1:80"])
        watched.until(["10.0.0.1:80"])
        primary.fail("orders", ConnectionError("gone again"))
        primary.publish("orders", [])
        watched.until(["10.0.0.9:80"])


def test_fallback_of_a_silent_source() -> None:
    with Watched(Fallback(ScriptedDiscovery(), {"orders": ["10.0.0.9:80"]}, after=0.1)) as watched:
        watched.until(["10.0.0.9:80"])


def test_when_all_fail_the_reason_is_said() -> None:
    one, two = ScriptedDiscovery(), ScriptedDiscovery()
    for source in (one, two):
        source.fail("orders", ConnectionError("no registry"))
    with Watched(Fallback(one, two)) as watched:
        until(lambda: watched.error is not None)
        assert "no registry" in str(watched.error)


def test_filter_and_map() -> None:
    source = ScriptedDiscovery(
        {"orders": [Instance("10.0.0.1", 80, zone="a"), Instance("10.0.0.2", 80, zone="b"), "!"]}
    )
    with Watched(Map(Filter(source, lambda one: one.zone == "a"), lambda one: replace(one, weight=3.0))) as watched:
        watched.until(["10.0.0.1:80", "!"])  # what is no address is left for the log
        assert watched.lists[0][0].weight == 3.0
    static = Filter({"orders": ["10.0.0.1:80", "10.0.0.2:80"]}, lambda one: one.host != "10.0.0.2")
    assert [str(one) for one in static.known("orders") or ()] == ["10.0.0.1:80"]


def test_what_a_source_asks_to_be_dropped_goes_through(tmp_path: Path) -> None:
    class Dropping(Discovery):
        def watch(self, service: str, stop: threading.Event) -> Iterator[Any]:
            yield Listing(["10.0.0.1:80", "10.0.0.2:80"], drop=0.2)
            yield Listing(["10.0.0.1:80", "10.0.0.2:80"], drop=0.4)
            stop.wait(5)

    first = Filter(Dropping(), lambda one: one.host == "10.0.0.1")
    for source in (first, Fallback(first, {"orders": ["10.0.0.9:80"]}), Cached(first, tmp_path), Routed({"*": first})):
        with Client(source) as client:
            service = service_of(client)
            until(lambda one=service: one.drop == 0.4)
            assert listed(client) == {"10.0.0.1:80"}
    assert Listing([1], 0.1) == Listing([1], 0.1) != Listing([1], 0.2)
    assert Listing([1]) != [1]
    assert Listing([1]) == (1,) != Listing([1], 0.2)


def test_routed() -> None:
    europe = ScriptedDiscovery({"orders.eu": ["10.0.0.1:80"]})
    source = Routed({"*.eu": europe, "stock": ["10.0.0.2:80"], "*": {"users": ["10.0.0.3:80"]}})
    assert [source.covers(name) for name in ("orders.eu", "stock", "users", "other", "a.example.com")] == [
        True, True, True, False, False]  # fmt: skip
    assert [str(one) for one in source.known("users") or ()] == ["10.0.0.3:80"]
    with Watched(source, "orders.eu") as watched:
        watched.until(["10.0.0.1:80"])


def test_cached(tmp_path: Path) -> None:
    source = ScriptedDiscovery({"orders": [Instance("10.0.0.1", 80, weight=2, metadata={"a": "b"})]})
    with Watched(Cached(source, tmp_path / "lists")) as watched:
        watched.until(["10.0.0.1:80"])
        until(lambda: list((tmp_path / "lists").glob("orders-*.json")))
    down = ScriptedDiscovery()
    down.fail("orders", ConnectionError("the registry is down"))
    with Watched(Cached(down, tmp_path / "lists")) as watched:
        watched.until(["10.0.0.1:80"])
        assert watched.lists[0] == [Instance("10.0.0.1", 80, weight=2, metadata={"a": "b"})]
        down.publish("orders", ["10.0.0.5:80"])
        watched.until(["10.0.0.5:80"])


@pytest.mark.parametrize("damage", ["", "{}", '{"saved_at": 1, "checksum": "x", "instances": "[]"}', "old"])
def test_a_damaged_or_old_cache_counts_as_none(tmp_path: Path, damage: str) -> None:
    now = [1000.0]
    cached = Cached(ScriptedDiscovery(), tmp_path, at_most=100, now=lambda: now[0])
    cached.save("orders", [Instance("10.0.0.1", 80)])
    assert cached.load("orders") == (Instance("10.0.0.1", 80),)
    if damage == "old":
        now[0] += 101
    else:
        next(tmp_path.glob("orders-*.json")).write_text(damage)
    assert cached.load("orders") is None


# ---- what no source can pass on ----


def test_absurd_entries_are_refused_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    absurd: list[Any] = [
        "10.0.0.1:0", "10.0.0.1:70000", "", "a b:80", "a\r\nHost: x:80", "a/b:80", "169.254.169.254:80", "[fe80::1]:80",
        {"host": "10.0.0.2", "weight": float("nan")}, {"host": "10.0.0.2", "weight": -1},
        {"host": "10.0.0.2", "weight": 1e300}, {"host": "10.0.0.2", "nonsense": 1}, {}, None, 7,
    ]  # fmt: skip
    source = ScriptedDiscovery({"orders": [*absurd, "10.0.0.1:80", "10.0.0.1:80"]})
    with Client(source) as client:
        balanced: Any = balanced_of(client)
        service_of(balanced)
        until(lambda: listed(client) == {"10.0.0.1:80"})
    refused = [record for record in caplog.records if "is refused" in record.message]
    assert len(refused) == len(absurd)
    assert any("link-local" in record.message for record in refused)


def test_link_local_may_be_allowed() -> None:
    source = ScriptedDiscovery({"orders": ["169.254.1.1:80"]})
    source.link_local = True
    with Client(source) as client:
        balanced: Any = balanced_of(client)
        service_of(balanced)
        until(lambda: listed(client) == {"169.254.1.1:80"})


def test_a_hundred_thousand_entries(caplog: pytest.LogCaptureFixture) -> None:
    source = ScriptedDiscovery({"orders": [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:80" for n in range(100_000)]})
    with Client(source) as client:
        balanced: Any = balanced_of(client)
        service_of(balanced)
        until(lambda: len(listed(client)) == 50_000, 30)
    assert "more than 50000 instances" in caplog.text


CODED = st.binary(max_size=30).map(lambda raw: base64.b64encode(raw).decode())


@given(st.dictionaries(st.sampled_from(["key", "value"]), CODED))
def test_no_value_of_etcd_breaks_anything(pair: dict[str, str]) -> None:
    value = value_of({"key": "YQ==", **pair})
    try:
        Instance.parse(value)
    except (ValueError, TypeError):
        pass
    assert changes([{"kv": {"key": "YQ==", **pair}, "type": "DELETE"}])


# ---- URLs ----


def test_urls(tmp_path: Path) -> None:
    path = tmp_path / "services.json"
    write(path, [])
    assert isinstance(discovery_of(f"file://{path}?interval=1"), File)
    assert isinstance(discovery_of("env://"), Environment)
    dns = discovery_of("dns://127.0.0.1:5353?port=8080&domain=shop.example")
    assert isinstance(dns, Dns)
    assert (resolver_of(dns).port, dns.port, dns.srv) == (5353, 8080, False)
    assert [dns.covers(name) for name in ("orders", "orders.shop.example", "a.b.shop.example", "example.com")] == [
        True, True, False, False]  # fmt: skip
    srv = discovery_of("dns+srv://127.0.0.1?domain=shop.example")
    assert isinstance(srv, Dns)
    assert srv.srv
    etcd = discovery_of("etcd://10.0.0.1:2379/my/prefix?user=me")
    assert isinstance(etcd, Etcd)
    assert (str(etcd.url), etcd.prefix, etcd.user) == ("http://10.0.0.1:2379", "/my/prefix", "me")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file://etc/services.json", "three slashes"),
        ("file:///x.ini", "expected json, yaml or toml"),
        ("file:///x.json?interval=soon", "option interval: expected seconds"),
        ("dns://127.0.0.1?colour=red", "has no option 'colour'; it has port, domain"),
        ("dns://127.0.0.1?port=0", "Dns.port"),
        ("dns://resolver.example", "expected an IP address"),
        ("etcd://me:secret@10.0.0.1", "takes no user"),
        ("env://?x=1", "has no option 'x'"),
    ],
)
def test_wrong_urls_are_said(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        discovery_of(url)
    assert "secret" not in str(caught.value)


def test_a_package_adds_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "mine"

        def load(self) -> Any:
            return lambda parts, options: ScriptedDiscovery({"orders": [parts.netloc]})

    def points(group: str) -> Iterator[Any]:
        return iter([Point()] if group == "smartclient.discovery" else [])

    monkeypatch.setattr("smartclient.discovery.url.entry_points", points)
    assert isinstance(discovery_of("mine://10.0.0.1:80"), ScriptedDiscovery)


def test_trouble_of_the_moment_does_not_hide_half_of_etcds_keys() -> None:
    class Answering(StandIn):
        refusals = 1

        def answer(self, method: str, path: str, query: dict[str, str], headers: Any) -> tuple[int, Any]:
            if self.refusals:
                self.refusals -= 1
                return 503, {"message": "etcdserver: leader changed"}
            return 200, {"header": {"revision": "1"}}

    with Answering() as server, Etcd(server.address).client() as client:
        with pytest.raises(EtcdAnswer, match="leader changed"):
            readable(client, ("/services/orders/", "services/orders/"))
        assert readable(client, ("/a/", "a/")) == ["/a/", "a/"]


@pytest.mark.parametrize("content", ['{"services": ["a"]}', '[{"targets": [], "labels": ["a"]}]', "[" * 100_000])
def test_a_request_to_elsewhere_does_not_hear_of_a_broken_file(content: str, tmp_path: Path) -> None:
    path = tmp_path / "services.json"
    path.write_text(content)
    assert not File(path).covers("example.com")
    if len(content) < 1000:
        with pytest.raises(ValueError, match="expected"):
            parsed(content, "json")


def test_locks_are_free_in_a_forked_child() -> None:
    lock = Lock()

    def child() -> None:
        with lock:
            pass

    with lock:
        in_child(child)


def test_a_wait_ends_with_its_watch_and_in_time() -> None:
    queue: SimpleQueue[Any] = SimpleQueue()
    with pytest.raises(Empty):
        taken(queue, threading.Event(), 0.01)
    queue.put(1)
    assert taken(queue, threading.Event()) == 1
    stop = threading.Event()
    stop.set()
    assert taken(queue, stop) is None
