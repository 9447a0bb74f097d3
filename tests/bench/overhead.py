"""CPU per call, in ratios: smartclient against httpx, and against the limit, a bare LIFO of httpcore connections.

    python tests/bench/overhead.py [--calls 3000] [--rounds 5] [--quick] [--json]

Needs nginx (Debian: nginx-light): thirty addresses in one process of C, so that the server's CPU is not ours. All peers
of a row take turns in the same process; the figure is the least of the
rounds of the process's CPU time (user and system) per call.

httpx          httpx.Client / AsyncClient with its default limits (100 connections, 20 kept alive)
httpx raised   with limits that keep every connection alive
bare LIFO      an httpx client over a transport that does nothing but keep a stack of httpcore connections per instance
ours           smartclient, as a user gets it: picking, retry, outlier detection, reports
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpcore
import httpx

import smartclient

CONFIG = """
worker_processes 1; worker_rlimit_nofile 65536; pid {home}/pid; error_log {home}/error.log; daemon off;
events {{ worker_connections 32768; }}
http {{
  access_log off; keepalive_timeout 600s; keepalive_requests 1000000000;
  client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  server {{ {listen} location / {{ default_type application/json; return 200 '{{"ok": true, "items": [1, 2, 3]}}'; }} }}
}}
"""


@contextmanager
def nginx(instances: int) -> Iterator[list[str]]:
    """The addresses of that many instances, all one nginx."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        sys.exit("overhead.py needs nginx: apt-get install nginx-light")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    addresses = [f"127.0.1.{n + 1}:{port}" for n in range(instances)]
    with tempfile.TemporaryDirectory() as home:
        config = Path(home, "nginx.conf")
        config.write_text(
            CONFIG.format(home=home, listen=" ".join(f"listen {address} backlog=1024;" for address in addresses))
        )
        process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.1.1", port), 0.1).close()
                    break
                except OSError:
                    time.sleep(0.02)
            yield addresses
        finally:
            process.terminate()
            process.wait()


class _URL:
    __slots__ = ("host", "origin", "port", "scheme", "target")

    def __init__(self, origin: httpcore.Origin, target: bytes) -> None:
        self.origin, self.target = origin, target
        self.scheme, self.host, self.port = origin.scheme, origin.host, origin.port


class _Request:
    __slots__ = ("extensions", "headers", "method", "stream", "url")


class BareLifo(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Round robin over stacks of connections; no check, no retry, no care."""

    def __init__(self, addresses: list[str]) -> None:
        parsed = [address.rpartition(":") for address in addresses]
        self.origins = [httpcore.Origin(b"http", host.encode(), int(port)) for host, _, port in parsed]
        self.stacks: list[list[Any]] = [[] for _ in addresses]
        self.turn = itertools.count()

    def _wire(self, request: httpx.Request, origin: httpcore.Origin) -> Any:
        wire = _Request()
        wire.method, wire.url = request.method.encode(), _URL(origin, request.url.raw_path)
        wire.headers, wire.stream, wire.extensions = request.headers.raw, request.stream, request.extensions
        return wire

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        n = next(self.turn) % len(self.stacks)
        stack = self.stacks[n]
        connection = stack.pop() if stack else httpcore.HTTPConnection(self.origins[n])
        raw = connection.handle_request(self._wire(request, self.origins[n]))
        body = BareBody(raw.stream, stack, connection)
        return httpx.Response(raw.status, headers=raw.headers, stream=body, extensions=raw.extensions)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        n = next(self.turn) % len(self.stacks)
        stack = self.stacks[n]
        connection = stack.pop() if stack else httpcore.AsyncHTTPConnection(self.origins[n])
        raw = await connection.handle_async_request(self._wire(request, self.origins[n]))
        body = AsyncBareBody(raw.stream, stack, connection)
        return httpx.Response(raw.status, headers=raw.headers, stream=body, extensions=raw.extensions)

    def close(self) -> None:
        for connection in itertools.chain(*self.stacks):
            connection.close()

    async def aclose(self) -> None:
        for connection in itertools.chain(*self.stacks):
            await connection.aclose()


class BareBody(httpx.SyncByteStream):
    def __init__(self, raw: Any, stack: list[Any], connection: Any) -> None:
        self.raw, self.stack, self.connection = raw, stack, connection

    def __iter__(self) -> Iterator[bytes]:
        yield from self.raw

    def close(self) -> None:
        self.raw.close()
        self.stack.append(self.connection)


class AsyncBareBody(httpx.AsyncByteStream):
    def __init__(self, raw: Any, stack: list[Any], connection: Any) -> None:
        self.raw, self.stack, self.connection = raw, stack, connection

    async def __aiter__(self) -> Any:
        async for chunk in self.raw:
            yield chunk

    async def aclose(self) -> None:
        await self.raw.aclose()
        self.stack.append(self.connection)


RAISED = httpx.Limits(max_connections=10_000, max_keepalive_connections=10_000)
Peer = tuple[str, Callable[[], Any], Callable[[], str]]


def peers(addresses: list[str], asynchronous: bool, at_once: int) -> list[Peer]:
    """Name, how to make the client, and where each call goes."""
    rotation = itertools.cycle(f"http://{address}/v1/items" for address in addresses)
    plain = httpx.AsyncClient if asynchronous else httpx.Client
    ours: Any = smartclient.AsyncClient if asynchronous else smartclient.Client
    # httpx's defaults as far as they allow that many at once; beyond, as a user would raise them.
    limits = (
        {"limits": httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)} if at_once > 100 else {}
    )

    def elsewhere() -> str:
        return "http://orders/v1/items"

    return [
        ("httpx", lambda: plain(trust_env=False, timeout=60), rotation.__next__),
        ("httpx raised", lambda: plain(trust_env=False, timeout=60, limits=RAISED), rotation.__next__),
        ("bare LIFO", lambda: plain(transport=BareLifo(addresses), timeout=60), elsewhere),
        ("ours", lambda: ours({"orders": addresses}, trust_env=False, timeout=60, **limits), elsewhere),
    ]


def run_sync(client: Any, url: Callable[[], str], calls: int) -> float:
    began = time.process_time()
    for _ in range(calls):
        client.get(url()).raise_for_status()
    return (time.process_time() - began) / calls * 1e6


async def run_async(client: Any, url: Callable[[], str], calls: int, at_once: int) -> float:
    turns = iter(range(calls))

    async def worker() -> None:
        for _ in turns:
            (await client.get(url())).raise_for_status()

    began = time.process_time()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return (time.process_time() - began) / calls * 1e6


def measure_sync(candidates: list[Peer], calls: int, rounds: int) -> dict[str, float]:
    clients = [(name, make(), url) for name, make, url in candidates]
    figures: dict[str, list[float]] = {name: [] for name, _, _ in clients}
    for turn in range(rounds + 1):
        for name, client, url in clients:
            gc.collect()
            figure = run_sync(client, url, calls if turn else max(60, calls // 10))
            if turn:
                figures[name].append(figure)
    for _, client, _ in clients:
        client.close()
    return {name: min(values) for name, values in figures.items()}


async def measure_async(candidates: list[Peer], calls: int, rounds: int, at_once: int) -> dict[str, float]:
    clients = [(name, make(), url) for name, make, url in candidates]
    figures: dict[str, list[float]] = {name: [] for name, _, _ in clients}
    for turn in range(rounds + 1):
        for name, client, url in clients:
            gc.collect()
            # The raised pool scans every connection on every call: fewer calls say as much.
            share = 4 if name == "httpx raised" and at_once >= 100 else 1
            figure = await run_async(client, url, (calls if turn else calls // 4) // share, at_once)
            if turn:
                figures[name].append(figure)
    for _, client, _ in clients:
        await client.aclose()
    return {name: min(values) for name, values in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few calls: to see that it runs")
    parser.add_argument("--only", help="rows whose name contains this")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    calls, rounds = (200, 1) if options.quick else (options.calls, options.rounds)
    cases = [("sync", n, 1) for n in (1, 30)] + [("async", n, k) for n in (1, 30) for k in (1, 20, 100, 300)]
    rows = []
    with nginx(30) as addresses:
        for kind, instances, at_once in cases:
            label = f"{kind}, {instances} instance{'s' * (instances > 1)}, {at_once} at once"
            if options.only and options.only not in label:
                continue
            candidates = peers(addresses[:instances], kind == "async", at_once)
            if kind == "sync":
                figures = measure_sync(candidates, calls, rounds)
            else:
                figures = asyncio.run(measure_async(candidates, max(calls, at_once * 4), rounds, at_once))
            rows.append({"case": label, **figures})
            if not options.json:
                if len(rows) == 1:
                    print(f"{'CPU µs per call':36}{'httpx':>9}{'raised':>9}{'LIFO':>9}{'ours':>9}"
                          f"{'/httpx':>9}{'/raised':>9}{'/LIFO':>8}")  # fmt: skip
                ours = figures["ours"]
                ratios = [ours / figures[name] for name in ("httpx", "httpx raised", "bare LIFO")]
                print(f"{label:36}" + "".join(f"{value:9.0f}" for value in figures.values())
                      + f"{ratios[0]:9.2f}{ratios[1]:9.2f}{ratios[2]:8.2f}", flush=True)  # fmt: skip
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
