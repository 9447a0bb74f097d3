"""`smartclient demo`: the main job without any set-up.

Six real servers in processes of their own, one failing and one slow; the same open-loop traffic through `AsyncClient`
and through plain httpx round robin; what each lost.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from ..client import AsyncClient
from ..discovery import Consul, DiscoveryLike, discovery_from_url
from ..discovery.consul.agent import ConsulAnswer
from ..discovery.http_client import HttpClient
from ..events import AttemptStarted, Event, NodeEjected, RetryScheduled
from ..testing.demo_server import DemoServer

CALLS_PER_SECOND = 80
SERVICE = "smartclient-demo"
FLEET: tuple[tuple[str, dict[str, Any]], ...] = (
    *((("good", {"delay": 0.005}),) * 4),
    ("failing", {"delay": 0.001, "failing": 1.0}),
    ("slow", {"delay": 0.4}),
)


class Failed(Exception):
    """The demo could not be run."""


@dataclass
class Tally:
    """What happened to the calls of one client."""

    calls: int = 0
    failed: int = 0
    retries: int = 0
    ejections: int = 0
    latencies: list[float] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)

    def percentile(self, share: float) -> float:
        """In milliseconds, of all calls."""
        ordered = sorted(self.latencies)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1000 if ordered else 0.0

    def summary(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "failed": self.failed,
            "p50_ms": round(self.percentile(0.50), 1),
            "p99_ms": round(self.percentile(0.99), 1),
        }

    def observe(self, event: Event) -> None:
        if isinstance(event, AttemptStarted):
            self.attempts[str(event.instance)] += 1
        elif isinstance(event, RetryScheduled):
            self.retries += 1
        elif isinstance(event, NodeEjected):
            self.ejections += 1


def run(seconds: float, as_json: bool, consul: str | None, status: bool = False) -> int:
    """Run the demo; its exit status."""
    logging.getLogger("smartclient").addHandler(logging.NullHandler())  # the table says it all
    with ExitStack() as stack:
        servers = [stack.enter_context(DemoServer(**settings)) for _, settings in FLEET]
        kinds = {server.address: kind for server, (kind, _) in zip(servers, FLEET, strict=True)}
        discovery: DiscoveryLike = {SERVICE: list(kinds)}
        if consul is not None:
            discovery = stack.enter_context(registered(consul, servers))
        ours, theirs = Tally(), Tally()
        show = stack.enter_context(screen(kinds, ours, theirs, quiet=as_json))
        asyncio.run(traffic(seconds, discovery, list(kinds), ours, theirs, show, status))
    if not as_json:
        print(verdict(ours, theirs, where="found in Consul" if consul else "given as a list"))
    else:
        instances = [
            {"address": a, "kind": kind, "smartclient_attempts": ours.attempts[a], "httpx_attempts": theirs.attempts[a]}
            for a, kind in kinds.items()
        ]
        extra = {"retries": ours.retries, "ejections": ours.ejections}
        print(json.dumps({"smartclient": ours.summary() | extra, "httpx": theirs.summary(), "instances": instances}))
    return 0 if ours.calls and not ours.failed else 1


async def traffic(
    seconds: float,
    discovery: DiscoveryLike,
    addresses: list[str],
    ours: Tally,
    theirs: Tally,
    show: Callable[[], None],
    status: bool = False,
) -> None:
    """The same calls at the same times through both clients. Open loop: a slow answer does not delay the next call."""
    async with httpx.AsyncClient(trust_env=False) as first:  # loads what httpx imports late: not measured
        await first.get(f"http://{addresses[0]}/")
    rotation = itertools.cycle(addresses)
    limits = httpx.Limits(max_connections=500)
    async with (
        AsyncClient(discovery, observers=[ours.observe], trust_env=False, limits=limits, status=status) as balanced,
        httpx.AsyncClient(trust_env=False, limits=limits) as plain,
    ):
        if status:
            print(f"status: `smartclient top`, or {page_of(balanced)}")
        began = time.monotonic()
        tasks = []
        shown = 0.0
        for turn in range(int(seconds * CALLS_PER_SECOND)):
            due = began + turn / CALLS_PER_SECOND
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            address = next(rotation)
            theirs.attempts[address] += 1
            tasks.append(asyncio.ensure_future(one(balanced, f"http://{SERVICE}/", ours)))
            tasks.append(asyncio.ensure_future(one(plain, f"http://{address}/", theirs)))
            if due - shown >= 0.25:
                shown = due
                show()
        await asyncio.gather(*tasks)
        show()


def page_of(client: AsyncClient) -> str:
    """Show its status on a page; where."""
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    from ..status import wsgi_app

    class Quiet(WSGIRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = make_server("127.0.0.1", 0, wsgi_app(client), handler_class=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


async def one(client: httpx.AsyncClient, url: str, tally: Tally) -> None:
    began = time.perf_counter()
    try:
        failed = (await client.get(url)).status_code >= 500
    except httpx.HTTPError:
        failed = True
    tally.calls += 1
    tally.failed += failed
    tally.latencies.append(time.perf_counter() - began)


@contextmanager
def registered(address: str, servers: list[DemoServer]) -> Iterator[Consul]:
    """Register the servers with a Consul agent; the source that finds them there.

    address: as `Consul` takes it, or a consul:// URL
    """
    try:
        source = discovery_from_url(address) if address.startswith(("consul://", "consul+")) else Consul(address)
    except ValueError as error:
        raise Failed(str(error)) from None
    assert isinstance(source, Consul)
    with ExitStack() as stack:
        agent = stack.enter_context(source.agent())
        try:
            for server in servers:
                name = f"{SERVICE}-{server.port}"
                entry = {"Name": SERVICE, "ID": name, "Address": "127.0.0.1", "Port": server.port}
                ConsulAnswer.unless_good(agent.put("/v1/agent/service/register", json=entry))
                stack.callback(_deregister, agent, name)
        except (httpx.HTTPError, ConsulAnswer) as error:
            raise Failed(f"{source} does not take registrations: {error}") from None
        yield source


def _deregister(agent: HttpClient, name: str) -> None:
    try:
        ConsulAnswer.unless_good(agent.put(f"/v1/agent/service/deregister/{name}"))
    except (httpx.HTTPError, ConsulAnswer) as error:
        print(f"{name} could not be deregistered: {error}", file=sys.stderr)


@contextmanager
def screen(kinds: dict[str, str], ours: Tally, theirs: Tally, quiet: bool) -> Iterator[Callable[[], None]]:
    """A function that shows the current state: a live table on a terminal that has rich, else a line a second."""
    if quiet:
        yield lambda: None
        return
    if sys.stdout.isatty():
        try:
            from rich.live import Live
        except ImportError:
            print("(pip install 'smartclient[rich]' shows this as a live table)")
        else:
            with Live(table(kinds, ours, theirs), auto_refresh=False) as live:
                yield lambda: live.update(table(kinds, ours, theirs), refresh=True)
            return
    print(f"{len(kinds)} servers: {', '.join(f'{address} {kind}' for address, kind in kinds.items())}")
    last = 0.0

    def line() -> None:
        nonlocal last
        if time.monotonic() - last >= 1:
            last = time.monotonic()
            print(
                f"smartclient: {ours.calls} calls, {ours.failed} failed, {ours.retries} retries, "
                f"{ours.ejections} ejections, p99 {ours.percentile(0.99):.0f} ms | "
                f"httpx: {theirs.calls} calls, {theirs.failed} failed, p99 {theirs.percentile(0.99):.0f} ms",
                flush=True,
            )

    yield line


def table(kinds: dict[str, str], ours: Tally, theirs: Tally) -> Any:
    from rich.table import Table

    made = Table(title="the same calls, through smartclient and through httpx round robin")
    for column, justify in (("", "left"), ("smartclient", "right"), ("httpx", "right")):
        made.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name, mine, other in rows(kinds, ours, theirs):
        made.add_row(name, mine, other)
    return made


def rows(kinds: dict[str, str], ours: Tally, theirs: Tally) -> Iterator[tuple[str, str, str]]:
    yield "calls", str(ours.calls), str(theirs.calls)
    yield "failed", str(ours.failed), str(theirs.failed)
    yield "retries / ejections", f"{ours.retries} / {ours.ejections}", "-"
    yield "p50", f"{ours.percentile(0.5):.0f} ms", f"{theirs.percentile(0.5):.0f} ms"
    yield "p99", f"{ours.percentile(0.99):.0f} ms", f"{theirs.percentile(0.99):.0f} ms"
    for address, kind in kinds.items():
        yield f"{address} ({kind})", share(ours, address), share(theirs, address)


def share(tally: Tally, address: str) -> str:
    return f"{100 * tally.attempts[address] / max(1, sum(tally.attempts.values())):.0f} %"


def verdict(ours: Tally, theirs: Tally, where: str) -> str:
    lost = "no call" if not ours.failed else f"{ours.failed} of {ours.calls} calls"
    return (
        f"\nOf six servers ({where}) one failed every call and one took 0.4 s.\n"
        f"smartclient lost {lost}: {ours.retries} retries, {ours.ejections} ejections, "
        f"p50 {ours.percentile(0.5):.0f} ms, p99 {ours.percentile(0.99):.0f} ms.\n"
        f"httpx round robin lost {theirs.failed} of {theirs.calls} calls: "
        f"p50 {theirs.percentile(0.5):.0f} ms, p99 {theirs.percentile(0.99):.0f} ms."
    )
