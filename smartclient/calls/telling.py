"""Telling: what observers and the log are told of a call and its attempts. Each beginning has one end, whatever
happens.

An attempt's end is told when it is finished: that is once, and for a response whose body is still open, when that is
read, closed, or found to be forgotten (by a later call: a destructor may run at any point, and an observer may take
locks). The end of the call follows.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from ..errors import describe
from ..events import AttemptFinished, AttemptStarted, CallFinished, CallStarted, RetryDenied, RetryScheduled
from ..node import Outcome
from ..services.attempt import Attempt
from ..services.call import next_id
from ..support.loggers import CALL, about
from ..support.untrusted import line
from .state import CallState

SHOWN = 5  # attempts in the story of a call


def call_started(state: CallState) -> None:
    call, service, request = state.call, state.service, state.request
    call.id = next_id()
    if not service.observers.want(CallStarted):
        return
    url = request.url.copy_with(userinfo=b"") if request.url.userinfo else request.url
    service.observers(CallStarted(call.id, service.name, request.method, str(url)))


def attempt_started(state: CallState, attempt: Attempt, kind: str) -> None:
    if attempt.node.probe is attempt:
        kind = "probe"
    attempt.then = partial(_attempt_finished, state, attempt, kind)
    service = state.service
    if not service.observers.want(AttemptStarted):
        return
    event = AttemptStarted(state.call.id, service.name, attempt.node.instance, attempt.number, kind)
    service.observers(event)
    attempt.headers = service.observers.headers(event)


def retry_scheduled(state: CallState, attempt: Attempt, pause: float, error: Exception | None) -> None:
    call, service = state.call, state.service
    if service.observed or CALL.isEnabledFor(logging.DEBUG):
        reason = describe(error) if error is not None else f"status {attempt.status}"
        CALL.debug("%s: attempt %d follows in %.3g s: %s %s", service.name, call.attempt + 1, pause,
                   attempt.node.instance, line(reason), extra=about(service.name, attempt.node.instance))  # fmt: skip
        if service.observed:
            service.observers(RetryScheduled(call.id, service.name, call.attempt + 1, pause, reason))


def retry_denied(state: CallState, reason: str) -> None:
    state.service.observers(RetryDenied(state.call.id, state.service.name, reason))


def call_lost(state: CallState, error: Exception) -> None:
    """In the log: which instances were tried, and what each said."""
    call, name = state.call, state.service.name
    what = line(describe(error).replace(f": {name}: ", ": ", 1))
    tried = "; ".join(
        f"{one.instance} {line(one.error or f'status {one.status}')} ({one.elapsed:.3f} s)"
        for one in (attempt.report() for attempt in call.attempts[-SHOWN:])
    )
    attempts = f"{len(call.attempts)} attempt(s): {tried}" if tried else "nothing was sent"
    took = call.finished - call.started
    state.service.announce.lost(
        f"a {line(state.request.method)} is lost after {took:.3f} s: {what}; {attempts}", call.finished
    )


def call_finished(state: CallState, attempt: Attempt | None, status: int | None, error: BaseException | None) -> None:
    """The flow is over. If it returned a response whose body is still open, the call is not."""
    elapsed = state.clock() - state.call.started
    then = None
    if error is None and attempt is not None:
        then, attempt.then = attempt.then, None  # taken out first: another thread may be closing the client
    if then is not None and attempt is not None:
        attempt.then = partial(_body_over, state, attempt, then, status, elapsed)
        if attempt.over:
            then, attempt.then = attempt.then, None
            if then is not None:
                then()
    else:
        outcome = _outcome(state, error)
        _tell_end(state, outcome, status, None if error is None else describe(error), elapsed)


def _attempt_finished(state: CallState, attempt: Attempt, kind: str) -> None:
    service = state.service
    if not service.observers.want(AttemptFinished):
        return
    outcome = "success" if attempt.outcome is Outcome.SUCCESS else str(attempt.outcome)
    service.observers(
        AttemptFinished(state.call.id, service.name, attempt.node.instance, attempt.number, kind, outcome,
                        attempt.status, attempt.error, attempt.elapsed, attempt.reused, attempt.connecting,
                        attempt.injected)
    )  # fmt: skip


def _body_over(state: CallState, attempt: Attempt, tell_attempt: Any, status: int | None, elapsed: float) -> None:
    tell_attempt()
    error = attempt.late or attempt.error
    outcome = "response" if error is None else "deadline" if attempt.late else "error"
    if error is not None:
        elapsed = state.clock() - state.call.started
    _tell_end(state, outcome, status, error, elapsed)


def _tell_end(state: CallState, outcome: str, status: int | None, error: str | None, elapsed: float) -> None:
    call, service = state.call, state.service
    if not service.observers.want(CallFinished):
        return
    reason = state.refused if outcome == "refused" else None
    service.observers(
        CallFinished(call.id, service.name, state.request.method, outcome, reason, status, error, len(call.attempts),
                     elapsed, state.queued)
    )  # fmt: skip


def _outcome(state: CallState, error: BaseException | None) -> str:
    if error is None:
        return "response"
    if not isinstance(error, Exception):
        return "cancelled"
    if state.refused is not None:
        return "refused"
    if isinstance(error, state.flavour.DeadlineExceeded):
        return "deadline"
    return "no_instances" if isinstance(error, state.flavour.NoInstances) else "error"
