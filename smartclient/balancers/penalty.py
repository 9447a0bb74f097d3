"""The penalty for failing: what keeps a node that fails fast from looking fast.

It is separate from the latency estimate (an idea of linkerd's load biaser), decays within seconds and is cleared by the
next success. In the estimate itself one failure would keep a node of 1 ms out for 79 s, without the limit of
`max_ejected`.
"""

from __future__ import annotations

from math import exp

MAX_RETRY_AFTER = 300.0


class Penalty:
    """Part of a balancer's memory of a node.

    least:    seconds, for any failure
    decay:    seconds over which it is forgotten; each further failure in a row doubles that, up to `longest`
    penalty:  seconds, as of `penalised_at`; 0: none
    """

    __slots__ = ("_decay", "_least", "_longest", "_shortest", "penalised_at", "penalty")

    def __init__(self, least: float, decay: float, longest: float | None = None) -> None:
        self._least = least
        self._shortest = decay
        self._longest = decay if longest is None else longest
        self._decay = decay
        self.penalty: float = 0.0
        self.penalised_at: float = 0.0

    def punish(self, retry_after: float | None, now: float) -> None:
        """It failed. Retry-After may ask for more than the least."""
        self._decay = min(2 * self._decay, self._longest) if self.penalty else self._shortest
        self.penalty = max(self._least, min(retry_after or 0.0, MAX_RETRY_AFTER))
        self.penalised_at = now

    def penalty_left(self, now: float) -> float:
        return self.penalty * exp((self.penalised_at - now) / self._decay)
