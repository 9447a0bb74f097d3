"""The retry decisions of one call.

tenacity's strategies decide; its controller is not used: `BaseRetrying.iter` keeps thread-local state that interleaved
flows would mix up. A `RetryCallState` is made at the first failure only, so a call that succeeds at once pays nothing.
"""

from __future__ import annotations

from typing import Any

from tenacity import RetryCallState

from .retry import Retry


class Decisions:
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
