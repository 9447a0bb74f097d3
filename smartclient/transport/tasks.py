"""A race of hedged attempts in tasks of their own, under asyncio and trio. The loser is cancelled."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from ..call import Attempt
from ..effects import Ended, Race


async def race(race: Race, run: Callable[[Attempt], Awaitable[Any]]) -> Ended:
    """Perform a race. run: an attempt, to its response."""
    return await Track(race, run).result()


class Track:
    """One race.

    What has ended is in exactly one place, `_ended` or `_current`, until it is settled or the result, so that
    whatever happens its connection and its place are given back.
    """

    def __init__(self, race: Race, run: Callable[[Attempt], Awaitable[Any]]) -> None:
        self._race = race
        self._run = run
        self._out = {race.first}
        self._ended: deque[Ended] = deque()
        self._current: Ended | None = None
        self._heard = anyio.Event()
        self._error: BaseException | None = None  # of the flow's: the group would wrap it

    async def result(self) -> Ended:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._compete, self._race.first)
                try:
                    await self._decide(group)
                except Exception as error:
                    self._error = error
                finally:
                    for attempt in self._out:
                        self._race.overtaken(attempt)
                    group.cancel_scope.cancel()
            if self._error is not None:
                raise self._error
            assert self._current is not None
            result, self._current = self._current, None
            return result
        finally:
            self._error = None
            if self._ended or self._current is not None:
                with anyio.CancelScope(shield=True):
                    await self._forget()

    async def _compete(self, attempt: Attempt) -> None:
        response = error = None
        try:
            response = await self._run(attempt)
        except anyio.get_cancelled_exc_class():
            attempt.finish()
            raise
        except BaseException as caught:
            error = caught
        self._ended.append((attempt, response, error))
        self._heard.set()
        error = None  # else it would be held by a frame of its own traceback

    async def _decide(self, group: Any) -> None:
        """Until `_current` is what counts."""
        race, out, ended = self._race, self._out, self._ended
        may_start, due = True, time.monotonic() + race.after
        while True:
            with anyio.move_on_after(max(0.0, due - time.monotonic()) if may_start else None):
                if not ended:
                    await self._heard.wait()
            self._heard = anyio.Event()
            self._current = last = ended.popleft() if ended else None
            if last is not None:
                out.discard(last[0])
                if last[2] is None and race.good(last[1]):
                    return
            if may_start and (last is None or not out):
                another = race.more()
                may_start = another is not None
                if another is not None:
                    due = time.monotonic() + race.after
                    out.add(another)
                    group.start_soon(self._compete, another)
            if last is not None:
                if not out:
                    return
                race.settled(*last)
                if last[1] is not None:
                    await last[1].aclose()
                self._current = None

    async def _forget(self) -> None:
        for attempt, response, _ in [*self._ended, *([self._current] if self._current is not None else ())]:
            try:
                if response is not None:
                    await response.aclose()
            finally:
                attempt.finish()
