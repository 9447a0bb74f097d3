"""SlidingCounts: two counts over the last seconds. Not thread-safe: its owner's lock guards it."""

from __future__ import annotations

BUCKETS = 10


class SlidingCounts:
    """Two counts of the last `seconds`, in ten buckets."""

    __slots__ = ("_counts", "_slot", "_sums", "_width")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / BUCKETS
        self._counts = ([0] * BUCKETS, [0] * BUCKETS)
        self._sums = [0, 0]
        self._slot = -1

    def add(self, now: float, which: int) -> None:
        """Count one. which: 0 or 1."""
        self._counts[which][self._bucket(now)] += 1
        self._sums[which] += 1

    def sums(self, now: float) -> tuple[int, int]:
        self._bucket(now)
        return self._sums[0], self._sums[1]

    def _bucket(self, now: float) -> int:
        slot = int(now / self._width)
        if slot != self._slot:
            if self._slot >= 0:
                for passed in range(self._slot + 1, min(slot, self._slot + BUCKETS) + 1):
                    for which, counts in enumerate(self._counts):
                        self._sums[which] -= counts[passed % BUCKETS]
                        counts[passed % BUCKETS] = 0
            self._slot = max(slot, self._slot)
        return slot % BUCKETS
