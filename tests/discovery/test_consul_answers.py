"""The Consul source against answers a real agent gives rarely. The server here is a stand-in (the real one: live/)."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from driving import in_child, until

from smartclient import Client, Consul
from smartclient.discovery import discovery_from_url
from smartclient.discovery.consul.agent import RESERVE, TURN, Agents
from smartclient.testing import CLOSING, FAILING, GARBAGE, RESETTING, SILENT, TRUNCATING, Behaviour, Server


def answer(index: int | str | None, *ports: int, body: bytes | None = None, delay: float = 0.0) -> Behaviour:
    entries = [
        {
            "Node": {"Address": "10.0.0.9"},
            "Service": {"ID": str(port), "Address": "127.0.0.1", "Port": port, "Meta": None},
        }
        for port in ports
    ]
    headers = () if index is None else (("X-Consul-Index", str(index)),)
    return Behaviour(body=json.dumps(entries).encode() if body is None else body, headers=headers, delay=delay)


@pytest.fixture
def agent() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@contextmanager
def lists(agent: Server, **keywords: Any) -> Iterator[tuple[list[list[int | None]], list[BaseException]]]:
    """What the source yields (ports) and raises, watched again after each error as a watcher does."""
    source = Consul(agent.address, **keywords)
    seen: list[list[int | None]] = []
    errors: list[BaseException] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                for instances in source.watch("orders", stop):
                    seen.append([instance.port for instance in instances])
            except Exception as error:
                if not stop.is_set():
                    errors.append(error)
                stop.wait(0.01)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen, errors
    finally:
        stop.set()
        source.interrupt(stop)
        thread.join(5)
        assert not thread.is_alive()


def indexes(agent: Server) -> list[str | None]:
    """The index of each query, None where it did not block."""
    queries = [request.target.partition("?")[2].split("&") for request in agent.received]
    return [next((part[6:] for part in query if part.startswith("index=")), None) for query in queries]


BAD = {
    "403": Behaviour(status=403, body=b"ACL not found", headers=(("X-Consul-Index", "1"),)),
    "500": Behaviour(status=500, body=b"No cluster leader"),
    "503": FAILING,
    "not JSON": answer(12, body=b"<html>"),
    "not a list": answer(12, body=b'{"a": 1}'),
    "null": answer(12, body=b"null"),
    "no index": answer(None, 1),
    "index not a number": answer("abc", 1),
    "not HTTP": GARBAGE,
    "reset": RESETTING,
    "closed": CLOSING,
    "cut short": TRUNCATING,
    "redirect": Behaviour(status=302, headers=(("location", "http://elsewhere/"),)),
    "silent": SILENT,
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_answers_are_survived(agent: Server, bad: str) -> None:
    agent.behave(answer(10, 1), BAD[bad], answer(11, 1, 2), SILENT)
    keywords: dict[str, Any] = {"wait": 0.1, "timeout": 0.1} if bad == "silent" else {}
    with lists(agent, **keywords) as (seen, errors):
        until(lambda: len(seen) >= 2, 10)
        assert seen[0] == [1]
        assert seen[-1] == [1, 2]
        assert errors
        assert str(errors[0])
    # Meaningless after any error: it asks without an index, and does not block.
    assert indexes(agent)[:3] == [None, "10", None]


def test_entries_that_are_not_understood_are_left_out(agent: Server, caplog: pytest.LogCaptureFixture) -> None:
    good = json.loads(answer(1, 7).body)
    bad: list[Any] = [None, 3, {}, {"Node": {}, "Service": {}}, {"Node": None, "Service": {"Port": 1}}]
    for fields in ({"Port": 70000}, {"Address": "a b"}, {"Weights": {"Passing": -1}}, {"Meta": 5}):
        bad.append({"Node": {"Address": "10.0.0.9"}, "Service": {"Port": 1, **fields}})
    agent.behave(answer(10, body=json.dumps([*bad, *good]).encode()), SILENT)
    with lists(agent) as (seen, errors):
        until(lambda: bool(seen))
        assert seen == [[7]]
        assert not errors
    assert caplog.text.count("is refused") == len(bad)


def test_an_index_that_falls_is_forgotten(agent: Server) -> None:
    agent.behave(answer(100, 1), answer(50, 1, 2), answer(51, 1, 2, 3), SILENT)
    with lists(agent) as (seen, errors):
        until(lambda: len(seen) == 3 and len(agent.received) == 4)
    assert seen == [[1], [1, 2], [1, 2, 3]]
    assert not errors
    assert indexes(agent) == [None, "100", None, "51"]


class Second(threading.Event):
    """A stop that is set once a watch has waited for a second in all, without waiting."""

    waited = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waited += timeout
        if self.waited >= 1:
            self.set()
        return self.is_set()


@pytest.mark.parametrize(
    ("answers", "seen"),
    [
        ([answer(0, 1), answer(0, 1), answer(0, 1, 2)], [[1], [1, 2]]),  # an index of zero
        ([answer(10, 1)], [[1]]),  # an unchanged answer at once, as from an agent that is stopping
        ([answer(index, 1) for index in range(10, 500)], [[1]]),  # an index that moves without news
    ],
    ids=["zero", "unchanged", "moving"],
)
def test_answers_that_come_at_once_are_no_busy_loop(agent: Server, answers: Any, seen: Any) -> None:
    agent.behave(*answers)
    watch = Consul(agent.address).watch("orders", Second())
    assert [[instance.port for instance in listed] for listed in watch] == seen
    assert 4 <= len(agent.received) <= 10
    assert "0" not in indexes(agent)


def test_garbage_is_no_empty_list(agent: Server) -> None:
    agent.behave(answer(10, 1), answer(11, body=b"[null, 3, {}]"), answer(12, 1, 2), SILENT)
    with lists(agent) as (seen, errors):
        until(lambda: len(seen) == 2)
    assert seen == [[1], [1, 2]]
    assert "none of 3 entries was understood" in str(errors[0])


def test_a_refused_entry_is_said_once(agent: Server, caplog: pytest.LogCaptureFixture) -> None:
    entries = [*json.loads(answer(1, 7).body), {"Node": {}, "Service": {"Weights": {"Passing": 10**400}}}]
    agent.behave(*(answer(index, body=json.dumps(entries).encode()) for index in range(10, 14)), SILENT)
    with lists(agent) as (seen, errors):
        until(lambda: len(agent.received) >= 4)
        assert seen == [[7]]
        assert not errors
    assert caplog.text.count("is refused") == 1


@pytest.mark.parametrize("body", [b"<html>" + b"x" * 10_000, b"[" * 10_000])
def test_a_bad_body_is_not_printed_whole(agent: Server, body: bytes) -> None:
    agent.behave(answer(10, body=body))
    with lists(agent) as (_, errors):
        until(lambda: bool(errors))
    assert 0 < len(str(errors[0])) < 400


def test_odd_names_stay_in_their_place(agent: Server) -> None:
    agent.behave(answer(10, 1))
    stop = threading.Event()
    next(iter(Consul(agent.address).watch("a/b?c#d%65", stop)))
    assert agent.received[0].target.startswith("/v1/health/service/a%2Fb%3Fc%23d%2565?")


def test_a_path_before_the_api_s(agent: Server) -> None:
    agent.behave(answer(10, 1))
    next(iter(Consul(f"http://{agent.address}/registry/").watch("orders", threading.Event())))
    assert agent.received[0].target.startswith("/registry/v1/health/service/orders?")


def test_a_token_of_a_file_ends_in_a_newline(agent: Server) -> None:
    agent.behave(answer(10, 1))
    next(iter(Consul(agent.address, token="s3cret\n").watch("orders", threading.Event())))
    assert agent.received[0].headers["x-consul-token"] == "s3cret"
    for wrong in ("s3\ncret", "s3cr\u00e9t", "s3\x00cret"):
        with pytest.raises(ValueError, match="not shown") as caught:
            Consul(agent.address, token=wrong)
        assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [("127.0.0.1", "127.0.0.1:8500"), ("http://a:80", "a:80"), ("a:80", "a:80"), ("https://a", "a:443"),
     ("https://a:443", "a:443"), ("https://a:8501", "a:8501"), ("http://a", "a:8500"), ("[::1]:80", "::1:80")],
)  # fmt: skip
def test_ports_of_the_agent(address: str, shown: str) -> None:
    assert str(Consul(address)) == f"consul at {shown}"


@pytest.mark.parametrize("address", ["http://me:hidden@127.0.0.1:8500", "me:hidden@127.0.0.1", "consul://me:hidden@a"])
def test_an_address_with_a_password_is_refused_unseen(address: str) -> None:
    with pytest.raises(ValueError, match="ACL token") as caught:
        discovery_from_url(address) if address.startswith("consul") else Consul(address)
    assert "hidden" not in str(caught.value)


def test_forgotten_slashes_and_a_token_in_a_base_url() -> None:
    with pytest.raises(ValueError, match="write consul://host:8500"):
        discovery_from_url("consul:host:8500")
    with pytest.raises(ValueError, match="base_url='http://a'") as caught:
        discovery_from_url("http://a?token=hidden")
    assert "hidden" not in str(caught.value)


def test_closing_during_a_tls_handshake_is_quick() -> None:
    listener = socket.create_server(("127.0.0.1", 0))  # accepts, and says nothing
    source = Consul(f"https://127.0.0.1:{listener.getsockname()[1]}", verify=False)
    stop = threading.Event()

    def run() -> None:
        with pytest.raises((OSError, httpx.TransportError)):
            next(iter(source.watch("orders", stop)))

    thread = threading.Thread(target=run)
    thread.start()
    connection, _ = listener.accept()
    connection.recv(10_000)  # its hello
    stop.set()
    source.interrupt(stop)
    began = time.monotonic()
    thread.join(4)
    assert time.monotonic() - began < 1
    connection.close()
    listener.close()


def test_what_a_query_says(agent: Server) -> None:
    agent.behave(answer(10, 1), SILENT)
    settings: dict[str, Any] = {"token": "secret", "dc": "eu", "tag": ["a", "b c"], "near": "_agent", "stale": True,
                                "filter": 'Service.Meta.v == "1"', "wait": 30}  # fmt: skip
    with lists(agent, **settings) as (seen, _):
        until(lambda: bool(seen))
    first = agent.received[0]
    assert first.target.startswith("/v1/health/service/orders?")
    for part in ("passing=1", "dc=eu", "tag=a", "tag=b", "near=_agent", "stale=1", "filter=Service.Meta.v"):
        assert part in first.target
    assert "secret" not in first.target
    assert first.headers["x-consul-token"] == "secret"


def test_the_last_good_list_serves_through_all_of_it(agent: Server, fleet: Callable[..., Any]) -> None:
    servers = fleet(1)
    port = servers[0].port
    agent.behave(answer(10, port), *(bad for name, bad in BAD.items() if name != "silent"), answer(12, port))
    with Client(Consul(agent.address), trust_env=False) as client:
        for _ in range(40):
            assert client.get("http://orders/").status_code == 200
            threading.Event().wait(0.02)


class Line:
    """In place of a connection to an agent."""

    def __init__(self) -> None:
        self.fresh, self.closed, self.reached = True, False, True

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def agents_of(limit: int) -> tuple[Agents, list[Line], list[float]]:
    """So many connections; those that are made; the time, to be set."""
    made, now = list[Line](), [0.0]

    def make() -> Any:
        made.append(Line())
        return made[-1]

    return Agents(make, limit, lambda: now[0]), made, now


def test_connections_that_an_agent_refuses_are_shared_and_tried_again_by_the_minute() -> None:
    agents, made, now = agents_of(28)
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(agents.watching())
        with ExitStack() as first:
            for _ in range(3):
                first.enter_context(agents.one(threading.Event(), blocks=False))
        for _ in range(3):
            stack.enter_context(agents.one(threading.Event(), blocks=True))
        assert [agents.wait(55.0, before) for before in range(5)] == [7.0, 14.0, 28.0, 55.0, 55.0]
        with pytest.raises(httpx.ReadError), agents.one(threading.Event(), blocks=False):
            raise httpx.ReadError("reset")
        # Three are all that can be had: two to block, and one for first lists.
        assert agents.blocking.limit == 2
        assert agents.brief.limit == 1
        assert agents.wait(55.0, 10) == TURN == 7.0
    assert all(one.closed for one in made)
    for minute in range(1, 30):
        now[0] = 61.0 * minute  # a refusal at the beginning, and one try a minute
        with agents.watching(), agents.one(threading.Event(), blocks=True):
            pass
        assert agents.blocking.limit == min(20, 2 + minute)
    assert agents.brief.limit == RESERVE
    assert agents.opened == 0


def test_an_agent_that_goes_is_no_agent_that_refuses() -> None:
    agents = Agents(lambda: Line(), 28)  # type: ignore[arg-type,return-value]
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(agents.watching())
        for _ in range(2):
            with agents.one(threading.Event(), blocks=False):
                pass
        stack.enter_context(agents.one(threading.Event(), blocks=True))
        with pytest.raises(httpx.ReadError), agents.one(threading.Event(), blocks=False) as agent:
            agent.fresh = False  # it has answered before
            raise httpx.ReadError("reset")
        assert agents.blocking.limit == 20
        stop = threading.Event()
        stop.set()
        with pytest.raises(ConnectionError, match="stopped"), agents.one(stop, blocks=True):
            pass
        assert agents.blocking.taken == 1


def test_refusals_are_known_within_the_handshake_and_all_places_come_back() -> None:
    agents, lines, now = agents_of(4)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(agents.watching())
        with ExitStack() as first:
            for _ in range(2):
                first.enter_context(agents.one(threading.Event(), blocks=False))
        for _ in range(2):
            stack.enter_context(agents.one(threading.Event(), blocks=True))
        for reached, brief in ((False, 2), (True, 1)):
            with pytest.raises(httpx.ConnectError), agents.one(threading.Event(), blocks=False):
                lines[-1].reached = reached
                raise httpx.ConnectError("reset")
            assert agents.brief.limit == brief
        now[0] = 61.0
        with agents.one(threading.Event(), blocks=False):
            pass
        assert (agents.brief.limit, agents.blocking.limit) == (2, 2)


def test_several_datacenters_of_named_services_that_cannot_be_reached_are_no_empty_list() -> None:
    source = discovery_from_url("consul://127.0.0.1:1?dc=a&dc=b&services=orders.eu")
    assert source.covers("orders.eu")
    with pytest.raises(ConnectionError):
        next(iter(source.watch("orders.eu", threading.Event())))


def test_a_forked_child_does_not_wait_for_its_parents_locks() -> None:
    source = Consul("127.0.0.1:1")
    with source.agents.lock:
        in_child(lambda: source.interrupt(threading.Event()))
