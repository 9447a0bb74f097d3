"""Breath: long work in a discovery thread lets other threads run now and then.

The interpreter's own turns last 5 ms, and a call may have to wait for several of them; after this hardly one lasts
longer than half a millisecond.
"""

from __future__ import annotations

import time

TURN = 0.0005  # seconds


class Breath:
    """Call it for each item, or each step, of long work. It yields if it has worked for a turn."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = 0.0

    def __call__(self) -> None:
        now = time.perf_counter()
        if now - self._since > TURN:
            time.sleep(0)
            self._since = time.perf_counter()
