"""How many calls of others a server has, as far as it says so.

Its number is stale when it arrives, and all clients read it: what is told is compared with what it usually is, and
counts for a few calls' time. (The raw number, added to the client's own calls in flight, makes all clients go where it
was quiet: mixed-20-clients 1.65 in place of 1.27. C3, NSDI '15, has servers tell their queues, too.)
"""

from __future__ import annotations

from .load_report import parse_in_flight
from .penalty import Penalty

USUAL = 0.1  # share of the newest report in the usual number
LASTS = 4.0  # times a call's usual time: then the queue has moved on


class Crowded(Penalty):
    """Part of a balancer's memory of a node.

    own:       calls of this client in flight there, more or less
    estimate:  seconds that a call usually takes; 0: unknown
    unusual:   there is a penalty or a crowd, or was a moment ago
    crowd:     by how much others have more calls there than usual, as a share; 0: as usual, or unknown
    """

    __slots__ = ("_told_at", "_usual_others", "crowd", "estimate", "own", "unusual")

    def __init__(self, least: float, decay: float, longest: float | None = None) -> None:
        super().__init__(least, decay, longest)
        self._usual_others: float | None = None
        self._told_at = 0.0
        self.own: int = 0
        self.estimate: float = 0.0
        self.crowd: float = 0.0
        self.unusual: bool = False

    def punish(self, retry_after: float | None, now: float) -> None:
        super().punish(retry_after, now)
        self.unusual = True

    def reported(self, value: str, now: float) -> None:
        """Take a server's report: its requests in progress, the answered one included."""
        told = parse_in_flight(value)
        if told is None:
            return
        others = float(max(told - self.own, 0))
        usual = others if self._usual_others is None else self._usual_others
        self._usual_others = usual = usual + USUAL * (others - usual)
        self.crowd = (others - usual) / (usual + 1.0)
        self._told_at = now
        self.unusual = True

    def crowding(self, now: float) -> float:
        """The cost as a multiple of the usual."""
        age = (now - self._told_at) / (LASTS * self.estimate) if self.estimate else 1.0
        if age >= 1.0:
            self.crowd = 0.0
        return 1.0 + self.crowd * (1.0 - age)

    def unusual_cost(self, cost: float, waiting: float, now: float) -> float:
        """A call's cost, with crowd and penalty. waiting: calls in flight, by weight"""
        if self.crowd:
            cost *= self.crowding(now)
        if self.penalty:
            cost += self.penalty_left(now) * (waiting + 1.0)
        elif not self.crowd:
            self.unusual = False
        return cost
