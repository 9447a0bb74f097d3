"""What the hops of one `client.send` share (auth, redirects), and the time that is left of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..retry.request_body import RequestBody
from ..services.call import NO_OPTIONS, Call, CallOptions
from ..support.untrusted import LONGEST

SHORTEST = 0.001  # seconds: a timeout of 0 would mean "non-blocking" to a socket


class TimeLeft(Mapping[str, "float | None"]):
    """httpx's timeouts, limited to the time left. httpcore calls `get` in each phase, so each gets the current
    value.
    """

    __slots__ = ("_clock", "_timeouts", "ends_at")

    def __init__(self, timeouts: Mapping[str, float | None], ends_at: float | None, clock: Callable[[], float]) -> None:
        self._timeouts = timeouts
        self._clock = clock
        self.ends_at: float | None = ends_at

    def __getitem__(self, phase: str) -> float | None:
        return self.cut(self._timeouts.get(phase))

    def get(self, phase: str, default: Any = None) -> Any:
        return self[phase]

    def cut(self, timeout: float | None) -> float | None:
        """A timeout, limited to the time left."""
        if self.ends_at is None:
            return timeout
        left = min(max(self.ends_at - self._clock(), SHORTEST), LONGEST)
        return left if timeout is None else min(timeout, left)

    def left(self, timeout: float | None, late: type[Exception], among: int = 1) -> float | None:
        """The same, divided among several tries. Raises `late` when no time is left: a peer that keeps sending would
        never cause a timeout.
        """
        if self.ends_at is None:
            return timeout
        left = self.ends_at - self._clock()
        if left <= 0:
            raise late("out of time")
        left = min(max(left / among, SHORTEST), LONGEST)
        return left if timeout is None else min(timeout, left)

    def __iter__(self) -> Iterator[str]:
        return iter(("connect", "read", "write", "pool"))

    def __len__(self) -> int:
        return 4


@dataclass
class SendContext:
    """What one `client.send` shares among its hops (auth, redirects): its options, its deadline, its body.

    streamed:  the caller streams the body, so the deadline ends at the headers
    ends_at:   fixed by the first hop that has a deadline
    transport: the owner of this context: a call that another client's transport makes meanwhile does not use it
    call:      of the latest hop
    key:       its body, and its idempotency key
    """

    options: CallOptions = NO_OPTIONS
    streamed: bool = True
    ends_at: float | None = None
    deadline: float = 0.0
    stream: Any = None
    body: RequestBody | None = None
    transport: Any = None
    call: Call | None = None
    key: tuple[Any, str] | None = None

    @property
    def body_ends_at(self) -> float | None:
        return None if self.streamed else self.ends_at
