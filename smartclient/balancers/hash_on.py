"""What a balancer hashes: a part of the call that is the same for all calls that belong together."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import cache
from http.cookies import CookieError, SimpleCookie
from typing import Any

from ..support.checks import Check, nearest, wrong
from ..support.forms import Checked, plain
from ..support.loggers import logger
from .base import PickCall

HashOn = str | Callable[[Any], str | None]
EXPECTED = "'key', 'path', 'ip', 'header:NAME', 'cookie:NAME', 'query:NAME' or a function of the request"
KeyOf = Callable[[PickCall], str | None]


def key_of(hash_on: HashOn, name: str) -> KeyOf:
    """A function that reads the key of a call. Raises ValueError or TypeError. name: of the setting, for that.

    "key": `call(hash_key=…)`; "header:X-User", "cookie:sid", "query:id", "path": of the request; "ip": the end user's
    address, the first of Forwarded or X-Forwarded-For, else this host's own name; or a function of the request.
    """
    if callable(hash_on):
        own: Callable[[Any], str | None] = hash_on
        return lambda call: own(call.request)
    if not isinstance(hash_on, str):
        raise wrong(name, EXPECTED, hash_on, TypeError)
    kind, colon, what = hash_on.partition(":")
    simple: dict[str, KeyOf] = {"key": lambda call: call.hash_key, "path": _path, "ip": end_user}
    named: dict[str, Callable[[Any, str], str | None]] = {"header": _header, "cookie": _cookie, "query": _query}
    if not colon and kind in simple:
        return simple[kind]
    if kind in named and what:
        read = named[kind]
        return lambda call: read(call.request, what)
    raise wrong(name, EXPECTED, hash_on, ValueError, nearest(kind, (*simple, *named)))


def _hash_key(name: str, value: Any) -> Any:
    key_of(value, name)
    return value


WRITTEN = r"^(key|path|ip|(header|cookie|query):.+)$"
hash_key: Check = Checked(_hash_key, plain("string", pattern=WRITTEN))


def end_user(call: PickCall) -> str:
    """The end user's address: RFC 7239's Forwarded, else X-Forwarded-For, else this host."""
    headers = call.request.headers
    for part in headers.get("forwarded", "").split(",")[0].split(";"):
        name, _, value = part.strip().partition("=")
        if name.lower() == "for" and value:
            return _bare(value.strip('"'))
    first = headers.get("x-forwarded-for", "").split(",")[0].strip()
    return _bare(first) if first else _this_host()


@cache
def _this_host() -> str:
    return socket.gethostname()


def _bare(address: str) -> str:
    """An address without its port, which differs for each of the user's connections."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address


def _path(call: PickCall) -> str | None:
    path: str = call.request.url.path
    return path


def _header(request: Any, name: str) -> str | None:
    value: str | None = request.headers.get(name)
    return value or None


def _query(request: Any, name: str) -> str | None:
    value: str | None = request.url.params.get(name)
    return value or None


def _cookie(request: Any, name: str) -> str | None:
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return None if found is None else found.value or None


class Missing:
    """Says once that calls have no key."""

    def __init__(self, hash_on: HashOn) -> None:
        self._hash_on = hash_on
        self._said = False

    def __call__(self, call: PickCall) -> None:
        if not self._said:
            self._said = True
            logger.warning(
                "%s: a call has no %s to hash; such calls go by p2c (said once)", call.service, self._hash_on
            )
