"""Idle: a stack of a node's unused connections. The newest is taken first, so surplus ones expire.

The rules, the same for sync and async. Nothing is closed here: connections to be closed are returned (httpcore's pool
does the same, and closes them outside of its lock):

1. One is taken only if it is younger than `keepalive_expiry` and not readable (`link`).
2. At most `max_keepalive_connections` stay, the newest.
3. The bottom of a stack is not checked when one is taken, and a node without calls not at all. So from time to time a
   call, to any node, checks the stacks of its client (`Sweep`) and removes what is too old or was closed by its server.
   It checks a few at a time, so that no call waits for all of a large fleet. (Without calls nothing is checked, as in
   httpx.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from .link import Link

EVERY = 0.5  # seconds between two rounds
AT_ONCE = 64  # connections that one call looks at


class Idle:
    """The idle connections of one node: those to one origin, on one event loop.

    owner:  closes what is to be closed
    most:   how many stay; None: all
    expiry: seconds after which one is too old; None: never
    """

    __slots__ = ("_expiry", "_most", "_sweep", "links", "owner")

    def __init__(self, owner: Any, most: int | None, expiry: float | None, sweep: Sweep) -> None:
        self.owner: Any = owner
        self._most = most
        self._expiry = expiry
        self._sweep = sweep
        self.links: deque[Link] = deque()

    def __len__(self) -> int:
        return len(self.links)

    def take(self, now: float) -> tuple[Link | None, Sequence[Link]]:
        """The newest that can be used, and those above it that cannot."""
        ended: list[Link] = []
        while True:
            try:
                link = self.links.pop()
            except IndexError:  # none is left; other threads take some, too
                return None, ended
            if not self._is_old(link, now) and not link.ended():
                return link, ended
            ended.append(link)

    def put(self, link: Link) -> Sequence[Link]:
        """Keep it; returns the surplus ones."""
        links, most = self.links, self._most
        links.append(link)
        self._sweep.add(self)
        if most is None or len(links) <= most:
            return ()
        return self._from_bottom(len(links) - most)

    def empty(self) -> Sequence[Link]:
        """All of them."""
        return self._from_bottom(len(self.links))

    def old(self, now: float, at_most: int) -> tuple[Sequence[Link], int]:
        """Those that are too old or were closed by their server, of the oldest `at_most`; how many were looked at."""
        found, looked = [], 0
        for link in tuple(self.links)[:at_most]:
            looked += 1
            if self._is_old(link, now) or link.ended():
                try:
                    self.links.remove(link)
                except ValueError:  # taken meanwhile
                    continue
                found.append(link)
        return found, looked

    def _is_old(self, link: Link, now: float) -> bool:
        return self._expiry is not None and now - link.idle_since > self._expiry

    def _from_bottom(self, count: int) -> Sequence[Link]:
        found = []
        for _ in range(count):
            try:
                found.append(self.links.popleft())
            except IndexError:
                break
        return found


class Sweep:
    """All stacks of one client, checked from time to time.

    due: when to continue
    """

    __slots__ = ("_left", "_stacks", "due")

    def __init__(self) -> None:
        self.due: float = float("-inf")
        self._stacks: dict[Idle, None] = {}  # those that have, or had, something
        self._left: list[Idle] = []  # of this round

    def add(self, stack: Idle) -> None:
        self._stacks[stack] = None

    def discard(self, stack: Idle) -> None:
        self._stacks.pop(stack, None)

    def stacks(self) -> Iterable[Idle]:
        return tuple(self._stacks)

    def inspect(self, now: float) -> list[tuple[Idle, Sequence[Link]]]:
        """Continue the round, or begin one; returns what to close, with its stack."""
        left = self._left
        if not left:
            self._left = left = list(self._stacks)
        found, looks = [], AT_ONCE
        while looks > 0:
            try:
                stack = left.pop()
            except IndexError:  # the round is over, for this thread or another
                self.due = now + EVERY
                break
            links, looked = stack.old(now, looks)
            looks -= looked + 1
            if links:
                found.append((stack, links))
            if not len(stack):
                self.discard(stack)
                if len(stack):  # given one meanwhile
                    self.add(stack)
        return found
