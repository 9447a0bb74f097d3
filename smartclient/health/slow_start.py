"""Slow start: a node that is new, or back from ejection, gets its share bit by bit.

Envoy (`SlowStartConfig`): for `window` seconds its weight is multiplied by
max(min_weight, (seconds since ÷ window) ^ (1 ÷ aggression)).
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from ..support.checks import Settings, number, seconds, setting, share


@dataclass(frozen=True)
class SlowStart(Settings):
    """How a node warms up.

    window:      seconds until it bears its full weight
    aggression:  1: evenly; more: most of it early
    min_weight:  share of the weight it begins with
    """

    window: float = setting(30.0, seconds())
    _: KW_ONLY
    aggression: float = setting(1.0, number("a number > 0", lambda value: value > 0))
    min_weight: float = setting(0.1, share(zero=False))

    def factor(self, seconds: float) -> float:
        """What its weight is multiplied with after so many seconds."""
        if seconds >= self.window:
            return 1.0
        reached: float = (max(seconds, 0.0) / self.window) ** (1.0 / self.aggression)
        return max(self.min_weight, reached)
