"""GilBreaks: long work in a discovery thread lets other threads run now and then.

The interpreter's own turns last 5 ms, and a call may have to wait for several of them; with this, hardly any lasts
longer than half a millisecond. Sleeping for 0 seconds is not enough: a thread that releases the interpreter and asks
for it again at once gets it before the other thread is awake.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
TURN = 0.0005  # seconds
PAUSE = 1e-5  # seconds
OFTEN = 16  # items


class GilBreaks:
    """Call it for each item, or each step, of long work. It yields if it has worked for a turn."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = 0.0

    def __call__(self) -> None:
        now = time.perf_counter()
        if now - self._since > TURN:
            time.sleep(PAUSE)
            self._since = time.perf_counter()

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items; other threads may run in between."""
        for number, item in enumerate(items):
            if not number % OFTEN:
                self()
            yield item
