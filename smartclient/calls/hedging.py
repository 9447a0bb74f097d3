"""Hedging: the flow's part of a race between attempts. When it begins, who may run, what becomes of the losers."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ..errors import describe
from ..node import Node, Outcome
from ..retry.hedge import SOONEST, Hedge
from ..services.call import Attempt
from ..services.picking import Unavailable
from .effects import Effect, Race
from .places import leave_places, try_places

if TYPE_CHECKING:
    from .flow import CallFlow

Result = tuple[Attempt, Any, "Exception | None"]


def hedged(flow: CallFlow, first: Attempt, hedge: Hedge) -> Generator[Effect, Any, Result]:
    """Send the first attempt, others beside it if it is slow; the one whose outcome counts, its response and error."""
    race = Hedging(flow, hedge, first)
    after = race.after(first)
    if after is None:
        try:
            return first, (yield from flow.send(first)), None
        except flow.flavour.TransportError as error:
            return first, None, error
    attempt, response, problem = yield Race(first, flow.send, after, race.more, race.good, race.settled, race.overtaken)
    race.over(attempt)
    if problem is not None and not isinstance(problem, flow.flavour.TransportError):
        try:
            race.settled(attempt, None, problem)
            raise problem
        finally:
            problem = None  # else it would be held by a frame of its own traceback
    return attempt, response, problem


class Hedging:
    """The race of one call."""

    __slots__ = ("_budget", "_flow", "_hedge", "_nodes")

    def __init__(self, flow: CallFlow, hedge: Hedge, first: Attempt) -> None:
        self._flow = flow
        self._hedge = hedge
        self._budget = flow.service.hedge_budget(hedge)
        self._nodes: tuple[Node, ...] = (first.node,)  # of its attempts

    def after(self, first: Attempt) -> float | None:
        """Seconds until a second attempt may start; None: this call is not hedged."""
        flow, hedge = self._flow, self._hedge
        service = flow.service
        self._budget.deposit(first.started)
        if flow.body is not None or flow.request.method not in hedge.methods or flow.call.retried:
            return None
        if len(service.nodes) < 2:
            return None
        if hedge.percentile is None:
            assert not isinstance(hedge.after, str)
            return hedge.after
        usual = service.measure().percentile(hedge.percentile, first.started)
        return None if usual is None else max(usual, SOONEST)

    def more(self) -> Attempt | None:
        """Another attempt, on a node that has none of this call's; None: not to be had, or not to be paid."""
        flow, call, service = self._flow, self._flow.call, self._flow.service
        now = flow.clock()
        ends_at = flow.context.ends_at
        if len(self._nodes) > self._hedge.max:
            return None
        if ends_at is not None and now + (service.measure().percentile(0.5, now) or 0.0) >= ends_at:
            return None
        if not try_places(flow.places):
            return None
        if not self._budget.take(now):
            leave_places(flow.places)
            return None
        call.tried, call.attempt, call.now = self._nodes, call.attempt + 1, now
        try:
            attempt = flow.begin()
        except Unavailable:
            call.attempt -= 1
            return None
        attempt.waited = now - call.started
        if attempt.node in self._nodes:  # all others are out
            call.attempt -= 1
            call.attempts.remove(attempt)
            attempt.finish()
            return None
        self._nodes += (attempt.node,)
        flow.announce(attempt)
        return attempt

    def good(self, response: Any) -> bool:
        return response.status_code not in self._hedge.statuses

    def settled(self, attempt: Attempt, response: Any, error: BaseException | None) -> None:
        """An attempt ended that does not count: the others know nothing of it."""
        if error is None or isinstance(error, Exception):
            self._flow.judge(attempt, response, error)
        attempt.judge(Outcome.ABANDONED, error=None if error is None else describe(error))
        if response is None:
            attempt.finish()

    def over(self, counting: Attempt) -> None:
        """A retry goes where none of them went. counting: the attempt whose outcome counts; the flow adds its node."""
        self._flow.call.tried = tuple(node for node in self._nodes if node is not counting.node)

    def overtaken(self, attempt: Attempt) -> None:
        attempt.overtake()
        self._flow.announce_end(attempt)
