"""Attempt: one try of a call on one node, and the only way to report its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..events import Headers
from ..node import Node, Outcome
from ..reports import AttemptReport, Why
from ..support.waiting import Places


class AttemptOwner(Protocol):
    """What an attempt, and the connection it goes over, need of their service."""

    name: str
    policy: Any
    link_local: bool

    def judge(self, attempt: Any, retry_after: float | None) -> None:
        """Learn how it ended."""

    def fail_in_body(self, attempt: Any) -> None:
        """Its body failed after good headers."""

    def finish(self, attempt: Any) -> None:
        """It is over."""


class Attempt:
    """One try of a call on one node.

    `judge` at the response headers or the error: health. `finish` when it is over, whatever happened: latency,
    in-flight and the place among `max_connections`. Both count once, however often they are called.
    """

    __slots__ = (
        "_finished",
        "connecting",
        "elapsed",
        "error",
        "failures_before",
        "headers",
        "held",
        "in_body",
        "injected",
        "late",
        "node",
        "number",
        "outcome",
        "overtaken",
        "places",
        "reused",
        "service",
        "stalled",
        "started",
        "status",
        "then",
        "unreached",
        "waited",
        "why",
    )

    def __init__(
        self, service: AttemptOwner, node: Node, number: int, started: float, places: Sequence[Places]
    ) -> None:
        self.service: AttemptOwner = service
        self.node: Node = node
        self.number: int = number
        self.started: float = started
        self.places: Sequence[Places] = places
        self.waited: float = 0.0
        self.reused: bool = False  # sent on a connection that had been idle
        self.connecting: float = 0.0  # seconds that its new connection took
        self.in_body: float = 0.0  # seconds spent waiting for pieces of its body
        self.outcome: Outcome | None = None
        self.status: int | None = None
        self.error: str | None = None
        self.elapsed: float = 0.0
        self.failures_before: int = 0  # transport errors in a row before its success, in case its body fails
        self.unreached: bool = False  # it could not connect
        self.overtaken: bool = False  # another attempt of the call was faster
        self.stalled: float = 0.0  # total stall time of the client when it started
        self.headers: Headers = ()  # what observers give it to send
        self.held: bool = False  # a tool that patches httpx has its response: it is not judged, whatever that does
        self.injected: str | None = None  # the fault on purpose that it had
        self.late: str | None = None  # the error, if its call's time was over while its body was read
        self.why: Why | None = None
        self.then: Callable[[], object] | None = None  # called once when it is over, if it is observed
        self._finished = False

    @property
    def latency(self) -> float:
        """Seconds spent waiting for the server: for the headers and for each piece of the body. A slow consumer does
        not count, and neither does the time to connect.
        """
        return max(self.elapsed - self.connecting, 0.0) + self.in_body

    @property
    def over(self) -> bool:
        """It is finished."""
        return self._finished

    def judge(
        self,
        outcome: Outcome,
        status: int | None = None,
        error: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Say how it ended. status: of the answer; None: there was none (a transport error)."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        self.status = status
        self.error = error
        self.service.judge(self, retry_after)

    def overtake(self) -> None:
        """Another attempt of the call won; nobody waits for this one."""
        if self.outcome is None:
            self.overtaken = True
            self.judge(Outcome.ABANDONED, error="overtaken by a hedge")

    def fail_in_body(self, error: str) -> None:
        """The body failed after good headers: a failure after all."""
        if self.outcome is Outcome.SUCCESS:
            self.outcome = Outcome.FAILURE
            self.error = error
            self.service.fail_in_body(self)

    def finish(self) -> None:
        """It is over: the node has one call less in flight."""
        if self._finished or self.held:
            return
        self._finished = True
        try:
            if self.outcome is None:
                self.judge(Outcome.ABANDONED)
            self.service.finish(self)
        finally:
            for places in self.places:
                places.release()
        then, self.then = self.then, None
        if then is not None:
            then()

    def report(self) -> AttemptReport:
        outcome = str(self.outcome or Outcome.ABANDONED)
        return AttemptReport(
            self.node.instance, outcome, self.status, self.error, self.elapsed, self.waited, self.why, self.injected
        )
