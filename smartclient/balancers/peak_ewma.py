"""Peak EWMA: the power of two choices over expected latency.

Finagle's rule (`loadbalancer/p2c/PeakEwma`): a latency above the estimate replaces it at once (the peak), lower ones
pull it down exponentially with the time that has passed; it decays when read, too, so that an idle node is tried again.
The cost of a node is estimate × (in flight + 1).

Finagle counts a failure as an answer, so a node that fails fast looks fast. Here a failure adds a penalty *beside* the
estimate (`penalty`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from math import exp
from random import Random as Rng

from ..node import Node, Outcome
from ..support.checks import seconds, setting
from .base import Balancer, PickCall, Picker, drawer, pair_drawer
from .penalty import Penalty

# Finagle's constant for "unmeasured and already tried": costs more than any latency, and less with fewer in flight.
UNMEASURED = 1e9
FRESH = 8  # unmeasured nodes that a pick looks at


class PeakEwmaMemory(Penalty):
    """The latency estimate of one node, in seconds, and its penalty for failing."""

    __slots__ = ("_estimate_decay", "estimate", "seen_at")

    def __init__(self, settings: PeakEwma) -> None:
        super().__init__(settings.failure_penalty, settings.penalty_decay)
        self._estimate_decay = settings.decay
        self.estimate: float = 0.0
        self.seen_at: float | None = None  # None: unmeasured

    def observe(self, outcome: Outcome, latency: float, retry_after: float | None, now: float) -> None:
        if outcome is Outcome.FAILURE:
            self.punish(retry_after, now)
            return
        self.penalty = 0.0
        if self.seen_at is None or latency > self.estimate:
            self.estimate = latency
        else:
            kept = exp((self.seen_at - now) / self._estimate_decay)
            self.estimate = self.estimate * kept + latency * (1.0 - kept)
        self.seen_at = now

    def observe_wrong(self, latency: float, now: float) -> None:
        """A quick wrong answer (4xx) earns no credit: it never makes the estimate less."""
        self.observe(Outcome.SUCCESS, max(latency, self.estimate), None, now)

    def cost(self, in_flight: float, now: float) -> float:
        """Expected seconds of waiting for one more call."""
        if self.seen_at is None:
            cost = 0.0 if in_flight == 0 else UNMEASURED + in_flight
        else:
            cost = self.estimate * exp((self.seen_at - now) / self._estimate_decay) * (in_flight + 1)
        if self.penalty:
            cost += self.penalty_left(now) * (in_flight + 1)
        return cost


@dataclass(frozen=True)
class PeakEwma(Balancer):
    """Draw two different nodes by weight, take the one with the lower expected latency.

    decay:            seconds over which a latency is forgotten (Finagle: decayTime, 10 s)
    failure_penalty:  seconds a failure adds to a node's cost, at least; Retry-After may say more, up to 300
    penalty_decay:    seconds over which that penalty is forgotten

    An unmeasured node is tried by the next call, and by no other until it has answered.
    """

    decay: float = setting(10.0, seconds())
    _: KW_ONLY
    failure_penalty: float = setting(5.0, seconds())
    penalty_decay: float = setting(1.0, seconds())

    name = "peak_ewma"

    def memory(self) -> PeakEwmaMemory:
        return PeakEwmaMemory(self)

    def explain(self, node: Node, nodes: Sequence[Node], call: PickCall) -> dict[str, float]:
        mean = sum(one.weight for one in nodes) / len(nodes) or 1.0
        cost = node.memory.cost(node.in_flight * mean / (node.weight or mean), call.now)
        penalty = node.memory.penalty_left(call.now) if node.memory.penalty else 0.0
        return {"cost": cost, "estimate": node.memory.estimate, "in flight": node.in_flight, "weight": node.weight,
                "penalty": penalty}  # fmt: skip

    def picker(self, nodes: Sequence[Node], rng: Rng) -> Picker:
        if len(nodes) == 1:
            return lambda call: nodes[0]
        mean = sum(node.weight for node in nodes) / len(nodes) or 1.0
        draw: Callable[[], tuple[Node, Node]] = pair_drawer(nodes, rng)
        if len({node.weight for node in nodes}) > 1:
            # With replacement: then a mixed pair is decided by cost alone, and idle shares are those of the weights.
            one = drawer(nodes, rng)
            draw = lambda: (one(), one())  # noqa: E731
        unmeasured = [node for node in nodes if node.memory.seen_at is None]
        rng.shuffle(unmeasured)

        def pick(call: PickCall) -> Node:
            if unmeasured:
                for node in tuple(unmeasured[:FRESH]):
                    memory = node.memory
                    if memory.seen_at is None and not memory.penalty:
                        if node.in_flight == 0 and call.usable(node):
                            return node
                    elif node in unmeasured:  # answered, or failed: an ordinary candidate from now on
                        _discard(unmeasured, node)
            first, second = draw()
            now = call.now
            # A node of twice the weight is expected to bear twice the calls.
            cost_first = first.memory.cost(first.in_flight * mean / (first.weight or mean), now)
            cost_second = second.memory.cost(second.in_flight * mean / (second.weight or mean), now)
            return second if cost_second < cost_first else first

        return pick


def _discard(nodes: list[Node], node: Node) -> None:
    try:
        nodes.remove(node)
    except ValueError:
        pass  # another thread was faster
