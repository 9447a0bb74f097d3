"""Wrong answers: a node that answers 4xx where its peers do not. It is quick, and it loses every call it gets.

404, 401 or 403 are the client's fault, as a rule. But a node with an old build, an empty volume or a wrong key gives
them to requests that its peers can serve. The test is that of the detector (CUSUM of two rates, against the peers'),
with two precautions, since what users ask for comes in bursts:

1. A wrong answer counts only if a peer has given a good one since this node's last: a run of requests for what does not
   exist, all sent to one node, counts once.
2. Balancers that hash send one user's requests to one node, wrong ones too: with them this rule is off.
"""

from __future__ import annotations

from .evidence import ENOUGH, LEAST_RATE, MOST_RATE, faded, likelihood_ratio, moved, peers_rate

HALF = 300.0  # calls after which older ones count half as much in a rate


class NodeAnswers:
    """What is known of one node's answers.

    calls, wrong:  of late
    good:          all of its good answers
    """

    __slots__ = ("calls", "evidence", "good", "others_good", "quick", "seen_at", "wrong")

    def __init__(self) -> None:
        self.calls: float = 0.0
        self.wrong: float = 0.0
        self.good: int = 0
        self.others_good: int = 0  # the peers' good answers, at this node's last wrong one that counted
        self.evidence: float = 0.0
        self.quick: float = 0.0  # average by count
        self.seen_at: float = 0.0


class WrongAnswers:
    """Compares the nodes of one service."""

    def __init__(self) -> None:
        self._calls = self._wrong = self._quick_sum = 0.0
        self._good = 0

    def observe(self, node: NodeAnswers, wrong: bool, status: int | None, peers: int, now: float) -> str | None:
        """Count an answer; the reason, if its node is to be ejected. peers: how many other nodes are in use"""
        node.calls += 1.0
        self._calls += 1.0
        if node.calls >= 2 * HALF:
            self._fade(node)
        if not wrong:
            node.good += 1
            self._good += 1
            if node.evidence or node.quick:
                self._weigh(node, False, peers, now)
            return None
        node.wrong += 1.0
        self._wrong += 1.0
        others_good = self._good - node.good
        counts = others_good > node.others_good
        node.others_good = others_good
        if counts:
            self._weigh(node, True, peers, now)
        if node.evidence < ENOUGH:
            return None
        peers_rate = self._peers_rate(node, peers)
        return f"{node.wrong:.0f} of {node.calls:.0f} answers were like {status}, of its peers' {peers_rate:.1%}"

    def forget(self, node: NodeAnswers) -> None:
        """The node is ejected, or gone: it says nothing of its peers any more."""
        self._calls -= node.calls
        self._wrong -= node.wrong
        self._quick_sum -= node.quick
        node.calls = node.wrong = node.evidence = node.quick = 0.0

    def _weigh(self, node: NodeAnswers, wrong: bool, peers: int, now: float) -> None:
        rate = max(self._peers_rate(node, peers), LEAST_RATE)
        if rate > MOST_RATE:
            node.evidence = 0.0
        else:
            before = faded(node.evidence, node.seen_at, now)
            node.evidence = max(0.0, before + likelihood_ratio(rate, wrong))
        node.seen_at, before = now, node.quick
        node.quick = moved(before, wrong)
        self._quick_sum += node.quick - before

    def _peers_rate(self, node: NodeAnswers, peers: int) -> float:
        quick = (self._quick_sum - node.quick) / peers if peers > 0 else 0.0
        return peers_rate(self._wrong - node.wrong, self._calls - node.calls, quick)

    def _fade(self, node: NodeAnswers) -> None:
        """Halve what is known of its rate: a rate is that of late."""
        self._calls -= node.calls / 2
        self._wrong -= node.wrong / 2
        node.calls /= 2
        node.wrong /= 2
