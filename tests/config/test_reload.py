"""A policy that changes while calls go on: what it concerns is in force at once, all else stays, no call fails."""

from __future__ import annotations

import gc
import os
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
import trustme
from driving import Face, until
from files import replaced
from inside import service_of

import smartclient
from smartclient import (
    Adaptive,
    AdaptiveLimit,
    Circuit,
    Client,
    ConfigRejected,
    HealthCheck,
    Hedge,
    Limits,
    OutlierDetection,
    Policy,
    PolicyChanged,
    Retry,
    RetryBudget,
    SlowStart,
    Subset,
    Throttle,
)
from smartclient.testing import FAILING, OK, Behaviour, ScriptedDiscovery

URL = "http://orders/v1/items"
BASE = Policy(attempt_timeout=5.0)


class Traffic:
    """Calls in two threads, until it ends; what went wrong with them."""

    def __init__(self, client: Any) -> None:
        self.failed: list[BaseException] = []
        self.made = 0
        self._client = client
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(2)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join(10)

    def _run(self) -> None:
        while not self._ends.is_set():
            try:
                response = self._client.get(URL, headers={"x-user": "u"})
                if response.status_code != 200:
                    raise AssertionError(f"status {response.status_code}")
            except BaseException as error:
                self.failed.append(error)
            self.made += 1


def known(client: Any) -> dict[str, Any]:
    """What must stay as it is, by what it is kept in."""
    service = service_of(client)
    return {
        "nodes": [id(node) for node in service.nodes],
        "connections": [id(node.connections) for node in service.nodes],
        "memories": [id(node.memory) for node in service.nodes],
        "health": [id(node.health) for node in service.nodes],
        "budget": id(service.budget),
        "balancer": id(service.members.chooser.balancer),
        "ejected": [node.ejected_until for node in service.nodes],
    }


# Each field of Policy: what it changes to, and what may then be another.
CHANGES: dict[str, tuple[Any, set[str]]] = {
    "balancer": ("round_robin", {"balancer", "memories"}),
    "retry": (Retry(attempts=2, budget=RetryBudget(ratio=0.5)), {"budget"}),
    "outlier": (OutlierDetection(consecutive_5xx=9), set()),
    "deadline": (9.0, set()),
    "deadline_header": ("X-Left", set()),
    "attempt_timeout": (4.0, set()),
    "attempt_header": ("X-Attempt", set()),
    "hedge": (Hedge(1.0), set()),
    "idempotency_key": (True, set()),
    "limits": (Limits(max_in_flight=50), set()),
    "throttle": (Throttle(), set()),
    "circuit": (Circuit(), set()),
    "panic_threshold": (0.1, set()),
    "host_header": ("instance", set()),
    "tls_server_name": ("orders.example", set()),
    "require": ({"version": "v1"}, set()),
    "prefer": ({"version": "v1"}, set()),
    "zone": ("a", set()),
    "client_zones": ({"a": 1.0}, set()),
    "min_zone_size": (1, set()),
    "subset": (Subset(size=100), set()),
    "slow_start": (SlowStart(), set()),
    "health_check": (HealthCheck(path="/", interval=0.1), set()),
}


def test_every_field_is_here() -> None:
    assert set(CHANGES) == set(Policy.__dataclass_fields__) - {"_"}


@pytest.mark.parametrize("field", sorted(CHANGES))
def test_a_field_changes_under_traffic_and_back(fleet: Any, field: str) -> None:
    value, concerned = CHANGES[field]
    servers = fleet(3)
    instances = [{"address": one, "metadata": {"version": "v1"}} for one in servers.addresses]
    events: list[Any] = []
    with Client({"orders": instances}, policy=BASE, observers=[events.append]) as client:
        client.get(URL)
        while not all(node.connections for node in service_of(client).nodes):
            client.get(URL)
        before = known(client)
        with Traffic(client) as traffic:
            time.sleep(0.05)
            client.reconfigure(replace(BASE, **{field: value}))
            assert getattr(service_of(client).policy, field) == getattr(Policy(**{field: value}), field)
            between = known(client)
            time.sleep(0.1)
            client.reconfigure(BASE)
            time.sleep(0.05)
        assert not traffic.failed, traffic.failed[:3]
        changed = {part for part in before if before[part] != between[part]}
        assert changed == concerned
        assert [event.changed for event in events if isinstance(event, PolicyChanged)] == [(field,), (field,)]
        assert service_of(client).policy == BASE


# ---- and each takes effect ----


@contextmanager
def client_of(servers: Any, policy: Policy = BASE, **keywords: Any) -> Iterator[Any]:
    with Client({"orders": servers.addresses}, policy=policy, **keywords) as client:
        client.get(URL)
        yield client


def test_retries_change(fleet: Any) -> None:
    servers = fleet(3)
    with client_of(servers) as client:
        servers.behave(FAILING)
        client.reconfigure(Policy(retry=None, outlier=None))
        before = len(servers.received)
        assert client.get(URL).status_code == 503
        assert len(servers.received) == before + 1
        client.reconfigure(Policy(retry=Retry(attempts=3, wait=lambda state: 0.0), outlier=None))
        client.get(URL)
        assert len(servers.received) == before + 4


def test_a_deadline_and_headers_change(fleet: Any) -> None:
    servers = fleet(1)
    with client_of(servers) as client:
        client.reconfigure(
            Policy(deadline=0.1, deadline_header="x-left", attempt_header="x-attempt", idempotency_key=True)
        )
        client.post(URL)
        headers = servers.received[-1].headers
        assert {"x-left", "x-attempt", "idempotency-key"} <= set(headers)
        servers.behave(Behaviour(delay=1))
        with pytest.raises(smartclient.DeadlineExceeded):
            client.get(URL)
        client.reconfigure(Policy(attempt_timeout=0.05, retry=None))
        began = time.monotonic()
        with pytest.raises(Exception, match="orders"):
            client.get(URL)
        assert time.monotonic() - began < 0.9


def test_the_host_header_changes_and_old_connections_stay(fleet: Any) -> None:
    servers = fleet(1)
    with client_of(servers) as client:
        client.reconfigure(Policy(host_header="instance"))
        client.get(URL)
        assert servers.received[-1].headers["host"] == servers.addresses[0]
        client.reconfigure(Policy())
        client.get(URL)
        assert servers.received[-1].headers["host"] == "orders"


def test_limits_change_for_those_who_wait(fleet: Any) -> None:
    servers = fleet(1, Behaviour(delay=0.3))
    policy = Policy(limits=Limits(max_in_flight=1, queue_timeout=5.0), retry=None)
    with Client({"orders": servers.addresses}, policy=policy) as client:
        threads = [threading.Thread(target=lambda: client.get(URL)) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: service_of(client) is not None and service_of(client).admission.places.waiting == 3)
        began = time.monotonic()
        client.reconfigure(Policy(retry=None))  # no limit: nobody waits any more
        for thread in threads:
            thread.join(5)
        assert time.monotonic() - began < 0.9
        client.reconfigure(Policy(limits=Limits(max_in_flight=1, queue=0), retry=None))
        with client.stream("GET", URL):
            with pytest.raises(smartclient.Overloaded):
                client.get(URL)
        client.reconfigure(Policy(limits=Limits(per_node=1, queue=0), retry=None))
        with client.stream("GET", URL):
            with pytest.raises(smartclient.Overloaded):
                client.get(URL)


def test_an_adaptive_limit_keeps_what_it_has_found(fleet: Any) -> None:
    limits = Limits(max_in_flight=AdaptiveLimit(initial=20))
    with client_of(fleet(1), Policy(limits=limits)) as client:
        admission = service_of(client).admission
        places = admission.places
        for _ in range(50):
            client.get(URL)
        found = admission.places.limit
        client.reconfigure(Policy(limits=replace(limits, queue=7)))
        assert service_of(client).admission.places is places
        assert places.limit == found


def test_ejections_stay_and_end_with_detection(fleet: Any) -> None:
    servers = fleet(3)
    servers[0].behave(FAILING)
    policy = Policy("round_robin", outlier=OutlierDetection(base_ejection_time=60, max_ejection_time=60))
    with Client({"orders": servers.addresses}, policy=policy) as client:
        while not any(node.ejected_until for node in service_of(client).nodes) if service_of(client) else True:
            client.get(URL)
        client.reconfigure(replace(policy, outlier=OutlierDetection(consecutive_5xx=2)))
        assert sum(node.ejected_until is not None for node in service_of(client).nodes) == 1
        servers.behave(OK)
        client.reconfigure(replace(policy, outlier=None))
        assert not any(node.ejected_until for node in service_of(client).nodes)
        before = len(servers[0].received)
        for _ in range(6):
            client.get(URL)
        assert len(servers[0].received) > before
        client.reconfigure(replace(policy, outlier=OutlierDetection(consecutive_5xx=1), retry=None))
        servers[1].behave(FAILING)
        for _ in range(6):
            client.get(URL)
        assert any(node.ejected_until for node in service_of(client).nodes)


def test_a_circuit_and_a_throttle_come(fleet: Any) -> None:
    servers = fleet(1)
    with client_of(servers, Policy(outlier=None, retry=None)) as client:
        servers.behave(FAILING)
        client.reconfigure(Policy(outlier=None, retry=None, circuit=Circuit(failures=2)))
        with pytest.raises(smartclient.NoInstances, match="orders"):
            for _ in range(5):
                client.get(URL)
        client.reconfigure(Policy(outlier=None, retry=None))
        assert client.get(URL).status_code == 503


def test_instances_that_are_used_change(fleet: Any) -> None:
    servers = fleet(6)
    instances = [
        {"address": one, "zone": "ab"[n % 2], "metadata": {"n": str(n)}} for n, one in enumerate(servers.addresses)
    ]
    with Client({"orders": instances}, policy=Policy("round_robin")) as client:

        def used(policy: Policy) -> int:
            client.reconfigure(policy)
            for server in servers.servers:
                server.received.clear()
            for _ in range(24):
                client.get(URL)
            return sum(bool(server.received) for server in servers.servers)

        client.get(URL)
        assert used(Policy("round_robin", subset=Subset(size=2))) == 2
        assert used(Policy("round_robin", subset=Subset(size=4))) == 4
        assert used(Policy("round_robin")) == 6
        assert used(Policy("round_robin", require={"n": "3"})) == 1
        assert used(Policy("round_robin", subset=Subset(size=2), require={"n": "3"})) == 1
        assert used(Policy("round_robin", prefer={"n": "2"})) == 1
        assert used(Policy("round_robin", zone="a", min_zone_size=1)) == 3
        assert used(Policy("round_robin", zone="a", min_zone_size=9)) == 6


def test_a_balancer_keeps_users_together_once_it_is_there(fleet: Any) -> None:
    servers = fleet(4)
    with client_of(servers) as client:
        client.reconfigure(Policy(smartclient.Maglev(hash_on="header:x-user")))
        for server in servers.servers:
            server.received.clear()
        for _ in range(12):
            client.get(URL, headers={"x-user": "7"})
        assert sum(bool(server.received) for server in servers.servers) == 1
        client.reconfigure(Policy(Adaptive(draws=2)))
        for _ in range(50):
            client.get(URL)
        assert all(node.memory.count for node in service_of(client).nodes)


def test_checks_come_and_go(fleet: Any) -> None:
    servers = fleet(2)
    with client_of(servers) as client:
        servers[0].behave(FAILING)

        def checked() -> int:
            return sum(request.target == "/up" for request in servers.received)

        client.reconfigure(Policy(health_check=HealthCheck(path="/up", interval=0.05, unhealthy=1), outlier=None))
        client.get(URL)
        until(lambda: any(node.unhealthy for node in service_of(client).nodes))
        client.reconfigure(Policy(outlier=None))
        assert not any(node.unhealthy for node in service_of(client).nodes)
        time.sleep(0.2)
        before = checked()
        time.sleep(0.3)
        assert checked() == before


def test_a_slow_start_that_goes_ends(fleet: Any) -> None:
    servers = fleet(3)
    source = ScriptedDiscovery({"orders": servers.addresses[:2]})
    with Client(source, policy=Policy(slow_start=SlowStart(window=60))) as client:
        client.get(URL)
        source.publish("orders", servers.addresses)
        until(lambda: any(node.weight < 1 for node in service_of(client).nodes))
        client.reconfigure(Policy())
        assert [node.weight for node in service_of(client).nodes] == [1.0] * 3


def test_hedging_begins_and_ends(fleet: Any) -> None:
    servers = fleet(2)
    with client_of(servers) as client:
        servers.behave(Behaviour(delay=0.3))

        def attempts() -> int:
            story = smartclient.report(client.get(URL))
            assert story is not None
            return len(story.attempts)

        client.reconfigure(Policy(hedge=Hedge(0.02, budget=1.0)))
        assert attempts() == 2
        client.reconfigure(Policy())
        assert attempts() == 1


def test_throttling_begins_and_ends(fleet: Any) -> None:
    servers = fleet(1, Behaviour(status=429))
    plain = Policy(outlier=None, retry=None)
    with Client({"orders": servers.addresses}, policy=plain) as client:
        client.get(URL)
        client.reconfigure(replace(plain, throttle=Throttle(k=1.0)))

        def refused(calls: int) -> int:
            count = 0
            for _ in range(calls):
                try:
                    client.get(URL)
                except smartclient.Overloaded:
                    count += 1
            return count

        assert refused(150) > 10
        client.reconfigure(plain)
        assert refused(50) == 0


def test_the_panic_threshold_changes(fleet: Any) -> None:
    """Two of three are out: in panic all are used."""
    servers = fleet(3)
    instances = [{"address": one, "healthy": not number} for number, one in enumerate(servers.addresses)]
    with Client({"orders": instances}, policy=Policy("round_robin", panic_threshold=0.0)) as client:

        def used() -> int:
            for server in servers.servers:
                server.received.clear()
            for _ in range(9):
                client.get(URL)
            return sum(bool(server.received) for server in servers.servers)

        assert used() == 1
        client.reconfigure(Policy("round_robin", panic_threshold=0.5))
        assert used() == 3
        client.reconfigure(Policy("round_robin", panic_threshold=0.1))
        assert used() == 1


def test_the_sizes_of_zones_change(fleet: Any) -> None:
    """With as many clients as instances in zone a, its calls stay there; with more, some go to b."""
    servers = fleet(4)
    instances = [{"address": one, "zone": "ab"[number % 2]} for number, one in enumerate(servers.addresses)]
    at_home = Policy("round_robin", zone="a", min_zone_size=1, client_zones={"a": 1.0, "b": 1.0})
    with Client({"orders": instances}, policy=at_home) as client:

        def away() -> int:
            for server in servers.servers:
                server.received.clear()
            for _ in range(60):
                client.get(URL)
            return sum(len(servers[number].received) for number in (1, 3))

        assert away() == 0
        client.reconfigure(replace(at_home, client_zones={"a": 3.0, "b": 1.0}))
        assert 5 < away() < 40
        client.reconfigure(at_home)
        assert away() == 0


def test_the_name_of_a_certificate_changes(fleet: Any) -> None:
    """The instances answer as localhost. By another name no connection can be had; by the right one, again."""
    authority = trustme.CA()
    own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(own)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    servers = fleet(1, tls=own)
    listed = {"orders": [f"https://{servers.addresses[0]}"]}
    right = Policy(tls_server_name="localhost", retry=None, outlier=None)
    with Client(listed, policy=right, verify=trusting) as client:
        client.get(URL)
        client.reconfigure(replace(right, tls_server_name="other.example"))
        with pytest.raises(httpx.ConnectError, match=r"other\.example"):
            client.get(URL)
        client.reconfigure(right)
        assert client.get(URL).status_code == 200


def test_changes_under_traffic_of_tasks(async_driver: Any, fleet: Any) -> None:
    """The same for async clients, both flavours: no call fails, nothing is left behind."""
    servers = fleet(3)
    policies = [
        Policy("round_robin", limits=Limits(max_in_flight=20)),
        Policy("maglev", circuit=Circuit(), outlier=None),
        Policy("peak_ewma", hedge=Hedge(1.0), slow_start=SlowStart()),
        Policy(Adaptive(draws=3), throttle=Throttle(), subset=Subset(size=2)),
        Policy(limits=Limits(per_node=20), host_header="instance"),
    ]
    with async_driver.client({"orders": servers.addresses}) as face:
        client, statuses = face.client, []

        async def call() -> None:
            for _ in range(40):
                statuses.append((await client.get(URL)).status_code)

        async def main() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(call)
                for turn in range(200):
                    await anyio.to_thread.run_sync(client.reconfigure, policies[turn % len(policies)])

        async_driver.run(main)
        assert statuses == [200] * 200
        assert face.service().in_flight == 0


def test_every_kind_of_client_follows_a_file(driver: Any, tmp_path: Path, fleet: Any) -> None:
    path, servers = tmp_path / "smartclient.yaml", fleet(1)
    path.write_text("version: 1\ndefaults: {deadline: 5}\n")
    made = driver.names.AsyncClient if driver.asynchronous else driver.names.Client
    face = Face(driver, made.from_config(path, discovery={"orders": servers.addresses}))
    try:
        assert face.get(URL).status_code == 200
        assert face.service().policy.deadline == 5
        replaced(path, "version: 1\ndefaults: {deadline: 6}\n")
        until(lambda: face.service().policy.deadline == 6, 3)
    finally:
        face.close()


def test_a_call_keeps_the_policy_it_began_with(fleet: Any) -> None:
    servers = fleet(2, Behaviour(delay=0.3, status=503))
    with Client({"orders": servers.addresses}, policy=Policy(retry=Retry(attempts=2), outlier=None)) as client:
        thread = threading.Thread(target=lambda: client.get(URL))
        thread.start()
        until(lambda: servers.received)
        client.reconfigure(Policy(retry=None))
        thread.join(5)
        assert len(servers.received) == 2


def test_policies_by_glob(fleet: Any) -> None:
    servers = fleet(1)
    discovery = {"orders.eu": servers.addresses, "orders.us": servers.addresses}
    policies = {"*.eu": Policy(attempt_header="x-eu"), "orders.*": Policy(attempt_header="x-orders"), "*": Policy()}
    with Client(discovery, policies=policies) as client:
        client.get("http://orders.eu/")
        assert "x-orders" in servers.received[-1].headers  # the longest
        client.reconfigure(policies={"orders.eu": Policy(attempt_header="x-exact"), **policies})
        client.get("http://orders.eu/")
        assert "x-exact" in servers.received[-1].headers


def test_what_cannot_be_followed_changes_nothing(fleet: Any) -> None:
    servers = fleet(1)
    with client_of(servers) as client:
        with pytest.raises(TypeError, match="policy"):
            client.reconfigure("round_robin")
        with pytest.raises(TypeError):
            client.reconfigure(policies={"orders": 3})
        assert service_of(client).policy == BASE


# ---- files ----


@contextmanager
def configured(path: Path, servers: Any, **keywords: Any) -> Iterator[Any]:
    with Client.from_config(path, discovery={"orders": servers.addresses}, **keywords) as client:
        client.get(URL)
        yield client


def deadline_of(client: Any) -> Any:
    return service_of(client).policy.deadline


def test_a_file_that_changes_is_in_force_within_a_second(tmp_path: Path, fleet: Any) -> None:
    path, servers = tmp_path / "smartclient.yaml", fleet(2)
    path.write_text("version: 1\nservices:\n  orders: {deadline: 5s}\n")
    with configured(path, servers) as client:
        assert deadline_of(client) == 5.0
        nodes = service_of(client).nodes
        with Traffic(client) as traffic:
            replaced(path, "version: 1\nservices:\n  orders: {deadline: 7s}\n")
            until(lambda: deadline_of(client) == 7.0, 2)
        assert not traffic.failed
        assert service_of(client).nodes == nodes


def test_a_bad_file_keeps_the_last_good_one(tmp_path: Path, fleet: Any, caplog: pytest.LogCaptureFixture) -> None:
    path, servers, events = tmp_path / "smartclient.yaml", fleet(1), []
    good = "version: 1\nservices:\n  orders: {deadline: 5s}\n"
    path.write_text(good)
    with configured(path, servers, observers=[events.append]) as client:
        for bad in ("version: 1\nservices:\n  orders: {deadlin: 7s}\n", "", "version: 1\nservices: {ord"):
            replaced(path, bad)
            until(lambda: client.status().config["problems"], 3)
            assert deadline_of(client) == 5.0
            time.sleep(0.6)  # looked at again, and not said again
            replaced(path, good)
            until(lambda: not client.status().config["problems"], 3)
        rejected = [event for event in events if isinstance(event, ConfigRejected)]
        assert [len(event.problems) for event in rejected] == [1, 1, 1]
        assert (
            rejected[0]
            .problems[0]
            .endswith("smartclient.yaml:3: services.orders.deadlin: unknown; did you mean deadline?")
        )
        path.unlink()
        until(lambda: client.status().config["problems"], 3)
        assert "No such file" in client.status().config["problems"][0]
        client.get(URL)
    assert sum(record.levelname == "ERROR" for record in caplog.records) == 4


def test_a_configmap_is_followed_through_its_symlinks(tmp_path: Path, fleet: Any) -> None:
    for name, deadline in (("one", 5), ("two", 6)):
        (tmp_path / f"..{name}").mkdir()
        (tmp_path / f"..{name}" / "smartclient.yaml").write_text(f"version: 1\ndefaults: {{deadline: {deadline}}}\n")
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "smartclient.yaml").symlink_to("..data/smartclient.yaml")
    with configured(tmp_path / "smartclient.yaml", fleet(1)) as client:
        assert deadline_of(client) == 5
        (tmp_path / "..tmp").symlink_to("..two")
        os.replace(tmp_path / "..tmp", tmp_path / "..data")
        until(lambda: deadline_of(client) == 6, 3)


def test_another_registry_keeps_the_lists_until_it_has_spoken(tmp_path: Path, fleet: Any) -> None:
    old, new, users = fleet(1), fleet(1), fleet(1)
    path = tmp_path / "smartclient.yaml"
    lists = [tmp_path / "old.json", tmp_path / "new.json"]
    lists[0].write_text(f'{{"orders": ["{old.addresses[0]}"], "users": ["{users.addresses[0]}"]}}')
    path.write_text(f"version: 1\ndiscovery: file://{lists[0]}\n")
    with Client.from_config(path) as client:
        client.get(URL)
        client.get("http://users/")
        with Traffic(client) as traffic:
            replaced(path, f"version: 1\ndiscovery: file://{lists[1]}?services=orders\n")  # not there yet
            time.sleep(1.2)
            assert service_of(client).nodes
            assert "users" not in [service.name for service in client.status().services]
            lists[1].write_text(f'{{"orders": ["{new.addresses[0]}"]}}')
            until(lambda: new.received, 10)
        assert not traffic.failed, traffic.failed[:2]


def test_code_goes_before_the_file(tmp_path: Path, fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "smartclient.yaml"
    path.write_text(
        "version: 1\ndefaults: {deadline: 1}\nservices:\n  orders: {deadline: 2}\n  '*.eu': {deadline: 3}\n"
    )
    names = ("orders", "a.eu", "b", "c")
    discovery = {name: ["10.0.0.1:80"] for name in names}
    monkeypatch.setenv("SMARTCLIENT_CONFIG", str(path))
    monkeypatch.setenv("SMARTCLIENT_POLICY__ANY_EU__DEADLINE", "4s")
    answering = httpx.MockTransport(lambda request: httpx.Response(200))

    def deadlines(**keywords: Any) -> list[Any]:
        with Client(discovery, transport=answering, **keywords) as client:
            for name in names:
                client.get(f"http://{name}/")
            return [service_of(client, name).policy.deadline for name in names]

    assert deadlines() == [2, 4.0, 1, 1]
    assert deadlines(policies={"b": Policy(deadline=9.0)}) == [2, 4.0, 9.0, 1]
    assert deadlines(policy=Policy(deadline=8.0)) == [2, 4.0, 8.0, 8.0]
    assert deadlines(trust_env=False) == [None] * 4


def test_a_reload_of_many_services_makes_one_anew(tmp_path: Path) -> None:
    path, events = tmp_path / "smartclient.yaml", []
    names = [f"s{n}" for n in range(200)]

    def text(deadline: int) -> str:
        rows = "".join(
            f"  {name}: {{deadline: {deadline if name == 's7' else 5}, retry: {{wait: {{fixed: 10ms}}}}}}\n"
            for name in names
        )
        return f"version: 1\nservices:\n{rows}"

    path.write_text(text(5))
    answering = httpx.MockTransport(lambda request: httpx.Response(200))
    discovery = {name: ["10.0.0.1:80", "10.0.0.2:80"] for name in names}
    with Client.from_config(path, discovery=discovery, transport=answering, observers=[events.append]) as client:
        for name in names:
            client.get(f"http://{name}/")
        before = {name: service_of(client, name).policy for name in names}
        replaced(path, text(6))
        until(lambda: service_of(client, "s7").policy.deadline == 6, 5)
        until(lambda: [event for event in events if isinstance(event, PolicyChanged)])
        changed = [(event.service, event.changed) for event in events if isinstance(event, PolicyChanged)]
        assert changed == [("s7", ("deadline",))]
        assert [name for name in names if service_of(client, name).policy is not before[name]] == ["s7"]


def test_a_thousand_reloads_under_traffic(fleet: Any) -> None:
    servers = fleet(3)
    policies: list[Policy] = [
        Policy("round_robin", limits=Limits(max_in_flight=20)),
        Policy("maglev", outlier=None, circuit=Circuit()),
        Policy("peak_ewma", hedge=Hedge(1.0), slow_start=SlowStart()),
        Policy(Adaptive(draws=3), throttle=Throttle(), subset=Subset(size=2)),
        Policy("weighted_round_robin", limits=Limits(per_node=20), host_header="instance"),
        Policy("least_request", retry=Retry(attempts=2)),
    ]
    with client_of(servers) as client:
        threads = sum("smartclient" in one.name for one in threading.enumerate())
        with Traffic(client) as traffic:
            for turn in range(1000):
                client.reconfigure(policies[turn % len(policies)])
                if turn % 50 == 0:
                    time.sleep(0.01)
        assert not traffic.failed, traffic.failed[:3]
        assert traffic.made > 20
        ours = [one.name for one in threading.enumerate() if "smartclient" in one.name and "hedge" not in one.name]
        assert len(ours) <= threads  # those of hedges rest a while
        assert client.status().services[0].in_flight == 0
        gc.collect()
        alive = Counter(type(one).__name__ for one in gc.get_objects())
        assert alive["Choice"] < 10
        assert alive["Admission"] <= 1
        assert alive["Policy"] < 100


def test_a_client_that_is_dropped_ends_its_watch(tmp_path: Path) -> None:
    path = tmp_path / "smartclient.yaml"
    path.write_text("version: 1\n")
    client = Client.from_config(path)

    def watches() -> int:
        return sum(thread.name == "smartclient-config" for thread in threading.enumerate())

    before = watches()
    client.close()
    until(lambda: watches() < before)
    made: Callable[..., Any] = Client.from_config
    with pytest.raises(ValueError, match="SMARTCLIENT_CONFIG"):
        made()
