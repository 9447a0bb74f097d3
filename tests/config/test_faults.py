"""Faults on purpose: seen in reports and events, counted as if a server had done it, off unless they are said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inside import service_of

import smartclient
from smartclient import AttemptFinished, Client, NodeEjected, Policy, Retry, report
from smartclient.faults import Fault, faults_from, faults_of_environment
from smartclient.testing import Fleet

URL = "http://orders/v1/items"
AT_ONCE = Retry(wait=lambda state: 0.0)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("orders:503@10%", {"orders": (Fault(0.1, 503),)}),
        ("Orders:503@10%, pay:delay=200ms@5%", {"orders": (Fault(0.1, 503),), "pay": (Fault(0.05, None, 0.2),)}),
        ("a:503@1%,a:delay=2s@100%", {"a": (Fault(0.01, 503), Fault(1.0, None, 2.0))}),
        ("*.eu:429@0.5%", {"*.eu": (Fault(0.005, 429),)}),
        ("", {}),
    ],
)  # fmt: skip
def test_what_the_environment_says(written: str, expected: Any) -> None:
    assert faults_of_environment(written) == expected


@pytest.mark.parametrize("written", ["orders", "orders:", "orders:503", "orders:50@1%", "orders:503@0%", "orders:x@1%",
                                     "orders:delay=x@1%", "orders:delay=1s", "orders:503@101%", "a:b:503"])  # fmt: skip
def test_what_it_cannot_say(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTCLIENT_FAULTS", written)
    with pytest.raises(ValueError, match="SMARTCLIENT_FAULTS: expected"):
        Client({"orders": ["10.0.0.1:80"]})


@given(st.text(max_size=40))
def test_anything_else_is_refused_in_one_line(written: str) -> None:
    try:
        faults_from(written)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017


@pytest.fixture
def injected(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda written: monkeypatch.setenv("SMARTCLIENT_FAULTS", written)


def test_an_abort_never_reaches_a_server(driver: Any, fleet: Any, injected: Any, caplog: Any) -> None:
    injected("orders:503@100%")
    servers, events = fleet(2), []
    keywords = {"policy": Policy(retry=AT_ONCE), "observers": [events.append], "trust_env": True}
    with driver.client({"orders": servers.addresses}, **keywords) as client:
        response = client.get(URL)
        assert client.get("http://" + servers.addresses[0]).status_code == 200  # no service
    assert response.status_code == 503
    assert response.headers["x-smartclient-injected"] == "status 503"
    assert [request.headers["host"] for request in servers.received] == servers.addresses[:1]
    story = report(response)
    assert story is not None
    assert [(one.status, one.injected) for one in story.attempts] == [(503, "status 503")] * 3
    assert "injected" in str(story)
    ends = [event for event in events if isinstance(event, AttemptFinished)]
    assert {event.injected for event in ends} == {"status 503"}
    assert "FAULTS ARE INJECTED on purpose: orders: status 503 for 100.000% of the attempts" in caplog.text


def test_a_share_is_a_share_of_attempts_and_retries_help(driver: Any, fleet: Any, injected: Any) -> None:
    injected("orders:503@30%")
    servers, events = fleet(3), []
    policy = Policy(retry=Retry(attempts=6, wait=lambda state: 0.0, budget=None), outlier=None)
    keywords = {"policy": policy, "observers": [events.append], "trust_env": True}
    with driver.client({"orders": servers.addresses}, **keywords) as client:
        statuses = {client.get(URL).status_code for _ in range(60)}
    ends = [event for event in events if isinstance(event, AttemptFinished)]
    share = sum(event.injected is not None for event in ends) / len(ends)
    assert statuses <= {200, 503}
    assert 0.1 < share < 0.5
    assert {event.injected for event in ends if event.outcome == "success"} == {None}


def test_faults_are_evidence(fleet: Any, injected: Any) -> None:
    """They count for health: ejection can be rehearsed."""
    injected("orders:503@100%")
    events: list[Any] = []
    with Client(
        {"orders": fleet(3).addresses}, policy=Policy("round_robin", retry=None), observers=[events.append]
    ) as client:
        for _ in range(20):
            client.get(URL)
        assert any(isinstance(event, NodeEjected) for event in events) or service_of(client).nodes[0].failures > 3


def test_a_delay_ends_with_its_pause(driver: Any, fleet: Any, injected: Any) -> None:
    injected("orders:delay=150ms@100%")
    servers = fleet(1)
    with driver.client({"orders": servers.addresses}, trust_env=True) as client:
        response = client.get(URL)
        assert response.status_code == 200
        story = report(response)
        assert story is not None
        assert 0.15 <= story.attempts[0].elapsed < 1.0
        assert story.attempts[0].injected == "delay of 0.15 s"


def test_a_delay_is_cut_by_the_attempts_time(driver: Any, fleet: Any, injected: Any) -> None:
    injected("orders:delay=30s@100%")
    servers = fleet(2)
    policy = Policy(attempt_timeout=0.05, retry=AT_ONCE)
    with driver.client({"orders": servers.addresses}, trust_env=True, policy=policy) as client:
        with pytest.raises(driver.httpx.ReadTimeout, match="injected") as caught:
            client.get(URL)
    story = report(caught.value)
    assert story is not None
    assert all(one.elapsed < 2 and one.injected for one in story.attempts)
    with driver.client({"orders": servers.addresses}, trust_env=True, policy=Policy(deadline=0.1)) as client:
        with pytest.raises(smartclient.DeadlineExceeded if driver.httpx.__name__ == "httpx" else Exception):
            client.get(URL)
    assert not servers.received


def test_the_environment_goes_before_the_file_and_both_may_change(tmp_path: Path, fleet: Any, injected: Any) -> None:
    path = tmp_path / "smartclient.yaml"
    path.write_text("version: 1\nfaults: {orders: 503@100%, '*': 500@100%}\n")
    servers = fleet(1)
    lists = {"orders": servers.addresses, "users": servers.addresses}
    policy = Policy(retry=None)
    with Client.from_config(path, discovery=lists, policy=policy) as client:
        assert [client.get(url).status_code for url in (URL, "http://users/")] == [503, 500]
    injected("orders:429@100%")
    with Client.from_config(path, discovery=lists, policy=policy) as client:
        assert [client.get(url).status_code for url in (URL, "http://users/")] == [429, 500]
    with Client.from_config(path, discovery=lists, policy=policy, trust_env=False) as client:
        assert client.get(URL).status_code == 503


def test_off_unless_said() -> None:
    with Fleet(1) as servers, Client({"orders": servers.addresses}) as client:
        assert all(client.get(URL).status_code == 200 for _ in range(50))
