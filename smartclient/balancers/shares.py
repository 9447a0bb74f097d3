"""Shares: what the nodes of a fleet have had of the calls, and who is owed some, or has had enough.

Reckoned from what `AdaptiveMemory` counts; the rules and their figures are in `adaptive`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, sqrt
from statistics import fmean

from ..node import Node
from .base import PickCall

WINDOW = 50.0  # calls per node over which picks are counted
ALIKE, CHANCE = 0.75, 1.7  # standard errors that are taken for chance: for each node but one, and besides
FAR = 3.0  # standard errors: a greater distance is no chance
LEAST_ERROR = 0.01  # of a distance of logarithms
GUESS, GUESS_NODES = 0.5, 12.0  # how far apart nodes are, as a multiple of chance; it weighs as a look at so many
NEWEST_LOOK = 0.1  # share of the newest look, at least, in the mean
NEAR = log(1.25)  # nodes of equals that differ by less are as quick, however sure the difference is
OUT_OF_SIGHT = 50.0  # calls per node after which what is known of a node is worth half as much
PATIENCE = 35  # calls per node before anybody is owed a call: the first few say little
NEWS = 0.5  # calls per node before it is reckoned anew who is owed some: fewer change little
OWED_COST = 20.0  # times the best node's cost that an owed one may have
MOST_OWED = 12  # calls at once
SEVERAL = 3.0  # calls in flight: so many hardly slow each other down
INTENT = 1.5  # times its weight's share


def picks_per_weight(nodes: Sequence[Node]) -> float:
    return float(sum([node.memory.picks for node in nodes]) / (sum([node.weight for node in nodes]) or 1.0))


def even_picks(nodes: Sequence[Node]) -> list[float]:
    """How many of all their picks each would have had by its weight."""
    share = picks_per_weight(nodes)
    return [share * node.weight for node in nodes]


def differ(nodes: Sequence[Node]) -> bool:
    """Whether the weights of the instances differ by more than a cap would allow. (A slow start is no intent.)"""
    weights = [node.instance.weight for node in nodes]
    return max(weights) > INTENT * min(weights)


def orders_of_alike(nodes: Sequence[Node]) -> list[list[Node]]:
    """Orders in which to compare nodes of one weight: each begins with another, since of equals the first is taken."""
    if len({node.weight for node in nodes}) != 1:
        return []
    return [[*nodes[first:], *nodes[:first]] for first in range(len(nodes))]


def calls_so_far(nodes: Sequence[Node]) -> float:
    """How many calls these nodes have had from an earlier picker: lists change, and what is known is not lost."""
    most = WINDOW * len(nodes)
    return -most * log(1.0 - min(sum(node.memory.picks for node in nodes) / most, 0.99))


def mean_spread(nodes: Sequence[Node]) -> float:
    """The mean spread of their latencies, by how many each is made of: that of two says little."""
    spreads = counts = 0.0
    for node in nodes:
        memory = node.memory
        count = memory.count
        if count > 1.0:
            spreads += memory.spread * count
            counts += count
    return spreads / (counts or 1.0)


class Fairness:
    """Who is owed a call: nodes that are as quick as the others, as far as several looks can tell.

    One look tells little: the means of a few calls differ by chance, and those of nodes that are seldom called stand
    still. So what counts is how far apart nodes were in the mean of the looks so far. It begins with a guess that they
    are alike, which the few nodes of a small fleet cannot refute at a glance.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._calls = calls_so_far(nodes)
        self._enough = PATIENCE * len(nodes)
        self._size = len(nodes)
        self._unseen = 0  # calls since it last looked
        self._owed: list[Node] = []
        known = [node.memory.unlike for node in nodes if node.memory.unlike]
        self._unlike = fmean(known) if known else GUESS  # as an earlier picker left it
        self._looks = 1.0 / NEWEST_LOOK if known else 0.0

    def passed(self, calls: int) -> None:
        """So many calls have been made since the last look."""
        self._calls += calls
        self._unseen += calls

    def owed(self, nodes: Sequence[Node], noise: float) -> list[Node]:
        """Look at nodes: those that are owed a call, each as often as it is. Others take from the list.

        nodes: all, or a part of a large fleet
        noise: the standard deviation of a latency's logarithm
        """
        # (With few calls the turns of a part might be those at which nobody looks.)
        if self._calls < self._enough or (len(nodes) == self._size and self._unseen < NEWS * self._size):
            return self._owed
        self._unseen = 0
        distances = _distances(nodes, noise * noise)
        far = sum([away if (away := abs(errors)) < FAR else FAR for _, errors, _ in distances])
        self._looks += 1.0
        newest = max(NEWEST_LOOK, 1.0 / (self._looks + GUESS_NODES / len(nodes)))
        by_chance = ALIKE * (len(nodes) - 1) + CHANCE
        self._unlike = unlike = self._unlike + newest * (far / by_chance - self._unlike)
        for node in nodes:
            node.memory.unlike = unlike
        self._owed = _owed(nodes, distances) if unlike < 1.0 else []
        return self._owed


def owed_or(owed: list[Node], best: Node, least: float, call: PickCall, random: float) -> Node:
    """One of those that are owed a call, unless a call would wait there; else the best one.

    least:   the best one's cost
    random:  in [0, 1): which of them
    """
    try:
        at = int(random * len(owed))
        node, owed[at] = owed[at], owed[-1]
        owed.pop()
    except IndexError:  # another thread took it
        return best
    memory = node.memory
    fits = node.in_flight <= best.in_flight and memory.cost * (node.in_flight + 1) <= OWED_COST * least
    fits = fits and not memory.penalty  # it may have failed since it was found to be owed
    return node if fits and call.usable(node) else best


def intended(nodes: Sequence[Node], factors: list[float]) -> list[float]:
    """Where weights differ: the factors of the draw, none above its weight's, and 0 for who has had enough."""
    left = [node.memory.picks <= INTENT * even + 1.0 for node, even in zip(nodes, even_picks(nodes), strict=True)]
    if not any(left):
        return factors
    return [min(factor, 1.0) if has_left else 0.0 for factor, has_left in zip(factors, left, strict=True)]


def _distances(nodes: Sequence[Node], noise: float) -> list[tuple[Node, float, float]]:
    """The measured nodes, each with how far its mean is from the usual one: in standard errors, and as a logarithm.

    The usual one is that of where the calls go, without what their load adds. noise: the variance of one latency
    """
    picks = sum([node.memory.picks for node in nodes])
    if not picks:
        return []
    usual = usual_variance = 0.0
    seen = []
    for node in nodes:
        memory = node.memory
        if not memory.count:
            continue
        share, mean, load, variance = memory.picks / picks, memory.believed, memory.load, memory.variance(noise)
        if load > SEVERAL:
            mean -= log(load / SEVERAL)
        usual += share * mean
        usual_variance += share * share * variance
        seen.append((node, share, mean, variance))
    distances = []
    for node, share, mean, variance in seen:
        # The node is a part of the usual, so less of its error counts.
        both = variance * (1.0 - 2.0 * share) + usual_variance
        both = sqrt(both) if both > LEAST_ERROR**2 else LEAST_ERROR
        distances.append((node, (mean - usual) / both, node.memory.believed - usual))
    return distances


def _owed(nodes: Sequence[Node], distances: Sequence[tuple[Node, float, float]]) -> list[Node]:
    share = picks_per_weight(nodes)
    owed: list[Node] = []
    for node, errors, slower in distances:
        memory = node.memory
        missing = share * node.weight - memory.picks
        if missing < 1.0 or memory.penalty:
            continue
        if errors <= FAR or slower < NEAR:
            # No more than it has shown already: what is known of it grows by doubling.
            owed += [node] * int(min(missing, MOST_OWED, max(memory.count, 1.0)))
        elif errors <= FAR * (1.0 + memory.missed / OUT_OF_SIGHT):
            owed.append(node)
    return owed
