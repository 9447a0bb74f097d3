"""A race of hedged attempts in tasks of their own, under asyncio and trio. The loser is cancelled.

A cancellation of the call is never lost. On asyncio a cancel scope cannot guarantee this: if its own cancellation (a
timer, the end of a group) and the call's come in the same loop iteration, they merge into one, and the scope treats it
as its own. So on asyncio no scope is used for timeouts here, and the attempts are plain tasks.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio

from ..calls.effects import Ended, Race
from ..calls.race import Rules
from ..services.attempt import Attempt
from ..support.loops import current_loop, wait_for


async def race(race: Race, run: Callable[[Attempt], Awaitable[Any]]) -> Ended:
    """Perform a race. run: an attempt, to its response."""
    return await TaskRace(race, run).result()


class TaskRace:
    """One race.

    An ended attempt is in exactly one place, `_ended` or `_current`, until it is settled or the result, so that its
    connection and its place are always released.
    """

    def __init__(self, race: Race, run: Callable[[Attempt], Awaitable[Any]]) -> None:
        self._race = race
        self._run = run
        self._rules = Rules(race, time.monotonic())
        self._ended: deque[Ended] = deque()
        self._current: Ended | None = None
        self._heard = anyio.Event()
        self._error: BaseException | None = None  # of the flow's: a task group would wrap it

    async def result(self) -> Ended:
        try:
            async with _group() as group:
                group.start_soon(self._compete, self._race.first)
                try:
                    await self._decide(group)
                except Exception as error:
                    self._error = error
                finally:
                    for attempt in self._rules.out:
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
        rules, ended = self._rules, self._ended
        while True:
            if not ended:
                await wait_for(self._heard, rules.patience(time.monotonic()))
            self._heard = anyio.Event()
            self._current = last = ended.popleft() if ended else None
            if last is not None and rules.wins(last):
                return
            another = rules.another(last, time.monotonic())
            if another is not None:
                group.start_soon(self._compete, another)
            if last is not None:
                if rules.counts(last):
                    return
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


def _group() -> AbstractAsyncContextManager[Any]:
    return PlainTasks() if isinstance(current_loop(), asyncio.AbstractEventLoop) else anyio.create_task_group()


class PlainTasks:
    """As much of a task group as a race needs, of asyncio's own tasks. They are cancelled and waited for at its end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self.cancel_scope = self

    async def __aenter__(self) -> PlainTasks:
        return self

    def start_soon(self, function: Callable[[Attempt], Any], attempt: Attempt) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(function(attempt)))

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def __aexit__(self, *error: object) -> None:
        cancelled = None
        while waited_for := [task for task in self._tasks if not task.done()]:
            try:
                with anyio.CancelScope(shield=True):
                    await asyncio.wait(waited_for)
            except asyncio.CancelledError as caught:  # once more: they still have their connections to close
                cancelled = caught
        try:
            if cancelled is not None:
                raise cancelled
        finally:
            cancelled = None
