"""What happens after an attempt: whether there is another one, and when; else why not (`RetryDenied.reason`). It
changes nothing but the retry budget.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ..flavour import CERTIFICATE, EXHAUSTED, NEVER_CONNECTED, Fault
from ..node import Node
from ..retry.decisions import Decisions
from ..retry.retry import Retry
from ..retry.retry_after import retry_after
from ..services.service import is_not_down, is_up
from ..statuses import NOT_DONE, TRY_AGAIN
from ..support.untrusted import whole_number
from .state import CallState

PUSHBACK = "grpc-retry-pushback-ms"
MAX_PAUSE = 30.0  # seconds that a call waits for a Retry-After, if there is no outlier detection
MOST_FREE = 5  # attempts of a call that never reached a server and are not counted


def is_repeated_by_default(state: CallState, retry: Retry, response: Any, error: Exception | None) -> bool:
    """Whether this outcome is retried, unless the user's strategy says otherwise."""
    if response is not None:
        return response.status_code in retry.statuses or response.status_code in TRY_AGAIN
    return error is not None and state.flavour.fault(error).repeatable


def pause_before_next(
    state: CallState, retry: Retry, decisions: Decisions, response: Any, error: Exception | None, now: float
) -> float | str:
    """Seconds until the next attempt; or why there is none."""
    fault = None if error is None else state.flavour.fault(error)
    if (obstacle := _obstacle(state, response, fault)) is not None:
        return obstacle
    free = fault is NEVER_CONNECTED and _prefer_who_is_up(state, retry, now)
    usual = decisions.pause(free)
    if usual is None:
        return "attempts"
    pause = usual if response is None else _as_the_server_says(state, response, usual, now)
    if isinstance(pause, str):
        return pause
    if state.too_late_for_another(now + pause):
        return "deadline"
    if (obstacle := _refusal(state, now)) is not None:
        return obstacle
    if free:
        state.call.free += 1
        return pause
    budget = state.service.budget
    # The budget last: `take` spends it.
    return "budget" if budget is not None and not budget.take(now) else pause


def _obstacle(state: CallState, response: Any, fault: Fault | None) -> str | None:
    """Why the request may not be sent again: it may have been processed, or its body is gone. None: it may."""
    call = state.call
    call.rather = None
    done = response.status_code not in NOT_DONE if fault is None else fault.sent
    if done and call.retried:
        return "depth"
    if done and not state.may_repeat():
        return "method"
    if state.body is not None and not state.body.repeatable:
        return "body"
    if fault is EXHAUSTED:
        return None if _leave_to_connected(state) else "limits"
    # If it happens twice, our own trust settings are wrong.
    return "attempts" if fault is CERTIFICATE and len(call.attempts) > 1 else None


def _prefer_who_is_up(state: CallState, retry: Retry, now: float) -> bool:
    """The attempt reached no server: prefer nodes that are up, to find one quickly among many that are down. Returns
    whether the attempt is free: while some node is known to be up, the call may go on until it reaches it.
    """
    call, service = state.call, state.service
    call.rather = partial(is_not_down, now=now)
    if retry.attempts <= 1 or retry.stop is not None or call.free >= MOST_FREE:
        return False
    if not service.knows_up(now) or not service.others_may_be_called(call):
        return False
    call.rather = partial(is_up, now=now)
    return True


def _leave_to_connected(state: CallState) -> bool:
    """We cannot open connections: continue on a node with an idle connection. Returns whether there is one."""
    call = state.call
    call.rather = _is_connected
    tried = {attempt.node for attempt in call.attempts}
    return any(_is_connected(node) for node in state.service.nodes if node not in tried)


def _is_connected(node: Node) -> bool:
    return node.connections is not None and bool(node.connections.has_idle)


def _as_the_server_says(state: CallState, response: Any, pause: float, now: float) -> float | str:
    """The pause, or the longer one that the server asks for, as long as the call can wait for it."""
    pushback = response.headers.get(PUSHBACK)
    if pushback is not None:
        pushed = _as_pushed_back(state, pushback, now)
        return "pushback" if pushed is None else pushed
    asked = retry_after(response.headers)
    if asked is None or asked <= pause:
        return pause
    waited = _as_asked(state, asked, now)
    if state.service.others_may_be_called(state.call):
        return pause
    return "retry_after" if waited is None else waited


def _as_asked(state: CallState, asked: float, now: float) -> float | None:
    """All instances sent Retry-After: seconds until the first one's time, or None if that is too long."""
    state.soonest = min(state.soonest, now + asked)
    pause = max(0.0, state.soonest - now)
    return pause if pause < _patience(state, now) else None


def _as_pushed_back(state: CallState, value: str, now: float) -> float | None:
    """gRPC A6: the server says when to retry; a time that is negative, or not understood, says not to."""
    ms = whole_number(value)
    seconds = None if ms is None or ms < 0 else ms / 1000
    return seconds if seconds is not None and seconds <= _patience(state, now) else None


def _patience(state: CallState, now: float) -> float:
    """The longest pause that the call accepts from a server; without a deadline it is at most the read timeout."""
    ends_at, outlier = state.context.ends_at, state.policy.outlier
    longest = MAX_PAUSE if outlier is None else outlier.max_pause
    left = ends_at - now if ends_at is not None else state.timeouts.get("read")
    return longest if left is None else min(longest, left)


def _refusal(state: CallState, now: float) -> str | None:
    """Why the service's limits let no retry through."""
    admission = state.service.admission
    if admission is None:
        return None
    if admission.places is not None and admission.places.waiting:
        return "limits"  # others wait for the place
    return admission.refusal(len(state.service.nodes), now)
