"""ServiceHealth: the health of all nodes of a service: who is ejected, paused, warming up, and why.

Not thread-safe: the service's lock guards it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from ..events import Event, NodeEjected, NodeReturned
from ..node import Node, Outcome
from ..statuses import is_wrong
from .detector import Detector, Finding, NodeHealth
from .outlier import OutlierDetection
from .slow_start import SlowStart

PROBE = "probe"
WARM_STEP = 0.25  # seconds between the steps of a slow start


class ServiceHealth:
    """outlier, slow_start: the policy's. ejected: how many nodes are."""

    def __init__(
        self,
        service: str,
        outlier: OutlierDetection | None,
        slow_start: SlowStart | None,
        now: float,
        rng: Random,
        keyed: bool = False,
    ) -> None:
        self.ejected: int = 0
        self._service = service
        self._outlier = outlier
        self._slow_start = slow_start
        self._rng = rng
        self._detector = None if outlier is None else Detector(outlier, now, keyed)

    def follow(
        self,
        outlier: OutlierDetection | None,
        slow_start: SlowStart | None,
        nodes: Iterable[Node],
        now: float,
        keyed: bool = False,
    ) -> list[Event]:
        """Take these settings from now on: ejections and what is known of the nodes stay, as far as there is detection
        at all.
        """
        events: list[Event] = []
        before, self._outlier, self._slow_start = self._outlier, outlier, slow_start
        if outlier is None:
            self._detector = None
        elif self._detector is None:
            self._detector = Detector(outlier, now, keyed)
        else:
            self._detector.follow(outlier, now, keyed)
        for node in nodes:
            if outlier is None and before is not None:
                if node.ejected_until is not None:
                    events.append(self.restore(node, now))
                node.paused_until = None
            node.health = self.record(node.health)
            if slow_start is None and node.warm_since is not None:
                node.warm_since, node.weight = None, node.instance.weight
        return events

    def record(self, before: NodeHealth | None = None) -> NodeHealth | None:
        """The health record of a node: a new one, or that of before, by the settings of now."""
        if self._outlier is None or before is None:
            return None if self._outlier is None else NodeHealth(self._outlier)
        before.follow(self._outlier)
        return before

    def judge(
        self,
        node: Node,
        outcome: Outcome,
        status: int | None,
        latency: float,
        probing: bool,
        nodes: Sequence[Node],
        now: float,
        lone: bool = False,
    ) -> list[Event]:
        """Learn from an attempt.

        probing: it is the one that probes its node
        nodes:   all members
        lone:    it could not reach its node, while another one is known to be up
        """
        events: list[Event] = []
        detector, outlier = self._detector, self._outlier
        if detector is None or outlier is None or node.removed:
            return events
        if node.ejected_until is not None:
            # Only a probe counts for an ejected node (or, in panic, a call begun in panic): answers to calls from
            # before the ejection are outdated.
            if probing and node.health.by_answers and is_wrong(status):
                events.append(self.eject(node, Finding(PROBE, f"its probing call was answered {status}"), now))
            elif outcome is Outcome.SUCCESS and (probing or not node.excluded):
                events.append(self.restore(node, now))
            elif outcome is Outcome.FAILURE and probing:
                events.append(self.eject(node, Finding(PROBE, "its probing call failed"), now))
            return events
        finding = detector.observe(node.health, outcome, status, latency, now, len(nodes) - self.ejected - 1, lone)
        if finding is not None and outlier.may_eject(len(nodes), self.ejected):
            events.append(self.eject(node, finding, now))
        if now >= detector.interval_ends_at:
            in_use = [other for other in nodes if other.ejected_until is None]
            for other, why in detector.end_interval(in_use, now):
                if outlier.may_eject(len(nodes), self.ejected):
                    events.append(self.eject(other, why, now))
        return events

    def restore(self, node: Node, now: float) -> Event:
        """An ejected node serves again."""
        self.ejected -= 1
        node.ejected_until = None
        node.health.restore(now)
        self.warm(node, now)
        return NodeReturned(self._service, node.instance)

    def pause(self, node: Node, seconds: float, now: float) -> bool:
        """It sent Retry-After: it gets no calls for that long, as far as the others can do without it."""
        if self._outlier is None:
            return False
        until = now + min(seconds, self._outlier.max_pause)
        if until <= max(now, node.paused_until or 0.0) or node.removed:
            return False
        node.paused_until = until
        return True

    def warm(self, node: Node, now: float) -> None:
        """Begin its slow start."""
        if self._slow_start is not None:
            node.warm_since = now
            self._step(node, now)

    def advance(self, nodes: Iterable[Node], now: float) -> tuple[list[float], bool]:
        """End pauses, take steps of slow starts; when something is due again, and whether a weight has changed."""
        due = []
        warming = 0
        for node in nodes:
            if node.paused_until is not None:
                if node.paused_until <= now:
                    node.paused_until = None
                else:
                    due.append(node.paused_until)
            if node.warm_since is not None:
                warming += 1
                self._step(node, now)
        if warming:
            due.append(now + WARM_STEP * (1 + warming // 1000))
        return due, warming > 0

    def discharge(self, nodes: Iterable[Node]) -> None:
        """They are gone."""
        for node in nodes:
            if node.ejected_until is not None:
                self.ejected -= 1
            elif self._detector is not None:
                self._detector.forget(node.health)

    def readmit(self, node: Node, nodes: Sequence[Node]) -> None:
        """An ejected node that had left the list is back: still ejected, if that many may be."""
        if self._outlier is not None and self._outlier.may_eject(len(nodes), self.ejected):
            self.ejected += 1
            node.excluded = True
        else:
            node.ejected_until = None

    def until(self, node: Node, now: float) -> float:
        """How long a node that leaves the list is remembered: as long as it would be out, or is under suspicion."""
        on_trial = now + (0.0 if self._outlier is None else self._outlier.base_ejection_time)
        suspect = node.unhealthy or (node.health is not None and node.health.suspect)
        return max(node.ejected_until or 0.0, node.paused_until or 0.0, on_trial if suspect else 0.0)

    def eject(self, node: Node, finding: Finding, now: float) -> Event:
        assert self._detector is not None
        self.ejected += node.ejected_until is None
        self._detector.forget(node.health)
        duration = node.health.eject(now, self._rng)
        node.ejected_until = now + duration
        node.excluded = True  # from now on; the next choice says whether it is used all the same (panic)
        node.health.finding = finding
        return NodeEjected(self._service, node.instance, *finding, duration)

    def _step(self, node: Node, now: float) -> None:
        assert self._slow_start is not None
        assert node.warm_since is not None
        factor = self._slow_start.factor(now - node.warm_since)
        node.weight = node.instance.weight * factor
        if factor >= 1.0:
            node.warm_since = None
