"""What is left behind unfinished: calls that the garbage collector finds, loops that end, forks, exceptions that cannot
say themselves. From reports on other clients and instrumentations.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from driving import in_child
from inside import balanced_of

import smartclient
from smartclient import AsyncClient, AttemptFinished, CallFinished, Client, Policy, Retry
from smartclient.cli.top import drawn
from smartclient.testing import OK, Behaviour

URL = "http://orders/v1/items"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_call_that_is_collected_tells_nobody_in_the_collector(fleet: Any) -> None:
    """sentry-python#5586, client_python#363: it may run in a thread that holds a lock; the next call tells."""
    hanging = False
    events: list[Any] = []
    told_in_the_collector: list[Any] = []
    collecting = False

    class Transport(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if hanging:
                await asyncio.get_running_loop().create_future()
            return httpx.Response(200)

    def observe(event: Any) -> None:
        (told_in_the_collector if collecting else events).append(event)

    async def main() -> None:
        nonlocal hanging, collecting
        client = AsyncClient(
            {"orders": ["10.0.0.1:80"]}, connect=lambda instance: Transport(), observers=[observe], timeout=None
        )
        async with client:
            await client.get(URL)
            hanging = True
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # "Task was destroyed"
            task = asyncio.create_task(client.get(URL))
            await asyncio.sleep(0.05)
            del task
            collecting = True
            gc.collect()
            collecting = hanging = False
            await client.get(URL)
            assert client.status().services[0].in_flight == 0

    asyncio.run(main())
    assert not told_in_the_collector
    assert [event.outcome for event in events if isinstance(event, AttemptFinished)].count("abandoned") == 1
    assert [event.outcome for event in events if isinstance(event, CallFinished)].count("cancelled") == 1


def test_loops_that_end_with_a_call_pending_leave_no_place_taken(fleet: Any) -> None:
    """httpx#1461: `run_until_complete` again and again, and nobody cancels what was begun."""
    servers = fleet(1)
    client = AsyncClient({"orders": servers.addresses}, limits=httpx.Limits(max_connections=2), timeout=2)
    pending = []

    async def get() -> int:
        return (await client.get(URL)).status_code

    async def idle() -> None:
        await asyncio.sleep(0.05)

    for _ in range(4):
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(get()) == 200
        assert client.status().services[0].in_flight == 0
        servers.behave(Behaviour(delay=1))
        pending.append(loop.create_task(get()))
        loop.run_until_complete(idle())
        servers.behave(OK)
        loop.close()
    assert asyncio.run(get()) == 200
    for task in pending:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    asyncio.run(client.aclose())
    pending.clear()


def test_a_child_does_not_tell_of_its_parents_call(fleet: Any) -> None:
    servers = fleet(1, Behaviour(body=b"x" * 100_000))
    told: list[Any] = []
    with Client({"orders": servers.addresses}, observers=[told.append]) as client:
        with client.stream("GET", URL) as response:

            def child() -> None:
                before = len(told)
                response.close()
                assert len(told) == before

            in_child(child)
            assert len(response.read()) == 100_000
    assert [event.outcome for event in told if isinstance(event, CallFinished)] == ["response"]


def test_an_exception_that_cannot_say_itself_is_raised_as_it_is() -> None:
    class Bad(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no str")

    def fail(request: Any) -> httpx.Response:
        raise Bad

    with Client({"orders": ["10.0.0.1:80"]}, transport=httpx.MockTransport(fail)) as client:
        with pytest.raises(Bad):
            client.get(URL)


@pytest.mark.parametrize(
    "header",
    [("x-a", "1\r\nx-evil: 2"), ("x a", "1"), ("", "1"), ("content-length", "7"), ("Host", "evil"), ("x-a", "1\x00")],
)
def test_an_observers_wrong_header_is_left_out(driver: Any, fleet: Any, header: tuple[str, str]) -> None:
    """dd-trace-js#5159: what a tool adds must not end the call."""

    class Adds:
        wants = frozenset({smartclient.AttemptStarted})

        def __call__(self, event: Any) -> None:
            pass

        def headers(self, event: Any) -> list[tuple[str, str]]:
            return [header]

    servers = fleet(1)
    with driver.client({"orders": servers.addresses}, observers=[Adds()]) as client:
        assert client.get(URL).status_code == 200
    assert servers.received[0].headers["host"] == "orders"
    assert "x-evil" not in servers.received[0].headers


def client_status(**more: Any) -> dict[str, Any]:
    return {"version": "9", "pid": 1, "services": [], **more}


@pytest.mark.parametrize(
    "status",
    [
        {"version": "9"},
        client_status(services=None),
        client_status(services=[{"name": "orders"}]),
        client_status(services=[{"name": "orders", "age": None, "instances": [{}]}]),
        client_status(services=[[]]),
        client_status(pid="\x1b[31mred"),
    ],
)
def test_top_understands_no_other_version_and_survives_it(status: Any) -> None:
    from rich.console import Console

    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(drawn([status]))
    console.file.close()
    assert "\x1b" not in console.export_text()


MULTIPROCESS = """
    import sys, time, httpx, smartclient
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess
    from smartclient.prometheus import Metrics

    def gauges():
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        text = generate_latest(registry).decode().splitlines()
        wanted = ("smartclient_in_flight{", 'smartclient_instances{service="orders",state="usable"')
        return [one.rpartition(" ")[2] for one in text if one.startswith(wanted)]

    transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=Body()))
    class Body(httpx.SyncByteStream):
        def __iter__(self):
            yield b"a"

    client = smartclient.Client({"orders": ["10.0.0.1:80"]}, transport=transport, observers=[Metrics()])
    client.get("http://orders/")
    held = [client.send(client.build_request("GET", "http://orders/"), stream=True) for _ in range(3)]
    def until(wanted):
        ends_at = time.monotonic() + 10
        while sorted(gauges()) != sorted(wanted):
            assert time.monotonic() < ends_at, gauges()
            time.sleep(0.1)

    until(["3.0", "1.0"])
    for response in held:
        response.close()
    until(["0.0", "1.0"])     # with no further call
    client.close()
    until(["0.0", "0.0"])
"""


def test_gauges_of_several_processes_fall_without_a_call(tmp_path: Path) -> None:
    """authentik#25827: they stood at the last call's value for ever."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(MULTIPROCESS)], env=environment, check=True, timeout=60)


def test_a_scrape_that_names_our_gauges_finds_them() -> None:
    """client_python#110: `?name[]=` asks only collectors that say what they have."""
    from prometheus_client import CollectorRegistry, generate_latest

    from smartclient.prometheus import Metrics

    registry = CollectorRegistry()
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    with Client({"orders": ["10.0.0.1:80"]}, transport=transport, observers=[Metrics(registry)]) as client:
        client.get(URL)
        told = generate_latest(registry.restricted_registry(["smartclient_in_flight"])).decode()
    assert 'smartclient_in_flight{service="orders"} 0.0' in told


def test_clients_made_while_a_tool_comes_are_all_observed() -> None:
    from smartclient.transport.base import observe_all, observe_no_more

    class Watches:
        wants = frozenset({CallFinished})

        def __init__(self) -> None:
            self.clients: list[int] = []

        def __call__(self, event: Any) -> None:
            pass

        def watch(self, client: Any) -> None:
            self.clients.append(id(client))

    clients: list[Any] = []
    watches = Watches()

    def make() -> None:
        clients.extend(Client({"orders": ["10.0.0.1:80"]}, policy=Policy(retry=Retry(attempts=1))) for _ in range(60))

    makers = [threading.Thread(target=make) for _ in range(3)]
    for maker in makers:
        maker.start()
    observe_all(watches)
    for maker in makers:
        maker.join()
    observe_no_more(watches)
    mine = [id(balanced_of(client)) for client in clients]
    assert [watches.clients.count(one) for one in mine] == [1] * len(clients)
    for client in clients:
        client.close()
