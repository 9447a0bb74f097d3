"""Breath: long work in a discovery thread lets other threads run now and then.

The interpreter's own turns last 5 ms, and a call may have to wait for several of them; after this none lasts longer
than a fraction of a millisecond.
"""

from __future__ import annotations

import time

EVERY = 64


class Breath:
    """Call it for each item of long work."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = 0

    def __call__(self) -> None:
        self._count += 1
        if self._count % EVERY == 0:
            time.sleep(0)
