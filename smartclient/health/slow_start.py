"""Slow start: a node that is new, or back from ejection, gets its share bit by bit.

Envoy (`SlowStartConfig`): for `window` seconds its weight is multiplied by
max(min_weight, (seconds since ÷ window) ^ (1 ÷ aggression)).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import check_number


@dataclass(frozen=True)
class SlowStart:
    """How a node warms up.

    window:      seconds until it bears its full weight
    aggression:  1: evenly; more: most of it early
    min_weight:  share of the weight it begins with
    """

    window: float = 30.0
    aggression: float = 1.0
    min_weight: float = 0.1

    def __post_init__(self) -> None:
        for name in ("window", "aggression"):
            check_number(self, name, "a number > 0", lambda value: 0 < value < float("inf"))
        check_number(self, "min_weight", "a share > 0 up to 1", lambda value: 0 < value <= 1)

    def factor(self, seconds: float) -> float:
        """What its weight is multiplied with after so many seconds."""
        if seconds >= self.window:
            return 1.0
        reached: float = (max(seconds, 0.0) / self.window) ** (1.0 / self.aggression)
        return max(self.min_weight, reached)
