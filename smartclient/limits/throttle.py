"""Throttle: refuse here what the service would refuse anyway.

Google's SRE book, "Handling Overload", client-side throttling: refuse with probability
max(0, (requests − K × accepts) ÷ (requests + 1)), both counted over two minutes. Requests refused here count as
requests, so a service that stays down gets fewer and fewer calls, but a tenth of them always gets through, to notice
when it is back.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from random import Random

from ..support.checks import Settings, number, seconds, setting, share
from ..support.sliding_counts import SlidingCounts

REQUESTS, ACCEPTS = 0, 1
ENOUGH = 10  # requests: of fewer nothing can be said
REFUSALS = frozenset({429, 503})


@dataclass(frozen=True)
class Throttle(Settings):
    """Client-side throttling.

    k:        requests allowed for each accepted one: 2 lets twice as many through as are accepted
    window:   seconds
    at_most:  share of the calls that is refused
    """

    k: float = setting(2.0, number("a number from 1 up", lambda value: value >= 1))
    _: KW_ONLY
    window: float = setting(120.0, seconds())
    at_most: float = setting(0.9, share(one=False))


class Throttling:
    """The live state of one service."""

    def __init__(self, settings: Throttle, rng: Random) -> None:
        self._settings = settings
        self._rng = rng
        self._window = SlidingCounts(settings.window)

    def follow(self, settings: Throttle) -> None:
        """Take these from now on; what it has counted stays, if it counts over the same time."""
        if settings.window != self._settings.window:
            self._window = SlidingCounts(settings.window)
        self._settings = settings

    def refuses(self, now: float) -> str | None:
        """Why a request is refused. It counts then; one that is let through counts when its answer is known."""
        requests, accepts = self._window.sums(now)
        if requests < ENOUGH:
            return None
        share = min(self._settings.at_most, (requests - self._settings.k * accepts) / (requests + 1))
        if share <= 0 or self._rng.random() >= share:
            return None
        self._window.add(now, REQUESTS)
        return (
            f"it accepted {accepts} of {requests} requests in {self._settings.window:g} s; throttled (Policy.throttle)"
        )

    def observe(self, status: int | None, now: float) -> None:
        """An attempt ended. status: of its answer, None: there was none."""
        self._window.add(now, REQUESTS)
        if status is not None and status not in REFUSALS:
            self._window.add(now, ACCEPTS)
