"""Retry: the settings, in tenacity's words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import KW_ONLY, dataclass
from typing import Any

from tenacity import RetryCallState, stop_after_attempt, wait_random_exponential

from ..statuses import BAD_GATEWAYS
from ..support.checks import Check, Settings, count, kind, optional, setting, wrong
from ..support.checks import methods as method_set
from ..support.checks import statuses as status_set
from ..support.forms import Checked, Form
from ..support.untrusted import shown
from .budget import RetryBudget

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"})
"""Methods that may be sent twice (RFC 9110 §9.2.2; QUERY: RFC 10008)."""

Strategy = Callable[[RetryCallState], Any]


def _strategy(name: str, value: Any) -> Any:
    if not callable(value) or isinstance(value, type):
        raise wrong(name, "a tenacity strategy (a callable)", value, TypeError)
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(getattr(value, "__call__", None)):  # noqa: B004
        raise TypeError(f"{name}: a coroutine function cannot decide (its result is always true), got {shown(value)}")
    return value


def strategy(group: str) -> Check:
    """One of tenacity's strategies, or a function like them."""
    return Checked(_strategy, Form(strategy=group))


@dataclass(frozen=True)
class Retry(Settings):
    """When a failed attempt is followed by another, on another node.

    attempts:  attempts of a call, the first included. While some instance is known to be up, up to five attempts of a
               call that could not connect are not counted (with a `stop` of your own all are)
    wait:      tenacity wait strategy, in seconds. It is longer only if every instance has answered with Retry-After
               (at most `OutlierDetection.max_pause`, and as far as the deadline allows); a server's
               grpc-retry-pushback-ms takes its place (gRPC A6)
    statuses:  responses that are retried; beside them 421 and 425, whatever the method (the server says that it did
               nothing: RFC 9110 §15.5.20, RFC 8470 §5.2), and 408
    methods:   methods that may be sent again after part of the request was sent. A request of which nothing was sent
               is always repeatable, POST too
    budget:    retries as a share of calls; None: no such limit
    stop:      tenacity stop strategy, in place of `attempts`
    retry:     tenacity retry strategy, in place of `statuses` and "transport errors". Sees successes, too

    Whatever these say, a body that cannot be produced again is not sent again.
    """

    attempts: int = setting(3, count(most=1000))
    _: KW_ONLY
    wait: Strategy = setting(factory=lambda: wait_random_exponential(multiplier=0.025, max=1.0), check=strategy("wait"))
    statuses: Collection[int] = setting(BAD_GATEWAYS, status_set)
    methods: Collection[str] = setting(IDEMPOTENT, method_set)
    budget: RetryBudget | None = setting(factory=RetryBudget, check=optional(kind(RetryBudget)))
    stop: Strategy | None = setting(None, optional(strategy("stop")))
    retry: Strategy | None = setting(None, optional(strategy("retry")))

    @property
    def stops(self) -> Strategy:
        """The stop strategy in force."""
        return self.stop if self.stop is not None else stop_after_attempt(self.attempts)
