"""What strangers write, registries, files, the machine's resolver, and what it must not cost or show."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from driving import until
from inside import balanced_of, checked_services_of, services_of
from stand_ins import EurekaStandIn, KubernetesStandIn, StandIn, endpoint, piece

import smartclient
from smartclient import (
    Cached,
    Client,
    Consul,
    Discovery,
    Etcd,
    Eureka,
    Fallback,
    File,
    Filter,
    HealthCheck,
    Instance,
    Kubernetes,
    Listing,
    Map,
    Merge,
    Nacos,
    NoInstances,
    Policy,
    Routed,
    Xds,
    ZooKeeper,
)
from smartclient.discovery import discovery_of
from smartclient.discovery.base import Unreadable, read
from smartclient.discovery.consul import register as register_with_consul
from smartclient.discovery.file import parsed
from smartclient.discovery.registration import checked_id, kept_alive
from smartclient.support.hosts import is_link_local
from smartclient.support.untrusted import SHOWN, masked, shown
from smartclient.testing import SILENT, Behaviour, ScriptedDiscovery, Server

URL = "http://orders/"
HUGE = 10_000_000


def services(client: Any) -> Any:
    balanced: Any = balanced_of(client)
    return services_of(balanced)


def listed(client: Any, service: str = "orders") -> set[str]:
    return {str(node.instance) for node in services(client).get(service).nodes}


# ---- shown, and kept ----


@pytest.mark.parametrize(
    "value",
    ["x" * HUGE, b"x" * HUGE, ["x" * HUGE] * 5, {"k" * HUGE: 1}, 10**20_000, [[["x" * 500] * 50] * 50] * 50,
     float("inf"), None],
    ids=["text", "bytes", "list", "mapping", "number", "nested", "inf", "none"],
)  # fmt: skip
def test_a_value_is_cut_before_it_is_written(value: object) -> None:
    tracemalloc.start()
    try:
        text = shown(value)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    assert 0 < len(text) <= SHOWN + 1


def test_an_alias_bomb_is_shown_at_once() -> None:
    bomb: Any = ["x"] * 9
    for _ in range(9):
        bomb = [bomb] * 9
    began = time.monotonic()
    assert len(shown(bomb)) <= SHOWN + 1
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("text", "fit"),
    [
        ("http://u:p@h:80/x", "http://…@h:80/x"),
        ("https://u:p@ss@h", "https://…@h"),
        ("u:p@h:80", "…@h:80"),
        ("no route to u:s3cret@h or http://a:b@c", "no route to …@h or http://…@c"),
        ("consul://h?token=abc&dc=eu", "consul://h?token=…&dc=eu"),
        ("x?a=1&api_key=abc", "x?a=1&api_key=…"),
        ("etcd at 10.0.0.1:80: refused", "etcd at 10.0.0.1:80: refused"),
    ],
)
def test_a_url_is_made_fit_to_be_shown(text: str, fit: str) -> None:
    assert masked(text) == fit


def test_refused_entries_are_cut_and_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    bad = [*(f"{n}/" + "x" * 1_000_000 for n in range(30)), {"host": "y" * 1_000_000}, {"z" * 1_000_000: 1}]
    source = ScriptedDiscovery({"orders": ["10.0.0.1:80", *bad]})
    with Client(source) as client:
        until(lambda: listed(client) == {"10.0.0.1:80"})
    assert caplog.text.count("is refused") >= 30
    assert max(len(record.getMessage()) for record in caplog.records) < 600


def deep(levels: int = 100_000) -> Any:
    made: Any = []
    for _ in range(levels):
        made = [made]
    return made


class Wicked(dict[str, Any]):
    """An entry that cannot be read."""

    def items(self) -> Any:
        raise self["error"]


@pytest.mark.parametrize(
    "entry",
    [{"host": "10.0.0.2", "metadata": {"a": deep()}}, {"host": "10.0.0.2", "weight": 10**400}, deep(),
     Wicked(error=RecursionError("deep")), Wicked(error=MemoryError()), Wicked(error=OverflowError("much")),
     Unreadable("torn")],
    ids=["deep metadata", "overflow", "deep", "RecursionError", "MemoryError", "OverflowError", "unreadable"],
)  # fmt: skip
def test_what_is_wrong_with_an_entry_costs_that_entry(entry: Any, caplog: pytest.LogCaptureFixture) -> None:
    source = ScriptedDiscovery({"orders": ["10.0.0.1:80", entry]})
    with Client(source) as client:
        until(lambda: listed(client) >= {"10.0.0.1:80"})
        assert services(client).get("orders").problem is None


def test_reading_an_entry() -> None:
    assert read(Instance.parse, "10.0.0.1:80") == Instance("10.0.0.1", 80)
    assert read(lambda entry: entry["a"], {}) == Unreadable("KeyError: 'a'")


# ---- numbers and files ----

DIGITS = "9" * 5000


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("json", '{"orders": ["10.0.0.1:80", {"host": "10.0.0.2", "port": %s}]}'),
        ("yaml", "orders:\n - 10.0.0.1:80\n - {host: 10.0.0.2, port: %s}\n"),
        ("toml", 'orders = ["10.0.0.1:80", {host = "10.0.0.2", port = %s}]\n'),
        ("json", '{"orders": ["10.0.0.1:80", "10.0.0.2:%s"]}'),
    ],
)
def test_a_bad_number_in_a_file_costs_its_entry(form: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / f"services.{form}"
    path.write_text(content % DIGITS)
    with Client(File(path)) as client:
        until(lambda: listed(client) == {"10.0.0.1:80"})


@pytest.mark.parametrize("written", ["0x1f90", "8_080", "8080", "+8080"])
def test_other_numbers_of_yaml_are_read(written: str) -> None:
    assert parsed(f"orders: [{{host: a, port: {written}}}]", "yaml")["orders"] == [{"host": "a", "port": 8080}]


def test_aliases_in_yaml_are_not_read() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"line 2: aliases \(\*a0\) are not read"):
        parsed("\n".join(lines), "yaml")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("form", "content"), [("json", "[" * 100_000), ("yaml", "[" * 3000), ("toml", "a=" + "[" * 3000)]
)
def test_a_deep_file_is_said_to_be_one(form: str, content: str) -> None:
    with pytest.raises(ValueError):
        parsed(content, form)


def test_a_bad_number_in_eureka_costs_its_instance() -> None:
    with EurekaStandIn() as server:
        server.put("10.0.0.1:80")
        server.put("10.0.0.2:80", "BROKEN", port={"$": DIGITS, "@enabled": "true"})
        server.put("10.0.0.3:80", "BROKEN", metadata={"weight": "1e999", "x": [1]}, dataCenterInfo=7)
        with Client(Eureka(f"{server.address}/eureka", interval=0.05)) as client:
            until(lambda: listed(client) == {"10.0.0.1:80"})


def test_a_bad_slice_costs_its_endpoints(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("right")
    api = KubernetesStandIn()
    good, bad, odd = (piece(name, endpoint(f"10.0.0.{n}")) for n, name in enumerate(("good", "bad", "odd"), 1))
    bad["ports"] = 7
    odd["endpoints"] = [{"addresses": ["10.0.0.3"], "conditions": 3}, 5, {"addresses": ["10.0.0.4"]}]
    api.items = [bad, good, odd]
    try:
        with Client(Kubernetes(f"http://{api.address}", token_file=tmp_path / "token", port="http")) as client:
            until(lambda: listed(client) == {"10.0.0.1:80", "10.0.0.4:80"})
    finally:
        api.close()


# ---- where a name leads to ----


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "169.254.169.254.", "::ffff:169.254.169.254", "::169.254.169.254", "2852039166", "0xa9fea9fe",
     "0251.0376.0251.0376", "169.254.43518", "0xa9.254.0xa9fe", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
     "fe80::1", "fe80::1%eth0", "FE80::1", "febf::1", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200",
     "168.63.129.16"],
)  # fmt: skip
def test_link_local_in_every_spelling(host: str, caplog: pytest.LogCaptureFixture) -> None:
    assert is_link_local(host)
    source = ScriptedDiscovery({"orders": [Instance(host.rstrip("."), 80), "10.0.0.1:80"]})
    with Client(source) as client:
        until(lambda: listed(client) == {"10.0.0.1:80"})
    assert "is link-local" in caplog.text


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "127.0.0.1", "::1", "::", "fd00::1", "localhost", "a9fe", "1.example", ""]
)
def test_what_is_not_link_local(host: str) -> None:
    assert not is_link_local(host)


def test_a_name_is_judged_when_it_is_connected_to(driver: Any, fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = fleet(2)
    monkeypatch.setattr("smartclient.connections.network.is_link_local", lambda host: host in ("127.0.0.1", "::1"))
    evil = f"localhost:{servers[0].port}"
    policy = Policy(retry=None)
    with driver.client(ScriptedDiscovery({"orders": [evil]}), policy=policy) as client:
        with pytest.raises(driver.httpx.ConnectError, match=r"is link-local \(allow it with the source's link_local\)"):
            client.get(URL)
        with pytest.raises(driver.httpx.ConnectError, match="is link-local"):
            client.get(URL, extensions={"smartclient": smartclient.call(deadline=5)})
    assert not servers[0].received
    allowing = ScriptedDiscovery({"orders": [evil]})
    allowing.link_local = True
    for source in (allowing, {"orders": [evil]}, Merge(allowing, {"users": []})):
        with driver.client(source, policy=policy) as client:
            assert client.get(URL).status_code == 200


def test_a_check_does_not_go_there_either(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = fleet(1)
    monkeypatch.setattr("smartclient.transport.health_checks.is_link_local", lambda host: True)
    check = HealthCheck(interval=0.05, unhealthy=1)
    source = ScriptedDiscovery({"orders": [f"localhost:{servers[0].port}"]})
    with Client(source, policy=Policy(health_check=check)) as client:
        client.get(URL)
        until(lambda: any(node.unhealthy for node in services(client).get("orders").nodes))
    assert [request.target for request in servers.received] == ["/"]


# ---- names made of user input ----


class Silent(ScriptedDiscovery):
    """Says nothing of anybody until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self.answers = False

    def watch(self, service: str, stop: threading.Event) -> Iterator[Any]:
        self.most = max(self.most, len([one for one in threading.enumerate() if one.name.startswith("smartclient-")]))
        while not self.answers:
            if stop.wait(0.01):
                return
        yield ["127.0.0.1:1"] if service.startswith("real") else []
        stop.wait()


def test_unknown_names_breed_neither_threads_nor_services() -> None:
    source = Silent()
    source.max_unknown = 8
    with Client(source, timeout=0.02) as client:
        for number in range(300):
            with pytest.raises(NoInstances):
                client.get(f"http://name{number}/")
        assert source.most <= 2 * 8  # those that were just told to end among them
        assert len(list(services(client))) <= 8
        assert len([one for one in threading.enumerate() if one.name.startswith("smartclient-")]) <= 2 * 8
        with pytest.raises(NoInstances, match="has not answered within"):
            client.get("http://real1/")
        source.answers = True
        until(lambda: listed(client, "real2") == {"127.0.0.1:1"})
        until(lambda: len(list(services(client))) <= 2)


def test_names_queue_for_their_first_list() -> None:
    source = Silent()
    source.max_unknown = 3
    with Client(source, timeout=10) as client:
        done: list[str] = []

        def call(name: str) -> None:
            try:
                client.get(f"http://{name}/")
            except Exception as error:
                done.append(type(error).__name__)

        threads = [threading.Thread(target=call, args=(f"real{number}",)) for number in range(20)]
        for thread in threads:
            thread.start()
        until(lambda: len(list(services(client))) == 20)
        watches = [one for one in threading.enumerate() if one.name.startswith("smartclient-real")]
        assert len(watches) == 3
        source.answers = True
        for thread in threads:
            thread.join(10)
        assert done == ["ConnectError"] * 20  # each got its list, and nobody is at that address
        assert len(list(services(client))) == 20


def test_a_service_that_is_forgotten_is_not_checked() -> None:
    source = ScriptedDiscovery({"orders": ["127.0.0.1:1"], **{f"name{number}": [] for number in range(50)}})
    with Client(source, policy=Policy(health_check=HealthCheck()), timeout=5) as client:
        for name in ("orders", *(f"name{number}" for number in range(50))):
            with pytest.raises(smartclient.NoInstances if name != "orders" else Exception):
                client.get(f"http://{name}/")
        until(lambda: checked_services_of(client) == {"orders"})


# ---- locks, and who is told when ----


def test_an_observer_may_call_the_service(fleet: Any) -> None:
    servers = fleet(1)
    said: list[Any] = []

    def calls(event: Any) -> None:
        if isinstance(event, smartclient.InstancesChanged):
            said.append(client.get(URL).status_code)

    with Client(ScriptedDiscovery({"orders": servers.addresses}), observers=[calls], timeout=5) as client:
        assert client.get(URL).status_code == 200
        until(lambda: said == [200])


def test_a_slow_observer_makes_no_call_wait(fleet: Any) -> None:
    servers, release = fleet(1), threading.Event()
    with Client(
        ScriptedDiscovery({"orders": servers.addresses}), observers=[lambda event: release.wait(10)], timeout=5
    ) as client:
        service = services(client).get("orders")
        until(lambda: service.ready.fired)
        release.set()
        assert client.get(URL).status_code == 200


def test_no_lock_is_held_while_a_picker_is_made(fleet: Any) -> None:
    """A balancer whose picker looks at the service, or takes its time."""
    servers = fleet(2)
    held: list[bool] = []

    class Curious(smartclient.RoundRobin):
        def picker(self, nodes: Any, rng: Any) -> Any:
            for service in services(client):
                held.append(service.publishing.locked() or service.members.updating.locked())
            return super().picker(nodes, rng)

    source = ScriptedDiscovery({"orders": servers.addresses})
    with Client(source, policy=Policy(Curious())) as client:
        assert client.get(URL).status_code == 200
        source.publish("orders", servers.addresses[:1])
        until(lambda: len(listed(client)) == 1)
    assert len(held) >= 2
    assert not any(held)


# ---- sources made of others ----

OVER: dict[str, Callable[[Discovery], Discovery]] = {
    "Filter": lambda source: Filter(source, lambda instance: True),
    "Map": lambda source: Map(source, lambda instance: instance),
    "Merge": lambda source: Merge(source, {"users": []}),
    "Fallback": lambda source: Fallback(source, {"users": []}),
    "Routed": lambda source: Routed({"*": source}),
    "Routed by name": lambda source: Routed({"users": [], "orders": source}),
    "two": lambda source: Filter(Merge(source, {"users": []}), lambda instance: True),
}


@pytest.mark.parametrize("over", [*OVER, "Cached"])
def test_what_a_source_says_of_itself_holds_for_those_over_it(over: str, tmp_path: Path) -> None:
    for link_local in (False, True):
        source = ScriptedDiscovery({"orders": ["10.0.0.1:80", "169.254.1.1:80"]}, grace=0.0)
        source.link_local = link_local
        made = Cached(source, tmp_path / str(link_local)) if over == "Cached" else OVER[over](source)
        expected = {"10.0.0.1:80", "169.254.1.1:80"} if link_local else {"10.0.0.1:80"}
        with Client(made) as client:
            until(lambda expected=expected: listed(client) == expected)  # type: ignore[misc]
            assert services(client).get("orders").link_local is link_local
            if over != "Cached":  # which has a list to fall back on
                source.publish("orders", [])
                until(lambda: not listed(client))  # at once: no grace


def test_a_route_with_a_list_covers_all_its_names() -> None:
    source = Routed({"*.eu": ["10.0.0.1:80"], "stock": ["10.0.0.2:80"], "*": {"users": ["10.0.0.3:80"]}})
    assert source.known("a.eu") == source.known("b.eu") == (Instance("10.0.0.1", 80),)
    assert source.known("stock") == (Instance("10.0.0.2", 80),)
    covered = {name for name in ("a.eu", "stock", "users", "orders", "a.us", "localhost") if source.covers(name)}
    assert covered == {"a.eu", "stock", "users"}
    with Client(source) as client:
        assert listed(client, "a.eu") == {"10.0.0.1:80"}


def test_a_part_that_failed_is_said_and_the_rest_is_used(caplog: pytest.LogCaptureFixture) -> None:
    events: list[Any] = []
    source = ScriptedDiscovery({})
    with Client(Filter(source, lambda one: True), observers=[events.append]) as client:
        services(client).get("orders")
        for _ in range(3):
            source.say("orders", Listing(["10.0.0.1:80"], problem="AAAA orders: SERVFAIL"))
            until(lambda: listed(client) == {"10.0.0.1:80"})
        service = services(client).get("orders")
        until(lambda: service.problem == "AAAA orders: SERVFAIL")
        source.publish("orders", ["10.0.0.1:80"])
        until(lambda: service.problem is None)
    failed = [event for event in events if isinstance(event, smartclient.DiscoveryFailed)]
    assert {event.error for event in failed} == {"AAAA orders: SERVFAIL"}
    assert caplog.text.count("a part of the script failed") == 1


# ---- lists on disk ----


def damage(path: Path, how: str) -> None:
    said = json.loads(path.read_text())
    path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    elif how == "device":
        path.symlink_to("/dev/zero")
    elif how == "directory":
        path.mkdir()
    else:
        texts: dict[str, Any] = {
            "empty": "", "garbage": "\x00\xff", "deep": "[" * 100_000, "number": "5", "list": "[]",
            "instances": json.dumps({**said, "instances": 5}), "saved_at": json.dumps({**said, "saved_at": "9" * 5000}),
            "huge saved_at": json.dumps(said).replace('"saved_at": ', '"saved_at": ' + "9" * 400),
            "nan": json.dumps({**said, "saved_at": float("nan")}), "future": json.dumps({**said, "saved_at": 1e12}),
            "checksum": json.dumps({**said, "checksum": None}),
        }  # fmt: skip
        path.write_text(texts[how])


DAMAGES = ["pipe", "device", "directory", "empty", "garbage", "deep", "number", "list", "instances", "saved_at",
           "huge saved_at", "nan", "future", "checksum"]  # fmt: skip


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_list_is_as_none(how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cached = Cached({"orders": []}, tmp_path)
    cached.save("orders", [Instance("10.0.0.9", 80)])
    (path,) = tmp_path.iterdir()
    damage(path, how)
    for _ in range(3):
        assert cached.load("orders") is None
    assert caplog.text.count("is not used") <= 1
    with Client(Cached(ScriptedDiscovery({"orders": ["10.0.0.1:80"]}), tmp_path)) as client:
        until(lambda: listed(client) == {"10.0.0.1:80"})


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    cached = Cached({"orders": []}, tmp_path)
    for number in range(19):
        cached.save("orders", [Instance(f"10.0.0.{number}", 80)])
    assert not list(tmp_path.iterdir())
    assert caplog.text.count("No space left") == 1


def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    old, new = tmp_path / ".new-old", tmp_path / ".new-now"
    old.touch()
    new.touch()
    os.utime(old, (1, 1))
    Cached({"orders": []}, tmp_path).save("orders", [Instance("10.0.0.1", 80)])
    assert not old.exists()
    assert new.exists()


# ---- registrations ----


@pytest.mark.parametrize("name", ["../admin", "..", "a/b", "a\r\nX: y", "a b", "", "x" * 300, "a?b", "a#b", "\x00"])
def test_an_id_leads_nowhere_else(name: str) -> None:
    with pytest.raises(ValueError, match="expected letters"):
        checked_id("register: id", name)
    with (
        pytest.raises(ValueError, match="expected letters"),
        Etcd("127.0.0.1:1").register("orders", "h:1", id=name or "/"),
    ):
        pass
    with (
        pytest.raises(ValueError, match="expected letters"),
        register_with_consul("orders", "h:1", consul="127.0.0.1:1", id=name or "/"),
    ):
        pass


@pytest.mark.parametrize("address", ["not an address", "a/b", {"port": 1}, 7])
def test_what_is_registered_is_an_address(address: Any) -> None:
    with pytest.raises((ValueError, TypeError)), Etcd("127.0.0.1:1").register("orders", address):
        pass


def test_without_a_thread_nothing_stays_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        with kept_alive("orders", discovery_of({}), 1.0, lambda: None, lambda: ended.append(True), ()):  # type: ignore[arg-type]
            raise AssertionError("it is not kept alive")
    assert ended == [True]


# ---- Consul ----


def test_what_an_acl_hides_is_no_empty_list() -> None:
    server = Server()
    try:
        headers = (("X-Consul-Index", "10"), ("X-Consul-Results-Filtered-By-ACLs", "true"))
        server.behave(Behaviour(body=b"[]", headers=headers), SILENT)
        with pytest.raises(
            Exception, match=r"403: the ACL token may not read the instances \(does the ACL token exist"
        ):
            next(iter(Consul(server.address).watch("orders", threading.Event())))
        server.behave(Behaviour(body=b"[]", headers=headers[:1]), SILENT)
        assert next(iter(Consul(server.address).watch("orders", threading.Event()))) == []
    finally:
        server.stop()


# ---- secrets ----

SECRET = "s3cr3t-of-ours"


@contextmanager
def refusing() -> Iterator[str]:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    yield address


@contextmanager
def unauthorised() -> Iterator[str]:
    class Server(StandIn):
        def answer(self, method: str, path: str, query: dict[str, str], headers: Any) -> tuple[int, Any]:
            return 401, {"message": "who are you?"}

    with Server() as server:
        yield server.address


def sources_with(secret: str, address: str, home: Path) -> list[Any]:
    (home / "token").write_text(secret)
    return [
        Consul(address, token=secret, timeout=0.3), Consul(address, token_file=str(home / "token"), timeout=0.3),
        Etcd(address, user="me", password=secret, timeout=0.3),
        Eureka(f"{address}/eureka", user="me", password=secret, timeout=0.3),
        Nacos(address, user="me", password=secret, timeout=0.3),
        Kubernetes(f"http://{address}", token_file=home / "token", timeout=0.3),
        Kubernetes(f"http://me:{secret}@{address}", timeout=0.3),
        Xds(address, token_file=home / "token", timeout=0.3), Xds(address, token_file=home / "token", rest=True),
        ZooKeeper(address, user="me", password=secret, timeout=0.3),
    ]  # fmt: skip


@pytest.mark.parametrize("server", [refusing, unauthorised], ids=["refusing", "unauthorised"])
def test_no_source_shows_its_secrets(server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    with server() as address:
        for source in sources_with(SECRET, address, tmp_path):
            said += [str(source), repr(source)]
            events: list[Any] = []
            with Client(source, timeout=0.5, observers=[events.append]) as client:
                with pytest.raises(Exception) as caught:
                    client.get(URL)
                said += [str(caught.value), repr(caught.value), str(services(client).get("orders").problem)]
            said += map(str, events)
    everything = caplog.text + "\n".join(said)
    assert "orders" in everything
    assert SECRET not in everything
    assert "bWU6czNjcjN0" not in everything  # base64 of "me:s3cr3t"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Client(f"https://me:{SECRET}@registry.example"),
        lambda: Client(f"consul://me:{SECRET}@registry.example"),
        lambda: Client(f"etcd://me:{SECRET}@registry.example"),
        lambda: Client(f"eureka://me:{SECRET}@registry.example"),
        lambda: Client(f"nacos://me:{SECRET}@registry.example"),
        lambda: Client(f"xds://me:{SECRET}@registry.example"),
        lambda: Client(f"zookeeper://me:{SECRET}@registry.example"),
        lambda: Client(f"nonsense://me:{SECRET}@registry.example"),
        lambda: Client(f"consul://h:no?token={SECRET}"),
        lambda: Client(f"consul://h?tokens={SECRET}"),
        lambda: Client(f"consul://[::1?token={SECRET}"),
        lambda: Etcd(f"me:{SECRET}@h"),
        lambda: Eureka(f"http://me:{SECRET}@h"),
        lambda: Nacos(f"http://me:{SECRET}@h:x"),
        lambda: Xds(f"http://me:{SECRET}@h"),
        lambda: ZooKeeper(f"me:{SECRET}@h"),
        lambda: Instance.parse(f"http://me:{SECRET}@h:80"),
        lambda: Instance.parse(f"me:{SECRET}@h"),
        lambda: Client({"orders": [f"http://me:{SECRET}@h:80"]}),
    ],
)
def test_no_error_shows_a_password(make: Callable[[], object]) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert SECRET not in str(caught.value)


def test_an_entry_with_a_password_is_refused_unseen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    source = ScriptedDiscovery(
        {"orders": ["10.0.0.1:80", f"http://me:{SECRET}@10.0.0.2:80", {"host": f"me:{SECRET}@h"}]}
    )
    with Client(source) as client:
        until(lambda: listed(client) == {"10.0.0.1:80"})
    assert caplog.text.count("is refused") == 2
    assert SECRET not in caplog.text


def test_the_command_line_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    from smartclient.cli.main import main

    for arguments in (
        [
            "call",
            f"http://127.0.0.1:1/?token={SECRET}",
            "--discovery",
            f"consul://127.0.0.1:1?token={SECRET}&services=a",
        ],
        ["resolve", "orders", "--discovery", f"consul://127.0.0.1:1?token={SECRET}", "--timeout", "0.2"],
        ["resolve", "orders", "--discovery", f"https://me:{SECRET}@h"],
    ):
        try:
            main(arguments)
        except SystemExit:
            pass
    shown_there = "".join(capsys.readouterr())
    assert re.search("plain httpx", shown_there)
    assert SECRET not in shown_there


def test_one_permissive_source_opens_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """A source of the user's own may list link-local addresses; the registry beside it may not."""
    mine, registry = (
        ScriptedDiscovery({"mine": ["169.254.1.1:80"]}),
        ScriptedDiscovery({"orders": ["169.254.169.254:80"]}),
    )
    mine.link_local = True
    mine.services, registry.services = frozenset({"mine"}), frozenset({"orders"})
    for made in (Routed({"mine": mine, "*": registry}), Merge(mine, registry), Merge(Routed({"*": registry}), mine)):
        with Client(made) as client:
            until(lambda client=client: listed(client, "mine") == {"169.254.1.1:80"})  # type: ignore[misc]
            assert services(client).get("mine").link_local
            service = services(client).get("orders")
            until(lambda service=service: service.problem)  # type: ignore[misc]
            assert not service.nodes
            assert not service.link_local


def test_names_that_nobody_waits_for_make_room() -> None:
    source = Silent()
    source.max_unknown = 4
    with Client(source, timeout=0.05) as client:
        for number in range(4):
            with pytest.raises(NoInstances):
                client.get(f"http://name{number}/")
        done: list[float] = []

        def call() -> None:
            began = time.monotonic()
            with pytest.raises(httpx.ConnectError, match="refused"):
                client.get("http://real1/", timeout=5)
            done.append(time.monotonic() - began)

        thread = threading.Thread(target=call)
        thread.start()
        until(lambda: "smartclient-real1" in {one.name for one in threading.enumerate()})
        source.answers = True
        thread.join(5)
        assert done
        assert done[0] < 2


def test_a_service_that_is_forgotten_makes_nobody_wait() -> None:
    source = Silent()
    with Client(source, timeout=None) as client:
        service = services(client).get("name1")
        service.forget()
        with pytest.raises(NoInstances, match="has not answered yet"):
            client.get("http://name1/", timeout=None)
