"""Limits: how many attempts a service may have in progress at once, by number or by what its latency says.

Bulkheads (Nygard, "Release It!"; Envoy: circuit breakers' max_requests and max_pending_requests): one slow service
cannot take all threads and connections of its callers.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from ..support.checks import Settings, count, either, kind, number, optional, seconds, setting, share, wrong

SHORT, LONG = 0.1, 0.002  # share of the newest sample in the recent latency, and in the usual one
QUEUE = 4  # attempts that may wait over there, so that the limit can grow
RECOVERY = 0.95  # of the usual latency, for each sample, while the recent one is far below it


@dataclass(frozen=True)
class AdaptiveLimit(Settings):
    """A limit that goes up while the service answers as fast as usual, and down when it takes longer.

    Netflix's concurrency-limits, `Gradient2Limit`: limit × min(1, tolerance × usual latency ÷ recent latency) + 4,
    smoothed. Vegas uses the lowest latency ever seen, which is hardly ever reached
    if latencies vary: in `tests/bench/limits.py` it leaves a third of the capacity unused, this one a twentieth.

    initial:    attempts in progress at first
    least, most: bounds
    tolerance:  how much slower than usual is still fine
    smoothing:  share of the newest value
    """

    initial: int = setting(20, count())
    _: KW_ONLY
    least: int = setting(4, count())
    most: int = setting(1000, count())
    tolerance: float = setting(1.2, number("a number from 1 up", lambda value: value >= 1))
    smoothing: float = setting(0.2, share(zero=False))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.least <= self.initial <= self.most:
            raise wrong("AdaptiveLimit.initial", f"{self.least} to {self.most}", self.initial)


MOST_IN_FLIGHT = either("a whole number from 1 up, an AdaptiveLimit", count(), kind(AdaptiveLimit))


@dataclass(frozen=True)
class Limits(Settings):
    """How much of a service one client uses at once.

    max_in_flight:  attempts in progress, of all instances together; an `AdaptiveLimit` finds the number itself
    per_node:       attempts in progress on one instance; when all are full, calls queue
    queue:          calls that may wait for a place; one more raises `Overloaded` at once
    queue_timeout:  seconds that a call waits for a place, then it raises `Overloaded`
    """

    max_in_flight: int | AdaptiveLimit | None = setting(None, optional(MOST_IN_FLIGHT))
    _: KW_ONLY
    per_node: int | None = setting(None, optional(count()))
    queue: int = setting(100, count(0))
    queue_timeout: float = setting(1.0, seconds(zero=True))


class Gradient:
    """The live state of an `AdaptiveLimit`."""

    __slots__ = ("_limit", "_long", "_settings", "_short")

    def __init__(self, settings: AdaptiveLimit) -> None:
        self._settings = settings
        self._limit = float(settings.initial)
        self._short = self._long = 0.0

    @property
    def limit(self) -> int:
        return int(self._limit)

    def observe(self, latency: float, in_flight: int, failed: bool) -> None:
        """An attempt ended. in_flight: with it."""
        settings = self._settings
        if failed:  # it cannot handle what it does not answer
            self._limit = max(float(settings.least), self._limit * 0.9)
            return
        latency = max(latency, 1e-6)  # coarse clocks say 0
        self._short = self._short + SHORT * (latency - self._short) if self._short else latency
        self._long = self._long + LONG * (latency - self._long) if self._long else latency
        if self._long > 2 * self._short:
            self._long *= RECOVERY
        if in_flight < self._limit / 2:  # too few to show how much it can handle
            return
        gradient = max(0.5, min(1.0, settings.tolerance * self._long / self._short))
        wanted = self._limit * gradient + QUEUE
        limit = self._limit + settings.smoothing * (wanted - self._limit)
        self._limit = min(max(limit, settings.least), settings.most)
