"""Checks that dataclasses of settings make at construction: an error names the class, the field, what it got and what
it expected.
"""

from __future__ import annotations

from collections.abc import Callable


def check_number(settings: object, field: str, expected: str, valid: Callable[[float], bool]) -> None:
    """Raise ValueError unless the field is a number that is valid. (NaN is in no comparison.)"""
    value = getattr(settings, field)
    if not isinstance(value, (int, float)) or not valid(value):
        raise ValueError(f"{type(settings).__name__}.{field}: expected {expected}, got {value!r}")


def check_count(settings: object, field: str, or_none: bool = False) -> None:
    """Raise ValueError unless the field is a whole number from 1 up."""
    value = getattr(settings, field)
    if value is None and or_none:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        expected = "a number from 1 up or None" if or_none else "a number from 1 up"
        raise ValueError(f"{type(settings).__name__}.{field}: expected {expected}, got {value!r}")
