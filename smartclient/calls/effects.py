"""What the flow of a call asks its driver to do, and what the hops of one `client.send` share."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..retry.request_body import Body
from ..services.call import NO_OPTIONS, Attempt, Call, CallOptions
from ..services.service import Service
from ..support.untrusted import LONGEST
from ..support.waiting import Places

Headers = tuple[tuple[bytes, bytes], ...]
SHORTEST = 0.001  # seconds: a timeout of 0 would mean "non-blocking" to a socket


class TimeLeft(Mapping[str, "float | None"]):
    """httpx's timeouts, cut to what is left. httpcore asks `get` at each phase, so each is told the truth of its
    moment.
    """

    __slots__ = ("_clock", "_timeouts", "ends_at")

    def __init__(self, timeouts: Mapping[str, float | None], ends_at: float | None, clock: Callable[[], float]) -> None:
        self._timeouts = timeouts
        self._clock = clock
        self.ends_at = ends_at

    def __getitem__(self, phase: str) -> float | None:
        return self.cut(self._timeouts.get(phase))

    def get(self, phase: str, default: Any = None) -> Any:
        return self[phase]

    def cut(self, timeout: float | None) -> float | None:
        """A timeout as far as there is time left."""
        if self.ends_at is None:
            return timeout
        left = min(max(self.ends_at - self._clock(), SHORTEST), LONGEST)
        return left if timeout is None else min(timeout, left)

    def left(self, timeout: float | None, late: type[Exception], among: int = 1) -> float | None:
        """The same, shared out among several tries. Raises `late` when the time is over: a peer that always has
        something to say would never meet a timeout.
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

    streamed:  the caller reads the body at leisure, so the deadline ends at the headers
    ends_at:   fixed by the first hop that has a deadline
    transport: whose context it is: a call that another client's transport makes meanwhile has nothing to do with it
    call:      of the latest hop
    key:       its body, and its idempotency key
    """

    options: CallOptions = NO_OPTIONS
    streamed: bool = True
    ends_at: float | None = None
    deadline: float = 0.0
    stream: Any = None
    body: Body | None = None
    transport: Any = None
    call: Call | None = None
    key: tuple[Any, str] | None = None

    @property
    def body_ends_at(self) -> float | None:
        return None if self.streamed else self.ends_at


class Send(NamedTuple):
    """Send the request on the attempt's node; resume with the response, its body unread.

    fresh:     not on a connection that has been idle
    timeouts:  in place of the request's own
    stream:    in place of the request's own
    headers:   beside the request's own
    context:   when the body must have been read, and how much time that call was given
    """

    attempt: Attempt
    fresh: bool
    timeouts: TimeLeft | None
    stream: Any
    headers: Headers
    context: SendContext


class Race(NamedTuple):
    """Make an attempt, and another elsewhere if there is no good answer in time; resume with the attempt whose outcome
    counts, its response and its error (one of them is None).

    run:        the flow's part of one attempt; it sends, and nothing else
    after:      seconds until another attempt is made. If all that are out have failed, it is made at once
    more:       the flow's: another attempt, picked and paid for; None: no more
    good:       whether a response ends the race
    settled:    the flow's: told of each other attempt that has ended
    overtaken:  the flow's: told of each attempt that is still out when the race is over
    """

    first: Attempt
    run: Callable[[Attempt], Generator[Send, Any, Any]]
    after: float
    more: Callable[[], Attempt | None]
    good: Callable[[Any], bool]
    settled: Callable[[Attempt, Any, BaseException | None], None]
    overtaken: Callable[[Attempt], None]


Ended = tuple[Attempt, Any, "BaseException | None"]
"""An attempt that is over, its response and its error (one of them is None)."""


class Read(NamedTuple):
    """Read the body into memory, while another node may still be asked should it break off."""

    response: Any


class Discard(NamedTuple):
    """Close a response that is not wanted, before the next attempt: else the limit on connections starves."""

    response: Any


class Sleep(NamedTuple):
    seconds: float


class WaitForTurn(NamedTuple):
    """Queue for a place among `max_connections`; resume with whether it was had in time."""

    places: Places
    timeout: float | None


class WaitForNodes(NamedTuple):
    """Wait for the service's first list; resume with whether it came in time."""

    service: Service
    timeout: float | None


Effect = Send | Race | Read | Discard | Sleep | WaitForTurn | WaitForNodes
