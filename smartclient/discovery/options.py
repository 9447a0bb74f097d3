"""Options of a discovery source: each declared once, with how it is written in a URL and what it may be.

    OPTIONS = {"stale": flag, "timeout": seconds(most=600), "tag": several(text)}

A source checks its keywords against them when it is made (`check_options`), and a discovery URL's query parameters are
read by them (`read_options`): they have the names of the keywords.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ..support import checks
from ..support.checks import Check, nearest
from ..support.untrusted import shown


class Option(NamedTuple):
    """One keyword of a source.

    read:      its value, as written in a URL; raises ValueError
    check:     raises for a value that it cannot have
    repeated:  a URL may have it several times
    """

    read: Callable[[str], Any]
    check: Check
    repeated: bool = False


def _flag(value: str) -> bool:
    """`?stale`, `?stale=true`; everything but 0, false and no is yes."""
    return value.lower() not in ("0", "false", "no")


def _seconds(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"expected seconds, got {shown(value)}") from None


def _number(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"expected a whole number, got {shown(value)}") from None


def _unchecked(name: str, value: Any) -> Any:
    """Of secrets, which no message shows."""
    return value


def _path(name: str, value: Any) -> Any:
    if not isinstance(value, (str, os.PathLike)):
        raise checks.wrong(name, "a path", value, TypeError)
    return value


text: Option = Option(str, checks.optional(checks.string))
path: Option = Option(str, checks.optional(_path))
secret: Option = Option(str, _unchecked)
flag: Option = Option(_flag, checks.flag)


def number(least: int = 1, most: int = int(checks.MOST)) -> Option:
    return Option(_number, checks.count(least, most))


def seconds(zero: bool = False, most: float = 86_400) -> Option:
    return Option(_seconds, checks.seconds(zero, most))


def one_of(*known: str) -> Option:
    return Option(str, checks.one_of(known))


def optional(option: Option) -> Option:
    return option._replace(check=checks.optional(option.check))


def several(option: Option) -> Option:
    """One, or a sequence of them."""

    def check(name: str, value: Any) -> Any:
        if value is not None and not isinstance(value, str):
            if not isinstance(value, Iterable):
                raise checks.wrong(name, "a string, or several", value, TypeError)
            for one in value:
                option.check(name, one)
        return value

    return Option(option.read, check, repeated=True)


TIMEOUT = seconds(most=600)
GRACE = seconds(zero=True)
# Options of most registries.
COMMON: Mapping[str, Option] = {"timeout": TIMEOUT, "most_bytes": number(), "grace": GRACE}


def check_options(source: str, options: Mapping[str, Option], given: Mapping[str, Any]) -> None:
    """Check a constructor's keywords (its `locals()`). Raises ValueError or TypeError: "Consul.wait: expected …"."""
    for name, option in options.items():
        if name in given:
            option.check(f"{source}.{name}", given[name])


def read_options(scheme: str, given: Mapping[str, list[str]], options: Mapping[str, Option]) -> dict[str, Any]:
    """Keywords of the constructor, from a URL."""
    keywords: dict[str, Any] = {}
    for name, values in given.items():
        option = options.get(name)
        if option is None:
            hint = nearest(name, options)
            raise ValueError(f"{scheme}:// has no option {shown(name)}; it has {', '.join(options)}{hint}")
        try:
            keywords[name] = [option.read(value) for value in values] if option.repeated else option.read(values[-1])
        except ValueError as error:
            raise ValueError(f"{scheme}:// option {name}: {error}") from None
    return keywords
