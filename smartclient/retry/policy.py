"""Retry: the settings, in tenacity's words, and `Retrying`, the decisions for one call.

tenacity's strategies decide; its controller is not used: `BaseRetrying.iter` keeps thread-local state that interleaved
flows would mix up. A `RetryCallState` is made at the first failure only, so a call that succeeds at once pays nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from tenacity import RetryCallState, stop_after_attempt, wait_random_exponential

from ..settings import check_count
from .budget import RetryBudget

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"})
"""Methods that may be sent twice (RFC 9110 §9.2.2; QUERY: RFC 10008)."""

Strategy = Callable[[RetryCallState], Any]


@dataclass(frozen=True)
class Retry:
    """When a failed attempt is followed by another, on another node.

    attempts:  attempts of a call, the first included
    wait:      tenacity wait strategy, in seconds. A Retry-After lengthens it, as far as the deadline allows
    statuses:  responses that are retried; beside them 421 and 425, whatever the method (the server says that it did
               nothing: RFC 9110 §15.5.20, RFC 8470 §5.2), and 408
    methods:   methods that may be sent again once something of them was sent. One that never left is always
               repeatable, POST too
    budget:    retries as a share of calls; None: no such limit
    stop:      tenacity stop strategy, in place of `attempts`
    retry:     tenacity retry strategy, in place of `statuses` and "transport errors". Sees successes, too

    Whatever these say, a body that cannot be produced again is not sent again.
    """

    attempts: int = 3
    wait: Strategy = field(default_factory=lambda: wait_random_exponential(multiplier=0.025, max=1.0))
    statuses: Collection[int] = frozenset({502, 503, 504})
    methods: Collection[str] = IDEMPOTENT
    budget: RetryBudget | None = field(default_factory=RetryBudget)
    stop: Strategy | None = None
    retry: Strategy | None = None

    def __post_init__(self) -> None:
        check_count(self, "attempts")
        for name in ("wait", "stop", "retry"):
            _check_strategy(f"Retry.{name}", getattr(self, name), optional=name != "wait")
        check_methods(self)
        check_statuses(self)
        if self.budget is not None and not isinstance(self.budget, RetryBudget):
            raise TypeError(f"Retry.budget: expected a RetryBudget or None, got {self.budget!r}")

    @property
    def stops(self) -> Strategy:
        """The stop strategy in force."""
        return self.stop if self.stop is not None else stop_after_attempt(self.attempts)


def check_methods(settings: Any) -> None:
    """Check the field `methods` and make it a set of upper-case names."""
    methods, owner = settings.methods, type(settings).__name__
    if isinstance(methods, str) or not all(isinstance(method, str) for method in methods):
        raise TypeError(f"{owner}.methods: expected a set of names like {{'GET'}}, got {methods!r}")
    object.__setattr__(settings, "methods", frozenset(method.upper() for method in methods))


def check_statuses(settings: Any) -> None:
    """Check the field `statuses` and make it a set."""
    statuses, owner = settings.statuses, type(settings).__name__
    if isinstance(statuses, (str, int)) or not all(isinstance(status, int) for status in statuses):
        raise TypeError(f"{owner}.statuses: expected a set of numbers like {{503}}, got {statuses!r}")
    object.__setattr__(settings, "statuses", frozenset(statuses))


def _check_strategy(name: str, strategy: object, optional: bool) -> None:
    if strategy is None and optional:
        return
    if not callable(strategy):
        raise TypeError(f"{name}: expected a tenacity strategy (a callable), got {strategy!r}")
    if inspect.iscoroutinefunction(strategy) or inspect.iscoroutinefunction(getattr(strategy, "__call__", None)):  # noqa: B004
        raise TypeError(f"{name}: a coroutine function cannot decide (its result is always true), got {strategy!r}")


class Retrying:
    """The retry decisions of one call, from its first failure on."""

    __slots__ = ("_settings", "_state")

    def __init__(self, settings: Retry, started: float) -> None:
        self._settings = settings
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

    def pause(self) -> float | None:
        """Seconds to wait before the next attempt; None: no more attempts."""
        state = self._state
        # The wait comes before the stop, since `stop_before_delay` reads it.
        state.upcoming_sleep = max(0.0, float(self._settings.wait(state)))
        return None if self._settings.stops(state) else state.upcoming_sleep

    def again(self, pause: float) -> None:
        """Another attempt follows after `pause` seconds."""
        self._state.idle_for += pause
        self._state.prepare_for_next_attempt()

    def close(self) -> None:
        """Let go of the outcome: an exception held here would be a reference cycle with its traceback."""
        self._state.outcome = None
