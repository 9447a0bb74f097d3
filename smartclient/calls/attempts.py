"""Attempts: how one starts, is sent, and is judged."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

from ..errors import describe
from ..faults import drawn
from ..flavour import ENDED, NEVER_CONNECTED
from ..limits import Refused
from ..node import Outcome
from ..retry.retry_after import retry_after
from ..services.attempt import Attempt
from ..services.picking import Full, Unavailable
from ..statuses import NOT_THE_SERVERS, is_failure
from .context import TimeLeft
from .effects import Effect, Send, Sleep, WaitForNodes
from .injecting import inject
from .places import leave_places, queue, try_places
from .state import CallState, Later
from .telling import attempt_started

ROOM_INTERVAL = 0.01  # seconds between two looks for an instance with room


def wait_for_nodes(state: CallState) -> Generator[Effect, Any, None]:
    """Calls wait for discovery only before its first list: at most the timeout for connecting."""
    timeout = state.at_most(state.timeouts.get("connect"))
    service, came = state.service, False
    try:
        came = yield WaitForNodes(service, timeout)
    except GeneratorExit:
        state.collected(Later(service.given_up))
        raise
    except BaseException:
        service.given_up()
        raise
    if not came:
        service.given_up()
    if came:
        return
    if state.out_of_time():
        trouble = f" (last error: {service.problem})" if service.problem else ""
        raise state.deadline_exceeded(f"waiting for the first list of {service.source}{trouble}")
    trouble = f"; last error: {service.problem}" if service.problem else ""
    reason = f"{service.source} has not answered within {timeout:.3g} s{trouble}"
    raise state.flavour.NoInstances.of(service.name, reason)


def start(state: CallState, last: Exception | None) -> Generator[Effect, Any, Attempt]:
    """Take a place, then pick: waiting for a place is not a node's latency. last: the previous attempt's error"""
    call, service = state.call, state.service
    call.now = state.clock()
    if state.context.ends_at is not None and call.now >= state.context.ends_at:
        when = "before the next attempt" if call.attempts else "before anything was sent"
        raise state.deadline_exceeded(when) from last
    if call.attempt == 1:
        _admit(state)
    if not try_places(state.places):
        yield from queue(state, last)
        call.now = state.clock()
    try:
        try:
            attempt = begin(state)
        except Full as full:
            attempt = yield from _room(state, full, last)
    except Unavailable as error:
        raise state.flavour.NoInstances.of(service.name, str(error)) from last
    if service.observed:
        attempt_started(state, attempt, "first" if call.attempt == 1 else "retry")
    return attempt


def _admit(state: CallState) -> None:
    """Raises the flavour's error if the call may not start."""
    service = state.service
    if service.admission is not None:
        try:
            service.admission.admit(len(service.nodes), state.call.now)
        except Refused as refused:
            state.refused = refused.rule
            error = state.flavour.NoInstances if refused.down else state.flavour.Overloaded
            raise error.of(service.name, str(refused)) from None
    if service.drop and service.draw_drop():
        state.refused = "dropped"
        why = f"{service.source} has {service.drop:.3%} of the calls dropped"
        raise state.flavour.Overloaded.of(service.name, why)


def _room(state: CallState, full: Full, last: Exception | None) -> Generator[Effect, Any, Attempt]:
    """An attempt, once a node has room for it. Places ensure that, except if only some of the nodes match
    (`require`): then this polls.
    """
    admission = state.service.admission
    limits = None if admission is None else admission.limits
    until = state.clock() + (0.0 if limits is None else limits.queue_timeout)  # None: since a moment ago
    while state.clock() < until:
        if state.out_of_time():
            raise state.deadline_exceeded("waiting for an instance with room (Policy.limits)") from last
        yield Sleep(ROOM_INTERVAL)
        state.queued += ROOM_INTERVAL
        if not try_places(state.places):
            yield from queue(state, last)
        state.call.now = state.clock()
        try:
            return begin(state)
        except Full:
            pass
    state.refused = "limits"
    raise state.flavour.Overloaded.of(state.service.name, str(full)) from last


def begin(state: CallState) -> Attempt:
    """An attempt on a node; the places are taken. Raises Unavailable."""
    try:
        return state.service.start(state.call, state.places)
    except BaseException:
        leave_places(state.places)
        raise


def time_left(state: CallState, attempt: Attempt) -> TimeLeft | None:
    """The timeouts of an attempt, cut to its own time and to the call's; None: httpx's alone."""
    limit = state.call.options.attempt_timeout
    if limit is ...:
        limit = state.policy.attempt_timeout
    ends_at = state.context.ends_at
    if limit is not None or ends_at is not None:
        first_end = min(
            math.inf if limit is None else attempt.started + limit,
            math.inf if ends_at is None else ends_at,
        )
        return TimeLeft(state.timeouts, first_end, state.clock)
    return None


def send(state: CallState, attempt: Attempt) -> Generator[Effect, Any, Any]:
    """Send, and once more if an idle connection turned out to be dead: the keep-alive race is not a node's failure. The
    same if the server closed the connection without processing the request: any method may then be sent again.
    """
    context, body = state.context, state.body
    timeouts = time_left(state, attempt)
    stream = state.request.stream if body is None else body.stream
    headers = attempt.headers
    if state.headers is not None:
        headers += state.headers.of(attempt, context, state.clock())
    if state.service.faults and (fault := drawn(state.service.faults, state.service.rng)) is not None:
        response = yield from inject(state, attempt, fault, timeouts)
        if response is not None:
            return response
    fresh = False
    while True:
        try:
            response = yield Send(attempt, fresh, timeouts, stream, headers, context)
        except state.flavour.STALE as error:
            ended = state.flavour.fault(error) is ENDED
            if fresh or attempt.overtaken or (not attempt.reused and not ended):
                raise
            if not (state.repeatable() or (ended and (body is None or body.repeatable))):
                raise
            fresh = True
            if body is not None:
                body.rewind()
        else:
            if timeouts is not None:
                timeouts.ends_at = context.body_ends_at
            return response


def judge(state: CallState, attempt: Attempt, response: Any, error: Exception | None) -> float:
    """Record how the attempt ended; return when."""
    if response is not None:
        _judge_response(state, attempt, response)
    else:
        assert error is not None
        stale = attempt.reused and isinstance(error, state.flavour.STALE)
        fault = state.flavour.fault(error)
        blamed = fault.blamed and not stale
        attempt.unreached = fault is NEVER_CONNECTED
        attempt.judge(Outcome.FAILURE if blamed else Outcome.ABANDONED, error=describe(error))
        attempt.finish()
    return attempt.started + attempt.elapsed


def _judge_response(state: CallState, attempt: Attempt, response: Any) -> None:
    service, status = state.service, response.status_code
    if service.load_reports is not None:
        service.load_reports.read(attempt, response.headers)
    if status in NOT_THE_SERVERS:
        attempt.judge(Outcome.ABANDONED, status)
    elif not is_failure(status):
        attempt.judge(Outcome.SUCCESS, status)
    else:
        attempt.judge(Outcome.FAILURE, status, retry_after=retry_after(response.headers))
    if response.is_closed:  # there is no body whose close would finish it
        attempt.finish()
