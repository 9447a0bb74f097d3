"""The retry budget: retries as a share of calls, so that they cannot multiply an outage.

Finagle's rule (`service/RetryBudget`): each call deposits, each retry withdraws 1/ratio deposits, deposits and
withdrawals expire after `ttl`, and `min_per_second` × ttl retries are always allowed, so that a quiet client may retry
at all.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from ..settings import check_number

BUCKETS = 10


@dataclass(frozen=True)
class RetryBudget:
    """How many retries a service's calls may cause.

    ratio:           retries per call (0.2: one for every five calls)
    min_per_second:  retries allowed on top, whatever the traffic
    ttl:             seconds after which a call no longer earns a retry
    """

    ratio: float = 0.2
    min_per_second: float = 10.0
    ttl: float = 10.0

    def __post_init__(self) -> None:
        for name in ("ratio", "min_per_second"):
            check_number(self, name, "a number from 0 up", lambda value: 0 <= value < float("inf"))
        check_number(self, "ttl", "seconds > 0", lambda value: 0 < value < float("inf"))


class BudgetAccount:
    """The live account of one service: calls and retries of the last `ttl` seconds, in ten buckets."""

    __slots__ = ("_calls", "_lock", "_retries", "_settings", "_slot", "_width")

    def __init__(self, settings: RetryBudget) -> None:
        self._settings = settings
        self._width = settings.ttl / BUCKETS
        self._calls = [0] * BUCKETS
        self._retries = [0] * BUCKETS
        self._slot = -1
        self._lock = threading.Lock()

    def deposit(self, now: float) -> None:
        """Count a call."""
        with self._lock:
            self._calls[self._bucket(now)] += 1

    def take(self, now: float) -> bool:
        """Pay for a retry, if there is enough to."""
        settings = self._settings
        with self._lock:
            bucket = self._bucket(now)
            earned = settings.ratio * sum(self._calls) + settings.min_per_second * settings.ttl
            # 0.2 × 5 is 1 in theory only: a hair of tolerance keeps the last retry.
            if sum(self._retries) + 1 > earned + 1e-9:
                return False
            self._retries[bucket] += 1
            return True

    def _bucket(self, now: float) -> int:
        slot = int(now / self._width)
        if slot != self._slot:
            if self._slot >= 0:
                for passed in range(self._slot + 1, min(slot, self._slot + BUCKETS) + 1):
                    self._calls[passed % BUCKETS] = self._retries[passed % BUCKETS] = 0
            self._slot = max(slot, self._slot)
        return slot % BUCKETS
