"""What the flow of a call asks its driver to do."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from ..services.attempt import Attempt
from ..services.service import Service
from ..support.waiting import Places
from .context import Headers, SendContext, TimeLeft


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
