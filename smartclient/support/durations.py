"""Times as people write them: 5, "25ms", "5s", "2m"."""

from __future__ import annotations

import re

from .checks import DURATION

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
EXPECTED = "a time: seconds, or like 25ms, 5s, 2m"
_NUMBER_AND_UNIT = re.compile(r"\s*([\d.]{1,40})\s*([a-z]+)\s*")


def seconds_in(written: str) -> float | None:
    """None: it is no time."""
    if not re.match(DURATION, written):
        return None
    found = _NUMBER_AND_UNIT.fullmatch(written)
    return None if found is None else round(float(found[1]) * UNITS[found[2]], 9)
