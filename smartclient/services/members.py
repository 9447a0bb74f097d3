"""Members: the members of a service during calls. The only owner of their lock: calls claim a node, report the result,
and release it.
"""

from __future__ import annotations

import itertools
from typing import Any

from ..events import Event
from ..node import Node, Outcome
from ..statuses import is_wrong
from ..support.loggers import logger
from .attempt import Attempt
from .call import Call
from .choices import TURNS, Choices
from .picking import Unavailable, has


class Members(Choices):
    """The members of one service."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._complained = False

    def claim(self, call: Call) -> Node:
        """The node of a call's next attempt, which is one more in flight there. Raises Unavailable."""
        probing = call.attempt == 1 and call.prefers is None
        for turn in itertools.count():
            node = (self._claim_due(call) if probing and self.due else None) or self._pick(call)
            with self.lock:
                # Between the pick and here the node may have been removed and its connections closed, or filled up.
                if not node.removed and (
                    call.within is None or node.probe is call or turn >= TURNS or call.within(node)
                ):
                    node.in_flight += 1
                    node.calls += 1
                    self.in_flight += 1
                    return node
        raise AssertionError

    def learn(
        self, attempt: Attempt, retry_after: float | None, now: float, lone: bool, remember: bool
    ) -> tuple[list[Event], bool]:
        """Record the result of an attempt: what changes for its node, and whether the node is paused.

        lone:      it could not be reached, while others can
        remember:  for the balancer, too
        """
        node, outcome = attempt.node, attempt.outcome
        assert outcome is not None
        with self.lock:
            if outcome is Outcome.FAILURE:
                node.failures += 1
            if node.memory is not None and remember and outcome is Outcome.FAILURE:
                self._remember(node, outcome, attempt.elapsed, retry_after, now)
            if node.health is not None:
                attempt.failures_before = node.health.local_failures
            probing = node.probe is attempt
            events = self.health.judge(node, outcome, attempt.status, attempt.elapsed, probing, self.nodes, now, lone)
            if retry_after is None or outcome is not Outcome.FAILURE:
                return events, False
            return events, self.health.pause(node, retry_after, now)

    def learn_overtaken(self, attempt: Attempt, now: float, remember: bool) -> list[Event]:
        """Its time is a lower bound of its latency. For a node on probation that is too long."""
        node, latency = attempt.node, attempt.elapsed
        with self.lock:
            if node.memory is not None and remember:
                self._remember(node, Outcome.SUCCESS, latency, None, now)
            if node.probe is attempt:
                return self.health.judge(node, Outcome.FAILURE, None, latency, True, self.nodes, now)
        return []

    def learn_of_body(self, attempt: Attempt, latency: float, now: float) -> list[Event]:
        """Its body failed after headers that were taken for a success."""
        node = attempt.node
        with self.lock:
            node.failures += 1
            if node.memory is not None:
                self._remember(node, Outcome.FAILURE, latency, None, now)
            if node.health is not None:
                node.health.local_failures = max(node.health.local_failures, attempt.failures_before)
            return self.health.judge(node, Outcome.FAILURE, None, latency, node.probe is attempt, self.nodes, now)

    def learn_load(self, attempt: Attempt, value: str, now: float) -> None:
        """What its response says of the server's load."""
        with self.lock:
            try:
                attempt.node.memory.reported(value, now)
            except Exception:
                self._complain()

    def release(self, attempt: Attempt, now: float, remember: bool) -> tuple[bool, bool]:
        """An attempt is over: whether its node is not in use any more, and whether that was its last. Only now is it
        known how long the server took.
        """
        node = attempt.node
        with self.lock:
            if attempt.outcome is Outcome.SUCCESS and remember and node.memory is not None:
                self._remember_success(node, attempt, now)
            if node.in_flight:  # a forked child starts from 0, but attempts of its parent may still end here
                node.in_flight -= 1
                self.in_flight -= 1
            if node.probe is attempt:
                node.probe = None
            return node.removed or node.excluded, node.removed and node.in_flight == 0

    def check(self, node: Node, healthy: bool, unejects: bool, now: float) -> list[Event] | None:
        """What active checks have found out: what changes; None: nothing."""
        with self.lock:
            returns = healthy and unejects and node.ejected_until is not None
            if node.removed or (node.unhealthy is not healthy and not returns):
                return None
            node.unhealthy = not healthy
            return [self.health.restore(node, now)] if returns else []

    def _pick(self, call: Call) -> Node:
        before = call.prefers
        if before is not None and call.attempt == 1 and not (before.removed or before.excluded):
            call.within = self.chooser.room
            if before in self.nodes and call.usable(before):
                return before
        for turn in itertools.count():
            choice, nodes = self.choice, self.nodes
            if choice is None:
                raise Unavailable("all instances have just gone")
            try:
                return self.chooser.pick(call, choice, nodes, self.in_flight)
            except Unavailable:
                if self.nodes is nodes or turn >= TURNS:  # else all have been replaced meanwhile
                    raise
            except Exception:
                if self.choice is choice or turn >= TURNS:  # else its balancer was replaced meanwhile
                    raise
        raise AssertionError

    def _claim_due(self, call: Call) -> Node | None:
        outlier = self._policy.outlier
        if outlier is None:  # since a moment ago
            return None
        require = self.chooser.required(call)
        with self.lock:
            for node in self.due:
                until = node.ejected_until
                if until is None or until > call.now or node.probe is not None or node.removed or node.barred:
                    continue
                # A call that cannot be repeated is used only if no repeatable call came for `base_ejection_time`.
                if not call.repeatable and call.now < until + outlier.base_ejection_time:
                    continue
                if not require or has(node, require):
                    node.probe = call
                    return node
        return None

    def _remember(self, node: Node, outcome: Outcome, latency: float, retry_after: float | None, now: float) -> None:
        try:
            node.memory.observe(outcome, latency, retry_after, now)
        except Exception:
            self._complain()

    def _remember_success(self, node: Node, attempt: Attempt, now: float) -> None:
        """A fast 4xx answer does not count as good, if the balancer knows the difference."""
        memory, latency = node.memory, attempt.latency
        try:
            if is_wrong(attempt.status) and hasattr(memory, "observe_wrong"):
                memory.observe_wrong(latency, now)
            else:
                memory.observe(Outcome.SUCCESS, latency, None, now)
        except Exception:
            self._complain()

    def _complain(self) -> None:
        if not self._complained:
            self._complained = True
            logger.exception("%s: the balancer's memory failed (said once)", self._service)
