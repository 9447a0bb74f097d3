"""ResponseBody: a response's body, whose end is that of its attempt. What both drivers' bodies share."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from ..calls.context import SendContext
from ..errors import describe
from ..services.attempt import Attempt
from .link import Link


class ResponseBody:
    """A response's body: gives the connection back and finishes its attempt when it is closed, or forgotten."""

    def __init__(
        self,
        raw: Any,
        connections: Any,
        attempt: Attempt,
        context: SendContext,
        link: Link | None,
        stack: Any,
    ) -> None:
        self.attempt = attempt
        self.raw = raw
        self._connections = connections
        self._link = link
        self._stack = stack
        self._context = context
        self._ends_at = context.body_ends_at
        self._closed = False
        self._whole = False  # it was read to its end
        self._in_flow = False  # read by the flow, which attaches reports to errors itself
        connections.dialing.active[attempt] = link
        self._chunks: deque[bytes] | None = None

    def _too_late(self) -> bool:
        """Asked between chunks: a server that sends a byte now and then is never timed out by httpx."""
        return self._ends_at is not None and self._connections.dialing.clock() >= self._ends_at

    def left(self) -> float:
        """Seconds left to read it; infinite without a deadline."""
        return math.inf if self._ends_at is None else max(0.0, self._ends_at - self._connections.dialing.clock())

    def _broken(self, error: Exception) -> BaseException:
        """The body failed: blame the node. What to raise: httpx's exception for httpcore's."""
        flavour = self._connections.dialing.flavour
        made: BaseException = flavour.translated(error)
        if isinstance(made, flavour.TransportError):
            self.attempt.fail_in_body(describe(error))
        if (
            self._too_late()
            and isinstance(made, flavour.httpx.TimeoutException)
            and not isinstance(error, flavour.DeadlineExceeded)
        ):
            late = self.late()
            late.__cause__ = error
            return late
        call = self._context.call
        if call is not None and not self._in_flow:
            call.attach_to(made, named=isinstance(made, flavour.TransportError))
        return made

    def late(self) -> Exception:
        error: Exception = self._connections.dialing.flavour.DeadlineExceeded.of(
            self.attempt.service.name, self._context.deadline, "while reading the body"
        )
        self.attempt.late = describe(error)
        return error

    @property
    def httpx(self) -> Any:
        """The flavour's module."""
        return self._connections.dialing.flavour.httpx

    def _let_go(self) -> None:
        self._connections.dialing.active.pop(self.attempt, None)

    def __del__(self) -> None:
        # Never read and never closed. This may run at any point, also while we hold a lock: take none.
        if not self._closed:
            self._closed = True
            self._let_go()
            if self._link is not None:
                self._connections.forgotten(self._link, self._stack)
            self._connections.dialing.lost.append(self.attempt)
