"""Announcements: what happens to a service and its instances, in the log and for the observers.

No lock of ours is held meanwhile, and the state that is announced is already in force.
"""

from __future__ import annotations

from collections.abc import Iterable
from logging import INFO, WARNING, Logger
from typing import Any

from ..events import (
    CircuitChanged,
    Event,
    InstancesChanged,
    NodeChecked,
    NodeEjected,
    NodeFavoured,
    NodePaused,
    NodeReturned,
    Observers,
    PanicChanged,
    PolicyChanged,
)
from ..node import Node
from ..support.loggers import CALL, CONFIG, DISCOVERY, HEALTH, about
from ..support.untrusted import line
from .changes import Change

AGAIN_AFTER = 600.0  # seconds, between two remarks of balancers
MOST_LOST = 10  # calls whose story is told in a second; the others are counted


class Announcements:
    """Those of one service. panicked: the last that was said of a panic"""

    def __init__(self, service: str, source: str, observers: Observers) -> None:
        self.panicked: bool = False
        self._service = service
        self._source = source
        self._observers = observers
        self._open = False
        self._next_remark = self._lost_since = float("-inf")
        self._lost = self._untold = 0

    def log(self, logger: Logger, level: int, text: str, *args: Any, **fields: Any) -> None:
        logger.log(level, f"%s: {text}", self._service, *args, extra=about(self._service, **fields))

    def follow_source(self, source: str) -> None:
        self._source = source

    def listed(self, change: Change, age: float) -> None:
        """A new list is in force. age: seconds since the one before"""
        self.log(DISCOVERY, INFO, "%d instances from %s (%d added, %d removed)",
                 len(change.nodes), self._source, len(change.added), len(change.removed))  # fmt: skip
        if self._observers:
            listed, added, removed = (tuple(node.instance for node in part) for part in change[:3])
            self._observers(InstancesChanged(self._service, listed, added, removed, self._source, age))

    def reconfigured(self, changed: Iterable[str]) -> None:
        """Another policy is in force."""
        names = tuple(sorted(changed))
        self.log(CONFIG, INFO, "another policy is in force: %s", ", ".join(names))
        if self._observers:
            self._observers(PolicyChanged(self._service, names))

    def health(self, events: Iterable[Event]) -> None:
        """Ejections and returns."""
        for event in events:
            if isinstance(event, NodeEjected):
                self.log(HEALTH, WARNING, "%s is ejected for %.3g s: %s", event.instance, event.duration,
                         line(event.reason), instance=event.instance, rule=event.rule)  # fmt: skip
            elif isinstance(event, NodeReturned):
                self.log(HEALTH, INFO, "%s serves again", event.instance, instance=event.instance)
            self._tell(event)

    def paused(self, node: Node, seconds: float) -> None:
        """It sent Retry-After."""
        self.log(HEALTH, INFO, "%s asks for a pause of %.3g s", node.instance, seconds, instance=node.instance)
        self._tell(NodePaused(self._service, node.instance, seconds))

    def checked(self, node: Node, healthy: bool) -> None:
        """Active checks have found out something new."""
        level, found = (INFO, "healthy") if healthy else (WARNING, "unhealthy")
        self.log(HEALTH, level, "active checks find %s %s", node.instance, found, instance=node.instance)
        self._tell(NodeChecked(self._service, node.instance, healthy))

    def failing(self, count: int, members: int) -> None:
        """Most instances fail."""
        self.log(HEALTH, WARNING, "%d of %d instances fail; %s is asked anew", count, members, self._source)

    def panic(self, panic: bool, out: int, members: int) -> None:
        """Whether so many instances are out that all are used."""
        if panic is self.panicked:
            return
        self.panicked = panic
        if panic:
            self.log(HEALTH, WARNING, "%d of %d instances are out: all are used (panic)", out, members)
        else:
            self.log(HEALTH, INFO, "enough instances are well again (%d of %d are out)", out, members)
        self._tell(PanicChanged(self._service, panic))

    def circuit(self, is_open: bool, reason: str) -> None:
        """Whether calls fail at once (Policy.circuit)."""
        if is_open is self._open:
            return
        self._open = is_open
        if is_open:
            self.log(HEALTH, WARNING, "the circuit is open, calls fail at once: %s", line(reason))
        else:
            self.log(HEALTH, INFO, "the circuit is closed again")
        self._tell(CircuitChanged(self._service, "open" if is_open else "closed"))

    def lost(self, story: str, now: float) -> None:
        """A call raised. In an outage they are many: of some in each second only the number is told."""
        if now - self._lost_since >= 1.0:
            self._lost_since, self._lost = now, 0
        self._lost += 1
        if self._lost > MOST_LOST:
            self._untold += 1
            return
        untold, self._untold = self._untold, 0
        self.log(CALL, WARNING, "%s%s", story, f" (and {untold} calls before it)" if untold else "")

    def favoured(self, event: NodeFavoured, now: float) -> None:
        """What a balancer remarks about a node's share of the calls: once in ten minutes."""
        if now < self._next_remark:
            return
        self._next_remark = now + AGAIN_AFTER
        self.log(HEALTH, WARNING, "%s gets %.0f %% of the calls: %s", event.instance, 100 * event.share, event.reason,
                 instance=event.instance)  # fmt: skip
        self._tell(event)

    def _tell(self, event: Event) -> None:
        if self._observers:
            self._observers(event)
