"""Open-loop load from one contender: calls begin on a fixed schedule, whatever became of those before, and latency
counts from the moment a call was meant to begin (no coordinated omission).

    python load.py CONTENDER ORDERS.json        prints a JSON line with what happened
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import anyio
import httpx

TIMEOUT = 0.5  # seconds for each attempt's answer, of all contenders
DEADLINE = 3.0  # seconds for a call


def main() -> None:
    contender, orders = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    print(json.dumps(asyncio.run(run(contender, orders))), flush=True)


async def run(contender: str, orders: dict[str, Any]) -> dict[str, Any]:
    attempts = Attempts()
    client, base = CLIENTS[contender](orders, attempts)
    async with client:
        for _ in range(20):
            await client.get(f"{base}/warm")
        attempts.count = 0
        print("ready", flush=True)
        began = float(sys.stdin.readline())
        count = int(orders["rate"] * orders["seconds"])
        results: list[tuple[bool, float, str | None]] = []

        async def one(number: int) -> None:
            due = began + number / orders["rate"]
            post = number % 5 == 4
            problem = None
            try:
                with anyio.fail_after(DEADLINE):
                    if post:
                        response = await client.post(f"{base}/", content=b"x", headers={"x-id": str(uuid.uuid4())})
                    else:
                        response = await client.get(f"{base}/")
                if response.status_code != 200 or len(response.content) != 100:
                    problem = f"status {response.status_code}"
            except (httpx.HTTPError, TimeoutError) as error:
                problem = type(error).__name__
            results.append((post, time.monotonic() - due, problem))

        tasks = []
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / orders["rate"] - time.monotonic()))
            tasks.append(asyncio.ensure_future(one(number)))
        await asyncio.gather(*tasks)
    gets = sorted(seconds for post, seconds, _ in results if not post)

    def percentile(share: float) -> float:
        return round(gets[min(math.ceil(share * len(gets)) - 1, len(gets) - 1)] * 1000, 1)

    failed = [(post, problem) for post, _, problem in results if problem]
    return {
        "calls": count,
        "failed_get": sum(1 for post, _ in failed if not post),
        "failed_post": sum(1 for post, _ in failed if post),
        "p50_ms": percentile(0.5),
        "p99_ms": percentile(0.99),
        "p999_ms": percentile(0.999),
        "attempts_per_call": round(attempts.count / count, 3) if attempts.count else None,
        "problems": sorted({problem for _, problem in failed}),
    }


class Attempts:
    """How many a client made; a sidecar's are not known to it."""

    def __init__(self) -> None:
        self.count = 0


class RoundRobin(httpx.AsyncBaseTransport):
    """What people write by hand: the next address for each attempt."""

    def __init__(self, ports: list[int], attempts: Attempts) -> None:
        self._ports = itertools.cycle(ports)
        self._attempts = attempts
        self._inner = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_keepalive_connections=None))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._attempts.count += 1
        request.url = request.url.copy_with(host="127.0.0.1", port=next(self._ports))
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


def plain(orders: Any, attempts: Attempts) -> Any:
    return httpx.AsyncClient(transport=RoundRobin(orders["ports"], attempts), timeout=TIMEOUT), "http://orders"


def retries(orders: Any, attempts: Attempts) -> Any:
    from httpx_retries import Retry, RetryTransport

    transport = RetryTransport(RoundRobin(orders["ports"], attempts), Retry(total=2, backoff_factor=0.025))
    return httpx.AsyncClient(transport=transport, timeout=TIMEOUT), "http://orders"


def sidecar(orders: Any, attempts: Attempts) -> Any:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(timeout=DEADLINE, limits=limits), f"http://127.0.0.1:{orders['sidecar']}"


def ours(orders: Any, attempts: Attempts, **policy: Any) -> Any:
    import smartclient

    marker = Path(orders["home"]) / "blind"

    def resolve(service: str) -> list[str]:
        if marker.exists():
            raise ConnectionError("the registry is down")
        return [f"127.0.0.1:{port}" for port in orders["ports"]]

    def count(event: smartclient.Event) -> None:
        attempts.count += isinstance(event, smartclient.AttemptStarted)

    client = smartclient.AsyncClient(
        smartclient.Function(resolve, interval=0.5), timeout=TIMEOUT, observers=[count],
        policy=smartclient.Policy(**policy), trust_env=False,
    )  # fmt: skip
    return client, "http://orders"


def hedging(orders: Any, attempts: Attempts) -> Any:
    import smartclient

    return ours(orders, attempts, hedge=smartclient.Hedge("p95", budget=0.05))


CLIENTS = {
    "httpx": plain,
    "httpx-retries": retries,
    "haproxy": sidecar,
    "nginx": sidecar,
    "envoy": sidecar,
    "smartclient": ours,
    "with hedging": hedging,
}

if __name__ == "__main__":
    main()
