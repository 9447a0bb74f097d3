"""The retry budget: retries as a share of calls, so that they cannot multiply an outage.

Finagle's rule (`service/RetryBudget`): each call deposits, each retry withdraws 1/ratio deposits, deposits and
withdrawals expire after `ttl`, and `min_per_second` × ttl retries are always allowed, so that a quiet client may retry
at all.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from ..settings import check_number
from ..window import Window

CALLS, RETRIES = 0, 1


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
    """The live account of one service: calls and retries of the last `ttl` seconds."""

    __slots__ = ("_lock", "_settings", "_window")

    def __init__(self, settings: RetryBudget) -> None:
        self._settings = settings
        self._window = Window(settings.ttl)
        self._lock = threading.Lock()

    def deposit(self, now: float) -> None:
        """Count a call."""
        with self._lock:
            self._window.add(now, CALLS)

    def take(self, now: float) -> bool:
        """Pay for a retry, if there is enough to."""
        settings = self._settings
        with self._lock:
            calls, retries = self._window.sums(now)
            earned = settings.ratio * calls + settings.min_per_second * settings.ttl
            # 0.2 × 5 is 1 in theory only: a hair of tolerance keeps the last retry.
            if retries + 1 > earned + 1e-9:
                return False
            self._window.add(now, RETRIES)
            return True
