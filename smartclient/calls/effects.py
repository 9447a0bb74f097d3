"""What the flow of a call asks its driver to do."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from ..events import Headers
from ..services.attempt import Attempt
from ..services.service import Service
from ..support.waiting import Places
from .context import SendContext, TimeLeft


class Send(NamedTuple):
    """Send the request on the attempt's node; resume with the response, its body unread.

    fresh:     not on a connection that has been idle
    timeouts:  in place of the request's own
    stream:    in place of the request's own
    headers:   in addition to the request's own
    context:   the time by which the body must be read, and how much time the call had
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
    after:      seconds until another attempt starts; at once if all running attempts have failed
    more:       the flow's: another attempt, picked and paid for; None: no more
    good:       whether a response ends the race
    settled:    the flow's: called for each other attempt that has ended
    overtaken:  the flow's: called for each attempt still running when the race is over
    """

    first: Attempt
    run: Callable[[Attempt], Generator[Any, Any, Any]]
    after: float
    more: Callable[[], Attempt | None]
    good: Callable[[Any], bool]
    settled: Callable[[Attempt, Any, BaseException | None], None]
    overtaken: Callable[[Attempt], None]


Ended = tuple[Attempt, Any, "BaseException | None"]
"""An attempt that is over, its response and its error (one of them is None)."""


class Read(NamedTuple):
    """Read the body into memory, while the call can still be retried if it breaks off."""

    response: Any


class Discard(NamedTuple):
    """Close a response that is not wanted, before the next attempt: else it holds a connection of the limit."""

    response: Any


class Sleep(NamedTuple):
    seconds: float


class WaitForTurn(NamedTuple):
    """Queue for a place among `max_connections`; resume with whether it came in time."""

    places: Places
    timeout: float | None


class WaitForNodes(NamedTuple):
    """Wait for the service's first list; resume with whether it came in time."""

    service: Service
    timeout: float | None


Effect = Send | Race | Read | Discard | Sleep | WaitForTurn | WaitForNodes
