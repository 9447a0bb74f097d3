"""Checks of settings, each declared beside its field:

    ratio: float = setting(0.2, share())

`check_fields` runs them at construction, so that errors are raised there and not at the first call. An error names
the class and the field, the given and the expected value, and for a wrong name the nearest known one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, field, fields
from difflib import get_close_matches
from functools import reduce
from operator import or_
from typing import Any, TypeVar, overload

from .durations import DURATION
from .forms import NULL, Checked, Form, form_of, plain
from .untrusted import shown

Value = TypeVar("Value")
Check = Callable[[str, Any], Any]
"""Takes "Class.field" and its value; returns the value as it is kept, or raises ValueError or TypeError."""

MOST = 1e9  # of any number: what clocks and counters take


@overload
def setting(default: Value, check: Check) -> Value: ...
@overload
def setting(*, factory: Callable[[], Value], check: Check) -> Value: ...
def setting(default: Any = MISSING, check: Any = None, *, factory: Any = MISSING) -> Any:
    """A field of a dataclass of settings, with its default and its check."""
    if factory is not MISSING:
        return field(default_factory=factory, metadata={"check": check})
    return field(default=default, metadata={"check": check})


def check_fields(settings: Any) -> None:
    """Check all fields that say how (in `__post_init__`)."""
    for one in fields(settings):
        check = one.metadata.get("check")
        if check is not None:
            value = getattr(settings, one.name)
            kept = check(f"{type(settings).__name__}.{one.name}", value)
            if kept is not value:
                object.__setattr__(settings, one.name, kept)


class Settings:
    """The base of dataclasses of settings: they are checked when they are made."""

    def __post_init__(self) -> None:
        check_fields(self)


def wrong(name: str, expected: str, value: object, kind: type[Exception] = ValueError, hint: str = "") -> Exception:
    """The error of a setting. hint: "; did you mean …?" """
    return kind(f"{name}: expected {expected}, got {shown(value)}{hint}")


def nearest(name: object, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?", or nothing."""
    found = get_close_matches(str(name)[:100], list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


# ---- kinds of checks ----


def number(expected: str, valid: Callable[[float], bool], **schema: Any) -> Check:
    """A number for which `valid` holds. (NaN fails every comparison; a bool is not a number.)"""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise wrong(name, expected, value, TypeError)
        if not (valid(value) and value <= MOST):
            raise wrong(name, expected, value)
        return value

    return Checked(check, plain("number", description=expected, **schema))


def seconds(zero: bool = False, most: float = MOST) -> Check:
    expected = f"seconds {'from 0 up' if zero else '> 0'}{'' if most == MOST else f', at most {most:g}'}"
    check = number(expected, lambda value: (value >= 0 if zero else value > 0) and value <= most)
    least = {"minimum": 0} if zero else {"exclusiveMinimum": 0}
    written = {"type": "string", "pattern": DURATION}
    return Checked(
        check, Form({"anyOf": [{"type": "number", "description": expected, **least}, written]}, seconds=True)
    )


def share(zero: bool = True, one: bool = True) -> Check:
    """From 0 to 1."""
    expected = f"a share {'from 0' if zero else '> 0'} {'up to 1' if one else 'to less than 1'}"
    schema = {"minimum" if zero else "exclusiveMinimum": 0, "maximum" if one else "exclusiveMaximum": 1}
    return number(
        expected, lambda value: (value >= 0 if zero else value > 0) and (value <= 1 if one else value < 1), **schema
    )


def count(least: int = 1, most: int = int(MOST)) -> Check:
    """A whole number."""

    def check(name: str, value: Any) -> Any:
        expected = f"a whole number from {least} up"
        if not isinstance(value, int) or isinstance(value, bool):
            raise wrong(name, expected, value)
        if not least <= value <= most:
            raise wrong(name, expected if value < least else f"a whole number from {least} to {most}", value)
        return value

    return Checked(check, plain("integer", minimum=least, maximum=most))


def optional(check: Check) -> Check:
    """That, or None."""

    def checked(name: str, value: Any) -> Any:
        if value is None:
            return None
        try:
            return check(name, value)
        except (ValueError, TypeError) as error:
            message = str(error)
            raise type(error)(message.replace(", got ", " or None, got ", 1)) from None

    return Checked(checked, form_of(check) | NULL)


def either(expected: str, *checks: Check) -> Check:
    """One of several kinds."""

    def checked(name: str, value: Any) -> Any:
        kind: type[Exception] = TypeError
        for check in checks:
            try:
                return check(name, value)
            except ValueError:
                kind = ValueError
            except TypeError:
                pass
        raise wrong(name, expected, value, kind)

    return Checked(checked, reduce(or_, map(form_of, checks)))


def _flag(name: str, value: Any) -> Any:
    if not isinstance(value, bool):
        raise wrong(name, "True or False", value, TypeError)
    return value


flag: Check = Checked(_flag, plain("boolean"))
"""True or False: a "no" would be true."""


def kind(cls: type[Any], expected: str | None = None) -> Check:
    """An instance of a class."""

    def check(name: str, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        hint = f": write {cls.__name__}(…)" if value is cls else ""
        article = "an" if cls.__name__[0] in "AEIOU" else "a"
        raise wrong(name, expected or f"{article} {cls.__name__}", value, TypeError, hint)

    return Checked(check, Form(settings=(cls,)))


def one_of(known: Collection[str]) -> Check:
    """One of some names."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, str) or value not in known:
            expected = " or ".join(map(repr, known))
            raise wrong(name, expected, value, ValueError, nearest(value, known))
        return value

    return Checked(check, Form({"enum": list(known)}))


def _text(name: str, value: Any) -> Any:
    if not string(name, value).strip():
        raise wrong(name, "a string that is not empty", value)
    return value


def _string(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        raise wrong(name, "a string", value, TypeError)
    return value


text: Check = Checked(_text, plain("string", pattern=r"\S"))
"""A string that is not empty."""
string: Check = Checked(_string, plain("string"))
"""A string, which may be empty."""


def matching(expected: str, pattern: str) -> Check:
    """A string of a form."""
    compiled = re.compile(pattern)

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise wrong(name, expected, value)
        return value

    return Checked(check, plain("string", pattern=f"^(?:{pattern})$", description=expected))


header_name: Check = matching("the name of a header", r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def frozen(expected: str, item: Check) -> Check:
    """A collection, kept as a frozen set."""

    def check(name: str, value: Any) -> Any:
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            raise wrong(name, expected, value, TypeError)
        try:
            return frozenset(item(name, one) for one in value)
        except (ValueError, TypeError) as error:
            raise wrong(name, expected, value, type(error)) from None

    each = form_of(item).schema
    return Checked(check, plain("array", items=each, description=expected))


def mapping(expected: str, key: Check, item: Check) -> Check:
    """A mapping; of other keys or values it would never fit."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise wrong(name, expected, value, TypeError)
        try:
            for one, its in value.items():
                key(name, one)
                item(name, its)
        except (ValueError, TypeError) as error:
            raise wrong(name, expected, value, type(error)) from None
        return value

    each = form_of(item).schema
    return Checked(check, plain("object", additionalProperties=each, description=expected))


metadata: Check = mapping("a mapping of strings like {'version': 'v2'}", text, string)


def callable_(expected: str) -> Check:
    def check(name: str, value: Any) -> Any:
        if not callable(value):
            raise wrong(name, expected, value, TypeError)
        return value

    return check  # has no written form


def _method(name: str, value: Any) -> Any:
    return header_name(name, value).upper()


statuses: Check = frozen("a set of statuses like {503}", count(100, 599))
methods: Check = frozen("a set of names like {'GET'}", Checked(_method, form_of(header_name)))
