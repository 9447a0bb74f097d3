"""Stalls: time in which this process could not run its calls, so that what it measured says nothing about nodes.

A blocked event loop, a paused container, a starved CPU: every attempt in flight times out or looks slow, whichever node
it was on. The async driver measures it by a timer that comes late; samples taken meanwhile are dropped.
"""

from __future__ import annotations

TICK = 0.1  # seconds between two looks
LATE = 0.05  # a timer later than that was held up
COUNTS = 0.25  # share of an attempt that a stall must have taken


class Stalls:
    """How long this client was stalled in all, in seconds."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total: float = 0.0

    def late(self, seconds: float) -> None:
        """A timer came that much late."""
        if seconds > LATE:
            self.total += seconds

    def explains(self, before: float, elapsed: float) -> bool:
        """Whether an attempt tells nothing. before: `total` at its start."""
        return self.total - before > COUNTS * elapsed
