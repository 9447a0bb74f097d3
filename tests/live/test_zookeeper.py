"""The ZooKeeper source against a real server."""

from __future__ import annotations

import json
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
from driving import needs, until
from inside import balanced_of, service_of, session_of
from servers import ZooKeeperServer
from tls import end, relay

from smartclient import Client, ZooKeeper
from smartclient.discovery.zookeeper.curator import Reading
from smartclient.testing import Fleet

pytestmark = pytest.mark.live
URL = "http://orders/"


@pytest.fixture
def zookeeper(tmp_path: Path) -> Iterator[ZooKeeperServer]:
    needs("no ZooKeeper (Debian: zookeeper)" if not Path(ZooKeeperServer.JARS).exists() else None)
    server = ZooKeeperServer(tmp_path)
    yield server
    server.kill()


@contextmanager
def kazoo(server: ZooKeeperServer, **keywords: Any) -> Iterator[Any]:
    from kazoo.client import KazooClient

    quick = {"max_tries": -1, "delay": 0.1, "max_delay": 0.5}
    client = KazooClient(hosts=server.address, connection_retry=quick, **keywords)
    client.start(timeout=30)
    try:
        yield client
    finally:
        client.stop()
        client.close()


def entry(address: str, **more: Any) -> bytes:
    host, _, port = address.rpartition(":")
    return json.dumps({"name": "orders", "address": host, "port": int(port), **more}).encode()


def listed(client: Client) -> set[str]:
    return {str(node.instance) for node in service_of(client).nodes}


def test_instances_come_change_and_go(zookeeper: ZooKeeperServer) -> None:
    with Fleet(3) as fleet, kazoo(zookeeper) as admin:
        admin.create("/services/orders/a", entry(fleet.addresses[0]), makepath=True)
        with Client(f"zookeeper://{zookeeper.address}/services") as client:
            assert client.get(URL).status_code == 200
            delays = []
            for turn in range(9):  # added until it is listed
                began = time.monotonic()
                admin.create(f"/services/orders/b{turn}", entry(f"127.0.0.2:{8000 + turn}"))
                until(lambda: len(listed(client)) == 2)
                delays.append(time.monotonic() - began)
                admin.delete(f"/services/orders/b{turn}")
                until(lambda: len(listed(client)) == 1)
            assert statistics.median(delays) < 1
            admin.create("/services/orders/c", b"no address at all")
            metadata = {"weight": "2", "zone": "eu"}
            data = entry(fleet.addresses[1], id="bee", payload={"metadata": metadata})
            admin.create("/services/orders/b", data)
            until(lambda: len(listed(client)) == 2)
            [made] = [node.instance for node in service_of(client).nodes if node.instance.id == "bee"]
            assert (made.weight, made.zone, dict(made.metadata)) == (2.0, "eu", metadata)
            admin.set("/services/orders/b", entry(fleet.addresses[1], enabled=False))
            until(lambda: listed(client) == {fleet.addresses[0]})
            assert {client.get(URL).status_code for _ in range(5)} == {200}


def test_a_service_that_is_not_there_yet(zookeeper: ZooKeeperServer) -> None:
    source = ZooKeeper(zookeeper.address)
    stop = threading.Event()
    watch = source.watch("orders", stop)
    assert list(next(watch)) == []
    with kazoo(zookeeper) as admin:
        admin.create("/services/orders/a", b"127.0.0.1:80", makepath=True)
        found: Any = []
        while not found:
            found = next(watch)
    assert found == ["127.0.0.1:80"]
    stop.set()
    source.interrupt(stop)
    assert next(watch, None) is None
    assert session_of(source) is None


def test_killed_and_back_with_other_data(zookeeper: ZooKeeperServer) -> None:
    with Fleet(2) as fleet:
        with kazoo(zookeeper) as admin:
            for turn in range(50):  # so that the next server's zxid is lower: it refuses whoever has seen more
                admin.create(f"/noise/{turn}", makepath=True)
            admin.create("/services/orders/a", entry(fleet.addresses[0]), makepath=True)
        with Client(ZooKeeper(zookeeper.address)) as client:
            assert client.get(URL).status_code == 200
            zookeeper.kill()
            ends_at = time.monotonic() + 4
            while time.monotonic() < ends_at:
                assert client.get(URL).status_code == 200
                time.sleep(0.02)
            zookeeper.forget()
            zookeeper.start()
            with kazoo(zookeeper) as admin:
                admin.create("/services/orders/b", entry(fleet.addresses[1]), makepath=True)
            until(lambda: listed(client) == {fleet.addresses[1]}, 10)
            assert client.get(URL).status_code == 200


@contextmanager
def after(silences: list[float], server: ZooKeeperServer) -> Iterator[str]:
    """An address at which the server is reached; each connection is taken, and passed on after so many seconds."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        over = threading.Event()
        stack.callback(over.set)

        def serve(front: socket.socket, silence: float) -> None:
            with front:
                if over.wait(silence):
                    return
                with socket.create_connection(("127.0.0.1", server.port)) as back:
                    relay(front, back)

        def accept() -> None:
            left = iter(silences)
            try:
                while True:
                    front, _ = listener.accept()
                    stack.callback(end, front)
                    threading.Thread(target=serve, args=(front, next(left, 0.0)), daemon=True).start()
            except OSError:
                return

        stack.callback(end, listener)
        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(("silences", "timeout"), [([60.0], 20.0), ([3.0] * 9, 5.0)], ids=["forgotten", "slow"])
def test_who_is_not_answered_tries_again_soon(
    zookeeper: ZooKeeperServer, silences: list[float], timeout: float
) -> None:
    """A ZooKeeper that starts forgets whoever connects then. One that is slow is given more time each time."""
    with Fleet(1) as fleet, kazoo(zookeeper) as admin, after(silences, zookeeper) as address:
        admin.create("/services/orders/a", entry(fleet.addresses[0]), makepath=True)
        with Client(ZooKeeper(address, timeout=timeout, session_timeout=20), timeout=30) as client:
            began = time.monotonic()
            assert client.get(URL).status_code == 200
            assert time.monotonic() - began < 12


def test_a_silent_server_is_seen_through(zookeeper: ZooKeeperServer) -> None:
    with Fleet(2) as fleet, kazoo(zookeeper) as admin:
        admin.create("/services/orders/a", entry(fleet.addresses[0]), makepath=True)
        with Client(ZooKeeper(zookeeper.address, session_timeout=2, timeout=1)) as client:
            assert client.get(URL).status_code == 200
            zookeeper.signal(signal.SIGSTOP)
            until(lambda: service_of(client).problem is not None, 15)
            assert client.get(URL).status_code == 200
            zookeeper.signal(signal.SIGCONT)
            until(lambda: service_of(client).problem is None, 15)
            admin.ensure_path("/services/orders")
            admin.create("/services/orders/b", entry(fleet.addresses[1]))
            until(lambda: len(listed(client)) == 2)


def test_register_outlives_its_session(zookeeper: ZooKeeperServer) -> None:
    source = ZooKeeper(zookeeper.address, session_timeout=2)
    with Fleet(1) as fleet, Client(source) as client:
        with source.register("orders", fleet.addresses[0], id="me", payload={"zone": "a"}):
            assert client.get(URL).status_code == 200
            with kazoo(zookeeper) as admin:
                admin.delete("/services/orders/me")  # as an expired session would
                until(lambda: admin.exists("/services/orders/me") is not None)
        with kazoo(zookeeper) as admin:
            assert admin.get_children("/services/orders") == []


def test_wrong_credentials_are_said_and_the_last_list_stays(zookeeper: ZooKeeperServer) -> None:
    from kazoo.security import make_digest_acl

    with Fleet(1) as fleet, kazoo(zookeeper) as admin:
        admin.create("/services/orders/a", entry(fleet.addresses[0]), makepath=True)
        with Client(ZooKeeper(zookeeper.address)) as client:
            assert client.get(URL).status_code == 200
            admin.set_acls("/services/orders", [make_digest_acl("shop", "right", all=True)])
            with kazoo(zookeeper, auth_data=[("digest", "shop:right")]) as owner:
                owner.create("/services/orders/b", b"127.0.0.1:80")
            # Whoever may not read a node is told nothing of it (CVE-2024-23944): only reading anew shows it.
            zookeeper.kill()
            zookeeper.start()
            until(lambda: "user and password" in (service_of(client).problem or ""), 15)
            assert client.get(URL).status_code == 200
        right = ZooKeeper(zookeeper.address, user="shop", password="right")
        stop = threading.Event()
        watch = right.watch("orders", stop)
        assert len(next(watch)) == 2
        watch.close()  # type: ignore[attr-defined]


def test_five_thousand_instances_and_many_services_on_one_connection(zookeeper: ZooKeeperServer) -> None:
    with kazoo(zookeeper) as admin:
        admin.ensure_path("/services/orders")
        made = [admin.create_async(f"/services/orders/i{n}", b"10.1.%d.%d:80" % (n >> 8, n & 255)) for n in range(5000)]
        for one in made:
            one.get(timeout=30)
        for n in range(30):  # the server allows ten connections
            admin.create(f"/services/s{n}/a", b"10.0.0.1:80", makepath=True)
    source, stop = ZooKeeper(zookeeper.address), threading.Event()
    watches = [source.watch(name, stop) for name in ("orders", *(f"s{n}" for n in range(30)))]
    assert [len(next(watch)) for watch in watches] == [5000, *[1] * 30]
    for watch in watches:
        watch.close()  # type: ignore[attr-defined]


def test_names_have_no_case(zookeeper: ZooKeeperServer) -> None:
    with Fleet(2) as fleet, kazoo(zookeeper) as writer:
        source = ZooKeeper(zookeeper.address)
        with source.register("Orders", fleet.addresses[0]), Client(source) as client:
            assert client.get("http://ORDERS/").status_code == 200
        writer.create("/services/Stock/a", entry(fleet.addresses[1]), ephemeral=True, makepath=True)
        with Client(source) as client:
            assert client.get("http://stock/").status_code == 200
            balanced: Any = balanced_of(client)
            writer.create("/services/Stock/b", entry(fleet.addresses[0]), ephemeral=True)
            until(lambda: len(service_of(balanced, "stock").nodes) == 2)


def test_one_that_is_out_of_service_is_not_called(zookeeper: ZooKeeperServer) -> None:
    """Spring Cloud: `instance_status` in the payload's metadata."""
    with Fleet(2) as fleet, kazoo(zookeeper) as writer:
        for number, status in enumerate(("UP", "OUT_OF_SERVICE")):
            payload = {"metadata": {"instance_status": status}}
            path = f"/services/orders/{number}"
            writer.create(path, entry(fleet.addresses[number], payload=payload), ephemeral=True, makepath=True)
        with Client(ZooKeeper(zookeeper.address)) as client:
            for _ in range(6):
                assert client.get(URL).status_code == 200
            assert listed(client) == {fleet.addresses[0]}
            writer.set("/services/orders/1", entry(fleet.addresses[1], payload={"metadata": {"instance_status": "UP"}}))
            until(lambda: len(listed(client)) == 2)


class MadeMeanwhile:
    """A client for which the base path is made after it was said not to exist, and before that is watched."""

    def __init__(self, client: Any, make: Callable[[], object]) -> None:
        self._client, self._make = client, make

    def get_children_async(self, path: str, watch: Any) -> Any:
        return self._client.get_children_async(path, watch=watch)

    def exists_async(self, path: str, watch: Any) -> Any:
        self._make()
        return self._client.exists_async(path, watch=watch)


def test_a_base_path_that_is_made_while_it_is_looked_for(zookeeper: ZooKeeperServer) -> None:
    from kazoo.exceptions import NoNodeError

    with kazoo(zookeeper) as admin:
        events = SimpleQueue[Any]()
        reading = Reading(SimpleNamespace(no_node=NoNodeError), "/later", "orders", events.put, 5)
        reading.changed(MadeMeanwhile(admin, lambda: admin.ensure_path("/later")))
        assert reading.values == {}
        admin.create("/later/orders/a", entry("127.0.0.1:8000"), makepath=True)
        while not reading.values:
            reading.told([events.get(timeout=5)])
            reading.changed(admin)
        assert [value["port"] for value in reading.values.values()] == [8000]
