"""What balancers remark about a node's share of the calls, in the log and for the observers."""

from __future__ import annotations

from ..events import NodeFavoured, Observers, logger

AGAIN_AFTER = 600.0  # seconds


class Remarks:
    """The remarks of one service: one in ten minutes."""

    def __init__(self, observers: Observers) -> None:
        self._observers = observers
        self._next = float("-inf")

    def __call__(self, event: NodeFavoured, now: float) -> None:
        if now < self._next:
            return
        self._next = now + AGAIN_AFTER
        logger.warning(
            "%s: %s gets %.0f %% of the calls: %s", event.service, event.instance, 100 * event.share, event.reason
        )
        if self._observers:
            self._observers(event)
