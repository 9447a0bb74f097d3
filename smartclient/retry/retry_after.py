"""Retry-After, in both of its forms (RFC 9110 §10.2.3): seconds, or an HTTP date."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Any


def retry_after(headers: Any, wall_clock: float | None = None) -> float | None:
    """Seconds the server asks to wait; None if it does not say, or not understandably. Never negative.

    wall_clock: seconds since the epoch, now; only a date needs it
    """
    value = headers.get("retry-after")
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, at - (time.time() if wall_clock is None else wall_clock))
