"""Circuit: while every instance fails, calls fail at once, with the reason, between probing calls.

Off by default, and not to be switched on lightly. Ejection keeps calls that others can serve away from a bad
instance; a circuit keeps all calls away from the whole service. It is right where a failure costs a caller a full
timeout and the caller has something else to do; it is wrong where a failure is a matter of some requests (one bad
tenant's calls may cut off all others'), and it makes every recovery up to `probe` seconds later.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from ..statuses import BAD_GATEWAYS
from ..support.checks import Settings, count, seconds, setting


@dataclass(frozen=True)
class Circuit(Settings):
    """When to give up on a whole service for a while.

    failures:  attempts in a row, on any instances, that got no answer, or 502, 503 or 504; at least one for each
               instance. Any other answer resets the count
    probe:     seconds between calls that are let through to find out
    """

    failures: int = setting(10, count())
    _: KW_ONLY
    probe: float = setting(1.0, seconds(most=3600))


class Breaker:
    """The live state of one service. open: calls fail at once, but for the probing ones"""

    def __init__(self, settings: Circuit) -> None:
        self.open: bool = False
        self._settings = settings
        self._failures = 0
        self._reason = ""
        self._next_probe = 0.0

    def follow(self, settings: Circuit) -> None:
        """Take these from now on; what it knows stays."""
        self._settings = settings

    def refuses(self, members: int, now: float) -> str | None:
        """Why a call is not let through."""
        if self._failures < max(self._settings.failures, members):
            return None
        if now >= self._next_probe:
            self._next_probe = now + self._settings.probe
            return None
        left = self._next_probe - now
        return f"the last {self._failures} attempts failed ({self._reason}); next try in {left:.1f} s (Policy.circuit)"

    def observe(self, status: int | None, reason: str, members: int, now: float) -> None:
        """An attempt ended. reason: of its failure; status: of its answer, None: there was none."""
        if status is not None and status not in BAD_GATEWAYS:
            self._failures, self.open = 0, False
            return
        self._failures += 1
        self._reason = reason
        if not self.open and self._failures >= max(self._settings.failures, members):
            self.open = True
            self._next_probe = now + self._settings.probe
