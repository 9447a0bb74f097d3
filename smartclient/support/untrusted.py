"""Untrusted input: headers of servers and callers, entries of registries, files. It is bounded before it is parsed or
shown: Python needs seconds to parse a million digits and minutes to print an alias bomb, and no clock, socket or sleep
accepts a time of years.
"""

from __future__ import annotations

import json
import re
from reprlib import Repr
from typing import Any

LONGEST = 1e6  # seconds: no wait of ours is longer (sockets count milliseconds in 31 bits)
MOST_DIGITS = 18
SHOWN = 200  # characters of untrusted text in one of our messages
ENOUGH = 2000  # characters that are looked through for what must not be shown
_URL_USER = re.compile(r"//[^\s/]*@|//\S{0,200}@")
_USER = re.compile(r"(?<![/\w])[^\s/@:'\"]{1,100}:(?!//)\S{1,200}@")
_SECRET = re.compile(
    r"(?i)([?&#;][\w.-]{0,40}(?:token|passw|pwd|secret|api.?key|auth|sig|credential)[\w.-]{0,40}=)(?:'[^']*'|\"[^\"]*\"|[^&;#\s'\"]+)"
)


def whole_number(text: str) -> int | None:
    """A whole number, its sign allowed; None: it is none. One with too many digits becomes our largest."""
    text = text.strip(" \t")
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (digits.isascii() and digits.isdigit()):
        return None
    value = int(digits) if len(digits) <= MOST_DIGITS else 10**MOST_DIGITS
    return -value if text[:1] == "-" else value


def seconds(value: float) -> float:
    """A time from outside, limited to the range we support."""
    return min(max(value, 0.0), LONGEST)


def from_json(text: str | bytes) -> Any:
    """What JSON says, its whole numbers bounded. Raises ValueError for what is none, or nested too deeply."""
    try:
        return json.loads(text, parse_int=whole_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def shown(value: object) -> str:
    """A value for a message: cut before it is written out, and without secrets."""
    try:
        text = _written(value) if isinstance(value, (str, bytes, bytearray)) else _BRIEF.repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return line(text)


def line(text: str, most: int = SHOWN) -> str:
    """A text of a stranger's as one line of a message: cut, and without secrets."""
    if len(text) > ENOUGH:
        text = text[:ENOUGH] + "…"
    text = masked(" ".join(text.split()))
    if not text.isprintable():  # colours of a terminal, or what reverses the direction of the text
        text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
    return text if len(text) <= most else f"{text[:most]}…"


def masked(text: str) -> str:
    """A text in which no URL shows a password or a token: "http://user:secret@host/?token=abc" is
    "http://…@host/?token=…".
    """
    if "@" in text:
        text = _USER.sub("…@", _URL_USER.sub("//…@", text))
    return _SECRET.sub(r"\1…", text) if "=" in text else text


def _written(value: str | bytes | bytearray) -> str:
    return repr(value) if len(value) <= ENOUGH else f"{value[:ENOUGH]!r}…"


class _Brief(Repr):
    """As `repr`, of a few items of a few levels, and the beginnings of strings."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple, self.maxset = 3, 8, 8, 8, 8

    def repr_str(self, value: str, level: int) -> str:
        return _written(value)

    def repr_int(self, value: int, level: int) -> str:
        return repr(value) if value.bit_length() < 256 else f"a number of {value.bit_length()} bits"

    def repr_instance(self, value: Any, level: int) -> str:
        return _written(value) if isinstance(value, (bytes, bytearray)) else repr(value)


_BRIEF = _Brief()
