"""What calls inherit from the request that is being handled: its deadline, and whether it is itself a retry.

Both are context variables: tasks started by the handler see them, and threads do with `contextvars.copy_context`.
Between processes they travel as headers: `Policy.deadline_header` and `Policy.attempt_header` send them,
`smartclient.middleware` reads them.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from .support.untrusted import seconds

GRPC_TIMEOUT = "grpc-timeout"
DEADLINE_HEADERS = ("x-request-deadline-ms", GRPC_TIMEOUT, "x-envoy-expected-rq-timeout-ms")
UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
MOST_MS = 99_999_999  # gRPC allows eight digits


class _Entered(NamedTuple):
    """A deadline that was entered: when it ends, the seconds it was given, and the one outside of it."""

    ends_at: float
    seconds: float
    outer: Any


_deadline: ContextVar[_Entered | None] = ContextVar("smartclient_deadline", default=None)


class deadline:
    """A time limit for everything inside: no balanced call lasts longer, whatever its own deadline.

        with smartclient.deadline(0.8):
            client.get("http://orders/…")
            client.get("http://stock/…")  # gets the time that is left

    When nested, the earliest end applies. seconds: from now; None: changes nothing. Work that continues after the
    request (a background task) begins with `with smartclient.deadline.detached():`.
    """

    __slots__ = ("_seconds",)

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None:
            if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
                raise TypeError(f"deadline: expected seconds or None, got {seconds!r}")
            if not 0 <= seconds < math.inf:
                raise ValueError(f"deadline: expected seconds from 0 up or None, got {seconds!r}")
        self._seconds = seconds

    # The outer deadline is kept in the variable, not here: several tasks may enter one object.

    def __enter__(self) -> deadline:
        if self._seconds is not None:
            outer = _deadline.get()
            entered = _Entered(time.monotonic() + self._seconds, self._seconds, outer)
            if outer is not None and outer.ends_at < entered.ends_at:
                entered = _Entered(outer.ends_at, outer.seconds, outer)
            _deadline.set(entered)
        return self

    def __exit__(self, *error: object) -> None:
        if self._seconds is not None and (entered := _deadline.get()) is not None:
            _deadline.set(entered.outer)

    @staticmethod
    @contextmanager
    def detached() -> Iterator[None]:
        """No deadline from outside: for work that continues after the request."""
        outer = _deadline.get()
        _deadline.set(None)
        try:
            yield
        finally:
            _deadline.set(outer)

    @staticmethod
    def left() -> float | None:
        """Seconds until the nearest end, 0.0 if that has passed; None: there is no deadline."""
        entered = _deadline.get()
        return None if entered is None else max(0.0, entered.ends_at - time.monotonic())

    @staticmethod
    def given() -> float:
        """Seconds that the nearest deadline was made with, for messages."""
        entered = _deadline.get()
        return 0.0 if entered is None else entered.seconds

    @classmethod
    def from_headers(cls, headers: Any, name: str | None = None) -> deadline:
        """The deadline in a request's headers; if it is missing or invalid, nothing changes.

        headers:  of the incoming request: a mapping, or pairs (as in ASGI)
        name:     of the header; None: X-Request-Deadline-Ms, grpc-timeout, X-Envoy-Expected-Rq-Timeout-Ms
        """
        for wanted in DEADLINE_HEADERS if name is None else (name,):
            value = header_of(headers, wanted)
            if value is not None:
                return cls(parsed(wanted, value))
        return cls(None)


def as_header(name: str, seconds: float) -> bytes:
    """What is left of the time, in the form of that header: milliseconds, or gRPC's."""
    ms = min(max(1, int(seconds * 1000)), MOST_MS)
    return b"%dm" % ms if name.lower() == GRPC_TIMEOUT else b"%d" % ms


def parsed(name: str, value: str) -> float | None:
    """Seconds; None: not understood."""
    if name.lower() == GRPC_TIMEOUT:
        match = re.fullmatch(r"(\d{1,8})([HMSmun])", value.strip(), re.ASCII)
        return seconds(int(match[1]) * UNITS[match[2]]) if match else None
    match = re.fullmatch(r"-?\d{1,12}(\.\d{0,12})?", value.strip(), re.ASCII)
    return seconds(float(match[0]) / 1000) if match else None


def header_of(headers: Mapping[Any, Any] | Iterable[tuple[Any, Any]], name: str) -> str | None:
    """One header, whatever its case and whether text or bytes."""
    wanted = name.lower()
    for key, value in headers.items() if hasattr(headers, "items") else headers:
        if _text(key).lower() == wanted:
            return _text(value)
    return None


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


class Work:
    """A request that this process is answering.

    retried:  its caller sent it as a retry
    in_vain:  a call made for it failed, retries included
    """

    __slots__ = ("in_vain", "retried")

    def __init__(self, retried: bool = False) -> None:
        self.retried: bool = retried
        self.in_vain: bool = False


work: ContextVar[Work | None] = ContextVar("smartclient_work", default=None)
