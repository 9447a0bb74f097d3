"""BalancedTransport's driver: performs the effects of a flow with blocking calls."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Any, ClassVar

from ..calls.effects import Discard, Effect, Race, Read, Send, Sleep, WaitForNodes, WaitForTurn
from ..connections.sync import SyncConnections
from ..support.waiting import Places, Signal, Waiter
from .base import LOST_INTERVAL, TransportBase
from .race_threads import RaceThreads


class SyncTransport(TransportBase):
    """Subclassed once per flavour, over its `BaseTransport`."""

    _connections_class: ClassVar[Any] = SyncConnections
    _default_sleep = staticmethod(time.sleep)

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._race_threads = RaceThreads()

    def handle_request(self, request: Any) -> Any:
        flow = self._flow(request)
        if flow is not None:
            return self._drive(request, flow.run())
        if self._fallback is None:
            raise self._not_a_service(request)
        return self._fallback.handle_request(request)

    def wait_until_ready(self, service: str, timeout: float) -> None:
        """Wait until a service has instances. Raises NoInstances."""
        until = self._clock() + timeout
        while (waits := self._not_ready(service, until)) is not None:
            _wait(*waits, self._finish_lost)

    def close(self) -> None:
        """Close all connections, those in use too; stop watching."""
        with ExitStack() as stack:  # from the last to the first; each step runs even if others fail
            if self._fallback is not None:
                stack.callback(self._fallback.close)
            stack.callback(self._race_threads.close)
            stack.callback(self._cut_active)
            stack.callback(self._stop)

    def _cut_active(self) -> None:
        for attempt, link in tuple(self._dialing.active.items()):
            try:
                if link is not None:
                    link.backend.cut()  # closing alone would not wake a thread that reads from it
                    attempt.node.connections.drop(link)
            finally:
                attempt.finish()
        self._dialing.active.clear()
        self._finish_lost()

    def _after_fork(self) -> None:
        super()._after_fork()
        self._race_threads = RaceThreads()

    def _drive(self, request: Any, flow: Generator[Effect, Any, Any]) -> Any:
        try:
            effect = next(flow)
            while True:
                try:
                    result = [self._perform(request, effect)]
                except BaseException as error:
                    effect = flow.throw(error)
                else:
                    # Taken out: a race's may be an error, whose traceback this frame will be in.
                    effect = flow.send(result.pop())
        except StopIteration as done:
            return done.value

    def _perform(self, request: Any, effect: Effect) -> Any:
        if isinstance(effect, Send):
            attempt = effect.attempt
            node = attempt.node
            connections = node.connections or self._connections_of(node, attempt.service)
            return connections.send(request, effect)
        if isinstance(effect, Race):
            return self._race_threads.race(effect, lambda attempt: self._drive(request, effect.run(attempt)))
        if isinstance(effect, Read):
            return effect.response.stream.read_ahead()
        if isinstance(effect, Discard):
            return effect.response.close()
        if isinstance(effect, Sleep):
            return self._sleep(effect.seconds)
        if isinstance(effect, WaitForTurn):
            return _wait(effect.places, effect.timeout, self._finish_lost)
        assert isinstance(effect, WaitForNodes)
        return _wait(effect.service.ready, effect.timeout, self._finish_lost)


def _wait(what: Places | Signal, timeout: float | None, now_and_then: Callable[[], None]) -> bool:
    """Wait to be woken by it; whether it came in time."""
    woken = threading.Event()

    def wake() -> bool:
        woken.set()
        return True

    waiter = Waiter(wake)
    if not what.join(waiter):
        return True
    came = taken = False
    try:
        ends_at = math.inf if timeout is None else time.monotonic() + timeout
        while not came and (left := ends_at - time.monotonic()) > 0:
            came = woken.wait(min(left, LOST_INTERVAL))
            now_and_then()
        taken = came
        return taken
    finally:
        if not taken:  # also if it came, and somebody pressed Ctrl-C
            what.leave(waiter)
