"""The flow of a call: choose, send, judge, wait, again. Written once, as a generator that does no I/O.

It yields effects and is resumed with their results, or has exceptions thrown into it; two small drivers perform the
effects, one with blocking calls, one with `await` (`httpx.Auth.auth_flow` is the same pattern). All policy of a call is
here, none in a driver.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from typing import Any

from .call import Attempt, Call, _Unset
from .choosing import Unavailable
from .effects import Discard, Effect, Read, Send, SendContext, Sleep, TimeLeft, WaitForNodes, WaitForTurn
from .errors import describe
from .events import AttemptFinished, AttemptStarted, CallFinished, RetryScheduled
from .flavour import Flavour
from .node import Outcome
from .report import KEY
from .retry.policy import IDEMPOTENT, Retry, Retrying
from .retry.replay import Body
from .retry.retry_after import retry_after
from .service import Service
from .waiting import Places


class CallFlow:
    """One call to one service. `run` is the generator."""

    __slots__ = (
        "_body",
        "_call",
        "_clock",
        "_context",
        "_flavour",
        "_places",
        "_request",
        "_retry",
        "_service",
        "_timeouts",
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
        self._request = request
        self._service = service
        self._context = context
        self._body = body
        self._places = places
        self._flavour = flavour
        self._clock = clock
        self._timeouts: Mapping[str, float | None] = request.extensions.get("timeout") or {}
        self._retry = service.policy.retry if isinstance(options.retry, _Unset) else options.retry
        self._call = context.call = Call(request, service.name, options, clock())
        deadline = options.deadline or service.policy.deadline
        if deadline is not None and context.ends_at is None:
            context.deadline = deadline
            context.ends_at = self._call.started + deadline

    def run(self) -> Generator[Effect, Any, Any]:
        """The call, from the wait for its first node to the response that is returned or the error that is raised."""
        call, service, retry, body = self._call, self._service, self._retry, self._body
        context = self._context
        observed = service.observed
        retrying: Retrying | None = None
        last: Exception | None = None
        before: Exception | None = None
        response = None
        waited = 0.0
        try:
            if not service.ready.fired:
                yield from self._first_nodes()
            if body is not None and body.begun:  # a redirect that keeps its body, or an auth flow's second request
                if not body.repeatable:
                    raise self._flavour.httpx.StreamConsumed
                body.rewind()
            call.repeatable = retry is not None and retry.attempts > 1 and self._repeatable(retry)
            while True:
                attempt = yield from self._start(last)
                attempt.waited = waited
                if observed:
                    service.observers(AttemptStarted(service.name, attempt.node.instance, attempt.number))
                before, last, response = last, None, None
                try:
                    response = yield from self._send(attempt)
                except self._flavour.TransportError as error:
                    last = error
                except BaseException as error:
                    attempt.judge(Outcome.ABANDONED, error=describe(error))
                    attempt.finish()
                    self._finished(attempt, None, error)
                    if before is not None and isinstance(error, self._flavour.httpx.StreamConsumed):
                        raise before from error  # the body cannot be sent again after all
                    raise
                now = call.finished = self._judge(attempt, response, last)
                if retry is None:
                    break
                if response is not None:
                    by_default = response.status_code in retry.statuses
                    if not (by_default or context.streamed or response.is_closed) and self._repeatable(retry):
                        try:
                            yield Read(response)
                        except self._flavour.TransportError as error:
                            last, response, by_default = error, None, True
                            now = self._clock()
                else:
                    by_default = last is not None and self._flavour.fault(last).repeatable
                if not by_default and retry.retry is None:
                    break
                if retrying is None:
                    retrying = Retrying(retry, call.started)
                if not retrying.wanted(response, last, by_default, now):
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
                waited = self._clock() - now
            self._finished(attempt, response, last)
            if last is not None:
                timed_out = isinstance(last, self._flavour.httpx.TimeoutException)
                if timed_out and self._out_of_time() and not isinstance(last, self._flavour.DeadlineExceeded):
                    raise self._deadline_exceeded("waiting for the response") from last
                raise last
            assert response is not None
            response.extensions[KEY] = call
            return response
        except Exception as error:
            if response is not None:  # a strategy of the user's raised
                yield Discard(response)
            call.finished = self._clock()
            call.attach_to(error)
            raise
        finally:
            if retrying is not None:
                retrying.close()
            last = before = response = None  # an exception kept in a frame of its own traceback is a reference cycle

    # ---- steps ----

    def _first_nodes(self) -> Generator[Effect, Any, None]:
        """Only a call that comes before the first list waits for discovery: as long as it would for a connection."""
        timeout = self._at_most(self._timeouts.get("connect"))
        if (yield WaitForNodes(self._service, timeout)):
            return
        service = self._service
        where = f"waiting for the first list of {service.source}"
        if service.problem:
            where += f" (last error: {service.problem})"
        if self._out_of_time():
            raise self._deadline_exceeded(where)
        reason = f"{service.source} has not answered within {timeout:.3g} s"
        if service.problem:
            reason += f"; last error: {service.problem}"
        raise self._flavour.NoInstances.of(service.name, reason)

    def _start(self, last: Exception | None) -> Generator[Effect, Any, Attempt]:
        """Take a place, then pick: waiting for a place is nobody's latency."""
        places, call = self._places, self._call
        call.now = self._clock()
        if self._context.ends_at is not None and call.now >= self._context.ends_at:
            raise self._deadline_exceeded(
                "before anything was sent" if last is None else "before the next attempt"
            ) from last
        if places is not None and not places.try_take():
            timeout = self._at_most(self._timeouts.get("pool"))
            if not (yield WaitForTurn(places, timeout)):
                if self._out_of_time():
                    raise self._deadline_exceeded("waiting for a place among max_connections") from last
                limit = f"{places.limit} attempts in progress (httpx.Limits.max_connections)"
                reason = f"{limit}, none ended within {timeout:.3g} s"
                raise self._flavour.Overloaded.of(self._service.name, reason) from last
            call.now = self._clock()
        try:
            return self._service.start(call, places)
        except BaseException as error:
            if places is not None:
                places.release()
            if isinstance(error, Unavailable):
                raise self._flavour.NoInstances.of(self._service.name, str(error)) from last
            raise

    def _send(self, attempt: Attempt) -> Generator[Effect, Any, Any]:
        """Send, and once more if an idle connection turned out to be dead: the keep-alive race is nobody's failure."""
        context, body = self._context, self._body
        limit = self._call.options.attempt_timeout or self._service.policy.attempt_timeout
        timeouts = None
        ends_at = context.ends_at
        if limit is not None or ends_at is not None:
            first_end = min(
                math.inf if limit is None else attempt.started + limit,
                math.inf if ends_at is None else ends_at,
            )
            timeouts = TimeLeft(self._timeouts, first_end, self._clock)
        stream = self._request.stream if body is None else body.stream
        fresh = False
        while True:
            try:
                response = yield Send(attempt, fresh, timeouts, stream, context)
            except self._flavour.STALE:
                if fresh or not attempt.reused or not self._repeatable(self._retry):
                    raise
                fresh = True
                if body is not None:
                    body.rewind()
            else:
                if timeouts is not None:
                    timeouts.ends_at = context.body_ends_at
                return response

    def _judge(self, attempt: Attempt, response: Any, error: Exception | None) -> float:
        """Tell the attempt how it ended; the time it is now."""
        if response is not None:
            status = response.status_code
            if self._service.load_header is not None:
                load = response.headers.get(self._service.load_header)
                if load:
                    self._service.reported(attempt, load)
            if status < 500 and status != 429:
                attempt.judge(Outcome.SUCCESS, status)
            else:
                attempt.judge(Outcome.FAILURE, status, retry_after=retry_after(response.headers))
            if response.is_closed:  # there is no body whose close would finish it
                attempt.finish()
        else:
            assert error is not None
            stale = attempt.reused and isinstance(error, self._flavour.STALE)
            blamed = self._flavour.fault(error).blamed and not stale
            attempt.judge(Outcome.FAILURE if blamed else Outcome.ABANDONED, error=describe(error))
            attempt.finish()
        if self._service.observed:
            outcome = str(attempt.outcome)
            self._service.observers(
                AttemptFinished(self._service.name, attempt.node.instance, attempt.number, outcome, attempt.status,
                                attempt.error, attempt.elapsed)
            )  # fmt: skip
        return attempt.started + attempt.elapsed

    def _pause(
        self, retrying: Retrying, response: Any, error: Exception | None, retry: Retry, now: float
    ) -> float | None:
        """Seconds until the next attempt; None: there is none."""
        sent = error is None or self._flavour.fault(error).sent
        if sent and self._request.method not in retry.methods:
            return None
        if self._body is not None and not self._body.repeatable:
            return None
        pause = retrying.pause()
        if pause is None:
            return None
        asked = None if response is None else retry_after(response.headers)
        ends_at = self._context.ends_at
        if asked is not None and asked > pause:
            # Without a deadline a caller's patience is what it would have waited for an answer.
            patience = ends_at - now if ends_at is not None else self._timeouts.get("read")
            if patience is None or asked < patience:
                pause = asked
            elif len(self._call.tried) + 1 >= len(self._service.nodes):
                return None  # all have been asked, and none will be back in time
        if ends_at is not None and now + pause >= ends_at:
            return None
        budget = self._service.budget
        # The budget last: asking is paying.
        return None if budget is not None and not budget.take(now) else pause

    # ---- small questions ----

    def _repeatable(self, retry: Retry | None) -> bool:
        methods = IDEMPOTENT if retry is None else retry.methods
        return self._request.method in methods and (self._body is None or self._body.repeatable)

    def _at_most(self, timeout: float | None) -> float | None:
        ends_at = self._context.ends_at
        if ends_at is None:
            return timeout
        left = max(0.0, ends_at - self._clock())
        return left if timeout is None else min(left, timeout)

    def _out_of_time(self) -> bool:
        return self._context.ends_at is not None and self._clock() >= self._context.ends_at

    def _deadline_exceeded(self, where: str) -> Exception:
        error: Exception = self._flavour.DeadlineExceeded.of(self._service.name, self._context.deadline, where)
        return error

    def _finished(self, attempt: Attempt, response: Any, error: BaseException | None) -> None:
        if not self._service.observed:
            return
        status = None if response is None else response.status_code
        self._service.observers(
            CallFinished(self._service.name, self._request.method, self._call.attempt, status,
                         None if error is None else describe(error), self._clock() - self._call.started)
        )  # fmt: skip
