"""The flow of a call: choose, send, judge, wait, again. Written once, as a generator that does no I/O.

It yields effects and is resumed with their results, or has exceptions thrown into it; two small drivers perform the
effects, one with blocking calls, one with `await` (`httpx.Auth.auth_flow` is the same pattern). The course of a call is
decided here, with what `hedging` (a second attempt), `turns` (places) and `retry.policy` (tenacity's strategies) know
of their parts; drivers decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import Any

from ..errors import describe
from ..events import AttemptFinished, AttemptStarted, CallFinished, RetryScheduled
from ..flavour import CERTIFICATE, ENDED, EXHAUSTED, NEVER_CONNECTED, Flavour
from ..inherited import deadline as ambient_deadline
from ..inherited import work
from ..limits import Refused
from ..node import Node, Outcome
from ..reports import KEY
from ..retry.request_body import Body
from ..retry.retry import IDEMPOTENT, Retry, Retrying
from ..retry.retry_after import retry_after
from ..services.call import Attempt, Call, _Unset
from ..services.picking import Full, Unavailable
from ..services.service import Service, is_not_down, is_up
from ..support.untrusted import whole_number
from ..support.waiting import Places
from .effects import Discard, Effect, Read, Send, SendContext, Sleep, TimeLeft, WaitForNodes
from .headers import headers_of
from .hedging import hedged
from .places import leave_places, queue, try_places

PUSHBACK = "grpc-retry-pushback-ms"
MISDIRECTED = 421
NOT_DONE = frozenset({MISDIRECTED, 425})  # the server says that it did nothing: any method may be sent again
NEITHER = frozenset({408, 425})  # said of our connection, not of the server's health
TRY_AGAIN = NOT_DONE | {408}


LOOK_AGAIN = 0.01  # seconds
MAX_PAUSE = 30.0  # seconds that a call waits for a Retry-After, without outlier detection to say so
MOST_FREE = 5  # attempts of a call that never reached a server and are not counted


class CallFlow:
    """One call to one service. `run` is the generator; what else is public is for `hedging`."""

    __slots__ = (
        "_headers",
        "_hedge",
        "_retry",
        "_soonest",
        "body",
        "call",
        "clock",
        "context",
        "flavour",
        "places",
        "request",
        "service",
        "timeouts",
    )

    def __init__(
        self,
        request: Any,
        service: Service,
        context: SendContext,
        body: Body | None,
        places: Places | None,
        flavour: Flavour,
        clock: Callable[[], float],
    ) -> None:
        options = context.options
        self.request = request
        self.service = service
        self.context = context
        self.body = body
        self.places: tuple[Places, ...] = () if places is None else (places,)
        if service.guard is not None and service.guard.places is not None:
            self.places = (service.guard.places, *self.places)
        self.flavour = flavour
        self.clock = clock
        self._soonest = math.inf  # when the first of the nodes that it tried will take it again
        self.timeouts: Mapping[str, float | None] = request.extensions.get("timeout") or {}
        self._retry = service.policy.retry if isinstance(options.retry, _Unset) else options.retry
        self._hedge = service.policy.hedge if isinstance(options.hedge, _Unset) else options.hedge
        self.call = call = Call(request, service.name, options, clock())
        before, context.call = context.call, call
        if before is not None and before.service == call.service and before.served is not None:
            call.prefers = before.served  # one auth flow: a challenge is answered where it was made
        deadline = options.deadline or service.policy.deadline
        if deadline is not None and context.ends_at is None:
            context.deadline = deadline
            context.ends_at = self.call.started + deadline
        left = ambient_deadline.left()
        if left is not None and (context.ends_at is None or self.call.started + left < context.ends_at):
            context.deadline = ambient_deadline.given()
            context.ends_at = self.call.started + left
        if context.ends_at is not None:
            service.measure()
        current = work.get()
        self.call.retried = current is not None and current.retried
        self._headers = headers_of(request, self.call, service.policy, context) if service.policy.says else None

    def run(self) -> Generator[Effect, Any, Any]:
        """The call, from the wait for its first node to the response that is returned or the error that is raised."""
        call, service, retry, body = self.call, self.service, self._retry, self.body
        context = self.context
        observed = service.observed
        retrying: Retrying | None = None
        attempt: Attempt | None = None
        last: Exception | None = None
        before: Exception | None = None
        response = None
        waited = 0.0
        wanted = False
        try:
            if not service.ready.fired:
                yield from self._first_nodes()
            if body is not None and body.begun:  # a redirect that keeps its body, or an auth flow's second request
                if not body.repeatable:
                    raise self.flavour.httpx.StreamConsumed
                body.rewind()
            call.repeatable = retry is not None and retry.attempts > 1 and self._repeatable(retry)
            while True:
                attempt = yield from self._start(last)
                attempt.waited = waited
                before, last, response, wanted = last, None, None, False
                try:
                    if self._hedge is None or call.attempt > 1:
                        response = yield from self.send(attempt)
                    else:
                        attempt, response, last = yield from hedged(self, attempt, self._hedge)
                except self.flavour.TransportError as error:
                    last = error
                except BaseException as error:
                    attempt.judge(Outcome.ABANDONED, error=describe(error))
                    attempt.finish()
                    self._finished(attempt, None, error)
                    if before is not None and isinstance(error, self.flavour.httpx.StreamConsumed):
                        raise before from error  # the body cannot be sent again after all
                    raise
                now = call.finished = self.judge(attempt, response, last)
                if retry is None:
                    break
                if response is not None:
                    by_default = response.status_code in retry.statuses or response.status_code in TRY_AGAIN
                    if not (by_default or context.streamed or response.is_closed) and self._repeatable(retry):
                        try:
                            yield Read(response)
                        except self.flavour.TransportError as error:
                            last, response, by_default = error, None, True
                            now = self.clock()
                else:
                    by_default = last is not None and self.flavour.fault(last).repeatable
                if not by_default and retry.retry is None:
                    break
                if retrying is None:
                    retrying = Retrying(retry, call.started)
                wanted = retrying.wanted(response, last, by_default, now)
                if not wanted:
                    break
                pause = self._pause(retrying, response, last, retry, now)
                if pause is None:
                    break
                if response is not None:
                    yield Discard(response)
                if observed:
                    reason = describe(last) if last is not None else f"status {attempt.status}"
                    service.observers(RetryScheduled(service.name, call.attempt + 1, pause, reason))
                if pause > 0:
                    yield Sleep(pause)
                retrying.again(pause)
                if body is not None:
                    body.rewind()
                call.attempt += 1
                call.tried += (attempt.node,)
                waited = self.clock() - now
            self._finished(attempt, response, last)
            if wanted and (current := work.get()) is not None:
                current.in_vain = True
            if last is not None:
                timed_out = isinstance(last, self.flavour.httpx.TimeoutException)
                if timed_out and self.out_of_time() and not isinstance(last, self.flavour.DeadlineExceeded):
                    raise self.deadline_exceeded("waiting for the response") from last
                raise last
            assert response is not None
            response.extensions[KEY] = call
            if not response.has_redirect_location:
                call.served = attempt.node
            return response
        except Exception as error:
            if response is not None:  # a strategy of the user's raised
                yield Discard(response)
            if attempt is not None:
                attempt.finish()
            call.finished = self.clock()
            call.attach_to(error, named=isinstance(error, self.flavour.TransportError))
            raise
        finally:
            if retrying is not None:
                retrying.close()
            last = before = response = None  # an exception kept in a frame of its own traceback is a reference cycle

    # ---- steps ----

    def _first_nodes(self) -> Generator[Effect, Any, None]:
        """Only a call that comes before the first list waits for discovery: as long as it would for a connection."""
        timeout = self.at_most(self.timeouts.get("connect"))
        service, came = self.service, False
        try:
            came = yield WaitForNodes(service, timeout)
        finally:
            if not came:
                service.given_up()
        if came:
            return
        where = f"waiting for the first list of {service.source}"
        if service.problem:
            where += f" (last error: {service.problem})"
        if self.out_of_time():
            raise self.deadline_exceeded(where)
        reason = f"{service.source} has not answered within {timeout:.3g} s"
        if service.problem:
            reason += f"; last error: {service.problem}"
        raise self.flavour.NoInstances.of(service.name, reason)

    def _start(self, last: Exception | None) -> Generator[Effect, Any, Attempt]:
        """Take a place, then pick: waiting for a place is nobody's latency."""
        call, service = self.call, self.service
        call.now = self.clock()
        if self.context.ends_at is not None and call.now >= self.context.ends_at:
            raise self.deadline_exceeded(
                "before the next attempt" if call.attempts else "before anything was sent"
            ) from last
        if service.guard is not None and call.attempt == 1:
            try:
                service.guard.admit(len(service.nodes), call.now)
            except Refused as refused:
                error = self.flavour.NoInstances if refused.down else self.flavour.Overloaded
                raise error.of(service.name, str(refused)) from None
        if service.drop and call.attempt == 1 and service.drops():
            why = f"{service.source} has {service.drop:.3%} of the calls dropped"
            raise self.flavour.Overloaded.of(service.name, why)
        if not try_places(self.places):
            yield from queue(self, last)
            call.now = self.clock()
        try:
            try:
                attempt = self.begin()
            except Full as full:
                attempt = yield from self._room(full, last)
        except Unavailable as error:
            raise self.flavour.NoInstances.of(service.name, str(error)) from last
        if service.observed:
            self.announce(attempt)
        return attempt

    def _room(self, full: Full, last: Exception | None) -> Generator[Effect, Any, Attempt]:
        """An attempt, once a node has room for it. The places see to that, but where only some of the nodes fit
        (`require`): then it is looked for now and then.
        """
        guard = self.service.guard
        assert guard is not None
        assert guard.limits is not None
        until = self.clock() + guard.limits.queue_timeout
        while self.clock() < until:
            if self.out_of_time():
                raise self.deadline_exceeded("waiting for an instance with room (Policy.limits)") from last
            yield Sleep(LOOK_AGAIN)
            if not try_places(self.places):
                yield from queue(self, last)
            self.call.now = self.clock()
            try:
                return self.begin()
            except Full:
                pass
        raise self.flavour.Overloaded.of(self.service.name, str(full)) from last

    def begin(self) -> Attempt:
        """An attempt on a node; the places are taken. Raises Unavailable."""
        service = self.service
        try:
            attempt = service.start(self.call, self.places)
        except BaseException:
            leave_places(self.places)
            raise
        return attempt

    def announce(self, attempt: Attempt) -> None:
        service = self.service
        if service.observed:
            service.observers(AttemptStarted(service.name, attempt.node.instance, attempt.number))

    def send(self, attempt: Attempt) -> Generator[Send, Any, Any]:
        """Send, and once more if an idle connection turned out to be dead: the keep-alive race is nobody's failure. So
        is a connection whose end left the request out: that may be sent again whatever its method.
        """
        context, body = self.context, self.body
        limit = self.call.options.attempt_timeout or self.service.policy.attempt_timeout
        timeouts = None
        ends_at = context.ends_at
        if limit is not None or ends_at is not None:
            first_end = min(
                math.inf if limit is None else attempt.started + limit,
                math.inf if ends_at is None else ends_at,
            )
            timeouts = TimeLeft(self.timeouts, first_end, self.clock)
        stream = self.request.stream if body is None else body.stream
        headers = self._headers.of(attempt, context, self.clock()) if self._headers is not None else ()
        fresh = False
        while True:
            try:
                response = yield Send(attempt, fresh, timeouts, stream, headers, context)
            except self.flavour.STALE as error:
                ended = self.flavour.fault(error) is ENDED
                if fresh or attempt.overtaken or (not attempt.reused and not ended):
                    raise
                if not (self._repeatable(self._retry) or (ended and (body is None or body.repeatable))):
                    raise
                fresh = True
                if body is not None:
                    body.rewind()
            else:
                if timeouts is not None:
                    timeouts.ends_at = context.body_ends_at
                return response

    def judge(self, attempt: Attempt, response: Any, error: Exception | None) -> float:
        """Tell the attempt how it ended; the time it is now."""
        if response is not None:
            status = response.status_code
            if self.service.load_header is not None:
                load = response.headers.get(self.service.load_header)
                if load:
                    self.service.reported(attempt, load)
            if status in NEITHER:
                attempt.judge(Outcome.ABANDONED, status)
            elif status < 500 and status != 429 and status != MISDIRECTED:
                attempt.judge(Outcome.SUCCESS, status)
            else:
                attempt.judge(Outcome.FAILURE, status, retry_after=retry_after(response.headers))
            if response.is_closed:  # there is no body whose close would finish it
                attempt.finish()
        else:
            assert error is not None
            stale = attempt.reused and isinstance(error, self.flavour.STALE)
            fault = self.flavour.fault(error)
            blamed = fault.blamed and not stale
            attempt.unreached = fault is NEVER_CONNECTED
            attempt.judge(Outcome.FAILURE if blamed else Outcome.ABANDONED, error=describe(error))
            attempt.finish()
        if self.service.observed:
            self.announce_end(attempt)
        return attempt.started + attempt.elapsed

    def announce_end(self, attempt: Attempt) -> None:
        if self.service.observed:
            outcome = str(attempt.outcome)
            self.service.observers(
                AttemptFinished(self.service.name, attempt.node.instance, attempt.number, outcome, attempt.status,
                                attempt.error, attempt.elapsed)
            )  # fmt: skip

    def _pause(
        self, retrying: Retrying, response: Any, error: Exception | None, retry: Retry, now: float
    ) -> float | None:
        """Seconds until the next attempt; None: there is none."""
        call, service, fault = self.call, self.service, None
        call.rather = None
        asked = pushback = None
        if error is not None:
            fault = self.flavour.fault(error)
            done = fault.sent
        else:
            done = response.status_code not in NOT_DONE
            asked, pushback = retry_after(response.headers), response.headers.get(PUSHBACK)
        if done and (call.retried or not self._may_repeat(retry)):
            return None
        if self.body is not None and not self.body.repeatable:
            return None
        if fault is EXHAUSTED and not self._leave_to_connected():
            return None
        if fault is CERTIFICATE and len(call.attempts) > 1:
            return None  # two say so: it is the trust of ours that is wrong
        free = False
        if fault is NEVER_CONNECTED:
            call.rather = partial(is_not_down, now=now)  # so one that is up is soon found among many that are not
            free = retry.attempts > 1 and retry.stop is None and self._is_free(now)
        pause = retrying.pause(free)
        if pause is None:
            return None
        if pushback is not None:
            pause = self._as_pushed_back(pushback, now)
        elif asked is not None and asked > pause:
            waited = self._as_asked(asked, now)
            pause = pause if service.others_may_be_called(call) else waited
        if pause is None:
            return None
        ends_at = self.context.ends_at
        if ends_at is not None and now + pause + (service.measure().percentile(0.5, now) or 0.0) >= ends_at:
            return None
        guard = service.guard
        if guard is not None:
            if guard.places is not None and guard.places.waiting:
                return None  # others wait for the place
            if not guard.admits(len(service.nodes), now):
                return None
        if free:
            call.free += 1
            return pause
        budget = service.budget
        # The budget last: asking is paying.
        return None if budget is not None and not budget.take(now) else pause

    def _is_free(self, now: float) -> bool:
        """Whether an attempt that never reached a server costs nothing: while some node is known to be up, the call is
        entitled to reach it, however many others refuse.
        """
        call, service = self.call, self.service
        if call.free >= MOST_FREE or not service.knows_up(now) or not service.others_may_be_called(call):
            return False
        call.rather = partial(is_up, now=now)
        return True

    def _patience(self, now: float) -> float:
        """Seconds that the call waits because it was told to: without a deadline a caller's patience is what it would
        have waited for an answer.
        """
        ends_at, outlier = self.context.ends_at, self.service.policy.outlier
        longest = MAX_PAUSE if outlier is None else outlier.max_pause
        left = ends_at - now if ends_at is not None else self.timeouts.get("read")
        return longest if left is None else min(longest, left)

    def _as_asked(self, asked: float, now: float) -> float | None:
        """All instances asked to be left alone (Retry-After): until the first one's time, if the call can wait."""
        self._soonest = min(self._soonest, now + asked)
        pause = max(0.0, self._soonest - now)
        return pause if pause < self._patience(now) else None

    def _as_pushed_back(self, value: str, now: float) -> float | None:
        """gRPC A6: the server says when to retry; a time that is negative, or not understood, says not to."""
        ms = whole_number(value)
        seconds = None if ms is None or ms < 0 else ms / 1000
        return seconds if seconds is not None and seconds <= self._patience(now) else None

    def _leave_to_connected(self) -> bool:
        """Nothing is left of ours to connect with: the call goes on where a connection is; whether there is one."""
        call = self.call
        call.rather = _is_connected
        tried = {attempt.node for attempt in call.attempts}
        return any(_is_connected(node) for node in self.service.nodes if node not in tried)

    # ---- small questions ----

    def _repeatable(self, retry: Retry | None) -> bool:
        return self._may_repeat(retry) and (self.body is None or self.body.repeatable)

    def _may_repeat(self, retry: Retry | None) -> bool:
        if self.request.method in (IDEMPOTENT if retry is None else retry.methods):
            return True
        return self._headers is not None and self._headers.key is not None

    def at_most(self, timeout: float | None) -> float | None:
        ends_at = self.context.ends_at
        if ends_at is None:
            return timeout
        left = max(0.0, ends_at - self.clock())
        return left if timeout is None else min(left, timeout)

    def out_of_time(self) -> bool:
        return self.context.ends_at is not None and self.clock() >= self.context.ends_at

    def deadline_exceeded(self, where: str) -> Exception:
        error: Exception = self.flavour.DeadlineExceeded.of(self.service.name, self.context.deadline, where)
        return error

    def _finished(self, attempt: Attempt, response: Any, error: BaseException | None) -> None:
        if not self.service.observed:
            return
        status = None if response is None else response.status_code
        self.service.observers(
            CallFinished(self.service.name, self.request.method, self.call.attempt, status,
                         None if error is None else describe(error), self.clock() - self.call.started)
        )  # fmt: skip


def _is_connected(node: Node) -> bool:
    return node.connections is not None and bool(node.connections.has_idle)
