"""A clock that is set by hand."""

from __future__ import annotations


class VirtualClock:
    """A clock that moves only when told, or when somebody sleeps by it.

    Give it to a transport: `BalancedTransport(…, clock=clock, sleep=clock.sleep)` (async: `sleep=clock.asleep`).
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now: float = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)
