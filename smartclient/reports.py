"""The report of one call: which instances were tried, how each attempt ended, how long it took and waited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .instance import Instance

KEY = "smartclient.call"  # in a response's extensions
ATTRIBUTE = "_smartclient_report"  # on an exception


@dataclass(frozen=True)
class Candidate:
    """An instance that was compared. parts: what its cost is made of, by name; "cost" is the whole, if there is one"""

    instance: Instance
    picked: bool
    parts: Mapping[str, float]

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value:.3g}" for name, value in self.parts.items())
        return f"{self.instance}{' (picked)' if self.picked else ''}: {parts}"


@dataclass(frozen=True)
class Why:
    """Why an attempt went where it did (`call(explain=True)`).

    balancer:    the algorithm's name
    candidates:  the instances that were compared, the picked one first, then the least cost; of many the first 20
    left_out:    instances that were not to be had, and the reason; of many the first 20
    """

    balancer: str
    candidates: tuple[Candidate, ...]
    left_out: tuple[tuple[Instance, str], ...]

    def __str__(self) -> str:
        compared = "; ".join(str(candidate) for candidate in self.candidates)
        out = "; ".join(f"{instance} {reason}" for instance, reason in self.left_out)
        return f"{self.balancer} compared {compared}{f'. Left out: {out}' if out else ''}"


@dataclass(frozen=True)
class AttemptReport:
    """One attempt.

    outcome:  "success", "failure" or "abandoned" (cancelled, or a problem on our side)
    status:   of the response, if there was one
    error:    the exception in one line, if there was one
    elapsed:  seconds from sending to the response headers or the error
    waited:   seconds between the attempt before and this one
    why:      why it went there; None: the call did not ask (`call(explain=True)`)
    injected: the fault on purpose that it had (`smartclient.faults`)
    """

    instance: Instance
    outcome: str
    status: int | None
    error: str | None
    elapsed: float
    waited: float
    why: Why | None = None
    injected: str | None = None

    def __str__(self) -> str:
        what = self.error or (f"status {self.status}" if self.status is not None else self.outcome)
        return f"{self.instance} {what} ({self.elapsed:.3f} s{', injected' if self.injected else ''})"


@dataclass(frozen=True)
class CallReport:
    """A call to a service. elapsed: seconds up to the response headers or the error, waits included."""

    service: str
    attempts: tuple[AttemptReport, ...]
    elapsed: float

    def __str__(self) -> str:
        tried = "; ".join(str(attempt) for attempt in self.attempts) or "nothing was sent"
        return f"{self.service}: {len(self.attempts)} attempt(s) in {self.elapsed:.3f} s: {tried}"


def report(source: Any) -> CallReport | None:
    """The report of a call, from its response or its exception; None if it was not balanced."""
    if isinstance(source, BaseException):
        attached = getattr(source, ATTRIBUTE, None)
        return attached if isinstance(attached, CallReport) else None
    call = getattr(source, "extensions", {}).get(KEY)
    return None if call is None else call.report()
