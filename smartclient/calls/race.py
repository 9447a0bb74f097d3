"""The rules of a race between attempts: which one wins, when another one starts, what losers are told. Waiting
for two answers is the drivers' task.
"""

from __future__ import annotations

from ..services.attempt import Attempt
from .effects import Ended, Race


class Rules:
    """Of one race. out: attempts that are under way"""

    def __init__(self, race: Race, now: float) -> None:
        self.out: set[Attempt] = {race.first}
        self._race = race
        self._may_start = True
        self._due = now + race.after

    def patience(self, now: float) -> float | None:
        """Seconds until another attempt may start; None: none will."""
        return max(0.0, self._due - now) if self._may_start else None

    def wins(self, ended: Ended) -> bool:
        """An attempt has ended. Whether it wins: others may still be under way."""
        self.out.discard(ended[0])
        return ended[2] is None and self._race.good(ended[1])

    def another(self, ended: Ended | None, now: float) -> Attempt | None:
        """The next attempt, if its time has come or all running ones have failed."""
        if not self._may_start or (ended is not None and self.out):
            return None
        attempt = self._race.more()
        self._may_start = attempt is not None
        if attempt is not None:
            self._due = now + self._race.after
            self.out.add(attempt)
        return attempt

    def not_started(self, attempt: Attempt) -> None:
        """The driver has nothing to run it with. No more are started."""
        self.out.discard(attempt)
        self._may_start = False
        self._race.overtaken(attempt)
        attempt.finish()

    def counts(self, ended: Ended) -> bool:
        """Whether an attempt that did not win is the race's outcome all the same; else the flow is told that it is
        settled, and its response is to be closed.
        """
        if not self.out:
            return True
        self._race.settled(*ended)
        return False
