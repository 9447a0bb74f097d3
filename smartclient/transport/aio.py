"""AsyncBalancedTransport's driver: performs the effects of a flow with `await`, under asyncio and trio."""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, ClassVar

import anyio

from ..calls.effects import Discard, Effect, Race, Read, Send, Sleep, WaitForNodes, WaitForTurn
from ..calls.state import Later
from ..connections.aio import AsyncConnections, quietly
from ..health.stalls import TICK
from ..services.attempt import Attempt
from ..support.loops import call_later, call_soon, cancellations, current_loop, has_ended, wait_for
from ..support.waiting import Places, Signal, Waiter
from .base import LOST_INTERVAL, TransportBase
from .race_tasks import race


class AsyncTransport(TransportBase):
    """Subclassed once per flavour, over its `AsyncBaseTransport`."""

    _connections_class: ClassVar[Any] = AsyncConnections
    _default_sleep = staticmethod(anyio.sleep)

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._watched: set[Any] = set()  # loops whose timers are looked at
        self._loops: set[Any] = set()  # where it was used

    async def handle_async_request(self, request: Any) -> Any:
        flow = self._flow(request)
        if flow is not None:
            if not self._watched or current_loop() not in self._watched:
                self._look_for_stalls()
            return await self._drive(request, flow.run())
        if self._fallback is None:
            raise self._not_a_service(request)
        return await self._fallback.handle_async_request(request)

    async def wait_until_ready(self, service: str, timeout: float) -> None:
        """Wait until a service has instances. Raises NoInstances."""
        until = self._clock() + timeout
        while (waits := self._not_ready(service, until)) is not None:
            await self._wait(*waits)

    async def aclose(self) -> None:
        """Close all connections, those in use too; stop watching. In a cancelled scope as well."""
        with anyio.CancelScope(shield=True):
            try:
                for service in self._services:
                    for node in service.nodes:
                        if node.connections is not None:
                            await quietly(node.connections.aclose)
                self._stop()
                for attempt, link in tuple(self._dialing.active.items()):
                    if link is not None:
                        await quietly(partial(attempt.node.connections.end, link))
                    attempt.finish()
                self._dialing.active.clear()
                self._finish_lost()
            finally:
                if self._fallback is not None:
                    await self._fallback.aclose()

    def _look_for_stalls(self) -> None:
        """A timer while calls are in progress: its delay is how long the loop was blocked."""
        loop = current_loop()
        if loop not in self._loops:
            self._forget_ended_loops()
            self._loops.add(loop)
        expected = time.monotonic() + TICK
        this = weakref.ref(self)

        def check() -> None:
            transport = this()
            if transport is not None:
                transport._services.stalls.late(time.monotonic() - expected)
                transport._watched.discard(loop)
                transport._finish_lost()
                if transport._services.in_flight:
                    transport._look_for_stalls()

        self._watched = {known for known in self._watched if not has_ended(known)} | {loop}
        call_later(loop, TICK, check)

    def _forget_ended_loops(self) -> None:
        """Close the connections of loops that have ended: `asyncio.run` again and again leaves them behind."""
        for loop in [known for known in tuple(self._loops) if has_ended(known)]:
            self._loops.discard(loop)
            for service in self._services:
                for node in service.nodes:
                    if node.connections is not None:
                        node.connections.forget_loop(loop)
            for attempt, link in tuple(self._dialing.active.items()):
                if link is not None and link.backend.loop is loop:  # nobody will go on with it
                    self._dialing.active.pop(attempt, None)
                    attempt.finish()
                    link.backend.abandon()

    async def _drive(self, request: Any, flow: Generator[Effect, Any, Any]) -> Any:
        cancelled_before = cancellations()
        try:
            effect = next(flow)
            while True:
                try:
                    if type(effect) is Send:
                        attempt = effect.attempt
                        node = attempt.node
                        connections = node.connections or self._connections_of(node, attempt.service)
                        result = [await connections.send(request, effect)]
                        if not attempt.reused and cancellations() > cancelled_before:
                            # anyio connects in a task group, whose end may treat the call's cancellation as its own.
                            with anyio.CancelScope(shield=True):
                                await result.pop().aclose()
                            raise asyncio.CancelledError
                    elif type(effect) is Race:
                        result = [await race(effect, partial(self._run, request, effect))]
                    else:
                        result = [await self._perform(effect)]
                except BaseException as error:
                    if isinstance(error, Exception) and cancellations() > cancelled_before:
                        # A timer of httpcore in the same loop iteration: anyio's scope treated both as its own.
                        effect = flow.throw(asyncio.CancelledError())
                    else:
                        effect = flow.throw(error)
                else:
                    # Taken out: a race's may be an error, whose traceback this frame will be in.
                    effect = flow.send(result.pop())
        except StopIteration as done:
            return done.value

    async def _run(self, request: Any, effect: Race, attempt: Attempt) -> Any:
        return await self._drive(request, effect.run(attempt))

    async def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, Read):
            return await effect.response.stream.read_ahead()
        if isinstance(effect, Discard):
            return await effect.response.aclose()
        if isinstance(effect, Sleep):
            return await self._sleep(effect.seconds)
        if isinstance(effect, WaitForTurn):
            return await self._wait(effect.places, effect.timeout)
        assert isinstance(effect, WaitForNodes)
        return await self._wait(effect.service.ready, effect.timeout)

    async def _wait(self, what: Places | Signal, timeout: float | None) -> bool:
        return await _wait(what, timeout, self._finish_lost, self._dialing.lost)


async def _wait(
    what: Places | Signal, timeout: float | None, now_and_then: Callable[[], None], lost: deque[Any]
) -> bool:
    """Wait to be woken by it, from whichever thread; whether it came in time. lost: for who leaves late"""
    loop = current_loop()
    ends_at = math.inf if timeout is None else time.monotonic() + timeout
    came = taken = False
    woken = anyio.Event()

    def wake() -> None:
        nonlocal came
        came = True
        woken.set()

    waiter = Waiter(lambda: call_soon(loop, wake))
    if not what.join(waiter):
        return True
    try:
        while not came and (left := ends_at - time.monotonic()) > 0:
            woken = anyio.Event()
            await wait_for(woken, min(left, LOST_INTERVAL))
            now_and_then()
        taken = came
        return taken
    except GeneratorExit:
        taken = True
        lost.append(Later(partial(what.leave, waiter)))
        raise
    finally:
        if not taken:  # also if it was woken and the call was cancelled in the same loop iteration
            what.leave(waiter)
