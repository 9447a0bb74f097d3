"""The contract of a balancing algorithm.

An algorithm is a frozen dataclass of settings with one method, `picker`. The picker is called once per first attempt,
without a lock, from whichever thread or task makes the call; it must not block and should not allocate much. It is made
again whenever the eligible nodes change, so lasting knowledge belongs in `memory`.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from random import Random as Rng
from typing import Any, ClassVar, Protocol

from ..node import Memory, Node
from ..support.checks import Settings

LIGHTEST = 1e-9  # instead of weight 0: such nodes are called if there are no others


class PickCall(Protocol):
    """What a picker may ask about the call it picks for."""

    @property
    def request(self) -> Any: ...
    @property
    def service(self) -> str: ...
    @property
    def hash_key(self) -> str | None: ...
    @property
    def attempt(self) -> int: ...
    @property
    def tried(self) -> Sequence[Node]: ...
    @property
    def now(self) -> float: ...
    def usable(self, node: Node) -> bool: ...
    def remark(self, node: Node, share: float, reason: str) -> None: ...


Picker = Callable[[PickCall], Node]


class Balancer(Settings, ABC):
    """Settings of an algorithm. Subclass as a frozen dataclass and write `picker`."""

    name: ClassVar[str] = ""
    """How `Policy(balancer="…")` names it."""

    over_members: ClassVar[bool] = False
    """The picker is made from all members, whatever their health, and checks `call.usable(node)`: for tables whose
    keys should not move. It is made when updates arrive, never by a call, and retries use it, too."""

    keyed: ClassVar[bool] = False
    """Calls of one user go to one node, and so do that user's mistakes."""

    live_weights: ClassVar[bool] = False
    """The picker reads `node.weight` at each pick: a node that warms up needs no new one."""

    load_header: ClassVar[str | None] = None
    """A response header that is handed to the memory's `reported(value, now)`, where there is one."""

    bound: float | None = None
    """No node may have more than this times the average of calls in flight (its share by weight); None: no bound. The
    service sees to it: `call.usable`."""

    def key(self, call: PickCall) -> str | None:
        """The key in a balancer's table: calls with the same key stay together, also when they are split among
        priorities or zones.
        """
        return None

    def after_fork(self) -> None:
        """In a forked child: renew locks, those of pickers excepted (they are made anew)."""

    def for_service(self) -> Balancer:
        """What one service uses: itself, or something with a state of that service's own."""
        return self

    def explain(self, node: Node, nodes: Sequence[Node], call: PickCall) -> Mapping[str, float]:
        """What a call would find at a node, in numbers with names; "cost" is what the picker compares. For
        `call(explain=True)`.
        """
        return {"in flight": node.in_flight, "weight": node.weight}

    @abstractmethod
    def picker(self, nodes: Sequence[Node], rng: Rng) -> Picker:
        """Return a function that picks one of `nodes` (never empty) for a call."""

    def memory(self) -> Memory | None:
        """What to remember of one node, made when the node is. None: nothing."""
        return None


def index_drawer(weights: Sequence[float], rng: Rng) -> Callable[[], int]:
    """A function that draws an index with a probability proportional to its weight."""
    random, count = rng.random, len(weights)
    if len(set(weights)) == 1:
        return lambda: int(random() * count)
    cumulative = list(itertools.accumulate(weights))
    total, last = cumulative[-1], count - 1
    return lambda: min(bisect(cumulative, random() * total), last)


def drawer(nodes: Sequence[Node], rng: Rng) -> Callable[[], Node]:
    """A function that draws a node with a probability proportional to its weight."""
    draw = index_drawer([node.weight for node in nodes], rng)
    return lambda: nodes[draw()]


def pair_drawer(nodes: Sequence[Node], rng: Rng) -> Callable[[], tuple[Node, Node]]:
    """A function that draws two different nodes (of at least two).

    The second draw leaves the first out: with replacement, of two nodes the busier one would be taken 1 time in 4.
    """
    if len({node.weight for node in nodes}) == 1:
        count, random = len(nodes), rng.random

        def draw() -> tuple[Node, Node]:
            first = int(random() * count)
            second = first + 1 + int(random() * (count - 1))
            return nodes[first], nodes[second if second < count else second - count]

        return draw

    one = drawer(nodes, rng)

    def draw_weighted() -> tuple[Node, Node]:
        first = one()
        for _ in range(8):
            second = one()
            if second is not first:
                return first, second
        # One node has nearly all the weight: any other will do as the alternative.
        return first, rng.choice([node for node in nodes if node is not first])

    return draw_weighted
