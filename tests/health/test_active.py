"""Active health checks, against real servers."""

from __future__ import annotations

import ssl
import threading
import time
from functools import partial
from random import Random
from typing import Any

import pytest
import trustme
from driving import until as until_within
from inside import balanced_of, patients_of, service_of

import smartclient
from smartclient import HealthCheck, Instance, Policy
from smartclient.testing import FAILING, OK, SILENT

until = partial(until_within, seconds=8)
URL = "http://orders/"
QUICK = HealthCheck(interval=0.05, timeout=0.2, healthy=2, unhealthy=2)


def unhealthy(client: Any) -> set[int]:
    return {node.instance.port for node in client.nodes() if node.unhealthy}


def unused(client: Any) -> set[int]:
    """A moment after it was found unhealthy, and that was logged: the next choice goes without it."""
    return {node.instance.port for node in client.nodes() if node.excluded}


@pytest.mark.parametrize("how", ["failing", "silent", "refusing"])
def test_who_is_not_well_gets_no_calls_until_he_is(driver: Any, fleet: Any, how: str) -> None:
    servers = fleet(3)
    sick = servers[0]
    with driver.client({"orders": servers.addresses}, policy=Policy("round_robin", health_check=QUICK)) as client:
        assert client.get(URL).status_code == 200
        if how == "refusing":
            sick.refuse()
        else:
            sick.behave(FAILING if how == "failing" else SILENT)
        until(lambda: unhealthy(client) == unused(client) == {sick.port})
        before = len([request for request in sick.received if request.target == "/"])
        for _ in range(9):
            assert client.get(URL).status_code == 200
        assert len([request for request in sick.received if request.target == "/"]) == before
        if how == "refusing":
            sick.accept()
        sick.behave(OK)
        until(lambda: not unhealthy(client))
    threads = [thread.name for thread in threading.enumerate()]
    assert "smartclient-checks" not in threads


def test_a_check_says_who_asks(fleet: Any) -> None:
    servers = fleet(1)
    check = HealthCheck(path="/up?deep=1", interval=0.05)
    with smartclient.Client({"orders": servers.addresses}, policy=Policy(health_check=check)) as client:
        client.get(URL)
        until(lambda: any(request.target == "/up?deep=1" for request in servers.received))
    asked = next(request for request in servers.received if request.target == "/up?deep=1")
    assert (asked.method, asked.headers["host"], asked.headers["connection"]) == ("GET", "orders", "close")


def test_all_unhealthy_is_panic(fleet: Any) -> None:
    servers = fleet(2)
    policy = Policy(health_check=HealthCheck(interval=0.05, unhealthy=1, statuses={204}))
    with smartclient.Client({"orders": servers.addresses}, policy=policy) as client:
        client.get(URL)
        transport: Any = balanced_of(client)
        nodes = service_of(transport).nodes
        until(lambda: all(node.unhealthy for node in nodes))
        assert client.get(URL).status_code == 200


def test_tcp_form_and_another_port(fleet: Any) -> None:
    served, admin = fleet(2), fleet(2)
    # The admin port of the first is asked: it refuses, so both are unhealthy by that.
    admin[0].refuse()
    check = HealthCheck(path=None, interval=0.05, unhealthy=1, port=admin[0].port)
    with smartclient.Client({"orders": served.addresses}, policy=Policy(health_check=check)) as client:
        client.get(URL)
        transport: Any = balanced_of(client)
        nodes = service_of(transport).nodes
        until(lambda: all(node.unhealthy for node in nodes))
        admin[0].accept()
        until(lambda: not any(node.unhealthy for node in nodes))
    assert not admin[0].received


@pytest.mark.parametrize("path", ["/healthz", None])
def test_through_the_client_s_own_tls(fleet: Any, path: str | None) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("orders").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    servers = fleet(1, tls=context)
    instances = [Instance("127.0.0.1", servers[0].port, scheme="https")]
    check = HealthCheck(path=path, interval=0.05, unhealthy=1)
    states = []
    for verify in (trusting, True):
        policy = Policy(health_check=check, retry=None)
        with smartclient.Client({"orders": instances}, policy=policy, verify=verify) as client:
            if verify is trusting:
                assert client.get("https://orders/").status_code == 200
            else:
                with pytest.raises(smartclient.client.httpx.ConnectError):
                    client.get("https://orders/")
            transport: Any = balanced_of(client)
            (node,) = service_of(transport).nodes
            patients = patients_of(transport)
            until(lambda node=node, patients=patients: node in patients and abs(patients[node].row) >= 2)  # type: ignore[misc]
            states.append(node.unhealthy)
    assert states == [False, True]


def test_an_ejection_is_ended_only_if_asked_for(fleet: Any) -> None:
    for unejects in (False, True):
        servers = fleet(3)
        servers[0].behave(FAILING)
        check = HealthCheck(interval=0.05, statuses={200, 503}, unejects=unejects)
        policy = Policy("round_robin", health_check=check)
        with smartclient.Client({"orders": servers.addresses}, policy=policy) as client:
            transport: Any = balanced_of(client)

            def ejected(transport: Any = transport) -> bool:
                return any(node.ejected_until for node in service_of(transport).nodes)

            ends_at = time.monotonic() + 5
            while not ejected() and time.monotonic() < ends_at:
                client.get(URL)
            if unejects:
                until(lambda: not ejected())
            else:
                patients = patients_of(transport)
                until(lambda patients=patients: len(patients) == 3 and all(one.row >= 5 for one in patients.values()))  # type: ignore[misc]
                assert ejected()


def test_slower_without_traffic() -> None:
    check, rng = HealthCheck(interval=10, idle_interval=60, jitter=0.1), Random(1)
    busy, idle = ([check.pause(unused, rng) for _ in range(1000)] for unused in (59.0, 61.0))
    assert (min(busy), max(busy)) == (pytest.approx(9, rel=0.01), pytest.approx(11, rel=0.01))
    assert (min(idle), max(idle)) == (pytest.approx(54, rel=0.01), pytest.approx(66, rel=0.01))


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="health_check"):
        smartclient.Client({"orders": ["a"]}, policy=Policy(health_check=QUICK), connect=lambda instance: None)  # type: ignore[arg-type,return-value]
    for wrong in (
        {"path": "healthz"},
        {"path": "/a\r\nb"},
        {"interval": 0},
        {"healthy": 0},
        {"port": 0},
        {"jitter": 2},
    ):
        with pytest.raises(ValueError, match=f"HealthCheck.{next(iter(wrong))}"):
            HealthCheck(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="statuses"):
        HealthCheck(statuses="200")  # type: ignore[arg-type]


def test_behaviour_of_the_settings() -> None:
    assert HealthCheck().takes(204)
    assert not HealthCheck().takes(302)
    assert HealthCheck(statuses=[302]).takes(302)
