"""Numbers that strangers write: headers of servers and callers. Bounded before they are read: Python reads a million
digits for seconds, and no clock, socket or sleep takes a number of years.
"""

from __future__ import annotations

LONGEST = 1e6  # seconds: no wait of ours is longer (sockets count milliseconds in 31 bits)
MOST_DIGITS = 18


def whole_number(text: str) -> int | None:
    """A whole number, its sign allowed; None: there is none. One with more digits than we count in is our largest."""
    text = text.strip(" \t")
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (digits.isascii() and digits.isdigit()):
        return None
    value = int(digits) if len(digits) <= MOST_DIGITS else 10**MOST_DIGITS
    return -value if text[:1] == "-" else value


def seconds(value: float) -> float:
    """A time that somebody else says, within what we reckon with."""
    return min(max(value, 0.0), LONGEST)
