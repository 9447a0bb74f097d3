"""Event loops seen from outside: which one runs here, and how to reach it from another thread. asyncio and trio.

A loop is known by its key: the asyncio loop itself, or the trio token of its run.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.metadata import version
from typing import Any

import anyio

_tasks: set[Any] = set()  # asyncio keeps only weak references to its tasks


def current_loop() -> Any:
    """The key of the loop that runs this task. Raises RuntimeError outside of one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules.get("trio")
        if trio is None:
            raise
        return trio.lowlevel.current_trio_token()


def call_soon(loop: Any, function: Callable[[], object]) -> bool:
    """Have that loop call a function; false if it has ended."""
    try:
        if isinstance(loop, asyncio.AbstractEventLoop):
            loop.call_soon_threadsafe(function)
        else:
            loop.run_sync_soon(function)
    except RuntimeError:  # asyncio: the loop is closed; trio.RunFinishedError is a RuntimeError, too
        return False
    return True


def call_later(loop: Any, seconds: float, function: Callable[[], object]) -> None:
    """Have the running loop call a function after a while, if it still runs then."""
    if isinstance(loop, asyncio.AbstractEventLoop):
        loop.call_later(seconds, function)
        return
    trio = sys.modules["trio"]

    async def later() -> None:
        await trio.sleep(seconds)
        function()

    trio.lowlevel.spawn_system_task(later)


def cancellations() -> int:
    """How many cancellations of the running task were requested, without those of cancel scopes, which undo theirs. 0
    if unknown: on trio (which loses none), before Python 3.11, and with anyio 4.2 and 4.3, whose nested scopes do not
    undo all of them.
    """
    try:
        task: Any = asyncio.current_task()
    except RuntimeError:  # trio
        return 0
    return int(task.cancelling()) if _counts_cancellations() else 0


@cache
def _counts_cancellations() -> bool:
    return sys.version_info >= (3, 11) and not version("anyio").startswith(("4.2.", "4.3."))


async def wait_for(event: anyio.Event, seconds: float | None) -> None:
    """Wait until it is set, and set it after `seconds`. Not by a cancel scope: on asyncio, if its timeout and a
    cancellation of its task fall into the same loop iteration, it treats both as its own, and the cancellation is lost.
    """
    loop = current_loop()
    if seconds is None:
        await event.wait()
    elif isinstance(loop, asyncio.AbstractEventLoop):
        timer = loop.call_later(seconds, event.set)
        try:
            await event.wait()
        finally:
            timer.cancel()
    else:
        with anyio.move_on_after(seconds):
            await event.wait()
        event.set()


def has_ended(loop: Any) -> bool:
    if isinstance(loop, asyncio.AbstractEventLoop):
        return loop.is_closed()
    return not call_soon(loop, _nothing)


def spawn(loop: Any, function: Callable[[], Awaitable[object]], otherwise: Callable[[], object]) -> None:
    """Have that loop run an async function on its own, which must not raise; call `otherwise` if it does not: it has
    ended, or is about to, and cancels what has not begun.
    """

    def over(task: asyncio.Future[object]) -> None:
        _tasks.discard(task)
        if task.cancelled():
            otherwise()

    def start() -> None:
        try:
            if isinstance(loop, asyncio.AbstractEventLoop):
                task = asyncio.ensure_future(function())
                _tasks.add(task)
                task.add_done_callback(over)
            else:
                sys.modules["trio"].lowlevel.spawn_system_task(function)
        except RuntimeError:  # trio, just about to end
            otherwise()

    if not call_soon(loop, start):
        otherwise()


def _nothing() -> None:
    pass
