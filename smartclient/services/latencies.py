"""Latencies: how long the successful attempts of a service took lately. Kept only if needed: by a deadline that
checks whether a retry fits, or a hedge by percentile.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque

WINDOW = 30.0  # seconds (Finagle: 30 s)
AT_MOST = 1000  # attempts
ENOUGH = 20  # attempts, for a percentile to mean anything
ANEW = 0.1  # seconds after which a percentile is reckoned anew


class Latencies:
    """The latencies of one service. Failures are not counted: fast ones would make it look fast."""

    __slots__ = ("_lock", "_reckoned_at", "_sorted", "_taken")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: deque[tuple[float, float]] = deque(maxlen=AT_MOST)
        self._sorted: list[float] = []
        self._reckoned_at = float("-inf")

    def add(self, latency: float, now: float) -> None:
        self._taken.append((now, latency))

    def percentile(self, share: float, now: float) -> float | None:
        """The latency that this share of the attempts stayed within; None: too few are known."""
        with self._lock:
            if now - self._reckoned_at >= ANEW or len(self._sorted) < ENOUGH:
                taken = tuple(self._taken)
                recent = taken[bisect_left(taken, (now - WINDOW, 0.0)) :]
                self._sorted = sorted(latency for _, latency in recent)
                self._reckoned_at = now
            known = self._sorted
            return known[min(int(share * len(known)), len(known) - 1)] if len(known) >= ENOUGH else None
