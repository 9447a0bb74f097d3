"""Hedging: the flow's part of a race between attempts. When it starts, who may run, what happens to the losers."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Any

from ..errors import describe
from ..node import Node, Outcome
from ..retry.hedge import SOONEST, Hedge
from ..services.attempt import Attempt
from ..services.picking import Unavailable
from .attempts import begin, judge, send
from .effects import Effect, Race
from .places import leave_places, try_places
from .state import CallState
from .telling import attempt_started

Result = tuple[Attempt, Any, "Exception | None"]


def hedged(state: CallState, first: Attempt, hedge: Hedge) -> Generator[Effect, Any, Result]:
    """Send the first attempt, and others if it is slow; return the one that counts, its response and error."""
    race = Hedging(state, hedge, first)
    after = race.after(first)
    if after is None:
        try:
            return first, (yield from send(state, first)), None
        except state.flavour.TransportError as error:
            return first, None, error
    attempt, response, problem = yield Race(
        first, partial(send, state), after, race.more, race.good, race.settled, race.overtaken
    )
    race.over(attempt)
    if problem is not None and not isinstance(problem, state.flavour.TransportError):
        try:
            race.settled(attempt, None, problem)
            raise problem
        finally:
            problem = None  # else it would be held by a frame of its own traceback
    return attempt, response, problem


class Hedging:
    """The race of one call."""

    __slots__ = ("_budget", "_hedge", "_nodes", "_state")

    def __init__(self, state: CallState, hedge: Hedge, first: Attempt) -> None:
        self._state = state
        self._hedge = hedge
        self._budget = state.service.hedge_budget(hedge)
        self._nodes: tuple[Node, ...] = (first.node,)  # of its attempts

    def after(self, first: Attempt) -> float | None:
        """Seconds until a second attempt may start; None: this call is not hedged."""
        state, hedge = self._state, self._hedge
        service = state.service
        self._budget.deposit(first.started)
        if state.body is not None or state.request.method not in hedge.methods or state.call.retried:
            return None
        if len(service.nodes) < 2:
            return None
        if hedge.percentile is None:
            assert not isinstance(hedge.after, str)
            return hedge.after
        usual = service.measure().percentile(hedge.percentile, first.started)
        return None if usual is None else max(usual, SOONEST)

    def more(self) -> Attempt | None:
        """Another attempt, on a node that has none of this call's; None: not possible, or over budget."""
        state, call, service = self._state, self._state.call, self._state.service
        now = state.clock()
        if len(self._nodes) > self._hedge.max:
            return None
        if state.too_late_for_another(now):
            return None
        if not try_places(state.places):
            return None
        if not self._budget.take(now):
            leave_places(state.places)
            return None
        call.tried, call.attempt, call.now = self._nodes, call.attempt + 1, now
        try:
            attempt = begin(state)
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
        if service.observed:
            attempt_started(state, attempt, "hedge")
        return attempt

    def good(self, response: Any) -> bool:
        return response.status_code not in self._hedge.statuses

    def settled(self, attempt: Attempt, response: Any, error: BaseException | None) -> None:
        """An attempt ended that does not count: the others know nothing of it."""
        if error is None or isinstance(error, Exception):
            judge(self._state, attempt, response, error)
        attempt.judge(Outcome.ABANDONED, error=None if error is None else describe(error))
        if response is None:
            attempt.finish()

    def over(self, counting: Attempt) -> None:
        """A retry goes to a node that none of them used. counting: the attempt that counts; the flow adds its node."""
        self._state.call.tried = tuple(node for node in self._nodes if node is not counting.node)

    def overtaken(self, attempt: Attempt) -> None:
        attempt.overtake()
