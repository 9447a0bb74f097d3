"""Bulkheads, throttling and the circuit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import anyio
import pytest
from driving import until
from hypothesis import given
from hypothesis import strategies as st

from smartclient import AdaptiveLimit, Circuit, Instance, Limits, Policy, Retry, Throttle, call
from smartclient.limits.circuit import Breaker
from smartclient.limits.limits import Gradient
from smartclient.limits.throttle import Throttling
from smartclient.support.sliding_counts import SlidingCounts
from smartclient.support.waiting import Places, Waiter
from smartclient.testing import FAILING, OK, Behaviour, ScriptedDiscovery

URL = "http://orders/v1/items"
ONCE = Retry(attempts=1)


def at_once(driver: Any, client: Any, count: int, **keywords: Any) -> list[Any]:
    """So many calls at the same time: their responses and errors."""
    results: list[Any] = []
    if not driver.asynchronous:

        def get() -> None:
            try:
                results.append(client.client.get(URL, **keywords))
            except driver.httpx.TransportError as error:
                results.append(error)

        with ThreadPoolExecutor(count) as pool:
            for _ in range(count):
                pool.submit(get)
        return results

    async def main() -> None:
        async def get() -> None:
            try:
                results.append(await client.client.get(URL, **keywords))
            except driver.httpx.TransportError as error:
                results.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(get)

    driver.run(main)
    return results


def most_at_once(servers: Any) -> Callable[[], int]:
    """Watch the connections that are open; the most there were on any one server."""
    return lambda: max(server.peak for server in servers.servers)


def left_clean(client: Any) -> bool:
    admission = client.service().admission
    return client.service().in_flight == 0 and (admission.places is None or admission.places.taken == 0)


def test_no_more_than_so_many_at_once(driver: Any, fleet: Any) -> None:
    servers = fleet(2, Behaviour(delay=0.05))
    policy = Policy(limits=Limits(max_in_flight=3, queue_timeout=10))
    with driver.client({"orders": servers.addresses}, policy=policy) as client:
        results = at_once(driver, client, 12)
        assert {result.status_code for result in results} == {200}
        # Connections, of which some may be in the making.
        assert sum(server.peak for server in servers.servers) <= 3 + 3
        assert left_clean(client)


def test_no_more_than_so_many_per_node(driver: Any, fleet: Any) -> None:
    servers = fleet(3, Behaviour(delay=0.05))
    policy = Policy(limits=Limits(per_node=2, queue_timeout=10))
    with driver.client({"orders": servers.addresses}, policy=policy) as client:
        results = at_once(driver, client, 18)
        assert {result.status_code for result in results} == {200}
        assert all(server.peak <= 2 for server in servers.servers)
        assert left_clean(client)


@pytest.mark.parametrize("balancer", ["round_robin", "adaptive", "maglev", "p2c"])
def test_a_node_at_its_limit_is_passed_over(driver: Any, fleet: Any, balancer: str) -> None:
    """One server holds its calls for long; the others serve all that come meanwhile."""
    servers = fleet(2)
    servers[0].behave(Behaviour(delay=0.5))
    policy = Policy(balancer, limits=Limits(per_node=1, queue_timeout=10), retry=ONCE)
    with driver.client({"orders": servers.addresses}, policy=policy) as client:
        results = at_once(driver, client, 10, extensions=call(hash_key="mine"))
        assert {result.status_code for result in results} == {200}
        assert servers[0].peak <= 1
        assert len(servers[1].received) >= 6
        assert left_clean(client)


def test_who_finds_no_place_is_overloaded(driver: Any, fleet: Any) -> None:
    servers = fleet(1, Behaviour(delay=0.5))
    policy = Policy(limits=Limits(max_in_flight=1, queue=1, queue_timeout=0.05))
    with driver.client({"orders": servers.addresses}, policy=policy) as client:
        results = at_once(driver, client, 4)
        answered = [result for result in results if not isinstance(result, Exception)]
        refused = [result for result in results if isinstance(result, driver.names.Overloaded)]
        assert (len(answered), len(refused)) == (1, 3)
        reasons = " | ".join(sorted(str(error) for error in refused))
        assert "1 attempts in progress and 1 calls waiting (Policy.limits)" in reasons
        assert "none ended within 0.05 s" in reasons
        assert left_clean(client)
        assert client.get(URL).status_code == 200


def test_a_deadline_ends_the_wait(driver: Any, fleet: Any) -> None:
    servers = fleet(1, Behaviour(body=b"y" * 300_000))
    policy = Policy(limits=Limits(max_in_flight=1, queue_timeout=10))
    with driver.client({"orders": servers.addresses}, policy=policy) as client:
        held = client.open("GET", URL)
        with pytest.raises(driver.names.DeadlineExceeded, match=r"waiting for a place \(Policy.limits\)"):
            client.get(URL, extensions=call(deadline=0.1))
        client.finish(held)
        assert left_clean(client)


def test_places_can_be_resized() -> None:
    places = Places(2)
    assert places.try_take()
    assert places.try_take()
    woken: list[int] = []
    for number in range(3):
        assert places.join(Waiter(lambda number=number: woken.append(number) is None))  # type: ignore[misc]
    places.resize(3)
    assert woken == [0]
    places.resize(1)
    places.release()
    places.release()
    assert (woken, places.taken) == ([0], 1)
    places.release()
    assert (woken, places.taken) == ([0, 1], 1)
    places.release()
    places.release()
    assert (woken, places.taken) == ([0, 1, 2], 0)


@given(st.lists(st.one_of(st.just("take"), st.just("release"), st.integers(1, 6)), max_size=60))
def test_places_keep_count(steps: list[Any]) -> None:
    places, taken = Places(3), 0
    for step in steps:
        if step == "take":
            could = places.try_take()
            assert could is (taken < places.limit)
            taken += could
        elif step == "release":
            if taken:
                places.release()
                taken -= 1
        else:
            places.resize(step)
        assert places.taken == taken


# ---- throttle ----


def test_throttling_by_the_book() -> None:
    throttling = Throttling(Throttle(), Random(1))
    refused = 0
    for second in range(2000):
        if throttling.refuses(second / 100) is not None:
            refused += 1
        else:
            throttling.observe(None, second / 100)  # nothing is ever accepted
    assert 0.85 < refused / 2000 <= 0.9
    healthy = Throttling(Throttle(), Random(1))
    for second in range(2000):
        assert healthy.refuses(second / 100) is None
        healthy.observe(200, second / 100)
    # It accepts half of what comes: with K = 2 nothing is refused yet.
    half = Throttling(Throttle(), Random(1))
    refused = served = 0
    for second in range(2000):
        if half.refuses(second / 100) is not None:
            refused += 1
        else:
            served += 1
            half.observe(200 if served % 2 else 503, second / 100)
    assert refused < 60


def test_throttling_forgets() -> None:
    throttling = Throttling(Throttle(window=10), Random(1))
    for second in range(1000):
        throttling.observe(503, second / 100)
    assert throttling.refuses(25.0) is None


def test_a_throttled_call_never_leaves(driver: Any, fleet: Any) -> None:
    servers = fleet(2, FAILING)
    policy = Policy(throttle=Throttle(), retry=ONCE, outlier=None)
    with driver.client({"orders": servers.addresses}, policy=policy) as client:
        refused = 0
        for _ in range(100):
            try:
                assert client.get(URL).status_code == 503
            except driver.names.Overloaded as error:
                said = str(error)
                refused += 1
        assert refused > 50
        assert "it accepted 0 of" in said
        assert len(servers.received) == 100 - refused


# ---- circuit ----


def test_the_breaker() -> None:
    breaker = Breaker(Circuit(failures=3, probe=1.0))
    for _ in range(2):
        assert breaker.refuses(2, 0.0) is None
        breaker.observe(None, "10.0.0.1:80: ConnectError", 2, 0.0)
    breaker.observe(500, "10.0.0.1:80: status 500", 2, 0.0)  # an answer
    for _ in range(3):
        assert breaker.refuses(2, 0.0) is None
        breaker.observe(503, "10.0.0.2:80: status 503", 2, 0.0)
    refused = breaker.refuses(2, 0.5)
    assert refused is not None
    assert "the last 3 attempts failed (10.0.0.2:80: status 503); next try in 0.5 s" in refused
    assert breaker.refuses(2, 1.0) is None  # the probing call
    assert breaker.refuses(2, 1.1) is not None
    breaker.observe(503, "…", 2, 1.2)
    assert breaker.refuses(2, 1.9) is not None
    assert breaker.refuses(2, 2.0) is None
    breaker.observe(200, "", 2, 2.1)
    assert breaker.refuses(2, 2.1) is None


def test_not_before_each_instance_may_have_failed() -> None:
    breaker = Breaker(Circuit(failures=3))
    for _ in range(19):
        breaker.observe(None, "", 20, 0.0)
        assert breaker.refuses(20, 0.0) is None
    breaker.observe(None, "", 20, 0.0)
    assert breaker.refuses(20, 0.0) is not None


def test_while_all_is_down_calls_fail_at_once(driver: Any, fleet: Any) -> None:
    servers = fleet(3)
    policy = Policy(circuit=Circuit(failures=4, probe=0.3))
    with driver.client({"orders": servers.addresses}, policy=policy) as client:
        assert client.get(URL).status_code == 200
        for server in servers.servers:
            server.refuse()
        errors = []
        for _ in range(20):
            with pytest.raises(driver.httpx.ConnectError) as caught:
                client.get(URL)
            errors.append(caught.value)
        fast = [error for error in errors if isinstance(error, driver.names.NoInstances)]
        assert len(fast) >= 15
        assert "the last 4 attempts failed (127.0.0.1:" in str(fast[0])
        assert "ConnectError" in str(fast[0])
        for server in servers.servers:
            server.accept()
        time.sleep(0.3)
        assert client.get(URL).status_code == 200
        assert client.get(URL).status_code == 200


# ---- adaptive limit ----


def test_the_limit_follows_the_latency() -> None:
    gradient = Gradient(AdaptiveLimit(initial=20))
    for _ in range(300):
        gradient.observe(0.01, gradient.limit, False)
    grown = gradient.limit
    assert grown > 100
    for _ in range(300):
        gradient.observe(0.1, gradient.limit, False)
    assert gradient.limit < grown / 2
    for _ in range(500):
        gradient.observe(0.01, 1, False)
    assert gradient.limit < grown / 2  # idle: nothing is known
    for _ in range(100):
        gradient.observe(0.01, gradient.limit, True)
    assert gradient.limit == 4


@given(st.lists(st.tuples(st.floats(1e-6, 100), st.integers(0, 2000), st.booleans()), max_size=100))
def test_the_limit_stays_within_its_bounds(samples: list[tuple[float, int, bool]]) -> None:
    gradient = Gradient(AdaptiveLimit(initial=10, least=2, most=50))
    for latency, in_flight, failed in samples:
        gradient.observe(latency, in_flight, failed)
        assert 2 <= gradient.limit <= 50


def test_an_adaptive_limit_in_use(driver: Any, fleet: Any) -> None:
    servers = fleet(2)
    policy = Policy(limits=Limits(AdaptiveLimit(initial=4), queue_timeout=10))
    with driver.client({"orders": servers.addresses}, policy=policy) as client:
        for _ in range(3):
            assert {result.status_code for result in at_once(driver, client, 8)} == {200}
        assert client.service().admission.places.limit >= 4
        assert left_clean(client)


# ---- settings ----


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Limits(max_in_flight=0), "Limits.max_in_flight"),
        (lambda: Limits(per_node=-1), "Limits.per_node"),
        (lambda: Limits(queue=-1), "Limits.queue"),
        (lambda: Limits(queue_timeout=float("nan")), "Limits.queue_timeout"),
        (lambda: AdaptiveLimit(initial=1, least=2), "AdaptiveLimit.initial"),
        (lambda: AdaptiveLimit(tolerance=0.5), "AdaptiveLimit.tolerance"),
        (lambda: Throttle(k=0.5), "Throttle.k"),
        (lambda: Throttle(at_most=1), "Throttle.at_most"),
        (lambda: Circuit(failures=0), "Circuit.failures"),
        (lambda: Circuit(probe=0), "Circuit.probe"),
    ],
)
def test_settings_are_checked(make: Callable[[], Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        make()


@pytest.mark.parametrize("field", ["limits", "throttle", "circuit", "hedge"])
def test_policies_are_checked(field: str) -> None:
    with pytest.raises(TypeError, match=f"Policy.{field}"):
        Policy(**{field: 5})  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 1)), max_size=60))
def test_a_window_counts_the_last_seconds(steps: list[tuple[float, int]]) -> None:
    window, now, added = SlidingCounts(10.0), 0.0, []
    for wait, which in steps:
        now += wait
        window.add(now, which)
        added.append((now, which))
        for kind in (0, 1):
            at_least = sum(1 for at, what in added if what == kind and now - at < 9)
            at_most = sum(1 for at, what in added if what == kind and now - at <= 10)
            assert at_least <= window.sums(now)[kind] <= at_most


def test_threads_do_not_overfill(fleet: Any) -> None:
    """32 threads on one client, a limit for each node."""
    import smartclient

    servers = fleet(4, OK)
    policy = Policy(limits=Limits(per_node=3, queue_timeout=30))
    with smartclient.Client({"orders": servers.addresses}, policy=policy) as client:
        failed: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(20):
                    assert client.get(URL).status_code == 200
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work) for _ in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
    assert all(server.peak <= 3 for server in servers.servers)


# ---- what a review found ----


def test_streams_on_instances_that_are_gone_take_no_room_from_new_ones(driver: Any, fleet: Any) -> None:
    servers = fleet(4, Behaviour(body=b"y" * 300_000))
    source = ScriptedDiscovery({"orders": servers.addresses[:2]})
    policy = Policy(limits=Limits(per_node=2, queue_timeout=0.2))
    with driver.client(source, policy=policy) as client:
        held = [client.open("GET", URL) for _ in range(4)]
        source.publish("orders", servers.addresses[2:])
        until = time.monotonic() + 5
        while client.nodes()[0].instance.port not in (servers[2].port, servers[3].port) and time.monotonic() < until:
            time.sleep(0.01)
        more = [client.open("GET", URL) for _ in range(4)]
        with pytest.raises(driver.names.Overloaded):
            client.get(URL)
        for response in held:
            client.finish(response)
        with pytest.raises(driver.names.Overloaded):
            client.get(URL)
        for response in more:
            client.finish(response)
        assert client.get(URL).status_code == 200
        assert client.service().admission.places.limit == 4
        assert left_clean(client)


def test_a_healthy_service_is_not_throttled(driver: Any, fleet: Any) -> None:
    servers = fleet(2, Behaviour(delay=0.05))
    with driver.client({"orders": servers.addresses}, policy=Policy(throttle=Throttle())) as client:
        assert {result.status_code for result in at_once(driver, client, 30)} == {200}


def test_calls_queue_for_the_instances_that_they_require(driver: Any, fleet: Any) -> None:
    servers = fleet(3, Behaviour(delay=0.1))
    version = [{"version": "v2"}, {}, {}]
    listed = [Instance("127.0.0.1", server.port, metadata=metadata)
              for server, metadata in zip(servers.servers, version, strict=True)]  # fmt: skip
    policy = Policy(limits=Limits(per_node=1, queue_timeout=5))
    with driver.client({"orders": listed}, policy=policy) as client:
        results = at_once(driver, client, 3, extensions=call(require={"version": "v2"}))
        assert {result.status_code for result in results} == {200}
        assert len(servers[0].received) == 3
        assert servers[0].peak == 1


def test_no_retry_takes_the_place_of_those_who_wait(driver: Any, fleet: Any) -> None:
    servers = fleet(2, Behaviour(status=503, delay=0.1))
    policy = Policy(limits=Limits(max_in_flight=1, queue=10, queue_timeout=10), outlier=None)
    with driver.client({"orders": servers.addresses}, policy=policy) as client:
        results = at_once(driver, client, 4)
        assert {result.status_code for result in results} == {503}
        assert len(servers.received) < 4 * 3


def test_a_latency_of_nothing() -> None:
    gradient = Gradient(AdaptiveLimit())
    for _ in range(10):
        gradient.observe(0.0, gradient.limit, False)
    assert gradient.limit > 20


def test_a_list_that_goes_empty_lifts_the_limit_at_once(driver: Any, fleet: Any) -> None:
    """From four places to any number: it took ten minutes, one place at a time."""
    source = ScriptedDiscovery({"orders": (servers := fleet(2)).addresses}, grace=0)
    policy = Policy(limits=Limits(per_node=2))
    with driver.client(source, policy=policy) as client:
        assert client.get(URL).status_code == 200
        source.publish("orders", [])
        until(lambda: not client.nodes(), 5)
        source.publish("orders", servers.addresses)
        until(client.nodes, 5)
        assert client.get(URL).status_code == 200
