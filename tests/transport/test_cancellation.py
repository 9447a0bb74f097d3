"""A call cancelled at each of its await points leaves nothing behind: asyncio's task cancel, trio's scope, anyio's
scope.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any

import anyio
import httpx
import pytest
import trio
import trustme
from inside import balanced_of, dialing_of, places_of, service_of

from smartclient import AsyncBalancedTransport, AsyncClient, OutlierDetection, Policy
from smartclient.testing import FAILING, Behaviour, Fleet

URL = "http://orders/"


class Interrupted:
    """Awaits something, and calls `interrupt` just before its n-th step."""

    def __init__(self, coroutine: Any, at: int, interrupt: Callable[[], object]) -> None:
        self._coroutine = coroutine
        self._at = at
        self._interrupt = interrupt
        self.steps = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._coroutine.__await__()
        step: Callable[[], Any] = lambda: inner.send(None)  # noqa: E731
        while True:
            self.steps += 1
            if self.steps == self._at:
                self._interrupt()
            try:
                message = step()
            except StopIteration as done:
                return done.value
            try:
                answer = yield message
            except BaseException as error:
                step = lambda error=error: inner.throw(error)  # type: ignore[misc]  # noqa: E731
            else:
                step = lambda answer=answer: inner.send(answer)  # type: ignore[misc]  # noqa: E731


async def by_task(make: Callable[[], Any], at: int) -> int:
    interrupted = None

    async def run() -> None:
        nonlocal interrupted
        task = asyncio.current_task()
        assert task is not None
        interrupted = Interrupted(make(), at, task.cancel)
        await interrupted

    await asyncio.wait([asyncio.ensure_future(run())])
    assert interrupted is not None
    return interrupted.steps


async def by_trio_scope(make: Callable[[], Any], at: int) -> int:
    with trio.CancelScope() as scope:
        interrupted = Interrupted(make(), at, scope.cancel)
        await interrupted
    return interrupted.steps


async def by_anyio_scope(make: Callable[[], Any], at: int) -> int:
    with anyio.CancelScope() as scope:
        interrupted = Interrupted(make(), at, scope.cancel)
        await interrupted
    return interrupted.steps


WAYS: dict[str, tuple[str, Callable[[Any, int], Awaitable[int]]]] = {
    "asyncio task": ("asyncio", by_task),
    "trio scope": ("trio", by_trio_scope),
    "anyio scope": ("asyncio", by_anyio_scope),
}
POLICY = Policy(outlier=OutlierDetection(consecutive_local_origin_failure=None, consecutive_5xx=None))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("way", WAYS)
def test_cancelled_anywhere(way: str, tls: bool) -> None:
    backend, interrupt = WAYS[way]
    authority = trustme.CA()
    server_context = client_context = None
    if tls:
        server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("orders").configure_cert(server_context)
        client_context = ssl.create_default_context()
        authority.configure_trust(client_context)

    with Fleet(3, Behaviour(body=b"y" * 300_000), tls=server_context) as fleet:
        fleet[0].behave(FAILING)
        fleet[1].refuse()

        async def main() -> None:
            at, longest = 1, 0
            while True:
                verify: Any = True if client_context is None else client_context
                scheme = "https" if tls else "http"
                async with AsyncClient(
                    {"orders": fleet.addresses}, verify=verify, policy=POLICY, trust_env=False
                ) as client:
                    steps = await interrupt(lambda client=client, url=f"{scheme}://orders/": client.get(url), at)
                    transport: Any = balanced_of(client)
                    nodes = service_of(transport).nodes
                    assert all(node.in_flight == 0 for node in nodes), at
                    assert places_of(transport).taken == 0
                    assert not dialing_of(transport).active
                    assert not any(node.health.local_failures for node in nodes if node.instance.port == fleet[2].port)
                    # What is idle works, and works for the next call.
                    assert (await client.get(f"{scheme}://orders/")).status_code == 200
                await _until(lambda: fleet.open == 0)
                longest = max(longest, steps)
                at += 1
                if at > longest + 1 and at > 8:
                    return

        anyio.run(main, backend=backend)


def test_cancelled_while_queueing() -> None:
    """A place that is granted to a waiter just being cancelled is passed on."""
    with Fleet(1, Behaviour(delay=0.01)) as fleet:

        async def main() -> None:
            limits = httpx.Limits(max_connections=1)
            async with AsyncClient({"orders": fleet.addresses}, limits=limits, trust_env=False) as client:
                tasks = [asyncio.ensure_future(client.get(URL)) for _ in range(40)]
                for n, task in enumerate(tasks):
                    await asyncio.sleep(0.004)
                    if n % 2:
                        task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                good = [result for result in results if isinstance(result, httpx.Response)]
                assert len(good) >= 20
                transport: Any = balanced_of(client)
                assert places_of(transport).taken == 0

        asyncio.run(main())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_place_given_in_the_turn_of_the_cancellation_is_passed_on(backend: str) -> None:

    async def main() -> None:
        async def call() -> None:
            with contextlib.suppress(httpx.ConnectError):
                await transport.handle_async_request(httpx.Request("GET", URL))

        transport = AsyncBalancedTransport({"orders": ["127.0.0.1:1"]}, limits=httpx.Limits(max_connections=1))
        places = places_of(transport)
        assert places is not None
        assert places.try_take()
        for turns in range(5):  # between the place and the cancellation
            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await _until(lambda: places.waiting)
                places.release()
                for _ in range(turns):
                    if places.taken:
                        await lowlevel_turn()
                group.cancel_scope.cancel()
            assert places.taken == 0, turns
            assert places.try_take()
        await transport.aclose()

    lowlevel_turn: Any = partial(asyncio.sleep, 0) if backend == "asyncio" else trio.lowlevel.checkpoint
    anyio.run(main, backend=backend)


async def _until(condition: Any, seconds: float = 5) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.002)
