"""The DNS source against knot."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dns.resolver
import pytest
from driving import needs, until
from inside import balanced_of, resolver_of, service_of
from servers import KnotServer

from smartclient import Client, Dns
from smartclient.discovery import discovery_of
from smartclient.testing import Fleet

pytestmark = pytest.mark.live
URL = "http://orders/"


@pytest.fixture
def knot(tmp_path: Path) -> Iterator[KnotServer]:
    needs("no knot (Debian: knot)" if shutil.which("knotd") is None else None)
    server = KnotServer(tmp_path)
    yield server
    server.kill()


def listed(client: Client) -> set[str]:
    balanced: Any = balanced_of(client)
    return {str(node.instance) for node in service_of(balanced).nodes}


def test_addresses_come_and_go_with_their_time_to_live(knot: KnotServer) -> None:
    with Fleet(1) as fleet:
        port = fleet[0].port
        knot.change(("set", "orders", "1", "A", "127.0.0.1"))
        with Client(f"dns://127.0.0.1:{knot.port}?domain=test&port={port}") as client:
            assert client.get(URL).status_code == 200
            assert client.get("http://orders.test/").status_code == 200
            assert listed(client) == {f"127.0.0.1:{port}"}
            began = time.monotonic()
            knot.change(("set", "orders", "1", "A", "127.0.0.2"), ("set", "orders", "1", "AAAA", "::1"))
            until(lambda: listed(client) == {f"127.0.0.1:{port}", f"127.0.0.2:{port}", f"[::1]:{port}"})
            assert time.monotonic() - began < 2.5
            knot.change(("unset", "orders", "AAAA"))
            until(lambda: listed(client) == {f"127.0.0.1:{port}", f"127.0.0.2:{port}"})
            # NXDOMAIN is an empty list: held back for a while, and no error.
            knot.change(("unset", "orders"))
            time.sleep(1.5)
            assert len(listed(client)) == 2
            balanced: Any = balanced_of(client)
            assert service_of(balanced).problem is None


def test_srv(knot: KnotServer) -> None:
    with Fleet(2) as fleet:
        knot.change(
            ("set", "one", "1", "A", "127.0.0.1"),
            ("set", "_http._tcp.orders", "1", "SRV", f"0 5 {fleet[0].port} one"),
            ("set", "_http._tcp.orders", "1", "SRV", f"3 7 {fleet[1].port} one"),
        )
        with Client(f"dns+srv://127.0.0.1:{knot.port}?domain=test") as client:
            assert client.get(URL).status_code == 200
            balanced: Any = balanced_of(client)
            found = {
                (node.instance.port, node.instance.priority, node.instance.weight, node.instance.metadata["target"])
                for node in service_of(balanced).nodes
            }
            assert found == {(fleet[0].port, 0, 5.0, "one.test"), (fleet[1].port, 3, 7.0, "one.test")}
            assert len(fleet[0].received) == 1


def test_a_long_answer_comes_over_tcp(knot: KnotServer) -> None:
    knot.change(*(("set", "many", "1", "A", f"10.0.{n >> 8}.{n & 255}") for n in range(1, 501)))
    addresses, ttl = Dns("127.0.0.1", server_port=knot.port, domain="test").resolve("many")
    assert (len(addresses), ttl) == (500, 1.0)


def test_a_server_that_is_gone_or_silent_is_trouble_and_the_last_list_stays(knot: KnotServer) -> None:
    with Fleet(1) as fleet:
        knot.change(("set", "orders", "1", "A", "127.0.0.1"))
        source = Dns("127.0.0.1", server_port=knot.port, domain="test", port=fleet[0].port, timeout=0.5)
        with Client(source) as client:
            assert client.get(URL).status_code == 200
            balanced: Any = balanced_of(client)
            service = service_of(balanced)
            knot.signal(signal.SIGSTOP)
            until(lambda: "no answer within 0.5 s" in (service.problem or ""))
            assert client.get(URL).status_code == 200
            knot.signal(signal.SIGCONT)
            until(lambda: service.problem is None, 15)
            knot.kill()
            until(lambda: service.problem is not None, 15)
            assert client.get(URL).status_code == 200
            knot.start()
            knot.change(("set", "orders", "1", "A", "127.0.0.2"))
            until(lambda: f"127.0.0.2:{fleet[0].port}" in listed(client), 15)


def test_a_refusal_is_no_empty_list(knot: KnotServer) -> None:
    source = Dns("127.0.0.1", server_port=knot.port, domain="elsewhere.example")
    with pytest.raises(ConnectionError, match="REFUSED"):
        source.resolve("orders")


def test_the_machines_search_list(knot: KnotServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\nsearch nowhere.test shop.test\noptions ndots:2\n")
    read = partial(dns.resolver.Resolver, filename=str(tmp_path / "resolv.conf"))
    monkeypatch.setattr(dns.resolver, "Resolver", read)
    source = Dns(port=80)
    resolver_of(source).port = knot.port
    knot.change(("set", "orders.shop", "1", "A", "127.0.0.7"))
    addresses, ttl = source.resolve("orders")
    assert [str(one) for one in addresses] == ["127.0.0.7:80"]
    assert ttl == 1


def test_a_headless_service(knot: KnotServer) -> None:
    """Kubernetes: each ready pod is an A record, and an SRV record for each named port."""
    pods = {"127-0-0-7": "127.0.0.7", "127-0-0-8": "127.0.0.8"}
    for name, address in pods.items():
        knot.change(("set", "orders.shop.svc", "5", "A", address))
        knot.change(("set", f"{name}.orders.shop.svc", "5", "A", address))
        srv = f"0 50 8080 {name}.orders.shop.svc.test."
        knot.change(("set", "_http._tcp.orders.shop.svc", "5", "SRV", srv))
    plain = Dns("127.0.0.1", server_port=knot.port, domain="shop.svc.test", port=8080)
    named = Dns("127.0.0.1", server_port=knot.port, domain="shop.svc.test", srv=True)
    for source in (plain, named):
        for name in ("orders", "orders.shop.svc.test"):
            assert source.covers(name)
            addresses, ttl = source.resolve(name)
            assert {str(one) for one in addresses} == {"127.0.0.7:8080", "127.0.0.8:8080"}
            assert ttl == 5


def test_a_record_that_cannot_be_called_takes_no_others_with_it(knot: KnotServer) -> None:
    knot.change(("set", "a", "5", "A", "127.0.0.7"))
    for port in (0, 8080):
        knot.change(("set", "_http._tcp.orders", "5", "SRV", f"0 1 {port} a.test."))
    with Client(f"dns+srv://127.0.0.1:{knot.port}?domain=test") as client:
        until(lambda: listed(client) == {"127.0.0.7:8080"})


def test_consuls_own_interface(agents: Any) -> None:
    """It leaves instances out of what it answers over UDP, and does not say so."""
    agent = agents()
    for n in range(60):
        agent.register("orders", 8000 + n, Address=f"127.0.1.{n}", Weights={"Passing": n + 1, "Warning": 1})
    expected = {f"127.0.1.{n}:{8000 + n}": n + 1.0 for n in range(60)}
    source = discovery_of(f"dns+srv://127.0.0.1:{agent.dns_port}?domain=service.consul")
    until(lambda: len(source.resolve("orders")[0]) == 60)
    for name in ("orders", "orders.service.consul"):
        assert source.covers(name)
        addresses, _ = source.resolve(name)
        assert {str(one): one.weight for one in addresses} == expected
    assert (
        len(discovery_of(f"dns://127.0.0.1:{agent.dns_port}?domain=service.consul&port=80").resolve("orders")[0]) == 60
    )
