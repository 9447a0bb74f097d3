"""DNS where a part of the answer is missing. The server is a stand-in that says what real ones seldom do (live/test_dns
speaks to knot).
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest
from driving import until
from inside import balanced_of, resolver_of, service_of

from smartclient import Client, Dns

SILENCE = "silence"
Zone = dict[tuple[str, str], Any]


@contextmanager
def serving(zone: Zone) -> Iterator[int]:
    """zone: by name and kind: records ("300 A 10.0.0.1", "1 CNAME other.test."), a response code, or silence."""

    def answer(query: Any) -> Any:
        (question,) = query.question
        name, kind = str(question.name).lower(), question.rdtype.name
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        said = zone.get((name, kind), zone.get((name, "*"), []))
        while not isinstance(said, list):
            if said == SILENCE:
                return None
            response.set_rcode(dns.rcode.from_text(said))
            return response
        seen = list(said)
        while seen:
            owner, ttl, rtype, value = seen.pop(0).split(" ", 3)
            response.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", rtype, value))
        return response

    def serve() -> None:
        while True:
            data, client = server.recvfrom(4096)
            if not data:
                return
            response = answer(dns.message.from_wire(data))
            if response is not None:
                server.sendto(response.to_wire(), client)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", ("127.0.0.1", port))
        thread.join()


def source(port: int, **options: Any) -> Dns:
    return Dns("127.0.0.1", server_port=port, port=80, domain="test", **{"timeout": 0.3, **options})


def hosts(listing: Any) -> list[str]:
    return [instance.host for instance in listing]


A = ["orders.test. 300 A 10.0.0.1"]


@pytest.mark.parametrize("trouble", ["SERVFAIL", "REFUSED", "NOTIMP", "FORMERR", SILENCE])
@pytest.mark.parametrize(("good", "bad"), [("A", "AAAA"), ("AAAA", "A")])
def test_one_family_in_trouble(trouble: str, good: str, bad: str) -> None:
    record = "orders.test. 300 A 10.0.0.1" if good == "A" else "orders.test. 300 AAAA fd00::1"
    with serving({("orders.test.", good): [record], ("orders.test.", bad): trouble}) as port:
        listing, ttl = source(port).resolve("orders")
        assert hosts(listing) == [record.rpartition(" ")[2]]
        assert listing.problem is not None
        assert listing.problem.startswith(f"{bad} orders.test.: ")
        assert ttl == 5.0  # it is asked for again soon
        with Client(source(port)) as client:
            balanced: Any = balanced_of(client)
            service = service_of(balanced)
            until(lambda: service.nodes)
            until(lambda: service.problem == listing.problem)


@pytest.mark.parametrize("trouble", ["SERVFAIL", SILENCE])
def test_a_family_in_trouble_and_another_that_is_absent_say_nothing(trouble: str) -> None:
    with serving({("orders.test.", "A"): [], ("orders.test.", "AAAA"): trouble}) as port:
        with pytest.raises((ConnectionError, TimeoutError), match=r"AAAA orders\.test\."):
            source(port).resolve("orders")


def test_a_broken_target_takes_no_other_away() -> None:
    zone: Zone = {
        ("_http._tcp.orders.test.", "SRV"): [
            "_http._tcp.orders.test. 60 SRV 0 1 80 good.test.",
            "_http._tcp.orders.test. 60 SRV 0 1 81 bad.test.",
        ],
        ("good.test.", "A"): ["good.test. 60 A 10.0.0.1"],
        ("bad.test.", "*"): "SERVFAIL",
    }
    with serving(zone) as port:
        listing, _ = source(port, srv=True).resolve("orders")
        assert hosts(listing) == ["10.0.0.1"]
        assert "bad.test.: Server 127.0.0.1" in listing.problem or "SERVFAIL" in listing.problem
        zone["good.test.", "*"] = zone["good.test.", "A"] = SILENCE
        with pytest.raises(ConnectionError, match=r"no answer|SERVFAIL"):
            source(port, srv=True).resolve("orders")


@pytest.mark.parametrize(
    ("records", "ttl"),
    [
        (["orders.test. 300 A 10.0.0.1"], 300),  # there is no AAAA, and that shortens nothing
        (["orders.test. 1 CNAME other.test.", "other.test. 300 A 10.0.0.1"], 1),
        (["orders.test. 300 CNAME other.test.", "other.test. 7 A 10.0.0.1"], 7),
    ],
)
def test_the_time_to_live_of_a_chain_is_its_least(records: list[str], ttl: float) -> None:
    with serving({("orders.test.", "A"): records}) as port:
        listing, told = source(port).resolve("orders")
        assert (hosts(listing), told) == (["10.0.0.1"], ttl)


def test_the_machines_settings_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr("smartclient.discovery.dns.RESOLV_CONF", str(path))
    monkeypatch.setattr(dns.resolver, "Resolver", partial(dns.resolver.Resolver, filename=str(path)))
    path.write_text("nameserver 127.0.0.1\n")
    one = Dns(port=80)
    assert resolver_of(one).nameservers == ["127.0.0.1"]
    first = resolver_of(one)
    assert resolver_of(one) is first
    time.sleep(0.01)
    path.write_text("nameserver 127.0.0.99\n")
    assert resolver_of(one).nameservers == ["127.0.0.99"]
