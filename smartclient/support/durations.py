"""Times as people write them: 5, "25ms", "5s", "2m"."""

from __future__ import annotations

import re

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
DURATION = rf"^\s*(\d{{1,20}}(?:\.\d{{1,19}})?)\s*({'|'.join(UNITS)})\s*$"
EXPECTED = "a time: seconds, or like 25ms, 5s, 2m"


def seconds_in(written: str) -> float | None:
    """None: it is no time."""
    found = re.match(DURATION, written)
    return None if found is None else round(float(found[1]) * UNITS[found[2]], 9)
