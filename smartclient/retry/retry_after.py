"""Retry-After, in both of its forms (RFC 9110 §10.2.3): seconds, or an HTTP date."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Any

from ..support.untrusted import seconds, whole_number

MOST = 100  # characters of a date


def retry_after(headers: Any, wall_clock: float | None = None) -> float | None:
    """Seconds the server asks to wait; None if there is no valid value. Never negative, never more than a
    clock takes.

    wall_clock: seconds since the epoch, now; only a date needs it
    """
    value = headers.get("retry-after")
    if value is None:
        return None
    number = whole_number(value)
    if number is not None:
        return seconds(number) if number >= 0 else None
    try:
        at = parsedate_to_datetime(value[:MOST]).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return seconds(at - (time.time() if wall_clock is None else wall_clock))
