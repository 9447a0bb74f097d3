"""A race of hedged attempts in tasks of their own, under asyncio and trio. The loser is cancelled."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from ..call import Attempt
from ..effects import Race

Ended = tuple[Attempt, Any, "Exception | None"]


async def race(race: Race, run: Callable[[Attempt], Awaitable[Any]]) -> Ended:
    """Perform a race. run: an attempt, to its response."""
    ended: deque[Ended] = deque()
    out = {race.first}
    heard = anyio.Event()

    async def compete(attempt: Attempt) -> None:
        response = error = None
        try:
            response = await run(attempt)
        except Exception as caught:
            error = caught
        except BaseException:
            attempt.finish()
            raise
        ended.append((attempt, response, error))
        heard.set()

    async def decide() -> Ended:
        nonlocal heard
        may_start, due = True, time.monotonic() + race.after
        while True:
            with anyio.move_on_after(max(0.0, due - time.monotonic()) if may_start else None):
                if not ended:
                    await heard.wait()
            heard = anyio.Event()
            last = ended.popleft() if ended else None
            if last is not None:
                out.discard(last[0])
                if last[2] is None and race.good(last[1]):
                    return last
            if may_start and (last is None or not out):
                another = race.more()
                may_start = another is not None
                if another is not None:
                    due = time.monotonic() + race.after
                    out.add(another)
                    group.start_soon(compete, another)
            if last is not None:
                if not out:
                    return last
                race.settled(*last)
                if last[1] is not None:
                    await last[1].aclose()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(compete, race.first)
            try:
                result = await decide()
            finally:
                for attempt in out:
                    race.overtaken(attempt)
                group.cancel_scope.cancel()
        return result
    finally:
        if ended:
            with anyio.CancelScope(shield=True):
                for attempt, response, _ in ended:
                    if response is not None:
                        await response.aclose()
                    attempt.finish()
