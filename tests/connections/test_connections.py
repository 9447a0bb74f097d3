"""The connections of a node: which are kept, which may be used again, and by whose fault one failed."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx
import pytest
import trustme
from driving import Driver, until
from h2.settings import SettingCodes, Settings
from h2_script import H2Script, Peer, h2_script
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, SettingsFrame
from hypothesis import given
from hypothesis import strategies as st
from inside import balanced_of, body_of, dialing_of, places_of, pool_of, service_of

from smartclient import Client, DeadlineExceeded, HealthCheck, Instance, NodeEjected, Policy, Retry, report
from smartclient.connections.frames import Frames
from smartclient.flavour import CERTIFICATE, EXHAUSTED, HTTPX, LOCAL, NEVER_CONNECTED
from smartclient.testing import VirtualClock

URL = "http://orders/v1/items"


# ---- idle connections ----


def left_open(server: Any, state: str = "01") -> int:
    """Connections of this process to that server in a state of the kernel's ("01": established, "08": CLOSE_WAIT)."""
    remote = f":{server.port:04X}"
    ours = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            ours.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass
    with open("/proc/net/tcp") as table:
        lines = [line.split() for line in table.readlines()[1:]]
    return sum(line[2].endswith(remote) and line[3] == state and f"socket:[{line[9]}]" in ours for line in lines)


def several_at_once(client: Any, count: int, **keywords: Any) -> None:
    responses = [client.open("GET", URL, **keywords) for _ in range(count)]
    for response in responses:
        client.read(response)


def ticking(driver: Driver, addresses: Any, expiry: float | None = 5.0, **more: Any) -> Any:
    clock = VirtualClock()
    limits = driver.httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=expiry)
    return clock, driver.transport({"orders": addresses}, clock=clock, limits=limits, **more)


def test_surplus_connections_grow_old(driver: Any, fleet: Any) -> None:
    """urllib3#2100: a stack never looks at its bottom; httpx keeps one of twenty."""
    servers = fleet(1)
    clock, made = ticking(driver, servers.addresses, expiry=1.0)
    with made as client:
        several_at_once(client, 20)
        assert servers.open == 20
        for _ in range(6):
            clock.advance(0.3)
            client.get(URL)
        until(lambda: servers.open == 1)


@pytest.mark.parametrize("expiry", [1.0, None])
def test_connections_that_ended_go_on_nodes_without_calls_too(driver: Any, fleet: Any, expiry: float | None) -> None:
    """httpcore closes them in each pass of its pool; so does a call to any node."""
    servers = fleet(2)
    instances = [Instance("127.0.0.1", server.port, metadata={"n": str(n)}) for n, server in enumerate(servers.servers)]
    policy = Policy(require=lambda request: {"n": request.headers["n"]})
    clock, made = ticking(driver, instances, expiry, policy=policy)
    with made as client:
        several_at_once(client, 5, headers={"n": "1"})
        several_at_once(client, 5, headers={"n": "0"})
        if expiry is None:  # their servers close them
            servers[1].drop_connections()
            until(lambda: left_open(servers[1], "08") == 5)
        clock.advance(2.0)
        client.get(URL, headers={"n": "0"})
        until(lambda: left_open(servers[1]) + left_open(servers[1], "08") == 0)
        assert left_open(servers[0]) == (1 if expiry else 5)


def test_a_call_looks_at_a_few_connections_of_a_large_fleet(driver: Any) -> None:
    from smartclient.connections.idle import AT_ONCE, Idle, Sweep

    class Quiet:
        idle_since = 0.0

        def ended(self) -> bool:
            looks.append(self)
            return False

    looks: list[Any] = []
    sweep = Sweep()
    stacks = [Idle(None, None, None, sweep) for _ in range(500)]
    for stack in stacks:
        stack.put(Quiet())  # type: ignore[arg-type]
    rounds = 0
    while sweep.due < 0:
        before = len(looks)
        sweep.inspect(0.0)
        assert len(looks) - before <= AT_ONCE
        rounds += 1
    assert set(map(id, looks)) == {id(link) for stack in stacks for link in stack.links}
    assert rounds > 5


# ---- bytes that belong to nobody ----


class Script:
    """A server of bytes: answers each request by its path. tls: a server's context"""

    def __init__(self, answers: dict[bytes, bytes], tls: ssl.SSLContext | None = None) -> None:
        self._answers, self._tls = answers, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self._threads = [threading.Thread(target=self._run)]
        self._threads[0].start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, raw: socket.socket) -> None:
        try:
            raw.settimeout(5)
            with self._tls.wrap_socket(raw, server_side=True) if self._tls else raw as connection:
                while data := connection.recv(65536):
                    connection.sendall(self._answers[data.split(b" ", 2)[1]])
        except OSError:
            pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(6)


@contextmanager
def certified(name: str = "orders") -> Iterator[tuple[ssl.SSLContext, ssl.SSLContext]]:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert(name).configure_cert(server)
    authority.configure_trust(client)
    yield server, client


OF_A = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"
OF_B = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb"
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nX"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", OF_A + POISON),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + POISON),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 49\r\n\r\n" + POISON),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n" + POISON),
        ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n" + POISON),
        ("GET", b"HTTP/1.1 103 Early Hints\r\n\r\n" + OF_A + POISON),
        ("GET", OF_A + b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("GET", OF_A + b"\r\n"),
        ("GET", OF_A + POISON[:20]),
    ],
)
def test_an_answer_that_came_before_its_question_is_nobody_s(
    driver: Any, method: str, answer: bytes, tls: bool
) -> None:
    """aiohttp#13656, httpx#1474: response desynchronisation. The next call, a POST, got the second answer."""
    with certified() as (served, trusted):
        server = Script({b"/a": answer, b"/b": OF_B}, served if tls else None)
        scheme = "https" if tls else "http"
        try:
            with driver.client({"orders": [server.address]}, verify=trusted, policy=Policy(retry=None)) as client:
                client.request(method, f"{scheme}://orders/a")
                assert client.post(f"{scheme}://orders/b").text == "b"
                assert client.get(f"{scheme}://orders/b").text == "b"
            assert server.connections == 2
        finally:
            server.close()


# ---- HTTP/2 ----


def over_h2(driver: Any, *scripts: H2Script, **keywords: Any) -> Any:
    policy = keywords.pop("policy", None) or Policy("round_robin", retry=Retry(attempts=5, budget=None))
    return driver.client(
        {"orders": [script.address for script in scripts]}, http1=False, http2=True, policy=policy, **keywords
    )


def at_once(client: Any, method: str, paths: list[str], width: int, **keywords: Any) -> list[Any]:
    """Make calls, so many at a time; their responses or errors."""
    left, results = iter(paths), []

    def one_by_one() -> None:
        for path in left:
            try:
                results.append(client.client.request(method, f"http://orders{path}", **keywords))
            except Exception as error:
                results.append(error)

    async def one_by_one_async() -> None:
        for path in left:
            try:
                results.append(await client.client.request(method, f"http://orders{path}", **keywords))
            except Exception as error:
                results.append(error)

    async def all_of_them() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(width):
                group.start_soon(one_by_one_async)

    if client.driver.asynchronous:
        client.driver.run(all_of_them)
    else:
        threads = [threading.Thread(target=one_by_one) for _ in range(width)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return results


def graceful(peer: Peer, stream: int, path: str) -> None:
    """After its 20th stream the server takes no more, and answers what it has taken."""
    if stream == 39:
        peer.goaway(39)
    if stream < 40:
        peer.later(0.003, peer.answer, stream)


def graceful_in_two_steps(peer: Peer, stream: int, path: str) -> None:
    """RFC 9113 §6.8: first a warning, then which streams were taken."""
    if stream == 29:
        peer.goaway(2**31 - 1)
        peer.later(0.005, peer.goaway, 39)
    if stream < 40:
        peer.later(0.003, peer.answer, stream)


def refusing(peer: Peer, stream: int, path: str) -> None:
    """Each third request, the first time it comes."""
    seen = peer.script.__dict__.setdefault("seen", set())
    if path not in seen and int(path[1:]) % 3 == 0:
        seen.add(path)
        peer.refuse(stream)
    else:
        peer.later(0.003, peer.answer, stream)


def goaway_with_the_answers(peer: Peer, stream: int, path: str) -> None:
    """The frames come in one piece: h2 would see the end before the answers."""
    if stream < 40:
        if stream == 39:
            peer.goaway(39)
        peer.answer(stream)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("plan", [graceful, graceful_in_two_steps, refusing, goaway_with_the_answers])
def test_what_a_server_did_not_take_is_sent_again(driver: Any, plan: Any, method: str) -> None:
    """pydantic/httpx2#849: 2-8 % of GETs failed with LocalProtocolError when a server said GOAWAY."""
    paths = [f"/{number}" for number in range(150)]
    events: list[Any] = []
    with h2_script(plan) as one, h2_script(plan) as two:
        with over_h2(driver, one, two, observers=[events.append]) as client:
            results = at_once(client, method, paths, 20)
            assert [getattr(result, "status_code", result) for result in results] == [200] * 150
            assert all(node.in_flight == 0 for node in client.nodes())
        done = one.done + two.done
    assert set(done.values()) == {1}  # a POST that was answered is not done twice
    assert not [event for event in events if isinstance(event, NodeEjected)]


def test_a_request_that_was_taken_and_not_answered_is_not_repeated_unless_it_may_be(driver: Any) -> None:
    def plan(peer: Peer, stream: int, path: str) -> None:
        peer.goaway(stream)
        peer.later(0.01, peer.close)

    with h2_script(plan) as script:
        with over_h2(driver, script, policy=Policy(retry=Retry(attempts=2, budget=None))) as client:
            for method, attempts in (("POST", 1), ("GET", 2)):
                with pytest.raises(driver.httpx.RemoteProtocolError) as caught:
                    client.request(method, URL)
                assert len(report(caught.value).attempts) == attempts


def test_frames_that_break_the_rules_are_the_servers_fault(driver: Any) -> None:
    """httpcore says LocalProtocolError: our request was bad."""

    def plan(peer: Peer, stream: int, path: str) -> None:
        peer.write(DataFrame(stream, b"data before any headers"))

    def well(peer: Peer, stream: int, path: str) -> None:
        peer.answer(stream)

    with h2_script(plan) as bad, h2_script(well) as good:
        with over_h2(driver, bad, good) as client:
            responses = [client.get(URL) for _ in range(2)]
            assert [response.status_code for response in responses] == [200, 200]
            [first] = [report(one).attempts[0] for one in responses if len(report(one).attempts) == 2]
            assert (first.outcome, first.error.partition(":")[0]) == ("failure", "RemoteProtocolError")


def test_our_own_bad_request_is_ours_over_http2_too(driver: Any) -> None:
    with h2_script(lambda peer, stream, path: peer.answer(stream)) as script:
        with over_h2(driver, script) as client:
            client.get(URL)
            with pytest.raises(driver.httpx.LocalProtocolError) as caught:
                client.get(URL, headers={"te": "gzip"})  # h2 refuses it (RFC 9113 §8.2.2)
            assert [attempt.outcome for attempt in report(caught.value).attempts] == ["abandoned"]
            assert client.get(URL).status_code == 200


def test_more_requests_than_a_connection_takes_open_another(driver: Any) -> None:
    answered: Counter[Peer] = Counter()
    most_open = 0

    def plan(peer: Peer, stream: int, path: str) -> None:
        nonlocal most_open
        most_open = max(most_open, len(peer.requests) - answered[peer])
        peer.later(0.05, answer, peer, stream)

    def answer(peer: Peer, stream: int) -> None:
        answered[peer] += 1
        peer.answer(stream)

    with h2_script(plan) as script:
        original = Peer.connection_made

        def few(self: Peer, transport: Any) -> None:
            # (Set afterwards it would be enforced, and not announced.)
            limit = {SettingCodes.MAX_CONCURRENT_STREAMS: 5}
            self.state.local_settings = Settings(client=False, initial_values=limit)
            original(self, transport)

        Peer.connection_made = few  # type: ignore[method-assign]
        try:
            with over_h2(driver, script) as client:
                client.get(URL)
                results = at_once(client, "GET", [f"/{n}" for n in range(20)], 20)
                assert [getattr(result, "status_code", result) for result in results] == [200] * 20
            assert sum(len(peer.requests) for peer in script.peers) == 21
            assert len(script.peers) > 1
            assert most_open <= 5
        finally:
            Peer.connection_made = original  # type: ignore[method-assign]


@pytest.fixture(params=["asyncio", "trio"])
def looped(request: Any) -> Iterator[Driver]:
    from driving import driver_of

    with driver_of(request.param, "httpx") as made:
        yield made


def test_a_request_that_is_given_up_is_told_to_the_server(looped: Any) -> None:
    """httpcore forgets it: the server goes on, and h2 counts the stream for ever; after a hundred of them
    `LocalProtocolError` comes of every call.
    """

    def plan(peer: Peer, stream: int, path: str) -> None:
        if path == "/quick":
            peer.answer(stream)

    async def given_up(client: Any) -> None:
        with anyio.move_on_after(0.001):
            await client.get("http://orders/never")

    async def many(client: Any) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(given_up, client)

    with h2_script(plan) as script:
        with over_h2(looped, script) as client:
            client.get("http://orders/quick")
            for _ in range(4):
                looped.run(many, client.client)
            assert client.get("http://orders/quick").status_code == 200
            assert len(script.peers) == 1
            until(lambda: set(script.peers[0].reset) >= set(script.peers[0].requests[1:-1]))


def test_the_time_of_one_request_is_not_that_of_its_neighbours(looped: Any) -> None:
    """httpcore ends a connection for all when the one who reads for all runs out of time."""

    def plan(peer: Peer, stream: int, path: str) -> None:
        peer.later(0.3, peer.answer, stream)

    async def both(client: Any) -> list[Any]:
        results: list[Any] = []

        async def get(path: str, timeout: float) -> None:
            try:
                results.append(await client.get(f"http://orders{path}", timeout=timeout))
            except Exception as error:
                results.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(get, "/impatient", 0.1)
            await anyio.sleep(0.02)
            group.start_soon(get, "/patient", 5)
        return results

    with h2_script(plan) as script:
        with over_h2(looped, script, policy=Policy(retry=None)) as client:
            first, second = looped.run(both, client.client)
            assert isinstance(first, looped.httpx.ReadTimeout)
            assert second.status_code == 200
            assert len(script.peers) == 1


def test_a_body_that_stops_is_timed_by_its_own_stream(looped: Any) -> None:
    def plan(peer: Peer, stream: int, path: str) -> None:
        peer.answer(stream, end=path != "/stops")

    with h2_script(plan) as script:
        with over_h2(looped, script, policy=Policy(retry=None)) as client:
            with pytest.raises(looped.httpx.ReadTimeout):
                client.get("http://orders/stops", timeout=0.1)
            assert client.get("http://orders/").status_code == 200


def test_a_deadline_holds_for_threads_over_http2() -> None:
    """One who waits for its answer while another reads from the same connection waited as long as that one: so blocking
    calls have connections of their own.
    """

    def plan(peer: Peer, stream: int, path: str) -> None:
        peer.later(2.0 if path == "/slow" else 0.9, peer.answer, stream)

    with h2_script(plan) as script:
        policy = Policy(retry=None)
        with Client({"orders": [script.address]}, http1=False, http2=True, policy=policy, trust_env=False) as client:
            thread = threading.Thread(target=client.get, args=("http://orders/slow",))
            thread.start()
            time.sleep(0.1)
            from smartclient import call

            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                client.get("http://orders/quick", extensions=call(deadline=0.3))
            assert time.monotonic() - began < 0.6
            thread.join()


@given(
    st.lists(st.integers(1, 40), max_size=8),
    st.integers(0, 30).map(lambda n: 2 * n + 1),
    st.integers(0, 40),
    st.lists(st.sampled_from(["data", "settings", "goaway"]), max_size=8),
)
def test_frames_pass_whole_however_they_are_cut(cuts: list[int], highest: int, last: int, kinds: list[str]) -> None:
    frames = Frames()
    frames.outbound(HeadersFrame(highest, b"").serialize())
    sent, expected = b"", []
    for kind in kinds:
        if kind == "data":
            frame: Any = DataFrame(1, b"x" * 30)
            expected.append(frame.serialize())
        elif kind == "settings":
            frame = SettingsFrame(settings={3: 7})
            expected.append(frame.serialize())
        else:
            frame = GoAwayFrame(last_stream_id=last)
        sent += frame.serialize()
    passed, at = b"", 0
    for cut in [*cuts, len(sent)]:
        passed += frames.inbound(sent[at : at + cut]) if sent[at : at + cut] else b""
        at += cut
    plain, resets, at = [], [], 0
    while at < len(passed):
        length = int.from_bytes(passed[at : at + 3], "big")
        frame = passed[at : at + 9 + length]
        (resets if frame[3] == 3 else plain).append(frame)
        at += 9 + length
    assert plain == expected
    above = [stream for stream in range(1, highest + 1, 2) if stream > last] if "goaway" in kinds else []
    assert [int.from_bytes(reset[5:9], "big") for reset in resets] == above
    assert frames.open is ("goaway" not in kinds)
    assert frames.streams == (7 if "settings" in kinds else 100)


# ---- reaching an address ----


@contextmanager
def mute() -> Iterator[str]:
    """An address that answers no connection: its queue is full."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    host, port = listener.getsockname()
    fill = []
    for _ in range(4):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex((host, port))
        fill.append(one)
    try:
        yield f"{host}:{port}"
    finally:
        for one in (listener, *fill):
            one.close()


@pytest.mark.parametrize("policy", [Policy(deadline=2.0, retry=None), Policy(attempt_timeout=2.0, retry=None)])
def test_a_silent_first_address_leaves_time_for_the_second(
    driver: Any, fleet: Any, monkeypatch: Any, policy: Policy
) -> None:
    """urllib3#1641, aiohttp#10314: with a deadline as without, addresses are tried in the resolver's order."""
    real = socket.getaddrinfo
    server = fleet(1)[0]
    with mute() as silent:
        host, _, port = silent.partition(":")
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, int(port))),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port)),
        ]

        def resolved(host: Any, wanted: Any, *rest: Any, **more: Any) -> Any:
            return found if host in ("a.example", b"a.example") else real(host, wanted, *rest, **more)

        monkeypatch.setattr(socket, "getaddrinfo", resolved)
        with driver.client({"orders": [f"a.example:{server.port}"]}, policy=policy) as client:
            began = time.monotonic()
            assert client.get(URL).status_code == 200
            assert time.monotonic() - began < 1.8


ZONE = """
    import socket, smartclient, sys
    from smartclient.testing import Fleet
    server = socket.create_server(("::", 0), family=socket.AF_INET6)
    address = f"[fe80::1%lo]:{server.getsockname()[1]}"
    for deadline in (None, 2):
        policy = smartclient.Policy(deadline=deadline, retry=None, host_header="instance")
        with smartclient.Client({"orders": [address]}, policy=policy, timeout=0.5, trust_env=False) as client:
            try:
                client.get("http://orders/")
            except Exception as error:
                print(type(error).__name__)
        connection, _ = server.accept()
        print(connection.recv(1000).split(b"\\r\\n")[1].split(b":", 1)[1].strip().partition(b"]:")[0].decode())
"""


def test_a_zone_is_for_the_socket_and_in_no_header() -> None:
    command = 'ip link set lo up; ip addr add fe80::1/64 dev lo nodad; exec $0 -c "$1"'
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-c", command, sys.executable, textwrap.dedent(ZONE)], capture_output=True, text=True
    )
    assert done.stdout.split() == ["ReadTimeout", "[fe80::1"] * 2, done.stderr


CHATTERING = (
    "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
    "while True:\n"
    "    c, _ = s.accept(); ends_at = time.time() + 3\n"
    "    try:\n"
    "        while time.time() < ends_at: c.sendall({!r} * 500)\n"
    "    except OSError: pass\n"
)


@pytest.mark.parametrize(
    "bytes_", [b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["103", "100"]
)
@pytest.mark.parametrize("policy", [Policy(deadline=0.5, retry=None), Policy(attempt_timeout=0.5, retry=None)])
def test_a_peer_that_always_has_something_to_say_meets_its_deadline(driver: Any, bytes_: bytes, policy: Policy) -> None:
    """okhttp#7936: each read was given a millisecond more, 5.2 s for a deadline of 0.5."""
    process = subprocess.Popen([sys.executable, "-c", CHATTERING.format(bytes_)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        with driver.client({"orders": [f"127.0.0.1:{port}"]}, policy=policy) as client:
            began = time.monotonic()
            with pytest.raises(driver.httpx.TimeoutException):
                client.get(URL)
            assert time.monotonic() - began < 1.5
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# ---- trouble of our own ----

USED_UP = """
    import asyncio, os, resource, sys, time
    import encodings.idna, httpx
    import smartclient
    from smartclient import Client, AsyncClient, NodeEjected, Policy
    from smartclient.testing import Fleet

    kind = sys.argv[1]
    events, listed, failed = [], [], []
    with Fleet(4) as fleet:
        listed = fleet.addresses[:2] if kind != "alone" else fleet.addresses

        async def run(client, calls):
            for _ in range(calls):
                try:
                    got = client.get("http://orders/")
                    if not isinstance(client, Client):
                        await got
                except httpx.ConnectError as error:
                    failed.append(str(error))
                except BaseException as error:
                    failed.append(repr(error))

        async def main():
            cls = AsyncClient if kind == "async" else Client
            client = cls(lambda name: listed, policy=Policy("round_robin"), observers=[events.append])
            if kind != "alone":
                await run(client, 4)
                globals()["listed"] = fleet.addresses
                client.refresh()
                await asyncio.sleep(0.3)
            else:
                transport = client._balanced
                transport._services.get("orders")
                await asyncio.sleep(0.2)
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
            taken = []
            try:
                while True:
                    taken.append(os.open("/dev/null", 0))
            except OSError:
                pass
            await run(client, 60 if kind != "alone" else 3)
            for number in taken:
                os.close(number)

        asyncio.run(main())
    attempts = [event for event in events if isinstance(event, smartclient.AttemptFinished)]
    print(len([event for event in events if isinstance(event, NodeEjected)]), len(failed), len(attempts), failed[:1])
    os._exit(0)
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_without_descriptors_calls_go_where_connections_are(kind: str) -> None:
    """aiohttp#2094: EMFILE is trouble of our own. Nobody is ejected, and nodes that are connected serve."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(USED_UP), kind], capture_output=True, text=True, timeout=60
    )
    ejected, failed = done.stdout.split()[:2]
    assert (ejected, failed) == ("0", "0"), done.stdout + done.stderr


def test_without_descriptors_and_connections_one_attempt_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(USED_UP), "alone"], capture_output=True, text=True, timeout=60
    )
    ejected, failed, attempts, *error = done.stdout.split()
    assert (ejected, failed, attempts) == ("0", "3", "3"), done.stdout + done.stderr
    assert "Too many open files" in " ".join(error)


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (OSError(errno.EMFILE, "x"), EXHAUSTED),
        (OSError(errno.ENFILE, "x"), EXHAUSTED),
        (OSError(errno.EADDRNOTAVAIL, "x"), EXHAUSTED),
        (OSError(errno.ENOBUFS, "x"), EXHAUSTED),
        (OSError(errno.ENOMEM, "x"), EXHAUSTED),
        (RuntimeError("can't start new thread"), EXHAUSTED),
        (OSError(errno.ECONNREFUSED, "x"), NEVER_CONNECTED),
        (OSError(errno.EHOSTUNREACH, "x"), NEVER_CONNECTED),
        (UnicodeError("x"), NEVER_CONNECTED),
        (ssl.SSLCertVerificationError("x"), CERTIFICATE),
    ],
    ids=repr,
)
def test_whose_fault_it_is_that_nothing_is_connected(cause: Exception, expected: Any) -> None:
    error = HTTPX.translated(cause, connected=False)
    assert isinstance(error, httpx.ConnectError)
    assert HTTPX.fault(error) is expected
    grouped = OSError("All connection attempts failed")  # as anyio says it
    grouped.__cause__ = cause
    assert HTTPX.fault(HTTPX.translated(grouped, connected=False)) is expected


def test_no_buffers_while_sending_is_nobody_s_fault_either() -> None:
    error = httpx.WriteError("x")
    error.__cause__ = OSError(errno.ENOBUFS, "x")
    assert HTTPX.fault(error) is LOCAL


def test_tls_that_cannot_be_set_up_is_our_trouble(driver: Any, fleet: Any, monkeypatch: Any, tmp_path: Any) -> None:
    """A file of certificates that is gone, found out at the first call."""
    certificates = tmp_path / "gone.pem"
    trustme.CA().cert_pem.write_to_path(certificates)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates))
    servers = fleet(2)
    with driver.client({"orders": servers.addresses}, trust_env=True) as client:
        certificates.unlink()
        for _ in range(8):
            with pytest.raises(driver.httpx.ConnectError, match="TLS cannot be set up") as caught:
                client.get("https://orders/")
            assert [attempt.outcome for attempt in report(caught.value).attempts] == ["abandoned"]
        assert client.get(URL).status_code == 200


def test_a_socket_is_shut_down_while_tls_is_agreed_without_another_descriptor(fleet: Any) -> None:
    """`dup` failed with a bare OSError where descriptors were used up, and left the socket open."""
    made: list[Any] = []
    original = socket.socket.dup

    def dup(self: Any) -> Any:
        made.append(self)
        return original(self)

    with certified() as (served, trusted), pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "dup", dup)
        servers = fleet(1, tls=served)
        with Client({"orders": servers.addresses}, verify=trusted, trust_env=False) as client:
            assert client.get("https://orders/").status_code == 200
    assert not made


@pytest.mark.parametrize("error", [UnicodeError("x"), OverflowError("x"), OSError("x"), socket.gaierror(-2, "x")])
def test_an_address_that_breaks_the_resolver_costs_its_own_attempts_only(
    driver: Any, fleet: Any, monkeypatch: Any, error: Exception
) -> None:
    """psf/requests#5367: whatever the socket's layer raises is an httpx exception, and another instance is asked."""
    real = socket.getaddrinfo
    servers = fleet(1)

    def resolved(host: Any, *rest: Any, **more: Any) -> Any:
        if host in ("bad.example", b"bad.example"):
            raise error
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    addresses = ["bad.example:80", servers[0].address]
    with driver.client({"orders": addresses}, policy=Policy("round_robin", outlier=None)) as client:
        assert [client.post(URL, content=b"x").status_code for _ in range(4)] == [200] * 4
    with driver.client({"orders": addresses[:1]}, policy=Policy(retry=None)) as client:
        with pytest.raises(driver.httpx.ConnectError):
            client.get(URL)


# ---- names ----


@pytest.mark.parametrize("listed", ["bücher", "xn--bcher-kva", "BÜCHER", "Xn--Bcher-Kva."])
@pytest.mark.parametrize("asked", ["bücher", "xn--bcher-kva", "BÜCHER"])
def test_international_names_are_found_by_either_spelling(driver: Any, fleet: Any, listed: str, asked: str) -> None:
    servers = fleet(1)
    with driver.client({listed: servers.addresses}, policies={listed: Policy(retry=None)}) as client:
        assert client.get(f"http://{asked}/").status_code == 200
        assert client.service("xn--bcher-kva").policy.retry is None
    assert servers.received[0].headers["host"] == "xn--bcher-kva"


def test_the_certificate_is_that_of_the_a_label(driver: Any, fleet: Any) -> None:
    """httpx#150: Python's ssl encodes by IDNA 2003, which makes "fass" of "faß", a domain of somebody else."""
    for name, well in (("fass.example", False), ("faß.example", True)):
        with certified(name) as (served, trusted):
            servers = fleet(1, tls=served)
            policy = Policy(health_check=HealthCheck(path="/", interval=60))
            with driver.client({"faß.example": servers.addresses}, verify=trusted, policy=policy) as client:
                if well:
                    assert client.get("https://faß.example/").status_code == 200
                    until(lambda: len(servers.received) > 1)  # noqa: B023
                else:
                    with pytest.raises(driver.httpx.ConnectError, match="xn--fa-hia"):
                        client.get("https://faß.example/")
            assert {request.headers["host"] for request in servers.received} <= {"xn--fa-hia.example"}


def test_an_instance_has_a_wire_name() -> None:
    assert Instance("Bücher.example", 80).host == "xn--bcher-kva.example"
    assert Instance.parse("https://faß.example:8443").host == "xn--fa-hia.example"


# ---- WebSockets ----


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_websockets_of_a_service_are_balanced(driver: Any, fleet: Any, scheme: str) -> None:
    servers = fleet(2)
    with driver.client({"orders": servers.addresses}, policy=Policy("round_robin")) as client:
        for _ in range(4):
            assert client.get(f"{scheme}://orders/").status_code == 200
    assert all(server.received for server in servers.servers)


def test_wss_is_tls(driver: Any, fleet: Any) -> None:
    with certified() as (served, trusted):
        servers = fleet(1, tls=served)
        with driver.client({"orders": servers.addresses}, verify=trusted) as client:
            assert client.get("wss://orders/").status_code == 200


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_httpx_ws(scheme: str) -> None:
    """The package people use for WebSockets over httpx, against a real server of wsproto's."""
    httpx_ws = pytest.importorskip("httpx_ws")
    wsproto = pytest.importorskip("wsproto")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            ws = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
            while data := connection.recv(65536):
                ws.receive_data(data)
                for event in ws.events():
                    if isinstance(event, wsproto.events.Request):
                        connection.sendall(ws.send(wsproto.events.AcceptConnection()))
                    elif isinstance(event, wsproto.events.TextMessage):
                        connection.sendall(ws.send(wsproto.events.TextMessage(data=event.data.upper())))
                    elif isinstance(event, wsproto.events.CloseConnection):
                        connection.sendall(ws.send(event.response()))
                        return

    thread = threading.Thread(target=serve)
    thread.start()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    with Client({"orders": [address]}, trust_env=False) as client:
        with httpx_ws.connect_ws(f"{scheme}://orders/ws", client) as ws:
            ws.send_text("hello")
            assert ws.receive_text() == "HELLO"
        nodes: Any = balanced_of(client)
        assert all(node.in_flight == 0 for node in service_of(nodes).nodes)
    thread.join()
    listener.close()


# ---- ends ----


def test_ctrl_c_while_a_body_is_closed_finishes_its_attempt(fleet: Any) -> None:
    servers = fleet(1)
    with Client({"orders": servers.addresses}, trust_env=False) as client:
        transport: Any = balanced_of(client)
        for step in ("raw", "give_back"):
            with client.stream("GET", URL) as response:
                body = body_of(response)

                def interrupted(*args: Any) -> None:
                    raise KeyboardInterrupt

                if step == "raw":
                    body.raw.close = interrupted
                else:
                    pool_of(body).give_back = interrupted
                with pytest.raises(KeyboardInterrupt):
                    response.close()
                pool_of(body).__dict__.pop("give_back", None)
            [node] = service_of(transport).nodes
            assert node.in_flight == 0
            assert places_of(transport).taken == 0
    until(lambda: servers.open == 0)


def test_what_cannot_be_closed_leaves_the_rest_closed(driver: Any, fleet: Any) -> None:
    servers = fleet(3)
    client = (driver.names.AsyncClient if driver.asynchronous else driver.names.Client)(
        {"orders": servers.addresses}, policy=Policy("round_robin"), trust_env=False
    )
    for _ in range(3):
        driver.run(client.get, URL)
    balanced = balanced_of(client)
    open_ones = [driver.run(client.send, client.build_request("GET", URL), stream=True) for _ in range(3)]

    def broken(thing: Any) -> None:
        """It does close, and says that it cannot."""
        close, aclose = thing.close if hasattr(thing, "close") else None, getattr(thing, "aclose", None)

        def fail() -> None:
            close()
            raise RuntimeError("cannot be closed")

        async def afail() -> None:
            await aclose()
            raise RuntimeError("cannot be closed")

        if close is not None:
            thing.close = fail
        if aclose is not None:
            thing.aclose = afail

    nodes = service_of(balanced).nodes
    broken(nodes[0].connections)
    broken(dialing_of(balanced).active[body_of(open_ones[0]).attempt].http)
    driver.run(client.aclose if driver.asynchronous else client.close)
    until(lambda: servers.open == 0)
    assert all(node.in_flight == 0 for node in nodes)
    del open_ones


LOOPS = """
    import asyncio, resource, warnings
    import smartclient
    from smartclient.testing import Fleet
    warnings.simplefilter("error")
    import gc, os
    gc.disable()
    with Fleet(3) as fleet:
        resource.setrlimit(resource.RLIMIT_NOFILE, (480, 480))
        client = smartclient.AsyncClient({"orders": fleet.addresses}, trust_env=False)
        before = len(os.listdir("/proc/self/fd"))

        async def main():
            async def get():
                assert (await client.get("http://orders/")).status_code == 200
            await asyncio.gather(*(get() for _ in range(60)))

        for turn in range(10):
            asyncio.run(main())
        async def count():
            await client.get("http://orders/")
            return sum(server.open for server in fleet.servers)
        print(asyncio.run(count()))
        asyncio.run(client.aclose())
"""


def test_connections_of_loops_that_ended_are_closed() -> None:
    """Ten times `asyncio.run`, sixty calls each: their descriptors were kept until a collection."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(LOOPS)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 10
    assert "unclosed" not in done.stderr
