"""The DNS source against knot."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from driving import until
from servers import KnotServer

from smartclient import Client, Dns
from smartclient.testing import Fleet

pytestmark = pytest.mark.live
URL = "http://orders/"


@pytest.fixture
def knot(tmp_path: Path) -> Iterator[KnotServer]:
    if shutil.which("knotd") is None:
        why = "no knot (Debian: knot)"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    server = KnotServer(tmp_path)
    yield server
    server.kill()


def listed(client: Client) -> set[str]:
    balanced: Any = next(iter(client._mounts.values()))
    return {str(node.instance) for node in balanced._services.get("orders").nodes}


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
            balanced: Any = next(iter(client._mounts.values()))
            assert balanced._services.get("orders").problem is None


def test_srv(knot: KnotServer) -> None:
    with Fleet(2) as fleet:
        knot.change(
            ("set", "one", "1", "A", "127.0.0.1"),
            ("set", "_http._tcp.orders", "1", "SRV", f"0 5 {fleet[0].port} one"),
            ("set", "_http._tcp.orders", "1", "SRV", f"3 7 {fleet[1].port} one"),
        )
        with Client(f"dns+srv://127.0.0.1:{knot.port}?domain=test") as client:
            assert client.get(URL).status_code == 200
            balanced: Any = next(iter(client._mounts.values()))
            found = {
                (node.instance.port, node.instance.priority, node.instance.weight, node.instance.metadata["target"])
                for node in balanced._services.get("orders").nodes
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
            balanced: Any = next(iter(client._mounts.values()))
            service = balanced._services.get("orders")
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
