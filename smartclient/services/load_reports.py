"""What servers say of their load in their responses, on its way to the balancer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .attempt import Attempt
from .members import Members

SELDOM = 16  # responses


class LoadReports:
    """Hands a response's load header to the memory of its node.

    To look for a header costs 2 µs (httpx). So as long as no server has sent it, only one response in 16 is looked at.
    """

    def __init__(self, header: str, members: Members, clock: Callable[[], float]) -> None:
        self._header = header
        self._members = members
        self._clock = clock
        self._come = False
        self._responses = 0

    def read(self, attempt: Attempt, headers: Mapping[str, str]) -> None:
        if not self._come:
            self._responses += 1  # threads may lose some: no matter
            if self._responses % SELDOM != 1:
                return
        value = headers.get(self._header)
        if value:
            self._come = True
            self._members.learn_load(attempt, value, self._clock())


def reports_of(members: Members, clock: Callable[[], float]) -> LoadReports | None:
    """None: its balancer reads none."""
    header = members.chooser.balancer.load_header
    return None if header is None else LoadReports(header, members, clock)
