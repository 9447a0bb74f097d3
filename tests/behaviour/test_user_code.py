"""Code of the user's that raises, and things of the user's that are odd: neither may break a call or leak."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import pytest
from driving import in_child, until
from inside import places_of

from smartclient import AsyncClient, Balancer, Client, Instance, NoInstances, Policy, Static, report
from smartclient.connections.link import Link
from smartclient.testing import FAILING, TRUNCATING, Behaviour, Fleet, ScriptedDiscovery

URL = "http://orders/"


def connecting(driver: Any, close: Callable[[], None]) -> Any:
    """A `connect=` whose transports answer 200 and are closed by that."""

    class Transport(driver.httpx.MockTransport):  # type: ignore[misc,name-defined]
        def close(self) -> None:
            close()

        async def aclose(self) -> None:
            close()

    return lambda instance: Transport(lambda request: driver.httpx.Response(200, text=str(instance)))


def test_a_transport_that_cannot_be_closed_harms_nobody(driver: Any) -> None:
    def close() -> None:
        raise OSError("no")

    source = ScriptedDiscovery({"orders": ["10.0.0.1:80"]})
    with driver.client(source, policy=Policy("round_robin"), connect=connecting(driver, close)) as client:
        assert client.get(URL).text == "10.0.0.1:80"
        source.publish("orders", ["10.0.0.2:80", "10.0.0.3:80"])
        until(lambda: len(client.nodes()) == 2)
        until(lambda: client.get(URL).text != "10.0.0.1:80")
        assert {client.get(URL).text for _ in range(9)} == {"10.0.0.2:80", "10.0.0.3:80"}


def test_a_slow_picker_delays_no_call(driver: Any) -> None:
    building, release = threading.Event(), threading.Event()

    @dataclass(frozen=True)
    class Slow(Balancer):
        def picker(self, nodes: Any, rng: Any) -> Any:
            if nodes[0].instance.host != "10.0.0.1":
                building.set()
                release.wait(10)
            return lambda call: nodes[0]

    source = ScriptedDiscovery({"orders": ["10.0.0.1:80"]})
    with driver.client(source, policy=Policy(Slow()), connect=connecting(driver, lambda: None)) as client:
        try:
            assert client.get(URL).text == "10.0.0.1:80"
            source.publish("orders", ["10.0.0.2:80"])
            assert building.wait(5)
            assert client.get(URL).text == "10.0.0.2:80"  # while the picker is still being made
        finally:
            release.set()


def test_a_picker_that_cannot_be_made_is_said_and_made_up_for(driver: Any, caplog: Any) -> None:
    @dataclass(frozen=True)
    class Fragile(Balancer):
        def picker(self, nodes: Any, rng: Any) -> Any:
            if len(nodes) > 1:
                raise ZeroDivisionError
            return lambda call: nodes[0]

    source = ScriptedDiscovery({"orders": ["10.0.0.1:80"]})
    with driver.client(source, policy=Policy(Fragile()), connect=connecting(driver, lambda: None)) as client:
        assert client.get(URL).status_code == 200
        source.publish("orders", ["10.0.0.2:80", "10.0.0.3:80"])
        until(lambda: "picked at random" in caplog.text)
        assert {client.get(URL).text for _ in range(40)} == {"10.0.0.2:80", "10.0.0.3:80"}


def test_a_balancer_that_never_works_is_said_at_the_call(driver: Any) -> None:
    class Broken(Balancer):
        def picker(self, nodes: Any, rng: Any) -> Any:
            raise ZeroDivisionError

    with driver.client({"orders": ["10.0.0.1:80"]}, policy=Policy(Broken())) as client:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                client.get(URL)


def test_a_memory_that_raises_leaks_nothing(driver: Any, fleet: Any, caplog: Any) -> None:
    class Memory:
        def observe(self, *what: Any) -> None:
            raise ZeroDivisionError

    class Forgetful(Balancer):
        def memory(self) -> Any:
            return Memory()

        def picker(self, nodes: Any, rng: Any) -> Any:
            return lambda call: nodes[0]

    servers = fleet(2)
    with driver.client({"orders": servers.addresses}, policy=Policy(Forgetful())) as client:
        for _ in range(5):
            assert client.get(URL).status_code == 200
        assert [node.in_flight for node in client.nodes()] == [0, 0]
        assert places_of(client.balanced).taken == 0
    assert caplog.text.count("memory failed") == 1


@pytest.mark.parametrize("kind", ["stream", "one-shot", "shared source", "response"])
def test_a_body_of_the_user_s_own_kind_is_never_sent_empty(driver: Any, fleet: Any, kind: str) -> None:
    """Invariant 3. A spent body sends nothing and gets a 200."""
    httpx_ = driver.httpx
    servers = fleet(3, FAILING)

    class Chunks:
        """Gives out what it has once, whatever it looks like."""

        def __init__(self) -> None:
            self._stream = self.left = [b"precious", b"data"]
            self._iterator = self

        def _take(self) -> Any:
            while self.left:
                yield self.left.pop(0)

        async def _atake(self) -> Any:
            for chunk in self._take():
                yield chunk

    class Stream(Chunks, httpx_.SyncByteStream, httpx_.AsyncByteStream):  # type: ignore[misc,name-defined]
        def __iter__(self) -> Any:
            return self._take()

        def __aiter__(self) -> Any:
            return self._atake()

    class SyncShared(Chunks):
        def __iter__(self) -> Any:
            return self._take()

    class AsyncShared(Chunks):
        def __aiter__(self) -> Any:
            return self._atake()

    class SyncOnce(Chunks):
        def __iter__(self) -> Any:
            if isinstance(self._iterator, Chunks):
                self._iterator = self._take()  # type: ignore[assignment]
            return self._iterator

    class AsyncOnce(Chunks):
        def __aiter__(self) -> Any:
            if isinstance(self._iterator, Chunks):
                self._iterator = self._atake()  # type: ignore[assignment]
            return self._iterator

    kinds: dict[str, Any] = {
        "stream": Stream,
        "one-shot": AsyncOnce if driver.asynchronous else SyncOnce,
        "shared source": AsyncShared if driver.asynchronous else SyncShared,
        "response": lambda: httpx_.Response(200, stream=Stream()).stream,
    }
    given = kinds[kind]()
    with driver.client({"orders": servers.addresses}) as client:
        if isinstance(given, httpx_.SyncByteStream):
            request = httpx_.Request(
                "PUT", URL, stream=given, headers={"host": "orders", "transfer-encoding": "chunked"}
            )
            send = lambda: driver.run(client.client.send, request)  # noqa: E731
        else:
            send = lambda: client.request("PUT", URL, content=given)  # noqa: E731
        try:
            status = send().status_code
        except httpx_.StreamConsumed:
            status = 503
        assert status == 503
    whole = [request for request in servers.received if request.complete]
    assert {request.body for request in whole} == {b"preciousdata"}


def test_an_iterable_that_gives_fresh_iterators_is_repeated(driver: Any, fleet: Any) -> None:
    class Fresh:
        def __iter__(self) -> Any:
            return iter([b"a", b"b"])

        async def __aiter__(self) -> Any:
            for chunk in self:
                yield chunk

    class AsyncFresh:
        async def __aiter__(self) -> Any:
            for chunk in (b"a", b"b"):
                yield chunk

    servers = fleet(2)
    servers[0].behave(FAILING)
    with driver.client({"orders": servers.addresses}) as client:
        for _ in range(6):
            content = AsyncFresh() if driver.asynchronous else Fresh()
            assert client.request("PUT", URL, content=content).status_code == 200
    assert {request.body for request in servers.received} == {b"ab"}


def test_the_context_of_a_send_is_not_another_client_s(driver: Any, fleet: Any) -> None:
    """An auth flow that asks through a bare transport: the outer call's deadline and options are not its."""
    servers = fleet(1, Behaviour(body=b"token"))
    ours = driver.names.AsyncBalancedTransport if driver.asynchronous else driver.names.BalancedTransport
    inner = ours({"tokens": servers.addresses})
    seen: list[Any] = []
    httpx_ = driver.httpx

    class Auth(httpx_.Auth):  # type: ignore[misc,name-defined]
        def sync_auth_flow(self, request: Any) -> Any:
            seen.append(inner.handle_request(httpx_.Request("GET", "http://tokens/")).extensions)
            yield request

        async def async_auth_flow(self, request: Any) -> Any:
            seen.append((await inner.handle_async_request(httpx_.Request("GET", "http://tokens/"))).extensions)
            yield request

    from smartclient import call

    with driver.client({"orders": servers.addresses}) as client:
        options = call(hash_key="mine")
        assert client.get(URL, auth=Auth(), extensions=options).status_code == 200
    assert seen[0]["smartclient.call"].hash_key is None
    driver.run(inner.aclose if driver.asynchronous else inner.close)


def test_closing_wakes_a_call_that_waits_for_its_first_list(driver: Any) -> None:
    client = (
        driver.names.AsyncClient(ScriptedDiscovery())
        if driver.asynchronous
        else driver.names.Client(ScriptedDiscovery())
    )
    failed: list[BaseException] = []

    async def both() -> None:
        async def get() -> None:
            try:
                await client.get(URL, timeout=30)
            except driver.names.NoInstances as error:
                failed.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(get)
            await anyio.sleep(0.1)
            await client.aclose()

    began = time.monotonic()
    if driver.asynchronous:
        driver.run(both)
    else:

        def get() -> None:
            try:
                client.get(URL, timeout=30)
            except driver.names.NoInstances as error:
                failed.append(error)

        thread = threading.Thread(target=get)
        thread.start()
        time.sleep(0.1)
        client.close()
        thread.join()
    assert time.monotonic() - began < 5
    assert "has been closed" in str(failed[0])


def test_a_forgotten_response_wakes_the_queue(driver: Any, fleet: Any) -> None:
    servers = fleet(1, Behaviour(body=b"x" * 100))
    limits = driver.httpx.Limits(max_connections=1)
    with driver.client({"orders": servers.addresses}, limits=limits, timeout=5) as client:
        kept = [client.open("GET", URL)]
        timer = threading.Timer(0.2, lambda: (kept.clear(), gc.collect()))
        timer.start()
        began = time.monotonic()
        assert client.get(URL).status_code == 200
        assert time.monotonic() - began < 3
        timer.join()


def test_a_streamed_body_that_breaks_tells_its_story(driver: Any, fleet: Any) -> None:
    servers = fleet(1, TRUNCATING)
    with driver.client({"orders": servers.addresses}) as client:
        response = client.open("GET", URL)
        with pytest.raises(driver.httpx.RemoteProtocolError) as caught:
            client.read(response)
        story = report(caught.value)
        assert story is not None
        assert [attempt.outcome for attempt in story.attempts] == ["failure"]
        with pytest.raises(driver.httpx.RemoteProtocolError) as caught:
            client.post(URL, content=b"x")
        story = report(caught.value)
        assert story is not None
        assert len(story.attempts) == 1


def test_a_cancelled_close_leaves_nothing(fleet: Any) -> None:
    servers = fleet(2)
    source = ScriptedDiscovery({"orders": servers.addresses})

    async def main() -> None:
        client = AsyncClient(source)
        for _ in range(4):
            await client.get(URL)
        assert servers.open
        with anyio.CancelScope() as scope:
            scope.cancel()
            await client.aclose()

    for backend in ("asyncio", "trio"):
        anyio.run(main, backend=backend)
        until(lambda: not servers.open and not source.watches)


def test_closing_in_one_loop_ends_what_is_used_in_another(fleet: Any) -> None:
    """asyncio only: a client closed while another loop's thread has a response of it open."""
    servers = fleet(1, Behaviour(body=b"x" * 100))
    client = AsyncClient({"orders": servers.addresses})
    opened, closed = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    async def other() -> None:
        try:
            async with client.stream("GET", URL):
                opened.set()
                while not closed.is_set():
                    await asyncio.sleep(0.01)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=lambda: asyncio.run(other()))
    thread.start()
    assert opened.wait(5)
    asyncio.run(client.aclose())
    until(lambda: not servers.open)
    closed.set()
    thread.join(5)
    assert not failures


def test_a_thread_that_cannot_start_is_tried_again(monkeypatch: pytest.MonkeyPatch, fleet: Any) -> None:
    servers = fleet(1)
    start = threading.Thread.start
    refuse = [True]

    def starting(thread: threading.Thread) -> None:
        if refuse and thread.name.startswith("smartclient-"):
            refuse.clear()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)
    with Client(lambda service: servers.addresses, timeout=0.2) as client:
        with pytest.raises(NoInstances, match="can't start new thread"):
            client.get(URL)
        assert client.get(URL).status_code == 200


def test_a_list_that_is_wrong_is_said_at_each_call() -> None:
    class Odd(Static):
        def known(self, service: str) -> Any:
            return ["10.0.0.1:99999"]

    with Client(Odd({"orders": []})) as client:
        for _ in range(2):
            with pytest.raises(ValueError, match="99999"):
                client.get(URL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_makes_its_own_transports() -> None:
    made: list[int] = []

    def connect(instance: Instance) -> httpx.BaseTransport:
        made.append(os.getpid())
        return httpx.HTTPTransport()

    with Fleet(1) as servers, Client({"orders": servers.addresses}, connect=connect) as client:
        assert client.get(URL).status_code == 200

        def work() -> None:
            assert client.get(URL).status_code == 200
            assert made[-1] == os.getpid()

        in_child(work)
        assert client.get(URL).status_code == 200
        assert len(made) == 1


def test_the_loser_of_a_race_for_the_first_connection_is_closed() -> None:
    closed: list[str] = []
    both = threading.Barrier(2)

    class Transport(httpx.MockTransport):
        def close(self) -> None:
            closed.append("closed")

    def connect(instance: Instance) -> httpx.BaseTransport:
        both.wait(5)
        return Transport(lambda request: httpx.Response(200))

    with Client({"orders": ["10.0.0.1:80"]}, connect=connect) as client:
        threads = [threading.Thread(target=client.get, args=(URL,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(closed) == 1
    assert len(closed) == 2


def test_a_cancelled_call_is_no_reference_cycle(fleet: Any) -> None:
    servers = fleet(1, Behaviour(delay=5))

    async def main() -> None:
        async with AsyncClient({"orders": servers.addresses}) as client:
            with anyio.move_on_after(0.1):
                await client.get(URL)
            gc.collect()
            before = {id(found) for found in gc.get_objects()}
            gc.disable()
            try:
                task = asyncio.create_task(client.get(URL))
                await asyncio.sleep(0.1)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    pass
                del task
                await asyncio.sleep(0.05)
                left = [found for found in gc.get_objects() if isinstance(found, Link)]
                assert not [found for found in left if id(found) not in before]
            finally:
                gc.enable()

    asyncio.run(main())
