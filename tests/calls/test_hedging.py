"""Hedging: a second attempt beside a slow first one, against real sockets."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from inside import limit_race_threads, places_of

from smartclient import Hedge, Policy, call, report
from smartclient.testing import FAILING, OK, RESETTING, SLOW, SLOW_BODY, Behaviour

URL = "http://orders/v1/items"
LATE = Behaviour(delay=1.0)


def hedging(after: Any = 0.05, budget: float = 1.0, **more: Any) -> Policy:
    return Policy("round_robin", hedge=Hedge(after, budget=budget), **more)


def settled(face: Any) -> bool:
    places = places_of(face.balanced)
    return all(node.in_flight == 0 for node in face.nodes()) and places.taken == 0


def eventually(condition: Any) -> bool:
    until = time.monotonic() + 5
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return bool(condition())


def test_a_slow_instance_is_overtaken(driver: Any, fleet: Any) -> None:
    servers = fleet(3)
    servers[0].behave(LATE)
    with driver.client({"orders": servers.addresses}, policy=hedging()) as client:
        stories = []
        for _ in range(6):
            began = time.monotonic()
            response = client.get(URL)
            assert time.monotonic() - began < 0.9
            assert response.text == "ok"
            stories.append(report(response))
        hedged = [story for story in stories if len(story.attempts) == 2]
        assert 1 <= len(hedged) <= 2  # round robin: every third call meets it
        first, second = hedged[0].attempts
        assert (first.outcome, first.instance.port) == ("abandoned", servers[0].port)
        assert (second.outcome, second.status) == ("success", 200)
        assert second.waited >= 0.05
        assert eventually(lambda: settled(client))
        # Its connection is closed, not waited for.
        assert eventually(lambda: servers[0].open == 0)
        assert all(node.health.local_failures == 0 for node in client.nodes())


def test_a_fast_call_is_sent_once(driver: Any, fleet: Any) -> None:
    servers = fleet(3)
    with driver.client({"orders": servers.addresses}, policy=hedging(0.5)) as client:
        for _ in range(10):
            assert client.get(URL).status_code == 200
        assert len(servers.received) == 10
        assert settled(client)


@pytest.mark.parametrize("behaviour", [FAILING, RESETTING], ids=["503", "reset"])
def test_a_failure_starts_the_second_at_once(driver: Any, fleet: Any, behaviour: Behaviour) -> None:
    servers = fleet(2)
    servers[0].behave(behaviour)
    with driver.client({"orders": servers.addresses}, policy=hedging(30, retry=None, outlier=None)) as client:
        for _ in range(4):
            response = client.get(URL)
            assert response.status_code == 200
        assert settled(client)
    assert len(servers[0].received) == 2


def test_when_all_fail_the_last_answer_is_returned_and_each_is_blamed(driver: Any, fleet: Any) -> None:
    servers = fleet(2, FAILING)
    with driver.client({"orders": servers.addresses}, policy=hedging(30, retry=None)) as client:
        response = client.get(URL)
        assert (response.status_code, response.text) == (503, "failing")
        assert [attempt.outcome for attempt in report(response).attempts] == ["failure", "failure"]
        assert settled(client)


def test_a_retry_goes_where_the_race_did_not(driver: Any, fleet: Any) -> None:
    servers = fleet(3, FAILING)
    with driver.client({"orders": servers.addresses}, policy=hedging(30)) as client:
        response = client.get(URL)
        assert len({attempt.instance for attempt in report(response).attempts}) == 3
        assert settled(client)


def test_the_budget_bounds_the_extra_load(driver: Any, fleet: Any) -> None:
    servers = fleet(2, Behaviour(delay=0.02))
    with driver.client({"orders": servers.addresses}, policy=hedging(0.001, budget=0.1)) as client:
        for _ in range(40):
            client.get(URL)
        assert eventually(lambda: settled(client))
    assert 41 <= len(servers.received) <= 44


def test_a_post_and_a_body_that_is_read_from_are_sent_once(driver: Any, fleet: Any) -> None:
    servers = fleet(2, SLOW)
    with driver.client({"orders": servers.addresses}, policy=hedging(0.05)) as client:
        assert client.post(URL, content=b"x").status_code == 200
        assert client.request("PUT", URL, content=driver.body([b"a", b"b"])).status_code == 200
        assert client.get(URL, extensions=call(hedge=None)).status_code == 200
        assert len(servers.received) == 3
        client.get(URL)
        assert eventually(lambda: len(servers.received) == 5)


def test_a_percentile_is_learnt_from_the_service(driver: Any, fleet: Any) -> None:
    servers = fleet(3)
    with driver.client({"orders": servers.addresses}, policy=hedging("p90")) as client:
        servers[0].behave(SLOW, OK)
        for _ in range(20):
            client.get(URL)
        assert len(servers.received) == 20  # unmeasured: off
        time.sleep(0.11)  # the percentile is reckoned anew
        servers[0].behave(LATE)
        began = time.monotonic()
        for _ in range(3):
            client.get(URL)
        assert time.monotonic() - began < 0.9


def test_one_instance_is_not_hedged_with_itself(driver: Any, fleet: Any) -> None:
    servers = fleet(1, Behaviour(delay=0.1))
    with driver.client({"orders": servers.addresses}, policy=hedging(0.01)) as client:
        assert client.get(URL).status_code == 200
        assert len(servers.received) == 1
        assert settled(client)


def test_the_winners_body_is_the_callers(driver: Any, fleet: Any) -> None:
    servers = fleet(2, Behaviour(body=b"y" * 300_000))
    servers[0].behave(LATE)
    with driver.client({"orders": servers.addresses}, policy=hedging()) as client:
        for _ in range(2):
            response = client.open("GET", URL)
            assert len(client.read(response)) == 300_000
            client.finish(response)
        assert eventually(lambda: settled(client))


def test_a_deadline_ends_all_attempts(driver: Any, fleet: Any) -> None:
    servers = fleet(3, LATE)
    with driver.client({"orders": servers.addresses}, policy=hedging(deadline=0.2)) as client:
        began = time.monotonic()
        with pytest.raises(driver.names.DeadlineExceeded):
            client.get(URL)
        assert time.monotonic() - began < 0.6
        assert eventually(lambda: settled(client))


def test_a_cancelled_race_leaves_nothing(async_driver: Any, fleet: Any) -> None:
    import anyio

    servers = fleet(3, LATE)
    with async_driver.client({"orders": servers.addresses}, policy=hedging()) as client:

        async def cancelled() -> None:
            with anyio.move_on_after(0.2):
                await client.client.get(URL)

        async_driver.run(cancelled)
        assert settled(client)
        assert eventually(lambda: all(server.open == 0 for server in servers.servers))


def test_without_a_thread_to_spare_a_call_is_not_hedged(fleet: Any) -> None:
    import smartclient

    servers = fleet(2, Behaviour(delay=0.1))
    with smartclient.Client({"orders": servers.addresses}, policy=hedging(0.01)) as client:
        limit_race_threads(client, 0)
        assert client.get(URL).status_code == 200
        assert len(servers.received) == 1
        limit_race_threads(client, 1)
        assert client.get(URL).status_code == 200
        assert len(servers.received) == 2


def test_contexts_reach_the_attempts(fleet: Any) -> None:
    """A `connect=` transport sees the caller's context variables."""
    import contextvars

    import httpx

    import smartclient

    name: Any = contextvars.ContextVar("name", default="nobody")
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((name.get(), threading.current_thread() is threading.main_thread()))
        return httpx.Response(200)

    name.set("me")
    with smartclient.Client(
        {"orders": ["10.0.0.1:80", "10.0.0.2:80"]}, policy=hedging(), transport=httpx.MockTransport(answer)
    ) as client:
        client.get(URL)
    assert seen == [("me", False)]


@pytest.mark.parametrize(
    "settings",
    [{"after": 0}, {"after": "95"}, {"after": "p0"}, {"after": "p100"}, {"max": 0}, {"budget": 0}, {"budget": 2}],
)
def test_settings_are_checked(settings: Any) -> None:
    with pytest.raises(ValueError, match=f"Hedge.{next(iter(settings))}"):
        Hedge(**settings)


def test_slow_bodies_are_not_hedged(driver: Any, fleet: Any) -> None:
    """The headers win; the body is the caller's to wait for."""
    servers = fleet(2, Behaviour(fault=SLOW_BODY.fault, body=b"abc"))
    with driver.client({"orders": servers.addresses}, policy=hedging(0.1)) as client:
        assert client.get(URL).text == "abc"
        assert len(servers.received) == 1
