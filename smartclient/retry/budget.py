"""The retry budget: retries as a share of calls, so that they cannot multiply an outage.

Finagle's rule (`service/RetryBudget`): each call deposits, each retry withdraws 1/ratio deposits, deposits and
withdrawals expire after `ttl`, and `min_per_second` × ttl retries are always allowed, so that a quiet client may retry
at all.
"""

from __future__ import annotations

import threading
from dataclasses import KW_ONLY, dataclass

from ..support.checks import Settings, number, seconds, setting
from ..support.sliding_counts import SlidingCounts

CALLS, RETRIES = 0, 1


@dataclass(frozen=True)
class RetryBudget(Settings):
    """How many retries a service's calls may cause.

    ratio:           retries per call (0.2: one for every five calls), 10 at most: it is no percentage
    min_per_second:  retries allowed on top, whatever the traffic
    ttl:             seconds after which a call no longer earns a retry
    """

    ratio: float = setting(0.2, number("a number from 0 to 10", lambda value: 0 <= value <= 10))
    _: KW_ONLY
    min_per_second: float = setting(10.0, number("a number from 0 up", lambda value: value >= 0))
    ttl: float = setting(10.0, seconds())


class BudgetAccount:
    """The live account of one service: calls and retries of the last `ttl` seconds."""

    __slots__ = ("_lock", "_settings", "_window")

    def __init__(self, settings: RetryBudget) -> None:
        self._settings = settings
        self._window = SlidingCounts(settings.ttl)
        self._lock = threading.Lock()

    def deposit(self, now: float) -> None:
        """Count a call."""
        with self._lock:
            self._window.add(now, CALLS)

    def left(self, now: float) -> int:
        """Retries that may be made now."""
        with self._lock:
            return max(0, int(self._earned(now)))

    def take(self, now: float) -> bool:
        """Spend one retry, if the budget has it."""
        with self._lock:
            if self._earned(now) < 1:
                return False
            self._window.add(now, RETRIES)
            return True

    def _earned(self, now: float) -> float:
        """What is not spent yet. Sums like 0.2 × 5 may not be exact: a small tolerance keeps the last retry."""
        calls, retries = self._window.sums(now)
        settings = self._settings
        return settings.ratio * calls + settings.min_per_second * settings.ttl - retries + 1e-9
