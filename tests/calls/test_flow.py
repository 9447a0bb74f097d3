"""The course of a call: where it goes next, when, and what is said of it in the end."""

from __future__ import annotations

import pickle
import ssl
import time
from typing import Any

import pytest
import trustme

import smartclient
from smartclient import AttemptStarted, OutlierDetection, Policy, Retry, RetryBudget, call, deadline, report
from smartclient.retry.retry_after import retry_after
from smartclient.support.untrusted import LONGEST, whole_number
from smartclient.testing import FAILING, SLOW_BODY, Behaviour, VirtualClock

URL = "http://orders/v1/items"


def busy(seconds: str, status: int = 503) -> Behaviour:
    return Behaviour(status, headers=(("retry-after", seconds),))


# ---- a node's word is not the service's ----


@pytest.mark.parametrize("seconds", ["2", "6", "86400", "Wed, 21 Oct 2099 07:28:00 GMT", "9" * 400])
@pytest.mark.parametrize("read", [5, None])
def test_a_retry_after_does_not_keep_a_call_from_an_idle_peer(
    driver: Any, fleet: Any, seconds: str, read: float | None
) -> None:
    """urllib3#1338, requests#4854: two seconds' wait, or a day where there is no timeout."""
    servers = fleet(2)
    servers[0].behave(busy(seconds))
    clock = VirtualClock()
    with driver.transport({"orders": servers.addresses}, policy=Policy("round_robin"), clock=clock) as client:
        for _ in range(4):
            timeout = driver.httpx.Timeout(5, read=read)
            assert client.get(URL, timeout=timeout).status_code == 200
    assert sum(clock.slept) < 0.5


@pytest.mark.parametrize(
    ("seconds", "slept"), [("2", 2.0), ("20", 20.0), ("31", None), ("86400", None), ("9" * 400, None)]
)
def test_only_if_all_asked_for_it_the_call_waits(driver: Any, fleet: Any, seconds: str, slept: float | None) -> None:
    servers = fleet(2)
    for server in servers.servers:
        server.behave(busy(seconds), Behaviour())
    clock = VirtualClock()
    where = {"orders": servers.addresses}
    with driver.transport(where, policy=Policy("round_robin"), clock=clock) as client:
        response = client.get(URL, timeout=None)
        assert len(report(response).attempts) == (3 if slept else 2)
        assert response.status_code == (200 if slept else 503)
        assert sum(clock.slept) == pytest.approx(slept or 0, abs=0.3)


def test_it_waits_no_longer_than_the_settings_say(driver: Any, fleet: Any) -> None:
    servers = fleet(1, busy("3"))
    clock = VirtualClock()
    policy = Policy(outlier=OutlierDetection(max_pause=2))
    with driver.transport({"orders": servers.addresses}, policy=policy, clock=clock) as client:
        assert client.get(URL, timeout=None).status_code == 503
        assert clock.slept == []


def test_a_pushback_says_when(driver: Any, fleet: Any) -> None:
    """gRPC A6: a time that is positive is honoured, one that is negative says never."""
    for value, slept in (("700", 0.7), ("0", 0.0), ("-1", None), ("soon", None), ("9" * 30, None)):
        servers = fleet(2, Behaviour(503, headers=(("grpc-retry-pushback-ms", value),)))
        clock = VirtualClock()
        with driver.transport({"orders": servers.addresses}, policy=Policy("round_robin"), clock=clock) as client:
            response = client.get(URL)
            assert len(report(response).attempts) == (1 if slept is None else 3)
            assert sum(clock.slept) == pytest.approx(2 * (slept or 0))


# ---- numbers of strangers ----


@pytest.mark.parametrize(
    ("value", "expected"),
    [("5", 5), (" 5 ", 5), ("-3", -3), ("+3", 3), ("9" * 5000, 10**18), ("", None), ("1.5", None), ("٣", None),
     ("1_000", None), ("0x10", None), ("--1", None)],
)  # fmt: skip
def test_whole_numbers(value: str, expected: int | None) -> None:
    assert whole_number(value) == expected


@pytest.mark.parametrize("value", ["999999999999999999", "9" * 5000, "Thu, 01 Jan 2036 00:00:00 GMT",
                                   "Fri, 31 Dec 9999 23:59:59 GMT"])  # fmt: skip
def test_a_retry_after_of_years_is_within_what_clocks_take(value: str) -> None:
    assert retry_after({"retry-after": value}, wall_clock=1.8e9) is not None
    assert 0 <= (retry_after({"retry-after": value}, wall_clock=1.8e9) or 0) <= LONGEST


@pytest.mark.parametrize(
    "headers",
    [{"grpc-timeout": "99999999H"}, {"x-request-deadline-ms": "9" * 12}, {"x-request-deadline-ms": "9" * 5000}],
)
@pytest.mark.parametrize("timeout", [None, 5])
def test_a_deadline_of_years_is_one_that_sockets_take(
    driver: Any, fleet: Any, headers: Any, timeout: float | None
) -> None:
    servers = fleet(1)
    with driver.client({"orders": servers.addresses}) as client, deadline.from_headers(headers):
        assert client.get(URL, timeout=timeout).status_code == 200
        with deadline(1e300):
            assert client.get(URL, timeout=timeout).status_code == 200


# ---- one auth flow ----


def test_a_digest_challenge_is_answered_where_it_was_made(driver: Any, fleet: Any) -> None:
    """Round robin over two: 30 of 30 ended in 401. Each instance knows its own nonces only."""
    servers = fleet(2)
    nonces = [f"nonce-{n}" for n in range(2)]

    def answer(request: Any) -> Any:
        number = servers.addresses.index(f"{request.url.host}:{request.url.port}")
        good = f'nonce="{nonces[number]}"' in request.headers.get("authorization", "")
        challenge = {"www-authenticate": f'Digest realm="a", nonce="{nonces[number]}", qop="auth", algorithm=MD5'}
        return driver.httpx.Response(200 if good else 401, headers={} if good else challenge)

    auth = driver.httpx.DigestAuth("user", "password")
    with driver.client(
        {"orders": servers.addresses}, policy=Policy("round_robin"), transport=driver.mock(answer)
    ) as client:
        assert [client.get(URL, auth=auth).status_code for _ in range(30)] == [200] * 30


def test_a_redirect_is_balanced_like_any_other_call(driver: Any) -> None:
    seen: list[str] = []

    def answer(request: Any) -> Any:
        seen.append(request.url.host)
        if request.url.path == "/there":
            return driver.httpx.Response(200)
        return driver.httpx.Response(302, headers={"location": "http://orders/there"})

    where = {"orders": ["10.0.0.1:80", "10.0.0.2:80"]}
    with driver.client(where, policy=Policy("round_robin"), transport=driver.mock(answer)) as client:
        client.get(URL, follow_redirects=True)
    assert len(set(seen)) == 2


# ---- what is said must be so ----


def test_the_deadline_after_an_answer_is_not_before_anything_was_sent(driver: Any, fleet: Any) -> None:
    servers = fleet(1, FAILING)
    clock = VirtualClock()

    def slowly(state: Any) -> float:
        clock.advance(5)
        return 0.0

    policy = Policy(deadline=4.0, retry=Retry(wait=slowly))
    with driver.transport({"orders": servers.addresses}, policy=policy, clock=clock) as client:
        with pytest.raises(driver.names.DeadlineExceeded) as caught:
            client.get(URL)
    assert "before the next attempt" in str(caught.value)
    assert "before anything was sent" not in str(caught.value)


def test_an_error_says_where_it_was(driver: Any, fleet: Any) -> None:
    """It is what `logger.error("%s", error)` and SDKs show."""
    servers = fleet(2)
    for server in servers.servers:
        server.refuse()
    with driver.client({"orders": servers.addresses}) as client:
        with pytest.raises(driver.httpx.ConnectError) as caught:
            client.get(URL)
    last = report(caught.value).attempts[-1]
    assert type(caught.value) is driver.httpx.ConnectError
    assert str(caught.value).startswith(f"orders: {last.instance}: ")
    assert str(caught.value).partition("\n")[0].endswith(str(last.error).partition(": ")[2])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("text", ["", "timed out"])
def test_so_does_one_that_is_raised_again_and_again(driver: Any, text: str) -> None:
    error = driver.httpx.ReadTimeout(text)

    def answer(request: Any) -> Any:
        raise error

    with driver.client({"orders": ["10.0.0.1:80"]}, transport=driver.mock(answer)) as client:
        for _ in range(3):
            with pytest.raises(driver.httpx.ReadTimeout) as caught:
                client.get(URL)
            said = str(caught.value).partition("\n")[0]
            assert said == ("orders: 10.0.0.1:80: timed out" if text else "orders: 10.0.0.1:80")


def test_our_own_errors_say_who_was_tried_last(driver: Any, fleet: Any) -> None:
    servers = fleet(1, Behaviour(delay=2))
    with driver.client({"orders": servers.addresses}, policy=Policy(deadline=0.1)) as client:
        with pytest.raises(driver.names.DeadlineExceeded) as caught:
            client.get(URL)
    assert str(caught.value).partition("\n")[0] == (
        f"orders: deadline of 0.1 s exceeded waiting for the response (last tried: {servers.addresses[0]})"
    )


def test_errors_of_the_users_own_stay_as_they_are(driver: Any) -> None:
    def answer(request: Any) -> Any:
        raise KeyError("mine")

    with driver.client({"orders": ["10.0.0.1:80"]}, transport=driver.mock(answer)) as client:
        with pytest.raises(KeyError) as caught:
            client.get(URL)
    assert caught.value.args[0].startswith("mine")


def certificate(name: str) -> tuple[ssl.SSLContext, trustme.CA]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context, authority


def test_certificate_failures_are_not_tried_three_times(driver: Any, fleet: Any) -> None:
    served, authority = certificate("somebody.else")
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    servers = fleet(3, tls=served)
    with driver.client({"orders": servers.addresses}, verify=trusted) as client:
        with pytest.raises(driver.httpx.ConnectError) as caught:
            client.get("https://orders/")
        assert len(report(caught.value).attempts) == 2
        assert all(node.ejected_until is None for node in client.nodes())


def test_one_bad_certificate_among_good_ones_is_not_seen(driver: Any, fleet: Any) -> None:
    good, authority = certificate("orders")
    bad, _ = certificate("orders")
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    addresses = [*fleet(2, tls=good).addresses, *fleet(1, tls=bad).addresses]
    with driver.client({"orders": addresses}, verify=trusted, policy=Policy("round_robin")) as client:
        assert [client.get("https://orders/").status_code for _ in range(9)] == [200] * 9


# ---- a bare transport ----


def test_a_bare_transport_knows_its_hop_only(driver: Any, fleet: Any) -> None:
    """As its documentation says: nothing tells it whether the caller streams."""
    servers = fleet(1, SLOW_BODY)
    clock = None
    with driver.transport({"orders": servers.addresses}, policy=Policy(deadline=1.0), clock=clock) as client:
        began = time.monotonic()
        assert client.get(URL).status_code == 200
        assert time.monotonic() - began > 2
    assert "streams" in (smartclient.BalancedTransport.__doc__ or "")


def test_it_counts_attempts_that_never_reached_a_server_apart(driver: Any, fleet: Any) -> None:
    """While one is known to be up they are free: neither `attempts` nor the budget pays for them."""
    servers = fleet(6)
    events: list[Any] = []
    policy = Policy("round_robin", retry=Retry(attempts=2, budget=RetryBudget(ratio=0, min_per_second=0)))
    with driver.client({"orders": servers.addresses}, policy=policy, observers=[events.append]) as client:
        for _ in range(6):
            client.get(URL)
        for server in servers.servers[1:]:
            server.refuse()
        events.clear()
        for _ in range(6):
            assert client.get(URL).status_code == 200
    # Each of the five is found out once, by a first attempt or a retry; then retries go to the one that is up.
    assert sum(isinstance(event, AttemptStarted) for event in events) <= 6 + 5 + 6


def test_at_most_five_of_them(driver: Any, fleet: Any) -> None:
    servers = fleet(12)
    policy = Policy("round_robin", retry=Retry(attempts=2, budget=RetryBudget(ratio=0, min_per_second=0)), outlier=None)
    with driver.client({"orders": servers.addresses}, policy=policy) as client:
        for _ in range(12):
            client.get(URL)
        for server in servers.servers:
            server.refuse()
        with pytest.raises(driver.httpx.ConnectError) as caught:
            client.get(URL)
        assert len(report(caught.value).attempts) == 6


def test_a_call_prefers_where_its_flow_was_only_while_that_may_be_called(driver: Any, fleet: Any) -> None:
    servers = fleet(2)
    httpx_ = driver.httpx

    class Twice(httpx_.Auth):  # type: ignore[misc, name-defined]
        def auth_flow(self, request: Any) -> Any:
            yield request
            for server in servers.servers:
                if server.received:
                    server.refuse()
            yield request

    with driver.client({"orders": servers.addresses}, policy=Policy("round_robin")) as client:
        assert client.get(URL, auth=Twice()).status_code == 200
    assert all(len(server.received) == 1 for server in servers.servers)
    assert call() is not None
