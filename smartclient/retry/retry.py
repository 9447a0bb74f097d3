"""Retry: the settings, in tenacity's words, and `Retrying`, the decisions for one call.

tenacity's strategies decide; its controller is not used: `BaseRetrying.iter` keeps thread-local state that interleaved
flows would mix up. A `RetryCallState` is made at the first failure only, so a call that succeeds at once pays nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from tenacity import RetryCallState, stop_after_attempt, wait_random_exponential

from ..support.checks import Settings, count, kind, optional, setting, wrong
from ..support.checks import methods as method_set
from ..support.checks import statuses as status_set
from ..support.untrusted import shown
from .budget import RetryBudget

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"})
"""Methods that may be sent twice (RFC 9110 §9.2.2; QUERY: RFC 10008)."""

Strategy = Callable[[RetryCallState], Any]


def strategy(name: str, value: Any) -> Any:
    """A check of settings: one of tenacity's strategies, or a function like them."""
    if not callable(value) or isinstance(value, type):
        raise wrong(name, "a tenacity strategy (a callable)", value, TypeError)
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(getattr(value, "__call__", None)):  # noqa: B004
        raise TypeError(f"{name}: a coroutine function cannot decide (its result is always true), got {shown(value)}")
    return value


@dataclass(frozen=True)
class Retry(Settings):
    """When a failed attempt is followed by another, on another node.

    attempts:  attempts of a call, the first included. While some instance is known to be up, one that could not be
               connected to is not counted, at most five of a call (with a `stop` of your own all are)
    wait:      tenacity wait strategy, in seconds. It is longer only if every instance has answered with Retry-After
               (at most `OutlierDetection.max_pause`, and as far as the deadline allows); a server's
               grpc-retry-pushback-ms takes its place (gRPC A6)
    statuses:  responses that are retried; beside them 421 and 425, whatever the method (the server says that it did
               nothing: RFC 9110 §15.5.20, RFC 8470 §5.2), and 408
    methods:   methods that may be sent again once something of them was sent. One that never left is always
               repeatable, POST too
    budget:    retries as a share of calls; None: no such limit
    stop:      tenacity stop strategy, in place of `attempts`
    retry:     tenacity retry strategy, in place of `statuses` and "transport errors". Sees successes, too

    Whatever these say, a body that cannot be produced again is not sent again.
    """

    attempts: int = setting(3, count(most=1000))
    wait: Strategy = setting(factory=lambda: wait_random_exponential(multiplier=0.025, max=1.0), check=strategy)
    statuses: Collection[int] = setting(frozenset({502, 503, 504}), status_set)
    methods: Collection[str] = setting(IDEMPOTENT, method_set)
    budget: RetryBudget | None = setting(factory=RetryBudget, check=optional(kind(RetryBudget)))
    stop: Strategy | None = setting(None, optional(strategy))
    retry: Strategy | None = setting(None, optional(strategy))

    @property
    def stops(self) -> Strategy:
        """The stop strategy in force."""
        return self.stop if self.stop is not None else stop_after_attempt(self.attempts)


class Retrying:
    """The retry decisions of one call, from its first failure on."""

    __slots__ = ("_counted", "_settings", "_state")

    def __init__(self, settings: Retry, started: float) -> None:
        self._settings = settings
        self._counted = True
        # tenacity allows no controller here in fact, though not in its annotations.
        self._state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]
        self._state.start_time = started

    def wanted(self, response: Any, error: BaseException | None, by_default: bool, now: float) -> bool:
        """Whether this outcome is one to retry. by_default: what to say where the user gave no `retry=`."""
        state = self._state
        if error is not None:
            state.set_exception((type(error), error, error.__traceback__))
        else:
            state.set_result(response)
        state.outcome_timestamp = now
        return by_default if self._settings.retry is None else bool(self._settings.retry(state))

    def pause(self, free: bool = False) -> float | None:
        """Seconds to wait before the next attempt; None: no more attempts. free: the last one does not count"""
        state, self._counted = self._state, not free
        if free:
            return 0.0
        # The wait comes before the stop, since `stop_before_delay` reads it.
        state.upcoming_sleep = max(0.0, float(self._settings.wait(state)))
        return None if self._settings.stops(state) else state.upcoming_sleep

    def again(self, pause: float) -> None:
        """Another attempt follows after `pause` seconds."""
        number = self._state.attempt_number
        self._state.idle_for += pause
        self._state.prepare_for_next_attempt()
        if not self._counted:
            self._state.attempt_number = number

    def close(self) -> None:
        """Let go of the outcome: an exception held here would be a reference cycle with its traceback."""
        self._state.outcome = None
