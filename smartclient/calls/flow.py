"""The flow of a call: start an attempt, try it, ask what happens after it, again. Written once, as a generator that
does no I/O.

It yields effects and is resumed with their results, or has exceptions thrown into it; two small drivers perform the
effects, one with blocking calls, one with `await` (`httpx.Auth.auth_flow` is the same pattern). All decisions
are made here, with the help of `attempts`, `hedging`, `places` and `retrying`; drivers decide nothing.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from ..errors import describe
from ..inherited import work
from ..node import Outcome
from ..reports import KEY
from ..retry.decisions import Decisions
from ..retry.retry import Retry
from ..services.attempt import Attempt
from .attempts import judge, send, start, wait_for_nodes
from .effects import Discard, Effect, Read, Sleep
from .hedging import hedged
from .retrying import is_repeated_by_default, pause_before_next
from .state import CallState
from .telling import call_finished, call_lost, call_started, retry_denied, retry_scheduled

COLLECTED = "nobody waited for it any more"


class CallFlow:
    """One call to one service. `run` is the generator.

    Keeps the latest attempt, its response and its error (one of them is None), when it ended, and whether another one
    is wanted.
    """

    __slots__ = ("_attempt", "_decisions", "_error", "_now", "_response", "_waited", "_wanted", "state")

    def __init__(self, state: CallState) -> None:
        self.state: CallState = state
        self._attempt: Attempt | None = None
        self._response: Any = None
        self._error: Exception | None = None
        self._decisions: Decisions | None = None
        self._waited = self._now = 0.0
        self._wanted = False

    def run(self) -> Generator[Effect, Any, Any]:
        """The call, from the wait for its first node to the response that is returned or the error that is raised."""
        state = self.state
        if state.service.observed:
            call_started(state)
        try:
            if not state.service.ready.fired:
                yield from wait_for_nodes(state)
            self._prepare()
            retry = state.retry
            while True:
                yield from self._try()
                pause = None if retry is None else (yield from self._next(retry))
                if pause is None:
                    break
                yield from self._wait(pause)
            response = self._outcome()
        except Exception as error:
            try:
                if self._response is not None:  # a strategy of the user's raised
                    yield Discard(self._response)
            finally:
                self._conclude(error)
            raise
        except GeneratorExit:
            state.collected(self)
            raise
        except BaseException as error:
            self._conclude(error)
            raise
        else:
            self._conclude(None)
            return response
        finally:
            if self._decisions is not None:
                self._decisions.close()
            # An exception kept in a frame of its own traceback is a reference cycle.
            self._error = self._response = response = None

    def finish(self) -> None:
        """It was collected while it waited, and is ended by a later call."""
        if self._attempt is not None:
            self._attempt.judge(Outcome.ABANDONED, error=COLLECTED)
            self._attempt.finish()
        self._conclude(GeneratorExit(COLLECTED))

    def _prepare(self) -> None:
        state, body = self.state, self.state.body
        if body is not None and body.begun:  # a redirect that keeps its body, or an auth flow's second request
            if not body.repeatable:
                raise state.flavour.httpx.StreamConsumed
            body.rewind()
        retry = state.retry
        state.call.repeatable = retry is not None and retry.attempts > 1 and state.repeatable()

    def _try(self) -> Generator[Effect, Any, None]:
        """One attempt, or a race of several, and its judgement."""
        state, call = self.state, self.state.call
        self._attempt = attempt = yield from start(state, self._error)
        attempt.waited = self._waited
        before, self._error, self._response, self._wanted = self._error, None, None, False
        try:
            if state.hedge is None or call.attempt > 1:
                self._response = yield from send(state, attempt)
            else:
                self._attempt, self._response, self._error = yield from hedged(state, attempt, state.hedge)
        except state.flavour.TransportError as error:
            self._error = error
        except GeneratorExit:
            raise
        except BaseException as error:
            attempt.judge(Outcome.ABANDONED, error=describe(error))
            attempt.finish()
            if before is not None and isinstance(error, state.flavour.httpx.StreamConsumed):
                raise before from error  # the body cannot be sent again after all
            raise
        finally:
            before = None
        self._now = call.finished = judge(state, self._attempt, self._response, self._error)

    def _next(self, retry: Retry) -> Generator[Effect, Any, float | None]:
        """Seconds until the next attempt; None: the call is over."""
        state, response = self.state, self._response
        by_default = is_repeated_by_default(state, retry, response, self._error)
        unread = response is not None and not (by_default or state.context.streamed or response.is_closed)
        if unread and state.repeatable():
            try:
                yield Read(response)
            except state.flavour.TransportError as error:
                self._error, self._response, by_default = error, None, True
                self._now = state.clock()
        if not by_default and retry.retry is None:
            return None
        if self._decisions is None:
            self._decisions = Decisions(retry, state.call.started)
        self._wanted = self._decisions.wanted(self._response, self._error, by_default, self._now)
        if not self._wanted:
            return None
        pause = pause_before_next(state, retry, self._decisions, self._response, self._error, self._now)
        if not isinstance(pause, str):
            return pause
        if state.service.observed:
            retry_denied(state, pause)
        return None

    def _wait(self, pause: float) -> Generator[Effect, Any, None]:
        """Make room for the next attempt, and wait for its time."""
        state, call, attempt = self.state, self.state.call, self._attempt
        assert attempt is not None
        assert self._decisions is not None
        if self._response is not None:
            yield Discard(self._response)
        retry_scheduled(state, attempt, pause, self._error)
        if pause > 0:
            yield Sleep(pause)
        self._decisions.again(pause)
        if state.body is not None:
            state.body.rewind()
        call.attempt += 1
        call.tried += (attempt.node,)
        self._waited = state.clock() - self._now

    def _outcome(self) -> Any:
        """The response; raises the error of the last attempt."""
        state, error, response = self.state, self._error, self._response
        if self._wanted and (current := work.get()) is not None:
            current.in_vain = True
        if error is not None:
            try:
                timed_out = isinstance(error, state.flavour.httpx.TimeoutException)
                if timed_out and state.out_of_time() and not isinstance(error, state.flavour.DeadlineExceeded):
                    raise state.deadline_exceeded("waiting for the response") from error
                raise error
            finally:
                error = None
        assert self._attempt is not None
        response.extensions[KEY] = state.call
        if not response.has_redirect_location:
            state.call.served = self._attempt.node
        return response

    def _conclude(self, error: BaseException | None) -> None:
        """The only exit: attach the report to an error, and inform the observers."""
        state, call, service = self.state, self.state.call, self.state.service
        if isinstance(error, Exception):
            if self._attempt is not None:
                self._attempt.finish()
            call.finished = state.clock()
            call_lost(state, error)
            call.attach_to(error, named=isinstance(error, state.flavour.TransportError))
        if service.observed:
            status = None if error is not None or self._response is None else self._response.status_code
            call_finished(state, self._attempt, status, error)
