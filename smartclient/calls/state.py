"""State: the fields of a call in progress, and its small questions."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..flavour import Flavour
from ..inherited import deadline as inherited_deadline
from ..inherited import work
from ..policy import Policy
from ..retry.hedge import Hedge
from ..retry.request_body import RequestBody
from ..retry.retry import IDEMPOTENT, Retry
from ..services.call import Call
from ..services.service import Service
from ..support.waiting import Places
from .context import SendContext
from .headers import AttemptHeaders, headers_of


class Later(NamedTuple):
    """What a later call has to do, in place of one that was collected."""

    finish: Callable[[], object]


class CallState:
    """One call to one service.

    places:   of the client, and of the service, that each attempt takes
    retry, hedge: the call's own, else the policy's
    queued:   seconds that it has waited for places
    refused:  why it may not be made: "limits", "throttle", "circuit", "dropped"
    soonest:  when the first of the tried nodes will accept it again
    """

    __slots__ = (
        "_lost",
        "body",
        "call",
        "clock",
        "context",
        "flavour",
        "headers",
        "hedge",
        "places",
        "policy",
        "queued",
        "refused",
        "request",
        "retry",
        "service",
        "soonest",
        "timeouts",
    )

    def __init__(
        self,
        request: Any,
        service: Service,
        context: SendContext,
        body: RequestBody | None,
        places: Places | None,
        flavour: Flavour,
        clock: Callable[[], float],
        lost: deque[Any] | None = None,
    ) -> None:
        options, policy = context.options, service.policy
        self.policy: Policy = policy  # a call keeps the one that it began with
        self.request: Any = request
        self.service: Service = service
        self.context: SendContext = context
        self.body: RequestBody | None = body
        self.places: tuple[Places, ...] = () if places is None else (places,)
        if service.admission is not None and service.admission.places is not None:
            self.places = (service.admission.places, *self.places)
        self.flavour: Flavour = flavour
        self.clock: Callable[[], float] = clock
        self._lost = lost
        self.soonest: float = math.inf
        self.queued: float = 0.0
        self.refused: str | None = None
        self.timeouts: Mapping[str, float | None] = request.extensions.get("timeout") or {}
        self.retry: Retry | None = policy.retry if options.retry is ... else options.retry
        self.hedge: Hedge | None = policy.hedge if options.hedge is ... else options.hedge
        call = Call(request, service.name, options, clock())
        self.call: Call = call
        before, context.call = context.call, call
        if before is not None and before.service == call.service and before.served is not None:
            call.prefers = before.served  # one auth flow: answer a challenge on the node that sent it
        deadline = policy.deadline if options.deadline is ... else options.deadline
        if deadline is not None and context.ends_at is None:
            context.deadline = deadline
            context.ends_at = call.started + deadline
        left = inherited_deadline.left()
        if left is not None and (context.ends_at is None or call.started + left < context.ends_at):
            context.deadline = inherited_deadline.given()
            context.ends_at = call.started + left
        if context.ends_at is not None:
            service.measure()
        current = work.get()
        call.retried = current is not None and current.retried
        self.headers: AttemptHeaders | None = headers_of(request, call, policy, context) if policy.says else None

    def collected(self, unfinished: Any) -> None:
        """It was found by the garbage collector: that may run anywhere, also in a thread that holds a lock. So it is
        finished later, by another call. unfinished: has `finish`
        """
        if self._lost is not None:
            self._lost.append(unfinished)

    def repeatable(self) -> bool:
        """Whether the whole request may be sent again, should it have reached a server."""
        return self.may_repeat() and (self.body is None or self.body.repeatable)

    def may_repeat(self) -> bool:
        """The same, its body aside."""
        if self.request.method in (IDEMPOTENT if self.retry is None else self.retry.methods):
            return True
        return self.headers is not None and self.headers.key is not None

    def at_most(self, timeout: float | None) -> float | None:
        """A timeout, cut to what is left of the deadline."""
        ends_at = self.context.ends_at
        if ends_at is None:
            return timeout
        left = max(0.0, ends_at - self.clock())
        return left if timeout is None else min(left, timeout)

    def out_of_time(self) -> bool:
        return self.context.ends_at is not None and self.clock() >= self.context.ends_at

    def too_late_for_another(self, at: float) -> bool:
        """Whether an attempt that starts then would probably end too late."""
        ends_at = self.context.ends_at
        return ends_at is not None and at + (self.service.measure().percentile(0.5, at) or 0.0) >= ends_at

    def deadline_exceeded(self, where: str) -> Exception:
        error: Exception = self.flavour.DeadlineExceeded.of(self.service.name, self.context.deadline, where)
        return error
