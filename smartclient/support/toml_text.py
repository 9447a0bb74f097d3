"""TOML: its library stands in Python from 3.11 on."""

from __future__ import annotations

import re
from typing import Any

from .untrusted import MOST_DIGITS

_BOUNDLESS = re.compile(r"\d{1000,}")  # digits: TOML has numbers of 64 bits, and Python refuses to read more than 4300


def from_toml(text: str) -> dict[str, Any]:
    """What it says. Raises ValueError for what is none, or nested too deeply."""
    try:
        import tomllib
    except ImportError:  # Python 3.10
        try:
            import tomli as tomllib
        except ImportError:
            raise ImportError("TOML files need Python 3.11, or tomli: pip install 'smartclient[toml]'") from None
    try:
        found: dict[str, Any] = tomllib.loads(_BOUNDLESS.sub("9" * MOST_DIGITS, text))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return found
